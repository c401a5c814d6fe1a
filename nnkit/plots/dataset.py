"""A look into a data set."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from nnkit.plots.images import displayable
from nnkit.plots.style import INK, UNDER, cell_grid, in_house_style, one_line_names, shorten, show_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 10


@in_house_style
def samples(
    images: ArrayLike, labels: ArrayLike, class_names: Sequence[str] | None = None, *, count: int = 20
) -> "Figure":
    """Show the first images of each class, with its name: one of each before a second of any.

    Parameters
    ----------
    images : array_like of shape (N, H, W, C), uint8 or float
        Grayscale or RGB. Floats are shown as they are when all lie in 0…1, otherwise stretched to it.
    labels : array_like of int, shape (N,)
    class_names : sequence of str, optional
        By default "0", "1", … up to the largest label.
    count : int, default 20
        How many images at most; of more classes than that, some spread evenly over all.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When there is no image, the images are no pictures, or images, labels and names do not fit together.

    Examples
    --------
    >>> from nnkit import data, plots
    >>> shapes = data.make_shapes(100)
    >>> plots.samples(shapes.images, shapes.labels, shapes.class_names).get_suptitle()
    '100 images of 32×32 pixels in 10 classes'
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim != 4 or not images.size or images.shape[3] not in (1, 3):
        raise ValueError(f"images: expected shape (N, H, W, C) with 1 or 3 channels, got {images.shape}")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(f"labels: expected a class index for each of {len(images)} images, got {_found(labels)}")
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    names = one_line_names(class_names, int(labels.max()) + 1 if class_names is None else len(class_names))
    if labels.max() >= len(names):
        raise ValueError(f"labels: expected 0 to {len(names) - 1}, got {labels.min()} to {labels.max()}")
    chosen = _some_of_each_class(labels, count)
    height, width = images.shape[1:3]
    title = f"{_number(len(images), 'image')} of {width}×{height} pixels in {_number(len(names), 'class', 'classes')}"
    kinds = len(np.unique(labels[chosen]))
    columns = _COLUMNS - _COLUMNS % kinds if kinds < _COLUMNS else _COLUMNS  # a class stays in its column
    chosen = chosen[: len(chosen) // columns * columns or None]  # whole rows, if it is more than one
    figure, cells = cell_grid(len(chosen), min(columns, len(chosen)), 0.92, 0.26, title, _balance(labels, names))
    for axes, image, label in zip(cells, displayable(images[chosen]), labels[chosen], strict=True):
        show_image(axes, image)
        axes.annotate(shorten(names[label], 12), (0, 0), (0, -4), **UNDER, color=INK)
    return figure


def _some_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the images to show: the first of each class, then the second of each, and so on."""
    present = np.unique(labels)
    if len(present) > count:
        present = present[np.linspace(0, len(present) - 1, count).round().astype(int)]
    rounds = -(-count // len(present))
    firsts = [np.flatnonzero(labels == label)[:rounds] for label in present]
    places = [first[i] for i in range(rounds) for first in firsts if i < len(first)]
    return np.array(places[:count])


def _balance(labels: np.ndarray, names: list[str]) -> str:
    counts = np.bincount(labels, minlength=len(names))
    least, most = int(counts.argmin()), int(counts.argmax())
    if counts[least] == counts[most]:
        return f"{_number(counts[most], 'image')} of each class."
    few, many = shorten(names[least], 24), shorten(names[most], 24)
    return f"From {_number(counts[least], 'image')} ({few}) to {counts[most]:,} ({many}) of a class."


def _number(count: int, one: str, several: str = "") -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def _found(labels: np.ndarray) -> str:
    return f"{labels.dtype} of shape {labels.shape}" + (f" from {labels.min()} up" if labels.size else "")
