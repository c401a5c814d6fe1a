"""Times training steps of nnkit and PyTorch alone, and beside programs that keep a core busy each.

    python benchmarks/neighbour.py [--nets cnn,resnet18] [--threads N] [--json FILE] [--write-docs]

Both train in processes of their own, in turns, PyTorch with its usually best settings (channels-last tensors, fused
optimizer, ReLU in place, tuned allocator) and both with as many threads as there are cores. What counts is how many
times longer a step takes with a neighbour: two threads beside one busy program have two thirds of two cores at best.

NumPy's BLAS is a neighbour, too, in the same process: a matrix product of NumPy's and one of nnkit's are timed alone
and right after each other, with the BLAS's threads as they are and with one.
"""

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nets
import numpy as np
import panels
import reporting
from workers import TUNED_ALLOCATOR, Worker

from nnkit._ext import kernels

BUSY = "while True: pass"
BEST = ["channels_last", "fused", "inplace"]
NAMES = {"nnkit": "nnkit", "torch": "PyTorch"}
SIZE = 256  # rows and columns of a product: enough for all threads, done in less than a millisecond


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Have so many processes compute for as long as the block lasts."""
    started = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        time.sleep(0.2 if started else 0)  # for them to get going
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def measure(key: str, counts: list[int], threads: int, turns: int, seconds: float) -> dict[str, Any]:
    """Return the median milliseconds of a step of both sides, for each number of neighbours."""
    net = nets.NETS[key]
    job = {"task": "train", "net": key, "batch": net.batch, "count": 4 * net.batch, "check": 0}
    settings = BEST if net.images else BEST[1:]
    workers = {"nnkit": Worker("side_nnkit.py", job, threads)}
    if reporting.has_torch():
        workers["torch"] = Worker("side_torch.py", job | {"variant": settings}, threads, TUNED_ALLOCATOR)
    try:
        for worker in workers.values():
            worker.answer()
        steps = {}
        for side, worker in workers.items():
            worker.steps(1)
            steps[side] = max(1, round(seconds / worker.steps(1)["seconds"][0]))
        found: dict[str, list[float]] = {side: [] for side in workers}
        for count in counts:
            reporting.progress(f"{net.title}, {count} neighbours")
            times: dict[str, list[float]] = {side: [] for side in workers}
            with neighbours(count):
                for _ in range(turns):
                    for side, worker in workers.items():
                        times[side] += worker.steps(steps[side])["seconds"]
                        time.sleep(0.02)  # for its threads to fall asleep
            for side in workers:
                found[side].append(1e3 * statistics.median(times[side]))
    finally:
        for worker in workers.values():
            worker.close()
    return {"net": key, "title": f"{net.title}, batch {net.batch}", "neighbours": counts, "milliseconds": found}


BLAS = {"as they are": {}, "one": {"OPENBLAS_NUM_THREADS": "1"}}  # its threads


def blas(threads: int, repeats: int) -> dict[str, Any]:
    """Return what `alternate` finds with each setting of the BLAS's threads."""
    found = {}
    for name, settings in BLAS.items():
        reporting.progress(f"NumPy's BLAS, threads: {name}")
        worker = Worker(Path(__file__).name, {"repeats": repeats}, threads, settings)
        try:
            found[name] = worker.answer()
        finally:
            worker.close()
    return found


def alternate(repeats: int) -> dict[str, dict[str, float]]:
    """Return the median microseconds of a product of NumPy's and one of nnkit's, alone and after the other."""
    a, b, out = np.random.default_rng(0).standard_normal((3, SIZE, SIZE), np.float32)
    calls: dict[str, Callable[[], Any]] = {
        "numpy": lambda: np.matmul(a, b, out),
        "nnkit": lambda: kernels.gemm(a, b, out),
    }
    found: dict[str, dict[str, float]] = {name: {} for name in calls}
    for when, sequences in {"alone": [["numpy"], ["nnkit"]], "after": [["numpy", "nnkit"]]}.items():
        for sequence in sequences:
            times: dict[str, list[float]] = {name: [] for name in sequence}
            for _ in range(repeats):
                for name in sequence:
                    start = time.perf_counter()
                    calls[name]()
                    times[name].append(time.perf_counter() - start)
            for name in sequence:
                found[name][when] = 1e6 * statistics.median(times[name])
            time.sleep(0.02)  # for the threads to fall asleep
    return found


def lines_of(records: list[dict[str, Any]], products: dict[str, Any], conditions: str) -> list[str]:
    lines = [conditions, "", "| net | busy neighbours | nnkit, ms/step | slower | PyTorch, ms/step | slower |"]
    lines.append("|---|--:|--:|--:|--:|--:|")
    for r in records:
        for i, count in enumerate(r["neighbours"]):
            cells = []
            for side in NAMES:
                times = r["milliseconds"].get(side)
                cells += [f"{times[i]:.3g}", f"**{times[i] / times[0]:.2f}×**" if i else ""] if times else ["", ""]
            lines.append(f"| {r['title']} | {count} | {' | '.join(cells)} |")
    lines += ["", f"Products of two {SIZE} × {SIZE} matrices in one process, by turns NumPy's and nnkit's:", ""]
    lines += ["| threads of NumPy's BLAS | product | alone, µs | right after the other's, µs | slower |"]
    lines += ["|---|---|--:|--:|--:|"]
    for threads, found in products.items():
        for side, name in {"numpy": "NumPy's", "nnkit": "nnkit's"}.items():
            alone, after = found[side]["alone"], found[side]["after"]
            lines.append(f"| {threads} | {name} | {alone:,.0f} | {after:,.0f} | **{after / alone:.2f}×** |")
    return lines


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        print(json.dumps(alternate(**json.loads(sys.argv[1]))))
        return
    parser = reporting.parser(__doc__)
    parser.add_argument("--nets", default="mlp,cnn,resnet18", help="some of " + ",".join(nets.NETS) + "; %(default)s")
    options = parser.parse_args()
    for key in (chosen := options.nets.split(",")):
        if key not in nets.NETS:
            parser.error(f"--nets: expected some of {', '.join(nets.NETS)}, got {key!r}")
    turns, seconds = (1, 0.05) if options.quick else (4, 1.0)
    counts = sorted({0, 1, options.threads})

    def measure_all() -> tuple[list[dict[str, Any]], dict[str, Any]]:
        products = blas(options.threads, 20 if options.quick else 1000)
        return [measure(key, counts, options.threads, turns, seconds) for key in chosen], products

    (records, products), idle = reporting.measure_when_idle(measure_all, options)
    lines = lines_of(records, products, reporting.conditions(options, idle))
    figures = {"idle": idle, "threads": options.threads, "records": records, "products_us": products}
    alt = "Lines: how many times longer a training step takes beside busy programs, nnkit and PyTorch"
    reporting.finish("neighbour", options, lines, figures, lambda path: panels.neighbour_chart(path, records), alt)


if __name__ == "__main__":
    reporting.run(main)
