"""Pictures of a hyperparameter search: how it went, what mattered, and where the good settings lie."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from nnkit.plots.style import BLUE, FAINT, INK, MUTED, ORANGE, headed_figure, in_house_style, shorten, whole_percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

_MOST_LEVELS = 12  # of a setting whose values are drawn as cells or named one by one
_SCALE = ("#F1C9A8", "#E9E9E4", "#7FB6D9", "#0072B2", "#003A5D")  # from the worst score to the best


@in_house_style
def search_history(numbers: ArrayLike, scores: ArrayLike, pruned: ArrayLike | None = None) -> "Figure":
    """Draw the trials' scores in the order in which they began, and the best so far.

    Parameters
    ----------
    numbers : array_like of int, shape (n,)
    scores : array_like of shape (n,)
        Validation accuracies from 0 to 1; of a trial that was stopped early, the last one known.
    pruned : array_like of bool, shape (n,), optional
        Which trials were stopped early.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When no trial came to its end.

    Examples
    --------
    >>> from nnkit import plots
    >>> plots.search_history([0, 1, 2, 3], [0.4, 0.5, 0.2, 0.45], [False, False, True, False]).get_suptitle()
    'Best validation accuracy 50.0%, by trial 1'
    """
    x, y = np.asarray(numbers), np.asarray(scores, np.float64)
    stopped = np.zeros(len(x), bool) if pruned is None else np.asarray(pruned, bool)
    if not (~stopped).any():
        raise ValueError("scores: expected at least one trial that came to its end, got none")
    x, y, stopped = x[order := np.argsort(x)], y[order], stopped[order]
    whole_x, whole_y = x[~stopped], y[~stopped]
    best = int(whole_y.argmax())
    count = f"{len(whole_x)} trial{'s' * (len(whole_x) > 1)} to the end"
    subtitle = f"{count}, {stopped.sum()} stopped early." if stopped.any() else f"{count}."
    figure = headed_figure(
        7.2, 3.6, f"Best validation accuracy {whole_y[best]:.1%}, by trial {whole_x[best]}", subtitle
    )
    axes = figure.subplots()
    axes.step(whole_x, np.maximum.accumulate(whole_y), where="post", color=ORANGE, label="best so far")
    axes.plot(whole_x, whole_y, "o", color=BLUE, markersize=5, label="to the end")
    if stopped.any():
        axes.plot(
            x[stopped],
            y[stopped],
            "x",
            color=MUTED,
            markersize=5,
            markeredgewidth=1.1,
            label="stopped early (last figure)",
        )
    axes.plot(whole_x[best], whole_y[best], "o", markersize=10, markerfacecolor="none", markeredgecolor=INK)
    _percent(axes)
    _whole_ticks(axes)
    axes.set(xlabel="Trial", title="Validation accuracy")
    axes.grid(visible=True)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3)
    return figure


@in_house_style
def parallel_coordinates(columns: Mapping[str, Sequence[Any]], scores: ArrayLike, log: Iterable[str] = ()) -> "Figure":
    """Draw each trial as a line through its settings to its score; the better, the darker.

    Parameters
    ----------
    columns : mapping of str to sequence
        For each setting the trials' values: numbers, or anything else, which is named level by level.
    scores : array_like of shape (n,)
        From 0 to 1.
    log : iterable of str
        The settings to draw on a logarithmic scale.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When there are no trials, or the columns are of different lengths.

    Examples
    --------
    >>> from nnkit import plots
    >>> columns = {"optimizer.lr": [0.01, 0.001], "model.hidden": [[64], [64, 64]]}
    >>> plots.parallel_coordinates(columns, [0.4, 0.5], log=["optimizer.lr"]).get_suptitle()
    'The best of 2 trials reaches 50.0%'
    """
    y = np.asarray(scores, np.float64)
    if not y.size or any(len(values) != len(y) for values in columns.values()):
        raise ValueError(f"columns: expected {len(y)} values each, at least one, one a score")
    logs, best = set(log), int(y.argmax())
    count = f"{len(y)} trial{'s' * (len(y) > 1)}"
    figure = headed_figure(
        max(2.1 * (len(columns) + 1), 6), 3.9, f"The best of {count} reaches {y.max():.1%}",
        "Each line is a trial: its settings, and at the right its score; the best one is orange.",
    )  # fmt: skip
    axes = figure.subplots()
    scales = [_Scale(values, name in logs) for name, values in columns.items()]
    accuracy = _Scale(y, False, percent=True)
    heights = np.array([scale.heights for scale in [*scales, accuracy]])
    colors, places = score_colors(), range(len(heights))
    shade = (y - y.min()) / (np.ptp(y) or 1.0)
    for index in np.argsort(y, kind="stable"):
        axes.plot(places, heights[:, index], color=colors(shade[index]), linewidth=1.1, alpha=0.9)
    axes.plot(places, heights[:, best], color=ORANGE, linewidth=2.4, zorder=2.5)  # above its equals
    for place, scale in zip(places, [*scales, accuracy], strict=True):
        axes.axvline(place, color=MUTED, linewidth=1)
        for height, text in scale.ticks:
            label = axes.annotate(
                text,
                (place, height),
                (-5, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize=8,
                color=INK,
            )
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8})
    names = [*map(_short_name, columns), "accuracy"]
    axes.set_xticks(places, names, fontsize=9, color=INK)
    axes.set(yticks=[], ylim=(-0.05, 1.05), xlim=(-0.55, len(places) - 0.9))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


@in_house_style
def importances(names: Sequence[str], values: ArrayLike) -> "Figure":
    """Draw how strongly each setting tells the best trials from the rest.

    Parameters
    ----------
    names : sequence of str
    values : array_like of shape (n,)
        Shares that add up to 1.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When there are no names, or not as many as values.

    Examples
    --------
    >>> from nnkit import plots
    >>> plots.importances(["optimizer.lr", "model.dropout"], [0.8, 0.2]).get_suptitle()
    'optimizer.lr matters most: 80% of the importance'
    """
    weights = np.asarray(values, np.float64)
    if not len(names) or weights.shape != (len(names),):
        raise ValueError(f"values: expected one for each of at least one name, got {weights.shape} for {len(names)}")
    order = np.argsort(-weights, kind="stable")
    first = names[order[0]]
    figure = headed_figure(
        6.6, 0.42 * len(names) + 0.4, f"{shorten(first, 40)} matters most: {weights[order[0]]:.0%} of the importance",
        "How strongly each setting tells the best trials from the rest.",
    )  # fmt: skip
    axes = figure.subplots()
    bars = axes.barh(np.arange(len(order)), weights[order], height=0.55, color=BLUE)
    axes.bar_label(bars, [whole_percent(weight) for weight in weights[order]], padding=4, fontsize=9, color=INK)
    axes.set_yticks(np.arange(len(order)), [shorten(names[i], 40) for i in order], fontsize=9)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xticks([])
    axes.set_xlim(0, weights.max() * 1.12 or 1)
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)
    return figure


@in_house_style
def score_map(
    x: ArrayLike, y: ArrayLike, scores: ArrayLike, *, names: tuple[str, str], log: Iterable[str] = ()
) -> "Figure":
    """Draw the scores over two settings, such as learning rate and regularisation: each cell's best as its colour.

    Where both settings take few values, as in a grid, each pair is a cell with its figure; otherwise each trial is a
    dot, and the plane is cut into cells of equal size.

    Parameters
    ----------
    x, y : array_like of shape (n,)
        The two settings.
    scores : array_like of shape (n,)
        From 0 to 1.
    names : pair of str
        What the settings are called.
    log : iterable of str
        Which of them to draw on a logarithmic scale.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When there are no trials, or not as many values as scores.

    Examples
    --------
    >>> from nnkit import plots
    >>> pair = ("optimizer.lr", "optimizer.weight_decay")
    >>> plots.score_map([1e-3, 1e-2], [1e-5, 1e-4], [0.4, 0.5], names=pair, log=pair).get_suptitle()
    'Best at optimizer.lr = 0.01, optimizer.weight_decay = 0.0001'
    """
    xs, ys, values = (np.asarray(array, np.float64) for array in (x, y, scores))
    if not values.size or not xs.shape == ys.shape == values.shape or xs.ndim != 1:
        raise ValueError(f"scores: expected one a trial, got x {xs.shape}, y {ys.shape} and scores {values.shape}")
    best, logs = int(values.argmax()), set(log)
    title = f"Best at {names[0]} = {xs[best]:.3g}, {names[1]} = {ys[best]:.3g}"
    few = all(len(np.unique(v)) <= _MOST_LEVELS for v in (xs, ys)) and len(values) >= 2 * max(
        len(np.unique(xs)), len(np.unique(ys))
    )
    subtitle = f"{len(values)} trial{'s' * (len(values) > 1)}; each cell has the colour of its best one."
    figure = headed_figure(6.4, 4.6, title, subtitle)
    axes = figure.subplots()
    mesh = _levels(axes, xs, ys, values) if few else _cells(axes, xs, ys, values, *(name in logs for name in names))
    bar = figure.colorbar(mesh, ax=axes, format=lambda value, _: f"{100 * value:.3g}%", shrink=0.9)
    bar.outline.set_visible(False)
    bar.set_label("validation accuracy", size=9)
    bar.ax.tick_params(length=0, labelsize=8)
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.spines[:].set(visible=True, color=FAINT)
    return figure


def _levels(axes: "Axes", xs: np.ndarray, ys: np.ndarray, values: np.ndarray) -> Any:
    """Draw a cell for each pair of values, with its figure."""
    x_levels, column = np.unique(xs, return_inverse=True)
    y_levels, row = np.unique(ys, return_inverse=True)
    cells = _best_of_each(row, column, values, (len(y_levels), len(x_levels)))
    mesh = axes.imshow(cells, cmap=score_colors(), origin="lower", aspect="auto", interpolation="nearest")
    middle = (np.nanmin(cells) + np.nanmax(cells)) / 2
    for (i, j), cell in np.ndenumerate(cells):
        if np.isnan(cell):
            continue
        color = "white" if cell > middle else INK
        axes.text(j, i, f"{cell:.1%}", ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(len(x_levels)), [_number(level) for level in x_levels])
    axes.set_yticks(range(len(y_levels)), [_number(level) for level in y_levels])
    axes.tick_params(length=0)
    return mesh


def _cells(axes: "Axes", xs: np.ndarray, ys: np.ndarray, values: np.ndarray, x_log: bool, y_log: bool) -> Any:
    """Draw the plane in cells of equal size, and each trial as a dot."""
    from matplotlib.colors import Normalize

    count = int(np.clip(np.sqrt(len(values)), 3, 10))
    x_edges, y_edges = _edges(xs, count, x_log), _edges(ys, count, y_log)
    column = np.clip(np.searchsorted(x_edges, xs, "right") - 1, 0, count - 1)
    row = np.clip(np.searchsorted(y_edges, ys, "right") - 1, 0, count - 1)
    cells = _best_of_each(row, column, values, (count, count))
    norm = Normalize(values.min(), values.max())
    mesh = axes.pcolormesh(x_edges, y_edges, cells, cmap=score_colors(), norm=norm, alpha=0.75, linewidth=0)
    axes.scatter(xs, ys, c=values, cmap=score_colors(), norm=norm, s=26, edgecolors="white", linewidths=0.8, zorder=3)
    best = int(values.argmax())
    axes.plot(xs[best], ys[best], "o", markersize=11, markerfacecolor="none", markeredgecolor=INK, zorder=4)
    axes.set_xscale("log" if x_log else "linear")
    axes.set_yscale("log" if y_log else "linear")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlim=x_edges[[0, -1]], ylim=y_edges[[0, -1]])
    axes.minorticks_off()
    return mesh


def _best_of_each(row: np.ndarray, column: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    cells = np.full(shape, -np.inf)
    np.maximum.at(cells, (row, column), values)
    return np.where(np.isinf(cells), np.nan, cells)


def _edges(values: np.ndarray, count: int, log: bool) -> np.ndarray:
    """Return the borders of `count` equal parts of the values' range, with a little room around."""
    v = np.log10(values) if log else values
    room = 0.04 * np.ptp(v) or 0.5 * (1.0 if log else max(abs(v[0]), 1.0))
    edges = np.linspace(v.min() - room, v.max() + room, count + 1)
    return 10**edges if log else edges


class _Scale:
    """An axis of parallel coordinates: heights from 0 to 1, and what to write beside it."""

    def __init__(self, values: Any, log: bool, percent: bool = False) -> None:
        numeric = all(isinstance(v, (int, float, np.number)) and not isinstance(v, bool) for v in values)
        if not numeric:
            names = sorted({str(v) for v in values}, key=lambda text: (len(text), text))
            places = np.linspace(0, 1, len(names)) if len(names) > 1 else np.array([0.5])
            self.heights = np.array([places[names.index(str(v))] for v in values])
            ticks = [(float(p), shorten(text, 16)) for p, text in zip(places, names, strict=True)]
            self.ticks = ticks[:: -(-len(names) // _MOST_LEVELS)]
            return
        array = np.asarray(values, np.float64)
        scaled = np.log10(array) if log else array
        low, high = scaled.min(), scaled.max()
        self.heights = (scaled - low) / (high - low) if high > low else np.full(len(array), 0.5)
        levels, places = np.unique(array, return_inverse=True)
        near = len(levels) > 1 and np.diff(np.log10(levels) if log else levels).min() < 0.05 * (high - low)
        if 2 < len(levels) <= 5 and near and not (log or percent):  # 0, 1e-5 and 1e-3: their names would overlap
            self.heights = places / (len(levels) - 1)
            self.ticks = [(i / (len(levels) - 1), _number(level)) for i, level in enumerate(levels)]
            return
        if len(levels) > 5 or near:
            points = np.linspace(low, high, 4)
            levels = 10**points if log else points
        heights = ((np.log10(levels) if log else levels) - low) / ((high - low) or 1) + (0.5 if high == low else 0)
        texts = [f"{level:.1%}" if percent else _number(level) for level in levels]
        self.ticks = list(zip(heights.tolist(), texts, strict=True))


def _number(value: float) -> str:
    """Return a number in three digits, or whole where it is: a width of 1024 is not 1.02e+03."""
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.3g}"


def score_colors() -> "Colormap":
    """Return the colours of scores, from the worst to the best."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("score", _SCALE)


def _short_name(name: str) -> str:
    """Return a setting's name on two lines where it has a section."""
    section, dot, rest = name.partition(".")
    return f"{section}\n{rest}" if dot else name


def _percent(axes: "Axes") -> None:
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")


def _whole_ticks(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
