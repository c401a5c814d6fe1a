"""Each class's scores as a picture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from nnkit import metrics
from nnkit.plots.style import FAINT, GREEN, INK, PINK, headed_axes, in_house_style, one_line_names, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_CLASSES = 30
_LOWEST, _HIGHEST = 20, 6  # shown of more classes


@in_house_style
def class_scores(matrix: ArrayLike, class_names: Sequence[str] | None = None, *, ax: "Axes | None" = None) -> "Figure":
    """Draw precision, recall and F1 of each class, the class of the lowest F1 at the bottom.

    Classes that the data hold no image of are left out. Of more than 30, the 20 lowest and the 6 highest are shown.

    Parameters
    ----------
    matrix : array_like of int, shape (K, K)
        True classes in rows, predicted ones in columns, as `nnkit.metrics.confusion_matrix` gives it.
    class_names : sequence of str, optional
        By default the classes' numbers.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default in a figure of its own.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When the matrix is not square or holds a negative number, or the number of names is not K.
    TypeError
        When the matrix holds what is no count.

    Examples
    --------
    >>> from nnkit import plots
    >>> plots.class_scores([[9, 1], [2, 8]], ["cat", "dog"]).get_suptitle()
    'F1 is 85.0% on average, from 84.2% (dog) to 85.7% (cat)'
    """
    scores = metrics.precision_recall_f1(matrix)
    names = one_line_names(class_names, len(scores.f1))
    there = np.flatnonzero(scores.support)
    order = there[np.argsort(-scores.f1[there], kind="stable")]
    left_out = 0
    if len(order) > _MOST_CLASSES:
        left_out = len(order) - _HIGHEST - _LOWEST
        order = np.concatenate([order[:_HIGHEST], order[-_LOWEST:]])
    size = 0.27 * max(len(order) + bool(left_out), 3) + 0.9
    figure, axes = headed_axes(ax, 5.8, size, *_finding(scores, names, there, left_out), legend=True)
    places = np.arange(len(order)) + (np.arange(len(order)) >= _HIGHEST) * bool(left_out)  # a gap for those left out
    shown = [getattr(scores, name)[order] for name in ("precision", "recall", "f1")]
    axes.hlines(places, np.minimum(*shown[:2]), np.maximum(*shown[:2]), color=FAINT, linewidth=3, zorder=1)
    looks: list[dict[str, Any]] = [
        {"marker": "^", "color": GREEN, "label": "precision"},
        {"marker": "s", "color": PINK, "label": "recall"},
        {"marker": "|", "color": INK, "label": "F1", "markersize": 10, "markeredgewidth": 2},
    ]
    for values, look in zip(shown, looks, strict=True):
        style: dict[str, Any] = {"linestyle": "", "markersize": 6, "clip_on": False} | look
        axes.plot(values, places, **style)
    axes.set_yticks(places, [shorten(names[i], 20) for i in order], parse_math=False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    low = np.floor(10 * min((values.min() for values in shown if values.size), default=0.0)) / 10
    low = min(low, 0.9)  # perfect scores need an axis, too
    axes.set_xlim(low - 0.02 * (1 - low), 1)
    axes.set_ylim((places[-1] if len(places) else 0) + 0.6, -0.6)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
    axes.set_xlabel("Score on the class's images")
    axes.spines["left"].set_visible(False)
    axes.grid(visible=True, axis="x")
    legend: dict[str, Any] = {"frameon": False, "labelcolor": INK, "fontsize": 9, "handletextpad": 0.2}
    axes.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1, columnspacing=1.2, **legend)
    return figure


def _finding(scores: metrics.ClassScores, names: list[str], there: np.ndarray, left_out: int) -> tuple[str, str]:
    if not there.size:
        return "No image was classified", ""
    f1 = scores.f1[there]
    low, high = there[f1.argmin()], there[f1.argmax()]
    title = f"F1 is {f1.mean():.1%} on average"
    if f1.max() == f1.min():
        title = f"F1 is {f1.max():.1%}" + " in every class" * (len(there) > 1)
    else:
        ends = (f"{scores.f1[i]:.1%} ({shorten(names[i], 20)})" for i in (low, high))
        title += ", from " + " to ".join(ends)
    notes = []
    if left_out:
        notes.append(f"The {_HIGHEST} highest and the {_LOWEST} lowest of {len(there)} classes.")
    if len(there) < len(names):
        absent = len(names) - len(there)
        notes.append(f"{absent} class{'es' * (absent > 1)} without an image {'are' if absent > 1 else 'is'} left out.")
    return title, " ".join(notes)
