"""Pictures of images: what the net said of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from nnkit.plots.style import (
    BLUE,
    FAINT,
    INK,
    MUTED,
    ORANGE,
    UNDER,
    cell_grid,
    headed_figure,
    in_house_style,
    one_line_names,
    shorten,
    show_image,
    whole_percent,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_RANKS = 3  # of the likeliest classes, in the galleries of mistakes and of hard images


@in_house_style
def predictions(
    images: ArrayLike, labels: ArrayLike, probabilities: ArrayLike, class_names: Sequence[str], *, count: int = 15
) -> "Figure":
    """Show images with what the net took them for and how sure it was; mistakes are framed and crossed.

    The images shown are spread evenly over those given.

    Parameters
    ----------
    images : array_like of shape (N, H, W, C), (N, C, H, W) or (N, H, W), uint8 or float
        Grayscale or RGB. Floats are shown as they are when all lie in 0…1, otherwise stretched to it.
    labels : array_like of int, shape (N,)
    probabilities : array_like of float, shape (N, K)
    class_names : sequence of str, K long
    count : int, default 15
        How many images at most.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When the lengths disagree, there is no image, or a label is not in 0…K-1.

    Examples
    --------
    >>> import numpy as np
    >>> from nnkit import plots
    >>> images = np.zeros((2, 8, 8, 3), np.uint8)
    >>> plots.predictions(images, [0, 1], [[0.9, 0.1], [0.8, 0.2]], ["cat", "dog"]).get_suptitle()
    '1 of these 2 images is recognised'
    """
    images, labels, probabilities, names = check_examples(images, labels, probabilities, class_names, count)
    chosen = np.unique(np.linspace(0, len(labels) - 1, min(count, len(labels))).round().astype(int))
    right = int((probabilities[chosen].argmax(axis=1) == labels[chosen]).sum())
    verb = "is" if right == 1 else "are"
    title = f"{right} of these {len(chosen)} images {verb} recognised"
    if right == len(chosen):
        title = f"All of these {right} images are recognised" if right > 1 else "This image is recognised"
    return _example_grid(images, labels, probabilities, names, chosen, title)


@in_house_style
def misclassified(
    images: ArrayLike, labels: ArrayLike, probabilities: ArrayLike, class_names: Sequence[str], *, count: int = 15
) -> "Figure":
    """Show the images that the net got wrong, those first that it was surest of, each with its three likeliest classes.

    Parameters
    ----------
    images, labels, probabilities, class_names, count
        As for `predictions`: all images, right ones too.

    Returns
    -------
    matplotlib.figure.Figure
        When nothing is wrong it says so.

    Raises
    ------
    ValueError
        As `predictions` does.

    Examples
    --------
    >>> import numpy as np
    >>> from nnkit import plots
    >>> images = np.zeros((2, 8, 8, 3), np.uint8)
    >>> plots.misclassified(images, [0, 1], [[0.9, 0.1], [0.8, 0.2]], ["cat", "dog"]).get_suptitle()
    'The only mistake among 2 images'
    """
    images, labels, probabilities, names = check_examples(images, labels, probabilities, class_names, count)
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    if not wrong.size:
        subject = f"All {len(labels):,} images are" if len(labels) > 1 else "The only image is"
        return headed_figure(7, 0.1, f"{subject} recognised", "There is no mistake to show.")
    chosen = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:count]
    share = f"{wrong.size:,} mistakes among {len(labels):,} images"
    title = f"The {len(chosen)} most confident of {share}" if len(chosen) < wrong.size else f"All {share}"
    if wrong.size == 1:
        title = f"The only mistake among {len(labels):,} images"
    return _ranked_grid(images, labels, probabilities, names, chosen, title)


@in_house_style
def hardest_right(
    images: ArrayLike, labels: ArrayLike, probabilities: ArrayLike, class_names: Sequence[str], *, count: int = 15
) -> "Figure":
    """Show the images that the net got right, those first that it was least sure of, with the three likeliest classes.

    Parameters
    ----------
    images, labels, probabilities, class_names, count
        As for `predictions`: all images, wrong ones too.

    Returns
    -------
    matplotlib.figure.Figure
        When nothing is right it says so.

    Raises
    ------
    ValueError
        As `predictions` does.

    Examples
    --------
    >>> import numpy as np
    >>> from nnkit import plots
    >>> images = np.zeros((2, 8, 8, 3), np.uint8)
    >>> plots.hardest_right(images, [0, 1], [[0.9, 0.1], [0.8, 0.2]], ["cat", "dog"]).get_suptitle()
    'The only one of 2 images that is recognised'
    """
    images, labels, probabilities, names = check_examples(images, labels, probabilities, class_names, count)
    right = np.flatnonzero(probabilities.argmax(axis=1) == labels)
    if not right.size:
        subject = f"None of {len(labels):,} images is" if len(labels) > 1 else "The only image is not"
        return headed_figure(7, 0.1, f"{subject} recognised", "There is nothing to show.")
    chosen = right[np.argsort(probabilities[right].max(axis=1), kind="stable")][:count]
    title = f"The {len(chosen)} least confident of {right.size:,} images that are recognised"
    if len(chosen) == right.size:
        title = f"All {right.size:,} images that are recognised" if right.size > 1 else "The only image"
    if right.size == 1 and len(labels) > 1:
        title = f"The only one of {len(labels):,} images that is recognised"
    return _ranked_grid(images, labels, probabilities, names, chosen, title)


def check_examples(
    images: ArrayLike, labels: ArrayLike, probabilities: ArrayLike, class_names: Sequence[str], count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Return images as (N, H, W, C), labels, probabilities and names, once they fit each other."""
    images, labels, probabilities = np.asarray(images), np.asarray(labels), np.asarray(probabilities)
    names = one_line_names(class_names, len(class_names))
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not images.size or not {images.shape[1], images.shape[3]} & {1, 3}:
        raise ValueError(f"images: expected (N, H, W, C) or (N, C, H, W) with 1 or 3 channels, got {images.shape}")
    if images.shape[3] not in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if labels.shape != (len(images),):
        raise ValueError(f"labels: expected shape ({len(images)},), one for each image, got {labels.shape}")
    if probabilities.shape != (len(images), len(names)):
        raise ValueError(
            f"probabilities: expected shape ({len(images)}, {len(names)}), images by classes, got {probabilities.shape}"
        )
    if labels.min() < 0 or labels.max() >= len(names):
        raise ValueError(f"labels: expected 0 to {len(names) - 1}, got {labels.min()} to {labels.max()}")
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    return images, labels, probabilities, names


def displayable(images: np.ndarray) -> np.ndarray:
    """Return images as float in 0…1."""
    if images.dtype == np.uint8:
        return images / 255
    images = np.nan_to_num(images.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = images.min(), images.max()
    if low >= 0 and high <= 1:
        return images
    return (images - low) / (high - low if high > low else 1)


def _example_grid(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, names: list[str], chosen: np.ndarray, title: str
) -> "Figure":
    """Draw the chosen images, each with what the net said under it and, where that is wrong, what is true."""
    subtitle, caption_height = "The bar is the net's confidence.", 0.4
    if (probabilities[chosen].argmax(axis=1) != labels[chosen]).any():
        subtitle += " Mistakes (✗) are framed; under them the true class and its share."
        caption_height = 0.56
    figure, cells = cell_grid(len(chosen), min(5, len(chosen)), 1.5, caption_height, title, subtitle)
    shown = displayable(images[chosen])
    for axes, image, true, shares in zip(cells, shown, labels[chosen], probabilities[chosen], strict=True):
        show_image(axes, image)
        caption(axes, image.shape[:2], int(true), np.nan_to_num(shares), names)
    return figure


def _ranked_grid(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, names: list[str], chosen: np.ndarray, title: str
) -> "Figure":
    """Draw the chosen images, each with its true class and the likeliest ones under it."""
    ranks = min(_RANKS, len(names))
    subtitle = f"Under each its true class and the {['', 'only', 'two', 'three'][ranks]} likeliest, ✓ the right one."
    figure, cells = cell_grid(len(chosen), min(5, len(chosen)), 1.5, 0.33 + 0.175 * ranks, title, subtitle)
    shown = displayable(images[chosen])
    for axes, image, true, shares in zip(cells, shown, labels[chosen], probabilities[chosen], strict=True):
        show_image(axes, image)
        _ranking(axes, image.shape[:2], int(true), np.nan_to_num(shares), names, ranks)
    return figure


def _ranking(axes: "Axes", size: tuple[int, int], true: int, shares: np.ndarray, names: list[str], ranks: int) -> None:
    """Write the true class under an image, and below it the likeliest ones with bars."""
    from matplotlib.patches import Rectangle

    likeliest = np.argsort(-shares, kind="stable")[:ranks]
    if likeliest[0] != true:
        _frame(axes, size)
    axes.annotate(f"is {shorten(names[true], 18)}", (0, 0), (0, -5), **UNDER, color=INK, weight="bold")
    if true not in likeliest:
        axes.annotate(whole_percent(float(shares[true])), (1, 0), (0, -5), **UNDER, color=MUTED, ha="right")
    step = 12.5 / (72 * 1.5)  # from one line to the next, as a share of the cell's side
    for rank, index in enumerate(likeliest):
        color, sign = (BLUE, "✓ ") if index == true else (ORANGE, "")
        top, width = -(0.155 + step * rank), float(np.clip(shares[index], 0, 1))
        bar: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False, "alpha": 0.3, "linewidth": 0}
        axes.add_patch(Rectangle((0, top - 0.1), width, 0.1, facecolor=color, **bar))
        line = {**UNDER, "va": "baseline", "fontsize": 8, "color": INK}
        axes.annotate(f"{sign}{shorten(names[index], 14)}", (0, top), (2, -8.2), **line)
        axes.annotate(whole_percent(float(shares[index])), (1, top), (-1, -8.2), **line, ha="right")


def _frame(axes: "Axes", size: tuple[int, int]) -> None:
    """Draw the frame of a mistake."""
    from matplotlib.patches import Rectangle

    place = (-0.5, -0.5), size[1], size[0]
    axes.add_patch(Rectangle(*place, fill=False, edgecolor=ORANGE, linewidth=2.5, clip_on=False))


def caption(axes: "Axes", size: tuple[int, int], true: int, shares: np.ndarray, names: list[str]) -> None:
    """Write under a cell what the net said of its image, and frame it where that is wrong."""
    from matplotlib.patches import Rectangle

    said = int(shares.argmax())
    color, sign = (BLUE, "✓") if said == true else (ORANGE, "✗")
    bar: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
    axes.add_patch(Rectangle((0, -0.065), 1, 0.035, facecolor=FAINT, **bar))
    axes.add_patch(Rectangle((0, -0.065), float(np.clip(shares[said], 0, 1)), 0.035, facecolor=color, **bar))
    axes.annotate(f"{sign} {shorten(names[said], 13)}", (0, 0), (0, -9), **UNDER, color=color, weight="bold")
    axes.annotate(whole_percent(float(shares[said])), (1, 0), (0, -9), **UNDER, color=INK, ha="right")
    if said != true:
        _frame(axes, size)
        axes.annotate(f"is {shorten(names[true], 13)}", (0, 0), (0, -21), **UNDER, color=MUTED)
        axes.annotate(whole_percent(float(shares[true])), (1, 0), (0, -21), **UNDER, color=MUTED, ha="right")
