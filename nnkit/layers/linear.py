"""The fully connected layer."""

from typing import Any

import numpy as np

from nnkit import functional, initializers
from nnkit.errors import UsageError
from nnkit.layers.base import Layer, Shape


class Linear(Layer):
    """Every output from every input: `out = x @ weight.T + bias`.

    Parameters
    ----------
    out_features : int
    bias : bool, default True
    weight_init : str or callable, default "torch_default_weight"
        A name from `nnkit.initializers`, or a function of (shape, rng, dtype). The bias starts as PyTorch's does with
        the default, and at zero with any other.

    Examples
    --------
    >>> layer = Linear(10)
    >>> layer.build((512,))
    (10,)
    >>> layer.params["weight"].shape
    (10, 512)
    """

    def __init__(
        self,
        out_features: int,
        *,
        bias: bool = True,
        weight_init: str | initializers.Initializer = "torch_default_weight",
    ) -> None:
        super().__init__()
        self.out_features = positive(self, "out_features", out_features)
        self.bias = bias
        self.weight_init = weight_init
        initializers.get(weight_init)

    def setup(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        """Draw the weight and the bias."""
        if len(input_shape) != 1:
            raise UsageError(
                f"{self.label}: expected an input shape (features,), got {input_shape}; put a Flatten before"
            )
        initialise(self, (self.out_features, input_shape[0]), rng)
        return (self.out_features,)

    def forward(self, x: np.ndarray, training: bool = False, *, relu: bool = False) -> np.ndarray:
        """Map (N, in_features) to (N, out_features); `relu` is for a model that fuses the ReLU behind."""
        x = self._checked(x, "features")
        out, cache = functional.linear_forward(x, self.params["weight"], self.params.get("bias"), relu=relu)
        if training:
            self.keep(cache)
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """Return dx; dweight and dbias go to `grads`."""
        if self.frozen:
            return functional.linear_backward_input(dout, self.take())
        return functional.linear_backward(dout, self.take(), self.grads["weight"], self.grads.get("bias"))[0]

    def backward_params(self, dout: np.ndarray) -> None:
        """Spare the product that makes dx."""
        cache = self.take()
        if not self.frozen:
            functional.linear_backward_params(dout, cache, self.grads["weight"], self.grads.get("bias"))

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"out_features": self.out_features, "bias": self.bias, **init_config(self.weight_init)}

    def flops(self) -> int:
        """Two for each weight: a multiplication and an addition."""
        return 2 * self.params["weight"].size


def initialise(layer: Any, shape: Shape, rng: np.random.Generator) -> None:
    """Draw a weight of this shape and, if the layer has one, its bias."""
    layer.params["weight"] = np.ascontiguousarray(initializers.get(layer.weight_init)(shape, rng, layer.dtype))
    got = layer.params["weight"]
    if got.shape != shape or got.dtype != layer.dtype:
        raise UsageError(
            f"{layer.label}: expected weight_init to return {layer.dtype} {shape}, got {got.dtype} {got.shape}"
        )
    if layer.bias and layer.weight_init == "torch_default_weight":
        fan_in = got[0].size
        layer.params["bias"] = initializers.torch_default_bias(shape[:1], rng, layer.dtype, fan_in=fan_in)
    elif layer.bias:
        layer.params["bias"] = np.zeros(shape[:1], layer.dtype)


def init_config(weight_init: str | initializers.Initializer) -> dict[str, str]:
    """Return an initializer's name for `config`; one that has no name in nnkit is left out, for JSON cannot hold it."""
    if isinstance(weight_init, str):
        return {"weight_init": weight_init}
    name = getattr(weight_init, "__name__", "")
    known = (
        initializers.NAMED.get(name) is weight_init or getattr(weight_init, "__module__", "") == initializers.__name__
    )
    return {"weight_init": name} if known else {}


def positive(layer: Layer, name: str, value: Any) -> int:
    """Check a size given to a constructor."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{type(layer).__name__}: expected {name} to be an integer >= 1, got {value!r}")
    return int(value)
