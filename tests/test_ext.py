"""Every kernel set that runs here against the NumPy twin, over shapes that nobody likes."""

import contextlib
import ctypes
import mmap
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nnkit import _ext
from nnkit._ext import reference
from nnkit.errors import UsageError

COMPILED = [name for name in _ext.available() if name != "reference"]
needs_compiled = pytest.mark.skipif(not COMPILED, reason="the compiled kernels are not installed")

TOLERANCE = {np.float32: 1e-4, np.float64: 1e-11}

GEMM_SIZES = [
    (1, 1, 1),
    (64, 300, 50),
    (7, 500, 33),
    (10, 64, 200),
    (65, 1000, 31),
    (300, 17, 5),
    (3, 0, 4),
    (0, 4, 4),
    (4, 4, 0),
    (270, 20, 530),
    (17, 383, 7),
    (33, 384, 17),
    (7, 385, 383),
    (384, 385, 33),
    (1, 385, 385),
    (1, 1000, 67),
    (5, 700, 18),
    (385, 7, 1),
    (9, 300, 2000),
    (20, 800, 130),
    (300, 800, 20),
    (520, 400, 270),
]

# batch, height, width, channels, out_channels, kernel, stride, padding
WINDOWS = [
    (2, 8, 8, 16, 32, (3, 3), (1, 1), (1, 1)),
    (1, 1, 1, 1, 1, (1, 1), (1, 1), (0, 0)),
    (3, 7, 5, 17, 19, (3, 2), (2, 1), (1, 0)),
    (2, 9, 9, 3, 40, (7, 7), (1, 1), (3, 3)),
    (2, 9, 9, 3, 10, (3, 3), (2, 2), (0, 1)),
    (2, 6, 6, 8, 8, (1, 1), (2, 2), (0, 0)),
    (2, 5, 5, 4, 6, (2, 2), (3, 3), (1, 1)),
    (2, 5, 5, 2, 6, (2, 2), (1, 1), (4, 3)),
    (1, 4, 4, 12, 8, (3, 3), (1, 1), (4, 4)),
    (5, 4, 4, 40, 70, (3, 3), (1, 1), (1, 1)),
    (2, 40, 40, 5, 33, (3, 3), (5, 4), (0, 0)),
    (1, 64, 64, 9, 16, (3, 3), (1, 1), (1, 1)),
    (0, 4, 4, 3, 4, (3, 3), (1, 1), (1, 1)),
    (9, 34, 35, 3, 24, (2, 2), (1, 1), (0, 0)),  # a first layer: two bands each, more than there are parts
    (3, 11, 13, 4, 17, (5, 3), (1, 1), (2, 1)),  # with Winograd, filtered along rows
    (2, 10, 9, 1, 1, (3, 7), (1, 1), (1, 3)),
    (2, 23, 28, 3, 72, (12, 14), (9, 7), (2, 0)),  # weights beyond the L1 cache
    (1, 2, 1100, 1, 65, (3, 2), (1, 1), (1, 1)),  # rows longer than a band
    (1, 4, 4, 24, 70, (3, 3), (1, 1), (1, 1)),  # fewer pixels than output channels, from here on
    (3, 6, 7, 9, 131, (2, 5), (1, 2), (1, 2)),
    (2, 5, 3, 17, 100, (3, 3), (2, 2), (1, 1)),
    (1, 2, 2, 520, 16, (3, 3), (1, 1), (1, 1)),  # long sums
    (2, 1, 1, 40, 33, (1, 1), (1, 1), (0, 0)),
    (1, 2, 2, 0, 8, (3, 3), (1, 1), (1, 1)),  # sums of nothing
    (8, 13, 13, 32, 19, (3, 3), (1, 1), (1, 1)),  # odd, of several of Winograd's blocks
    (1, 3, 400, 8, 8, (3, 3), (1, 1), (1, 1)),
]


@pytest.fixture(params=COMPILED)
def kernels(request):
    return _ext.load(request.param)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request):
    before = _ext.get_num_threads()
    _ext.set_num_threads(request.param)
    yield request.param
    _ext.set_num_threads(before)


def normal(rng, shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def agree(actual, expected, dtype):
    scale = np.abs(expected).max(initial=0) if np.isfinite(expected).all() else 1
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[dtype] * (scale + 1e-30))


@contextlib.contextmanager
def threads_set_to(count):
    before = _ext.get_num_threads()
    _ext.set_num_threads(count)
    try:
        yield
    finally:
        _ext.set_num_threads(before)


def both(kernels, name, arrays, outputs, *options):
    """Run one kernel and its twin on the same arguments; return pairs of what they wrote."""
    # NaN beforehand: a kernel that leaves a hole is found out.
    ours = [np.full_like(out, np.nan if out.dtype.kind == "f" else 77) for out in outputs]
    theirs = [out.copy() for out in outputs]
    run(kernels, name, *arrays, *ours, *options)
    run(reference, name, *arrays, *theirs, *options)
    return list(zip(ours, theirs, strict=True))


def run(kernels, name, *arguments):
    """Run one kernel to its end."""
    later = getattr(kernels, name)(*arguments)
    if name == "augment":
        later.finish()


def window_shapes(window):
    n, height, width, channels, out_channels, kernel, stride, padding = window
    rows, columns = (
        (size + 2 * p - k) // s + 1 for size, p, k, s in zip((height, width), padding, kernel, stride, strict=True)
    )
    return (n, height, width, channels), (n, rows, columns, out_channels), (out_channels, channels, *kernel)


def filtered_along_rows(window):
    """Whether Winograd's algorithm takes rows of such a convolution, forward, instead of squares."""
    channels, ((_, kernel_x), stride, _) = window[3], window[-3:]
    return 0 < channels <= 4 and kernel_x in (3, 5, 7) and stride == (1, 1)


def laid_out(rng, shape, dtype, layout):
    rows, columns = shape
    if layout == "rows":
        return normal(rng, shape, dtype)
    if layout == "columns":
        return normal(rng, (columns, rows), dtype).T
    if layout == "wide rows":
        return normal(rng, (rows, columns + 3), dtype)[:, :columns]
    return normal(rng, shape, dtype)[::-1]


@needs_compiled
@pytest.mark.parametrize("size", GEMM_SIZES, ids=str)
def test_gemm(kernels, dtype, threads, size, rng):
    m, k, n = size
    for left, right in [
        ("rows", "rows"),
        ("rows", "columns"),
        ("columns", "rows"),
        ("columns", "columns"),
        ("wide rows", "reversed"),
        ("reversed", "columns"),
    ]:
        a, b = laid_out(rng, (m, k), dtype, left), laid_out(rng, (k, n), dtype, right)
        for bias in (None, normal(rng, n, dtype)):
            for accumulate, relu in ((False, False), (True, False), (False, True), (True, True)):
                out = normal(rng, (m, n), dtype)
                expected = out.copy()
                kernels.gemm(a, b, out, bias, accumulate, relu)
                reference.gemm(a, b, expected, bias, accumulate, relu)
                agree(out, expected, dtype)


@needs_compiled
@pytest.mark.parametrize("size", [(64, 100, 1000), (33, 8, 800), (102, 300, 801), (326, 70, 801)], ids=str)
@pytest.mark.parametrize("left", ["rows", "columns", "wide rows", "reversed"])
@pytest.mark.parametrize("accumulate", [False, True])
def test_gemm_with_zeros_left_out(kernels, dtype, size, left, accumulate, rng):
    m, k, n = size
    a, b = laid_out(rng, (m, k), dtype, left), normal(rng, (k, n), dtype)
    a[rng.random((m, k)) < 0.5] = 0
    a[3], a[:, 5], a[7, 7] = 0, 0, -0.0
    a[:, 0][a[:, 0] == 0] = 1
    before = normal(rng, (m, n), dtype)
    expected = before.copy()
    reference.gemm(a, b, expected, accumulate=accumulate)
    found = set()
    for threads in (1, 2, 5):
        with threads_set_to(threads):
            out = before.copy()
            kernels.gemm(a, b, out, accumulate=accumulate)
        agree(out, expected, dtype)
        found.add(out.tobytes())
    assert len(found) == 1


@needs_compiled
def test_threads_do_not_decide_what_gemm_leaves_out(kernels, dtype, rng):
    """Zero times infinity is NaN, unless it is left out."""
    for n in (150, 300, 500, 1000):
        a, b, found = normal(rng, (64, 16), dtype), normal(rng, (16, n), dtype), []
        a[rng.random(a.shape) < 0.6], b[3] = 0, np.inf
        for count in (1, 2, 3, 8):
            out = np.empty((64, n), dtype)
            with threads_set_to(count):
                kernels.gemm(a, b, out)
            found.append(np.isnan(out).any())
        assert len(set(found)) == 1
    assert not found[-1]


@needs_compiled
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_relu_of_gemm_keeps_nan(kernels, dtype, layout, rng):
    a, b = normal(rng, (9, 400), dtype), laid_out(rng, (400, 40), dtype, layout)
    a[3, 399] = np.nan
    out = np.empty((9, 40), dtype)
    kernels.gemm(a, b, out, relu=True)
    assert np.isnan(out[3]).all()
    assert (np.delete(out, 3, axis=0) >= 0).all()


# Columns that whole panels share out unequally, so that rows are shared out instead; two are products of transposes.
UNEQUAL = [(200, 300, 100), (130, 300, 33), (100, 300, 200), (33, 300, 130)]


@needs_compiled
@pytest.mark.parametrize("zeros", [0, 0.6])
def test_threads_do_not_change_a_bit_of_gemm(kernels, dtype, zeros, rng):
    before = _ext.get_num_threads()
    for m, k, n in [(64, 400, 512), (1, 3000, 600), (512, 64, 800), (300, 500, 700), (1000, 385, 10), *UNEQUAL]:
        for left, right in [("rows", "columns"), ("rows", "rows"), ("columns", "rows")]:
            a, b = laid_out(rng, (m, k), dtype, left), laid_out(rng, (k, n), dtype, right)
            a[rng.random((m, k)) < zeros] = 0
            found = []
            for count in (1, 2):
                _ext.set_num_threads(count)
                out = np.empty((m, n), dtype)
                kernels.gemm(a, b, out)
                found.append(out.tobytes())
            assert found[0] == found[1]
    _ext.set_num_threads(before)


@needs_compiled
@pytest.mark.parametrize(
    "shape", [(1, 1), (0, 5), (5, 0), (64, 512), (7, 33), (1000, 17), (385, 384), (3, 2000)], ids=str
)
def test_column_sums(kernels, dtype, threads, shape, rng):
    (pair,) = both(kernels, "column_sums", [normal(rng, shape, dtype)], [np.empty(shape[1], dtype)])
    np.testing.assert_allclose(*pair, rtol=0, atol=1e-4 if dtype is np.float32 else 1e-11)
    for wrong in [np.empty(shape[1] + 1, dtype), None, np.empty(shape[1], int)]:
        with pytest.raises((ValueError, TypeError)):
            kernels.column_sums(np.empty(shape, dtype), wrong)


@needs_compiled
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_conv2d(kernels, dtype, threads, window, rng):
    x_shape, out_shape, weight_shape = window_shapes(window)
    stride, padding = window[-2:]
    x, dout, weight = (normal(rng, shape, dtype) for shape in (x_shape, out_shape, weight_shape))
    bias = normal(rng, window[4], dtype)
    for b in (bias, None):
        (pair,) = both(kernels, "conv2d_forward", [x, weight, b], [dout], stride, padding)
        agree(*pair, dtype)
        (rectified,) = both(kernels, "conv2d_forward", [x, weight, b], [dout], stride, padding, "direct", True)
        agree(*rectified, dtype)
        (plain,) = both(kernels, "conv2d_forward", [x, weight, b], [dout], stride, padding, "direct")
        np.testing.assert_array_equal(rectified[0], np.maximum(plain[0], 0))
    (pair,) = both(kernels, "conv2d_backward_input", [dout, weight], [x], stride, padding)
    agree(*pair, dtype)
    for pair in both(kernels, "conv2d_backward_weight", [x, dout], [weight, bias], stride, padding):
        agree(*pair, dtype)
    dweight = np.full_like(weight, np.nan)
    kernels.conv2d_backward_weight(x, dout, dweight, None, stride, padding)
    np.testing.assert_array_equal(
        dweight, both(kernels, "conv2d_backward_weight", [x, dout], [weight, bias], stride, padding)[0][0]
    )


@needs_compiled
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("algorithm", ["direct", "winograd2", "winograd4"])
def test_conv2d_and_max_pool2d_in_one_are_the_same_bits(kernels, dtype, threads, window, algorithm, rng):
    x_shape, shape, weight_shape = window_shapes(window)
    # Few distinct values, so that there are ties; and NaN, which must come through.
    x, weight = rng.integers(-1, 2, x_shape).astype(dtype), rng.integers(-1, 2, weight_shape).astype(dtype)
    if x.size:
        x[-1, 0, 0, 0] = np.nan
    bias, options, maps = normal(rng, shape[3], dtype), (*window[-2:], algorithm), np.empty(shape, dtype)
    done = set()
    for side in range(2, min(5, *shape[1:3])):
        outputs = shape[0], shape[1] // side, shape[2] // side, shape[3]
        for relu in (False, True):
            out, alone, expected = np.full((3, *outputs), 77, dtype)
            codes, where = np.full((2, *outputs), 77, np.uint8)
            arrays, how = [x, weight, bias], (*window[-2:], side, algorithm, relu)
            if not kernels.conv2d_pool_forward(*arrays, out, codes, *how):
                continue
            done.add(side)
            kernels.conv2d_forward(*arrays, maps, *options)
            kernels.max_pool2d_forward(maps, expected, where, (side, side), (side, side), (0, 0), relu)
            np.testing.assert_array_equal(out, expected)
            np.testing.assert_array_equal(codes, where)
            assert kernels.conv2d_pool_forward(*arrays, alone, None, *how)
            np.testing.assert_array_equal(alone, expected)
    if x.size and algorithm == "winograd4" and filtered_along_rows(window):
        assert done == set(range(2, min(5, *shape[1:3])))
    elif x.size and algorithm != "direct" and weight_shape[2:] == (3, 3) and window[-2] == (1, 1):
        assert done == ({2} if min(shape[1:3]) > 2 else set())


@needs_compiled
def test_a_first_layer_pools(kernels, dtype, threads, rng):
    """By itself, and as its twin does: windows end with bands, and with images."""
    for height, side in [(32, 2), (37, 2), (37, 3), (70, 5), (9, 7)]:
        x, weight = normal(rng, (3, height, 40, 3), dtype), normal(rng, (17, 3, 5, 3), dtype)
        out = np.empty((3, height // side, 40 // side, 17), dtype)
        codes, options = np.empty(out.shape, np.uint8), ((1, 1), (2, 1), side, "auto", True)
        pairs = both(kernels, "conv2d_pool_forward", [x, weight, weight[:, 0, 0, 0].copy()], [out, codes], *options)
        agree(*pairs[0], dtype)
        assert (pairs[1][0] != pairs[1][1]).mean() < 0.01  # rounding may decide between near ties


@needs_compiled
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("algorithm", ["auto", "direct", "winograd2", "winograd4"])
def test_statistics_of_convolutions(kernels, dtype, threads, window, algorithm, rng):
    """They are those of the outputs, pooled or not, which stay the same bits."""
    x_shape, shape, weight_shape = window_shapes(window)
    x, weight, bias = normal(rng, x_shape, dtype), normal(rng, weight_shape, dtype), normal(rng, shape[3], dtype)
    stride, padding = window[-2:]
    for side in (1, 2, 3):
        for relu in (False, True):
            out, alone = np.full((2, shape[0], shape[1] // side, shape[2] // side, shape[3]), 77, dtype)
            statistics = np.full((2, shape[3]), 77, dtype)
            if side == 1:
                kernels.conv2d_forward(x, weight, bias, out, stride, padding, algorithm, relu, statistics)
                kernels.conv2d_forward(x, weight, bias, alone, stride, padding, algorithm, relu)
            else:
                options = None, stride, padding, side, algorithm, relu
                if not kernels.conv2d_pool_forward(x, weight, bias, out, *options, statistics):
                    continue
                kernels.conv2d_pool_forward(x, weight, bias, alone, *options)
            np.testing.assert_array_equal(out, alone)
            if out.size == 0:
                assert (statistics == 77).all()
                continue
            rows = out.reshape(-1, shape[3]).astype(np.longdouble)  # more than float64, on most machines
            # In parts of the largest square: one value for a channel, say, has no variance, but roundings of it.
            scale, eps = np.abs(rows).max(axis=0) + 1e-30, np.finfo(dtype).eps
            np.testing.assert_allclose(statistics[0] / scale, rows.mean(axis=0) / scale, rtol=0, atol=4 * eps)
            np.testing.assert_allclose(statistics[1] / scale**2, rows.var(axis=0) / scale**2, rtol=0, atol=8 * eps)


@needs_compiled
def test_statistics_of_the_twin(rng):
    x, weight, bias = normal(rng, (2, 6, 6, 3), np.float32), normal(rng, (4, 3, 3, 3), np.float32), np.ones(4)
    statistics = np.empty((2, 4))
    for side in (1, 2):
        out = np.empty((2, 4 // side, 4 // side, 4))
        if side == 1:
            reference.conv2d_forward(x, weight, bias, out, (1, 1), (0, 0), statistics=statistics)
        else:
            reference.conv2d_pool_forward(x, weight, bias, out, None, (1, 1), (0, 0), 2, statistics=statistics)
        np.testing.assert_allclose(statistics, [out.mean(axis=(0, 1, 2)), out.var(axis=(0, 1, 2))], rtol=1e-12)


@needs_compiled
@pytest.mark.parametrize("algorithm", ["direct", "winograd2", "winograd4"])
@pytest.mark.parametrize("channels", [3, 16])
def test_the_variance_of_a_convolution_survives_a_large_mean(kernels, algorithm, channels, rng):
    x, weight = normal(rng, (8, 30, 30, channels), np.float32), normal(rng, (40, channels, 3, 3), np.float32)
    out, statistics = np.empty((8, 30, 30, 40), np.float32), np.empty((2, 40), np.float32)
    bias = np.full(40, 1e5, np.float32)
    kernels.conv2d_forward(x, weight, bias, out, (1, 1), (1, 1), algorithm, False, statistics)
    rows = out.reshape(-1, 40).astype(np.float64)
    np.testing.assert_allclose(statistics[0], rows.mean(axis=0), rtol=1e-7)
    np.testing.assert_allclose(statistics[1], rows.var(axis=0), rtol=1e-5)
    weight[:] = 0
    kernels.conv2d_forward(x, weight, bias, out, (1, 1), (1, 1), algorithm, False, statistics)
    np.testing.assert_array_equal(statistics, [bias, np.zeros(40)])


@needs_compiled
@pytest.mark.parametrize("algorithm", ["direct", "winograd2", "winograd4"])
@pytest.mark.parametrize("images", [1, 20])  # for one, Winograd's tasks are panels
@pytest.mark.parametrize("channels", [3, 24])
def test_threads_do_not_change_a_bit_of_statistics(kernels, algorithm, images, channels, rng):
    x, weight = normal(rng, (images, 16, 16, channels), np.float32), normal(rng, (300, channels, 3, 3), np.float32)
    out, before, found = np.empty((images, 16, 16, 300), np.float32), _ext.get_num_threads(), []
    for count in (1, 2, 3):
        _ext.set_num_threads(count)
        statistics = np.empty((2, 300), np.float32)
        kernels.conv2d_forward(x, weight, None, out, (1, 1), (1, 1), algorithm, False, statistics)
        found.append(statistics.tobytes())
    _ext.set_num_threads(before)
    assert found[0] == found[1] == found[2]


@needs_compiled
@pytest.mark.parametrize("algorithm", ["direct", "winograd2", "winograd4"])
@pytest.mark.parametrize(
    ("side", "channels", "out_channels"), [(31, 24, 64), (15, 64, 90), (3, 80, 200), (14, 600, 300)]
)
def test_threads_do_not_change_a_bit_of_one_image(kernels, dtype, algorithm, side, channels, out_channels, rng):
    """What all tasks need is made by each thread for itself; together where it is much, or threads are many."""
    x, weight = normal(rng, (1, side, side, channels), dtype), normal(rng, (out_channels, channels, 3, 3), dtype)
    found = set()
    for count in (1, 2, 3, 7):
        out = np.empty((1, side, side, out_channels), dtype)
        with threads_set_to(count):
            kernels.conv2d_forward(x, weight, None, out, (1, 1), (1, 1), algorithm)
        found.add(out.tobytes())
    assert len(found) == 1


# First layers, as WINDOWS, with kernels so large that leaving out zeros pays. Rows of 1 to 18 vectors, several tiles.
FIRST_LAYERS = [
    (3, 32, 32, 3, 32, (7, 7), (1, 1), (3, 3)),
    (2, 37, 35, 3, 17, (7, 7), (1, 1), (3, 3)),  # two bands each, the last vector of channels overlaps
    (2, 30, 31, 1, 65, (11, 9), (1, 2), (2, 0)),  # more channels than are listed at once
    (5, 19, 8, 2, 3, (9, 8), (2, 1), (0, 7)),  # fewer channels than a vector has
    (2, 26, 50, 4, 9, (5, 17), (3, 2), (4, 3)),
    (1, 12, 1100, 1, 24, (12, 6), (1, 1), (0, 5)),  # rows longer than a band
    (1, 9, 9, 3, 40, (9, 7), (1, 1), (0, 0)),  # three pixels
]


def with_zeros(rng, shape, dtype, density):
    x = normal(rng, shape, dtype)
    x[rng.random(shape) >= density] = 0
    return x


@needs_compiled
@pytest.mark.parametrize("window", FIRST_LAYERS, ids=str)
@pytest.mark.parametrize("density", [0, 0.02, 0.1, 0.3])
def test_weight_gradient_of_a_first_layer_behind_zeros(kernels, dtype, window, density, rng):
    x_shape, out_shape, weight_shape = window_shapes(window)
    x, dout = normal(rng, x_shape, dtype), with_zeros(rng, out_shape, dtype, density)
    outputs = [np.empty(weight_shape, dtype), np.empty(window[4], dtype)]
    before, found = _ext.get_num_threads(), []
    for count in (1, 2, 3):
        _ext.set_num_threads(count)
        pairs = both(kernels, "conv2d_backward_weight", [x, dout], outputs, *window[-2:])
        for pair in pairs:
            agree(*pair, dtype)
        found.append([ours.tobytes() for ours, _ in pairs])
    _ext.set_num_threads(before)
    assert found[0] == found[1] == found[2]
    without_bias = np.full_like(outputs[0], np.nan)
    kernels.conv2d_backward_weight(x, dout, without_bias, None, *window[-2:])
    assert without_bias.tobytes() == found[0][0]


@needs_compiled
def test_weight_gradient_leaves_out_what_meets_zeros(kernels, dtype, rng):
    """Not a number times zero is not a number, unless it is left out: so it shows which way was taken."""
    window = FIRST_LAYERS[0]
    x_shape, out_shape, weight_shape = window_shapes(window)
    x, dweight, dbias = np.full(x_shape, np.nan, dtype), np.empty(weight_shape, dtype), np.empty(window[4], dtype)
    for density in (0, 1):
        dout = with_zeros(rng, out_shape, dtype, density)
        kernels.conv2d_backward_weight(x, dout, dweight, dbias, *window[-2:])
        assert np.isnan(dweight).all() if density else not dweight.any()
    dout = with_zeros(rng, out_shape, dtype, 0.02)
    dout[1, 5, 6, 7] = np.nan
    kernels.conv2d_backward_weight(np.ones_like(x), dout, dweight, dbias, *window[-2:])
    assert np.isnan(dweight[7]).any()
    assert np.isfinite(np.delete(dweight, 7, axis=0)).all()
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(dbias)), 7)


@needs_compiled
@pytest.mark.parametrize("density", [0.05, 0.25])
def test_weight_gradient_behind_zeros_is_accurate(kernels, density, rng):
    """Long sums, of one sign, over many bands: no digits are lost."""
    x = np.abs(normal(rng, (48, 32, 32, 3), np.float32))
    dout = np.abs(with_zeros(rng, (48, 32, 32, 16), np.float32, density))
    expected, expected_bias = np.empty((16, 3, 7, 7)), np.empty(16)
    reference.conv2d_backward_weight(x.astype(float), dout.astype(float), expected, expected_bias, (1, 1), (3, 3))
    dweight, dbias = np.empty_like(expected, np.float32), np.empty_like(expected_bias, np.float32)
    kernels.conv2d_backward_weight(x, dout, dweight, dbias, (1, 1), (3, 3))
    np.testing.assert_allclose(dweight, expected, rtol=2e-6)
    np.testing.assert_allclose(dbias, expected_bias, rtol=1e-6)


# The largest error against float64, as a share of the largest number and in units of the type's rounding error.
WINOGRAD_ERROR = {"winograd2": 20, "winograd4": 100}
WINOGRAD_CHANNELS = [(1, 1), (3, 17), (17, 3), (24, 33), (33, 24), (8, 70)]


def winograd_windows(channels):
    windows = [(1, size, size, *channels, (3, 3), (1, 1), (p, p)) for size in range(1, 8) for p in range(3)]
    windows += [(5, 7, 4, *channels, (3, 3), (1, 1), (1, 0)), (3, 21, 30, *channels, (3, 3), (1, 1), (0, 4))]
    return [window for window in windows if min(window[1:3]) + 2 * min(window[-1]) >= 3]


def within(actual, expected, algorithm):
    limit = WINOGRAD_ERROR[algorithm] * np.finfo(actual.dtype).eps
    return np.abs(actual - expected).max() <= limit * np.abs(expected).max()


@needs_compiled
@pytest.mark.parametrize("algorithm", WINOGRAD_ERROR)
@pytest.mark.parametrize("channels", WINOGRAD_CHANNELS, ids=str)
def test_winograd(kernels, dtype, threads, algorithm, channels, rng):
    for window in winograd_windows(channels):
        x_shape, out_shape, weight_shape = window_shapes(window)
        x, dout, weight = (normal(rng, shape, dtype) for shape in (x_shape, out_shape, weight_shape))
        bias, options = normal(rng, channels[1], dtype), window[-2:]
        wide = [array.astype(float) for array in (x, weight, bias, dout)]
        for b, relu in [(bias, False), (None, True)]:
            expected, out = np.empty(out_shape), np.full(out_shape, np.nan, dtype)
            reference.conv2d_forward(*wide[:2], None if b is None else wide[2], expected, *options)
            kernels.conv2d_forward(x, weight, b, out, *options, algorithm, relu)
            assert not relu or out.min() >= 0
            assert within(out, np.maximum(expected, 0) if relu else expected, algorithm), window
        expected, dx = np.empty(x_shape), np.full(x_shape, np.nan, dtype)
        reference.conv2d_backward_input(wide[3], wide[1], expected, *options)
        kernels.conv2d_backward_input(dout, weight, dx, *options, algorithm)
        assert within(dx, expected, algorithm), window


@needs_compiled
@pytest.mark.parametrize("shape", [(64, 32, 8), (256, 256, 4), (2, 512, 6)], ids=str)
def test_winograd_is_accurate_with_many_channels(kernels, rng, shape):
    batch, channels, size = shape
    x = np.maximum(rng.standard_normal((batch, size, size, channels)), 0).astype(np.float32)
    weight = normal(rng, (channels, channels, 3, 3), np.float32) * np.float32((2 / (9 * channels)) ** 0.5)
    expected, out = np.empty(x.shape), np.empty_like(x)
    errors = {}
    for name in ("conv2d_forward", "conv2d_backward_input"):
        arrays = [x, weight] + [None] * (name == "conv2d_forward")
        wide = [array if array is None else array.astype(float) for array in arrays]
        getattr(reference, name)(*wide, expected, (1, 1), (1, 1))
        for algorithm in ("direct", "winograd2", "winograd4"):
            getattr(kernels, name)(*arrays, out, (1, 1), (1, 1), algorithm)
            errors[algorithm] = np.abs(out - expected).max() / np.abs(expected).max()
        assert errors["winograd2"] < 2 * errors["direct"]
        assert errors["winograd4"] < 2e-5


@needs_compiled
def test_winograd_applies_to_3x3_kernels_with_stride_1(kernels):
    x, three = (64, 32, 32, 64), (64, 64, 3, 3)
    for name in ("forward", "backward_input", "backward_weight"):
        for asked in ("direct", "winograd2", "winograd4"):
            assert kernels.conv2d_algorithm(name, x, three, (1, 1), (1, 1), np.float32, asked) == asked
            assert kernels.conv2d_algorithm(name, x, three, (2, 1), (1, 1), np.float32, asked) == "direct"
            assert kernels.conv2d_algorithm(name, x, (64, 64, 3, 5), (1, 1), (1, 1), np.float32, asked) == "direct"
        assert kernels.conv2d_algorithm(name, x, three, (1, 1), (1, 1), np.float32) == "winograd4"
    # A single small image is not worth the transforms.
    assert kernels.conv2d_algorithm("forward", (1, 2, 2, 64), three, (1, 1), (1, 1), np.float32) == "direct"


@needs_compiled
def test_winograd_applies_to_rows_of_first_layers(kernels):
    def algorithm(kernel, asked="auto", channels=3, stride=(1, 1), name="forward", size=32):
        x, weight = (64, size, size, channels), (32, channels, *kernel)
        padding = (kernel[0] // 2, kernel[1] // 2)
        return kernels.conv2d_algorithm(name, x, weight, stride, padding, np.float32, asked)

    for kernel in [(7, 7), (5, 5), (3, 3), (2, 3), (11, 7)]:
        for asked, expected in [("auto", "winograd4"), ("winograd4", "winograd4"), ("direct", "direct")]:
            assert algorithm(kernel, asked) == expected
        for stride in [(2, 1), (1, 2)]:
            assert algorithm(kernel, "winograd4", stride=stride) == "direct"
    for kernel in [(7, 7), (5, 5), (3, 5), (5, 3)]:
        assert algorithm(kernel, "winograd2") == algorithm(kernel, "winograd4", channels=5) == "direct"
        for name in ("backward_input", "backward_weight"):
            assert algorithm(kernel, "winograd4", name=name) == "direct"
    for kernel in [(2, 2), (7, 1), (7, 4), (11, 11)]:
        assert algorithm(kernel, "winograd4") == "direct"
    # Not worth it: small images of one channel, of which a tile of 4 has few outputs.
    assert algorithm((3, 3), channels=1, size=5) == "direct"
    assert algorithm((3, 3), "winograd2") == "winograd2"
    for name in ("backward_input", "backward_weight"):  # these have tiles of 4 x 4
        assert algorithm((3, 3), "winograd4", name=name) == "winograd4"


def filtered_windows(channels):
    kernels = [((7, 7), (3, 3)), ((5, 3), (0, 1)), ((3, 7), (2, 6)), ((5, 5), (4, 0)), ((1, 3), (0, 2))]
    windows = [(2, 9, width, *channels, *sides) for width in range(1, 10) for sides in kernels]
    windows += [(0, 9, 9, *channels, *sides) for sides in kernels]
    # Several bands an image, several images a thread; rows longer than a band.
    windows += [(5, 37, 31, *channels, (7, 5), (3, 2)), (1, 2, 1100, *channels, (2, 3), (1, 1))]
    return [(*w[:6], (1, 1), w[6]) for w in windows if w[2] + 2 * w[6][1] >= w[5][1]]


@needs_compiled
@pytest.mark.parametrize("channels", [(1, 1), (1, 16), (2, 7), (3, 17), (3, 32), (4, 70)], ids=str)
def test_winograd_along_rows(kernels, dtype, threads, channels, rng):
    for window in filtered_windows(channels):
        x_shape, out_shape, weight_shape = window_shapes(window)
        x, weight, bias = normal(rng, x_shape, dtype), normal(rng, weight_shape, dtype), normal(rng, channels[1], dtype)
        assert kernels.conv2d_algorithm("forward", x_shape, weight_shape, *window[-2:], dtype, "winograd4") == (
            "winograd4" if x.size else "direct"
        )
        found = []
        for b, relu in [(bias, False), (bias, True), (None, True)]:
            expected, out = np.empty(out_shape), np.full(out_shape, np.nan, dtype)
            reference.conv2d_forward(
                x.astype(float), weight.astype(float), None if b is None else b.astype(float), expected, *window[-2:]
            )
            kernels.conv2d_forward(x, weight, b, out, *window[-2:], "winograd4", relu)
            scale = np.abs(expected).max(initial=0)
            error = np.abs(out - (np.maximum(expected, 0) if relu else expected)).max(initial=0)
            assert error <= WINOGRAD_ERROR["winograd4"] * np.finfo(dtype).eps * scale, window
            found.append(out)
        np.testing.assert_array_equal(np.maximum(found[0], 0), found[1])
        for image, out in zip(x, found[0], strict=True):  # alone: the same bits
            alone = np.full((1, *out_shape[1:]), np.nan, dtype)
            kernels.conv2d_forward(image[None].copy(), weight, bias, alone, *window[-2:], "winograd4")
            np.testing.assert_array_equal(alone[0], out)


@needs_compiled
@pytest.mark.parametrize(("side", "limit"), [(3, 1e-6), (5, 2e-6), (7, 5e-6)])
def test_winograd_along_rows_is_accurate(kernels, rng, side, limit):
    for images in (normal(rng, (16, 32, 32, 3), np.float32), rng.random((16, 32, 32, 3), np.float32)):
        weight = normal(rng, (32, 3, side, side), np.float32)
        expected, out = np.empty((16, 32, 32, 32)), np.empty((16, 32, 32, 32), np.float32)
        options = (1, 1), (side // 2, side // 2)
        reference.conv2d_forward(images.astype(float), weight.astype(float), None, expected, *options)
        kernels.conv2d_forward(images, weight, None, out, *options, "winograd4")
        assert np.abs(out - expected).max() < limit * np.abs(expected).max()


@needs_compiled
def test_winograd_along_rows_leaves_not_a_number_in_its_tiles(kernels, dtype, rng):
    x, weight = normal(rng, (2, 12, 20, 3), dtype), normal(rng, (17, 3, 5, 5), dtype)
    x[0, 5, 9, 1] = np.nan
    out = np.empty((2, 12, 20, 17), dtype)
    kernels.conv2d_forward(x, weight, None, out, (1, 1), (2, 2), "winograd4", True)
    assert np.isnan(out[0, 3:8, 7:12]).all()
    out[0, 3:8, 4:12] = 0  # its tiles: of four outputs each
    assert np.isfinite(out).all()


@needs_compiled
@pytest.mark.parametrize("algorithm", WINOGRAD_ERROR)
@pytest.mark.parametrize("channels", WINOGRAD_CHANNELS, ids=str)
def test_winograd_backward_weight(kernels, dtype, threads, algorithm, channels, rng):
    for window in winograd_windows(channels):
        x_shape, out_shape, weight_shape = window_shapes(window)
        x, dout, options = normal(rng, x_shape, dtype), normal(rng, out_shape, dtype), window[-2:]
        expected, expected_bias = np.empty(weight_shape), np.empty(channels[1])
        reference.conv2d_backward_weight(x.astype(float), dout.astype(float), expected, expected_bias, *options)
        dweight, dbias = np.full_like(expected, np.nan, dtype), np.full_like(expected_bias, np.nan, dtype)
        kernels.conv2d_backward_weight(x, dout, dweight, dbias, *options, algorithm)
        assert within(dweight, expected, algorithm), window
        agree(dbias, expected_bias, dtype)
        without_bias = np.full_like(dweight, np.nan)
        kernels.conv2d_backward_weight(x, dout, without_bias, None, *options, algorithm)
        np.testing.assert_array_equal(without_bias, dweight)


@needs_compiled
@pytest.mark.parametrize("algorithm", ["direct", "winograd2", "winograd4"])
def test_weight_gradients_over_many_tiles_are_accurate(kernels, threads, algorithm, rng):
    """Several blocks of tiles and parts of the batch: their sums must neither be lost nor lose digits."""
    x, dout = normal(rng, (40, 24, 24, 40), np.float32), normal(rng, (40, 24, 24, 70), np.float32)
    expected, expected_bias = np.empty((70, 40, 3, 3)), np.empty(70)
    reference.conv2d_backward_weight(x.astype(float), dout.astype(float), expected, expected_bias, (1, 1), (1, 1))
    dweight, dbias = np.empty_like(expected, np.float32), np.empty_like(expected_bias, np.float32)
    kernels.conv2d_backward_weight(x, dout, dweight, dbias, (1, 1), (1, 1), algorithm)
    assert within(dweight, expected, algorithm if algorithm in WINOGRAD_ERROR else "winograd2")
    assert within(dbias, expected_bias, "winograd2")


@needs_compiled
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("code", [np.uint8, np.int32])
def test_max_pool2d(kernels, dtype, threads, window, code, rng):
    window = (*window[:4], window[3], *window[5:])
    x_shape, out_shape, _ = window_shapes(window)
    # Few distinct values, so that there are ties; and NaN, which must come through.
    x = rng.integers(-3, 3, x_shape).astype(dtype)
    x[rng.random(x_shape) < 0.02] = np.nan
    outputs = [np.empty(out_shape, dtype), np.empty(out_shape, code)]
    pairs = both(kernels, "max_pool2d_forward", [x], outputs, *window[-3:])
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours, theirs)
    dout = normal(rng, out_shape, dtype)
    (pair,) = both(kernels, "max_pool2d_backward", [dout, pairs[1][0]], [x], *window[-3:])
    agree(*pair, dtype)
    rectified, alone = np.empty((2, *out_shape), dtype)
    kernels.max_pool2d_forward(x, rectified, None, *window[-3:], relu=True)
    np.testing.assert_array_equal(rectified, np.maximum(pairs[0][0], 0))
    kernels.max_pool2d_forward(x, alone, None, *window[-3:])
    np.testing.assert_array_equal(alone, pairs[0][0])
    (pair,) = both(kernels, "max_pool2d_backward", [dout, pairs[1][0]], [x], *window[-3:], rectified)
    agree(*pair, dtype)


@needs_compiled
@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (1000, 64), (70_000, 3), (513, 100)], ids=str)
def test_batch_norm(kernels, dtype, threads, shape, rng):
    x, dout = normal(rng, shape, dtype) * 3 + 2, normal(rng, shape, dtype)
    mean, inverse_std, weight, bias = normal(rng, (4, shape[1]), dtype)
    for pair in both(kernels, "batch_norm_statistics", [x], [mean, bias]):
        agree(*pair, dtype)
    (applied,) = both(kernels, "batch_norm_apply", [x, mean, inverse_std, weight, bias], [x])
    agree(*applied, dtype)
    arrays = [dout, x, mean, inverse_std, weight, bias]
    for pair in both(kernels, "batch_norm_backward", arrays, [x, weight, bias]):
        agree(*pair, dtype)
    out = x.copy()
    kernels.batch_norm_apply(out, mean, inverse_std, weight, bias, out)
    np.testing.assert_array_equal(out, applied[0])


@needs_compiled
@pytest.mark.parametrize("shape", [(0, 5), (5, 1), (3, 17), (1000, 64), (30_000, 3), (513, 100), (66, 530)], ids=str)
@pytest.mark.parametrize("activation", ["identity", "relu", "gelu", "gelu_tanh", "silu"])
def test_batch_norm_with_an_activation(kernels, dtype, threads, shape, activation, rng):
    x, dout, addend = normal(rng, (3, *shape), dtype)
    mean, inverse_std, weight, bias = normal(rng, (4, shape[1]), dtype)
    statistics = [mean, inverse_std, weight, bias]
    for extra in (None, addend):
        (pair,) = both(kernels, "batch_norm_apply", [x, *statistics], [x], activation, extra)
        agree(*pair, dtype)
    if shape[0]:
        for pair in both(kernels, "batch_norm_backward", [dout, x, *statistics], [x, weight, bias], activation):
            agree(*pair, dtype)


@needs_compiled
@pytest.mark.parametrize("shape", [(5, 1), (3, 17), (30_000, 3), (513, 100)], ids=str)
def test_batch_norm_with_an_addend_before_relu(kernels, dtype, threads, shape, rng):
    x, dout, sum_out = normal(rng, (3, *shape), dtype)
    statistics = normal(rng, (4, shape[1]), dtype)
    found = []
    for module in (kernels, reference):
        dx, daddend = np.full((2, *shape), np.nan, dtype)
        dweight, dbias = np.empty((2, shape[1]), dtype)
        module.batch_norm_backward(dout, x, *statistics, dx, dweight, dbias, "relu", sum_out, daddend)
        found.append((dx, dweight, dbias, daddend))
    for pair in zip(*found, strict=True):
        agree(*pair, dtype)
    np.testing.assert_array_equal(found[0][3], np.where(sum_out > 0, dout, 0))


@needs_compiled
def test_variance_survives_a_large_mean(kernels, rng):
    x = (1e4 + rng.standard_normal((50_000, 5))).astype(np.float32)
    mean, variance = np.empty((2, 5), np.float32)
    kernels.batch_norm_statistics(x, mean, variance)
    np.testing.assert_allclose(mean, x.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(variance, x.var(axis=0, dtype=np.float64), rtol=1e-5)
    x[:] = 1e4
    kernels.batch_norm_statistics(x, mean, variance)
    np.testing.assert_array_equal(variance, 0)


@needs_compiled
@pytest.mark.parametrize("size", [0, 1, 15, 100_003])
def test_activations(kernels, dtype, threads, size, rng):
    x, dout = normal(rng, size, dtype) * 4, normal(rng, size, dtype)
    (pair,) = both(kernels, "relu_forward", [x], [x])
    np.testing.assert_array_equal(*pair)
    np.testing.assert_array_equal(*both(kernels, "relu_backward", [dout, pair[0]], [x])[0])
    for tanh in (False, True):
        (pair,) = both(kernels, "gelu_forward", [x], [x], tanh)
        np.testing.assert_allclose(*pair, rtol=0, atol=2e-6 if dtype is np.float32 else 1e-12)
        (pair,) = both(kernels, "gelu_backward", [dout, x], [x], tanh)
        np.testing.assert_allclose(*pair, rtol=0, atol=8e-6 if dtype is np.float32 else 1e-12)
    (pair,) = both(kernels, "silu_backward", [dout, x], [x])
    np.testing.assert_allclose(*pair, rtol=0, atol=2e-6 if dtype is np.float32 else 1e-12)
    for name in ("silu", "sigmoid", "tanh"):
        (pair,) = both(kernels, f"{name}_forward", [x], [x])
        np.testing.assert_allclose(*pair, rtol=1e-6 if dtype is np.float32 else 1e-14)
    for name in ("sigmoid", "tanh"):
        (pair,) = both(kernels, f"{name}_backward", [dout, np.tanh(x)], [x])
        np.testing.assert_allclose(*pair, rtol=0, atol=2e-6 if dtype is np.float32 else 1e-14)
    for relu in (False, True):
        np.testing.assert_array_equal(*both(kernels, "add", [x, dout], [x], relu)[0])


@needs_compiled
def test_small_numbers_keep_their_digits(kernels, dtype):
    x = np.geomspace(1e-6, 80, 301).astype(dtype)
    x = np.concatenate([x, -x])
    out = np.empty_like(x)
    for name, exact in (("tanh", np.tanh), ("sigmoid", lambda x: 1 / (1 + np.exp(-x)))):
        getattr(kernels, f"{name}_forward")(x, out)
        np.testing.assert_allclose(out, exact(x.astype(np.longdouble)), rtol=5e-7 if dtype is np.float32 else 1e-14)


@needs_compiled
@pytest.mark.parametrize("shape", [(1, 1), (64, 10), (33, 17), (5, 385), (2000, 3), (1, 5000), (700, 100)], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(kernels, dtype, threads, shape, smoothing, weighted, rng):
    scores, labels = normal(rng, shape, dtype) * 5, rng.integers(0, shape[1], shape[0])
    weights = [rng.random(shape[1]), rng.random(shape[0])] if weighted else [None, None]
    arguments = [labels, *weights, smoothing]
    p, expected_p = np.full((2, *shape), np.nan, dtype)
    result = kernels.cross_entropy_forward(scores, *arguments, p)
    np.testing.assert_allclose(result, reference.cross_entropy_forward(scores, *arguments, expected_p), rtol=1e-5)
    np.testing.assert_allclose(p, expected_p, rtol=0, atol=1e-6 if dtype is np.float32 else 1e-13)
    (pair,) = both(kernels, "cross_entropy_backward", [p, *arguments, 1 / result[1]], [scores])
    np.testing.assert_allclose(*pair, rtol=0, atol=1e-6 if dtype is np.float32 else 1e-13)


@pytest.mark.parametrize("name", ["reference", *COMPILED])
@pytest.mark.parametrize(("labels", "wrong"), [([0, 3], 3), ([-1, 0], -1), ([7, -2], 7)])
def test_cross_entropy_looks_at_the_labels(name, labels, wrong):
    with pytest.raises(ValueError, match=f"cross_entropy: expected labels from 0 to 2, got {wrong}$"):
        _ext.load(name).cross_entropy_forward(np.ones((2, 3)), np.array(labels), None, None, 0.0, np.empty((2, 3)))


@needs_compiled
def test_cross_entropy_of_extremes(kernels, dtype):
    inf, nan = np.inf, np.nan
    rows = [[1, -inf, 2], [1e30, 0, -1e30], [inf, 0, 0], [nan, 0, 0], [0, 0, nan], [-inf] * 3]
    for row in np.array(rows, dtype)[:, None]:
        for label in range(3):
            arguments = [row, np.array([label]), None, None, 0.0]
            p, expected_p = np.empty((2, 1, 3), dtype)
            with np.errstate(over="ignore"):
                expected = reference.cross_entropy_forward(*arguments, expected_p)
            np.testing.assert_allclose(kernels.cross_entropy_forward(*arguments, p), expected, rtol=1e-6)
            np.testing.assert_allclose(p, expected_p, rtol=1e-5)


@needs_compiled
def test_activations_of_extremes(kernels, dtype):
    x = np.array([np.nan, -np.inf, np.inf, -1e6, 1e6, -40, 40, -0.0, 0.0] * 5, dtype)
    x = x[np.isfinite(x) | np.isnan(x)]
    out = np.empty_like(x)
    for tanh in (False, True):
        kernels.gelu_forward(x, out, tanh)
        np.testing.assert_allclose(out, np.where(x > 0, x, np.where(np.isnan(x), x, 0)), atol=1e-30)
        kernels.gelu_backward(np.ones_like(x), x, out, tanh)
        expected = np.where(np.isnan(x), x, np.where(x == 0, 0.5, x > 0))
        np.testing.assert_allclose(out, expected, atol=1e-6)
    kernels.relu_forward(x, out)
    np.testing.assert_array_equal(out, np.maximum(x, 0))
    kernels.silu_forward(x, out)
    np.testing.assert_allclose(out, np.where(x > 0, x, np.where(np.isnan(x), x, 0)), atol=1e-15)
    kernels.sigmoid_forward(x, out)
    np.testing.assert_allclose(out, np.where(x == 0, 0.5, np.where(np.isnan(x), x, x > 0)), atol=1e-15)
    kernels.tanh_forward(x, out)
    np.testing.assert_allclose(out, np.sign(x), atol=1e-15)


@needs_compiled
@pytest.mark.parametrize("size", [1, 17, 100_003])
def test_sgd_step(kernels, dtype, threads, size, rng):
    for momentum, decay, nesterov in [(0.0, 0.0, False), (0.0, 0.1, False), (0.9, 0.1, False), (0.9, 0.0, True)]:
        params, grads, velocity = normal(rng, (3, size), dtype)
        expected = [params.copy(), velocity.copy()]
        has_state = momentum > 0
        kernels.sgd_step(params, grads, velocity if has_state else None, 0.1, momentum, decay, nesterov)
        reference.sgd_step(expected[0], grads, expected[1] if has_state else None, 0.1, momentum, decay, nesterov)
        agree(params, expected[0], dtype)
        agree(velocity, expected[1], dtype)


@needs_compiled
@pytest.mark.parametrize("size", [1, 17, 100_003])
def test_rmsprop_step(kernels, dtype, threads, size, rng):
    for keep, add, momentum, decay in [(0.99, 0.01, 0.0, 0.0), (0.9, 0.1, 0.9, 0.1), (1.0, 1.0, 0.0, 0.1)]:
        params, grads, squares, velocity = normal(rng, (4, size), dtype)
        squares = np.abs(squares)
        expected = [array.copy() for array in (params, squares, velocity)]
        options = (0.01, keep, add, 1e-8, momentum, decay)
        kernels.rmsprop_step(params, grads, squares, velocity if momentum else None, *options)
        reference.rmsprop_step(expected[0], grads, expected[1], expected[2] if momentum else None, *options)
        for ours, theirs in zip((params, squares, velocity), expected, strict=True):
            agree(ours, theirs, dtype)


@needs_compiled
@pytest.mark.parametrize("size", [1, 17, 100_003])
def test_adam_step(kernels, dtype, threads, size, rng):
    for step, decay, decoupled in [(1, 0.0, False), (7, 0.1, False), (1000, 0.1, True)]:
        params, grads, m, v = normal(rng, (4, size), dtype)
        v = np.abs(v)
        expected = [array.copy() for array in (params, m, v)]
        options = (step, 0.01, 0.9, 0.999, 1e-8, decay, decoupled)
        kernels.adam_step(params, grads, m, v, *options)
        reference.adam_step(expected[0], grads, expected[1], expected[2], *options)
        for ours, theirs in zip((params, m, v), expected, strict=True):
            agree(ours, theirs, dtype)


@needs_compiled
@pytest.mark.parametrize("pixel", [np.uint8, None], ids=["uint8", "float"])
@pytest.mark.parametrize(
    ("width", "channels"),
    [(11, 1), (11, 5), (40, 4), *((width, 3) for width in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 37, 48))],
)
def test_augment(kernels, dtype, pixel, width, channels, rng):
    images = rng.integers(0, 256, (9, 8, width, channels)).astype(pixel or dtype)
    count = 50
    indices, flip = rng.integers(0, 9, count), (rng.random(count) < 0.5).view(np.uint8)
    indices[:2], flip[:2] = (0, 8), 1  # the first and the last in memory
    shifts, holes = rng.integers(-14, 15, (2, count)), rng.integers(-6, 13, (2, count))
    scale, offset = normal(rng, (2, channels), dtype)
    none = [None, None]
    for changes in (
        [flip, *shifts, *holes, 5],
        [flip, *shifts, *none, 0],
        [flip, *none, *none, 0],
        [None, *none, *holes, 5],
        [None] * 5 + [0],
    ):
        arguments = [images, indices, *changes, scale, offset]
        (pair,) = both(kernels, "augment", arguments, [np.empty((count, 8, width, channels), dtype)])
        agree(*pair, dtype)
        planes = np.empty((count, channels, 8, width), dtype)
        kernels.augment(*arguments, planes, channels_last=False).finish()
        np.testing.assert_array_equal(planes, pair[0].transpose(0, 3, 1, 2))


def before_a_forbidden_page(array):
    """A copy that ends with a page of memory, behind which nothing may be read or written."""
    libc, page = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE
    pages = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, pages + page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert libc.mprotect(ctypes.c_void_p(address + pages), ctypes.c_size_t(page), 0) == 0  # PROT_NONE
    copy = np.frombuffer(memory, array.dtype, array.size, pages - array.nbytes).reshape(array.shape)
    copy[...] = array
    return copy


@needs_compiled
@pytest.mark.skipif(sys.platform != "linux", reason="protects a page as Linux does")
@pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "last"])
@pytest.mark.parametrize("width", [1, 5, 8, 16, 17, 32, 37])
def test_augment_stays_within_its_memory(kernels, dtype, width, channels_last, rng):
    images = before_a_forbidden_page(rng.integers(0, 256, (2, 3, width, 3), np.uint8))
    indices = np.ones(4, np.int64)
    flip, shifts = np.array([0, 1, 0, 1], np.uint8), np.array([0, 0, 1, -1])
    scale, offset = normal(rng, (2, 3), dtype)
    out = before_a_forbidden_page(np.empty((4, 3, width, 3) if channels_last else (4, 3, 3, width), dtype))
    expected = out.copy()
    arguments = [images, indices, flip, shifts, shifts, None, None, 0, scale, offset]
    kernels.augment(*arguments, out, channels_last).finish()
    reference.augment(*arguments, expected, channels_last).finish()
    agree(out, expected, dtype)


@needs_compiled
@pytest.mark.parametrize("shape", [(2, 1024, 3), (64, 7, 3), (3, 33, 17), (1, 1, 1), (0, 4, 5), (2, 384, 64)], ids=str)
def test_transpose_images(kernels, dtype, threads, shape, rng):
    x = normal(rng, shape, dtype)
    out = np.full((shape[0], shape[2], shape[1]), np.nan, dtype)
    kernels.transpose_images(x, out)
    np.testing.assert_array_equal(out, x.transpose(0, 2, 1))
    for wrong in [(x, np.ones((shape[0], shape[1], shape[2] + 1), dtype)), (x, None), (x.astype(int), out)]:
        with pytest.raises((ValueError, TypeError)):
            kernels.transpose_images(*wrong)


@needs_compiled
def test_not_a_number_comes_through(kernels, dtype, rng):
    x = normal(rng, (1, 6, 6, 16), dtype)
    x[0, 2, 3, 5] = np.nan
    weight = normal(rng, (4, 16, 3, 3), dtype)
    out = np.empty((1, 4, 4, 4), dtype)
    kernels.conv2d_forward(x, weight, None, out, (1, 1), (0, 0), relu=True)
    assert np.isnan(out[0, 0:3, 1:4]).all()
    assert np.isfinite(out[0, 3]).all()
    mean, variance = np.empty((2, 16), dtype)
    kernels.batch_norm_statistics(x.reshape(36, 16), mean, variance)
    assert np.isnan(mean).tolist() == np.isnan(variance).tolist() == [c == 5 for c in range(16)]


def results(kernels, rng):
    """The bits of every kernel that could depend on how work is shared out."""
    x, dout = normal(rng, (20, 16, 16, 24), np.float32), normal(rng, (20, 16, 16, 40), np.float32)
    weight, bias = normal(rng, (40, 24, 3, 3), np.float32), normal(rng, 40, np.float32)
    rows, labels = x.reshape(-1, 24), rng.integers(0, 24, 20 * 16 * 16)
    column, options = rows[0], ((1, 1), (1, 1))
    image, filters = x[..., :3].copy(), weight[:, :3].copy()
    shifts, codes = np.arange(600) % 7 - 3, np.empty((20, 8, 8, 40), np.uint8)
    for name, arrays, outputs, *rest in [
        *[
            (name, arrays, outputs, *options, algorithm)
            for algorithm in ("direct", "winograd2", "winograd4")
            for name, arrays, outputs in [
                ("conv2d_forward", [x, weight, bias], [dout]),
                ("conv2d_backward_input", [dout, weight], [x]),
                ("conv2d_forward", [x[:1], weight, bias], [dout[:1]]),  # few tiles: tasks are panels
                ("conv2d_backward_weight", [x, dout], [weight, bias]),
            ]
        ],
        *[
            (name, [image, filters, bias], outputs, *options, *rest, algorithm)
            for algorithm in ("direct", "winograd4")
            for name, outputs, *rest in [
                ("conv2d_forward", [dout]),
                ("conv2d_pool_forward", [dout[:, :8, :8].copy(), codes], 2),
            ]
        ],
        ("conv2d_pool_forward", [x, weight, bias], [dout[:, :8, :8].copy(), codes], *options, 2, "winograd4"),
        ("conv2d_backward_weight", [image, dout], [filters, bias], *options),
        ("batch_norm_statistics", [rows], [column, column]),
        *[
            ("batch_norm_backward", [rows, rows, *rows[:4]], [rows, column, column], activation)
            for activation in ("identity", "relu", "gelu")
        ],
        ("gemm", [rows.T, rows], [np.empty((24, 24), np.float32)]),
        (
            "augment",
            [image, shifts % 20, (shifts % 2).astype(np.uint8), *[shifts] * 4, 5, bias[:3], bias[3:6]],
            [np.empty((600, 16, 16, 3), np.float32)],
        ),
        ("column_sums", [x.reshape(20, -1)], [np.empty(16 * 16 * 24, np.float32)]),
        ("cross_entropy_forward", [rows, labels, None, None, 0.1], [rows]),
        ("cross_entropy_backward", [rows, labels, None, None, 0.1, 1.0], [rows]),
    ]:
        outputs = [np.empty_like(out) for out in outputs]
        run(kernels, name, *arrays, *outputs, *rest)
        yield from outputs


@needs_compiled
def test_threads_do_not_change_a_bit(kernels):
    found = []
    for count in (1, 2, 3, 7):
        with threads_set_to(count):
            found.append([array.tobytes() for array in results(kernels, np.random.default_rng(5))])
    assert all(bits == found[0] for bits in found[1:])


def multiply_in_child(queue):
    a = np.ones((400, 400), np.float32)
    out = np.empty_like(a)
    _ext.set_num_threads(2)
    _ext.load(COMPILED[0]).gemm(a, a, out)
    queue.put((_ext.get_num_threads(), float(out.min()), float(out.max())))


@needs_compiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_hang(threads):
    multiply_in_child(multiprocessing.get_context("fork").SimpleQueue())  # the parent has a team now
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=multiply_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=20) == (1, 400.0, 400.0)
    child.join()


@needs_compiled
def test_an_empty_batch_may_claim_images_of_any_size(kernels):
    x, out = np.empty((0, 2**30, 2**30, 1), np.float32), np.empty((0, 2**29, 2**29, 1), np.float32)
    weight, bias, options = np.ones((1, 1, 2, 2), np.float32), np.ones(1, np.float32), ((2, 2), (0, 0))
    kernels.conv2d_forward(x, weight, bias, out, *options)
    kernels.conv2d_backward_input(out, weight, x, *options)
    kernels.conv2d_backward_weight(x, out, weight, bias, *options)
    assert not weight.any()
    assert not bias.any()
    images, long, one = np.empty((0, 1, 2**61 - 1, 1), np.uint8), (0, 1, 2**61 - 1, 1), np.ones(1, np.float32)
    none = np.empty(0, np.int64)
    kernels.augment(images, none, None, None, None, None, None, 0, one, one, np.empty(long, np.float32)).finish()
    kernels.transpose_images(np.empty((2**59, 0, 3), np.float32), np.empty((2**59, 3, 0), np.float32))


NO_ELEMENTS = """
import numpy as np
from nnkit import _ext

kernels, none = _ext.kernels, np.empty(0, np.float32)
for shape in [(0, 2**30, 2**30, 1), (0, 1, 2**30, 3), (2**60, 1, 1, 0), (1, 2**30, 2**30, 0)]:
    x, codes = np.empty(shape, np.float32), np.empty(shape, np.uint8)
    filters = np.ones((shape[3], shape[3], 1, 1), np.float32)
    options = (1, 1), (0, 0)
    kernels.max_pool2d_forward(x, x, codes, (1, 1), *options)
    kernels.max_pool2d_backward(x, codes, x, (1, 1), *options)
    for algorithm in ("direct", "winograd2", "winograd4"):
        for weight in (filters, np.ones((shape[3], shape[3], 3, 3), np.float32)):
            padding = (weight.shape[2] // 2,) * 2
            kernels.conv2d_forward(x, weight, None, x, (1, 1), padding, algorithm)
            pooled = np.empty((shape[0], shape[1] // 2, shape[2] // 2, shape[3]), np.float32)
            kernels.conv2d_pool_forward(x, weight, None, pooled, None, (1, 1), padding, 2, algorithm)
            kernels.conv2d_backward_input(x, weight, x, (1, 1), padding, algorithm)
            kernels.conv2d_backward_weight(x, x, weight, None, (1, 1), padding, algorithm)
            assert not weight.any()
# Of all padding an output is made, of which no input has a gradient.
x = np.empty((1, 0, 2**30, 1), np.float32)
weight, options = np.ones((1, 1, 2, 1), np.float32), ((1, 2**19), (1, 0))
out = np.empty((1, 1, 2**11, 1), np.float32)
kernels.conv2d_forward(x, weight, np.ones(1, np.float32), out, *options)
assert (out == 1).all()
kernels.conv2d_backward_input(out, weight, x, *options)
codes = np.empty(out.shape, np.uint8)
kernels.max_pool2d_forward(x, out, codes, (2, 1), *options)
assert (out == -np.inf).all()
kernels.max_pool2d_backward(out, codes, x, (2, 1), *options)
x = np.empty((2**60, 0), np.float32)
kernels.column_sums(x, none)
kernels.batch_norm_statistics(x, none, none)
kernels.batch_norm_apply(x, none, none, none, none, x)
kernels.batch_norm_backward(x, x, none, none, none, none, x, none, none)
kernels.gemm(x, np.empty((0, 0), np.float32), x)
kernels.gemm(x.T, np.empty((2**60, 0), np.float32), np.empty((0, 0), np.float32))
"""


@needs_compiled
@pytest.mark.parametrize("name", COMPILED)
def test_arrays_without_elements_take_no_time(name):
    """They may claim any size along their other axes; in a process of its own, which can be stopped."""
    environment = os.environ | {"NNKIT_KERNELS": name, "NNKIT_NUM_THREADS": "1"}
    code = [sys.executable, "-c", NO_ELEMENTS]
    answer = subprocess.run(code, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert answer.returncode == 0, answer.stderr


@needs_compiled
@pytest.mark.parametrize("algorithm", ["direct", "winograd2", "winograd4"])
@pytest.mark.parametrize("channels", [(0, 4), (4, 0), (0, 0)], ids=str)
def test_conv2d_without_channels(kernels, algorithm, channels):
    inside, outside = channels
    x, out = np.ones((2, 5, 5, inside), np.float32), np.ones((2, 5, 5, outside), np.float32)
    weight, bias = np.ones((outside, inside, 3, 3), np.float32), np.ones(outside, np.float32)
    options = (1, 1), (1, 1), algorithm
    kernels.conv2d_forward(x, weight, bias, out, *options)
    assert (out == 1).all()
    kernels.conv2d_backward_input(out, weight, x, *options)
    assert not x.any()
    kernels.conv2d_backward_weight(x, out, weight, bias, *options)
    assert (bias == 50).all()


@needs_compiled
def test_python_threads_may_call_at_the_same_time(kernels, threads, rng):
    x, weight = normal(rng, (8, 16, 16, 24), np.float32), normal(rng, (40, 24, 3, 3), np.float32)
    expected = np.empty((8, 16, 16, 40), np.float32)
    kernels.conv2d_forward(x, weight, None, expected, (1, 1), (1, 1))

    def work(_):
        out = np.empty_like(expected)
        for _ in range(10):
            out[...] = np.nan
            kernels.conv2d_forward(x, weight, None, out, (1, 1), (1, 1))
            if not np.array_equal(out, expected):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


@needs_compiled
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's limit on memory")
def test_no_memory_for_scratch_is_told():
    code = """
import resource
import numpy as np
from nnkit import _ext

x, weight = np.ones((1, 32, 32, 1024), np.float32), np.ones((1, 1024, 32, 32), np.float32)
out = np.empty((1, 1, 1, 1), np.float32)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), -1))
try:
    _ext.kernels.conv2d_forward(x, weight, None, out, (1, 1), (0, 0))
except MemoryError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
_ext.kernels.conv2d_forward(x, weight, None, out, (1, 1), (0, 0))
print(out.item())
"""
    environment = os.environ | {"NNKIT_KERNELS": COMPILED[0], "NNKIT_NUM_THREADS": "1"}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines() == ["no memory for a kernel's scratch space", str(32.0 * 32 * 1024)]


class TestWrongArguments:
    """Whatever is wrong raises; nothing reaches the C code."""

    pytestmark = needs_compiled

    def test_gemm(self, kernels):
        a, b, out = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32), np.ones((3, 5), np.float32)
        for wrong in [
            (b, a, out),
            (a, b, out.T),
            (a, b, out[:2]),
            (a, b, out, np.ones(4, np.float32)),
            (np.ones((3, 8), np.float32)[:, ::2], b, out),
            (a, b, np.ones((3, 5, 1), np.float32)),
            (a, b.astype(np.float64), out),
            (a, b, out, np.ones(10, np.float32)[::2]),
        ]:
            with pytest.raises((ValueError, TypeError)):
                kernels.gemm(*wrong)
        for wrong in [(None, b, out), (a, None, out), (a, b, None), ([[1.0]], b, out), (a.astype(int), b, out)]:
            with pytest.raises((ValueError, TypeError)):
                kernels.gemm(*wrong)
        out.flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            kernels.gemm(a, b, out)

    def test_cross_entropy(self, kernels):
        scores, labels = np.ones((4, 3), np.float32), np.array([0, 1, 2, 0])
        good = [scores, labels, np.ones(3), np.ones(4), 0.1, np.empty_like(scores)]
        kernels.cross_entropy_forward(*good)
        for position, wrong in [
            (0, scores[:3]),
            (0, scores.astype(np.float64)),
            (0, scores[:0]),
            (1, labels[:3]),
            (1, labels + 1),
            (1, labels - 1),
            (1, labels.astype(np.int32)),
            (1, None),
            (2, np.ones(4)),
            (3, np.ones(3)),
            (3, np.ones(4, np.float32)),
            (5, np.empty((3, 4), np.float32)),
            (5, np.empty((4, 3), np.float32).T),
        ]:
            arguments = list(good)
            arguments[position] = wrong
            with pytest.raises((ValueError, TypeError)):
                kernels.cross_entropy_forward(*arguments)
            with pytest.raises((ValueError, TypeError)):
                kernels.cross_entropy_backward(*arguments[:5], 1.0, arguments[5])

    def test_conv2d(self, kernels):
        x, weight = np.ones((2, 5, 5, 3), np.float32), np.ones((4, 3, 3, 3), np.float32)
        out, bias = np.ones((2, 3, 3, 4), np.float32), np.ones(4, np.float32)
        good = [x, weight, bias, out, (1, 1), (0, 0), "direct", False, np.ones((2, 4), np.float32)]
        kernels.conv2d_forward(*good)
        for position, wrong in [
            (0, x[:, :, :, :2].copy()),
            (0, x[:, ::-1]),
            (0, x[:1].copy()),
            (0, None),
            (1, weight[:, :2].copy()),
            (1, weight[:3].copy()),
            (2, bias[:3]),
            (3, out[:, :2].copy()),
            (3, out[:1]),
            (3, out.astype(np.float64)),
            (4, (2, 1)),
            (4, (0, 1)),
            (4, (1,)),
            (4, None),
            (4, (1 << 62, 1)),
            (5, (1, 0)),
            (5, (-1, 0)),
            (5, "no"),
            (6, "winograd"),
            (6, None),
            (8, np.ones((2, 5), np.float32)),
            (8, np.ones((1, 4), np.float32)),
            (8, np.ones((2, 4))),
            (8, np.ones(8, np.float32)),
        ]:
            arguments = list(good)
            arguments[position] = wrong
            with pytest.raises((ValueError, TypeError, OverflowError)):
                kernels.conv2d_forward(*arguments)
        pooled, codes = out[:, :1, :1].copy(), np.ones((2, 1, 1, 4), np.uint8)
        good = [x, weight, bias, pooled, codes, (1, 1), (0, 0), 2, "auto", False, np.ones((2, 4), np.float32)]
        kernels.conv2d_pool_forward(*good)
        for position, wrong in [
            (0, x[:, :, :, :2].copy()),
            (0, x[:1].copy()),
            (0, None),
            (1, weight[:3].copy()),
            (1, weight[:, :2].copy()),
            (2, bias[:3]),
            (3, out),
            (3, pooled[:1]),
            (3, pooled.astype(np.float64)),
            (4, np.ones(out.shape, np.uint8)),
            (4, codes.astype(np.int32)),
            (5, (0, 1)),
            (5, (1,)),
            (5, None),
            (5, (1 << 62, 1)),
            (6, (1, 0)),
            (6, (-1, 0)),
            (6, "no"),
            (7, 0),
            (7, 1),
            (7, 17),
            (7, None),
            (10, np.ones((2, 5), np.float32)),
        ]:
            arguments = list(good)
            arguments[position] = wrong
            with pytest.raises((ValueError, TypeError, OverflowError)):
                kernels.conv2d_pool_forward(*arguments)
        with pytest.raises(ValueError, match="does not fit"):
            kernels.conv2d_forward(x, np.ones((4, 3, 7, 7), np.float32), None, out, (1, 1), (0, 0))
        with pytest.raises(ValueError, match="channels"):
            kernels.conv2d_backward_input(out, weight[:, :2].copy(), x, (1, 1), (0, 0))
        with pytest.raises(ValueError, match="bias"):
            kernels.conv2d_backward_weight(x, out, weight, bias[:2], (1, 1), (0, 0))
        with pytest.raises(ValueError, match="unknown pass 'back'; expected one of forward, backward_input"):
            kernels.conv2d_algorithm("back", x.shape, weight.shape, (1, 1), (0, 0), np.float32)
        with pytest.raises(ValueError, match="does not fit"):
            kernels.conv2d_algorithm("forward", x.shape, (4, 3, 7, 7), (1, 1), (0, 0), np.float32)

    def test_conv2d_algorithm(self, kernels):
        good = {"pass_name": "forward", "x_shape": (2, 8, 8, 3), "weight_shape": (4, 3, 3, 3), "stride": (1, 1)}
        kernels.conv2d_algorithm(**good, padding=(1, 1), dtype=np.float32)
        for wrong in [
            {"pass_name": "sideways"},
            {"algorithm": "fft"},
            {"x_shape": (8, 8, 3)},
            {"x_shape": (-2, 8, 8, 3)},
            {"x_shape": (2, 8, 8, 4)},
            {"weight_shape": (4,)},
            {"weight_shape": (4, 3, 3, 13)},
            {"stride": (0, 1)},
        ]:
            with pytest.raises(ValueError, match=r"expected|unknown|fit|unpack"):
                kernels.conv2d_algorithm(**{**good, "padding": (1, 1), "dtype": np.float32, **wrong})

    def test_sizes_beyond_32_bits(self, kernels):
        # Empty arrays claim any size without any memory; the kernels count taps and places of pixels in int32.
        options = (1, 1), (0, 0)
        x, weight = np.empty((0, 2**31, 1, 1), np.float32), np.ones((1, 1, 1, 1), np.float32)
        with pytest.raises(ValueError, match="rows or columns at most, got 2147483648x1"):
            kernels.conv2d_forward(x, weight, None, x, *options)
        x, out = np.empty((0, 2**16, 2**16, 1), np.float32), np.empty((0, 1, 1, 1), np.float32)
        with pytest.raises(ValueError, match=r"fewer than 2\^31 places"):
            kernels.max_pool2d_forward(x, out, out.astype(np.int32), (2**16, 2**16), *options)
        with pytest.raises(ValueError, match="stride must be positive, below"):
            kernels.conv2d_forward(x, weight, None, x, (2**20, 1), (0, 0))

    def test_an_object_without_its_kernels_cannot_be_made(self, kernels):
        with pytest.raises(TypeError):
            type(kernels).__new__(type(kernels))
        with pytest.raises(ValueError, match="no 'mmx' kernels"):
            type(kernels)("mmx")

    def test_max_pool2d(self, kernels):
        x, out = np.ones((1, 4, 4, 2), np.float32), np.ones((1, 2, 2, 2), np.float32)
        codes = np.ones((1, 2, 2, 2), np.uint8)
        options = (2, 2), (2, 2), (0, 0)
        kernels.max_pool2d_forward(x, out, codes, *options)
        with pytest.raises(ValueError, match="codes"):
            kernels.max_pool2d_forward(x, out, codes[:, :1], *options)
        with pytest.raises(ValueError, match="channels"):
            kernels.max_pool2d_backward(out[..., :1].copy(), codes, x, *options)
        with pytest.raises((ValueError, TypeError)):
            kernels.max_pool2d_forward(x, out, codes.astype(np.int64), *options)
        for wrong in (object(), codes.tolist(), 1.0):
            expected = f"expected codes to be None or an array of uint8 or int32, got {type(wrong).__name__}"
            with pytest.raises(TypeError, match=expected):
                kernels.max_pool2d_forward(x, out, wrong, *options)
        with pytest.raises(ValueError, match="rectified"):
            kernels.max_pool2d_backward(out, codes, x, *options, out[..., :1].copy())
        large, one = np.ones((1, 40, 40, 1), np.float32), np.ones((1, 1, 1, 1), np.float32)
        with pytest.raises(ValueError, match="int32"):
            kernels.max_pool2d_forward(large, one, one.astype(np.uint8), (40, 40), (1, 1), (0, 0))

    def test_one_dimensional(self, kernels):
        x, short = np.ones(5, np.float32), np.ones(4, np.float32)
        for call in [
            lambda: kernels.relu_forward(x, short),
            lambda: kernels.relu_backward(x, short, x),
            lambda: kernels.gelu_forward(short, x, True),
            lambda: kernels.gelu_backward(x, x, short, False),
            lambda: kernels.silu_forward(short, x),
            lambda: kernels.tanh_backward(x, x, short),
            lambda: kernels.add(x, x, short),
            lambda: kernels.sgd_step(x, short, None, 0.1, 0, 0, False),
            lambda: kernels.sgd_step(x, x, short, 0.1, 0.9, 0, False),
            lambda: kernels.rmsprop_step(x, x, short, None, 0.1, 1, 1, 1e-8, 0, 0),
            lambda: kernels.rmsprop_step(x, x, x, short, 0.1, 1, 1, 1e-8, 0.9, 0),
            lambda: kernels.adam_step(x, x, x, short, 1, 0.1, 0.9, 0.99, 1e-8, 0, False),
            lambda: kernels.relu_forward(np.ones(10, np.float32)[::2], x),
        ]:
            with pytest.raises(ValueError):  # noqa: PT011 — sizes in some, layout in others
                call()

    def test_batch_norm(self, kernels):
        x, row = np.ones((4, 3), np.float32), np.ones(3, np.float32)
        with pytest.raises(ValueError, match="no rows"):
            kernels.batch_norm_statistics(x[:0], row, row)
        with pytest.raises(ValueError, match="3 elements"):
            kernels.batch_norm_statistics(x, row[:2], row)
        with pytest.raises(ValueError, match="3 elements"):
            kernels.batch_norm_apply(x, row, row, row, row[:2], x)
        with pytest.raises(ValueError, match="dout and dx"):
            kernels.batch_norm_backward(x[:3], x, row, row, row, row, x, row, row)
        with pytest.raises(ValueError, match="addend must be"):
            kernels.batch_norm_apply(x, row, row, row, row, x, "relu", x[:3])
        with pytest.raises(ValueError, match="activation of identity, relu, gelu, gelu_tanh, silu, got 'elu'"):
            kernels.batch_norm_apply(x, row, row, row, row, x, "elu")
        good = [x, x, row, row, row, row, x, row, row]
        for wrong in [("silu", x, x), ("relu", x, None), ("relu", None, x), ("relu", x[:3], x), ("relu", x, x[:3])]:
            with pytest.raises(ValueError, match="sum_out and daddend"):
                kernels.batch_norm_backward(*good, *wrong)

    def test_augment(self, kernels):
        images, out = np.ones((3, 4, 4, 1), np.uint8), np.ones((2, 4, 4, 1), np.float32)
        zeros, one = np.zeros(2, int), np.ones(1, np.float32)
        flip = np.zeros(2, np.uint8)
        good = [images, zeros, flip, zeros, zeros, zeros, zeros, 0, one, one, out]
        kernels.augment(*good).finish()
        for position, wrong in [
            (1, np.array([0, 3])),
            (1, np.array([-1, 0])),
            (1, zeros[:1]),
            (1, zeros.astype(np.int32)),
            (1, np.zeros(4, int)[::2]),
            (2, flip[:1]),
            (2, zeros),
            (1, None),
            (3, None),
            (5, zeros[:1]),
            (7, -1),
            (3, np.array([1 << 60, 0])),
            (8, np.ones(2, np.float32)),
            (9, np.ones(1)),
            (9, None),
            (10, out[:, :3].copy()),
            (0, images.astype(np.float64)),
        ]:
            arguments = list(good)
            arguments[position] = wrong
            with pytest.raises((ValueError, TypeError)):
                kernels.augment(*arguments)


def chosen(**environment):
    code = "from nnkit import _ext; print(_ext.kernels.name, _ext.get_num_threads(), _ext.kernel_reason, sep='|')"
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", _ext.available())
def test_the_environment_chooses(name):
    found = chosen(NNKIT_KERNELS=name).stdout.split("|")
    assert found[0] == name
    assert "NNKIT_KERNELS" in found[2]


def test_an_unknown_set_is_told_and_left_alone():
    answer = chosen(NNKIT_KERNELS="fastest")
    assert answer.stdout.split("|")[0] == _ext.available()[0]
    assert "unknown kernel set 'fastest'; expected one of avx512, avx2, baseline, reference" in answer.stderr
    with pytest.raises(UsageError, match="unknown"):
        _ext.load("mmx")


@needs_compiled
def test_the_environment_sets_threads():
    assert chosen(NNKIT_NUM_THREADS="3", OMP_NUM_THREADS="5").stdout.split("|")[1] == "3"
    assert chosen(NNKIT_NUM_THREADS="", OMP_NUM_THREADS="5").stdout.split("|")[1] == "5"
    assert "NNKIT_NUM_THREADS: expected" in chosen(NNKIT_NUM_THREADS="many").stderr


def test_set_num_threads_refuses_nonsense():
    for wrong in (0, -1, True, 1.5, "2", 10**9):
        with pytest.raises(UsageError, match="threads"):
            _ext.set_num_threads(wrong)


def test_the_reference_has_the_same_functions():
    names = {name for name in vars(reference) if callable(getattr(reference, name)) and not name.startswith("_")}
    for name in COMPILED:
        assert names <= set(dir(_ext.load(name)))
