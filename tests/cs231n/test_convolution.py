"""The cells of ConvolutionalNetworks that are about layers; the same against PyTorch; and what `im2col` promises."""

import numpy as np
import pytest

from nnkit.cs231n import fast_layers, im2col, im2col_cython, layer_utils
from nnkit.cs231n.fast_layers import (
    conv_backward_fast,
    conv_backward_im2col,
    conv_backward_strides,
    conv_forward_fast,
    conv_forward_im2col,
    conv_forward_strides,
    max_pool_backward_fast,
    max_pool_backward_im2col,
    max_pool_backward_reshape,
    max_pool_forward_fast,
    max_pool_forward_im2col,
    max_pool_forward_reshape,
)
from nnkit.cs231n.gradient_check import eval_numerical_gradient_array
from nnkit.cs231n.layers import (
    conv_backward_naive,
    conv_forward_naive,
    max_pool_backward_naive,
    max_pool_forward_naive,
    spatial_batchnorm_backward,
    spatial_batchnorm_forward,
    spatial_groupnorm_backward,
    spatial_groupnorm_forward,
)

CONVOLUTIONS = {
    "naive": (conv_forward_naive, conv_backward_naive),
    "fast": (conv_forward_fast, conv_backward_fast),
    "strides": (conv_forward_strides, conv_backward_strides),
    "im2col": (conv_forward_im2col, conv_backward_im2col),
}
POOLINGS = {
    "naive": (max_pool_forward_naive, max_pool_backward_naive),
    "fast": (max_pool_forward_fast, max_pool_backward_fast),
    "reshape": (max_pool_forward_reshape, max_pool_backward_reshape),
    "im2col": (max_pool_forward_im2col, max_pool_backward_im2col),
}
POOL = {"pool_height": 2, "pool_width": 2, "stride": 2}


def check_gradients(agree, forward, backward, inputs, dout, tolerance=1e-7):
    gradients = backward(dout, forward(*inputs)[1])
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    for array, gradient in zip(inputs, gradients, strict=True):
        agree(gradient, eval_numerical_gradient_array(lambda _: forward(*inputs)[0], array, dout), tolerance)


@pytest.mark.parametrize("way", CONVOLUTIONS)
def test_conv_forward(agree, way):
    x = np.linspace(-0.1, 0.5, num=2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    w = np.linspace(-0.2, 0.3, num=3 * 3 * 4 * 4).reshape(3, 3, 4, 4)
    out, _ = CONVOLUTIONS[way][0](x, w, np.linspace(-0.1, 0.2, num=3), {"stride": 2, "pad": 1})
    expected = [
        [-0.08759809, -0.10987781, -0.18387192, -0.2109216, 0.21027089, 0.21661097],
        [0.22847626, 0.23004637, 0.50813986, 0.54309974, 0.64082444, 0.67101435],
        [-0.98053589, -1.03143541, -1.19128892, -1.24695841, 0.69108355, 0.66880383],
        [0.59480972, 0.56776003, 2.36270298, 2.36904306, 2.38090835, 2.38247847],
    ]
    agree(out, np.reshape(expected, (2, 3, 2, 2)))


@pytest.mark.parametrize("way", CONVOLUTIONS)
def test_conv_backward(agree, way):
    x, w, b = np.random.randn(4, 3, 5, 5), np.random.randn(2, 3, 3, 3), np.random.randn(2)
    forward, backward = CONVOLUTIONS[way]
    dout = np.random.randn(4, 2, 5, 5)
    check_gradients(agree, lambda *a: forward(*a, {"stride": 1, "pad": 1}), backward, (x, w, b), dout)


def test_conv_as_image_processing(agree):
    """Gray and edges of two pictures, by filters set by hand and a bias of integers."""
    x = np.random.randint(256, size=(2, 3, 24, 24)).astype(float)
    w = np.zeros((2, 3, 3, 3))
    w[0, :, 1, 1] = 0.3, 0.6, 0.1
    w[1, 2] = [[1, 2, 1], [0, 0, 0], [-1, -2, -1]]
    b, conv_param = np.array([0, 128]), {"stride": 1, "pad": 1}
    out, _ = conv_forward_naive(x, w, b, conv_param)
    agree(out[:, 0], 0.3 * x[:, 0] + 0.6 * x[:, 1] + 0.1 * x[:, 2], 1e-12)
    agree(conv_forward_fast(x, w, b, conv_param)[0], out, 1e-9)
    blue = x[:, 2]
    edges = blue[:, :-2, :-2] + 2 * blue[:, :-2, 1:-1] + blue[:, :-2, 2:]
    edges = edges - blue[:, 2:, :-2] - 2 * blue[:, 2:, 1:-1] - blue[:, 2:, 2:]
    np.testing.assert_allclose(out[:, 1, 1:-1, 1:-1], edges + 128, atol=1e-9)


@pytest.mark.parametrize("way", POOLINGS)
def test_max_pool_forward(agree, way):
    x = np.linspace(-0.3, 0.4, num=2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    out, _ = POOLINGS[way][0](x, POOL)
    agree(out, x[:, :, 1::2, 1::2], 1e-15)


@pytest.mark.parametrize("way", POOLINGS)
def test_max_pool_backward(agree, way):
    x, dout = np.random.randn(3, 2, 8, 8), np.random.randn(3, 2, 4, 4)
    forward, backward = POOLINGS[way]
    check_gradients(agree, lambda x: forward(x, POOL), backward, (x,), dout)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad"), [(31, 3, 2, 1), (9, 2, 1, 0), (8, 5, 3, 2), (6, 1, 2, 0), (7, 3, 1, 1)]
)
def test_fast_conv_is_the_naive_one(agree, size, kernel, stride, pad):
    """The speed cell with fewer images, and shapes that it does not have."""
    x, w, b = np.random.randn(2, 3, size, size + 2), np.random.randn(4, 3, kernel, kernel), np.random.randn(4)
    conv_param = {"stride": stride, "pad": pad}
    out, cache = conv_forward_naive(x, w, b, conv_param)
    dout = np.random.randn(*out.shape)
    gradients = conv_backward_naive(dout, cache)
    for way in ("fast", "im2col"):
        forward, backward = CONVOLUTIONS[way]
        got, cache = forward(x, w, b, conv_param)
        agree(got, out, 1e-9)
        for a, b_ in zip(backward(dout, cache), gradients, strict=True):
            agree(a, b_, 1e-9)


@pytest.mark.parametrize(("size", "pool"), [(32, (2, 2, 2)), (7, (3, 2, 1)), (9, (3, 3, 3)), (8, (2, 2, 3))])
def test_fast_pooling_is_the_naive_one(size, pool):
    x = np.random.randn(3, 3, size, size)
    pool_param = dict(zip(("pool_height", "pool_width", "stride"), pool, strict=True))
    out, cache = max_pool_forward_naive(x, pool_param)
    got, fast_cache = max_pool_forward_fast(x, pool_param)
    np.testing.assert_array_equal(got, out)
    dout = np.random.randn(*out.shape)
    dx = max_pool_backward_naive(dout, cache)
    np.testing.assert_allclose(max_pool_backward_fast(dout, fast_cache), dx, rtol=1e-15, atol=1e-15)


def test_ties():
    x, dout = np.zeros((1, 1, 2, 2)), np.ones((1, 1, 1, 1))
    x[0, 0, 1] = 1
    shares = {
        way: backward(dout, forward(x, POOL)[1]).ravel().tolist() for way, (forward, backward) in POOLINGS.items()
    }
    assert shares["reshape"] == shares["fast"] == [0, 0, 0.5, 0.5]
    assert shares["im2col"] == shares["naive"] == [0, 0, 1, 0]


def test_pooling_that_does_not_fit():
    with pytest.raises(ValueError, match="tile"):
        max_pool_forward_reshape(np.zeros((1, 1, 5, 4)), POOL)
    for forward in (max_pool_forward_naive, max_pool_forward_fast):
        with pytest.raises(ValueError, match="at least"):
            forward(np.zeros((1, 1, 1, 4)), POOL)
    with pytest.raises(ValueError, match="conv"):
        conv_forward_naive(np.zeros((1, 2, 5, 5)), np.zeros((1, 3, 3, 3)), np.zeros(1), {"stride": 1, "pad": 0})


def test_sandwiches(agree):
    conv_param = {"stride": 1, "pad": 1}
    x, w, b = np.random.randn(2, 3, 16, 16), np.random.randn(3, 3, 3, 3), np.random.randn(3)

    def pool_forward(*inputs):
        return layer_utils.conv_relu_pool_forward(*inputs, conv_param, POOL)

    check_gradients(agree, pool_forward, layer_utils.conv_relu_pool_backward, (x, w, b), np.random.randn(2, 3, 8, 8))
    x, w = np.random.randn(2, 3, 8, 8), np.random.randn(3, 3, 3, 3)

    def relu_forward(*inputs):
        return layer_utils.conv_relu_forward(*inputs, conv_param)

    dout = np.random.randn(2, 3, 8, 8)
    check_gradients(agree, relu_forward, layer_utils.conv_relu_backward, (x, w, b), dout)

    def bn_forward(*inputs):
        return layer_utils.conv_bn_relu_forward(*inputs, conv_param, {"mode": "train"})

    gamma, beta = np.random.randn(3), np.random.randn(3)
    gradients = layer_utils.conv_bn_relu_backward(dout, bn_forward(x, w, b, gamma, beta)[1])
    np.testing.assert_allclose(gradients[2], 0, atol=1e-10)  # a shift that batch norm takes out again
    for i, array in enumerate((x, w, b, gamma, beta)):
        numerical = eval_numerical_gradient_array(lambda _: bn_forward(x, w, b, gamma, beta)[0], array, dout)
        np.testing.assert_allclose(gradients[i], numerical, rtol=1e-6, atol=1e-8)


def test_spatial_batchnorm_forward(agree):
    x = 4 * np.random.randn(2, 3, 4, 5) + 10
    out, _ = spatial_batchnorm_forward(x, np.ones(3), np.zeros(3), {"mode": "train"})
    assert out.shape == x.shape
    np.testing.assert_allclose(out.mean(axis=(0, 2, 3)), 0, atol=1e-12)
    agree(out.std(axis=(0, 2, 3)), np.ones(3), 1e-5)
    gamma, beta = np.asarray([3, 4, 5]), np.asarray([6, 7, 8])
    scaled, _ = spatial_batchnorm_forward(x, gamma, beta, {"mode": "train"})
    agree(scaled.mean(axis=(0, 2, 3)), beta.astype(float))
    agree(scaled.std(axis=(0, 2, 3)), gamma.astype(float), 1e-5)


def test_spatial_batchnorm_in_a_test():
    bn_param = {"mode": "train"}
    for _ in range(50):
        x = 2.3 * np.random.randn(10, 4, 11, 12) + 13
        spatial_batchnorm_forward(x, np.ones(4), np.zeros(4), bn_param)
    bn_param["mode"] = "test"
    out, _ = spatial_batchnorm_forward(2.3 * np.random.randn(10, 4, 11, 12) + 13, np.ones(4), np.zeros(4), bn_param)
    np.testing.assert_allclose(out.mean(axis=(0, 2, 3)), 0, atol=0.12)
    np.testing.assert_allclose(out.std(axis=(0, 2, 3)), 1, atol=0.12)


def test_spatial_batchnorm_backward(agree):
    x, gamma, beta = 5 * np.random.randn(2, 3, 4, 5) + 12, np.random.randn(3), np.random.randn(3)

    def forward(*inputs):
        return spatial_batchnorm_forward(*inputs, {"mode": "train"})

    dout = np.random.randn(2, 3, 4, 5)
    check_gradients(agree, forward, spatial_batchnorm_backward, (x, gamma, beta), dout, 1e-6)


def test_spatial_groupnorm_forward(agree):
    x = 4 * np.random.randn(2, 6, 4, 5) + 10
    ones = np.ones((1, 6, 1, 1))
    out, _ = spatial_groupnorm_forward(x, ones, 0 * ones, 2, {"mode": "train"})
    groups = out.reshape(4, -1)
    np.testing.assert_allclose(groups.mean(axis=1), 0, atol=1e-12)
    agree(groups.std(axis=1), np.ones(4), 1e-5)
    np.testing.assert_array_equal(spatial_groupnorm_forward(x, np.ones(6), np.zeros(6), 2, {})[0], out)


@pytest.mark.parametrize("shape", [(6,), (1, 6, 1, 1)])
def test_spatial_groupnorm_backward(agree, shape):
    x, gamma, beta = 5 * np.random.randn(2, 6, 4, 5) + 12, np.random.randn(*shape), np.random.randn(*shape)

    def forward(*inputs):
        return spatial_groupnorm_forward(*inputs, 2, {})

    dout = np.random.randn(2, 6, 4, 5)
    check_gradients(agree, forward, spatial_groupnorm_backward, (x, gamma, beta), dout, 1e-6)


def test_against_pytorch(agree):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x, w, b = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, 4, 9, 8), (6, 4, 3, 3), (6,)))
    expected = functional.conv2d(x, w, b, stride=2, padding=1)
    dout = torch.randn(expected.shape, dtype=torch.float64)
    gradients = torch.autograd.grad(expected, (x, w, b), dout)
    for forward, backward in CONVOLUTIONS.values():
        out, cache = forward(*(a.detach().numpy() for a in (x, w, b)), {"stride": 2, "pad": 1})
        agree(out, expected.detach().numpy(), 1e-10)
        for got, right in zip(backward(dout.numpy(), cache), gradients, strict=True):
            agree(got, right.numpy(), 1e-9)
    gamma, beta = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    expected = functional.group_norm(x, 2, gamma, beta)
    dout = torch.randn(expected.shape, dtype=torch.float64)
    out, cache = spatial_groupnorm_forward(*(a.detach().numpy() for a in (x, gamma, beta)), 2, {})
    agree(out, expected.detach().numpy(), 1e-9)
    right = torch.autograd.grad(expected, (x, gamma, beta), dout)
    for got, gradient in zip(spatial_groupnorm_backward(dout.numpy(), cache), right, strict=True):
        agree(got, gradient.numpy(), 1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layouts_and_types(agree, dtype):
    x, w, b = (np.random.randn(*s).astype(dtype) for s in ((2, 3, 6, 6), (4, 3, 3, 3), (4,)))
    strided = np.zeros((2, 3, 12, 6), dtype)[:, :, ::2]
    strided[...] = x
    for forward, backward in CONVOLUTIONS.values():
        right, _ = forward(x, w, b, {"stride": 1, "pad": 1})
        assert right.dtype == dtype
        for other in (
            np.asfortranarray(x),
            strided,
            np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        ):
            before = other.copy()
            out, cache = forward(other, np.asfortranarray(w), b[::-1][::-1], {"stride": 1, "pad": 1})
            agree(out, right, 1e-4 if dtype == np.float32 else 1e-9)
            assert {g.dtype for g in backward(np.asfortranarray(out), cache)} == {np.dtype(dtype)}
            np.testing.assert_array_equal(other, before)
    for forward, backward in POOLINGS.values():
        out, cache = forward(strided, POOL)
        assert out.dtype == backward(out, cache).dtype == dtype


def test_im2col_is_a_convolution(agree):
    x, w = np.random.randn(3, 2, 6, 7), np.random.randn(4, 2, 2, 3)
    cols = im2col.im2col_indices(x, 2, 3, padding=1, stride=1)
    assert cols.shape == (2 * 2 * 3, 7 * 7 * 3)
    out = (w.reshape(4, -1) @ cols).reshape(4, 7, 7, 3).transpose(3, 0, 1, 2)
    agree(out, conv_forward_naive(x, w, np.zeros(4), {"stride": 1, "pad": 1})[0], 1e-9)
    np.testing.assert_array_equal(im2col_cython.im2col_cython(x, 2, 3, 1, 1), cols)


def test_im2col_order():
    x = np.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    cols = im2col.im2col_indices(x, 3, 2, padding=0, stride=1)
    c, p, q, i, j, n = 2, 1, 1, 1, 2, 1
    assert cols[(c * 3 + p) * 2 + q, (i * 3 + j) * 2 + n] == x[n, c, i + p, j + q]
    k, rows, columns = im2col.get_im2col_indices(x.shape, 3, 2, padding=0, stride=1)
    assert k.shape == (18, 1)
    assert rows.shape == columns.shape == (18, 6)
    np.testing.assert_array_equal(x[:, k, rows, columns].transpose(1, 2, 0).reshape(18, -1), cols)


@pytest.mark.parametrize(("height", "width", "padding", "stride"), [(3, 3, 1, 1), (2, 3, 0, 2), (1, 2, 2, 3)])
def test_col2im_is_the_transpose(agree, height, width, padding, stride):
    """<im2col(x), c> = <x, col2im(c)> for any c."""
    x = np.random.randn(2, 3, 8, 7)
    cols = im2col.im2col_indices(x, height, width, padding, stride)
    c = np.random.randn(*cols.shape)
    back = im2col.col2im_indices(c, x.shape, height, width, padding, stride)
    agree((cols * c).sum(), (x * back).sum(), 1e-10)
    compiled = im2col_cython.col2im_cython(c, 2, 3, 8, 7, height, width, padding, stride)
    np.testing.assert_allclose(compiled, back, rtol=1e-13, atol=1e-13)


def test_fast_layers_offers_both_names():
    assert fast_layers.conv_forward_strides is fast_layers.conv_forward_fast
    assert fast_layers.conv_backward_strides is fast_layers.conv_backward_fast
