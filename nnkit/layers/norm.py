"""Normalisation layers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from nnkit import functional
from nnkit.errors import UsageError
from nnkit.layers.base import Layer, Shape
from nnkit.layers.linear import positive


class BatchNorm(Layer):
    """Normalise each feature, or each channel of images, over the batch; see `nnkit.functional.batch_norm_forward`.

    Parameters
    ----------
    momentum : float, default 0.1
        The weight of the new batch in the running statistics, as PyTorch counts it.
    eps : float, default 1e-5

    Attributes
    ----------
    sum_over_ranks : callable or None
        Set for a while by a Solver with `sync_bn`: adds up an array over all processes that train together.

    Examples
    --------
    >>> layer = BatchNorm()
    >>> layer.build((64, 14, 14))
    (64, 14, 14)
    >>> {name: array.shape for name, array in layer.buffers.items()}
    {'running_mean': (64,), 'running_var': (64,)}
    """

    sum_over_ranks: Callable[[np.ndarray], object] | None = None

    def __init__(self, *, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise UsageError(f"BatchNorm: expected momentum between 0 and 1, got {momentum!r}")
        self.momentum = momentum
        self.eps = _positive_eps(self, eps)

    def setup(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        """Start as the identity on data of mean 0 and variance 1."""
        if len(input_shape) not in (1, 3):
            raise UsageError(f"{self.label}: expected an input shape (C,) or (C, H, W), got {input_shape}")
        channels = input_shape[:1]
        self.params = {"weight": np.ones(channels, self.dtype), "bias": np.zeros(channels, self.dtype)}
        self.buffers = {"running_mean": np.zeros(channels, self.dtype), "running_var": np.ones(channels, self.dtype)}
        return input_shape

    def forward(
        self,
        x: np.ndarray,
        training: bool = False,
        *,
        activation: str = "identity",
        addend: np.ndarray | None = None,
        statistics: np.ndarray | None = None,
    ) -> np.ndarray:
        """Normalise (N, C) or (N, C, H, W); and what a model may fuse with it, see `functional.batch_norm_forward`."""
        x = self._checked(x)
        if training and x[:, 0].size < 2 and self.sum_over_ranks is None:
            raise ValueError(f"{self.label}: expected more than one value per channel in training, got x of {x.shape}")
        out, cache = functional.batch_norm_forward(
            x,
            self.params["weight"],
            self.params["bias"],
            self.buffers["running_mean"],
            self.buffers["running_var"],
            training=training,
            momentum=self.momentum,
            eps=self.eps,
            activation=activation,
            addend=addend,
            statistics=statistics,
            sum_over_ranks=self.sum_over_ranks,
        )
        if training:
            self.keep(cache)
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """Return dx; dweight and dbias go to `grads`."""
        return self.backward_sum(dout)[0]

    def backward_sum(self, dout: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return dx and the addend's gradient; dweight and dbias go to `grads`."""
        dx, _, _, daddend = functional.batch_norm_add_backward(dout, self.take(), *_destinations(self))
        return dx, daddend

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"momentum": self.momentum, "eps": self.eps}


class LayerNorm(Layer):
    """Normalise each example over all of its values; see `nnkit.functional.layer_norm_forward`.

    Parameters
    ----------
    eps : float, default 1e-5

    Examples
    --------
    >>> layer = LayerNorm()
    >>> layer.build((100,))
    (100,)
    """

    def __init__(self, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = _positive_eps(self, eps)

    def setup(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        """Start with scale 1 and shift 0 for every value of an example."""
        self.params = {"weight": np.ones(input_shape, self.dtype), "bias": np.zeros(input_shape, self.dtype)}
        return input_shape

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Normalise (N, *input_shape)."""
        x = self._checked(x, "features" if self.input_shape and len(self.input_shape) == 1 else "channels")
        if x.shape[1:] != self.input_shape:
            raise ValueError(f"{self.label}: expected examples of shape {self.input_shape}, got {x.shape[1:]}")
        out, cache = functional.layer_norm_forward(x, self.params["weight"], self.params["bias"], eps=self.eps)
        if training:
            self.keep(cache)
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """Return dx; dweight and dbias go to `grads`."""
        return functional.layer_norm_backward(dout, self.take(), *_destinations(self))[0]

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"eps": self.eps}


class GroupNorm(Layer):
    """Normalise each example over groups of channels; see `nnkit.functional.group_norm_forward`.

    Parameters
    ----------
    num_groups : int
        A divisor of the number of channels.
    eps : float, default 1e-5

    Examples
    --------
    >>> GroupNorm(8).build((64, 14, 14))
    (64, 14, 14)
    """

    def __init__(self, num_groups: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_groups = positive(self, "num_groups", num_groups)
        self.eps = _positive_eps(self, eps)

    def setup(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        """Start with scale 1 and shift 0 for every channel."""
        channels = input_shape[0]
        if len(input_shape) not in (1, 3):
            raise UsageError(f"{self.label}: expected an input shape (C,) or (C, H, W), got {input_shape}")
        if channels % self.num_groups:
            groups = f"{self.num_groups} groups"
            raise UsageError(f"{self.label}: expected channels that divide into {groups}, got {channels}")
        self.params = {"weight": np.ones(channels, self.dtype), "bias": np.zeros(channels, self.dtype)}
        return input_shape

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Normalise (N, C) or (N, C, H, W)."""
        x = self._checked(x)
        weight, bias = self.params["weight"], self.params["bias"]
        out, cache = functional.group_norm_forward(x, weight, bias, self.num_groups, eps=self.eps)
        if training:
            self.keep(cache)
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """Return dx; dweight and dbias go to `grads`."""
        return functional.group_norm_backward(dout, self.take(), *_destinations(self))[0]

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"num_groups": self.num_groups, "eps": self.eps}


def _destinations(layer: Layer) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return where dweight and dbias go: to arrays that nobody keeps, if the layer is frozen."""
    return (None, None) if layer.frozen else (layer.grads["weight"], layer.grads["bias"])


def _positive_eps(layer: Layer, eps: float) -> float:
    if not eps > 0:
        raise UsageError(f"{type(layer).__name__}: expected eps > 0, got {eps!r}")
    return eps
