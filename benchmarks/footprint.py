"""Compares what nnkit and PyTorch cost before and beside the training: import time, size on the disk, peak memory.

    python benchmarks/footprint.py [--nets mlp,cnn] [--json FILE] [--figure FILE] [--write-docs]

Everything is measured in fresh processes. The peak is the most memory that a process had resident while it trained
(VmHWM), interpreter, libraries, and a small data set included. PyTorch's processes import nnkit, too, to start from the
same weights; what that takes is measured and subtracted. Takes about three minutes, one of which goes into building
nnkit's wheel (`--wheel FILE` spares that).
"""

import argparse
import importlib.metadata
import json
import re
import statistics
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import charts
import machine
import nets
from workers import Worker, WorkerError

PICTURES = 1024  # few, so that it is the training that counts
MIB = 2.0**20
IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
RESIDENT = "import sys; sys.path.insert(0, {!r}); from workers import status_bytes; import numpy, torch; "
COST = RESIDENT + 'before = status_bytes("VmRSS"); import nnkit.interop.torch; print(status_bytes("VmRSS") - before)'
COLUMNS = ("nnkit", "PyTorch as shipped", "with its best settings", "and tuned allocator")


def printed(code: str) -> float:
    """Return the number that a fresh interpreter prints; with -P it imports what is installed, whatever the folder."""
    return float(subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout)


def import_seconds(module: str, repeats: int) -> float:
    """Return the median time of an import with warm disk caches."""
    code = IMPORT.format(module)
    printed(code)
    return statistics.median(printed(code) for _ in range(repeats))


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


def peak_bytes(net: str, side: str, variant: Sequence[str], tuned: bool, threads: int) -> int:
    """Return the most memory that a fresh process has while it trains a net for an epoch and two steps more."""
    batch = nets.NETS[net].batch
    job = {"task": "train", "net": net, "variant": variant, "batch": batch, "count": PICTURES, "check": 0}
    worker = Worker(f"side_{side}.py", job, threads, tuned)
    try:
        worker.answer()
        return worker.steps(PICTURES // batch + 2)["peak"]
    finally:
        worker.close()


def peaks(net: str, nnkit_in_torch: int, threads: int) -> list[int]:
    """Return the peaks of nnkit and of PyTorch's three settings."""
    best = ["fused", "inplace"] + ["channels_last"] * nets.NETS[net].images
    settings: list[tuple[list[str], bool]] = [([], False), (best, False), (best, True)]
    theirs = [peak_bytes(net, "torch", variant, tuned, threads) - nnkit_in_torch for variant, tuned in settings]
    return [peak_bytes(net, "nnkit", [], False, threads), *theirs]


def tables(found: dict[str, Any]) -> list[str]:
    """Return the results as two Markdown tables."""
    seconds = found["import_seconds"]
    lines = ["| | nnkit | PyTorch | ratio |", "|---|---:|---:|---:|"]
    ratio = seconds["torch"] / seconds["nnkit"]
    lines.append(f"| import, s | {seconds['nnkit']:.2f} | {seconds['torch']:.2f} | {ratio:.0f}× |")
    names = {"wheel": "wheel", "installed": "installed", "with_dependencies": "installed with its dependencies"}
    for key, name in names.items() if found["sizes"] else ():
        ours, theirs = found["sizes"]["nnkit"][key], found["sizes"]["torch"][key]
        lines.append(f"| {name}, MiB | {mib(ours)} | {mib(theirs)} | {theirs / ours:.0f}× |")
    lines += ["", f"| peak memory of training, MiB | {' | '.join(COLUMNS)} | least of PyTorch / nnkit |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for net, figures in found["peaks"].items():
        cells = [mib(figure) for figure in figures]
        title = f"{nets.NETS[net].title}, batch {nets.NETS[net].batch}"
        lines.append(f"| {title} | {' | '.join(cells)} | **{min(figures[1:]) / figures[0]:.2f}×** |")
    return lines


def mib(size: float) -> str:
    return f"{size / MIB:,.{1 if size < 10 * MIB else 0}f}"


def chart(path: Path, found: dict[str, Any]) -> None:
    groups = {f"{nets.NETS[n].title}\nbatch {nets.NETS[n].batch}": figures for n, figures in found["peaks"].items()}
    labels = [f"{mib(figure)} MiB" for figures in found["peaks"].values() for figure in figures]
    title, subtitle = "Peak memory of training, nnkit and PyTorch on the CPU", "resident, the whole process"
    charts.style.save(charts.bar_chart(title, subtitle, groups, labels, COLUMNS), path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join(nets.NETS), help="some of %(default)s (the default)")
    parser.add_argument("--wheel", type=Path, help="nnkit's wheel, if there is one already")
    parser.add_argument("--no-sizes", dest="sizes", action="store_false", help="leave out the sizes on the disk")
    parser.add_argument("--repeats", type=int, default=5, help="of the imports; default %(default)s")
    parser.add_argument("--threads", type=int, default=machine.description()["cores"], help="default: one a core")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to a file, in bytes and seconds")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the peaks")
    parser.add_argument("--write-docs", action="store_true", help="renew docs/performance.md and its figure")
    options = parser.parse_args(arguments)
    for name in (chosen := options.nets.split(",")):
        if name not in nets.NETS:
            parser.error(f"--nets: expected some of {', '.join(nets.NETS)}, got {name!r}")
    if options.write_docs:
        charts.section_of_page("footprint")
    try:
        cost = int(printed(COST.format(str(Path(__file__).parent))))
        found = {
            "machine": machine.description(),
            "import_seconds": {name: import_seconds(name, options.repeats) for name in ("nnkit", "torch")},
            "nnkit_in_torch_bytes": cost,
            "peaks": {net: peaks(net, cost, options.threads) for net in chosen},
            "sizes": sizes(options.wheel) if options.sizes else {},
        }
    except (WorkerError, subprocess.CalledProcessError, OSError) as error:
        print(f"footprint: {error}", file=sys.stderr)
        return 1
    lines = tables(found)
    print("\n".join(lines))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.write_docs:
        charts.write_section("footprint", lines)
    if options.figure or options.write_docs:
        chart(options.figure or charts.IMAGES / "footprint.png", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
