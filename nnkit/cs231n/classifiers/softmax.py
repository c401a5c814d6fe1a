"""The cross-entropy of a linear classifier's softmax, by loops and without."""

import numpy as np

from nnkit.cs231n import layers


def softmax_loss_naive(W: np.ndarray, X: np.ndarray, y: np.ndarray, reg: float) -> tuple[float, np.ndarray]:
    """Cross-entropy and its gradient, one example and one class at a time.

    `loss = mean over n of -log(p[y[n]]) + reg * sum of W²`, with `p = exp(s) / sum of exp(s)` of the scores
    `s = X[n] @ W`. The derivative of -log(p[y]) with respect to s[c] is p[c], less 1 for the true class.

    Parameters
    ----------
    W : ndarray of shape (D, C)
    X : ndarray of shape (N, D)
    y : ndarray of shape (N,)
        Labels from 0 to C - 1.
    reg : float
        The strength of the regularisation.

    Returns
    -------
    loss : float
    dW : ndarray of shape (D, C)

    Examples
    --------
    >>> import numpy as np
    >>> round(softmax_loss_naive(np.zeros((2, 10)), np.ones((4, 2)), np.array([0, 1, 2, 0]), 0.0)[0], 4)
    2.3026
    """
    num_train, num_classes = X.shape[0], W.shape[1]
    loss, dW = 0.0, np.zeros(W.shape)
    for n in range(num_train):
        scores = X[n] @ W
        shifted = scores - scores.max()  # the same probabilities, without overflow
        log_total = np.log(np.exp(shifted).sum())
        loss += log_total - shifted[y[n]]
        for c in range(num_classes):
            p = np.exp(shifted[c] - log_total)
            dW[:, c] += (p - (c == y[n])) * X[n]
    return float(loss / num_train + reg * (W**2).sum()), dW / num_train + 2 * reg * W


def softmax_loss_vectorized(W: np.ndarray, X: np.ndarray, y: np.ndarray, reg: float) -> tuple[float, np.ndarray]:
    """Cross-entropy and its gradient, all at once; see `softmax_loss_naive`.

    Parameters
    ----------
    W : ndarray of shape (D, C)
    X : ndarray of shape (N, D)
    y : ndarray of shape (N,)
    reg : float

    Returns
    -------
    loss : float
    dW : ndarray of shape (D, C)

    Examples
    --------
    >>> import numpy as np
    >>> round(softmax_loss_vectorized(np.zeros((2, 10)), np.ones((4, 2)), np.array([0, 1, 2, 0]), 0.0)[0], 4)
    2.3026
    """
    loss, dscores = layers.softmax_loss(X @ W, y)
    return float(loss + reg * (W**2).sum()), X.T @ dscores + 2 * reg * W
