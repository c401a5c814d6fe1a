"""A pool of buffers, so that a training step reuses the arrays of the step before.

A fresh array of tens of megabytes costs more in page faults than the arithmetic done on it. `empty` hands out a
view on a pooled buffer; when the last view is gone, the buffer's reference count says so and it is handed out again.
Nothing is ever overwritten while somebody still holds it, so callers need not know that the pool exists. What has not
been asked for in a long time, such as the buffers of one large batch, is given back to the system.
"""

import math
import os
import sys
import threading

import numpy as np
from numpy.typing import DTypeLike

from nnkit._ext import compiled

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector register
_SMALLEST_POOLED = 1 << 14  # bytes: below this, NumPy's own allocator is as fast
_REFERENCES_WHEN_FREE = 2  # the pool's and getrefcount's argument
_PATIENCE = 1 << 14  # requests: many steps of any net, and seconds at most

_lock = threading.Lock()
_requests = 0


class _Buffer:
    __slots__ = ("array", "used")

    def __init__(self, array: np.ndarray, used: int) -> None:
        self.array = array
        self.used = used  # the number of the last request that got it


_buffers: dict[int, list[_Buffer]] = {}  # capacity in bytes -> buffers of that capacity


def empty(shape: int | tuple[int, ...], dtype: DTypeLike = np.float32) -> np.ndarray:
    """Return an uninitialised C-contiguous array, on a reused buffer where one of its size is free.

    Parameters
    ----------
    shape : int or tuple of int
    dtype : data-type, default float32

    Returns
    -------
    ndarray of the given shape, aligned to 64 bytes when larger than 16 KiB

    Examples
    --------
    >>> from nnkit._ext import memory
    >>> memory.empty((64, 100)).shape
    (64, 100)
    """
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape if isinstance(shape, tuple) else (shape,)) * dtype.itemsize
    if nbytes < _SMALLEST_POOLED:
        return np.empty(shape, dtype)
    buffer = _free_buffer(_capacity(nbytes))
    return np.ndarray(shape, dtype, buffer)


def aligned(size: int, dtype: DTypeLike) -> np.ndarray:
    """Return an array of zeros that begins a cache line, so that no vector has to be loaded from two.

    It is not of the pool, and itself the base of all views on it.

    Parameters
    ----------
    size : int
    dtype : data-type

    Returns
    -------
    ndarray of shape (size,)
    """
    dtype = np.dtype(dtype)
    raw = np.zeros(size * dtype.itemsize + _ALIGNMENT, np.uint8)  # the system's own zeros cost nothing until used
    start = -raw.ctypes.data % _ALIGNMENT
    # Were it a slice of `raw`, views would have that for a base; a memoryview in between hides it.
    hidden = memoryview(raw)[start : start + size * dtype.itemsize]  # type: ignore[arg-type]
    return np.frombuffer(hidden, dtype)


def clear() -> None:
    """Give the pool's unused buffers and this thread's scratch memory back to the system.

    Buffers still in use are freed when their holder lets go.
    """
    with _lock:
        _buffers.clear()
    if compiled is not None:
        compiled.release_scratch()


def pooled_bytes() -> int:
    """Return how many bytes the pool holds, used and unused.

    Returns
    -------
    int
    """
    with _lock:
        return sum(capacity * len(buffers) for capacity, buffers in _buffers.items())


def _renew_lock() -> None:
    """Start a forked child with a free lock: a thread that it does not have may have held the parent's."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def _capacity(nbytes: int) -> int:
    """Round up to an eighth of the next lower power of two, so that nearly equal sizes share buffers."""
    step = 1 << max(nbytes.bit_length() - 4, 12)
    return -(-nbytes // step) * step


def _free_buffer(capacity: int) -> np.ndarray:
    global _requests
    with _lock:
        _requests += 1
        if _requests % _PATIENCE == 0:
            _drop_unused()
        buffers = _buffers.get(capacity)
        if buffers is None:
            buffers = _buffers[capacity] = []
        for buffer in buffers:
            if sys.getrefcount(buffer.array) == _REFERENCES_WHEN_FREE:
                buffer.used = _requests
                return buffer.array
        buffers.append(_Buffer(aligned(capacity, np.uint8), _requests))
        return buffers[-1].array


def _drop_unused() -> None:
    """Forget the buffers that nobody holds and nobody got since the last time."""
    for capacity, buffers in list(_buffers.items()):
        buffers[:] = [
            buffer
            for buffer in buffers
            if buffer.used > _requests - _PATIENCE or sys.getrefcount(buffer.array) > _REFERENCES_WHEN_FREE
        ]
        if not buffers:
            del _buffers[capacity]
