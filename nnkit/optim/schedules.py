"""Schedules: how the rate changes while training. The formulas are PyTorch's, in closed form.

A schedule is a function of the position alone: `factor(step, steps_per_epoch, epochs)` is what the optimizer's initial
rate is multiplied by in the step `step` (counted from 0). So a resumed run needs no state to go on. Only
`ReduceLROnPlateau` remembers something.
"""

import math
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, Literal

from nnkit.errors import UsageError


class Schedule:
    """Base of the schedules."""

    def factor(self, step: int, steps_per_epoch: int, epochs: float) -> float:
        """Return what to multiply the initial rate by.

        Parameters
        ----------
        step : int
            Number of steps done before this one.
        steps_per_epoch : int
        epochs : float
            Length of the whole training.

        Returns
        -------
        float
        """
        raise NotImplementedError

    def update(self, metric: float) -> None:
        """Take note of the validation loss at the end of an epoch; only `ReduceLROnPlateau` cares."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the schedule remembers, fit for JSON; nothing, for most.

        Returns
        -------
        dict
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""

    def config(self) -> dict[str, Any]:
        """Return the settings, those of a dataclass, with the class's name under "type"; fit for JSON.

        Returns
        -------
        dict
        """
        return {"type": type(self).__name__, **(asdict(self) if is_dataclass(self) else {})}


@dataclass(frozen=True)
class ConstantLR(Schedule):
    """The initial rate, always.

    Examples
    --------
    >>> ConstantLR().factor(step=123, steps_per_epoch=10, epochs=20)
    1.0
    """

    def factor(self, step: int, steps_per_epoch: int, epochs: float) -> float:
        """Return 1; see `Schedule.factor`."""
        return 1.0


@dataclass(frozen=True)
class StepLR(Schedule):
    """Multiply the rate by `gamma` after every `step_size` epochs.

    Parameters
    ----------
    step_size : int, default 30
    gamma : float, default 0.1

    Examples
    --------
    >>> schedule = StepLR(step_size=2, gamma=0.5)
    >>> [schedule.factor(epoch * 10, steps_per_epoch=10, epochs=5) for epoch in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    step_size: int = 30
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _check("StepLR", self.step_size >= 1, "step_size must be at least 1", self.step_size)
        _check("StepLR", self.gamma > 0, "gamma must be > 0", self.gamma)

    def factor(self, step: int, steps_per_epoch: int, epochs: float) -> float:
        """Return `gamma ** (epoch // step_size)`; see `Schedule.factor`."""
        return float(self.gamma ** (step // steps_per_epoch // self.step_size))


@dataclass(frozen=True)
class ExponentialLR(Schedule):
    """Multiply the rate by `gamma` after every epoch.

    Parameters
    ----------
    gamma : float, default 0.95

    Examples
    --------
    >>> schedule = ExponentialLR(gamma=0.5)
    >>> [schedule.factor(epoch * 10, steps_per_epoch=10, epochs=4) for epoch in range(4)]
    [1.0, 0.5, 0.25, 0.125]
    """

    gamma: float = 0.95

    def __post_init__(self) -> None:
        _check("ExponentialLR", self.gamma > 0, "gamma must be > 0", self.gamma)

    def factor(self, step: int, steps_per_epoch: int, epochs: float) -> float:
        """Return `gamma ** epoch`; see `Schedule.factor`."""
        return float(self.gamma ** (step // steps_per_epoch))


@dataclass(frozen=True)
class CosineAnnealingLR(Schedule):
    """Half a wave of the cosine from the initial rate down to `end_factor` times it, step by step.

    `end + (1 - end) * (1 + cos(pi * step / steps)) / 2` (Loshchilov, Hutter 2017, "SGDR: stochastic gradient descent
    with warm restarts").

    Parameters
    ----------
    end_factor : float, default 0

    Examples
    --------
    >>> schedule = CosineAnnealingLR()
    >>> [round(schedule.factor(step, steps_per_epoch=4, epochs=1), 3) for step in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """

    end_factor: float = 0.0

    def __post_init__(self) -> None:
        _check("CosineAnnealingLR", 0 <= self.end_factor <= 1, "end_factor must be in [0, 1]", self.end_factor)

    def factor(self, step: int, steps_per_epoch: int, epochs: float) -> float:
        """Return the cosine's value; see `Schedule.factor`."""
        done = min(step / (steps_per_epoch * epochs), 1.0)
        return self.end_factor + (1 - self.end_factor) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class LinearWarmup(Schedule):
    """Raise the rate from `start_factor` times the initial one in a straight line; then follow another schedule.

    The other schedule starts when the warm-up ends, and sees the rest of the training as the whole of it
    (Goyal et al. 2017, "Accurate, large minibatch SGD: training ImageNet in 1 hour").

    Parameters
    ----------
    warmup_epochs : float, default 1
        Length of the rise; a part of an epoch is fine.
    after : Schedule, default ConstantLR()
    start_factor : float, default 1/3

    Examples
    --------
    >>> schedule = LinearWarmup(warmup_epochs=0.5, start_factor=0.0)
    >>> [schedule.factor(step, steps_per_epoch=8, epochs=2) for step in range(6)]
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    warmup_epochs: float = 1.0
    after: Schedule = field(default_factory=ConstantLR)
    start_factor: float = 1 / 3

    def __post_init__(self) -> None:
        _check("LinearWarmup", self.warmup_epochs > 0, "warmup_epochs must be > 0", self.warmup_epochs)
        _check("LinearWarmup", 0 <= self.start_factor <= 1, "start_factor must be in [0, 1]", self.start_factor)

    def factor(self, step: int, steps_per_epoch: int, epochs: float) -> float:
        """Return the rising line's value, then the other schedule's; see `Schedule.factor`."""
        rise = max(round(self.warmup_epochs * steps_per_epoch), 1)
        if step < rise:
            return self.start_factor + (1 - self.start_factor) * step / rise
        left = max(epochs - rise / steps_per_epoch, 1 / steps_per_epoch)
        return self.after.factor(step - rise, steps_per_epoch, left)

    def update(self, metric: float) -> None:
        """Hand the validation loss on to the other schedule."""
        self.after.update(metric)

    def state_dict(self) -> dict[str, Any]:
        """Return what the other schedule remembers; see `Schedule.state_dict`."""
        return self.after.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the other schedule take over what `state_dict` returned."""
        self.after.load_state_dict(state)

    def config(self) -> dict[str, Any]:
        """Return the settings of both; see `Schedule.config`."""
        own = {"warmup_epochs": self.warmup_epochs, "start_factor": self.start_factor}
        return {"type": "LinearWarmup", **own, "after": self.after.config()}


@dataclass(frozen=True)
class OneCycleLR(Schedule):
    """Up to the initial rate, which is the peak here, and down again to almost nothing, once.

    From `1 / div_factor` of the peak up during the first `pct_start` of all steps, then down to
    `1 / (div_factor * final_div_factor)`. Momentum stays as it is
    (Smith, Topin 2018, "Super-convergence: very fast training of neural networks using large learning rates").

    Parameters
    ----------
    pct_start : float in (0, 1), default 0.3
    anneal : {"cos", "linear"}, default "cos"
    div_factor : float, default 25
    final_div_factor : float, default 1e4

    Examples
    --------
    >>> schedule = OneCycleLR(anneal="linear", div_factor=4)
    >>> [round(schedule.factor(step, steps_per_epoch=10, epochs=1), 3) for step in range(10)]
    [0.25, 0.625, 1.0, 0.857, 0.714, 0.571, 0.429, 0.286, 0.143, 0.0]
    """

    pct_start: float = 0.3
    anneal: Literal["cos", "linear"] = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        _check("OneCycleLR", 0 < self.pct_start < 1, "pct_start must be in (0, 1)", self.pct_start)
        _check("OneCycleLR", self.anneal in ("cos", "linear"), "anneal must be 'cos' or 'linear'", self.anneal)
        _check("OneCycleLR", self.div_factor >= 1, "div_factor must be at least 1", self.div_factor)
        _check("OneCycleLR", self.final_div_factor >= 1, "final_div_factor must be at least 1", self.final_div_factor)

    def factor(self, step: int, steps_per_epoch: int, epochs: float) -> float:
        """Return the value on the rise or on the descent; see `Schedule.factor`."""
        steps = steps_per_epoch * epochs
        top, end = max(self.pct_start * steps - 1, 0.0), max(steps - 1, 1e-9)
        lowest = 1 / self.div_factor
        if step <= top:
            return self._between(lowest, 1.0, step / top if top else 1.0)
        return self._between(1.0, lowest / self.final_div_factor, min((step - top) / max(end - top, 1e-9), 1.0))

    def _between(self, start: float, stop: float, done: float) -> float:
        if self.anneal == "cos":
            done = (1 - math.cos(math.pi * done)) / 2
        return start + (stop - start) * done


@dataclass
class ReduceLROnPlateau(Schedule):
    """Multiply the rate by `gamma` when the validation loss has not fallen for more than `patience` epochs.

    Parameters
    ----------
    gamma : float in (0, 1), default 0.1
    patience : int, default 10
    threshold : float, default 1e-4
        A loss counts as lower when it is below `best * (1 - threshold)`.
    cooldown : int, default 0
        Epochs after a reduction in which nothing is counted.
    min_factor : float, default 0
        The multiplier never goes below this.

    Examples
    --------
    >>> schedule = ReduceLROnPlateau(gamma=0.5, patience=1)
    >>> for loss in (2.0, 1.0, 1.0, 1.0):
    ...     schedule.update(loss)
    >>> schedule.factor(step=40, steps_per_epoch=10, epochs=10)
    0.5
    """

    gamma: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0
    min_factor: float = 0.0

    def __post_init__(self) -> None:
        _check("ReduceLROnPlateau", 0 < self.gamma < 1, "gamma must be in (0, 1)", self.gamma)
        _check("ReduceLROnPlateau", self.patience >= 0, "patience must be >= 0", self.patience)
        _check("ReduceLROnPlateau", self.threshold >= 0, "threshold must be >= 0", self.threshold)
        _check("ReduceLROnPlateau", self.cooldown >= 0, "cooldown must be >= 0", self.cooldown)
        _check("ReduceLROnPlateau", 0 <= self.min_factor <= 1, "min_factor must be in [0, 1]", self.min_factor)
        self._multiplier = 1.0
        self._best: float | None = None
        self._bad_epochs = self._resting = 0

    def factor(self, step: int, steps_per_epoch: int, epochs: float) -> float:
        """Return the multiplier that the losses so far have led to; see `Schedule.factor`."""
        return self._multiplier

    def update(self, metric: float) -> None:
        """Count an epoch.

        Parameters
        ----------
        metric : float
            The validation loss (of a Solver without validation set: the training loss).
        """
        if self._best is None or metric < self._best * (1 - self.threshold):
            self._best, self._bad_epochs = metric, 0
        else:
            self._bad_epochs += 1
        if self._resting:
            self._resting -= 1
            self._bad_epochs = 0
        if self._bad_epochs > self.patience:
            self._multiplier = max(self._multiplier * self.gamma, self.min_factor)
            self._resting, self._bad_epochs = self.cooldown, 0

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted; see `Schedule.state_dict`."""
        counts = {"bad_epochs": self._bad_epochs, "resting": self._resting}
        return {"multiplier": self._multiplier, "best": self._best, **counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._multiplier, self._best = state["multiplier"], state["best"]
        self._bad_epochs, self._resting = state["bad_epochs"], state["resting"]


def _check(schedule: str, is_fine: bool, expected: str, received: object) -> None:
    if not is_fine:
        raise UsageError(f"{schedule}: {expected}, got {received!r}")
