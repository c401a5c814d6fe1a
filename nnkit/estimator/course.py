"""What steers a training by scikit-learn's rules: when it stops, how the rate falls, what the loss sums over."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nnkit.layers import Loss
from nnkit.optim.schedules import Schedule


@dataclass
class Improvement:
    """Counts the epochs that brought no improvement.

    Parameters
    ----------
    tol : float
        By how much a value must exceed the best so far.
    patience : float
        More epochs in a row than this without improvement are too many.

    Examples
    --------
    >>> improvement = Improvement(tol=0.1, patience=1)
    >>> [improvement.is_over(value) for value in (1.0, 2.0, 2.05, 1.0, 3.0)]
    [False, False, False, True, False]
    """

    tol: float
    patience: float
    best: float = -math.inf
    waited: int = 0

    def is_over(self, value: float) -> bool:
        """Take in an epoch's value, of which higher is better; return whether patience is at its end.

        Parameters
        ----------
        value : float

        Returns
        -------
        bool
        """
        self.waited = self.waited + 1 if value < self.best + self.tol else 0
        self.best = max(self.best, value)
        return self.waited > self.patience


@dataclass(frozen=True)
class InverseScaling(Schedule):
    """After each epoch, the initial rate over a power of the number of samples learned from.

    Parameters
    ----------
    samples : int
        In an epoch.
    power : float

    Examples
    --------
    >>> schedule = InverseScaling(samples=99, power=0.5)
    >>> [schedule.factor(step, steps_per_epoch=2, epochs=2) for step in range(3)]
    [1.0, 1.0, 0.1]
    """

    samples: int
    power: float

    def factor(self, step: int, steps_per_epoch: int, epochs: float) -> float:
        """Return the formula's value; see `Schedule.factor`."""
        seen = step // steps_per_epoch * self.samples
        return float((seen + 1) ** -self.power)


@dataclass
class Adaptive(Schedule):
    """The initial rate, until somebody wants it lower.

    Parameters
    ----------
    multiplier : float, default 1
    """

    multiplier: float = 1.0

    def factor(self, step: int, steps_per_epoch: int, epochs: float) -> float:
        """Return the multiplier; see `Schedule.factor`."""
        return self.multiplier

    def state_dict(self) -> dict[str, Any]:
        """Return the multiplier; see `Schedule.state_dict`."""
        return {"multiplier": self.multiplier}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.multiplier = state["multiplier"]


class ScaledLoss(Loss):
    """A loss of nnkit's, which is a mean over rows and outputs, as scikit-learn scales it.

    scikit-learn's gradient is that of half the squared error's sum over the outputs, for instance, and the loss that it
    reports is the mean over them.

    Parameters
    ----------
    loss : Loss
    value, gradient : float
        Factors of the loss as it is reported, and of its gradient.
    """

    def __init__(self, loss: Loss, value: float, gradient: float) -> None:
        self.loss, self.value, self.gradient = loss, value, gradient

    def forward(self, scores: np.ndarray, targets: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the loss times its factor."""
        return self.value * self.loss.forward(scores, targets, sample_weight)

    def backward(self) -> np.ndarray:
        """Return the gradient times its factor."""
        gradient = self.loss.backward()
        gradient *= self.gradient
        return gradient

    def count_correct(self, scores: np.ndarray, targets: np.ndarray) -> int | None:
        """Ask the loss."""
        return self.loss.count_correct(scores, targets)
