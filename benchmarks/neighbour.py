"""Times training steps of nnkit and PyTorch alone, and beside programs that keep a core busy each.

    python benchmarks/neighbour.py [--nets cnn,resnet18] [--threads N] [--json FILE] [--write-docs]

Both train in processes of their own, in turns, PyTorch with its usually best settings (channels-last tensors, fused
optimizer, ReLU in place, tuned allocator) and both with as many threads as there are cores. What counts is how many
times longer a step takes with a neighbour: two threads beside one busy program have two thirds of two cores at best.
"""

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import nets
import panels
import reporting
from workers import Worker

BUSY = "while True: pass"
BEST = ["channels_last", "fused", "inplace"]
NAMES = {"nnkit": "nnkit", "torch": "PyTorch"}


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
        workers["torch"] = Worker("side_torch.py", job | {"variant": settings}, threads, tuned=True)
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


def lines_of(records: list[dict[str, Any]], conditions: str) -> list[str]:
    lines = [conditions, "", "| net | busy neighbours | nnkit, ms/step | slower | PyTorch, ms/step | slower |"]
    lines.append("|---|--:|--:|--:|--:|--:|")
    for r in records:
        for i, count in enumerate(r["neighbours"]):
            cells = []
            for side in NAMES:
                times = r["milliseconds"].get(side)
                cells += [f"{times[i]:.3g}", f"**{times[i] / times[0]:.2f}×**" if i else ""] if times else ["", ""]
            lines.append(f"| {r['title']} | {count} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = reporting.parser(__doc__)
    parser.add_argument("--nets", default="mlp,cnn,resnet18", help="some of " + ",".join(nets.NETS) + "; %(default)s")
    options = parser.parse_args()
    for key in (chosen := options.nets.split(",")):
        if key not in nets.NETS:
            parser.error(f"--nets: expected some of {', '.join(nets.NETS)}, got {key!r}")
    turns, seconds = (1, 0.05) if options.quick else (4, 1.0)
    counts = sorted({0, 1, options.threads})
    records, idle = reporting.measure_when_idle(
        lambda: [measure(key, counts, options.threads, turns, seconds) for key in chosen], options
    )
    lines = lines_of(records, reporting.conditions(options, idle))
    figures = {"idle": idle, "threads": options.threads, "records": records}
    reporting.finish("neighbour", options, lines, figures, lambda path: panels.neighbour_chart(path, records))


if __name__ == "__main__":
    reporting.run(main)
