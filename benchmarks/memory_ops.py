"""Times every pass that only moves memory against what this machine's memory can do, and against PyTorch.

    python benchmarks/memory_ops.py [--threads N] [--quick] [--only PATTERN] [--json FILE] [--write-docs]

A pass reads some arrays and writes some, each once; their bytes over the time are its GB/s. Beside it stands the best
that plain loops reach on arrays of this size, measured in the same run (`peaks.py`). Arrays of 256 KiB stay in a
second-level cache, of 4 MiB in a third-level cache, of 64 MiB in neither. PyTorch runs in a process of its own, in turn
with nnkit, on channels-last tensors, with an allocator that keeps its memory.
"""

import functools
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import panels
import peaks
import reporting
import sides

from nnkit import functional
from nnkit._ext import kernels

CHANNELS, SIDE = 64, 16  # of the images; one has 64 KiB
CLASSES = 100
SIZES = {"L2": 4, "L3": 64, "memory": 1024}  # images in an array
QUICK_SIZES = {"L2": 1, "L3": 4, "memory": 16}


Call = tuple[Any, ...]  # a function and its arguments


class Arrays:
    """The arrays that passes work on, each made when it is first asked for."""

    def __init__(self, images: int) -> None:
        self._rng = np.random.default_rng(0)
        maps, halves = (images, SIDE, SIDE, CHANNELS), (images, SIDE // 2, SIDE // 2, CHANNELS)
        self.flat = math.prod(maps)
        rows, images = self.flat // CLASSES, max(1, self.flat // 3072)
        self._shapes = dict.fromkeys(("x", "addend", "dout", "out", "dx", "daddend"), maps)
        self._shapes |= {"pooled": halves, "dpooled": halves, "batch": (images, 32, 32, 3)}
        self._shapes |= dict.fromkeys(
            ("mean", "variance", "inverse_std", "weight", "bias", "dweight", "dbias"), (CHANNELS,)
        )
        self._shapes |= dict.fromkeys(("params", "grads", "m", "v"), (self.flat,))
        self._shapes |= dict.fromkeys(("scores", "probabilities", "dscores"), (rows, CLASSES))
        self._shapes |= {"scale": (3,), "offset": (3,)}

    def __getattr__(self, name: str) -> np.ndarray:
        if name not in self._shapes:
            raise AttributeError(f"no array of the name {name!r}")
        array = self._rng.standard_normal(self._shapes[name], np.float32)
        if name in ("variance", "inverse_std", "v"):
            np.abs(array, out=array)
        setattr(self, name, array)
        return array

    @property
    def norm(self) -> tuple[np.ndarray, ...]:
        return self.mean, self.inverse_std, self.weight, self.bias

    @functools.cached_property
    def codes(self) -> np.ndarray:
        return self._rng.integers(0, 4, self.pooled.shape, np.uint8)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        return self._rng.integers(0, CLASSES, len(self.scores))

    @functools.cached_property
    def images(self) -> np.ndarray:
        return self._rng.integers(0, 256, self.batch.shape, np.uint8)

    @functools.cached_property
    def picks(self) -> np.ndarray:
        return self._rng.permutation(len(self.images))

    @functools.cached_property
    def shifts(self) -> np.ndarray:
        return self._rng.integers(-4, 5, len(self.images))

    @functools.cached_property
    def flips(self) -> np.ndarray:
        return self._rng.integers(0, 2, len(self.images), np.uint8)


class Tensors:
    """The same arrays as PyTorch sees them: images are channels-last tensors."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays

    def __getattr__(self, name: str) -> Any:
        import torch

        tensor = torch.from_numpy(getattr(self._arrays, name))
        tensor = tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor
        setattr(self, name, tensor)
        return tensor


# ---- PyTorch's way, where it takes more than one call ----------------------------------------------------------------

WINDOW = (2, 2), (2, 2), (0, 0)


def torch_norm(t: Any, a: Any) -> Any:
    return t.native_batch_norm(a.x, a.weight, a.bias, a.mean, a.variance, False, 0.1, 1e-5)[0]


def torch_norm_act(t: Any, a: Any, activation: str) -> Any:
    """PyTorch has ReLU alone in place."""
    acts = {"identity": lambda x: x, "relu": t.relu_, "gelu": t.nn.functional.gelu, "silu": t.nn.functional.silu}
    return acts[activation](torch_norm(t, a))


def torch_norm_act_backward(t: Any, a: Any, activation: str) -> Any:
    """`out` stands for what the batch norm gave."""
    aten = t.ops.aten
    dout = a.dout
    if activation == "relu":
        dout = aten.threshold_backward(dout, a.out, 0)
    elif activation != "identity":
        dout = getattr(aten, f"{activation}_backward")(dout, a.out)
    running = a.mean, a.variance
    return aten.native_batch_norm_backward(dout, a.x, a.weight, *running, *running, True, 1e-5, [True] * 3)


def torch_pool_backward(t: Any, a: Any) -> Call:
    window = [list(pair) for pair in WINDOW]
    places = t.ops.aten.max_pool2d_with_indices(a.x, *window)[1]
    return t.ops.aten.max_pool2d_with_indices_backward, a.dpooled, a.x, *window, [1, 1], False, places


def torch_loss(t: Any, a: Any) -> Call:
    scores = a.scores.clone().requires_grad_()
    return (lambda: t.autograd.grad(t.nn.functional.cross_entropy(scores, a.labels), scores),)


def torch_update(t: Any, a: Any, rule: str, **settings: float) -> Call:
    params = a.params.clone().requires_grad_()
    params.grad = a.grads
    return (getattr(t.optim, rule)([params], lr=1e-3, fused=True, **settings).step,)


def nnkit_augment(k: Any, *arguments: Any) -> None:
    k.augment(*arguments).finish()


def torch_augment(t: Any, a: Any) -> Any:
    """Without mirroring and shifting, which it cannot do image by image."""
    return t.index_select(a.images, 0, a.picks).float().sub_(0.5).mul_(2.0)


# ---- the passes ------------------------------------------------------------------------------------------------------


class Pass(NamedTuple):
    name: str
    moves: str  # the large arrays that it has to read and write; twice where all must be read before any is written
    nnkit: Callable[[Any, Arrays], Call]
    torch: Callable[[Any, Any], Call]


def flat(*arrays: np.ndarray) -> list[np.ndarray]:
    return [array.reshape(-1) for array in arrays]


def rows(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, array.shape[-1])


def norm_passes(title: str, act: str) -> tuple[Pass, Pass]:
    """Batch norm and an activation, forward (without the statistics) and backward (with the sums)."""
    return (
        Pass(
            f"batch norm{title}",
            "x out",
            lambda k, a: (k.batch_norm_apply, rows(a.x), *a.norm, rows(a.out), act),
            lambda t, a: (torch_norm_act, t, a, act),
        ),
        Pass(
            f"batch norm{title}, backward",
            "dout x dout x dx",
            lambda k, a: (k.batch_norm_backward, rows(a.dout), rows(a.x), *a.norm, rows(a.dx), a.dweight, a.dbias, act),
            lambda t, a: (torch_norm_act_backward, t, a, act),
        ),
    )


def loss(a: Arrays) -> np.ndarray:
    return functional.cross_entropy_backward(1.0, functional.cross_entropy_forward(a.scores, a.labels)[1])


PASSES = (
    Pass("ReLU", "x out", lambda k, a: (k.relu_forward, *flat(a.x, a.out)), lambda t, a: (t.relu, a.x)),
    Pass(
        "ReLU, backward",
        "dout out dx",
        lambda k, a: (k.relu_backward, *flat(a.dout, a.out, a.dx)),
        lambda t, a: (t.ops.aten.threshold_backward, a.dout, a.out, 0),
    ),
    Pass(
        "GELU",
        "x out",
        lambda k, a: (k.gelu_forward, *flat(a.x, a.out), False),
        lambda t, a: (t.nn.functional.gelu, a.x),
    ),
    Pass(
        "GELU, backward",
        "dout x dx",
        lambda k, a: (k.gelu_backward, *flat(a.dout, a.x, a.dx), False),
        lambda t, a: (t.ops.aten.gelu_backward, a.dout, a.x),
    ),
    Pass("SiLU", "x out", lambda k, a: (k.silu_forward, *flat(a.x, a.out)), lambda t, a: (t.nn.functional.silu, a.x)),
    Pass(
        "SiLU, backward",
        "dout x dx",
        lambda k, a: (k.silu_backward, *flat(a.dout, a.x, a.dx)),
        lambda t, a: (t.ops.aten.silu_backward, a.dout, a.x),
    ),
    Pass(
        "sum + ReLU",
        "x addend out",
        lambda k, a: (k.add, *flat(a.x, a.addend, a.out), True),
        lambda t, a: (lambda: t.relu_(a.x + a.addend),),
    ),
    Pass(
        "batch norm, statistics",
        "x",
        lambda k, a: (k.batch_norm_statistics, rows(a.x), a.dweight, a.dbias),
        lambda t, a: (t.ops.aten.batch_norm_update_stats, a.x, a.dweight, a.dbias, 0.1),
    ),
    *norm_passes("", "identity"),
    *norm_passes(" + ReLU", "relu"),
    *norm_passes(" + GELU", "gelu"),
    *norm_passes(" + SiLU", "silu"),
    Pass(
        "batch norm + sum + ReLU",
        "x addend out",
        lambda k, a: (k.batch_norm_apply, rows(a.x), *a.norm, rows(a.out), "relu", rows(a.addend)),
        lambda t, a: (lambda: t.relu_(torch_norm(t, a).add_(a.addend)),),
    ),
    Pass(
        "max pool 2×2",
        "x pooled codes",
        lambda k, a: (k.max_pool2d_forward, a.x, a.pooled, a.codes, *WINDOW),
        lambda t, a: (t.ops.aten.max_pool2d_with_indices, a.x, [2, 2], [2, 2]),
    ),
    Pass(
        "ReLU + max pool 2×2",
        "x pooled codes",
        lambda k, a: (k.max_pool2d_forward, a.x, a.pooled, a.codes, *WINDOW, True),
        lambda t, a: (lambda: t.ops.aten.max_pool2d_with_indices(t.relu(a.x), [2, 2], [2, 2]),),
    ),
    Pass(
        "max pool 2×2, backward",
        "dpooled codes dx",
        lambda k, a: (k.max_pool2d_backward, a.dpooled, a.codes, a.dx, *WINDOW),
        torch_pool_backward,
    ),
    Pass("cross-entropy, both ways", "scores probabilities probabilities dscores", lambda k, a: (loss, a), torch_loss),
    Pass(
        "SGD with momentum",
        "params grads m params m",
        lambda k, a: (k.sgd_step, a.params, a.grads, a.m, 1e-3, 0.9, 0.0, False),
        lambda t, a: torch_update(t, a, "SGD", momentum=0.9),
    ),
    Pass(
        "AdaGrad",
        "params grads v params v",
        lambda k, a: (k.rmsprop_step, a.params, a.grads, a.v, None, 1e-3, 1.0, 1.0, 1e-10, 0.0, 0.0),
        lambda t, a: torch_update(t, a, "Adagrad"),
    ),
    Pass(
        "Adam",
        "params grads m v params m v",
        lambda k, a: (k.adam_step, a.params, a.grads, a.m, a.v, 10, 1e-3, 0.9, 0.999, 1e-8, 0.0, False),
        lambda t, a: torch_update(t, a, "Adam"),
    ),
    Pass(
        "pick, mirror, shift, normalise",
        "images batch",
        lambda k, a: (nnkit_augment, k, a.images, a.picks, a.flips, *[a.shifts] * 4, 0, a.scale, a.offset, a.batch),
        lambda t, a: (torch_augment, t, a),
    ),
)


# ---- measuring -------------------------------------------------------------------------------------------------------

arrays_of = functools.lru_cache(maxsize=1)(Arrays)


def answer(side: str, name: str, images: int, budget: float, threads: int) -> dict[str, float]:
    """Time one pass of one side; tell how many bytes it had to move."""
    chosen = next(p for p in PASSES if p.name == name)
    arrays = arrays_of(images)
    if side == "nnkit":
        call = chosen.nnkit(kernels, arrays)
    else:
        import torch

        call = chosen.torch(torch, Tensors(arrays))
    seconds = sides.seconds_per_call(functools.partial(*call), budget, threads)
    return {"seconds": seconds, "bytes": sum(getattr(arrays, moved).nbytes for moved in chosen.moves.split())}


def measure(
    chosen: list[Pass], sizes: dict[str, int], threads: int, budget: float, rounds: int
) -> Iterator[dict[str, Any]]:
    """Yield one record for each pass and size; of each side, the fastest round counts."""
    names = ["nnkit"] + (["torch"] if reporting.has_torch() else [])
    workers = {name: sides.Side(Path(__file__).name, name, threads) for name in names}
    try:
        for size, images in sizes.items():
            for p in chosen:
                reporting.progress(f"{size}: {p.name}")
                seconds = dict.fromkeys(names, math.inf)
                for _ in range(rounds):
                    for name in names:
                        found = workers[name].ask(name=p.name, images=images, budget=budget, threads=threads)
                        seconds[name] = min(seconds[name], found["seconds"])
                yield {
                    "pass": p.name,
                    "size": size,
                    "bytes": found["bytes"],
                    "microseconds": {name: 1e6 * time for name, time in seconds.items()},
                    "gb_per_s": {name: found["bytes"] / time / 1e9 for name, time in seconds.items()},
                }
    finally:
        for worker in workers.values():
            worker.close()


# ---- showing ---------------------------------------------------------------------------------------------------------


def lines_of(
    records: list[dict[str, Any]], sizes: dict[str, int], stream: dict[str, dict[str, float] | None], conditions: str
) -> list[str]:
    """Return the Markdown: the loops' bandwidth, then every pass."""
    caches = ", ".join(f"{name} {size >> 10:,} KiB" for name, size in peaks.cache_sizes().items())
    lines = [f"{conditions} Caches of a core: {caches or 'not known'}.", ""]
    lines += ["| arrays | copy, GB/s | scale | triad |", "|---|--:|--:|--:|"]
    for size, images in sizes.items():
        loops = stream[size]
        cells = [f"{loops[name]:.0f}" for name in peaks.LOOPS] if loops else ["no C compiler", "", ""]
        lines.append(f"| {kib(images)} ({size}) | {' | '.join(cells)} |")
    head = " | ".join(f"{kib(images)}: nnkit, µs | PyTorch, µs | GB/s, of the best loop" for images in sizes.values())
    lines += ["", f"| pass | {head} |", "|---|" + "--:|" * 3 * len(sizes)]
    for name in dict.fromkeys(r["pass"] for r in records):
        cells = [cell for r in records if r["pass"] == name for cell in cells_of(r, stream[r["size"]])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def cells_of(r: dict[str, Any], loops: dict[str, float] | None) -> list[str]:
    ours, theirs = r["microseconds"]["nnkit"], r["microseconds"].get("torch")
    share = f" ({r['gb_per_s']['nnkit'] / max(loops.values()):.0%})" if loops else ""
    against = f"{theirs:,.0f} ({theirs / ours:.2f}×)" if theirs else ""
    return [f"{ours:,.0f}", against, f"{r['gb_per_s']['nnkit']:,.0f}{share}"]


def kib(images: int) -> str:
    size = images * SIDE * SIDE * CHANNELS * 4
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        sides.serve(answer)
        return
    parser = reporting.parser(__doc__)
    parser.add_argument("--only", default="", metavar="PATTERN", help="only passes whose name matches, such as pool")
    options = parser.parse_args()
    chosen = [p for p in PASSES if re.search(options.only, p.name)]
    if not chosen:
        parser.error(f"--only {options.only!r}: matches no pass; there are {', '.join(p.name for p in PASSES)}")
    sizes, budget, rounds = (QUICK_SIZES, 0.005, 1) if options.quick else (SIZES, 0.08, 2)
    stream = {size: peaks.bandwidth(images << 16, options.threads) for size, images in sizes.items()}
    records, idle = reporting.measure_when_idle(
        lambda: list(measure(chosen, sizes, options.threads, budget, rounds)), options
    )
    lines = lines_of(records, sizes, stream, reporting.conditions(options, idle))
    figures = {"idle": idle, "threads": options.threads, "loops_gb_per_s": stream, "records": records}
    titles = {size: f"{kib(images)} ({size})" for size, images in sizes.items()}
    alt = "Dots: GB/s of each pass over memory, nnkit and PyTorch, for arrays of three sizes"
    reporting.finish(
        "memory_ops", options, lines, figures, lambda path: panels.memory_chart(path, records, stream, titles), alt
    )


if __name__ == "__main__":
    reporting.run(main)
