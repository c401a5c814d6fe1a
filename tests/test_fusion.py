"""Neighbouring layers that run as one give what they give one after the other."""

import copy
import pickle
import time

import numpy as np
import pytest

from nnkit import _ext, functional
from nnkit._ext import memory
from nnkit.layers import GELU, BatchNorm, Conv2d, Dropout, Flatten, Layer, Linear, MaxPool2d, ReLU, SiLU
from nnkit.models import Residual, Sequential, fusion
from nnkit.testing import check_gradients

IMAGES, FEATURES = (5, 9, 8), (13,)


def conv(channels=5):
    return Conv2d(channels, 3, padding=1)


def block(*main, shortcut=None, activation=None):
    return Residual(Sequential(*main), shortcut, activation)


# name: how the row is made, the input's shape, and how many steps it becomes
ROWS = {
    "linear relu": (lambda: [Linear(7), ReLU()], FEATURES, 1),
    "linear relu linear": (lambda: [Linear(7), ReLU(), Linear(3)], FEATURES, 2),
    "linear without bias": (lambda: [Linear(7, bias=False), ReLU()], FEATURES, 1),
    "conv relu": (lambda: [conv(), ReLU()], IMAGES, 1),
    "conv relu strided": (lambda: [Conv2d(33, 2, stride=2, bias=False), ReLU(), Flatten()], IMAGES, 2),
    "conv relu pool": (lambda: [conv(19), ReLU(), MaxPool2d(2)], IMAGES, 1),
    "conv relu pool of an image": (lambda: [conv(8), ReLU(), MaxPool2d(3)], (4, 15, 8), 1),
    "conv relu pool strided": (lambda: [Conv2d(7, 2, stride=2, bias=False), ReLU(), MaxPool2d(2)], IMAGES, 1),
    "conv pool": (lambda: [conv(), MaxPool2d(2), BatchNorm()], IMAGES, 2),
    "conv relu pool overlapping": (lambda: [conv(), ReLU(), MaxPool2d(3, stride=2)], IMAGES, 2),
    "conv pool oblong": (lambda: [conv(), MaxPool2d((2, 1))], IMAGES, 2),
    "relu pool": (lambda: [BatchNorm(), Dropout(0.0), ReLU(), MaxPool2d(2)], IMAGES, 3),
    "relu pool overlapping": (lambda: [ReLU(), MaxPool2d(3, stride=2, padding=1)], (17, 9, 8), 1),
    "relu pool apart": (lambda: [ReLU(), MaxPool2d(2, stride=3)], (16, 9, 8), 1),
    "norm relu": (lambda: [BatchNorm(), ReLU()], IMAGES, 1),
    "norm gelu": (lambda: [BatchNorm(), GELU()], IMAGES, 1),
    "norm gelu tanh": (lambda: [BatchNorm(), GELU("tanh")], FEATURES, 1),
    "norm silu": (lambda: [BatchNorm(), SiLU()], IMAGES, 1),
    "conv norm relu pool": (lambda: [conv(), BatchNorm(), ReLU(), MaxPool2d(2)], IMAGES, 3),
    "norm sum relu": (lambda: [block(conv(), BatchNorm(), activation=ReLU())], IMAGES, 1),
    "norm sum": (lambda: [block(conv(), BatchNorm())], IMAGES, 1),
    "two norms sum relu": (
        lambda: [block(conv(), BatchNorm(), shortcut=Sequential(conv(), BatchNorm()), activation=ReLU())],
        IMAGES,
        1,
    ),
    "sum relu": (lambda: [block(conv(), activation=ReLU())], IMAGES, 1),
    "sum gelu": (lambda: [block(conv(), BatchNorm(), activation=GELU())], IMAGES, 1),
    "sum": (lambda: [block(conv(), ReLU(), conv())], IMAGES, 1),
    "norm alone as main": (lambda: [Residual(BatchNorm(), activation=ReLU())], FEATURES, 1),
    "resnet": (
        lambda: [
            conv(),
            BatchNorm(),
            ReLU(),
            block(conv(), BatchNorm(), ReLU(), conv(), BatchNorm(), activation=ReLU()),
        ],
        IMAGES,
        3,
    ),
}


@pytest.fixture(params=ROWS)
def row(request):
    return ROWS[request.param]


def built(row, dtype=np.float32, seed=0):
    make, shape, _ = row
    model = Sequential(*make())
    model.build(shape, seed, dtype)
    # Other than 1 and 0, which would hide a weight that is left out.
    model.flat_params[:] += np.random.default_rng(1).normal(0, 0.3, model.num_parameters)
    return model


def batch(row, dtype=np.float32, n=6):
    return np.random.default_rng(2).normal(size=(n, *row[1])).astype(dtype)


def step(model, x):
    """One pass there and back: everything that it changes."""
    out = model.forward(x, training=True)
    dx = model.backward(np.random.default_rng(3).normal(size=out.shape).astype(x.dtype))
    return {"out": out, "dx": dx, "grads": model.flat_grads.copy(), **model.named_buffers()}


def test_the_plan(row):
    make, _, count = row
    assert len(fusion.fuse(make())) == count
    with fusion.disabled():
        layers = make()
        assert fusion.fuse(layers) == layers


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fused_is_unfused(row, dtype):
    fused, plain = built(row, dtype), built(row, dtype)
    x = batch(row, dtype)
    found = step(fused, x)
    with fusion.disabled():
        expected = step(plain, x)
    other_sums = {"dx", "grads"} | ({*expected} if statistics_of_convolutions(fused) else set())
    for name, array in expected.items():
        if name in other_sums:
            scale = np.abs(array).max(initial=1e-30)
            np.testing.assert_allclose(
                found[name], array, rtol=0, atol=scale * (1e-6 if dtype is np.float32 else 1e-13)
            )
        else:
            np.testing.assert_array_equal(found[name], array)
    fused.load_state_dict(plain.state_dict())
    evaluated = fused.forward(x)
    with fusion.disabled():
        np.testing.assert_array_equal(evaluated, plain.forward(x))


def statistics_of_convolutions(model):
    """The batch norms whose sums convolutions make, and these convolutions."""
    norms = {leaf.name for leaf in model.leaves() if isinstance(leaf, BatchNorm)}
    return {name: runner for name, runner in model.fused().items() if name in norms}


def test_convolutions_make_the_statistics_of_norms_behind_them():
    model = Sequential(
        conv(), BatchNorm(), ReLU(), conv(), ReLU(), BatchNorm(), MaxPool2d(2), BatchNorm(), conv(), Dropout(0.1),
        BatchNorm(), block(conv(), BatchNorm(), shortcut=Sequential(conv(), BatchNorm()), activation=ReLU()),
    )  # fmt: skip
    model.build(IMAGES)
    norms = {"1": "0", "5": "3", "11.1": "11.0", "11.shortcut.1": "11.shortcut.0"}
    assert statistics_of_convolutions(model) == norms
    assert "statistics from 11.shortcut.0" in model.summary(kernels=True)
    with fusion.disabled():
        assert statistics_of_convolutions(model) == {}


def test_statistics_of_an_empty_part_of_a_batch():
    """Of several processes, some may have no image of a batch."""
    model = Sequential(conv(), BatchNorm(), ReLU())
    model.build(IMAGES)
    sums = []
    model.layers["1"].sum_over_ranks = lambda moments: sums.append(moments.copy()) or np.add(moments, 4.0, out=moments)
    out = model.forward(np.empty((0, *IMAGES), np.float32), training=True)
    assert out.shape == (0, 5, 9, 8)
    assert len(sums) == 1
    assert (sums[0] == 0).all()


def test_norms_use_the_statistics_that_they_get(monkeypatch):
    model = Sequential(conv(), BatchNorm(), ReLU(), block(conv(), BatchNorm(), activation=ReLU()))
    model.build(IMAGES)
    x = np.random.default_rng(0).normal(size=(3, *IMAGES)).astype(np.float32)
    expected = model.forward(x, training=True)
    model.forget()
    monkeypatch.setattr(functional.norm, "_statistics", None)  # the pass over all outputs
    np.testing.assert_array_equal(model.forward(x, training=True), expected)
    with fusion.disabled(), pytest.raises(TypeError):
        model.forward(x, training=True)


@pytest.mark.parametrize("size", [13, 15, 31, 7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statistics_of_an_odd_map_that_is_pooled(size, dtype):
    """Its last row and column are in no window, and so in no tile."""
    model, plain = (Sequential(conv(32), ReLU(), MaxPool2d(2), BatchNorm()) for _ in range(2))
    for one in (model, plain):
        one.build((32, size, size), 0, dtype)
    x = np.random.default_rng(0).normal(size=(32, 32, size, size)).astype(dtype)
    out = model.forward(x, training=True)
    with fusion.disabled():
        expected = plain.forward(x, training=True)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-4 if dtype is np.float32 else 1e-12)


@pytest.mark.parametrize(
    "name", ["linear relu", "conv relu", "conv relu pool", "norm relu", "norm alone as main", "sum relu"]
)
def test_gradients_through_relu_are_the_same_bits(name):
    row = ROWS[name]
    x = batch(row)
    found = step(built(row), x)
    with fusion.disabled():
        expected = step(built(row), x)
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array)


def test_parameters_only_is_the_same(row):
    x, model = batch(row), built(row)
    expected = step(model, x)["grads"]
    out = model.forward(x, training=True)
    assert model.backward(np.random.default_rng(3).normal(size=out.shape).astype(x.dtype), input_gradient=False) is None
    np.testing.assert_array_equal(model.flat_grads, expected)
    assert all(leaf._cache is None for leaf in model.leaves())


def test_gradients(row):
    make, shape, _ = row
    x = np.random.default_rng(4).normal(size=(4, *shape)).astype(np.float64)
    model = Sequential(*make())
    assert check_gradients(model, x) < 1


@pytest.mark.parametrize("training", [True, False])
def test_not_a_number_stays(row, training):
    model, x = built(row), batch(row)
    x[2, 3] = np.nan
    out = model.forward(x, training)
    with fusion.disabled():
        np.testing.assert_array_equal(np.isnan(out), np.isnan(built(row).forward(x, training)))
    assert np.isnan(out).any()


def test_a_subclass_or_a_stranger_is_not_fused():
    class Mine(ReLU):
        pass

    class Main(Sequential):
        pass

    assert len(fusion.fuse([Linear(3), Mine()])) == 2
    assert len(fusion.fuse([Linear(3), Dropout(0.5), ReLU()])) == 3
    assert len(fusion.fuse([BatchNorm(), Flatten(), ReLU()])) == 3
    own = Main(BatchNorm())
    steps, end = fusion.fuse_sum([own], ReLU())
    assert steps == [own]
    assert type(end) is fusion.ReLUSum
    assert type(fusion.fuse_sum([BatchNorm()], Mine())[1]) is fusion.Sum


def test_dropout_between_layers_draws_as_ever():
    model = Sequential(Linear(20), Dropout(0.5), ReLU(), Linear(3))
    model.build((6,))
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    model.reseed((1, 2))
    found = step(model, x)
    model.reseed((1, 2))
    with fusion.disabled():
        expected = step(model, x)
    np.testing.assert_array_equal(found["dx"], expected["dx"])


def test_backward_twice_is_refused(row):
    model, x = built(row), batch(row)
    out = model.forward(x, training=True)
    model.backward(out)
    with pytest.raises(RuntimeError, match=r"backward needs a forward\(x, training=True\) before it"):
        model.backward(out)
    model.forward(x)
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        model.backward(out)


def test_a_wrong_gradient_is_refused(row):
    model = built(row)
    out = model.forward(batch(row), training=True)
    with pytest.raises(ValueError, match="expected dout of the output's shape"):
        model.backward(out[:, :1])


def test_forget(row):
    model, x = built(row), batch(row)
    out = model.forward(x, training=True)
    model.forget()
    assert all(leaf._cache is None for leaf in model.leaves())
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        model.backward(out)


def test_evaluation_between_forward_and_backward(row):
    model, x = built(row), batch(row)
    expected = step(built(row), x)
    out = model.forward(x, training=True)
    model.forward(x[:2])
    dx = model.backward(np.random.default_rng(3).normal(size=out.shape).astype(x.dtype))
    np.testing.assert_array_equal(dx, expected["dx"])


def test_the_switch_may_turn_between_forward_and_backward(row):
    model, x = built(row), batch(row)
    expected = step(built(row), x)
    out = model.forward(x, training=True)
    with fusion.disabled():
        dx = model.backward(np.random.default_rng(3).normal(size=out.shape).astype(x.dtype))
    np.testing.assert_array_equal(dx, expected["dx"])


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies(row, clone):
    model, x = built(row), batch(row)
    model.forward(x, training=True)  # leaves something that a copy must not take along
    other = clone(model)
    assert all(layer._cache is None for layer in [other, *other.leaves()])
    other.load_state_dict(built(row).state_dict())
    np.testing.assert_array_equal(step(other, x)["out"], step(built(row), x)["out"])


def test_layers_may_change_after_build():
    model = Sequential({"norm": BatchNorm(), "act": ReLU()})
    model.build((4,))
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    assert step(model, x)["out"].min() == 0
    model.layers["act"] = GELU()
    assert step(model, x)["out"].min() < 0
    del model.layers["act"]
    np.testing.assert_allclose(step(model, x)["out"].mean(axis=0), 0, atol=1e-6)


def test_layers_on_their_own_run_as_ever():
    norm, relu = BatchNorm(), ReLU()
    norm.build((4,))
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    out = relu.forward(norm.forward(x, True), True)
    assert norm.forward(x).min() < 0
    dx = norm.backward(relu.backward(out))
    assert dx.shape == x.shape


def test_layers_run_by_hand_and_a_model_taken_back():
    layers = [Linear(5), ReLU(), Linear(2)]
    model = Sequential(*layers)
    model.build((3,))
    x = out = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    for layer in layers:
        out = layer.forward(out, True)
    dx = model.backward(out)
    model.forward(x, training=True)
    np.testing.assert_array_equal(model.backward(out), dx)


def test_a_plan_is_a_small_part_of_even_the_smallest_pass():
    layers = [layer for _ in range(10) for layer in (Conv2d(3, 3, padding=1), BatchNorm(), ReLU())]
    model = Sequential(*layers)
    x = np.zeros((1, *model.build((3, 8, 8))), np.float32)
    times = {"plan": [], "pass": []}  # the one against the other: a slow machine, or coverage, slows down both
    for _ in range(50):
        for name, work in (("plan", lambda: fusion.fuse(layers)), ("pass", lambda: model.forward(x, training=True))):
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    assert min(times["plan"]) < min(times["pass"]) / 4


def test_threads_do_not_change_a_bit(row):
    _, shape, _ = row
    x = np.random.default_rng(2).normal(size=(300, *shape)).astype(np.float32)
    before, found = _ext.get_num_threads(), []
    for count in (1, 2):
        _ext.set_num_threads(count)
        found.append([array.tobytes() for array in step(built(row), x).values()])
    _ext.set_num_threads(before)
    assert found[0] == found[1]


def test_memory_does_not_grow():
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    model = Sequential(
        conv(16), BatchNorm(), ReLU(),
        block(conv(16), BatchNorm(), ReLU(), conv(16), BatchNorm(), activation=ReLU()),
        block(conv(16), shortcut=Sequential(conv(16), BatchNorm()), activation=ReLU()),
        conv(16), ReLU(), MaxPool2d(2), conv(16), ReLU(), BatchNorm(), GELU(), Flatten(), Linear(20), BatchNorm(),
        SiLU(), Linear(20), ReLU(), Linear(3),
    )  # fmt: skip
    model.build((3, 12, 12))
    x = np.random.default_rng(0).normal(size=(8, 3, 12, 12)).astype(np.float32)
    dout = np.ones((8, 3), np.float32)
    sizes = []
    memory.clear()  # what other tests left would be given back on the way
    for i in range(1000):
        model.forward(x, training=True)
        model.backward(dout, input_gradient=False)
        if i in (50, 999):
            sizes.append((memory.pooled_bytes(), resident()))
    assert sizes[0][0] == sizes[1][0]
    assert sizes[1][1] - sizes[0][1] < 1 << 20


def test_a_layer_of_ones_own_still_fits_in(rng):
    class Scale(Layer):
        def forward(self, x, training=False):
            if training:
                self.keep((x.shape,))
            return 2 * x

        def backward(self, dout):
            self.take()
            return 2 * dout

    model = Sequential(Scale(), BatchNorm(), ReLU(), Scale())
    assert check_gradients(model, rng.normal(size=(5, 4))) < 1
