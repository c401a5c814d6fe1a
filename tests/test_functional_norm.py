import numpy as np
import pytest

from nnkit import functional as fn
from nnkit.testing import check_function_gradients

SHAPES = [(6, 5), (2, 1), (4, 17, 3, 5), (1, 4, 2, 2)]


def torch_gradients(torch, function, arrays, dout):
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    out = function(*theirs)
    out.backward(torch.tensor(dout))
    return [out.detach().numpy(), *(t.grad.numpy() for t in theirs)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_norm_agrees_with_torch(rng, training, dtype, shape):
    torch = pytest.importorskip("torch")
    channels = shape[1]
    x = (rng.normal(size=shape) * 3 + 1).astype(dtype)
    weight, bias, mean = (rng.normal(size=channels).astype(dtype) for _ in range(3))
    var = rng.uniform(0.5, 2, size=channels).astype(dtype)
    dout = rng.normal(size=shape).astype(dtype)
    their_mean, their_var = torch.tensor(mean), torch.tensor(var)

    def function(x, weight, bias):
        return torch.nn.functional.batch_norm(x, their_mean, their_var, weight, bias, training, 0.2, 1e-3)

    expected = torch_gradients(torch, function, (x, weight, bias), dout)
    out, cache = fn.batch_norm_forward(x, weight, bias, mean, var, training=training, momentum=0.2, eps=1e-3)
    tolerance = 2e-4 if dtype == np.float32 else 1e-10
    for ours, theirs in zip([out, *fn.batch_norm_backward(dout, cache)], expected, strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(mean, their_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(var, their_var, rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 10), (3, 2, 4, 5)], ids=str)
def test_layer_norm_agrees_with_torch(rng, shape):
    torch = pytest.importorskip("torch")
    x, weight, bias, dout = (rng.normal(size=s) for s in (shape, shape[1:], shape[1:], shape))
    expected = torch_gradients(
        torch, lambda x, w, b: torch.nn.functional.layer_norm(x, shape[1:], w, b, 1e-5), (x, weight, bias), dout
    )
    out, cache = fn.layer_norm_forward(x, weight, bias)
    for ours, theirs in zip([out, *fn.layer_norm_backward(dout, cache)], expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-10)


@pytest.mark.parametrize(("shape", "groups"), [((4, 6), 3), ((3, 8, 4, 5), 2), ((2, 4, 3, 3), 4), ((2, 4, 1, 1), 1)])
def test_group_norm_agrees_with_torch(rng, shape, groups):
    torch = pytest.importorskip("torch")
    x, weight, bias, dout = (rng.normal(size=s) for s in (shape, shape[1], shape[1], shape))
    expected = torch_gradients(
        torch, lambda x, w, b: torch.nn.functional.group_norm(x, groups, w, b, 1e-5), (x, weight, bias), dout
    )
    out, cache = fn.group_norm_forward(x, weight, bias, groups)
    for ours, theirs in zip([out, *fn.group_norm_backward(dout, cache)], expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(5, 3), (3, 2, 4, 3)], ids=str)
def test_batch_norm_gradients(rng, training, shape):
    mean, var = rng.normal(size=shape[1]), rng.uniform(0.5, 2, size=shape[1])

    def forward(x, weight, bias):
        return fn.batch_norm_forward(x, weight, bias, mean.copy(), var.copy(), training=training)

    inputs = rng.normal(size=shape), rng.normal(size=shape[1]), rng.normal(size=shape[1])
    check_function_gradients(forward, fn.batch_norm_backward, *inputs)


def test_layer_and_group_norm_gradients(rng):
    inputs = [rng.normal(size=(3, 4, 2, 5)), rng.normal(size=(4, 2, 5)), rng.normal(size=(4, 2, 5))]
    check_function_gradients(fn.layer_norm_forward, fn.layer_norm_backward, *inputs)
    inputs[1:] = rng.normal(size=4), rng.normal(size=4)
    check_function_gradients(lambda *a: fn.group_norm_forward(*a, 2), fn.group_norm_backward, *inputs)


@pytest.mark.parametrize("norm", ["batch", "layer", "group"])
def test_channels_last_storage_gives_the_same_and_stays(rng, norm):
    x = rng.normal(size=(3, 4, 5, 6))
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    shape = (4, 5, 6) if norm == "layer" else 4
    weight, bias = rng.normal(size=shape), rng.normal(size=shape)
    call = {
        "batch": lambda x: fn.batch_norm_forward(x, weight, bias, np.zeros(4), np.ones(4), training=True),
        "layer": lambda x: fn.layer_norm_forward(x, weight, bias),
        "group": lambda x: fn.group_norm_forward(x, weight, bias, 2),
    }[norm]
    out, cache = call(last)
    np.testing.assert_allclose(out, call(x)[0], atol=1e-12)
    assert out.strides == last.strides
    before = last.copy()
    getattr(fn, f"{norm}_norm_backward")(out, cache)
    np.testing.assert_array_equal(last, before)


def test_one_value_per_channel_cannot_be_normalised():
    with pytest.raises(ValueError, match="more than one value per channel in training"):
        fn.batch_norm_forward(np.ones((1, 3)), np.ones(3), np.ones(3), np.zeros(3), np.ones(3), training=True)
    out, _ = fn.batch_norm_forward(np.ones((1, 3)), np.ones(3), np.ones(3), np.zeros(3), np.ones(3), training=False)
    np.testing.assert_allclose(out, 2, rtol=1e-4)


def test_bad_arguments():
    one = np.ones(3)
    with pytest.raises(ValueError, match=r"running_var of shape \(3,\), got \(2,\)"):
        fn.batch_norm_forward(np.ones((4, 3)), one, one, one, np.ones(2), training=True)
    with pytest.raises(ValueError, match="batch_norm: expected x of shape"):
        fn.batch_norm_forward(np.ones((4, 3, 2)), one, one, one, one, training=True)
    with pytest.raises(ValueError, match="layer_norm: expected x"):
        fn.layer_norm_forward(np.ones((4, 2)), one, one)
    with pytest.raises(ValueError, match="divides 3 channels, got 2"):
        fn.group_norm_forward(np.ones((4, 3)), one, one, 2)
