"""Times the speed cells of the course's ConvolutionalNetworks notebook: loops, the course's fast way, nnkit's kernels.

    python benchmarks/cs231n_speed.py [--threads N] [--repeats N]

Prints a Markdown table of milliseconds, in float64 as in the notebook. "Course's fast way" is im2col with one matrix
product for the convolution, and NumPy on a reshaped view for pooling.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import nnkit
from nnkit._ext import kernels
from nnkit.cs231n import fast_layers, layers

POOL = {"pool_height": 2, "pool_width": 2, "stride": 2}
Pair = tuple[Callable[..., tuple[np.ndarray, Any]], Callable[[np.ndarray, Any], Any]]


def reshape_pool_forward(x: np.ndarray, pool_param: dict[str, int]) -> tuple[np.ndarray, Any]:
    side = pool_param["stride"]
    n, channels, height, width = x.shape
    windows = x.reshape(n, channels, height // side, side, width // side, side)
    out = windows.max(axis=3).max(axis=4)
    return out, (windows, out, x.shape)


def reshape_pool_backward(dout: np.ndarray, cache: Any) -> np.ndarray:
    windows, out, shape = cache
    winners = windows == out[:, :, :, None, :, None]
    share = dout / winners.sum(axis=(3, 5))
    return (winners * share[:, :, :, None, :, None]).reshape(shape)


def milliseconds(call: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """The shortest time of some calls, which other programs on the machine disturb least, and what the call returns."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times), result


def rows(name: str, inputs: tuple[Any, ...], ways: list[Pair], repeats: int) -> None:
    """Print one line for the forward and one for the backward pass; the first way is the slow one, timed twice."""
    dout, forward_times, backward_times = None, [], []
    for forward, backward in ways:
        count = 2 if forward is ways[0][0] else repeats
        elapsed, (out, cache) = milliseconds(lambda: forward(*inputs), count)  # noqa: B023
        forward_times.append(elapsed)
        dout = np.random.randn(*out.shape) if dout is None else dout
        elapsed, _ = milliseconds(lambda: backward(dout, cache), count)  # noqa: B023
        backward_times.append(elapsed)
    for direction, (naive, course, ours) in (("forward", forward_times), ("backward", backward_times)):
        times = f"{naive:,.0f} | {course:.2f} | {ours:.2f}"
        print(f"| {name}, {direction} | {times} | {naive / ours:,.0f}× | {course / ours:.1f}× |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=nnkit.get_num_threads())
    parser.add_argument("--repeats", type=int, default=100)
    options = parser.parse_args()
    nnkit.set_num_threads(options.threads)
    np.random.seed(231)
    print(f"kernels: {kernels.name}, threads: {options.threads}, NumPy {np.__version__}\n")
    print("| layer | naive | course's fast way | nnkit | against naive | against course |")
    print("|---|---:|---:|---:|---:|---:|")
    x, w, b = np.random.randn(100, 3, 31, 31), np.random.randn(25, 3, 3, 3), np.random.randn(25)
    rows(
        "convolution",
        (x, w, b, {"stride": 2, "pad": 1}),
        [
            (layers.conv_forward_naive, layers.conv_backward_naive),
            (fast_layers.conv_forward_im2col, fast_layers.conv_backward_im2col),
            (fast_layers.conv_forward_fast, fast_layers.conv_backward_fast),
        ],
        options.repeats,
    )
    rows(
        "max pooling",
        (np.random.randn(100, 3, 32, 32), POOL),
        [
            (layers.max_pool_forward_naive, layers.max_pool_backward_naive),
            (reshape_pool_forward, reshape_pool_backward),
            (fast_layers.max_pool_forward_fast, fast_layers.max_pool_backward_fast),
        ],
        options.repeats,
    )


if __name__ == "__main__":
    main()
