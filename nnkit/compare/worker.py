"""One training in a process of its own: what it takes of memory is then its own, and a fault ends nothing else."""

import multiprocessing
import os
import signal
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from nnkit import runs
from nnkit._ext import get_num_threads, set_num_threads
from nnkit.callbacks import print_epoch
from nnkit.errors import DivergenceError
from nnkit.recipes import Recipe
from nnkit.signals import raising_on_sigterm
from nnkit.solver import Solver

DIVERGED = "diverged.txt"  # in the run folder: why there are no figures


@dataclass(frozen=True)
class Job:
    """A training.

    Parameters
    ----------
    recipe : Recipe
    folder : Path
        The run's. If it holds a training state, that is gone on with.
    lines : {"stdout", "stderr", ""}
        Where to print a line an epoch.
    download : bool
    """

    recipe: Recipe
    folder: Path
    lines: Literal["stdout", "stderr", ""] = ""
    download: bool = False


def train(job: Job) -> None:
    """Train in another process, and wait for it.

    Parameters
    ----------
    job : Job

    Raises
    ------
    ChildProcessError
        The process was killed.
    KeyboardInterrupt
        Ctrl-C or SIGTERM came; the training's state is saved.
    ValueError, OSError, RuntimeError
        What ended the training. A training that diverges is no error: `diverged.txt` in the folder says so.
    """
    context = multiprocessing.get_context("spawn")
    errors, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, get_num_threads(), sender), daemon=True)
    _start_deaf(process)
    sender.close()
    try:
        process.join()
    except KeyboardInterrupt:
        process.terminate()  # it saves its state
        process.join()
        raise
    finally:
        if process.is_alive():  # at a second Ctrl-C
            process.terminate()
            process.join()
    failure = _received(errors)
    if failure is not None:
        raise failure
    if process.exitcode:
        killed = f"was killed by {signal.Signals(-process.exitcode).name}" if process.exitcode < 0 else "ended early"
        raise ChildProcessError(f"the process of {job.folder} {killed} (is there enough memory?)")


def _start_deaf(process: multiprocessing.process.BaseProcess) -> None:
    """Start a process that ignores Ctrl-C, which a terminal sends to all: this process tells it, in its own time."""
    if threading.current_thread() is not threading.main_thread():
        process.start()
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)


def _received(errors: Connection) -> Exception | None:
    try:
        return errors.recv() if errors.poll() else None
    except EOFError:
        return None


def _work(job: Job, threads: int, errors: Connection) -> None:
    """Be the process."""
    set_num_threads(threads)
    if job.lines == "stderr":
        sys.stdout = sys.stderr
    threading.Thread(target=_end_if_orphaned, daemon=True).start()
    try:
        with raising_on_sigterm():
            runs.train(
                job.recipe,
                job.folder,
                resume=(job.folder / runs.STATE).exists(),
                only_train=True,
                download=job.download,
                callbacks=[_print_epoch] if job.lines else [],
            )
    except KeyboardInterrupt:
        sys.exit(143)
    except DivergenceError as error:
        (job.folder / DIVERGED).write_text(f"{error}\n", encoding="utf-8")
    except Exception as error:
        known = isinstance(error, (ValueError, OSError, MemoryError))
        errors.send(error if known else RuntimeError(f"{type(error).__name__}: {error}"))
        sys.exit(1)


def _print_epoch(solver: Solver) -> None:
    from tqdm import tqdm

    with tqdm.external_write_mode():
        print("  ", end="")
        print_epoch(solver)


def _end_if_orphaned() -> None:
    """End this process, its state saved, when the one that started it was killed: who resumes shall be alone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
