"""Times training steps against batch size, width, depth, image size and threads, and fits how the time grows.

    python benchmarks/scaling.py [--threads N] [--quick] [--json FILE] [--write-docs]

The net is a stack of 3×3 convolutions, each with batch norm and ReLU, then an average and a linear layer; one property
varies while the others stay as in `BASE`. The slope is that of log time over log size: 1 is proportional, 2 quadratic,
less than expected means that fixed costs still count. A step is forward, loss, backward and update (Adam).
"""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import panels
import reporting

import nnkit
from nnkit.layers import CrossEntropyLoss
from nnkit.models import vgg
from nnkit.optim import Adam

BASE = {"batch size": 32, "width": 32, "depth": 4, "image size": 32}
SWEEPS = {
    "batch size": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "width": (8, 16, 32, 64, 128, 256),
    "depth": (1, 2, 4, 8, 16),
    "image size": (8, 16, 32, 64, 128),
}
EXPECTED = {"batch size": 1, "width": 2, "depth": 1, "image size": 2}  # where only arithmetic counts
QUICK_BASE = {"batch size": 2, "width": 8, "depth": 2, "image size": 8}
QUICK_SWEEPS = {"batch size": (1, 2, 4), "width": (8, 16), "depth": (1, 2), "image size": (8, 16)}
PARTS = ("forward", "backward", "update")


class Step:
    """A net of some size, and one training step of it at a time."""

    def __init__(self, sizes: dict[str, int]) -> None:
        side, batch = sizes["image size"], sizes["batch size"]
        self.model = vgg(10, widths=(sizes["width"],), depth=sizes["depth"])
        self.model.build((3, side, side))
        self.optimizer, self.loss = Adam(), CrossEntropyLoss()
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((batch, side, side, 3), np.float32).transpose(0, 3, 1, 2)
        self.y = rng.integers(0, 10, batch)

    def seconds(self, clock: Callable[[], float]) -> tuple[float, ...]:
        """Take one step; return the seconds of its parts."""
        marks = [clock()]
        self.loss.forward(self.model.forward(self.x, training=True), self.y)
        marks.append(clock())
        self.model.backward(self.loss.backward(), input_gradient=False)
        marks.append(clock())
        self.optimizer.step(self.model.flat_params, self.model.flat_grads)
        marks.append(clock())
        return tuple(b - a for a, b in itertools.pairwise(marks))


def milliseconds(sizes: dict[str, int], threads: int, budget: float, clock: Callable[[], float]) -> dict[str, float]:
    """Return the lower quartile of the whole step, cut in proportion to its parts' medians."""
    nnkit.set_num_threads(threads)
    step = Step(sizes)
    step.seconds(clock)
    taken = []
    end = time.perf_counter() + budget
    while len(taken) < 3 or time.perf_counter() < end:
        taken.append(step.seconds(clock))
    whole = 1e3 * float(np.quantile([sum(parts) for parts in taken], 0.25))
    medians = [statistics.median(parts) for parts in zip(*taken, strict=True)]
    return {"step": whole} | {p: whole * m / sum(medians) for p, m in zip(PARTS, medians, strict=True)}


def slope(sizes: Sequence[int], times: Sequence[float]) -> float:
    """Fit a straight line to the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def measure(
    base: dict[str, int], sweeps: dict[str, tuple[int, ...]], threads: int, budget: float
) -> list[dict[str, Any]]:
    """Return a record for each property that varies, the last for the number of threads."""
    clock = time.process_time if threads == 1 else time.perf_counter  # the former is disturbed least by others
    records = []
    for what, values in sweeps.items():
        times = []
        for value in values:
            reporting.progress(f"{what} {value}")
            times.append(milliseconds(base | {what: value}, threads, budget, clock))
        steps = [t["step"] for t in times]
        slopes = {
            "slope": slope(values, steps),
            "last_slope": slope(values[-2:], steps[-2:]),
            "expected": EXPECTED[what],
        }
        records.append({"what": what, "values": values, "milliseconds": times, **slopes})
    counts = tuple(range(1, threads + 1))
    times = [milliseconds(base, count, budget, time.perf_counter) for count in counts]
    return [*records, {"what": "threads", "values": counts, "milliseconds": times}]


def lines_of(records: list[dict[str, Any]], base: dict[str, int], conditions: str) -> list[str]:
    """Return the slopes, the threads, and all times as Markdown tables."""
    *sweeps, by_threads = records
    held = ", ".join(f"{what} {value}" for what, value in base.items())
    lines = [f"{conditions} What does not vary: {held}.", ""]
    lines += ["| property | range | slope | of the last two | of the arithmetic |", "|---|---|--:|--:|--:|"]
    for r in sweeps:
        values, slopes = r["values"], f"{r['slope']:.2f} | {r['last_slope']:.2f} | {r['expected']}"
        lines.append(f"| {r['what']} | {values[0]} … {values[-1]} | {slopes} |")
    lines += [
        "",
        "| threads | ms/step | faster than one thread | forward | backward | update |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    one = by_threads["milliseconds"][0]["step"]
    for count, t in zip(by_threads["values"], by_threads["milliseconds"], strict=True):
        lines.append(f"| {count} | {t['step']:.3g} | {one / t['step']:.2f}× | {parts_text(t)} |")
    lines += ["", "| property | value | ms/step | forward | backward | update |", "|---|--:|--:|--:|--:|--:|"]
    for r in sweeps:
        for value, t in zip(r["values"], r["milliseconds"], strict=True):
            lines.append(f"| {r['what']} | {value} | {t['step']:.3g} | {parts_text(t)} |")
    return lines


def parts_text(times: dict[str, float]) -> str:
    return " | ".join(f"{times[part] / times['step']:.0%}" for part in PARTS)


def main() -> None:
    options = reporting.parser(__doc__).parse_args()
    base, sweeps, budget = (QUICK_BASE, QUICK_SWEEPS, 0.01) if options.quick else (BASE, SWEEPS, 1.0)
    records, idle = reporting.measure_when_idle(lambda: measure(base, sweeps, options.threads, budget), options)
    lines = lines_of(records, base, reporting.conditions(options, idle))
    figures = {"idle": idle, "threads": options.threads, "base": base, "records": records}
    alt = "Lines: milliseconds of a training step against batch size, width, depth, image size and threads"
    reporting.finish("scaling", options, lines, figures, lambda path: panels.scaling_chart(path, records), alt)


if __name__ == "__main__":
    main()
