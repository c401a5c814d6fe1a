"""Activation layers: the functions of `nnkit.functional.activation` with a memory."""

from typing import Any

import numpy as np

from nnkit import functional
from nnkit.errors import UsageError
from nnkit.layers.base import Layer


class ReLU(Layer):
    """`out = max(x, 0)`; see `nnkit.functional.relu_forward`."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Map any shape to the same."""
        out, cache = functional.relu_forward(x)
        if training:
            self.keep(cache)
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """Return dx."""
        return functional.relu_backward(dout, self.take())


class LeakyReLU(Layer):
    """`out = x if x > 0 else negative_slope * x`; see `nnkit.functional.leaky_relu_forward`.

    Parameters
    ----------
    negative_slope : float, default 0.01
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = float(negative_slope)

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Map any shape to the same."""
        out, cache = functional.leaky_relu_forward(x, self.negative_slope)
        if training:
            self.keep(cache)
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """Return dx."""
        return functional.leaky_relu_backward(dout, self.take())

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"negative_slope": self.negative_slope}


class GELU(Layer):
    """`out = x * Phi(x)`; see `nnkit.functional.gelu_forward`.

    Parameters
    ----------
    approximate : "none" or "tanh", default "none"
    """

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

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """Return dx."""
        return functional.gelu_backward(dout, self.take())

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"approximate": self.approximate}


class SiLU(Layer):
    """`out = x * sigmoid(x)`; see `nnkit.functional.silu_forward`."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Map any shape to the same."""
        out, cache = functional.silu_forward(x)
        if training:
            self.keep(cache)
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """Return dx."""
        return functional.silu_backward(dout, self.take())


class Sigmoid(Layer):
    """`out = 1 / (1 + exp(-x))`; see `nnkit.functional.sigmoid_forward`."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Map any shape to the same."""
        out, cache = functional.sigmoid_forward(x)
        if training:
            self.keep(cache)
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """Return dx."""
        return functional.sigmoid_backward(dout, self.take())


class Tanh(Layer):
    """`out = tanh(x)`; see `nnkit.functional.tanh_forward`."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Map any shape to the same."""
        out, cache = functional.tanh_forward(x)
        if training:
            self.keep(cache)
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """Return dx."""
        return functional.tanh_backward(dout, self.take())


class Softmax(Layer):
    """Probabilities over the classes, axis 1; see `nnkit.functional.softmax_forward`.

    `CrossEntropyLoss` wants scores and has its own softmax: do not put this layer before it.
    """

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Map (N, C, ...) to the same."""
        out, cache = functional.softmax_forward(x)
        if training:
            self.keep(cache)
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """Return dx."""
        return functional.softmax_backward(dout, self.take())
