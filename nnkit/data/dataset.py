"""Labelled images in memory: choosing classes, splitting off a validation part, per-channel statistics."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nnkit.errors import DataError, UsageError, did_you_mean, whole_number

_MOST_CLASSES = 1_000_000  # without names: more are not labels, but something else that fills the memory with names
_STATISTICS_CHUNK = 64  # images at a time, so that no copy of the whole set is made
_SAMPLE = 4  # purpose of random numbers, as the Solver's are numbered; 3 is the validation split


class Dataset:
    """Images with labels, and names for the classes.

    Parameters
    ----------
    images : ndarray of shape (n, H, W, C)
        Pixels as uint8, 0 to 255, or as float32 or float64 in a range of your own (other types become float32).
    labels : array of shape (n,)
        Class indices, from 0.
    class_names : sequence of str, optional
        One name a class; by default "0", "1", … up to the largest label.
    sample_weight : array of shape (n,), optional
        How much each image counts in the loss.

    Raises
    ------
    ValueError
        If shapes, types or labels do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> from nnkit.data import Dataset
    >>> data = Dataset(np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 1, 0], ["cat", "dog"])
    >>> data
    Dataset(4 images of 8×8×3, 2 classes)
    >>> len(data[data.labels == 1]), data.image_shape
    (2, (3, 8, 8))
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: ArrayLike,
        class_names: Sequence[str] | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> None:
        images = np.asarray(images)
        if images.ndim != 4 or 0 in images.shape[1:]:
            raise ValueError(f"images: expected an array of shape (n, height, width, channels), got {images.shape}")
        if images.dtype.kind not in "fiub":
            raise ValueError(f"images: expected uint8 or floating-point pixels, got {images.dtype}")
        if images.dtype not in (np.uint8, np.float32, np.float64):
            images = images.astype(np.float32)
        self.images = np.ascontiguousarray(images)  # as the kernels want them; a slice or a transposed array is not
        self.labels, self.class_names = self._checked_labels(labels, class_names)
        self.sample_weight = None if sample_weight is None else _checked_weights(sample_weight, len(images))

    def _checked_labels(self, labels: ArrayLike, class_names: Sequence[str] | None) -> tuple[np.ndarray, list[str]]:
        """Return the labels and the classes' names as they are kept."""
        array = _checked_labels(labels, len(self))
        if class_names is None:
            largest = int(array.max(initial=-1))
            if largest >= _MOST_CLASSES:
                raise ValueError(f"labels: the largest is {largest:,}, expected class indices from 0")
            class_names = [str(i) for i in range(largest + 1)]
        names = [str(name) for name in class_names]
        wrong = np.flatnonzero((array < 0) | (array >= len(names)))
        if len(wrong):
            raise ValueError(
                f"labels[{wrong[0]}] is {array[wrong[0]]}, expected 0 to {len(names) - 1} for {len(names)} classes"
            )
        return array, names

    def require_fit(self, name: str, inputs: tuple[int, ...] | None, outputs: tuple[int, ...] | None) -> None:
        """Raise unless a model with inputs and outputs of these shapes can learn from this data set.

        Parameters
        ----------
        name : str
            What the data set is called in the message.
        inputs, outputs : tuple of int or None
            The shapes of one example.

        Raises
        ------
        UsageError
            There are no images, their shape is another, or all count nothing; or labels and outputs do not fit.
        DataError
            An image holds NaN or infinity, or a label, changed since the set was made, is out of range.
        """
        if len(self) == 0:
            raise UsageError(f"{name} set: it has no images")
        if self.image_shape != inputs:
            raise UsageError(f"{name} set: the model expects images of shape {inputs}, got {self.image_shape}")
        self.require_outputs(name, outputs)
        if (wrong := _first_not_finite(self.images)) is not None:
            raise DataError(f"{name} set: image {wrong} holds NaN or infinity")
        if self.sample_weight is not None and not self.sample_weight.any():
            raise UsageError(f"{name} set: all its sample weights are 0")

    def require_outputs(self, name: str, outputs: tuple[int, ...] | None) -> None:
        """Raise unless a model with outputs of this shape can learn these labels.

        Parameters
        ----------
        name : str
            What the data set is called in the message.
        outputs : tuple of int or None
            The shape of one example's output.

        Raises
        ------
        UsageError
            There are more classes than outputs, or the outputs are no row.
        DataError
            A label, changed since the set was made, is out of range.
        """
        if outputs is None or len(outputs) != 1 or self.num_classes > outputs[0]:
            raise UsageError(f"{name} set: {self.num_classes} classes, but the model's output is {outputs}")
        if self.labels.min() < 0 or self.labels.max() >= outputs[0]:
            found = f"{self.labels.min()} to {self.labels.max()}"
            raise DataError(f"{name} set: expected labels from 0 to {outputs[0] - 1}, got {found}")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        size = "×".join(map(str, self.images.shape[1:]))
        return f"Dataset({len(self)} images of {size}, {self.num_classes} classes)"

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]] | None:
        """Show some images of each class in a notebook, if they are pictures with labels."""
        from nnkit import plots

        _, height, width, channels = self.images.shape
        if len(self) == 0 or self.labels.ndim > 1 or channels not in (1, 3) or height * width == 1:
            return None
        return plots.notebook_png(plots.samples(self.images, self.labels, self.class_names))

    def __getitem__(self, index: ArrayLike | slice) -> "Dataset":
        """Return the images that an index array, a mask or a slice names; an integer gives a Dataset of one."""
        chosen = index if isinstance(index, slice) else np.atleast_1d(np.asarray(index))
        if not isinstance(chosen, slice) and chosen.size == 0:
            chosen = np.zeros(0, np.int64)  # an empty list would be an array of floats
        part = copy.copy(self)
        part.images, part.labels = np.ascontiguousarray(self.images[chosen]), self.labels[chosen]
        part.sample_weight = None if self.sample_weight is None else self.sample_weight[chosen]
        return part

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of one image as a network sees it: (channels, height, width)."""
        height, width, channels = self.images.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def class_counts(self) -> np.ndarray:
        """Return how many images each class has.

        Returns
        -------
        ndarray of shape (num_classes,)
        """
        return np.bincount(self.labels, minlength=self.num_classes)

    def select_classes(self, names: Sequence[str]) -> "Dataset":
        """Return the images of some classes only, relabelled 0, 1, … in the order of `names`.

        Parameters
        ----------
        names : sequence of str

        Returns
        -------
        Dataset

        Raises
        ------
        UsageError
            If a name is unknown or given twice, or there are none.

        Examples
        --------
        >>> import numpy as np
        >>> from nnkit.data import Dataset
        >>> data = Dataset(np.zeros((3, 1, 1, 1), np.uint8), [0, 1, 2], ["ant", "bee", "cat"])
        >>> data.select_classes(["cat", "ant"]).labels.tolist()
        [1, 0]
        """
        if isinstance(names, str) or not names:
            raise UsageError(f"classes: expected a list of at least one class name, got {names!r}")
        new_label = np.full(self.num_classes, -1)
        for i, name in enumerate(names):
            if name not in self.class_names:
                raise UsageError(f"unknown class {name!r}{did_you_mean(name, self.class_names)}")
            old_label = self.class_names.index(name)
            if new_label[old_label] >= 0:
                raise UsageError(f"class {name!r} is given twice")
            new_label[old_label] = i
        labels = new_label[self.labels]
        kept = labels >= 0
        weight = None if self.sample_weight is None else self.sample_weight[kept]
        return Dataset(self.images[kept], labels[kept], list(names), weight)

    def sample_per_class(self, count: int, seed: int = 0) -> "Dataset":
        """Return so many images of each class, drawn at random.

        Parameters
        ----------
        count : int
            How many of each class. With the same seed, fewer are always some of those that more would be.
        seed : int, default 0
            Decides which images.

        Returns
        -------
        Dataset
            In the order of the original.

        Raises
        ------
        UsageError
            If there are no classes, or one of them has fewer images.

        Examples
        --------
        >>> from nnkit import data
        >>> data.make_shapes(100).sample_per_class(3)
        Dataset(30 images of 32×32×3, 10 classes)
        """
        count = whole_number("per_class", count, 1)
        if not self.class_names:
            raise UsageError("per_class: expected images with class labels, got other targets")
        for name, there in zip(self.class_names, self.class_counts(), strict=True):
            if there < count:
                raise UsageError(f"per_class: class {name!r} has {there} training images, expected at least {count}")
        rng = np.random.default_rng((seed, _SAMPLE))
        chosen = [rng.permutation(np.flatnonzero(self.labels == c))[:count] for c in range(self.num_classes)]
        return self[np.sort(np.concatenate(chosen))]

    def split(self, validation: float, seed: int = 0) -> tuple["Dataset", "Dataset"]:
        """Split off a validation part that has every class in the same proportion.

        Parameters
        ----------
        validation : int or float
            Number of images (an integer), or fraction of them (between 0 and 1).
        seed : int, default 0
            Decides which images.

        Returns
        -------
        train, validation : Dataset
            Both in the order of the original.

        Raises
        ------
        UsageError
            If one of the parts would be empty.

        Examples
        --------
        >>> from nnkit import data
        >>> train, validation = data.make_shapes(100).split(0.2)
        >>> train, validation.class_counts().tolist()
        (Dataset(80 images of 32×32×3, 10 classes), [2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
        """
        held_out = self._held_out(validation, seed)
        mask = np.zeros(len(self), bool)
        mask[held_out] = True
        return self[~mask], self[mask]

    def _held_out(self, validation: float, seed: int) -> np.ndarray:
        return stratified_indices(self.labels, self.num_classes, validation, seed)

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and standard deviation of each channel, uint8 pixels counted as pixel / 255.

        Returns
        -------
        mean, std : ndarray of shape (C,)
            float64.

        Raises
        ------
        ValueError
            If there are no images.
        """
        if len(self) == 0:
            raise ValueError("statistics: the data set has no images")
        _, height, width, channels = self.images.shape
        shift = self.images[0].mean(axis=(0, 1), dtype=np.float64)  # near the mean: keeps the variance accurate
        total, squares = np.zeros((2, width * channels))
        for start in range(0, len(self), _STATISTICS_CHUNK):
            rows = self.images[start : start + _STATISTICS_CHUNK].reshape(-1, width * channels) - np.tile(shift, width)
            total += rows.sum(axis=0)
            squares += np.square(rows, out=rows).sum(axis=0)
        count = len(self) * height * width
        mean, mean_square = (v.reshape(width, channels).sum(axis=0) / count for v in (total, squares))
        scale = 255.0 if self.images.dtype == np.uint8 else 1.0
        return (shift + mean) / scale, np.sqrt(np.maximum(mean_square - mean**2, 0)) / scale


def from_arrays(
    images: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str] | None = None,
    *,
    layout: str = "NHWC",
    sample_weight: ArrayLike | None = None,
) -> Dataset:
    """Make a Dataset of NumPy arrays.

    Parameters
    ----------
    images : array of shape (n, H, W, C), (n, C, H, W) or (n, H, W)
        uint8 from 0 to 255, or floating-point; three axes mean grayscale.
    labels : array of shape (n,)
        Class indices, from 0.
    class_names : sequence of str, optional
    layout : {"NHWC", "NCHW"}
        Which axis of four holds the channels: the last or the second.
    sample_weight : array of shape (n,), optional

    Returns
    -------
    Dataset

    Raises
    ------
    UsageError
        If the layout is neither of the two.
    ValueError
        If shapes or labels do not fit together, or a pixel is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from nnkit import data
    >>> data.from_arrays(np.zeros((5, 3, 8, 6), np.float32), [0, 1, 2, 0, 1], layout="NCHW")
    Dataset(5 images of 8×6×3, 3 classes)
    """
    if layout not in ("NHWC", "NCHW"):
        raise UsageError(f"layout: expected 'NHWC' or 'NCHW', got {layout!r}")
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., None]
    elif images.ndim == 4 and layout == "NCHW":
        images = images.transpose(0, 2, 3, 1)
    data = Dataset(images, labels, class_names, sample_weight)
    if data.images.dtype.kind == "f" and not np.isfinite(data.images.sum()):
        wrong = np.argwhere(~np.isfinite(data.images))
        if len(wrong):
            position = tuple(int(i) for i in wrong[0])
            raise ValueError(f"images: the pixel at (image, row, column, channel) {position} is not finite")
    return data


def stratified_indices(
    labels: np.ndarray, num_classes: int, held_out: float, seed: int, setting: str = "validation"
) -> np.ndarray:
    """Choose the images to hold out: of each class its share, and exactly as many as asked for in all."""
    n = len(labels)
    if isinstance(held_out, (bool, np.bool_)) or not isinstance(held_out, (int, float, np.integer, np.floating)):
        received = repr(held_out) if isinstance(held_out, (bool, str)) else f"a {type(held_out).__name__}"
        raise UsageError(f"{setting}: expected a number of images or a fraction, got {received}")
    is_count = isinstance(held_out, (int, np.integer))
    count = int(held_out) if is_count else round(float(held_out) * n) if 0 < held_out < 1 else 0
    if not 0 < count < n:
        wanted = f"from 1 to {n - 1} images" if is_count else "a fraction between 0 and 1, an image on each side"
        raise UsageError(f"{setting}: expected {wanted}, got {held_out!r} of {n}")
    sizes = np.bincount(labels, minlength=num_classes)
    # Whole numbers of each class first; what is left over goes to the largest remainders, ties to the first class.
    share, remainder = np.divmod(sizes * count, n)
    missing = count - int(share.sum())
    share[np.argsort(-remainder, kind="stable")[:missing]] += 1
    rng = np.random.default_rng((seed, 3))
    chosen = [rng.permutation(np.flatnonzero(labels == c))[: share[c]] for c in range(num_classes)]
    return np.sort(np.concatenate(chosen))


def _checked_labels(labels: ArrayLike, count: int) -> np.ndarray:
    array = np.asarray(labels)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise ValueError(f"labels: expected whole numbers, got {array.dtype}")
    if array.shape != (count,):
        raise ValueError(f"labels: expected shape ({count},) for {count} images, got {array.shape}")
    return array.astype(np.int64)


def _checked_weights(weights: ArrayLike, count: int) -> np.ndarray:
    array = np.asarray(weights, np.float32)
    if array.shape != (count,) or not np.all(np.isfinite(array)) or np.any(array < 0):
        raise ValueError(f"sample_weight: expected {count} finite numbers >= 0, got an array of shape {array.shape}")
    return array


def _first_not_finite(images: np.ndarray) -> int | None:
    """Return the index of the first image with NaN or infinity in it."""
    with np.errstate(over="ignore", invalid="ignore"):
        if images.dtype == np.uint8 or np.isfinite(images.sum()):
            return None
    return next((index for index, image in enumerate(images) if not np.isfinite(image).all()), None)
