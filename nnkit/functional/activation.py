"""Activation functions, element by element in whatever order the elements lie in memory; and softmax."""

from typing import Any

import numpy as np

from nnkit._ext import kernels, memory
from nnkit.functional import _arrays


def relu_forward(x: np.ndarray) -> tuple[np.ndarray, Any]:
    """Rectify: `out = max(x, 0)`.

    Parameters
    ----------
    x : ndarray of any shape

    Returns
    -------
    out : ndarray like x, in the same memory layout
    cache : what `relu_backward` needs

    Examples
    --------
    >>> relu_forward([-1.0, 2.0])[0]
    array([0., 2.])
    """
    elements, layout = _elements("relu", x)
    out = memory.empty(elements.size, elements.dtype)
    kernels.relu_forward(elements, out)
    return _arrays.shaped(out, layout), (out, layout)


def relu_backward(dout: np.ndarray, cache: Any) -> np.ndarray:
    """Pass the gradient where the output is positive.

    Parameters
    ----------
    dout : ndarray like the output
    cache : from `relu_forward`

    Returns
    -------
    dx : ndarray like x
    """
    out, layout = cache
    dx = memory.empty(out.size, out.dtype)
    kernels.relu_backward(_gradient("relu", dout, out, layout), out, dx)
    return _arrays.shaped(dx, layout)


def leaky_relu_forward(x: np.ndarray, negative_slope: float = 0.01) -> tuple[np.ndarray, Any]:
    """Rectify, but leak a little: `out = x if x > 0 else negative_slope * x`.

    Maas, Hannun and Ng, 2013: Rectifier Nonlinearities Improve Neural Network Acoustic Models.

    Parameters
    ----------
    x : ndarray of any shape
    negative_slope : float, default 0.01

    Returns
    -------
    out : ndarray like x, in the same memory layout
    cache : what `leaky_relu_backward` needs

    Examples
    --------
    >>> leaky_relu_forward([-1.0, 2.0])[0]
    array([-0.01,  2.  ])
    """
    elements, layout = _elements("leaky_relu", x)
    out = np.multiply(elements, elements.dtype.type(negative_slope), out=memory.empty(elements.size, elements.dtype))
    np.copyto(out, elements, where=elements > 0)
    return _arrays.shaped(out, layout), (elements, layout, negative_slope)


def leaky_relu_backward(dout: np.ndarray, cache: Any) -> np.ndarray:
    """Scale the gradient by `negative_slope` where the input was not positive.

    Parameters
    ----------
    dout : ndarray like the output
    cache : from `leaky_relu_forward`

    Returns
    -------
    dx : ndarray like x
    """
    x, layout, negative_slope = cache
    gradient = _gradient("leaky_relu", dout, x, layout)
    dx = np.multiply(gradient, x.dtype.type(negative_slope), out=memory.empty(x.size, x.dtype))
    np.copyto(dx, gradient, where=x > 0)
    return _arrays.shaped(dx, layout)


def gelu_forward(x: np.ndarray, approximate: str = "none") -> tuple[np.ndarray, Any]:
    """Weigh each value by the normal distribution: `out = x * Phi(x)`.

    With `approximate="tanh"`, `Phi(x) = (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2`.

    Hendrycks and Gimpel, 2016: Gaussian Error Linear Units (GELUs).

    Parameters
    ----------
    x : ndarray of any shape
    approximate : "none" or "tanh", default "none"

    Returns
    -------
    out : ndarray like x, in the same memory layout
    cache : what `gelu_backward` needs

    Raises
    ------
    ValueError
        If `approximate` is something else.

    Examples
    --------
    >>> gelu_forward([-1.0, 0.0, 1.0])[0].round(4)
    array([-0.1587,  0.    ,  0.8413])
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: expected approximate to be 'none' or 'tanh', got {approximate!r}")
    elements, layout = _elements("gelu", x)
    out = memory.empty(elements.size, elements.dtype)
    kernels.gelu_forward(elements, out, approximate == "tanh")
    return _arrays.shaped(out, layout), (elements, layout, approximate == "tanh")


def gelu_backward(dout: np.ndarray, cache: Any) -> np.ndarray:
    """Multiply by the derivative `Phi(x) + x * Phi'(x)`.

    Parameters
    ----------
    dout : ndarray like the output
    cache : from `gelu_forward`

    Returns
    -------
    dx : ndarray like x
    """
    x, layout, tanh = cache
    dx = memory.empty(x.size, x.dtype)
    kernels.gelu_backward(_gradient("gelu", dout, x, layout), x, dx, tanh)
    return _arrays.shaped(dx, layout)


def silu_forward(x: np.ndarray) -> tuple[np.ndarray, Any]:
    """Weigh each value by its own sigmoid: `out = x / (1 + exp(-x))`.

    Elfwing, Uchibe and Doya, 2017: Sigmoid-Weighted Linear Units for Neural Network Function Approximation in
    Reinforcement Learning.

    Parameters
    ----------
    x : ndarray of any shape

    Returns
    -------
    out : ndarray like x, in the same memory layout
    cache : what `silu_backward` needs

    Examples
    --------
    >>> silu_forward([-1.0, 0.0, 1.0])[0].round(4)
    array([-0.2689,  0.    ,  0.7311])
    """
    elements, layout = _elements("silu", x)
    out = memory.empty(elements.size, elements.dtype)
    kernels.silu_forward(elements, out)
    return _arrays.shaped(out, layout), (elements, layout)


def silu_backward(dout: np.ndarray, cache: Any) -> np.ndarray:
    """Multiply by the derivative `s + x * s * (1 - s)`, with the sigmoid `s`.

    Parameters
    ----------
    dout : ndarray like the output
    cache : from `silu_forward`

    Returns
    -------
    dx : ndarray like x
    """
    x, layout = cache
    dx = memory.empty(x.size, x.dtype)
    kernels.silu_backward(_gradient("silu", dout, x, layout), x, dx)
    return _arrays.shaped(dx, layout)


def sigmoid_forward(x: np.ndarray) -> tuple[np.ndarray, Any]:
    """Squash into (0, 1): `out = 1 / (1 + exp(-x))`, without overflow at either end.

    Parameters
    ----------
    x : ndarray of any shape

    Returns
    -------
    out : ndarray like x, in the same memory layout
    cache : what `sigmoid_backward` needs

    Examples
    --------
    >>> sigmoid_forward([-1000.0, 0.0, 1000.0])[0]
    array([0. , 0.5, 1. ])
    """
    elements, layout = _elements("sigmoid", x)
    out = memory.empty(elements.size, elements.dtype)
    kernels.sigmoid_forward(elements, out)
    return _arrays.shaped(out, layout), (out, layout)


def sigmoid_backward(dout: np.ndarray, cache: Any) -> np.ndarray:
    """Multiply by the derivative `out * (1 - out)`.

    Parameters
    ----------
    dout : ndarray like the output
    cache : from `sigmoid_forward`

    Returns
    -------
    dx : ndarray like x
    """
    out, layout = cache
    dx = memory.empty(out.size, out.dtype)
    kernels.sigmoid_backward(_gradient("sigmoid", dout, out, layout), out, dx)
    return _arrays.shaped(dx, layout)


def tanh_forward(x: np.ndarray) -> tuple[np.ndarray, Any]:
    """Squash into (-1, 1): `out = tanh(x)`.

    Parameters
    ----------
    x : ndarray of any shape

    Returns
    -------
    out : ndarray like x, in the same memory layout
    cache : what `tanh_backward` needs

    Examples
    --------
    >>> tanh_forward([-1000.0, 0.0, 1000.0])[0]
    array([-1.,  0.,  1.])
    """
    elements, layout = _elements("tanh", x)
    out = memory.empty(elements.size, elements.dtype)
    kernels.tanh_forward(elements, out)
    return _arrays.shaped(out, layout), (out, layout)


def tanh_backward(dout: np.ndarray, cache: Any) -> np.ndarray:
    """Multiply by the derivative `1 - out ** 2`.

    Parameters
    ----------
    dout : ndarray like the output
    cache : from `tanh_forward`

    Returns
    -------
    dx : ndarray like x
    """
    out, layout = cache
    dx = memory.empty(out.size, out.dtype)
    kernels.tanh_backward(_gradient("tanh", dout, out, layout), out, dx)
    return _arrays.shaped(dx, layout)


def add_forward(
    a: np.ndarray, b: np.ndarray, *, relu: bool = False, overwrite_a: bool = False
) -> tuple[np.ndarray, Any]:
    """Add two arrays, and rectify the sum in the same pass if wanted, as a residual block ends.

    Parameters
    ----------
    a, b : ndarray of one shape
    relu : bool, default False
    overwrite_a : bool, default False
        Whether the sum may take a's place in memory, which spares an array; b must not overlap with it in part.

    Returns
    -------
    out : ndarray like a, in the same memory layout
        `a + b`, or `max(a + b, 0)`.
    cache : what `add_backward` needs; with `relu`, what `relu_backward` needs

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> add_forward([1.0, 2.0], [3.0, -4.0], relu=True)[0]
    array([4., 0.])
    """
    a, b = _arrays.floats("add", a, b)
    _arrays.check_shape("add", "b", b, a.shape)
    layout = _arrays.layout(a)
    flat_a = _arrays.flat(a, layout)
    out = flat_a if overwrite_a and flat_a.flags.writeable else memory.empty(a.size, a.dtype)
    kernels.add(flat_a, _arrays.flat(b, layout), out, relu)
    return _arrays.shaped(out, layout), (out, layout) if relu else None


def add_backward(dout: np.ndarray, cache: Any) -> np.ndarray:
    """Return the gradient of `add_forward` with respect to a, which is that with respect to b.

    Parameters
    ----------
    dout : ndarray like the output
    cache : from `add_forward`

    Returns
    -------
    ndarray like a
    """
    return dout if cache is None else relu_backward(dout, cache)


def softmax_forward(x: np.ndarray) -> tuple[np.ndarray, Any]:
    """Turn scores into probabilities: `out = exp(x) / sum of exp(x)` over the classes, axis 1.

    Parameters
    ----------
    x : ndarray of shape (N, C, ...)

    Returns
    -------
    out : ndarray like x
        Sums to 1 along axis 1.
    cache : what `softmax_backward` needs

    Raises
    ------
    ValueError
        If `x` has no axis 1, or no classes.

    Examples
    --------
    >>> softmax_forward([[1000.0, 1000.0, -1000.0]])[0]
    array([[0.5, 0.5, 0. ]])
    """
    (x,) = _arrays.floats("softmax", x)
    if x.ndim < 2 or x.shape[1] == 0:
        raise ValueError(f"softmax: expected x of shape (N, C, ...) with classes in axis 1, got {x.shape}")
    out = np.subtract(x, x.max(axis=1, keepdims=True), out=_arrays.empty_like(x))
    np.exp(out, out=out)
    out /= out.sum(axis=1, keepdims=True)
    return out, out


def softmax_backward(dout: np.ndarray, cache: Any) -> np.ndarray:
    """Return `dx = out * (dout - sum of dout * out)`.

    Parameters
    ----------
    dout : ndarray like the output
    cache : from `softmax_forward`

    Returns
    -------
    dx : ndarray like x
    """
    gradient = _arrays.upstream("softmax", dout, cache.shape, cache.dtype)
    dx = np.multiply(gradient, cache, out=_arrays.empty_like(cache))
    np.subtract(gradient, dx.sum(axis=1, keepdims=True), out=dx)
    dx *= cache
    return dx


def _elements(where: str, x: np.ndarray) -> tuple[np.ndarray, _arrays.Layout]:
    (array,) = _arrays.floats(where, x)
    layout = _arrays.layout(array)
    return _arrays.flat(array, layout), layout


def _gradient(where: str, dout: np.ndarray, like: np.ndarray, layout: _arrays.Layout) -> np.ndarray:
    return _arrays.flat(_arrays.upstream(where, dout, layout[0], like.dtype), layout)
