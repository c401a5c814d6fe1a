"""Numerical gradients by central differences: `f'(x) = (f(x + h) - f(x - h)) / (2 h)`, exact but for terms of h².

`nnkit.testing` has the checks of nnkit's own layers.
"""

from collections.abc import Callable, Sequence
from random import randrange
from typing import Any

import numpy as np


def eval_numerical_gradient(
    f: Callable[[Any], float], x: np.ndarray, verbose: bool = True, h: float = 1e-5
) -> np.ndarray:
    """Differentiate a function with respect to each element of an array.

    Parameters
    ----------
    f : callable
        Takes x and returns a number. It may ignore its argument and look at x itself, which is changed in place.
    x : ndarray of floats
        Restored in the end.
    verbose : bool, default True
        Print each index with its slope.
    h : float, default 1e-5

    Returns
    -------
    ndarray like x

    Examples
    --------
    >>> import numpy as np
    >>> eval_numerical_gradient(lambda x: (x**3).sum(), np.array([1.0, 2.0]), verbose=False).round(6)
    array([ 3., 12.])
    """
    grad = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        above, below = _both_sides(f, x, index, h)
        grad[index] = (above - below) / (2 * h)
        if verbose:
            print(index, grad[index])
    return grad


def eval_numerical_gradient_array(
    f: Callable[[Any], np.ndarray], x: np.ndarray, df: np.ndarray, h: float = 1e-5
) -> np.ndarray:
    """Differentiate the inner product of a function's output with df, with respect to each element of an array.

    That is what a backward pass computes when df is the gradient from above.

    Parameters
    ----------
    f : callable
        Takes x and returns an array (or a number).
    x : ndarray of floats
        Changed in place and restored.
    df : ndarray like f(x)
    h : float, default 1e-5

    Returns
    -------
    ndarray like x

    Examples
    --------
    >>> import numpy as np
    >>> eval_numerical_gradient_array(lambda x: x**2, np.array([1.0, 2.0]), np.array([10.0, 1.0])).round(6)
    array([20.,  4.])
    """
    grad = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        above, below = _both_sides(f, x, index, h)
        grad[index] = np.sum((above - below) * df) / (2 * h)
    return grad


def eval_numerical_gradient_blobs(
    f: Callable[..., Any], inputs: Sequence[Any], output: Any, h: float = 1e-5
) -> list[np.ndarray]:
    """Differentiate a function that writes its result into a blob, as networks in the manner of Caffe do.

    A blob is an object with two arrays: `vals`, the values, and `diffs`, the gradient.

    Parameters
    ----------
    f : callable
        Called as `f(*inputs, output)`; writes `output.vals`.
    inputs : sequence of blobs
        Their values are changed in place and restored.
    output : blob
        Its `diffs` is the gradient from above.
    h : float, default 1e-5

    Returns
    -------
    list of ndarray
        One for each input, of the shape of its `diffs`.

    Examples
    --------
    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> a, out = (SimpleNamespace(vals=np.array([3.0]), diffs=np.ones(1)) for _ in range(2))
    >>> def square(a, out): out.vals[:] = a.vals**2
    >>> eval_numerical_gradient_blobs(square, (a,), out)[0].round(6)
    array([6.])
    """

    def run(_: Any) -> np.ndarray:
        f(*inputs, output)
        return output.vals

    gradients = []
    for blob in inputs:
        grad = np.zeros_like(blob.diffs)
        for index in np.ndindex(blob.vals.shape):
            above, below = _both_sides(run, blob.vals, index, h)
            grad[index] = np.sum((above - below) * output.diffs) / (2 * h)
        gradients.append(grad)
    return gradients


def eval_numerical_gradient_net(net: Any, inputs: Sequence[Any], output: Any, h: float = 1e-5) -> list[np.ndarray]:
    """Differentiate a network of blobs, whose method `forward` reads the inputs and writes the output.

    Parameters
    ----------
    net : object
    inputs, output, h
        As for `eval_numerical_gradient_blobs`.

    Returns
    -------
    list of ndarray
    """
    return eval_numerical_gradient_blobs(lambda *_: net.forward(), inputs, output, h=h)


def grad_check_sparse(
    f: Callable[[Any], float], x: np.ndarray, analytic_grad: np.ndarray, num_checks: int = 10, h: float = 1e-5
) -> None:
    """Print both gradients and their relative error at random elements, drawn by `random.randrange`.

    Parameters
    ----------
    f : callable
        Takes x and returns a number.
    x : ndarray of floats
        Changed in place and restored.
    analytic_grad : ndarray like x
    num_checks : int, default 10
    h : float, default 1e-5

    Examples
    --------
    >>> import numpy as np
    >>> grad_check_sparse(lambda x: (x**2).sum(), np.ones(1), np.array([2.5]), num_checks=1)
    numerical: 2.000000 analytic: 2.500000, relative error: 1.111111e-01
    """
    for _ in range(num_checks):
        index = tuple(randrange(size) for size in x.shape)
        above, below = _both_sides(f, x, index, h)
        numerical, analytic = (above - below) / (2 * h), analytic_grad[index]
        scale = abs(numerical) + abs(analytic)
        error = abs(numerical - analytic) / scale if scale else 0.0
        print(f"numerical: {numerical:f} analytic: {analytic:f}, relative error: {error:e}")


def _both_sides(f: Callable[[Any], Any], x: np.ndarray, index: tuple[int, ...], h: float) -> tuple[Any, Any]:
    """Evaluate f with one element of x moved up and down by h; x is restored."""
    before = x[index]
    x[index] = before + h
    above = np.array(f(x))  # a copy: f may write its next result into the same array
    x[index] = before - h
    below = np.array(f(x))
    x[index] = before
    return above, below
