"""The command line's `nnkit search`: its arguments, and what it prints."""

import argparse
import contextlib
import dataclasses
import json
import shlex
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nnkit import recipes, runs
from nnkit._ext import set_num_threads
from nnkit.errors import UsageError
from nnkit.recipes import Recipe, SearchSettings, toml

_SETTINGS = ("trials", "sampler", "pruner", "folds", "repeats", "subset")
_REFIT = "refit"  # the folder of the best recipe's training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    parser.add_argument("recipe", nargs="?", metavar="NAME|FILE.toml", help="one with a section [search.space]")
    parser.add_argument(
        "--space", action="append", default=[], metavar="KEY={...}",
        help="search this setting, too, as in 'optimizer.lr={low=1e-4, high=1e-1, log=true}'",
    )  # fmt: skip
    parser.add_argument("--trials", type=int, metavar="N", help="how many trials the study shall have in all")
    parser.add_argument("--sampler", choices=("tpe", "random", "grid"), help="what draws the settings")
    parser.add_argument("--pruner", choices=("median", "asha", "hyperband", "none"), help="what stops bad trials early")
    parser.add_argument("--folds", type=int, metavar="K", help="judge each trial by K folds")
    parser.add_argument("--repeats", type=int, metavar="N", help="repeat the folds with N seeds")
    parser.add_argument(
        "--holdout", action="store_true", help="judge by the validation part of a training, not by folds"
    )
    parser.add_argument("--subset", type=int, metavar="N", help="judge on only N of the training images")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes, which share the threads")
    parser.add_argument("--storage", metavar="URL", help="the study's database, as postgresql://user@host/database")
    parser.add_argument("--study", metavar="NAME", help="the study's name in the database (default: the recipe's)")
    parser.add_argument("--heartbeat", type=int, default=20, metavar="SECONDS", help="between a trial's signs of life")
    parser.add_argument(
        "--resume", nargs="?", const="", metavar="RUN", help="go on; without a value, the newest search"
    )
    parser.add_argument("--refit", action="store_true", help="then train the best recipe, and test it once")
    parser.add_argument("--data", metavar="DIR", help="folder of the data (default: $NNKIT_DATA, or ~/.cache/nnkit)")
    parser.add_argument("--out", metavar="DIR", help="folder (default: the next runs/NAME-search-n)")
    parser.add_argument("--epochs", type=int, metavar="N", dest="trial_epochs", help="of each trial's trainings")
    parser.set_defaults(epochs=None)  # the recipe's own, which a trial may do without
    parser.add_argument("--seed", type=int, metavar="N")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in nnkit train")
    parser.add_argument("--download", action="store_true", help="fetch the data set if it is not there")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of all workers together (default: all cores)")


def run(
    options: argparse.Namespace,
    overrides: list[str],
    train: Callable[[Recipe, Path], dict[str, Any]],
    say: Callable[[str], object],
) -> None:
    """Do what `nnkit search` asks for.

    Parameters
    ----------
    options : argparse.Namespace
    overrides : list of str
        Of the recipe, as `nnkit train` has them.
    train : callable
        Trains a recipe into a folder, for `--refit`.
    say : callable
        Prints a line.
    """
    from nnkit.search.run import RECIPE, search

    if options.threads is not None:
        set_num_threads(options.threads)
    folder = Path(options.out) if options.out else None
    source = options.recipe
    if options.resume is not None:
        folder = _folder_to_resume(options, RECIPE)
        source = folder / RECIPE
    if options.refit and folder is not None and (folder / _REFIT / runs.MODEL).exists():
        again = f"continue it with nnkit train --resume {shlex.quote(str(folder / _REFIT))}, or move it away"
        raise UsageError(f"--refit: {folder / _REFIT} already holds a run; {again}")
    if source is None:
        raise UsageError("search: expected a recipe's name or file, or --resume")
    recipe = _with_search_options(recipes.load(source, overrides), options)
    with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):
        say(f"recipe  {recipe.name}{': ' * bool(recipe.description)}{recipe.description}")
        result = search(
            recipe,
            folder,
            workers=options.workers,
            storage=options.storage,
            study=options.study,
            resume=options.resume is not None,
            heartbeat=options.heartbeat,
            download=options.download,
            say=say,
        )
        assert result.folder is not None
        say(str(result))
        figures = result.figures()
        if options.refit:
            say(f"refit   trial {result.best.number}, a training on its own")
            figures["refit"] = train(result.best_recipe, result.folder / _REFIT)
    if options.json:
        print(json.dumps(figures))
        return
    where = shlex.quote(str(result.folder))
    print(f"look at  {where}/best.toml, {where}/trials.csv and the pictures beside them")
    if not options.refit:
        print(f"then try\n  nnkit train {where}/best.toml")


def _with_search_options(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """Return the recipe with what the options say about its section `[search]`."""
    settings = recipe.search or SearchSettings()
    given = {name: getattr(options, name) for name in _SETTINGS if getattr(options, name) is not None}
    if options.holdout:
        given["holdout"] = True
    if options.trial_epochs is not None:
        given["epochs"] = options.trial_epochs
    space = dict(settings.space)
    for text in options.space:
        key, equals, entry = text.partition("=")
        try:
            parsed = tomllib.loads(f"value = {entry}") if equals and key.strip() else {}
        except tomllib.TOMLDecodeError:
            parsed = {}
        if len(parsed) != 1:
            raise UsageError(f"--space {text}: expected KEY={{...}}, as optimizer.lr={{low=1e-4, high=1e-1, log=true}}")
        space[key.strip().strip('"')] = parsed["value"]
    if options.trials is not None and given.get("sampler", settings.sampler) == "grid":
        raise UsageError(f"--trials {options.trials}: a grid has as many trials as points; leave it out")
    recipe = dataclasses.replace(recipe, search=dataclasses.replace(settings, **given, space=space))
    return Recipe.from_settings(tomllib.loads(toml.dumps(recipe.to_settings())))


def _folder_to_resume(options: argparse.Namespace, config: str) -> Path:
    """Return the search that `--resume` or `--out` names, else the newest (of the recipe, if one is named)."""
    if options.resume and options.out and Path(options.resume) != Path(options.out):
        raise UsageError(f"--resume {options.resume} and --out {options.out} name two searches; give one of them")
    named = options.resume or options.out
    if named:
        folder = Path(named) if (Path(named) / config).is_file() else runs.RUNS / named
        if not (folder / config).is_file():
            raise UsageError(f"{named}: no search to resume; it has no {config}")
    else:
        found = list(runs.RUNS.glob(f"*/{config}"))
        if options.recipe is not None:
            name = recipes.load(options.recipe).name
            found = [path for path in found if recipes.load(path).name == name]
        if not found:
            raise UsageError(f"no search in {runs.RUNS}/ to resume; start one with: nnkit search NAME")
        folder = max(found, key=lambda path: path.stat().st_mtime).parent
    if (
        options.recipe is not None
        and (asked := recipes.load(options.recipe).name) != recipes.load(folder / config).name
    ):
        raise UsageError(f"{folder} is a search of {recipes.load(folder / config).name}, not of {asked}")
    return folder
