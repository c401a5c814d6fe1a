"""Averages of the weights along the training."""

import numpy as np

from nnkit.errors import UsageError

_BLOCK = 1 << 15  # elements at a time, so that the temporary stays in the cache


class ExponentialMovingAverage:
    """A running average of the parameters, which often predicts better than the last ones.

    `average += (1 - d) * (params - average)` after each step, with `d = min(decay, (1 + n) / (10 + n))` after n earlier
    updates, so that the first, bad weights are soon forgotten (Polyak, Juditsky 1992, "Acceleration of stochastic
    approximation by averaging").

    Parameters
    ----------
    decay : float in [0, 1), default 0.999

    Attributes
    ----------
    average : ndarray of shape (P,), or None before the first update
    updates : int

    Examples
    --------
    >>> ema = ExponentialMovingAverage(decay=0.5)
    >>> for value in (1.0, 2.0):
    ...     ema.update(np.array([value]))
    >>> ema.average.round(4)  # 1 + (1 - 2/11) * (2 - 1)
    array([1.8182])
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise UsageError(f"weight averaging: decay must be in [0, 1), got {decay!r}")
        self.decay = float(decay)
        self.average: np.ndarray | None = None
        self.updates = 0

    def update(self, params: np.ndarray) -> None:
        """Take in the parameters after a step.

        Parameters
        ----------
        params : ndarray of shape (P,)
        """
        if self.average is None:
            self.average = params.copy()
        else:
            weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
            for start in range(0, params.size, _BLOCK):
                part = self.average[start : start + _BLOCK]
                part += weight * (params[start : start + _BLOCK] - part)
        self.updates += 1
