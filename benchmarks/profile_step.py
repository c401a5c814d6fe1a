"""Tells where a training step's time goes: kernel by kernel, and what Python and NumPy take in between.

    python benchmarks/profile_step.py [--nets cnn,resnet18] [--steps N] [--threads N] [--json FILE] [--write-docs]

The Solver trains as it does for `train_step.py`; each call of a kernel is timed on the way.
"""

import sys
import time
from collections import defaultdict
from functools import partial
from types import SimpleNamespace
from typing import Any

import nets
import panels
import reporting
import side_nnkit

import nnkit
from nnkit._ext import kernels

WARM_UP = 3  # steps that do not count
GROUPS = {  # a kernel belongs to the first group that has the beginning of its name
    "batches": "augment",
    "convolution": "conv2d",
    "matrix products": "gemm",
    "batch norm": "batch_norm",
    "pooling": ("max_pool", "avg_pool", "average"),
    "activations and sums": ("relu", "gelu", "silu", "sigmoid", "tanh", "add"),
    "loss": "cross_entropy",
    "optimizer": ("sgd", "adam", "rmsprop"),
}


class TimedKernels:
    """The kernel set, with a stopwatch on each of its functions."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(kernels, name)
        if not callable(kernel):
            return kernel

        def timed(*args: Any, **options: Any) -> Any:
            result = self.clock(name, kernel, *args, **options)
            if hasattr(result, "finish"):  # what helpers do before, in time that they have, delays nobody
                self.calls[name] -= 1  # it counts when it is finished
                return SimpleNamespace(finish=partial(self.clock, name, result.finish))
            return result

        setattr(self, name, timed)
        return timed

    def clock(self, name: str, function: Any, *args: Any, **options: Any) -> Any:
        """Call a function, adding to the calls of a kernel and to the time that it has taken."""
        self.calls[name] += 1
        start = time.perf_counter()
        result = function(*args, **options)
        self.seconds[name] += time.perf_counter() - start
        return result

    def __enter__(self) -> "TimedKernels":
        """Take the kernels' place in all modules that have imported them."""
        named = (module for name, module in sys.modules.items() if name.startswith("nnkit."))
        self.modules = [module for module in named if getattr(module, "kernels", None) is kernels]
        self._put(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._put(kernels)

    def _put(self, kernel_set: Any) -> None:
        for module in self.modules:
            module.kernels = kernel_set  # type: ignore[attr-defined]

    def reset(self) -> None:
        self.seconds.clear()
        self.calls.clear()


class ProfiledSolver(nnkit.Solver):
    """The Solver as it is, with the time at which each step was done."""

    timed: TimedKernels
    done: list[float]

    def _step(self, *batch: Any) -> None:
        super()._step(*batch)
        self.done.append(time.perf_counter())
        if len(self.done) == WARM_UP:
            self.timed.reset()


def profile(key: str, steps: int, batch: int) -> dict[str, Any]:
    """Train a net for some steps; return milliseconds and calls a step, of each kernel and of what is in between."""
    net = nets.NETS[key]
    options = {"count": batch * (steps + WARM_UP), "batch": batch, "dropout": True, "epochs": 1}
    solver = side_nnkit.solver(net, ProfiledSolver, **options, augment=nnkit.Augment(flip=True))
    with TimedKernels() as timed:
        solver.timed, solver.done = timed, []
        solver.train()
    per_step = 1e3 / steps
    parts = {name: per_step * seconds for name, seconds in timed.seconds.items()}
    step = per_step * (solver.done[-1] - solver.done[WARM_UP - 1])
    return {
        "net": key,
        "title": f"{net.title}, batch {batch}",
        "step": step,
        "kernels": dict(sorted(parts.items(), key=lambda item: -item[1])),
        "calls": {name: count / steps for name, count in timed.calls.items()},
        "between": step - sum(parts.values()),
    }


def by_group(record: dict[str, Any]) -> dict[str, float]:
    """Return the milliseconds of each group of kernels, and of what is in between."""
    found = dict.fromkeys(GROUPS, 0.0) | {"other kernels": 0.0, "Python and NumPy": record["between"]}
    for name, ms in record["kernels"].items():
        fitting = (group for group, beginnings in GROUPS.items() if name.startswith(beginnings))
        found[next(fitting, "other kernels")] += ms
    return found


def lines_of(records: list[dict[str, Any]], conditions: str) -> list[str]:
    """Return a table by groups, and one by kernels to be opened."""
    groups = list(by_group(records[0]))
    lines = [conditions, "", f"| net | ms/step | {' | '.join(groups)} |", "|---|" + "--:|" * (1 + len(groups))]
    for r in records:
        cells = [f"{ms:.3g} ({ms / r['step']:.0%})" if ms else "" for ms in by_group(r).values()]
        lines.append(f"| {r['title']} | {r['step']:.3g} | {' | '.join(cells)} |")
    lines += ["", "<details><summary>Kernel by kernel</summary>", ""]
    lines += ["| net | kernel | calls/step | ms/step | share |", "|---|---|--:|--:|--:|"]
    for r in records:
        for name, ms in r["kernels"].items():
            lines.append(f"| {r['title']} | `{name}` | {r['calls'][name]:.3g} | {ms:.3g} | {ms / r['step']:.1%} |")
    return [*lines, "", "</details>"]


def main() -> None:
    parser = reporting.parser(__doc__)
    parser.add_argument("--nets", default=",".join(nets.NETS), help="some of %(default)s (the default)")
    parser.add_argument("--steps", type=int, default=100, help="at most; fewer where a step is long")
    options = parser.parse_args()
    for key in (chosen := options.nets.split(",")):
        if key not in nets.NETS:
            parser.error(f"--nets: expected some of {', '.join(nets.NETS)}, got {key!r}")
    nnkit.set_num_threads(options.threads)

    def measure() -> list[dict[str, Any]]:
        records = []
        for key in chosen:
            reporting.progress(nets.NETS[key].title)
            batch = 8 if options.quick else nets.NETS[key].batch
            trial = profile(key, 1, batch)
            steps = 2 if options.quick else max(5, min(options.steps, round(1e4 / trial["step"])))
            records.append(profile(key, steps, batch))
        return records

    records, idle = reporting.measure_when_idle(measure, options)
    lines = lines_of(records, reporting.conditions(options, idle))
    figures = {"idle": idle, "threads": options.threads, "records": records}
    shares = {r["title"]: by_group(r) for r in records}
    alt = "Bars: shares of a training step by kind of kernel, net by net"
    reporting.finish("profile_step", options, lines, figures, lambda path: panels.profile_chart(path, shares), alt)


if __name__ == "__main__":
    reporting.run(main)
