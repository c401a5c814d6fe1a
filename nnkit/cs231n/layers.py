"""Layers as pairs of functions: affine, ReLU, dropout, two losses; and all of `norm_layers` and `naive_layers`.

`f_forward(...)` returns `(out, cache)`, and `f_backward(dout, cache)` the gradients of the loss with respect to what
went in, when `dout` is its gradient with respect to `out`.
"""

import math
from typing import Any

import numpy as np

from nnkit import functional
from nnkit._ext import kernels, memory
from nnkit.cs231n import editions
from nnkit.cs231n.arrays import as_floats
from nnkit.cs231n.naive_layers import *  # noqa: F403
from nnkit.cs231n.norm_layers import *  # noqa: F403


def affine_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, Any]:
    """Map features linearly: `out = rows @ w + b`, where each example is flattened to one row.

    `nnkit.functional.linear_forward` is the same with the transposed weight, as PyTorch has it.

    Parameters
    ----------
    x : ndarray of shape (N, d_1, ..., d_k)
    w : ndarray of shape (D, M)
        With `D = d_1 * ... * d_k`.
    b : ndarray of shape (M,)

    Returns
    -------
    out : ndarray of shape (N, M)
    cache : what `affine_backward` needs

    Raises
    ------
    ValueError
        If the shapes do not fit each other.

    Examples
    --------
    >>> import numpy as np
    >>> affine_forward(np.ones((2, 3, 4)), np.ones((12, 1)), np.array([0.5]))[0]
    array([[12.5],
           [12.5]])
    """
    x, w, b = as_floats(x, w, b)
    features = math.prod(x.shape[1:])
    if x.ndim < 2 or w.ndim != 2 or w.shape[0] != features or b.shape != w.shape[1:]:
        shapes = f"x {x.shape}, w {w.shape}, b {b.shape}"
        raise ValueError(f"affine: expected x (N, d_1, ..., d_k), w (d_1 * ... * d_k, M) and b (M,), got {shapes}")
    rows = _matrix(x.reshape(x.shape[0], features))
    w = _matrix(w)
    out = memory.empty((rows.shape[0], w.shape[1]), x.dtype)
    kernels.gemm(rows, w, out, np.ascontiguousarray(b))
    return out, (rows, w, x.shape)


def affine_backward(dout: np.ndarray, cache: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of `affine_forward`.

    An element `rows[n, d]` goes into each `out[n, m]` with the factor `w[d, m]`, hence `drows = dout @ w.T`; `w[d, m]`
    goes into `out[n, m]` of every example with the factor `rows[n, d]`, hence `dw = rows.T @ dout`; and b into all of
    them as it is, hence `db = sum over n of dout`. A quick check of such products: only one order of them has the right
    shape.

    Parameters
    ----------
    dout : ndarray of shape (N, M)
    cache : from `affine_forward`

    Returns
    -------
    dx : ndarray of shape (N, d_1, ..., d_k)
    dw : ndarray of shape (D, M)
    db : ndarray of shape (M,)
    """
    rows, w, shape = cache
    dout = _matrix(np.asarray(dout, rows.dtype))
    drows, dw = memory.empty(rows.shape, rows.dtype), memory.empty(w.shape, rows.dtype)
    kernels.gemm(dout, w.T, drows)
    kernels.gemm(rows.T, dout, dw)
    return drows.reshape(shape), dw, dout.sum(axis=0)


def relu_forward(x: np.ndarray) -> tuple[np.ndarray, Any]:
    """Rectify: `out = max(x, 0)`; `nnkit.functional.relu_forward`.

    Parameters
    ----------
    x : ndarray of any shape

    Returns
    -------
    out : ndarray like x
    cache : what `relu_backward` needs

    Examples
    --------
    >>> relu_forward([[-1.0, 2.0]])[0]
    array([[0., 2.]])
    """
    return functional.relu_forward(*as_floats(x))


def relu_backward(dout: np.ndarray, cache: Any) -> np.ndarray:
    """Pass the gradient where the input was positive, and stop it elsewhere.

    Parameters
    ----------
    dout : ndarray like the output
    cache : from `relu_forward`

    Returns
    -------
    dx : ndarray like x
    """
    return functional.relu_backward(dout, cache)


def svm_loss(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Multiclass hinge loss: `mean over n of sum over c != y[n] of max(0, 1 - x[n, y[n]] + x[n, c])`.

    `nnkit.functional.multi_margin_forward`, as PyTorch, divides this by the number of classes. Each violated margin
    adds `1 / N` to the gradient of its class, and takes it from that of the true class.

    Parameters
    ----------
    x : ndarray of shape (N, C)
        Scores.
    y : ndarray of shape (N,)
        Labels from 0 to C - 1.

    Returns
    -------
    loss : float
    dx : ndarray of shape (N, C)

    Raises
    ------
    ValueError
        If shapes do not fit, or a label is out of range.

    Examples
    --------
    >>> svm_loss([[2.0, 1.5, -3.0]], [0])[0]
    0.5
    """
    (x,) = as_floats(x)
    loss, cache = functional.multi_margin_forward(x, y)
    classes = x.shape[1]
    return loss * classes, functional.multi_margin_backward(classes, cache)


def softmax_loss(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Cross-entropy of the softmax: `mean over n of -log(exp(x[n, y[n]]) / sum over c of exp(x[n, c]))`.

    The gradient is `(softmax(x) - onehot(y)) / N`. The scores' maximum is subtracted first, which changes nothing but
    keeps `exp` from overflowing. This is `nnkit.functional.cross_entropy_forward` with its backward pass.

    Parameters
    ----------
    x : ndarray of shape (N, C)
        Scores.
    y : ndarray of shape (N,)
        Labels from 0 to C - 1.

    Returns
    -------
    loss : float
    dx : ndarray of shape (N, C)

    Raises
    ------
    ValueError
        If shapes do not fit, or a label is out of range.

    Examples
    --------
    >>> round(softmax_loss([[0.0, 0.0], [1e6, 0.0]], [1, 0])[0], 4)
    0.3466
    """
    (x,) = as_floats(x)
    loss, cache = functional.cross_entropy_forward(x, y)
    return loss, functional.cross_entropy_backward(1.0, cache)


def dropout_forward(x: np.ndarray, dropout_param: dict[str, Any]) -> tuple[np.ndarray, Any]:
    """Keep each element with probability p in training, scaled by `1 / p`; change nothing in a test.

    The draws are one `np.random.rand(*x.shape)`, of which those below p keep their element. (In the edition of 2017, p
    is the probability of dropping.) The scaling keeps the expected value, so that a test needs none.

    Srivastava et al., 2014: Dropout: A Simple Way to Prevent Neural Networks from Overfitting.

    Parameters
    ----------
    x : ndarray of any shape
    dropout_param : dict
        `mode`: "train" or "test"; `p`: the probability; `seed`, optional: given to `np.random.seed` before the draws,
        for numerical gradients.

    Returns
    -------
    out : ndarray like x, of the same type
    cache : what `dropout_backward` needs

    Raises
    ------
    ValueError
        If the mode is unknown, or p keeps nothing or is no probability.

    Examples
    --------
    >>> import numpy as np
    >>> out, cache = dropout_forward(np.ones(1000), {"mode": "train", "p": 0.8, "seed": 0})
    >>> np.unique(out).tolist()
    [0.0, 1.25]
    """
    mode, p = dropout_param["mode"], dropout_param["p"]
    if "seed" in dropout_param:
        np.random.seed(dropout_param["seed"])
    (x,) = as_floats(x)
    if mode == "test":
        return x, None
    if mode != "train":
        raise ValueError(f"dropout: expected mode 'train' or 'test', got {mode!r}")
    keep_ratio = 1 - p if editions.is_first_edition() else p
    if not 0 < keep_ratio <= 1:
        raise ValueError(f"dropout: expected a p that keeps some elements, got {p}")
    draws = np.random.rand(*x.shape)
    keep = draws >= p if editions.is_first_edition() else draws < p
    mask = keep / x.dtype.type(keep_ratio)
    return x * mask, mask


def dropout_backward(dout: np.ndarray, cache: Any) -> np.ndarray:
    """Drop and scale the gradient as the forward pass did its input.

    Parameters
    ----------
    dout : ndarray like the output
    cache : from `dropout_forward`

    Returns
    -------
    dx : ndarray like x
    """
    return dout if cache is None else dout * cache


def _matrix(a: np.ndarray) -> np.ndarray:
    """Return a matrix that is contiguous along one of its axes, as the product wants it."""
    return a if a.flags.c_contiguous or a.flags.f_contiguous else np.ascontiguousarray(a)
