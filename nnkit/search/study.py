"""The study: where the trials are kept, who draws their settings, and who stops them early.

All that workers know of each other is in the study's storage, a database: SQLite for those of one machine, PostgreSQL
for those of many. A worker that is killed leaves a trial that is still "running"; when its heartbeat has been silent
for a while, another worker marks it as failed and puts its settings back into the queue.
"""

import contextlib
import json
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from nnkit.errors import UsageError
from nnkit.recipes import Recipe

PATIENCE = 3  # heartbeats that may fail to come before a trial is taken for dead
_MOST_ATTEMPTS = 3  # at settings that kill their worker, by taking all the memory, say
_MOST_CONFLICTS = 20  # when tables are made
_IDENTITY = "nnkit recipe"  # user attribute of a study
_RETRY_OF, _ATTEMPT = "retry of", "attempt"  # user attributes of a trial


def import_optuna() -> Any:
    """Return the package optuna.

    Returns
    -------
    module

    Raises
    ------
    ImportError
        It is not installed; the message says how to.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError("a search needs Optuna; install it with: pip install 'nnkit[search]'") from error
    return optuna


@contextlib.contextmanager
def storage(url: str, heartbeat: int) -> Iterator[Any]:
    """Connect to a database for a while.

    Parameters
    ----------
    url : str
        As in SQLAlchemy: `sqlite:///path`, `postgresql://user@host/database`, ...
    heartbeat : int
        Seconds between a running trial's signs of life.

    Yields
    ------
    optuna.storages.RDBStorage

    Raises
    ------
    UsageError
        It is no URL, or of a database that there is no driver for.
    ConnectionError
        The database refuses.
    """
    optuna = import_optuna()
    import sqlalchemy

    try:
        parsed = sqlalchemy.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        raise UsageError(f"--storage: expected a URL such as postgresql://user@host/database, got {url!r}") from None
    shown = parsed.render_as_string(hide_password=True)
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    is_sqlite = parsed.get_backend_name() == "sqlite"
    timeout = {"timeout": 60} if is_sqlite else {"connect_timeout": 10} if "postgresql" in parsed.drivername else {}

    def connect() -> Any:
        with heartbeat_allowed():
            return optuna.storages.RDBStorage(
                parsed.render_as_string(hide_password=False),
                engine_kwargs={"connect_args": timeout},
                heartbeat_interval=heartbeat,
                grace_period=PATIENCE * heartbeat,
                heartbeat_stale_trial_callback=_put_back_dead,
            )

    try:
        for attempt in range(_MOST_CONFLICTS + 1):
            try:
                opened = connect()
                break
            except sqlalchemy.exc.DBAPIError as error:
                # Several workers found an empty database, and made its tables at once: all but one are told off.
                conflict = isinstance(error, sqlalchemy.exc.IntegrityError) or "already exists" in str(error)
                if not conflict or attempt == _MOST_CONFLICTS:
                    raise
                time.sleep(0.25)
    except (ImportError, sqlalchemy.exc.NoSuchModuleError):
        raise UsageError(f"--storage {shown}: no driver for {parsed.drivername} is installed") from None
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise ConnectionError(f"--storage {shown}: {_reason(error)}") from None
    if is_sqlite:
        _lock_whole_transactions(opened.engine)
    try:
        yield opened
    finally:
        opened.remove_session()
        opened.engine.dispose()


@contextlib.contextmanager
def heartbeat_allowed() -> Iterator[None]:
    """Do without the warning that Optuna's heartbeat is experimental, which it has been since 2021."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", import_optuna().exceptions.ExperimentalWarning)
        yield


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Say in one line that the database has failed, be it gone, full, or damaged."""
    optuna = import_optuna()
    import sqlalchemy

    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise ConnectionError(f"the study's database has failed: {_reason(error)}; --resume goes on") from None


def _reason(error: Exception) -> str:
    cause = error if hasattr(error, "orig") else error.__cause__
    return str(getattr(cause, "orig", None) or cause or error).splitlines()[0]


def _lock_whole_transactions(engine: Any) -> None:
    """Let each transaction lock SQLite's file at its beginning, as `SELECT ... FOR UPDATE`, which it lacks, would.

    Otherwise two workers may both read that a trial is waiting, and both run it.
    """
    import sqlalchemy

    @sqlalchemy.event.listens_for(engine, "connect")
    def leave_transactions_to_us(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections from before have not heard of it


def open_study(storage: Any, name: str, recipe: Recipe) -> Any:
    """Return the study of this name, a new one if there is none.

    Parameters
    ----------
    storage : optuna.storages.RDBStorage
    name : str
    recipe : Recipe
        With its section `[search]`.

    Returns
    -------
    optuna.Study

    Raises
    ------
    UsageError
        The study that is there is one of another recipe, or of other settings of it.
    """
    optuna = import_optuna()
    study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
    ours = _identity(recipe)
    theirs = study.user_attrs.get(_IDENTITY)
    if theirs is None:
        if study.get_trials(deepcopy=False):
            raise UsageError(f"study {name!r}: was not made by nnkit; give another name with --study")
        study.set_user_attr(_IDENTITY, json.dumps(ours))
        return study
    for key in {**json.loads(theirs), **ours}:
        here, there = ours.get(key, "nothing"), json.loads(theirs).get(key, "nothing")
        if here != there:
            raise UsageError(
                f"study {name!r} is of another recipe: its {key} is {there}, not {here}; give another name with --study"
            )
    return study


def _identity(recipe: Recipe) -> dict[str, Any]:
    """Return all that decides about a trial's score, flat; not where the data lie, which machines need not agree on."""
    settings = recipe.to_settings()
    settings.pop("description", None)
    settings["data"].pop("dir", None)
    settings["search"].pop("trials")
    flat = {}
    for key, value in settings.items():
        for inner, item in (value if isinstance(value, dict) else {"": value}).items():
            flat[f"{key}.{inner}".rstrip(".")] = json.loads(json.dumps(item))  # tuples become lists
    return flat


def make_pruner(name: str, steps: int) -> Any:
    """Return what stops trials early.

    Parameters
    ----------
    name : {"median", "asha", "hyperband", "none"}
    steps : int
        How many epochs a whole trial has in all its folds.

    Returns
    -------
    optuna.pruners.BasePruner
    """
    pruners = import_optuna().pruners
    if name == "hyperband":
        return pruners.HyperbandPruner(min_resource=1, max_resource=steps, reduction_factor=3)
    if name == "asha":
        return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    if name == "median":  # the first epochs tell little: with more dropout, or a smaller rate, a good net begins slowly
        return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=max(steps // 4, 1))
    return pruners.NopPruner()


def make_sampler(name: str, seed: int, points: Sequence[dict[str, Any]]) -> Any:
    """Return what draws a trial's settings.

    Parameters
    ----------
    name : {"tpe", "random", "grid"}
    seed : int
        For each worker another.
    points : sequence of dict
        Of the grid.

    Returns
    -------
    optuna.samplers.BaseSampler
    """
    samplers = import_optuna().samplers
    if name == "grid":
        return _grid_sampler(points)
    if name == "random":
        return samplers.RandomSampler(seed)
    return samplers.TPESampler(seed=seed, constant_liar=True)  # which keeps workers apart


def _grid_sampler(points: Sequence[dict[str, Any]]) -> Any:
    optuna = import_optuna()

    class Grid(optuna.samplers.BaseSampler):  # type: ignore[name-defined]
        """Gives each trial the point of its place in the study: all points, each once, whoever runs them.

        Optuna's own GridSampler says that its workers may take the same point at once, and a point whose worker was
        killed counts as visited.
        """

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
            return {}

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            return points[place(study.get_trials(deepcopy=False), trial)][param_name]

    return Grid()


def place(trials: Sequence[Any], trial: Any) -> int:
    """Return how many other settings were drawn before those of this trial; one that is run again keeps its place.

    The database gives each trial a number, none twice and none left out; and so the trials that are no repeats a place.

    Parameters
    ----------
    trials : sequence of optuna.trial.FrozenTrial
        All of the study.
    trial : optuna.Trial or optuna.trial.FrozenTrial

    Returns
    -------
    int
    """
    original = trial.user_attrs.get(_RETRY_OF, trial.number)
    return sum(t.number < original for t in originals(trials))


def originals(trials: Sequence[Any]) -> list[Any]:
    """Return the trials that do not repeat one that was killed or interrupted.

    Parameters
    ----------
    trials : sequence of optuna.trial.FrozenTrial

    Returns
    -------
    list
    """
    return [t for t in trials if _RETRY_OF not in t.user_attrs]


def put_back(study: Any, trial: Any, attempt: int | None = None) -> None:
    """Have a trial that was interrupted run again, by whoever is next, with the same settings and another number.

    Parameters
    ----------
    study : optuna.Study
    trial : optuna.trial.FrozenTrial
    attempt : int, optional
        Which one it will be; by default the same as before.
    """
    optuna = import_optuna()
    attempt = trial.user_attrs.get(_ATTEMPT, 1) if attempt is None else attempt
    original = trial.user_attrs.get(_RETRY_OF, trial.number)
    again = optuna.create_trial(
        state=optuna.trial.TrialState.WAITING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={_RETRY_OF: original, _ATTEMPT: attempt},
    )
    study.add_trial(again)


def _put_back_dead(study: Any, trial: Any) -> None:
    attempt = trial.user_attrs.get(_ATTEMPT, 1)
    if attempt < _MOST_ATTEMPTS:
        put_back(study, trial, attempt + 1)
