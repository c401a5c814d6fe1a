"""The two-layer network of the first assignment, which trains itself (editions to 2020)."""

from typing import Any

import numpy as np

from nnkit.cs231n import layer_utils, layers


class TwoLayerNet:
    """Affine - ReLU - affine - softmax, with a training loop of its own.

    `fc_net.TwoLayerNet` is the same network for the Solver; there, the L2 term has a factor 1/2.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
    std : float, default 1e-4
        The standard deviation of the initial weights.

    Attributes
    ----------
    params : dict
        `W1` (D, H), `b1` (H,), `W2` (H, C), `b2` (C,).

    Examples
    --------
    >>> import numpy as np
    >>> net = TwoLayerNet(4, 10, 3)
    >>> net.loss(np.ones((5, 4))).shape
    (5, 3)
    """

    def __init__(self, input_size: int, hidden_size: int, output_size: int, std: float = 1e-4) -> None:
        self.params: dict[str, np.ndarray] = {
            "W1": std * np.random.randn(input_size, hidden_size),
            "b1": np.zeros(hidden_size),
            "W2": std * np.random.randn(hidden_size, output_size),
            "b2": np.zeros(output_size),
        }

    def loss(self, X: np.ndarray, y: np.ndarray | None = None, reg: float = 0.0) -> Any:
        """Return the scores, or with labels the loss and its gradients.

        Parameters
        ----------
        X : ndarray of shape (N, D)
        y : ndarray of shape (N,), optional
        reg : float, default 0
            The loss has the term `reg * (sum of W1² + sum of W2²)`.

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
        loss += float(reg * ((p["W1"] ** 2).sum() + (p["W2"] ** 2).sum()))
        grads = {}
        dhidden, grads["W2"], grads["b2"] = layers.affine_backward(dscores, out_cache)
        _, grads["W1"], grads["b1"] = layer_utils.affine_relu_backward(dhidden, hidden_cache)
        for name in ("W1", "W2"):
            grads[name] = grads[name] + 2 * reg * p[name]
        return loss, grads

    def train(
        self,
        X: np.ndarray,
        y: np.ndarray,
        X_val: np.ndarray,
        y_val: np.ndarray,
        learning_rate: float = 1e-3,
        learning_rate_decay: float = 0.95,
        reg: float = 5e-6,
        num_iters: int = 100,
        batch_size: int = 200,
        verbose: bool = False,
    ) -> dict[str, list[float]]:
        """Descend along the gradient of random minibatches.

        Parameters
        ----------
        X : ndarray of shape (N, D)
        y : ndarray of shape (N,)
        X_val, y_val : ndarray
            For the accuracies in between.
        learning_rate, learning_rate_decay, reg : float, default 1e-3, 0.95 and 5e-6
            The rate is multiplied by its decay once an epoch, which is `max(N / batch_size, 1)` iterations.
        num_iters, batch_size : int, default 100 and 200
            Minibatches are drawn with replacement.
        verbose : bool, default False
            Print the loss every 100 iterations.

        Returns
        -------
        dict
            `loss_history`: one an iteration; `train_acc_history` (of the minibatch) and `val_acc_history`: one an
            epoch.
        """
        iterations_per_epoch = max(X.shape[0] / batch_size, 1)
        history: dict[str, list[float]] = {"loss_history": [], "train_acc_history": [], "val_acc_history": []}
        for it in range(num_iters):
            chosen = np.random.choice(X.shape[0], batch_size)
            X_batch, y_batch = X[chosen], y[chosen]
            loss, grads = self.loss(X_batch, y=y_batch, reg=reg)
            history["loss_history"].append(loss)
            for name in self.params:
                self.params[name] = self.params[name] - learning_rate * grads[name]
            if verbose and it % 100 == 0:
                print(f"iteration {it} / {num_iters}: loss {loss:f}")
            if it % iterations_per_epoch == 0:
                history["train_acc_history"].append(float((self.predict(X_batch) == y_batch).mean()))
                history["val_acc_history"].append(float((self.predict(X_val) == y_val).mean()))
                learning_rate *= learning_rate_decay
        return history

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class of the largest score.

        Parameters
        ----------
        X : ndarray of shape (N, D)

        Returns
        -------
        ndarray of shape (N,), integers
        """
        return np.argmax(self.loss(X), axis=1)
