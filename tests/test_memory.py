import gc
import os
import signal
import threading

import numpy as np
import pytest

from nnkit._ext import memory

LARGE = (64, 1000)


@pytest.fixture(autouse=True)
def empty_pool():
    memory.clear()
    yield
    memory.clear()


def address(array):
    return array.__array_interface__["data"][0]


def test_arrays_are_as_asked():
    for shape, dtype in [
        (5, np.float32),
        ((0,), np.float64),
        ((3, 0, 2), np.float32),
        ((), np.float32),
        (LARGE, np.float32),
        ((7, 3000, 3), np.float64),
        ((100_003,), np.uint8),
    ]:
        array = memory.empty(shape, dtype)
        assert array.shape == (shape if isinstance(shape, tuple) else (shape,))
        assert array.dtype == dtype
        assert array.flags.c_contiguous
        assert array.flags.writeable


def test_large_arrays_are_aligned():
    assert all(address(memory.empty((size,), np.float32)) % 64 == 0 for size in (5000, 10_001, 1_000_003))


def test_a_buffer_is_used_again_when_nobody_holds_it():
    first = address(memory.empty(LARGE))
    assert address(memory.empty(LARGE)) == first
    held = memory.empty(LARGE)
    assert memory.pooled_bytes() < 2 * held.nbytes


def test_what_is_held_is_never_handed_out():
    array = memory.empty(LARGE)
    array[...] = 7
    views = [array.T, array[3:5], array.reshape(-1), memoryview(array)]
    del array
    while views:
        assert not np.shares_memory(np.asarray(views[-1]), memory.empty(LARGE))
        assert (np.asarray(views[-1]) == 7).all()
        views.pop()
    gc.collect()
    before = memory.pooled_bytes()
    memory.empty(LARGE)
    assert memory.pooled_bytes() == before


def test_nearly_equal_sizes_share_a_buffer():
    first = address(memory.empty((64, 1000)))
    assert address(memory.empty((64, 1001))) == first


def test_clear_leaves_what_is_held_alone():
    array = memory.empty(LARGE)
    array[...] = 3
    memory.clear()
    assert memory.pooled_bytes() == 0
    memory.empty(LARGE)[...] = 0
    assert (array == 3).all()


def test_threads_do_not_share_a_buffer():
    wrong = []

    def work(mark):
        for _ in range(200):
            array = memory.empty(LARGE)
            array[...] = mark
            if not (array == mark).all():
                wrong.append(mark)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_while_the_pool_is_locked_does_not_hang():
    with memory._lock:
        child = os.fork()
        if not child:
            signal.alarm(10)  # kills a child that waits for ever
            memory.empty(LARGE)
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
