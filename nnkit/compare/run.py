"""A comparison from its beginning to its end: checked, trained, measured, written down."""

import dataclasses
import json
import multiprocessing
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from nnkit import runs
from nnkit.checkpoint import load_model
from nnkit.compare import entries as participants
from nnkit.compare import worker
from nnkit.compare.entries import Entry
from nnkit.compare.page import write_page
from nnkit.compare.results import Comparison, Contestant, Training, short_duration, write_table
from nnkit.data import Dataset
from nnkit.errors import CheckpointError, DataError, UsageError
from nnkit.evaluation import evaluate_model
from nnkit.files import atomic_path, remove_partial_files
from nnkit.history import History
from nnkit.models import Model
from nnkit.recipes import Recipe
from nnkit.signals import Interrupted

PLAN, TABLE, FIGURES = "plan.json", "comparison.csv", "comparison.json"
THRESHOLDS = (0.5, 0.6, 0.7, 0.75)
_RUNS = "runs"  # the folder of the trainings, in that of the comparison


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What `plan.json` holds, to go on with after an interruption."""

    entries: list[Entry]
    thresholds: tuple[float, ...]
    part: Literal["test", "validation"]

    def trainings(self, folder: Path) -> Iterator[tuple[Entry, int, Path]]:
        """Yield entry, seed and run folder of all there is to train: each entry once, then each with the next seed.

        What slows the machine down for a while then does so to all alike.
        """
        width = len(str(len(self.entries)))
        for turn in range(max(len(entry.seeds) for entry in self.entries)):
            for number, entry in enumerate(self.entries, 1):
                if not entry.runs and turn < len(entry.seeds):
                    name = re.sub(r"[^\w.=+-]+", "_", entry.name)[:80]
                    seed = entry.seeds[turn]
                    yield entry, seed, folder / _RUNS / f"{number:0{width}}-{name}-seed{seed}"


def compare(
    names: Sequence[str | Path],
    folder: str | Path | None = None,
    *,
    vary: Sequence[str] = (),
    seeds: int | None = None,
    overrides: Sequence[str] = (),
    data_dir: str | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
    resume: bool = False,
    download: bool = False,
    say: Callable[[str], object] | None = None,
) -> Comparison:
    """Train recipes, or variants of one, or take finished runs, and write a table and a page that compare them.

    Without `vary`, the test images judge. With it, the validation images do: a sweep is there to choose settings, and
    whatever is chosen by the test set is measured too well by it.

    Parameters
    ----------
    names : sequence of str or path
        Recipes, by name or file, and run folders. Folders that differ only by their seed are one contestant's.
    folder : path, optional
        Where to; the next `runs/compare-<n>` if not given.
    vary : sequence of str
        Each `"key=value,value,..."`: the variants of the one recipe are compared, all combinations if there are
        several. A name may stand for a whole section: `"optimizer=sgd,adam"`, each with its standard rate.
    seeds : int, optional
        How often to train each recipe: with its own seed, and those after it. By default once.
    overrides : sequence of str
        Changes of all recipes, as in `recipes.load`.
    data_dir : str, optional
        Where the data is.
    thresholds : sequence of float
        Validation accuracies, from 0 to 1, the time to which is told.
    resume : bool, default False
        Go on with the comparison that `folder` holds; what is trained already is not trained again.
    download : bool, default False
        Fetch data that is missing.
    say : callable, optional
        Called with lines that tell what is going on. The trainings' own lines go to stdout, if this is given.

    Returns
    -------
    Comparison

    Raises
    ------
    UsageError, DataError, CheckpointError
        As the parts raise them. Nothing is trained before all is found to be right.
    ChildProcessError
        A training's process was killed.
    Interrupted
        Ctrl-C or SIGTERM came; what is trained so far is kept.

    Examples
    --------
    As each training is a process of its own, a script calls this under `if __name__ == "__main__":`.

    >>> result = compare(["cifar10-mlp", "cifar10-cnn"], seeds=3)  # doctest: +SKIP
    >>> print(result)  # doctest: +SKIP
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # a process begins by importing the script
        raise UsageError('compare: a script must call it under: if __name__ == "__main__":')
    where = None if folder is None else Path(folder)
    if resume:
        plan = _read_plan(where)
    else:
        read = participants.read(names, vary, overrides, seeds, data_dir)
        plan = _Plan(read, _checked(thresholds), "validation" if vary else "test")
        if where is not None:
            _check_folder(where)
    images = _Images(plan.part, download)
    images.require_same(plan.entries)
    where = where or runs.new_folder("compare")
    where.mkdir(parents=True, exist_ok=True)
    remove_partial_files(where)
    if not resume:
        _write_plan(plan, where)
    tell = say or (lambda line: None)
    untouched = "; the test set is not looked at" if plan.part == "validation" else ""
    tell(f"judge   {images.description()}{untouched}")
    tell(f"folder  {where}")
    try:
        _train_all(plan, where, download, say)
        tell(f"measure all nets on {images.description()}")
        contestants = [_measure(entry, plan, where, images) for entry in plan.entries]
        if not any(contestant.finished for contestant in contestants):
            raise UsageError(f"all trainings diverged; the last one: {contestants[-1].trainings[-1].diverged}")
        result = Comparison(contestants, images.class_names, plan.part, plan.thresholds, where)
        _write(result)
    except KeyboardInterrupt as interrupt:
        raise Interrupted(
            f"interrupted; {to_resume(where)} goes on", getattr(interrupt, "signum", signal.SIGINT)
        ) from None
    except ChildProcessError as error:
        raise ChildProcessError(f"{error}; {to_resume(where)} goes on") from None
    return result


def to_resume(folder: Path) -> str:
    """Return the command that goes on with a comparison.

    Parameters
    ----------
    folder : path

    Returns
    -------
    str
    """
    return f"nnkit compare --resume {shlex.quote(str(folder))}"


# The plan


def _checked(thresholds: Sequence[float]) -> tuple[float, ...]:
    for threshold in thresholds:
        if not 0 < threshold <= 1:
            raise UsageError(f"thresholds: expected accuracies above 0% and up to 100%, got {100 * threshold:g}%")
    return tuple(sorted(set(thresholds)))


def _check_folder(folder: Path) -> None:
    runs.check_folder(folder, own=PLAN)
    if (folder / PLAN).exists():
        raise UsageError(f"{folder} already holds a comparison; {to_resume(folder)} goes on, or give another --out")


def _write_plan(plan: _Plan, folder: Path) -> None:
    table = {
        "part": plan.part,
        "thresholds": plan.thresholds,
        "entries": [participants.to_json(entry) for entry in plan.entries],
    }
    with atomic_path(folder / PLAN) as path:
        path.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def _read_plan(folder: Path | None) -> _Plan:
    if folder is None or not (folder / PLAN).is_file():
        raise UsageError(f"{folder}: no comparison to resume; it has no {PLAN}")
    try:
        table = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        entries = [participants.from_json(entry) for entry in table["entries"]]
        if len(entries) < 2 or not all(entry.seeds for entry in entries) or table["part"] not in ("test", "validation"):
            raise ValueError("expected two entries, seeds of each, and which images judge")
        return _Plan(entries, _checked(table["thresholds"]), table["part"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / PLAN}: cannot read this plan: {error}") from error


# The images that judge


class _Images:
    """The images that judge, loaded once for all that share them."""

    def __init__(self, part: str, download: bool) -> None:
        self._part, self._download = part, download
        self._loaded: dict[str, Dataset] = {}
        self.class_names: tuple[str, ...] = ()
        self._counts = ""

    def of(self, recipe: Recipe, seed: int) -> Dataset:
        """Return the test images, or the validation images of this seed."""
        settings = recipe.data
        key = repr((settings.name, settings.dir, settings.classes, sorted(settings.options.items())))
        if key not in self._loaded:
            self._loaded[key] = settings.load_part(self._part == "validation", self._download)
        data = self._loaded[key]
        return data if self._part == "test" else data.split(settings.validation, seed)[1]

    def require_same(self, entries: Sequence[Entry]) -> None:
        """Make sure that all are judged by the same images."""
        first, *others = entries
        expected = self.of(first.recipe, first.recipe.seed)
        self.class_names = tuple(expected.class_names)
        self._counts = f"{len(expected):,} {self._part} images"
        if self._part == "validation":
            return  # of one recipe, whose variants have the same
        for other in others:
            got = self.of(other.recipe, other.recipe.seed)
            ours, theirs = (", ".join(map(str, data.class_names)) for data in (expected, got))
            if ours != theirs:
                raise DataError(f"{first.name} tells apart {ours}; {other.name} {theirs}: they cannot be compared")
            same = expected.images.shape == got.images.shape and np.array_equal(expected.labels, got.labels)
            if not same or not np.array_equal(expected.images, got.images):
                sizes = " and ".join(
                    f"{len(data):,} of {'×'.join(map(str, data.image_shape))}" for data in (expected, got)
                )
                raise DataError(f"{first.name} and {other.name} have other test images ({sizes}); expected the same")

    def description(self) -> str:
        """Tell what judges."""
        return self._counts


# Training


def _train_all(plan: _Plan, folder: Path, download: bool, say: Callable[[str], object] | None) -> None:
    tell = say or (lambda line: None)
    planned = list(plan.trainings(folder))
    done = sum(_is_done(run) for _, _, run in planned)
    if done:
        tell(f"kept    {done} of {len(planned)} trainings that are done")
    lines: Literal["stdout", "stderr", ""] = "" if say is None else "stderr" if sys.stdout is sys.stderr else "stdout"
    for number, (entry, seed, run) in enumerate(planned, 1):
        if _is_done(run):
            continue
        tell(f"train   {number} of {len(planned)}: {entry.name}, seed {seed}")
        recipe = dataclasses.replace(entry.recipe, seed=seed)
        try:
            worker.train(worker.Job(recipe, run, lines, download))
        except UsageError as error:  # a setting is wrong: to go on would not help
            raise UsageError(f"{entry.name}: {error}") from None
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            raise ChildProcessError(f"{entry.name}, seed {seed}: {error or 'out of memory'}") from None
        tell(f"        {_outcome(run)}")


def _is_done(run: Path) -> bool:
    return (run / runs.METRICS).exists() or (run / worker.DIVERGED).exists()


def _outcome(run: Path) -> str:
    if (run / worker.DIVERGED).exists():
        return f"diverged: {_why_diverged(run)}"
    figures = json.loads((run / runs.METRICS).read_text(encoding="utf-8"))
    memory = "" if figures["peak_memory"] is None else f", {figures['peak_memory'] / 2**20:,.0f} MiB"
    took = short_duration(figures["seconds"])
    return f"validation {figures['val_accuracy']:.1%} in epoch {figures['best_epoch']}, {took}{memory}"


def _why_diverged(run: Path) -> str:
    return (run / worker.DIVERGED).read_text(encoding="utf-8").partition(";")[0].strip()


# Measuring


def _measure(entry: Entry, plan: _Plan, folder: Path, images: _Images) -> Contestant:
    where = dict(zip(entry.seeds, entry.runs, strict=True)) if entry.runs else {
        seed: run for other, seed, run in plan.trainings(folder) if other is entry
    }  # fmt: skip
    trainings, model = [], None
    for seed in entry.seeds:
        training, found = _measure_one(entry, seed, where[seed], images)
        trainings.append(training)
        model = found or model
    flops = None if model is None else sum(leaf.flops() for leaf in model.leaves())
    return Contestant(entry, trainings, None if model is None else model.num_parameters, flops)


def _measure_one(entry: Entry, seed: int, run: Path, images: _Images) -> tuple[Training, Model | None]:
    nothing = np.zeros(0, np.int64)
    if (run / worker.DIVERGED).exists():
        return Training(seed, run, History(), None, None, None, nothing, nothing, _why_diverged(run)), None
    figures, history = participants.read_run(run)
    model, metadata = load_model(run / runs.MODEL)
    judging = images.of(entry.recipe, seed)
    if list(metadata.get("class_names", [])) != list(judging.class_names) or "normalize" not in metadata:
        raise DataError(f"{run}: its model was trained for other classes than {', '.join(judging.class_names)}")
    evaluation = evaluate_model(model, judging, metadata["normalize"], entry.name)
    memory, threads, kernels = (figures.get(key) for key in ("peak_memory", "threads", "kernels"))
    predictions = evaluation.probabilities.argmax(axis=1)
    return Training(seed, run, history, memory, threads, kernels, judging.labels, predictions), model


def _write(result: Comparison) -> None:
    write_table(result, result.folder / TABLE)
    with atomic_path(result.folder / FIGURES) as path:
        path.write_text(json.dumps(result.figures(), indent=2) + "\n", encoding="utf-8")
    write_page(result)
