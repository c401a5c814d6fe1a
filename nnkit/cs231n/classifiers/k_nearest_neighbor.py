"""k nearest neighbours: remember everything, and ask those who are close."""

import numpy as np


class KNearestNeighbor:
    """Classify by the vote of the k training examples at the smallest Euclidean distance.

    Attributes
    ----------
    X_train, y_train : ndarray
        What `train` was given.

    Examples
    --------
    >>> import numpy as np
    >>> classifier = KNearestNeighbor()
    >>> classifier.train(np.array([[0.0], [1.0], [5.0]]), np.array([0, 0, 1]))
    >>> classifier.predict(np.array([[0.4], [4.0]]))
    array([0, 1])
    """

    X_train: np.ndarray
    y_train: np.ndarray

    def train(self, X: np.ndarray, y: np.ndarray) -> None:
        """Remember the examples.

        Parameters
        ----------
        X : ndarray of shape (num_train, D)
        y : ndarray of shape (num_train,)
        """
        self.X_train, self.y_train = X, y

    def predict(self, X: np.ndarray, k: int = 1, num_loops: int = 0) -> np.ndarray:
        """Return the label of each example.

        Parameters
        ----------
        X : ndarray of shape (num_test, D)
        k : int, default 1
        num_loops : {0, 1, 2}, default 0
            Which way to compute distances.

        Returns
        -------
        ndarray of shape (num_test,)

        Raises
        ------
        ValueError
            If `num_loops` is something else.
        """
        if num_loops == 0:
            dists = self.compute_distances_no_loops(X)
        elif num_loops == 1:
            dists = self.compute_distances_one_loop(X)
        elif num_loops == 2:
            dists = self.compute_distances_two_loops(X)
        else:
            raise ValueError(f"Invalid value {num_loops} for num_loops: expected 0, 1 or 2")
        return self.predict_labels(dists, k=k)

    def compute_distances_two_loops(self, X: np.ndarray) -> np.ndarray:
        """Return all distances, one pair at a time.

        Parameters
        ----------
        X : ndarray of shape (num_test, D)

        Returns
        -------
        ndarray of shape (num_test, num_train)
        """
        X, X_train = _doubles(X), _doubles(self.X_train)
        dists = np.zeros((X.shape[0], X_train.shape[0]))
        for i in range(X.shape[0]):
            for j in range(X_train.shape[0]):
                dists[i, j] = np.sqrt(((X[i] - X_train[j]) ** 2).sum())
        return dists

    def compute_distances_one_loop(self, X: np.ndarray) -> np.ndarray:
        """Return all distances, one test example at a time.

        Parameters
        ----------
        X : ndarray of shape (num_test, D)

        Returns
        -------
        ndarray of shape (num_test, num_train)
        """
        X, X_train = _doubles(X), _doubles(self.X_train)
        dists = np.zeros((X.shape[0], X_train.shape[0]))
        for i in range(X.shape[0]):
            dists[i] = np.sqrt(((X_train - X[i]) ** 2).sum(axis=1))
        return dists

    def compute_distances_no_loops(self, X: np.ndarray) -> np.ndarray:
        """Return all distances at once, by `|a - b|² = |a|² - 2 a·b + |b|²`, most of which is one matrix product.

        Parameters
        ----------
        X : ndarray of shape (num_test, D)

        Returns
        -------
        ndarray of shape (num_test, num_train)
        """
        X, X_train = _doubles(X), _doubles(self.X_train)
        squares = (X**2).sum(axis=1)[:, None] - 2 * (X @ X_train.T) + (X_train**2).sum(axis=1)
        return np.sqrt(np.maximum(squares, 0))  # rounding may leave a little less than nothing

    def predict_labels(self, dists: np.ndarray, k: int = 1) -> np.ndarray:
        """Return the most frequent label among the k nearest of each row; of equally frequent ones the smallest.

        Parameters
        ----------
        dists : ndarray of shape (num_test, num_train)
        k : int, default 1

        Returns
        -------
        ndarray of shape (num_test,)
        """
        labels = np.asarray(self.y_train)
        predictions = np.zeros(dists.shape[0], labels.dtype)
        k = min(k, dists.shape[1])
        farthest = np.partition(dists, k - 1, axis=1)[:, k - 1]
        for i, row in enumerate(dists):
            candidates = np.flatnonzero(row <= farthest[i])  # a few more than k, where distances are equal
            nearest = candidates[np.argsort(row[candidates], kind="stable")[:k]]
            values, counts = np.unique(labels[nearest], return_counts=True)
            predictions[i] = values[counts.argmax()]
        return predictions


def _doubles(X: np.ndarray) -> np.ndarray:
    return np.asarray(X, np.float64)
