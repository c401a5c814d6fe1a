"""Dropout."""

from typing import Any

import numpy as np

from nnkit import functional
from nnkit.errors import UsageError
from nnkit.layers.base import Layer, Shape


class Dropout(Layer):
    """Random zeros in training, the identity otherwise; see `nnkit.functional.dropout_forward`.

    Parameters
    ----------
    p : float in [0, 1], default 0.5
        The probability of dropping an element.

    Attributes
    ----------
    rng : numpy.random.Generator
        Where the zeros come from; `model.reseed` sets it anew for each training step.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise UsageError(f"Dropout: expected p between 0 and 1, got {p!r}")
        self.p = float(p)
        self.rng = np.random.default_rng(0)

    def setup(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        """Take a generator of its own, so that adding a dropout layer leaves the other layers' first values alone."""
        self.rng = rng.spawn(1)[0]
        return input_shape

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Map any shape to the same."""
        out, cache = functional.dropout_forward(x, self.p, training=training, rng=self.rng)
        if training:
            self.keep((cache,))
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """Return dx."""
        (cache,) = self.take()
        return functional.dropout_backward(dout, cache)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"p": self.p}
