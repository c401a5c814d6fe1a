"""Convolution and max pooling as plain loops: slow, and the shortest way to see what they do."""

from typing import Any

import numpy as np

from nnkit.cs231n.arrays import as_floats


def conv_forward_naive(
    x: np.ndarray, w: np.ndarray, b: np.ndarray, conv_param: dict[str, int]
) -> tuple[np.ndarray, Any]:
    """Slide F filters over images: each output is a filter's inner product with one window of the padded image.

    `out[n, f, i, j] = b[f] + sum over c, p, q of w[f, c, p, q] * padded[n, c, i * stride + p, j * stride + q]`

    The filter starts at `i * stride` and must end inside, so that i runs from 0 to `(H + 2 * pad - HH) // stride`.

    Parameters
    ----------
    x : ndarray of shape (N, C, H, W)
    w : ndarray of shape (F, C, HH, WW)
    b : ndarray of shape (F,)
    conv_param : dict
        `stride`: pixels between neighbouring windows; `pad`: zeros on each side of the image.

    Returns
    -------
    out : ndarray of shape (N, F, 1 + (H + 2 * pad - HH) // stride, 1 + (W + 2 * pad - WW) // stride)
    cache : what `conv_backward_naive` needs

    Raises
    ------
    ValueError
        If the shapes do not fit each other.

    Examples
    --------
    >>> import numpy as np
    >>> x, w = np.arange(9.0).reshape(1, 1, 3, 3), np.ones((1, 1, 2, 2))
    >>> conv_forward_naive(x, w, np.zeros(1), {"stride": 1, "pad": 0})[0]
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """
    x, w, b = as_floats(x, w, b)
    stride, pad = conv_param["stride"], conv_param["pad"]
    if x.ndim != 4 or w.ndim != 4 or x.shape[1] != w.shape[1] or b.shape != w.shape[:1]:
        shapes = f"x {x.shape}, w {w.shape}, b {b.shape}"
        raise ValueError(f"conv: expected x (N, C, H, W), w (F, C, HH, WW) and b (F,), got {shapes}")
    images, filters = x.shape[0], w.shape[0]
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    out_height, out_width = _output_size("conv", padded.shape[2:], w.shape[2:], stride)
    out = np.zeros((images, filters, out_height, out_width), x.dtype)
    for n in range(images):
        for i in range(out_height):
            for j in range(out_width):
                window = padded[n][:, *_region(i, j, w.shape[2:], stride)]
                for f in range(filters):
                    out[n, f, i, j] = (window * w[f]).sum() + b[f]
    return out, (x, w, stride, pad)


def conv_backward_naive(dout: np.ndarray, cache: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of `conv_forward_naive`, by going through its outputs once more.

    Each output is an inner product of a window and a filter. The derivative of an inner product with respect to one
    factor is the other factor: so `dout[n, f, i, j]` times the window is added to `dw[f]`, and the same times the
    filter is added to the window's place in dx. A pixel is in several windows, hence "added". The bias is a plain
    summand of each of its filter's outputs. What lands on the padding is no part of x, and cut off.

    Parameters
    ----------
    dout : ndarray of shape (N, F, OH, OW)
    cache : from `conv_forward_naive`

    Returns
    -------
    dx : ndarray of shape (N, C, H, W)
    dw : ndarray of shape (F, C, HH, WW)
    db : ndarray of shape (F,)
    """
    x, w, stride, pad = cache
    images, filters, out_height, out_width = dout.shape
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    dpadded, dw, db = np.zeros_like(padded), np.zeros_like(w), np.zeros(filters, w.dtype)
    for n in range(images):
        for i in range(out_height):
            for j in range(out_width):
                rows, columns = _region(i, j, w.shape[2:], stride)
                for f in range(filters):
                    dw[f] += dout[n, f, i, j] * padded[n, :, rows, columns]
                    dpadded[n, :, rows, columns] += dout[n, f, i, j] * w[f]
                    db[f] += dout[n, f, i, j]
    height, width = x.shape[2:]
    return dpadded[:, :, pad : pad + height, pad : pad + width], dw, db


def max_pool_forward_naive(x: np.ndarray, pool_param: dict[str, int]) -> tuple[np.ndarray, Any]:
    """Take the maximum of each window, channel by channel.

    Parameters
    ----------
    x : ndarray of shape (N, C, H, W)
    pool_param : dict
        `pool_height`, `pool_width`: the window; `stride`: pixels between neighbouring windows.

    Returns
    -------
    out : ndarray of shape (N, C, 1 + (H - pool_height) // stride, 1 + (W - pool_width) // stride)
    cache : what `max_pool_backward_naive` needs

    Raises
    ------
    ValueError
        If x is no batch of images at least as large as a window.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> max_pool_forward_naive(x, {"pool_height": 2, "pool_width": 2, "stride": 2})[0]
    array([[[[ 5.,  7.],
             [13., 15.]]]])
    """
    (x,) = as_floats(x)
    window, stride = (pool_param["pool_height"], pool_param["pool_width"]), pool_param["stride"]
    if x.ndim != 4:
        raise ValueError(f"max pool: expected x of shape (N, C, H, W), got {x.shape}")
    images, channels = x.shape[:2]
    out = np.zeros((images, channels, *_output_size("max pool", x.shape[2:], window, stride)), x.dtype)
    for n, c, i, j in np.ndindex(out.shape):
        out[n, c, i, j] = x[n, c][_region(i, j, window, stride)].max()
    return out, (x, window, stride)


def max_pool_backward_naive(dout: np.ndarray, cache: Any) -> np.ndarray:
    """Send each gradient to where its window's maximum was: only that pixel had any influence.

    Of equal maxima the first gets it. Windows may overlap, so that gradients are added.

    Parameters
    ----------
    dout : ndarray of shape (N, C, OH, OW)
    cache : from `max_pool_forward_naive`

    Returns
    -------
    dx : ndarray of shape (N, C, H, W)
    """
    x, window, stride = cache
    dx = np.zeros_like(x)
    for n, c, i, j in np.ndindex(dout.shape):
        region = _region(i, j, window, stride)
        winner = np.unravel_index(x[n, c][region].argmax(), window)
        dx[n, c][region][winner] += dout[n, c, i, j]
    return dx


def _region(i: int, j: int, window: tuple[int, ...], stride: int) -> tuple[slice, slice]:
    """Rows and columns of the window of output (i, j)."""
    top, left = i * stride, j * stride
    return slice(top, top + window[0]), slice(left, left + window[1])


def _output_size(where: str, size: tuple[int, ...], window: tuple[int, ...], stride: int) -> tuple[int, int]:
    if window[0] > size[0] or window[1] > size[1]:
        raise ValueError(f"{where}: expected images of at least {window} pixels, got {size} with padding")
    return 1 + (size[0] - window[0]) // stride, 1 + (size[1] - window[1]) // stride
