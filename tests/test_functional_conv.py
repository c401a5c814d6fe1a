import numpy as np
import pytest

import nnkit
from nnkit import functional as fn
from nnkit.errors import UsageError
from nnkit.testing import check_function_gradients


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


@pytest.fixture
def asked(monkeypatch):
    """The kernels called, each with the algorithm that it was asked for."""
    calls = []

    class Kernels:
        def __getattr__(self, name):
            return lambda *arguments, **_: calls.append((name.removeprefix("conv2d_"), arguments[-1]))

    monkeypatch.setattr("nnkit.functional.conv.kernels", Kernels())
    return calls


def test_every_pass_uses_the_algorithm_of_the_forward_pass(asked):
    x, weight = np.ones((1, 2, 4, 4)), np.ones((3, 2, 3, 3))
    assert nnkit.get_conv_algorithm() == "auto"
    try:
        nnkit.set_conv_algorithm("winograd2")
        out, cache = fn.conv2d_forward(x, weight)
        _, other = fn.conv2d_forward(x, weight, algorithm="direct")
    finally:
        nnkit.set_conv_algorithm("auto")
    fn.conv2d_backward(out, cache)
    fn.conv2d_backward_params(out, other)
    passes = [("forward", "winograd2"), ("forward", "direct"), ("backward_weight", "winograd2")]
    assert asked == [*passes, ("backward_input", "winograd2"), ("backward_weight", "direct")]


def test_an_unknown_algorithm_is_refused():
    with pytest.raises(UsageError, match="set_conv_algorithm: unknown convolution algorithm 'winograd'; did you mean"):
        nnkit.set_conv_algorithm("winograd")
    with pytest.raises(UsageError, match="conv2d: unknown convolution algorithm 'fft'"):
        fn.conv2d_forward(np.ones((1, 2, 4, 4)), np.ones((3, 2, 3, 3)), algorithm="fft")


@pytest.mark.parametrize(
    ("x", "weight", "options", "message"),
    [
        ((3, 8, 8), (4, 3, 3, 3), {}, r"x of shape \(N, C, H, W\), got \(3, 8, 8\)"),
        ((1, 2, 8, 8), (4, 3, 3, 3), {}, "x with 3 channels, got 2"),
        ((1, 3, 2, 8), (4, 3, 3, 3), {}, "at least 3×3 pixels, got 2×8"),
        ((1, 3, 8, 8), (4, 3, 3), {}, "weight of shape"),
        ((1, 3, 8, 8), (4, 3, 3, 3), {"stride": 0}, "stride to be an integer from 1 to 1,048,575"),
        ((1, 3, 8, 8), (4, 3, 3, 3), {"padding": -1}, "padding to be an integer from 0"),
        ((1, 3, 8, 8), (4, 3, 3, 3), {"stride": 10**30}, "stride to be an integer from 1"),
        ((1, 3, 8, 8), (4, 3, 3, 3), {"padding": (1, 2, 3)}, "pair"),
        ((1, 3, 8, 8), (4, 3, 3, 3), {"stride": 1.5}, "integer"),
        ((1, 3, 8, 8), (4, 3, 3, 3), {"bias": np.ones(3)}, r"bias of shape \(4,\)"),
    ],
)
def test_bad_arguments(x, weight, options, message):
    with pytest.raises(ValueError, match=message):
        fn.conv2d_forward(np.ones(x), np.ones(weight), **options)


@pytest.mark.parametrize("pool", [1, 2])
def test_statistics_are_those_of_what_is_returned(rng, pool):
    statistics = np.empty((2, 4))
    out, _ = fn.conv2d_forward(
        rng.normal(size=(2, 3, 7, 7)), rng.normal(size=(4, 3, 3, 3)), pool=pool, statistics=statistics
    )
    np.testing.assert_allclose(statistics, [out.mean(axis=(0, 2, 3)), out.var(axis=(0, 2, 3))], rtol=1e-9)


@pytest.mark.parametrize("wrong", [np.empty((2, 5)), np.empty((4, 2)), np.empty((2, 4), np.float32), [[0.0] * 4] * 2])
def test_statistics_must_fit(rng, wrong):
    with pytest.raises(
        ValueError, match=r"conv2d: expected statistics to be a writable C-contiguous float64 array \(2, 4\)"
    ):
        fn.conv2d_forward(rng.normal(size=(2, 3, 7, 7)), rng.normal(size=(4, 3, 3, 3)), statistics=wrong)
