"""Pooling layers."""

from typing import Any

import numpy as np

from nnkit import functional
from nnkit.functional import _arrays
from nnkit.functional.pool import window_options
from nnkit.layers.base import Layer, Shape
from nnkit.layers.conv import short


class _Pool2d(Layer):
    """What pooling by windows shares."""

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = window_options(type(self).__name__, kernel_size, stride, padding)

    def setup(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        """Work out how many windows fit."""
        channels, height, width = self._images(input_shape)
        size = _arrays.window_output(self.label, (height, width), self.kernel_size, self.stride, self.padding)
        return (channels, *size)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        stride = None if self.stride == self.kernel_size else short(self.stride)
        return {"kernel_size": short(self.kernel_size), "stride": stride, "padding": short(self.padding)}


class MaxPool2d(_Pool2d):
    """The maximum of each window; see `nnkit.functional.max_pool2d_forward`.

    Parameters
    ----------
    kernel_size : int or (vertical, horizontal)
    stride : int or (vertical, horizontal), optional
        As the kernel size where left out.
    padding : int or (vertical, horizontal), default 0

    Examples
    --------
    >>> MaxPool2d(2).build((64, 28, 28))
    (64, 14, 14)
    """

    def forward(self, x: np.ndarray, training: bool = False, *, relu: bool = False) -> np.ndarray:
        """Map (N, C, H, W) to (N, C, OH, OW); `relu` is for a model that fuses the ReLU before into the pooling."""
        out, cache = functional.max_pool2d_forward(
            x, self.kernel_size, stride=self.stride, padding=self.padding, relu=relu, training=training
        )
        if training:
            self.keep(cache)
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """Return dx."""
        return functional.max_pool2d_backward(dout, self.take())


class AvgPool2d(_Pool2d):
    """The mean of each window; see `nnkit.functional.avg_pool2d_forward`.

    Parameters
    ----------
    kernel_size : int or (vertical, horizontal)
    stride : int or (vertical, horizontal), optional
        As the kernel size where left out.
    padding : int or (vertical, horizontal), default 0
        Counts as zeros.

    Examples
    --------
    >>> AvgPool2d(2, stride=1).build((64, 28, 28))
    (64, 27, 27)
    """

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Map (N, C, H, W) to (N, C, OH, OW)."""
        out, cache = functional.avg_pool2d_forward(x, self.kernel_size, stride=self.stride, padding=self.padding)
        if training:
            self.keep(cache)
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """Return dx."""
        return functional.avg_pool2d_backward(dout, self.take())


class GlobalAvgPool2d(Layer):
    """The mean of each channel over the whole image: (N, C, H, W) becomes (N, C).

    Examples
    --------
    >>> GlobalAvgPool2d().build((512, 4, 4))
    (512,)
    """

    def setup(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        """Keep the channels."""
        return (self._images(input_shape)[0],)

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Map (N, C, H, W) to (N, C)."""
        out, cache = functional.global_avg_pool2d_forward(x)
        if training:
            self.keep(cache)
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """Return dx."""
        return functional.global_avg_pool2d_backward(dout, self.take())
