"""Normalisation layers: over the batch, over each example, over groups of channels; for features and for images."""

from typing import Any

import numpy as np

from nnkit import functional
from nnkit._ext import kernels, memory
from nnkit.cs231n.arrays import as_floats

Gradients = tuple[np.ndarray, np.ndarray, np.ndarray]


def batchnorm_forward(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, bn_param: dict[str, Any]
) -> tuple[np.ndarray, Any]:
    """Normalise each feature: `out = gamma * (x - mean) / sqrt(var + eps) + beta`.

    Training takes mean and variance from the batch and lets the running ones follow:
    `running = momentum * running + (1 - momentum) * batch`. A test takes the running ones. Two things differ from
    PyTorch and from `nnkit.functional.batch_norm_forward`: momentum is the weight of the old value, not of the new one,
    and the running variance follows the batch's own variance, without the correction `N / (N - 1)`.

    Ioffe and Szegedy, 2015: Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
    Shift.

    Parameters
    ----------
    x : ndarray of shape (N, D)
    gamma, beta : ndarray of shape (D,)
    bn_param : dict
        `mode`: "train" or "test"; `eps` (1e-5); `momentum` (0.9); `running_mean` and `running_var` of shape (D,), zeros
        where missing. These two are written back into the dictionary.

    Returns
    -------
    out : ndarray of shape (N, D)
    cache : what `batchnorm_backward` and `batchnorm_backward_alt` need

    Raises
    ------
    ValueError
        If the mode is neither, or shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> bn_param = {"mode": "train"}
    >>> batchnorm_forward(np.array([[1.0], [3.0]]), np.ones(1), np.zeros(1), bn_param)[0].round(3)
    array([[-1.],
           [ 1.]])
    >>> bn_param["running_mean"], bn_param["running_var"]
    (array([0.2]), array([0.1]))
    """
    mode, eps, momentum = bn_param.get("mode"), bn_param.get("eps", 1e-5), bn_param.get("momentum", 0.9)
    if mode not in ("train", "test"):
        raise ValueError(f"batchnorm: expected mode 'train' or 'test', got {mode!r}")
    x, gamma, beta = as_floats(x, gamma, beta)
    if x.ndim != 2 or not gamma.shape == beta.shape == x.shape[1:]:
        shapes = f"x {x.shape}, gamma {gamma.shape}, beta {beta.shape}"
        raise ValueError(f"batchnorm: expected x (N, D), gamma (D,) and beta (D,), got {shapes}")
    rows, gamma, beta = np.ascontiguousarray(x), np.ascontiguousarray(gamma), np.ascontiguousarray(beta)
    running_mean = bn_param.get("running_mean", np.zeros(x.shape[1], x.dtype))
    running_var = bn_param.get("running_var", np.zeros(x.shape[1], x.dtype))
    if mode == "train":
        mean, var = np.empty(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype)
        kernels.batch_norm_statistics(rows, mean, var)
        running_mean = momentum * running_mean + (1 - momentum) * mean
        running_var = momentum * running_var + (1 - momentum) * var
    else:
        mean, var = np.array(running_mean, x.dtype), np.array(running_var, x.dtype)
    bn_param["running_mean"], bn_param["running_var"] = running_mean, running_var
    inverse_std = 1 / np.sqrt(var + x.dtype.type(eps))
    out = memory.empty(rows.shape, x.dtype)
    kernels.batch_norm_apply(rows, mean, inverse_std, gamma, beta, out)
    return out, (rows, mean, inverse_std, gamma, mode)


def batchnorm_backward(dout: np.ndarray, cache: Any) -> Gradients:
    """Return the gradients of `batchnorm_forward`, one step of its computation after the other, from back to front.

    With `x_hat = (x - mean) / std` and `out = gamma * x_hat + beta`, an element of x reaches the loss in three ways: by
    its own `x_hat`, by the mean and by the variance of its column. The three are added up. What the mean gets by way of
    the variance is `dvar * mean of -2 * (x - mean)`, which is 0.

    Parameters
    ----------
    dout : ndarray of shape (N, D)
    cache : from `batchnorm_forward`

    Returns
    -------
    dx : ndarray of shape (N, D)
    dgamma, dbeta : ndarray of shape (D,)
    """
    x, mean, inverse_std, gamma, mode = cache
    n = x.shape[0]
    centred = x - mean
    dgamma = (dout * centred * inverse_std).sum(axis=0)
    dbeta = dout.sum(axis=0)
    dx_hat = dout * gamma
    dx = dx_hat * inverse_std
    if mode == "train":
        dvar = (dx_hat * centred).sum(axis=0) * -0.5 * inverse_std**3
        dmean = -(dx_hat * inverse_std).sum(axis=0)
        dx += dvar * 2 * centred / n + dmean / n
    return dx, dgamma, dbeta


def batchnorm_backward_alt(dout: np.ndarray, cache: Any) -> Gradients:
    """Return the gradients of `batchnorm_forward` by the closed form, in one kernel.

    Putting the three ways of `batchnorm_backward` together and simplifying, with means over the batch:
    `dx = gamma / std * (dout - mean of dout - x_hat * mean of dout * x_hat)`. It says that the part of the gradient
    that would only shift or scale the column is taken out, since normalisation undoes shifts and scales.

    Parameters
    ----------
    dout : ndarray of shape (N, D)
    cache : from `batchnorm_forward`

    Returns
    -------
    dx : ndarray of shape (N, D)
    dgamma, dbeta : ndarray of shape (D,)
    """
    rows, mean, inverse_std, gamma, mode = cache
    if mode == "test":
        return batchnorm_backward(dout, cache)
    gradient = np.ascontiguousarray(dout, rows.dtype)
    dx = memory.empty(rows.shape, rows.dtype)
    dgamma, dbeta = np.empty(gamma.shape, rows.dtype), np.empty(gamma.shape, rows.dtype)
    beta = np.zeros_like(gamma)  # only a fused activation's slope depends on it
    kernels.batch_norm_backward(gradient, rows, mean, inverse_std, gamma, beta, dx, dgamma, dbeta)
    return dx, dgamma, dbeta


def layernorm_forward(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, ln_param: dict[str, Any]
) -> tuple[np.ndarray, Any]:
    """Normalise each example over its features; `nnkit.functional.layer_norm_forward`.

    As batch norm, but with mean and variance of each row: no example depends on another, and there is nothing to keep
    for the test.

    Ba, Kiros and Hinton, 2016: Layer Normalization.

    Parameters
    ----------
    x : ndarray of shape (N, D)
    gamma, beta : ndarray of shape (D,)
    ln_param : dict
        `eps` (1e-5).

    Returns
    -------
    out : ndarray of shape (N, D)
    cache : what `layernorm_backward` needs

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> layernorm_forward(np.array([[1.0, 3.0], [5.0, 9.0]]), np.ones(2), np.zeros(2), {})[0].round(3)
    array([[-1.,  1.],
           [-1.,  1.]])
    """
    return functional.layer_norm_forward(*as_floats(x, gamma, beta), eps=ln_param.get("eps", 1e-5))


def layernorm_backward(dout: np.ndarray, cache: Any) -> Gradients:
    """Return the gradients of `layernorm_forward`: the closed form of batch norm, with means over each row.

    Parameters
    ----------
    dout : ndarray of shape (N, D)
    cache : from `layernorm_forward`

    Returns
    -------
    dx : ndarray of shape (N, D)
    dgamma, dbeta : ndarray of shape (D,)
    """
    return functional.layer_norm_backward(dout, cache)


def spatial_batchnorm_forward(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, bn_param: dict[str, Any]
) -> tuple[np.ndarray, Any]:
    """Normalise each channel over all images and places: `batchnorm_forward` with one row a place.

    Parameters
    ----------
    x : ndarray of shape (N, C, H, W)
    gamma, beta : ndarray of shape (C,)
    bn_param : dict
        As for `batchnorm_forward`.

    Returns
    -------
    out : ndarray of shape (N, C, H, W)
    cache : what `spatial_batchnorm_backward` needs

    Raises
    ------
    ValueError
        If the mode is unknown, or shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(16.0).reshape(2, 2, 2, 2)
    >>> out, cache = spatial_batchnorm_forward(x, np.ones(2), np.zeros(2), {"mode": "train"})
    >>> out.mean(axis=(0, 2, 3)).round(6).tolist(), out.std(axis=(0, 2, 3)).round(3).tolist()
    ([0.0, 0.0], [1.0, 1.0])
    """
    out, cache = batchnorm_forward(_places(x), gamma, beta, bn_param)
    return _images(out, x.shape), cache


def spatial_batchnorm_backward(dout: np.ndarray, cache: Any) -> Gradients:
    """Return the gradients of `spatial_batchnorm_forward`.

    Parameters
    ----------
    dout : ndarray of shape (N, C, H, W)
    cache : from `spatial_batchnorm_forward`

    Returns
    -------
    dx : ndarray of shape (N, C, H, W)
    dgamma, dbeta : ndarray of shape (C,)
    """
    dx, dgamma, dbeta = batchnorm_backward_alt(_places(dout), cache)
    return _images(dx, dout.shape), dgamma, dbeta


def spatial_groupnorm_forward(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, G: int, gn_param: dict[str, Any]
) -> tuple[np.ndarray, Any]:
    """Normalise each image over groups of neighbouring channels; `nnkit.functional.group_norm_forward`.

    Wu and He, 2018: Group Normalization.

    Parameters
    ----------
    x : ndarray of shape (N, C, H, W)
    gamma, beta : ndarray of shape (C,) or (1, C, 1, 1)
    G : int
        How many groups; it divides C.
    gn_param : dict
        `eps` (1e-5).

    Returns
    -------
    out : ndarray of shape (N, C, H, W)
    cache : what `spatial_groupnorm_backward` needs

    Raises
    ------
    ValueError
        If shapes do not fit, or G does not divide C.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(8.0).reshape(1, 4, 1, 2)
    >>> spatial_groupnorm_forward(x, np.ones((1, 4, 1, 1)), np.zeros((1, 4, 1, 1)), 2, {})[0].round(2).ravel()
    array([-1.34, -0.45,  0.45,  1.34, -1.34, -0.45,  0.45,  1.34])
    """
    x, weight, bias = as_floats(x, np.ravel(gamma), np.ravel(beta))
    out, cache = functional.group_norm_forward(x, weight, bias, G, eps=gn_param.get("eps", 1e-5))
    return out, (cache, np.shape(gamma), np.shape(beta))


def spatial_groupnorm_backward(dout: np.ndarray, cache: Any) -> Gradients:
    """Return the gradients of `spatial_groupnorm_forward`.

    Parameters
    ----------
    dout : ndarray of shape (N, C, H, W)
    cache : from `spatial_groupnorm_forward`

    Returns
    -------
    dx : ndarray of shape (N, C, H, W)
    dgamma, dbeta : ndarray like gamma and beta
    """
    inner, gamma_shape, beta_shape = cache
    dx, dgamma, dbeta = functional.group_norm_backward(dout, inner)
    return dx, dgamma.reshape(gamma_shape), dbeta.reshape(beta_shape)


def _places(x: np.ndarray) -> np.ndarray:
    """Turn images (N, C, H, W) into one row of C channels a place: (N * H * W, C)."""
    if np.ndim(x) != 4:
        raise ValueError(f"spatial norm: expected images of shape (N, C, H, W), got {np.shape(x)}")
    return np.ascontiguousarray(np.transpose(x, (0, 2, 3, 1))).reshape(-1, x.shape[1])


def _images(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    n, channels, height, width = shape
    return rows.reshape(n, height, width, channels).transpose(0, 3, 1, 2)
