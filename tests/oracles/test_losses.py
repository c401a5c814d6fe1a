"""Every public loss against PyTorch and against numerical gradients; a new loss gets a row in `ROWS`."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkit import functional, layers
from nnkit.layers import BCEWithLogitsLoss, CrossEntropyLoss, Loss, MSELoss, MultiMarginLoss, PoissonNLLLoss
from nnkit.testing import check_function_gradients

SIZES = st.tuples(st.integers(1, 9), st.sampled_from([2, 3, 10, 17, 100]))  # examples, classes


def torch_cross_entropy(torch, loss, scores, labels):
    weight = None if loss.class_weight is None else torch.tensor(loss.class_weight)
    smoothing = loss.label_smoothing
    each = torch.nn.functional.cross_entropy(scores, labels, weight, reduction="none", label_smoothing=smoothing)
    return each, torch.ones(len(labels), dtype=torch.float64) if weight is None else weight[labels]


def torch_multi_margin(torch, loss, scores, labels):
    each = torch.nn.functional.multi_margin_loss(scores, labels, margin=loss.margin, reduction="none")
    return each, torch.ones(len(labels), dtype=torch.float64)


def by_elements(function, **options):
    """PyTorch's side of a loss that compares numbers: labels stand for one-hot rows."""

    def losses(torch, loss, scores, labels):
        wanted = torch.nn.functional.one_hot(labels, scores.shape[1]).double()
        each = getattr(torch.nn.functional, function)(scores, wanted, reduction="none", **options).mean(1)
        return each, torch.ones(len(labels), dtype=torch.float64)

    return losses


# A function of (draw, number of classes) that makes the loss, and PyTorch's losses of the examples with their weights.
ROWS = {
    "CrossEntropyLoss": (
        lambda draw, classes: CrossEntropyLoss(
            label_smoothing=draw(st.sampled_from([0.0, 0.1, 0.7, 1.0])),
            class_weight=draw(st.none() | st.lists(st.floats(0.1, 3), min_size=classes, max_size=classes)),
        ),
        torch_cross_entropy,
    ),
    "MultiMarginLoss": (
        lambda draw, classes: MultiMarginLoss(draw(st.sampled_from([0.5, 1.0, 3.0]))),
        torch_multi_margin,
    ),
    "MSELoss": (lambda draw, classes: MSELoss(), by_elements("mse_loss")),
    "BCEWithLogitsLoss": (
        lambda draw, classes: BCEWithLogitsLoss(),
        by_elements("binary_cross_entropy_with_logits"),
    ),
    "PoissonNLLLoss": (
        lambda draw, classes: PoissonNLLLoss(),
        by_elements("poisson_nll_loss", log_input=True),
    ),
}


def test_every_loss_has_a_row():
    public = [getattr(layers, name) for name in layers.__all__]
    assert {kind.__name__ for kind in public if issubclass(kind, Loss) and kind is not Loss} == set(ROWS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ROWS)
@settings(max_examples=60, derandomize=True, deadline=None)
@given(data=st.data())
def test_agrees_with_torch(torch, agree, name, dtype, data):
    make, theirs = ROWS[name]
    n, classes = data.draw(SIZES)
    loss = make(data.draw, classes)
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    scores, labels = (5 * rng.normal(size=(n, classes))).astype(dtype), rng.integers(0, classes, n)
    scores = data.draw(st.sampled_from([scores, np.asfortranarray(scores), scores[::-1]]))
    weight = rng.uniform(0.1, 2, n) if data.draw(st.booleans()) else None

    tensor = torch.tensor(np.array(scores, np.float64, order="C"), requires_grad=True)
    each, norm = theirs(torch, loss, tensor, torch.tensor(labels))
    by_row = torch.ones(n, dtype=torch.float64) if weight is None else torch.tensor(weight)
    expected = (by_row * each).sum() / (by_row * norm).sum()
    expected.backward()

    value = loss.forward(scores, labels, weight)
    assert isinstance(value, float)
    agree(name, np.asarray(value, dtype), expected, floor=1e-2)
    agree(name, loss.backward(), tensor.grad)
    wholes = {"CrossEntropyLoss": "cross_entropy", "MultiMarginLoss": "multi_margin_loss"}
    if weight is None and name in wholes:  # and PyTorch's own mean is that
        whole = wholes[name]
        options = {"label_smoothing": loss.label_smoothing} if whole == "cross_entropy" else {"margin": loss.margin}
        if getattr(loss, "class_weight", None) is not None:
            options["weight"] = torch.tensor(loss.class_weight)
        plain = getattr(torch.nn.functional, whole)(tensor, torch.tensor(labels), **options)
        agree(name, np.asarray(value, dtype), plain, floor=1e-2)


@pytest.mark.parametrize("name", ROWS)
@settings(max_examples=8, derandomize=True, deadline=None)
@given(data=st.data())
def test_gradients(name, data):
    n, classes = data.draw(SIZES)
    loss = ROWS[name][0](data.draw, classes)
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    labels, weight = rng.integers(0, classes, n), rng.uniform(0.1, 2, n)

    def forward(scores):
        return loss.forward(scores, labels, weight), None

    assert check_function_gradients(forward, lambda dout, _: dout * loss.backward(), rng.normal(size=(n, classes))) < 1


ELEMENT_LOSSES = {
    "mse": "mse_loss",
    "binary_cross_entropy_with_logits": "binary_cross_entropy_with_logits",
    "poisson_nll": "poisson_nll_loss",
}


@pytest.mark.parametrize("name", ELEMENT_LOSSES)
@settings(max_examples=30, derandomize=True, deadline=None)
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_numbers_of_any_shape(torch, agree, name, shape, seed):
    rng = np.random.default_rng(seed)
    predictions, targets = rng.normal(size=shape), rng.uniform(size=shape)
    tensor = torch.tensor(predictions, requires_grad=True)
    expected = getattr(torch.nn.functional, ELEMENT_LOSSES[name])(tensor, torch.tensor(targets))
    expected.backward()
    loss, cache = getattr(functional, f"{name}_forward")(predictions, targets)
    agree(name, np.asarray(loss), expected)
    agree(name, getattr(functional, f"{name}_backward")(1.0, cache), tensor.grad)
