"""Cross-validation: each image is held out once, and judged by a net that was trained without it.

`cross_validate` trains and measures; `train_folds` is the command line's `nnkit train NAME --folds K`, which leaves a
folder with the figures and pictures.
"""

import csv
import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnkit import metrics, plots, recipes, runs
from nnkit.data import Dataset
from nnkit.data.dataset import stratified_indices
from nnkit.errors import UsageError, whole_number
from nnkit.evaluation import Evaluation, evaluate_model
from nnkit.files import atomic_path
from nnkit.history import History
from nnkit.models import Model
from nnkit.recipes import Recipe, toml
from nnkit.solver import Solver, TrainingInterrupted

__all__ = ["CrossValidation", "Fold", "cross_validate", "split", "train_folds"]

RECIPE, TABLE, CURVES, MATRIX = "recipe.toml", "folds.csv", "fold_curves.png", "confusion_matrix.png"
_LARGEST_SEED = 2**32 - 1  # of scikit-learn's splitters
ModelFunction = Callable[[], Model | tuple[Model, dict[str, Any]]]


@dataclass(frozen=True)
class Fold:
    """One training and what it says about the images that it did not see.

    Parameters
    ----------
    number : int
        From 1 on, through all seeds.
    seed : int
        Of the split and of the training.
    indices : ndarray of int
        Which images of the data were held out.
    history : History
    evaluation : Evaluation
        Of the held-out images, with the weights of the best epoch.
    """

    number: int
    seed: int
    indices: np.ndarray
    history: History
    evaluation: Evaluation

    def figures(self) -> dict[str, Any]:
        """Return the fold's row of the table.

        Returns
        -------
        dict
        """
        best = self.history.best_epoch or len(self.history)
        return {
            "fold": self.number,
            "seed": self.seed,
            "images": len(self.indices),
            "accuracy": self.evaluation.accuracy,
            "loss": self.evaluation.figures()["test_loss"],
            "macro_f1": metrics.precision_recall_f1(self.evaluation.matrix).macro_f1,
            "best_epoch": best,
            "epochs": len(self.history),
            "seconds": sum(self.history.seconds),
        }


@dataclass(frozen=True)
class CrossValidation:
    """What `cross_validate` found.

    Parameters
    ----------
    folds : list of Fold
    labels : ndarray of shape (n,)
        Of all the images, held out or not.
    class_names : list of str
    """

    folds: list[Fold]
    labels: np.ndarray
    class_names: list[str]

    def table(self) -> list[dict[str, Any]]:
        """Return a row of figures for each fold.

        Returns
        -------
        list of dict
        """
        return [fold.figures() for fold in self.folds]

    def mean(self, figure: str = "accuracy") -> float:
        """Return a figure's mean over the folds.

        Parameters
        ----------
        figure : {"accuracy", "loss", "macro_f1", "best_epoch", "epochs", "seconds"}, default "accuracy"

        Returns
        -------
        float
        """
        return float(np.mean([row[figure] for row in self.table()]))

    def std(self, figure: str = "accuracy") -> float:
        """Return a figure's sample standard deviation over the folds; of a single one it is unknown, which is NaN.

        Parameters
        ----------
        figure : str, default "accuracy"
            As in `mean`.

        Returns
        -------
        float
        """
        values = [row[figure] for row in self.table()]
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan

    @property
    def probabilities(self) -> np.ndarray:
        """Each image's class probabilities, shape (n, classes), by the nets that did not see it; NaN if all did.

        With several seeds, an image is held out several times; its probabilities are the mean.
        """
        total = np.zeros((len(self.labels), len(self.class_names)))
        count = np.zeros((len(self.labels), 1))
        for fold in self.folds:
            total[fold.indices] += fold.evaluation.probabilities
            count[fold.indices] += 1
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)

    @property
    def matrix(self) -> np.ndarray:
        """The folds' confusion matrices added up: true classes in rows, predicted ones in columns."""
        return np.sum([fold.evaluation.matrix for fold in self.folds], axis=0)

    def figures(self) -> dict[str, Any]:
        """Return means, standard deviations, the rows of the table and the confusion matrix, ready for JSON.

        Returns
        -------
        dict
        """
        means: dict[str, Any] = {}
        for name in ("accuracy", "loss", "macro_f1"):
            std = self.std(name)
            means |= {f"{name}_mean": self.mean(name), f"{name}_std": None if math.isnan(std) else std}
        return {
            **means,
            "seconds": sum(row["seconds"] for row in self.table()),
            "folds": self.table(),
            "class_names": list(self.class_names),
            "confusion_matrix": self.matrix.tolist(),
        }

    def __str__(self) -> str:
        rows = [["fold", "seed", "images", "accuracy", "loss", "macro F1", "best epoch", "seconds"]]
        for row in self.table():
            shares = f"{row['accuracy']:.2%}", f"{row['loss']:.4f}", f"{row['macro_f1']:.4f}"
            epoch = f"{row['best_epoch']} of {row['epochs']}"
            rows.append(
                [*(str(row[key]) for key in ("fold", "seed", "images")), *shares, epoch, f"{row['seconds']:.1f}"]
            )
        rows.append(["mean", "", "", *_means(self.mean), "", f"{self.mean('seconds'):.1f}"])
        if len(self.folds) > 1:
            rows.append(["std", "", "", *_means(self.std), "", f"{self.std('seconds'):.1f}"])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)


def _means(figure: Callable[[str], float]) -> tuple[str, str, str]:
    return f"{figure('accuracy'):.2%}", f"{figure('loss'):.4f}", f"{figure('macro_f1'):.4f}"


def _say_nothing(line: str) -> None:
    pass


def cross_validate(
    recipe: str | Path | Recipe | ModelFunction,
    data: Dataset | None = None,
    *,
    k: int = 5,
    holdout: float | int | None = None,
    seeds: Sequence[int] | None = None,
    subset: float | int | None = None,
    on_epoch: Callable[[int, int, float], object] | None = None,
    on_fold: Callable[[Fold], object] | None = None,
    progress: bool | None = None,
    say: Callable[[str], object] = _say_nothing,
) -> CrossValidation:
    """Train once for each fold, on all the others, and measure each net on the images that it did not see.

    Each training is the one that `nnkit train` does: what is learned from data, the mean and standard deviation of the
    pixels included, is learned from the fold's training part alone, and the weights are those of its best epoch. The
    test set is not touched.

    Parameters
    ----------
    recipe : str, path, Recipe or callable
        A recipe, its name or its file; or a function without arguments that returns a fresh model at each call, or a
        model and a dict with further arguments of the Solver.
    data : Dataset, optional
        What to train and validate on; by default the recipe's training images.
    k : int, default 5
        How many folds. Each has every class in the same proportion.
    holdout : float or int, optional
        Instead of folds, one split: the share or number of images to validate on, chosen as `nnkit train` does.
    seeds : sequence of int, optional
        Each gives another split, other initial weights and another order of the images: with more than one, the
        cross-validation is repeated. By default the recipe's seed alone; for a function, 0.
    subset : float or int, optional
        Use only so many of the images, or this share of them, every class in the same proportion.
    on_epoch : callable, optional
        Called with the number of the fold (from 1, through all seeds), of the epoch (from 1), and the validation
        accuracy. `StopTraining` ends the fold; another error ends it all.
    on_fold : callable, optional
        Called with each Fold as soon as it is there.
    progress : bool, optional
        Show bars; by default only if stderr is a terminal.
    say : callable
        Called, in the first fold, with lines that tell what weights all begin with, and what of them stays frozen.

    Returns
    -------
    CrossValidation

    Raises
    ------
    UsageError
        There are fewer than two folds, or more than the rarest class has images, or a setting is out of range.
    ImportError
        scikit-learn, which makes the splits, is not installed.

    Examples
    --------
    >>> from nnkit import data, models
    >>> from nnkit.optim import Adam
    >>> def small():
    ...     return models.create("mlp", num_classes=10, hidden=(16,)), {"optimizer": Adam(lr=0.003), "epochs": 2}
    >>> result = cross_validate(small, data.make_shapes(200), k=4)
    >>> [len(fold.indices) for fold in result.folds], result.probabilities.shape
    ([50, 50, 50, 50], (200, 10))
    >>> 0 < result.mean("accuracy") < 1
    True
    """
    if isinstance(recipe, (str, Path)):
        recipe = recipes.load(recipe)
    if not isinstance(recipe, Recipe) and not callable(recipe):
        raise TypeError(f"cross_validate: expected a recipe or a function, got a {type(recipe).__name__}")
    if data is None:
        if not isinstance(recipe, Recipe):
            raise UsageError("cross_validate: data: expected a Dataset to train the function's models on, got None")
        data = recipe.data.load_part(train=True)
    if not isinstance(data, Dataset):
        raise TypeError(f"data: expected an nnkit Dataset, got a {type(data).__name__}")
    if seeds is None:
        seeds = [recipe.seed if isinstance(recipe, Recipe) else 0]
    data, splits = split(data, k=k, holdout=holdout, seeds=seeds, subset=subset)
    folds: list[Fold] = []
    previous = None
    for number, (seed, held_out) in enumerate(splits, 1):
        mask = np.zeros(len(data), bool)
        mask[held_out] = True
        solver = _make_solver(recipe, data[~mask], data[mask], seed, progress, say)
        say = _say_nothing  # the other folds begin in the same way
        if solver.model is previous:  # which was trained on the images that are held out now
            raise UsageError(
                "cross_validate: the function returned the same model again; expected a fresh one each time"
            )
        previous = solver.model
        if on_epoch is not None:
            solver.callbacks.append(_hook(on_epoch, number))
        try:
            history = solver.train()
        except TrainingInterrupted as interrupt:
            raise TrainingInterrupted(f"interrupted in fold {number} of {len(splits)}", interrupt.signum) from None
        evaluation = evaluate_model(
            solver.model, data[mask], solver.normalize, None if progress is False else "held out"
        )
        folds.append(Fold(number, seed, np.flatnonzero(mask), history, evaluation))
        if on_fold is not None:
            on_fold(folds[-1])
    return CrossValidation(folds, data.labels, data.class_names)


def split(
    data: Dataset, *, k: int, holdout: float | int | None, seeds: Sequence[int], subset: float | int | None
) -> tuple[Dataset, list[tuple[int, np.ndarray]]]:
    """Check the arguments of `cross_validate` and decide by them who is held out when.

    Parameters
    ----------
    data : Dataset
    k, holdout, seeds, subset
        As in `cross_validate`.

    Returns
    -------
    data : Dataset
        Or the subset of it.
    splits : list of (seed, ndarray of int)
        For each training its seed and the indices of the images to hold out.

    Raises
    ------
    UsageError
        They do not fit the data.
    """
    seeds = [whole_number("seeds", seed, 0, _LARGEST_SEED) for seed in seeds]
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds: expected at least one, each another, got {seeds}")
    if subset is not None and subset != len(data):
        data = data[stratified_indices(data.labels, data.num_classes, subset, seeds[0], "subset")]
    if holdout is not None:
        parts = [stratified_indices(data.labels, data.num_classes, holdout, seed, "holdout") for seed in seeds]
        return data, list(zip(seeds, parts, strict=True))
    k = whole_number("folds", k, 2)
    counts = data.class_counts()
    rarest = min((c for c in range(data.num_classes) if counts[c]), key=lambda c: counts[c])
    if k > counts[rarest]:
        name = data.class_names[rarest]
        raise UsageError(f"folds: expected at most {counts[rarest]}, as many images as class {name!r} has, got {k}")
    splits = []
    for seed in seeds:
        folds = _model_selection().StratifiedKFold(k, shuffle=True, random_state=seed)
        splits += [(seed, held_out) for _, held_out in folds.split(np.zeros(len(data)), data.labels)]
    return data, splits


def _model_selection() -> Any:
    try:
        from sklearn import model_selection
    except ImportError as error:
        raise ImportError(
            "cross-validation needs scikit-learn; install it with: pip install 'nnkit[search]'"
        ) from error
    return model_selection


def _make_solver(
    recipe: Any,
    training: Dataset,
    held_out: Dataset,
    seed: int,
    progress: bool | None,
    say: Callable[[str], object],
) -> Solver:
    if isinstance(recipe, Recipe):
        return runs.make_solver(dataclasses.replace(recipe, seed=seed), training, held_out, say=say, progress=progress)
    made = recipe()
    model, settings = made if isinstance(made, tuple) else (made, {})
    return Solver(model, training, **{"progress": progress, **settings, "validation": held_out, "seed": seed})


def _hook(on_epoch: Callable[[int, int, float], object], number: int) -> Callable[[Solver], object]:
    return lambda solver: on_epoch(number, solver.epoch, solver.history.row(-1)["val_accuracy"])


def train_folds(
    recipe: Recipe,
    folder: Path | None = None,
    *,
    k: int = 5,
    repeats: int = 1,
    subset: float | int | None = None,
    download: bool = False,
    say: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Cross-validate a recipe and write what comes of it into a folder.

    Parameters
    ----------
    recipe : Recipe
    folder : path, optional
        Where to; the next `runs/<recipe>-folds-<n>` if not given.
    k : int, default 5
    repeats : int, default 1
        How often, with the recipe's seed and those after it.
    subset : float or int, optional
        As in `cross_validate`.
    download : bool, default False
        Fetch data that is missing.
    say : callable
        Called with lines that tell what is going on.

    Returns
    -------
    dict
        The figures, as in `metrics.json`; "run" is the folder.

    Raises
    ------
    UsageError, DataError, DivergenceError, TrainingInterrupted, OSError
        As the parts raise them. The folder is written at the end.
    """
    if folder:
        runs.check_folder(folder)
        if (folder / RECIPE).exists():  # of folds that were interrupted, too
            raise UsageError(f"{folder} already holds folds, or a {RECIPE}; give another --out")
    seeds = range(recipe.seed, recipe.seed + whole_number("repeats", repeats, 1))
    data = recipe.data.load_part(True, download)

    def tell(fold: Fold) -> None:
        row = fold.figures()
        best = f"in epoch {row['best_epoch']} of {row['epochs']}"
        say(f"fold {fold.number}/{k * repeats}  accuracy {row['accuracy']:.2%} {best}  {row['seconds']:.1f} s")

    result = cross_validate(recipe, data, k=k, seeds=seeds, subset=subset, on_fold=tell, say=say)
    folder = folder or runs.new_folder(f"{recipe.name}-folds")
    figures = {"recipe": recipe.name, "run": str(folder), **result.figures()}
    with atomic_path(folder / RECIPE) as path:
        path.write_text(toml.dumps(recipe.to_settings()), encoding="utf-8")
    with atomic_path(folder / TABLE) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(figures["folds"][0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(figures["folds"])
    with atomic_path(folder / runs.METRICS) as path:
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    plots.save(plots.fold_curves([fold.history for fold in result.folds]), folder / CURVES)
    plots.save(plots.confusion_matrix(result.matrix, result.class_names), folder / MATRIX)
    say(str(result))
    return figures
