"""The notebooks of assignment 1: knn, svm, softmax, two_layer_net (of both kinds) and features."""

import random

import numpy as np
import pytest

from nnkit.cs231n.classifiers import KNearestNeighbor, LinearClassifier, LinearSVM, Softmax
from nnkit.cs231n.classifiers.linear_svm import svm_loss_naive, svm_loss_vectorized
from nnkit.cs231n.classifiers.neural_net import TwoLayerNet
from nnkit.cs231n.classifiers.softmax import softmax_loss_naive, softmax_loss_vectorized
from nnkit.cs231n.data_utils import load_CIFAR_batch
from nnkit.cs231n.features import color_histogram_hsv, extract_features, hog_feature
from nnkit.cs231n.gradient_check import eval_numerical_gradient, grad_check_sparse


@pytest.fixture(scope="module")
def images(cifar_dir):
    """5,000 training and 500 test images, as rows of float64."""
    X, y = load_CIFAR_batch(cifar_dir / "cifar-10-batches-py" / "data_batch_1")
    X_test, y_test = load_CIFAR_batch(cifar_dir / "cifar-10-batches-py" / "test_batch")
    return X[:5000].reshape(5000, -1), y[:5000], X_test[:500].reshape(500, -1), y_test[:500]


@pytest.fixture(scope="module")
def dev(images):
    """The svm notebook's 500 images: mean image taken off, a column of ones for the bias."""
    X, y = images[:2]
    X = X - X.mean(axis=0)
    return np.hstack([X, np.ones((len(X), 1))])[:500], y[:500]


def test_knn_distances(agree):
    classifier = KNearestNeighbor()
    classifier.train(np.random.randn(30, 7), np.arange(30) % 3)
    X = np.random.randn(20, 7)
    two = classifier.compute_distances_two_loops(X)
    assert two.shape == (20, 30)
    for other in (classifier.compute_distances_one_loop(X), classifier.compute_distances_no_loops(X)):
        assert np.linalg.norm(two - other, ord="fro") < 1e-12
        agree(other, two, 1e-9)
    for num_loops in (0, 1, 2):
        np.testing.assert_array_equal(
            classifier.predict(X, k=4, num_loops=num_loops), classifier.predict_labels(two, 4)
        )
    with pytest.raises(ValueError, match="num_loops"):
        classifier.predict(X, num_loops=3)


def test_knn_of_bytes_and_ties():
    classifier = KNearestNeighbor()
    classifier.train(np.array([[0], [250], [5], [245]], np.uint8), np.array([3, 1, 1, 2]))
    dists = classifier.compute_distances_no_loops(np.array([[2]], np.uint8))
    assert dists.tolist() == [[2, 248, 3, 243]]
    assert classifier.predict_labels(dists, k=1).tolist() == [3]
    assert classifier.predict_labels(dists, k=2).tolist() == [1]
    assert classifier.predict_labels(dists, k=50).tolist() == [1]


def test_knn_gets_the_published_accuracies(images):
    X, y, X_test, y_test = images
    classifier = KNearestNeighbor()
    classifier.train(X, y)
    dists = classifier.compute_distances_no_loops(X_test)
    correct = {k: int((classifier.predict_labels(dists, k=k) == y_test).sum()) for k in (1, 5, 10)}
    assert correct == {1: 137, 5: 139, 10: 141}
    np.testing.assert_allclose(classifier.compute_distances_one_loop(X_test[:5]), dists[:5], rtol=1e-9)


def test_knn_cross_validation_as_published(images):
    folds, labels = np.array_split(images[0], 5), np.array_split(images[1], 5)
    published = {
        1: [0.263, 0.257],
        10: [0.265, 0.296],
        100: [0.256, 0.27],
    }  # of the first two folds; the other three agree, too
    accuracies = {k: [] for k in published}
    for i in range(2):
        classifier = KNearestNeighbor()
        classifier.train(np.concatenate(folds[:i] + folds[i + 1 :]), np.concatenate(labels[:i] + labels[i + 1 :]))
        dists = classifier.compute_distances_no_loops(folds[i])
        for k, found in accuracies.items():
            found.append(float((classifier.predict_labels(dists, k) == labels[i]).mean()))
    assert accuracies == published


LOSSES = {
    "svm": (svm_loss_naive, svm_loss_vectorized, 9.0),
    "softmax": (softmax_loss_naive, softmax_loss_vectorized, np.log(10)),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reg", [0.0, 5e1])
def test_linear_losses(agree, dev, name, reg, capsys):
    naive, vectorized, at_the_start = LOSSES[name]
    X, y = dev
    W = np.random.randn(3073, 10) * 0.0001
    loss, grad = naive(W, X, y, reg)
    if reg == 0:
        assert loss == pytest.approx(at_the_start, rel=0.2)
    fast_loss, fast_grad = vectorized(W, X, y, reg)
    agree(fast_loss, loss, 1e-12)
    assert np.linalg.norm(grad - fast_grad, ord="fro") < 1e-9 * np.linalg.norm(grad)
    random.seed(0)
    grad_check_sparse(lambda w: vectorized(w, X, y, reg)[0], W, grad, 10)
    errors = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert len(errors) == 10
    assert np.median(errors) < 1e-7


@pytest.mark.parametrize("name", LOSSES)
def test_linear_losses_in_small(agree, name):
    naive, vectorized, _ = LOSSES[name]
    W, X, y = np.random.randn(6, 4), np.random.randn(9, 6), np.arange(9, dtype=np.int32) % 4
    numerical = eval_numerical_gradient(lambda W: naive(W, X, y, 0.3)[0], W, verbose=False)
    agree(naive(W, X, y, 0.3)[1], numerical)
    agree(vectorized(W, X, y, 0.3)[1], numerical)


@pytest.mark.parametrize(("kind", "rate", "reg"), [(LinearSVM, 1e-7, 2.5e4), (Softmax, 1e-7, 2.5e4)])
def test_linear_classifiers_learn(dev, kind, rate, reg, capsys):
    X, y = dev
    classifier = kind()
    assert isinstance(classifier, LinearClassifier)
    assert classifier.W is None
    history = classifier.train(X, y, learning_rate=rate, reg=reg, num_iters=201, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit(" ", 1)[0] for line in lines] == [f"iteration {it} / 201: loss" for it in (0, 100, 200)]
    assert lines[0] == f"iteration 0 / 201: loss {history[0]:f}"
    assert len(history) == 201
    assert history[-1] < 0.5 * history[0]
    assert classifier.W.shape == (3073, 10)
    predictions = classifier.predict(X)
    assert predictions.dtype.kind == "i"
    assert (predictions == y).mean() > 0.2


def test_linear_classifier_draws(agree):
    X, y = np.random.randn(40, 5), np.arange(40) % 3
    np.random.seed(1)
    classifier = Softmax()
    history = classifier.train(X, y, learning_rate=0.1, reg=0.01, num_iters=7, batch_size=60)
    np.random.seed(1)
    W, losses = 0.001 * np.random.randn(5, 3), []
    for _ in range(7):
        chosen = np.random.choice(40, 60)
        loss, grad = softmax_loss_naive(W, X[chosen], y[chosen], 0.01)
        losses.append(loss)
        W = W - 0.1 * grad
    agree(history, losses, 1e-10)
    agree(classifier.W, W, 1e-9)


def test_linear_classifier_save_and_load(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    classifier, other = Softmax(), Softmax()
    with pytest.raises(ValueError, match="train"):
        classifier.save("best_softmax.npy")
    classifier.W = np.random.randn(4, 3)
    assert other.load("best_softmax.npy") is False
    classifier.save("best_softmax.npy")
    assert other.load("best_softmax.npy") is True
    np.testing.assert_array_equal(other.W, classifier.W)
    assert capsys.readouterr().out.split("\n")[:2] == ["best_softmax.npy not available.", "best_softmax.npy saved."]
    with pytest.raises(NotImplementedError, match="loss"):
        LinearClassifier().loss(np.ones((1, 4)), np.zeros(1, int), 0.0)


@pytest.fixture
def toy():
    """The toy network and data of two_layer_net, editions to 2020."""
    np.random.seed(0)
    net = TwoLayerNet(4, 10, 3, std=1e-1)
    np.random.seed(1)
    return net, 10 * np.random.randn(5, 4), np.array([0, 1, 2, 2, 1])


def test_toy_net_has_the_published_scores(agree, toy):
    net, X, y = toy
    scores = [
        [-0.81233741, -1.27654624, -0.70335995],
        [-0.17129677, -1.18803311, -0.47310444],
        [-0.51590475, -1.01354314, -0.8504215],
        [-0.15419291, -0.48629638, -0.52901952],
        [-0.00618733, -0.12435261, -0.15226949],
    ]
    np.testing.assert_allclose(net.loss(X), scores, atol=5.1e-9)
    agree(net.loss(X, y, reg=0.05)[0], 1.30378789133, 1e-11)


def test_toy_net_gradients(agree, toy):
    net, X, y = toy
    _, grads = net.loss(X, y, reg=0.05)
    for name, gradient in grads.items():
        numerical = eval_numerical_gradient(lambda _: net.loss(X, y, reg=0.05)[0], net.params[name], verbose=False)
        agree(gradient, numerical, 1e-7)


def test_toy_net_trains_as_published(agree, toy):
    _, X, y = toy
    np.random.seed(0)
    net = TwoLayerNet(4, 10, 3, std=1e-1)
    stats = net.train(X, y, X, y, learning_rate=1e-1, reg=5e-6, num_iters=100, verbose=False)
    agree(stats["loss_history"][-1], 0.017149607938732093, 1e-10)
    assert len(stats["loss_history"]) == len(stats["train_acc_history"]) == len(stats["val_acc_history"]) == 100
    assert stats["val_acc_history"][-1] == 1.0
    np.testing.assert_array_equal(net.predict(X), y)


def test_neural_net_prints_and_counts_epochs(capsys):
    X, y = np.random.randn(50, 4), np.arange(50) % 3
    stats = TwoLayerNet(4, 10, 3).train(X, y, X, y, num_iters=101, batch_size=10, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": loss ")[0] for line in lines] == ["iteration 0 / 101", "iteration 100 / 101"]
    assert len(stats["val_acc_history"]) == 21


def test_features_make_a_better_classifier(images, capsys):
    """The features notebook in small: HOG and hue beat raw pixels for a linear SVM."""
    X, y = images[0][:2500], images[1][:2500]
    features = extract_features(X.reshape(-1, 32, 32, 3), [hog_feature, color_histogram_hsv], verbose=True)
    assert features.shape == (2500, 154)
    progress = [f"Done extracting features for {n} / 2500 images" for n in (1000, 2000)]
    assert capsys.readouterr().out.splitlines() == progress
    features = features - features[:2000].mean(axis=0)
    features = np.hstack([features / features[:2000].std(axis=0), np.ones((2500, 1))])
    accuracies = []
    for table, rate, reg in ((features, 3e-3, 1.0), (np.hstack([X - X.mean(axis=0), np.ones((2500, 1))]), 1e-7, 2.5e4)):
        svm = LinearSVM()
        svm.train(table[:2000], y[:2000], learning_rate=rate, reg=reg, num_iters=300)
        accuracies.append((svm.predict(table[2000:]) == y[2000:]).mean())
    assert accuracies[0] > 0.35
    assert accuracies[0] > accuracies[1]
