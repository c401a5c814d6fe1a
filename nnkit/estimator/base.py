"""What both estimators share: from scikit-learn's settings and arrays to a Solver, and back."""

import math
import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from nnkit._ext import sharing_threads
from nnkit.callbacks import StopTraining, print_epoch
from nnkit.data import Dataset
from nnkit.errors import DivergenceError, UsageError, did_you_mean, whole_number
from nnkit.estimator.course import Adaptive, Improvement, InverseScaling, ScaledLoss
from nnkit.estimator.lbfgs import minimize
from nnkit.estimator.network import checked_image_shape, decayed_names, make_network, model_of
from nnkit.history import History
from nnkit.layers import Loss
from nnkit.models import Model
from nnkit.optim import SGD, Adam, ConstantLR, Optimizer, Schedule
from nnkit.solver import Solver

_DTYPES = (np.float64, np.float32)  # what is neither of the two becomes the first
_FORMATS = ("csr", "csc")
_ARCHITECTURE = ("hidden_layer_sizes", "activation", "dropout", "batch_norm", "image_shape", "conv_channels", "model")
_LOWEST_RATE = 1e-6  # below it, scikit-learn's adaptive rate ends the training


class Samples(NamedTuple):
    """Rows of features, what they are to be mapped to, and weights."""

    x: np.ndarray
    y: np.ndarray  # as the user has given it, in one or two axes
    weight: np.ndarray | None

    def part(self, rows: np.ndarray) -> "Samples":
        """Return some of them."""
        return Samples(self.x[rows], self.y[rows], None if self.weight is None else self.weight[rows])


class NNEstimator(BaseEstimator):
    """The base class of `NNClassifier` and `NNRegressor`, which say what the outputs mean."""

    n_iter_: int
    has_stopped_: bool
    _improvement: Improvement
    _optimizer: Optimizer | None
    _best_weights: dict[str, np.ndarray] | None

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, validation: tuple[Any, ...], *, partial: bool, classes: Any = None
    ) -> Any:
        """Train for `max_iter` epochs at most, or for one more on these samples."""
        anew = not hasattr(self, "model_") or not (partial or self.warm_start)
        self._check_settings()
        samples = self._validated(X, y, sample_weight, reset=anew)
        self._learn_targets(samples.y, anew, classes)
        if partial and not anew and self.has_stopped_:
            return self
        if anew or not partial:
            self._begin()
        held_out = self._validation_samples(validation)
        if held_out is None and self.early_stopping:
            samples, held_out = self._split(samples)
        samples = samples._replace(weight=self._weights(samples, partial))
        if anew:
            self.model_ = self._built_model(samples.x)
            self._architecture = {name: getattr(self, name) for name in _ARCHITECTURE}
        self._require_same_architecture()
        try:
            with sharing_threads():
                if self.solver == "lbfgs":
                    self._minimize(samples)
                else:
                    self._train(samples, held_out, partial)
        except Exception:
            if anew:  # or `predict` would answer
                del self.model_
            raise
        return self

    def _require_same_architecture(self) -> None:
        """Raise where a network that is to be trained on is not the one that the settings describe."""
        for name, value in self._architecture.items():
            if not np.array_equal(getattr(self, name), value):
                now = getattr(self, name)
                raise UsageError(f"{name}: the network was made with {value!r} and cannot go on with {now!r}")

    def _begin(self) -> None:
        """Forget the course of an earlier training."""
        self._seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        self.history_, self.n_iter_, self.t_, self._steps = History(), 0, 0, 0
        self.validation_scores_: list[float] | None = None
        self.has_stopped_, self._improvement = False, Improvement(self.tol, self.n_iter_no_change)
        self._optimizer = self._best_weights = None
        for name in ("loss_curve_", "best_loss_", "best_validation_score_"):  # which lbfgs does not have
            self.__dict__.pop(name, None)

    def _train(self, samples: Samples, held_out: Samples | None, partial: bool) -> None:
        """Hand everything to a Solver, and keep what it finds."""
        solver = self._make_solver(samples, held_out, partial)
        has_converged = False

        def end_of_epoch(solver: Solver) -> None:
            nonlocal has_converged
            value = -solver.history.train_loss[-1]
            if held_out is not None:
                score = self._validation_score(solver, held_out)
                self.validation_scores_ = [*(self.validation_scores_ or ()), score]
                value = score if self.early_stopping else value
            if self._improvement.is_over(value):
                if isinstance(solver.schedule, Adaptive) and solver.optimizer.lr > _LOWEST_RATE:
                    solver.schedule.multiplier /= 5
                    self._improvement.waited = 0
                else:
                    has_converged = True
            if has_converged or partial:
                raise StopTraining

        solver.callbacks = [*([print_epoch] if self.verbose > 1 else []), *(self.callbacks or ()), end_of_epoch]
        try:
            solver.train()
        except DivergenceError:  # whose hint is of settings that go by other names here
            where = f"after step {solver.step} (epoch {solver.epoch + 1})"
            hint = f"try a lower rate (learning_rate_init={self.learning_rate_init / 10:g}), or scale the samples"
            raise DivergenceError(f"the loss or the weights became NaN or infinite {where}; {hint}") from None
        self._keep(solver, partial, has_converged)
        self.t_ += len(samples.x) * (1 if partial else self.n_iter_)
        if not partial and self.n_iter_ == self.max_iter and not has_converged:
            text = f"max_iter={self.max_iter} epochs are done, and the training has not converged yet"
            warnings.warn(text, ConvergenceWarning, stacklevel=4)

    def _keep(self, solver: Solver, partial: bool, has_converged: bool) -> None:
        """Take from a Solver what users look at, and what the next call goes on with."""
        self.n_iter_, self._steps = solver.epoch, solver.step
        self._optimizer, self._schedule_state = solver.optimizer, solver.schedule.state_dict()
        self.loss_curve_ = list(self.history_.train_loss)
        self.loss_ = self.loss_curve_[-1]
        # As in scikit-learn, it is one or the other.
        self.best_loss_ = None if self.early_stopping else min(self.loss_curve_)
        self.best_validation_score_ = max(self.validation_scores_ or ()) if self.early_stopping else None
        if partial and self.early_stopping:
            self.has_stopped_, self._best_weights = has_converged, solver.best_weights
            if has_converged:
                self.model_.load_state_dict(solver.best_weights)
        if not partial:
            self._improvement = Improvement(self.tol, self.n_iter_no_change)  # for a `partial_fit` that follows

    def _make_solver(self, samples: Samples, held_out: Samples | None, partial: bool) -> Solver:
        """Return a Solver at the epoch where the training is."""
        batch_size = self._batch_size(len(samples.x))
        weight = 1.0 if samples.weight is None else float(samples.weight.mean())
        optimizer = self._make_optimizer(self.alpha / (batch_size * weight) if weight else 0.0)
        solver = Solver(
            self.model_,
            self._dataset(samples),
            optimizer,
            epochs=max(self.max_iter, self.n_iter_ + 1),
            batch_size=batch_size,
            shuffle=self.shuffle,
            schedule=self._make_schedule(len(samples.x)),
            loss=self._make_loss(),
            normalize=(0.0, 1.0),  # scaling is for a step of the pipeline
            validation=None if held_out is None else self._dataset(held_out),
            restore_best=self.early_stopping and not partial,
            seed=self._seed,
            progress=bool(self.verbose),
        )
        if partial and self._optimizer is not None:  # go on
            optimizer.load_state_dict(self._optimizer.state_dict())
            solver.epoch, solver.step = self.n_iter_, self._steps
            solver.best_weights = self._best_weights or solver.best_weights
            if self._schedule_state:
                solver.schedule.load_state_dict(self._schedule_state)
        solver.history = self.history_
        return solver

    def _minimize(self, samples: Samples) -> None:
        """Let SciPy find the weights, all samples at once."""
        if self.dropout or self.early_stopping or self.callbacks or self.schedule:
            raise UsageError("solver: 'lbfgs' goes without dropout, early_stopping, callbacks and schedule")
        weight = float(len(samples.x) if samples.weight is None else samples.weight.sum())
        limits = {"maxiter": self.max_iter, "maxfun": self.max_fun, "gtol": self.tol}
        decay = self.alpha / (weight or 1.0)
        loss = self._make_loss()
        if isinstance(loss, ScaledLoss):  # the value must fit the gradient here
            loss = ScaledLoss(loss.loss, loss.gradient, loss.gradient)
        found = minimize(self.model_, loss, self._dataset(samples), decay=decay, options=limits)
        self.n_iter_, self.loss_, self.t_ = min(found.nit, self.max_iter), float(found.fun), len(samples.x) * found.nit
        if not found.success:
            text = f"solver: 'lbfgs' has not converged after {found.nit} iterations: {found.message}"
            warnings.warn(text, ConvergenceWarning, stacklevel=4)

    # ---- data ----------------------------------------------------------------------------------------------------

    def _validated(self, X: Any, y: Any, sample_weight: Any, reset: bool) -> Samples:
        options = {"accept_sparse": _FORMATS, "dtype": _DTYPES, "multi_output": True, "reset": reset}
        x, y = validate_data(self, X, y, **options, **self._target_checks)
        if issparse(y):
            y = y.toarray()
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, x, ensure_non_negative=True)
        return Samples(_dense(x), y, weight)

    def _validation_samples(self, validation: tuple[Any, Any, Any]) -> Samples | None:
        X, y, sample_weight = validation
        if X is None and y is None:
            if sample_weight is not None:
                raise UsageError("sample_weight_val: expected X_val and y_val with it")
            return None
        if X is None or y is None:
            raise UsageError(f"validation: expected X_val and y_val, got {'y_val' if X is None else 'X_val'} alone")
        return self._validated(X, y, sample_weight, reset=False)

    def _split(self, samples: Samples) -> tuple[Samples, Samples]:
        """Split off the validation part, as scikit-learn does."""
        rows = np.arange(len(samples.x))
        options = {"test_size": self.validation_fraction, "random_state": self._seed}
        train, held_out = train_test_split(rows, **options, stratify=self._strata(samples.y))
        if len(held_out) < 2:
            raise UsageError(
                f"validation_fraction: {self.validation_fraction} of {len(rows)} samples is too small a validation set"
            )
        return samples.part(train), samples.part(held_out)

    def _images(self, x: np.ndarray) -> np.ndarray:
        """Return rows of features as images (n, H, W, C), of one pixel if they are none."""
        shape = (1, 1, x.shape[1])
        if self.image_shape is not None:
            shape = checked_image_shape(self.image_shape, x.shape[1])
        return x.reshape(len(x), *shape)

    def _raw_scores(self, X: Any) -> np.ndarray:
        """Return the network's outputs, one row a sample."""
        check_is_fitted(self, "model_")
        x = validate_data(self, X, accept_sparse=_FORMATS, dtype=_DTYPES, reset=False)
        with sharing_threads():
            return self._outputs(self.model_, _dense(x))

    def _outputs(self, model: Model, x: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            return model.predict_scores(self._images(x).transpose(0, 3, 1, 2))

    # ---- from settings to objects --------------------------------------------------------------------------------

    def _built_model(self, x: np.ndarray) -> Model:
        images = self._images(x[:1])
        if self.model is not None:
            model = model_of(self.model, self.n_outputs_, self.image_shape is not None)
        else:
            model = make_network(
                self.n_outputs_,
                hidden=_sizes(self.hidden_layer_sizes),
                channels=[] if self.image_shape is None else _sizes(self.conv_channels),
                activation=self.activation,
                batch_norm=self.batch_norm,
                dropout=self.dropout,
            )
        _, height, width, channels = images.shape
        outputs = model.build((channels, height, width), seed=self._seed, dtype=x.dtype)
        if outputs != (self.n_outputs_,):
            raise UsageError(f"model: expected one with an output of shape ({self.n_outputs_},), got {outputs}")
        return model

    def _make_optimizer(self, weight_decay: float) -> Optimizer:
        lr, decayed = self.learning_rate_init, decayed_names(self.model_)
        others = [name for name in self.model_.named_parameters() if name not in decayed]
        options: dict[str, Any] = {"weight_decay": weight_decay}
        if others:
            options["groups"] = [{"names": others, "weight_decay": 0.0}]
        if self.solver == "adam":
            return Adam(lr, betas=(self.beta_1, self.beta_2), eps=self.epsilon, **options)
        return SGD(lr, momentum=self.momentum, nesterov=self.nesterovs_momentum and self.momentum > 0, **options)

    def _make_schedule(self, samples: int) -> Schedule:
        if self.schedule is not None:
            return self.schedule
        if self.solver == "sgd" and self.learning_rate == "invscaling":
            return InverseScaling(samples, self.power_t)
        return Adaptive() if self.solver == "sgd" and self.learning_rate == "adaptive" else ConstantLR()

    def _batch_size(self, samples: int) -> int:
        if isinstance(self.batch_size, str):
            return min(200, samples)
        if self.batch_size > samples:
            warnings.warn(f"batch_size={self.batch_size} is more than the {samples} samples", UserWarning, stacklevel=6)
        return min(int(self.batch_size), samples)

    def _check_settings(self) -> None:
        """Find what is wrong before anything is computed; layers and optimizers check their own settings."""
        _one_of("solver", self.solver, ("adam", "sgd", "lbfgs"))
        _one_of("learning_rate", self.learning_rate, ("constant", "invscaling", "adaptive"))
        if not isinstance(self.batch_size, str) or self.batch_size != "auto":
            whole_number("batch_size", self.batch_size, 1)
        for name in ("max_iter", "max_fun"):
            whole_number(name, getattr(self, name), 1)
        if self.n_iter_no_change != math.inf:
            whole_number("n_iter_no_change", self.n_iter_no_change, 1)
        for name in ("alpha", "tol", "power_t", "learning_rate_init"):
            _number(name, getattr(self, name), 0.0)
        for name in ("dropout", "validation_fraction"):
            _number(name, getattr(self, name), 0.0, 1.0)
        for name in ("shuffle", "warm_start", "nesterovs_momentum", "early_stopping", "batch_norm"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise UsageError(f"{name}: expected True or False, got {getattr(self, name)!r}")
        if not isinstance(self.verbose, Integral | np.bool_):  # True and False are integers, too
            raise UsageError(f"verbose: expected True, False or a whole number, got {self.verbose!r}")
        callbacks = self.callbacks or ()
        if not np.iterable(callbacks) or not all(map(callable, callbacks)):
            raise UsageError(f"callbacks: expected a list of functions that take the Solver, got {callbacks!r}")
        if self.schedule is not None:
            if not isinstance(self.schedule, Schedule):
                raise UsageError(f"schedule: expected one of nnkit.optim's schedules, got {self.schedule!r}")
            if self.learning_rate != "constant":
                raise UsageError(f"schedule: goes with learning_rate='constant' only, got {self.learning_rate!r}")

    # ---- what scikit-learn's users look at -----------------------------------------------------------------------

    @property
    def coefs_(self) -> list[np.ndarray]:
        """The linear layers' weights, (inputs, outputs) each."""
        return [array.T for array in self.model_.named_parameters().values() if array.ndim == 2]

    @property
    def intercepts_(self) -> list[np.ndarray]:
        """The linear layers' biases."""
        arrays = self.model_.named_parameters()
        linear = [name.removesuffix("weight") + "bias" for name, array in arrays.items() if array.ndim == 2]
        return [arrays[name] for name in linear if name in arrays]

    @property
    def n_layers_(self) -> int:
        """How many layers of units there are, inputs and outputs among them."""
        return len(decayed_names(self.model_)) + 1

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    # ---- what the outputs mean: for subclasses -------------------------------------------------------------------

    _target_checks: ClassVar[dict[str, Any]] = {}

    def _learn_targets(self, y: np.ndarray, anew: bool, classes: Any) -> None:
        """Check y; set `n_outputs_`, `out_activation_` and whatever `_dataset` needs to know."""
        raise NotImplementedError

    def _dataset(self, samples: Samples) -> Dataset:
        raise NotImplementedError

    def _make_loss(self) -> Loss:
        raise NotImplementedError

    def _validation_score(self, solver: Solver, held_out: Samples) -> float:
        raise NotImplementedError

    def _strata(self, y: np.ndarray) -> np.ndarray | None:
        return None

    def _weights(self, samples: Samples, partial: bool) -> np.ndarray | None:
        return samples.weight


def can_learn_in_parts(estimator: NNEstimator) -> bool:
    """Whether there is a `partial_fit`: L-BFGS wants all samples at once."""
    if estimator.solver == "lbfgs":
        raise AttributeError("partial_fit: solver='lbfgs' wants all samples at once")
    return True


def _dense(x: Any) -> np.ndarray:
    return x.toarray() if issparse(x) else np.ascontiguousarray(x)


def _sizes(setting: Any) -> list[Any]:
    """Return the sizes of several layers, or of one."""
    return list(setting) if np.iterable(setting) else [setting]


def _one_of(name: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise UsageError(f"{name}: unknown {value!r}{did_you_mean(value, known)}")


def _number(name: str, value: Any, lowest: float, below: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not lowest <= float(value) < below:
        wanted = f">= {lowest:g}" if below == math.inf else f"from {lowest:g} to below {below:g}"
        raise UsageError(f"{name}: expected a number {wanted}, got {value!r}")
