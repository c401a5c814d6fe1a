"""Bad input from outside, tried one by one: one clear line, the right exit status, nothing lost."""

import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nnkit
from nnkit import data, models
from nnkit.checkpoint import load_model
from nnkit.cli import main
from nnkit.errors import DataError
from nnkit.history import History
from nnkit.solver import Solver

SMALL = [
    "--set", "data.train_count=160", "--set", "data.test_count=40", "--set", "data.validation=40",
    "--set", "model.widths=[4, 8]", "--set", "training.batch_size=20",
]  # fmt: skip
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "--out", str(folder), "--epochs", "1", *SMALL]) == 0
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A finished run of one epoch, which the test may spoil."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def fails(capsys):
    """Run a command that has to fail, and return its one line."""

    def run_and_return_error(status, *argv):
        capsys.readouterr()
        assert main(list(map(str, argv))) == status
        printed = capsys.readouterr()
        assert printed.err.startswith("nnkit: error: ")
        assert printed.err.count("\n") == 1
        assert "test accuracy" not in printed.out
        return printed.err

    return run_and_return_error


@pytest.fixture
def cifar(tmp_path, rng):
    """A folder with a tiny CIFAR-10 in the official layout."""
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]:
        pixels = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        write_batch(folder / name, {b"data": pixels, b"labels": list(range(10)) * 2})
    write_batch(folder / "batches.meta", {b"label_names": [name.encode() for name in NAMES]})
    return folder


def write_batch(path, content):
    path.write_bytes(pickle.dumps(content, protocol=2))


def train_mlp(folder, tmp_path, *more):
    sizes = ["--set", "data.validation=20", "--set", "training.batch_size=20", "--set", "model.hidden=[8]"]
    return ["train", "cifar10-mlp", "--data", folder.parent, "--out", tmp_path / "out", "--epochs", "1", *sizes, *more]


def test_unknown_recipe(fails):
    assert "unknown recipe 'cifar10-cn'; did you mean 'cifar10-cnn'?" in fails(2, "train", "cifar10-cn")
    assert "no-such.toml" in fails(2, "train", "no-such.toml")


def test_unknown_key_and_wrong_type_in_toml(fails, tmp_path, capsys):
    recipe = tmp_path / "mine.toml"
    assert main(["recipes", "quickstart"]) == 0
    text = capsys.readouterr().out
    recipe.write_text(text.replace("batch_size", "batchsize"), encoding="utf-8")
    assert "training.batchsize: unknown key; did you mean 'batch_size'?" in fails(2, "train", recipe)
    recipe.write_text(text.replace("batch_size = 64", 'batch_size = "64"'), encoding="utf-8")
    assert "training.batch_size: expected an integer, got '64'" in fails(2, "train", recipe)
    recipe.write_text(text + "[", encoding="utf-8")
    assert "not valid TOML" in fails(2, "train", recipe)


def test_wrong_arguments(fails):
    assert "invalid choice: 'trane'" in fails(2, "trane")
    assert "required" in fails(2)
    assert "unknown recipe ''" in fails(2, "train", "")
    assert "--epochs" in fails(2, "train", "--epochs", "many")
    assert "epochs" in fails(2, "train", "--epochs", "0", *SMALL)
    assert "seed" in fails(2, "train", "--seed", "-1", *SMALL)
    assert "threads" in fails(2, "train", "--threads", "0")


def test_data_folder_missing_or_empty(fails, tmp_path):
    for folder in (tmp_path / "absent", tmp_path):
        message = fails(1, "train", "cifar10-mlp", "--data", folder, "--out", tmp_path / "out")
        assert str(folder) in message
        assert "cifar-10-batches-py" in message
        assert "--data DIR" in message
        assert "download=True" in message
    assert not (tmp_path / "out").exists()


def test_the_tiny_cifar_is_fine_when_it_is_not_spoilt(cifar, tmp_path, capsys):
    assert main(list(map(str, train_mlp(cifar, tmp_path)))) == 0
    assert "report.html" in capsys.readouterr().out


def test_truncated_batch(fails, cifar, tmp_path):
    batch = cifar / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:3000])
    assert "data_batch_3" in fails(1, *train_mlp(cifar, tmp_path))


def test_pickle_with_a_forbidden_name(fails, cifar, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    write_batch(cifar / "data_batch_2", Bomb())
    message = fails(1, *train_mlp(cifar, tmp_path))
    assert "data_batch_2" in message
    assert "mkdir" in message
    assert not (tmp_path / "exploded").exists()


def test_labels_out_of_range(fails, cifar, tmp_path):
    pixels = np.zeros((20, 3072), np.uint8)
    write_batch(cifar / "data_batch_4", {b"data": pixels, b"labels": [10] * 20})
    message = fails(1, *train_mlp(cifar, tmp_path))
    assert "data_batch_4" in message
    assert "10" in message


def test_nan_in_the_input():
    images = np.zeros((40, 8, 8, 3), np.float32)
    images[7, 3, 4, 1] = np.nan
    dataset = data.Dataset(images, np.arange(40) % 2, ["a", "b"])
    with pytest.raises((DataError, ValueError), match=r"(?i)nan|finite") as error:
        Solver(models.create("mlp", 2, hidden=(4,)), dataset, validation=4, batch_size=8).train()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["text", "truncated", "empty", "absent", "folder"])
def test_image_that_is_no_image(fails, run, tmp_path, kind):
    image = tmp_path / "image.png"
    if kind == "folder":
        image.mkdir()
    elif kind == "text":
        image.write_text("This is no image.", encoding="utf-8")
    elif kind == "empty":
        image.touch()
    elif kind == "truncated":
        pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(image)
        image.write_bytes(image.read_bytes()[:5000])
    assert "image.png" in fails(1, "predict", run, image)


def test_good_images_beside_a_bad_one_are_classified(run, tmp_path, capsys):
    bad, good = tmp_path / "broken.png", str(run / "example.png")
    bad.write_text("no picture", encoding="utf-8")
    capsys.readouterr()
    assert main(["predict", str(run), good, str(bad), good]) == 1
    printed = capsys.readouterr()
    assert printed.out.count("example.png") == 2
    assert printed.err.count("\n") == 1
    assert "broken.png" in printed.err
    assert main(["predict", str(run), str(bad), good, "--json"]) == 1
    assert [answer["image"] for answer in json.loads(capsys.readouterr().out)] == [good]


def test_a_file_that_is_no_run(fails, run):
    picture = run / "example.png"
    for command in (["predict", picture, run], ["export", picture, "--format", "torch"]):
        assert f"{picture}: expected a run folder or a model.safetensors" in fails(2, *command)


def test_huge_image(fails, run, tmp_path):
    image = tmp_path / "huge.png"
    Image.new("1", (20_000, 20_000)).save(image)
    message = fails(1, "predict", run, image)
    assert "huge.png" in message
    assert "400000000 pixels" in message


@pytest.mark.parametrize(
    ("mode", "size", "suffix"),
    [("RGB", (1, 1), "png"), ("L", (50, 40), "png"), ("RGBA", (20, 90), "png"), ("P", (33, 31), "png"),
     ("LA", (9, 9), "png"), ("1", (32, 32), "png"), ("I;16", (40, 40), "png"), ("CMYK", (64, 48), "jpg")],
)  # fmt: skip
def test_odd_images_are_classified_all_the_same(run, tmp_path, capsys, mode, size, suffix):
    image = tmp_path / f"odd.{suffix}"
    Image.new(mode, size).save(image)
    assert main(["predict", str(run), str(image), "--top", "2"]) == 0
    assert capsys.readouterr().out.count("%") == 2


def test_batch_size(fails, tmp_path):
    out = ["--out", tmp_path / "out", "--epochs", "1"]
    assert "batch_size" in fails(2, "train", *SMALL, *out, "--set", "training.batch_size=0")
    message = fails(2, "train", *SMALL, *out, "--set", "training.batch_size=1000")
    assert "1000" in message.replace(",", "")
    assert "120" in message
    assert not (tmp_path / "out").exists()


def test_no_test_image_is_found_out_before_the_training(fails, tmp_path):
    message = fails(2, "train", *SMALL, "--out", tmp_path / "out", "--set", "data.test_count=0")
    assert "at least one test image" in message
    assert not (tmp_path / "out").exists()


def test_test_images_of_other_classes(fails, run):
    config = run / "config.toml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("[data]", '[data]\nclasses = ["ring", "circle"]'), encoding="utf-8")
    assert "the test images are of ring, circle" in fails(1, "evaluate", run)


def test_a_data_folder_of_any_name(cifar, tmp_path, capsys):
    for name in ("3", "📁 'é\" # x"):
        folder = shutil.copytree(cifar.parent, tmp_path / name)
        out = tmp_path / f"run of {name}"
        sizes = ["--set", "data.validation=20", "--set", "training.batch_size=20", "--set", "model.hidden=[8]"]
        assert main(["train", "cifar10-mlp", "--data", str(folder), "--out", str(out), "--epochs", "1", *sizes]) == 0
        assert main(["evaluate", str(out)]) == 0
        assert main(["evaluate", str(out), "--data", str(folder)]) == 0
    capsys.readouterr()


def test_last_batch_of_one_with_batch_norm(tmp_path, cifar):
    options = ["--set", "training.batch_size=16", "--set", "data.validation=3", "--set", "model.batch_norm=true"]
    assert main(list(map(str, train_mlp(cifar, tmp_path, *options)))) == 0  # 97 training images, 6 × 16 + 1


def test_output_folder_not_writable(fails, tmp_path):
    (tmp_path / "file").touch()
    message = fails(1, "train", *SMALL, "--out", tmp_path / "file" / "run")
    assert f"{tmp_path / 'file'}: is a file, expected a folder" in message
    assert "file: is a file, expected a folder" in fails(1, "train", *SMALL, "--out", tmp_path / "file")
    if os.geteuid() != 0:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        assert str(closed) in fails(1, "train", *SMALL, "--out", closed / "run")


def test_output_folder_that_holds_a_run_is_left_alone(fails, run):
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    assert "--resume" in fails(2, "train", *SMALL, "--out", run)
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


@contextlib.contextmanager
def tmpfs(folder, kilobytes):
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("cannot mount a small disk here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_disk_full(fails, run, tmp_path):
    size = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    with tmpfs(tmp_path / "disk", size // 512 + 64):
        full = shutil.copytree(run, tmp_path / "disk" / "run")
        fill = tmp_path / "disk" / "fill"
        with contextlib.suppress(OSError), fill.open("wb", buffering=0) as file:
            while file.write(b"x" * 512):
                pass
        message = fails(1, "train", "--resume", full, "--epochs", "2")
        assert "No space left" in message
        same_files(run, full)
        fill.unlink()
        assert main(["train", "--resume", str(full), "--epochs", "2"]) == 0


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
from nnkit.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_writing_fails_in_the_middle_of_a_file(run, tmp_path):
    pytest.importorskip("resource")
    copy = shutil.copytree(run, tmp_path / "copy")
    command = [sys.executable, "-c", LIMITED, "train", "--resume", str(copy), "--epochs", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(nnkit.__file__).parents[1])}
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert process.returncode == 1, process.stderr
    assert process.stderr.startswith("nnkit: error: ")
    assert process.stderr.count("\n") == 1
    same_files(run, copy)


def same_files(before, after):
    """Weights and state are as they were, and nothing half-written lies about."""
    names = {path.relative_to(before) for path in before.rglob("*")}
    assert {path.relative_to(after) for path in after.rglob("*")} == names
    for name in names:
        if name.suffix == ".safetensors":
            assert (before / name).read_bytes() == (after / name).read_bytes()


def test_truncated_model(fails, run):
    model = run / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-100])
    assert "model.safetensors" in fails(1, "evaluate", run)
    assert "model.safetensors" in fails(1, "predict", run, run / "example.png")
    model.write_bytes(b"")
    assert "model.safetensors" in fails(1, "evaluate", run)


def test_truncated_training_state(fails, run):
    (state,) = (run / "last.ckpt").glob("*.safetensors")
    state.write_bytes(state.read_bytes()[:-100])
    before = (run / "model.safetensors").read_bytes()
    assert state.name in fails(1, "train", "--resume", run, "--epochs", "2")
    assert (run / "model.safetensors").read_bytes() == before


def test_checkpoint_of_another_architecture(fails, run):
    message = fails(1, "train", "--resume", run, "--epochs", "2", "--set", "model.widths=[4, 4]")
    assert "model" in message
    assert main(["train", "--resume", str(run), "--epochs", "2"]) == 0


def test_nothing_to_resume(fails, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no run" in fails(2, "train", "--resume")
    assert "no such run folder" in fails(2, "train", "--resume", "elsewhere")
    (tmp_path / "folder").mkdir()
    assert "config.toml" in fails(2, "evaluate", "folder")


def test_resume_is_told_of_two_different_runs(fails, run, tmp_path):
    assert "name two runs" in fails(2, "train", "--resume", run, "--out", tmp_path / "other")
    assert "is a run of quickstart, not of cifar10-mlp" in fails(2, "train", "cifar10-mlp", "--resume", run)
    assert main(["train", "quickstart", "--resume", str(run), "--out", str(run)]) == 0


def test_a_run_that_never_finished_an_epoch_is_trained_anew(fails, run, capsys):
    shutil.rmtree(run / "last.ckpt")
    (run / "model.safetensors").unlink()
    assert "nothing to resume" in fails(1, "train", "--resume", run)
    for command in (["evaluate", run], ["predict", run, run / "example.png"]):
        assert f"no epoch is finished yet, so there is no model.safetensors; nnkit train --resume {run}" in fails(
            1, *command
        )
    assert main(["train", "--out", str(run), "--epochs", "1", *SMALL]) == 0


def test_diverging_rate(fails, tmp_path):
    out = tmp_path / "out"
    rate = ["--set", "optimizer.name=sgd", "--set", "optimizer.lr=1e30", "--set", "schedule="]
    message = fails(1, "train", *SMALL, *rate, "--out", out, "--epochs", "3")
    assert "with lr 1e+30; try a lower rate (optimizer.lr = 1e+29)" in message


def test_divergence_later_on_keeps_what_was_learnt(fails, tmp_path):
    out = tmp_path / "out"
    growing = ["--set", "optimizer.name=sgd", "--set", "schedule={name = 'exponential', gamma = 1e30}"]
    message = fails(1, "train", *SMALL, *growing, "--out", out, "--epochs", "4")
    assert "(epoch 2)" in message
    assert "with lr 1e+28, by the schedule from optimizer.lr = 0.01; try a lower rate (optimizer.lr = 0.001)" in message
    assert str(out) in message
    assert History.from_csv(out / "history.csv").epoch == [1]
    for array in load_model(out / "model.safetensors")[0].state_dict().values():
        assert np.isfinite(array).all()
