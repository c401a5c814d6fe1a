"""Everything compiled, and its NumPy twin: one set of kernels, chosen once, when this package is imported.

The fastest set that the processor can run is taken; the environment variable NNKIT_KERNELS asks for another one.
"""

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nnkit._ext import reference
from nnkit.errors import UsageError, whole_number

_missing = "missing: no C compiler worked when nnkit was installed"
if Path(__file__).parents[2].joinpath("setup.py").exists():
    _missing = "missing: this is nnkit's source folder, without what an installation compiles (pip install -e .)"
compiled: Any = None
if find_spec("nnkit._ext.compiled"):
    try:
        compiled = import_module("nnkit._ext.compiled")
    except ImportError as error:
        _missing = f"there but cannot be loaded: {error}"

__all__ = [
    "available",
    "cpu_features",
    "get_num_threads",
    "kernel_reason",
    "kernels",
    "load",
    "set_num_threads",
    "sharing_threads",
]

_NAMES = ("avx512", "avx2", "baseline", "reference")


def load(name: str) -> Any:
    """Return the kernel set of this name.

    Parameters
    ----------
    name : {"avx512", "avx2", "baseline", "reference"}

    Returns
    -------
    object with the functions of `nnkit._ext.reference`

    Raises
    ------
    UsageError
        If there is no set of this name, or it does not run here.
    """
    if name not in _NAMES:
        raise UsageError(f"NNKIT_KERNELS: unknown kernel set {name!r}; expected one of {', '.join(_NAMES)}")
    if name == "reference":
        return reference
    if compiled is None:
        raise UsageError(f"NNKIT_KERNELS: kernel set {name!r} asked for, but the compiled kernels are {_missing}")
    try:
        return compiled.KernelSet(name)
    except ValueError as error:
        raise UsageError(f"NNKIT_KERNELS: {error}") from None


def available() -> list[str]:
    """Return the names of the kernel sets that run here, fastest first.

    Returns
    -------
    list of str
    """
    names = []
    for name in _NAMES:
        try:
            load(name)
        except UsageError:
            continue
        names.append(name)
    return names


def cpu_features() -> list[str]:
    """Return the processor features that the kernels know of and found; none without the compiled extension.

    Returns
    -------
    list of str
    """
    return compiled.cpu_features() if compiled is not None else []


def set_num_threads(count: int) -> None:
    """Use `count` threads in the kernels from now on.

    Parameters
    ----------
    count : int
        From 1 to 4096. Results are the same bits with any number. A forked child process always has one. Estimators
        that are at work in several Python threads at the same time share them.

    Raises
    ------
    UsageError
        If count is no whole number, or out of range.
    """
    count = whole_number("set_num_threads: count", count, 1, 4096)
    with _sharing:
        _sharing.threads = count
        _sharing.divide()


def get_num_threads() -> int:
    """Return how many threads the kernels use; 1 if they are not compiled.

    Returns
    -------
    int
    """
    return compiled.get_num_threads() if compiled is not None else 1


class _Sharing:
    """How many Python threads want the kernels for themselves at the moment, and how many threads there are for all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.threads, self.users = 1, 0
        if hasattr(os, "register_at_fork"):  # whoever held the lock or a share is not there in a child
            os.register_at_fork(after_in_child=self._begin_anew)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def divide(self) -> None:
        if compiled is not None:
            compiled.set_num_threads(max(self.threads // max(self.users, 1), 1))

    def _begin_anew(self) -> None:
        self._lock, self.users = threading.Lock(), 0


_sharing = _Sharing()


@contextlib.contextmanager
def sharing_threads() -> Iterator[None]:
    """Divide the kernels' threads among all that are in such a block at the same time, in several Python threads.

    Four trainings that a pool of Python threads runs at once would start four times as many threads as there are
    cores. Results are the same bits with any number, so that the shares may change in the middle of a training.

    Examples
    --------
    >>> import nnkit
    >>> before = nnkit.get_num_threads()
    >>> nnkit.set_num_threads(4)
    >>> with sharing_threads(), sharing_threads():
    ...     nnkit.get_num_threads() <= 2
    True
    >>> nnkit.set_num_threads(before)
    """
    with _sharing:
        _sharing.users += 1
        _sharing.divide()
    try:
        yield
    finally:
        with _sharing:
            _sharing.users -= 1
            _sharing.divide()


def _choose() -> tuple[Any, str]:
    wanted = os.environ.get("NNKIT_KERNELS")
    if wanted:
        try:
            return load(wanted), "chosen by NNKIT_KERNELS"
        except UsageError as error:
            warnings.warn(f"{error}; taking the fastest that runs", RuntimeWarning, stacklevel=1)
    if compiled is None:
        return reference, f"plain NumPy, because the compiled kernels are {_missing}"
    return load(available()[0]), "the fastest that this processor runs"


def _initial_threads() -> int:
    for variable in ("NNKIT_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(variable, "").split(",")[0].strip()
        if text.isdecimal() and 0 < int(text) <= 4096:
            return int(text)
        if text and variable == "NNKIT_NUM_THREADS":
            wrong = f"{variable}: expected a number of threads from 1 to 4096, got {text!r}; taking one a core"
            warnings.warn(wrong, RuntimeWarning, stacklevel=1)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


kernels, kernel_reason = _choose()
set_num_threads(_initial_threads())
