"""The sides of a comparison of single operations: each in a process of its own, and asked in turn.

A side is the benchmark's own file, which `workers.Worker` starts with a job as its argument: {"side": "torch"}.
Questions and answers are lines of JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from workers import TUNED_ALLOCATOR, Worker

SETTLE = 0.02  # seconds in which the other side's spinning threads go to sleep
SAMPLE = 2e-4  # seconds that one measurement lasts at least: many times what reading the clock costs


class Side(Worker):
    """A process that answers the questions put to one side; PyTorch's always has the tuned allocator."""

    def __init__(self, script: str, side: str, threads: int) -> None:
        super().__init__(script, {"side": side}, threads, TUNED_ALLOCATOR if side == "torch" else None)

    def ask(self, **question: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()
        answer = self.answer()
        time.sleep(SETTLE)
        return answer


def serve(answer: Callable[..., dict[str, Any]]) -> None:
    """Be a side: answer questions until there are no more."""
    side = json.loads(sys.argv[1])["side"]
    out = os.fdopen(os.dup(1), "w")  # what a library prints shall not get in between
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            message = answer(side, **json.loads(line))
        except Exception as error:
            message = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(message), file=out, flush=True)


def seconds_per_call(call: Callable[[], Any], budget: float, threads: int) -> float:
    """Time a call again and again for `budget` seconds, once at least, and return the lower quartile.

    A disturbed measurement is a long one. One thread is timed in CPU time, which other processes disturb least; several
    on the wall clock. Calls that are short for a clock are timed in groups.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    call()
    start = clock()
    call()
    first = clock() - start
    group = max(1, round(SAMPLE / max(first, 1e-7)))
    times = [first] if group == 1 else []
    end = time.perf_counter() + budget
    while not times or time.perf_counter() < end:
        start = clock()
        for _ in range(group):
            call()
        times.append((clock() - start) / group)
    return float(np.quantile(times, 0.25))
