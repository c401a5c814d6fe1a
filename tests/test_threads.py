"""Whole trainings with threads, after a fork, beside each other, and where no thread can be had.

Also a script, for processes that need a main module: `python tests/test_threads.py fork|spawn|limit`.
"""

import gc
import hashlib
import multiprocessing
import os
import subprocess
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import nnkit
from nnkit import _ext
from nnkit._ext import memory
from nnkit.layers import BatchNorm, Conv2d, CrossEntropyLoss, Dropout, Flatten, Linear, MaxPool2d, ReLU
from nnkit.models import Residual, Sequential
from nnkit.optim import SGD

pytestmark = pytest.mark.skipif(_ext.compiled is None, reason="the compiled kernels are not installed")


@pytest.fixture(autouse=True)
def restore_threads():
    before = nnkit.get_num_threads()
    yield
    nnkit.set_num_threads(before)


def small_net():
    block = Residual(Sequential(Conv2d(24, 3, padding=1), BatchNorm()), activation=ReLU())
    head = MaxPool2d(2), Dropout(0.3), Flatten(), Linear(100), ReLU(), Linear(10)
    model = Sequential(Conv2d(24, 3, padding=1, bias=False), BatchNorm(), ReLU(), block, *head)
    model.build((3, 16, 16), seed=1)
    return model


def trained(steps=20):
    """Train a small net with a bit of everything; return a digest of the parameters, statistics and losses."""
    model, loss, rng = small_net(), CrossEntropyLoss(), np.random.default_rng(2)
    optimizer = SGD(0.05, momentum=0.9, nesterov=True)
    losses = []
    for step in range(steps):
        model.reseed((3, step))
        x, y = rng.standard_normal((32, 3, 16, 16), np.float32), rng.integers(10, size=32)
        losses.append(float(loss.forward(model.forward(x, training=True), y)))
        model.backward(loss.backward(), input_gradient=False)
        optimizer.step(model.flat_params, model.flat_grads)
    arrays = [np.array(losses), *model.state_dict().values()]
    assert all(np.isfinite(array).all() for array in arrays)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def test_a_training_is_the_same_bits_with_any_number_of_threads():
    digests = set()
    for count in (1, 2, 3, 5):
        nnkit.set_num_threads(count)
        digests.add(trained())
    assert len(digests) == 1


def test_trainings_in_several_python_threads_do_not_disturb_each_other():
    nnkit.set_num_threads(2)
    alone = trained(5)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: trained(5), range(8))) == {alone}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's list of threads")
def test_the_helpers_of_a_thread_end_with_it():
    def threads():
        return len(list(Path("/proc/self/task").iterdir()))

    gemm, a = _ext.load(_ext.available()[0]).gemm, np.ones((512, 512), np.float32)
    nnkit.set_num_threads(3)
    time.sleep(0.5)  # those of the tests before end, too
    before = threads()
    with ThreadPoolExecutor(2) as pool:
        counts = list(pool.map(lambda _: (gemm(a, a, np.empty_like(a)), threads())[1], range(4)))
    deadline = time.monotonic() + 10
    while threads() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert max(counts) >= before + 3  # a thread and its two helpers
    assert threads() == before


def some_batches(seed=0):
    """A stream of batches whose next one is always begun already."""
    images = np.random.default_rng(seed).integers(0, 256, (300, 32, 32, 3), np.uint8)
    data = nnkit.Dataset(images, np.zeros(300, int), ["one"])
    return nnkit.data.batches(data, 32, augment=nnkit.Augment(flip=True, crop_padding=2), shuffle=True, seed=seed)


def digest(batch):
    return hashlib.sha256(batch[0].tobytes()).hexdigest()


def digests(stream):
    return [*map(digest, stream)]


def work():
    """Regions of threads, and time between them for helpers to go on with a batch."""
    a = np.ones((200, 200), np.float32)
    _ext.load(_ext.available()[0]).gemm(a, a, np.empty_like(a))
    time.sleep(1e-4)


def expected_digests(monkeypatch, *streams):
    """Let NumPy make the batches."""
    with monkeypatch.context() as patch:
        patch.setattr(nnkit.data.batching, "kernels", _ext.reference)
        return tuple(digests(some_batches(seed)) for seed in streams)


def test_helpers_go_on_with_what_is_left_for_later():
    nnkit.set_num_threads(2)
    images, one = np.ones((64, 32, 32, 3), np.uint8), np.ones(3, np.float32)
    kernels, out = _ext.load(_ext.available()[0]), np.empty(images.shape, np.float32)
    for _ in range(5000):  # on a busy machine a helper may not get a core for long
        out.fill(0)
        later = kernels.augment(images, np.arange(64), *[None] * 5, 0, one, one, out)
        work()
        touched = out.any()
        later.finish()
        assert (out == 2).all()
        if touched:
            return
    raise AssertionError("no helper did anything")


def test_a_batch_begun_ahead_is_the_same_bits_whoever_makes_it(monkeypatch):
    (expected,) = expected_digests(monkeypatch, 0)
    for count in (1, 2, 3, 5):
        nnkit.set_num_threads(count)
        found = [(digest(batch), work())[0] for batch in some_batches()]
        assert found == expected


def test_two_streams_of_batches_in_turns(monkeypatch):
    nnkit.set_num_threads(2)
    expected = expected_digests(monkeypatch, 1, 2)
    pairs = zip(some_batches(1), some_batches(2), strict=True)
    found = [(digest(one), work(), digest(other), work())[::2] for one, other in pairs]
    assert tuple(map(list, zip(*found, strict=True))) == expected


def test_a_stream_of_batches_goes_on_in_another_thread_and_may_be_left(monkeypatch):
    nnkit.set_num_threads(2)
    (expected,) = expected_digests(monkeypatch, 0)
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(some_batches).result()
        first = digest(pool.submit(next, stream).result())
    # The thread in which the second batch was begun is no more, nor are its helpers.
    assert [first, *digests(stream)] == expected
    for _ in range(20):
        stream = some_batches()
        next(stream)
        del stream
        work()


def test_a_batch_in_a_cycle_of_garbage_is_let_go():
    nnkit.set_num_threads(2)
    images, one = np.zeros((64, 32, 32, 3), np.uint8), np.ones(3, np.float32)
    kernels = _ext.load(_ext.available()[0])
    for _ in range(20):
        out = np.empty(images.shape, np.float32)
        cycle = [kernels.augment(images, np.arange(64), *[None] * 5, 0, one, one, out)]
        held = weakref.ref(out)
        cycle.append(cycle)
        work()
        del out, cycle
        gc.collect()
        assert held() is None


BEGUN = []


def report(queue):
    queue.put((nnkit.get_num_threads(), trained(3), *map(digests, BEGUN)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_trains_after_its_parent_has(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    threads = {"fork": "1", "spawn": "2"}[method]
    assert script(method).stdout.split() == [threads, "same"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's limit on memory")
def test_without_threads_to_be_had_work_is_serial():
    assert script("limit").stdout.split() == ["same"]


def script(what):
    environment = os.environ | {"NNKIT_NUM_THREADS": "2"}
    limits = {"preexec_fn": large_stacks} if what == "limit" else {}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", __file__, what]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60, **limits)


def large_stacks():
    """Have a thread's stack take more memory than the limit that will be set leaves."""
    import resource

    resource.setrlimit(resource.RLIMIT_STACK, (64 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))


def child_trains(method):
    expected = [trained(3)]  # and now there is a team
    if method == "fork":
        BEGUN.append(some_batches())
        next(BEGUN[0])
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=report, args=(queue,))
    child.start()
    threads, *found = queue.get(timeout=50)
    child.join()
    print(threads, "same" if found == [*expected, *map(digests, BEGUN)] else "different")


def train_without_threads():
    import resource

    nnkit.set_num_threads(1)
    expected = trained(3)
    memory.clear()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    # Enough for the training, less than the stack of a thread.
    resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), -1))
    nnkit.set_num_threads(3)
    print("same" if trained(3) == expected else "different")


if __name__ == "__main__":
    if sys.argv[1] == "limit":
        train_without_threads()
    else:
        child_trains(sys.argv[1])
