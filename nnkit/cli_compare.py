"""The command line's `nnkit compare`: its arguments, and what it prints."""

import argparse
import contextlib
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from nnkit import runs
from nnkit._ext import set_num_threads
from nnkit.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    parser.add_argument(
        "names", nargs="*", metavar="NAME|FILE.toml|RUN", help="recipes to train, and finished run folders"
    )
    parser.add_argument(
        "--vary", action="append", default=[], metavar="KEY=A,B,...",
        help="compare variants of one recipe, by their validation accuracy, as in optimizer.lr=1e-4,1e-3,1e-2 or "
        "optimizer=sgd,adam; several of them: all combinations",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, metavar="N", help="train each recipe with N seeds (default: 1)")
    parser.add_argument("--seed", type=int, metavar="N", help="the first of them (default: the recipe's)")
    parser.add_argument("--epochs", type=int, metavar="N")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in nnkit train, for all")
    parser.add_argument(
        "--to", metavar="PERCENT,...", help="validation accuracies, the time to which is told (default: 50,60,70,75)"
    )
    parser.add_argument("--data", metavar="DIR", help="folder of the data (default: $NNKIT_DATA, or ~/.cache/nnkit)")
    parser.add_argument("--download", action="store_true", help="fetch the data set if it is not there")
    parser.add_argument("--out", metavar="DIR", help="folder (default: the next runs/compare-n)")
    parser.add_argument(
        "--resume", nargs="?", const="", metavar="DIR", help="go on; without a value, the newest comparison"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the kernels (default: one a core)")
    parser.set_defaults(init_from=None, freeze=None)  # --set transfer.init_from=... says it


def run(options: argparse.Namespace, overrides: list[str], say: Callable[[str], object]) -> None:
    """Do what `nnkit compare` asks for.

    Parameters
    ----------
    options : argparse.Namespace
    overrides : list of str
        Of all recipes, `--data` left out.
    say : callable
        Prints a line.
    """
    from nnkit.compare.page import PAGE
    from nnkit.compare.run import PLAN, THRESHOLDS, compare
    from nnkit.compare.verdict import headline

    folder = Path(options.out) if options.out else None
    if options.resume is not None:
        folder = _folder_to_resume(options, overrides, PLAN)
    if options.threads is not None:
        set_num_threads(options.threads)
    with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):
        result = compare(
            options.names,
            folder,
            vary=options.vary,
            seeds=options.seeds,
            overrides=overrides,
            data_dir=options.data,
            thresholds=THRESHOLDS if options.to is None else _thresholds(options.to),
            resume=options.resume is not None,
            download=options.download,
            say=say,
        )
    if options.json:
        print(json.dumps(result.figures()))
        return
    print(f"\n{result}\n\n{headline(result)}\nlook at  {shlex.quote(str(result.folder / PAGE))}")


def _thresholds(text: str) -> list[float]:
    try:
        return [float(part.strip().removesuffix("%")) / 100 for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--to {text}: expected percentages, as 50,60,70") from None


def _folder_to_resume(options: argparse.Namespace, overrides: list[str], plan: str) -> Path:
    given = {"--vary": options.vary, "--seeds": options.seeds, "--to": options.to, "--data": options.data}
    given |= {"names": options.names, "--set, --epochs and --seed": overrides, "--out": options.out}
    for name, value in given.items():
        if value not in (None, []):
            raise UsageError(f"--resume goes on with what the comparison's folder says; leave out {name}")
    if options.resume:
        there = (Path(options.resume), runs.RUNS / options.resume)
        return next((folder for folder in there if (folder / plan).is_file()), there[0])
    found = list(runs.RUNS.glob(f"*/{plan}"))
    if not found:
        raise UsageError(f"no comparison in {runs.RUNS}/ to resume; start one with: nnkit compare NAME NAME")
    return max(found, key=lambda path: path.stat().st_mtime).parent
