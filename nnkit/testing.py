"""Numerical gradients, to check a backward pass against: the first thing to do with a layer of your own."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nnkit.layers import Dropout, Layer


def numerical_gradient(f: Callable[[np.ndarray], float], x: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    """Differentiate by central differences, element by element: `(f(x + eps) - f(x - eps)) / (2 * eps)`.

    Parameters
    ----------
    f : callable
        Takes x and returns a number.
    x : ndarray of float64
        Changed in place for each call of f, and restored.
    eps : float, default 1e-6

    Returns
    -------
    ndarray like x

    Raises
    ------
    TypeError
        If x is not float64: float32 is too coarse for differences.

    Examples
    --------
    >>> import numpy as np
    >>> numerical_gradient(lambda x: float((x**3).sum()), np.array([1.0, 2.0])).round(4)
    array([ 3., 12.])
    """
    _require_double("x", x)
    gradient = np.empty(x.shape)
    for index in np.ndindex(x.shape):
        gradient[index] = _slope(f, x, index, eps)
    return gradient


def check_gradients(
    layer: Layer,
    x: ArrayLike,
    *,
    eps: float = 1e-6,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    max_elements: int = 20,
    seed: int = 0,
) -> float:
    """Compare a layer's or model's `backward` with numerical gradients, for its input and each of its parameters.

    The loss is the output's inner product with random numbers. Each gradient is checked along a random direction,
    which sees every element at once, and then element by element, which tells where it is wrong. Batch norm uses the
    batch's statistics; dropout drops the same elements in every pass.

    Parameters
    ----------
    layer : Layer
        Built in float64, or not yet built.
    x : ndarray of shape (N, ...)
        Away from kinks, such as ReLU's at 0.
    eps : float, default 1e-6
        The step of the differences.
    rtol, atol : float, default 1e-5 and 1e-7
        A gradient is right if `|backward - numerical| <= atol + rtol * |numerical|`; along a direction, where
        rounding adds up, ten times this.
    max_elements : int, default 20
        How many elements of each array are checked one by one; if it has more, random ones.
    seed : int, default 0

    Returns
    -------
    float
        The largest difference, in units of what was allowed for it: below 1.

    Raises
    ------
    AssertionError
        If a gradient is wrong; its array and element are named.
    TypeError
        If the layer is built in float32.

    Examples
    --------
    >>> import numpy as np
    >>> from nnkit.layers import Linear
    >>> check_gradients(Linear(3), np.random.default_rng(0).normal(size=(4, 5))) < 1
    True
    """
    x = np.array(x, np.float64)
    if layer.input_shape is None:
        layer.build(x.shape[1:], seed, np.float64)
    if layer.dtype != np.float64:
        raise TypeError(f"{layer.label}: expected a layer built in float64, got {layer.dtype}")
    leaves = layer.leaves()
    droppers = [(leaf, leaf.rng.bit_generator.state) for leaf in leaves if isinstance(leaf, Dropout)]
    buffers = [(array, array.copy()) for leaf in leaves for array in leaf.buffers.values()]

    def run() -> np.ndarray:
        for leaf, state in droppers:
            leaf.rng.bit_generator.state = state
        out = layer.forward(x, training=True)
        for array, before in buffers:
            array[...] = before
        return out

    out = run()
    dout = np.random.default_rng(seed).normal(size=out.shape)
    dx = layer.backward(dout)
    arrays = {"x": (x, dx)}
    for leaf in leaves:
        for key, array in leaf.params.items() if leaf.trainable else ():
            arrays[f"{leaf.name}.{key}" if leaf.name else key] = (array, leaf.grads[key].copy())

    def loss(_: np.ndarray) -> float:
        result = float((run() * dout).sum())
        for leaf in leaves:
            leaf.forget()
        return result

    return _compare(layer.label, loss, arrays, eps, rtol, atol, max_elements, seed)


def check_function_gradients(
    forward: Callable[..., tuple[Any, Any]],
    backward: Callable[[Any, Any], Any],
    *inputs: ArrayLike,
    eps: float = 1e-6,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    max_elements: int = 20,
    seed: int = 0,
) -> float:
    """Compare a pair of functions, forward and backward, with numerical gradients for each of the inputs.

    Parameters
    ----------
    forward : callable
        Takes the inputs and returns (out, cache); out is an array or a number.
    backward : callable
        Takes dout and the cache and returns the gradients of the inputs: a tuple, or one array.
    *inputs : ndarray
    eps, rtol, atol, max_elements, seed
        As for `check_gradients`.

    Returns
    -------
    float
        The largest difference, in units of what was allowed for it: below 1.

    Raises
    ------
    AssertionError
        If a gradient is wrong, its input's number and element named, or there are not as many as inputs.

    Examples
    --------
    >>> check_function_gradients(lambda x: (x**2, x), lambda dout, x: 2 * x * dout, [1.0, 2.0]) < 1
    True
    """
    arrays = [np.array(array, np.float64) for array in inputs]
    out, cache = forward(*arrays)
    dout = np.random.default_rng(seed).normal(size=np.shape(out))
    gradients = backward(dout if np.ndim(out) else float(dout), cache)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    if len(gradients) != len(arrays):
        raise AssertionError(f"backward: expected {len(arrays)} gradients, one for each input, got {len(gradients)}")
    named = {f"input {i}": pair for i, pair in enumerate(zip(arrays, gradients, strict=True))}

    def loss(_: np.ndarray) -> float:
        return float((forward(*arrays)[0] * dout).sum())

    label = getattr(forward, "__name__", "function")
    return _compare(label, loss, named, eps, rtol, atol, max_elements, seed)


def _compare(
    label: str,
    loss: Callable[[np.ndarray], float],
    arrays: dict[str, tuple[np.ndarray, np.ndarray]],
    eps: float,
    rtol: float,
    atol: float,
    max_elements: int,
    seed: int,
) -> float:
    """Check each array's gradient along a random direction and then element by element."""
    rng = np.random.default_rng(seed + 1)
    worst = 0.0

    def check(where: str, analytic: float, numerical: float, allowance: float) -> None:
        nonlocal worst
        difference = abs(analytic - numerical) / (allowance * (atol + rtol * abs(numerical)))
        worst = max(worst, difference)
        if not difference <= 1:
            raise AssertionError(f"{label}: the gradient of {where} is {analytic:.8g}, numerically {numerical:.8g}")

    for name, (array, gradient) in arrays.items():
        if np.shape(gradient) != array.shape:
            raise AssertionError(f"{label}: the gradient of {name} has shape {np.shape(gradient)}, not {array.shape}")
        chosen = rng.permutation(array.size)[:max_elements]
        for index in zip(*np.unravel_index(chosen, array.shape), strict=True):
            place = ", ".join(str(int(i)) for i in index)
            check(f"{name}[{place}]", float(gradient[index]), _slope(loss, array, index, eps), 1)
        direction = rng.normal(size=array.shape)
        direction /= max(float(np.linalg.norm(direction)), 1e-300)
        along = float((gradient * direction).sum())
        check(f"{name} along a random direction", along, _slope(loss, array, ..., eps, direction), 10)
    return worst


def _slope(
    f: Callable[[np.ndarray], float], x: np.ndarray, index: Any, eps: float, direction: np.ndarray | float = 1.0
) -> float:
    """Move x by eps both ways at an index (or, with an ellipsis, along a direction), and restore it."""
    before = x[index].copy() if index is ... else x[index]
    x[index] = before + eps * direction
    above = f(x)
    x[index] = before - eps * direction
    below = f(x)
    x[index] = before
    return (above - below) / (2 * eps)


def _require_double(name: str, x: Any) -> None:
    if not isinstance(x, np.ndarray) or x.dtype != np.float64:
        raise TypeError(f"numerical gradient: expected {name} to be an array of float64, got {getattr(x, 'dtype', x)}")
