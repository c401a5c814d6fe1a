"""The pictures of the comparisons, and putting their tables into the documentation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnkit.plots import style

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
IMAGES = ROOT / "docs" / "images"
# From dark to light, so that they are told apart without colour, too; the first is nnkit's.
COLOURS = (style.BLUE, "#B34700", "#E69F00", "#F5D9A0")


@style.in_house_style
def bar_chart(
    title: str, subtitle: str, groups: Mapping[str, Sequence[float | None]], labels: Sequence[str], names: Sequence[str]
) -> Any:
    """Draw a group of horizontal bars for each net, all relative to the group's first, with the figures beside them.

    Parameters
    ----------
    title, subtitle : str
    groups : mapping of str to sequence of float
        For each net the figures in the order of `names`; None where there is none.
    labels : sequence of str
        What to write beside the bars, one after the other, group by group.
    names : sequence of str
    """
    height, thick = 1.0, 0.8 / len(names)
    figure = style.headed_figure(8.0, 0.9 + 0.24 * len(names) * len(groups), title, subtitle)
    axes = figure.add_subplot()
    texts = iter(labels)
    for row, figures in enumerate(groups.values()):
        base = figures[0] or 1.0
        for i, (name, value) in enumerate(zip(names, figures, strict=True)):
            text, place = next(texts), row * height + (i - (len(names) - 1) / 2) * thick
            if value is None:
                continue
            axes.barh(place, value / base, 0.92 * thick, color=COLOURS[i], label=name if row == 0 else None)
            weight = "bold" if i == 0 else "normal"
            axes.annotate(
                text, (value / base, place), (4, 0), textcoords="offset points", va="center", size=8, weight=weight
            )
    axes.axvline(1, color=style.BLUE, linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(groups)), list(groups), color=style.INK)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.margins(x=0.18, y=0.02)
    axes.set_xlim(left=0)
    axes.grid(axis="x")
    axes.set_xlabel("relative to nnkit (shorter is better)")
    figure.legend(loc="outside lower center", ncols=len(names), frameon=False, fontsize=9)
    return figure


def step_chart(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Draw the results of `train_step.py`."""
    columns = ("nnkit", "shipped", "best", "tuned")
    groups, labels = {}, []
    for r in results:
        figures = [r[column]["ms"] if column in r else None for column in columns]
        groups[f"{r['title']}\nbatch {r['batch']}"] = figures
        for column, ms in zip(columns, figures, strict=True):
            times = "" if column == "nnkit" or ms is None else f"  ({ms / r['nnkit']['ms']:.2f}×)"
            labels.append(f"{ms:,.{0 if ms >= 100 else 1 if ms >= 10 else 2}f} ms{times}" if ms is not None else "")
    what = "A training step" if results[0]["task"] == "train" else "A prediction"
    threads = results[0]["versions"]["threads"]
    names = ("nnkit", "PyTorch as shipped", "its best setting", "best + tuned allocator")
    subtitle = f"median time, {threads} thread{'s' * (threads != 1)}, both measured in turns"
    style.save(bar_chart(f"{what}, nnkit and PyTorch on the CPU", subtitle, groups, labels, names), path)


def section_of_page(name: str, page: Path = PAGE) -> tuple[str, str]:
    """Return a page up to the marker `<!-- name -->`, and from the marker `<!-- /name -->` on."""
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    text = page.read_text() if page.exists() else ""
    if text.count(first) != 1 or text.count(last) != 1 or text.index(last) < text.index(first):
        raise SystemExit(f"{page}: expected the markers {first} and {last} once each, to write in between")
    return text[: text.index(first) + len(first)], text[text.index(last) :]


def write_section(name: str, lines: Sequence[str], alt: str = "", page: Path = PAGE) -> None:
    """Put a table between its two markers in a page, below its figure; `alt` says what that shows."""
    head, tail = section_of_page(name, page)
    figure = [f"![{alt}](images/{name}.png)", ""] if alt else []
    page.write_text("\n".join([head, *figure, *lines, tail]))
