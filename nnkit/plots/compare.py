"""Pictures of a comparison: who is best, how they got there, where they differ, and how settings matter."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from nnkit.plots.search import score_colors
from nnkit.plots.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PINK,
    headed_axes,
    headed_figure,
    in_house_style,
    one_line_names,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette without its yellow, which is too pale for a line; each colour has a mark of its own.
_COLORS = (BLUE, ORANGE, GREEN, PINK, "#E69F00", "#56B4E9", INK)
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_MOST = len(_COLORS)  # contestants that are told apart by colour
_MOST_CLASSES = 25
_LONGEST = 34  # letters of a name


@in_house_style
def accuracy_dots(
    accuracies: Sequence[ArrayLike], names: Sequence[str], *, part: str = "test", ax: "Axes | None" = None
) -> "Figure":
    """Draw for each contestant the mean accuracy and its standard deviation, and a ring for each training.

    Parameters
    ----------
    accuracies : sequence of array_like
        For each contestant those of its trainings, from 0 to 1; the first contestant comes on top.
    names : sequence of str
    part : str, default "test"
        Which images they are of.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a figure of its own.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When there is no contestant, one without a training, or not as many names.

    Examples
    --------
    >>> from nnkit import plots
    >>> plots.accuracy_dots([[0.79, 0.80, 0.78], [0.60, 0.61, 0.59]], ["cnn", "mlp"]).get_suptitle()
    'cnn recognises most: 79.0 ± 1.0% of the test images'
    """
    values = _checked(accuracies, names)
    names = one_line_names(names, len(values))
    means = np.array([each.mean() for each in values])
    best = int(means.argmax())
    title = f"{shorten(names[best], _LONGEST)} recognises most: {_mean_text(values[best])} of the {part} images"
    if len(values) > 1 and not np.ptp(means):
        title = f"All recognise {means[0]:.1%} of the {part} images"
    count = max(map(len, values))
    subtitle = "One training each." if count == 1 else "Mean and standard deviation; each ring is one training."
    figure, axes = headed_axes(ax, 7.2, 0.36 * len(values) + 0.75, title, subtitle)
    for place, each in enumerate(values):
        color = BLUE if place == best else MUTED
        if len(each) > 1:
            bar: dict[str, Any] = {"elinewidth": 2, "capsize": 4, "capthick": 1.6}
            axes.errorbar(each.mean(), place, xerr=each.std(ddof=1), fmt="o", color=color, markersize=6, **bar)
            axes.plot(each, np.full(len(each), place), "o", markerfacecolor="none", markeredgecolor=color, alpha=0.55)
        else:
            axes.plot(each, [place], "o", color=color, markersize=6)
        axes.annotate(
            _mean_text(each), (1, place), (6, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            va="center", fontsize=9, color=INK if place == best else MUTED,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), [shorten(name, _LONGEST) for name in names], fontsize=9)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel(f"{part.capitalize()} accuracy")
    _percent(axes.xaxis)
    axes.margins(x=0.08)
    axes.grid(visible=True, axis="x")
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    return figure


@in_house_style
def comparison_curves(
    curves: Mapping[str, Sequence[tuple[ArrayLike, ArrayLike]]], *, thresholds: Sequence[float] = ()
) -> "Figure":
    """Draw validation accuracies over the epochs and over the seconds, for all contestants together.

    A thick line is the mean of a contestant's trainings, which are thin; where some ended earlier, the mean ends, too.
    With more than seven, the others are gray.

    Parameters
    ----------
    curves : mapping of str to sequence of pairs
        For each contestant, the most important first, and each of its trainings: the seconds until the end of each
        epoch, and the accuracies there, from 0 to 1.
    thresholds : sequence of float
        Accuracies to mark by a thin line.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When there is no contestant, or one of the trainings has no epoch.

    Examples
    --------
    >>> from nnkit import plots
    >>> curves = {"cnn": [([4, 8], [0.5, 0.7])], "mlp": [([1, 2], [0.4, 0.5])]}
    >>> plots.comparison_curves(curves, thresholds=[0.5]).get_suptitle()
    'cnn climbs highest: 70.0% validation accuracy'
    """
    if not curves or not all(len(runs) and all(np.size(s) for s, _ in runs) for runs in curves.values()):
        raise ValueError("curves: expected at least one contestant, one training each, and an epoch of each")
    tops = {name: np.mean([np.max(accuracy) for _, accuracy in runs]) for name, runs in curves.items()}
    best = max(tops, key=lambda name: tops[name])
    subtitle = "Validation accuracy after each epoch"
    subtitle += "; thin lines are single trainings." if max(map(len, curves.values())) > 1 else "."
    title = f"{shorten(best, _LONGEST)} climbs highest: {tops[best]:.1%} validation accuracy"
    rows = -(-min(len(curves), _MOST + 1) // 3)
    figure = headed_figure(9.6, 3.5 + 0.22 * rows, title, subtitle)
    left, right = figure.subplots(1, 2, sharey=True)
    lines = []
    for place, (name, runs) in reversed(list(enumerate(curves.items()))):
        told = place < _MOST
        color = _COLORS[place] if told else FAINT
        mark = _MARKS[place] if told and max(np.size(s) for s, _ in runs) <= 30 else ""
        for axes, over_time in ((left, False), (right, True)):
            line = _draw_runs(axes, runs, color, mark, over_time)
        lines.append((line, shorten(name, _LONGEST) if told else f"{len(curves) - _MOST} more"))
    for axes in (left, right):
        low, high = axes.get_ylim()
        for threshold in thresholds:
            if low < threshold < high:
                axes.axhline(threshold, color=MUTED, linewidth=0.9, linestyle=":", zorder=1)
        axes.grid(visible=True)
        axes.set_xlim(left=0)
        _percent(axes.yaxis)
    _whole_ticks(left)
    left.set(xlabel="Epoch", ylabel="Validation accuracy")
    right.set(xlabel="Seconds of training")
    shown = lines[::-1][: _MOST + 1]  # one line stands for all others
    style: dict[str, Any] = {"ncols": 3, "frameon": False, "labelcolor": INK, "fontsize": 9}
    figure.legend(*zip(*shown, strict=True), loc="outside lower left", **style)
    return figure


def _draw_runs(axes: "Axes", runs: Sequence[tuple[ArrayLike, ArrayLike]], color: str, mark: str, time: bool) -> Any:
    """Draw a contestant's trainings, and their mean where there are several; return the line that stands for it."""
    seconds, accuracies = ([np.asarray(run[i], np.float64) for run in runs] for i in (0, 1))
    xs = seconds if time else [np.arange(1, len(each) + 1) for each in accuracies]
    if len(runs) > 1:
        for x, accuracy in zip(xs, accuracies, strict=True):
            axes.plot(x, accuracy, color=color, alpha=0.35, linewidth=0.8)
    shortest = min(map(len, accuracies))
    mean_x, mean = (np.mean([each[:shortest] for each in part], axis=0) for part in (xs, accuracies))
    return axes.plot(mean_x, mean, color=color, marker=mark, markersize=3.5)[0]


@in_house_style
def class_recalls(
    recalls: ArrayLike, names: Sequence[str], class_names: Sequence[str], *, ax: "Axes | None" = None
) -> "Figure":
    """Draw for each class how much of it each contestant recognises; the classes that differ most come first.

    At most seven contestants, the first ones, and 25 classes are shown.

    Parameters
    ----------
    recalls : array_like of shape (contestants, classes)
        From 0 to 1; NaN for a class without images.
    names, class_names : sequence of str
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a figure of its own.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When names and recalls do not match.

    Examples
    --------
    >>> from nnkit import plots
    >>> recalls = [[0.9, 0.7], [0.8, 0.3]]
    >>> plots.class_recalls(recalls, ["cnn", "mlp"], ["car", "cat"]).get_suptitle()
    'They differ most in cat: mlp recognises 30% of it, cnn 70%'
    """
    rates = np.asarray(recalls, np.float64)
    if rates.shape != (len(names), len(class_names)) or not rates.size:
        raise ValueError(f"recalls: expected shape ({len(names)}, {len(class_names)}), got {rates.shape}")
    count = min(len(names), _MOST)
    names = one_line_names(names, len(rates))
    classes = one_line_names(class_names, rates.shape[1])
    shown = [k for k in range(len(classes)) if not np.isnan(rates[:, k]).any()]
    if not shown:
        raise ValueError("recalls: expected a class that has images, got none")
    rates = rates[:count]
    spread = {k: float(np.ptp(rates[:, k])) for k in shown}
    shown = sorted(shown, key=lambda k: -spread[k])[:_MOST_CLASSES]
    top, low, high = shown[0], int(rates[:, shown[0]].argmin()), int(rates[:, shown[0]].argmax())
    title = f"They differ most in {shorten(classes[top], 20)}: "
    title += f"{shorten(names[low], 24)} recognises {rates[low, top]:.0%} of it, "
    title += f"{shorten(names[high], 24)} {rates[high, top]:.0%}"
    if not spread[top]:
        title = "All recognise the same share of each class"
    parts = [f"the {_MOST_CLASSES} classes that differ most"] * (len(classes) > _MOST_CLASSES)
    parts += [f"the best {_MOST} of {len(recalls)}"] * (len(recalls) > _MOST)  # type: ignore[arg-type]
    subtitle = "Share of each class's images that is recognised" + (f"; {', '.join(parts)}." if parts else ".")
    rows = -(-count // 3)
    height = 0.31 * len(shown) + 0.75 + 0.22 * rows
    figure, axes = headed_axes(ax, 8.4, height, title, subtitle)
    places = np.arange(len(shown))
    axes.hlines(places, rates[:, shown].min(axis=0), rates[:, shown].max(axis=0), color=FAINT, linewidth=3, zorder=1)
    lines = []
    for i in reversed(range(count)):
        style: dict[str, Any] = {"color": _COLORS[i], "marker": _MARKS[i], "markersize": 6.5, "linestyle": ""}
        lines += axes.plot(rates[i, shown], places, **style, markeredgecolor="white", markeredgewidth=0.6)
    axes.set_yticks(places, [shorten(classes[k], 24) for k in shown], fontsize=9)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel("Recall")
    _percent(axes.xaxis)
    axes.grid(visible=True, axis="x")
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    labels = [shorten(name, _LONGEST) for name in names[:count]]
    style = {"frameon": False, "labelcolor": INK, "fontsize": 9, "ncols": 3}
    if ax is None:
        figure.legend(lines[::-1], labels, loc="outside lower left", **style)
    else:
        axes.legend(lines[::-1], labels, **style)
    return figure


@in_house_style
def sweep_line(
    values: ArrayLike, accuracies: Sequence[ArrayLike], *, name: str, part: str = "validation", ax: "Axes | None" = None
) -> "Figure":
    """Draw the accuracy over a setting that is a number: mean and standard deviation, and a ring for each training.

    The setting's axis is logarithmic where its values span more than a factor of ten.

    Parameters
    ----------
    values : array_like of shape (n,)
    accuracies : sequence of array_like
        For each value those of its trainings, from 0 to 1; empty where all diverged.
    name : str
        What the setting is called.
    part : str, default "validation"
        Which images they are of.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a figure of its own.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When there are not as many values as accuracies, or all trainings diverged.

    Examples
    --------
    >>> from nnkit import plots
    >>> plots.sweep_line([1e-4, 1e-3, 1e-2], [[0.4], [0.6], [0.5]], name="optimizer.lr").get_suptitle()
    'Best at optimizer.lr = 0.001: 60.0% validation accuracy'
    """
    order = np.argsort(np.asarray(values, np.float64), kind="stable")
    if len(order) != len(accuracies):
        raise ValueError(f"accuracies: expected one entry a value, got {len(accuracies)} for {len(order)}")
    xs = np.asarray(values, np.float64)[order]
    each = [np.asarray(accuracies[i], np.float64) for i in order]
    there = [i for i, one in enumerate(each) if one.size]
    if not there:
        raise ValueError("accuracies: expected a training that came to its end, got none")
    means = np.array([each[i].mean() for i in there])
    best = there[int(means.argmax())]
    title = f"Best at {shorten(name, 30)} = {xs[best]:g}: {_mean_text(each[best])} {part} accuracy"
    many = max(map(len, each)) > 1
    lost = [f"{xs[i]:g}" for i in range(len(xs)) if i not in there]
    subtitle = "Mean and standard deviation; each ring is one training." if many else "One training each."
    subtitle += f" Diverged at {', '.join(lost)}." if lost else ""
    figure, axes = headed_axes(ax, 6.6, 3.5, title, subtitle)
    stds = [each[i].std(ddof=1) if len(each[i]) > 1 else 0.0 for i in there]
    bar: dict[str, Any] = {"elinewidth": 1.6, "capsize": 4 if many else 0}
    axes.errorbar(xs[there], means, yerr=stds, fmt="o-", color=BLUE, markersize=5, **bar)
    if many:
        for i in there:
            axes.plot(np.full(len(each[i]), xs[i]), each[i], "o", markerfacecolor="none", color=BLUE, alpha=0.55)
    axes.plot(xs[best], each[best].mean(), "o", markersize=11, markerfacecolor="none", markeredgecolor=ORANGE, mew=1.6)
    if xs[0] > 0 and xs[-1] > 10 * xs[0]:
        axes.set_xscale("log")
        axes.minorticks_off()
    if len(xs) <= 10:
        axes.set_xticks(xs, [f"{x:g}" for x in xs])
    axes.set(xlabel=name, ylabel=f"{part.capitalize()} accuracy")
    _percent(axes.yaxis)
    axes.grid(visible=True)
    axes.margins(x=0.08, y=0.12)
    return figure


@in_house_style
def sweep_map(
    means: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    names: tuple[str, str],
    stds: ArrayLike | None = None,
    part: str = "validation",
    ax: "Axes | None" = None,
) -> "Figure":
    """Draw the accuracies over two settings as cells with their figures.

    Parameters
    ----------
    means : array_like of shape (rows, columns)
        From 0 to 1; NaN where all trainings diverged.
    rows, columns : sequence of str
        The settings' values.
    names : pair of str
        What is varied over the rows, and over the columns.
    stds : array_like of shape (rows, columns), optional
        Standard deviations; NaN where there is one training only.
    part : str, default "validation"
        Which images they are of.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a figure of its own.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When names and accuracies do not match, or all trainings diverged.

    Examples
    --------
    >>> from nnkit import plots
    >>> plots.sweep_map([[0.4, 0.5], [0.45, 0.6]], ["1", "2"], ["1e-3", "1e-2"], names=("depth", "lr")).get_suptitle()
    'Best at depth = 2, lr = 1e-2: 60.0% validation accuracy'
    """
    cells = np.asarray(means, np.float64)
    if cells.shape != (len(rows), len(columns)) or np.isnan(cells).all():
        raise ValueError(f"means: expected shape ({len(rows)}, {len(columns)}) with a number in it, got {cells.shape}")
    spread = np.full(cells.shape, np.nan) if stds is None else np.asarray(stds, np.float64)
    rows, columns = ([shorten(text, 18) for text in one_line_names(part, len(part))] for part in (rows, columns))
    i, j = np.unravel_index(int(np.nanargmax(cells)), cells.shape)
    text = _percent_text(float(cells[i, j]), float(spread[i, j]))
    title = f"Best at {names[0]} = {rows[i]}, {names[1]} = {columns[j]}: {text} {part} accuracy"
    subtitle = (
        "Mean ± standard deviation over the trainings, in percent."
        if not np.isnan(spread).all()
        else "One training each, in percent."
    )
    longest = max(map(len, columns))
    width = max(0.95, 0.085 * longest + 0.2)
    figure, axes = headed_axes(ax, max(width * len(columns) + 2.4, 6.4), 0.55 * len(rows) + 0.9, title, subtitle)
    image = axes.imshow(np.ma.masked_invalid(cells), cmap=score_colors(), aspect="auto", interpolation="nearest")
    low, high = np.nanmin(cells), np.nanmax(cells)
    for (row, column), cell in np.ndenumerate(cells):
        gone = np.isnan(cell)
        label = "diverged" if gone else _percent_text(cell, float(spread[row, column])).removesuffix("%")
        color = MUTED if gone else "white" if cell > low + 0.62 * (high - low) else INK
        weight = "bold" if (row, column) == (i, j) else "normal"
        axes.text(column, row, label, ha="center", va="center", fontsize=9, color=color, weight=weight)
    axes.set_xticks(range(len(columns)), columns, fontsize=9)
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.set(xlabel=names[1], ylabel=names[0])
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[:].set(visible=True, color=FAINT)
    bar = figure.colorbar(image, ax=axes, format=lambda value, _: f"{100 * value:.3g}%")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8)
    return figure


def _checked(accuracies: Sequence[ArrayLike], names: Sequence[str]) -> list[np.ndarray]:
    values = [np.asarray(each, np.float64) for each in accuracies]
    if not values or len(values) != len(names) or not all(each.size and each.ndim == 1 for each in values):
        raise ValueError(f"accuracies: expected at least one for each of {len(names)} names, got {len(values)} entries")
    return values


def _mean_text(accuracies: np.ndarray) -> str:
    return _percent_text(accuracies.mean(), accuracies.std(ddof=1) if len(accuracies) > 1 else np.nan)


def _percent_text(mean: float, std: float) -> str:
    return f"{100 * mean:.1f}%" if np.isnan(std) else f"{100 * mean:.1f} ± {100 * std:.1f}%"


def _percent(axis: Any) -> None:
    axis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")


def _whole_ticks(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
