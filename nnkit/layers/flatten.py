"""From images to features."""

import math

import numpy as np

from nnkit._ext import kernels, memory
from nnkit.functional import _arrays
from nnkit.layers.base import Layer, Shape


class Flatten(Layer):
    """One row per example: (N, C, H, W) becomes (N, C * H * W), in this order, as in PyTorch.

    Examples
    --------
    >>> Flatten().build((64, 14, 14))
    (12544,)
    """

    def setup(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        """Count the values of an example."""
        return (math.prod(input_shape),)

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Map (N, ...) to (N, features)."""
        x = np.asarray(x)
        if training:
            self.keep(_arrays.layout(x))
        rows = x.shape[0], math.prod(x.shape[1:])  # not -1, which an empty batch cannot tell
        if x.flags.c_contiguous:
            return x.reshape(rows)
        return _copied(x, memory.empty(x.shape, x.dtype)).reshape(rows)

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """Return dout in the input's shape and memory layout, as the layer below wants it."""
        layout = self.take()
        shape = layout[0]
        folded = _arrays.upstream(self.label, dout, (shape[0], math.prod(shape[1:])), None).reshape(shape)
        if _arrays.layout(folded) == layout:
            return folded
        return _copied(folded, _arrays.shaped(memory.empty(folded.size, folded.dtype), layout))


def _copied(x: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Copy x into an array of another layout: by a kernel, where one is channels-last and the other channels-first."""
    if x.ndim == 4 and x.dtype.kind == "f" and x.dtype.isnative:
        n, c, h, w = x.shape
        inside, outside = x.transpose(0, 2, 3, 1), out.transpose(0, 2, 3, 1)
        if inside.flags.c_contiguous and out.flags.c_contiguous:
            kernels.transpose_images(inside.reshape(n, h * w, c), out.reshape(n, c, h * w))
            return out
        if x.flags.c_contiguous and outside.flags.c_contiguous:
            kernels.transpose_images(x.reshape(n, c, h * w), outside.reshape(n, h * w, c))
            return out
    out[...] = x
    return out
