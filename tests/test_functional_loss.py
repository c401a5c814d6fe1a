import numpy as np
import pytest

from nnkit import functional as fn
from nnkit.layers import BCEWithLogitsLoss, CrossEntropyLoss, MSELoss, MultiMarginLoss, PoissonNLLLoss
from nnkit.testing import check_function_gradients

CASES = [(0.0, False), (0.1, False), (0.0, True), (0.2, True), (1.0, True)]


@pytest.mark.parametrize(("smoothing", "weighted"), CASES)
def test_gradients(rng, smoothing, weighted):
    labels, sample = rng.integers(0, 4, size=6), rng.uniform(0, 2, size=6)
    options = {"label_smoothing": smoothing, "class_weight": rng.uniform(size=4) if weighted else None}

    def forward(scores):
        return fn.cross_entropy_forward(scores, labels, sample_weight=sample, **options)

    scores = rng.normal(size=(6, 4))
    check_function_gradients(forward, fn.cross_entropy_backward, scores)
    check_function_gradients(
        lambda s: fn.multi_margin_forward(s, labels, sample_weight=sample), fn.multi_margin_backward, scores
    )
    check_function_gradients(
        lambda s: fn.mse_forward(s, np.eye(4)[labels], sample_weight=sample), fn.mse_backward, scores
    )


ELEMENT_LOSSES = ["mse", "binary_cross_entropy_with_logits", "poisson_nll"]


@pytest.mark.parametrize("name", ["cross_entropy", "multi_margin", *ELEMENT_LOSSES])
def test_sample_weight_two_is_like_two_copies(rng, name):
    scores, labels = rng.normal(size=(3, 4)), np.array([0, 2, 1])
    targets = np.eye(4)[labels] if name in ELEMENT_LOSSES else labels
    forward, backward = getattr(fn, f"{name}_forward"), getattr(fn, f"{name}_backward")
    weighted, cache = forward(scores, targets, sample_weight=[1, 2, 0])
    repeated, other = forward(scores[[0, 1, 1]], targets[[0, 1, 1]])
    assert weighted == pytest.approx(repeated)
    gradient, per_copy = backward(1.0, cache), backward(1.0, other)
    np.testing.assert_allclose(gradient, [per_copy[0], per_copy[1] + per_copy[2], np.zeros(4)])


@pytest.mark.parametrize("name", ["cross_entropy", "multi_margin"])
def test_weights_that_are_all_zero_count_nothing(name):
    loss, cache = getattr(fn, f"{name}_forward")(np.eye(3), [0, 1, 2], sample_weight=np.zeros(3))
    assert loss == 0
    assert not getattr(fn, f"{name}_backward")(1.0, cache).any()


def test_a_batch_of_classes_without_weight_counts_nothing_in_spite_of_label_smoothing():
    loss, cache = fn.cross_entropy_forward(np.eye(3)[:2], [0, 0], label_smoothing=0.1, class_weight=[0, 1, 1])
    assert loss == 0
    assert not fn.cross_entropy_backward(1.0, cache).any()


def test_large_scores_neither_overflow_nor_warn():
    loss, cache = fn.cross_entropy_forward(np.array([[1e30, 0.0, -1e30]], np.float32), [0])
    assert loss == 0
    assert np.isfinite(fn.cross_entropy_backward(1.0, cache)).all()


@pytest.mark.parametrize("name", ["cross_entropy", "multi_margin"])
def test_nan_in_the_scores_gives_a_nan_loss_without_a_warning(name):
    loss, cache = getattr(fn, f"{name}_forward")(np.array([[np.nan, 1.0], [np.inf, 2.0]]), [1, 0])
    getattr(fn, f"{name}_backward")(1.0, cache)
    assert np.isnan(loss)


@pytest.mark.parametrize("name", ["cross_entropy", "multi_margin"])
@pytest.mark.parametrize(
    ("scores", "labels", "error", "message"),
    [
        (np.ones((2, 3)), [0, 3], ValueError, "labels from 0 to 2, got 3"),
        (np.ones((2, 3)), [-1, 0], ValueError, "labels from 0 to 2, got -1"),
        (np.ones((2, 3)), [0.0, 1.0], TypeError, "integer class labels, got an array of float64"),
        (np.ones((2, 3)), [0, 1, 2], ValueError, r"targets of shape \(2,\), got \(3,\)"),
        (np.ones(3), [0, 1, 2], ValueError, r"scores of shape \(N, C\)"),
        (np.ones((0, 3)), np.zeros(0, int), ValueError, "not empty"),
    ],
)
def test_bad_targets(name, scores, labels, error, message):
    with pytest.raises(error, match=message):
        getattr(fn, f"{name}_forward")(scores, labels)


def test_bad_weights():
    with pytest.raises(ValueError, match=r"class_weight of shape \(3,\), got \(2,\)"):
        fn.cross_entropy_forward(np.ones((2, 3)), [0, 1], class_weight=[1, 2])
    with pytest.raises(ValueError, match="finite numbers >= 0"):
        fn.cross_entropy_forward(np.ones((2, 3)), [0, 1], sample_weight=[1, -2])
    with pytest.raises(ValueError, match="label_smoothing between 0 and 1"):
        fn.cross_entropy_forward(np.ones((2, 3)), [0, 1], label_smoothing=2)


@pytest.mark.parametrize(
    "loss", [CrossEntropyLoss(label_smoothing=0.1, class_weight=[1, 2, 3]), MultiMarginLoss(0.5), MSELoss()]
)
def test_classes_remember_once(rng, loss):
    scores = rng.normal(size=(4, 3))
    value = loss.forward(scores, np.array([0, 1, 2, 0]), [1, 1, 2, 1])
    again = type(loss)(**loss.config())
    assert again.forward(scores, [0, 1, 2, 0], [1, 1, 2, 1]) == value
    np.testing.assert_array_equal(loss.backward(), again.backward())
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        loss.backward()


def test_mse_takes_labels_as_one_hot_rows():
    assert MSELoss().forward(np.array([[1.0, 0.0], [1.0, 0.0]]), [0, 1]) == 0.5
    with pytest.raises(ValueError, match="labels from 0 to 1"):
        MSELoss().forward(np.ones((2, 2)), [0, 2])


def test_log_odds_of_any_size_neither_overflow_nor_warn():
    scores = np.array([[1e30, -1e30, 100.0]], np.float32)
    loss, cache = fn.binary_cross_entropy_with_logits_forward(scores, np.array([[1, 0, 0]], np.float32))
    assert loss == pytest.approx(100 / 3)
    np.testing.assert_allclose(fn.binary_cross_entropy_with_logits_backward(1.0, cache), [[0, 0, 1 / 3]])


@pytest.mark.parametrize("name", ELEMENT_LOSSES)
def test_nan_in_predictions_comes_through_without_a_warning(name):
    loss, cache = getattr(fn, f"{name}_forward")(np.array([[np.nan, 1.0]]), np.ones((1, 2)))
    getattr(fn, f"{name}_backward")(1.0, cache)
    assert np.isnan(loss)


def test_targets_out_of_range():
    with pytest.raises(ValueError, match=r"targets from 0 to 1, got 0.0 to 2.0"):
        fn.binary_cross_entropy_with_logits_forward(np.zeros((1, 2)), np.array([[0.0, 2.0]]))
    with pytest.raises(ValueError, match=r"targets >= 0, got -1.0"):
        fn.poisson_nll_forward(np.zeros((1, 2)), np.array([[0.0, -1.0]]))
    with pytest.raises(ValueError, match=r"log_rates of shape \(N, ...\), not empty"):
        fn.poisson_nll_forward(np.zeros((0, 2)), np.zeros((0, 2)))


def test_what_counts_as_correct():
    scores = np.array([[1.0, -2.0], [3.0, 4.0], [-1.0, -1.0]])
    assert CrossEntropyLoss().count_correct(scores, np.array([0, 0, 1])) == 1
    assert BCEWithLogitsLoss().count_correct(scores, np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])) == 2
    assert BCEWithLogitsLoss().count_correct(scores, np.array([0, 1, 1])) == 2
    assert MSELoss().count_correct(scores, scores) is None
    assert PoissonNLLLoss().count_correct(scores, np.array([0, 1, 0])) == 3
