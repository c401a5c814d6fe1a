"""Estimators under joblib's backends: the same results, and no more threads than there are cores."""

import os
import threading

import numpy as np
import pytest

pytest.importorskip("sklearn")

import joblib
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score

import nnkit
from nnkit import _ext
from nnkit.estimator import NNClassifier

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
needs_threads = pytest.mark.skipif(_ext.compiled is None, reason="the compiled kernels are not installed")


@pytest.fixture(autouse=True)
def restore_threads():
    before = _ext._sharing.threads
    yield
    nnkit.set_num_threads(before)


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


@pytest.fixture
def unlimited(monkeypatch):
    """The environment of a user who has said nothing about threads."""
    for name in ("NNKIT_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def make_report():
    """Return a function that fits in a worker; a local one, which is sent as code, not by the name of this module."""

    def report(X, y, wait=lambda: None):
        import warnings

        import nnkit
        from nnkit.estimator import NNClassifier

        threads = []

        def note(solver):
            wait()  # until all are at work
            threads.append(nnkit.get_num_threads())
            wait()  # and none has ended

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = NNClassifier(max_iter=2, random_state=0, callbacks=[note]).fit(X, y)
        return os.getpid(), threads, network.predict_proba(X).sum(axis=0).tolist()

    return report


def fits(count, iris, **options):
    return joblib.Parallel(n_jobs=count)(joblib.delayed(make_report())(*iris, **options) for _ in range(count))


@needs_threads
def test_python_threads_share_the_kernels_threads(iris):
    nnkit.set_num_threads(8)
    alone = fits(1, iris)[0]
    assert alone[1] == [8, 8]
    barrier = threading.Barrier(4)
    with joblib.parallel_config("threading"):
        found = fits(4, iris, wait=lambda: barrier.wait(30))
    assert {tuple(threads) for _, threads, _ in found} == {(2, 2)}
    assert all(sums == alone[2] for _, _, sums in found)
    assert nnkit.get_num_threads() == 8


@needs_threads
def test_shares_are_given_back_when_a_fit_fails_and_after_set_num_threads(iris):
    nnkit.set_num_threads(4)

    def fail(solver):
        nnkit.set_num_threads(6)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        NNClassifier(callbacks=[fail]).fit(*iris)
    assert nnkit.get_num_threads() == 6
    with _ext.sharing_threads(), _ext.sharing_threads():
        assert nnkit.get_num_threads() == 3
        with _ext.sharing_threads():
            nnkit.set_num_threads(2)
            assert nnkit.get_num_threads() == 1
    assert nnkit.get_num_threads() == 2


@needs_threads
def test_loky_workers_have_the_threads_that_joblib_grants(iris, unlimited):
    here = fits(1, iris)[0]
    with joblib.parallel_config("loky", inner_max_num_threads=3):
        found = fits(2, iris)
        own = NNClassifier(max_iter=3, random_state=0)
        np.testing.assert_array_equal(
            cross_val_score(own, *iris, cv=2, n_jobs=2), cross_val_score(own, *iris, cv=2, n_jobs=1)
        )
    assert os.getpid() not in {pid for pid, _, _ in found}
    assert {tuple(threads) for _, threads, _ in found} == {(3, 3)}
    assert all(sums == here[2] for _, _, sums in found)


@needs_threads
def test_loky_workers_together_have_one_thread_a_core_at_most(iris, unlimited):
    with joblib.parallel_config("loky"):
        found = fits(2, iris)
    share = max(joblib.cpu_count() // 2, 1)
    assert {tuple(threads) for _, threads, _ in found} == {(share, share)}


def test_a_search_on_a_dask_cluster(iris, unlimited):
    distributed = pytest.importorskip("distributed")

    network = NNClassifier(max_iter=30, learning_rate_init=0.02, random_state=0)
    space, settings = {"hidden_layer_sizes": [(5,), (20,)]}, {"cv": 2, "error_score": "raise"}
    # A worker process of two threads: the environment says one to each, and they would share more.
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None, memory_limit=0)
    with cluster, distributed.Client(cluster), joblib.parallel_config("dask"):
        found = fits(2, iris)
        search = GridSearchCV(network, space, **settings).fit(*iris)
    assert os.getpid() not in {pid for pid, _, _ in found}
    assert {tuple(threads) for _, threads, _ in found} == {(1, 1)}
    here = GridSearchCV(network, space, **settings).fit(*iris)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], here.cv_results_["mean_test_score"])
