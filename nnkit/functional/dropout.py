"""Dropout: random zeros in training, nothing otherwise."""

from typing import Any

import numpy as np

from nnkit._ext import memory
from nnkit.functional import _arrays


def dropout_forward(
    x: np.ndarray, p: float, *, training: bool, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, Any]:
    """Set each element to zero with probability p in training, and scale the others by `1 / (1 - p)`.

    The scaling keeps the expected value, so that nothing is left to do in evaluation, when `out` is `x` itself.

    Srivastava et al., 2014: Dropout: A Simple Way to Prevent Neural Networks from Overfitting.

    Parameters
    ----------
    x : ndarray of any shape
    p : float in [0, 1]
        The probability of dropping an element.
    training : bool
    rng : numpy.random.Generator
        Needed in training only.

    Returns
    -------
    out : ndarray like x, in the same memory layout
    cache : what `dropout_backward` needs

    Raises
    ------
    ValueError
        If p is no probability, or there is no generator in training.

    Examples
    --------
    >>> import numpy as np
    >>> out, cache = dropout_forward(np.ones(1000), 0.2, training=True, rng=np.random.default_rng(0))
    >>> np.unique(out).tolist()
    [0.0, 1.25]
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: expected p between 0 and 1, got {p}")
    (x,) = _arrays.floats("dropout", x)
    if not training or p == 0:
        return x, None
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"dropout: expected rng, a numpy.random.Generator, in training, got {rng!r}")
    layout = _arrays.layout(x)
    draws = memory.empty(x.size, np.float32)
    rng.random(dtype=np.float32, out=draws)
    keep = np.greater_equal(draws, np.float32(p), out=memory.empty(x.size, np.bool_))
    scale = x.dtype.type(0 if p == 1 else 1 / (1 - p))
    out = _masked(_arrays.flat(x, layout), keep, scale)
    return _arrays.shaped(out, layout), (keep, scale, layout)


def dropout_backward(dout: np.ndarray, cache: Any) -> np.ndarray:
    """Drop and scale the gradient as the forward pass did its input.

    Parameters
    ----------
    dout : ndarray like the output
    cache : from `dropout_forward`

    Returns
    -------
    dx : ndarray like x

    Raises
    ------
    ValueError
        If `dout` has another shape than the output.
    """
    if cache is None:
        return np.asarray(dout)
    keep, scale, layout = cache
    gradient = _arrays.upstream("dropout", dout, layout[0], scale.dtype)
    return _arrays.shaped(_masked(_arrays.flat(gradient, layout), keep, scale), layout)


def _masked(elements: np.ndarray, keep: np.ndarray, scale: Any) -> np.ndarray:
    out = np.multiply(elements, keep, out=memory.empty(elements.size, elements.dtype))
    out *= scale
    return out
