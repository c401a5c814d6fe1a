import numpy as np
import pytest

from nnkit import functional as fn
from nnkit.testing import check_function_gradients

FUNCTIONS = {
    "relu": {},
    "leaky_relu": {"negative_slope": 0.2},
    "gelu": {},
    "gelu-tanh": {"approximate": "tanh"},
    "silu": {},
    "sigmoid": {},
    "tanh": {},
    "softmax": {},
}


def pair(name):
    options, base = FUNCTIONS[name], name.split("-")[0]
    return (lambda x: getattr(fn, f"{base}_forward")(x, **options)), getattr(fn, f"{base}_backward")


def channels_last(x):
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients(rng, name):
    check_function_gradients(*pair(name), rng.normal(size=(3, 7)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_layouts(rng, name):
    """Channels-last stays so, slices work, and the gradient may come in another layout than the input."""
    forward, backward = pair(name)
    x, dout = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 3, 4, 5))
    expected, cache = forward(x)
    expected_dx = backward(dout, cache)
    out, cache = forward(channels_last(x))
    assert out.strides == channels_last(x).strides
    np.testing.assert_allclose(out, expected, rtol=1e-12)
    np.testing.assert_allclose(backward(dout, cache), expected_dx, rtol=1e-12)
    np.testing.assert_allclose(backward(channels_last(dout), cache), expected_dx, rtol=1e-12)
    wide = np.repeat(x, 2, axis=3)[::-1, :, :, ::2]
    np.testing.assert_allclose(forward(wide)[0], expected[::-1], rtol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_extremes_give_no_warnings(name):
    forward, backward = pair(name)
    out, cache = forward(np.array([[-1e4, -50.0, 0.0, 50.0, 1e4]], np.float32))
    assert np.isfinite(out).all()
    assert np.isfinite(backward(np.ones_like(out), cache)).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_comes_through(name):
    assert np.isnan(pair(name)[0](np.array([[np.nan, 1.0]]))[0]).any()


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "softmax"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1,)], ids=str)
def test_odd_shapes(name, shape):
    forward, backward = pair(name)
    out, cache = forward(np.ones(shape))
    assert out.shape == backward(np.ones(shape), cache).shape == shape


def test_bad_arguments():
    with pytest.raises(ValueError, match="'none' or 'tanh', got 'fast'"):
        fn.gelu_forward(np.ones(3), "fast")
    with pytest.raises(ValueError, match="classes in axis 1"):
        fn.softmax_forward(np.ones(3))
    with pytest.raises(TypeError, match="real numbers"):
        fn.relu_forward(np.array(["a"]))
    with pytest.raises(ValueError, match="relu: expected dout of the output's shape"):
        fn.relu_backward(np.ones(4), fn.relu_forward(np.ones(3))[1])


def test_a_sum_in_the_place_of_its_first_term():
    a, b = np.random.default_rng(0).standard_normal((2, 3, 4, 5, 6), np.float32)
    total, _ = fn.add_forward(a, b)
    out, _ = fn.add_forward(a, b, overwrite_a=True)
    assert out is not total
    assert np.shares_memory(out, a)
    assert np.array_equal(out, total)
    fixed = total.copy()
    fixed.flags.writeable = False
    assert not np.shares_memory(fn.add_forward(fixed, b, overwrite_a=True)[0], fixed)
