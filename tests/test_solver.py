import errno
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import nnkit
from nnkit import files, optim
from nnkit.callbacks import StopTraining, print_epoch
from nnkit.checkpoint import load_arrays, load_model
from nnkit.data import Augment, Dataset, batches, epoch_order
from nnkit.errors import CheckpointError, DataError, DivergenceError, UsageError
from nnkit.history import History
from nnkit.layers import BatchNorm, CrossEntropyLoss, Dropout, Flatten, Linear, MSELoss, MultiMarginLoss, ReLU
from nnkit.models import Sequential
from nnkit.solver import Solver, TrainingInterrupted

TRAIN, BATCH, CALLS_PER_EPOCH = 120, 16, 10  # 8 training steps and 2 batches of validation


class SignallingLoss(CrossEntropyLoss):
    """Sends this process a signal in its n-th call."""

    def __init__(self, signum=None, call=0):
        super().__init__()
        self.signum, self.call, self.calls = signum, call, 0

    def forward(self, scores, targets, sample_weight=None):
        self.calls += 1
        if self.calls == self.call:
            os.kill(os.getpid(), self.signum)
        return super().forward(scores, targets, sample_weight)


def make_data(n=150, seed=0, weighted=False, dtype=np.uint8):
    """Images 6×6×3 of three classes: the class's channel is brighter."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    images = rng.integers(0, 150, (n, 6, 6, 3))
    images[np.arange(n), :, :, labels] += 60
    return Dataset(images.astype(dtype), labels, ["red", "green", "blue"], rng.random(n) + 0.5 if weighted else None)


def make_model(width=12):
    return Sequential(Flatten(), Linear(width), BatchNorm(), ReLU(), Dropout(0.3), Linear(3))


def make_solver(out=None, *, resume=False, loss=None, **options):
    """A solver with everything in it that a resumed run has to get right."""
    optimizer = optim.SGD(0.02, momentum=0.9, weight_decay=1e-3, groups=[{"names": ["*.bias"], "weight_decay": 0.0}])
    settings = {
        "epochs": 5,
        "batch_size": BATCH,
        "schedule": optim.LinearWarmup(0.5, optim.ReduceLROnPlateau(gamma=0.5, patience=0, threshold=0.6)),
        "augment": Augment(flip=True, crop_padding=1, cutout=2),
        "validation": 30,
        "clip_norm": 1.0,
        "ema": 0.9,
        "seed": 3,
    }
    data = make_data(weighted=True)
    loss = loss or SignallingLoss()
    return Solver(make_model(), data, optimizer, out=out, resume=resume, loss=loss, **{**settings, **options})


def plain_solver(data=None, optimizer=None, model=None, **options):
    settings = {"epochs": 3, "batch_size": BATCH, "validation": 30, **options}
    return Solver(model or make_model(), data or make_data(), optimizer or optim.SGD(0.05), **settings)


def figures(history):
    """The columns that are not about time."""
    return {name: history[name] for name in history.columns if name not in ("seconds", "images_per_second")}


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """The run that was not interrupted."""
    out = tmp_path_factory.mktemp("whole")
    solver = make_solver(out)
    solver.train()
    return solver


def assert_same_end(solver, whole_run):
    np.testing.assert_array_equal(solver.model.flat_params, whole_run.model.flat_params)
    assert figures(solver.history) == figures(whole_run.history)
    assert (solver.out / "model.safetensors").read_bytes() == (whole_run.out / "model.safetensors").read_bytes()
    arrays, info = load_arrays(solver.out / "last.ckpt" / "state.safetensors")
    others, other_info = load_arrays(whole_run.out / "last.ckpt" / "state.safetensors")
    assert arrays.keys() == others.keys()
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], others[name], err_msg=name)
    assert info["settings"] == other_info["settings"]
    assert History.from_csv(solver.out / "history.csv") == solver.history
    assert names(solver.out) == ["history.csv", "last.ckpt/state.safetensors", "model.safetensors"]


# --- learning ---------------------------------------------------------------------------------------------------------


def test_it_learns_and_keeps_the_figures(whole_run):
    history = whole_run.history
    assert history.epoch == [1, 2, 3, 4, 5]
    assert history.step == [8, 16, 24, 32, 40]
    assert history.train_loss[-1] < history.train_loss[0]
    assert max(history.val_accuracy) > 0.8
    assert len(set(history.lr)) > 1
    assert all(norm > 0 for norm in history.grad_norm)
    assert all(seconds > 0 for seconds in history.seconds)


def test_the_loop_is_what_a_student_would_write():
    """Plain SGD, no dropout or augmentation: the same as five lines by hand."""
    data, model = make_data(100), Sequential(Flatten(), Linear(3))
    solver = Solver(model, data, optim.SGD(0.1), epochs=2, batch_size=BATCH, validation=None, normalize="unit", seed=5)
    history = solver.train()
    other, loss, losses = Sequential(Flatten(), Linear(3)), CrossEntropyLoss(), []
    other.build((3, 6, 6), seed=5)
    for epoch in range(2):
        losses.append(0.0)
        for x, y in batches(data, BATCH, shuffle=True, seed=5, epoch=epoch):
            losses[-1] += loss.forward(other.forward(x, training=True), y) * len(y) / len(data)
            other.backward(loss.backward())
            other.flat_params[:] -= np.float32(0.1) * other.flat_grads
    np.testing.assert_allclose(model.flat_params, other.flat_params, rtol=1e-5, atol=1e-7)
    assert history.train_loss == pytest.approx(losses, rel=1e-5)
    assert history.val_loss == [None, None]
    assert history.best_epoch == 2


@pytest.mark.parametrize(
    "loss", [CrossEntropyLoss(label_smoothing=0.1, class_weight=[1, 2, 0.5]), MultiMarginLoss(), MSELoss()]
)
def test_other_losses(loss):
    history = plain_solver(loss=loss, epochs=4).train()
    assert history.train_loss[-1] < history.train_loss[0]


def test_float64_models_are_trained_in_float64():
    model = make_model()
    model.build((3, 6, 6), dtype=np.float64)
    solver = plain_solver(model=model, data=make_data(dtype=np.float64))
    solver.train()
    assert model.flat_params.dtype == np.float64
    assert solver.optimizer.state == {}


def test_sample_weights_count_in_the_loss_and_go_with_their_images():
    """Images of weight 0 can have any label."""
    data = make_data(120)
    wrong = np.arange(0, 120, 2)
    labels, weight = data.labels.copy(), np.ones(120)
    labels[wrong], weight[wrong] = (labels[wrong] + 1) % 3, 0.0
    clean = make_data(90, seed=1)
    spoiled = Dataset(data.images, labels, data.class_names, weight)
    solver = plain_solver(spoiled, validation=clean, epochs=12)
    assert max(solver.train().val_accuracy) > 0.9
    loss, _ = solver.evaluate(spoiled)
    right, _ = solver.evaluate(Dataset(data.images, data.labels, data.class_names)[weight > 0])
    assert loss == pytest.approx(right, rel=1e-4)


def test_a_first_batch_without_weight_is_no_obstacle():
    data = make_data(weighted=True)
    order = epoch_order(len(data), 0, 0)
    data.sample_weight[order[:BATCH]] = 0
    history = plain_solver(data, validation=None, progress=True, epochs=1).train()  # the bar shows the loss so far
    assert history.train_loss[0] > 0


def test_an_optimizer_and_a_schedule_that_were_used_before_start_afresh():
    used, worn = optim.Adam(1e-2), optim.ReduceLROnPlateau(patience=0, threshold=0.9)
    plain_solver(optimizer=used, schedule=worn, model=make_model(width=20), epochs=3).train()
    fresh = plain_solver(optimizer=optim.Adam(1e-2), schedule=optim.ReduceLROnPlateau(patience=0, threshold=0.9))
    again = plain_solver(optimizer=used, schedule=worn)
    again.train()
    fresh.train()
    np.testing.assert_array_equal(again.model.flat_params, fresh.model.flat_params)


def test_validation_is_not_augmented_and_reports_what_predict_says():
    validation = make_data(40, seed=9)
    solver = plain_solver(validation=validation, augment=Augment(crop_padding=3, cutout=5))
    history = solver.train()
    (x, y) = next(iter(batches(validation, 40, normalize=solver.normalize)))
    accuracy = float((solver.model.predict(x) == y).mean())
    assert history.val_accuracy[history.best_epoch - 1] == accuracy
    assert solver.evaluate(validation)[1] == accuracy


def test_best_weights_come_back_and_are_on_the_disk(tmp_path):
    def spoil(solver):
        if solver.epoch == 3:
            solver.model.flat_params[:] = solver.optimizer.initial_lr = 0

    solver = plain_solver(callbacks=[spoil], epochs=4, out=tmp_path)
    history = solver.train()
    assert history.best_epoch < 4
    assert history.val_accuracy[3] < max(history.val_accuracy)
    loss, accuracy = solver.evaluate(solver.validation)
    row = history.row(history.best_epoch - 1)
    assert (loss, accuracy) == (row["val_loss"], row["val_accuracy"])
    model, metadata = load_model(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(model.flat_params, solver.model.flat_params)
    for name, array in model.named_buffers().items():
        np.testing.assert_array_equal(array, solver.model.named_buffers()[name])
    assert metadata["class_names"] == ["red", "green", "blue"]
    assert metadata["epoch"] == history.best_epoch
    np.testing.assert_array_equal(metadata["normalize"], solver.normalize)


def test_patience_stops_early():
    solver = plain_solver(optimizer=optim.SGD(0.0), epochs=50, patience=2)  # with a rate of 0 only batch norm moves
    history = solver.train()
    assert len(history) < 50
    assert history.epoch[-1] == history.best_epoch + 2


def test_averaged_weights_are_what_is_validated_and_kept():
    live = []
    solver = plain_solver(ema=0.9, epochs=2, callbacks=[lambda s: live.append(s.model.flat_params.copy())])
    history = solver.train()
    kept = solver.best_weights["5.weight"].ravel()
    assert not np.array_equal(solver.model.flat_params, live[history.best_epoch - 1])
    assert np.array_equal(solver.model.named_parameters()["5.weight"].ravel(), kept)
    if history.best_epoch == 2:
        np.testing.assert_array_equal(solver.model.flat_params, solver.ema.average)


def test_plateau_lowers_the_rate():
    solver = plain_solver(
        optimizer=optim.SGD(1e-9), epochs=4, schedule=optim.ReduceLROnPlateau(gamma=0.5, patience=0, threshold=0.9)
    )
    np.testing.assert_allclose(solver.train().lr, [1e-9, 1e-9, 5e-10, 2.5e-10])


def test_clipping_limits_what_the_optimizer_sees():
    seen = []

    class Spy(optim.SGD):
        def step(self, params, grads):
            seen.append((np.abs(grads).max(), np.linalg.norm(grads)))
            super().step(params, grads)

    history = plain_solver(optimizer=Spy(0.05), clip_norm=0.01, epochs=1).train()
    assert all(norm <= 0.0101 for _, norm in seen)
    assert history.grad_norm[0] > 0.011  # before clipping
    seen.clear()
    plain_solver(optimizer=Spy(0.05), clip_value=0.001, epochs=1).train()
    assert all(largest <= 0.001001 for largest, _ in seen)


def test_a_single_image_left_over_is_left_out():
    solver = plain_solver(make_data(33), validation=None, batch_size=16, epochs=1)
    assert solver.train().step == [2]
    assert solver.steps_per_epoch == 2


# --- callbacks and stopping -------------------------------------------------------------------------------------------


def test_callbacks_see_the_epoch_and_may_stop(capsys, tmp_path):
    seen = []

    def stop(solver):
        seen.append((solver.epoch, solver.history.val_loss[-1]))
        if solver.epoch == 2:
            raise StopTraining

    solver = plain_solver(callbacks=[stop, print_epoch], epochs=9, out=tmp_path, checkpoint_every=5)
    history = solver.train()
    assert [epoch for epoch, _ in seen] == [1, 2]
    assert len(history) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("epoch 2/9")
    assert load_arrays(tmp_path / "last.ckpt" / "state.safetensors")[1]["epoch"] == 2


def test_an_error_in_a_callback_comes_out_costs_no_epoch_and_leaves_no_thread(tmp_path):
    def broken(solver):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        plain_solver(callbacks=[broken], out=tmp_path).train()
    assert load_arrays(tmp_path / "last.ckpt" / "state.safetensors")[1]["epoch"] == 1
    assert load_model(tmp_path / "model.safetensors")[1]["epoch"] == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("nnkit")]


def test_checkpoint_every(tmp_path):
    states = []

    def look(solver):
        states.append(load_arrays(tmp_path / "last.ckpt" / "state.safetensors")[1]["epoch"])

    plain_solver(callbacks=[look], epochs=5, out=tmp_path, checkpoint_every=2).train()
    assert states == [0, 0, 2, 2, 4]
    assert load_arrays(tmp_path / "last.ckpt" / "state.safetensors")[1]["epoch"] == 5


# --- resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [4, CALLS_PER_EPOCH + 5, 2 * CALLS_PER_EPOCH])
def test_kill_9_and_resume_end_with_the_same_bits(tmp_path, whole_run, call):
    result = run_in_process(tmp_path, signal.SIGKILL, call)
    assert result.returncode == -signal.SIGKILL
    solver = make_solver(tmp_path, resume=True)
    assert solver.epoch == (call - 1) // CALLS_PER_EPOCH
    solver.train()
    assert_same_end(solver, whole_run)


def test_kill_9_between_the_best_model_and_the_state(tmp_path, whole_run):
    assert run_in_process(tmp_path, signal.SIGKILL, "to_csv").returncode == -signal.SIGKILL
    assert load_model(tmp_path / "model.safetensors")[1]["epoch"] == 2
    solver = make_solver(tmp_path, resume=True)
    assert solver.epoch == 1
    solver.train()
    assert_same_end(solver, whole_run)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("call", [3, CALLS_PER_EPOCH + 8, 2 * CALLS_PER_EPOCH - 1, 5 * CALLS_PER_EPOCH])
def test_interruption_and_resume_end_with_the_same_bits(tmp_path, whole_run, signum, call):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    solver = make_solver(tmp_path, loss=SignallingLoss(signum, call))
    with pytest.raises(TrainingInterrupted, match=signal.Signals(signum).name) as caught:
        solver.train()
    assert caught.value.signum == signum
    assert str(tmp_path) in str(caught.value)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert solver.step == min(call - 2 * ((call - 1) // CALLS_PER_EPOCH), 8 * ((call - 1) // CALLS_PER_EPOCH + 1))
    solver = make_solver(tmp_path, resume=True)
    assert solver.epoch == (call - 1) // CALLS_PER_EPOCH
    solver.train()
    assert_same_end(solver, whole_run)


def test_train_again_after_an_interruption_goes_on(whole_run):
    solver = make_solver(loss=SignallingLoss(signal.SIGINT, 14))
    with pytest.raises(TrainingInterrupted, match=r"nothing is saved.*train\(\) goes on"):
        solver.train()
    assert solver.evaluate(solver.validation)[0] > 0  # is not taken to be interrupted, too
    solver.train()
    np.testing.assert_array_equal(solver.model.flat_params, whole_run.model.flat_params)
    assert figures(solver.history) == figures(whole_run.history)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_process_ends_as_keyboard_interrupt(tmp_path, signum):
    result = run_in_process(tmp_path, signum, 12)
    assert result.returncode == 128 + signum
    assert f"interrupted by {signum.name} after step 10 (epoch 2 of 5)" in result.stdout
    assert load_arrays(tmp_path / "last.ckpt" / "state.safetensors")[1]["step"] == 10


def test_second_ctrl_c_aborts_at_once():
    class Impatient(CrossEntropyLoss):
        def forward(self, *arguments):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the step went on")

    solver = plain_solver(loss=Impatient())
    with pytest.raises(KeyboardInterrupt) as caught:
        solver.train()
    assert not isinstance(caught.value, TrainingInterrupted)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_training_in_another_thread_leaves_signals_alone():
    histories = []
    thread = threading.Thread(target=lambda: histories.append(plain_solver().train()))
    thread.start()
    thread.join()
    assert len(histories[0]) == 3


def test_more_epochs_may_follow(tmp_path):
    plain_solver(out=tmp_path, epochs=2).train()
    longer = plain_solver(out=tmp_path, epochs=4, resume=True)
    longer.train()
    at_once = plain_solver(epochs=4)
    at_once.train()
    np.testing.assert_array_equal(longer.model.flat_params, at_once.model.flat_params)
    assert figures(longer.history) == figures(at_once.history)
    with pytest.raises(UsageError, match="epochs: 3 is less than the 4"):
        plain_solver(out=tmp_path, epochs=3, resume=True)


def test_a_finished_run_resumes_to_its_end(tmp_path, whole_run):
    solver = make_solver(whole_run.out, resume=True)
    assert figures(solver.train()) == figures(whole_run.history)
    np.testing.assert_array_equal(solver.model.flat_params, whole_run.model.flat_params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 8}, r"batch_size \(16 there, 8 here\)"),
        ({"seed": 4}, r"seed \(3 there, 4 here\)"),
        ({"clip_norm": None}, "clip_norm"),
        ({"ema": 0.5}, "ema"),
        ({"augment": Augment(flip=True)}, r"augment\.crop_padding.*augment\.cutout"),
        ({"schedule": optim.StepLR(2)}, "schedule"),
        ({"loss": MultiMarginLoss()}, r"loss\.type"),
        ({"validation": 31}, r"validation\.images"),
    ],
)
def test_other_settings_are_named(whole_run, change, message):
    with pytest.raises(CheckpointError, match=rf"state\.safetensors: saved with other settings: .*{message}"):
        make_solver(whole_run.out, resume=True, **change)


def test_other_data_model_or_optimizer_are_named(tmp_path):
    plain_solver(out=tmp_path, epochs=1).train()
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.out_features \(12 there, 13 here\)"):
        plain_solver(out=tmp_path, resume=True, model=make_model(13))
    with pytest.raises(CheckpointError, match=r"optimizer\.lr \(0\.05 there, 0\.1 here\)"):
        plain_solver(out=tmp_path, resume=True, optimizer=optim.SGD(0.1))
    for other in (make_data(seed=1), make_data(weighted=True)):
        with pytest.raises(CheckpointError, match=r"data\.checksum"):
            plain_solver(other, out=tmp_path, resume=True)
    model = make_model()
    model.build((3, 6, 6), dtype=np.float64)
    with pytest.raises(CheckpointError, match=r"dtype \('float32' there, 'float64' here\)"):
        plain_solver(out=tmp_path, resume=True, model=model)


def test_nothing_to_resume(tmp_path):
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        plain_solver(out=tmp_path, resume=True)
    with pytest.raises(UsageError, match="out"):
        plain_solver(resume=True)


def test_a_run_is_not_overwritten(tmp_path):
    plain_solver(out=tmp_path, epochs=1).train()
    with pytest.raises(UsageError, match="holds a run already"):
        plain_solver(out=tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 200, 0.5, 0.999])
def test_truncated_checkpoint(tmp_path, keep):
    plain_solver(out=tmp_path, epochs=1).train()
    path = tmp_path / "last.ckpt" / "state.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if 0 < keep < 1 else keep])
    with pytest.raises(CheckpointError, match=r"state\.safetensors: damaged") as caught:
        plain_solver(out=tmp_path, resume=True)
    assert "\n" not in str(caught.value)


def test_a_model_is_not_a_training_state(tmp_path):
    plain_solver(out=tmp_path, epochs=1).train()
    (tmp_path / "model.safetensors").replace(tmp_path / "last.ckpt" / "state.safetensors")
    with pytest.raises(CheckpointError, match="not the state of a training"):
        plain_solver(out=tmp_path, resume=True)


# --- trouble ----------------------------------------------------------------------------------------------------------


def full_disk(monkeypatch):
    def refuse(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "_flush", refuse)


def test_full_disk_keeps_the_older_files_and_the_model(tmp_path, monkeypatch, whole_run):
    def fill(solver):
        if solver.epoch == 2:
            full_disk(monkeypatch)

    solver = make_solver(tmp_path, callbacks=[fill])
    with pytest.raises(OSError, match="No space left on device") as caught:
        solver.train()
    assert caught.value.errno == errno.ENOSPC
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["history.csv", "last.ckpt/state.safetensors", "model.safetensors"]
    assert load_arrays(tmp_path / "last.ckpt" / "state.safetensors")[1]["epoch"] == 1
    assert np.isfinite(solver.model.flat_params).all()
    monkeypatch.undo()
    resumed = make_solver(tmp_path, resume=True)
    resumed.train()
    assert_same_end(resumed, whole_run)


def test_full_disk_and_then_room_again(tmp_path, monkeypatch, whole_run):
    solver = make_solver(tmp_path, callbacks=[lambda s: s.epoch == 2 and full_disk(monkeypatch)])
    with pytest.raises(OSError, match="No space left"):
        solver.train()
    monkeypatch.undo()
    solver.callbacks.clear()
    solver.train()
    assert_same_end(solver, whole_run)


def test_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file"):
        plain_solver(out=tmp_path / "file" / "run").train()


@pytest.mark.parametrize("with_out", [True, False])
def test_divergence_is_told_and_costs_nothing(tmp_path, with_out):
    out = tmp_path / "run" if with_out else None
    solver = plain_solver(
        model=Sequential(Flatten(), Linear(8), ReLU(), Linear(3)),
        optimizer=optim.SGD(1e-3),
        epochs=9,
        out=out,
        callbacks=[lambda s: s.epoch == 2 and setattr(s.optimizer, "initial_lr", 1e30)],
    )
    with pytest.raises(
        DivergenceError, match=r"became (nan|inf).* at step \d+ \(epoch 3\) with lr 1e\+30; try a lower"
    ) as caught:
        solver.train()
    assert "clip_norm=1.0" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert solver.history.epoch == [1, 2]
    for name, array in solver.model.state_dict().items():
        np.testing.assert_array_equal(array, solver.best_weights[name])
    assert np.isfinite(solver.model.flat_params).all()
    if with_out:
        assert str(out) in str(caught.value)
        arrays, info = load_arrays(out / "last.ckpt" / "state.safetensors")
        assert info["epoch"] == 2
        assert all(np.isfinite(array).all() for array in arrays.values())


def test_divergence_in_the_last_step_is_not_saved(tmp_path):
    """The loss of the last step is finite, the weights after it are not."""

    class Exploding(optim.SGD):
        def step(self, params, grads):
            super().step(params, grads)
            if self.steps == 8:
                params[:] = np.nan

    for validation in (None, make_data(30, seed=1)):
        out = tmp_path / str(validation is None)
        solver = plain_solver(make_data(TRAIN), Exploding(0.01), validation=validation, out=out)
        with pytest.raises(DivergenceError, match=r"weights became NaN or infinite at step 8 \(epoch 1\)"):
            solver.train()
        assert np.isfinite(solver.model.flat_params).all()
        assert load_arrays(out / "last.ckpt" / "state.safetensors")[1]["step"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs: expected a whole number >= 1, got 0"),
        ({"batch_size": 0}, "batch_size: expected a whole number >= 1, got 0"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"batch_size": 121}, "batch_size: 121 is more than the 120 images"),
        ({"seed": -1}, "seed"),
        ({"patience": 0}, "patience"),
        ({"patience": 3, "validation": None}, "patience: .*validation"),
        ({"clip_norm": 0}, "clip_norm"),
        ({"clip_value": math.inf}, "clip_value"),
        ({"ema": 1.0}, "decay"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"normalize": "unti"}, "normalize"),
        ({"normalize": (0.5, [1.0, 2.0])}, "normalize.*3 channels"),
        ({"normalize": 0.5}, "normalize.*3 channels"),
        ({"normalize": (0.5, math.nan)}, "normalize.*finite"),
        ({"validation": 1.5}, "validation"),
        ({"validation": make_data(9)[:0]}, "validation set: it has no images"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(UsageError, match=message):
        plain_solver(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "mlp"}, "model: expected an nnkit Model, got a str"),
        ({"data": (np.zeros(3), np.zeros(3))}, "data: expected an nnkit Dataset, got a tuple"),
        ({"optimizer": "adam"}, "optimizer: expected an nnkit Optimizer, got a str"),
        ({"schedule": "cosine"}, "schedule: expected an nnkit Schedule, got a str"),
        ({"augment": {"flip": True}}, "augment: expected an nnkit Augment, got a dict"),
        ({"loss": object()}, "loss: expected an nnkit Loss, got a object"),
        ({"communicator": 3}, "communicator: expected an nnkit Communicator, got a int"),
    ],
)
def test_arguments_of_another_class(options, message):
    with pytest.raises(TypeError, match=message):
        plain_solver(**options)


def test_data_that_would_spoil_the_training():
    data = make_data(dtype=np.float32)
    data.images[17, 2, 3, 1] = np.nan
    with pytest.raises(DataError, match="training set: image 17 holds NaN"):
        plain_solver(data, validation=None)
    data.images[0] = np.inf
    with pytest.raises(DataError, match="training set: image 0 holds NaN"):
        plain_solver(data, validation=None)
    data = make_data()
    data.sample_weight = np.zeros(len(data), np.float32)
    with pytest.raises(UsageError, match="training set: all its sample weights are 0"):
        plain_solver(data)
    with pytest.raises(UsageError, match="validation set: it has class 'blue' where the training set has 'red'"):
        plain_solver(validation=make_data(30).select_classes(["blue", "red", "green"]))
    data = make_data()
    data.labels[3] = 7
    with pytest.raises(DataError, match="validation set: expected labels from 0 to 2, got 0 to 7"):
        plain_solver(validation=data)
    with pytest.raises(ValueError, match="no images"):
        plain_solver().evaluate(data[:0])
    narrow = Sequential(Flatten(), Linear(2))
    with pytest.raises(UsageError, match=r"3 classes, but the model's output is \(2,\)"):
        plain_solver(model=narrow)
    built = make_model()
    built.build((3, 5, 5))
    with pytest.raises(UsageError, match=r"expects images of shape \(3, 5, 5\), got \(3, 6, 6\)"):
        plain_solver(model=built)
    with pytest.raises(UsageError, match="output"):
        plain_solver(model=Sequential(ReLU()))


# --- progress ---------------------------------------------------------------------------------------------------------


def test_progress_bar_tells_the_figures_and_silence_otherwise(capsys):
    plain_solver(epochs=2).train()
    assert capsys.readouterr() == ("", "")
    plain_solver(epochs=2, progress=True, callbacks=[lambda _: time.sleep(0.2)]).train()  # the bar moves not too often
    shown = capsys.readouterr().err
    for part in ("epoch 2/2", "loss ", " acc ", "images/s"):
        assert part in shown
    assert "\n" not in shown


# --- history ----------------------------------------------------------------------------------------------------------


def test_history_csv_brings_back_every_bit(tmp_path, whole_run):
    whole_run.history.to_csv(tmp_path / "history.csv")
    assert History.from_csv(tmp_path / "history.csv") == whole_run.history
    bare = History()
    bare.append(**{**whole_run.history.row(0), "val_loss": None, "val_accuracy": None})
    bare.to_csv(tmp_path / "bare.csv")
    assert History.from_csv(tmp_path / "bare.csv") == bare
    assert "-" in repr(bare)


@pytest.mark.parametrize("text", ["", "epoch,step\n1,2\n", "a,b\n1,2\n", "epoch\nx\n", "\0"])
def test_history_of_another_kind(tmp_path, text):
    path = tmp_path / "history.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"history\.csv"):
        History.from_csv(path)


def test_best_epoch_breaks_ties_by_loss():
    history = History()
    row = {"step": 1, "train_loss": 1.0, "train_accuracy": 0.5, "lr": 0.1, "grad_norm": 1.0, "seconds": 1.0}
    assert history.best_epoch is None
    for epoch, (accuracy, loss) in enumerate([(0.5, 1.0), (0.7, 0.9), (0.7, 0.8), (0.7, 0.8), (0.6, 0.1)], 1):
        history.append(epoch=epoch, val_accuracy=accuracy, val_loss=loss, images_per_second=1.0, **row)
    assert history.best_epoch == 3
    with pytest.raises(ValueError, match="columns"):
        history.append(epoch=6)


# --- another process --------------------------------------------------------------------------------------------------


def run_in_process(out, signum, call):
    """Train in a process of its own, which gets a signal."""
    environment = {**os.environ, "PYTHONPATH": str(Path(nnkit.__file__).parents[1])}
    command = [sys.executable, __file__, json.dumps([str(out), int(signum), call])]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


if __name__ == "__main__":
    folder, number, moment = json.loads(sys.argv[1])
    if moment == "to_csv":
        to_csv = History.to_csv
        History.to_csv = lambda history, path: (
            os.kill(os.getpid(), number) if len(history) == 2 else to_csv(history, path)
        )
    try:
        make_solver(folder, loss=SignallingLoss(number, moment)).train()
    except TrainingInterrupted as interruption:
        print(interruption)
        sys.exit(128 + interruption.signum)
