"""Two-dimensional convolution (cross-correlation, as every framework has it)."""

from typing import Any

import numpy as np

from nnkit._ext import kernels, memory
from nnkit.errors import UsageError, did_you_mean
from nnkit.functional import _arrays
from nnkit.functional._arrays import Pair
from nnkit.functional.pool import max_pool2d_backward

_ALGORITHMS = ("auto", "direct", "winograd2", "winograd4")
_algorithm = "auto"


def set_conv_algorithm(name: str) -> None:
    """Choose how convolutions are computed from now on, where a call or a layer does not say so itself.

    Parameters
    ----------
    name : {"auto", "direct", "winograd2", "winograd4"}
        "direct" multiplies every pixel with every weight. "winograd2" and "winograd4" do 3×3 kernels with stride 1 by
        Winograd's minimal filtering, with 2.25 and 4 times fewer multiplications. With up to four input channels,
        stride 1 and kernels 3, 5 or 7 wide, such as 7×7, "winograd4" on the way forward filters along rows only, with 2
        to 2.8 times fewer. Other convolutions stay direct. "winograd2" is as accurate as "direct"; the rounding errors
        of "winograd4" are some five times as large (1e-5 of the largest output, in float32; along rows, 3e-6). "auto",
        the default, takes what should be fastest for each shape.

    Raises
    ------
    UsageError
        If there is no such algorithm.
    """
    global _algorithm
    _algorithm = check_algorithm("set_conv_algorithm", name)


def get_conv_algorithm() -> str:
    """Return what `set_conv_algorithm` was last given.

    Returns
    -------
    str
    """
    return _algorithm


def check_algorithm(where: str, name: str) -> str:
    """Return the name of an algorithm for convolution.

    Parameters
    ----------
    where : str
        Who asks, for the message.
    name : str

    Returns
    -------
    str

    Raises
    ------
    UsageError
        If there is no such algorithm.
    """
    if name not in _ALGORITHMS:
        raise UsageError(f"{where}: unknown convolution algorithm {name!r}{did_you_mean(name, _ALGORITHMS)}")
    return name


def conv2d_forward(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    algorithm: str | None = None,
    relu: bool = False,
    pool: int = 1,
    training: bool = True,
    statistics: np.ndarray | None = None,
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
    algorithm : {"auto", "direct", "winograd2", "winograd4"}, optional
        For this call and its backward pass; what `set_conv_algorithm` says, if left out.
    relu : bool, default False
        Rectify the output in the same pass.
    pool : int, default 1
        Take the maximum of each window of pool × pool outputs, side by side: the same numbers as `max_pool2d_forward`
        behind it. Where the algorithm has a window's outputs at hand together, they are not stored at all.
    training : bool, default True
        Whether there will be a way back, for which the maxima's places are noted; without it, the cache of a pooled
        convolution is of no use.
    statistics : ndarray of shape (2, O), optional
        Overwritten with the mean and the biased variance of each channel of the output, for `batch_norm_forward`. Most
        kernels sum them up while the outputs are in the registers or a cache. Where there is no output, it stays as it
        is.

    Returns
    -------
    out : ndarray of shape (N, O, OH // pool, OW // pool)
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
    algorithm = _algorithm if algorithm is None else check_algorithm("conv2d", algorithm)
    if weight.ndim != 4 or 0 in weight.shape:
        raise ValueError(f"conv2d: expected weight of shape (O, I, KH, KW), got {weight.shape}")
    nhwc = _arrays.channels_last("conv2d", x)
    if nhwc.shape[3] != weight.shape[1]:
        raise ValueError(f"conv2d: expected x with {weight.shape[1]} channels, got {nhwc.shape[3]}")
    if bias is not None:
        _arrays.check_shape("conv2d", "bias", bias, weight.shape[:1])
        bias = np.ascontiguousarray(bias)
    if not 1 <= pool <= 16:
        raise UsageError(f"conv2d: expected pool from 1 to 16, got {pool!r}")
    weight = np.ascontiguousarray(weight)
    size = _arrays.window_output("conv2d", nhwc.shape[1:3], weight.shape[2:], stride, padding)
    shape, options, pooling = (nhwc.shape[0], *size, weight.shape[0]), (stride, padding, algorithm), None
    if statistics is not None:
        _arrays.destination("conv2d", "statistics", statistics, (2, shape[3]), nhwc.dtype)
    if pool == 1:
        out = memory.empty(shape, nhwc.dtype)
        kernels.conv2d_forward(nhwc, weight, bias, out, *options, relu=relu, statistics=statistics)
    else:
        out, pooling = _pooled_forward(nhwc, weight, bias, shape, options, relu, pool, training, statistics)
    rectified = out if relu and pool == 1 else None
    return _arrays.channels_first(out), (nhwc, weight, bias is not None, options, shape, rectified, pooling)


def _pooled_forward(
    nhwc: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    shape: tuple[int, ...],
    options: tuple[Pair, Pair, str],
    relu: bool,
    pool: int,
    training: bool,
    statistics: np.ndarray | None,
) -> tuple[np.ndarray, Any]:
    """Convolve and pool by one kernel or, where there is none for these arrays, by two; return the pooling's cache."""
    window, padding = (pool, pool), (0, 0)
    n, height, width, channels = shape
    size = _arrays.window_output("conv2d", (height, width), window, window, padding)
    out = memory.empty((n, *size, channels), nhwc.dtype)
    codes = memory.empty(out.shape, np.uint8) if training else None
    stride, pad, algorithm = options
    extra = {"relu": relu, "statistics": statistics}
    if not kernels.conv2d_pool_forward(nhwc, weight, bias, out, codes, stride, pad, pool, algorithm, **extra):
        maps = memory.empty(shape, nhwc.dtype)
        kernels.conv2d_forward(nhwc, weight, bias, maps, *options)
        kernels.max_pool2d_forward(maps, out, codes, window, window, padding, relu)
        if statistics is not None and out.size:
            kernels.batch_norm_statistics(out.reshape(-1, channels), *statistics)
    return out, (codes, shape, nhwc.dtype, window, window, padding, out if relu else None)


def conv2d_backward(
    dout: np.ndarray, cache: Any, dweight: np.ndarray | None = None, dbias: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the gradients of `conv2d_forward`.

    Parameters
    ----------
    dout : ndarray like the output
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
    gradient = _gradient(dout, cache)
    dweight, dbias = _backward_params(gradient, cache, dweight, dbias)
    return _backward_input(gradient, cache), dweight, dbias


def conv2d_backward_input(dout: np.ndarray, cache: Any) -> np.ndarray:
    """Return only the input's gradient, all that is wanted where the parameters are frozen; see `conv2d_backward`.

    Parameters
    ----------
    dout : ndarray like the output
    cache : from `conv2d_forward`

    Returns
    -------
    ndarray of shape (N, I, H, W)
    """
    return _backward_input(_gradient(dout, cache), cache)


def conv2d_backward_params(
    dout: np.ndarray, cache: Any, dweight: np.ndarray | None = None, dbias: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return only the parameters' gradients, as a network's first layer needs them; see `conv2d_backward`.

    Parameters
    ----------
    dout : ndarray like the output
    cache : from `conv2d_forward`
    dweight, dbias : ndarray, optional

    Returns
    -------
    dweight : ndarray of shape (O, I, KH, KW)
    dbias : ndarray of shape (O,), or None if there was no bias
    """
    return _backward_params(_gradient(dout, cache), cache, dweight, dbias)


def _backward_input(gradient: np.ndarray, cache: Any) -> np.ndarray:
    nhwc, weight, _, options, *_ = cache
    dx = memory.empty(nhwc.shape, nhwc.dtype)
    kernels.conv2d_backward_input(gradient, weight, dx, *options)
    return _arrays.channels_first(dx)


def _backward_params(
    gradient: np.ndarray, cache: Any, dweight: np.ndarray | None, dbias: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    nhwc, weight, with_bias, options, *_ = cache
    dweight = _arrays.destination("conv2d", "dweight", dweight, weight.shape, nhwc.dtype)
    dbias = _arrays.destination("conv2d", "dbias", dbias, weight.shape[:1], nhwc.dtype) if with_bias else None
    kernels.conv2d_backward_weight(nhwc, gradient, dweight, dbias, *options)
    return dweight, dbias


def _gradient(dout: np.ndarray, cache: Any) -> np.ndarray:
    """Return dout, checked, in channels-last storage and taken back through pooling and ReLU."""
    nhwc, *_, (n, height, width, channels), rectified, pooling = cache
    if pooling is not None:
        dout = max_pool2d_backward(dout, pooling)
    gradient = _arrays.upstream("conv2d", dout, (n, channels, height, width), nhwc.dtype)
    return _arrays.before_relu(_arrays.channels_last("conv2d", gradient), rectified)
