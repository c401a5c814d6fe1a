"""Images with numbers to predict: for regression, and for several yes-or-no questions about each image."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from nnkit.data.dataset import Dataset, stratified_indices
from nnkit.errors import UsageError


class TargetDataset(Dataset):
    """Images, each with a row of numbers to predict in place of a label.

    A Solver trains on it with a loss that compares numbers: `MSELoss`, `BCEWithLogitsLoss`, `PoissonNLLLoss`.

    Parameters
    ----------
    images : ndarray of shape (n, H, W, C)
        As for `Dataset`. Rows of features are images of one pixel: `features[:, None, None, :]`.
    targets : array of shape (n, K)
        They are kept as `labels`, in float64 if they are that, else in float32.
    sample_weight : array of shape (n,), optional
        How much each image counts in the loss.

    Raises
    ------
    ValueError
        If shapes or types do not fit together, or a target is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from nnkit.data import TargetDataset
    >>> data = TargetDataset(np.zeros((4, 8, 8, 3), np.uint8), [[0.5], [1.5], [2.5], [3.5]])
    >>> data
    TargetDataset(4 images of 8×8×3, 1 target each)
    >>> data[:2].labels.tolist()
    [[0.5], [1.5]]
    """

    def __init__(self, images: np.ndarray, targets: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        super().__init__(images, targets, None, sample_weight)

    def __repr__(self) -> str:
        size, count = "×".join(map(str, self.images.shape[1:])), self.labels.shape[1]
        return f"TargetDataset({len(self)} images of {size}, {count} target{'s' * (count != 1)} each)"

    def require_outputs(self, name: str, outputs: tuple[int, ...] | None) -> None:
        """Raise unless a model has an output for each target; see `Dataset.require_outputs`."""
        if outputs != self.labels.shape[1:]:
            raise UsageError(f"{name} set: {self.labels.shape[1]} targets, but the model's output is {outputs}")

    def _checked_labels(self, labels: ArrayLike, class_names: Sequence[str] | None) -> tuple[np.ndarray, list[str]]:
        array = np.asarray(labels)
        if array.ndim != 2 or len(array) != len(self) or not array.shape[1]:
            raise ValueError(f"targets: expected shape ({len(self)}, K) for {len(self)} images, got {array.shape}")
        if array.dtype.kind not in "fiub":
            raise ValueError(f"targets: expected numbers, got {array.dtype}")
        array = array.astype(np.float64 if array.dtype == np.float64 else np.float32)
        if not np.isfinite(array).all():
            raise ValueError("targets: expected finite numbers, got NaN or infinity")
        return array, []  # there are no classes

    def _held_out(self, validation: float, seed: int) -> np.ndarray:
        return stratified_indices(np.zeros(len(self), np.int64), 1, validation, seed)
