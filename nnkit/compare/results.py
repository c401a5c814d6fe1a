"""What a comparison found: a row of figures for each that took part, and a test for each two of them."""

import csv
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnkit import metrics
from nnkit.compare.entries import Entry, short_keys
from nnkit.files import atomic_path
from nnkit.history import History
from nnkit.page import duration
from nnkit.significance import McNemar, holm, mcnemar

LEVEL = 0.05  # a difference counts as more than chance if p, corrected, is below


@dataclass(frozen=True)
class Training:
    """One training of one that takes part.

    Parameters
    ----------
    seed : int
    folder : Path
    history : History
    peak_memory : int or None
        Bytes.
    threads, kernels : object
        What it ran on; None where the run does not say.
    labels, predictions : ndarray of int, shape (N,)
        Of the images that judge; empty if it diverged.
    diverged : str
        Why there are no figures.
    """

    seed: int
    folder: Path
    history: History
    peak_memory: int | None
    threads: Any
    kernels: Any
    labels: np.ndarray
    predictions: np.ndarray
    diverged: str = ""

    @property
    def accuracy(self) -> float:
        """The share of the judging images that are recognised."""
        return metrics.accuracy(self.labels, self.predictions)

    @property
    def val_accuracy(self) -> float:
        """The best epoch's, on the validation images."""
        return float(self.history.val_accuracy[self._best] or 0.0)

    @property
    def gap(self) -> float:
        """Training accuracy less validation accuracy, in the best epoch, as the history has them."""
        return float(self.history.train_accuracy[self._best] or 0.0) - self.val_accuracy

    @property
    def epoch_seconds(self) -> float:
        """The median epoch's time, validation included."""
        return float(np.median(self.history.seconds))

    @property
    def elapsed(self) -> np.ndarray:
        """Seconds of training until the end of each epoch."""
        return np.cumsum(self.history.seconds)

    @property
    def _best(self) -> int:
        return self.history.epoch.index(self.history.best_epoch)  # type: ignore[arg-type]

    def seconds_to(self, accuracy: float) -> float | None:
        """Return the seconds until the end of the first epoch with at least this validation accuracy.

        Parameters
        ----------
        accuracy : float

        Returns
        -------
        float or None
            None if no epoch had it.
        """
        for seconds, reached in zip(self.elapsed, self.history.val_accuracy, strict=True):
            if reached is not None and reached >= accuracy:
                return float(seconds)
        return None

    def figures(self, thresholds: Sequence[float]) -> dict[str, Any]:
        """Return what there is to know, ready for JSON.

        Parameters
        ----------
        thresholds : sequence of float

        Returns
        -------
        dict
        """
        who: dict[str, Any] = {"seed": self.seed, "run": str(self.folder)}
        if self.diverged:
            return {**who, "diverged": self.diverged}
        return {
            **who,
            "accuracy": self.accuracy,
            "val_accuracy": self.val_accuracy,
            "gap": self.gap,
            "epochs": len(self.history),
            "best_epoch": self.history.best_epoch,
            "seconds": float(sum(self.history.seconds)),
            "epoch_seconds": self.epoch_seconds,
            "seconds_to": {f"{threshold:g}": self.seconds_to(threshold) for threshold in thresholds},
            "peak_memory": self.peak_memory,
            "threads": self.threads,
            "kernels": self.kernels,
        }


@dataclass(frozen=True)
class Contestant:
    """One that took part, with all its trainings.

    Parameters
    ----------
    entry : Entry
    trainings : list of Training
    parameters : int or None
        None if all trainings diverged.
    flops : int or None
        Of a forward pass over one image: multiplications and additions of convolutions and linear layers.
    """

    entry: Entry
    trainings: list[Training]
    parameters: int | None
    flops: int | None

    @property
    def name(self) -> str:
        """What it is called."""
        return self.entry.name

    @property
    def finished(self) -> list[Training]:
        """The trainings that did not diverge."""
        return [training for training in self.trainings if not training.diverged]

    @property
    def accuracies(self) -> np.ndarray:
        """One a training that did not diverge."""
        return np.array([training.accuracy for training in self.finished])

    def mean(self, figure: Callable[[Training], float | None]) -> float | None:
        """Return the mean of a figure over the trainings that have it.

        Parameters
        ----------
        figure : callable
            Takes a Training.

        Returns
        -------
        float or None
            None if none has it.
        """
        known = [value for training in self.finished if (value := figure(training)) is not None]
        return float(np.mean(known)) if known else None

    @property
    def accuracy(self) -> float | None:
        """The mean over the trainings; None if all diverged."""
        return self.mean(lambda training: training.accuracy)

    @property
    def std(self) -> float | None:
        """The accuracies' standard deviation (of a sample: divided by their number less one); None for a single one."""
        return float(self.accuracies.std(ddof=1)) if len(self.accuracies) > 1 else None

    @property
    def rank(self) -> tuple[bool, float]:
        """What to sort by, the best first; one that diverged, even once, comes after all others."""
        return len(self.finished) < len(self.trainings), -(self.accuracy or 0.0)

    def accuracy_text(self, digits: int = 1) -> str:
        """Return mean ± std in percent, and how many trainings diverged.

        Parameters
        ----------
        digits : int, default 1

        Returns
        -------
        str
        """
        lost = len(self.trainings) - len(self.finished)
        if self.accuracy is None:
            return "diverged"
        spread = "" if self.std is None else f" ± {100 * self.std:.{digits}f}"
        note = f" ({lost} of {len(self.trainings)} diverged)" if lost else ""
        return f"{100 * self.accuracy:.{digits}f}{spread}%{note}"

    def seconds_to_text(self, threshold: float) -> str:
        """Return the mean time to an accuracy, and of how many trainings, if not all reached it.

        Parameters
        ----------
        threshold : float

        Returns
        -------
        str
        """
        seconds = self.mean(lambda training: training.seconds_to(threshold))
        if seconds is None:
            return "–"
        reached = sum(training.seconds_to(threshold) is not None for training in self.finished)
        note = f" ({reached}/{len(self.trainings)})" if reached < len(self.trainings) else ""
        return short_duration(seconds) + note


@dataclass(frozen=True)
class Pair:
    """Two that took part, and McNemar's test of their nets: one test a seed.

    Parameters
    ----------
    first, second : Contestant
        The one of higher accuracy first.
    tests : list of McNemar
        Of the nets of each seed; empty where one of the two has none.
    p : float
        The largest of all tests, or 1 if they point in different directions: a difference counts only if all nets show
        it.
    corrected : float
        p after Holm's correction for the number of pairs.
    """

    first: Contestant
    second: Contestant
    tests: list[McNemar]
    p: float
    corrected: float

    @property
    def significant(self) -> bool:
        """Whether the two differ by more than chance."""
        return self.corrected < LEVEL

    def figures(self) -> dict[str, Any]:
        """Return what there is to know, ready for JSON.

        Returns
        -------
        dict
        """
        tests = [
            {"only_first": t.only_first, "only_second": t.only_second, "p": t.p, "chi_square": t.statistic}
            for t in self.tests
        ]
        names = {"first": self.first.name, "second": self.second.name}
        return {**names, "p": self.p, "p_holm": self.corrected, "significant": self.significant, "tests": tests}


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Parameters
    ----------
    contestants : list of Contestant
        As they were asked for.
    class_names : sequence of str
    part : {"test", "validation"}
        Which images judge.
    thresholds : sequence of float
        The accuracies whose times are told.
    folder : Path
    """

    contestants: list[Contestant]
    class_names: Sequence[str]
    part: str
    thresholds: Sequence[float]
    folder: Path

    @functools.cached_property
    def ranked(self) -> list[Contestant]:
        """The contestants, the best first."""
        return sorted(self.contestants, key=lambda contestant: contestant.rank)

    @functools.cached_property
    def pairs(self) -> list[Pair]:
        """Each two of them, in the order of their ranks."""
        couples = list(itertools.combinations(self.ranked, 2))
        tests = [_tests(first, second, self.part) for first, second in couples]
        p_values = [_joint_p(each) for each in tests]
        return [
            Pair(*couple, each, p, corrected)
            for couple, each, p, corrected in zip(couples, tests, p_values, holm(p_values), strict=True)
        ]

    @property
    def images(self) -> int:
        """How many images judge."""
        return max((len(t.labels) for c in self.contestants for t in c.trainings), default=0)

    def recalls(self, contestant: Contestant) -> np.ndarray:
        """Return the share of each class's images that are recognised, the mean over the trainings.

        Parameters
        ----------
        contestant : Contestant
            With at least one training that did not diverge.

        Returns
        -------
        ndarray of shape (classes,)
            NaN for a class without images.
        """
        rows = []
        for training in contestant.finished:
            counts = metrics.confusion_matrix(training.labels, training.predictions, len(self.class_names))
            images = counts.sum(axis=1)
            rows.append(np.where(images > 0, counts.diagonal() / np.maximum(images, 1), np.nan))
        return np.mean(rows, axis=0)

    def figures(self) -> dict[str, Any]:
        """Return what there is to know, ready for JSON.

        Returns
        -------
        dict
        """
        return {
            "run": str(self.folder),
            "judged_by": f"{self.part} images",
            "images": self.images,
            "class_names": list(self.class_names),
            "best": self.ranked[0].name,
            "contestants": [
                {
                    **_row(contestant, self.thresholds),
                    "recalls": _json(self.recalls(contestant)) if contestant.finished else None,
                    "trainings": [training.figures(self.thresholds) for training in contestant.trainings],
                }
                for contestant in self.ranked
            ],
            "pairs": [pair.figures() for pair in self.pairs],
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the table to read: its head, and a row for each, the best first.

        Returns
        -------
        head : list of str
        rows : list of list of str
        """
        head = ["", f"{self.part} accuracy", "parameters", "FLOPs", "an epoch"]
        head += [f"to {100 * threshold:g}%" for threshold in self.thresholds]
        head += ["memory", "gap"]
        rows = []
        for contestant in self.ranked:
            memory, gap = contestant.mean(lambda t: t.peak_memory), contestant.mean(lambda t: t.gap)
            seconds = contestant.mean(lambda t: t.epoch_seconds)
            rows.append(
                [
                    contestant.name,
                    contestant.accuracy_text(),
                    "–" if contestant.parameters is None else f"{contestant.parameters:,}",
                    "–" if contestant.flops is None else short_number(contestant.flops),
                    "–" if seconds is None else short_duration(seconds),
                    *(contestant.seconds_to_text(threshold) for threshold in self.thresholds),
                    "–" if memory is None else f"{memory / 2**20:,.0f} MiB",
                    "–" if gap is None else f"{100 * gap:+.1f}",
                ]
            )
        return head, rows

    def __str__(self) -> str:
        head, rows = self.table()
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = []
        for name, *cells in [head, *rows]:
            texts = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
            lines.append("  ".join([name.ljust(widths[0]), *texts]))
        return "\n".join(lines)


def write_table(result: Comparison, path: Path) -> None:
    """Write a row for each that took part, the best first.

    Parameters
    ----------
    result : Comparison
    path : path
    """
    rows = [_row(contestant, result.thresholds) for contestant in result.ranked]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def short_number(value: float) -> str:
    """Return a number of three figures and a letter.

    >>> short_number(1_234_567), short_number(820)
    ('1.23 M', '820')
    """
    for unit in ("", " k", " M", " G"):
        if value < 999.5:
            return f"{value:.3g}{unit}" if value < 99.95 else f"{value:.0f}{unit}"
        value /= 1000
    return f"{value:.3g} T"


def short_duration(seconds: float) -> str:
    """Return a duration; under a second, in hundredths.

    >>> short_duration(0.0421), short_duration(8.25), short_duration(75)
    ('0.04 s', '8.2 s', '1 min 15 s')
    """
    return f"{seconds:.2f} s" if seconds < 1 else duration(seconds)


def _row(contestant: Contestant, thresholds: Sequence[float]) -> dict[str, Any]:
    """Return one line of the table of figures."""
    values = contestant.entry.values
    return {
        "name": contestant.name,
        **values,
        "trainings": len(contestant.trainings),
        "diverged": len(contestant.trainings) - len(contestant.finished),
        "accuracy": contestant.accuracy,
        "accuracy_std": contestant.std,
        "val_accuracy": contestant.mean(lambda t: t.val_accuracy),
        "parameters": contestant.parameters,
        "flops": contestant.flops,
        "epoch_seconds": contestant.mean(lambda t: t.epoch_seconds),
        **_times(contestant, thresholds),
        "peak_memory": contestant.mean(lambda t: t.peak_memory),
        "gap": contestant.mean(lambda t: t.gap),
    }


def _times(contestant: Contestant, thresholds: Sequence[float]) -> dict[str, Any]:
    """Return for each accuracy the mean time of the trainings that reached it, and how many did."""
    times: dict[str, Any] = {}
    for threshold in thresholds:
        reached = [s for training in contestant.finished if (s := training.seconds_to(threshold)) is not None]
        times[f"seconds_to_{threshold:g}"] = float(np.mean(reached)) if reached else None
        times[f"reached_{threshold:g}"] = len(reached)
    return times


def _tests(first: Contestant, second: Contestant, part: str) -> list[McNemar]:
    """Return a test for each two nets: those of the same seed, or, if there are none, in the order of their seeds."""
    ones, twos = first.finished, second.finished
    shared = {t.seed for t in ones} & {t.seed for t in twos}
    if shared or part == "validation":  # those of another seed are judged by other images
        ones, twos = ([t for t in trainings if t.seed in shared] for trainings in (ones, twos))
    return [mcnemar(one.labels, one.predictions, two.predictions) for one, two in zip(ones, twos, strict=False)]


def _joint_p(tests: Sequence[McNemar]) -> float:
    directions = {np.sign(test.only_first - test.only_second) for test in tests}
    return max(test.p for test in tests) if len(directions) == 1 else 1.0


def _json(values: np.ndarray) -> list[float | None]:
    return [None if math.isnan(value) else float(value) for value in values]


def varied(result: Comparison) -> dict[str, list[str]]:
    """Return, for a sweep, the keys' short names and the values of each, in the order asked for.

    Parameters
    ----------
    result : Comparison

    Returns
    -------
    dict of str to list of str
        Empty if it is no sweep.
    """
    keys = list(result.contestants[0].entry.values)
    columns = [list(dict.fromkeys(c.entry.values[key] for c in result.contestants)) for key in keys]
    return dict(zip(short_keys(keys), columns, strict=True))
