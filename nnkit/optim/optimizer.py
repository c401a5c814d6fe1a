"""What all optimizers share: the rate, parameter groups and state; the rules themselves are in `rules`."""

import fnmatch
import math
from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from nnkit._ext import memory
from nnkit.errors import CheckpointError, UsageError

State = dict[str, np.ndarray]

_GROUP_KEYS = {"names", "weight_decay", "lr_scale"}


class Optimizer:
    """Base of the optimizers: walks over the parameter groups and applies the rule `_update` to each.

    Parameters and gradients are two flat arrays, and so is everything an optimizer remembers (`state`): one step
    is one pass over memory, whatever the network looks like.

    Parameters
    ----------
    lr : float
        Rate. `lr` is what the next step uses and what schedules set; `initial_lr` stays.
    weight_decay : float
        Strength of the pull of the parameters towards 0.
    groups : sequence of dict
        Exceptions for some parameters: `{"names": ["*.bias"], "weight_decay": 0.0, "lr_scale": 1.0}`. A parameter
        belongs to the first group of which a pattern (as in the shell) matches its name; see `bind`.
    """

    state_names: tuple[str, ...] = ()

    def __init__(self, lr: float, weight_decay: float = 0.0, groups: Sequence[Mapping[str, Any]] = ()) -> None:
        check_at_least_zero(lr=lr, weight_decay=weight_decay)
        self.initial_lr = self.lr = float(lr)
        self.weight_decay = float(weight_decay)
        self.groups = [_checked_group(group) for group in groups]
        self.state: State = {}
        self.steps = 0
        self._ranges: list[tuple[int, int | None, float, float]] | None = None
        self._size: int | None = None  # of the model that it is bound to
        if not self.groups:
            self._ranges = [(0, None, 1.0, self.weight_decay)]

    def bind(self, slices: Mapping[str, slice], frozen: Collection[str] = ()) -> None:
        """Begin with the parameters of a model: look up where the groups' names are, forget what was of another model.

        Parameters
        ----------
        slices : mapping of str to slice
            Place of each named parameter, as `model.parameter_slices()` gives it; without gaps.
        frozen : collection of str
            Names of those to leave alone, as `model.frozen_parameters()` gives them.

        Raises
        ------
        UsageError
            A pattern matches no parameter.
        """
        for group in self.groups:
            for pattern in group["names"]:
                if not any(fnmatch.fnmatchcase(name, pattern) for name in slices):
                    raise UsageError(
                        f"optimizer group: no parameter is named {pattern!r}; there are {', '.join(slices)}"
                    )
        ranges: list[tuple[int, int | None, float, float]] = []
        for name, place in sorted(slices.items(), key=lambda item: item[1].start):
            if name in frozen:
                continue
            settings = self._settings_of(name)
            if ranges and ranges[-1][1:] == (place.start, *settings):
                ranges[-1] = (ranges[-1][0], place.stop, *settings)
            else:
                ranges.append((place.start, place.stop, *settings))
        self._ranges, self.state, self.steps = ranges, {}, 0
        self._size = max((place.stop for place in slices.values()), default=0)

    def step(self, params: np.ndarray, grads: np.ndarray) -> None:
        """Move the parameters by one step, in place.

        Parameters
        ----------
        params, grads : ndarray of shape (P,)
            All parameters and their gradients; contiguous, of one type, float32 or float64.

        Raises
        ------
        ValueError
            The arrays do not fit each other, or not the model that the optimizer was bound to or has stepped before.
        UsageError
            There are groups, and `bind` was not called.
        """
        if params.ndim != 1 or params.shape != grads.shape or params.dtype != grads.dtype:
            received = f"{params.dtype} {params.shape} and {grads.dtype} {grads.shape}"
            raise ValueError(f"optimizer: parameters and gradients must be flat and of one type, got {received}")
        if self._ranges is None:
            raise UsageError("optimizer: its groups are names; call optimizer.bind(model.parameter_slices()) first")
        if self._size not in (None, params.size) or any(array.shape != params.shape for array in self.state.values()):
            raise ValueError(f"optimizer: it was at work on another model, not on one of {params.size} parameters")
        if not self.state:
            self.state = {name: memory.aligned(params.size, params.dtype) for name in self.state_names}
            for name, array in self.state.items():
                array.fill(self._state_start(name))
        self.steps += 1
        for start, stop, lr_scale, weight_decay in self._ranges:
            part = slice(start, stop)
            state = {name: array[part] for name, array in self.state.items()}
            self._update(params[part], grads[part], state, self.lr * lr_scale, weight_decay)

    def config(self) -> dict[str, Any]:
        """Return the settings.

        Returns
        -------
        dict
            The constructor's arguments and the class's name under "type"; fit for JSON.
        """
        settings = {"type": type(self).__name__, "lr": self.initial_lr, "weight_decay": self.weight_decay}
        return {**settings, "groups": self.groups, **self._own_settings()}

    def state_dict(self) -> State:
        """Return copies of what the optimizer remembers between steps.

        Returns
        -------
        dict of str to ndarray
            The number of steps taken as "steps" (0-d), and the state's flat arrays; none before the first step.
        """
        return {"steps": np.array(self.steps), **{name: array.copy() for name, array in self.state.items()}}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over what `state_dict` returned.

        Parameters
        ----------
        state : mapping of str to ndarray

        Raises
        ------
        CheckpointError
            The state is that of another rule.
        """
        steps = int(state.get("steps", 0))
        expected = {"steps", *self.state_names} if steps else {"steps"}
        if set(state) != expected:
            received = ", ".join(sorted(state)) or "nothing"
            raise CheckpointError(
                f"{type(self).__name__} state: expected {', '.join(sorted(expected))}, got {received}"
            )
        self.steps = steps
        self.state = {name: np.array(state[name]) for name in expected - {"steps"}}

    def _update(self, params: np.ndarray, grads: np.ndarray, state: State, lr: float, weight_decay: float) -> None:
        """Apply the rule in place to a part of the parameters with its part of the state."""
        raise NotImplementedError

    def _state_start(self, name: str) -> float:
        return 0.0

    def _own_settings(self) -> dict[str, Any]:
        return {}

    def _settings_of(self, name: str) -> tuple[float, float]:
        """Return (lr_scale, weight_decay) of a parameter."""
        for group in self.groups:
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in group["names"]):
                return group.get("lr_scale", 1.0), group.get("weight_decay", self.weight_decay)
        return 1.0, self.weight_decay


def check_at_least_zero(**settings: float) -> None:
    """Raise UsageError for a setting that is no finite number >= 0."""
    for name, value in settings.items():
        if not _is_number(value) or value < 0:
            raise UsageError(f"optimizer: {name} must be a number >= 0, got {value!r}")


def check_below_one(**settings: float) -> None:
    """Raise UsageError for a setting that is not in [0, 1)."""
    for name, value in settings.items():
        if not _is_number(value) or not 0 <= value < 1:
            raise UsageError(f"optimizer: {name} must be in [0, 1), got {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _checked_group(group: Mapping[str, Any]) -> dict[str, Any]:
    names = group.get("names")
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise UsageError(f"optimizer group: 'names' must be a list of patterns, got {names!r}")
    if unknown := set(group) - _GROUP_KEYS:
        known = ", ".join(sorted(_GROUP_KEYS))
        raise UsageError(f"optimizer group: unknown key {sorted(unknown)[0]!r}; known are {known}")
    numbers = {key: group[key] for key in ("weight_decay", "lr_scale") if key in group}
    check_at_least_zero(**numbers)
    return {"names": list(names), **{key: float(value) for key, value in numbers.items()}}
