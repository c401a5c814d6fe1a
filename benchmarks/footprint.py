"""Compares what nnkit and PyTorch cost before and beside the training: import time, size on the disk, peak memory.

    python benchmarks/footprint.py [--nets mlp,cnn] [--quick] [--no-sizes] [--json FILE] [--write-docs]

Everything is measured in fresh processes. The peak is the most memory that a process had resident while it trained
(VmHWM), interpreter, libraries, and two batches of pictures included; a second table leaves out what the libraries take
before anything is made. PyTorch is shown as shipped, with its usually fastest settings, and with those of its settings
and the C library's that keep its peak lowest. What recomputes activations or compiles is left out: it is another
computation, or takes more memory than it saves. PyTorch's processes import nnkit, too, to start from the same weights;
what that takes is measured and subtracted.
"""

import argparse
import functools
import importlib.metadata
import re
import statistics
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import charts
import nets
import reporting
from workers import THRIFTY_ALLOCATOR, TUNED_ALLOCATOR, Worker, shipped_environment

EPOCH, STEPS = 2, 3  # one epoch and the first step of the next: no later one needs more
MIB = 2.0**20
IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
# What a side has in memory before it makes anything. PyTorch loads much of itself only when it takes its first step.
SETUP = "import sys; sys.path.insert(0, {!r}); from workers import status_bytes\n"
NNKIT_ALONE = (
    SETUP
    + """
import side_nnkit
print(status_bytes("VmRSS"))
"""
)
TORCH_ALONE_AND_WITH_NNKIT = (
    SETUP
    + """
import numpy, torch
weight = torch.ones(1, requires_grad=True)
optimizer = torch.optim.Adam([weight])
weight.sum().backward()
optimizer.step()
print(status_bytes("VmRSS"))
import side_torch, nnkit.interop.torch
print(status_bytes("VmRSS"))
"""
)
COLUMNS = ("nnkit", "PyTorch as shipped", "its fastest settings", "its least")


def printed(code: str) -> list[float]:
    """Return the numbers that a fresh interpreter prints; with -P it imports what is installed, whatever the folder."""
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=shipped_environment())
    return [float(line) for line in done.stdout.split()]


def import_seconds(module: str, repeats: int) -> float:
    """Return the median time of an import; the first one, which fills the disk caches, counts only if it is alone."""
    times = [printed(IMPORT.format(module))[0] for _ in range(repeats)]
    return statistics.median(times[1:] or times)


def distributions(name: str) -> set[str]:
    """Return the names of a distribution and of all that it needs, extras left out."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if current in found:
            continue
        try:
            needed = importlib.metadata.requires(current) or []
        except importlib.metadata.PackageNotFoundError:  # of another platform, or left out on purpose
            continue
        found.add(current)
        waiting += [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in needed if "extra ==" not in text]
    return found


def installed_files(name: str) -> list[Path]:
    """Return the files that a distribution brought, bytecode left out."""
    paths = [Path(str(file.locate())) for file in importlib.metadata.files(name) or []]
    return [path for path in paths if path.suffix != ".pyc" and path.is_file()]


def installed_bytes(names: set[str]) -> int:
    return sum(path.stat().st_size for name in names for path in installed_files(name))


def zipped_bytes(name: str) -> int:
    """Return the size of a distribution's files, compressed as in a wheel."""
    total = 0
    for path in installed_files(name):
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                total += len(packer.compress(block))
        total += len(packer.flush())
    return total


def build_wheel(folder: str) -> Path:
    """Build nnkit's wheel from the files under version control, without touching the source tree."""
    source = Path(folder, "source")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=charts.ROOT, capture_output=True, check=True).stdout
    for name in listed.decode().split("\0"):
        if (charts.ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((charts.ROOT / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return next(Path(folder).glob("*.whl"))


def sizes(wheel: Path | None) -> dict[str, dict[str, int]]:
    """Return the sizes on the disk of both, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = wheel or build_wheel(folder)
        packed, own = path.stat().st_size, sum(info.file_size for info in zipfile.ZipFile(path).infolist())
    others = installed_bytes(distributions("nnkit") - {"nnkit"})
    ours = {"wheel": packed, "installed": own, "with_dependencies": own + others}
    torch = installed_bytes({"torch"})
    theirs = {"wheel": zipped_bytes("torch"), "installed": torch}
    return {"nnkit": ours, "torch": {**theirs, "with_dependencies": installed_bytes(distributions("torch"))}}


def peak_bytes(net: str, side: str, variant: Sequence[str], allocator: Mapping[str, str] | None, threads: int) -> int:
    """Return the most memory that a fresh process has while it trains a net for an epoch and one step."""
    batch = nets.NETS[net].batch
    job = {"task": "train", "net": net, "variant": variant, "batch": batch, "count": EPOCH * batch, "check": 0}
    worker = Worker(f"side_{side}.py", job, threads, allocator)
    try:
        worker.answer()
        return worker.steps(STEPS)["peak"]
    finally:
        worker.close()


def peaks(net: str, nnkit_in_torch: int, threads: int) -> dict[str, Any]:
    """Return the peaks of nnkit and of PyTorch's settings, and which of these took least."""
    fast = ["fused", "inplace"]
    variants = [fast]
    if nets.NETS[net].images:
        fast = [*fast, "channels_last"]
        variants.append(fast)

    def torch(variant: list[str], allocator: Mapping[str, str] | None) -> int:
        return peak_bytes(net, "torch", variant, allocator, threads) - nnkit_in_torch

    shipped, fastest = torch([], None), torch(fast, TUNED_ALLOCATOR)
    tried = {" + ".join(variant): torch(variant, THRIFTY_ALLOCATOR) for variant in variants}
    thriftiest = min(tried, key=lambda name: tried[name])
    figures = [peak_bytes(net, "nnkit", [], None, threads), shipped, fastest, tried[thriftiest]]
    return {"bytes": figures, "thriftiest": thriftiest}


def tables(found: dict[str, Any]) -> list[str]:
    """Return the results as Markdown tables, and whose peak is lower."""
    seconds = found["import_seconds"]
    lines = ["| | nnkit | PyTorch | ratio |", "|---|--:|--:|--:|"]
    ratio = seconds["torch"] / seconds["nnkit"]
    lines.append(f"| import, s | {seconds['nnkit']:.2f} | {seconds['torch']:.2f} | {ratio:.0f}× |")
    names = {"wheel": "wheel", "installed": "installed", "with_dependencies": "installed with its dependencies"}
    for key, name in names.items() if found["sizes"] else ():
        ours, theirs = found["sizes"]["nnkit"][key], found["sizes"]["torch"][key]
        lines.append(f"| {name}, MiB | {mib(ours)} | {mib(theirs)} | {theirs / ours:.0f}× |")
    libraries = found["libraries_bytes"]
    ours, theirs = libraries["nnkit"], libraries["torch"]
    lines.append(f"| libraries in memory, MiB | {mib(ours)} | {mib(theirs)} | {theirs / ours:.1f}× |")
    lines += ["", "Peak memory of the whole process while it trains, MiB:", ""]
    lines += peak_table(found["peaks"], {"nnkit": 0, "torch": 0})
    lines += ["", "The same less the libraries, which the first table has:", ""]
    return lines + peak_table(found["peaks"], libraries)


def peak_table(peaks_found: dict[str, list[int]], less: dict[str, int]) -> list[str]:
    """Return the peaks less what each side's libraries take, and how nnkit's compares with the least of PyTorch's."""
    lines = [f"| net, batch | {' | '.join(COLUMNS)} | least of PyTorch / nnkit | nnkit is |"]
    lines.append("|---|--:|--:|--:|--:|--:|---|")
    above = []
    for net, figures in peaks_found.items():
        ours, *theirs = figures[0] - less["nnkit"], *(figure - less["torch"] for figure in figures[1:])
        verdict = "below" if ours < min(theirs) else "**above**"
        above += [nets.NETS[net].title] if ours >= min(theirs) else []
        cells = " | ".join(mib(figure) for figure in (ours, *theirs))
        lines.append(f"| {title(net)} | {cells} | **{min(theirs) / ours:.2f}×** | {verdict} |")
    below = "nnkit's peak is below PyTorch's least on every net."
    return [*lines, "", below if not above else f"nnkit's peak is not below PyTorch's least on: {', '.join(above)}."]


def title(net: str) -> str:
    return f"{nets.NETS[net].title}, {nets.NETS[net].batch}"


def mib(size: float) -> str:
    return f"{size / MIB:,.{1 if size < 100 * MIB else 0}f}"


def chart(path: Path, found: dict[str, Any]) -> None:
    groups = {f"{nets.NETS[n].title}\nbatch {nets.NETS[n].batch}": figures for n, figures in found["peaks"].items()}
    labels = [f"{mib(figure)} MiB" for figures in found["peaks"].values() for figure in figures]
    title, subtitle = "Peak memory of training, nnkit and PyTorch on the CPU", "resident, the whole process"
    charts.style.save(charts.bar_chart(title, subtitle, groups, labels, COLUMNS), path)


def measure(chosen: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Return all figures, telling each part's as soon as it is known."""
    tell = functools.partial(print, file=sys.stderr, flush=True)
    seconds = {name: import_seconds(name, 1 if options.quick else 4) for name in ("nnkit", "torch")}
    tell("import:", ", ".join(f"{name} {time:.2f} s" for name, time in seconds.items()))
    folder = str(Path(__file__).parent)
    alone, with_nnkit = map(int, printed(TORCH_ALONE_AND_WITH_NNKIT.format(folder)))
    libraries = {"nnkit": int(printed(NNKIT_ALONE.format(folder))[0]), "torch": alone}
    cost = with_nnkit - alone
    tell("libraries in memory:", ", ".join(f"{name} {mib(size)} MiB" for name, size in libraries.items()))
    found: dict[str, Any] = {"import_seconds": seconds, "libraries_bytes": libraries, "nnkit_in_torch_bytes": cost}
    found |= {"peaks": {}, "thriftiest": {}}
    for net in chosen:
        result = peaks(net, cost, options.threads)
        found["peaks"][net], found["thriftiest"][net] = result["bytes"], result["thriftiest"]
        tell(f"{title(net)}:", ", ".join(f"{n} {mib(b)}" for n, b in zip(COLUMNS, result["bytes"], strict=True)), "MiB")
    found["sizes"] = sizes(options.wheel) if options.sizes and not options.quick else {}
    return found


def main() -> None:
    parser = reporting.parser(__doc__)
    parser.add_argument("--nets", default=",".join(nets.NETS), help="some of %(default)s (the default)")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="nnkit's wheel, if there is one already")
    parser.add_argument("--no-sizes", dest="sizes", action="store_false", help="leave out the sizes on the disk")
    options = parser.parse_args()
    for key in (chosen := options.nets.split(",")):
        if key not in nets.NETS:
            parser.error(f"--nets: expected some of {', '.join(nets.NETS)}, got {key!r}")
    found, idle = reporting.measure_when_idle(lambda: measure(chosen, options), options)
    lines = [reporting.conditions(options, idle), "", *tables(found)]
    figures = {"idle": idle, "threads": options.threads, **found}
    alt = "Bars: peak memory of training, nnkit and three ways of running PyTorch"
    reporting.finish("footprint", options, lines, figures, lambda path: chart(path, found), alt)


if __name__ == "__main__":
    reporting.run(main)
