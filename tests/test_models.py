import copy
import json
import pickle

import numpy as np
import pytest

from nnkit import _ext, models
from nnkit.errors import CheckpointError, UsageError
from nnkit.layers import (
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Softmax,
    Tanh,
)
from nnkit.models import Residual, Sequential, create, fusion
from nnkit.testing import check_gradients

SMALL = (3, 8, 8)
ZOO = {
    "mlp": {"hidden": [7, 5], "activation": "tanh", "batch_norm": True, "dropout": 0.2},
    "convnet": {"filters": 3, "kernel_size": 3, "hidden": 5, "dropout": 0.2, "batch_norm": True},
    "cnn": {},
    "vgg": {"widths": [3, 4], "depth": 2, "dropout": 0.1},
    "resnet18": {"widths": [2, 3, 4]},
}


def small_net():
    block = Residual(Sequential({"conv": Conv2d(4, 3, padding=1), "bn": BatchNorm()}), activation=ReLU())
    return Sequential({"stem": Conv2d(4, 3, padding=1), "block": block, "average": GlobalAvgPool2d(), "fc": Linear(3)})


@pytest.mark.parametrize("name", ZOO)
def test_config_round_trip(rng, name):
    model = models.create(name, 3, **ZOO[name])
    again = models.model_from_config(json.loads(json.dumps(models.model_to_config(model))))
    assert repr(again) == repr(model)
    model.build(SMALL, seed=1)
    again.build(SMALL, seed=2)
    x = rng.normal(size=(2, *SMALL))
    assert (model.forward(x) != again.forward(x)).any()
    again.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(model.forward(x), again.forward(x))


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("cnn", {}, 6_447_754),
        ("resnet18", {}, 11_173_962),
        ("mlp", {}, 3072 * 512 + 512 + 5130),
        ("convnet", {}, 7 * 7 * 3 * 32 + 32 + 8192 * 100 + 100 + 1010),
    ],
)
def test_parameter_counts(name, options, count):
    model = models.create(name, 10, **options)
    model.build((3, 32, 32))
    assert model.num_parameters == model.flat_params.size == count


def test_resnet_names_and_order_are_the_usual():
    model = models.resnet18(10)
    model.build((3, 32, 32))
    names = list(model.named_parameters())
    assert names[:4] == ["conv1.weight", "bn1.weight", "bn1.bias", "layer1.0.conv1.weight"]
    assert names[-2:] == ["linear.weight", "linear.bias"]
    assert {"layer2.0.shortcut.0.weight", "layer2.0.shortcut.1.bias", "layer4.1.bn2.weight"} <= set(names)
    assert "layer3.0.bn1.running_var" in model.named_buffers()
    assert not any("shortcut" in name for name in names if name.startswith("layer1"))


def test_flat_buffers_are_shared_with_the_layers(rng):
    model = small_net()
    model.build(SMALL)
    model.flat_params[...] = np.arange(model.num_parameters)
    start = 0
    for name, array in model.named_parameters().items():
        assert np.shares_memory(array, model.flat_params), name
        np.testing.assert_array_equal(array.ravel(), np.arange(start, start + array.size))
        assert model.parameter_slices()[name] == slice(start, start + array.size)
        start += array.size
    assert list(model.named_gradients()) == list(model.named_parameters())
    model.build(SMALL)
    out = model.forward(rng.normal(size=(4, *SMALL)), training=True)
    model.flat_grads[...] = np.nan
    model.backward(np.ones_like(out))
    assert np.isfinite(model.flat_grads).all()
    for name, array in model.named_gradients().items():
        np.testing.assert_array_equal(array.ravel(), model.flat_grads[model.parameter_slices()[name]])


def test_forward_uses_what_an_optimizer_writes_into_the_flat_buffer(rng):
    model = small_net()
    model.build(SMALL)
    model.flat_params[...] = 0
    assert not model.forward(rng.normal(size=(2, *SMALL))).any()


@pytest.mark.parametrize("make", [small_net, lambda: models.resnet18(3, widths=(2, 3)), lambda: models.mlp(3)])
def test_skipping_the_input_gradient_changes_no_other(rng, make):
    model = make()
    model.build(SMALL)
    x, dout = rng.normal(size=(4, *SMALL)), rng.normal(size=(4, 3))
    model.forward(x, training=True)
    assert model.backward(dout).shape == x.shape
    expected = model.flat_grads.copy()
    model.forward(x, training=True)
    assert model.backward(dout, input_gradient=False) is None
    np.testing.assert_array_equal(model.flat_grads, expected)
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        model.backward(dout)


def test_state_dict_holds_copies_and_loads_all_or_nothing(rng):
    model = small_net()
    model.build(SMALL)
    state = model.state_dict()
    model.forward(rng.normal(size=(4, *SMALL)) + 3, training=True)
    assert (model.named_buffers()["block.bn.running_mean"] != state["block.bn.running_mean"]).any()
    model.flat_params[...] = 7
    for name, wrong, message in [
        ("fc.bias", None, "'fc.bias' is missing: expected an array of shape"),
        ("fc.weight", np.ones((3, 5)), r"'fc.weight': expected shape \(3, 4\), got \(3, 5\)"),
        ("extra", np.ones(3), r"'extra' \(shape \(3,\)\) is unexpected"),
        ("fc.bias", np.array(["a", "b", "c"]), "expected numbers"),
    ]:
        changed = {k: v for k, v in (state | {name: wrong}).items() if v is not None}
        with pytest.raises(CheckpointError, match=message):
            model.load_state_dict(changed)
        assert (model.flat_params == 7).all()
    model.load_state_dict(state)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, state[name])
    np.testing.assert_array_equal(model.flat_params[model.parameter_slices()["fc.bias"]], state["fc.bias"])


def test_seeds():
    a, b, c = small_net(), small_net(), small_net()
    a.build(SMALL, seed=1)
    b.build(SMALL, seed=1)
    c.build(SMALL, seed=2)
    np.testing.assert_array_equal(a.flat_params, b.flat_params)
    assert (a.flat_params != c.flat_params).any()


def test_reseed_decides_what_dropout_drops(rng):
    model = Sequential(Dropout(0.5), Tanh(), Dropout(0.5))
    model.build((50,))
    x = np.ones((2, 50))
    model.reseed((0, 2, 7))
    first = model.forward(x, training=True)
    second = model.forward(x, training=True)
    model.reseed((0, 2, 7))
    np.testing.assert_array_equal(model.forward(x, training=True), first)
    assert (first != second).any()
    generators = [leaf.rng.random() for leaf in model.leaves() if isinstance(leaf, Dropout)]
    assert generators[0] != generators[1]


def test_predictions(rng):
    model = models.mlp(4, hidden=(5,))
    model.build((6,))
    x = rng.normal(size=(10, 6))
    scores = model.predict_scores(x, batch_size=3)
    np.testing.assert_allclose(scores, model.forward(x), rtol=1e-5)
    probabilities = model.predict_proba(x)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(model.predict(x), scores.argmax(axis=1))
    np.testing.assert_array_equal(probabilities.argmax(axis=1), scores.argmax(axis=1))
    assert model.predict_scores(x[:0]).shape == (0, 4)
    with_softmax = Sequential(model, Softmax())
    with_softmax.build((6,), seed=1)
    with_softmax.load_state_dict({f"0.{name}": array for name, array in model.state_dict().items()})
    np.testing.assert_allclose(with_softmax.predict_proba(x), with_softmax.forward(x), rtol=1e-6)
    with pytest.raises(ValueError, match=r"shape \(N, \*\(6,\)\), got \(10, 5\)"):
        with_softmax.predict(x[:, :5])
    with pytest.raises(UsageError, match="batch size >= 1"):
        with_softmax.predict(x, batch_size=0)


def test_any_number_type_and_layout_is_taken(rng):
    model = small_net()
    model.build(SMALL)
    pixels = rng.integers(0, 255, size=(2, *SMALL), dtype=np.uint8)
    expected = model.forward(pixels.astype(np.float32))
    np.testing.assert_array_equal(model.forward(pixels), expected)
    np.testing.assert_allclose(model.forward(np.asfortranarray(pixels.astype(np.float64))), expected, rtol=1e-5)
    assert expected.dtype == np.float32
    with pytest.raises(TypeError, match="array of numbers"):
        model.forward(np.array([["a"]]))


class Doubling(Layer):
    """A student's layer that assigns its gradient instead of writing it into the array."""

    def setup(self, input_shape, rng):
        self.params["scale"] = np.full(input_shape, 2, self.dtype)
        return input_shape

    def forward(self, x, training=False):
        if training:
            self.keep(x)
        return x * self.params["scale"]

    def backward(self, dout):
        self.grads["scale"] = (dout * self.take()).sum(axis=0)
        return dout * self.params["scale"]


def test_own_layers_fit_in_even_if_they_assign_their_gradients(rng):
    model = Sequential(Linear(4), Doubling())
    model.build((3,), dtype=np.float64)
    assert check_gradients(model, rng.normal(size=(5, 3))) < 1
    out = model.forward(rng.normal(size=(5, 3)), training=True)
    model.backward(np.ones_like(out))
    gradient = model.named_gradients()["1.scale"]
    assert np.shares_memory(gradient, model.flat_grads)
    np.testing.assert_allclose(gradient, out.sum(axis=0) / 2)


def test_parts_know_their_own_names_but_have_no_flat_arrays():
    model = models.resnet18(3, widths=(2, 3))
    model.build(SMALL)
    part = model.layers["layer2"]
    assert "0.conv1.weight" in part.named_parameters()
    assert part.name == "layer2"
    with pytest.raises(UsageError, match="only the whole model"):
        _ = part.flat_params
    alone = Residual(Linear(3))
    alone.build((3,))
    assert list(alone.named_parameters()) == ["weight", "bias"]
    assert copy.deepcopy(alone).built


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_have_flat_arrays_of_their_own(rng, duplicate):
    model = small_net()
    model.build(SMALL)
    x = rng.normal(size=(2, *SMALL))
    expected = model.forward(x)
    model.forward(x, training=True)
    other = duplicate(model)
    model.flat_params[...] = 0
    assert (other.forward(x) != 0).any()
    np.testing.assert_array_equal(duplicate(other).named_parameters()["fc.weight"], other.layers["fc"].params["weight"])
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        other.backward(expected)
    other.backward(np.ones_like(other.forward(x, training=True)))
    assert other.flat_grads.any()
    other.flat_params[...] = 0
    assert not other.forward(x).any()


@pytest.mark.parametrize(
    "detach",
    [
        lambda model: model.layers["fc"].params.update(bias=np.zeros(3, np.float32)),
        lambda model: Sequential(model.layers["fc"]).build((4,)),
        copy.copy,
    ],
    ids=["assigned", "built elsewhere", "shallow copy"],
)
def test_a_parameter_that_an_optimizer_would_not_reach_is_told(detach):
    model = small_net()
    model.build(SMALL)
    kept = detach(model)
    with pytest.raises(UsageError, match=r"Sequential: '[a-z0-9.]+' is no longer part of flat_params"):
        _ = model.flat_params
    del kept


def test_an_empty_batch_goes_through():
    for name, options in ZOO.items():
        model = models.create(name, 3, **options)
        model.build(SMALL)
        assert model.forward(np.ones((0, *SMALL))).shape == (0, 3)


def test_errors_name_the_layer():
    model = Sequential(Flatten(), Linear(512), Linear(10))
    model.build((3, 4, 4))
    with pytest.raises(ValueError, match="Linear '1': expected 48 features, got 75"):
        model.forward(np.ones((2, 3, 5, 5)))
    for shape in [(), (48,), (2, 48)]:
        with pytest.raises(ValueError, match=r"Sequential: expected an input of shape \(N, \*\(3, 4, 4\)\)"):
            model.forward(np.ones(shape))
    with pytest.raises(UsageError, match=r"Conv2d 'block.conv2': expected an input shape \(channels"):
        Sequential({"block": Sequential({"fc": Linear(3), "conv2": Conv2d(3, 3)})}).build((5,))
    with pytest.raises(ValueError, match="MaxPool2d '1': expected an image of at least 2×2"):
        Sequential(MaxPool2d(8), MaxPool2d(2)).build(SMALL)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda model: model.forward(np.ones((1, 3, 8, 8))), "not built yet"),
        (lambda model: model.predict(np.ones((1, 3, 8, 8))), "not built yet"),
        (lambda model: model.flat_params, "not built yet"),
        (lambda model: model.summary(), "not built yet"),
        (lambda model: model.load_state_dict({}), "not built yet"),
        (lambda model: Sequential(model, model).build(SMALL), "the same Conv2d object is in the model twice"),
        (lambda model: Sequential(), "at least one layer"),
        (lambda model: Sequential(ReLU), "the class ReLU, not an object"),
        (lambda model: Sequential({"a.b": ReLU()}), "without dots, got 'a.b'"),
        (lambda model: Residual(None), "expected main to be a Layer, got None"),
        (lambda model: Residual(Linear(4)).build((3,)), r"main gives \(4,\), but the shortcut gives \(3,\)"),
        (lambda model: Residual(Sequential({"shortcut": ReLU()})), "may not have a layer called 'shortcut'"),
    ],
)
def test_misuse(use, message):
    with pytest.raises(UsageError, match=message):
        use(small_net())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "Sequential", "layers": {"0": {"type": "Evil"}}}, "unknown layer type 'Evil'"),
        ({"type": "Sequential", "layers": {"0": {"type": "CrossEntropyLoss"}}}, "unknown layer type"),
        ({"type": "Sequential", "layers": {"0": {"type": "Linear"}}}, "model.0: expected the settings of a Linear"),
        ({"type": "Sequential", "layers": {"0": {"type": "Linear", "out_features": -1}}}, "out_features"),
        ({"type": "Sequential"}, "settings of a Sequential"),
        ({"type": "Sequential", "layers": [1]}, "settings of a Sequential"),
        ({"type": "Residual", "main": 3}, "expected the description of a layer"),
        ({"type": "Linear", "out_features": 3}, "expected a Sequential or Residual, got Linear"),
        ([], "expected the description of a layer"),
        ({}, "expected the description of a layer"),
    ],
)
def test_hostile_configs(config, message):
    with pytest.raises(CheckpointError, match=message):
        models.model_from_config(config)


def test_a_bottomless_config():
    config = {"type": "Linear", "out_features": 3}
    for _ in range(5000):
        config = {"type": "Sequential", "layers": {"0": config}}
    with pytest.raises(CheckpointError, match="too many levels"):
        models.model_from_config(config)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet", {}, "unknown model 'resnet'; did you mean 'resnet18'"),
        ("mlp", {"hiden": [3]}, "unknown option 'hiden'; did you mean 'hidden'"),
        ("mlp", {"activation": "rellu"}, "unknown activation 'rellu'; did you mean 'relu'"),
        ("mlp", {"hidden": 3}, r"model mlp: expected hidden to be like \(512,\), got 3"),
        ("mlp", {"hidden": "12"}, "expected hidden to be like"),
        ("mlp", {"batch_norm": "yes"}, "expected batch_norm to be like False, got 'yes'"),
        ("mlp", {"batch_norm": 1}, "expected batch_norm"),
        ("mlp", {"dropout": True}, "expected dropout to be like 0.0, got True"),
        ("convnet", {"filters": 2.5}, "expected filters to be like 32, got 2.5"),
        ("mlp", {"hidden": [0]}, "out_features"),
        ("mlp", {"weight_init": "he"}, "unknown initializer"),
        ("convnet", {"kernel_size": 4}, "odd kernel_size, got 4"),
        ("cnn", {"dropout": 1.5}, "p between 0 and 1"),
        ("vgg", {"widths": []}, "at least one width"),
        ("resnet18", {"widths": []}, "at least one width"),
    ],
)
def test_create_refuses(name, options, message):
    with pytest.raises(UsageError, match=message):
        models.create(name, 10, **options)


def test_summary():
    model = models.cnn(10)
    text = model.summary((3, 32, 32))
    assert not model.built
    model.build((3, 32, 32))
    assert model.summary() == text
    lines = text.splitlines()
    assert lines[0].split() == ["Name", "Layer", "Output", "Parameters", "FLOPs"]
    assert any(line.split()[0] == "fc1" and "6,423,040" in line and "12.8 M" in line for line in lines)
    total = next(line for line in lines if "total" in line)
    assert total.split() == ["total", "6,447,754", "43.3", "M"]
    assert "24.6 MiB" in lines[-1]
    assert {len(line) for line in lines if line.endswith((" M", " k"))} == {len(lines[0])}


def test_layers_left_alone_by_the_first_parameters_forget_their_input(rng):
    model = Sequential(Flatten(), Dropout(0.5), Linear(3))
    model.build(SMALL)
    model.forward(rng.normal(size=(2, *SMALL)), training=True)
    model.backward(np.ones((2, 3)), input_gradient=False)
    with pytest.raises(RuntimeError, match="Dropout '1': backward needs a forward"):
        model.layers["1"].backward(np.ones((2, 192)))


def test_predictions_are_the_callers_own():
    model = Sequential(Flatten())
    model.build((3, 2, 2))
    x = np.ones((4, 3, 2, 2), np.float32)
    for batch_size in (4, 3):
        scores = model.predict_scores(x, batch_size)
        scores[...] = 2
        assert (x == 1).all()
        assert scores.flags.c_contiguous
    assert model.predict_scores(x[:0]).shape == (0, 12)


def test_summary_says_how_layers_run():
    model = create("convnet", 10)
    model.build((3, 32, 32))
    plain, lines = model.summary(), model.summary(kernels=True).splitlines()
    assert plain == model.summary((3, 32, 32))
    assert [line[: line.find("direct")].split()[0] for line in lines if line.endswith("direct")] == ["conv1"]
    runs = {line.split()[0]: line.partition("fused into ")[2] for line in lines if "fused into" in line}
    assert runs == {"relu1": "conv1", "pool1": "conv1", "relu2": "fc1"}
    assert f"{_ext.kernels.name} kernels" in lines[-1]
    assert "Runs" not in plain
    assert "fused" not in plain
    with fusion.disabled():
        assert "fused" not in model.summary(kernels=True)
    model = create("resnet18", 10, widths=(4, 8))
    model.build((3, 8, 8))
    assert model.fused()["layer2.0.activation"] == "layer2.0.bn2"
    assert "fused into layer2.0.bn2" in model.summary(kernels=True)  # in full: other blocks have a bn2, too
    assert max(map(len, model.summary(kernels=True).splitlines())) <= 120
    block = Residual(ReLU(), activation=ReLU())
    block.build((3,))
    assert "fused into the sum" in block.summary(kernels=True)


class NotedKernels:
    """The kernels, noting which convolutions run; each pass has an algorithm of its own name."""

    def __init__(self):
        self.kernels, self.ran = _ext.kernels, set()

    def conv2d_algorithm(self, pass_name, *_):
        return pass_name

    def __getattr__(self, name):
        kernel = getattr(self.kernels, name)
        if not name.startswith("conv2d"):
            return kernel

        def noted(*arguments, **options):
            shapes = (argument.shape for argument in arguments if isinstance(argument, np.ndarray))
            self.ran |= {(shape, name.removeprefix("conv2d_")) for shape in shapes}
            kernel(*arguments, **options)

        return noted


@pytest.mark.parametrize("frozen", [[], ["0"], ["0", "1.conv"], ["0", "1.shortcut"], ["0", "1.*"], ["*"]], ids=str)
def test_summary_shows_the_passes_that_run(rng, monkeypatch, frozen):
    block = Residual(Sequential({"conv": Conv2d(5, 3, padding=1)}), Conv2d(5, 1), ReLU())
    model = Sequential(Conv2d(4, 3, padding=1), block, Conv2d(6, 3), Flatten())
    model.build(SMALL)
    if frozen:
        model.freeze(*frozen)
    noted = NotedKernels()
    monkeypatch.setattr(_ext, "kernels", noted)
    monkeypatch.setattr("nnkit.functional.conv.kernels", noted)
    out = model.forward(rng.normal(size=(2, *SMALL)), training=True)
    model.backward(out, input_gradient=False)
    lines = {line.split()[0]: line for line in model.summary(kernels=True).splitlines() if "Conv2d" in line}
    for leaf in model.leaves():
        if isinstance(leaf, Conv2d):
            shape = leaf.params["weight"].shape
            passes = ("forward", "backward_input", "backward_weight")
            ran = [name if (shape, name) in noted.ran else "–" for name in passes]
            expected = ", ".join(ran)
            assert lines[leaf.name].endswith(f"  {expected}")


@pytest.mark.parametrize("main", [Conv2d(2, 3, padding=1), Dropout(0.0)])
def test_a_residual_leaves_the_gradient_from_above_alone(main, rng):
    block = Residual(main)
    block.build((2, 4, 4))
    block.forward(rng.standard_normal((3, 2, 4, 4), np.float32), training=True)
    dout = rng.standard_normal((3, 2, 4, 4), np.float32)
    before = dout.copy()
    block.backward(dout)
    assert np.array_equal(dout, before)
