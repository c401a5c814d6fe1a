"""The layer cells of FullyConnectedNets, BatchNormalization, LayerNorm and Dropout; and the same against PyTorch."""

import numpy as np
import pytest

import nnkit.cs231n
from nnkit.cs231n.gradient_check import eval_numerical_gradient, eval_numerical_gradient_array
from nnkit.cs231n.layer_utils import affine_relu_backward, affine_relu_forward
from nnkit.cs231n.layers import (
    affine_backward,
    affine_forward,
    batchnorm_backward,
    batchnorm_backward_alt,
    batchnorm_forward,
    dropout_backward,
    dropout_forward,
    layernorm_backward,
    layernorm_forward,
    relu_backward,
    relu_forward,
    softmax_loss,
    svm_loss,
)


def check_gradients(agree, forward, backward, inputs, dout, tolerance=1e-7):
    """Compare a backward pass with numerical gradients for all inputs, perturbed in place as notebooks do it."""
    _, cache = forward(*inputs)
    for array, gradient in zip(inputs, backward(dout, cache), strict=True):
        assert gradient.dtype == np.float64
        agree(gradient, eval_numerical_gradient_array(lambda _: forward(*inputs)[0], array, dout), tolerance)


def test_affine_forward(agree):
    x = np.linspace(-0.1, 0.5, num=2 * 4 * 5 * 6).reshape(2, 4, 5, 6)
    w = np.linspace(-0.2, 0.3, num=4 * 5 * 6 * 3).reshape(120, 3)
    b = np.linspace(-0.3, 0.1, num=3)
    out, _ = affine_forward(x, w, b)
    agree(out, [[1.49834967, 1.70660132, 1.91485297], [3.25553199, 3.5141327, 3.77273342]], 1e-8)


def test_affine_backward(agree):
    x, w, b = np.random.randn(10, 2, 3), np.random.randn(6, 5), np.random.randn(5)
    check_gradients(agree, affine_forward, affine_backward, (x, w, b), np.random.randn(10, 5))


def test_relu_forward(agree):
    out, _ = relu_forward(np.linspace(-0.5, 0.5, num=12).reshape(3, 4))
    agree(out, np.array([[0, 0, 0, 0], [0, 0, 1, 3], [5, 7, 9, 11]]) / 22, 1e-12)


def test_relu_backward(agree):
    x, dout = np.random.randn(10, 10), np.random.randn(10, 10)
    numerical = eval_numerical_gradient_array(lambda x: relu_forward(x)[0], x, dout)
    agree(relu_backward(dout, relu_forward(x)[1]), numerical)


def test_affine_relu(agree):
    x, w, b = np.random.randn(2, 3, 4), np.random.randn(12, 10), np.random.randn(10)
    check_gradients(agree, affine_relu_forward, affine_relu_backward, (x, w, b), np.random.randn(2, 10))


@pytest.mark.parametrize(("loss", "at_the_start"), [(svm_loss, 9.0), (softmax_loss, np.log(10))])
def test_losses(agree, loss, at_the_start):
    x, y = 0.001 * np.random.randn(50, 10), np.random.randint(10, size=50)
    value, dx = loss(x, y)
    assert value == pytest.approx(at_the_start, abs=2e-3)
    numerical = eval_numerical_gradient(lambda x: loss(x, y)[0], x, verbose=False)
    agree(dx, numerical)
    assert loss(x, y.astype(np.int32))[0] == value


def test_softmax_is_stable():
    loss, dx = softmax_loss(np.array([[1e6, 0.0, -1e6]]), np.array([1]))
    assert loss == 1e6
    assert dx.tolist() == [[1.0, -1.0, 0.0]]


def activations(n, width, hidden, outputs):
    x, w1, w2 = np.random.randn(n, width), np.random.randn(width, hidden), np.random.randn(hidden, outputs)
    return np.maximum(0, x @ w1) @ w2


def test_batchnorm_forward_in_training(agree):
    a = activations(200, 50, 60, 3)
    out, _ = batchnorm_forward(a, np.ones(3), np.zeros(3), {"mode": "train"})
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-12)
    agree(out.std(axis=0), np.ones(3), 1e-6)
    gamma, beta = np.asarray([1.0, 2.0, 3.0]), np.asarray([11.0, 12.0, 13.0])
    scaled, _ = batchnorm_forward(a, gamma, beta, {"mode": "train"})
    agree(scaled.mean(axis=0), beta)
    agree(scaled, out * gamma + beta)
    from_integers, _ = batchnorm_forward(a, np.asarray([1, 2, 3]), np.asarray([11, 12, 13]), {"mode": "train"})
    np.testing.assert_array_equal(from_integers, scaled)


def test_batchnorm_forward_in_a_test():
    bn_param = {"mode": "train"}
    w1, w2 = np.random.randn(50, 60), np.random.randn(60, 3)
    for _ in range(50):
        a = np.maximum(0, np.random.randn(200, 50) @ w1) @ w2
        batchnorm_forward(a, np.ones(3), np.zeros(3), bn_param)
    bn_param["mode"] = "test"
    a = np.maximum(0, np.random.randn(200, 50) @ w1) @ w2
    out, _ = batchnorm_forward(a, np.ones(3), np.zeros(3), bn_param)
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=0.2)
    np.testing.assert_allclose(out.std(axis=0), 1, atol=0.2)


def test_batchnorm_running_statistics(agree):
    x, bn_param = 5 * np.random.randn(4, 5) + 12, {"mode": "train", "momentum": 0.8}
    mean, var = np.zeros(5), np.zeros(5)
    for _ in range(3):
        batchnorm_forward(x, np.ones(5), np.zeros(5), bn_param)
        mean, var = 0.8 * mean + 0.2 * x.mean(axis=0), 0.8 * var + 0.2 * x.var(axis=0)
    agree(bn_param["running_mean"], mean, 1e-12)
    agree(bn_param["running_var"], var, 1e-12)
    held = bn_param["running_mean"].copy()
    out, _ = batchnorm_forward(x, np.ones(5), np.zeros(5), {**bn_param, "mode": "test", "eps": 1e-2})
    agree(out, (x - mean) / np.sqrt(var + 1e-2), 1e-9)
    np.testing.assert_array_equal(bn_param["running_mean"], held)
    with pytest.raises(ValueError, match="mode"):
        batchnorm_forward(x, np.ones(5), np.zeros(5), {"mode": "both"})


@pytest.mark.parametrize("backward", [batchnorm_backward, batchnorm_backward_alt])
@pytest.mark.parametrize("mode", ["train", "test"])
def test_batchnorm_backward(agree, backward, mode):
    x, gamma, beta = 5 * np.random.randn(4, 5) + 12, np.random.randn(5), np.random.randn(5)
    known = {"mode": mode, "running_mean": np.full(5, 10.0), "running_var": np.full(5, 20.0)}

    def forward(*inputs):
        return batchnorm_forward(*inputs, dict(known))

    check_gradients(agree, forward, backward, (x, gamma, beta), np.random.randn(4, 5))


def test_batchnorm_backward_both_ways(agree):
    x, gamma, beta = 5 * np.random.randn(100, 500) + 12, np.random.randn(500), np.random.randn(500)
    dout = np.random.randn(100, 500)
    _, cache = batchnorm_forward(x, gamma, beta, {"mode": "train"})
    for a, b in zip(batchnorm_backward(dout, cache), batchnorm_backward_alt(dout, cache), strict=True):
        agree(a, b)


def test_batchnorm_of_one_example(agree):
    out, cache = batchnorm_forward(np.random.randn(1, 3), np.ones(3), np.array([1, 2, 3]), {"mode": "train"})
    agree(out, [[1.0, 2.0, 3.0]])
    agree(batchnorm_backward_alt(np.ones((1, 3)), cache)[0], np.zeros((1, 3)))


def test_layernorm_forward(agree):
    a = activations(4, 50, 60, 3)
    out, _ = layernorm_forward(a, np.ones(3), np.zeros(3), {})
    np.testing.assert_allclose(out.mean(axis=1), 0, atol=1e-12)
    agree(out.std(axis=1), np.ones(4), 1e-5)
    gamma, beta = np.asarray([3, 3, 3]), np.asarray([5, 5, 5])
    scaled, _ = layernorm_forward(a, gamma, beta, {"mode": "train"})
    agree(scaled.mean(axis=1), np.full(4, 5.0))
    agree(scaled, 3 * (a - a.mean(axis=1)[:, None]) / np.sqrt(a.var(axis=1)[:, None] + 1e-5) + 5)


def test_layernorm_backward(agree):
    x, gamma, beta = 5 * np.random.randn(4, 5) + 12, np.random.randn(5), np.random.randn(5)

    def forward(*inputs):
        return layernorm_forward(*inputs, {})

    check_gradients(agree, forward, layernorm_backward, (x, gamma, beta), np.random.randn(4, 5))


# The printed figures of the notebooks since 2018, with seed 231.
DROPOUT = {0.25: (10.014059116977283, 0.749784), 0.4: (9.977917658761159, 0.600796), 0.7: (9.987811912159426, 0.30074)}


def test_dropout_forward_prints_the_published_figures(agree):
    x = np.random.randn(500, 500) + 10
    agree(x.mean(), 10.000207878477502, 1e-12)
    for p, (mean, dropped) in DROPOUT.items():
        out, _ = dropout_forward(x, {"mode": "train", "p": p})
        same, _ = dropout_forward(x, {"mode": "test", "p": p})
        agree(out.mean(), mean, 1e-12)
        assert (out == 0).mean() == dropped
        np.testing.assert_array_equal(same, x)


@pytest.mark.parametrize("p", [0.2, 0.8, 1])
def test_dropout_backward(agree, p):
    x, dout = np.random.randn(10, 10) + 10, np.random.randn(10, 10)
    dropout_param = {"mode": "train", "p": p, "seed": 123}
    numerical = eval_numerical_gradient_array(lambda x: dropout_forward(x, dropout_param)[0], x, dout)
    agree(dropout_backward(dout, dropout_forward(x, dropout_param)[1]), numerical)


def test_dropout_draws_once_and_keeps_the_type():
    x = np.ones((3, 4), np.float32)
    out, _ = dropout_forward(x, {"mode": "train", "p": 0.6})
    assert out.dtype == np.float32
    after = np.random.rand()
    np.random.seed(231)
    draws = np.random.rand(3, 4)
    assert np.random.rand() == after
    np.testing.assert_array_equal(out > 0, draws < 0.6)
    for param in ({"mode": "train", "p": 0}, {"mode": "both", "p": 0.5}):
        with pytest.raises(ValueError, match="dropout"):
            dropout_forward(x, param)


def test_dropout_of_2017_drops_with_probability_p():
    nnkit.cs231n.use_edition(2017)
    x = np.random.randn(500, 500) + 10
    out, cache = dropout_forward(x, {"mode": "train", "p": 0.3})
    assert (out == 0).mean() == pytest.approx(0.3, abs=0.01)
    assert out.mean() == pytest.approx(10, abs=0.05)
    np.testing.assert_allclose(dropout_backward(x, cache), out)


def layouts(*shape):
    """The same numbers in every layout that notebooks come up with, and some that they do not."""
    x = np.random.randn(*shape)
    padded = np.zeros([2 * size for size in shape])
    padded[tuple(slice(0, None, 2) for _ in shape)] = x
    backwards = np.ascontiguousarray(x[::-1])[::-1]
    return x, [np.asfortranarray(x), padded[tuple(slice(0, None, 2) for _ in shape)], backwards]


def test_every_layout_gives_the_same(agree):
    x, others = layouts(6, 8)
    w, gamma = np.random.randn(8, 5), np.random.randn(8)
    dout, y = np.random.randn(6, 5), np.arange(6) % 5
    calls = [
        lambda x: affine_forward(x, w, dout[0])[0],
        lambda x: affine_forward(w.T, x.T, x.T[0])[0],
        lambda x: affine_backward(x[:, :5], affine_forward(x, w, dout[0])[1])[1],
        lambda x: relu_backward(x, relu_forward(x)[1]),
        lambda x: batchnorm_backward_alt(x, batchnorm_forward(x, gamma, gamma, {"mode": "train"})[1])[0],
        lambda x: layernorm_backward(x, layernorm_forward(x, gamma, gamma, {})[1])[0],
        lambda x: softmax_loss(x, y)[1],
        lambda x: svm_loss(x, y)[1],
        lambda x: dropout_forward(x, {"mode": "train", "p": 0.5, "seed": 1})[0],
    ]
    for call in calls:
        for other in others:
            before = other.copy()
            agree(call(other), call(x), 1e-9)
            np.testing.assert_array_equal(other, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_types_are_kept(dtype):
    x, w, b = (np.random.randn(*shape).astype(dtype) for shape in ((4, 6), (6, 5), (5,)))
    out, cache = affine_forward(x, w, b)
    outputs = [out, *affine_backward(out, cache)]
    out, cache = relu_forward(x)
    outputs += [out, relu_backward(out, cache), softmax_loss(x, np.arange(4))[1], svm_loss(x, np.arange(4))[1]]
    for forward, backward in ((batchnorm_forward, batchnorm_backward), (layernorm_forward, layernorm_backward)):
        out, cache = forward(w, b, b, {"mode": "train"})
        outputs += [out, *backward(out, cache)]
    assert {array.dtype for array in outputs} == {np.dtype(dtype)}


def test_integers_become_doubles():
    out, _ = affine_forward(np.arange(6).reshape(2, 3), np.ones((3, 2), int), np.array([0, 128]))
    assert out.dtype == np.float64
    assert out.tolist() == [[3.0, 131.0], [12.0, 140.0]]
    assert relu_forward(np.arange(-2, 2))[0].tolist() == [0, 0, 0, 1]


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="affine"):
        affine_forward(np.ones((2, 3)), np.ones((4, 5)), np.ones(5))
    with pytest.raises(ValueError, match="batchnorm"):
        batchnorm_forward(np.ones((2, 3)), np.ones(4), np.ones(3), {"mode": "train"})
    with pytest.raises(ValueError, match="label"):
        softmax_loss(np.ones((2, 3)), np.array([0, 3]))


def test_against_pytorch(agree):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x, gamma, beta, dout = (torch.randn(*shape, dtype=torch.float64) for shape in ((7, 5), (5,), (5,), (7, 5)))
    for array in (x, gamma, beta):
        array.requires_grad_()
    expected = {
        "batch": functional.batch_norm(x, None, None, gamma, beta, training=True),
        "layer": functional.layer_norm(x, (5,), gamma, beta),
    }
    ours = {
        "batch": (lambda *a: batchnorm_forward(*a, {"mode": "train"}), batchnorm_backward),
        "layer": (lambda *a: layernorm_forward(*a, {}), layernorm_backward),
    }
    for name, (forward, backward) in ours.items():
        out, cache = forward(*(a.detach().numpy() for a in (x, gamma, beta)))
        agree(out, expected[name].detach().numpy(), 1e-10)
        for got, right in zip(
            backward(dout.numpy(), cache), torch.autograd.grad(expected[name], (x, gamma, beta), dout), strict=True
        ):
            agree(got, right.numpy(), 1e-9)
