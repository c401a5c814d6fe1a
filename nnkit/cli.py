"""The command line: `nnkit train`, `search`, `compare`, `evaluate`, `predict`, `app`, `export`, `recipes`, `info`.

Exit status: 0 on success, 2 on wrong use, 1 on failure, 130 or 143 when interrupted by Ctrl-C or SIGTERM. An error is
one line on stderr; `--debug` shows the traceback. `mpiexec -n N nnkit train` is one training, of which one process
speaks.
"""

import argparse
import contextlib
import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import nnkit
from nnkit import cli_compare, cli_search, distributed, folds, metrics, recipes, runs
from nnkit._ext import set_num_threads
from nnkit.callbacks import print_epoch
from nnkit.data import cifar
from nnkit.data.loading import data_folder
from nnkit.distributed import Communicator
from nnkit.errors import UsageError
from nnkit.info import describe_machine, render_machine
from nnkit.recipes import Recipe, toml
from nnkit.signals import Interrupted, raising_on_sigterm
from nnkit.solver import Solver


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process if not given.

    Returns
    -------
    int
        0 success, 1 failure, 2 wrong use, 130 or 143 interrupted.

    Examples
    --------
    >>> from nnkit.cli import main
    >>> main(["recipes", "quickstart"])  # doctest: +ELLIPSIS
    # The first minute: ...
    0
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    is_shared = arguments[:1] == ["train"]  # among the processes that mpiexec started
    ranks: Communicator | None = None
    try:
        ranks = distributed.connect() if is_shared else Communicator()
        options = _parser().parse_args(arguments)
        with raising_on_sigterm():
            options.ranks = ranks
            status = options.command(options)
            sys.stdout.flush()
            return status or 0
    except SystemExit as exit_:  # argparse: --help, --version
        return int(exit_.code or 0)
    except Interrupted as interrupt:
        message, status = str(interrupt), 128 + interrupt.signum
    except KeyboardInterrupt:
        message, status = "interrupted", 130
    except BrokenPipeError:
        # The reader of our output has gone; without this, the interpreter would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug and distributed.launched().size == 1:
            raise
        if debug:
            traceback.print_exception(error)
        message, status = _one_line(error), 2 if isinstance(error, UsageError) else 1
    return _fail_together(ranks, message, status)


def _fail_together(ranks: Communicator | None, message: str, status: int) -> int:
    """Say what went wrong, once for all processes, and end them all."""
    if ranks is None:  # they have not met; it is the same for all of them
        return _fail(message, status) if distributed.launched().rank == 0 else status
    if not ranks.all_failed():
        _fail(f"rank {ranks.rank} of {ranks.size}: {message}", status)
        ranks.abort(status)
    return status if ranks.rank or ranks.told else _fail(message, status)


def _train(options: argparse.Namespace) -> None:
    if options.folds is None and (options.repeats is not None or options.subset is not None):
        raise UsageError("--repeats and --subset belong to --folds, which is not given")
    # With --json, stdout is for the answer alone.
    with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):
        if options.folds is not None:
            figures, after = _train_folds(options)
        else:
            figures, data_dir = _train_and_tell(options)
            after = _what_next(figures, data_dir)
    if options.ranks.rank == 0:
        print(json.dumps(figures) if options.json else after)


def _train_folds(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Return the figures of a cross-validation, and where they lie."""
    if options.resume is not None:
        raise UsageError("--resume continues a single training; a cross-validation (--folds) begins anew")
    if options.ranks.size > 1:
        raise UsageError(f"--folds trains in one process, and mpiexec started {options.ranks.size}")
    _set_threads(options)
    recipe = recipes.load("quickstart" if options.recipe is None else options.recipe, _overrides(options))
    _say(f"recipe  {recipe.name}{': ' * bool(recipe.description)}{recipe.description}")
    figures = folds.train_folds(
        recipe,
        Path(options.out) if options.out else None,
        k=options.folds,
        repeats=1 if options.repeats is None else options.repeats,
        subset=options.subset,
        download=options.download,
        say=_say,
    )
    run = shlex.quote(figures["run"])
    return figures, f"look at  {run}/{folds.CURVES} and {run}/{folds.MATRIX}"


def _train_and_tell(options: argparse.Namespace) -> tuple[dict[str, Any], str | None]:
    """Return the figures, and the data folder if one was named."""
    _set_threads(options)
    recipe, folder = options.ranks.from_first(lambda: _what_to_train(options))
    say = _say if options.ranks.rank == 0 else _say_nothing
    say(f"recipe  {recipe.name}{': ' * bool(recipe.description)}{recipe.description}")
    figures = runs.train(
        recipe,
        folder,
        resume=options.resume is not None,
        download=options.download,
        callbacks=[_print_epoch_above_the_bar],
        say=say,
        communicator=options.ranks,
    )
    say(
        f"test accuracy {figures['test_accuracy']:.2%} on {figures['test_images']:,} images, "
        f"with the weights of epoch {figures['best_epoch']}; {figures['seconds']:.0f} s of training"
    )
    return figures, options.data or recipe.data.dir


def _set_threads(options: argparse.Namespace) -> None:
    """Use as many threads as are asked for; or else, of several processes on a machine, its share of the cores."""
    count = options.threads
    if count is None and not {"NNKIT_NUM_THREADS", "OMP_NUM_THREADS"} & os.environ.keys():
        count = options.ranks.fair_threads()
    if count is not None:
        set_num_threads(count)


def _what_to_train(options: argparse.Namespace) -> tuple[Recipe, Path | None]:
    """Return the recipe and, if it is known already, the run folder."""
    folder = Path(options.out) if options.out else None
    source: str | Path = "quickstart" if options.recipe is None else options.recipe
    if options.resume is not None:
        folder = _folder_to_resume(options)
        source = folder / runs.CONFIG
    recipe = recipes.load(source, _overrides(options))
    if options.resume is not None and recipe.transfer != recipes.load(source).transfer:
        raise UsageError(f"--init-from, --freeze: {folder} has begun with its own; resume it without, or train anew")
    return recipe, folder


def _folder_to_resume(options: argparse.Namespace) -> Path:
    """Return the run that `--resume` names, else that of `--out`, else the newest (of the recipe, if one is named)."""
    if options.resume and options.out and Path(options.resume) != Path(options.out):
        raise UsageError(f"--resume {options.resume} and --out {options.out} name two runs; give one of them")
    run, asked = options.resume or options.out, None if options.recipe is None else recipes.load(options.recipe).name
    folder = runs.find(run) if run else runs.newest(asked)
    found = recipes.load(folder / runs.CONFIG).name
    if asked not in (None, found):
        raise UsageError(f"{folder} is a run of {found}, not of {asked}")
    return folder


def _print_epoch_above_the_bar(solver: Solver) -> None:
    from tqdm import tqdm

    with tqdm.external_write_mode():
        print_epoch(solver)


def _say(line: str) -> None:
    print(line, flush=True)


def _say_nothing(line: str) -> None:
    pass


def _overrides(options: argparse.Namespace) -> list[str]:
    """Return what the options say about the recipe; where two speak of one key, `--epochs` wins over `--set`."""
    named = {"training.epochs": options.epochs, "seed": options.seed}
    sources = {"data.dir": options.data, "transfer.init_from": options.init_from, "transfer.freeze": options.freeze}
    named |= {key: toml.dumps_value(value) for key, value in sources.items() if value is not None}
    return [*options.set, *(f"{key}={value}" for key, value in named.items() if value is not None)]


def _what_next(figures: dict[str, Any], data_dir: str | None) -> str:
    run, names = shlex.quote(figures["run"]), recipes.names()
    lines = [
        f"look at  {run}/report.html",
        "then try",
        f"  nnkit predict {run} {run}/{runs.EXAMPLE}",
        f"  nnkit evaluate {run}",
    ]
    if figures["recipe"] in names[:-1]:
        following = names[names.index(figures["recipe"]) + 1]
        where = f" --data {shlex.quote(data_dir)}" if data_dir else ""
        is_there = cifar.find(cifar.CIFAR10, data_folder(data_dir))  # all but the first recipe are for CIFAR-10
        brief = " --epochs 1" if following == names[-1] else ""  # the last one takes hours
        lines.append(f"  nnkit train {following}{where}{brief}{'' if is_there else ' --download'}")
    return "\n".join(lines)


def _search(options: argparse.Namespace) -> None:
    ranks = distributed.launched().size
    if ranks > 1 and options.storage is None:
        apart = f"mpiexec started {ranks} searches that would know nothing of each other"
        raise UsageError(f"{apart}: expected --storage URL")
    cli_search.run(options, _overrides(options), _refit, _say)


def _refit(recipe: recipes.Recipe, folder: Path) -> dict[str, Any]:
    figures = runs.train(recipe, folder, callbacks=[_print_epoch_above_the_bar], say=_say)
    _say(f"test accuracy {figures['test_accuracy']:.2%} on {figures['test_images']:,} images")
    return figures


def _compare(options: argparse.Namespace) -> None:
    ranks = distributed.launched().size
    if ranks > 1:
        raise UsageError(f"compare trains one net after another, and mpiexec started {ranks} processes")
    without_data = argparse.Namespace(**{**vars(options), "data": None})  # which is for finished runs, too
    cli_compare.run(options, _overrides(without_data), _say)


def _evaluate(options: argparse.Namespace) -> None:
    figures = runs.evaluate(options.run, options.data)
    if options.json:
        print(json.dumps(figures))
        return
    print(f"{figures['run']}: accuracy {figures['test_accuracy']:.2%} on {figures['test_images']:,} test images")
    print(metrics.classification_report(np.array(figures["confusion_matrix"]), figures["class_names"]))


def _predict(options: argparse.Namespace) -> int:
    errors: list[Exception] = []
    answers = runs.predict(options.run, options.images, options.top, on_error=errors.append)
    for error in errors:
        _fail(_one_line(error), 1)
    if options.json:
        print(json.dumps(answers))
        return int(bool(errors))
    for answer in answers:
        print(answer["image"])
        for entry in answer["classes"]:
            print(f"  {entry['probability']:7.2%}  {entry['name']}")
    return int(bool(errors))


def _app(options: argparse.Namespace) -> None:
    from nnkit.app import server

    server.serve(options.run, options.address, options.port)


def _export(options: argparse.Namespace) -> None:
    answer = runs.export(options.run, options.format, options.out)
    if options.json:
        print(json.dumps(answer))
        return
    mean, std = ([round(value, 5) for value in answer["normalize"][key]] for key in ("mean", "std"))
    shape = ", ".join(map(str, answer["input_shape"]))
    module, load = "torch", f"torch.load({answer['file']!r}, weights_only=True)"
    if options.format == "safetensors":
        module, load = "safetensors.torch", f"safetensors.torch.load_file({answer['file']!r})"
    print(
        f"{answer['file']}: {answer['tensors']} tensors, {answer['parameters']:,} parameters\n"
        f"input    float32 of shape (N, {shape}): (pixels / 255 - mean) / std, mean {mean}, std {std}\n"
        f"classes  {', '.join(answer['class_names'])}\n"
        "load it in PyTorch with\n"
        f"  import nnkit, {module}\n"
        "  from nnkit.interop.torch import to_torch\n"
        f"  net = to_torch(nnkit.load_model({answer['model']!r})[0])  # or a module of yours with the same names\n"
        f"  net.load_state_dict({load})"
    )


def _recipes(options: argparse.Namespace) -> None:
    if options.name:
        print(recipes.source(options.name), end="")
        return
    table = [{"name": name, "description": recipes.load(name).description} for name in recipes.names()]
    if options.json:
        print(json.dumps(table))
        return
    width = max(len(row["name"]) for row in table)
    for row in table:
        print(f"{row['name']:{width}}  {row['description']}")


def _info(options: argparse.Namespace) -> None:
    machine = describe_machine(options.data)
    print(json.dumps(machine) if options.json else render_machine(machine))


def _fail(message: str, status: int) -> int:
    print(f"nnkit: {'error: ' if status < 128 else ''}{message}", file=sys.stderr)
    return status


def _one_line(error: Exception) -> str:
    message = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        message = f"out of memory: {message or 'try a smaller training.batch_size'}"
    expected = (ValueError, OSError, ArithmeticError, MemoryError, ImportError)
    if not isinstance(error, expected) or not message:
        message = f"{type(error).__name__}: {message} (a fault of nnkit's; --debug shows where)"
    return message


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help tells more)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="nnkit", description=nnkit.__doc__, epilog="Start with: nnkit train")
    parser.add_argument("--version", action="version", version=f"nnkit {nnkit.__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], int | None], description: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=description, description=description, allow_abbrev=False)
        sub.set_defaults(command=run)
        return sub

    train = command("train", _train, "train a recipe; without a name, the quickstart")
    train.add_argument("recipe", nargs="?", metavar="NAME|FILE.toml", help="see: nnkit recipes")
    train.add_argument("--data", metavar="DIR", help="folder of the data (default: $NNKIT_DATA, or ~/.cache/nnkit)")
    train.add_argument("--out", metavar="DIR", help="run folder (default: the next runs/NAME-n)")
    train.add_argument("--epochs", type=int, metavar="N")
    train.add_argument("--seed", type=int, metavar="N")
    train.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="change a setting of the recipe, as in optimizer.lr=0.01; an empty value takes the key out",
    )  # fmt: skip
    train.add_argument(
        "--init-from", metavar="RUN|FILE",
        help="begin with the weights of a run, a .safetensors or a .pt file; for other classes, with a fresh head",
    )  # fmt: skip
    train.add_argument("--freeze", action="append", metavar="PATTERN", help="leave these layers as they are: 'conv*'")
    train.add_argument(
        "--resume", nargs="?", const="", metavar="RUN", help="continue a run; without a value, the newest"
    )
    train.add_argument("--download", action="store_true", help="fetch the data set if it is not there")
    train.add_argument("--folds", type=int, metavar="K", help="cross-validate: K trainings, a K-th held out in each")
    train.add_argument("--repeats", type=int, metavar="N", help="repeat --folds with N seeds")
    train.add_argument("--subset", type=int, metavar="N", help="with --folds, use only N of the training images")
    train.add_argument("--threads", type=int, metavar="N", help="threads of the kernels (default: one a core)")

    search = command("search", _search, "search a recipe's settings: cross-validated trials, drawn by Optuna")
    cli_search.add_arguments(search)
    search.set_defaults(init_from=None, freeze=None)  # --set transfer.init_from=... says it

    compare = command(
        "compare", _compare, "compare recipes, finished runs, or the variants of a recipe: table and page"
    )
    cli_compare.add_arguments(compare)

    evaluate = command("evaluate", _evaluate, "measure a run's best weights on the test set")
    evaluate.add_argument("run", metavar="RUN")
    evaluate.add_argument("--data", metavar="DIR", help="folder of the data, if not where the run found it")

    predict = command("predict", _predict, "classify image files of any size")
    predict.add_argument("run", metavar="RUN", help="run folder, or a model.safetensors")
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="PNG, JPEG, ...")
    predict.add_argument("--top", type=int, default=5, metavar="N", help="how many classes to print (default: 5)")

    app = command("app", _app, "the demo in a browser: pictures in, answers out")
    app.add_argument("run", nargs="?", metavar="RUN", help="run folder (default: the newest, or else the quickstart)")
    address = os.environ.get("NNKIT_APP_ADDRESS", "127.0.0.1")
    app.add_argument("--address", default=address, metavar="IP", help="where to listen (default: %(default)s)")
    app.add_argument("--port", type=int, default=8501, metavar="N", help="default: 8501")

    export = command("export", _export, "write a run's best weights for PyTorch")
    export.add_argument("run", metavar="RUN", help="run folder, or a model.safetensors")
    export.add_argument("--format", required=True, choices=("torch", "safetensors"), help="a .pt file, or safetensors")
    export.add_argument("--out", metavar="FILE", help="default: pytorch.pt or pytorch.safetensors in the run folder")

    listing = command("recipes", _recipes, "list the recipes, or print one as TOML to start your own from")
    listing.add_argument("name", nargs="?", metavar="NAME")

    info = command("info", _info, "versions, kernels and why these, threads, processor, data")
    info.add_argument("--data", metavar="DIR", help="folder of the data to look into")

    for sub in (train, search, compare, evaluate, predict, export, listing, info):
        sub.add_argument("--json", action="store_true", help="print the answer as JSON")
    return parser
