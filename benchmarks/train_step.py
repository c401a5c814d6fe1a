"""Times whole training steps, or predictions, of nnkit and of PyTorch in turns; tells how many times faster nnkit is.

    python benchmarks/train_step.py                  # training, all six nets: about 8 minutes
    python benchmarks/train_step.py --quick          # fewer turns and settings: about 3 minutes
    python benchmarks/train_step.py --inference      # `predict` at batch 1 and 256
    python benchmarks/train_step.py --repeats 3 --json results.json --write-docs

Each side works in a process of its own, on the same net with the same first weights, batches of the same size and the
same optimizer; that the losses of the first steps agree is checked. A step is everything: choosing images that lie in
memory as bytes, mirroring half of them, normalising, forward, loss, dropout, backward, update. nnkit's is the Solver's
own loop. PyTorch is measured three times: as shipped; in the fastest of the settings {fused optimizer and in-place
ReLU, channels_last, torch.compile}; and in the fastest with a tuned allocator. The ratio counts against the best of all
three. The machine has to be idle.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import charts
import machine
import nets
from workers import TUNED_ALLOCATOR, Worker, WorkerError

COMPILE_LIMIT = 240.0  # seconds
NEAR = 1.15  # settings within so much of the fastest are tried with the tuned allocator, too
COLUMNS = {"shipped": "PyTorch as shipped", "best": "its best setting", "tuned": "and tuned allocator"}
WORDS = {
    "fused": "fused optimizer",
    "inplace": "in-place ReLU",
    "channels_last": "channels_last",
    "compile": "torch.compile",
    "jit": "torch.jit",
    "one_thread": "one thread",
}
Variant = tuple[str, ...]
Result = dict[str, Any]


class NotIdleError(Exception):
    """Something else is at work on the machine."""


class Contest:
    """The processes of one net, and what is measured with them."""

    def __init__(self, net: str, batch: int | None, options: argparse.Namespace) -> None:
        self.key, self.net, self.options = net, nets.NETS[net], options
        self.batch = batch or self.net.batch  # one is given where it is prediction that counts
        self.task = "predict" if batch else "train"
        self.workers: dict[tuple[str, Variant, bool], Worker] = {}
        self.failures: list[str] = []

    def start(self, side: str, variant: Variant = (), tuned: bool = False) -> Worker:
        """Start a process, if it does not run yet; it gets ready meanwhile."""
        key = side, variant, tuned
        if key not in self.workers:
            job: dict[str, Any] = {"task": self.task, "net": self.key, "variant": variant, "batch": self.batch}
            job["count"] = max(self.options.images // self.batch, 1) * self.batch
            job["check"] = 0 if tuned or variant else min(self.batch, 128)
            self.workers[key] = Worker(f"side_{side}.py", job, self.options.threads, TUNED_ALLOCATOR if tuned else None)
        return self.workers[key]

    def run(self) -> Result:
        """Measure nnkit and the three settings of PyTorch."""
        try:
            return self._run()
        finally:
            for worker in self.workers.values():
                worker.close()

    def _run(self) -> Result:
        ours, shipped = self.start("nnkit"), self.start("torch")
        eager = self.eager_variants()
        for variant in eager:
            self.start("torch", variant)
        first = ours.answer()
        times = self.probe([(), *eager], tuned=False)
        check(self.net, first["check"], shipped.first["check"])
        times |= self.probe(self.compiled_variants(fastest(times)), tuned=False)
        best = fastest(times)
        sides = {"nnkit": ours, "shipped": shipped, "best": self.start("torch", best)}
        self.close_all_but(sides)
        tuned_times = self.probe([v for v in times if times[v] < NEAR * times[best]], tuned=True)
        estimates = {"nnkit": warm_up(ours), "shipped": times[()], "best": times[best]}
        tuned = fastest(tuned_times or times)
        if tuned_times:
            sides["tuned"], estimates["tuned"] = self.start("torch", tuned, tuned=True), tuned_times[tuned]
        self.close_all_but(sides)
        before = machine.Load.now()
        seconds = take_turns(sides, estimates, self.options)
        others = machine.others_between(before, machine.Load.now(), {worker.pid for worker in sides.values()})
        result: Result = {
            "net": self.key,
            "title": self.net.title,
            "task": self.task,
            "batch": self.batch,
            "idle": others.idle,
            "others": str(others),
            **{side: summary(values, self.batch) for side, values in seconds.items()},
            "best_variant": spoken(best),
            "tuned_variant": spoken(tuned) + " + tuned allocator" if tuned_times else "",
            "probes_ms": {spoken(v): round(1e3 * t, 3) for v, t in times.items()}
            | {spoken(v) + " + tuned allocator": round(1e3 * t, 3) for v, t in tuned_times.items()},
            "failures": self.failures,
            "must": self.net.must if self.task == "train" else 1.5,
            "aim": self.net.aim if self.task == "train" else None,
            "versions": {"nnkit": first["version"], "kernels": first["kernels"], "threads": first["threads"]},
        }
        result["winner"] = min((side for side in COLUMNS if side in result), key=lambda s: result[s]["ms"])
        result["ratio"] = result[result["winner"]]["ms"] / result["nnkit"]["ms"]
        return result

    def close_all_but(self, sides: dict[str, Worker]) -> None:
        """End the processes that are no longer needed: the larger nets take gigabytes each."""
        for key, worker in list(self.workers.items()):
            if worker not in sides.values():
                self.workers.pop(key).close()

    def eager_variants(self) -> list[Variant]:
        """Return the settings to be tried besides that of the tutorials."""
        variants: list[Variant] = [("jit",)] if self.task == "predict" else [("fused", "inplace")]
        if self.net.images:
            variants += [("channels_last", *variants[0])] + [("channels_last",)] * (self.task == "predict")
        if self.options.quick:
            return variants[:2][-1:]
        if self.task == "predict" and self.batch == 1:  # so little work that a second thread may only cost time
            variants += [(*variant, "one_thread") for variant in variants]
        return variants

    def compiled_variants(self, best: Variant) -> list[Variant]:
        """Return what to try with torch.compile, in the memory layout that has won without."""
        if not self.options.compile:
            return []
        layout: Variant = ("channels_last",) if "channels_last" in best else ()
        return [("compile", *layout) if self.task == "predict" else ("compile", *layout, "fused", "inplace")]

    def probe(self, variants: Sequence[Variant], tuned: bool) -> dict[Variant, float]:
        """Return the seconds that a few steps take in each of these settings; one that fails is noted and left out."""
        workers = {variant: self.start("torch", variant, tuned) for variant in variants}
        times: dict[Variant, float] = {}
        for measure in (False, True):  # first let all get ready: none may be starting while another is measured
            for variant, worker in list(workers.items()):
                try:
                    if measure:
                        times[variant] = warm_up(worker)
                    else:
                        worker.answer()
                except WorkerError as error:
                    if not variant:  # PyTorch as shipped
                        raise
                    self.failures.append(str(error))
                    worker.close()
                    del workers[variant]
        return times


def fastest(times: dict[Variant, float]) -> Variant:
    return min(times, key=lambda variant: times[variant])


def spoken(variant: Variant) -> str:
    return " + ".join(WORDS[word] for word in variant) or "as shipped"


def check(net: nets.Net, ours: list[float], theirs: list[float]) -> None:
    """Raise unless both sides compute the same: the first loss closely, the one after an update more loosely."""
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        tolerance = net.tolerance if i == 0 else 30 * net.tolerance
        if not abs(a - b) <= tolerance * max(abs(b), 1.0):
            raise WorkerError(f"{net.title}: nnkit and PyTorch do not compute the same: {ours} and {theirs}")


def warm_up(worker: Worker) -> float:
    """Let a worker compile and fill its caches; return the seconds that a step takes, roughly."""
    worker.steps(1, COMPILE_LIMIT)
    again = worker.steps(1)["seconds"][0]
    return statistics.median(worker.steps(min(int(0.3 / again), 100))["seconds"]) if again < 0.3 else again


def take_turns(
    sides: dict[str, Worker], estimates: dict[str, float], options: argparse.Namespace
) -> dict[str, list[float]]:
    """Let the sides work one after the other, several times; return the seconds of each one's steps.

    The first steps of a turn do not count where they are short: caches and threads have to wake up.
    """
    seconds: dict[int, list[float]] = {worker.pid: [] for worker in sides.values()}
    workers = {worker.pid: (worker, estimates[side]) for side, worker in sides.items()}  # two sides may share one
    for _ in range(options.turns):
        for pid, (worker, step) in workers.items():
            time.sleep(0.02)  # for the threads of the one before to fall asleep
            taken = worker.steps(max(1, round(options.turn_seconds / step)))["seconds"]
            seconds[pid] += taken[min(5, len(taken) // 4) :]
    return {side: seconds[worker.pid] for side, worker in sides.items()}


def summary(seconds: list[float], batch: int) -> dict[str, float]:
    """Return median and quartiles in milliseconds."""
    low, middle, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else seconds * 3
    figures = {"ms": 1e3 * middle, "q1": 1e3 * low, "q3": 1e3 * high}
    return {**figures, "images_per_second": batch / middle, "steps": len(seconds)}


def verdict(result: Result) -> str:
    ratio = result["ratio"]
    if ratio < result["must"]:
        return "missed"
    return "aim" if result["aim"] and ratio >= result["aim"] else "must"


def table(results: list[Result]) -> list[str]:
    """Return a Markdown table of the results."""
    lines = [
        f"| net | batch | nnkit, ms | images/s | {', ms | '.join(COLUMNS.values())}, ms | ratio | must | aim |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in results:
        theirs = [milliseconds(r[c]["ms"]) if c in r else "–" for c in COLUMNS]
        theirs = [
            f"**{text}**" if column == r["winner"] else text for column, text in zip(COLUMNS, theirs, strict=True)
        ]
        cells = [r["title"], str(r["batch"]), milliseconds(r["nnkit"]["ms"]), f"{r['nnkit']['images_per_second']:,.0f}"]
        aim = f"{r['aim']:g}×" if r["aim"] else ""
        lines.append(f"| {' | '.join([*cells, *theirs])} | **{r['ratio']:.2f}×** | {r['must']:g}× | {aim} |")
    return lines


def milliseconds(ms: float) -> str:
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"


def line(r: Result) -> str:
    """Return one net's result as it is shown when it is known."""
    parts = [f"{side} {milliseconds(r[side]['ms'])}" for side in ("nnkit", *COLUMNS) if side in r]
    spread = ", ".join(
        f"{side} {milliseconds(r[side]['q1'])}–{milliseconds(r[side]['q3'])}" for side in ("nnkit", r["winner"])
    )
    speed = f"{r['nnkit']['images_per_second']:,.0f} images/s"
    found = f"{r['ratio']:.2f}× ({verdict(r)}; must {r['must']:g}×)"
    mark = "" if r["idle"] else "  NOT IDLE: " + r["others"]
    return (
        f"{r['title']}, batch {r['batch']}: ms {', '.join(parts)}; quartiles {spread}\n"
        f"    {speed}; {found}\n"
        f"    best: {r['best_variant']}; {r['tuned_variant']}{mark}" + "".join(f"\n    {f}" for f in r["failures"])
    )


def legend(results: list[Result]) -> list[str]:
    """Return what has to be said below the table."""
    info = machine.description()
    import torch

    v = results[0]["versions"]
    lines = [
        f"{info['processor']}, {v['threads']} threads; nnkit {v['nnkit']} ({v['kernels']} kernels), PyTorch "
        f"{torch.__version__}. Medians of steps measured in turns; the best PyTorch is in bold.",
        "",
    ]
    lines += [f"- {r['title']}, batch {r['batch']}: {r['best_variant']}; {r['tuned_variant']}" for r in results]
    return lines + ([] if all(r["idle"] for r in results) else ["", "**The machine was not idle.**"])


def require_idle(options: argparse.Namespace, when: str) -> bool:
    """Return whether the machine is idle; raise if not, unless the user insists."""
    others = machine.others()
    if not others.idle and not options.force:
        raise NotIdleError(f"{when}: the machine is not idle: {others}; --force measures all the same")
    return others.idle


def run_all(options: argparse.Namespace, results: list[Result]) -> None:
    """Measure net after net, adding to `results`, as often as asked for."""
    batches: Sequence[int | None] = (1, 256) if options.inference else (None,)
    for repeat in range(options.repeats):
        if options.repeats > 1:
            print(f"run {repeat + 1} of {options.repeats}", flush=True)
        for name in options.nets:
            for batch in batches:
                before = require_idle(options, f"before {name}")
                started = time.monotonic()
                result = Contest(name, batch, options).run()
                after = require_idle(options, f"after {name}, whose figures are left out")
                result["idle"] = result["idle"] and before and after
                result |= {"run": repeat + 1, "minutes": (time.monotonic() - started) / 60}
                results.append(result)
                print(line(result), flush=True)


def medians_of_runs(results: list[Result], nets_and_batches: list[tuple[str, int]]) -> list[Result]:
    """Return, for each net, the run whose ratio is the middle one of all runs."""
    chosen = []
    for key in nets_and_batches:
        runs = sorted((r for r in results if (r["net"], r["batch"]) == key), key=lambda r: r["ratio"])
        chosen.append(runs[(len(runs) - 1) // 2])
    return chosen


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join(nets.NETS), help="some of %(default)s (the default)")
    parser.add_argument("--inference", action="store_true", help="time predictions at batch 1 and 256, not training")
    parser.add_argument(
        "--quick", action="store_true", help="fewer and shorter turns, fewer settings, no torch.compile"
    )
    parser.add_argument("--repeats", type=int, default=1, help="how many whole runs to make in a row")
    parser.add_argument("--force", action="store_true", help="measure on a busy machine, too; the results are marked")
    parser.add_argument("--threads", type=int, default=machine.description()["cores"], help="default: one a core")
    parser.add_argument("--turns", type=int, help="how often each side works; default 5, with --quick 2")
    parser.add_argument("--turn-seconds", type=float, help="length of a turn; default 0.5, with --quick 0.3")
    parser.add_argument("--images", type=int, default=nets.COUNT, help="size of the data set; default %(default)s")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave torch.compile out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to a file")
    parser.add_argument("--markdown", action="store_true", help="print below the table what settings have won, too")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the results")
    parser.add_argument("--write-docs", action="store_true", help="renew docs/performance.md and its figure")
    options = parser.parse_args(arguments)
    options.nets = options.nets.split(",")
    for name in options.nets:
        if name not in nets.NETS:
            parser.error(f"--nets: expected some of {', '.join(nets.NETS)}, got {name!r}")
    if min(options.repeats, options.threads, options.images, options.turns or 1) < 1:
        parser.error("--repeats, --threads, --turns and --images must be at least 1")
    options.turns = options.turns or (2 if options.quick else 5)
    options.turn_seconds = options.turn_seconds or (0.3 if options.quick else 0.5)
    options.compile = options.compile and not options.quick
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    results: list[Result] = []
    section = "inference" if options.inference else "train_step"
    if options.write_docs:
        charts.section_of_page(section)  # before the minutes of measuring, for it raises where there is none
    try:
        run_all(options, results)
    except (NotIdleError, WorkerError) as error:
        print(f"train_step: {error}", file=sys.stderr)
        return 1
    finally:
        if options.json and results:
            settings = {"quick": options.quick, "turns": options.turns, "turn_seconds": options.turn_seconds}
            found = {"machine": machine.description(), "settings": settings, "results": results}
            options.json.write_text(json.dumps(found, indent=1) + "\n")
    shown = medians_of_runs(results, list(dict.fromkeys((r["net"], r["batch"]) for r in results)))
    lines = [*table(shown), "", *legend(shown)]
    print("\n".join(["", *(lines if options.markdown else table(shown)), ""]))
    if options.figure:
        charts.step_chart(options.figure, shown)
    if options.write_docs:
        what = "prediction" if options.inference else "training step"
        charts.step_chart(charts.IMAGES / f"{section}.png", shown)
        charts.write_section(section, lines, f"Bars: milliseconds of a {what}, nnkit and three ways of running PyTorch")
    for r in shown if options.repeats > 1 else ():
        ratios = [
            f"{other['ratio']:.2f}×" for other in results if (other["net"], other["batch"]) == (r["net"], r["batch"])
        ]
        print(f"{r['title']}, batch {r['batch']}, in each run: {', '.join(ratios)}")
    missed = dict.fromkeys(f"{r['title']} (batch {r['batch']})" for r in results if verdict(r) == "missed")
    print("every net reaches its must in every run" if not missed else f"below its must: {', '.join(missed)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
