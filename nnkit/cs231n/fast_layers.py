"""Convolution and max pooling at full speed: nnkit's kernels, and the two classical tricks to read beside them.

The kernels work on channels-last storage, go over tiles of output pixels with every core, and need no copy of the
windows. `conv_*_im2col` is the way of the lectures, one big matrix product; `max_pool_*_reshape` has the mathematics of
NumPy's way to pool windows that lie side by side.
"""

from typing import Any

import numpy as np

from nnkit import functional
from nnkit.cs231n.arrays import as_floats
from nnkit.cs231n.im2col_cython import col2im_cython, im2col_cython


def conv_forward_fast(
    x: np.ndarray, w: np.ndarray, b: np.ndarray, conv_param: dict[str, int]
) -> tuple[np.ndarray, Any]:
    """Slide filters over images as `conv_forward_naive` does, by nnkit's kernel: `nnkit.functional.conv2d_forward`.

    Parameters
    ----------
    x : ndarray of shape (N, C, H, W)
    w : ndarray of shape (F, C, HH, WW)
    b : ndarray of shape (F,)
    conv_param : dict
        `stride`, `pad`.

    Returns
    -------
    out : ndarray of shape (N, F, OH, OW)
    cache : what `conv_backward_fast` needs

    Raises
    ------
    ValueError
        If the shapes do not fit each other.

    Examples
    --------
    >>> import numpy as np
    >>> x, w = np.arange(9.0).reshape(1, 1, 3, 3), np.ones((1, 1, 2, 2))
    >>> conv_forward_fast(x, w, np.zeros(1), {"stride": 1, "pad": 0})[0]
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """
    return functional.conv2d_forward(*as_floats(x, w, b), stride=conv_param["stride"], padding=conv_param["pad"])


def conv_backward_fast(dout: np.ndarray, cache: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of `conv_forward_fast`.

    Parameters
    ----------
    dout : ndarray of shape (N, F, OH, OW)
    cache : from `conv_forward_fast`

    Returns
    -------
    dx : ndarray of shape (N, C, H, W)
    dw : ndarray of shape (F, C, HH, WW)
    db : ndarray of shape (F,)
    """
    dx, dw, db = functional.conv2d_backward(dout, cache)
    assert db is not None
    return dx, dw, db


conv_forward_strides = conv_forward_fast
conv_backward_strides = conv_backward_fast


def conv_forward_im2col(
    x: np.ndarray, w: np.ndarray, b: np.ndarray, conv_param: dict[str, int]
) -> tuple[np.ndarray, Any]:
    """Convolve by one matrix product: the filters as rows, times every window of the images as a column.

    It is fast because matrix products are, and hungry because the columns hold each pixel `HH * WW` times.

    Parameters
    ----------
    x : ndarray of shape (N, C, H, W)
    w : ndarray of shape (F, C, HH, WW)
    b : ndarray of shape (F,)
    conv_param : dict
        `stride`, `pad`.

    Returns
    -------
    out : ndarray of shape (N, F, OH, OW)
    cache : what `conv_backward_im2col` needs

    Examples
    --------
    >>> import numpy as np
    >>> x, w = np.arange(9.0).reshape(1, 1, 3, 3), np.ones((1, 1, 2, 2))
    >>> conv_forward_im2col(x, w, np.zeros(1), {"stride": 1, "pad": 0})[0]
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """
    x, w, b = as_floats(x, w, b)
    (images, _, height, width), (filters, _, field_height, field_width) = x.shape, w.shape
    stride, pad = conv_param["stride"], conv_param["pad"]
    out_height = (height + 2 * pad - field_height) // stride + 1
    out_width = (width + 2 * pad - field_width) // stride + 1
    cols = im2col_cython(x, field_height, field_width, pad, stride)
    out = w.reshape(filters, -1) @ cols + b[:, None]
    out = out.reshape(filters, out_height, out_width, images).transpose(3, 0, 1, 2)
    return out, (x.shape, w, cols, stride, pad)


def conv_backward_im2col(dout: np.ndarray, cache: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of `conv_forward_im2col`: those of a matrix product, the columns' added back to the images.

    Parameters
    ----------
    dout : ndarray of shape (N, F, OH, OW)
    cache : from `conv_forward_im2col`

    Returns
    -------
    dx : ndarray of shape (N, C, H, W)
    dw : ndarray of shape (F, C, HH, WW)
    db : ndarray of shape (F,)
    """
    shape, w, cols, stride, pad = cache
    filters, _, field_height, field_width = w.shape
    rows = dout.transpose(1, 2, 3, 0).reshape(filters, -1)
    dcols = w.reshape(filters, -1).T @ rows
    images, channels, height, width = shape
    dx = col2im_cython(dcols, images, channels, height, width, field_height, field_width, pad, stride)
    return dx, (rows @ cols.T).reshape(w.shape), rows.sum(axis=1)


def max_pool_forward_fast(x: np.ndarray, pool_param: dict[str, int]) -> tuple[np.ndarray, Any]:
    """Take the maximum of each window, by nnkit's kernel: `nnkit.functional.max_pool2d_forward`.

    Square windows that tile the image are `max_pool_forward_reshape`'s, all others `max_pool_forward_im2col`'s.

    Parameters
    ----------
    x : ndarray of shape (N, C, H, W)
    pool_param : dict
        `pool_height`, `pool_width`, `stride`.

    Returns
    -------
    out : ndarray of shape (N, C, OH, OW)
    cache : what `max_pool_backward_fast` needs

    Raises
    ------
    ValueError
        If x is no batch of images at least as large as a window.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> max_pool_forward_fast(x, {"pool_height": 2, "pool_width": 2, "stride": 2})[0]
    array([[[[ 5.,  7.],
             [13., 15.]]]])
    """
    forward = max_pool_forward_reshape if _tiles(np.shape(x), pool_param) else max_pool_forward_im2col
    out, cache = forward(x, pool_param)
    return out, (forward is max_pool_forward_reshape, cache)


def max_pool_backward_fast(dout: np.ndarray, cache: Any) -> np.ndarray:
    """Return the gradient of `max_pool_forward_fast`.

    Parameters
    ----------
    dout : ndarray of shape (N, C, OH, OW)
    cache : from `max_pool_forward_fast`

    Returns
    -------
    dx : ndarray of shape (N, C, H, W)
    """
    tiles, inner = cache
    return max_pool_backward_reshape(dout, inner) if tiles else max_pool_backward_im2col(dout, inner)


def max_pool_forward_reshape(x: np.ndarray, pool_param: dict[str, int]) -> tuple[np.ndarray, Any]:
    """Take the maximum of square windows that lie side by side and cover the image.

    Parameters
    ----------
    x : ndarray of shape (N, C, H, W)
    pool_param : dict
        `pool_height`, `pool_width`, `stride`, all equal; they divide H and W.

    Returns
    -------
    out : ndarray of shape (N, C, H / stride, W / stride)
    cache : what `max_pool_backward_reshape` needs

    Raises
    ------
    ValueError
        If the windows do not tile the image.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> max_pool_forward_reshape(x, {"pool_height": 2, "pool_width": 2, "stride": 2})[0]
    array([[[[ 5.,  7.],
             [13., 15.]]]])
    """
    (x,) = as_floats(x)
    if not _tiles(x.shape, pool_param):
        raise ValueError(f"max pool: expected square windows that tile an image of {x.shape}, got {pool_param}")
    side = pool_param["pool_height"]
    out, _ = functional.max_pool2d_forward(x, side)
    return out, (x, out, side)


def max_pool_backward_reshape(dout: np.ndarray, cache: Any) -> np.ndarray:
    """Return the gradient of `max_pool_forward_reshape`; equal maxima of a window share theirs equally.

    For each of the window's places, one strided view holds the pixels that are there in all the windows.

    Parameters
    ----------
    dout : ndarray of shape (N, C, OH, OW)
    cache : from `max_pool_forward_reshape`

    Returns
    -------
    dx : ndarray of shape (N, C, H, W)
    """
    x, out, side = cache
    places = [np.s_[:, :, row::side, column::side] for row in range(side) for column in range(side)]
    winners = [x[place] == out for place in places]
    share = dout / np.add.reduce(winners, dtype=x.dtype)
    dx = np.empty_like(x)
    for place, winner in zip(places, winners, strict=True):
        np.multiply(share, winner, out=dx[place])
    return dx


def max_pool_forward_im2col(x: np.ndarray, pool_param: dict[str, int]) -> tuple[np.ndarray, Any]:
    """Take the maximum of windows of any size and stride.

    Parameters
    ----------
    x : ndarray of shape (N, C, H, W)
    pool_param : dict
        `pool_height`, `pool_width`, `stride`.

    Returns
    -------
    out : ndarray of shape (N, C, OH, OW)
    cache : what `max_pool_backward_im2col` needs

    Raises
    ------
    ValueError
        If x is no batch of images at least as large as a window.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> max_pool_forward_im2col(x, {"pool_height": 2, "pool_width": 3, "stride": 1})[0]
    array([[[[5.],
             [8.]]]])
    """
    window = (pool_param["pool_height"], pool_param["pool_width"])
    (x,) = as_floats(x)
    return functional.max_pool2d_forward(x, window, stride=pool_param["stride"])


def max_pool_backward_im2col(dout: np.ndarray, cache: Any) -> np.ndarray:
    """Return the gradient of `max_pool_forward_im2col`; of equal maxima the first gets it.

    Parameters
    ----------
    dout : ndarray of shape (N, C, OH, OW)
    cache : from `max_pool_forward_im2col`

    Returns
    -------
    dx : ndarray of shape (N, C, H, W)
    """
    return functional.max_pool2d_backward(dout, cache)


def _tiles(shape: tuple[int, ...], pool_param: dict[str, int]) -> bool:
    side = pool_param["stride"]
    square = pool_param["pool_height"] == pool_param["pool_width"] == side
    return square and len(shape) == 4 and shape[2] % side == 0 and shape[3] % side == 0
