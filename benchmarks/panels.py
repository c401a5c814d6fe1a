"""The pictures of the benchmarks of single operations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnkit.plots import style

# Okabe and Ito's colours, each with a marker of its own: the two together tell apart what colour alone may not.
MARKS = {
    "direct": ("o", "#56B4E9", "nnkit, direct"),
    "winograd2": ("s", style.BLUE, "nnkit, Winograd F(2×2)"),
    "winograd4": ("D", "#004D73", "nnkit, Winograd F(4×4)"),
    "torch": ("x", style.ORANGE, "PyTorch, its better layout"),
}
# Okabe and Ito's colours; every second group is hatched, too.
GROUP_COLOURS = {
    "batches": style.INK,
    "convolution": style.BLUE,
    "matrix products": "#56B4E9",
    "batch norm": "#009E73",
    "pooling": "#F0E442",
    "activations and sums": "#E69F00",
    "loss": style.ORANGE,
    "optimizer": "#CC79A7",
    "other kernels": style.FAINT,
    "Python and NumPy": style.MUTED,
}
HATCHES = ("//", "", "//", "", "//", "", "//", "", "//", "")
PLATE = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"}
PASSES = {"forward": "Forward", "backward_input": "Backward, input", "backward_weight": "Backward, weight"}


@style.in_house_style
def _kernel_figure(records: Sequence[Mapping[str, Any]], peak: float | None) -> Any:
    labels = list(dict.fromkeys(r["layer"] for r in records))
    title = "How fast the layers of six nets are computed"
    figure = style.headed_figure(10, 1.4 + 0.24 * len(labels), title, "effective GFLOP/s; further right is faster")
    all_axes = figure.subplots(1, 3, sharex=True, sharey=True)
    for axes, (which, name) in zip(all_axes, PASSES.items(), strict=True):
        for kind, (marker, colour, text) in MARKS.items():
            found = [
                (r["gflops"][kind], labels.index(r["layer"]))
                for r in records
                if r["pass"] == which and kind in r["gflops"]
            ]
            axes.plot(*zip(*found, strict=True), marker, color=colour, label=text, markersize=5.5) if found else None
        if peak:
            axes.axvline(peak, color=style.MUTED, linewidth=1, linestyle="--", label="the processor's FMA peak")
        axes.set_title(name)
        axes.grid(axis="both")
        axes.set_xlabel("GFLOP/s")
        axes.set_xlim(left=0)
    all_axes[0].set_yticks(range(len(labels)), labels, color=style.INK, fontsize=9)
    all_axes[0].set_ylim(len(labels) - 0.4, -0.6)
    handles = {
        text: handle for axes in all_axes for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def kernel_chart(path: Path, records: Sequence[Mapping[str, Any]], peak: float | None) -> None:
    """Draw the results of `kernels.py`."""
    style.save(_kernel_figure(records, peak), path)


@style.in_house_style
def _memory_figure(
    records: Sequence[Mapping[str, Any]], loops: Mapping[str, Mapping[str, float] | None], titles: Mapping[str, str]
) -> Any:
    names = list(dict.fromkeys(r["pass"] for r in records))
    title = "What passes over memory reach of the memory's speed"
    subtitle = "GB/s that a pass reads and writes; further right is faster"
    figure = style.headed_figure(10, 1.2 + 0.24 * len(names), title, subtitle)
    all_axes = figure.subplots(1, len(titles), sharey=True)
    for axes, (size, text) in zip(all_axes, titles.items(), strict=True):
        for side, marker, colour, label in (
            ("nnkit", "o", style.BLUE, "nnkit"),
            ("torch", "x", style.ORANGE, "PyTorch"),
        ):
            found = [
                (r["gb_per_s"][side], names.index(r["pass"]))
                for r in records
                if r["size"] == size and side in r["gb_per_s"]
            ]
            if found:
                axes.plot(*zip(*found, strict=True), marker, color=colour, label=label, markersize=5.5)
        best = loops[size]
        if best:
            axes.axvline(max(best.values()), color=style.MUTED, linestyle="--", linewidth=1, label="best plain loop")
        axes.set_title(f"arrays of {text}")
        axes.set_xlabel("GB/s")
        axes.set_xlim(left=0)
        axes.grid(axis="both")
    all_axes[0].set_yticks(range(len(names)), names, color=style.INK, fontsize=9)
    all_axes[0].set_ylim(len(names) - 0.4, -0.6)
    handles, texts = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=3, frameon=False)
    return figure


def memory_chart(
    path: Path,
    records: Sequence[Mapping[str, Any]],
    loops: Mapping[str, Mapping[str, float] | None],
    titles: Mapping[str, str],
) -> None:
    """Draw the results of `memory_ops.py`."""
    style.save(_memory_figure(records, loops, titles), path)


# Lines of a step's parts: colour, marker and dashes, each enough to tell them apart.
PARTS = {
    "step": (style.INK, "o", "-", "whole step"),
    "forward": (style.BLUE, "s", "--", "forward and loss"),
    "backward": (style.ORANGE, "D", ":", "backward"),
    "update": ("#009E73", "^", "-.", "update"),
}


@style.in_house_style
def _scaling_figure(records: Sequence[Mapping[str, Any]]) -> Any:
    *sweeps, threads = records
    figure = style.headed_figure(
        10.5, 6.6, "How the time of a training step grows", "a stack of 3×3 convolutions, Adam"
    )
    panels = figure.subplots(2, 3).ravel()
    for axes, sweep in zip(panels, sweeps, strict=False):
        _power_law(axes, sweep)
    _speed_up(panels[4], threads)
    _shares(panels[5], sweeps[0])
    handles, texts = panels[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _power_law(axes: Any, sweep: Mapping[str, Any]) -> None:
    for part, (colour, marker, dashes, label) in PARTS.items():
        times = [t[part] for t in sweep["milliseconds"]]
        axes.loglog(sweep["values"], times, color=colour, marker=marker, linestyle=dashes, label=label)
    names = {"width": "width (channels)", "depth": "depth (convolutions)", "image size": "image size (pixels a side)"}
    axes.set_title(sweep["what"].capitalize(), pad=20)
    slopes = f"slope {sweep['slope']:.2f}, last two {sweep['last_slope']:.2f}; arithmetic {sweep['expected']}"
    axes.annotate(slopes, (0, 1), (0, 6), "axes fraction", "offset points", va="bottom", fontsize=9, color=style.MUTED)
    axes.set_xlabel(names.get(sweep["what"], sweep["what"]))
    axes.set_ylabel("ms/step")
    axes.minorticks_off()
    axes.set_xticks(sweep["values"], [str(value) for value in sweep["values"]])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid()


def _speed_up(axes: Any, threads: Mapping[str, Any]) -> None:
    counts, times = threads["values"], [t["step"] for t in threads["milliseconds"]]
    axes.plot(counts, counts, color=style.MUTED, linewidth=1, linestyle="--")
    axes.annotate(
        "proportional", (counts[-1], counts[-1]), (-4, 6), textcoords="offset points", ha="right", va="bottom"
    )
    axes.plot(counts, [times[0] / time for time in times], color=style.INK, marker="o")
    axes.set_title(f"{times[0] / times[-1]:.2f} times faster with {counts[-1]} thread{'s' * (counts[-1] > 1)}", pad=20)
    axes.set(xlabel="threads", ylabel="times faster than one thread", ylim=(0, 1.15 * counts[-1]), xticks=counts)
    axes.grid()


def _shares(axes: Any, sweep: Mapping[str, Any]) -> None:
    labels, base = [str(value) for value in sweep["values"]], [0.0] * len(sweep["values"])
    for part in list(PARTS)[1:]:
        shares = [100 * t[part] / t["step"] for t in sweep["milliseconds"]]
        axes.bar(labels, shares, 0.75, bottom=base, color=PARTS[part][0], edgecolor="white")
        base = [b + s for b, s in zip(base, shares, strict=True)]
    axes.set_title("Where a step's time goes", pad=20)
    axes.set(xlabel=sweep["what"], ylabel="share of the step (%)", ylim=(0, 100))


def scaling_chart(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Draw the results of `scaling.py`."""
    style.save(_scaling_figure(records), path)


@style.in_house_style
def _profile_figure(shares: Mapping[str, Mapping[str, float]]) -> Any:
    title, subtitle = "Where a training step's time goes", "share of the step (%), net by net"
    figure = style.headed_figure(11, 1.2 + 0.45 * len(shares), title, subtitle)
    axes = figure.add_subplot()
    left = [0.0] * len(shares)
    for (group, colour), hatch in zip(GROUP_COLOURS.items(), HATCHES, strict=True):
        parts = [100 * max(0.0, found[group]) / sum(found.values()) for found in shares.values()]
        axes.barh(list(shares), parts, 0.72, left, color=colour, hatch=hatch, edgecolor="white", label=group)
        for row, (start, part) in enumerate(zip(left, parts, strict=True)):
            if part >= 4:
                axes.annotate(f"{part:.0f}", (start + part / 2, row), ha="center", va="center", fontsize=9, bbox=PLATE)
        left = [start + part for start, part in zip(left, parts, strict=True)]
    axes.set(xlim=(0, 100), xlabel="share of the step (%)")
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0, labelcolor=style.INK)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def profile_chart(path: Path, shares: Mapping[str, Mapping[str, float]]) -> None:
    """Draw the results of `profile_step.py`."""
    style.save(_profile_figure(shares), path)


@style.in_house_style
def _neighbour_figure(records: Sequence[Mapping[str, Any]]) -> Any:
    title, subtitle = "What a busy neighbour costs", "times longer than alone; lower is better"
    figure = style.headed_figure(max(8.0, 3.2 * len(records)), 3.0, title, subtitle)
    all_axes = figure.subplots(1, len(records), sharey=True, squeeze=False)[0]
    sides = {"nnkit": ("o", "-", style.BLUE, "nnkit"), "torch": ("X", "--", style.ORANGE, "PyTorch")}
    for axes, record in zip(all_axes, records, strict=True):
        for side, (marker, dashes, colour, label) in sides.items():
            times = record["milliseconds"].get(side)
            if times:
                slower = [time / times[0] for time in times]
                axes.plot(record["neighbours"], slower, marker=marker, linestyle=dashes, color=colour, label=label)
        axes.set_title(record["title"])
        axes.set(xlabel="busy neighbours", xticks=record["neighbours"])
        axes.grid()
    all_axes[0].set_ylim(bottom=0)  # of all, and only now: it ends the search for limits
    all_axes[0].set_ylabel("times longer than alone")
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def neighbour_chart(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Draw the results of `neighbour.py`."""
    style.save(_neighbour_figure(records), path)
