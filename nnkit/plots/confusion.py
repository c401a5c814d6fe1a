"""The confusion matrix as a picture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from nnkit.plots.style import (
    FAINT,
    INK,
    ORANGE,
    headed_axes,
    headed_figure,
    in_house_style,
    one_line_names,
    shorten,
    whole_percent,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MANY_CLASSES = 25  # above it, cells are too small for text
_BLUES = ("#FFFFFF", "#9CCBE8", "#0072B2", "#005383")  # right
_ORANGES = ("#FFFFFF", "#F6C39E", "#C45500")  # wrong
_LONGEST_NAME = 18
_MOST_NAMES = 100  # along an axis; of more classes, every second, third ... is named
_WIDEST = 11.5  # inches
_LEAST_SCALE = 0.1  # the darkest orange is never less than this rate, lest a good net look bad


@in_house_style
def confusion_matrix(
    matrix: ArrayLike, class_names: Sequence[str] | None = None, *, ax: "Axes | None" = None
) -> "Figure":
    """Draw a confusion matrix: each row's rates as colour, and as text where there is room for it.

    The diagonal (right) is blue, from 0% to 100%; the rest (mistakes) is orange, up to the most frequent one, so that
    rare confusions show too. Beyond 25 classes there is no text in the cells, but a list of the most frequent mistakes.

    Parameters
    ----------
    matrix : array_like of int, shape (K, K)
        True classes in rows, predicted ones in columns, as `nnkit.metrics.confusion_matrix` gives it.
    class_names : sequence of str, optional
        By default the classes' numbers.
    ax : matplotlib.axes.Axes, optional
        Where to draw the matrix, without the list of mistakes; by default in a figure of its own.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When the matrix is not square, holds what is no count, or the number of names is not K.

    Examples
    --------
    >>> from nnkit import plots
    >>> plots.confusion_matrix([[9, 1], [2, 8]], ["cat", "dog"]).get_suptitle()
    '85.0% of 20 images are recognised'
    """
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.size:
        raise ValueError(f"matrix: expected shape (K, K), got {counts.shape}")
    if not np.issubdtype(counts.dtype, np.integer) or counts.min() < 0:
        raise ValueError(f"matrix: expected counts, integers from 0 up, got {counts.dtype} from {counts.min()} up")
    names = one_line_names(class_names, len(counts))
    mistakes = _most_frequent_mistakes(counts)
    many, longest = len(names) > _MANY_CLASSES, max(len(shorten(name, _LONGEST_NAME)) for name in names)
    cell = float(np.interp(len(names), [2, 3, 10, 25, 100], [1.5, 1.25, 0.62, 0.36, 0.115]))
    cell = min(cell, _WIDEST / len(names))
    size = float(np.interp(len(names), [10, 25, 100], [9, 8, 5.5]))
    length = longest * size * 0.6 / 72  # of the longest name in inches
    turn = 90 if many else 45 if length > 0.9 * cell else 0
    if ax is not None:
        figure, axes = headed_axes(ax, 0, 0, *_matrix_finding(counts, names, mistakes))
        box = axes.get_window_extent()
        _draw_matrix(axes, counts, names, min(box.width, box.height) / figure.dpi, turn, size)
        return figure
    left, bottom = 0.4 + length, 0.45 + {0: size / 72, 45: 0.71 * length + 0.1, 90: length}[turn]
    side = cell * len(names)
    panel_widths = [left + side + 0.9, 4.5] if many else [left + side + 0.9]
    figure = headed_figure(sum(panel_widths), side + bottom, *_matrix_finding(counts, names, mistakes))
    axes, *panels = figure.subplots(1, len(panel_widths), squeeze=False, width_ratios=panel_widths)[0]
    axes.set_anchor("N")
    _draw_matrix(axes, counts, names, side, turn, size)
    for panel in panels:
        _draw_mistakes(panel, counts, mistakes, names)
    return figure


def _draw_matrix(axes: "Axes", counts: np.ndarray, names: list[str], side: float, turn: int, size: float) -> None:
    """Draw the matrix, `side` inches wide, with its classes' names in type of that size, turned by so many degrees."""
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    scale = max(float((rates * ~np.eye(len(names), dtype=bool)).max()), _LEAST_SCALE)
    _draw_rates(axes, rates, scale, side)
    _label_classes(axes, names, turn, size)
    if len(names) <= _MANY_CLASSES:
        _write_cells(axes, counts, rates, scale, side / len(names))


def _most_frequent_mistakes(counts: np.ndarray) -> list[tuple[int, int]]:
    """Return the (true, predicted) pairs of the most frequent mistakes, at most twenty."""
    wrong = counts * ~np.eye(len(counts), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:20]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(int(i), int(j)) for i, j in pairs if wrong[i, j]]


def _matrix_finding(counts: np.ndarray, names: list[str], mistakes: list[tuple[int, int]]) -> tuple[str, str]:
    total = int(counts.sum())
    if not total:
        return "No image was classified", ""
    title = f"{counts.trace() / total:.1%} of {total:,} images are recognised"
    if not mistakes:
        return (f"All {total:,} images are recognised" if total > 1 else "The only image is recognised"), ""
    i, j = mistakes[0]
    said, true = shorten(names[j], 24), shorten(names[i], 24)
    return title, f"Most frequent mistake: {true} taken for {said} ({counts[i, j]:,} of {counts[i].sum():,})."


def _draw_rates(axes: "Axes", rates: np.ndarray, scale: float, side: float) -> None:
    """Draw the matrix, `side` inches wide, and its two scales."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.ticker import MaxNLocator

    diagonal = np.eye(len(rates), dtype=bool)
    blue = ScalarMappable(Normalize(0, 1), LinearSegmentedColormap.from_list("right", _BLUES))
    orange = ScalarMappable(Normalize(0, scale), LinearSegmentedColormap.from_list("wrong", _ORANGES))
    axes.imshow(np.where(diagonal[:, :, None], blue.to_rgba(rates), orange.to_rgba(rates)), interpolation="nearest")
    thickness = 0.14 / side
    for bottom, mappable, label in ((0.54, blue, "recognised"), (0.0, orange, "taken for another")):
        place = axes.inset_axes((1 + 1.2 * thickness, bottom, thickness, 0.46))
        bar = axes.figure.colorbar(
            mappable, cax=place, ticks=MaxNLocator(4), format=lambda value, _: f"{100 * value:.3g}%"
        )
        bar.set_label(label, size=9)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=8)


def _label_classes(axes: "Axes", names: list[str], turn: int, size: float) -> None:
    count, labels = len(names), [shorten(name, _LONGEST_NAME) for name in names]
    style: dict[str, Any] = {"ha": "right", "rotation_mode": "anchor"} if turn == 45 else {"ha": "center"}
    style |= {"fontsize": size, "parse_math": False}
    every = -(-count // _MOST_NAMES)
    axes.set_xticks(range(0, count, every), labels[::every], rotation=turn, **style)
    axes.set_yticks(range(0, count, every), labels[::every], fontsize=size, parse_math=False)
    axes.set(xlabel="Predicted class", ylabel="True class")
    axes.tick_params(length=0)
    axes.tick_params(axis="x", pad=6 if turn == 45 else 4)
    axes.spines[:].set(visible=True, color=FAINT)
    if count <= _MANY_CLASSES:
        axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
        axes.grid(visible=True, which="minor")
        axes.tick_params(which="minor", length=0)


def _write_cells(axes: "Axes", counts: np.ndarray, rates: np.ndarray, scale: float, cell: float) -> None:
    """Write each cell's share of its row and, where it fits, the count under it."""
    size = min(13.0, 72 * cell / 4.4)
    for (i, j), rate in np.ndenumerate(rates):
        if not counts[i, j]:
            continue
        dark = rate > 0.6 if i == j else rate > 0.92 * scale
        color = "white" if dark else INK
        with_count = cell > 0.5
        axes.text(
            j, i - (0.12 if with_count else 0), whole_percent(rate), ha="center", va="center", size=size, color=color
        )
        if with_count:
            text = f"{counts[i, j]:,}"
            axes.text(j, i + 0.23, text, ha="center", va="center", size=0.72 * size, color=color, alpha=0.85)


def _draw_mistakes(axes: "Axes", counts: np.ndarray, mistakes: list[tuple[int, int]], names: list[str]) -> None:
    """Draw the most frequent mistakes as bars."""
    values = [int(counts[i, j]) for i, j in mistakes]
    places = np.arange(len(values))
    bars = axes.barh(places, values, height=0.55, color=ORANGE)
    axes.bar_label(bars, padding=4, fontsize=9, color=INK)
    axes.set_yticks(places, [f"{shorten(names[i], 16)} → {shorten(names[j], 16)}" for i, j in mistakes], fontsize=9)
    axes.set_ylim(min(max(len(counts) / 3, 20), 33) - 0.4, -0.6)  # bars stay slim beside a tall matrix
    axes.set(title="Most frequent mistakes (true → predicted)", xticks=[])
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)
