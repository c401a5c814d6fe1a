import numpy as np
import pytest

from nnkit import functional as fn
from nnkit.errors import UsageError
from nnkit.testing import check_function_gradients


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
    with pytest.raises(ValueError, match="kernel_size to be an integer from 1"):
        forward(np.ones((1, 1, 4, 4)), 0)
    _, cache = forward(np.ones((1, 1, 4, 4)), 2)
    with pytest.raises(ValueError, match="dout of the output's shape"):
        getattr(fn, f"{kind}_pool2d_backward")(np.ones((1, 1, 4, 4)), cache)
    with pytest.raises(ValueError, match="at least one pixel"):
        fn.global_avg_pool2d_forward(np.ones((1, 2, 0, 3)))


def test_no_way_back_without_the_places_of_the_maxima():
    _, cache = fn.max_pool2d_forward(np.ones((1, 1, 4, 4)), 2, training=False)
    with pytest.raises(UsageError, match="max_pool2d: expected the cache of a forward pass with training=True"):
        fn.max_pool2d_backward(np.ones((1, 1, 2, 2)), cache)
