"""A model as a table."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnkit.models.base import Model


def summary_table(model: "Model") -> str:
    """Lay out a built model's layers, output shapes, parameters and floating-point operations.

    Parameters
    ----------
    model : Model

    Returns
    -------
    str
    """
    rows = [("", "input", _shape(model.input_shape), "", "")]
    for leaf in model.leaves():
        parameters = sum(array.size for array in leaf.params.values())
        flops = leaf.flops()
        shape = _shape(leaf.output_shape)
        rows.append(
            (leaf.name, repr(leaf), shape, f"{parameters:,}" if parameters else "", _si(flops) if flops else "")
        )
    total = model.num_parameters
    flops = sum(leaf.flops() for leaf in model.leaves())
    header = ("Name", "Layer", "Output", "Parameters", "FLOPs")
    footer = ("", "total", "", f"{total:,}", _si(flops))
    widths = [max(len(row[i]) for row in [header, footer, *rows]) for i in range(5)]
    rule = "─" * (sum(widths) + 2 * 4)
    lines = [_line(header, widths), rule, *(_line(row, widths) for row in rows), rule, _line(footer, widths)]
    size = _bytes(total * model.dtype.itemsize)
    lines.append(f"{size} of {model.dtype} parameters; FLOPs of convolutions and linear layers, forward, per example")
    return "\n".join(lines)


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [
        cell.ljust(width) if i < 3 else cell.rjust(width)
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
