import numpy as np
import pytest

from nnkit import functional as fn


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_drops_the_asked_share_and_keeps_the_mean(rng, dtype):
    out, cache = fn.dropout_forward(np.ones((200, 500), dtype), 0.3, training=True, rng=rng)
    assert out.dtype == dtype
    assert (out == 0).mean() == pytest.approx(0.3, abs=0.01)
    assert out.mean() == pytest.approx(1, abs=0.01)
    np.testing.assert_array_equal(fn.dropout_backward(np.ones_like(out), cache), out)


def test_evaluation_and_p_zero_are_the_identity(rng):
    x = rng.normal(size=(4, 5))
    for options in ({"p": 0.5, "training": False}, {"p": 0.0, "training": True, "rng": rng}):
        out, cache = fn.dropout_forward(x, **options)
        np.testing.assert_array_equal(out, x)
        np.testing.assert_array_equal(fn.dropout_backward(x, cache), x)


def test_p_one_drops_all(rng):
    assert not fn.dropout_forward(np.ones(100), 1.0, training=True, rng=rng)[0].any()


def test_same_generator_same_zeros():
    x = np.ones((10, 10))
    a, b, c = (fn.dropout_forward(x, 0.5, training=True, rng=np.random.default_rng(s))[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_keeps_channels_last(rng):
    x = np.ones((2, 4, 5, 3)).transpose(0, 3, 1, 2)
    out, cache = fn.dropout_forward(x, 0.5, training=True, rng=rng)
    assert out.strides == x.strides
    np.testing.assert_array_equal(fn.dropout_backward(np.ones((2, 3, 4, 5)), cache), out)


def test_bad_arguments(rng):
    for p in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="p between 0 and 1"):
            fn.dropout_forward(np.ones(3), p, training=True, rng=rng)
    with pytest.raises(ValueError, match="expected rng"):
        fn.dropout_forward(np.ones(3), 0.5, training=True)
    with pytest.raises(ValueError, match="in training, got 3"):
        fn.dropout_forward(np.ones(3), 0.5, training=True, rng=3)
