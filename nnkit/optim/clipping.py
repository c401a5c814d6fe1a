"""Keeping gradients from being too long."""

import math

import numpy as np

_ROW = 8192  # elements summed in the array's own precision; sums of rows are added in float64


def gradient_norm(grads: np.ndarray) -> float:
    """Return the Euclidean length of all gradients taken as one vector.

    Parameters
    ----------
    grads : ndarray of shape (P,)

    Returns
    -------
    float

    Examples
    --------
    >>> gradient_norm(np.array([3.0, 4.0]))
    5.0
    """
    # einsum, because a dot product would wake the BLAS library's threads, which then compete with the kernels' own.
    whole = grads.size - grads.size % _ROW
    rows, rest = grads[:whole].reshape(-1, _ROW), grads[whole:]
    total = np.einsum("ij,ij->i", rows, rows).sum(dtype=np.float64) + np.einsum("i,i->", rest, rest)
    return math.sqrt(total)


def clip_grad_norm(grads: np.ndarray, max_norm: float) -> float:
    """Shorten the gradients, in place, to a length of at most `max_norm`; their direction stays.

    `g *= min(1, max_norm / (norm + 1e-6))` (Pascanu, Mikolov, Bengio 2013, "On the difficulty of training recurrent
    neural networks"). Gradients whose length is infinite or NaN are left as they are.

    Parameters
    ----------
    grads : ndarray of shape (P,)
    max_norm : float

    Returns
    -------
    float
        The length before.

    Examples
    --------
    >>> g = np.array([3.0, 4.0])
    >>> clip_grad_norm(g, max_norm=1.0)
    5.0
    >>> g.round(3)
    array([0.6, 0.8])
    """
    norm = gradient_norm(grads)
    if norm > max_norm and math.isfinite(norm):
        grads *= max_norm / (norm + 1e-6)
    return norm


def clip_grad_value(grads: np.ndarray, max_value: float) -> None:
    """Limit every element, in place, to [-max_value, max_value].

    Parameters
    ----------
    grads : ndarray of shape (P,)
    max_value : float

    Examples
    --------
    >>> g = np.array([0.5, -3.0])
    >>> clip_grad_value(g, max_value=1.0)
    >>> g
    array([ 0.5, -1. ])
    """
    np.clip(grads, -max_value, max_value, out=grads)
