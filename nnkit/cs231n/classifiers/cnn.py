"""A convolutional network for the Solver. Also all of `layers`, `fast_layers` and `layer_utils`."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nnkit.cs231n import layer_utils, layers
from nnkit.cs231n.fast_layers import *  # noqa: F403
from nnkit.cs231n.layer_utils import *  # noqa: F403
from nnkit.cs231n.layers import *  # noqa: F403


class ThreeLayerConvNet:
    """Convolution - ReLU - 2 × 2 max pooling - affine - ReLU - affine - softmax.

    The convolution has stride 1 and keeps the size of the image.

    Parameters
    ----------
    input_dim : tuple (C, H, W), default (3, 32, 32)
    num_filters, filter_size, hidden_dim, num_classes : int, default 32, 7, 100 and 10
    weight_scale : float, default 1e-3
        The standard deviation of the initial weights.
    reg : float, default 0
        The loss has the term `0.5 * reg * sum of W²` for the three weights.
    dtype : data-type, default float32
        Of the parameters.

    Attributes
    ----------
    params : dict
        `W1` (F, C, f, f), `b1` (F,), `W2` (F * (H // 2) * (W // 2), hidden_dim), `b2`, `W3` (hidden_dim, num_classes),
        `b3`.

    Examples
    --------
    >>> import numpy as np
    >>> net = ThreeLayerConvNet((1, 8, 8), num_filters=4, filter_size=3)
    >>> round(float(net.loss(np.ones((2, 1, 8, 8)), np.array([0, 1]))[0]), 4)
    2.3026
    """

    def __init__(
        self,
        input_dim: tuple[int, int, int] = (3, 32, 32),
        num_filters: int = 32,
        filter_size: int = 7,
        hidden_dim: int = 100,
        num_classes: int = 10,
        weight_scale: float = 1e-3,
        reg: float = 0.0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.reg, self.dtype = reg, dtype
        channels, height, width = input_dim
        pooled = num_filters * (height // 2) * (width // 2)
        shapes = [(num_filters, channels, filter_size, filter_size), (pooled, hidden_dim), (hidden_dim, num_classes)]
        self.params: dict[str, np.ndarray] = {}
        for i, (shape, biases) in enumerate(zip(shapes, (num_filters, hidden_dim, num_classes), strict=True), 1):
            self.params[f"W{i}"] = (weight_scale * np.random.randn(*shape)).astype(dtype)
            self.params[f"b{i}"] = np.zeros(biases, dtype)

    def loss(self, X: np.ndarray, y: np.ndarray | None = None) -> Any:
        """Return the scores, or with labels the loss and its gradients.

        Parameters
        ----------
        X : ndarray of shape (N, C, H, W)
        y : ndarray of shape (N,), optional

        Returns
        -------
        scores : ndarray of shape (N, C), if there is no y
        loss, grads : float and dict, else
        """
        p = self.params
        conv_param = {"stride": 1, "pad": (p["W1"].shape[2] - 1) // 2}
        pool_param = {"pool_height": 2, "pool_width": 2, "stride": 2}
        pooled, conv_cache = layer_utils.conv_relu_pool_forward(X, p["W1"], p["b1"], conv_param, pool_param)
        hidden, hidden_cache = layer_utils.affine_relu_forward(pooled, p["W2"], p["b2"])
        scores, out_cache = layers.affine_forward(hidden, p["W3"], p["b3"])
        if y is None:
            return scores
        loss, dscores = layers.softmax_loss(scores, y)
        grads = {}
        dhidden, grads["W3"], grads["b3"] = layers.affine_backward(dscores, out_cache)
        dpooled, grads["W2"], grads["b2"] = layer_utils.affine_relu_backward(dhidden, hidden_cache)
        _, grads["W1"], grads["b1"] = layer_utils.conv_relu_pool_backward(dpooled, conv_cache)
        for name in ("W1", "W2", "W3"):
            loss += 0.5 * self.reg * float((p[name] ** 2).sum())
            grads[name] = grads[name] + self.reg * p[name]
        return loss, grads
