"""Times the convolutions and matrix products of six nets against the machine's peak and PyTorch, and checks them.

    python benchmarks/kernels.py [--threads N] [--quick] [--only PATTERN] [--json FILE] [--write-docs]

For every layer of the nets in `nets.py`, and each pass that training needs: effective GFLOP/s (the operations of direct
convolution over the time, so that Winograd's may exceed the peak) of each algorithm and of PyTorch in its best memory
layout, and the worst error of each against float64. Packing or transforming the weights is part of the time. PyTorch
runs in a process of its own, in turn with nnkit, with an allocator that keeps its memory.
"""

import functools
import itertools
import math
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nets
import numpy as np
import panels
import peaks
import reporting
import sides

from nnkit import layers
from nnkit._ext import kernels, reference

PASSES = ("forward", "backward_input", "backward_weight")
ALGORITHMS = ("direct", "winograd2", "winograd4")
LAYOUTS = ("contiguous", "channels_last")  # PyTorch's; for Linear: the weight as PyTorch has it, and transposed
ERROR_IMAGES = 16  # so many images of an output are compared with float64; of a weight's gradient, always all


class Conv(NamedTuple):
    """A convolution of square images; for a Linear layer, an image is one pixel of many channels."""

    batch: int
    channels: int
    size: int
    filters: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    linear: bool = False

    @property
    def label(self) -> str:
        if self.linear:
            return f"{self.channels}→{self.filters}"
        step = f" /{self.stride}" if self.stride > 1 else ""
        return f"{self.channels}→{self.filters} {self.kernel}×{self.kernel}{step} @{self.size}"

    @property
    def out_size(self) -> int:
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def operations(self) -> int:
        return 2 * self.batch * self.out_size**2 * self.filters * self.channels * self.kernel**2

    @property
    def window(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return (self.stride, self.stride), (self.padding, self.padding)

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Return those of x and of the weight, and of the output; images are channels-last."""
        if self.linear:
            return (self.batch, self.channels), (self.filters, self.channels), (self.batch, self.filters)
        x = (self.batch, self.size, self.size, self.channels)
        weight = (self.filters, self.channels, self.kernel, self.kernel)
        return x, weight, (self.batch, self.out_size, self.out_size, self.filters)


class Layer(NamedTuple):
    net: str
    conv: Conv
    count: int  # how many of the kind the net has
    passes: tuple[str, ...]  # those that training needs

    @property
    def label(self) -> str:
        times = f" (×{self.count})" if self.count > 1 else ""
        return f"{self.net}: {self.conv.label}{times}"


def net_layers(quick: bool) -> list[Layer]:
    """Return the different layers of all nets, with smaller batches if it is to be quick."""
    found = []
    for net in nets.NETS.values():
        batch = min(net.batch, 8) if quick else net.batch
        leaves = [leaf for leaf in net.model().leaves() if isinstance(leaf, (layers.Conv2d, layers.Linear))]
        convs = [conv_of(leaf, batch) for leaf in leaves]
        passes = dict.fromkeys(convs, PASSES)
        passes[convs[0]] = PASSES[::2]  # nobody needs the gradient of the images
        passes |= {conv: PASSES[:1] for conv, leaf in zip(convs, leaves, strict=True) if leaf.name == net.frozen}
        found += [Layer(net.title, conv, count, passes[conv]) for conv, count in Counter(convs).items()]
    return found


def conv_of(leaf: layers.Layer, batch: int) -> Conv:
    assert leaf.input_shape is not None
    if isinstance(leaf, layers.Linear):
        return Conv(batch, leaf.input_shape[0], 1, leaf.out_features, linear=True)
    assert isinstance(leaf, layers.Conv2d)
    channels, size, _ = leaf.input_shape
    return Conv(batch, channels, size, leaf.out_channels, leaf.kernel_size[0], leaf.stride[0], leaf.padding[0])


# ---- one pass of one layer, for each side ----------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def inputs(conv: Conv) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x as a ReLU leaves it, a weight scaled for it, and a gradient of the output: the same in every process."""
    rng = np.random.default_rng(conv.operations)
    x, weight, dout = (rng.standard_normal(shape, np.float32) for shape in conv.shapes)
    np.maximum(x, 0, out=x)
    weight *= math.sqrt(2 / math.prod(weight.shape[1:]))
    return x, weight, dout


def operands(which: str, x: Any, weight: Any, dout: Any) -> tuple[Any, Any, Any]:
    """Return what a pass reads, and an array of the shape that it writes."""
    return {"forward": (x, weight, dout), "backward_input": (dout, weight, x), "backward_weight": (x, dout, weight)}[
        which
    ]


def run(kernel_set: Any, conv: Conv, which: str, a: np.ndarray, b: np.ndarray, out: np.ndarray, algorithm: str) -> None:
    """Have a kernel set do one pass."""
    if conv.linear:
        products = {"forward": (a, b.T), "backward_input": (a, b), "backward_weight": (b.T, a)}
        kernel_set.gemm(*products[which], out)
    elif which == "forward":
        kernel_set.conv2d_forward(a, b, None, out, *conv.window, algorithm)
    elif which == "backward_input":
        kernel_set.conv2d_backward_input(a, b, out, *conv.window, algorithm)
    else:
        kernel_set.conv2d_backward_weight(a, b, out, None, *conv.window, algorithm)


def exact(conv: Conv, which: str) -> np.ndarray:
    """Compute one pass in float64 with plain NumPy, some images at a time."""
    total: np.ndarray | None = None
    x, weight, dout = inputs(conv)
    for i in range(0, conv.batch if which == "backward_weight" else 1, ERROR_IMAGES):
        few = slice(i, i + ERROR_IMAGES)
        doubles = (array.astype(np.float64) for array in (x[few], weight, dout[few]))
        a, b, like = operands(which, *doubles)
        out = np.empty_like(like)
        run(reference, conv, which, a, b, out, "direct")
        total = out if total is None else total + out
    assert total is not None
    return total


def nnkit_call(conv: Conv, which: str, algorithm: str) -> tuple[Callable[[], Any], Callable[[], np.ndarray]]:
    """Return what to time, and what gets its result."""
    a, b, like = operands(which, *inputs(conv))
    out = np.empty_like(like)
    return functools.partial(run, kernels, conv, which, a, b, out, algorithm), lambda: out


def torch_call(conv: Conv, which: str, layout: str) -> tuple[Callable[[], Any], Callable[[], np.ndarray]]:
    import torch

    tensors = [torch.from_numpy(array) for array in inputs(conv)]
    if conv.linear:
        return torch_product(which, *tensors, transposed=layout == "channels_last")
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    x, weight, dout = (
        t.contiguous(memory_format=form)
        for t in (tensors[0].permute(0, 3, 1, 2), tensors[1], tensors[2].permute(0, 3, 1, 2))
    )
    if which == "forward":
        forward = functools.partial(torch.conv2d, x, weight, None, conv.stride, conv.padding)
        return forward, lambda: forward().permute(0, 2, 3, 1).numpy()
    wanted = [which == "backward_input", which == "backward_weight", False]
    window = [conv.stride] * 2, [conv.padding] * 2, [1, 1], False, [0, 0], 1
    backward = functools.partial(torch.ops.aten.convolution_backward, dout, x, weight, None, *window, wanted)
    if which == "backward_input":
        return backward, lambda: backward()[0].permute(0, 2, 3, 1).numpy()
    return backward, lambda: backward()[1].numpy()


def torch_product(which: str, x: Any, weight: Any, dout: Any, transposed: bool) -> tuple[Callable[[], Any], Any]:
    """The weight and its gradient may lie transposed in memory; the result goes where it lay before, as with nnkit."""
    import torch

    if transposed:
        weight = weight.t().contiguous().t()
    a, b, like = {"forward": (x, weight.t(), dout), "backward_input": (dout, weight, x)}.get(
        which, (dout.t(), x, weight)
    )
    out = torch.empty_like(like)
    return functools.partial(torch.mm, a, b, out=out), lambda: out.numpy()


def answer(side: str, conv: list[int], which: str, way: str, path: str, budget: float, threads: int) -> dict[str, Any]:
    """Do one job: save the exact result, or time one way of computing it and compare it with that file."""
    if side == "exact":
        np.save(path, exact(Conv(*conv), which))
        return {}
    call, result = (nnkit_call if side == "nnkit" else torch_call)(Conv(*conv), which, way)
    figures = {"seconds": sides.seconds_per_call(call, budget, threads)}
    if path:
        wanted = np.load(path)
        worst = np.abs(result()[: len(wanted)] - wanted).max()
        figures["deviation"] = float(worst / np.abs(wanted).max())
    return figures


# ---- measuring -------------------------------------------------------------------------------------------------------


def algorithm(conv: Conv, which: str, wanted: str = "auto") -> str:
    """Return the algorithm that nnkit takes when `wanted` is asked for."""
    if conv.linear:
        return "direct"
    x, weight, _ = conv.shapes
    return kernels.conv2d_algorithm(which, x, weight, *conv.window, np.float32, wanted)


def measure(chosen: list[Layer], threads: int, budget: float, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield one record for each layer and pass; of each way, the fastest round counts."""
    with tempfile.TemporaryDirectory() as folder:
        names = ["exact", "nnkit"] + (["torch"] if reporting.has_torch() else [])
        workers = {name: sides.Side(Path(__file__).name, name, threads) for name in names}
        try:
            for layer in chosen:
                for which in layer.passes:
                    reporting.progress(f"{layer.label}, {TITLES[which]}")
                    yield record(layer, which, workers, str(Path(folder) / "exact.npy"), threads, budget, rounds)
        finally:
            for worker in workers.values():
                worker.close()


def record(
    layer: Layer, which: str, workers: dict[str, sides.Side], path: str, threads: int, budget: float, rounds: int
) -> dict[str, Any]:
    conv = layer.conv
    question = {"conv": list(conv), "which": which, "threads": threads, "budget": budget}
    workers["exact"].ask(**question, way="", path=path)
    tasks = [("nnkit", name) for name in ALGORITHMS if algorithm(conv, which, name) == name]
    tasks += [("torch", layout) for layout in LAYOUTS if "torch" in workers]
    seconds: dict[str, float] = {}
    errors: dict[str, float] = {}
    for i in range(rounds):
        for side, way in tasks:
            figures = workers[side].ask(**question, way=way, path=path if i == 0 else "")
            name = way if side == "nnkit" else "torch"
            seconds[name] = min(figures["seconds"], seconds.get(name, math.inf))
            errors[name] = max(figures.get("deviation", 0.0), errors.get(name, 0.0))
    return {
        "net": layer.net,
        "layer": layer.label,
        "kind": "linear" if conv.linear else "convolution",
        "batch": conv.batch,
        "count": layer.count,
        "pass": which,
        "auto": algorithm(conv, which),
        "milliseconds": {name: 1e3 * time for name, time in seconds.items()},
        "gflops": {name: conv.operations / time / 1e9 for name, time in seconds.items()},
        "error": errors,
    }


# ---- showing ---------------------------------------------------------------------------------------------------------

NAMES = {"direct": "direct", "winograd2": "F(2×2)", "winograd4": "F(4×4)", "torch": "PyTorch"}
TITLES = {"forward": "forward", "backward_input": "backward, input", "backward_weight": "backward, weight"}


def speed_table(records: list[dict[str, Any]], peak: float | None) -> list[str]:
    names = " | ".join(NAMES[name] for name in ALGORITHMS)
    lines = [
        f"| layer | pass | {names} | PyTorch | auto takes | against PyTorch |",
        "|---|---|--:|--:|--:|--:|---|--:|",
    ]
    for r in records:
        rates, taken = r["gflops"], r["auto"]
        tried = {name: rate for name, rate in rates.items() if name in ALGORITHMS}
        best = max(tried, key=lambda name: tried[name]) if len(tried) > 1 else ""
        texts = {name: f"{rate:,.0f}" + (f" ({rate / peak:.0%})" if peak else "") for name, rate in rates.items()}
        cells = [f"**{texts[name]}**" if name == best else texts.get(name, "") for name in (*ALGORITHMS, "torch")]
        ratio = f"**{rates[taken] / rates['torch']:.2f}×**" if "torch" in rates else ""
        lines.append(f"| {r['layer']} | {TITLES[r['pass']]} | {' | '.join(cells)} | {NAMES[taken]} | {ratio} |")
    return lines


def error_table(records: list[dict[str, Any]]) -> list[str]:
    """Return the range of each algorithm's worst errors over the layers of a kind, pass by pass."""
    lines = [f"| pass | {' | '.join(NAMES.values())} |", "|---|" + "--:|" * len(NAMES)]
    for kind, which in itertools.product(("convolution", "linear"), PASSES):
        own = [r["error"] for r in records if (r["kind"], r["pass"]) == (kind, which)]
        cells = []
        for name in NAMES:
            errors = [found[name] for found in own if name in found]
            cells.append(f"{min(errors):.1e} … {max(errors):.1e}" if errors else "")
        if own:
            lines.append(f"| {kind}, {TITLES[which]} | {' | '.join(cells)} |")
    return lines


def floor_table(records: list[dict[str, Any]], peak: float | None) -> list[str]:
    """Return what the products of one training step take in all, net by net, and what they would at the FMA peak."""
    lines = ["| net | batch | GFLOP | nnkit, ms | PyTorch, ms | at the peak, ms |", "|---|--:|--:|--:|--:|--:|"]
    for net in dict.fromkeys(r["net"] for r in records):
        own = [r for r in records if r["net"] == net]
        work = sum(r["count"] * r["gflops"][r["auto"]] * r["milliseconds"][r["auto"]] for r in own) / 1e3
        ours = sum(r["count"] * r["milliseconds"][r["auto"]] for r in own)
        theirs = sum(r["count"] * r["milliseconds"].get("torch", math.nan) for r in own)
        least = f"{1e3 * work / peak:.2f}" if peak else ""
        lines.append(f"| {net} | {own[0]['batch']} | {work:,.2f} | {ours:,.2f} | {theirs:,.2f} | {least} |")
    return lines


def lines_of(records: list[dict[str, Any]], peaks_found: dict[str, float | None], conditions: str) -> list[str]:
    peak = peaks_found["threads"]
    one = (
        "no C compiler, so no peak was measured"
        if peak is None
        else (f"FMA peak {peak:,.0f} GFLOP/s, of one thread {peaks_found['one']:,.0f}")
    )
    return [
        f"{conditions} {one}.",
        "",
        "The products of one training step together:",
        "",
        *floor_table(records, peak),
        "",
        "Worst error of any element, in parts of the largest, against float64: the best and the worst layer.",
        "",
        *error_table(records),
        "",
        "Effective GFLOP/s, in parentheses as parts of the FMA peak; nnkit's fastest algorithm is in bold, and the "
        "last column is of the one that auto takes:",
        "",
        *speed_table(records, peak),
    ]


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        sides.serve(answer)
        return
    parser = reporting.parser(__doc__)
    parser.add_argument("--only", default="", metavar="PATTERN", help="only layers whose name matches, such as 94%%")
    options = parser.parse_args()
    budget, rounds = (0.01, 1) if options.quick else (0.1, 2)
    chosen = [layer for layer in net_layers(options.quick) if re.search(options.only, layer.label)]
    if not chosen:
        parser.error(f"--only {options.only!r}: matches no layer")
    peak = {"one": peaks.fma_peak(1), "threads": peaks.fma_peak(options.threads)}
    records, idle = reporting.measure_when_idle(lambda: list(measure(chosen, options.threads, budget, rounds)), options)
    lines = lines_of(records, peak, reporting.conditions(options, idle))
    figures = {"idle": idle, "threads": options.threads, "peak_gflops": peak, "records": records}
    alt = "Dots: effective GFLOP/s of every layer's passes, by algorithm, and PyTorch's"
    reporting.finish(
        "kernels", options, lines, figures, lambda path: panels.kernel_chart(path, records, peak["threads"]), alt
    )


if __name__ == "__main__":
    reporting.run(main)
