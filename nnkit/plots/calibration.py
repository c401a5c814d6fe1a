"""Confidence against accuracy, as a picture."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from nnkit import metrics
from nnkit.plots.style import BLUE, FAINT, INK, MUTED, ORANGE, headed_axes, in_house_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@in_house_style
def reliability(labels: ArrayLike, probabilities: ArrayLike, *, bins: int = 15, ax: "Axes | None" = None) -> "Figure":
    """Draw how often answers of each confidence are right, and under it how many there are of each.

    Where a net is as sure as it is right, the points lie on the diagonal; those below it are of answers that it was too
    sure of. The bars are 95% intervals, as `nnkit.metrics.accuracy_interval` gives them.

    Parameters
    ----------
    labels : array_like of int, shape (N,)
    probabilities : array_like of float, shape (N, K)
    bins : int, default 15
        Of confidence, equally wide.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default in a figure of its own. The histogram is an inset under it.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError, TypeError
        As `nnkit.metrics.reliability` does.

    Examples
    --------
    >>> from nnkit import plots
    >>> plots.reliability([0, 0, 1, 1], [[0.9, 0.1]] * 4).get_suptitle()
    'On average 90.0% sure, and right in 50.0%'
    """
    found = metrics.reliability(labels, probabilities, bins=bins)
    share = found.count / found.count.sum()
    sure, right = (float(np.nansum(share * values)) for values in (found.confidence, found.accuracy))
    title = f"On average {sure:.1%} sure, and right in {right:.1%}"
    subtitle = f"Expected calibration error {found.error:.1%}, over {bins} bins of {found.count.sum():,} answers."
    figure, axes = headed_axes(ax, 5.2, 5.1, title, subtitle, legend=True)
    low = found.edges[np.flatnonzero(found.count)[0]]  # of K classes, no answer is less than 1/K sure
    low = float(np.floor(5 * low) / 5)
    filled = found.count > 0
    x, y = found.confidence[filled], found.accuracy[filled]
    axes.plot([low, 1], [low, 1], "--", color=MUTED, linewidth=1.2, zorder=1, label="as sure as right")
    axes.vlines(x, np.minimum(x, y), np.maximum(x, y), color=ORANGE, alpha=0.35, linewidth=5, zorder=2, label="gap")
    ends = metrics.accuracy_interval(np.round(y * found.count[filled]), found.count[filled])
    axes.vlines(x, *ends, color=BLUE, linewidth=1.2, zorder=3)
    axes.plot(x, y, "o", color=BLUE, markersize=6, zorder=4, clip_on=False, label="answers, 95% interval")
    axes.set(
        xlim=(low, 1), ylim=(min(low, float(np.floor(5 * y.min()) / 5)) - 0.03, 1.03), ylabel="Share that is right"
    )
    axes.grid(visible=True)
    style: dict[str, Any] = {"frameon": False, "labelcolor": INK, "fontsize": 9, "handlelength": 1.6}
    axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1, columnspacing=1.2, **style)
    axes.yaxis.set_major_formatter(_percent)
    axes.tick_params(axis="x", labelbottom=False)
    below = axes.inset_axes((0, -0.24, 1, 0.18), sharex=axes)
    below.bar(found.edges[:-1], share, np.diff(found.edges), align="edge", color=BLUE, edgecolor="white", linewidth=0.8)
    below.set(xlabel="Confidence: probability of the likeliest class", ylabel="Answers")
    below.xaxis.set_major_formatter(_percent)
    below.yaxis.set_major_formatter(_percent)
    below.set_yticks([0, _round_up(share.max())])
    below.grid(visible=True, color=FAINT)
    return figure


def _percent(value: float, _: float) -> str:
    return f"{100 * value:.4g}%"


def _round_up(share: float) -> float:
    """Return the next of 10%, 20%, ... 100%."""
    return min(float(np.ceil(10 * share) / 10), 1.0)
