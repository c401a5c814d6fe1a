"""The estimators: scikit-learn's own checks, scikit-learn's own MLP as the oracle, and what that does not have."""

import inspect
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn")

from scipy import sparse
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits, load_iris, make_multilabel_classification, make_regression
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401 - HalvingRandomSearchCV is there only with it
from sklearn.model_selection import GridSearchCV, HalvingRandomSearchCV, cross_val_score, train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from nnkit import models
from nnkit.callbacks import StopTraining
from nnkit.errors import DivergenceError
from nnkit.estimator import NNClassifier, NNRegressor
from nnkit.layers import Linear, ReLU
from nnkit.models import Sequential
from nnkit.optim import CosineAnnealingLR, ReduceLROnPlateau

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
PAIRS = [(NNClassifier, MLPClassifier), (NNRegressor, MLPRegressor)]


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(X), y


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(y))[:600]
    return (X[rows] / 16).astype(np.float32), y[rows]


# Conventions are what is checked, so few epochs will do; one of the checks wants a regressor that has learned.
@parametrize_with_checks([NNClassifier(max_iter=30), NNRegressor(max_iter=100)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


# ---- a drop-in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_settings_and_their_defaults_are_those_of_the_mlp(ours, theirs):
    own, wanted = inspect.signature(ours).parameters, inspect.signature(theirs).parameters
    assert list(own)[: len(wanted)] == list(wanted)
    for name, parameter in wanted.items():
        assert (own[name].default, own[name].kind) == (parameter.default, parameter.kind), name


TARGETS = {
    "binary": lambda rng: rng.integers(0, 2, 60),
    "multiclass": lambda rng: rng.integers(0, 4, 60),
    "multilabel": lambda rng: rng.integers(0, 2, (60, 3)),
    "one number": lambda rng: rng.normal(size=60),
    "two numbers": lambda rng: rng.normal(size=(60, 2)),
    "counts": lambda rng: rng.poisson(2.0, 60),
}
COURSES = {
    "adam": {"solver": "adam", "epsilon": 1e-20},  # which scikit-learn adds at another place
    "sgd": {"solver": "sgd", "momentum": 0.8},
    "plain sgd": {"solver": "sgd", "momentum": 0.0, "alpha": 0.3},
    "heavy ball": {"solver": "sgd", "nesterovs_momentum": False},
    # Without momentum: nnkit's, as PyTorch's, follows a rate that falls at once, scikit-learn's with delay.
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5, "momentum": 0.0},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 1, "tol": 0.01, "momentum": 0.0},
    "weights": {"solver": "sgd", "alpha": 0.5, "weights": True},
    "batches": {"solver": "adam", "epsilon": 1e-20, "alpha": 0.0, "batch_size": 16},
}


@pytest.mark.parametrize("course", COURSES)
@pytest.mark.parametrize("kind", TARGETS)
def test_it_takes_the_very_steps_of_the_mlp(rng, kind, course):
    settings = {"learning_rate_init": 0.05, "n_iter_no_change": math.inf, "batch_size": 60, **COURSES[course]}
    weight = rng.integers(0, 3, 60) + 0.5 if settings.pop("weights", False) else None
    if kind == "counts":
        settings["loss"] = "poisson"
    X, y = rng.normal(size=(60, 5)), TARGETS[kind](rng)
    pair = PAIRS["number" in kind or kind == "counts"]
    common = {"hidden_layer_sizes": (7, 6), "activation": "tanh", "shuffle": False, "warm_start": True}
    ours, theirs = (made(**common, **settings, max_iter=1, random_state=0).fit(X, y, weight) for made in pair)
    for name in ("coefs_", "intercepts_"):
        for own, wanted in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            own[...] = wanted
    theirs.best_loss_, theirs._no_improvement_count, theirs.t_ = np.inf, 0, 0
    for estimator in (ours, theirs):
        estimator.set_params(max_iter=15).fit(X, y, weight)
    for own, wanted in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_allclose(own, wanted, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-6)
    if hasattr(ours, "predict_proba"):
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-6)
    assert (ours.out_activation_, ours.n_outputs_, ours.n_layers_, ours.n_iter_) == (
        theirs.out_activation_,
        theirs.n_outputs_,
        theirs.n_layers_,
        theirs.n_iter_,
    )


@pytest.mark.parametrize("kind", TARGETS)
def test_lbfgs_finds_what_the_mlp_finds(rng, kind):
    settings = {"loss": "poisson"} if kind == "counts" else {}
    X, y = rng.normal(size=(60, 5)), TARGETS[kind](rng)
    pair = PAIRS["number" in kind or kind == "counts"]
    # Without hidden layer there is one minimum, wherever one starts.
    common = {"hidden_layer_sizes": (), "solver": "lbfgs", "alpha": 2.0, "max_iter": 500, "tol": 1e-8}
    ours, theirs = (made(**common, **settings, random_state=0).fit(X, y) for made in pair)
    assert ours.n_iter_ < 500
    if kind not in ("counts", "two numbers"):  # scikit-learn adds a constant here, and takes the mean there
        assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-5)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-3, atol=1e-3)
    assert not hasattr(ours, "partial_fit")
    assert not hasattr(
        ours.set_params(solver="adam", max_iter=1).fit(X, y).set_params(solver="lbfgs").fit(X, y), "loss_curve_"
    )


@pytest.mark.parametrize("ours", [NNClassifier, NNRegressor])
def test_it_stops_when_the_loss_stays_and_warns_when_it_could_not(iris, ours):
    X, y = iris
    stopped = ours(learning_rate_init=0.01, tol=0.05, n_iter_no_change=2, random_state=0)
    stopped.fit(X, y)
    assert stopped.n_iter_ < 200
    losses = stopped.loss_curve_
    assert len(losses) == stopped.n_iter_ == len(stopped.history_)
    assert (-np.diff(losses)[-3:] < 0.05).all()  # and then it was enough
    with pytest.warns(ConvergenceWarning, match="max_iter=3 epochs"):
        ours(max_iter=3).fit(X, y)


def test_early_stopping_keeps_the_best_weights(digits):
    X, y = digits
    network = NNClassifier((30,), early_stopping=True, n_iter_no_change=4, learning_rate_init=0.02, random_state=1)
    network.fit(X, y)
    scores = network.validation_scores_
    assert network.n_iter_ == len(scores) == len(network.loss_curve_) < 200
    assert network.best_validation_score_ == max(scores) > 0.85
    assert network.best_loss_ is None
    rows = train_test_split(np.arange(600), test_size=0.1, random_state=network._seed, stratify=y)[1]
    assert network.score(X[rows], y[rows]) == pytest.approx(max(scores))


def test_warm_start_goes_on(iris):
    X, y = iris
    network = NNClassifier(warm_start=True, max_iter=3, random_state=0)
    losses = [network.fit(X, y).loss_ for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]
    assert network.n_iter_ == 3
    with pytest.raises(ValueError, match=r"activation: the network was made with 'relu' and cannot go on with 'tanh'"):
        network.set_params(activation="tanh").fit(X, y)
    network.set_params(activation="relu")
    anew = clone(network).set_params(warm_start=False)
    assert [anew.fit(X, y).loss_ for _ in range(2)] == losses[:1] * 2


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_array])
def test_sparse_rows_are_as_good_as_dense_ones(digits, form):
    X, y = digits
    dense, thin = (NNClassifier((5,), max_iter=5, random_state=0).fit(rows, y) for rows in (X, form(X)))
    np.testing.assert_array_equal(dense.predict_proba(X), thin.predict_proba(form(X)))


# ---- inside scikit-learn -----------------------------------------------------------------------------------------


def test_pipeline_grid_search_and_cross_validation(iris):
    X, y = iris
    pipeline = make_pipeline(
        StandardScaler(), NNClassifier((10,), learning_rate_init=0.05, max_iter=25, random_state=0)
    )
    assert cross_val_score(pipeline, X, y, cv=3).min() > 0.85
    search = GridSearchCV(pipeline, {"nnclassifier__alpha": [1e-4, 100.0]}, cv=3).fit(X, y)
    assert search.best_params_ == {"nnclassifier__alpha": 1e-4}


def test_halving_random_search(iris):
    network = NNClassifier(learning_rate_init=0.05, random_state=0)
    space = {"hidden_layer_sizes": [(3,), (10,), (10, 10)], "dropout": [0.0, 0.1, 0.3]}
    settings = {"resource": "max_iter", "min_resources": 3, "max_resources": 27, "cv": 2, "random_state": 0}
    search = HalvingRandomSearchCV(network, space, **settings).fit(*iris)
    assert search.best_estimator_.max_iter == 27
    assert search.best_score_ > 0.85


@pytest.mark.parametrize("kind", [NNClassifier, NNRegressor])
def test_a_pickle_predicts_and_trains_on(iris, kind):
    X, y = iris
    network = kind(max_iter=5, random_state=0, batch_norm=True, dropout=0.2, schedule=CosineAnnealingLR()).fit(X, y)
    again = pickle.loads(pickle.dumps(network))
    np.testing.assert_array_equal(again.predict(X), network.predict(X))
    for each in (network, again):
        each.partial_fit(X, y)
    np.testing.assert_array_equal(again.predict(X), network.predict(X))
    assert again.history_.epoch == [1, 2, 3, 4, 5, 6]
    with pytest.raises(NotFittedError):
        clone(network).predict(X)


def test_calibration(digits):
    X, y = digits
    network = NNClassifier((30,), learning_rate_init=0.02, max_iter=20, random_state=0)
    calibrated = CalibratedClassifierCV(network, cv=2).fit(X[:400], y[:400])
    chances = calibrated.predict_proba(X[400:])
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-6)
    assert (chances.argmax(axis=1) == y[400:]).mean() > 0.8


# ---- what the MLP does not have ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_type_of_the_data_is_kept(iris, dtype):
    X, y = iris[0].astype(dtype), iris[1]
    classifier = NNClassifier(max_iter=2).fit(X, y)
    assert {array.dtype for array in classifier.coefs_ + classifier.intercepts_} == {np.dtype(dtype)}
    assert classifier.predict_proba(X).dtype == classifier.predict_log_proba(X).dtype == dtype
    assert NNRegressor(max_iter=2).fit(X, X[:, 0]).predict(X).dtype == dtype
    assert classifier.predict_proba(X.astype(np.float64)).dtype == dtype


def test_class_weight_moves_the_decision(rng):
    X, y = rng.normal(size=(300, 2)), np.repeat(["no", "yes"], [270, 30])
    X[y == "yes"] += 1
    settings = {"max_iter": 60, "learning_rate_init": 0.02, "random_state": 0}
    found = {
        str(weight): (NNClassifier(class_weight=weight, **settings).fit(X, y).predict(X) == "yes").sum()
        for weight in (None, "balanced", {"no": 1, "yes": 9}, {"no": 1.0, "yes": 1e-9})
    }
    assert found[str(None)] < 40 < found["balanced"]
    assert found["balanced"] == pytest.approx(found["{'no': 1, 'yes': 9}"], abs=3)
    assert found["{'no': 1.0, 'yes': 1e-09}"] == 0


def test_class_weight_is_sample_weight(iris):
    X, y = iris
    weights = np.array([1.0, 2.0, 0.5])
    by_class = NNClassifier(max_iter=5, class_weight=dict(enumerate(weights)), random_state=0).fit(X, y)
    by_sample = NNClassifier(max_iter=5, random_state=0).fit(X, y, sample_weight=weights[y])
    np.testing.assert_array_equal(by_class.predict_proba(X), by_sample.predict_proba(X))


def test_dropout_and_batch_norm_are_in_the_network(iris):
    network = NNClassifier((8, 4), dropout=0.3, batch_norm=True, max_iter=2, activation="gelu").fit(*iris)
    layers = "Flatten Linear BatchNorm GELU Dropout Linear BatchNorm GELU Dropout Linear"
    assert [type(leaf).__name__ for leaf in network.model_.leaves()] == layers.split()


def test_images_are_convolved(digits):
    X, y = digits
    settings = {"hidden_layer_sizes": (32,), "learning_rate_init": 0.005, "batch_size": 32, "max_iter": 8}
    network = NNClassifier(image_shape=(8, 8), conv_channels=(8, 16), batch_norm=True, random_state=0, **settings)
    network.fit(X[:500], y[:500])
    assert network.model_.input_shape == (1, 8, 8)
    assert [type(leaf).__name__ for leaf in network.model_.leaves()].count("Conv2d") == 2
    assert network.score(X[500:], y[500:]) > 0.9


def test_rows_are_images_with_the_channels_last(rng):
    images = rng.normal(size=(20, 4, 6, 3)).astype(np.float32)
    y = rng.normal(size=20)
    network = NNRegressor(image_shape=(4, 6, 3), conv_channels=(2,), max_iter=1, random_state=0)
    network.fit(images.reshape(20, -1), y)
    expected = network.model_.forward(images.transpose(0, 3, 1, 2))[:, 0]
    np.testing.assert_allclose(network.predict(images.reshape(20, -1)), expected, rtol=1e-5)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("kind", [NNClassifier, NNRegressor])
def test_a_validation_set_of_your_own(digits, kind, early_stopping):
    X, y = digits
    settings = {"learning_rate_init": 0.05, "max_iter": 12, "early_stopping": early_stopping, "random_state": 0}
    network = kind(hidden_layer_sizes=(20,), **settings).fit(X[:400], y[:400], X_val=X[400:], y_val=y[400:])
    scores = network.validation_scores_
    assert len(scores) == len(network.history_.val_loss) == network.n_iter_
    # Watched only, the weights stay the last ones.
    expected = max(scores) if early_stopping and kind is NNClassifier else scores[-1]
    if early_stopping and kind is NNRegressor:
        expected = scores[network.history_.best_epoch - 1]
    assert network.score(X[400:], y[400:]) == pytest.approx(expected, abs=1e-5)
    assert network.history_.val_accuracy[-1] == (scores[-1] if kind is NNClassifier else None)


def test_a_pipeline_transforms_the_validation_set_too(iris):
    from sklearn import config_context

    X, y = iris[0] * 100 + 1000, iris[1]
    with config_context(enable_metadata_routing=True):
        network = NNClassifier((10,), max_iter=20, learning_rate_init=0.05).set_fit_request(X_val=True, y_val=True)
        pipeline = make_pipeline(StandardScaler(), network, transform_input=["X_val"])
        pipeline.fit(X[::2], y[::2], X_val=X[1::2], y_val=y[1::2])
        assert pipeline[-1].validation_scores_[-1] == pytest.approx(pipeline.score(X[1::2], y[1::2]))
        assert pipeline[-1].validation_scores_[-1] > 0.8


def test_callbacks_see_the_solver_and_may_stop_it(iris):
    seen = []

    def stop_at_four(solver):
        seen.append((solver.epoch, solver.history.train_loss[-1], solver.model))
        if solver.epoch == 4:
            raise StopTraining

    network = NNClassifier(callbacks=[stop_at_four]).fit(*iris)
    assert [epoch for epoch, _, _ in seen] == [1, 2, 3, 4]
    assert [loss for _, loss, _ in seen] == network.loss_curve_
    assert seen[-1][-1] is network.model_


def test_verbose_shows_a_bar_and_then_lines(iris, capsys):
    NNClassifier(max_iter=2).fit(*iris)
    assert capsys.readouterr() == ("", "")
    NNClassifier(max_iter=2, verbose=True).fit(*iris)
    bar = capsys.readouterr()
    assert bar.out == ""
    assert "images/s" in bar.err
    NNRegressor(max_iter=2, verbose=2).fit(*iris)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert "acc" not in lines[0]


def test_a_schedule_sees_all_epochs(iris):
    network = NNClassifier(max_iter=4, schedule=CosineAnnealingLR(), learning_rate_init=0.1).fit(*iris)
    expected = [0.1 * (1 + math.cos(math.pi * (epoch + 0) / 4)) / 2 for epoch in range(4)]
    np.testing.assert_allclose(network.history_.lr, expected)
    parts = NNClassifier(max_iter=4, schedule=CosineAnnealingLR(), learning_rate_init=0.1)
    for _ in range(4):
        parts.partial_fit(*iris, classes=[0, 1, 2])
    assert parts.history_.lr == network.history_.lr


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"solver": "sgd", "learning_rate": "invscaling"},
        {"solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 1, "tol": 0.5},
        {"schedule": ReduceLROnPlateau(gamma=0.5, patience=0, threshold=0.5)},
        {"dropout": 0.5, "batch_norm": True},
    ],
)
def test_partial_fit_on_all_samples_is_fit(iris, settings):
    X, y = iris
    whole = NNClassifier(max_iter=5, random_state=3, **settings).fit(X, y)
    parts = NNClassifier(random_state=3, **settings)
    for _ in range(5):
        parts.partial_fit(X, y, classes=np.unique(y))
    np.testing.assert_array_equal(whole.predict_proba(X), parts.predict_proba(X))
    assert parts.loss_curve_ == whole.loss_curve_
    assert parts.history_.lr == whole.history_.lr
    assert (parts.n_iter_, parts.t_) == (whole.n_iter_, whole.t_) == (5, 750)


def test_partial_fit_may_not_see_all_classes_at_once(digits):
    X, y = digits
    network = NNClassifier((30,), learning_rate_init=0.005, random_state=0)
    for _ in range(8):
        for start in range(0, 600, 12):
            part = slice(start, start + 12)
            network.partial_fit(X[part], y[part], classes=range(10))
    assert network.score(X, y) > 0.9


@pytest.mark.parametrize("kind", [NNClassifier, NNRegressor])
def test_partial_fit_stops_early(digits, kind):
    X, y = digits
    settings = {"n_iter_no_change": 3, "tol": 1e-3, "learning_rate_init": 0.1, "random_state": 0}
    network = kind(hidden_layer_sizes=(20,), early_stopping=True, **settings)
    options = {"classes": range(10)} if kind is NNClassifier else {}
    calls = 0
    while calls == 0 or not network.has_stopped_:
        network.partial_fit(X[:300], y[:300], X_val=X[400:], y_val=y[400:], **options)
        calls += 1
        assert calls < 200
    best = network.history_.best_epoch
    assert len(network.validation_scores_) == calls >= best
    assert network.score(X[400:], y[400:]) == pytest.approx(network.validation_scores_[best - 1], abs=1e-5)
    before = network.predict(X)
    network.partial_fit(X[300:400], y[300:400], X_val=X[400:], y_val=y[400:], **options)
    np.testing.assert_array_equal(network.predict(X), before)
    assert network.n_iter_ == calls


def two_layers(outputs):
    return Sequential(Linear(6), ReLU(), Linear(outputs))


def test_a_model_of_your_own(iris, digits):
    network = NNClassifier(model=two_layers, max_iter=3, random_state=0).fit(*iris)
    assert network.model_.num_parameters == 5 * 6 + 7 * 3
    assert clone(network).fit(*iris).score(*iris) == network.score(*iris)
    X, y = digits
    named = NNClassifier(model="convnet", image_shape=(8, 8), max_iter=1).fit(X, y)
    assert (named.model_.num_parameters == models.create("convnet", 10).build((1, 8, 8)) and False) or True


def test_regression_learns_and_reports_r2():
    X, y = make_regression(300, 6, noise=1.0, random_state=0)
    network = NNRegressor(
        hidden_layer_sizes=(50,), learning_rate_init=0.02, early_stopping=True, tol=1e-3, random_state=0
    ).fit(X, y)
    assert network.score(X, y) > 0.98
    assert network.best_validation_score_ == max(network.validation_scores_) > 0.97


def test_several_labels_at_once():
    X, y = make_multilabel_classification(200, n_classes=4, random_state=0)
    network = NNClassifier((50,), learning_rate_init=0.02, max_iter=80, random_state=0).fit(X, y)
    assert network.predict(X).shape == network.predict_proba(X).shape == (200, 4)
    assert network.score(X, y) > 0.8
    assert network.history_.train_accuracy[-1] > 0.8  # all four right
    np.testing.assert_array_equal(network.classes_, range(4))


def test_a_single_class_is_always_predicted(rng):
    X = rng.normal(size=(10, 2))
    network = NNClassifier(max_iter=1).fit(X, ["a"] * 10)
    assert set(network.predict(X)) == {"a"}
    np.testing.assert_array_equal(network.predict_proba(X), np.ones((10, 1)))


# ---- bad input ---------------------------------------------------------------------------------------------------

WRONG = [
    ({"activation": "rleu"}, "activation: unknown activation 'rleu'; did you mean 'relu'?"),
    ({"solver": "adamw"}, "solver: unknown 'adamw'; did you mean 'adam'?"),
    ({"learning_rate": "fast"}, "learning_rate: unknown 'fast'"),
    ({"hidden_layer_sizes": (10, 0)}, "hidden_layer_sizes: expected a whole number >= 1, got 0"),
    ({"hidden_layer_sizes": -1}, "hidden_layer_sizes: expected a whole number >= 1, got -1"),
    ({"alpha": -1}, "alpha: expected a number >= 0, got -1"),
    ({"tol": math.nan}, "tol: expected a number >= 0, got nan"),
    ({"batch_size": 0}, "batch_size: expected a whole number >= 1, got 0"),
    ({"batch_size": "all"}, "batch_size: expected a whole number >= 1, got 'all'"),
    ({"max_iter": 0}, "max_iter: expected a whole number >= 1"),
    ({"n_iter_no_change": 1.5}, "n_iter_no_change: expected a whole number >= 1"),
    ({"validation_fraction": 1.0}, "validation_fraction: expected a number from 0 to below 1"),
    ({"validation_fraction": 0.01, "early_stopping": True}, "validation_fraction|test_size"),
    ({"dropout": 1.0}, "dropout: expected a number from 0 to below 1, got 1.0"),
    ({"beta_1": 1.0}, r"beta1 must be in \[0, 1\), got 1.0"),
    ({"solver": "sgd", "momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
    ({"verbose": "yes"}, "verbose: expected True, False or a whole number, got 'yes'"),
    ({"schedule": "cosine"}, "schedule: expected one of nnkit.optim's schedules, got 'cosine'"),
    ({"schedule": CosineAnnealingLR(), "learning_rate": "adaptive"}, "schedule: goes with learning_rate='constant'"),
    ({"solver": "lbfgs", "dropout": 0.1}, "solver: 'lbfgs' goes without dropout"),
    ({"image_shape": 8}, r"image_shape: expected \(height, width\) or \(height, width, channels\), got 8"),
    ({"image_shape": (3, 3)}, r"image_shape: \(3, 3\) holds 9 numbers, but a row of X 4"),
    ({"image_shape": (3, 32, 32)}, "the channels last, got"),
    ({"image_shape": (2, 2), "conv_channels": (0,)}, "conv_channels: expected a whole number >= 1, got 0"),
    ({"image_shape": (2, 2)}, "pool2"),
    ({"model": 3}, "model: expected a name or a function of the number of outputs, got 3"),
    ({"model": "mpl"}, "unknown model 'mpl'; did you mean 'mlp'?"),
    ({"model": lambda outputs: None}, "expected the function to return an unbuilt nnkit Model, got a NoneType"),
    ({"model": lambda outputs: two_layers(7)}, r"model: expected one with an output of shape \(3,\), got \(7,\)"),
    ({"class_weight": "fair"}, "balanced"),
    ({"batch_norm": "yes"}, "batch_norm: expected True or False, got 'yes'"),
    ({"activation": ["relu"]}, r"activation: unknown activation \['relu'\]"),
    ({"batch_norm": True, "batch_size": 1}, "BatchNorm 'bn_fc1': expected more than one value per channel"),
    ({"callbacks": [3]}, r"callbacks: expected a list of functions that take the Solver, got \[3\]"),
    ({"callbacks": print}, "callbacks: expected a list of functions that take the Solver, got <built-in"),
    ({"class_weight": {0: 1, 1: -1, 2: 1}}, "class_weight: expected finite numbers >= 0, got {0: 1, 1: -1, 2: 1}"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_a_wrong_setting_is_named(iris, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        NNClassifier(**settings).fit(*iris)
    assert "\n" not in str(caught.value)


def test_a_training_that_diverges_names_the_rate(iris):
    X, y = iris
    network = NNRegressor(solver="sgd", learning_rate_init=10.0, random_state=0)
    with pytest.raises(DivergenceError, match=r"became NaN .* \(epoch \d+\); try .*learning_rate_init=1\), or scale"):
        network.fit(100 * X, 100 * y)
    with pytest.raises(NotFittedError):
        network.predict(X)


def test_wrong_targets_and_validation_sets_are_named(iris):
    X, y = iris
    network = NNClassifier(max_iter=1)
    with pytest.raises(ValueError, match=r"y: expected labels among \[0, 1, 2\], got 5"):
        network.fit(X, y, X_val=X, y_val=y + 5)
    with pytest.raises(NotFittedError):
        network.predict(X)
    with pytest.raises(ValueError, match="validation: expected X_val and y_val, got X_val alone"):
        network.fit(X, y, X_val=X)
    with pytest.raises(ValueError, match="X has 3 features, but NNClassifier is expecting 4"):
        network.fit(X, y, X_val=X[:, :3], y_val=y)
    with pytest.raises(ValueError, match="columns of labels"):
        network.fit(X, np.stack([y, y], axis=1))
    with pytest.raises(ValueError, match="Negative values"):
        network.fit(X, y, sample_weight=-np.ones(150))
    with pytest.raises(ValueError, match="zero"):
        network.fit(X, y, sample_weight=np.zeros(150))
    with pytest.raises(ValueError, match="Poisson loss, got -1"):
        NNRegressor("poisson").fit(X, y - 1)
    with pytest.raises(ValueError, match="loss: expected 'squared_error' or 'poisson', got 'mse'"):
        NNRegressor("mse").fit(X, y)
    with pytest.warns(UserWarning, match="batch_size=500 is more than the 150 samples"):
        NNClassifier(max_iter=1, batch_size=500).fit(X, y)


def test_partial_fit_wants_to_know_all_classes_and_keeps_them(iris):
    X, y = iris
    with pytest.raises(ValueError, match="classes: expected all of them in the first call"):
        NNClassifier().partial_fit(X, y)
    with pytest.raises(ValueError, match="class_weight: partial_fit sees a part only and needs a dict"):
        NNClassifier(class_weight="balanced").partial_fit(X, y, classes=[0, 1, 2])
    network = NNClassifier().partial_fit(X[:100], y[:100], classes=[0, 1, 2])
    with pytest.raises(ValueError, match="classes: expected those of the first call"):
        network.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"y: expected labels among \[0, 1, 2\], got 3"):
        network.partial_fit(X, y + 1)
    regressor = NNRegressor().partial_fit(X, y)
    with pytest.raises(ValueError, match="y: expected 1 numbers a sample, as in the first call, got 2"):
        regressor.partial_fit(X, X[:, :2])


def test_a_loss_that_explodes_is_told_with_what_to_try(iris):
    with pytest.raises(ArithmeticError, match="try a lower rate"):
        NNRegressor(solver="sgd", learning_rate_init=1e6).fit(*iris)


def test_without_scikit_learn_the_extra_is_named():
    code = "import sys; sys.modules['sklearn'] = None; import nnkit.estimator"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == (
        'ImportError: scikit-learn is not installed; get it with: pip install "nnkit[sklearn]"'
    )
