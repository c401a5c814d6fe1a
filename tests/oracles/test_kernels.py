"""Every kernel set that runs here against the NumPy twin, on arguments that hypothesis draws, empty ones included.

`CASES` has a function for each kernel; `tests/sanitize.py` runs them once more with sanitizers in the C code.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkit import _ext
from nnkit._ext import reference

COMPILED = [name for name in _ext.available() if name != "reference"]
LIMITS = {np.float32: 1e-4, np.float64: 1e-11}

sizes = st.sampled_from([0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 100])
fused_activations = st.sampled_from(["identity", "relu", "gelu", "gelu_tanh", "silu"])
channels = st.sampled_from([1, 2, 3, 8, 15, 16, 17, 32, 33, 48, 70])
pairs = {low: st.tuples(st.integers(low, 5), st.integers(low, 5)) for low in (0, 1)}


class Numbers:
    """Random arrays of one type."""

    def __init__(self, seed, dtype):
        self.rng, self.dtype = np.random.default_rng(seed), dtype

    def normal(self, *shape):
        return self.rng.standard_normal(shape).astype(self.dtype)

    def hole(self, *shape, dtype=None):
        """An array to be written; what is not written shows."""
        dtype = dtype or self.dtype
        return np.full(shape, np.nan if np.dtype(dtype).kind == "f" else 77, dtype)


def windows(draw):
    """Draw shapes of a batch of images, of the output, and (kernel, stride, padding)."""
    winograd = st.sampled_from([((3, 3), (1, 1)), ((2, 5), (1, 1)), ((4, 7), (1, 1))])
    kernel, stride = draw(winograd | st.tuples(pairs[1], pairs[1]))
    padding = draw(pairs[0])
    size = [draw(st.integers(max(1, k - 2 * p), k + 12)) for k, p in zip(kernel, padding, strict=True)]
    out = [(s + 2 * p - k) // q + 1 for s, p, k, q in zip(size, padding, kernel, stride, strict=True)]
    n = draw(st.integers(0, 3))
    return (n, *size), (n, *out), kernel, stride, padding


def matrix(draw, numbers, rows, columns):
    """Draw a matrix in one of the layouts that `gemm` takes."""
    layout = draw(st.sampled_from(["rows", "columns", "wide", "reversed"]))
    if layout == "columns":
        return numbers.normal(columns, rows).T
    if layout == "wide":
        return numbers.normal(rows, columns + 3)[:, :columns]
    return numbers.normal(rows, columns)[:: -1 if layout == "reversed" else 1]


# Each case returns the arguments, and the places among them of what the kernel writes.


def gemm(draw, numbers):
    m, k, n = draw(sizes), draw(sizes | st.just(600)), draw(sizes)
    bias = draw(st.sampled_from([None, numbers.normal(n)]))
    arrays = matrix(draw, numbers, m, k), matrix(draw, numbers, k, n), numbers.normal(m, n)
    return [*arrays, bias, draw(st.booleans()), draw(st.booleans())], [2]


def column_sums(draw, numbers):
    m, n = draw(sizes), draw(sizes)
    return [numbers.normal(m, n), numbers.hole(n)], [1]


def convolution(draw, numbers):
    x, out, kernel, stride, padding = windows(draw)
    inputs, outputs = draw(channels), draw(channels)
    weight = numbers.normal(outputs, inputs, *kernel)
    algorithm = draw(st.sampled_from(["auto", "direct", "winograd2", "winograd4"]))
    return numbers.normal(*x, inputs), numbers.normal(*out, outputs), weight, (stride, padding, algorithm)


def conv2d_forward(draw, numbers):
    x, out, weight, options = convolution(draw, numbers)
    bias = draw(st.sampled_from([None, numbers.normal(len(weight))]))
    statistics = draw(st.sampled_from([None, numbers.hole(2, len(weight))]))
    return [x, weight, bias, numbers.hole(*out.shape), *options, draw(st.booleans()), statistics], [3, 8]


def conv2d_pool_forward(draw, numbers):
    x, out, weight, (stride, padding, _) = convolution(draw, numbers)
    side, algorithm = draw(st.sampled_from([2, 3])), draw(st.sampled_from(["direct", "winograd2"]))
    # Whole numbers, of which these sums are exact: rounding must not decide which of two is larger.
    x, weight = (numbers.rng.integers(-2, 3, a.shape).astype(numbers.dtype) for a in (x, weight))
    bias = draw(st.sampled_from([None, np.arange(len(weight)).astype(numbers.dtype)]))
    n, height, width, channels = out.shape
    codes = numbers.hole(n, height // side, width // side, channels, dtype=np.uint8)
    options = stride, padding, side, algorithm, draw(st.booleans())
    statistics = draw(st.sampled_from([None, numbers.hole(2, len(weight))]))
    return [x, weight, bias, numbers.hole(*codes.shape), codes, *options, statistics], [3, 4, 10]


def conv2d_backward_input(draw, numbers):
    x, dout, weight, options = convolution(draw, numbers)
    return [dout, weight, numbers.hole(*x.shape), *options], [2]


def conv2d_backward_weight(draw, numbers):
    x, dout, weight, options = convolution(draw, numbers)
    dout[np.abs(dout) < draw(st.sampled_from([0, 1.5, 4]))] = 0
    if draw(st.booleans()):
        return [x, dout, numbers.hole(*weight.shape), None, *options], [2]
    return [x, dout, numbers.hole(*weight.shape), numbers.hole(len(weight)), *options], [2, 3]


def max_pool2d_forward(draw, numbers):
    (n, *size), _, kernel, stride, padding = windows(draw)
    padding = tuple(min(p, k // 2) for p, k in zip(padding, kernel, strict=True))
    size = [max(s, k) for s, k in zip(size, kernel, strict=True)]
    out_size = [(s + 2 * p - k) // q + 1 for s, p, k, q in zip(size, padding, kernel, stride, strict=True)]
    c = draw(channels)
    x = numbers.rng.integers(-3, 3, (n, *size, c)).astype(numbers.dtype)  # with ties
    x[numbers.rng.random(x.shape) < 0.02] = np.nan
    code = numbers.hole(n, *out_size, c, dtype=draw(st.sampled_from([np.uint8, np.int32])))
    return [x, numbers.hole(*code.shape), code, kernel, stride, padding, draw(st.booleans())], [1, 2]


def max_pool2d_backward(draw, numbers):
    arguments, _ = max_pool2d_forward(draw, numbers)
    reference.max_pool2d_forward(*arguments)
    x, out, codes, *window, relu = arguments
    return [numbers.normal(*out.shape), codes, numbers.hole(*x.shape), *window, out if relu else None], [2]


def rows(draw, numbers):
    return numbers.normal(draw(st.sampled_from([1, 2, 17, 300, 5000])), draw(channels)) * 3 + 2


def batch_norm_statistics(draw, numbers):
    x = rows(draw, numbers)
    return [x, numbers.hole(x.shape[1]), numbers.hole(x.shape[1])], [1, 2]


def batch_norm_apply(draw, numbers):
    x = rows(draw, numbers)
    addend = numbers.normal(*x.shape) if draw(st.booleans()) else None
    return [x, *numbers.normal(4, x.shape[1]), numbers.hole(*x.shape), draw(fused_activations), addend], [5]


def batch_norm_backward(draw, numbers):
    x = rows(draw, numbers)
    holes = [numbers.hole(*x.shape), numbers.hole(x.shape[1]), numbers.hole(x.shape[1])]
    arguments = [numbers.normal(*x.shape), x, *numbers.normal(4, x.shape[1]), *holes]
    if draw(st.booleans()):
        return [*arguments, "relu", numbers.normal(*x.shape), numbers.hole(*x.shape)], [6, 7, 8, 11]
    return [*arguments, draw(fused_activations)], [6, 7, 8]


def activation(draw, numbers):
    x = numbers.normal(draw(sizes | st.just(5001))) * 4
    return x, numbers.hole(*x.shape)


def relu_forward(draw, numbers):
    return list(activation(draw, numbers)), [1]


def relu_backward(draw, numbers):
    x, hole = activation(draw, numbers)
    return [numbers.normal(*x.shape), np.maximum(x, 0), hole], [2]


def silu_backward(draw, numbers):
    x, hole = activation(draw, numbers)
    return [numbers.normal(*x.shape), x, hole], [2]


def sigmoid_backward(draw, numbers):
    x, hole = activation(draw, numbers)
    return [numbers.normal(*x.shape), np.tanh(x), hole], [2]


def add(draw, numbers):
    x, hole = activation(draw, numbers)
    return [numbers.normal(*x.shape), x, hole, draw(st.booleans())], [2]


def gelu_forward(draw, numbers):
    return [*activation(draw, numbers), draw(st.booleans())], [1]


def gelu_backward(draw, numbers):
    x, hole = activation(draw, numbers)
    return [numbers.normal(*x.shape), x, hole, draw(st.booleans())], [2]


def cross_entropy_forward(draw, numbers):
    n, classes = draw(sizes), draw(sizes)
    n, classes = max(n, 1), max(classes, 1)
    weights = [draw(st.sampled_from([None, numbers.rng.random(size)])) for size in (classes, n)]
    labels, smoothing = numbers.rng.integers(0, classes, n), draw(st.sampled_from([0.0, 0.1, 1.0]))
    return [numbers.normal(n, classes), labels, *weights, smoothing, numbers.hole(n, classes)], [5]


def cross_entropy_backward(draw, numbers):
    arguments, _ = cross_entropy_forward(draw, numbers)
    *arguments, out = arguments
    return [*arguments, 0.5, out], [6]


def sgd_step(draw, numbers):
    params, grads, velocity = numbers.normal(3, draw(sizes | st.just(5001)))
    momentum, decay = draw(st.sampled_from([0.0, 0.9])), draw(st.sampled_from([0.0, 0.1]))
    if not momentum:
        return [params, grads, None, 0.1, 0.0, decay, False], [0]
    return [params, grads, velocity, 0.1, momentum, decay, draw(st.booleans())], [0, 2]


def rmsprop_step(draw, numbers):
    params, grads, squares, velocity = numbers.normal(4, draw(sizes | st.just(5001)))
    keep, add = draw(st.sampled_from([(0.99, 0.01), (1.0, 1.0)]))
    momentum, decay = draw(st.sampled_from([0.0, 0.9])), draw(st.sampled_from([0.0, 0.1]))
    options = 0.01, keep, add, 1e-8, momentum, decay
    return [params, grads, np.abs(squares), velocity if momentum else None, *options], [0, 2, 3]


def adam_step(draw, numbers):
    params, grads, m, v = numbers.normal(4, draw(sizes | st.just(5001)))
    options = draw(st.sampled_from([1, 7, 1000])), 0.01, 0.9, 0.999, 1e-8, draw(st.sampled_from([0.0, 0.1]))
    return [params, grads, m, np.abs(v), *options, draw(st.booleans())], [0, 2, 3]


def augment(draw, numbers):
    (n, height, width), count, c = draw(st.tuples(*[st.integers(1, 9)] * 3)), draw(sizes), draw(st.just(3) | channels)
    rng = numbers.rng
    width *= draw(st.sampled_from([1, 5]))  # less than a vector of pixels, or more
    images = rng.integers(0, 256, (n, height, width, c)).astype(draw(st.sampled_from([np.uint8, numbers.dtype])))
    flip = (rng.random(count) < 0.5).view(np.uint8)
    shifts, holes = rng.integers(-12, 13, (2, count)), rng.integers(-12, 21, (2, count))
    scale, offset = numbers.normal(2, c)
    arguments = [images, rng.integers(0, n, count), flip, *shifts, *holes, draw(st.integers(0, 5)), scale, offset]
    channels_last = draw(st.booleans())
    shape = (height, width, c) if channels_last else (c, height, width)
    return [*arguments, numbers.hole(count, *shape), channels_last], [10]


def transpose_images(draw, numbers):
    n, pixels, c = draw(st.integers(0, 3)), draw(sizes), draw(sizes | st.just(3))
    return [numbers.normal(n, pixels, c), numbers.hole(n, c, pixels)], [1]


CASES = {
    "silu_forward": relu_forward, "sigmoid_forward": relu_forward, "tanh_forward": relu_forward,
    "tanh_backward": sigmoid_backward,
} | {
    case.__name__: case
    for case in (
        gemm, column_sums, conv2d_forward, conv2d_pool_forward, conv2d_backward_input, conv2d_backward_weight,
        max_pool2d_forward, max_pool2d_backward,
        batch_norm_statistics, batch_norm_apply, batch_norm_backward, relu_forward, relu_backward, gelu_forward,
        gelu_backward, silu_backward, sigmoid_backward, add, cross_entropy_forward, cross_entropy_backward,
        sgd_step, rmsprop_step, adam_step, augment,
        transpose_images,
    )
}  # fmt: skip


def test_every_kernel_has_a_case():
    functions = {name for name, thing in vars(reference).items() if callable(thing) and not name.startswith("_")}
    assert functions - {"conv2d_algorithm"} == set(CASES)  # that one only answers


def copied(arguments):
    """Copies in the same memory layout, each with an allocation of its own for sanitizers to watch."""
    return [np.copy(a, order="K") if isinstance(a, np.ndarray) and a.flags.forc else a for a in arguments]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kernel_set", COMPILED)
@settings(max_examples=25, derandomize=True, deadline=None)
@given(data=st.data())
def test_agrees_with_the_twin(kernel_set, name, dtype, data):
    numbers = Numbers(data.draw(st.integers(0, 1000)), dtype)
    arguments, written = CASES[name](data.draw, numbers)
    ours, theirs = copied(arguments), copied(arguments)
    threads = _ext.get_num_threads()
    _ext.set_num_threads(data.draw(st.integers(1, 3)))
    try:
        done = getattr(_ext.load(kernel_set), name)(*ours)
        if done is False:
            return  # left to two other kernels
        if name == "augment":
            done.finish()
    finally:
        _ext.set_num_threads(threads)
    getattr(reference, name)(*theirs)
    for place, (actual, expected) in enumerate(zip(ours, theirs, strict=True)):
        if place in written and expected is not None:
            size = np.abs(expected[np.isfinite(expected)]).max(initial=1)  # what goes in is of size 1
            np.testing.assert_allclose(actual, expected, rtol=0, atol=LIMITS[dtype] * size)
        elif isinstance(actual, np.ndarray):
            np.testing.assert_array_equal(actual, arguments[place])
