"""Sandwiches: layers that stand next to each other in most networks, as one pair of functions. Also all of `layers`."""

from typing import Any

import numpy as np

from nnkit.cs231n import fast_layers, layers
from nnkit.cs231n.fast_layers import *  # noqa: F403
from nnkit.cs231n.layers import *  # noqa: F403


def affine_relu_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, Any]:
    """Affine layer, then ReLU.

    Parameters
    ----------
    x : ndarray of shape (N, d_1, ..., d_k)
    w : ndarray of shape (D, M)
    b : ndarray of shape (M,)

    Returns
    -------
    out : ndarray of shape (N, M)
    cache : what `affine_relu_backward` needs
    """
    a, affine_cache = layers.affine_forward(x, w, b)
    out, relu_cache = layers.relu_forward(a)
    return out, (affine_cache, relu_cache)


def affine_relu_backward(dout: np.ndarray, cache: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of `affine_relu_forward`.

    Parameters
    ----------
    dout : ndarray of shape (N, M)
    cache : from `affine_relu_forward`

    Returns
    -------
    dx, dw, db : ndarray like x, w and b
    """
    affine_cache, relu_cache = cache
    return layers.affine_backward(layers.relu_backward(dout, relu_cache), affine_cache)


def conv_relu_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray, conv_param: dict[str, int]
) -> tuple[np.ndarray, Any]:
    """Convolution, then ReLU.

    Parameters
    ----------
    x : ndarray of shape (N, C, H, W)
    w : ndarray of shape (F, C, HH, WW)
    b : ndarray of shape (F,)
    conv_param : dict
        `stride`, `pad`.

    Returns
    -------
    out : ndarray of shape (N, F, OH, OW)
    cache : what `conv_relu_backward` needs
    """
    a, conv_cache = fast_layers.conv_forward_fast(x, w, b, conv_param)
    out, relu_cache = layers.relu_forward(a)
    return out, (conv_cache, relu_cache)


def conv_relu_backward(dout: np.ndarray, cache: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of `conv_relu_forward`.

    Parameters
    ----------
    dout : ndarray of shape (N, F, OH, OW)
    cache : from `conv_relu_forward`

    Returns
    -------
    dx, dw, db : ndarray like x, w and b
    """
    conv_cache, relu_cache = cache
    return fast_layers.conv_backward_fast(layers.relu_backward(dout, relu_cache), conv_cache)


def conv_bn_relu_forward(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    conv_param: dict[str, int],
    bn_param: dict[str, Any],
) -> tuple[np.ndarray, Any]:
    """Convolution, then batch norm over the images, then ReLU.

    Parameters
    ----------
    x : ndarray of shape (N, C, H, W)
    w : ndarray of shape (F, C, HH, WW)
    b, gamma, beta : ndarray of shape (F,)
    conv_param : dict
        `stride`, `pad`.
    bn_param : dict
        As for `batchnorm_forward`.

    Returns
    -------
    out : ndarray of shape (N, F, OH, OW)
    cache : what `conv_bn_relu_backward` needs
    """
    a, conv_cache = fast_layers.conv_forward_fast(x, w, b, conv_param)
    normal, bn_cache = layers.spatial_batchnorm_forward(a, gamma, beta, bn_param)
    out, relu_cache = layers.relu_forward(normal)
    return out, (conv_cache, bn_cache, relu_cache)


def conv_bn_relu_backward(
    dout: np.ndarray, cache: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of `conv_bn_relu_forward`.

    Parameters
    ----------
    dout : ndarray of shape (N, F, OH, OW)
    cache : from `conv_bn_relu_forward`

    Returns
    -------
    dx, dw, db, dgamma, dbeta : ndarray like x, w, b, gamma and beta
    """
    conv_cache, bn_cache, relu_cache = cache
    dnormal = layers.relu_backward(dout, relu_cache)
    da, dgamma, dbeta = layers.spatial_batchnorm_backward(dnormal, bn_cache)
    return *fast_layers.conv_backward_fast(da, conv_cache), dgamma, dbeta


def conv_relu_pool_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray, conv_param: dict[str, int], pool_param: dict[str, int]
) -> tuple[np.ndarray, Any]:
    """Convolution, then ReLU, then max pooling.

    Parameters
    ----------
    x : ndarray of shape (N, C, H, W)
    w : ndarray of shape (F, C, HH, WW)
    b : ndarray of shape (F,)
    conv_param : dict
        `stride`, `pad`.
    pool_param : dict
        `pool_height`, `pool_width`, `stride`.

    Returns
    -------
    out : ndarray of shape (N, F, OH, OW)
    cache : what `conv_relu_pool_backward` needs
    """
    a, conv_relu_cache = conv_relu_forward(x, w, b, conv_param)
    out, pool_cache = fast_layers.max_pool_forward_fast(a, pool_param)
    return out, (conv_relu_cache, pool_cache)


def conv_relu_pool_backward(dout: np.ndarray, cache: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of `conv_relu_pool_forward`.

    Parameters
    ----------
    dout : ndarray of shape (N, F, OH, OW)
    cache : from `conv_relu_pool_forward`

    Returns
    -------
    dx, dw, db : ndarray like x, w and b
    """
    conv_relu_cache, pool_cache = cache
    return conv_relu_backward(fast_layers.max_pool_backward_fast(dout, pool_cache), conv_relu_cache)
