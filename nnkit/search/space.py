"""The space of a search: which settings of a recipe are tried, and what may stand there.

In TOML, with a recipe's keys in quotes:

    [search.space]
    "optimizer.lr" = { low = 1e-4, high = 1e-1, log = true }        # a range; log: every power of ten is as likely
    "training.batch_size" = { choices = [64, 128, 256] }            # one of these
    "model.dropout" = { low = 0.0, high = 0.5, step = 0.1 }         # a range in steps
    "model.hidden" = { depth = { low = 1, high = 4 }, width = { choices = [256, 512] } }    # a list: depth times width
    "training.label_smoothing" = { low = 0.0, high = 0.2, points = 3 }    # how many values of it a grid has
"""

import copy
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from nnkit.errors import UsageError, did_you_mean, whole_number
from nnkit.recipes import Recipe, toml

_RANGE = ("low", "high", "log", "step", "points")
_KNOWN = (*_RANGE, "choices", "depth", "width")
_FIXED = ("name", "description", "seed", "search")
_SEARCHABLE_DATA = ("augment", "normalize")  # all else in [data] decides which images there are
_LARGEST_GRID = 100_000


@dataclass(frozen=True)
class Dimension:
    """One thing to choose: a number from a range, or one of some values.

    Parameters
    ----------
    name : str
        The recipe's key; for a list, with ".depth" or ".width" behind it.
    low, high : int or float, optional
        Both ends are in the range. Integers if only whole numbers fit.
    log : bool, default False
        Whether the logarithm is what is uniform.
    step : int or float, optional
    points : int, optional
        How many values a grid takes from the range.
    choices : tuple, optional
        Instead of a range.
    """

    name: str
    low: float | int = 0
    high: float | int = 0
    log: bool = False
    step: float | int | None = None
    points: int | None = None
    choices: tuple[Any, ...] | None = None

    def suggest(self, trial: Any) -> Any:
        """Let an Optuna trial choose.

        Parameters
        ----------
        trial : optuna.Trial

        Returns
        -------
        object
        """
        if self.choices is not None:
            return self.decode(trial.suggest_categorical(self.name, self.encoded()))
        if isinstance(self.low, int):
            return trial.suggest_int(self.name, self.low, int(self.high), log=self.log, step=int(self.step or 1))
        return self.decode(trial.suggest_float(self.name, self.low, self.high, log=self.log, step=self.step))

    def encoded(self) -> list[Any]:
        """Return the choices as Optuna can store them: lists and tables as TOML.

        Returns
        -------
        list
        """
        return [c if isinstance(c, (bool, int, float, str)) else toml.dumps_value(c) for c in self.choices or ()]

    def decode(self, value: Any) -> Any:
        """Return a value as the recipe has it, from what Optuna has stored.

        Parameters
        ----------
        value : object

        Returns
        -------
        object
        """
        if self.choices is not None:
            return self.choices[self.encoded().index(value)]
        # Seven times 0.05 is 0.35, and not 0.35000000000000003.
        return float(f"{value:.12g}") if isinstance(self.step, float) else value

    def grid(self) -> list[Any]:
        """Return the values that a grid takes, as Optuna can store them.

        Returns
        -------
        list

        Raises
        ------
        UsageError
            It is a range of real numbers, with neither points nor step.
        """
        if self.choices is not None:
            return self.encoded()
        if self.points is None:
            if isinstance(self.low, float) and self.step is None:
                raise UsageError(
                    f'search.space "{self.name}": a grid needs points, a step or choices; got only a range'
                )
            first, step = Decimal(str(self.low)), Decimal(str(self.step or 1))
            count = 1 + int((Decimal(str(self.high)) - first) // step)
            values = [float(first + i * step) for i in range(count)]
        else:
            space = np.geomspace if self.log else np.linspace
            values = [min(max(float(v), self.low), self.high) for v in space(self.low, self.high, self.points)]
        return list(dict.fromkeys(map(round, values) if isinstance(self.low, int) else values))

    def ends(self) -> list[Any]:
        """Return the values that must fit the recipe for all to fit.

        Returns
        -------
        list
        """
        return [self.low, self.high] if self.choices is None else list(self.choices)


class Space:
    """What may stand at which keys of a recipe.

    Parameters
    ----------
    recipe : Recipe
        With a section `[search]`.

    Raises
    ------
    UsageError
        Naming the first entry that is wrong: no such setting, an end of the range that the setting does not take, low
        above high, a logarithm of zero, ...

    Examples
    --------
    >>> from nnkit import recipes
    >>> recipe = recipes.load("quickstart", ['search.space={"optimizer.lr" = {low = 1e-4, high = 1e-2, log = true}}'])
    >>> space = Space(recipe)
    >>> [dimension.name for dimension in space.dimensions]
    ['optimizer.lr']
    >>> space.recipe_with({"optimizer.lr": 0.005}).optimizer["lr"]
    0.005
    """

    def __init__(self, recipe: Recipe) -> None:
        self._settings = recipe.to_settings()
        self._keys: dict[str, tuple[Dimension, ...]] = {}
        table = {} if recipe.search is None else recipe.search.space
        if not table:
            raise UsageError(
                f"recipe {recipe.name}: expected a section [search.space], or --space KEY={{...}}; got none"
            )
        for key, entry in table.items():
            try:
                self._keys[key] = self._read(key, entry)
            except UsageError as error:
                raise UsageError(f'search.space "{key}": {error}') from None
        self.dimensions = [dimension for group in self._keys.values() for dimension in group]

    def suggest(self, trial: Any) -> dict[str, Any]:
        """Let an Optuna trial choose everything.

        Parameters
        ----------
        trial : optuna.Trial

        Returns
        -------
        dict
            A value for each dimension's name.
        """
        return {dimension.name: dimension.suggest(trial) for dimension in self.dimensions}

    def recipe_with(self, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe with chosen values in their places.

        Parameters
        ----------
        values : dict
            As `suggest` returns them.

        Returns
        -------
        Recipe

        Raises
        ------
        UsageError
            The values do not go together.
        """
        settings = copy.deepcopy(self._settings)
        for key, group in sorted(self._keys.items()):  # "optimizer" before "optimizer.lr"
            _put(settings, key, _compose([values[dimension.name] for dimension in group]))
        return Recipe.from_settings(settings)

    def values_of(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return values as the recipe has them, from those that Optuna has stored.

        Parameters
        ----------
        params : dict
            `params` of an Optuna trial.

        Returns
        -------
        dict
        """
        known = {dimension.name: dimension for dimension in self.dimensions}
        return {name: known[name].decode(value) for name, value in params.items()}

    def grid(self) -> list[dict[str, Any]]:
        """Return all the points of the grid.

        Returns
        -------
        list of dict

        Raises
        ------
        UsageError
            A range has neither points nor step, or there are too many points.
        """
        axes = [dimension.grid() for dimension in self.dimensions]
        count = math.prod(map(len, axes))
        if count > _LARGEST_GRID:
            raise UsageError(f"search.space: expected a grid of at most {_LARGEST_GRID:,} points, got {count:,}")
        names = [dimension.name for dimension in self.dimensions]
        return [dict(zip(names, point, strict=True)) for point in itertools.product(*axes)]

    def _read(self, key: str, entry: Any) -> tuple[Dimension, ...]:
        section, _, rest = key.partition(".")
        if section in _FIXED or (section == "data" and rest.split(".")[0] not in _SEARCHABLE_DATA):
            raise UsageError("cannot be searched; expected a setting of the model, its training or the augmentation")
        _check_keys(entry, _KNOWN)
        if "depth" in entry or "width" in entry:
            _check_keys(entry, ("depth", "width"))
            if len(entry) < 2:
                raise UsageError("expected depth and width, got only one of them")
            depth = _dimension(f"{key}.depth", entry["depth"])
            if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in depth.ends()):
                raise UsageError(f"depth: expected whole numbers >= 0, got {depth.ends()}")
            deepest = max(depth.ends())
            width = self._whole_or_real(key, _dimension(f"{key}.width", entry["width"]), [max(deepest, 1)])
            group: tuple[Dimension, ...] = (depth, width)
        else:
            group = (self._whole_or_real(key, _dimension(key, entry), []),)
        for values in itertools.product(*(dimension.ends() for dimension in group)):
            self._try(key, _compose(list(values)))
        return group

    def _whole_or_real(self, key: str, dimension: Dimension, before: list[Any]) -> Dimension:
        """Return the dimension with real ends if the setting takes what lies between whole numbers."""
        if dimension.choices is not None or not isinstance(dimension.low, int) or isinstance(dimension.step, int):
            return dimension
        if dimension.low == dimension.high:
            return dimension
        try:
            self._try(key, _compose([*before, dimension.low + 0.5]))
        except UsageError:
            return dimension
        numbers = {
            name: None if (v := getattr(dimension, name)) is None else float(v) for name in ("low", "high", "step")
        }
        return Dimension(dimension.name, log=dimension.log, points=dimension.points, **numbers)  # type: ignore[arg-type]

    def _try(self, key: str, value: Any) -> None:
        """Raise UsageError if the recipe does not take this value."""
        settings = copy.deepcopy(self._settings)
        _put(settings, key, value)
        Recipe.from_settings(settings)


def _check_keys(entry: Any, known: Iterable[str]) -> None:
    if not isinstance(entry, Mapping) or not entry:
        raise UsageError(
            f"expected a table such as {{ low = 0.1, high = 1.0 }} or {{ choices = [1, 2] }}, got {entry!r}"
        )
    for name in entry:
        if name not in known:
            raise UsageError(f"unknown key {name!r}{did_you_mean(name, known)}")


def _dimension(name: str, entry: Any) -> Dimension:
    """Read a range or a choice."""
    _check_keys(entry, (*_RANGE, "choices"))
    if "choices" in entry:
        choices = entry["choices"]
        if len(entry) > 1:
            raise UsageError(f"choices stand alone, got {', '.join(entry)}")
        if not isinstance(choices, (list, tuple)) or not choices:
            raise UsageError(f"choices: expected a list of at least one value, got {choices!r}")
        if len(set(map(toml.dumps_value, choices))) < len(choices):
            raise UsageError(f"choices: expected different values, got {list(choices)}")
        return Dimension(name, choices=tuple(choices))
    for end in ("low", "high"):
        if end not in entry:
            raise UsageError(f"expected low and high, or choices; got no {end}")
    numbers = {key: entry[key] for key in ("low", "high", "step") if key in entry}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise UsageError(f"{key}: expected a number, got {value!r}")
    low, high, step, log = entry["low"], entry["high"], entry.get("step"), entry.get("log", False)
    if not isinstance(log, bool):
        raise UsageError(f"log: expected true or false, got {log!r}")
    if low > high:
        raise UsageError(f"expected low <= high, got low = {low} and high = {high}")
    if log and low <= 0:
        raise UsageError(f"log: expected a range above 0, got low = {low}")
    if step is not None and (step <= 0 or log):
        raise UsageError("step: expected none with log" if log else f"step: expected a number > 0, got {step}")
    points = whole_number("points", entry["points"], 1) if "points" in entry else None
    if step is not None:  # the last step that is within the range, in decimals: three times 0.1 is 0.3
        first, width = Decimal(str(low)), Decimal(str(step))
        numbers["high"] = type(high)(first + (Decimal(str(high)) - first) // width * width)
    if not all(isinstance(value, int) for value in numbers.values()):
        numbers = {key: float(value) for key, value in numbers.items()}
    return Dimension(name, log=log, points=points, **numbers)


def _compose(values: list[Any]) -> Any:
    """Return what stands in the recipe: the value, or, of depth and width, the list."""
    if len(values) == 1:
        return values[0]
    depth, width = values
    return [width] * depth


def _put(settings: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    table = settings
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise UsageError(f"'{section}' is a value, not a table")
    table[last] = value
