"""How good a classifier is: accuracy, top-k accuracy, the confusion matrix and what is computed from it, calibration.

Arguments come in scikit-learn's order: what is true first, what the net said second.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall and F1 of each class, and their means over the classes.

    Attributes
    ----------
    precision, recall, f1 : ndarray of shape (K,)
    support : ndarray of int, shape (K,)
        How many images truly are of the class.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray

    @property
    def macro_precision(self) -> float:
        """The mean of the classes' precisions."""
        return float(self.precision.mean())

    @property
    def macro_recall(self) -> float:
        """The mean of the classes' recalls, also called balanced accuracy."""
        return float(self.recall.mean())

    @property
    def macro_f1(self) -> float:
        """The mean of the classes' F1 scores."""
        return float(self.f1.mean())


@dataclass(frozen=True)
class Reliability:
    """Answers sorted into bins by their confidence, which is the probability given to the likeliest class.

    Attributes
    ----------
    edges : ndarray of shape (bins + 1,)
        From 0 to 1, equally far apart; a bin holds its upper edge and not its lower one.
    count : ndarray of int, shape (bins,)
        How many answers lie in each bin.
    confidence, accuracy : ndarray of shape (bins,)
        The mean confidence of each bin's answers, and the share of them that is right; NaN where there are none.
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error, from 0 to 1."""
        share = self.count / self.count.sum()
        return float(np.nansum(share * np.abs(self.confidence - self.accuracy)))

    @property
    def error_by_chance(self) -> float:
        """About the error of a perfectly calibrated net on so few images, whose bins' accuracies vary by chance."""
        share, p = self.count / self.count.sum(), np.clip(self.confidence, 0, 1)
        deviation = np.sqrt(p * (1 - p) / np.maximum(self.count, 1))
        return float(
            np.nansum(share * np.sqrt(2 / np.pi) * deviation)
        )  # the mean of a normal variable's absolute value


def accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return the share of predictions that equal the label.

    Parameters
    ----------
    labels, predictions : array_like of int, shape (N,)

    Returns
    -------
    float, from 0 to 1

    Raises
    ------
    ValueError
        When the two differ in length, are empty or negative.
    TypeError
        When they are not integers.

    Examples
    --------
    >>> from nnkit import metrics
    >>> metrics.accuracy([0, 1, 2, 2], [0, 1, 2, 1])
    0.75
    """
    true, said = _pair(labels, predictions)
    return float(np.mean(true == said))


def top_k_accuracy(labels: ArrayLike, scores: ArrayLike, k: int = 5) -> float:
    """Return the share of images whose label is among the k classes of highest score.

    Of equal scores the class that comes first ranks higher, so that k = 1 is the accuracy of `scores.argmax(axis=1)`.

    Parameters
    ----------
    labels : array_like of int, shape (N,)
    scores : array_like of float, shape (N, K)
        Scores or probabilities; only their order counts.
    k : int, default 5

    Returns
    -------
    float, from 0 to 1

    Raises
    ------
    ValueError
        When shapes disagree, k is not in 1…K, a label is not in 0…K-1 or a score is NaN.

    Examples
    --------
    >>> from nnkit import metrics
    >>> metrics.top_k_accuracy([2, 0], [[0.1, 0.5, 0.4], [0.2, 0.5, 0.3]], k=2)
    0.5
    """
    scores = np.asarray(scores)
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"scores: expected shape (N, K), got {scores.shape}")
    true = _labels("labels", labels)
    _same_length(true, "scores", len(scores))
    num_classes = scores.shape[1]
    _in_range("labels", true, num_classes)
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= num_classes:
        raise ValueError(f"k: expected an integer from 1 to the number of classes, {num_classes}, got {k!r}")
    if np.isnan(scores).any():
        raise ValueError(f"scores: {int(np.isnan(scores).any(axis=1).sum())} of {len(scores)} rows hold NaN")
    own = np.take_along_axis(scores, true[:, None], axis=1)
    earlier = np.arange(num_classes) < true[:, None]
    rank = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    return float(np.mean(rank < k))


def accuracy_interval(right: ArrayLike, total: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return between which two shares the true accuracy lies with 95% certainty: the interval of Wilson.

    Parameters
    ----------
    right, total : int, or array_like of int of one shape
        Images recognised, and all of them.

    Returns
    -------
    low, high : ndarray

    Raises
    ------
    ValueError
        When a total is below 1, or not 0 ≤ right ≤ total.

    Examples
    --------
    >>> from nnkit import metrics
    >>> low, high = metrics.accuracy_interval(90, 100)
    >>> round(float(low), 3), round(float(high), 3)
    (0.826, 0.945)
    """
    hits, n = np.asarray(right, np.float64), np.asarray(total, np.float64)
    if not ((n >= 1) & (hits >= 0) & (hits <= n)).all():
        raise ValueError(f"right, total: expected 0 ≤ right ≤ total, and total at least 1, got {right!r} and {total!r}")
    z, p = 1.959964, hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    return np.maximum(middle - half, 0), np.minimum(middle + half, 1)


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, num_classes: int | None = None) -> np.ndarray:
    """Count how often each class was taken for each.

    Parameters
    ----------
    labels, predictions : array_like of int, shape (N,)
    num_classes : int, optional
        By default one more than the largest label or prediction.

    Returns
    -------
    ndarray of int64, shape (K, K)
        In row i and column j the number of images of class i that were taken for class j.

    Raises
    ------
    ValueError
        When the two differ in length, are empty, or hold a number outside 0…num_classes-1.
    TypeError
        When they are not integers.

    Examples
    --------
    >>> from nnkit import metrics
    >>> metrics.confusion_matrix([0, 0, 1, 2], [0, 1, 1, 2])
    array([[1, 1, 0],
           [0, 1, 0],
           [0, 0, 1]])
    """
    true, said = _pair(labels, predictions)
    if num_classes is None:
        num_classes = int(max(true.max(), said.max())) + 1
    _in_range("labels", true, num_classes)
    _in_range("predictions", said, num_classes)
    return np.bincount(true * num_classes + said, minlength=num_classes**2).reshape(num_classes, num_classes)


def precision_recall_f1(matrix: ArrayLike) -> ClassScores:
    """Return precision, recall and F1 of each class.

    With TP the images of a class that were recognised, FP those of others taken for it and FN its own taken for others:
    precision = TP / (TP + FP), recall = TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN). Where that divides by
    nothing, because a class never occurred or was never predicted, the score is 0, as in scikit-learn.

    Parameters
    ----------
    matrix : array_like of int, shape (K, K)
        From `confusion_matrix`: true classes in rows, predicted ones in columns.

    Returns
    -------
    ClassScores

    Raises
    ------
    ValueError
        When the matrix is not square, is empty or holds a negative number.

    Examples
    --------
    >>> from nnkit import metrics
    >>> scores = metrics.precision_recall_f1([[1, 1], [0, 2]])
    >>> scores.recall
    array([0.5, 1. ])
    >>> round(scores.macro_f1, 3)
    0.733
    """
    counts = _square(matrix)
    hits, said, support = counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1)
    return ClassScores(_ratio(hits, said), _ratio(hits, support), _ratio(2 * hits, said + support), support)


def classification_report(matrix: ArrayLike, class_names: Sequence[str] | None = None) -> str:
    """Return a table of every class's precision, recall, F1 and support, with the means and the accuracy below.

    Parameters
    ----------
    matrix : array_like of int, shape (K, K)
        From `confusion_matrix`.
    class_names : sequence of str, optional
        By default the classes' numbers.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        When the matrix is not square or the number of names is not the number of classes.

    Examples
    --------
    >>> from nnkit import metrics
    >>> print(metrics.classification_report([[8, 2], [1, 9]], ["cat", "dog"]))
                precision    recall        F1   images
    cat             88.9%     80.0%     84.2%       10
    dog             81.8%     90.0%     85.7%       10
    <BLANKLINE>
    macro mean      85.4%     85.0%     85.0%       20
    accuracy                            85.0%       20
    """
    counts = _square(matrix)
    names = [str(i) for i in range(len(counts))] if class_names is None else [str(name) for name in class_names]
    if len(names) != len(counts):
        raise ValueError(f"class_names: expected {len(counts)} names, one for each row of the matrix, got {len(names)}")
    scores = precision_recall_f1(counts)
    total = int(counts.sum())
    width = max(map(len, [*names, "macro mean"]))
    lines = [f"{'':{width}}  {'precision':>9} {'recall':>9} {'F1':>9} {'images':>8}"]
    rows = zip(names, scores.precision, scores.recall, scores.f1, scores.support, strict=True)
    lines += [f"{name:{width}}  {p:9.1%} {r:9.1%} {f1:9.1%} {n:8d}" for name, p, r, f1, n in rows]
    means = f"{scores.macro_precision:9.1%} {scores.macro_recall:9.1%} {scores.macro_f1:9.1%}"
    right = float(counts.trace() / total) if total else 0.0
    lines += ["", f"{'macro mean':{width}}  {means} {total:8d}"]
    lines += [f"{'accuracy':{width}}  {'':19} {right:9.1%} {total:8d}"]
    return "\n".join(lines)


def reliability(labels: ArrayLike, probabilities: ArrayLike, *, bins: int = 15) -> Reliability:
    """Sort answers into bins by their confidence, to compare how sure a net is with how often it is right.

    Parameters
    ----------
    labels : array_like of int, shape (N,)
    probabilities : array_like of float, shape (N, K)
        From 0 to 1.
    bins : int, default 15
        As Guo et al. have.

    Returns
    -------
    Reliability

    Raises
    ------
    ValueError
        When shapes disagree, there is no image, a label is not in 0…K-1, a probability not in 0…1 or bins below 1.
    TypeError
        When the labels are not integers.

    Examples
    --------
    >>> from nnkit import metrics
    >>> found = metrics.reliability([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]], bins=2)
    >>> found.count, found.confidence.round(2), found.accuracy.round(2)
    (array([0, 3]), array([nan, 0.8]), array([ nan, 0.67]))
    """
    true, shares = _labels("labels", labels), np.asarray(probabilities, np.float64)
    if shares.ndim != 2 or not shares.size:
        raise ValueError(f"probabilities: expected shape (N, K), got {shares.shape}")
    _same_length(true, "probabilities", len(shares))
    _in_range("labels", true, shares.shape[1])
    confidence = shares.max(axis=1)
    if not (shares.min() >= 0 and confidence.max() <= 1 + 1e-4):  # float32 sums to 1 but for rounding; NaN fails, too
        raise ValueError(f"probabilities: expected values from 0 to 1, got {shares.min():g} to {shares.max():g}")
    if bins < 1:
        raise ValueError(f"bins: expected at least 1, got {bins}")
    edges = np.linspace(0, 1, bins + 1)
    places = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(places, minlength=bins)
    right = (shares.argmax(axis=1) == true).astype(np.float64)
    sums = (np.bincount(places, values, bins) for values in (confidence, right))
    means = [np.divide(total, count, out=np.full(bins, np.nan), where=count > 0) for total in sums]
    return Reliability(edges, count, *means)


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, *, bins: int = 15) -> float:
    """Return by how much a net's confidence misses its accuracy, on average over its answers.

    Answers are sorted into bins of equal width by their confidence; in each bin the mean confidence is compared with
    the share of right answers, and the differences are averaged with the bins' numbers of answers as weights [1]_.

    Parameters
    ----------
    labels, probabilities, bins
        As for `reliability`.

    Returns
    -------
    float, from 0 (as sure as it is right) to 1

    Raises
    ------
    ValueError, TypeError
        As `reliability` does.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.

    Examples
    --------
    >>> from nnkit import metrics
    >>> round(metrics.expected_calibration_error([0, 1, 1, 1], [[0.75, 0.25]] * 4), 3)  # 75% sure, right in 25%
    0.5
    """
    return reliability(labels, probabilities, bins=bins).error


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


def _pair(labels: ArrayLike, predictions: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    true, said = _labels("labels", labels), _labels("predictions", predictions)
    _same_length(true, "predictions", len(said))
    return true, said


def _labels(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name}: expected shape (N,) with N at least 1, got {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name}: expected integers, got {array.dtype}")
    if array.min() < 0:
        raise ValueError(f"{name}: expected class numbers from 0 up, got {array.min()}")
    return array.astype(np.int64)


def _same_length(labels: np.ndarray, name: str, length: int) -> None:
    if len(labels) != length:
        raise ValueError(f"{name}: expected one for each of {len(labels)} labels, got {length}")


def _in_range(name: str, values: np.ndarray, num_classes: int) -> None:
    if values.max() >= num_classes:
        raise ValueError(f"{name}: expected class numbers from 0 to {num_classes - 1}, got {values.max()}")


def _square(matrix: ArrayLike) -> np.ndarray:
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.size:
        raise ValueError(f"matrix: expected shape (K, K), got {counts.shape}")
    if not np.issubdtype(counts.dtype, np.integer):
        raise TypeError(f"matrix: expected counts (integers), got {counts.dtype}")
    if counts.min() < 0:
        raise ValueError(f"matrix: expected counts from 0 up, got {counts.min()}")
    return counts
