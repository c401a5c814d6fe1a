"""Losses as objects: the functions of `nnkit.functional.loss` with their settings and a memory."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nnkit import functional
from nnkit.errors import UsageError


class Loss:
    """The base class of losses; a subclass has `forward`, which ends with `self._cache = cache`, and `_gradient`."""

    _cache: Any = None

    def forward(self, scores: np.ndarray, targets: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the (weighted) mean loss of a batch.

        Parameters
        ----------
        scores : ndarray of shape (N, C)
        targets : ndarray of shape (N,)
            Integer labels; for some losses also (N, C), numbers to predict.
        sample_weight : ndarray of shape (N,), optional

        Returns
        -------
        float
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward method")

    def backward(self) -> np.ndarray:
        """Return the gradient of the last loss with respect to its scores.

        Returns
        -------
        ndarray of shape (N, C)

        Raises
        ------
        RuntimeError
            If there was no `forward` since the last call.
        """
        cache, self._cache = self._cache, None
        if cache is None:
            raise RuntimeError(f"{type(self).__name__}: backward needs a forward before it, one for each call")
        return self._gradient(cache)

    def total_weight(self, targets: np.ndarray, sample_weight: np.ndarray | None = None) -> float:
        """Return what `forward` divides by: how much some targets count, beside others, in a mean over all.

        Parameters
        ----------
        targets : ndarray of shape (N,)
        sample_weight : ndarray of shape (N,), optional

        Returns
        -------
        float
        """
        return float(len(targets) if sample_weight is None else sample_weight.sum(dtype=np.float64))

    def count_correct(self, scores: np.ndarray, targets: np.ndarray) -> int | None:
        """Return how many rows have their highest score at the label; None where the targets are no labels.

        Parameters
        ----------
        scores : ndarray of shape (N, C)
        targets : ndarray of shape (N,) or (N, C)

        Returns
        -------
        int or None
        """
        if targets.ndim != 1:
            return None
        return int(np.count_nonzero(scores.argmax(axis=1) == targets))

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, ready for JSON.

        Returns
        -------
        dict
        """
        return {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self.config().items())})"

    def _gradient(self, cache: Any) -> np.ndarray:
        raise NotImplementedError


class CrossEntropyLoss(Loss):
    """Softmax and negative log-likelihood; see `nnkit.functional.cross_entropy_forward`.

    Parameters
    ----------
    label_smoothing : float in [0, 1], default 0
    class_weight : sequence of float, optional
        One for each class.

    Examples
    --------
    >>> import numpy as np
    >>> loss = CrossEntropyLoss()
    >>> round(loss.forward(np.zeros((2, 10)), [3, 4]), 4)
    2.3026
    >>> loss.backward()[0, 3]
    np.float64(-0.45)
    """

    def __init__(self, *, label_smoothing: float = 0.0, class_weight: ArrayLike | None = None) -> None:
        if not 0 <= label_smoothing <= 1:
            raise UsageError(f"CrossEntropyLoss: expected label_smoothing between 0 and 1, got {label_smoothing!r}")
        self.label_smoothing = float(label_smoothing)
        self.class_weight = None if class_weight is None else np.asarray(class_weight, np.float64)

    def forward(self, scores: np.ndarray, targets: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the (weighted) mean loss of a batch."""
        loss, self._cache = functional.cross_entropy_forward(
            scores,
            targets,
            label_smoothing=self.label_smoothing,
            class_weight=self.class_weight,
            sample_weight=sample_weight,
        )
        return loss

    def total_weight(self, targets: np.ndarray, sample_weight: np.ndarray | None = None) -> float:
        """Return what `forward` divides by."""
        if self.class_weight is None:
            return super().total_weight(targets, sample_weight)
        by_class = self.class_weight[targets]
        return float(by_class.sum() if sample_weight is None else by_class @ sample_weight)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        weights = None if self.class_weight is None else self.class_weight.tolist()
        return {"label_smoothing": self.label_smoothing, "class_weight": weights}

    def _gradient(self, cache: Any) -> np.ndarray:
        return functional.cross_entropy_backward(1.0, cache)


class MultiMarginLoss(Loss):
    """Multiclass hinge loss; see `nnkit.functional.multi_margin_forward`.

    Parameters
    ----------
    margin : float, default 1
    """

    def __init__(self, margin: float = 1.0) -> None:
        self.margin = float(margin)

    def forward(self, scores: np.ndarray, targets: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the (weighted) mean loss of a batch."""
        loss, self._cache = functional.multi_margin_forward(
            scores, targets, margin=self.margin, sample_weight=sample_weight
        )
        return loss

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"margin": self.margin}

    def _gradient(self, cache: Any) -> np.ndarray:
        return functional.multi_margin_backward(1.0, cache)


class _ElementLoss(Loss):
    """Compares numbers one by one: targets are an array like the scores, or labels, which stand for one-hot rows."""

    _function: Callable[..., tuple[float, Any]]
    _backward: Callable[[float, Any], np.ndarray]

    def forward(self, scores: np.ndarray, targets: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the (weighted) mean loss of a batch."""
        scores, wanted = np.asarray(scores), np.asarray(targets)
        if scores.ndim == 2 and wanted.ndim == 1 and wanted.dtype.kind in "iu":
            wanted = self._one_hot(wanted, scores)
        loss, self._cache = self._function(scores, wanted, sample_weight=sample_weight)
        return loss

    def _gradient(self, cache: Any) -> np.ndarray:
        return self._backward(1.0, cache)

    def _one_hot(self, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
        n, classes = scores.shape
        if labels.shape != (n,) or (n and (labels.min() < 0 or labels.max() >= classes)):
            raise ValueError(f"{type(self).__name__}: expected {n} labels from 0 to {classes - 1}, got {labels}")
        rows = np.zeros(scores.shape, scores.dtype)
        rows[np.arange(n), labels] = 1
        return rows


class MSELoss(_ElementLoss):
    """Mean squared error; see `nnkit.functional.mse_forward`.

    Targets are an array like the scores, or integer labels, which stand for their one-hot rows.
    """

    _function = staticmethod(functional.mse_forward)
    _backward = staticmethod(functional.mse_backward)


class BCEWithLogitsLoss(_ElementLoss):
    """Binary cross-entropy of log-odds; see `nnkit.functional.binary_cross_entropy_with_logits_forward`.

    Targets are an array like the scores, from 0 to 1, or integer labels, which stand for their one-hot rows.
    """

    _function = staticmethod(functional.binary_cross_entropy_with_logits_forward)
    _backward = staticmethod(functional.binary_cross_entropy_with_logits_backward)

    def count_correct(self, scores: np.ndarray, targets: np.ndarray) -> int | None:
        """Return how many rows have every question answered right; for labels, as `Loss.count_correct` does."""
        if targets.ndim == 1:
            return super().count_correct(scores, targets)
        return int(np.count_nonzero(((scores > 0) == (targets > 0.5)).all(axis=1)))


class PoissonNLLLoss(_ElementLoss):
    """Likelihood of counts, of which the scores are the logarithms; see `nnkit.functional.poisson_nll_forward`.

    Targets are an array like the scores, at least 0, or integer labels, which stand for their one-hot rows.
    """

    _function = staticmethod(functional.poisson_nll_forward)
    _backward = staticmethod(functional.poisson_nll_backward)
