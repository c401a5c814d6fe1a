"""Workers: each takes trials of the study, one after the other, until there are none left."""

import contextlib
import dataclasses
import math
import multiprocessing
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from nnkit._ext import get_num_threads, set_num_threads
from nnkit.data import Dataset
from nnkit.errors import CheckpointError, DataError, DivergenceError, UsageError
from nnkit.folds import CrossValidation, cross_validate
from nnkit.recipes import Recipe
from nnkit.search import study as studies
from nnkit.search.space import Space
from nnkit.signals import Interrupted, Interruption, raising_on_sigterm

_POLL = 1.0  # seconds between two looks at what the other workers do


@dataclass(frozen=True)
class Job:
    """All that a worker has to know.

    Parameters
    ----------
    recipe : Recipe
        With its section `[search]`; its `trials` are those of the whole study.
    storage, study : str
        The database's URL and the name of the study in it.
    heartbeat : int
        Seconds between signs of life.
    """

    recipe: Recipe
    storage: str
    study: str
    heartbeat: int

    @contextlib.contextmanager
    def open(self, worker: int = 0) -> Iterator[Any]:
        """Connect to the study for a while, ready to run trials.

        Parameters
        ----------
        worker : int, default 0
            From 0; each draws other settings.

        Yields
        ------
        optuna.Study
        """
        with studies.storage(self.storage, self.heartbeat) as storage:
            yield self._prepare(studies.open_study(storage, self.study, self.recipe), worker)

    def _prepare(self, study: Any, worker: int) -> Any:
        """Give the study its sampler and pruner, which are not kept in the database."""
        settings = self.recipe.search
        assert settings is not None
        entropy = [self.recipe.seed, worker, len(study.get_trials(deepcopy=False))]
        if not self.storage.startswith("sqlite"):  # workers of other machines have the same number
            entropy.append(secrets.randbits(32))
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        space = Space(self.recipe)
        study.sampler = studies.make_sampler(settings.sampler, seed, space.grid() if settings.sampler == "grid" else ())
        study.pruner = studies.make_pruner(settings.pruner, _steps(self.recipe, space))
        return study


def _epochs(recipe: Recipe, space: Space) -> int:
    """Return the most epochs that a training may have."""
    assert recipe.search is not None
    ends = (d.ends() for d in space.dimensions if d.name == "training.epochs")
    return max(next(ends, [recipe.search.epochs or recipe.training.epochs]))


def _steps(recipe: Recipe, space: Space) -> int:
    assert recipe.search is not None
    return _epochs(recipe, space) * recipe.search.repeats * (1 if recipe.search.holdout else recipe.search.folds)


def judge(
    recipe: Recipe, data: Dataset, search: Any, on_epoch: Callable[[int, int, float], object] | None = None
) -> CrossValidation:
    """Cross-validate one trial's recipe.

    Parameters
    ----------
    recipe : Recipe
    data : Dataset
    search : SearchSettings
    on_epoch : callable, optional
        As in `cross_validate`.

    Returns
    -------
    CrossValidation
    """
    if search.epochs is not None:
        recipe = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, epochs=search.epochs))
    return cross_validate(
        recipe,
        data,
        k=search.folds,
        holdout=recipe.data.validation if search.holdout else None,
        seeds=range(recipe.seed, recipe.seed + search.repeats),
        subset=search.subset,
        on_epoch=on_epoch,
        progress=False if multiprocessing.parent_process() else None,  # bars of several workers would be a muddle
    )


def work(job: Job, study: Any, data: Dataset, tell: Callable[[], object] = lambda: None) -> None:
    """Run trials until the study has all of them, and none is running any more, here or elsewhere.

    To wait for the last ones costs a little time, but should their worker die, this one takes them over.

    Parameters
    ----------
    job : Job
    study : optuna.Study
        As `Job.open` returns it.
    data : Dataset
    tell : callable
        Called now and then.
    """
    optuna = studies.import_optuna()
    state = optuna.trial.TrialState
    objective = _Objective(job, data)
    silent: dict[int, float] = {}  # trials without a heartbeat, and since when
    assert job.recipe.search is not None
    while True:
        with studies.heartbeat_allowed():
            optuna.storages.fail_stale_trials(study)
        trials = study.get_trials(deepcopy=False)
        states = {trial.state for trial in trials}
        if state.WAITING in states or len(studies.originals(trials)) < job.recipe.search.trials:
            _run_one(study, objective)
        elif state.RUNNING in states:
            _bury_stillborn(study, trials, silent, studies.PATIENCE * job.heartbeat)
            time.sleep(min(_POLL, job.heartbeat))
        else:
            tell()
            return
        tell()


def _run_one(study: Any, objective: "_Objective") -> None:
    optuna = studies.import_optuna()
    objective.number = None
    try:
        study.optimize(objective, n_trials=1, catch=(_NotJudged,))
    except optuna.exceptions.UpdateFinishedTrialError:
        pass  # this process was asleep for so long that the trial was taken for dead, and is run again already
    except BaseException:
        # Ctrl-C, a full disk, ...: the settings are not to blame.
        if objective.number is not None:
            trial = study.trials[objective.number]
            if trial.state == optuna.trial.TrialState.FAIL:
                with Interruption().listening():  # a second Ctrl-C shall not lose the trial
                    studies.put_back(study, trial)
        raise


def _bury_stillborn(study: Any, trials: Sequence[Any], silent: dict[int, float], patience: float) -> None:
    """Mark as failed the trials whose worker was killed before their first heartbeat, which Optuna leaves running."""
    optuna = studies.import_optuna()
    for trial in trials:
        if trial.state != optuna.trial.TrialState.RUNNING or trial.params:
            continue
        if time.monotonic() - silent.setdefault(trial.number, time.monotonic()) > patience:
            with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):  # another was faster
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                studies.put_back(study, trial)


class _NotJudged(Exception):  # noqa: N818 - an outcome
    """The trial has no score, and shall not have one."""


class _Objective:
    """What Optuna maximises: a trial's settings in, mean cross-validated accuracy out."""

    def __init__(self, job: Job, data: Dataset) -> None:
        self.job, self.data = job, data
        self.space = Space(job.recipe)
        self.number: int | None = None  # of the trial at hand

    def __call__(self, trial: Any) -> float:
        optuna = studies.import_optuna()
        self.number, search = trial.number, self.job.recipe.search
        assert search is not None
        if studies.place(trial.study.get_trials(deepcopy=False), trial) >= search.trials:
            raise self._not_judged(trial, f"one more than {search.trials} trials: two workers began one at once")
        values = self.space.suggest(trial)
        started = time.perf_counter()
        try:
            recipe = self.space.recipe_with(values)
            result = judge(recipe, self.data, search, self._reporter(trial, _epochs(self.job.recipe, self.space)))
        except DivergenceError as error:
            # So bad that nobody shall look there again, which a failed trial would not say.
            trial.set_user_attr("error", str(error))
            raise optuna.TrialPruned from None
        except (UsageError, DataError, CheckpointError, MemoryError) as error:  # settings that do not go together
            raise self._not_judged(trial, str(error) or "out of memory") from None
        std = result.std()
        trial.set_user_attr("std", None if math.isnan(std) else std)
        trial.set_user_attr("seconds", time.perf_counter() - started)
        return result.mean()

    def _not_judged(self, trial: Any, reason: str) -> _NotJudged:
        trial.set_user_attr("error", reason)
        return _NotJudged(reason)

    def _reporter(self, trial: Any, epochs: int) -> Callable[[int, int, float], None]:
        """Return an `on_epoch` that reports to the pruner.

        Epochs are counted through all folds. The value is the mean of the folds so far, with the best epoch so far of
        the one at hand: of all trials the same at the same step.
        """
        best: dict[int, float] = {}

        def report(fold: int, epoch: int, accuracy: float) -> None:
            _raise_if_orphaned()
            best[fold] = max(best.get(fold, 0.0), accuracy)
            trial.report(float(np.mean(list(best.values()))), (fold - 1) * epochs + epoch)
            if trial.should_prune():
                raise studies.import_optuna().TrialPruned

        return report


def _raise_if_orphaned() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise Interrupted("the process that started this worker is gone", signal.SIGTERM)


def run_workers(job: Job, count: int, tell: Callable[[], object], say: Callable[[str], object]) -> None:
    """Run several workers, each a process with its share of the threads, and wait for them.

    Parameters
    ----------
    job : Job
    count : int
    tell, say : callable
        Called now and then, and with news about the workers.

    Raises
    ------
    ChildProcessError
        All of them were killed, or could not start.
    KeyboardInterrupt
        Ctrl-C or SIGTERM came; they have ended.
    """
    context = multiprocessing.get_context("spawn")
    threads = max(1, get_num_threads() // count)
    errors, sender = context.Pipe(duplex=False)
    names = range(count)
    workers = [context.Process(target=_worker, args=(job, i, threads, sender), daemon=True) for i in names]
    failures: list[Exception] = []
    try:
        for worker in workers:
            worker.start()
        alive, told = dict(enumerate(workers, 1)), time.monotonic()
        while alive:
            time.sleep(0.1)
            if time.monotonic() - told > _POLL:
                tell()
                told = time.monotonic()
            while errors.poll():
                failures.append(errors.recv())
            for number, worker in list(alive.items()):
                if worker.exitcode is None:
                    continue
                del alive[number]
                if worker.exitcode < 0:
                    say(f"worker {number} was killed by {signal.Signals(-worker.exitcode).name}")
    except KeyboardInterrupt:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
        raise
    finally:
        for worker in workers:
            if worker.pid is not None:
                worker.join()
    tell()
    while errors.poll():
        failures.append(errors.recv())
    if failures:
        raise failures[0]
    if all(worker.exitcode for worker in workers):
        by_signal = all((worker.exitcode or 0) < 0 for worker in workers)
        raise ChildProcessError(
            "all workers were killed (is there enough memory?)" if by_signal else "no worker came to its end"
        )


def _worker(job: Job, number: int, threads: int, errors: Connection) -> None:
    """Be one of several processes."""
    quiet()
    set_num_threads(threads)
    try:
        with raising_on_sigterm(), studies.clear_errors(), job.open(number) as study:
            work(job, study, job.recipe.data.load_part(train=True))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        errors.send(
            error if isinstance(error, (ValueError, OSError)) else RuntimeError(f"{type(error).__name__}: {error}")
        )
        sys.exit(1)


def quiet() -> None:
    """Keep Optuna from writing a line for each trial; `nnkit search` has its own."""
    studies.import_optuna().logging.set_verbosity(studies.import_optuna().logging.CRITICAL)
