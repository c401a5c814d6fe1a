import numpy as np
import pytest

from nnkit import functional as fn
from nnkit.testing import check_function_gradients

# N, I, H, W, O, KH, KW, stride, padding
SHAPES = [
    (1, 1, 1, 1, 1, 1, 1, 1, 0),
    (2, 3, 8, 8, 4, 3, 3, 1, 1),
    (2, 3, 9, 7, 17, 3, 5, (1, 2), (2, 1)),
    (3, 17, 6, 6, 2, 1, 1, 2, 0),
    (2, 2, 11, 11, 3, 2, 2, 3, 0),
    (1, 3, 32, 32, 8, 7, 7, 1, 3),
    (4, 16, 10, 10, 32, 3, 3, 1, 0),
    (2, 2, 2, 2, 2, 3, 3, 1, 3),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_torch(rng, dtype, shape):
    torch = pytest.importorskip("torch")
    n, i, h, w, o, kh, kw, stride, padding = shape
    arrays = [rng.normal(size=s).astype(dtype) for s in [(n, i, h, w), (o, i, kh, kw), (o,)]]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    expected = torch.nn.functional.conv2d(*theirs, stride=stride, padding=padding)
    dout = rng.normal(size=expected.shape).astype(dtype)
    expected.backward(torch.tensor(dout))
    out, cache = fn.conv2d_forward(*arrays, stride=stride, padding=padding)
    tolerance = 2e-4 if dtype == np.float32 else 1e-10
    assert out.dtype == dtype
    assert out.transpose(0, 2, 3, 1).flags.c_contiguous
    np.testing.assert_allclose(out, expected.detach(), rtol=tolerance, atol=tolerance)
    for ours, tensor in zip(fn.conv2d_backward(dout, cache), theirs, strict=True):
        np.testing.assert_allclose(ours, tensor.grad, rtol=tolerance, atol=tolerance * tensor.grad.abs().max().item())


def test_gradients(rng):
    inputs = rng.normal(size=(2, 3, 6, 5)), rng.normal(size=(4, 3, 3, 2)), rng.normal(size=4)

    def forward(*arrays):
        return fn.conv2d_forward(*arrays, stride=(2, 1), padding=(1, 0))

    check_function_gradients(forward, fn.conv2d_backward, *inputs)


def test_same_result_from_any_layout(rng):
    x, weight = rng.normal(size=(2, 6, 8, 8)), rng.normal(size=(3, 3, 3, 3))
    expected = fn.conv2d_forward(np.ascontiguousarray(x[:, ::-2]), weight)[0]
    np.testing.assert_array_equal(fn.conv2d_forward(x[:, ::-2], weight)[0], expected)
    nhwc = np.ascontiguousarray(x[:, ::-2].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(fn.conv2d_forward(nhwc, np.asfortranarray(weight))[0], expected)


def test_channels_last_input_is_not_copied(rng):
    nhwc = rng.normal(size=(2, 8, 8, 3))
    _, cache = fn.conv2d_forward(nhwc.transpose(0, 3, 1, 2), rng.normal(size=(3, 3, 3, 3)))
    assert np.shares_memory(cache[0], nhwc)


@pytest.mark.parametrize(
    ("x", "weight", "options", "message"),
    [
        ((3, 8, 8), (4, 3, 3, 3), {}, r"x of shape \(N, C, H, W\), got \(3, 8, 8\)"),
        ((1, 2, 8, 8), (4, 3, 3, 3), {}, "x with 3 channels, got 2"),
        ((1, 3, 2, 8), (4, 3, 3, 3), {}, "at least 3×3 pixels, got 2×8"),
        ((1, 3, 8, 8), (4, 3, 3), {}, "weight of shape"),
        ((1, 3, 8, 8), (4, 3, 3, 3), {"stride": 0}, "stride to be an integer >= 1"),
        ((1, 3, 8, 8), (4, 3, 3, 3), {"padding": -1}, "padding to be an integer >= 0"),
        ((1, 3, 8, 8), (4, 3, 3, 3), {"padding": (1, 2, 3)}, "pair"),
        ((1, 3, 8, 8), (4, 3, 3, 3), {"stride": 1.5}, "integer"),
        ((1, 3, 8, 8), (4, 3, 3, 3), {"bias": np.ones(3)}, r"bias of shape \(4,\)"),
    ],
)
def test_bad_arguments(x, weight, options, message):
    with pytest.raises(ValueError, match=message):
        fn.conv2d_forward(np.ones(x), np.ones(weight), **options)
