"""What this machine can do at most, measured with loops that have nothing to do with nnkit: FMA peak and bandwidth.

    python benchmarks/peaks.py [--threads N] [--json]

The loops are in `peaks.c`, compiled for this processor when they are needed; nnkit's users need no compiler.
"""

import argparse
import ctypes
import functools
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

FLAGS = ["-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", "-w"]
LOOPS = {"copy": 2, "scale": 2, "triad": 3}  # name -> arrays that it moves
REPEATS = 20


@functools.cache
def library() -> ctypes.CDLL | None:
    """Compile and load the loops; None where no C compiler can be found or it fails."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peaks.so"
        command = [*compiler.split(), *FLAGS, str(Path(__file__).with_suffix(".c")), "-o", str(path)]
        try:
            subprocess.run(command, check=True, capture_output=True)
            loaded = ctypes.CDLL(str(path))
        except (OSError, subprocess.CalledProcessError):
            return None
    loaded.fma_operations.restype = ctypes.c_double
    loaded.fma_rounds.argtypes = [ctypes.c_ssize_t, ctypes.c_float, ctypes.c_float]
    for name in LOOPS:
        arguments = [ctypes.c_void_p] * 3 + [ctypes.c_ssize_t] * 2
        getattr(loaded, f"stream_{name}").argtypes = arguments
    return loaded


def fma_peak(threads: int = 1, rounds: int = 1_000_000) -> float | None:
    """Return the most GFLOP/s of so many threads, each with multiply-adds that stay in its registers."""
    loops = library()
    if loops is None:
        return None
    seconds = fastest(lambda thread: loops.fma_rounds(rounds, 0.999, 0.001), threads)
    return threads * rounds * loops.fma_operations() / seconds / 1e9


def bandwidth(array_bytes: int, threads: int = 1, moved_bytes: int = 1 << 27) -> dict[str, float] | None:
    """Return the GB/s of each loop on arrays of this size, cut among the threads; what is read and written counts.

    A cache line that a store fetches before it is overwritten does not count, so these are figures to compare kernels
    with, not the traffic that the memory sees.
    """
    loops = library()
    if loops is None:
        return None
    size = array_bytes // 4 // threads
    arrays = [[np.full(size, i, np.float32) for i in range(3)] for _ in range(threads)]
    rates = {}
    for name, count in LOOPS.items():
        times = max(1, moved_bytes // (count * array_bytes))
        loop = getattr(loops, f"stream_{name}")

        def work(thread: int, loop: Callable[..., None] = loop, times: int = times) -> None:
            loop(*(array.ctypes.data for array in arrays[thread]), size, times)

        rates[name] = times * count * 4 * size * threads / fastest(work, threads) / 1e9
    return rates


def fastest(work: Callable[[int], object], threads: int) -> float:
    """The shortest wall-clock time in which each thread does its work once; ctypes lets go of Python's lock."""
    times = []
    for _ in range(REPEATS):
        others = [threading.Thread(target=work, args=(i,)) for i in range(1, threads)]
        start = time.perf_counter()
        for other in others:
            other.start()
        work(0)
        for other in others:
            other.join()
        times.append(time.perf_counter() - start)
    return min(times)


def cache_sizes() -> dict[str, int]:
    """Return the bytes of each data cache that the first core sees, as Linux tells them; none elsewhere."""
    sizes = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            sizes[f"L{level}"] = int(size.rstrip("KM")) << (20 if size.endswith("M") else 10)
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    counts = sorted({1, options.threads})
    facts = {
        "caches": cache_sizes(),
        "fma_gflops": {n: fma_peak(n) for n in counts},
        "gb_per_s": {
            f"{size >> 10} KiB": {n: bandwidth(size, n) for n in counts} for size in (1 << 18, 1 << 22, 1 << 26)
        },
    }
    if options.json:
        print(json.dumps(facts))
        return
    if library() is None:
        raise SystemExit("peaks.py: no C compiler works here, so there is nothing to measure with")
    print("caches:", ", ".join(f"{name} {size >> 10} KiB" for name, size in facts["caches"].items()))
    for n in counts:
        print(f"{n} thread(s): {facts['fma_gflops'][n]:.0f} GFLOP/s in float32")
        for size, rates in facts["gb_per_s"].items():
            print(f"  arrays of {size}:", ", ".join(f"{name} {rate:.0f} GB/s" for name, rate in rates[n].items()))


if __name__ == "__main__":
    main()
