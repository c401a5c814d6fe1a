"""The classifier: one label of several, or several yes-or-no questions at once."""

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels

from nnkit.data import Dataset, TargetDataset
from nnkit.errors import UsageError
from nnkit.estimator.base import NNEstimator, Samples, can_learn_in_parts
from nnkit.estimator.course import ScaledLoss
from nnkit.functional import sigmoid_forward, softmax_forward
from nnkit.layers import BCEWithLogitsLoss, CrossEntropyLoss, Loss
from nnkit.solver import Solver


class NNClassifier(ClassifierMixin, NNEstimator):
    """A neural network that classifies, with scikit-learn's conventions.

    The first parameters and their defaults are those of scikit-learn's `MLPClassifier`, and mean the same. The others
    are what that does not have.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default (100,)
    activation : str, default "relu"
        identity, logistic, tanh, relu; leaky_relu, gelu or silu.
    solver : {"adam", "sgd", "lbfgs"}, default "adam"
    alpha : float, default 1e-4
        Strength of the L2 penalty on weights, which is divided by the number of samples in a batch.
    batch_size : int or "auto", default "auto"
        200, or all samples where there are fewer.
    learning_rate : {"constant", "invscaling", "adaptive"}, default "constant"
        For sgd.
    learning_rate_init : float, default 1e-3
    power_t : float, default 0.5
        For invscaling.
    max_iter : int, default 200
        Epochs at most.
    shuffle : bool, default True
    random_state : int, RandomState or None, default None
    tol : float, default 1e-4
    verbose : bool or int, default False
        Whether to show a progress bar; from 2 on, also a line for each epoch.
    warm_start : bool, default False
    momentum : float, default 0.9
        Below 1; for sgd.
    nesterovs_momentum : bool, default True
    early_stopping : bool, default False
        Stop by the validation score, not by the training loss, and keep the best weights.
    validation_fraction : float, default 0.1
        What part of the samples is held out for early stopping where `fit` is given no validation set.
    beta_1, beta_2, epsilon : float, default 0.9, 0.999 and 1e-8
        For adam.
    n_iter_no_change : int, default 10
    max_fun : int, default 15000
        For lbfgs.
    class_weight : dict, "balanced" or None, default None
        How much the samples of each class count, as in `LogisticRegression`.
    dropout : float, default 0
        Share of the units that is left out in training, after each hidden layer.
    batch_norm : bool, default False
        Before each activation.
    image_shape : (height, width) or (height, width, channels), optional
        The rows of X are images, as `images.reshape(len(images), -1)` makes them. Convolutions then come first.
    conv_channels : sequence of int, default (32, 64)
        Channels of the 3×3 convolutions, each with a 2×2 max pool behind it, where there are images.
    schedule : Schedule, optional
        One of `nnkit.optim`, for `max_iter` epochs.
    callbacks : sequence of callables, optional
        Each is called with the Solver after each epoch; `nnkit.callbacks.StopTraining` ends the training.
    model : str or callable, optional
        A network of your own in place of the one above: a name as for `nnkit.models.create`, or a function of the
        number of outputs that returns an unbuilt Model, whose outputs are scores. Two classes are one output.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    n_features_in_, n_outputs_, n_layers_, n_iter_, t_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where X has names for its columns.
    out_activation_ : str
        "softmax", or "logistic" for two classes and for several labels at once.
    model_ : Model
        The network.
    history_ : History
        Epoch by epoch: losses, accuracies, rate, time. There is none for lbfgs.
    loss_curve_ : list of float
        The training loss after each epoch, without penalty.
    loss_, best_loss_ : float
        Of the last epoch, and the lowest; with early stopping, `best_loss_` is None.
    validation_scores_ : list of float or None
        The accuracy on the validation samples after each epoch, where there are any.
    best_validation_score_ : float or None
        With early stopping.
    has_stopped_ : bool
        Whether `partial_fit` has stopped early: further calls change nothing.
    coefs_, intercepts_ : list of ndarray
        Of the linear layers.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, y = load_iris(return_X_y=True)
    >>> network = NNClassifier((20,), learning_rate_init=0.02, n_iter_no_change=5, tol=1e-3, random_state=0)
    >>> pipeline = make_pipeline(StandardScaler(), network).fit(X, y)
    >>> pipeline.score(X, y) > 0.95
    True
    """

    def __init__(
        self,
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
        class_weight: Any = None,
        dropout: float = 0.0,
        batch_norm: bool = False,
        image_shape: Any = None,
        conv_channels: Any = (32, 64),
        schedule: Any = None,
        callbacks: Any = None,
        model: Any = None,
    ) -> None:
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
        self.class_weight = class_weight
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
    ) -> "NNClassifier":
        """Train the network.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            float32 is trained in float32, which is faster; all else in float64. A sparse matrix is made dense.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Labels; or 0 and 1 in a column for each of several labels.
        sample_weight : array-like of shape (n_samples,), optional
        X_val, y_val, sample_weight_val : array-like, optional
            Samples to validate on after each epoch. Without them, early stopping holds out a part of X.

        Returns
        -------
        NNClassifier
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
        classes: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> "NNClassifier":
        """Train for one more epoch, on these samples.

        With `early_stopping`, the score on the validation samples is watched from call to call, best on the same
        `X_val` each time: after more than `n_iter_no_change` calls without improvement the best weights so far are put
        back, `has_stopped_` is True, and further calls change nothing.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        classes : array-like of shape (n_classes,), optional
            All classes; needed in the first call, unless y has several labels at once.
        X_val, y_val, sample_weight_val
            As for `fit`.

        Returns
        -------
        NNClassifier
            Itself.
        """
        known = None if classes is None else unique_labels(classes)
        if hasattr(self, "model_"):
            if known is not None and not np.array_equal(known, self.classes_):
                raise UsageError(f"classes: expected those of the first call, {self.classes_}, got {known}")
        elif known is None and not type_of_target(y).startswith("multilabel"):
            raise UsageError("classes: expected all of them in the first call to partial_fit, got None")
        return self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val), partial=True, classes=known)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each sample.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_labels)
        """
        scores = self._raw_scores(X)
        if self._several_labels:
            return (scores > 0).astype(np.int64)
        chosen = scores.argmax(axis=1) if self.out_activation_ == "softmax" else (scores[:, 0] > 0).astype(np.int64)
        return self.classes_[np.minimum(chosen, len(self.classes_) - 1)]  # y may have had one class only

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the type that the network was trained in. Of several labels at once, each one's own probability.
        """
        scores = self._raw_scores(X)
        if self.out_activation_ == "softmax":
            return np.array(softmax_forward(scores)[0])
        yes = np.array(sigmoid_forward(scores)[0])
        if self._several_labels:
            return yes
        return np.hstack([1 - yes, yes]) if len(self.classes_) > 1 else np.ones_like(yes)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithm of `predict_proba`.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _learn_targets(self, y: np.ndarray, anew: bool, classes: Any) -> None:
        check_classification_targets(y)
        several = type_of_target(y) == "multilabel-indicator"
        if y.ndim == 2 and not several:
            raise UsageError("y: expected a label for each sample, or columns of 0 and 1, got columns of labels")
        if anew:
            self._several_labels = several
            self.classes_ = np.arange(y.shape[1]) if several else np.unique(y) if classes is None else classes
            self.n_outputs_ = len(self.classes_) if several or len(self.classes_) > 2 else 1
            self.out_activation_ = "logistic" if several or len(self.classes_) <= 2 else "softmax"
        if several != self._several_labels or (several and y.shape[1] != self.n_outputs_):
            expected = f"{self.n_outputs_} columns of 0 and 1" if self._several_labels else "a label for each sample"
            raise UsageError(f"y: expected {expected}, as in the first call, got an array of shape {y.shape}")

    def _dataset(self, samples: Samples) -> Dataset:
        images, y = self._images(samples.x), samples.y
        if self._several_labels:
            return TargetDataset(images, y.astype(samples.x.dtype), samples.weight)
        labels = np.minimum(np.searchsorted(self.classes_, y), len(self.classes_) - 1)
        unknown = self.classes_[labels] != y
        if unknown.any():
            raise UsageError(f"y: expected labels among {self.classes_.tolist()}, got {y[unknown].tolist()[0]!r}")
        if self.out_activation_ == "softmax":
            return Dataset(images, labels, [str(c) for c in range(len(self.classes_))], samples.weight)
        return TargetDataset(images, labels[:, None].astype(samples.x.dtype), samples.weight)

    def _make_loss(self) -> Loss:
        if self.out_activation_ == "softmax":
            return CrossEntropyLoss()
        return ScaledLoss(BCEWithLogitsLoss(), self.n_outputs_, self.n_outputs_)

    def _weights(self, samples: Samples, partial: bool) -> np.ndarray | None:
        if self.class_weight is None:
            return samples.weight
        if partial and isinstance(self.class_weight, str):
            raise UsageError(f"class_weight: partial_fit sees a part only and needs a dict, got {self.class_weight!r}")
        by_class = compute_sample_weight(self.class_weight, samples.y)
        if not (np.isfinite(by_class) & (by_class >= 0)).all():
            raise UsageError(f"class_weight: expected finite numbers >= 0, got {self.class_weight!r}")
        return by_class if samples.weight is None else samples.weight * by_class

    def _validation_score(self, solver: Solver, held_out: Samples) -> float:
        return solver.history.val_accuracy[-1] or 0.0

    def _strata(self, y: np.ndarray) -> np.ndarray | None:
        return None if self._several_labels else y
