"""The course's Solver: what it draws, prints, keeps and writes, on a model that is easy to follow."""

import pickle

import numpy as np
import pytest

from nnkit.cs231n import data_utils, optim
from nnkit.cs231n.classifiers.fc_net import TwoLayerNet
from nnkit.cs231n.solver import Solver


@pytest.fixture
def data():
    X = np.random.randn(130, 4)
    y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0)
    return {"X_train": X[:100], "y_train": y[:100], "X_val": X[100:], "y_val": y[100:], "X_test": None}


def by_hand(model, data, rate, decay, batch_size, epochs, num_train_samples):
    """The contract of training, line by line: losses, accuracies, best parameters."""
    losses, train_accs, val_accs, best, best_params = [], [], [], 0, None
    per_epoch = max(len(data["X_train"]) // batch_size, 1)
    for t in range(epochs * per_epoch):
        chosen = np.random.choice(100, batch_size)
        loss, grads = model.loss(data["X_train"][chosen], data["y_train"][chosen])
        losses.append(loss)
        model.params = {name: w - rate * grads[name] for name, w in model.params.items()}
        ends = (t + 1) % per_epoch == 0
        rate *= decay if ends else 1
        if t == 0 or ends:
            X, y = data["X_train"], data["y_train"]
            if num_train_samples is not None and num_train_samples < 100:
                chosen = np.random.choice(100, num_train_samples)
                X, y = X[chosen], y[chosen]
            train_accs.append((model.loss(X).argmax(axis=1) == y).mean())
            val_accs.append((model.loss(data["X_val"]).argmax(axis=1) == data["y_val"]).mean())
            if val_accs[-1] > best:
                best, best_params = val_accs[-1], {name: w.copy() for name, w in model.params.items()}
    return losses, train_accs, val_accs, best_params


@pytest.mark.parametrize("num_train_samples", [None, 40, 1000])
def test_training_is_the_contract(data, agree, num_train_samples):
    np.random.seed(5)
    losses, train_accs, val_accs, best_params = by_hand(
        TwoLayerNet(4, 8, 3, 0.5), data, 0.5, 0.9, 30, 4, num_train_samples
    )
    np.random.seed(5)
    model = TwoLayerNet(4, 8, 3, 0.5)
    solver = Solver(
        model=model,
        data=data,
        update_rule="sgd",
        optim_config={"learning_rate": 0.5},
        lr_decay=0.9,
        batch_size=30,
        num_epochs=4,
        num_train_samples=num_train_samples,
        verbose=False,
    )
    solver.train()
    agree(solver.loss_history, losses, 1e-12)
    assert solver.train_acc_history == train_accs
    assert solver.val_acc_history == val_accs
    assert solver.best_val_acc == max(val_accs)
    assert len(val_accs) == 5
    assert model.params is solver.best_params
    for name, array in best_params.items():
        agree(model.params[name], array, 1e-9)


def test_printed_lines(data, capsys):
    Solver(TwoLayerNet(4, 8, 3), data, batch_size=25, num_epochs=2, print_every=3).train()
    lines = capsys.readouterr().out.splitlines()
    starts = ["(Iteration 1 / 8) loss: ", "(Epoch 0 / 2) train acc: ", "(Iteration 4 / 8) loss: "]
    starts += ["(Epoch 1 / 2) train acc: ", "(Iteration 7 / 8) loss: ", "(Epoch 2 / 2) train acc: "]
    assert len(lines) == len(starts)
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)
    assert lines[0].startswith("(Iteration 1 / 8) loss: 1.0986")  # log(3)
    assert "; val_acc: 0." in lines[1]
    Solver(TwoLayerNet(4, 8, 3), data, num_epochs=1, verbose=False).train()
    assert capsys.readouterr().out == ""


def test_a_batch_as_large_as_the_data(data):
    solver = Solver(TwoLayerNet(4, 8, 3), data, batch_size=200, num_epochs=3, verbose=False)
    solver.train()
    assert (len(solver.loss_history), len(solver.val_acc_history), solver.epoch) == (3, 3, 3)


def test_every_parameter_has_its_own_config(data):
    config = {"learning_rate": 1e-2}
    solver = Solver(TwoLayerNet(4, 8, 3), data, update_rule="adam", optim_config=config, lr_decay=0.5, verbose=False)
    solver.train()
    assert config == {"learning_rate": 1e-2}
    assert sorted(solver.optim_configs) == ["W1", "W2", "b1", "b2"]
    assert solver.optim_configs["W1"]["t"] == 10
    assert solver.optim_configs["W1"]["learning_rate"] == pytest.approx(1e-2 * 0.5**10)
    assert solver.update_rule is optim.adam
    solver._reset()
    assert (solver.epoch, solver.best_val_acc, solver.best_params, solver.loss_history) == (0, 0, {}, [])


def test_wrong_arguments(data):
    with pytest.raises(ValueError, match=r"Unrecognized arguments 'num_epoch', 'batchsize'"):
        Solver(TwoLayerNet(4, 8, 3), data, num_epoch=3, batchsize=4)
    with pytest.raises(ValueError, match="Invalid update_rule 'adan'"):
        Solver(TwoLayerNet(4, 8, 3), data, update_rule="adan")


def test_check_accuracy(data):
    class ByHalves:
        def __init__(self):
            self.params, self.sizes = {}, []

        def loss(self, X):
            self.sizes.append(len(X))
            return np.stack([X[:, 0] < 0, X[:, 0] >= 0], axis=1)

    model = ByHalves()
    solver = Solver(model, data)
    X, y = data["X_train"], (data["X_train"][:, 0] >= 0).astype(np.int32)
    y[:10] ^= 1
    assert solver.check_accuracy(X, y, batch_size=30) == 0.9
    assert model.sizes == [30, 30, 30, 10]
    np.random.seed(3)
    accuracy = solver.check_accuracy(X, y, num_samples=50)
    np.random.seed(3)
    assert accuracy == pytest.approx((np.random.choice(100, 50) >= 10).mean())


def test_checkpoints(data, tmp_path, capsys):
    name = str(tmp_path / "net")
    solver = Solver(TwoLayerNet(4, 8, 3), data, batch_size=50, num_epochs=2, checkpoint_name=name, print_every=100)
    solver.train()
    written = [f'Saving checkpoint to "{name}_epoch_{epoch}.pkl"' for epoch in range(3)]
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("Saving")] == written
    with open(f"{name}_epoch_2.pkl", "rb") as file:
        checkpoint = pickle.load(file)
    assert sorted(checkpoint) == [
        "batch_size", "epoch", "loss_history", "lr_decay", "model", "num_train_samples", "num_val_samples",
        "optim_config", "train_acc_history", "update_rule", "val_acc_history",
    ]  # fmt: skip
    assert checkpoint["loss_history"] == solver.loss_history
    models = data_utils.load_models(tmp_path)
    assert sorted(models) == [f"net_epoch_{epoch}.pkl" for epoch in range(3)]
    assert models["net_epoch_2.pkl"].loss(data["X_val"]).shape == (30, 3)
