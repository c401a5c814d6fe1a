"""Linear classifiers, trained by stochastic gradient descent."""

import numpy as np

from nnkit.cs231n.classifiers import saving
from nnkit.cs231n.classifiers.linear_svm import svm_loss_naive, svm_loss_vectorized
from nnkit.cs231n.classifiers.softmax import softmax_loss_naive, softmax_loss_vectorized

__all__ = [
    "LinearClassifier",
    "LinearSVM",
    "Softmax",
    "softmax_loss_naive",
    "softmax_loss_vectorized",
    "svm_loss_naive",
    "svm_loss_vectorized",
]


class LinearClassifier:
    """Scores that are linear in the features; what is good scores is for the subclasses' `loss` to say.

    Attributes
    ----------
    W : ndarray of shape (D, C), or None before the first training

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.array([[0.0, 1.0], [5.0, 1.0]]), np.array([0, 1])  # the last column stands for a bias
    >>> classifier = Softmax()
    >>> _ = classifier.train(X, y, learning_rate=0.5, num_iters=200, batch_size=10)
    >>> classifier.predict(X)
    array([0, 1])
    """

    def __init__(self) -> None:
        self.W: np.ndarray | None = None

    def train(
        self,
        X: np.ndarray,
        y: np.ndarray,
        learning_rate: float = 1e-3,
        reg: float = 1e-5,
        num_iters: int = 100,
        batch_size: int = 200,
        verbose: bool = False,
    ) -> list[float]:
        """Descend along the gradient of random minibatches; a second call goes on where the first one ended.

        Parameters
        ----------
        X : ndarray of shape (N, D)
        y : ndarray of shape (N,)
            Labels from 0 to C - 1.
        learning_rate, reg : float, default 1e-3 and 1e-5
        num_iters, batch_size : int, default 100 and 200
            Minibatches are drawn with replacement.
        verbose : bool, default False
            Print the loss every 100 iterations.

        Returns
        -------
        list of float
            The loss of each iteration.
        """
        if self.W is None:
            self.W = 0.001 * np.random.randn(X.shape[1], int(np.max(y)) + 1)
        losses = []
        for it in range(num_iters):
            chosen = np.random.choice(X.shape[0], batch_size)
            loss, grad = self.loss(X[chosen], y[chosen], reg)
            losses.append(loss)
            self.W = self.W - learning_rate * grad
            if verbose and it % 100 == 0:
                print(f"iteration {it} / {num_iters}: loss {loss:f}")
        return losses

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class of the largest score.

        Parameters
        ----------
        X : ndarray of shape (N, D)

        Returns
        -------
        ndarray of shape (N,), integers

        Raises
        ------
        ValueError
            If the classifier was not trained yet.
        """
        return np.argmax(X @ self._trained(), axis=1)

    def loss(self, X_batch: np.ndarray, y_batch: np.ndarray, reg: float) -> tuple[float, np.ndarray]:
        """Return the loss and its gradient with respect to W; for subclasses to define.

        Parameters
        ----------
        X_batch : ndarray of shape (N, D)
        y_batch : ndarray of shape (N,)
        reg : float

        Returns
        -------
        loss : float
        dW : ndarray of shape (D, C)
        """
        raise NotImplementedError(f"{type(self).__name__}: define loss(X_batch, y_batch, reg)")

    def save(self, fname: str) -> None:
        """Write W to `cs231n/saved/<fname>`.

        Parameters
        ----------
        fname : str
        """
        saving.save(fname, {"W": self._trained()})

    def load(self, fname: str) -> bool:
        """Read W from `cs231n/saved/<fname>`.

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
        self.W = params["W"]
        return True

    def _trained(self) -> np.ndarray:
        if self.W is None:
            raise ValueError(f"{type(self).__name__}: call train first")
        return self.W


class LinearSVM(LinearClassifier):
    """A linear classifier with the multiclass hinge loss."""

    def loss(self, X_batch: np.ndarray, y_batch: np.ndarray, reg: float) -> tuple[float, np.ndarray]:
        """Return `svm_loss_vectorized` of the weights.

        Parameters
        ----------
        X_batch : ndarray of shape (N, D)
        y_batch : ndarray of shape (N,)
        reg : float

        Returns
        -------
        loss : float
        dW : ndarray of shape (D, C)
        """
        return svm_loss_vectorized(self._trained(), X_batch, y_batch, reg)


class Softmax(LinearClassifier):
    """A linear classifier with the cross-entropy loss."""

    def loss(self, X_batch: np.ndarray, y_batch: np.ndarray, reg: float) -> tuple[float, np.ndarray]:
        """Return `softmax_loss_vectorized` of the weights.

        Parameters
        ----------
        X_batch : ndarray of shape (N, D)
        y_batch : ndarray of shape (N,)
        reg : float

        Returns
        -------
        loss : float
        dW : ndarray of shape (D, C)
        """
        return softmax_loss_vectorized(self._trained(), X_batch, y_batch, reg)
