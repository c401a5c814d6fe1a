import numpy as np
import pytest

from nnkit import functional as fn
from nnkit.testing import check_function_gradients


def test_gradients(rng):
    inputs = rng.normal(size=(4, 5)), rng.normal(size=(3, 5)), rng.normal(size=3)
    check_function_gradients(fn.linear_forward, fn.linear_backward, *inputs)


def test_any_layout_and_integers(rng):
    x, weight = rng.normal(size=(10, 6))[::-2].T, np.asfortranarray(rng.integers(-3, 3, size=(4, 5)))
    np.testing.assert_allclose(fn.linear_forward(x, weight)[0], x @ weight.T)
    assert fn.linear_forward(weight, weight)[0].dtype == np.float32


def test_foreign_bytes(rng):
    """Big-endian and misaligned arrays, such as a file's bytes viewed as numbers."""
    x = rng.normal(size=(5, 4))
    expected = x @ x.T
    big_endian = x.astype(">f8")
    misaligned = np.frombuffer(b" " + x.tobytes(), np.float64, offset=1).reshape(5, 4)
    for foreign in (big_endian, misaligned):
        out, _ = fn.linear_forward(foreign, foreign)
        assert out.dtype == np.float64
        np.testing.assert_allclose(out, expected, rtol=1e-12)


def test_writes_into_the_given_arrays(rng):
    x, weight, dout = rng.normal(size=(4, 5)), rng.normal(size=(3, 5)), rng.normal(size=(4, 3))
    _, cache = fn.linear_forward(x, weight, np.zeros(3))
    dweight, dbias = np.full((3, 5), 9.0), np.full(3, 9.0)
    got = fn.linear_backward(dout, cache, dweight, dbias)
    assert got[1] is dweight
    assert got[2] is dbias
    np.testing.assert_allclose(dweight, dout.T @ x)
    np.testing.assert_allclose(dbias, dout.sum(axis=0))


def test_inputs_are_not_modified(rng):
    arrays = rng.normal(size=(4, 5)), rng.normal(size=(3, 5)), rng.normal(size=3), rng.normal(size=(4, 3))
    before = [a.copy() for a in arrays]
    fn.linear_backward(arrays[3], fn.linear_forward(*arrays[:3])[1])
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.ones((2, 4)), np.ones((3, 5))), ValueError, r"expected x of shape \(N, 5\), got \(2, 4\)"),
        ((np.ones((2, 5)), np.ones(5)), ValueError, r"weight of shape \(O, I\)"),
        ((np.ones((2, 5)), np.ones((3, 5)), np.ones(2)), ValueError, r"bias of shape \(3,\), got \(2,\)"),
        ((np.ones((2, 5), complex), np.ones((3, 5))), TypeError, "complex128"),
        ((np.array([["a"]]), np.ones((3, 1))), TypeError, "real numbers"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        fn.linear_forward(*arguments)


def test_bad_gradients():
    _, cache = fn.linear_forward(np.ones((2, 5)), np.ones((3, 5)), np.ones(3))
    with pytest.raises(ValueError, match=r"dout of the output's shape \(2, 3\), got \(2, 4\)"):
        fn.linear_backward(np.ones((2, 4)), cache)
    with pytest.raises(ValueError, match="dweight to be a writable C-contiguous float64"):
        fn.linear_backward(np.ones((2, 3)), cache, np.ones((3, 5), np.float32))
    frozen = np.ones((3, 5))
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="dweight to be a writable C-contiguous"):
        fn.linear_backward(np.ones((2, 3)), cache, frozen)
    with pytest.raises(ValueError, match=r"dweight to be a writable .* got a list"):
        fn.linear_backward(np.ones((2, 3)), cache, [[1.0]])
