"""A process that takes steps when it is told to, seen from both ends of its pipes.

Each side of a comparison lives in a process of its own, so that neither's threads, allocator or loaded libraries touch
the other's, and both can take turns: while one works, the other sleeps.
"""

import gc
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Whatever the caller's shell says about threads, allocator and kernels, both sides start as they are shipped.
TUNING = (
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "OPENBLAS_",
    "MALLOC_",
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
    "NNKIT_NUM",
    "NNKIT_KER",
)
# glibc then keeps large arrays in its heap, instead of asking for fresh pages each time and giving them back.
TUNED_ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 36),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
# And here it gives everything of 64 KiB and more back to the system at once.
THRIFTY_ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 16),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 16),
    "MALLOC_TOP_PAD_": "0",
}


def shipped_environment() -> dict[str, str]:
    """Return the environment without what would tune a library."""
    return {key: value for key, value in os.environ.items() if not key.startswith(TUNING)}


class WorkerError(Exception):
    """A worker process failed; the message is one line."""


class Worker:
    """The parent's end: start the process, wait until it is ready, have it take steps.

    Parameters
    ----------
    script : str
        A file of this folder, which makes a `Pace`.
    job : dict
        What it is to do; fit for JSON.
    threads : int
    settings : mapping of str to str, optional
        Environment variables that it gets, such as `TUNED_ALLOCATOR`.
    """

    def __init__(
        self, script: str, job: dict[str, Any], threads: int, settings: Mapping[str, str] | None = None
    ) -> None:
        self.name = " ".join([script.removesuffix(".py"), *map(str, job.values())])
        environment = {**shipped_environment(), "OMP_NUM_THREADS": str(threads), **(settings or {})}
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it is open as long as the process runs
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(script)), json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
        )
        self.pid = self._process.pid
        self.first: dict[str, Any] = {}  # the first message

    def answer(self, timeout: float = 600.0) -> dict[str, Any]:
        """Wait for the next message; the first one comes when the worker is ready."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout):
                self.close()
                raise WorkerError(f"{self.name}: no answer within {timeout:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            last = (self._log.read().strip().splitlines() or ["no message"])[-1]
            raise WorkerError(f"{self.name}: ended with status {self._process.wait()}: {last[:300]}")
        message = json.loads(line)
        if "error" in message:
            raise WorkerError(f"{self.name}: {message['error']}")
        self.first = self.first or message
        return message

    def steps(self, count: int, timeout: float = 600.0) -> dict[str, Any]:
        """Have it take so many steps; return the "seconds" of each, and the "peak" of its memory so far in bytes."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"steps": count}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it is dead; `answer` says why
        return self.answer(timeout)

    def close(self) -> None:
        """End the process."""
        if not self._log.closed:
            self._process.kill()
            self._process.communicate()
            self._log.close()


class Pace:
    """The worker's end: `ready`, then `tick` after each step; in between it waits for its turn."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")  # what a library prints shall not get in between
        os.dup2(2, 1)
        self._left = 0
        self._seconds: list[float] = []
        self._last = 0.0

    def ready(self, **message: Any) -> None:
        """Tell that all is set up, and wait for the first turn."""
        gc.collect()
        # The peak of memory is that of the steps, not of the preparations.
        Path("/proc/self/clear_refs").write_text("5")
        self._answer(message)
        self._await_turn()

    def tick(self) -> None:
        """Note that a step is done; at the end of a turn, report and wait for the next."""
        now = time.perf_counter()
        self._seconds.append(now - self._last)
        self._last = now
        self._left -= 1
        if not self._left:
            self._answer({"seconds": self._seconds, "peak": status_bytes("VmHWM")})
            self._await_turn()

    def fail(self, error: BaseException) -> None:
        self._answer(
            {"error": f"{type(error).__name__}: " + (str(error).strip() or "no message").splitlines()[0][:300]}
        )

    def _answer(self, message: dict[str, Any]) -> None:
        print(json.dumps(message), file=self._out, flush=True)

    def _await_turn(self) -> None:
        line = sys.stdin.readline()
        if not line:
            raise SystemExit
        self._left, self._seconds = json.loads(line)["steps"], []
        self._last = time.perf_counter()


def status_bytes(field: str) -> int:
    """Return a line of this process's memory figures: VmRSS is what it has now, VmHWM the most that it had."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {field}")
