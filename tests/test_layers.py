import json

import numpy as np
import pytest

from nnkit import initializers, layers
from nnkit.errors import UsageError
from nnkit.layers import (
    GELU,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    GroupNorm,
    LayerNorm,
    LeakyReLU,
    Linear,
    MaxPool2d,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)

IMAGE, ROW = (4, 6, 5), (4,)
CASES = [
    (Linear(3), ROW, (3,)),
    (Linear(3, bias=False, weight_init="he_normal"), ROW, (3,)),
    (Conv2d(3, 3), IMAGE, (3, 4, 3)),
    (Conv2d(3, 3, algorithm="direct"), IMAGE, (3, 4, 3)),
    (Conv2d(3, (2, 3), stride=(2, 1), padding=(0, 1), bias=False, weight_init="xavier_uniform"), IMAGE, (3, 3, 5)),
    (MaxPool2d(2), IMAGE, (4, 3, 2)),
    (MaxPool2d(3, stride=2, padding=1), IMAGE, (4, 3, 3)),
    (AvgPool2d((3, 2), stride=1), IMAGE, (4, 4, 4)),
    (GlobalAvgPool2d(), IMAGE, (4,)),
    (BatchNorm(), IMAGE, IMAGE),
    (BatchNorm(momentum=0.3, eps=1e-2), ROW, ROW),
    (LayerNorm(eps=1e-3), IMAGE, IMAGE),
    (LayerNorm(), ROW, ROW),
    (GroupNorm(2), IMAGE, IMAGE),
    (GroupNorm(4, eps=1e-3), IMAGE, IMAGE),
    (Dropout(0.3), IMAGE, IMAGE),
    (ReLU(), IMAGE, IMAGE),
    (LeakyReLU(0.2), IMAGE, IMAGE),
    (GELU(), IMAGE, IMAGE),
    (GELU("tanh"), IMAGE, IMAGE),
    (SiLU(), IMAGE, IMAGE),
    (Sigmoid(), IMAGE, IMAGE),
    (Tanh(), IMAGE, IMAGE),
    (Softmax(), ROW, ROW),
    (Flatten(), IMAGE, (120,)),
]
IDS = [f"{layer!r}-{len(shape)}d" for layer, shape, _ in CASES]


def fresh(layer):
    return type(layer)(**json.loads(json.dumps(layer.config())))


def images(rng, shape, dtype=np.float64):
    """A batch of three in channels-last storage, as nnkit passes images on."""
    x = rng.normal(size=(3, *shape)).astype(dtype)
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if x.ndim == 4 else x


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("layer", "shape", "output"), CASES, ids=IDS)
def test_shapes_types_and_layout(rng, layer, shape, output, dtype):
    layer = fresh(layer)
    assert layer.build(shape, dtype=dtype) == output
    x = images(rng, shape, dtype)
    before = x.copy()
    out = layer.forward(x, training=True)
    dx = layer.backward(np.ones_like(out))
    assert (out.shape, dx.shape) == ((3, *output), x.shape)
    assert out.dtype == dx.dtype == dtype
    np.testing.assert_array_equal(x, before)
    for array in (out, dx):
        if array.ndim == 4:
            assert array.transpose(0, 2, 3, 1).flags.c_contiguous
    for name, array in layer.params.items():
        assert array.dtype == layer.grads[name].dtype == dtype


@pytest.mark.parametrize(("layer", "shape", "output"), CASES, ids=IDS)
def test_config_makes_the_same_layer(layer, shape, output):
    again = fresh(layer)
    assert again.config() == layer.config()
    assert repr(again) == repr(layer)
    a, b = fresh(layer), fresh(layer)
    a.build(shape, seed=3)
    b.build(shape, seed=3)
    for name in a.params:
        np.testing.assert_array_equal(a.params[name], b.params[name])


@pytest.mark.parametrize(("layer", "shape", "output"), CASES, ids=IDS)
def test_the_cache_is_consumed_and_kept_in_training_only(rng, layer, shape, output):
    layer = fresh(layer)
    layer.build(shape)
    out = layer.forward(images(rng, shape, np.float32), training=True)
    layer.backward(np.ones_like(out))
    with pytest.raises(RuntimeError, match=f"^{type(layer).__name__}: backward needs a forward"):
        layer.backward(np.ones_like(out))
    layer.forward(images(rng, shape, np.float32))
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        layer.backward(np.ones_like(out))


@pytest.mark.parametrize("layer", [Linear(3), Conv2d(3, 3, padding=1)], ids=repr)
def test_backward_params_gives_the_same_gradients(rng, layer):
    shape = (4,) if isinstance(layer, Linear) else IMAGE
    layer = fresh(layer)
    layer.build(shape)
    x = images(rng, shape, np.float32)
    dout = rng.normal(size=layer.forward(x, training=True).shape)
    layer.backward(dout)
    expected = {name: array.copy() for name, array in layer.grads.items()}
    layer.forward(x, training=True)
    layer.backward_params(dout)
    for name, array in layer.grads.items():
        np.testing.assert_array_equal(array, expected[name])


def test_flatten_is_in_torch_order(rng):
    x = images(rng, IMAGE)
    layer = Flatten()
    layer.build(IMAGE)
    out = layer.forward(x, training=True)
    np.testing.assert_array_equal(out, np.ascontiguousarray(x).reshape(3, -1))
    np.testing.assert_array_equal(layer.backward(out), x)
    layer.forward(x, training=True)
    with pytest.raises(ValueError, match=r"Flatten: expected dout of the output's shape \(3, 120\), got \(3, 12\)"):
        layer.backward(out[:, :12])


def test_dropout_leaves_the_other_layers_first_values_alone():
    layer = Dropout(0.5)
    rng, other = np.random.default_rng(1), np.random.default_rng(1)
    layer.build((10,), rng)
    assert rng.random() == other.random()


def test_initializers_by_callable():
    layer = Linear(4, weight_init=initializers.dirac)
    layer.build((4,))
    np.testing.assert_array_equal(layer.params["weight"], np.eye(4))
    assert not layer.params["bias"].any()
    assert layer.config()["weight_init"] == "dirac"
    assert Linear(4, weight_init=initializers.normal(0.5)).config()["weight_init"] == "normal(0.5)"
    assert "weight_init" not in Linear(4, weight_init=lambda shape, rng, dtype: np.zeros(shape, dtype)).config()
    with pytest.raises(UsageError, match=r"weight_init to return float32 \(4, 4\), got float64 \(2, 2\)"):
        Linear(4, weight_init=lambda shape, rng, dtype: np.zeros((2, 2))).build((4,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(0), "Linear: expected out_features to be an integer >= 1, got 0"),
        (lambda: Linear(2.5), "integer"),
        (lambda: Linear(3, weight_init="he"), "unknown initializer"),
        (lambda: Conv2d(3, 0), "Conv2d: expected kernel_size"),
        (lambda: Conv2d(3, 3, padding="same"), "Conv2d: expected padding"),
        (lambda: Conv2d(3, 3, algorithm="fast"), "Conv2d: unknown convolution algorithm 'fast'"),
        (lambda: MaxPool2d(2, padding=2), "MaxPool2d: expected padding of at most half"),
        (lambda: BatchNorm(momentum=2), "momentum between 0 and 1"),
        (lambda: LayerNorm(eps=0), "eps > 0"),
        (lambda: GroupNorm(0), "num_groups"),
        (lambda: Dropout(1.5), "p between 0 and 1, got 1.5"),
        (lambda: GELU("fast"), "'none' or 'tanh'"),
        (lambda: layers.CrossEntropyLoss(label_smoothing=-1), "label_smoothing"),
        (lambda: Linear(3).build((3, 4, 4)), "put a Flatten before"),
        (lambda: Conv2d(3, 3).build((12,)), r"input shape \(channels, height, width\), got \(12,\)"),
        (lambda: Conv2d(3, 5).build((3, 4, 4)), "Conv2d: expected an image of at least 5×5 pixels, got 4×4"),
        (lambda: GroupNorm(3).build((4, 2, 2)), "divide into 3 groups, got 4"),
        (lambda: Linear(3).build((0,)), "positive integers"),
        (lambda: Linear(3).build(784), "positive integers, got 784"),
        (lambda: Linear(3).build((3,), dtype=np.int32), "float32 or float64, got int32"),
        (lambda: Linear(3).forward(np.ones((1, 3))), "not built yet"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "x", "message"),
    [
        (Linear(3), (4,), (2, 5), "Linear: expected 4 features, got 5"),
        (Linear(3), (4,), (2, 4, 1), r"Linear: expected an input of shape \(N, 4\), got \(2, 4, 1\)"),
        (Conv2d(3, 1), IMAGE, (2, 3, 6, 5), "Conv2d: expected 4 channels, got 3"),
        (BatchNorm(), ROW, (2, 5), "BatchNorm: expected 4 channels, got 5"),
        (LayerNorm(), IMAGE, (2, 4, 6, 6), "LayerNorm: expected examples of shape"),
    ],
)
def test_wrong_inputs(layer, shape, x, message):
    layer.build(shape)
    with pytest.raises(ValueError, match=message):
        layer.forward(np.ones(x))


def test_batch_norm_of_one_example():
    layer = BatchNorm()
    layer.build((4,))
    with pytest.raises(ValueError, match="BatchNorm: expected more than one value per channel in training"):
        layer.forward(np.ones((1, 4)), training=True)
    assert layer.forward(np.ones((1, 4))).shape == (1, 4)
