"""The fully connected layer: `out = x @ weight.T + bias`."""

from typing import Any

import numpy as np

from nnkit._ext import kernels, memory
from nnkit.functional import _arrays


def linear_forward(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, *, relu: bool = False
) -> tuple[np.ndarray, Any]:
    """Map features linearly: `out = x @ weight.T + bias`.

    Parameters
    ----------
    x : ndarray of shape (N, I)
    weight : ndarray of shape (O, I)
    bias : ndarray of shape (O,), optional
    relu : bool, default False
        Rectify the output in the same pass.

    Returns
    -------
    out : ndarray of shape (N, O)
    cache : what `linear_backward` needs

    Raises
    ------
    ValueError
        If the shapes do not fit each other.
    TypeError
        If an array does not hold real numbers.

    Examples
    --------
    >>> out, cache = linear_forward([[1.0, 2.0]], [[3.0, 4.0], [0.0, 1.0]], [0.0, 10.0])
    >>> out
    array([[11., 12.]])
    """
    x, weight, bias = _arrays.floats("linear", x, weight, bias)
    if weight.ndim != 2:
        raise ValueError(f"linear: expected weight of shape (O, I), got {weight.shape}")
    if x.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"linear: expected x of shape (N, {weight.shape[1]}), got {x.shape}")
    if bias is not None:
        _arrays.check_shape("linear", "bias", bias, weight.shape[:1])
        bias = np.ascontiguousarray(bias)
    x, weight = np.ascontiguousarray(x), np.ascontiguousarray(weight)
    out = memory.empty((x.shape[0], weight.shape[0]), x.dtype)
    kernels.gemm(x, weight.T, out, bias, relu=relu)
    return out, (x, weight, bias is not None, out if relu else None)


def linear_backward(
    dout: np.ndarray, cache: Any, dweight: np.ndarray | None = None, dbias: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the gradients of `linear_forward`: `dx = dout @ weight`, `dweight = dout.T @ x`, `dbias = sum of dout`.

    Parameters
    ----------
    dout : ndarray of shape (N, O)
    cache : from `linear_forward`
    dweight, dbias : ndarray, optional
        Where to write these gradients; new arrays where left out.

    Returns
    -------
    dx : ndarray of shape (N, I)
    dweight : ndarray of shape (O, I)
    dbias : ndarray of shape (O,), or None if there was no bias

    Raises
    ------
    ValueError
        If `dout` or a destination has another shape.

    Notes
    -----
    Where many numbers of `dout` are zero, products with them are left out, `0 * inf` and `0 * nan` among them.
    """
    gradient = _gradient(dout, cache)
    dweight, dbias = _backward_params(gradient, cache, dweight, dbias)
    return _backward_input(gradient, cache), dweight, dbias


def linear_backward_input(dout: np.ndarray, cache: Any) -> np.ndarray:
    """Return only the input's gradient, all that is wanted where the parameters are frozen; see `linear_backward`.

    Parameters
    ----------
    dout : ndarray of shape (N, O)
    cache : from `linear_forward`

    Returns
    -------
    ndarray of shape (N, I)
    """
    return _backward_input(_gradient(dout, cache), cache)


def linear_backward_params(
    dout: np.ndarray, cache: Any, dweight: np.ndarray | None = None, dbias: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return only the parameters' gradients, as a network's first layer needs them; see `linear_backward`.

    Parameters
    ----------
    dout : ndarray of shape (N, O)
    cache : from `linear_forward`
    dweight, dbias : ndarray, optional

    Returns
    -------
    dweight : ndarray of shape (O, I)
    dbias : ndarray of shape (O,), or None if there was no bias
    """
    return _backward_params(_gradient(dout, cache), cache, dweight, dbias)


def _backward_input(gradient: np.ndarray, cache: Any) -> np.ndarray:
    x, weight, *_ = cache
    dx = memory.empty(x.shape, x.dtype)
    kernels.gemm(gradient, weight, dx)
    return dx


def _backward_params(
    gradient: np.ndarray, cache: Any, dweight: np.ndarray | None, dbias: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    x, weight, with_bias, _ = cache
    dweight = _arrays.destination("linear", "dweight", dweight, weight.shape, x.dtype)
    kernels.gemm(gradient.T, x, dweight)
    if not with_bias:
        return dweight, None
    dbias = _arrays.destination("linear", "dbias", dbias, weight.shape[:1], x.dtype)
    kernels.column_sums(gradient, dbias)
    return dweight, dbias


def _gradient(dout: np.ndarray, cache: Any) -> np.ndarray:
    """Return dout, checked, contiguous and taken back through the ReLU."""
    x, weight, _, rectified = cache
    gradient = np.ascontiguousarray(_arrays.upstream("linear", dout, (x.shape[0], weight.shape[0]), x.dtype))
    return _arrays.before_relu(gradient, rectified)
