"""Numbers to predict in place of labels: the data set, and a Solver that trains on it; order and weights kept."""

import numpy as np
import pytest

from nnkit import plots
from nnkit.callbacks import print_epoch
from nnkit.data import Dataset, TargetDataset
from nnkit.errors import UsageError
from nnkit.history import History
from nnkit.layers import BCEWithLogitsLoss, Flatten, Linear, MSELoss
from nnkit.models import Sequential
from nnkit.optim import SGD
from nnkit.solver import Solver


def make_targets(n=80, outputs=2, weighted=False):
    """Rows of five features, and targets that are a linear map of them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    y = x @ rng.normal(size=(5, outputs)) + 0.01 * rng.normal(size=(n, outputs))
    return TargetDataset(x[:, None, None, :], y, rng.uniform(size=n) if weighted else None)


def make_solver(data, outputs=2, **options):
    settings = {"epochs": 8, "batch_size": 16, "validation": 20, "normalize": (0.0, 1.0), "loss": MSELoss(), **options}
    return Solver(Sequential(Flatten(), Linear(outputs)), data, SGD(0.1), **settings)


def test_a_part_keeps_targets_and_weights_together():
    data = make_targets(weighted=True)
    part = data[[3, 1]]
    assert isinstance(part, TargetDataset)
    np.testing.assert_array_equal(part.labels, data.labels[[3, 1]])
    np.testing.assert_array_equal(part.sample_weight, data.sample_weight[[3, 1]])
    train, held_out = data.split(0.25, seed=1)
    assert (len(train), len(held_out)) == (60, 20)
    assert len(np.unique(np.concatenate([train.labels, held_out.labels]), axis=0)) == 80
    assert data.labels.dtype == np.float64
    assert TargetDataset(data.images, np.ones((80, 1), int)).labels.dtype == np.float32


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.ones(3), r"targets: expected shape \(3, K\) for 3 images, got \(3,\)"),
        (np.ones((2, 1)), r"expected shape \(3, K\) for 3 images, got \(2, 1\)"),
        (np.ones((3, 0)), r"got \(3, 0\)"),
        ([["a"], ["b"], ["c"]], "targets: expected numbers, got <U1"),
        ([[1.0], [np.nan], [2.0]], "targets: expected finite numbers"),
    ],
)
def test_targets_that_cannot_be(targets, message):
    with pytest.raises(ValueError, match=message):
        TargetDataset(np.zeros((3, 1, 1, 4)), targets)


def test_a_solver_learns_numbers_and_keeps_the_weights_of_the_lowest_loss(capsys):
    solver = make_solver(make_targets(), callbacks=[print_epoch])
    history = solver.train()
    assert history.val_loss[-1] < 0.05 * history.val_loss[0]
    assert history.val_accuracy == history.train_accuracy == [None] * 8
    assert history.best_epoch == np.argmin(history.val_loss) + 1
    loss, accuracy = solver.evaluate(solver.validation)
    assert accuracy is None
    assert loss == pytest.approx(min(history.val_loss), rel=1e-6)
    assert "acc" not in capsys.readouterr().out
    assert len(plots.training_curves(history).axes) == 1  # the loss alone


def test_several_questions_at_once_are_right_when_all_are():
    data = make_targets(200)
    answers = TargetDataset(data.images, data.labels > 0)
    solver = make_solver(answers, epochs=20, loss=BCEWithLogitsLoss())
    history = solver.train()
    said = solver.model.forward(data.images.transpose(0, 3, 1, 2)) > 0
    held_out = np.isin(data.images[:, 0, 0, 0], solver.validation.images[:, 0, 0, 0])
    right = (said == (data.labels > 0)).all(axis=1)[held_out].mean()
    assert max(history.val_accuracy) == pytest.approx(right)
    assert right > 0.8


def test_a_killed_training_of_numbers_goes_on_to_the_same_bits(tmp_path):
    whole = make_solver(make_targets(weighted=True))
    whole.train()
    make_solver(make_targets(weighted=True), epochs=3, out=tmp_path).train()
    rest = make_solver(make_targets(weighted=True), out=tmp_path, resume=True)
    rest.train()
    np.testing.assert_array_equal(rest.model.flat_params, whole.model.flat_params)
    again = History.from_csv(tmp_path / "history.csv")
    assert again.val_accuracy == [None] * 8
    assert again.val_loss == whole.history.val_loss


def test_outputs_that_do_not_fit_are_told():
    with pytest.raises(UsageError, match=r"training set: 2 targets, but the model's output is \(3,\)"):
        make_solver(make_targets(), outputs=3)
    with pytest.raises(UsageError, match=r"validation set: 1 targets, but the model's output is \(2,\)"):
        make_solver(make_targets(), validation=make_targets(outputs=1))
    with pytest.raises(TypeError, match="integer class labels, got an array of float64"):
        make_solver(make_targets(), loss=None).train()


def test_without_shuffling_images_and_weights_keep_their_order():
    n = 20
    images = np.arange(n, dtype=np.float32)[:, None, None, None]
    data = Dataset(images, np.arange(n) % 2, sample_weight=np.arange(1, n + 1))
    seen = {}

    class Noting(Solver):
        def _step(self, x, y, weight, share):
            seen.setdefault(self.epoch, []).append((x.ravel().tolist(), weight.tolist()))
            super()._step(x, y, weight, share)

    for shuffle in (False, True):
        seen.clear()
        net = Sequential(Flatten(), Linear(2))
        Noting(net, data, SGD(1e-6), epochs=2, batch_size=8, shuffle=shuffle, validation=None, normalize=(0, 1)).train()
        epochs = [[value for x, _ in seen[epoch] for value in x] for epoch in (0, 1)]
        weights = [[value for _, w in seen[epoch] for value in w] for epoch in (0, 1)]
        assert [[x + 1 for x in epoch] for epoch in epochs] == weights
        assert (epochs[0] == epochs[1] == list(range(n))) is not shuffle
        assert sorted(epochs[0]) == list(range(n))


def test_the_last_weights_may_be_kept():
    ends = {}
    for restore_best in (True, False):
        last = []
        solver = make_solver(
            make_targets(),
            epochs=6,
            restore_best=restore_best,
            callbacks=[lambda s, last=last: last.append(s.model.flat_params.copy())],
        )
        solver.optimizer.initial_lr = 0.9  # so fast that later epochs are no better
        history = solver.train()
        assert history.best_epoch < 6
        expected = last[-1] if not restore_best else last[history.best_epoch - 1]
        np.testing.assert_array_equal(solver.model.flat_params, expected)
        ends[restore_best] = solver.model.flat_params.copy()
    assert not np.array_equal(ends[True], ends[False])
