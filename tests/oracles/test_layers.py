"""Every public layer against PyTorch, and against numerical gradients, on shapes that hypothesis draws.

`ROWS` drives everything: a new layer gets a row here, or `test_every_layer_has_a_row` fails.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkit import functional, layers
from nnkit.layers import (
    GELU,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    GroupNorm,
    Layer,
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
from nnkit.models import Residual, Sequential
from nnkit.testing import check_gradients

LAYOUTS = ("C", "Fortran", "channels last", "gaps", "reversed")


@dataclass
class Call:
    """What PyTorch's side of a row gets: the layer's settings and the same numbers as tensors."""

    functional: Any
    layer: Any
    x: Any
    tensors: dict[str, Any]  # parameters and buffers
    training: bool
    array: np.ndarray  # x as our side got it


@dataclass(frozen=True)
class Row:
    """A strategy of (unbuilt layer, shape of one example), and the same function in PyTorch."""

    cases: st.SearchStrategy
    torch: Callable[[Call], Any]


channels = st.sampled_from([1, 2, 3, 8, 16, 17])
extents = st.integers(1, 9)
rows = st.sampled_from([(1,), (2,), (5,), (17,), (40,)])
images = st.tuples(channels, extents, extents)
shapes = st.one_of(rows, images)


def plain(make, where=shapes, **options):
    """Strategy of a layer whose options do not depend on the shape."""
    return st.tuples(st.builds(make, **options), where)


@st.composite
def convolutions(draw):
    kernel, stride, padding = (draw(st.tuples(*[st.integers(*r)] * 2)) for r in ((1, 7), (1, 4), (0, 3)))
    size = [draw(st.integers(max(1, k - 2 * p), k + 9)) for k, p in zip(kernel, padding, strict=True)]
    layer = Conv2d(draw(channels), kernel, stride=stride, padding=padding, bias=draw(st.booleans()))
    return layer, (draw(channels), *size)


@st.composite
def pools(draw, make):
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)) | st.just((20, 17)))  # 340 places need wider codes
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    stride = draw(st.one_of(st.none(), st.tuples(st.integers(1, 4), st.integers(1, 4))))
    size = [draw(st.integers(max(1, k - 2 * p), k + 9)) for k, p in zip(kernel, padding, strict=True)]
    return make(kernel, stride=stride, padding=padding), (draw(channels), *size)


@st.composite
def group_norms(draw):
    groups, each = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 5]))
    size = draw(st.one_of(st.just(()), st.tuples(extents, extents)))
    return GroupNorm(groups, eps=draw(eps)), (groups * each, *size)


@st.composite
def chains(draw):
    layer = Sequential({"norm": BatchNorm(), "act": Tanh(), "flat": Flatten(), "fc": Linear(draw(channels))})
    return layer, draw(images)


@st.composite
def residuals(draw):
    stride, width = draw(st.integers(1, 3)), draw(channels)
    shape = draw(images)
    main = Sequential({"conv": Conv2d(width, 3, stride=stride, padding=1), "act": SiLU()})
    if stride == 1 and width == shape[0]:
        return Residual(main, activation=draw(st.sampled_from([None, ReLU()]))), shape
    return Residual(main, Conv2d(width, 1, stride=stride, bias=False), ReLU()), shape


def torch_dropout(c):
    c.layer.rng = np.random.default_rng(1)  # as before our forward pass: the same elements are dropped
    return c.x * c.x.new_tensor(c.layer.forward(np.ones_like(c.array), c.training))


def torch_norm(c, prefix=""):
    layer = c.layer.layers["norm"] if prefix else c.layer
    mean, var, weight, bias = (c.tensors[prefix + key] for key in ("running_mean", "running_var", "weight", "bias"))
    return c.functional.batch_norm(c.x, mean, var, weight, bias, c.training, layer.momentum, layer.eps)


def torch_chain(c):
    out = torch_norm(c, "norm.").tanh().flatten(1)
    return c.functional.linear(out, c.tensors["fc.weight"], c.tensors["fc.bias"])


def torch_residual(c):
    t, stride = c.tensors, c.layer.main.layers["conv"].stride
    out = c.functional.silu(c.functional.conv2d(c.x, t["conv.weight"], t["conv.bias"], stride, 1))
    out = out + (c.functional.conv2d(c.x, t["shortcut.weight"], None, stride) if "shortcut.weight" in t else c.x)
    return out if c.layer.activation is None else out.relu()


eps = st.sampled_from([1e-5, 1e-3, 0.1])
momenta = st.sampled_from([0.0, 0.1, 0.3, 1.0])
ROWS = {
    "Linear": Row(
        plain(Linear, rows, out_features=channels, bias=st.booleans()),
        lambda c: c.functional.linear(c.x, c.tensors["weight"], c.tensors.get("bias")),
    ),
    "Conv2d": Row(
        convolutions(),
        lambda c: c.functional.conv2d(c.x, c.tensors["weight"], c.tensors.get("bias"), c.layer.stride, c.layer.padding),
    ),
    "MaxPool2d": Row(
        pools(MaxPool2d),
        lambda c: c.functional.max_pool2d(c.x, c.layer.kernel_size, c.layer.stride, c.layer.padding),
    ),
    "AvgPool2d": Row(
        pools(AvgPool2d),
        lambda c: c.functional.avg_pool2d(c.x, c.layer.kernel_size, c.layer.stride, c.layer.padding),
    ),
    "GlobalAvgPool2d": Row(
        plain(GlobalAvgPool2d, images), lambda c: c.functional.adaptive_avg_pool2d(c.x, 1).flatten(1)
    ),
    "BatchNorm": Row(plain(BatchNorm, momentum=momenta, eps=eps), torch_norm),
    "LayerNorm": Row(
        plain(LayerNorm, eps=eps),
        lambda c: c.functional.layer_norm(c.x, c.x.shape[1:], c.tensors["weight"], c.tensors["bias"], c.layer.eps),
    ),
    "GroupNorm": Row(
        group_norms(),
        lambda c: c.functional.group_norm(c.x, c.layer.num_groups, c.tensors["weight"], c.tensors["bias"], c.layer.eps),
    ),
    "Dropout": Row(plain(Dropout, p=st.sampled_from([0.0, 0.2, 0.5, 1.0])), torch_dropout),
    "Flatten": Row(plain(Flatten), lambda c: c.x.flatten(1)),
    "ReLU": Row(plain(ReLU), lambda c: c.x.relu()),
    "LeakyReLU": Row(
        plain(LeakyReLU, negative_slope=st.sampled_from([0.0, 0.01, 0.5])),
        lambda c: c.functional.leaky_relu(c.x, c.layer.negative_slope),
    ),
    "GELU": Row(
        plain(GELU, approximate=st.sampled_from(["none", "tanh"])),
        lambda c: c.functional.gelu(c.x, approximate=c.layer.approximate),
    ),
    "SiLU": Row(plain(SiLU), lambda c: c.functional.silu(c.x)),
    "Sigmoid": Row(plain(Sigmoid), lambda c: c.x.sigmoid()),
    "Tanh": Row(plain(Tanh), lambda c: c.x.tanh()),
    "Softmax": Row(plain(Softmax), lambda c: c.x.softmax(1)),
    "Sequential": Row(chains(), torch_chain),
    "Residual": Row(residuals(), torch_residual),
}
NORMALISE = ("BatchNorm", "LayerNorm", "GroupNorm", "Sequential")


def is_layer(kind):
    return isinstance(kind, type) and issubclass(kind, Layer) and kind is not Layer


def test_every_layer_has_a_row():
    public = {name for name in layers.__all__ if is_layer(getattr(layers, name))}
    assert public | {"Sequential", "Residual"} == set(ROWS)


def test_every_function_is_that_of_a_layer_or_loss():
    families = {name.rsplit("_forward")[0] for name in functional.__all__ if name.endswith("_forward")}
    named = {name.lower().removesuffix("loss") for name in layers.__all__}
    written = {family.replace("_", "").replace("binarycrossentropy", "bce") for family in families}
    assert written - {"add"} <= named  # Residual adds


def laid_out(array, layout):
    """Return the same array in another memory layout."""
    if layout == "Fortran":
        return np.asfortranarray(array)
    if layout == "channels last" and array.ndim == 4:
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    if layout == "gaps":
        return np.repeat(array, 2, axis=-1)[..., ::2]
    if layout == "reversed":
        return array[..., ::-1].copy()[..., ::-1]
    return array


def drawn_layer(data, name, dtype):
    """Draw a layer and build it, its parameters and statistics being nothing special; and a generator for numbers."""
    layer, shape = data.draw(ROWS[name].cases)
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    layer.build(shape, rng, dtype)
    for leaf in layer.leaves():
        for key, array in (leaf.params | leaf.buffers).items():
            array[...] = rng.uniform(0.5, 2, array.shape) if key == "running_var" else rng.normal(size=array.shape)
    return layer, shape, rng


def arrays_of(layer, kind):
    return {
        f"{leaf.name}.{key}" if leaf.name else key: array
        for leaf in layer.leaves()
        for key, array in getattr(leaf, kind).items()
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ROWS)
@settings(max_examples=60, derandomize=True, deadline=None)
@given(data=st.data())
def test_agrees_with_torch(torch, agree, name, dtype, data):
    """Forward, dx and every parameter's gradient in training; running statistics after five batches; evaluation."""
    layer, shape, rng = drawn_layer(data, name, dtype)
    batch = data.draw(st.integers(0, 4))
    if name in NORMALISE and batch * int(np.prod(shape[1:])) < 4:
        # PyTorch refuses to normalise a single value, and two or three that are close have no gradient in float32.
        batch = 2 if dtype == np.float64 else 4
    layouts = data.draw(st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)))
    whole = name not in NORMALISE and data.draw(st.booleans())  # numbers with ties, and at kinks
    params = {key: double(torch, array).requires_grad_() for key, array in arrays_of(layer, "params").items()}
    buffers = {key: double(torch, array) for key, array in arrays_of(layer, "buffers").items()}

    def call(x, tensor, training):
        return ROWS[name].torch(Call(torch.nn.functional, layer, tensor, params | buffers, training, x))

    for _ in range(5 if buffers else 1):
        x = 3 * rng.normal(size=(batch, *shape)) + 1
        if whole:
            x = x.round()
        x = laid_out(x.astype(dtype), layouts[0])
        before = x.copy()
        tensor = double(torch, x).requires_grad_()
        if isinstance(layer, Dropout):
            layer.rng = np.random.default_rng(1)
        out, expected = layer.forward(x, training=True), call(x, tensor, True)
        agree(f"{name} out", out, expected, 1e-2 * np.abs(x).max(initial=0))  # GELU is far smaller than x at times
        dout = laid_out(rng.normal(size=out.shape).astype(dtype), layouts[1])
        for parameter in params.values():
            parameter.grad = None
        layer_dx = backward(layer, x, dout)
        expected.backward(double(torch, dout))
        # The gradient of few normalised values is a difference of terms of dout's size, and nearly 0 itself.
        floor = (1 if name in NORMALISE else 1e-2) * np.abs(dout).max(initial=0)
        agree(f"{name} dx", layer_dx, tensor.grad, floor)
        for key, gradient in arrays_of(layer, "grads").items():
            agree(f"{name} parameters", gradient, params[key].grad, floor)
        for key, array in arrays_of(layer, "buffers").items():
            agree(f"{name} running statistics", array, buffers[key])
        np.testing.assert_array_equal(x, before)
    with torch.no_grad():
        floor = 1e-2 * np.abs(x).max(initial=0)
        agree(f"{name} evaluation", layer.forward(x), call(x, tensor, False), floor)


def double(torch, array):
    """A tensor in double precision, so that all that is measured in float32 is our own rounding.

    Its order is C, for PyTorch 2.13's batch norm gives wrong gradients for Fortran's order where N and H are 1.
    """
    return torch.tensor(np.array(array, np.float64, order="C"))


def backward(layer, x, dout):
    """The gradients; those of a dropout layer after its mask was drawn once more for PyTorch."""
    if isinstance(layer, Dropout):
        layer.rng = np.random.default_rng(1)
        layer.forward(x, training=True)
    return layer.backward(dout)


@pytest.mark.parametrize("name", ROWS)
@settings(max_examples=6, derandomize=True, deadline=None)
@given(data=st.data())
def test_gradients(name, data):
    """Numerical gradients in float64, at tolerances tighter than those of PyTorch's gradcheck."""
    layer, shape, rng = drawn_layer(data, name, np.float64)
    x = laid_out(rng.normal(size=(data.draw(st.integers(2, 3)), *shape)), data.draw(st.sampled_from(LAYOUTS)))
    assert check_gradients(layer, x, max_elements=6, rtol=1e-4, atol=1e-6) < 1
