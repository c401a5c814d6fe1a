import numpy as np
import pytest

from nnkit import metrics

LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
PREDICTIONS = np.array([0, 1, 0, 1, 2, 2, 2, 0, 2, 2])  # class 3 is never predicted


def test_accuracy_counts_equal_entries():
    assert metrics.accuracy(LABELS, PREDICTIONS) == 0.6
    assert metrics.accuracy([1], [1]) == 1.0
    assert metrics.accuracy([1], [0]) == 0.0


def test_accuracy_accepts_any_integer_type():
    assert metrics.accuracy(LABELS.astype(np.uint8), PREDICTIONS.astype(np.int32)) == 0.6


@pytest.mark.parametrize(
    ("labels", "predictions", "error", "message"),
    [
        ([0, 1], [0], ValueError, "predictions: expected one for each of 2 labels, got 1"),
        ([], [], ValueError, "at least 1"),
        ([0.0, 1.0], [0, 1], TypeError, "labels: expected integers, got float64"),
        ([0, 1], [[0, 1]], ValueError, r"predictions: expected shape \(N,\)"),
        ([0, -1], [0, 1], ValueError, "labels: expected class numbers from 0 up, got -1"),
        ([True, False], [0, 1], TypeError, "integers, got bool"),
    ],
)
@pytest.mark.parametrize("metric", [metrics.accuracy, metrics.confusion_matrix])
def test_bad_labels_are_named(metric, labels, predictions, error, message):
    with pytest.raises(error, match=message):
        metric(labels, predictions)


def test_top_1_is_the_accuracy_of_argmax(rng):
    scores = rng.integers(0, 4, (200, 6)).astype(np.float32)  # many ties
    labels = rng.integers(0, 6, 200)
    assert metrics.top_k_accuracy(labels, scores, k=1) == metrics.accuracy(labels, scores.argmax(axis=1))


def test_top_k_against_a_stable_sort(rng):
    scores = rng.integers(0, 4, (200, 6)) / 4
    labels = rng.integers(0, 6, 200)
    order = np.argsort(-scores, axis=1, kind="stable")
    for k in range(1, 7):
        expected = np.mean([label in row[:k] for label, row in zip(labels, order, strict=True)])
        assert metrics.top_k_accuracy(labels, scores, k=k) == expected
    assert metrics.top_k_accuracy(labels, scores, k=6) == 1.0


@pytest.mark.parametrize(
    ("labels", "scores", "k", "message"),
    [
        ([0, 1], [[0.5, 0.5]], 1, "expected one for each of 2 labels, got 1"),
        ([0], [0.5, 0.5], 1, r"scores: expected shape \(N, K\), got \(2,\)"),
        ([2], [[0.5, 0.5]], 1, "labels: expected class numbers from 0 to 1, got 2"),
        ([0], [[0.5, 0.5]], 3, "k: expected an integer from 1 to the number of classes, 2, got 3"),
        ([0], [[0.5, 0.5]], 0, "got 0"),
        ([0], [[0.5, np.nan]], 1, "1 of 1 rows hold NaN"),
    ],
)
def test_top_k_refuses_what_makes_no_sense(labels, scores, k, message):
    with pytest.raises(ValueError, match=message):
        metrics.top_k_accuracy(labels, scores, k=k)


def test_confusion_matrix_has_true_classes_in_rows():
    expected = [[2, 1, 0, 0], [0, 1, 1, 0], [1, 0, 3, 0], [0, 0, 1, 0]]
    np.testing.assert_array_equal(metrics.confusion_matrix(LABELS, PREDICTIONS), expected)


def test_confusion_matrix_keeps_classes_that_never_occur():
    matrix = metrics.confusion_matrix([0, 1], [1, 1], num_classes=5)
    assert matrix.shape == (5, 5)
    assert matrix.sum() == 2


def test_confusion_matrix_of_small_integer_types_does_not_overflow():
    labels = np.array([99, 50], np.uint8)
    matrix = metrics.confusion_matrix(labels, labels, num_classes=100)
    assert matrix[99, 99] == 1
    assert matrix[50, 50] == 1


def test_confusion_matrix_refuses_a_class_too_high():
    with pytest.raises(ValueError, match="predictions: expected class numbers from 0 to 2, got 3"):
        metrics.confusion_matrix([0], [3], num_classes=3)


def test_scores_of_each_class():
    scores = metrics.precision_recall_f1(metrics.confusion_matrix(LABELS, PREDICTIONS))
    np.testing.assert_allclose(scores.precision, [2 / 3, 1 / 2, 3 / 5, 0])
    np.testing.assert_allclose(scores.recall, [2 / 3, 1 / 2, 3 / 4, 0])
    np.testing.assert_allclose(scores.f1, [2 / 3, 1 / 2, 2 / 3, 0])
    np.testing.assert_array_equal(scores.support, [3, 2, 4, 1])
    assert scores.macro_f1 == pytest.approx((2 / 3 + 1 / 2 + 2 / 3) / 4)
    assert scores.macro_precision == pytest.approx((2 / 3 + 1 / 2 + 3 / 5) / 4)
    assert scores.macro_recall == pytest.approx((2 / 3 + 1 / 2 + 3 / 4) / 4)


def test_f1_is_the_harmonic_mean(rng):
    scores = metrics.precision_recall_f1(rng.integers(1, 50, (7, 7)))
    harmonic = 2 / (1 / scores.precision + 1 / scores.recall)
    np.testing.assert_allclose(scores.f1, harmonic)


def test_scores_agree_with_scikit_learn(rng):
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    labels, predictions = rng.integers(0, 5, 300), rng.integers(0, 4, 300)
    scores = metrics.precision_recall_f1(metrics.confusion_matrix(labels, predictions))
    expected = sklearn_metrics.precision_recall_fscore_support(labels, predictions, zero_division=0)
    got = (scores.precision, scores.recall, scores.f1, scores.support)
    np.testing.assert_allclose(got, expected)


def test_a_matrix_of_zeros_scores_zero():
    scores = metrics.precision_recall_f1(np.zeros((3, 3), np.int64))
    assert scores.macro_f1 == 0.0
    assert "accuracy" in metrics.classification_report(np.zeros((3, 3), np.int64))


@pytest.mark.parametrize(
    ("matrix", "error", "message"),
    [
        (np.zeros((2, 3), int), ValueError, r"expected shape \(K, K\), got \(2, 3\)"),
        (np.zeros((0, 0), int), ValueError, r"got \(0, 0\)"),
        ([[1, -1], [0, 1]], ValueError, "counts from 0 up, got -1"),
        ([[0.5, 0.5], [0, 1]], TypeError, "counts"),
    ],
)
def test_bad_matrices_are_refused(matrix, error, message):
    with pytest.raises(error, match=message):
        metrics.precision_recall_f1(matrix)


def test_report_lines_up_whatever_the_names():
    matrix = metrics.confusion_matrix(LABELS, PREDICTIONS)
    report = metrics.classification_report(matrix, ["a", "a very long class name", "c", "d"])
    lines = [line for line in report.splitlines() if line]
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["a", "66.7%", "66.7%", "66.7%", "3"]
    assert lines[-1].split() == ["accuracy", "60.0%", "10"]


def test_report_needs_a_name_for_each_class():
    with pytest.raises(ValueError, match="expected 2 names, one for each row of the matrix, got 3"):
        metrics.classification_report([[1, 0], [0, 1]], ["a", "b", "c"])


# Calibration


def test_reliability_against_a_loop(rng):
    probabilities = rng.dirichlet(np.full(4, 0.5), 500)
    labels = rng.integers(0, 4, 500)
    found = metrics.reliability(labels, probabilities, bins=10)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    error = 0.0
    for i in range(10):
        inside = (confidence > i / 10) & (confidence <= (i + 1) / 10)
        assert found.count[i] == inside.sum()
        if inside.any():
            np.testing.assert_allclose(found.confidence[i], confidence[inside].mean())
            np.testing.assert_allclose(found.accuracy[i], right[inside].mean())
            error += inside.sum() / 500 * abs(confidence[inside].mean() - right[inside].mean())
        else:
            assert np.isnan([found.confidence[i], found.accuracy[i]]).all()
    assert found.count.sum() == 500
    np.testing.assert_allclose(metrics.expected_calibration_error(labels, probabilities, bins=10), error)


def test_calibration_of_nets_that_are_sure():
    sure = np.eye(2, dtype=np.float32)
    assert metrics.expected_calibration_error([0, 1], sure) == 0
    assert metrics.expected_calibration_error([1, 0], sure) == 1
    assert metrics.reliability([0, 1], sure).error_by_chance == 0
    assert metrics.reliability([0, 1], sure * (1 + 1e-6)).count[-1] == 2  # a sum of float32 may exceed 1


def test_the_error_by_chance_is_that_of_a_calibrated_net(rng):
    found = []
    for _ in range(100):
        first = rng.uniform(0.5, 1, 300)
        labels = (rng.random(300) > first).astype(int)
        reliability = metrics.reliability(labels, np.stack([first, 1 - first], axis=1))
        found.append((reliability.error, reliability.error_by_chance))
    measured, expected = np.mean(found, axis=0)
    assert measured == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("labels", "probabilities", "bins", "message"),
    [
        ([0], [[0.5, 0.5]] * 2, 15, "probabilities: expected one for each of 1 labels, got 2"),
        ([0], [0.5, 0.5], 15, r"probabilities: expected shape \(N, K\), got \(2,\)"),
        ([2], [[0.5, 0.5]], 15, "labels: expected class numbers from 0 to 1, got 2"),
        ([0], [[2.5, 0.5]], 15, "probabilities: expected values from 0 to 1, got 0.5 to 2.5"),
        ([0], [[np.nan, 0.5]], 15, "probabilities: expected values from 0 to 1, got nan"),
        ([0], [[0.5, 0.5]], 0, "bins: expected at least 1, got 0"),
    ],
)
def test_bad_probabilities_are_named(labels, probabilities, bins, message):
    for metric in (metrics.reliability, metrics.expected_calibration_error):
        with pytest.raises(ValueError, match=message):
            metric(labels, probabilities, bins=bins)


def test_the_interval_of_an_accuracy():
    low, high = metrics.accuracy_interval([0, 5, 10, 9_000], [10, 10, 10, 10_000])
    np.testing.assert_allclose(low, [0, 0.2366, 0.7225, 0.8940], atol=1e-4)  # statsmodels' proportion_confint, "wilson"
    np.testing.assert_allclose(high, [0.2775, 0.7634, 1, 0.9057], atol=1e-4)
    for right, total in [(1, 0), (2, 1), (-1, 1)]:
        with pytest.raises(ValueError, match=r"expected 0 ≤ right ≤ total"):
            metrics.accuracy_interval(right, total)
