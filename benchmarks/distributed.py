"""Times training with two ranks on this machine, and checks the model of docs/scaling.md with what they take.

    python benchmarks/distributed.py [--nets mlp,cnn] [--quick] [--json FILE] [--write-docs]

Needs mpi4py and mpiexec. Measured are the sum of an array over two ranks, by its size; a training step of one process
with two threads, by its batch; a step of two ranks with one thread each; and the same two at the same time without any
sums, which is what they compute. The model adds up: what is computed, the sum of the gradients, the sum of the figures.
With the sizes and speeds of networks put in, it says how far more machines of this kind would take a training.
"""

import argparse
import functools
import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import charts
import nets
import numpy as np
import reporting
import side_nnkit
from workers import WorkerError, shipped_environment

import nnkit
from nnkit import distributed

PAGE = charts.ROOT / "docs" / "scaling.md"
SIZES = (*(4**k for k in range(2, 13)), 48 << 20)  # bytes
FIGURES = 5 * 8  # bytes of the second message of a step
EPOCH = 16  # steps
# name: seconds until a message arrives, bytes a second. Assumed, not measured.
NETWORKS = {"1 Gbit/s": (50e-6, 125e6), "10 Gbit/s": (20e-6, 1.25e9), "100 Gbit/s": (3e-6, 12.5e9)}
MACHINES = (2, 4, 8, 16, 32)
COLOURS = charts.COLOURS[:3]


class TimedSolver(nnkit.Solver):
    """The Solver as it is, with the time at which each step was done; it stops after `most` of them."""

    done: list[float]
    most: int

    def _step(self, *batch: Any) -> None:
        super()._step(*batch)
        self.done.append(time.perf_counter())

    @property
    def is_finished(self) -> bool:
        return len(self.done) >= self.most


def steps(net: str, batch: int, count: int, is_joint: bool, ranks: distributed.Communicator) -> dict[str, Any]:
    """Return the median milliseconds of a step, which ranks take together or each for itself."""
    count = EPOCH * math.ceil(count / EPOCH) if count > EPOCH else count
    options = {"count": batch * min(count, EPOCH), "batch": batch, "dropout": False, "epochs": 1 << 20}
    communicator = ranks if is_joint else distributed.Communicator()
    solver = side_nnkit.solver(nets.NETS[net], TimedSolver, **options, communicator=communicator)
    solver.done, solver.most = [], count
    ranks.from_first(lambda: None)  # all begin at the same time
    solver.train()
    times = np.diff(solver.done)[1:]
    mine = 1e3 * statistics.median(times)
    return {"ms": ranks.sum_numbers([mine])[0] / ranks.size, "bytes": solver.model.flat_grads.nbytes}


def sums(sizes: Sequence[int], seconds: float, ranks: distributed.Communicator) -> dict[str, Any]:
    """Return the median milliseconds that the sum of an array of so many bytes over all ranks takes."""
    found = []
    for size in sizes:
        array = np.ones(max(size // 4, 1), np.float32)
        ranks.sum_array(array)
        repeats = int(min(2000, max(5, seconds * 1e9 / (size + 10000))))
        times = []
        for _ in range(repeats):
            array[...] = 1  # it would overflow, and it is in the cache as gradients just written are
            ranks.sum_numbers([0.0])  # wait for the others
            start = time.perf_counter()
            ranks.sum_array(array)
            times.append(time.perf_counter() - start)
        found.append(1e3 * statistics.median(times))
    return {"ms": found}


def ask(ranks: int, threads: int, **job: Any) -> Any:
    """Return what so many processes answer, each with so many threads."""
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
    if mpiexec is None:
        raise WorkerError("expected mpiexec beside Python or on the PATH: pip install 'nnkit[mpi]' mpich")
    command = [*([mpiexec, "-n", str(ranks)] if ranks > 1 else []), sys.executable, __file__, json.dumps(job)]
    environment = shipped_environment() | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise WorkerError(f"{ranks} ranks, {job}: ended with status {done.returncode}: {last[:300]}")
    return json.loads(done.stdout)


def serve(job: dict[str, Any]) -> None:
    """Be one of the processes that `ask` starts."""
    kind = {"steps": steps, "sums": sums}[job.pop("kind")]
    with distributed.connect() as ranks:
        answer = kind(**job, ranks=ranks)
        if ranks.rank == 0:
            print(json.dumps(answer))


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Return the intercept, not below 0, and the slope of the line with the least relative errors."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    slope, intercept = np.polyfit(x, y, 1, w=1 / y)
    if intercept < 0:
        slope, intercept = float((x / y).sum() / (x / y * x / y).sum()), 0.0
    return float(intercept), float(slope)


def sum_ms(size: int, machines: int, latency: float, bandwidth: float) -> float:
    """Return how long a sum over machines takes: halves, quarters, ... are exchanged, then put together again."""
    rounds = math.ceil(math.log2(machines))
    return 1e3 * (2 * rounds * latency + 2 * (machines - 1) / machines * size / bandwidth)


def measure_net(key: str, seconds: float, threads: int, quick: bool) -> dict[str, Any]:
    """Return the times of a net's steps, in milliseconds."""
    batch = 8 if quick else nets.NETS[key].batch
    first = ask(1, threads, kind="steps", net=key, batch=batch, count=4, is_joint=False)

    def timed(ranks: int, threads: int, batch: int, is_joint: bool) -> float:
        reporting.progress(f"{nets.NETS[key].title}: {ranks} × {threads} threads, batch {batch}")
        count = int(min(1000, max(6, 1e3 * seconds / first["ms"] * min(4, nets.NETS[key].batch / batch))))
        return ask(ranks, threads, kind="steps", net=key, batch=batch, count=count, is_joint=is_joint)["ms"]

    batches = [batch // part for part in ((1, 2) if quick else (1, 2, 4))]
    return {
        "net": key,
        "title": nets.NETS[key].title,
        "batch": batch,
        "bytes": first["bytes"],
        "batches": batches,
        "one_process": [timed(1, threads, size, False) for size in batches],
        "two_ranks": timed(2, max(threads // 2, 1), batch, True),
        "compute": timed(2, max(threads // 2, 1), batch // 2, False),
    }


def measure(chosen: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    seconds = 0.02 if options.quick else 4.0
    records = [measure_net(key, seconds, options.threads, options.quick) for key in chosen]
    reporting.progress("sums by size")
    sizes = (*SIZES[:: 4 if options.quick else 1], FIGURES, *(r["bytes"] for r in records))
    times = ask(2, 1, kind="sums", sizes=sizes, seconds=seconds / 10)["ms"]
    figures, own = times[-len(records) - 1], times[-len(records) :]
    for r, ms in zip(records, own, strict=True):
        r |= {"sum": ms, "figures": figures, "model": r["compute"] + ms + figures}
        r["fixed"], r["per_image"] = line(r["batches"], r["one_process"])
    by_size = sorted(zip(sizes, times, strict=True))
    fixed, slope = line(*zip(*by_size, strict=True))
    fit = {"latency_us": 1e3 * fixed / 2, "gb_per_s": 1e-6 / slope}  # two messages of half of it: n bytes in all
    return {"records": records, "sums": by_size, "fit": fit}


def predicted(r: dict[str, Any], machines: int, network: tuple[float, float], is_weak: bool) -> float:
    """Return how many times the images a second of one machine several ones make.

    Weak: each with the batch of one; else the batch is divided among them.
    """
    share = r["batch"] if is_weak else r["batch"] / machines
    messages = sum(sum_ms(size, machines, *network) for size in (r["bytes"], FIGURES))
    alone = r["fixed"] + r["per_image"] * r["batch"]
    return alone * (machines if is_weak else 1) / (r["fixed"] + r["per_image"] * share + messages)


def lines_of(found: dict[str, Any], conditions: str, threads: int) -> list[str]:
    fit, halves = found["fit"], max(threads // 2, 1)
    lines = [conditions, ""]
    columns = [f"1 × {threads} threads, ms", f"2 ranks × {halves}, ms", "of it computed, ms", "sum of gradients, ms"]
    columns += ["of figures, ms", "model, ms", "model / measured"]
    lines.append(f"| net | batch | gradients, MB | {' | '.join(columns)} |")
    lines += ["|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for r in found["records"]:
        cells = [r["one_process"][0], r["two_ranks"], r["compute"], r["sum"], r["figures"], r["model"]]
        times = " | ".join(f"{ms:.3g}" for ms in cells)
        row = f"| {r['title']} | {r['batch']} | {r['bytes'] / 1e6:.1f} | {times} |"
        lines.append(f"{row} **{r['model'] / r['two_ranks']:.2f}** |")
    fitted = f"{2 * fit['latency_us']:.3g} µs, and 1 s for {fit['gb_per_s']:.3g} GB"
    lines += ["", f"A sum over two ranks of this machine takes {fitted}."]
    lines += ["", "Calculated, not measured: how many times faster several machines of this kind train than one."]
    for is_weak, what in ((False, "The batch divided among them"), (True, "Each with a batch as large as one's alone")):
        lines += ["", f"{what}:", "", f"| net | batch | network | {' | '.join(f'{p} machines' for p in MACHINES)} |"]
        lines += ["|---|--:|---|" + "--:|" * len(MACHINES)]
        for r in found["records"]:
            for name, network in NETWORKS.items():
                cells = " | ".join(f"{predicted(r, p, network, is_weak):.1f}×" for p in MACHINES)
                lines.append(f"| {r['title']} | {r['batch']}{' each' * is_weak} | {name} | {cells} |")
    return lines


@charts.style.in_house_style
def figure_of(found: dict[str, Any]) -> Any:
    records = found["records"]
    figure = charts.style.headed_figure(
        3.4 * (1 + len(records)),
        3.6,
        "Sums over two ranks, and what the model makes of more machines",
        "left: measured on one machine; right: calculated, each machine with a batch of its own",
    )
    left, *others = figure.subplots(1, 1 + len(records))
    sizes, times = zip(*found["sums"], strict=True)
    left.loglog(sizes, times, "o", color=charts.style.BLUE)
    fit = found["fit"]
    left.loglog(sizes, [2e-3 * fit["latency_us"] + 1e-6 * s / fit["gb_per_s"] for s in sizes], color=charts.style.MUTED)
    left.set(title="Sum of an array", ylabel="ms")
    left.set_xticks([1e2, 1e4, 1e6, 1e8], ["100 B", "10 KB", "1 MB", "100 MB"])
    left.set_yticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
    left.minorticks_off()
    for axes, r in zip(others, records, strict=True):
        counts = (1, *MACHINES)
        axes.loglog(counts, counts, color=charts.style.FAINT, base=2)
        for (name, network), colour, mark in zip(NETWORKS.items(), COLOURS, "os^", strict=True):
            gains = [1.0, *(predicted(r, p, network, True) for p in MACHINES)]
            axes.loglog(counts, gains, f"{mark}-", base=2, color=colour, label=name)
        axes.set(title=f"{r['title']}, {r['batch']} each", xlabel="machines", ylabel="times faster")
        axes.minorticks_off()
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set_yticks(counts, [str(count) for count in counts])
    others[0].legend(frameon=False, fontsize=8)
    for axes in (left, *others):
        axes.grid(axis="both")
    return figure


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        serve(json.loads(sys.argv[1]))
        return
    parser = reporting.parser(__doc__)
    parser.add_argument("--nets", default="mlp,cnn,resnet18", help="some of " + ",".join(nets.NETS) + "; %(default)s")
    options = parser.parse_args()
    for key in (chosen := options.nets.split(",")):
        if key not in nets.NETS:
            parser.error(f"--nets: expected some of {', '.join(nets.NETS)}, got {key!r}")
    found, idle = reporting.measure_when_idle(functools.partial(measure, chosen, options), options)
    lines = lines_of(found, reporting.conditions(options, idle), options.threads)
    figures = {"idle": idle, "threads": options.threads, **found}
    alt = "Lines: the time of a sum against its size, and how many times faster more machines train, by the model"
    draw = functools.partial(draw_to, found)
    reporting.finish("distributed", options, lines, figures, draw, alt, PAGE)


def draw_to(found: dict[str, Any], path: Path) -> None:
    charts.style.save(figure_of(found), path)


if __name__ == "__main__":
    reporting.run(main)
