"""The regressor: one number a sample, or several."""

from typing import Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.metaestimators import available_if

from nnkit.data import TargetDataset
from nnkit.errors import UsageError
from nnkit.estimator.base import NNEstimator, Samples, can_learn_in_parts
from nnkit.estimator.course import ScaledLoss
from nnkit.layers import Loss, MSELoss, PoissonNLLLoss
from nnkit.solver import Solver

_OUT = {"squared_error": "identity", "poisson": "exp"}


class NNRegressor(RegressorMixin, NNEstimator):
    """A neural network that predicts numbers, with scikit-learn's conventions.

    Parameters are those of `NNClassifier` but for `class_weight`; the first ones and their defaults are those of
    scikit-learn's `MLPRegressor`.

    Parameters
    ----------
    loss : {"squared_error", "poisson"}, default "squared_error"
        Half the squared error; or the likelihood of counts, whose logarithms the network then gives.
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, \
    shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, \
    validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, max_fun
        As for `NNClassifier`.
    dropout, batch_norm, image_shape, conv_channels, schedule, callbacks, model
        As for `NNClassifier`.

    Attributes
    ----------
    validation_scores_ : list of float or None
        R² on the validation samples after each epoch, where there are any.
    model_, history_, loss_curve_, loss_, best_loss_, best_validation_score_, has_stopped_, coefs_, intercepts_, \
    n_features_in_, feature_names_in_, n_outputs_, n_layers_, n_iter_, t_, out_activation_
        As for `NNClassifier`.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> X, y = make_regression(200, 5, random_state=0)
    >>> network = NNRegressor(learning_rate_init=0.05, tol=1.0, batch_size=20, random_state=0).fit(X, y)
    >>> network.score(X, y) > 0.99
    True
    """

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        dropout: float = 0.0,
        batch_norm: bool = False,
        image_shape: Any = None,
        conv_channels: Any = (32, 64),
        schedule: Any = None,
        callbacks: Any = None,
        model: Any = None,
    ) -> None:
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.dropout = dropout
        self.batch_norm = batch_norm
        self.image_shape = image_shape
        self.conv_channels = conv_channels
        self.schedule = schedule
        self.callbacks = callbacks
        self.model = model

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> "NNRegressor":
        """Train the network.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            float32 is trained in float32, which is faster; all else in float64. A sparse matrix is made dense.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), optional
        X_val, y_val, sample_weight_val : array-like, optional
            Samples to validate on after each epoch. Without them, early stopping holds out a part of X.

        Returns
        -------
        NNRegressor
            Itself.

        Raises
        ------
        ValueError
            Data or a setting do not fit.
        DivergenceError
            The loss became NaN or infinite.
        """
        return self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val), partial=False)

    @available_if(can_learn_in_parts)
    def partial_fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> "NNRegressor":
        """Train for one more epoch, on these samples; with `early_stopping`, as `NNClassifier.partial_fit` has it.

        Parameters
        ----------
        X, y, sample_weight, X_val, y_val, sample_weight_val
            As for `fit`.

        Returns
        -------
        NNRegressor
            Itself.
        """
        return self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val), partial=True)

    def predict(self, X: Any) -> np.ndarray:
        """Return the predicted numbers.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            In the type that the network was trained in.
        """
        return self._numbers(self._raw_scores(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _numbers(self, outputs: np.ndarray) -> np.ndarray:
        numbers = np.exp(outputs) if self.out_activation_ == "exp" else outputs
        return numbers[:, 0] if self.n_outputs_ == 1 else numbers

    _target_checks: ClassVar[dict[str, Any]] = {"y_numeric": True}

    def _learn_targets(self, y: np.ndarray, anew: bool, classes: Any) -> None:
        if self.loss not in _OUT:
            raise UsageError(f"loss: expected 'squared_error' or 'poisson', got {self.loss!r}")
        outputs = 1 if y.ndim == 1 else y.shape[1]
        if anew:
            self.n_outputs_, self.out_activation_ = outputs, _OUT[self.loss]
        if outputs != self.n_outputs_:
            raise UsageError(f"y: expected {self.n_outputs_} numbers a sample, as in the first call, got {outputs}")
        if self.loss == "poisson" and (y < 0).any():
            raise UsageError(f"y: expected numbers >= 0 for the Poisson loss, got {y.min()}")

    def _dataset(self, samples: Samples) -> TargetDataset:
        targets = samples.y.reshape(len(samples.y), -1).astype(samples.x.dtype)
        return TargetDataset(self._images(samples.x), targets, samples.weight)

    def _make_loss(self) -> Loss:
        if self.loss == "poisson":
            return ScaledLoss(PoissonNLLLoss(), 1, self.n_outputs_)
        return ScaledLoss(MSELoss(), 1 / 2, self.n_outputs_ / 2)

    def _validation_score(self, solver: Solver, held_out: Samples) -> float:
        predicted = self._numbers(self._outputs(solver.model, held_out.x))
        return float(r2_score(held_out.y, predicted, sample_weight=held_out.weight))
