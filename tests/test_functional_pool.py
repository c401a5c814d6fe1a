import numpy as np
import pytest

from nnkit import functional as fn
from nnkit.testing import check_function_gradients

# shape, kernel, stride, padding
CASES = [
    ((2, 3, 8, 8), 2, None, 0),
    ((2, 17, 7, 9), 3, 2, 1),
    ((1, 1, 1, 1), 1, None, 0),
    ((2, 2, 11, 5), (3, 2), (4, 3), (1, 0)),
    ((2, 4, 6, 6), 3, 1, 1),
    ((1, 2, 40, 40), 20, 7, 3),
]


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "kernel", "stride", "padding"), CASES)
def test_agrees_with_torch(rng, kind, dtype, shape, kernel, stride, padding):
    torch = pytest.importorskip("torch")
    x = rng.normal(size=shape).astype(dtype)
    theirs = torch.tensor(x, requires_grad=True)
    expected = getattr(torch.nn.functional, f"{kind}_pool2d")(theirs, kernel, stride=stride, padding=padding)
    dout = rng.normal(size=expected.shape).astype(dtype)
    expected.backward(torch.tensor(dout))
    out, cache = getattr(fn, f"{kind}_pool2d_forward")(x, kernel, stride=stride, padding=padding)
    dx = getattr(fn, f"{kind}_pool2d_backward")(dout, cache)
    assert out.dtype == dx.dtype == dtype
    np.testing.assert_allclose(out, expected.detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dx, theirs.grad, rtol=1e-5, atol=1e-5)


def test_global_average_agrees_with_torch(rng):
    torch = pytest.importorskip("torch")
    x = rng.normal(size=(3, 5, 4, 7))
    theirs = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.adaptive_avg_pool2d(theirs, 1).flatten(1)
    dout = rng.normal(size=(3, 5))
    expected.backward(torch.tensor(dout))
    out, cache = fn.global_avg_pool2d_forward(x)
    np.testing.assert_allclose(out, expected.detach())
    np.testing.assert_allclose(fn.global_avg_pool2d_backward(dout, cache), theirs.grad)


def test_of_equal_values_the_first_gets_the_gradient():
    _, cache = fn.max_pool2d_forward(np.zeros((1, 1, 2, 2)), 2)
    np.testing.assert_array_equal(fn.max_pool2d_backward(np.ones((1, 1, 1, 1)), cache)[0, 0], [[1, 0], [0, 0]])


def test_padding_never_wins_and_nan_always_does():
    assert fn.max_pool2d_forward(np.full((1, 1, 2, 2), -5.0), 2, padding=1)[0].max() == -5
    x = np.arange(4.0).reshape(1, 1, 2, 2)
    x[0, 0, 0, 1] = np.nan
    assert np.isnan(fn.max_pool2d_forward(x, 2)[0]).all()


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_gradients(rng, kind):
    def forward(x):
        return getattr(fn, f"{kind}_pool2d_forward")(x, 3, stride=2, padding=1)

    check_function_gradients(forward, getattr(fn, f"{kind}_pool2d_backward"), rng.normal(size=(2, 3, 6, 7)))


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_bad_arguments(kind):
    forward = getattr(fn, f"{kind}_pool2d_forward")
    with pytest.raises(ValueError, match="at least 3×3 pixels, got 2×2"):
        forward(np.ones((1, 1, 2, 2)), 3)
    with pytest.raises(ValueError, match="at most half the kernel size"):
        forward(np.ones((1, 1, 4, 4)), 2, padding=2)
    with pytest.raises(ValueError, match="kernel_size to be an integer >= 1"):
        forward(np.ones((1, 1, 4, 4)), 0)
    _, cache = forward(np.ones((1, 1, 4, 4)), 2)
    with pytest.raises(ValueError, match="dout of the output's shape"):
        getattr(fn, f"{kind}_pool2d_backward")(np.ones((1, 1, 4, 4)), cache)
    with pytest.raises(ValueError, match="at least one pixel"):
        fn.global_avg_pool2d_forward(np.ones((1, 2, 0, 3)))
