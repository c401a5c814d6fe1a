"""What the benchmarks of single operations have in common: their options, the check for idleness, where results go."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import charts
import machine
from workers import WorkerError

import nnkit
from nnkit._ext import kernels

Found = TypeVar("Found")


def parser(doc: str | None, page: str = "docs/performance.md") -> argparse.ArgumentParser:
    """Return a parser with the options that all have; `page` is what --write-docs renews."""
    if "NNKIT_KERNELS" in os.environ:
        raise SystemExit("NNKIT_KERNELS is set, but what is measured is nnkit as it is shipped; unset it")
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--threads", type=int, default=machine.description()["cores"], help="default: one a core")
    made.add_argument(
        "--quick", action="store_true", help="small sizes, short times, busy machine or not: a trial, no measurement"
    )
    made.add_argument("--force", action="store_true", help="measure on a busy machine, too; the results are marked")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all figures to a file")
    made.add_argument("--figure", type=Path, metavar="FILE", help="draw the results")
    made.add_argument("--write-docs", action="store_true", help=f"renew {page} and its figure")
    return made


def run(main: Callable[[], None]) -> None:
    """Run a benchmark; what goes wrong in one of its processes is one line here."""
    try:
        main()
    except WorkerError as error:
        raise SystemExit(f"{Path(sys.argv[0]).stem}: {error}") from None


def has_torch() -> bool:
    return find_spec("torch") is not None


def measure_when_idle(measure: Callable[[], Found], options: argparse.Namespace) -> tuple[Found, bool]:
    """Return what is found, and whether the machine was idle before and after; leave where it is not, unless forced."""
    if options.quick:
        return measure(), True  # whether it is idle does not matter
    before = idle(options.force)
    records = measure()
    return records, before and idle(options.force)


def idle(force: bool) -> bool:
    others = machine.others()
    if not others.idle and not force:
        raise SystemExit(f"the machine is not idle: {others}; --force measures all the same")
    return others.idle


def conditions(options: argparse.Namespace, idle: bool) -> str:
    """Return a line on where and how the figures came about."""
    versions = f"nnkit {nnkit.__version__} ({kernels.name} kernels)"
    if has_torch():
        versions += f", PyTorch {version('torch')}"
    line = f"{machine.description()['processor']}, {threads_text(options.threads)}; {versions}."
    return line + (" A quick trial, no measurement." if options.quick else "") + ("" if idle else " **Not idle.**")


def threads_text(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"


def finish(
    name: str,
    options: argparse.Namespace,
    lines: Sequence[str],
    figures: dict[str, Any],
    draw: Callable[[Path], object],
    alt: str,
    page: Path = charts.PAGE,
) -> None:
    """Print the table and put it, the picture and the figures where the options say; `alt` tells what is drawn."""
    print("\n".join(lines))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine.description(), **figures}, indent=1) + "\n")
    if options.figure:
        draw(options.figure)
    if options.write_docs:
        draw(charts.IMAGES / f"{name}.png")
        charts.write_section(name, lines, alt, page)


def progress(text: str) -> None:
    """Tell on the standard error stream what is being measured, where somebody may be watching."""
    if sys.stderr.isatty():
        print(f"\r{text:<90.90}", end="", file=sys.stderr, flush=True)
