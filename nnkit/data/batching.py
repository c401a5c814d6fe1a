"""Batches for training: shuffled, augmented and normalised.

A batch is begun when the one before is handed out. The kernels' helpers go on with it when they would otherwise wait,
while Python decides what is computed next; what is left of it is done when it is asked for. A thread of its own that
works ahead would take its time from the cores that compute.

Nothing here keeps a random state. All draws of an epoch come from a generator seeded by (seed, purpose, epoch), so any
batch of any epoch can be made again, which is what makes a resumed run the same run; and what happens to an image does
not depend on the batch that it is in.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from nnkit._ext import kernels, memory
from nnkit.data.dataset import Dataset
from nnkit.errors import UsageError, whole_number

_ORDER, _AUGMENT = 0, 1  # purposes of random numbers; the model's dropout is 2, the validation split 3
_MOST_PIXELS = 1 << 15  # of padding or of a cutout's side: more than any image has, and safe to compute with


@dataclass(frozen=True)
class Augment:
    """Random changes to training images, drawn anew for every image in every epoch.

    Parameters
    ----------
    flip : bool, default False
        Mirror half of the images left to right.
    crop_padding : int, default 0
        Pad by this many pixels on each side and cut a piece of the old size out anywhere: a shift.
    cutout : int, default 0
        Blank a square of this many pixels, centred anywhere in the image (DeVries and Taylor 2017, *Improved
        Regularization of Convolutional Neural Networks with Cutout*).

    Raises
    ------
    UsageError
        If a value is of the wrong type or out of range.

    Examples
    --------
    >>> from nnkit.data import Augment
    >>> Augment(flip=True, crop_padding=4)
    Augment(flip=True, crop_padding=4, cutout=0)
    """

    flip: bool = False
    crop_padding: int = 0
    cutout: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.flip, bool):
            raise UsageError(f"augment: flip: expected true or false, got {self.flip!r}")
        for name in ("crop_padding", "cutout"):
            whole_number(f"augment: {name}", getattr(self, name), 0, _MOST_PIXELS)


def batches(
    dataset: Dataset,
    batch_size: int,
    *,
    normalize: tuple[ArrayLike, ArrayLike] | None = None,
    augment: Augment | None = None,
    shuffle: bool = False,
    seed: int = 0,
    epoch: int = 0,
    start: int = 0,
    stride: int = 1,
    drop_single: bool = False,
    shard: tuple[int, int] = (0, 1),
    dtype: DTypeLike = np.float32,
    channels_last: bool = True,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Go once through a data set in batches, ready for a network.

    The next batch is begun when one is handed out: do not change the data set's arrays meanwhile.

    A uint8 pixel p becomes `(p / 255 - mean) / std`, a floating-point one `(p - mean) / std`. Pixels that a crop or a
    cutout blanks are 0 after that: the mean colour.

    Parameters
    ----------
    dataset : Dataset
    batch_size : int
        The last batch may be smaller.
    normalize : (mean, std), optional
        Numbers or one for each channel, as `Dataset.statistics` gives them; None means mean 0 and std 1.
    augment : Augment, optional
    shuffle : bool, default False
        Take the images in an order that depends on `seed` and `epoch`, each exactly once.
    seed, epoch : int
        Decide order and augmentation, and nothing else does.
    start : int, default 0
        Index of the first batch to make: `start=k` gives what is left after k batches.
    stride : int, default 1
        Make every so many-th batch only, from `start` on.
    drop_single : bool, default False
        Leave out a last batch of one image (batch norm over features cannot train on it).
    shard : pair of int, default (0, 1)
        `(rank, ranks)`: make only this rank's slice of each batch, as `batch_slice` has it. Images and what happens to
        them are the same for any number of ranks.
    dtype : float32 or float64
    channels_last : bool, default True
        How a batch lies in memory: as convolutions read it, or, with False, as `Flatten` gives it to a linear layer.

    Yields
    ------
    x : ndarray of shape (N, C, H, W)
    y : ndarray of shape (N,)
        int64 labels.

    Raises
    ------
    UsageError
        If an argument is out of its range.

    Examples
    --------
    >>> from nnkit import data
    >>> [x.shape for x, y in data.batches(data.make_shapes(100), 64)]
    [(64, 3, 32, 32), (36, 3, 32, 32)]
    """
    whole_number("batch_size", batch_size, 1)
    for name, value in {"seed": seed, "epoch": epoch, "start": start}.items():
        whole_number(name, value, 0)
    whole_number("stride", stride, 1)
    ranks = whole_number("shard: ranks", shard[1], 1)
    whole_number("shard: rank", shard[0], 0, ranks - 1)
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise UsageError(f"dtype: expected float32 or float64, got {dtype}")
    mean, std = checked_normalization((0.0, 1.0) if normalize is None else normalize, dataset.images.shape[3])
    unit = 1 / 255 if dataset.images.dtype == np.uint8 else 1.0
    scale, offset = (unit / std).astype(dtype), (-mean / std).astype(dtype)  # the kernel's multiply-add
    images, count = dataset.images, len(dataset)
    order = epoch_order(count, seed, epoch) if shuffle else np.arange(count)
    order = order.astype(np.int64, copy=False)  # the kernel takes no other; where a pointer has 32 bits, it is one
    labels = dataset.labels[order]

    augment = Augment() if augment is None else augment
    hole, changes = int(augment.cutout), _draw_changes(dataset, augment, (seed, _AUGMENT, epoch))

    def begin(index: int) -> _Begun:
        part = batch_slice(index, batch_size, count, shard)
        own = [None if drawn is None else drawn[part] for drawn in changes]
        later, x = _begin_batch(images, order[part], own, hole, scale, offset, channels_last)
        return _Begun(later, x, labels[part])

    return _one_ahead(begin, range(start, count_batches(count, batch_size, drop_single=drop_single), stride))


def count_batches(count: int, batch_size: int, *, drop_single: bool = False) -> int:
    """Return how many batches `batches` makes of `count` images.

    Parameters
    ----------
    count, batch_size : int
    drop_single : bool, default False

    Returns
    -------
    int

    Examples
    --------
    >>> from nnkit.data import count_batches
    >>> count_batches(65, 64), count_batches(65, 64, drop_single=True)
    (2, 1)
    """
    whole, rest = divmod(count, batch_size)
    return whole + (rest > int(drop_single))


def batch_slice(index: int, batch_size: int, count: int, shard: tuple[int, int] = (0, 1)) -> slice:
    """Return which places of an epoch's order a rank has in a batch.

    Ranks have neighbouring slices whose sizes differ by one at most, but none has a single image, on which batch norm
    over features cannot train: where there are too few, the last ranks have none.

    Parameters
    ----------
    index, batch_size, count : int
        The batch's number, from 0; images in a batch; and images in all.
    shard : pair of int, default (0, 1)
        `(rank, ranks)`.

    Returns
    -------
    slice

    Examples
    --------
    >>> from nnkit.data import batch_slice
    >>> [batch_slice(1, 64, 69, (rank, 3)) for rank in range(3)]  # the last five images
    [slice(64, 66, None), slice(66, 69, None), slice(69, 69, None)]
    """
    rank, ranks = shard
    first, last = index * batch_size, min((index + 1) * batch_size, count)
    if ranks == 1:
        return slice(first, last)
    busy = max(1, min(ranks, (last - first) // 2))
    start, stop = ((last - first) * min(r, busy) // busy for r in (rank, rank + 1))
    return slice(first + start, first + stop)


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order in which `batches(shuffle=True)` takes the images of an epoch.

    Parameters
    ----------
    count, seed, epoch : int

    Returns
    -------
    ndarray of shape (count,)
        A permutation of 0 to count - 1.
    """
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(count)


def checked_normalization(normalize: tuple[ArrayLike, ArrayLike], channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Check a normalisation; return its mean and std for each channel, fit to be divided by."""
    try:
        mean, std = (np.broadcast_to(np.asarray(value, np.float64), channels) for value in normalize)
    except (TypeError, ValueError):
        received = " ".join(repr(normalize).split())[:100]
        raise UsageError(f"normalize: expected (mean, std) for {channels} channels, got {received}") from None
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std >= 0).all()):
        raise UsageError(f"normalize: expected a finite mean and a std >= 0, got {mean.tolist()} and {std.tolist()}")
    return mean, np.where(std == 0, 1.0, std)  # a channel without contrast stays as it is


def _draw_changes(dataset: Dataset, augment: Augment, seed: tuple[int, ...]) -> list[np.ndarray | None]:
    """Draw what happens to each image of an epoch: flips, shifts and holes, as the kernel takes them."""
    if augment == Augment():
        return [None] * 5
    count, (height, width) = len(dataset), dataset.images.shape[1:3]
    padding, hole = int(augment.crop_padding), int(augment.cutout)
    flip = shift_y = shift_x = hole_y = hole_x = None
    rng = np.random.default_rng(seed)
    # Drawn in any case: shifts and holes shall not depend on whether images are flipped.
    mirrored = rng.random(count) < 0.5
    if augment.flip:
        flip = mirrored.view(np.uint8)
    if padding:
        shift_y, shift_x = rng.integers(-padding, padding + 1, (2, count))
    if hole:
        hole_y, hole_x = rng.integers(0, height, count) - hole // 2, rng.integers(0, width, count) - hole // 2
    return [flip, shift_y, shift_x, hole_y, hole_x]


class _Begun(NamedTuple):
    """A batch that helpers are at work on."""

    later: Any
    x: np.ndarray
    y: np.ndarray

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        self.later.finish()
        return self.x, self.y


def _one_ahead(begin: Callable[[int], _Begun], indices: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the batches of these indices; each is begun when the one before is complete, before that is handed out."""
    batch: _Begun | None = None
    for index in (*indices, None):
        complete: list[tuple[np.ndarray, np.ndarray]] = [] if batch is None else [batch.finish()]
        batch = None if index is None else begin(index)
        if complete:
            yield complete.pop()  # and keep nothing of it, so that its memory can be used again


def _begin_batch(
    images: np.ndarray,
    rows: np.ndarray,
    changes: list[np.ndarray | None],
    hole: int,
    scale: np.ndarray,
    offset: np.ndarray,
    channels_last: bool,
) -> tuple[Any, np.ndarray]:
    count, dtype = len(rows), scale.dtype
    height, width, channels = images.shape[1:]
    if images.dtype != np.uint8 and images.dtype != dtype:
        images, rows = images[rows].astype(dtype), np.arange(count, dtype=np.int64)
    shape = (height, width, channels) if channels_last else (channels, height, width)
    out = memory.empty((count, *shape), dtype)
    later = kernels.augment(images, rows, *changes, hole, scale, offset, out, channels_last)
    return later, out.transpose(0, 3, 1, 2) if channels_last else out
