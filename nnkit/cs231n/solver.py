"""The course's training loop: minibatches drawn with replacement, dictionaries of parameters, printed progress.

`nnkit.Solver` is the one to train with in earnest: it goes through every image once an epoch, resumes, and stops early.
"""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from nnkit.cs231n import optim
from nnkit.files import atomic_path


class Solver:
    """Train a model and keep the parameters that were best on the validation set.

    A model is an object with a dictionary `params` of arrays and a method `loss`: `loss(X, y)` returns the loss and a
    dictionary of gradients with the same keys, `loss(X)` the scores.

    Parameters
    ----------
    model : object
    data : dict
        `X_train`, `y_train`, `X_val`, `y_val`; anything else in it is ignored.
    update_rule : str, default "sgd"
        A function of `optim`.
    optim_config : dict, optional
        Its settings; each parameter gets a copy.
    lr_decay : float, default 1
        Learning rates are multiplied by it after each epoch.
    batch_size, num_epochs : int, default 100 and 10
        An epoch is `max(N // batch_size, 1)` minibatches; each is drawn from the whole training set, with replacement.
    num_train_samples, num_val_samples : int or None, default 1000 and None
        How many random examples to measure accuracies on; None for all.
    checkpoint_name : str, optional
        Where to write the model after each epoch: `<checkpoint_name>_epoch_<epoch>.pkl`.
    print_every : int, default 10
        Iterations from one printed loss to the next.
    verbose : bool, default True

    Attributes
    ----------
    loss_history : list of float
        One an iteration.
    train_acc_history, val_acc_history : list of float
        After the first iteration, and after each epoch.
    best_val_acc : float
    best_params : dict
        Copies of the parameters that reached it. At the end of `train` they are the model's parameters.

    Raises
    ------
    ValueError
        If there is an unknown argument, or no such update rule.

    Examples
    --------
    >>> import numpy as np
    >>> from nnkit.cs231n.classifiers.fc_net import TwoLayerNet
    >>> np.random.seed(0)
    >>> X, y = np.random.randn(60, 2), np.arange(60) % 2
    >>> X[:, 0] += 6 * y
    >>> data = {"X_train": X[:50], "y_train": y[:50], "X_val": X[50:], "y_val": y[50:]}
    >>> solver = Solver(TwoLayerNet(2, 5, 2), data, optim_config={"learning_rate": 1.0}, num_epochs=40, verbose=False)
    >>> solver.train()
    >>> solver.best_val_acc
    1.0
    """

    def __init__(
        self,
        model: Any,
        data: dict[str, np.ndarray],
        *,
        update_rule: str = "sgd",
        optim_config: dict[str, Any] | None = None,
        lr_decay: float = 1.0,
        batch_size: int = 100,
        num_epochs: int = 10,
        num_train_samples: int | None = 1000,
        num_val_samples: int | None = None,
        checkpoint_name: str | None = None,
        print_every: int = 10,
        verbose: bool = True,
        **unknown: Any,
    ) -> None:
        if unknown:
            raise ValueError(f"Unrecognized arguments {', '.join(map(repr, unknown))}")
        if not isinstance(update_rule, str) or not hasattr(optim, update_rule):
            raise ValueError(f"Invalid update_rule {update_rule!r}")
        self.model = model
        self.X_train, self.y_train = data["X_train"], data["y_train"]
        self.X_val, self.y_val = data["X_val"], data["y_val"]
        self.update_rule: Callable[..., tuple[np.ndarray, dict[str, Any]]] = getattr(optim, update_rule)
        self.optim_config = {} if optim_config is None else optim_config
        self.lr_decay = lr_decay
        self.batch_size, self.num_epochs = batch_size, num_epochs
        self.num_train_samples, self.num_val_samples = num_train_samples, num_val_samples
        self.checkpoint_name = checkpoint_name
        self.print_every, self.verbose = print_every, verbose
        self._reset()

    def _reset(self) -> None:
        """Forget all progress; the model keeps its parameters."""
        self.epoch = 0
        self.best_val_acc = 0.0
        self.best_params: dict[str, np.ndarray] = {}
        self.loss_history: list[float] = []
        self.train_acc_history: list[float] = []
        self.val_acc_history: list[float] = []
        self.optim_configs = {name: dict(self.optim_config) for name in self.model.params}

    def _step(self) -> None:
        """Draw one minibatch and update every parameter."""
        chosen = np.random.choice(self.X_train.shape[0], self.batch_size)
        loss, grads = self.model.loss(self.X_train[chosen], self.y_train[chosen])
        self.loss_history.append(loss)
        for name, w in self.model.params.items():
            next_w, config = self.update_rule(w, grads[name], self.optim_configs[name])
            self.model.params[name] = next_w
            self.optim_configs[name] = config

    def _save_checkpoint(self) -> None:
        """Pickle the model and the histories, if there is a name for the file."""
        if self.checkpoint_name is None:
            return
        checkpoint = {
            "model": self.model,
            "update_rule": self.update_rule,
            "lr_decay": self.lr_decay,
            "optim_config": self.optim_config,
            "batch_size": self.batch_size,
            "num_train_samples": self.num_train_samples,
            "num_val_samples": self.num_val_samples,
            "epoch": self.epoch,
            "loss_history": self.loss_history,
            "train_acc_history": self.train_acc_history,
            "val_acc_history": self.val_acc_history,
        }
        filename = f"{self.checkpoint_name}_epoch_{self.epoch}.pkl"
        if self.verbose:
            print(f'Saving checkpoint to "{filename}"')
        with atomic_path(filename) as temporary, open(temporary, "wb") as file:
            pickle.dump(checkpoint, file)

    def check_accuracy(
        self, X: np.ndarray, y: np.ndarray, num_samples: int | None = None, batch_size: int = 100
    ) -> float:
        """Return the fraction of examples whose largest score is that of the true class.

        Parameters
        ----------
        X : ndarray of shape (N, ...)
        y : ndarray of shape (N,)
        num_samples : int, optional
            Take that many random examples, if there are more.
        batch_size : int, default 100
            Examples for one call of the model.

        Returns
        -------
        float
        """
        if num_samples is not None and X.shape[0] > num_samples:
            chosen = np.random.choice(X.shape[0], num_samples)
            X, y = X[chosen], y[chosen]
        predictions = [
            np.argmax(self.model.loss(X[start : start + batch_size]), axis=1)
            for start in range(0, X.shape[0], batch_size)
        ]
        return float(np.mean(np.concatenate(predictions) == y))

    def train(self) -> None:
        """Train for `num_epochs`, then give the model the best parameters."""
        iterations_per_epoch = max(self.X_train.shape[0] // self.batch_size, 1)
        num_iterations = self.num_epochs * iterations_per_epoch
        for t in range(num_iterations):
            self._step()
            if self.verbose and t % self.print_every == 0:
                print(f"(Iteration {t + 1} / {num_iterations}) loss: {float(self.loss_history[-1]):f}")
            epoch_ends = (t + 1) % iterations_per_epoch == 0
            if epoch_ends:
                self.epoch += 1
                for config in self.optim_configs.values():
                    config["learning_rate"] *= self.lr_decay
            if epoch_ends or t in (0, num_iterations - 1):
                self._measure()
        if self.best_params:
            self.model.params = self.best_params

    def _measure(self) -> None:
        """Take both accuracies, save, print, and keep the parameters if they are the best so far."""
        train_acc = self.check_accuracy(self.X_train, self.y_train, num_samples=self.num_train_samples)
        val_acc = self.check_accuracy(self.X_val, self.y_val, num_samples=self.num_val_samples)
        self.train_acc_history.append(train_acc)
        self.val_acc_history.append(val_acc)
        self._save_checkpoint()
        if self.verbose:
            print(f"(Epoch {self.epoch} / {self.num_epochs}) train acc: {train_acc:f}; val_acc: {val_acc:f}")
        if val_acc > self.best_val_acc:
            self.best_val_acc = val_acc
            self.best_params = {name: w.copy() for name, w in self.model.params.items()}
