"""A pool of buffers, so that a training step reuses the arrays of the step before.

A fresh array of tens of megabytes costs more in page faults than the arithmetic done on it. `empty` hands out a
view on a pooled block; when the last view is gone, the block's reference count says so and it is handed out again.
Nothing is ever overwritten while somebody still holds it, so callers need not know that the pool exists.

Sizes change on the way through a net: on the way back its first layers need arrays as large as their outputs, while
the smaller ones of the last layers lie idle. So blocks are cut from larger pieces of memory, and neighbours that are
free become one again. Where that does not help, idle pieces are given back to the system before it is asked for more;
and so is what has not been asked for in a long time, such as the memory of one large batch.
"""

import itertools
import math
import os
import sys
import threading
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import DTypeLike

from nnkit._ext import compiled

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector register
_HUGE = 1 << 21  # bytes: a page of the larger kind on x86-64 and ARM, which NumPy asks Linux for from 4 MiB on
_SMALLEST_POOLED = 1 << 14  # bytes: below this, NumPy's own allocator is as fast
_REFERENCES_WHEN_FREE = 2  # the pool's and getrefcount's argument
_SPARE = 1 << 24  # bytes that may lie idle: with less, blocks keep their sizes, and there is one for each use
_PATIENCE = 1 << 14  # requests: many steps of any net, and seconds at most

_lock = threading.Lock()
_requests = 0


class _Block:
    """A part of a chunk; `used` is the number of the last request that got it."""

    __slots__ = ("array", "used")

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.used = _requests

    def is_free(self) -> bool:
        return sys.getrefcount(self.array) == _REFERENCES_WHEN_FREE


class _Chunk:
    """Memory from the system, cut into blocks that lie side by side."""

    def __init__(self, capacity: int) -> None:
        self.memory = memoryview(aligned(capacity, np.uint8))  # type: ignore[arg-type]
        self.blocks = self._blocks(0, capacity)

    def runs(self) -> Iterator[list[_Block]]:
        """Yield the free blocks, neighbours together."""
        for free, run in itertools.groupby(self.blocks, _Block.is_free):
            if free:
                yield list(run)

    def cut(self, run: list[_Block], capacity: int) -> _Block:
        """Make two of these neighbours, and return the first."""
        index = self.blocks.index(run[0])
        start = _bytes(self.blocks[:index])
        self.blocks[index : index + len(run)] = self._blocks(start, capacity, _bytes(run) - capacity)
        _forget(run)
        return self.blocks[index]

    def _blocks(self, start: int, *sizes: int) -> list[_Block]:
        """Return new blocks from `start` on, known to the pool, one for each size but 0."""
        made = []
        for size in filter(None, sizes):
            block = _Block(np.frombuffer(self.memory[start : start + size], np.uint8))
            _by_size.setdefault(size, []).append(block)
            made.append(block)
            start += size
        return made


_chunks: list[_Chunk] = []
_by_size: dict[int, list[_Block]] = {}  # all blocks, by their bytes


def empty(shape: int | tuple[int, ...], dtype: DTypeLike = np.float32) -> np.ndarray:
    """Return an uninitialised C-contiguous array, on reused memory where enough is free.

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
    return np.ndarray(shape, dtype, _free_memory(_capacity(nbytes)))


def aligned(size: int, dtype: DTypeLike) -> np.ndarray:
    """Return an array of zeros that begins a cache line, so that no vector has to be loaded from two.

    A large one begins a huge page: the processor remembers where some thousands of pages are, too few for a step of
    training in pages of 4 KiB.

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
    alignment = _HUGE if size * dtype.itemsize > 2 * _HUGE else _ALIGNMENT
    raw = np.zeros(size * dtype.itemsize + alignment, np.uint8)  # the system's own zeros cost nothing until used
    start = -raw.ctypes.data % alignment
    # Were it a slice of `raw`, views would have that for a base; a memoryview in between hides it.
    hidden = memoryview(raw)[start : start + size * dtype.itemsize]  # type: ignore[arg-type]
    return np.frombuffer(hidden, dtype)


def clear() -> None:
    """Give the pool's unused memory and this thread's scratch memory back to the system.

    What is still in use is freed when its holder lets go; until then it keeps the whole piece that it was cut from.
    """
    with _lock:
        _chunks.clear()
        _by_size.clear()
    if compiled is not None:
        compiled.release_scratch()


def pooled_bytes() -> int:
    """Return how many bytes the pool holds, used and unused.

    Returns
    -------
    int
    """
    with _lock:
        return sum(_bytes(chunk.blocks) for chunk in _chunks)


def _renew_lock() -> None:
    """Start a forked child with a free lock: a thread that it does not have may have held the parent's."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def _capacity(nbytes: int) -> int:
    """Round up to an eighth of the next lower power of two, so that nearly equal sizes share blocks."""
    step = 1 << max(nbytes.bit_length() - 4, 12)
    return -(-nbytes // step) * step


def _bytes(blocks: Iterable[_Block]) -> int:
    return sum(block.array.size for block in blocks)


def _free_memory(capacity: int) -> np.ndarray:
    global _requests
    with _lock:
        _requests += 1
        if _requests % _PATIENCE == 0:
            _drop([chunk for chunk in _idle() if _last_use(chunk) <= _requests - _PATIENCE])
        for block in _by_size.get(capacity, ()):
            if block.is_free():
                break
        else:
            block = _new_block(capacity)
        block.used = _requests
        return block.array


def _new_block(capacity: int) -> _Block:
    """Cut a block from free memory, the smallest piece that is large enough, or get a new one from the system."""
    runs = [(_bytes(run), chunk, run) for chunk in _chunks for run in chunk.runs()]
    if sum(size for size, _, _ in runs) > _SPARE:
        fitting = [piece for piece in runs if piece[0] >= capacity]
        if fitting:
            _, chunk, run = min(fitting, key=lambda piece: piece[0])
            return chunk.cut(run, capacity)
        _make_room(capacity)
    _chunks.append(_Chunk(capacity))
    return _chunks[-1].blocks[0]


def _make_room(capacity: int) -> None:
    """Give back as much idle memory as is about to be asked for, what was used last at the end."""
    dropped = 0
    for chunk in sorted(_idle(), key=_last_use):
        if dropped >= capacity:
            break
        dropped += _bytes(chunk.blocks)
        _drop([chunk])


def _idle() -> list[_Chunk]:
    return [chunk for chunk in _chunks if all(block.is_free() for block in chunk.blocks)]


def _last_use(chunk: _Chunk) -> int:
    return max(block.used for block in chunk.blocks)


def _drop(chunks: list[_Chunk]) -> None:
    for chunk in chunks:
        _chunks.remove(chunk)
        _forget(chunk.blocks)


def _forget(blocks: Iterable[_Block]) -> None:
    for block in blocks:
        same = _by_size[block.array.size]
        same.remove(block)
        if not same:
            del _by_size[block.array.size]
