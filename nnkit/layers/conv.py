"""Convolution."""

from typing import Any

import numpy as np

from nnkit import functional, initializers
from nnkit.functional import _arrays
from nnkit.functional.conv import check_algorithm
from nnkit.layers.base import Layer, Shape
from nnkit.layers.linear import init_config, initialise, positive


class Conv2d(Layer):
    """Kernels that slide over images; see `nnkit.functional.conv2d_forward`.

    Parameters
    ----------
    out_channels : int
    kernel_size : int or (vertical, horizontal)
    stride : int or (vertical, horizontal), default 1
    padding : int or (vertical, horizontal), default 0
        Zeros on both sides.
    bias : bool, default True
    weight_init : str or callable, default "torch_default_weight"
        A name from `nnkit.initializers`, or a function of (shape, rng, dtype). The bias starts as PyTorch's does with
        the default, and at zero with any other.
    algorithm : {"auto", "direct", "winograd2", "winograd4"}, optional
        How to compute it; what `nnkit.set_conv_algorithm` says at each forward pass, if left out.

    Examples
    --------
    >>> Conv2d(32, 3, stride=2, padding=1).build((3, 32, 32))
    (32, 16, 16)
    """

    def __init__(
        self,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        bias: bool = True,
        weight_init: str | initializers.Initializer = "torch_default_weight",
        algorithm: str | None = None,
    ) -> None:
        super().__init__()
        self.out_channels = positive(self, "out_channels", out_channels)
        self.kernel_size = _arrays.pair("Conv2d", "kernel_size", kernel_size, 1)
        self.stride = _arrays.pair("Conv2d", "stride", stride, 1)
        self.padding = _arrays.pair("Conv2d", "padding", padding, 0)
        self.bias = bias
        self.weight_init = weight_init
        self.algorithm = None if algorithm is None else check_algorithm("Conv2d", algorithm)
        initializers.get(weight_init)

    def setup(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        """Draw the weight and the bias."""
        channels, height, width = self._images(input_shape)
        size = _arrays.window_output(self.label, (height, width), self.kernel_size, self.stride, self.padding)
        initialise(self, (self.out_channels, channels, *self.kernel_size), rng)
        return (self.out_channels, *size)

    def forward(
        self,
        x: np.ndarray,
        training: bool = False,
        *,
        relu: bool = False,
        pool: int = 1,
        statistics: np.ndarray | None = None,
    ) -> np.ndarray:
        """Map (N, in_channels, H, W) to (N, out_channels, OH, OW).

        The options are for a model that fuses what stands behind: a ReLU, a max pooling, and the sums of a batch norm,
        which are written to `statistics`; see `functional.conv2d_forward`.
        """
        x = self._checked(x)
        weight, bias = self.params["weight"], self.params.get("bias")
        out, cache = functional.conv2d_forward(
            x,
            weight,
            bias,
            stride=self.stride,
            padding=self.padding,
            algorithm=self.algorithm,
            relu=relu,
            pool=pool,
            training=training,
            statistics=statistics,
        )
        if training:
            self.keep(cache)
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """Return dx; dweight and dbias go to `grads`."""
        if self.frozen:
            return functional.conv2d_backward_input(dout, self.take())
        return functional.conv2d_backward(dout, self.take(), self.grads["weight"], self.grads.get("bias"))[0]

    def backward_params(self, dout: np.ndarray) -> None:
        """Spare the convolution that makes dx."""
        cache = self.take()
        if not self.frozen:
            functional.conv2d_backward_params(dout, cache, self.grads["weight"], self.grads.get("bias"))

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "out_channels": self.out_channels,
            "kernel_size": short(self.kernel_size),
            "stride": short(self.stride),
            "padding": short(self.padding),
            "bias": self.bias,
            **init_config(self.weight_init),
            **({} if self.algorithm is None else {"algorithm": self.algorithm}),
        }

    def flops(self) -> int:
        """Two for each weight and place: a multiplication and an addition."""
        assert self.output_shape is not None
        return 2 * self.params["weight"].size * self.output_shape[1] * self.output_shape[2]


def short(pair: tuple[int, int]) -> int | list[int]:
    """Write a pair of equal numbers as one, for `config` and `repr`."""
    return pair[0] if pair[0] == pair[1] else list(pair)
