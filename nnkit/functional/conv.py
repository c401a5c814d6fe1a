"""Two-dimensional convolution (cross-correlation, as every framework has it)."""

from typing import Any

import numpy as np

from nnkit._ext import kernels, memory
from nnkit.functional import _arrays


def conv2d_forward(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
) -> tuple[np.ndarray, Any]:
    """Slide kernels over images.

    `out[n, o, y, x] = bias[o] + sum over i, a, b of weight[o, i, a, b] * padded[n, i, y * stride + a, x * stride + b]`

    Parameters
    ----------
    x : ndarray of shape (N, I, H, W)
        In any memory layout; channels-last storage is used as it is, others are converted.
    weight : ndarray of shape (O, I, KH, KW)
    bias : ndarray of shape (O,), optional
    stride, padding : int or (vertical, horizontal)
        Padding is with zeros, on both sides.

    Returns
    -------
    out : ndarray of shape (N, O, OH, OW)
        In channels-last storage, with `OH = (H + 2 * padding - KH) // stride + 1`.
    cache : what `conv2d_backward` needs

    Raises
    ------
    ValueError
        If shapes or options do not fit.
    TypeError
        If an array does not hold real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> out, cache = conv2d_forward(np.ones((2, 3, 32, 32)), np.ones((8, 3, 5, 5)), stride=2, padding=1)
    >>> out.shape, float(out[0, 0, 1, 1])
    ((2, 8, 15, 15), 75.0)
    """
    x, weight, bias = _arrays.floats("conv2d", x, weight, bias)
    stride, padding = _arrays.pair("conv2d", "stride", stride, 1), _arrays.pair("conv2d", "padding", padding, 0)
    if weight.ndim != 4 or 0 in weight.shape:
        raise ValueError(f"conv2d: expected weight of shape (O, I, KH, KW), got {weight.shape}")
    nhwc = _arrays.channels_last("conv2d", x)
    if nhwc.shape[3] != weight.shape[1]:
        raise ValueError(f"conv2d: expected x with {weight.shape[1]} channels, got {nhwc.shape[3]}")
    if bias is not None:
        _arrays.check_shape("conv2d", "bias", bias, weight.shape[:1])
        bias = np.ascontiguousarray(bias)
    weight = np.ascontiguousarray(weight)
    size = _arrays.window_output("conv2d", nhwc.shape[1:3], weight.shape[2:], stride, padding)
    out = memory.empty((nhwc.shape[0], *size, weight.shape[0]), nhwc.dtype)
    kernels.conv2d_forward(nhwc, weight, bias, out, stride, padding)
    return _arrays.channels_first(out), (nhwc, weight, bias is not None, stride, padding, out.shape)


def conv2d_backward(
    dout: np.ndarray, cache: Any, dweight: np.ndarray | None = None, dbias: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the gradients of `conv2d_forward`.

    Parameters
    ----------
    dout : ndarray of shape (N, O, OH, OW)
    cache : from `conv2d_forward`
    dweight, dbias : ndarray, optional
        Where to write these gradients; new arrays where left out.

    Returns
    -------
    dx : ndarray of shape (N, I, H, W)
    dweight : ndarray of shape (O, I, KH, KW)
    dbias : ndarray of shape (O,), or None if there was no bias

    Raises
    ------
    ValueError
        If `dout` or a destination has another shape.
    """
    nhwc, weight, _, stride, padding, _ = cache
    dweight, dbias = conv2d_backward_params(dout, cache, dweight, dbias)
    dx = memory.empty(nhwc.shape, nhwc.dtype)
    kernels.conv2d_backward_input(_gradient(dout, cache), weight, dx, stride, padding)
    return _arrays.channels_first(dx), dweight, dbias


def conv2d_backward_params(
    dout: np.ndarray, cache: Any, dweight: np.ndarray | None = None, dbias: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return only the parameters' gradients, as a network's first layer needs them; see `conv2d_backward`.

    Parameters
    ----------
    dout : ndarray of shape (N, O, OH, OW)
    cache : from `conv2d_forward`
    dweight, dbias : ndarray, optional

    Returns
    -------
    dweight : ndarray of shape (O, I, KH, KW)
    dbias : ndarray of shape (O,), or None if there was no bias
    """
    nhwc, weight, with_bias, stride, padding, _ = cache
    dweight = _arrays.destination("conv2d", "dweight", dweight, weight.shape, nhwc.dtype)
    dbias = _arrays.destination("conv2d", "dbias", dbias, weight.shape[:1], nhwc.dtype) if with_bias else None
    kernels.conv2d_backward_weight(nhwc, _gradient(dout, cache), dweight, dbias, stride, padding)
    return dweight, dbias


def _gradient(dout: np.ndarray, cache: Any) -> np.ndarray:
    n, height, width, channels = cache[-1]
    gradient = _arrays.upstream("conv2d", dout, (n, channels, height, width), cache[0].dtype)
    return _arrays.channels_last("conv2d", gradient)
