"""Data parallel training, with real processes under mpiexec where it is about more than arithmetic."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from nnkit import Solver, models
from nnkit import functional as fn
from nnkit.data import batch_slice, make_shapes
from nnkit.distributed import Communicator, Launch, connect, launched
from nnkit.errors import UsageError
from nnkit.layers import CrossEntropyLoss, MSELoss, MultiMarginLoss

MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
needs_mpi = pytest.mark.skipif(find_spec("mpi4py") is None or MPIEXEC is None, reason="needs mpi4py and mpiexec")
NNKIT = [sys.executable, "-m", "nnkit"]
QUICK = ["--set", "data.train_count=250", "--set", "data.test_count=60", "--set", "data.validation=50"]
LAUNCHERS = (
    "PMI_SIZE",
    "PMI_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_RANK",
    "SLURM_STEP_NUM_TASKS",
    "PMIX_RANK",
)

# What the processes of a test run: nets, trained on few drawn images.
TRAINING = """
import os, signal, sys, time
import numpy as np
from nnkit import Augment, Sequential, Solver, data, distributed
from nnkit.layers import (
    BatchNorm, Conv2d, CrossEntropyLoss, Dropout, Flatten, GlobalAvgPool2d, Linear, MaxPool2d, MultiMarginLoss, ReLU
)
from nnkit.models import Residual
from nnkit.optim import SGD


def mlp():
    return Sequential(Flatten(), Linear(32), ReLU(), Linear(10))


def norm_mlp():
    return Sequential(Flatten(), Linear(32), BatchNorm(), ReLU(), Linear(10))


def convnet():
    block = Residual(Sequential(Conv2d(8, 3, padding=1), BatchNorm()), activation=ReLU())
    stem = Conv2d(8, 3, stride=2, padding=1), BatchNorm(), ReLU(), MaxPool2d(2)
    return Sequential(*stem, block, GlobalAvgPool2d(), Flatten(), Linear(10))


def dropout_mlp():
    return Sequential(Flatten(), Linear(32), BatchNorm(), ReLU(), Dropout(0.5), Linear(10))


IMAGES = data.make_shapes(230, seed=1)
WEIGHTED = data.Dataset(IMAGES.images, IMAGES.labels, IMAGES.class_names, np.linspace(0, 2, 230))
# name: net, images to train on, batch size, sync_bn, options. Last batches are of 3, 2 and 8 images.
CASES = {
    "plain": (mlp, IMAGES[:195], 32, False, {"augment": Augment(flip=True, crop_padding=2, cutout=4)}),
    "weights": (mlp, WEIGHTED[:195], 32, False, {"loss": CrossEntropyLoss(class_weight=np.arange(1, 11)), "lr": 0.002}),
    "margin": (mlp, IMAGES[:194], 32, False, {"loss": MultiMarginLoss(), "clip_norm": 0.5, "ema": 0.9}),
    "norm": (norm_mlp, IMAGES[:200], 32, True, {"augment": Augment(flip=True), "lr": 0.002}),
    "convnet": (convnet, IMAGES[:200], 64, True, {"augment": Augment(flip=True), "lr": 0.002, "epochs": 5}),
    "empty": (norm_mlp, IMAGES[:194], 64, True, {"lr": 0.001}),
    "local": (dropout_mlp, IMAGES[:194], 64, False, {}),
}


def solver(name, communicator, **more):
    make, images, batch_size, sync_bn, options = CASES[name]
    options = {"lr": 0.02, "epochs": 3, "validation": IMAGES[200:], "progress": False, **options, **more}
    optimizer = SGD(lr=options.pop("lr"), momentum=0.9)
    common = {"batch_size": batch_size, "sync_bn": sync_bn, "communicator": communicator}
    return Solver(make(), images, optimizer, **common, **options)
"""


@pytest.fixture
def run(tmp_path):
    """A function that runs a script, after TRAINING, in several processes, and returns how they ended."""
    environment = {**os.environ, "NNKIT_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment |= {"OMPI_MCA_rmaps_base_oversubscribe": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    environment = {name: value for name, value in environment.items() if name not in LAUNCHERS}

    def start(command, ranks=2, wait=True, **more):
        if isinstance(command, str):
            script = tmp_path / f"script{len(list(tmp_path.glob('script*')))}.py"
            script.write_text(TRAINING + textwrap.dedent(command))
            command = [sys.executable, str(script)]
        launch = [MPIEXEC, "-n", str(ranks)] if ranks else []
        options = {"cwd": tmp_path, "env": environment | more, "text": True}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen([*launch, *command], **options, **pipes)
        if not wait:
            return process
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    return start


def errors(text):
    return [line for line in text.splitlines() if line.startswith("nnkit: ")]


def arrays(path):
    with np.load(path) as file:
        return dict(file)


SAVE = """
names = list(CASES)
with distributed.connect() as ranks:
    for name in names:
        trained = solver(name, ranks)
        history = trained.train()
        # Batch norm over two images, as in the last batches of "empty", makes much of a rounding error.
        assert trained.step >= (12 if name in ("empty", "local") else 20)
        figures = {key: getattr(history, key) for key in ("train_loss", "train_accuracy", "val_loss", "val_accuracy")}
        np.savez(f"{name}-{ranks.rank}-{ranks.size}.npz", **trained.model.state_dict(), **figures)
"""


@needs_mpi
def test_ranks_are_equal_bit_for_bit_and_as_good_as_one_process(run, tmp_path):
    processes = [run(SAVE, ranks, wait=False) for ranks in (0, 2)]
    assert [process.communicate(timeout=120)[1] for process in processes] == ["", ""]
    done = run(SAVE, 3)
    assert done.returncode == 0, done.stderr
    for name in ("plain", "weights", "margin", "norm", "convnet", "empty", "local"):
        alone = arrays(tmp_path / f"{name}-0-1.npz")
        for size in (2, 3):
            first, *others = (arrays(tmp_path / f"{name}-{rank}-{size}.npz") for rank in range(size))
            for key, array in first.items():
                for other in others:
                    np.testing.assert_array_equal(other[key], array, err_msg=f"{name} {key}")
                if name != "local":
                    rtol = 1e-5 if "running" in key or "loss" in key else 0  # a parameter is to be right to 1e-6
                    np.testing.assert_allclose(array, alone[key], rtol=rtol, atol=1e-6, err_msg=f"{name} {key}")
        if name == "local":  # other masks and other statistics, but a training all the same
            assert 1e-4 < np.abs(first["1.weight"] - alone["1.weight"]).max() < 0.2


@needs_mpi
def test_one_rank_is_the_same_as_none_bit_for_bit(run, tmp_path):
    with_mpi = "from mpi4py import MPI\ndistributed.connect = lambda: distributed.MPICommunicator(MPI.COMM_WORLD)\n"
    for folder, script, ranks in (("none", SAVE, 0), ("one", SAVE, 1), ("mpi", with_mpi + SAVE, 1)):
        (tmp_path / folder).mkdir()
        done = run(
            script.replace('f"{name}-', f'f"{folder}/{{name}}-').replace("list(CASES)", '["norm", "local"]'), ranks
        )
        assert done.returncode == 0, done.stderr
    for path in (tmp_path / "none").iterdir():
        expected = arrays(path)
        for folder in ("one", "mpi"):
            for key, array in arrays(tmp_path / folder / path.name).items():
                np.testing.assert_array_equal(array, expected[key])


INTERRUPTED = """
from nnkit.signals import TrainingInterrupted
resume, is_slow = "resume" in sys.argv, "slow" in sys.argv

def linger(trained):
    if is_slow and trained.epoch == 2:
        open("second-epoch", "w").close()

class Slow(Solver):
    def _step(self, *batch):
        super()._step(*batch)
        if is_slow and self.epoch >= 1:
            time.sleep(0.02)

Solver = Slow
with distributed.connect() as ranks:
    open(f"pid-{ranks.rank}", "w").write(str(os.getpid()))
    epochs = 400 if is_slow else 4
    trained = solver("norm", ranks, epochs=epochs, callbacks=[linger], out=sys.argv[1], resume=resume)
    try:
        trained.train()
    except TrainingInterrupted as interrupt:
        if ranks.rank == 0:
            print(interrupt)
        sys.exit(128 + interrupt.signum)
"""


def is_mpich():
    return "HYDRA" in subprocess.run([MPIEXEC, "--version"], capture_output=True, text=True, check=True).stdout


def wait_for(path, seconds=60):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.02)


@needs_mpi
def test_what_a_signal_leaves_is_resumed_to_the_same_bits(run, tmp_path):
    script = tmp_path / "training.py"
    script.write_text(TRAINING + INTERRUPTED)
    command = [sys.executable, str(script)]
    assert run([*command, "whole"]).returncode == 0
    whole = (tmp_path / "whole" / "model.safetensors").read_bytes()
    for how in ("killed", "interrupted"):
        process = run([*command, how, "slow"], wait=False)
        wait_for(tmp_path / "second-epoch")
        (tmp_path / "second-epoch").unlink()
        started = time.monotonic()
        if how == "killed":
            os.kill(int((tmp_path / "pid-1").read_text()), signal.SIGKILL)
        else:
            process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        assert process.returncode != 0
        assert time.monotonic() - started < 10
        if is_mpich():  # Open MPI's prints nothing any more after Ctrl-C
            assert out.count("training interrupted by SIGINT") == (how == "interrupted")
        done = run([*command, how, "resume"])
        assert done.returncode == 0, done.stderr
        assert (tmp_path / how / "model.safetensors").read_bytes() == whole


FAILING = {
    "a loss that is NaN": """
        solver_ = solver("plain", ranks)
        forward = solver_.loss.forward
        calls = []
        def broken(*arguments):
            calls.append(1)
            value = forward(*arguments)
            return float("nan") if ranks.rank == 1 and len(calls) == 3 else value
        solver_.loss.forward = broken
        solver_.train()
    """,
    "another data set": """
        if ranks.rank == 1:
            CASES["plain"] = (mlp, IMAGES[:190], 32, False, {})
        solver("plain", ranks)
    """,
    "weights that drifted": """
        def drift(*batch, step=Solver._step):
            step(solver_, *batch)
            if ranks.rank == 1:
                solver_.model.flat_params[0] += 1e-6
        solver_ = solver("plain", ranks)
        solver_._step = drift
        solver_.train()
    """,
    "a callback that fails": """
        def fail(trained):
            raise RuntimeError("no ink")
        solver("plain", ranks, callbacks=[fail]).train()
    """,
}
EXPECTED = {
    "a loss that is NaN": ("DivergenceError", "the loss became nan at step 3"),
    "another data set": ("CheckpointError", "rank 1 differs from rank 0: data.images (195 there, 190 here)"),
    "weights that drifted": ("DivergenceError", "the weights of rank 1 are not those of rank 0"),
    "a callback that fails": ("RuntimeError", "no ink"),
}


@needs_mpi
@pytest.mark.parametrize("what", FAILING)
def test_an_error_on_one_rank_ends_all(run, what):
    body = textwrap.indent(textwrap.dedent(FAILING[what]), "    ")
    started = time.monotonic()
    done = run(f"with distributed.connect() as ranks:\n{body}")
    assert done.returncode != 0
    assert time.monotonic() - started < 20
    assert all(text in done.stderr for text in EXPECTED[what]), done.stderr


CLI_WITHOUT_PICTURES = """
import sys
from nnkit import cli, pictures, runs

pictures.draw = runs.write_report = lambda *arguments: None  # seconds of one process
sys.exit(cli.main(sys.argv[1:]))
"""


@needs_mpi
def test_the_command_line_trains_once_and_resumes(run, tmp_path):
    script = tmp_path / "no_pictures.py"
    script.write_text(CLI_WITHOUT_PICTURES)
    train = [sys.executable, str(script), "train", "--json"]
    done = run([*train, *QUICK, "--epochs", "2", "--set", "training.sync_bn=true", "--out", "run"])
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["ranks"], figures["threads"], figures["epochs"]) == (2, 1, 2)
    assert done.stderr.count("epoch 1/2") == 1
    again = run([*train, "--resume", "run", "--epochs", "3"])
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["epochs"] == 3
    assert again.stderr.count("resume  after step 8, in epoch 3 of 3") == 1


CLI_ON_ONE_RANK = """
from nnkit import cli
from nnkit.errors import DataError
from nnkit.recipes.recipe import DataSettings

def broken(*arguments):
    raise DataError("data_batch_1: is truncated")

if distributed.launched().rank == 1:
    DataSettings.load = broken
sys.exit(cli.main(sys.argv[1:]))
"""


@needs_mpi
def test_an_error_is_one_line_of_one_rank(run, tmp_path):
    done = run([*NNKIT, "train", "--set", "optimizer.lr=-1"])
    assert done.returncode == 2
    assert [line.partition("lr")[0] for line in errors(done.stderr)] == ["nnkit: error: recipe quickstart: optimizer: "]
    script = tmp_path / "one.py"
    script.write_text(TRAINING + CLI_ON_ONE_RANK)
    started = time.monotonic()
    done = run([sys.executable, str(script), "train", *QUICK])
    assert done.returncode != 0  # 1, or that of a rank which mpiexec had to kill
    assert time.monotonic() - started < 20
    assert errors(done.stderr) == ["nnkit: error: rank 1 of 2: data_batch_1: is truncated"]
    assert not (tmp_path / "runs").exists()


def test_without_mpi4py_there_is_one_line_and_no_training(run, tmp_path):
    code = "import sys; sys.modules['mpi4py'] = None; from nnkit.cli import main; sys.exit(main(['train']))"
    ends = [
        run([sys.executable, "-c", code], 0, OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK=rank) for rank in ("0", "1")
    ]
    assert [done.returncode for done in ends] == [1, 1]
    assert errors(ends[0].stderr) == [
        "nnkit: error: started as one of 2 processes that shall train together, but mpi4py is not installed: "
        "pip install 'nnkit[mpi]'"
    ]
    assert (ends[1].stderr, ends[1].stdout) == ("", "")
    assert not (tmp_path / "runs").exists()


@needs_mpi
def test_an_mpiexec_of_another_mpi_is_found_out(run):
    names = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}
    done = run([*NNKIT, "train"], 0, **names)
    assert done.returncode == 2
    start = "nnkit: error: started as one of 2 processes that shall train together, but that is 1 by the MPI library"
    assert [line[: len(start)] for line in done.stderr.splitlines()] == [start]


class Pretended(Communicator):
    """One of several ranks, of which the others add nothing."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size


def test_each_rank_drops_out_for_itself_and_rank_0_writes(tmp_path, monkeypatch):
    drawn = {}
    for rank, size in ((0, 1), (0, 2), (1, 2)):
        model = models.create("mlp", num_classes=10, hidden=(8,), dropout=0.5)
        options = {"batch_size": 16, "validation": None, "communicator": Pretended(rank, size)}
        solver = Solver(model, make_shapes(40), epochs=1, **options)
        seen = drawn[rank, size] = []
        monkeypatch.setattr(model, "reseed", seen.append)
        solver.train()
        assert solver.history.step == [3]
        solver = Solver(model, make_shapes(40), out=tmp_path / "x", **options)
        assert (solver.out is None) == (rank == 1)
    assert drawn[0, 1] == drawn[0, 2]
    assert not set(drawn[0, 2]) & set(drawn[1, 2])


def test_a_batch_too_small_for_its_ranks_is_refused():
    with pytest.raises(UsageError, match="batch_size: expected at least 2 images for each of 9 ranks, got 16"):
        Solver(models.create("mlp", num_classes=10), make_shapes(40), batch_size=16, communicator=Pretended(3, 9))


def test_launchers_are_recognised(monkeypatch):
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    assert launched() == Launch(0, 1)
    assert type(connect()) is Communicator
    for size, rank in zip(LAUNCHERS[::2], LAUNCHERS[1::2], strict=True):
        with monkeypatch.context() as patch:
            patch.setenv(size, "4")
            assert launched() == Launch(0, 1)  # one of the two may be left over from something else
            patch.setenv(rank, "3")
            assert launched() == Launch(3, 4)
            patch.setenv(rank, "4")
            assert launched() == Launch(0, 1)


@pytest.mark.parametrize("count", range(1, 40))
@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_slices_share_a_batch_without_overlap(count, ranks):
    slices = [batch_slice(2, 40, 80 + count, (rank, ranks)) for rank in range(ranks)]
    assert [place for part in slices for place in range(part.start, part.stop)] == list(range(80, 80 + count))
    sizes = [part.stop - part.start for part in slices]
    assert 1 not in sizes or count == 1
    busy = [size for size in sizes if size]
    assert max(busy) - min(busy) <= 1


@pytest.mark.parametrize("sizes", [(5, 3), (8, 0), (2, 3, 3)])
@pytest.mark.parametrize("activation", ["identity", "relu", "gelu"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batch_norm_of_parts_is_that_of_the_whole(rng, sizes, activation, dtype):
    x = (3 + rng.normal(size=(8, 3, 4, 5))).astype(dtype)
    dout, addend = rng.normal(size=(2, *x.shape)).astype(dtype)
    weight, bias = rng.normal(size=(2, 3)).astype(dtype)
    options = {"training": True, "activation": activation, "addend": addend if activation == "relu" else None}
    mean, var = np.zeros((2, 3), dtype)
    out, cache = fn.batch_norm_forward(x, weight, bias, mean, var, **options)
    expected = out, *fn.norm.batch_norm_add_backward(dout, cache), mean, var

    edges = np.cumsum([0, *sizes])
    parts = [slice(a, b) for a, b in itertools.pairwise(edges)]
    barrier, slots = threading.Barrier(len(parts), timeout=20), [None] * len(parts)
    results = [None] * len(parts)

    def rank(number):
        def sum_over_ranks(array):
            slots[number] = array.copy()
            barrier.wait()
            array[...] = sum(slots)
            barrier.wait()

        part = parts[number]
        own = options | {"addend": None if options["addend"] is None else addend[part]}
        mean, var = np.zeros((2, 3), dtype)
        out, cache = fn.batch_norm_forward(x[part], weight, bias, mean, var, sum_over_ranks=sum_over_ranks, **own)
        results[number] = out, *fn.norm.batch_norm_add_backward(dout[part], cache), mean, var

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    out, dx, dweight, dbias, daddend, means, variances = zip(*results, strict=True)
    found = [np.concatenate(out), np.concatenate(dx), sum(dweight), sum(dbias), np.concatenate(daddend)]
    tolerance = 2e-6 if dtype == np.float32 else 1e-13
    for array, right in zip([*found, means[0], variances[-1]], expected, strict=True):
        np.testing.assert_allclose(array, right, rtol=tolerance, atol=5 * tolerance)


def test_batch_norm_of_nothing_is_refused_on_every_rank():
    one = np.ones(3)
    with pytest.raises(ValueError, match="expected more than one value per channel"):
        fn.batch_norm_forward(
            np.ones((1, 3)), one, one, one.copy(), one.copy(), training=True, sum_over_ranks=lambda array: None
        )


@pytest.mark.parametrize(
    "loss", [CrossEntropyLoss(class_weight=[1, 2, 5]), CrossEntropyLoss(), MultiMarginLoss(), MSELoss()]
)
@pytest.mark.parametrize("is_weighted", [False, True])
def test_losses_say_what_they_divide_by(rng, loss, is_weighted):
    scores, labels = rng.normal(size=(7, 3)), np.array([0, 1, 2, 2, 1, 0, 0])
    weight = rng.random(7) if is_weighted else None
    value, gradient = loss.forward(scores, labels, weight), loss.backward()
    total = 0.0
    for part in (slice(0, 3), slice(3, 7)):
        own = None if weight is None else weight[part]
        share = loss.total_weight(labels[part], own) / loss.total_weight(labels, weight)
        total += share * loss.forward(scores[part], labels[part], own)
        np.testing.assert_allclose(share * loss.backward(), gradient[part], rtol=1e-12)
    assert total == pytest.approx(value, rel=1e-12)
