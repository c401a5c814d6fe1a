import gc
import itertools
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from nnkit._ext import compiled, memory
from nnkit.layers import BatchNorm, Conv2d, CrossEntropyLoss, Dropout, Flatten, Linear, MaxPool2d, ReLU
from nnkit.models import Residual, Sequential, resnet18
from nnkit.optim import Adam

LARGE = (64, 1000)


@pytest.fixture(autouse=True)
def empty_pool():
    memory.clear()
    yield
    memory.clear()


def resident_bytes():
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pytest.skip("this system has no /proc/self/statm")


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


@pytest.mark.parametrize("size", [0, 1, 1000, 600_000])
def test_aligned_arrays_are_the_base_of_their_views(size):
    array = memory.aligned(size, np.float64)
    assert array.shape == (size,)
    assert array.dtype == np.float64
    assert array.flags.writeable
    assert address(array) % (1 << 21 if size > 1000 else 64) == 0  # a large one begins a huge page
    assert array[:size].reshape(1, size).base is array


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


def bytes_in_use():
    return sum(block.array.size for chunk in memory._chunks for block in chunk.blocks if not block.is_free())


def test_a_free_block_is_cut_and_its_parts_become_one_again(monkeypatch):
    monkeypatch.setattr(memory, "_SPARE", 0)
    whole = address(memory.empty((4, *LARGE)))
    for _ in range(3):
        parts = [memory.empty(LARGE) for _ in range(4)]
        places = sorted(map(address, parts))
        assert places[0] == whole
        assert all(b - a >= parts[0].nbytes for a, b in itertools.pairwise(places))
        assert places[-1] + parts[0].nbytes <= whole + memory.pooled_bytes()
        del parts[1]
        assert address(memory.empty(LARGE)) in places
        parts.clear()
        held = memory.pooled_bytes()
        assert address(memory.empty((4, *LARGE))) == whole
        assert memory.pooled_bytes() == held


def test_the_smallest_piece_that_is_large_enough_is_cut(monkeypatch):
    monkeypatch.setattr(memory, "_SPARE", 0)
    pieces = [memory.empty((count, *LARGE)) for count in (8, 3, 5)]
    middle = address(pieces[1])
    pieces.clear()
    assert address(memory.empty((2, *LARGE))) == middle


def test_a_little_idle_memory_is_left_as_it_is():
    small, large = memory.empty(LARGE), memory.empty((2, *LARGE))
    place = address(large)
    del small, large
    assert [address(memory.empty((2, *LARGE))) for _ in range(2)] == [place] * 2
    held = memory.pooled_bytes()
    memory.empty((4, *LARGE))
    assert memory.pooled_bytes() >= held + 4 * 256_000  # neither given back nor put together


def test_idle_memory_is_given_back_before_more_is_asked_for():
    held = memory.empty((1000, 1000))
    held[...] = 7
    idle = [memory.empty((1000, 1000)) for _ in range(9)]
    del idle
    memory.empty((9, 1000, 1000))
    assert memory.pooled_bytes() < 11 * held.nbytes
    assert (held == 7).all()


def test_cut_blocks_never_overlap(monkeypatch, rng):
    monkeypatch.setattr(memory, "_SPARE", 1 << 18)
    held = []
    for mark in range(3000):
        array = memory.empty(int(rng.integers(5_000, 200_000)))
        array[...] = mark
        held.append((mark, array[:: int(rng.integers(1, 9))]))
        del array
        while len(held) > rng.integers(20):
            mark, view = held.pop(int(rng.integers(len(held))))
            assert (view == mark).all()
    assert all(sum(block.array.size for block in chunk.blocks) == len(chunk.memory) for chunk in memory._chunks)
    assert sum(map(len, memory._by_size.values())) == sum(len(chunk.blocks) for chunk in memory._chunks)


def test_a_step_holds_little_more_than_it_uses_and_asks_for_nothing_new(monkeypatch):
    monkeypatch.setattr(memory, "_SPARE", 1 << 17)
    used, pooled, empty = [], [], memory.empty

    def watched(*args):
        array = empty(*args)
        used.append(bytes_in_use())
        pooled.append(memory.pooled_bytes())
        return array

    monkeypatch.setattr(memory, "empty", watched)
    model = resnet18(10, widths=(8, 16, 32, 64))
    model.build((3, 32, 32))
    x = np.random.default_rng(0).standard_normal((8, 3, 32, 32), np.float32)

    def step():
        model.backward(np.ones_like(model.forward(x, training=True)), input_gradient=False)

    step()
    step()
    assert max(pooled) < 1.1 * max(used)  # 1.3 with blocks that keep their sizes
    chunks = list(memory._chunks)
    step()
    assert memory._chunks == chunks


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


def test_buffers_that_nobody_asks_for_any_more_are_given_back(monkeypatch):
    monkeypatch.setattr(memory, "_PATIENCE", 50)
    held = memory.empty((1000, 1000))
    held[...] = 7
    large = [memory.empty((1000, 999)) for _ in range(3)]
    del large
    assert memory.pooled_bytes() > 4 * 3_900_000
    for _ in range(100):
        memory.empty(LARGE)
    assert held.nbytes <= memory.pooled_bytes() < held.nbytes + 1_000_000
    assert (held == 7).all()
    assert not np.shares_memory(held, memory.empty((1000, 1000)))


SCRATCH = """
import os
import numpy as np
from nnkit._ext import kernels, memory

def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

# A convolution packs its weights in scratch memory, on the way back in any case: here 38 MB.
dout, weight = np.ones((1, 1, 1, 1024), np.float32), np.ones((1024, 1024, 3, 3), np.float32)
dx = np.empty((1, 3, 3, 1024), np.float32)
for _ in range(2):
    kernels.conv2d_backward_input(dout, weight, dx, (2, 2), (0, 0))
    assert (dx == 1024).all()
    before = resident_bytes()
    memory.clear()
    assert resident_bytes() < before - 30_000_000
memory.clear()  # nothing there: fine
"""


def test_clear_gives_the_scratch_memory_back():
    if compiled is None:
        pytest.skip("the compiled kernels are not installed")
    # In a process of its own: in one that has freed much before, the C library keeps the block for later.
    subprocess.run([sys.executable, "-c", SCRATCH], check=True)


def test_a_thousand_steps_take_no_more_memory_than_twenty():
    block = Residual(Sequential(Conv2d(16, 3, padding=1), BatchNorm()), activation=ReLU())
    head = MaxPool2d(2), Dropout(0.3), Flatten(), Linear(10)
    model, loss = Sequential(Conv2d(16, 3, padding=1), BatchNorm(), ReLU(), block, *head), CrossEntropyLoss()
    model.build((3, 12, 12))
    optimizer, rng = Adam(), np.random.default_rng(0)
    x, y = rng.standard_normal((16, 3, 12, 12), np.float32), rng.integers(10, size=16)

    def steps(count):
        for _ in range(count):
            loss.forward(model.forward(x, training=True), y)
            model.backward(loss.backward(), input_gradient=False)
            optimizer.step(model.flat_params, model.flat_grads)
        gc.collect()
        return memory.pooled_bytes(), resident_bytes()

    pooled, resident = steps(20)
    assert steps(1000)[0] <= pooled
    assert resident_bytes() < resident + (1 << 20)
