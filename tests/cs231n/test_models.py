"""The cells about whole networks, of FullyConnectedNets, BatchNormalization, Dropout and ConvolutionalNetworks."""

import numpy as np
import pytest

import nnkit.cs231n
from nnkit.cs231n.classifiers.cnn import ThreeLayerConvNet
from nnkit.cs231n.classifiers.fc_net import FullyConnectedNet, TwoLayerNet
from nnkit.cs231n.gradient_check import eval_numerical_gradient
from nnkit.cs231n.solver import Solver


def check_numerically(agree, model, X, y, tolerance, h=1e-5):
    loss, grads = model.loss(X, y)
    assert sorted(grads) == sorted(model.params)
    for name, array in model.params.items():
        numerical = eval_numerical_gradient(lambda _: model.loss(X, y)[0], array, verbose=False, h=h)
        assert grads[name].shape == array.shape
        agree(grads[name], numerical, tolerance)
    return loss


def test_two_layer_net_is_initialised_in_order():
    model = TwoLayerNet(input_dim=5, hidden_dim=50, num_classes=7, weight_scale=1e-3)
    np.random.seed(231)
    for name, shape in {"W1": (5, 50), "W2": (50, 7)}.items():
        np.testing.assert_array_equal(model.params[name], 1e-3 * np.random.randn(*shape))
        assert model.params[name].std() == pytest.approx(1e-3, rel=0.1)
    assert not model.params["b1"].any()
    assert not model.params["b2"].any()
    assert {array.dtype for array in model.params.values()} == {np.dtype(np.float64)}


def test_two_layer_net(agree):
    model = TwoLayerNet(5, 50, 7, 1e-3)
    model.params["W1"] = np.linspace(-0.7, 0.3, num=250).reshape(5, 50)
    model.params["b1"] = np.linspace(-0.1, 0.9, num=50)
    model.params["W2"] = np.linspace(-0.3, 0.4, num=350).reshape(50, 7)
    model.params["b2"] = np.linspace(-0.9, 0.1, num=7)
    X, y = np.linspace(-5.5, 4.5, num=15).reshape(5, 3).T, np.asarray([0, 5, 1])
    scores = [
        [11.53165108, 12.2917344, 13.05181771, 13.81190102, 14.57198434, 15.33206765, 16.09215096],
        [12.05769098, 12.74614105, 13.43459113, 14.1230412, 14.81149128, 15.49994135, 16.18839143],
        [12.58373087, 13.20054771, 13.81736455, 14.43418138, 15.05099822, 15.66781506, 16.2846319],
    ]
    agree(model.loss(X), scores, 1e-9)
    agree(model.loss(X, y)[0], 3.4702243556, 1e-10)
    model.reg = 1.0
    agree(model.loss(X, y)[0], 26.5948426952, 1e-10)
    for model.reg in (0.0, 0.7):
        check_numerically(agree, model, X, y, 3e-7)


# (what the network is given, the printed initial losses for reg = 0 and reg = 3.14)
NETWORKS = {
    "plain": ({}, (2.3004790897684924, 7.052114776533016)),
    "batchnorm": ({"normalization": "batchnorm"}, (2.2611955101340957, 6.996533220108303)),
    "batchnorm of 2017": ({"use_batchnorm": True}, (2.2611955101340957, 6.996533220108303)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_fully_connected_net_prints_the_published_losses(agree, name):
    options, losses = NETWORKS[name]
    X, y = np.random.randn(2, 15), np.random.randint(10, size=(2,))
    for reg, published in zip((0, 3.14), losses, strict=True):
        model = FullyConnectedNet(
            [20, 30], input_dim=15, num_classes=10, reg=reg, weight_scale=5e-2, dtype=np.float64, **options
        )
        agree(model.loss(X, y)[0], published, 1e-12)


@pytest.mark.parametrize("name", ["dropout", "dropout_keep_ratio"])
def test_dropout_net_prints_the_published_losses(agree, name):
    X, y = np.random.randn(2, 15), np.random.randint(10, size=(2,))
    for keep, published in {1: 2.3004790897684924, 0.75: 2.302371489704412, 0.5: 2.3042759220785896}.items():
        model = FullyConnectedNet(
            [20, 30], input_dim=15, num_classes=10, weight_scale=5e-2, dtype=np.float64, seed=123, **{name: keep}
        )
        agree(model.loss(X, y)[0], published, 1e-12)
        assert model.use_dropout == (keep != 1)


@pytest.mark.parametrize("reg", [0, 3.14])
@pytest.mark.parametrize("dropout", [1, 0.5])
@pytest.mark.parametrize("normalization", [None, "batchnorm", "layernorm"])
def test_fully_connected_net_against_numerical_gradients(reg, dropout, normalization):
    X, y = np.random.randn(4, 15), np.random.randint(10, size=(4,))
    model = FullyConnectedNet(
        hidden_dims=[10, 8],
        input_dim=15,
        num_classes=10,
        reg=reg,
        weight_scale=0.3,
        dtype=np.float64,
        dropout_keep_ratio=dropout,
        normalization=normalization,
        seed=123,
    )
    _, grads = model.loss(X, y)
    for name, array in model.params.items():
        numerical = eval_numerical_gradient(lambda _: model.loss(X, y)[0], array, verbose=False)
        np.testing.assert_allclose(grads[name], numerical, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dropout", [1, 0.6])
@pytest.mark.parametrize("normalization", [None, "batchnorm", "layernorm"])
def test_fully_connected_net_against_pytorch(agree, dropout, normalization):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    X, y = np.random.randn(6, 3, 5), np.random.randint(10, size=(6,))
    options = {"dropout": dropout, "normalization": normalization, "reg": 0.3, "seed": 7, "dtype": np.float64}
    model = FullyConnectedNet([10, 8], 15, 10, weight_scale=0.3, **options)
    loss, grads = model.loss(X, y)
    params = {name: torch.tensor(array, requires_grad=True) for name, array in model.params.items()}
    out = torch.tensor(X).reshape(6, -1)
    for i in (1, 2):
        out = out @ params[f"W{i}"] + params[f"b{i}"]
        if normalization == "batchnorm":
            out = functional.batch_norm(out, None, None, params[f"gamma{i}"], params[f"beta{i}"], training=True)
        elif normalization == "layernorm":
            out = functional.layer_norm(out, out.shape[1:], params[f"gamma{i}"], params[f"beta{i}"])
        out = out.relu()
        if dropout != 1:
            np.random.seed(7)
            out = out * torch.tensor(np.random.rand(*out.shape) < dropout) / dropout
    expected = functional.cross_entropy(out @ params["W3"] + params["b3"], torch.tensor(y))
    expected = expected + 0.5 * 0.3 * sum((params[f"W{i}"] ** 2).sum() for i in (1, 2, 3))
    expected.backward()
    agree(loss, expected.item(), 1e-12)
    for name, gradient in grads.items():
        # A bias ahead of batch norm has no influence; what is left is rounding.
        np.testing.assert_allclose(gradient, params[name].grad.numpy(), rtol=1e-9, atol=1e-13)


def test_fully_connected_net_in_every_spelling():
    assert FullyConnectedNet([5], dropout=0).dropout_param == {}
    assert not FullyConnectedNet([5], dropout=1).use_dropout
    model = FullyConnectedNet([5, 6], dropout=0.75, use_batchnorm=True, seed=3)
    assert model.dropout_param == {"mode": "train", "p": 0.75, "seed": 3}
    assert model.bn_params == [{"mode": "train"}, {"mode": "train"}]
    assert (model.normalization, model.use_batchnorm, model.num_layers) == ("batchnorm", True, 3)
    assert FullyConnectedNet([5], dropout_keep_ratio=0.5).dropout_param == {"mode": "train", "p": 0.5}
    model = FullyConnectedNet([5, 6], normalization="layernorm")
    assert model.bn_params == [{}, {}]
    assert (model.params["gamma2"] == 1).all()
    assert not model.params["beta2"].any()
    assert FullyConnectedNet([5]).bn_params == []
    with pytest.raises(ValueError, match="normalization"):
        FullyConnectedNet([5], normalization="instancenorm")


def test_fully_connected_net_draws_weights_in_order_and_casts():
    model = FullyConnectedNet([4, 3], 6, 2, normalization="batchnorm", dropout=0.5)
    np.random.seed(231)
    for i, shape in enumerate([(6, 4), (4, 3), (3, 2)], 1):
        np.testing.assert_array_equal(model.params[f"W{i}"], (1e-2 * np.random.randn(*shape)).astype(np.float32))
    _, grads = model.loss(np.random.randn(5, 6), np.arange(5) % 2)
    assert {array.dtype for array in (*model.params.values(), *grads.values())} == {np.dtype(np.float32)}
    assert model.loss(np.random.randn(5, 6)).dtype == np.float32


def test_testing_uses_running_statistics_and_no_dropout():
    model = FullyConnectedNet([4], 6, 2, normalization="batchnorm", dropout=0.5, dtype=np.float64)
    X = np.random.randn(20, 6)
    model.loss(X, np.arange(20) % 2)
    assert model.dropout_param["mode"] == model.bn_params[0]["mode"] == "train"
    scores = model.loss(X)
    assert model.dropout_param["mode"] == model.bn_params[0]["mode"] == "test"
    np.testing.assert_allclose(model.loss(X[:1]), scores[:1], rtol=1e-10)


def test_dropout_of_2017_in_a_net(agree):
    X, y = np.random.randn(2, 15), np.random.randint(10, size=(2,))
    nnkit.cs231n.use_edition(2017)
    for dropout in (0, 0.25, 0.5):
        model = FullyConnectedNet([8, 6], 15, 10, dropout=dropout, weight_scale=0.5, dtype=np.float64, seed=123)
        assert model.use_dropout == (dropout > 0)
        check_numerically(agree, model, X, y, 1e-6)


def test_two_layer_net_against_pytorch(agree):
    torch = pytest.importorskip("torch")
    X, y = np.random.randn(6, 3, 5), np.arange(6)
    model = TwoLayerNet(15, 12, 8, 0.5, 0.7)
    loss, grads = model.loss(X, y)
    p = {name: torch.tensor(array, requires_grad=True) for name, array in model.params.items()}
    out = (torch.tensor(X).flatten(1) @ p["W1"] + p["b1"]).relu() @ p["W2"] + p["b2"]
    expected = torch.nn.functional.cross_entropy(out, torch.tensor(y))
    expected = expected + 0.35 * ((p["W1"] ** 2).sum() + (p["W2"] ** 2).sum())
    expected.backward()
    agree(loss, expected.item(), 1e-12)
    for name, gradient in grads.items():
        agree(gradient, p[name].grad.numpy(), 1e-9)


def test_three_layer_conv_net_at_the_start():
    model = ThreeLayerConvNet()
    X, y = np.random.randn(50, 3, 32, 32), np.random.randint(10, size=50)
    loss, _ = model.loss(X, y)
    assert loss == pytest.approx(np.log(10), abs=1e-4)
    model.reg = 0.5
    assert 2.45 < model.loss(X, y)[0] < 2.57
    shapes = {name: array.shape for name, array in model.params.items()}
    assert shapes == {
        "W1": (32, 3, 7, 7), "b1": (32,), "W2": (8192, 100), "b2": (100,), "W3": (100, 10), "b3": (10,)
    }  # fmt: skip
    assert {array.dtype for array in model.params.values()} == {np.dtype(np.float32)}


def test_three_layer_conv_net_gradients(agree):
    X, y = np.random.randn(2, 3, 16, 16), np.random.randint(10, size=2)
    model = ThreeLayerConvNet(num_filters=3, filter_size=3, input_dim=(3, 16, 16), hidden_dim=7, dtype=np.float64)
    _, grads = model.loss(X, y)
    for name in sorted(grads):
        numerical = eval_numerical_gradient(lambda _: model.loss(X, y)[0], model.params[name], verbose=False, h=1e-6)
        # 2e-2 as published, for steps across the kink of a ReLU whose input is as small as the step; and the rounding
        # of the differences, a loss of 2.3 times 2e-16 / 1e-6, in which the smallest gradients drown.
        np.testing.assert_allclose(grads[name], numerical, rtol=2e-2, atol=1e-9)
    model = ThreeLayerConvNet((2, 6, 8), 3, 3, 5, weight_scale=0.3, reg=0.2, dtype=np.float64)
    check_numerically(agree, model, np.random.randn(3, 2, 6, 8), np.array([0, 5, 9]), 1e-6)


def test_three_layer_conv_net_against_pytorch(agree):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    X, y = np.random.randn(4, 3, 10, 8), np.array([0, 5, 9, 5])
    model = ThreeLayerConvNet((3, 10, 8), 4, 5, 6, weight_scale=0.1, reg=0.2, dtype=np.float64)
    loss, grads = model.loss(X, y)
    p = {name: torch.tensor(array, requires_grad=True) for name, array in model.params.items()}
    out = functional.max_pool2d(functional.conv2d(torch.tensor(X), p["W1"], p["b1"], padding=2).relu(), 2)
    out = (out.flatten(1) @ p["W2"] + p["b2"]).relu() @ p["W3"] + p["b3"]
    expected = functional.cross_entropy(out, torch.tensor(y)) + 0.1 * sum((p[f"W{i}"] ** 2).sum() for i in (1, 2, 3))
    expected.backward()
    agree(loss, expected.item(), 1e-12)
    agree(model.loss(X), out.detach().numpy(), 1e-9)
    for name, gradient in grads.items():
        agree(gradient, p[name].grad.numpy(), 1e-9)


def printed(capsys):
    """The numbers in each line of the Solver's progress."""
    lines = capsys.readouterr().out.splitlines()
    return [[float(word.rstrip(";)")) for word in line.split() if word[0].isdigit()] for line in lines]


def small(cifar10, count):
    train = {f"{part}_train": cifar10[f"{part}_train"][:count] for part in "Xy"}
    return {**train, "X_val": cifar10["X_val"], "y_val": cifar10["y_val"]}


def test_conv_net_overfits_as_it_was_published(cifar10, capsys):
    """ConvolutionalNetworks, 'Overfit small data', with seed 231: the first epochs' figures, to the last digit."""
    model = ThreeLayerConvNet(weight_scale=1e-2)
    options = {"update_rule": "adam", "optim_config": {"learning_rate": 1e-3}, "verbose": True, "print_every": 1}
    solver = Solver(model, small(cifar10, 100), num_epochs=2, batch_size=50, **options)
    solver.train()
    assert capsys.readouterr().out.splitlines() == [
        "(Iteration 1 / 4) loss: 2.414060",
        "(Epoch 0 / 2) train acc: 0.200000; val_acc: 0.137000",
        "(Iteration 2 / 4) loss: 3.102925",
        "(Epoch 1 / 2) train acc: 0.140000; val_acc: 0.087000",
        "(Iteration 3 / 4) loss: 2.270330",
        "(Iteration 4 / 4) loss: 2.096705",
        "(Epoch 2 / 2) train acc: 0.240000; val_acc: 0.094000",
    ]


def test_batchnorm_nets_train_as_they_were_published(cifar10, capsys):
    """BatchNormalization, 'Batchnorm for deep networks', with seed 231: the beginning; float32 differs later."""
    hidden, options = [100] * 5, {"update_rule": "adam", "optim_config": {"learning_rate": 1e-3}, "print_every": 20}
    models = [FullyConnectedNet(hidden, weight_scale=2e-2, normalization=n) for n in ("batchnorm", None)]
    published = [
        [[1, 200, 2.340974], [0, 10, 0.107, 0.115], [1, 10, 0.314, 0.266], [21, 200, 2.039365]],
        [[1, 200, 2.302332], [0, 10, 0.129, 0.131], [1, 10, 0.283, 0.25], [21, 200, 2.04197]],
    ]
    solvers = []
    for model, lines in zip(models, published, strict=True):
        solvers.append(Solver(model, small(cifar10, 1000), num_epochs=10, batch_size=50, verbose=True, **options))
        solvers[-1].train()
        for got, right in zip(printed(capsys), lines, strict=False):
            assert got == pytest.approx(right, abs=2.1e-3)
    # "Converges faster": higher over the whole training. The last epochs alone swing with every rounding.
    assert np.mean(solvers[0].train_acc_history) > np.mean(solvers[1].train_acc_history) + 0.05


def test_dropout_nets_train_as_they_were_published(cifar10, capsys):
    """Dropout, 'Regularization experiment', with seed 231: the beginning, and what the experiment shows."""
    models = [FullyConnectedNet([500])]
    options = {"update_rule": "adam", "optim_config": {"learning_rate": 5e-4}, "print_every": 100}
    solvers = [Solver(models[0], small(cifar10, 500), num_epochs=25, batch_size=100, verbose=True, **options)]
    solvers[0].train()
    lines = [[1, 125, 7.856643], [0, 25, 0.26, 0.184], [1, 25, 0.416, 0.258], [2, 25, 0.482, 0.276]]
    for got, right in zip(printed(capsys), lines, strict=False):
        assert got == pytest.approx(right, abs=2.1e-3)
    models.append(FullyConnectedNet([500], dropout=0.25))
    solvers.append(Solver(models[1], small(cifar10, 500), num_epochs=8, batch_size=100, verbose=True, **options))
    solvers[1].train()
    assert printed(capsys)[:2] == [pytest.approx([1, 40, 17.31848], abs=1e-4), [0, 8, 0.23, 0.177]]
    assert solvers[0].train_acc_history[8] > solvers[1].train_acc_history[8] + 0.1


def test_a_three_layer_net_overfits_fifty_images(cifar10):
    """FullyConnectedNets, 'overfit small dataset': 100% within 20 epochs."""
    model = FullyConnectedNet([100, 100], weight_scale=1e-2, dtype=np.float64)
    data = small(cifar10, 50)
    options = {"optim_config": {"learning_rate": 1e-2}, "verbose": False}
    solver = Solver(model, data, num_epochs=20, batch_size=25, update_rule="sgd", **options)
    solver.train()
    assert max(solver.train_acc_history) == 1.0
    assert len(solver.loss_history) == 40
    assert len(solver.train_acc_history) == len(solver.val_acc_history) == 21


def test_update_rules_rank_as_the_notebook_shows(cifar10):
    """FullyConnectedNets: momentum, RMSProp and Adam are ahead of SGD after some epochs on few images."""
    rates = {"sgd": 5e-3, "sgd_momentum": 5e-3, "rmsprop": 1e-4, "adam": 1e-3}
    losses = {}
    for rule, rate in rates.items():
        np.random.seed(0)
        model = FullyConnectedNet([100, 100, 100, 100, 100], weight_scale=5e-2)
        options = {"optim_config": {"learning_rate": rate}, "verbose": False}
        solver = Solver(model, small(cifar10, 1000), num_epochs=3, batch_size=100, update_rule=rule, **options)
        solver.train()
        losses[rule] = np.mean(solver.loss_history[-5:])
    assert all(losses[rule] < losses["sgd"] for rule in ("sgd_momentum", "rmsprop", "adam"))


def test_save_and_load(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for model, other in (
        (TwoLayerNet(4, 5, 3), TwoLayerNet(4, 5, 3)),
        (FullyConnectedNet([5], 4, 3), FullyConnectedNet([5], 4, 3)),
    ):
        assert other.load("net.npy") is False
        model.save("net.npy")
        assert other.load("net.npy") is True
        assert sorted(other.params) == sorted(model.params)
        for name, array in model.params.items():
            np.testing.assert_array_equal(other.params[name], array)
        assert capsys.readouterr().out.splitlines() == ["net.npy not available.", "net.npy saved.", "net.npy loaded."]
        (tmp_path / "cs231n" / "saved" / "net.npy").unlink()
