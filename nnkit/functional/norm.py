"""Normalisation: over the batch, over each example, over groups of channels."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nnkit._ext import kernels, memory
from nnkit.functional import _arrays

_ACTIVATIONS = ("identity", "relu", "gelu", "gelu_tanh", "silu")
_ACTIVATIONS_OF_SUM = ("identity", "relu")


def batch_norm_forward(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    running_mean: np.ndarray,
    running_var: np.ndarray,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "identity",
    addend: np.ndarray | None = None,
    statistics: np.ndarray | None = None,
    sum_over_ranks: Callable[[np.ndarray], object] | None = None,
) -> tuple[np.ndarray, Any]:
    """Normalise each feature, or each channel, by its mean and variance.

    `out = (x - mean) / sqrt(var + eps) * weight + bias`, in training with the batch's own statistics, else with the
    running ones. Training moves these in place: `running = (1 - momentum) * running + momentum * batch`, with the
    unbiased variance of the batch, as PyTorch does it.

    Ioffe and Szegedy, 2015: Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
    Shift.

    Parameters
    ----------
    x : ndarray of shape (N, C) or (N, C, H, W)
    weight, bias : ndarray of shape (C,)
    running_mean, running_var : ndarray of shape (C,)
        Updated in place in training.
    training : bool
    momentum : float, default 0.1
        The weight of the new batch in the running statistics.
    eps : float, default 1e-5
    activation : "identity", "relu", "gelu", "gelu_tanh" or "silu", default "identity"
        Applied in the same pass. It costs no array of its own: the way back makes what it saw again, from x.
    addend : ndarray like x, optional
        Added before the activation, which must be "identity" or "relu" then.
    statistics : ndarray of shape (2, C), optional
        The mean and the biased variance of each channel of x, where `conv2d_forward` has made them; not looked at when
        there is no x, or not in training.
    sum_over_ranks : callable, optional
        Replaces an array by its sum over all processes that have a part of the batch. Given one, training normalises by
        the statistics of all parts together, and a part may be empty.

    Returns
    -------
    out : ndarray like x
    cache : what `batch_norm_backward` needs

    Raises
    ------
    ValueError
        If shapes do not fit, or if there is only one value per channel in training.
    TypeError
        If an array does not hold real numbers, or a running statistic cannot be updated in place.

    Examples
    --------
    >>> import numpy as np
    >>> mean, var = np.zeros(1), np.ones(1)
    >>> out, cache = batch_norm_forward([[1.0], [3.0]], [1.0], [0.0], mean, var, training=True)
    >>> out.round(3).tolist(), mean.tolist(), var.tolist()
    ([[-1.0], [1.0]], [0.2], [1.1])
    """
    x, weight, bias = _arrays.floats("batch_norm", x, weight, bias)
    if x.ndim not in (2, 4):
        raise ValueError(f"batch_norm: expected x of shape (N, C) or (N, C, H, W), got {x.shape}")
    per_channel = x.shape[1:2]
    for name, array in (("running_mean", running_mean), ("running_var", running_var)):
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or (training and not array.flags.writeable):
            raise TypeError(f"batch_norm: expected {name} to be an array of floats, writable in training")
        _arrays.check_shape("batch_norm", name, array, per_channel)
    _arrays.check_shape("batch_norm", "weight", weight, per_channel)
    _arrays.check_shape("batch_norm", "bias", bias, per_channel)
    rows = _rows(x)
    if activation not in (_ACTIVATIONS if addend is None else _ACTIVATIONS_OF_SUM):
        beside = "" if addend is None else " beside an addend"
        raise ValueError(f"batch_norm: unknown activation {activation!r}{beside}")
    if addend is not None:
        addend = _addend(addend, x)
    if statistics is not None:
        statistics = np.array(statistics, x.dtype)  # a copy: the way back will need it, and it may be written anew
        _arrays.check_shape("batch_norm", "statistics", statistics, (2, *per_channel))
    if training:
        total = rows.shape[0]
        mean, variance = _statistics(rows) if statistics is None or not total else statistics
        if sum_over_ranks is not None:
            total, mean, variance = _joint_statistics(total, mean, variance, sum_over_ranks)
        if total < 2:
            raise ValueError(f"batch_norm: expected more than one value per channel in training, got x of {x.shape}")
        running_mean += momentum * (mean - running_mean)
        running_var += momentum * (variance * (total / (total - 1)) - running_var)
    else:
        # A copy of what the way back will need, for a batch in training moves it in place.
        mean, variance = running_mean.astype(x.dtype), running_var.astype(x.dtype, copy=False)
    inverse_std = np.reciprocal(np.sqrt(variance + float(eps)))
    weight, bias = np.ascontiguousarray(weight), np.ascontiguousarray(bias)
    out = memory.empty(rows.shape, x.dtype)
    kernels.batch_norm_apply(rows, mean, inverse_std, weight, bias, out, activation, addend)
    sum_out = out if addend is not None and activation == "relu" else None
    others = None if sum_over_ranks is None or not training else (total, sum_over_ranks)
    return _unrows(out, x.shape), (
        rows,
        mean,
        inverse_std,
        weight,
        bias,
        x.shape,
        training,
        activation,
        sum_out,
        others,
    )


def batch_norm_backward(
    dout: np.ndarray, cache: Any, dweight: np.ndarray | None = None, dbias: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of `batch_norm_forward`, in training through the batch's statistics, too.

    With `x_hat = (x - mean) / std` and M values per channel:
    `dx = weight / std * (dout - mean of dout - x_hat * mean of dout * x_hat)`,
    where dout has come through the activation, if there was one.

    Parameters
    ----------
    dout : ndarray like the output
    cache : from `batch_norm_forward`
    dweight, dbias : ndarray, optional
        Where to write these gradients; new arrays where left out.

    Returns
    -------
    dx : ndarray like x
    dweight, dbias : ndarray of shape (C,)

    Raises
    ------
    ValueError
        If `dout` or a destination has another shape.
    """
    return batch_norm_add_backward(dout, cache, dweight, dbias)[:3]


def batch_norm_add_backward(
    dout: np.ndarray, cache: Any, dweight: np.ndarray | None = None, dbias: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of `batch_norm_forward` with an addend; see `batch_norm_backward`.

    Parameters
    ----------
    dout : ndarray like the output
    cache : from `batch_norm_forward`
    dweight, dbias : ndarray, optional

    Returns
    -------
    dx : ndarray like x
    dweight, dbias : ndarray of shape (C,)
    daddend : ndarray like x
    """
    rows, mean, inverse_std, weight, bias, shape, training, activation, sum_out, others = cache
    gradient = _rows(_arrays.upstream("batch_norm", dout, shape, rows.dtype))
    dweight = _arrays.destination("batch_norm", "dweight", dweight, weight.shape, rows.dtype)
    dbias = _arrays.destination("batch_norm", "dbias", dbias, weight.shape, rows.dtype)
    dx = memory.empty(rows.shape, rows.dtype)
    daddend = gradient if sum_out is None else memory.empty(rows.shape, rows.dtype)
    if training:
        inner = None if sum_out is None else daddend
        statistics, parameters = (mean, inverse_std), (weight, bias)
        if rows.shape[0]:
            kernels.batch_norm_backward(
                gradient, rows, *statistics, *parameters, dx, dweight, dbias, activation, sum_out, inner
            )
        else:
            dweight[...] = dbias[...] = 0
        if others is not None:
            _correct_for_others(dx, rows, *statistics, weight, dweight, dbias, *others)
    else:
        gradient = daddend = _before_activation(gradient, cache)
        np.sum(gradient * ((rows - mean) * inverse_std), axis=0, out=dweight)
        np.sum(gradient, axis=0, out=dbias)
        np.multiply(gradient, weight * inverse_std, out=dx)
    return _unrows(dx, shape), dweight, dbias, _unrows(daddend, shape)


def layer_norm_forward(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, *, eps: float = 1e-5
) -> tuple[np.ndarray, Any]:
    """Normalise each example over its last axes, those that `weight` has.

    `out = (x - mean) / sqrt(var + eps) * weight + bias`

    Ba, Kiros and Hinton, 2016: Layer Normalization.

    Parameters
    ----------
    x : ndarray of shape (N, ..., *S)
    weight, bias : ndarray of shape S
    eps : float, default 1e-5

    Returns
    -------
    out : ndarray like x
    cache : what `layer_norm_backward` needs

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> layer_norm_forward([[1.0, 3.0], [5.0, 9.0]], [1.0, 1.0], [0.0, 0.0])[0].round(3)
    array([[-1.,  1.],
           [-1.,  1.]])
    """
    x, weight, bias = _arrays.floats("layer_norm", x, weight, bias)
    if not 0 < weight.ndim < x.ndim or x.shape[-weight.ndim :] != weight.shape:
        raise ValueError(f"layer_norm: expected x of shape (N, ..., *{weight.shape}), got {x.shape}")
    _arrays.check_shape("layer_norm", "bias", bias, weight.shape)
    axes = tuple(range(x.ndim - weight.ndim, x.ndim))
    out, x_hat, inverse_std = _normalise(x, axes, eps)
    out *= weight
    out += bias
    return out, (x_hat, inverse_std, weight, axes)


def layer_norm_backward(
    dout: np.ndarray, cache: Any, dweight: np.ndarray | None = None, dbias: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of `layer_norm_forward`.

    Parameters
    ----------
    dout : ndarray like the output
    cache : from `layer_norm_forward`
    dweight, dbias : ndarray, optional
        Where to write these gradients; new arrays where left out.

    Returns
    -------
    dx : ndarray like x
    dweight, dbias : ndarray like weight

    Raises
    ------
    ValueError
        If `dout` or a destination has another shape.
    """
    x_hat, inverse_std, weight, axes = cache
    gradient = _arrays.upstream("layer_norm", dout, x_hat.shape, x_hat.dtype)
    dweight = _arrays.destination("layer_norm", "dweight", dweight, weight.shape, x_hat.dtype)
    dbias = _arrays.destination("layer_norm", "dbias", dbias, weight.shape, x_hat.dtype)
    leading = tuple(range(axes[0]))
    dx = np.multiply(gradient, x_hat, out=_arrays.empty_like(x_hat))
    np.sum(dx, axis=leading, out=dweight)
    np.sum(gradient, axis=leading, out=dbias)
    np.multiply(gradient, weight, out=dx)
    return _normalise_backward(dx, x_hat, inverse_std, axes), dweight, dbias


def group_norm_forward(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, num_groups: int, *, eps: float = 1e-5
) -> tuple[np.ndarray, Any]:
    """Normalise each example over groups of neighbouring channels.

    `out = (x - mean) / sqrt(var + eps) * weight + bias`, with one mean and variance per example and group.

    Wu and He, 2018: Group Normalization.

    Parameters
    ----------
    x : ndarray of shape (N, C) or (N, C, H, W)
    weight, bias : ndarray of shape (C,)
    num_groups : int
        A divisor of C.
    eps : float, default 1e-5

    Returns
    -------
    out : ndarray like x
    cache : what `group_norm_backward` needs

    Raises
    ------
    ValueError
        If the shapes do not fit, or the channels do not divide into the groups.

    Examples
    --------
    >>> group_norm_forward([[1.0, 3.0, 5.0, 9.0]], [1.0] * 4, [0.0] * 4, 2)[0].round(3)
    array([[-1.,  1., -1.,  1.]])
    """
    x, weight, bias = _arrays.floats("group_norm", x, weight, bias)
    if x.ndim not in (2, 4):
        raise ValueError(f"group_norm: expected x of shape (N, C) or (N, C, H, W), got {x.shape}")
    n, channels = x.shape[:2]
    if not isinstance(num_groups, (int, np.integer)) or num_groups < 1 or channels % num_groups:
        raise ValueError(f"group_norm: expected a number of groups that divides {channels} channels, got {num_groups}")
    for name, array in (("weight", weight), ("bias", bias)):
        _arrays.check_shape("group_norm", name, array, (channels,))
    grouped = (n, math.prod(x.shape[2:]), num_groups, channels // num_groups)
    rows = _rows(x)
    out, x_hat, inverse_std = _normalise(rows.reshape(grouped), (1, 3), eps)
    out = out.reshape(rows.shape)
    out *= weight
    out += bias
    return _unrows(out, x.shape), (x_hat, inverse_std, weight, x.shape)


def group_norm_backward(
    dout: np.ndarray, cache: Any, dweight: np.ndarray | None = None, dbias: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of `group_norm_forward`.

    Parameters
    ----------
    dout : ndarray like the output
    cache : from `group_norm_forward`
    dweight, dbias : ndarray, optional
        Where to write these gradients; new arrays where left out.

    Returns
    -------
    dx : ndarray like x
    dweight, dbias : ndarray of shape (C,)

    Raises
    ------
    ValueError
        If `dout` or a destination has another shape.
    """
    x_hat, inverse_std, weight, shape = cache
    gradient = _rows(_arrays.upstream("group_norm", dout, shape, x_hat.dtype))
    dweight = _arrays.destination("group_norm", "dweight", dweight, weight.shape, x_hat.dtype)
    dbias = _arrays.destination("group_norm", "dbias", dbias, weight.shape, x_hat.dtype)
    dx = memory.empty(gradient.shape, x_hat.dtype)
    np.multiply(gradient, x_hat.reshape(gradient.shape), out=dx)
    np.sum(dx, axis=0, out=dweight)
    np.sum(gradient, axis=0, out=dbias)
    np.multiply(gradient, weight, out=dx)
    _normalise_backward(dx.reshape(x_hat.shape), x_hat, inverse_std, (1, 3))
    return _unrows(dx, shape), dweight, dbias


def _statistics(rows: np.ndarray) -> np.ndarray:
    """Return mean and biased variance of each column; zeros if there are no rows."""
    statistics = np.zeros((2, rows.shape[1]), rows.dtype)
    if len(rows):
        kernels.batch_norm_statistics(rows, *statistics)
    return statistics


def _joint_statistics(
    count: int, mean: np.ndarray, variance: np.ndarray, sum_over_ranks: Callable[[np.ndarray], object]
) -> tuple[int, np.ndarray, np.ndarray]:
    """Return how many rows all ranks have together, and their mean and variance."""
    # In float64, in which the squares' difference below loses nothing that the float32 figures had.
    moments = np.array([np.ones(mean.shape), mean, variance + np.square(mean, dtype=np.float64)], np.float64) * count
    sum_over_ranks(moments)
    total = moments[0, 0]
    joint = moments[1] / total
    joint_variance = np.maximum(moments[2] / total - np.square(joint), 0)
    return int(total), joint.astype(mean.dtype), joint_variance.astype(mean.dtype)


def _correct_for_others(
    dx: np.ndarray,
    rows: np.ndarray,
    mean: np.ndarray,
    inverse_std: np.ndarray,
    weight: np.ndarray,
    dweight: np.ndarray,
    dbias: np.ndarray,
    total: int,
    sum_over_ranks: Callable[[np.ndarray], object],
) -> None:
    """Turn, in place, the dx of rows that would be the whole batch into the dx of a part of it.

    dx holds `weight / std * (dout - dbias / M - x_hat * dweight / M)` with this part's sums and number of rows, where
    it should be those of all parts: the difference is `x_hat` times a number, plus another, for each column.
    """
    sums = np.array([dweight, dbias], np.float64)
    own = sums / max(len(rows), 1)
    sum_over_ranks(sums)
    slope, shift = ((own - sums / total) * (weight * inverse_std)).astype(dx.dtype)
    if len(rows):
        kernels.batch_norm_apply(rows, mean, inverse_std, slope, shift, dx, "identity", dx)


def _addend(addend: np.ndarray, x: np.ndarray) -> np.ndarray:
    (addend,) = _arrays.floats("batch_norm", addend)
    _arrays.check_shape("batch_norm", "addend", addend, x.shape)
    return _rows(addend.astype(x.dtype, copy=False))


def _before_activation(gradient: np.ndarray, cache: Any) -> np.ndarray:
    """Take a gradient back through the activation of `batch_norm_forward` alone."""
    rows, mean, inverse_std, weight, bias, _, _, activation, out, _ = cache
    if activation == "identity":
        return gradient
    if out is None:
        out = memory.empty(rows.shape, rows.dtype)
        kernels.batch_norm_apply(rows, mean, inverse_std, weight, bias, out)
    inner = memory.empty(rows.shape, rows.dtype)
    elements = [array.reshape(-1) for array in (gradient, out, inner)]
    if activation == "relu":
        kernels.relu_backward(*elements)
    elif activation == "silu":
        kernels.silu_backward(*elements)
    else:
        kernels.gelu_backward(*elements, activation == "gelu_tanh")
    return inner


def _rows(x: np.ndarray) -> np.ndarray:
    """(N, C) as it is, images as (N * H * W, C): one row a place, one column a channel; C-contiguous."""
    if x.ndim == 2:
        return np.ascontiguousarray(x)
    return _arrays.channels_last("images", x).reshape(-1, x.shape[1])


def _unrows(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 2:
        return rows
    n, channels, height, width = shape
    return _arrays.channels_first(rows.reshape(n, height, width, channels))


def _normalise(x: np.ndarray, axes: tuple[int, ...], eps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a copy of x_hat to go on with, x_hat itself, and the inverse standard deviation."""
    x_hat = np.subtract(x, x.mean(axis=axes, keepdims=True), out=_arrays.empty_like(x))
    work = np.multiply(x_hat, x_hat, out=_arrays.empty_like(x))
    inverse_std = 1 / np.sqrt(work.mean(axis=axes, keepdims=True) + x.dtype.type(eps))
    x_hat *= inverse_std
    np.copyto(work, x_hat)
    return work, x_hat, inverse_std


def _normalise_backward(
    gradient: np.ndarray, x_hat: np.ndarray, inverse_std: np.ndarray, axes: tuple[int, ...]
) -> np.ndarray:
    """Turn, in place, the gradient of x_hat into the gradient of x."""
    along = (gradient * x_hat).mean(axis=axes, keepdims=True)
    gradient -= gradient.mean(axis=axes, keepdims=True)
    gradient -= x_hat * along
    gradient *= inverse_std
    return gradient
