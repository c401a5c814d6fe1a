import numpy as np
import pytest

from nnkit import functional as fn
from nnkit.testing import check_function_gradients


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


def test_an_empty_batch():
    x = np.ones((0, 4, 2, 2))
    out, cache = fn.group_norm_forward(x, np.ones(4), np.ones(4), 2)
    dx, dweight, _ = fn.group_norm_backward(x, cache)
    assert out.shape == dx.shape == x.shape
    assert not dweight.any()


def test_bad_arguments():
    one = np.ones(3)
    with pytest.raises(ValueError, match=r"running_var of shape \(3,\), got \(2,\)"):
        fn.batch_norm_forward(np.ones((4, 3)), one, one, one, np.ones(2), training=True)
    with pytest.raises(ValueError, match="batch_norm: expected x of shape"):
        fn.batch_norm_forward(np.ones((4, 3, 2)), one, one, one, one, training=True)
    frozen = np.ones(3)
    frozen.flags.writeable = False
    for wrong in ([0, 0, 0], np.ones(3, int), frozen):
        with pytest.raises(TypeError, match="running_mean to be an array of floats, writable in training"):
            fn.batch_norm_forward(np.ones((4, 3)), one, one, wrong, one, training=True)
    fn.batch_norm_forward(np.ones((4, 3)), one, one, frozen, one, training=False)
    with pytest.raises(ValueError, match="layer_norm: expected x"):
        fn.layer_norm_forward(np.ones((4, 2)), one, one)
    with pytest.raises(ValueError, match="divides 3 channels, got 2"):
        fn.group_norm_forward(np.ones((4, 3)), one, one, 2)
    with pytest.raises(ValueError, match=r"divides 3 channels, got 3\.0"):
        fn.group_norm_forward(np.ones((4, 3)), one, one, 3.0)


def test_batch_norm_takes_statistics_that_are_given(rng):
    x, weight, bias = rng.normal(size=(5, 3)), rng.normal(size=3), rng.normal(size=3)
    statistics, running = np.array([[1.0, 2.0, 3.0], [4.0, 1.0, 9.0]]), (np.zeros(3), np.ones(3))
    out, cache = fn.batch_norm_forward(x, weight, bias, *running, training=True, eps=1e-12, statistics=statistics)
    np.testing.assert_allclose(out, (x - [1, 2, 3]) / [2, 1, 3] * weight + bias, rtol=1e-9)
    np.testing.assert_allclose(running[0], [0.1, 0.2, 0.3])
    np.testing.assert_allclose(running[1], [0.9 + 0.1 * 5, 0.9 + 0.1 * 1.25, 0.9 + 0.1 * 11.25])
    expected = fn.batch_norm_backward(x, cache)[0].copy()
    statistics[:] = 77  # for the next batch
    np.testing.assert_array_equal(fn.batch_norm_backward(x, cache)[0], expected)
    evaluated = [
        fn.batch_norm_forward(x, weight, bias, *running, training=False, **s)[0]
        for s in ({}, {"statistics": statistics})
    ]
    np.testing.assert_array_equal(*evaluated)
    with pytest.raises(ValueError, match=r"expected statistics of shape \(2, 3\), got \(3, 2\)"):
        fn.batch_norm_forward(x, weight, bias, *running, training=True, statistics=statistics.reshape(3, 2))
