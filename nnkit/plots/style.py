"""The visual language of all pictures: colours, type, headings, and how a figure is saved.

Blue stands for what is right and for training, orange for what is wrong and for validation; the two are told apart
with every kind of colour vision, and shape or a sign always says the same. Nothing here touches pyplot: a figure
belongs to whoever asked for it and is freed with it.
"""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, cast

import numpy as np

from nnkit.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito's palette for every kind of colour vision
GREEN, PINK = "#009E73", "#CC79A7"  # of the same, for what is neither right nor wrong
INK, MUTED, FAINT = "#1F2328", "#656D76", "#D8DEE4"

_STYLE = {
    "figure.dpi": 150,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # class names may hold dollar signs
    "axes.edgecolor": FAINT,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "svg.hashsalt": "nnkit",
}
_P = ParamSpec("_P")


def in_house_style(draw: Callable[_P, "Figure"]) -> Callable[_P, "Figure"]:
    """Draw under nnkit's settings alone, whatever the user's matplotlibrc says."""

    @functools.wraps(draw)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> "Figure":
        import matplotlib.style

        with matplotlib.style.context(["default", _STYLE]):
            figure = draw(*args, **kwargs)
            for axes in figure.axes:
                if not axes.axison:
                    continue  # has none, and many take long to make
                for axis in (axes.xaxis, axes.yaxis):  # ticks take their style when they are made, which is late
                    axis.get_major_ticks(), axis.get_minor_ticks()
            return figure

    return wrapper


def save(figure: "Figure", path: str | PathLike[str]) -> Path:
    """Write a figure to a file of the type that its ending names; the file appears whole or not at all.

    A PNG says the figure's heading in its metadata, for those who do not see it: "Title" and "Description".

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : path-like
        Ends in .png, .svg, .pdf or another type that matplotlib writes.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        When the ending names no known type.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from nnkit import plots
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = plots.save(plots.confusion_matrix([[9, 1], [2, 8]]), pathlib.Path(folder) / "matrix.png")
    ...     path.name
    'matrix.png'
    """
    path = Path(path)
    kind, known = path.suffix[1:].lower(), figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise ValueError(f"{path}: expected a name that ends in one of {', '.join(sorted(known))}, got {path.suffix!r}")
    with house_style(), atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, metadata=_heading(figure) if kind == "png" else None)
    return path


@contextlib.contextmanager
def house_style() -> Iterator[None]:
    """Draw what stands below under nnkit's settings alone."""
    import matplotlib.style

    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        # A class name in a script that the font lacks is drawn as boxes; that is no reason to fail.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _heading(figure: "Figure") -> dict[str, str]:
    title, *others = [figure.get_suptitle(), *(text.get_text() for text in figure.texts[1:2])]
    return {"Title": title, "Description": " ".join(others)} if title else {}


def headed_figure(width: float, height: float, title: str, subtitle: str = "") -> "Figure":
    """Return a figure with room of the given size, in inches, under a heading at its upper left."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from nnkit.plots.figure import NotebookFigure

    width, margin = max(width, 5.0), 0.18
    zoom = min(max(width / 9, 1.0), 1.5)  # a wide picture is looked at from further away
    room = (width - 2 * margin) * 72
    size = min(12 * zoom, room / (0.69 * len(title)))  # a bold letter is 0.69 em wide on average
    small = min(9.5 * zoom, room / (0.58 * max(len(subtitle), 1)))
    second = margin + 0.26 * zoom
    head = second + (0.24 * zoom if subtitle else 0) + 0.06
    total = height + head
    figure = NotebookFigure(figsize=(width, total))
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", rect=(0.01, 0.01, 0.98, height / total - 0.02), w_pad=0.08, h_pad=0.05)
    corner = {"x": margin / width, "y": 1 - margin / total, "ha": "left", "va": "top"}
    heading = figure.suptitle(title, size=size, weight="bold", **corner)
    heading.set_in_layout(False)
    line = figure.text(margin / width, 1 - second / total, subtitle, va="top", size=small, color=MUTED)
    line.set_in_layout(False)
    return figure


def headed_axes(
    ax: "Axes | None", width: float, height: float, title: str, subtitle: str = "", *, legend: bool = False
) -> tuple["Figure", "Axes"]:
    """Return what to draw in: the axes given, with the title above them, or those of a new figure under a heading.

    With `legend`, there is room for one line between the title and the axes.
    """
    if ax is None:
        figure = headed_figure(width, height, title, subtitle)
        return figure, figure.subplots()
    room = ax.get_window_extent().width / ax.figure.dpi * 72
    size = min(10.0, room / (0.69 * len(title)))
    ax.set_title(title, size=size, pad=24 if legend else None, parse_math=False)
    return cast("Figure", ax.get_figure()), ax


def cell_grid(
    count: int, columns: int, size: float, below: float, title: str, subtitle: str = ""
) -> tuple["Figure", list["Axes"]]:
    """Return a figure of `count` square cells of `size` inches, each with room for a caption `below` it."""
    gap, margin = (0.14 if below > 0.2 else 0.08), 0.18
    rows = -(-count // columns)
    block = rows * (size + below)
    figure = headed_figure(columns * (size + gap) - gap + 2 * margin, block + 0.1, title, subtitle)
    figure.set_layout_engine("none")
    width, height = figure.get_size_inches()
    cells = []
    for i in range(count):
        left = margin + (i % columns) * (size + gap)
        bottom = 0.1 + block - (i // columns) * (size + below) - size
        cells.append(figure.add_axes((left / width, bottom / height, size / width, size / height)))
    return figure, cells


def show_image(axes: "Axes", image: np.ndarray) -> None:
    """Draw one (H, W, 1 or 3) image with values in 0…1 in the middle of its square cell."""
    height, width = image.shape[:2]
    axes.imshow(image if image.shape[2] == 3 else image[:, :, 0], cmap="gray", vmin=0, vmax=1, aspect="auto")
    half = max(height, width) / 2
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    axes.set(xlim=(middle_x - half, middle_x + half), ylim=(middle_y + half, middle_y - half))
    axes.set_axis_off()


UNDER: dict[str, Any] = {
    "xycoords": "axes fraction",
    "textcoords": "offset points",
    "va": "top",
    "fontsize": 8.5,
    "annotation_clip": False,
}


def one_line_names(class_names: Sequence[str] | None, count: int) -> list[str]:
    """Return the names on one line each, with what cannot be printed replaced."""
    if class_names is None:
        return [str(i) for i in range(count)]
    if len(class_names) != count:
        raise ValueError(f"class_names: expected {count} names, got {len(class_names)}")
    lines = (" ".join(str(name).split()) for name in class_names)
    return ["".join(c if c.isprintable() else "?" for c in line) for line in lines]


def shorten(name: str, length: int) -> str:
    """Return the name, cut where it is longer than `length`."""
    return name if len(name) <= length else name[: length - 1] + "…"


def whole_percent(rate: float) -> str:
    """Return a rate as whole percents, without rounding to none or all what is not."""
    text = f"{rate:.0%}"
    if text == "0%" and rate > 0:
        return "<1%"
    return ">99%" if text == "100%" and rate < 1 else text
