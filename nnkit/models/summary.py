"""A model as a table."""

from html import escape
from typing import TYPE_CHECKING

from nnkit import _ext
from nnkit.functional.conv import get_conv_algorithm
from nnkit.layers import BatchNorm, Conv2d, Layer
from nnkit.layers.conv import short

if TYPE_CHECKING:
    from nnkit.models.base import Model

Row = tuple[str, ...]

_BATCH = 64  # convolution's choice of algorithm depends on how much work there is


def summary_table(model: "Model", kernels: bool = False) -> str:
    """Lay out a built model's layers, output shapes, parameters and floating-point operations.

    Parameters
    ----------
    model : Model
    kernels : bool, default False
        Whether to say how each layer runs.

    Returns
    -------
    str
    """
    header, rows, footer, notes = _contents(model, kernels)
    widths = [max(map(len, column)) for column in zip(header, footer, *rows, strict=True)]
    rule = "─" * (sum(widths) + 2 * (5 if kernels else 4))
    lines = [_line(header, widths), rule, *(_line(row, widths) for row in rows), rule, _line(footer, widths)]
    return "\n".join([*lines, *notes])


def summary_html(model: "Model") -> str:
    """Lay out the same as HTML, for a notebook.

    Parameters
    ----------
    model : Model

    Returns
    -------
    str
    """
    header, rows, footer, notes = _contents(model, kernels=False)
    head, body, foot = (
        "".join(f"<tr>{_html_cells(row, tag)}</tr>" for row in part)
        for part, tag in (([header], "th"), (rows, "td"), ([footer], "th"))
    )
    table = f"<table><thead>{head}</thead><tbody>{body}</tbody><tfoot>{foot}</tfoot></table>"
    return table + "".join(f"<div>{escape(note)}</div>" for note in notes)


def _contents(model: "Model", kernels: bool) -> tuple[Row, list[Row], Row, list[str]]:
    """Return a header, a row for the input and each layer, a footer, and what is said below; six columns."""
    fused = model.fused() if kernels else {}
    wanted = _input_gradients(model) if kernels else set()
    rows: list[Row] = [("", "input", _shape(model.input_shape), "", "", "")]
    for leaf in model.leaves():
        parameters = sum(array.size for array in leaf.params.values())
        flops = leaf.flops()
        runs = _runs(leaf, fused.get(leaf.name), leaf in wanted) if kernels else ""
        name = _short(leaf) if kernels else repr(leaf)
        count = f"{parameters:,}{' frozen' if leaf.frozen else ''}" if parameters else ""
        rows.append((leaf.name, name, _shape(leaf.output_shape), count, _si(flops) if flops else "", runs))
    total, trainable = model.num_parameters, model.num_trainable
    flops = sum(leaf.flops() for leaf in model.leaves())
    header = ("Name", "Layer", "Output", "Parameters", "FLOPs", "Runs" if kernels else "")
    footer = ("", "total", "", f"{total:,}", _si(flops), "")
    notes = []
    if trainable < total:
        notes.append(f"{trainable:,} of {total:,} parameters are trained, the others are frozen")
    size = _bytes(total * model.dtype.itemsize)
    notes.append(f"{size} of {model.dtype} parameters; FLOPs of convolutions and linear layers, forward, per example")
    if kernels:
        passes = "forward, backward to input and weight where they differ; – is not run"
        notes.append(f"{_ext.kernels.name} kernels, batches of {_BATCH}; convolutions: {passes}")
    return header, rows, footer, notes


def _input_gradients(layer: Layer, wanted: bool = False) -> set[Layer]:
    """Return the layers whose input gradient training computes: something before them is trained, or it is `wanted`."""
    from nnkit.models.base import Model
    from nnkit.models.containers import Residual

    if not isinstance(layer, Model):
        return {layer} if wanted else set()
    found: set[Layer] = set()
    trained = wanted
    for child in layer.children().values():
        around = isinstance(layer, Residual) and child is layer.shortcut  # starts where the main way does
        found |= _input_gradients(child, wanted if around else trained)
        trained = trained or child.trainable
    return found


def _runs(leaf: Layer, runner: str | None, input_gradient: bool) -> str:
    """Say how a layer runs: as a part of another one, or by which algorithms."""
    if runner is not None:
        return f"statistics from {runner}" if isinstance(leaf, BatchNorm) else f"fused into {runner}"
    if not isinstance(leaf, Conv2d):
        return ""
    assert leaf.input_shape is not None
    channels, *size = leaf.input_shape
    algorithm = get_conv_algorithm() if leaf.algorithm is None else leaf.algorithm
    shapes = (_BATCH, *size, channels), leaf.params["weight"].shape
    passes = {"forward": True, "backward_input": input_gradient, "backward_weight": leaf.trainable}
    used = [
        _ext.kernels.conv2d_algorithm(name, *shapes, leaf.stride, leaf.padding, leaf.dtype, algorithm) if runs else "–"
        for name, runs in passes.items()
    ]
    return used[0] if len(set(used)) == 1 else ", ".join(used)


def _short(leaf: Layer) -> str:
    """Describe a layer without what the other columns say."""
    if type(leaf) is not Conv2d:
        return repr(leaf)
    kernel = "×".join(map(str, leaf.kernel_size))
    return f"Conv2d {kernel}" + (f", stride {short(leaf.stride)}" if leaf.stride != (1, 1) else "")


def _html_cells(row: Row, tag: str) -> str:
    """Return the cells of a row, numbers to the right, without the last column."""
    sides = ("left", "left", "left", "right", "right")
    return "".join(
        f'<{tag} style="text-align: {side}">{escape(cell)}</{tag}>' for cell, side in zip(row, sides, strict=False)
    )


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [
        cell.rjust(width) if i in (3, 4) else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _shape(shape: tuple[int, ...] | None) -> str:
    return " × ".join(f"{size:,}" for size in shape or ())


def _si(number: int) -> str:
    """Three figures and a letter: 1,234,567 is 1.23 M."""
    value = float(number)
    for unit in ("", "k", "M", "G", "T"):
        if value < 999.5 or unit == "T":
            break
        value /= 1000
    digits = 0 if not unit else 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}".rstrip()


def _bytes(number: int) -> str:
    return f"{number / 2**20:.1f} MiB" if number >= 2**20 else f"{number / 2**10:.1f} KiB"
