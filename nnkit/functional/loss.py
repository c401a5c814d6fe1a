"""Losses: one number for a batch, and where it comes from. The reduction is always the (weighted) mean."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nnkit._ext import kernels, memory
from nnkit.functional import _arrays
from nnkit.functional.activation import sigmoid_forward


def cross_entropy_forward(
    scores: np.ndarray,
    targets: ArrayLike,
    *,
    label_smoothing: float = 0.0,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> tuple[float, Any]:
    """Softmax and negative log-likelihood of the true classes in one.

    With `q = (1 - s) * onehot(target) + s / C`, class weights w and sample weights v,
    `loss = - sum over n, c of v[n] * q[n, c] * w[c] * log softmax(scores)[n, c] / sum over n of v[n] * w[target[n]]`.

    Label smoothing: Szegedy et al., 2015: Rethinking the Inception Architecture for Computer Vision.

    Parameters
    ----------
    scores : ndarray of shape (N, C)
        Unnormalised log-probabilities (logits).
    targets : ndarray of shape (N,)
        Integer labels from 0 to C - 1.
    label_smoothing : float in [0, 1], default 0
        s in the formula.
    class_weight : ndarray of shape (C,), optional
    sample_weight : ndarray of shape (N,), optional
        Where all weights of a batch are 0, the loss and its gradient are 0.

    Returns
    -------
    loss : float
    cache : what `cross_entropy_backward` needs

    Raises
    ------
    ValueError
        If shapes do not fit, a label is out of range, or a weight is negative.
    TypeError
        If the labels are not integers.

    Examples
    --------
    >>> loss, cache = cross_entropy_forward([[2.0, 0.0], [0.0, 0.0]], [0, 1])
    >>> round(loss, 4)
    0.41
    """
    scores, labels = _scores_and_labels("cross_entropy", scores, targets)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: expected label_smoothing between 0 and 1, got {label_smoothing}")
    scores = np.ascontiguousarray(scores)
    n, classes = scores.shape
    by_class = None if class_weight is None else _weights("cross_entropy", "class_weight", class_weight, classes)
    by_row = None if sample_weight is None else _weights("cross_entropy", "sample_weight", sample_weight, n)
    p = memory.empty(scores.shape, scores.dtype)
    # The kernel looks at the labels in any case, so that it is the one to say that one is out of range.
    loss, total = kernels.cross_entropy_forward(scores, labels, by_class, by_row, label_smoothing, p)
    return loss, (p, labels, by_class, by_row, label_smoothing, total)


def cross_entropy_backward(dout: float, cache: Any) -> np.ndarray:
    """Return the gradient of `cross_entropy_forward`: without weights, `(softmax(scores) - q) / N`.

    Parameters
    ----------
    dout : float
        Usually 1.0.
    cache : from `cross_entropy_forward`

    Returns
    -------
    dscores : ndarray of shape (N, C)
    """
    p, labels, by_class, by_row, smoothing, total = cache
    dscores = memory.empty(p.shape, p.dtype)
    kernels.cross_entropy_backward(p, labels, by_class, by_row, smoothing, dout / total if total else 0.0, dscores)
    return dscores


def multi_margin_forward(
    scores: np.ndarray, targets: ArrayLike, *, margin: float = 1.0, sample_weight: ArrayLike | None = None
) -> tuple[float, Any]:
    """Multiclass hinge loss, as a support vector machine has it.

    `loss = mean over n of sum over c != target of max(0, margin - scores[n, target] + scores[n, c]) / C`; the division
    by C is PyTorch's (the cs231n course leaves it out).

    Weston and Watkins, 1999: Support Vector Machines for Multi-Class Pattern Recognition.

    Parameters
    ----------
    scores : ndarray of shape (N, C)
    targets : ndarray of shape (N,)
        Integer labels from 0 to C - 1.
    margin : float, default 1
    sample_weight : ndarray of shape (N,), optional
        The mean over n is weighted by it.

    Returns
    -------
    loss : float
    cache : what `multi_margin_backward` needs

    Raises
    ------
    ValueError
        If shapes do not fit, a label is out of range, or a weight is negative.
    TypeError
        If the labels are not integers.

    Examples
    --------
    >>> multi_margin_forward([[2.0, 1.5, -3.0, 0.0]], [0])[0]
    0.125
    """
    scores, labels = _scores_and_labels("multi_margin", scores, targets)
    n, classes = scores.shape
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.size:
        raise ValueError(f"multi_margin: expected labels from 0 to {classes - 1}, got {wrong[0]}")
    by_row = _weights("multi_margin", "sample_weight", sample_weight, n)
    by_row = by_row / (classes * (float(by_row.sum()) or 1.0))
    rows = np.arange(n)
    with np.errstate(invalid="ignore", over="ignore"):
        margins = scores - scores[rows, labels][:, None]
        margins += scores.dtype.type(margin)
        margins[rows, labels] = 0
        np.copyto(margins, 0, where=margins < 0)  # not maximum(), for NaN must come through
        loss = float(by_row @ margins.sum(axis=1, dtype=np.float64))
    return loss, (margins > 0, labels, by_row, scores.dtype)


def multi_margin_backward(dout: float, cache: Any) -> np.ndarray:
    """Return the gradient of `multi_margin_forward`: each violated margin pulls its class down and the target up.

    Parameters
    ----------
    dout : float
        Usually 1.0.
    cache : from `multi_margin_forward`

    Returns
    -------
    dscores : ndarray of shape (N, C)
    """
    violated, labels, by_row, dtype = cache
    dscores = violated.astype(dtype)
    dscores[np.arange(labels.size), labels] = -violated.sum(axis=1)
    dscores *= (dout * by_row)[:, None].astype(dtype)
    return dscores


def mse_forward(
    predictions: np.ndarray, targets: np.ndarray, *, sample_weight: ArrayLike | None = None
) -> tuple[float, Any]:
    """Mean squared error: `loss = mean of (predictions - targets) ** 2` over all elements.

    Parameters
    ----------
    predictions : ndarray of shape (N, ...)
    targets : ndarray like predictions
    sample_weight : ndarray of shape (N,), optional
        The mean over n is weighted by it.

    Returns
    -------
    loss : float
    cache : what `mse_backward` needs

    Raises
    ------
    ValueError
        If the shapes differ, the batch is empty, or a weight is negative.

    Examples
    --------
    >>> mse_forward([[1.0, 2.0]], [[0.0, 4.0]])[0]
    2.5
    """
    predictions, targets, by_row = _numbers_to_predict("mse", "predictions", predictions, targets, sample_weight)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = predictions - targets
        loss = float(by_row @ np.square(difference).reshape(len(difference), -1).sum(axis=1, dtype=np.float64))
    return loss, (difference, by_row)


def mse_backward(dout: float, cache: Any) -> np.ndarray:
    """Return the gradient of `mse_forward`: `2 * (predictions - targets) / number of elements`, weighted.

    Parameters
    ----------
    dout : float
        Usually 1.0.
    cache : from `mse_forward`

    Returns
    -------
    dpredictions : ndarray like predictions
    """
    difference, by_row = cache
    return _by_row(2 * dout * by_row, difference)


def binary_cross_entropy_with_logits_forward(
    scores: np.ndarray, targets: np.ndarray, *, sample_weight: ArrayLike | None = None
) -> tuple[float, Any]:
    """Sigmoid and negative log-likelihood in one: a yes-or-no question for each element.

    `loss = mean of log(1 + exp(scores)) - targets * scores` over all elements.

    Parameters
    ----------
    scores : ndarray of shape (N, ...)
        Unnormalised log-odds (logits).
    targets : ndarray like scores
        From 0 for no to 1 for yes.
    sample_weight : ndarray of shape (N,), optional
        The mean over n is weighted by it.

    Returns
    -------
    loss : float
    cache : what `binary_cross_entropy_with_logits_backward` needs

    Raises
    ------
    ValueError
        If the shapes differ, the batch is empty, a target is below 0 or above 1, or a weight is negative.

    Examples
    --------
    >>> round(binary_cross_entropy_with_logits_forward([[0.0, 2.0]], [[0.0, 1.0]])[0], 4)
    0.41
    """
    where = "binary_cross_entropy_with_logits"
    scores, targets, by_row = _numbers_to_predict(where, "scores", scores, targets, sample_weight)
    if not ((targets >= 0) & (targets <= 1)).all():
        raise ValueError(f"{where}: expected targets from 0 to 1, got {targets.min()} to {targets.max()}")
    with np.errstate(invalid="ignore", over="ignore"):
        each = np.logaddexp(0, scores) - targets * scores
        loss = float(by_row @ each.reshape(len(each), -1).sum(axis=1, dtype=np.float64))
    return loss, (scores, targets, by_row)


def binary_cross_entropy_with_logits_backward(dout: float, cache: Any) -> np.ndarray:
    """Return the gradient of `binary_cross_entropy_with_logits_forward`: `(sigmoid(scores) - targets) / elements`.

    Parameters
    ----------
    dout : float
        Usually 1.0.
    cache : from `binary_cross_entropy_with_logits_forward`

    Returns
    -------
    dscores : ndarray like scores
    """
    scores, targets, by_row = cache
    return _by_row(dout * by_row, sigmoid_forward(scores)[0] - targets)


def poisson_nll_forward(
    log_rates: np.ndarray, targets: np.ndarray, *, sample_weight: ArrayLike | None = None
) -> tuple[float, Any]:
    """Negative log-likelihood of counts that follow Poisson distributions, whose rates are predicted.

    `loss = mean of exp(log_rates) - targets * log_rates`; what depends on the targets alone is left out, as in PyTorch.

    Parameters
    ----------
    log_rates : ndarray of shape (N, ...)
    targets : ndarray like log_rates
        At least 0.
    sample_weight : ndarray of shape (N,), optional
        The mean over n is weighted by it.

    Returns
    -------
    loss : float
    cache : what `poisson_nll_backward` needs

    Raises
    ------
    ValueError
        If the shapes differ, the batch is empty, a target or a weight is negative.

    Examples
    --------
    >>> poisson_nll_forward([[0.0, 0.0]], [[1.0, 3.0]])[0]
    1.0
    """
    log_rates, targets, by_row = _numbers_to_predict("poisson_nll", "log_rates", log_rates, targets, sample_weight)
    if not (targets >= 0).all():
        raise ValueError(f"poisson_nll: expected targets >= 0, got {targets.min()}")
    with np.errstate(invalid="ignore", over="ignore"):
        rates = np.exp(log_rates)
        each = rates - targets * log_rates
        loss = float(by_row @ each.reshape(len(each), -1).sum(axis=1, dtype=np.float64))
    return loss, (rates, targets, by_row)


def poisson_nll_backward(dout: float, cache: Any) -> np.ndarray:
    """Return the gradient of `poisson_nll_forward`: `(exp(log_rates) - targets) / number of elements`, weighted.

    Parameters
    ----------
    dout : float
        Usually 1.0.
    cache : from `poisson_nll_forward`

    Returns
    -------
    dlog_rates : ndarray like log_rates
    """
    rates, targets, by_row = cache
    return _by_row(dout * by_row, rates - targets)


def _numbers_to_predict(
    where: str, name: str, predictions: np.ndarray, targets: np.ndarray, sample_weight: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check predictions and targets of one shape; return them with the rows' weights in the mean over all elements."""
    predictions, targets = _arrays.floats(where, predictions, targets)
    if predictions.ndim < 1 or predictions.size == 0:
        raise ValueError(f"{where}: expected {name} of shape (N, ...), not empty, got {predictions.shape}")
    _arrays.check_shape(where, "targets", targets, predictions.shape)
    n = predictions.shape[0]
    by_row = _weights(where, "sample_weight", sample_weight, n)
    return predictions, targets, by_row * (n / ((float(by_row.sum()) or 1.0) * predictions.size))


def _by_row(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    return values * weights.astype(values.dtype).reshape(-1, *[1] * (values.ndim - 1))


def _scores_and_labels(where: str, scores: np.ndarray, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    (values,) = _arrays.floats(where, scores)
    labels = np.asarray(targets)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{where}: expected scores of shape (N, C), not empty, got {values.shape}")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{where}: expected integer class labels, got an array of {labels.dtype}")
    _arrays.check_shape(where, "targets", labels, values.shape[:1])
    return values, np.ascontiguousarray(labels, np.int64)


def _weights(where: str, name: str, weights: ArrayLike | None, size: int) -> np.ndarray:
    """Return weights in float64, ones where there are none."""
    if weights is None:
        return np.ones(size)
    array = np.ascontiguousarray(weights, np.float64)
    _arrays.check_shape(where, name, array, (size,))
    if not (np.isfinite(array).all() and (array >= 0).all()):
        raise ValueError(f"{where}: expected {name} of finite numbers >= 0, got {array.min()}")
    return array
