"""A search from its beginning to its end: checked, run, written down."""

import contextlib
import dataclasses
import multiprocessing
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nnkit import recipes, runs
from nnkit.errors import UsageError, whole_number
from nnkit.files import atomic_path, remove_partial_files
from nnkit.folds import split
from nnkit.recipes import Recipe, toml
from nnkit.search import results, worker
from nnkit.search import study as studies
from nnkit.search.results import SearchResult
from nnkit.search.space import Space
from nnkit.signals import Interrupted

RECIPE, DATABASE = "search.toml", "study.db"


def search(
    recipe: str | Path | Recipe,
    folder: str | Path | None = None,
    *,
    workers: int = 1,
    storage: str | None = None,
    study: str | None = None,
    resume: bool = False,
    heartbeat: int = 20,
    download: bool = False,
    say: Callable[[str], object] = lambda line: None,
) -> SearchResult:
    """Search a recipe's space, and write the best recipe, a table and pictures.

    What is searched, and how, stands in the recipe's section `[search]`. Everything is kept in a database as soon as it
    is known, so that a search that was interrupted or killed goes on where it was; a trial whose worker died is run
    again.

    Parameters
    ----------
    recipe : str, path or Recipe
    folder : path, optional
        Where to; the next `runs/<recipe>-search-<n>` if not given.
    workers : int, default 1
        How many processes, each with its share of the threads. As always with multiprocessing, a script that asks for
        more than one must do so under `if __name__ == "__main__":`.
    storage : str, optional
        The database's URL, as `postgresql://user@host/database`; whoever names the same one works at the same study. By
        default a SQLite file in the folder.
    study : str, optional
        Name of the study in the database, if not the recipe's.
    resume : bool, default False
        Go on with the search that `folder` holds.
    heartbeat : int, default 20
        Seconds between a trial's signs of life; one that is silent for three times as long is taken for dead.
    download : bool, default False
        Fetch data that is missing.
    say : callable
        Called with lines that tell what is going on.

    Returns
    -------
    SearchResult

    Raises
    ------
    UsageError, DataError
        The space, the data or the study is not as it should be. Nothing is written before all is found to be right.
    ConnectionError
        The storage refuses.
    Interrupted
        Ctrl-C or SIGTERM came; what is known so far is in the study.
    ImportError
        Optuna or scikit-learn is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from nnkit import recipes
    >>> recipe = recipes.load("quickstart", [
    ...     "data.train_count=120", "training.epochs=1", "model.widths=[4]", "training.batch_size=20",
    ...     'search={folds = 2, trials = 2, sampler = "random", space = {"optimizer.lr" = {low = 1e-4, high = 1e-2}}}'])
    >>> result = search(recipe, tempfile.mkdtemp() + "/run")
    >>> len(result.complete), result.best_recipe.optimizer["lr"] == result.best.values["optimizer.lr"]
    (2, True)
    """
    studies.import_optuna()
    recipe = recipe if isinstance(recipe, Recipe) else recipes.load(recipe)
    workers, heartbeat = whole_number("workers", workers, 1, 1024), whole_number("heartbeat", heartbeat, 1)
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # a worker begins by importing the script
        raise UsageError('workers: a script that asks for several must do so under: if __name__ == "__main__":')
    recipe = _checked(recipe)
    folder = None if folder is None else Path(folder)
    if folder is not None:
        _check_folder(folder, resume, storage)
    data = recipe.data.load_part(True, download)
    _check_split(recipe, data)
    name = recipe.name if study is None else study
    with _optuna_is_quiet(), studies.clear_errors(), contextlib.ExitStack() as stack:
        if storage is None:
            folder = _make_folder(folder, recipe)
            if not resume:  # from here on it can be resumed, though to connect takes a second
                (folder / DATABASE).touch()
                _write_recipe(recipe, folder)
            job = worker.Job(recipe, f"sqlite:///{folder.resolve() / DATABASE}", name, heartbeat)
            mine = stack.enter_context(job.open())
        else:  # to connect may fail, which shall leave no folder behind
            job = worker.Job(recipe, storage, name, heartbeat)
            mine = stack.enter_context(job.open())
            folder = _make_folder(folder, recipe)
        _write_recipe(recipe, folder)
        _announce(recipe, folder, mine, heartbeat, say)
        tell = _Teller(mine, recipe, say)
        try:
            if workers == 1:
                worker.work(job, mine, data, tell)
            else:
                del data  # each worker loads its own
                worker.run_workers(job, workers, tell, say)
        except KeyboardInterrupt as interrupt:
            again = f"interrupted; {to_resume(folder, storage)} goes on"
            raise Interrupted(again, getattr(interrupt, "signum", signal.SIGINT)) from None
        except ChildProcessError as error:
            raise ChildProcessError(f"{error}; {to_resume(folder, storage)} goes on") from None
        return _finish(recipe, folder, mine)


def _make_folder(folder: Path | None, recipe: Recipe) -> Path:
    folder = folder or runs.new_folder(f"{recipe.name}-search")
    folder.mkdir(parents=True, exist_ok=True)
    remove_partial_files(folder)
    return folder


def _write_recipe(recipe: Recipe, folder: Path) -> None:
    with atomic_path(folder / RECIPE) as path:
        path.write_text(toml.dumps(recipe.to_settings()), encoding="utf-8")


def to_resume(folder: Path, storage: str | None) -> str:
    """Return the command that goes on with a search.

    Parameters
    ----------
    folder : path
    storage : str, optional

    Returns
    -------
    str
    """
    where = "" if storage is None else " --storage ..."
    return f"nnkit search --resume {shlex.quote(str(folder))}{where}"


def _checked(recipe: Recipe) -> Recipe:
    """Check the section `[search]`, and set the number of a grid's trials."""
    space = Space(recipe)
    settings = recipe.search
    assert settings is not None
    whole_number("search.trials", settings.trials, 1)
    whole_number("search.repeats", settings.repeats, 1)
    if not settings.holdout:
        whole_number("search.folds", settings.folds, 2)
    if settings.epochs is not None:
        whole_number("search.epochs", settings.epochs, 1)
        if any(dimension.name == "training.epochs" for dimension in space.dimensions):
            raise UsageError(f"search.epochs: expected none where training.epochs is searched, got {settings.epochs}")
    if settings.sampler == "grid":
        settings = dataclasses.replace(settings, trials=len(space.grid()))
    return dataclasses.replace(recipe, search=settings)


def _check_split(recipe: Recipe, data: Any) -> None:
    settings = recipe.search
    assert settings is not None
    holdout = recipe.data.validation if settings.holdout else None
    split(data, k=settings.folds, holdout=holdout, seeds=[recipe.seed], subset=settings.subset)


def _check_folder(folder: Path, resume: bool, storage: str | None) -> None:
    runs.check_folder(folder, own=RECIPE)
    holds_search, again = (folder / RECIPE).exists(), f"go on with it by --resume {folder}, or give another --out"
    if resume and not holds_search:
        raise UsageError(f"{folder}: no search to resume; it has no {RECIPE}")
    if resume and storage is None and not (folder / DATABASE).exists():
        raise UsageError(f"{folder}: has no {DATABASE}; if the study is elsewhere, give its --storage")
    if not resume and holds_search:
        raise UsageError(f"{folder} already holds a search; {again}")


def _announce(recipe: Recipe, folder: Path, study: Any, heartbeat: int, say: Callable[[str], object]) -> None:
    settings = recipe.search
    assert settings is not None
    parts = "the held-out part" if settings.holdout else f"{settings.folds * settings.repeats} folds"
    images = "" if settings.subset is None else f" of {settings.subset:,} images"
    images += "" if settings.epochs is None else f", {settings.epochs} epoch{'s' * (settings.epochs > 1)} each"
    dimensions = ", ".join(dimension.name for dimension in Space(recipe).dimensions)
    say(f"space   {dimensions}")
    say(f"search  {settings.trials} trials on {parts}{images}; sampler {settings.sampler}, pruner {settings.pruner}")
    say(f"folder  {folder}")
    states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
    running = states.count("RUNNING")
    done = len(states) - running - states.count("WAITING")
    if done:
        say(f"study   {study.study_name} has {done} finished trial{'s' * (done > 1)} already")
    if running:
        patience = studies.PATIENCE * heartbeat
        say(f"wait    for {running} at work, or left behind: run again after {patience} s without a sign of life")


class _Teller:
    """Says each trial that has ended since it was called last, whoever ran it."""

    def __init__(self, study: Any, recipe: Recipe, say: Callable[[str], object]) -> None:
        self._study, self._recipe, self._say = study, recipe, say
        self._told = {trial.number for trial in results.read_trials(study, recipe) if _has_ended(trial)}

    def __call__(self) -> None:
        for trial in results.read_trials(self._study, self._recipe):
            if _has_ended(trial) and trial.number not in self._told:
                self._told.add(trial.number)
                self._say(str(trial))


def _has_ended(trial: results.TrialResult) -> bool:
    return trial.state not in ("running", "waiting")


def _finish(recipe: Recipe, folder: Path, study: Any) -> SearchResult:
    trials = results.read_trials(study, recipe)
    result = SearchResult(recipe, trials, results.importances(study), folder)
    results.write_table(result, folder / results.TABLE)
    if not result.complete:
        why = next((trial.error for trial in reversed(trials) if trial.error), "all were pruned")
        raise UsageError(f"none of {len(trials)} trials came to its end; the last one: {why}")
    results.write(result, folder)
    return result


@contextlib.contextmanager
def _optuna_is_quiet() -> Iterator[None]:
    logging = studies.import_optuna().logging
    before = logging.get_verbosity()
    worker.quiet()
    try:
        yield
    finally:
        logging.set_verbosity(before)
