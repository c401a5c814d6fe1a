"""The hinge loss of a linear classifier, by loops and without."""

import numpy as np

from nnkit.cs231n import layers


def svm_loss_naive(W: np.ndarray, X: np.ndarray, y: np.ndarray, reg: float) -> tuple[float, np.ndarray]:
    """Multiclass hinge loss and its gradient, one example and one class at a time.

    `loss = mean over n of sum over c != y[n] of max(0, s[c] - s[y[n]] + 1) + reg * sum of W²`, with the scores
    `s = X[n] @ W`. A margin above zero grows by X[n] for each unit of `W[:, c]`, and shrinks by it for each unit of
    `W[:, y[n]]`.

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
    >>> svm_loss_naive(np.zeros((2, 3)), np.ones((4, 2)), np.array([0, 1, 2, 0]), 0.0)[0]
    2.0
    """
    num_train, num_classes = X.shape[0], W.shape[1]
    loss, dW = 0.0, np.zeros(W.shape)
    for n in range(num_train):
        scores = X[n] @ W
        for c in range(num_classes):
            margin = scores[c] - scores[y[n]] + 1
            if c != y[n] and margin > 0:
                loss += margin
                dW[:, c] += X[n]
                dW[:, y[n]] -= X[n]
    return float(loss / num_train + reg * (W**2).sum()), dW / num_train + 2 * reg * W


def svm_loss_vectorized(W: np.ndarray, X: np.ndarray, y: np.ndarray, reg: float) -> tuple[float, np.ndarray]:
    """Multiclass hinge loss and its gradient, all at once; see `svm_loss_naive`.

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
    >>> svm_loss_vectorized(np.zeros((2, 3)), np.ones((4, 2)), np.array([0, 1, 2, 0]), 0.0)[0]
    2.0
    """
    loss, dscores = layers.svm_loss(X @ W, y)
    return float(loss + reg * (W**2).sum()), X.T @ dscores + 2 * reg * W
