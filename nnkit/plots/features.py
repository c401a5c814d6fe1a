"""The plane of features: which images a net takes for similar."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from nnkit.plots.style import BLUE, INK, ORANGE, headed_figure, in_house_style, one_line_names, shorten, whole_percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours (their yellow darker, for a white ground) and two more, for ten classes; and thirteen shapes,
# so that 130 classes have pairs of their own.
_COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", INK, "#9A8700", "#882255", "#8A9099")
_MARKERS = "os^DvPX<*>phd"
_ROWS = 25  # of names beside the picture
_LONGEST_NAME = 18
_AXES = {
    "pca": ("first principal component", "second principal component"),
    "tsne": ("t-SNE, first axis (no unit)", "t-SNE, second axis (no unit)"),
}
_ABOUT = {
    "pca": "One point an image, placed by what the net's last layer sees of it.",
    "tsne": "One point an image; those that look alike to the net's last layer lie together.",
}


@in_house_style
def feature_plane(
    points: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str] | None = None,
    *,
    method: str = "pca",
    ax: "Axes | None" = None,
) -> "Figure":
    """Draw one point an image where its features lie in the plane, with a colour and a shape for each class.

    Parameters
    ----------
    points : array_like of shape (N, 2)
        From `nnkit.explain.embed`.
    labels : array_like of int, shape (N,)
        The true classes.
    class_names : sequence of str, optional
        By default the classes' numbers.
    method : {"pca", "tsne"}, default "pca"
        What the axes are.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default in a figure of its own.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When there are no two points, lengths disagree, a point is not finite, or the method is unknown.

    Examples
    --------
    >>> from nnkit import plots
    >>> plots.feature_plane([[0, 0], [0, 1], [5, 0], [5, 1]], [0, 0, 1, 1], ["cat", "dog"]).get_suptitle()
    'The nearest neighbour of 100% of 4 images is of the same class'
    """
    places, classes = np.asarray(points, np.float64), np.asarray(labels)
    if places.ndim != 2 or places.shape[1] != 2 or len(places) < 2 or not np.isfinite(places).all():
        raise ValueError(f"points: expected finite numbers of shape (N, 2) with N >= 2, got {places.shape}")
    if classes.shape != (len(places),) or classes.dtype.kind not in "iu":
        raise ValueError(f"labels: expected {len(places)} classes, one for each point, got {classes.shape}")
    if method not in _AXES:
        raise ValueError(f"method: expected one of {', '.join(_AXES)}, got {method!r}")
    names = one_line_names(class_names, int(classes.max()) + 1 if class_names is None else len(class_names))
    if classes.min() < 0 or classes.max() >= len(names):
        raise ValueError(f"labels: expected 0 to {len(names) - 1}, got {classes.min()} to {classes.max()}")
    present = np.unique(classes)
    columns, small = -(-len(present) // _ROWS), len(present) > 18
    finding = _finding(places, classes)
    if ax is None:
        longest = max(len(shorten(names[each], _LONGEST_NAME)) for each in present)
        beside = columns * (0.4 + (0.07 if small else 0.085) * longest)
        figure = headed_figure(5.6 + beside, 5.2, finding, _ABOUT[method])
        ax = figure.subplots()
    else:
        ax.set_title(finding)
    size = float(np.interp(len(places), [100, 1000, 5000], [30, 14, 5]))
    dots = []
    for each in present:
        mine, colour, marker = places[classes == each], _COLOURS[each % len(_COLOURS)], _MARKERS[each % len(_MARKERS)]
        dots.append(ax.scatter(mine[:, 0], mine[:, 1], size, colour, marker=marker, linewidths=0, alpha=0.8))
    ax.set(xlabel=_AXES[method][0], ylabel=_AXES[method][1])
    ax.set_aspect("equal", adjustable="datalim")
    if method == "tsne":
        ax.set(xticks=[], yticks=[])
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0}
    spacing: dict[str, Any] = {"fontsize": 8, "labelspacing": 0.3, "columnspacing": 1} if small else {}
    legend = ax.legend(dots, [""] * len(dots), ncols=columns, frameon=False, handletextpad=0.3, **place, **spacing)
    handles: list[Any] = legend.legend_handles
    for each, text, handle in zip(present, legend.get_texts(), handles, strict=True):
        text.set_text(shorten(names[each], _LONGEST_NAME))  # here, for labels that begin with "_" are left out
        handle.set(sizes=[24 if small else 36], alpha=1)
    whole = ax.get_figure(root=True)
    assert whole is not None
    return whole


def _finding(places: np.ndarray, classes: np.ndarray) -> str:
    """Say of how many images the nearest other one is of the same class."""
    same = 0
    for i, place in enumerate(places):
        distance = np.square(places - place).sum(axis=1)
        distance[i] = np.inf
        same += bool(classes[distance.argmin()] == classes[i])
    return (
        f"The nearest neighbour of {whole_percent(same / len(places))} of {len(places):,} images is of the same class"
    )
