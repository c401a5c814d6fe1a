"""Fully connected networks for the Solver. Also all of `layers`, `fast_layers` and `layer_utils`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nnkit.cs231n import layer_utils, layers
from nnkit.cs231n.classifiers import saving
from nnkit.cs231n.fast_layers import *  # noqa: F403
from nnkit.cs231n.layer_utils import *  # noqa: F403
from nnkit.cs231n.layers import *  # noqa: F403


class TwoLayerNet:
    """Affine - ReLU - affine - softmax.

    Parameters
    ----------
    input_dim, hidden_dim, num_classes : int, default 3072, 100 and 10
    weight_scale : float, default 1e-3
        The standard deviation of the initial weights.
    reg : float, default 0
        The loss has the term `0.5 * reg * (sum of W1² + sum of W2²)`.

    Attributes
    ----------
    params : dict
        `W1` (D, H), `b1` (H,), `W2` (H, C), `b2` (C,), in float64.

    Examples
    --------
    >>> import numpy as np
    >>> net = TwoLayerNet(4, 10, 3)
    >>> loss, grads = net.loss(np.ones((5, 4)), np.array([0, 1, 2, 0, 1]))
    >>> round(loss, 3), grads["W1"].shape
    (1.099, (4, 10))
    """

    def __init__(
        self,
        input_dim: int = 3 * 32 * 32,
        hidden_dim: int = 100,
        num_classes: int = 10,
        weight_scale: float = 1e-3,
        reg: float = 0.0,
    ) -> None:
        self.reg = reg
        self.params: dict[str, np.ndarray] = {
            "W1": weight_scale * np.random.randn(input_dim, hidden_dim),
            "b1": np.zeros(hidden_dim),
            "W2": weight_scale * np.random.randn(hidden_dim, num_classes),
            "b2": np.zeros(num_classes),
        }

    def loss(self, X: np.ndarray, y: np.ndarray | None = None) -> Any:
        """Return the scores, or with labels the loss and its gradients.

        Parameters
        ----------
        X : ndarray of shape (N, d_1, ..., d_k)
        y : ndarray of shape (N,), optional

        Returns
        -------
        scores : ndarray of shape (N, C), if there is no y
        loss, grads : float and dict, else
        """
        p = self.params
        hidden, hidden_cache = layer_utils.affine_relu_forward(X, p["W1"], p["b1"])
        scores, out_cache = layers.affine_forward(hidden, p["W2"], p["b2"])
        if y is None:
            return scores
        loss, dscores = layers.softmax_loss(scores, y)
        grads = {}
        dhidden, grads["W2"], grads["b2"] = layers.affine_backward(dscores, out_cache)
        _, grads["W1"], grads["b1"] = layer_utils.affine_relu_backward(dhidden, hidden_cache)
        for name in ("W1", "W2"):
            loss += 0.5 * self.reg * float((p[name] ** 2).sum())
            grads[name] = grads[name] + self.reg * p[name]
        return loss, grads

    def save(self, fname: str) -> None:
        """Write the parameters to `cs231n/saved/<fname>`.

        Parameters
        ----------
        fname : str
        """
        saving.save(fname, self.params)

    def load(self, fname: str) -> bool:
        """Read the parameters from `cs231n/saved/<fname>`.

        Parameters
        ----------
        fname : str

        Returns
        -------
        bool
            Whether there is such a file.
        """
        params = saving.load(fname)
        if params is None:
            return False
        self.params = params
        return True


class FullyConnectedNet:
    """{affine - normalisation - ReLU - dropout} × (L - 1) - affine - softmax; the parts in the middle are optional.

    Arguments of all editions are understood: dropout as `dropout_keep_ratio` (2021 on) or `dropout` (before), batch
    norm as `normalization="batchnorm"` (2018 on) or `use_batchnorm=True` (2017).

    Parameters
    ----------
    hidden_dims : sequence of int
    input_dim, num_classes : int, default 3072 and 10
    dropout_keep_ratio : float, default 1
        The probability of keeping a unit; 0 and 1 mean no dropout.
    normalization : {None, "batchnorm", "layernorm"}
    reg : float, default 0
        The loss has the term `0.5 * reg * sum of W²` for all weights.
    weight_scale : float, default 1e-2
        The standard deviation of the initial weights.
    dtype : data-type, default float32
        Of the parameters, and of what `loss` computes in.
    seed : int, optional
        For every dropout layer, so that gradients can be checked.
    dropout : float, optional
        An older name of `dropout_keep_ratio`. In the edition of 2017 it is the probability of dropping.
    use_batchnorm : bool, default False

    Attributes
    ----------
    params : dict
        `W1`, `b1`, ..., and with normalisation `gamma1`, `beta1`, ...
    reg, num_layers, dtype, use_dropout, normalization, use_batchnorm
        `num_layers` counts the affine layers.
    dropout_param : dict
        What the dropout layers get; empty without dropout.
    bn_params : list of dict
        What the normalisation layers get.

    Raises
    ------
    ValueError
        If there is no such normalisation.

    Examples
    --------
    >>> import numpy as np
    >>> net = FullyConnectedNet([20, 30], 15, 10, normalization="batchnorm", dropout_keep_ratio=0.8)
    >>> loss, grads = net.loss(np.ones((2, 15)), np.array([0, 5]))
    >>> sorted(grads) == sorted(net.params)
    True
    """

    def __init__(
        self,
        hidden_dims: Sequence[int],
        input_dim: int = 3 * 32 * 32,
        num_classes: int = 10,
        dropout_keep_ratio: float = 1,
        normalization: str | None = None,
        reg: float = 0.0,
        weight_scale: float = 1e-2,
        dtype: DTypeLike = np.float32,
        seed: int | None = None,
        *,
        dropout: float | None = None,
        use_batchnorm: bool = False,
    ) -> None:
        if normalization not in (None, "batchnorm", "layernorm"):
            raise ValueError(f"normalization: expected 'batchnorm', 'layernorm' or None, got {normalization!r}")
        p = dropout_keep_ratio if dropout is None else dropout
        self.normalization = "batchnorm" if use_batchnorm else normalization
        self.use_batchnorm = self.normalization == "batchnorm"
        self.use_dropout = p not in (0, 1)
        self.reg, self.dtype = reg, dtype
        self.num_layers = len(hidden_dims) + 1
        self.params: dict[str, np.ndarray] = {}
        sizes = [input_dim, *hidden_dims, num_classes]
        for i in range(1, self.num_layers + 1):
            self.params[f"W{i}"] = (weight_scale * np.random.randn(sizes[i - 1], sizes[i])).astype(dtype)
            self.params[f"b{i}"] = np.zeros(sizes[i], dtype)
            if self.normalization and i < self.num_layers:
                self.params[f"gamma{i}"] = np.ones(sizes[i], dtype)
                self.params[f"beta{i}"] = np.zeros(sizes[i], dtype)
        self.dropout_param: dict[str, Any] = {"mode": "train", "p": p} if self.use_dropout else {}
        if self.use_dropout and seed is not None:
            self.dropout_param["seed"] = seed
        mode = {"mode": "train"} if self.use_batchnorm else {}
        self.bn_params: list[dict[str, Any]] = [dict(mode) for _ in hidden_dims] if self.normalization else []

    def loss(self, X: np.ndarray, y: np.ndarray | None = None) -> Any:
        """Return the scores of a test, or with labels the loss and its gradients in training.

        Parameters
        ----------
        X : ndarray of shape (N, d_1, ..., d_k)
        y : ndarray of shape (N,), optional

        Returns
        -------
        scores : ndarray of shape (N, C), if there is no y
        loss, grads : float and dict, else
        """
        mode = "test" if y is None else "train"
        if self.use_dropout:
            self.dropout_param["mode"] = mode
        if self.use_batchnorm:
            for bn_param in self.bn_params:
                bn_param["mode"] = mode
        out, caches = np.asarray(X, self.dtype), []
        for i in range(1, self.num_layers):
            out, cache = self._hidden_forward(out, i)
            caches.append(cache)
        last = self.num_layers
        scores, cache = layers.affine_forward(out, self.params[f"W{last}"], self.params[f"b{last}"])
        if y is None:
            return scores
        loss, dout = layers.softmax_loss(scores, y)
        grads: dict[str, np.ndarray] = {}
        dout, grads[f"W{last}"], grads[f"b{last}"] = layers.affine_backward(dout, cache)
        for i in range(last - 1, 0, -1):
            dout = self._hidden_backward(dout, caches[i - 1], i, grads)
        for i in range(1, last + 1):
            w = self.params[f"W{i}"]
            loss += 0.5 * self.reg * float((w**2).sum())
            grads[f"W{i}"] = grads[f"W{i}"] + self.reg * w
        return loss, grads

    def _hidden_forward(self, x: np.ndarray, i: int) -> tuple[np.ndarray, Any]:
        """Affine, normalisation, ReLU and dropout number i."""
        p = self.params
        norm_cache = dropout_cache = None
        out, affine_cache = layers.affine_forward(x, p[f"W{i}"], p[f"b{i}"])
        if self.normalization:
            norm = layers.batchnorm_forward if self.use_batchnorm else layers.layernorm_forward
            out, norm_cache = norm(out, p[f"gamma{i}"], p[f"beta{i}"], self.bn_params[i - 1])
        out, relu_cache = layers.relu_forward(out)
        if self.use_dropout:
            out, dropout_cache = layers.dropout_forward(out, self.dropout_param)
        return out, (affine_cache, norm_cache, relu_cache, dropout_cache)

    def _hidden_backward(self, dout: np.ndarray, cache: Any, i: int, grads: dict[str, np.ndarray]) -> np.ndarray:
        affine_cache, norm_cache, relu_cache, dropout_cache = cache
        if self.use_dropout:
            dout = layers.dropout_backward(dout, dropout_cache)
        dout = layers.relu_backward(dout, relu_cache)
        if self.normalization:
            norm = layers.batchnorm_backward_alt if self.use_batchnorm else layers.layernorm_backward
            dout, grads[f"gamma{i}"], grads[f"beta{i}"] = norm(dout, norm_cache)
        dout, grads[f"W{i}"], grads[f"b{i}"] = layers.affine_backward(dout, affine_cache)
        return dout

    def save(self, fname: str) -> None:
        """Write the parameters to `cs231n/saved/<fname>`.

        Parameters
        ----------
        fname : str
        """
        saving.save(fname, self.params)

    def load(self, fname: str) -> bool:
        """Read the parameters from `cs231n/saved/<fname>`.

        Parameters
        ----------
        fname : str

        Returns
        -------
        bool
            Whether there is such a file.
        """
        params = saving.load(fname)
        if params is None:
            return False
        self.params = params
        return True
