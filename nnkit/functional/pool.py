"""Pooling: the maximum or the mean of windows, or of whole images."""

from typing import Any

import numpy as np

from nnkit._ext import kernels, memory
from nnkit.errors import UsageError
from nnkit.functional import _arrays


def max_pool2d_forward(
    x: np.ndarray,
    kernel_size: int | tuple[int, int],
    *,
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    relu: bool = False,
    training: bool = True,
) -> tuple[np.ndarray, Any]:
    """Take the maximum of each window.

    Parameters
    ----------
    x : ndarray of shape (N, C, H, W)
    kernel_size : int or (vertical, horizontal)
    stride : int or (vertical, horizontal), optional
        As the kernel size where left out: windows side by side.
    padding : int or (vertical, horizontal), default 0
        At most half the kernel size; padding never wins.
    relu : bool, default False
        Rectify first: the same numbers as `relu_forward` before it, in less time, because the maximum of rectified
        values is the rectified maximum.
    training : bool, default True
        Whether there will be a way back, for which the maxima's places are noted; without it, the cache is of no use.

    Returns
    -------
    out : ndarray of shape (N, C, OH, OW)
    cache : what `max_pool2d_backward` needs

    Raises
    ------
    ValueError
        If the options do not fit, or the image is smaller than the window.

    Examples
    --------
    >>> import numpy as np
    >>> out, cache = max_pool2d_forward(np.arange(16.0).reshape(1, 1, 4, 4), 2)
    >>> out[0, 0]
    array([[ 5.,  7.],
           [13., 15.]])
    """
    (x,) = _arrays.floats("max_pool2d", x)
    nhwc = _arrays.channels_last("max_pool2d", x)
    kernel, stride, padding = window_options("max_pool2d", kernel_size, stride, padding)
    size = _arrays.window_output("max_pool2d", nhwc.shape[1:3], kernel, stride, padding)
    shape = (nhwc.shape[0], *size, nhwc.shape[3])
    out = memory.empty(shape, nhwc.dtype)
    codes = memory.empty(shape, np.uint8 if kernel[0] * kernel[1] <= 256 else np.int32) if training else None
    kernels.max_pool2d_forward(nhwc, out, codes, kernel, stride, padding, relu)
    return _arrays.channels_first(out), (codes, nhwc.shape, nhwc.dtype, kernel, stride, padding, out if relu else None)


def max_pool2d_backward(dout: np.ndarray, cache: Any) -> np.ndarray:
    """Send each gradient to where its window's maximum was (to the first of equal ones).

    Parameters
    ----------
    dout : ndarray of shape (N, C, OH, OW)
    cache : from `max_pool2d_forward`

    Returns
    -------
    dx : ndarray of shape (N, C, H, W)

    Raises
    ------
    ValueError
        If `dout` has another shape than the output.
    UsageError
        If the forward pass was told that there would be no way back.
    """
    codes, shape, dtype, kernel, stride, padding, rectified = cache
    if codes is None:
        raise UsageError("max_pool2d: expected the cache of a forward pass with training=True, got one without")
    dx = memory.empty(shape, dtype)
    gradient = _gradient("max_pool2d", dout, codes.shape, dtype)
    kernels.max_pool2d_backward(gradient, codes, dx, kernel, stride, padding, rectified)
    return _arrays.channels_first(dx)


def avg_pool2d_forward(
    x: np.ndarray,
    kernel_size: int | tuple[int, int],
    *,
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
) -> tuple[np.ndarray, Any]:
    """Take the mean of each window; padding counts as zeros, as it does in PyTorch.

    Parameters
    ----------
    x : ndarray of shape (N, C, H, W)
    kernel_size : int or (vertical, horizontal)
    stride : int or (vertical, horizontal), optional
        As the kernel size where left out: windows side by side.
    padding : int or (vertical, horizontal), default 0
        At most half the kernel size.

    Returns
    -------
    out : ndarray of shape (N, C, OH, OW)
    cache : what `avg_pool2d_backward` needs

    Raises
    ------
    ValueError
        If the options do not fit, or the image is smaller than the window.

    Examples
    --------
    >>> import numpy as np
    >>> avg_pool2d_forward(np.arange(16.0).reshape(1, 1, 4, 4), 2)[0][0, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """
    (x,) = _arrays.floats("avg_pool2d", x)
    nhwc = _arrays.channels_last("avg_pool2d", x)
    kernel, stride, padding = window_options("avg_pool2d", kernel_size, stride, padding)
    size = _arrays.window_output("avg_pool2d", nhwc.shape[1:3], kernel, stride, padding)
    out = memory.empty((nhwc.shape[0], *size, nhwc.shape[3]), nhwc.dtype)
    out[...] = 0
    for outputs, inputs in _taps(nhwc.shape[1:3], size, kernel, stride, padding):
        out[outputs] += nhwc[inputs]
    out /= kernel[0] * kernel[1]
    return _arrays.channels_first(out), (nhwc.shape, out.shape, nhwc.dtype, kernel, stride, padding)


def avg_pool2d_backward(dout: np.ndarray, cache: Any) -> np.ndarray:
    """Share each gradient equally among the pixels of its window.

    Parameters
    ----------
    dout : ndarray of shape (N, C, OH, OW)
    cache : from `avg_pool2d_forward`

    Returns
    -------
    dx : ndarray of shape (N, C, H, W)

    Raises
    ------
    ValueError
        If `dout` has another shape than the output.
    """
    shape, out_shape, dtype, kernel, stride, padding = cache
    share = _gradient("avg_pool2d", dout, out_shape, dtype) / (kernel[0] * kernel[1])
    dx = memory.empty(shape, dtype)
    dx[...] = 0
    for outputs, inputs in _taps(shape[1:3], out_shape[1:3], kernel, stride, padding):
        dx[inputs] += share[outputs]
    return _arrays.channels_first(dx)


def global_avg_pool2d_forward(x: np.ndarray) -> tuple[np.ndarray, Any]:
    """Take the mean of each channel over the whole image.

    Parameters
    ----------
    x : ndarray of shape (N, C, H, W)

    Returns
    -------
    out : ndarray of shape (N, C)
    cache : what `global_avg_pool2d_backward` needs

    Raises
    ------
    ValueError
        If `x` is not a batch of images with at least one pixel.

    Examples
    --------
    >>> import numpy as np
    >>> global_avg_pool2d_forward(np.arange(8.0).reshape(1, 2, 2, 2))[0]
    array([[1.5, 5.5]])
    """
    (x,) = _arrays.floats("global_avg_pool2d", x)
    nhwc = _arrays.channels_last("global_avg_pool2d", x)
    n, height, width, channels = nhwc.shape
    if height * width == 0:
        raise ValueError(f"global_avg_pool2d: expected images of at least one pixel, got {x.shape}")
    out = memory.empty((n, channels), x.dtype)
    np.mean(nhwc.reshape(n, height * width, channels), axis=1, out=out)
    return out, (nhwc.shape, nhwc.dtype)


def global_avg_pool2d_backward(dout: np.ndarray, cache: Any) -> np.ndarray:
    """Share each channel's gradient equally among its pixels.

    Parameters
    ----------
    dout : ndarray of shape (N, C)
    cache : from `global_avg_pool2d_forward`

    Returns
    -------
    dx : ndarray of shape (N, C, H, W)

    Raises
    ------
    ValueError
        If `dout` has another shape than the output.
    """
    shape, dtype = cache
    n, height, width, channels = shape
    gradient = _arrays.upstream("global_avg_pool2d", dout, (n, channels), dtype)
    dx = memory.empty(shape, dtype)
    dx[...] = (gradient / (height * width))[:, None, None, :]
    return _arrays.channels_first(dx)


def window_options(
    where: str,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None,
    padding: int | tuple[int, int],
) -> tuple[_arrays.Pair, _arrays.Pair, _arrays.Pair]:
    """Check a pooling window's options and return each as a pair."""
    kernel = _arrays.pair(where, "kernel_size", kernel_size, 1)
    steps = kernel if stride is None else _arrays.pair(where, "stride", stride, 1)
    margin = _arrays.pair(where, "padding", padding, 0)
    if 2 * margin[0] > kernel[0] or 2 * margin[1] > kernel[1]:
        raise UsageError(f"{where}: expected padding of at most half the kernel size {kernel}, got {margin}")
    return kernel, steps, margin


def _gradient(where: str, dout: np.ndarray, out_shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    n, height, width, channels = out_shape
    return _arrays.channels_last(where, _arrays.upstream(where, dout, (n, channels, height, width), dtype))


def _taps(size: Any, out_size: Any, kernel: Any, stride: Any, padding: Any) -> Any:
    """For each place in the window: the outputs whose window has a real pixel there, and those pixels."""
    for i in range(kernel[0]):
        rows = _tap(size[0], out_size[0], i - padding[0], stride[0])
        for j in range(kernel[1]):
            columns = _tap(size[1], out_size[1], j - padding[1], stride[1])
            outputs, inputs = zip((slice(None), slice(None)), rows, columns, strict=True)
            yield outputs, inputs


def _tap(size: int, out_size: int, offset: int, stride: int) -> tuple[slice, slice]:
    """Along one axis: outputs `y` with `0 <= y * stride + offset < size`, and those input places."""
    first = max(0, -(offset // stride))
    last = min(out_size, (size - 1 - offset) // stride + 1)
    last = max(first, last)
    start = first * stride + offset
    return slice(first, last), slice(start, start + (last - first - 1) * stride + 1 if last > first else start, stride)
