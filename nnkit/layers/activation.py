"""Activation layers: the functions of `nnkit.functional.activation` with a memory."""

from collections.abc import Callable
from typing import Any

import numpy as np

from nnkit import functional
from nnkit.errors import UsageError
from nnkit.layers.base import Layer


class _Activation(Layer):
    """Calls a forward/backward pair, and keeps the cache from one to the other."""

    _function: Callable[[np.ndarray], tuple[np.ndarray, Any]]
    _gradient: Callable[[np.ndarray, Any], np.ndarray]

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Map any shape to the same."""
        out, cache = self._function(x)
        if training:
            self.keep(cache)
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """Return dx."""
        return self._gradient(dout, self.take())


class ReLU(_Activation):
    """`out = max(x, 0)`; see `nnkit.functional.relu_forward`."""

    _function = staticmethod(functional.relu_forward)
    _gradient = staticmethod(functional.relu_backward)


class LeakyReLU(_Activation):
    """`out = x if x > 0 else negative_slope * x`; see `nnkit.functional.leaky_relu_forward`.

    Parameters
    ----------
    negative_slope : float, default 0.01
    """

    _gradient = staticmethod(functional.leaky_relu_backward)

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = float(negative_slope)

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Map any shape to the same."""
        out, cache = functional.leaky_relu_forward(x, self.negative_slope)
        if training:
            self.keep(cache)
        return out

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"negative_slope": self.negative_slope}


class GELU(_Activation):
    """`out = x * Phi(x)`; see `nnkit.functional.gelu_forward`.

    Parameters
    ----------
    approximate : "none" or "tanh", default "none"
    """

    _gradient = staticmethod(functional.gelu_backward)

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise UsageError(f"GELU: expected approximate to be 'none' or 'tanh', got {approximate!r}")
        self.approximate = approximate

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Map any shape to the same."""
        out, cache = functional.gelu_forward(x, self.approximate)
        if training:
            self.keep(cache)
        return out

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"approximate": self.approximate}


class SiLU(_Activation):
    """`out = x * sigmoid(x)`; see `nnkit.functional.silu_forward`."""

    _function = staticmethod(functional.silu_forward)
    _gradient = staticmethod(functional.silu_backward)


class Sigmoid(_Activation):
    """`out = 1 / (1 + exp(-x))`; see `nnkit.functional.sigmoid_forward`."""

    _function = staticmethod(functional.sigmoid_forward)
    _gradient = staticmethod(functional.sigmoid_backward)


class Tanh(_Activation):
    """`out = tanh(x)`; see `nnkit.functional.tanh_forward`."""

    _function = staticmethod(functional.tanh_forward)
    _gradient = staticmethod(functional.tanh_backward)


class Softmax(_Activation):
    """Probabilities over the classes, axis 1; see `nnkit.functional.softmax_forward`.

    `CrossEntropyLoss` wants scores and has its own softmax: do not put this layer before it.
    """

    _function = staticmethod(functional.softmax_forward)
    _gradient = staticmethod(functional.softmax_backward)
