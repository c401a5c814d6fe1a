"""What comes out of a search: the best recipe, a table, pictures."""

import csv
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnkit import plots
from nnkit.files import atomic_path
from nnkit.recipes import Recipe, toml
from nnkit.search import study as studies
from nnkit.search.space import Space

BEST, TABLE = "best.toml", "trials.csv"
HISTORY, COORDINATES, IMPORTANCE, MAP = "search_history.png", "parallel_coordinates.png", "importance.png", "map.png"
_REGULARISERS = ("optimizer.weight_decay", "model.dropout", "training.label_smoothing")


@dataclass(frozen=True)
class TrialResult:
    """One trial.

    Parameters
    ----------
    number : int
    state : {"complete", "pruned", "failed", "running", "waiting"}
    score : float
        The mean validation accuracy; of a pruned trial, what was last reported; NaN where there is none.
    std : float or None
        Over the folds.
    seconds : float or None
    values : dict
        Of the settings that were searched.
    error : str
        Why there is no score.
    """

    number: int
    state: str
    score: float
    std: float | None
    seconds: float | None
    values: dict[str, Any]
    error: str = ""

    def __str__(self) -> str:
        spread = "" if self.std is None else f" ± {self.std:.2%}"
        score = self.error or self.state if math.isnan(self.score) else f"{self.score:.2%}{spread}"
        settings = "  ".join(f"{name}={_shown(value)}" for name, value in self.values.items())
        return f"trial {self.number:3}  {score}{' (pruned)' * (self.state == 'pruned')}  {settings}".rstrip()


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Parameters
    ----------
    recipe : Recipe
        That was searched.
    trials : list of TrialResult
    importances : dict of str to float
        How strongly each setting tells the best trials from the rest (Optuna's PED-ANOVA); empty where too few say.
    folder : path, optional
        Where all of it lies.
    """

    recipe: Recipe
    trials: list[TrialResult]
    importances: dict[str, float] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def complete(self) -> list[TrialResult]:
        """The trials that have a score, the best first."""
        done = [trial for trial in self.trials if trial.state == "complete"]
        return sorted(done, key=lambda trial: (-trial.score, trial.number))

    @property
    def best(self) -> TrialResult:
        """The trial with the highest score; of several, the first."""
        return self.complete[0]

    @property
    def best_recipe(self) -> Recipe:
        """The recipe with the best trial's settings."""
        return Space(self.recipe).recipe_with(self.best.values)

    def figures(self) -> dict[str, Any]:
        """Return what there is to know, ready for JSON.

        Returns
        -------
        dict
        """
        states = [trial.state for trial in self.trials]
        return {
            "recipe": self.recipe.name,
            "run": str(self.folder),
            "trials": {state: states.count(state) for state in sorted(set(states))},
            "best": {"number": self.best.number, "score": self.best.score, "std": self.best.std, **self.best.values},
            "importances": self.importances,
        }

    def __str__(self) -> str:
        rows = [["trial", "accuracy", "±", "seconds", *(d.name for d in Space(self.recipe).dimensions)]]
        for trial in self.complete[:10]:
            std = "-" if trial.std is None else f"{trial.std:.2%}"
            seconds = "-" if trial.seconds is None else f"{trial.seconds:.1f}"
            values = [_shown(trial.values[name]) for name in rows[0][4:]]
            rows.append([str(trial.number), f"{trial.score:.2%}", std, seconds, *values])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else toml.dumps_value(value)


def read_trials(study: Any, recipe: Recipe) -> list[TrialResult]:
    """Return the trials of a study.

    Parameters
    ----------
    study : optuna.Study
    recipe : Recipe

    Returns
    -------
    list of TrialResult
    """
    space, names = Space(recipe), {"FAIL": "failed"}
    results = []
    for trial in study.get_trials(deepcopy=False):
        state = names.get(trial.state.name, trial.state.name.lower())
        score = trial.value if state == "complete" else math.nan
        if state == "pruned" and trial.intermediate_values:
            score = trial.intermediate_values[trial.last_step]
        seconds = trial.user_attrs.get("seconds")
        if seconds is None and trial.datetime_complete is not None and trial.datetime_start is not None:
            seconds = (trial.datetime_complete - trial.datetime_start).total_seconds()
        error = trial.user_attrs.get("error", "killed or interrupted" if state == "failed" else "")
        std, values = trial.user_attrs.get("std"), space.values_of(trial.params)
        results.append(TrialResult(trial.number, state, score, std, seconds, values, error))
    return results


def importances(study: Any) -> dict[str, float]:
    """Return how much each setting matters for the score, the most important first.

    Parameters
    ----------
    study : optuna.Study

    Returns
    -------
    dict of str to float
        They add up to 1; empty where fewer than four trials have a score, or all have the same.
    """
    scores = [trial.value for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    if len(scores) < 4 or len(set(scores)) < 2:
        return {}
    found = studies.import_optuna().importance.get_param_importances(study)
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def write(result: SearchResult, folder: Path) -> None:
    """Write the best recipe, the table and the pictures, each whole or not at all.

    Parameters
    ----------
    result : SearchResult
        At least one of its trials has a score.
    folder : path
    """
    with atomic_path(folder / BEST) as path:
        path.write_text(best_toml(result, folder / BEST), encoding="utf-8")
    write_table(result, folder / TABLE)
    _draw(result, folder)


def best_toml(result: SearchResult, path: Path) -> str:
    """Return the best trial's recipe, and above it how to have its score again.

    Parameters
    ----------
    result : SearchResult
    path : path
        Where it will lie.

    Returns
    -------
    str
    """
    search, best = result.recipe.search, result.best
    assert search is not None
    spread = "" if best.std is None else f" ± {best.std:.2%}"
    file = shlex.quote(str(path))
    subset = "" if search.subset is None else f" --subset {search.subset}"
    epochs = "" if search.epochs is None else f" --epochs {search.epochs}"
    if search.holdout:
        parts, again = "the held-out part", f"nnkit train {file}{epochs}" if not subset and search.repeats == 1 else ""
    else:
        repeats = "" if search.repeats == 1 else f" --repeats {search.repeats}"
        parts, again = (
            f"{search.folds * search.repeats} folds",
            f"nnkit train {file} --folds {search.folds}{repeats}{subset}{epochs}",
        )
    lines = [f"# Trial {best.number} of the search over {result.recipe.name}: {best.score:.2%}{spread} on {parts}."]
    if again:
        lines.append(f"# The same figure again: {again}")
    lines.append(f"# A training with it:    nnkit train {file}")
    return "\n".join(lines) + "\n" + toml.dumps(result.best_recipe.to_settings())


def write_table(result: SearchResult, path: Path) -> None:
    """Write a row for each trial.

    Parameters
    ----------
    result : SearchResult
    path : path
    """
    names = [dimension.name for dimension in Space(result.recipe).dimensions]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trial", "state", "accuracy", "std", "seconds", *names, "error"])
        for trial in result.trials:
            values = [_cell(trial.values.get(name)) for name in names]
            score = None if math.isnan(trial.score) else trial.score
            writer.writerow([trial.number, trial.state, score, trial.std, trial.seconds, *values, trial.error])


def _cell(value: Any) -> Any:
    return toml.dumps_value(value) if isinstance(value, (list, tuple, dict, bool)) else value


def _draw(result: SearchResult, folder: Path) -> None:
    space, trials = Space(result.recipe), result.complete
    seen = [trial for trial in result.trials if not math.isnan(trial.score)]
    pruned = [trial.state == "pruned" for trial in seen]
    scores = [trial.score for trial in seen]
    plots.save(plots.search_history([trial.number for trial in seen], scores, pruned), folder / HISTORY)
    columns = {d.name: [trial.values[d.name] for trial in trials] for d in space.dimensions}
    logs = [d.name for d in space.dimensions if d.log]
    scores = [trial.score for trial in trials]
    plots.save(plots.parallel_coordinates(columns, scores, log=logs), folder / COORDINATES)
    if result.importances:
        values = list(result.importances.values())
        plots.save(plots.importances(list(result.importances), values), folder / IMPORTANCE)
    pair = _pair(space, result.importances)
    if pair:
        x, y = pair
        figure = plots.score_map(
            columns[x], columns[y], scores, names=pair, log=[name for name in pair if name in logs]
        )
        plots.save(figure, folder / MAP)


def _pair(space: Space, weights: Mapping[str, float]) -> tuple[str, str] | None:
    """Return the two settings to draw the map of: learning rate and regularisation, or else those that matter most."""
    numeric = [d.name for d in space.dimensions if all(_is_number(value) for value in d.ends())]
    regularisers = [name for name in _REGULARISERS if name in numeric]
    if "optimizer.lr" in numeric and regularisers:
        return "optimizer.lr", regularisers[0]
    order: Sequence[str] = sorted(numeric, key=lambda name: -weights.get(name, 0.0))
    return (order[0], order[1]) if len(order) > 1 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
