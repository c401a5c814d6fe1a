"""Frozen layers: no gradient, no step, no work that is not needed, and all of it after a copy, a save or a resume."""

import copy
import os
import pickle
import signal

import numpy as np
import pytest

from nnkit import models, optim
from nnkit.checkpoint import load_model, save_model
from nnkit.data import Dataset
from nnkit.errors import CheckpointError, UsageError
from nnkit.layers import BatchNorm, Conv2d, CrossEntropyLoss, Flatten, GroupNorm, Layer, LayerNorm, Linear, ReLU
from nnkit.models import Residual, Sequential, model_from_config, model_to_config
from nnkit.optim import gradient_norm
from nnkit.solver import Solver, TrainingInterrupted
from nnkit.testing import check_gradients

SHAPE = (3, 6, 6)
OPTIMIZERS = {
    "sgd": lambda: optim.SGD(0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda: optim.Adam(0.1, weight_decay=0.1),
    "adamw": lambda: optim.AdamW(0.1, weight_decay=0.1),
    "rmsprop": lambda: optim.RMSProp(0.1, weight_decay=0.1),
    "groups": lambda: optim.SGD(0.1, weight_decay=0.1, groups=[{"names": ["conv*.bias", "fc.*"], "weight_decay": 0.5}]),
}


def make_model(*frozen, dtype=np.float32):
    block = Residual(Sequential({"conv": Conv2d(4, 3, padding=1), "bn": BatchNorm()}), activation=ReLU())
    parts = {"conv1": Conv2d(4, 3, padding=1), "bn1": BatchNorm(), "relu": ReLU(), "block": block}
    model = Sequential({**parts, "flatten": Flatten(), "fc": Linear(3)})
    model.build(SHAPE, seed=1, dtype=dtype)
    if frozen:
        model.freeze(*frozen)
    return model


def make_data(count=70):
    rng = np.random.default_rng(0)
    return Dataset(rng.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8), rng.integers(0, 3, count))


def learn(model, rng, optimizer=None, steps=3):
    if optimizer is not None:
        optimizer.bind(model.parameter_slices(), model.frozen_parameters())
    for _ in range(steps):
        out = model.forward(rng.normal(size=(8, *SHAPE)), training=True)
        model.backward(rng.normal(size=out.shape).astype(out.dtype), input_gradient=False)
        if optimizer is not None:
            optimizer.step(model.flat_params, model.flat_grads)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("pattern", ["conv1", "bn1", "block", "fc", "*"])
def test_what_is_frozen_stays_and_all_else_moves(name, pattern, rng):
    model = make_model(pattern)
    before, frozen = model.state_dict(), set(model.frozen_parameters())
    assert 0 < len(frozen) <= len(model.named_parameters())
    learn(model, rng, OPTIMIZERS[name]())
    for key, array in model.named_parameters().items():
        assert np.array_equal(array, before[key]) == (key in frozen), key
    for key, array in model.named_gradients().items():
        assert array.any() == (key not in frozen), key
    for key, array in model.named_buffers().items():  # running statistics follow the batches
        assert not np.array_equal(array, before[key])


@pytest.mark.parametrize("pattern", ["conv1", "bn1", "block.conv", "block.bn", "fc"])
def test_the_other_gradients_are_what_they_were(pattern, rng):
    x, dout = rng.normal(size=(4, *SHAPE)), rng.normal(size=(4, 3))
    free, model = make_model(dtype=np.float64), make_model(pattern, dtype=np.float64)
    gradients = []
    for each in (free, model):
        each.forward(x, training=True)
        gradients.append(each.backward(dout))
    np.testing.assert_array_equal(*gradients)
    for key, array in model.named_gradients().items():
        if key not in model.frozen_parameters():
            np.testing.assert_array_equal(array, free.named_gradients()[key])
    assert gradient_norm(model.flat_grads) < gradient_norm(free.flat_grads)
    assert check_gradients(model, x) < 1


@pytest.mark.parametrize("layer", [Linear(4), BatchNorm(), LayerNorm(), GroupNorm(1)], ids=repr)
def test_a_layer_on_its_own(layer, rng):
    layer.frozen = True
    x = rng.normal(size=(5, 6))
    layer.build((6,), dtype=np.float64)
    for back in (layer.backward, layer.backward_params):
        back(rng.normal(size=layer.forward(x, training=True).shape))
        assert not any(array.any() for array in layer.grads.values())


def test_the_way_back_ends_where_nothing_is_left_to_train(rng, monkeypatch):
    model = make_model("conv1", "bn1", "block")

    def never(*args):
        raise AssertionError("went back into a frozen part")

    for part in (*model.leaves()[:3], model.layers["block"]):
        for method in ("backward", "backward_params"):
            monkeypatch.setattr(part, method, never)
    learn(model, rng)
    assert all(leaf._cache is None for leaf in model.leaves())
    with pytest.raises(RuntimeError, match="needs a forward"):
        model.layers["fc"].backward(np.zeros((8, 3), np.float32))


def test_freezing_clears_old_gradients_and_unfreezing_brings_new_ones(rng):
    model = make_model()
    learn(model, rng)
    model.freeze("conv1")
    assert not model.named_gradients()["conv1.weight"].any()
    model.unfreeze("conv1")
    learn(model, rng)
    assert model.named_gradients()["conv1.weight"].any()


def test_a_layer_of_the_users_own_may_write_what_it_likes(rng):
    class Scale(Layer):
        def setup(self, input_shape, rng):
            self.params["scale"] = np.ones(input_shape, self.dtype)
            return input_shape

        def forward(self, x, training=False):
            self.keep(x)
            return x * self.params["scale"]

        def backward(self, dout):
            self.grads["scale"] = (dout * self.take()).sum(axis=0)
            return dout * self.params["scale"]

    model = Sequential({"fc": Linear(4), "scale": Scale(), "out": Linear(2)})
    model.build((5,))
    model.freeze("scale")
    model.forward(rng.normal(size=(3, 5)), training=True)
    model.backward(np.ones((3, 2), np.float32))
    assert not model.layers["scale"].grads["scale"].any()
    assert np.shares_memory(model.layers["scale"].grads["scale"], model.flat_grads)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["conv1"], ["conv1"]),
        (["conv1.*"], ["conv1"]),
        (["*conv*"], ["conv1", "block.conv"]),
        (["block"], ["block.conv", "block.bn"]),
        (["fc.weight", "fc.bias"], ["fc"]),
        (["bn?", "*.bn"], ["bn1", "block.bn"]),
    ],
)
def test_patterns(patterns, expected):
    model = make_model(*patterns)
    assert [leaf.name for leaf in model.leaves() if leaf.frozen and leaf.params] == expected
    model.unfreeze(*patterns)
    assert model.frozen_parameters() == []


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["convl"], r"freeze: no layer or parameter is named 'convl'; did you mean 'conv1'\?"),
        (["conv1", "relu"], "freeze: no layer or parameter is named 'relu'"),
        (["*.weight"], "freeze: Conv2d 'conv1': a layer is trained or frozen as a whole, .* fits 'conv1.bias'"),
        ([], "freeze: expected patterns, .*, got none"),
        (["conv1", 5], "got .conv1., 5"),
    ],
)
def test_patterns_that_do_not_fit(patterns, message):
    model = make_model()
    with pytest.raises(UsageError, match=message):
        model.freeze(*patterns)
    assert model.frozen_parameters() == []


def test_nonsense_is_refused():
    with pytest.raises(UsageError, match="not built"):
        Sequential(Linear(3)).freeze("0")
    with pytest.raises(UsageError, match="expected frozen to be True or False, got 'yes'"):
        Linear(3).frozen = "yes"
    with pytest.raises(CheckpointError, match=r"model\.fc: expected the settings of a Linear"):
        model_from_config({"type": "Sequential", "layers": {"fc": {"type": "Linear", "out_features": 3, "frozen": 1}}})


def test_a_container_is_frozen_with_all_that_is_in_it():
    model = make_model()
    model.layers["block"].frozen = True
    assert model.frozen_parameters() == ["block.conv.weight", "block.conv.bias", "block.bn.weight", "block.bn.bias"]
    assert model.layers["block"].frozen
    assert not model.frozen
    assert model.trainable
    model.frozen = True
    assert model.frozen
    assert not model.trainable
    assert model.num_trainable == 0


def test_copies_pickles_and_files_remember(tmp_path):
    model = make_model("conv1", "block.bn")
    save_model(tmp_path / "model.safetensors", model)
    again = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        load_model(tmp_path / "model.safetensors")[0],
        model_from_config(model_to_config(model)),
    ]
    again[-1].build(SHAPE)
    for other in again:
        assert other.frozen_parameters() == model.frozen_parameters()
    assert "frozen" not in str(model_to_config(make_model()))


def test_the_summary_shows_it():
    assert "frozen" not in make_model().summary()
    model = make_model("conv1")
    assert model.num_parameters - model.num_trainable == 112
    line = next(line for line in model.summary().splitlines() if line.startswith("conv1"))
    assert "112 frozen" in line
    assert f"{model.num_trainable:,} of {model.num_parameters:,} parameters are trained" in model.summary()


class Interrupting(CrossEntropyLoss):
    """Sends this process SIGINT in its n-th call."""

    def __init__(self, call=0):
        super().__init__()
        self.call, self.calls = call, 0

    def forward(self, *args):
        self.calls += 1
        if self.calls == self.call:
            os.kill(os.getpid(), signal.SIGINT)
        return super().forward(*args)


def make_solver(out, *frozen, **options):
    settings = {"epochs": 3, "batch_size": 16, "validation": 10, "ema": 0.9, "clip_norm": 1.0, "out": out}
    settings["loss"] = Interrupting()
    optimizer = optim.SGD(0.05, momentum=0.9, weight_decay=0.01)
    return Solver(make_model(*frozen), make_data(), optimizer, **{**settings, **options})


def test_a_resumed_training_ends_with_the_same_bits(tmp_path):
    whole = make_solver(tmp_path / "whole", "conv1", "bn1")
    start = whole.model.state_dict()
    whole.train()
    with pytest.raises(TrainingInterrupted):
        make_solver(tmp_path / "parts", "conv1", "bn1", loss=Interrupting(7)).train()
    with pytest.raises(CheckpointError, match=r"saved with other settings: model.*frozen \(True there, None here\)"):
        make_solver(tmp_path / "parts", resume=True)
    resumed = make_solver(tmp_path / "parts", "conv1", "bn1", resume=True)
    resumed.train()
    assert resumed.step == whole.step
    for key, array in whole.model.state_dict().items():
        assert np.array_equal(array, resumed.model.state_dict()[key])
        if key in whole.model.frozen_parameters():
            assert np.array_equal(array, start[key])
    np.testing.assert_array_equal(whole.ema.average, resumed.ema.average)


def test_a_solver_says_when_layers_were_frozen_too_late():
    solver = make_solver(None)
    solver.model.freeze("conv1")
    with pytest.raises(UsageError, match="frozen or unfrozen after the Solver was made"):
        solver.train()


def test_a_net_of_the_zoo():
    model = models.create("resnet18", num_classes=10)
    model.build((3, 32, 32))
    model.freeze("conv1", "bn1", "layer[123]")
    assert [leaf.name for leaf in model.leaves() if leaf.trainable][-1] == "linear"
    assert all(name.startswith(("conv1", "bn1", "layer1", "layer2", "layer3")) for name in model.frozen_parameters())
