import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import nnkit
from nnkit import folds, pictures, recipes, runs
from nnkit.checkpoint import load_model
from nnkit.cli import _what_next, main
from nnkit.compare import run as compare_run
from nnkit.history import History
from nnkit.search import run as search_run

SMALL = [
    "--set", "data.train_count=1000", "--set", "data.test_count=100", "--set", "data.validation=100",
    "--set", "model.widths=[8, 8]", "--set", "training.batch_size=20",
]  # fmt: skip
# Commands run the nnkit that is tested, wherever it lies, on one thread so as not to get in each other's way.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(nnkit.__file__).parents[1]), "NNKIT_NUM_THREADS": "1"}
FILES = {
    "config.toml", "history.csv", "metrics.json", "model.safetensors", "last.ckpt", "training_curves.png",
    "learning_rate.png", "gradient_norms.png", "confusion_matrix.png", "class_scores.png", "reliability.png",
    "predictions.png", "misclassified.png", "hardest_right.png", "explanations.png", "filters.png", "feature_maps.png",
    "report.html", "example.png",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of two epochs, and what the command printed."""
    folder = tmp_path_factory.mktemp("trained")
    command = [sys.executable, "-m", "nnkit", "train", "--epochs", "2", *SMALL]
    printed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert printed.stderr == ""
    return folder / "runs" / "quickstart-1", printed.stdout


def test_train_leaves_a_complete_run_folder(trained):
    run, _ = trained
    assert {path.name for path in run.iterdir()} - {"feature_plane.png"} == FILES  # that one needs scikit-learn
    history = History.from_csv(run / "history.csv")
    assert history.epoch == [1, 2]
    figures = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert figures["recipe"] == "quickstart"
    assert figures["epochs"] == 2
    assert figures["test_images"] == 100
    assert figures["val_accuracy"] == history.val_accuracy[history.best_epoch - 1]
    assert recipes.load(run / "config.toml").data.options == {"train_count": 1000, "test_count": 100}


def test_train_prints_a_line_an_epoch_and_what_to_try_next(trained, monkeypatch, capsys):
    run, printed = trained
    lines = printed.splitlines()
    assert [line[:9] for line in lines if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]
    assert "runs/quickstart-1/report.html" in printed
    monkeypatch.chdir(run.parent.parent)
    commands = [line.split() for line in lines if line.startswith("  nnkit")]
    assert [command[1] for command in commands] == ["predict", "evaluate", "train"]
    for command in commands[:2]:
        assert main(command[1:]) == 0
    assert commands[2][2] in recipes.names()
    assert max(map(len, (line for line in lines if line.startswith("epoch")))) <= 80
    capsys.readouterr()


def test_the_next_recipe_is_suggested_with_the_data_that_are_there(tmp_path):
    figures = {"run": "runs/x-1", "recipe": "cifar10-mlp"}
    elsewhere = str(tmp_path / "my data")
    assert _what_next(figures, elsewhere).endswith(f"cifar10-fc-bn-dropout --data '{elsewhere}' --download")
    (tmp_path / "my data" / "cifar-10-batches-py").mkdir(parents=True)
    assert _what_next(figures, elsewhere).endswith(f"cifar10-fc-bn-dropout --data '{elsewhere}'")
    assert "cifar10-resnet18 --data" in _what_next({**figures, "recipe": "cifar10-cnn"}, elsewhere)
    assert "--epochs 1" in _what_next({**figures, "recipe": "cifar10-cnn"}, elsewhere)


def test_evaluate_finds_the_same_figures_again(trained, capsys):
    run, _ = trained
    figures = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert main(["evaluate", str(run), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    for key in ("test_accuracy", "test_images", "confusion_matrix", "class_names", "macro_f1"):
        assert again[key] == figures[key]
    assert main(["evaluate", str(run)]) == 0
    text = capsys.readouterr().out
    assert f"{figures['test_accuracy']:.2%}" in text
    assert all(name in text for name in figures["class_names"])


def test_predict(trained, capsys):
    run, _ = trained
    assert main(["predict", str(run), str(run / "example.png"), str(run / "filters.png"), "--json", "--top", "3"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert second["image"] == str(run / "filters.png")
    probabilities = [entry["probability"] for entry in first["classes"]]
    assert len(probabilities) == 3
    assert probabilities == sorted(probabilities, reverse=True)
    assert 0 < sum(probabilities) <= 1 + 1e-6
    assert main(["predict", str(run / "model.safetensors"), str(run / "example.png"), "--top", "99"]) == 0
    assert capsys.readouterr().out.count("%") == 10
    assert main(["predict", str(run), str(run / "example.png"), "--top", "0"]) == 2


def test_predict_agrees_with_the_evaluation(trained):
    run, _ = trained
    _, test = recipes.load(run / "config.toml").data.load()
    model, metadata = load_model(run / "model.safetensors")
    evaluation = runs.evaluate_model(model, test, metadata["normalize"])
    (answer,) = runs.predict(run, [run / "example.png"], top=10)
    expected = dict(zip(test.class_names, evaluation.probabilities[0], strict=True))
    for entry in answer["classes"]:
        assert entry["probability"] == pytest.approx(expected[entry["name"]], abs=1e-5)


def test_train_json_is_all_that_stdout_holds(tmp_path, capsys):
    assert main(["train", "--json", "--epochs", "1", "--out", str(tmp_path / "run"), *SMALL]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["run"] == str(tmp_path / "run")
    assert "epoch 1/1" in printed.err


def test_run_folders_are_numbered(tmp_path):
    (tmp_path / "mine-7").mkdir()
    (tmp_path / "mine-old").mkdir()
    assert runs.new_folder("mine", tmp_path) == tmp_path / "mine-8"
    assert runs.new_folder("mine", tmp_path) == tmp_path / "mine-9"
    assert runs.new_folder("other", tmp_path / "new") == tmp_path / "new" / "other-1"
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        runs.new_folder("mine", tmp_path / "file")


def test_the_newest_run_of_a_recipe(tmp_path):
    for age, name in enumerate(["cifar10-mlp-3class-1", "cifar10-mlp-10", "cifar10-mlp-9", "mine"]):
        folder = tmp_path / name
        folder.mkdir()
        (folder / runs.CONFIG).touch()
        os.utime(folder / runs.CONFIG, (1e9 - age, 1e9 - age))
    (tmp_path / "cifar10-mlp-99").mkdir()
    assert runs.newest(root=tmp_path).name == "cifar10-mlp-3class-1"
    assert runs.newest("cifar10-mlp", tmp_path).name == "cifar10-mlp-10"
    with pytest.raises(nnkit.errors.UsageError, match="no run of quickstart"):
        runs.newest("quickstart", tmp_path)


def test_recipes(capsys):
    assert main(["recipes"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == recipes.names()
    assert main(["recipes", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == recipes.names()
    assert main(["recipes", "cifar10-cnn"]) == 0
    assert capsys.readouterr().out == recipes.source("cifar10-cnn")


def test_info(capsys, tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert main(["info", "--json", "--data", str(tmp_path)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["nnkit"] == nnkit.__version__
    assert facts["data_folder"] == str(tmp_path)
    assert facts["threads"] >= 1
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert facts["kernels"] in text
    assert facts["kernels_reason"] in text


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"nnkit {nnkit.__version__}\n"
    assert main(["train", "--help"]) == 0
    assert "--resume" in capsys.readouterr().out


def test_debug_shows_the_traceback():
    with pytest.raises(nnkit.errors.UsageError):
        main(["train", "no-such-recipe", "--debug"])


def test_a_reader_that_goes_away_is_no_fault():
    command = f"{sys.executable} -m nnkit recipes cifar10-cnn | true; echo ${{PIPESTATUS[0]}}"
    printed = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=ENVIRONMENT)
    assert printed.stderr == ""
    assert printed.stdout.strip() in ("0", "1")


def start(folder):
    command = [sys.executable, "-m", "nnkit", "train", "--out", str(folder), "--epochs", "3", *SMALL]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def resume(folder):
    command = [sys.executable, "-m", "nnkit", "train", "--resume", str(folder)]
    subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The weights of a run of three epochs that nobody disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    process = start(folder)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return load_model(folder / "model.safetensors")[0].state_dict(), History.from_csv(folder / "history.csv")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_interrupted_and_resumed_ends_with_the_same_weights(undisturbed, tmp_path, signum):
    folder = tmp_path / "run"
    process = start(folder)
    for line in process.stdout:
        if line.startswith("epoch 1/3"):
            break
    deadline = time.monotonic() + 30
    while not list(folder.glob("last.ckpt/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.02)  # into the middle of the second epoch
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    if signum == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 128 + signum
        assert errors.count("\n") == 1
        assert f"nnkit train --resume {folder}" in errors
    assert not (folder / "metrics.json").exists()
    resume(folder)
    state, history = undisturbed
    resumed = load_model(folder / "model.safetensors")[0].state_dict()
    for name, array in state.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)
    again = History.from_csv(folder / "history.csv")
    assert again.train_loss == history.train_loss
    assert again.val_accuracy == history.val_accuracy


def test_resume_says_where_it_goes_on(trained, tmp_path, capsys):
    run = shutil.copytree(trained[0], tmp_path / "run")
    assert main(["train", "--resume", str(run)]) == 0
    assert "resume  finished after 2 of 2 epochs; only the pictures are drawn again" in capsys.readouterr().out
    assert main(["train", "--resume", str(run), "--epochs", "3"]) == 0
    assert "resume  after step 90, in epoch 3 of 3" in capsys.readouterr().out


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_after_the_training(trained, tmp_path, capsys, monkeypatch, signum):
    run = shutil.copytree(trained[0], tmp_path / "run")
    monkeypatch.setattr(pictures, "draw", lambda *_: signal.raise_signal(signum))
    assert main(["train", "--resume", str(run)]) == 128 + signum
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"the training is finished and saved; nnkit train --resume {run} draws the pictures" in error


def test_sigterm_outside_the_training(trained, capsys, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(runs, "evaluate_model", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert main(["evaluate", str(trained[0])]) == 143
    assert capsys.readouterr().err == "nnkit: interrupted\n"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_progress_bar_shows_loss_and_accuracy_and_goes_away(columns, tmp_path):
    pty = pytest.importorskip("pty")
    command = [sys.executable, "-m", "nnkit", "train", "--out", str(tmp_path / "run"), "--epochs", "1", *SMALL]
    ours, theirs = pty.openpty()
    size = f"stty rows 24 cols {columns}"
    subprocess.run(["bash", "-c", size], stdin=theirs, check=True)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=ENVIRONMENT)
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # the end, on Linux
        while part := os.read(ours, 65536):
            seen += part
    os.close(ours)
    assert process.wait() == 0
    lines = [line.strip() for line in seen.decode().split("\r")]
    bars = [line for line in lines if line.startswith("epoch 1/1") and "acc" in line]
    assert bars
    assert all(re.search(r"loss \d\.\d{3} acc \d+%", line) and len(line) <= columns for line in bars)
    assert b"\n" not in seen  # nothing is left standing


@pytest.mark.parametrize(
    ("held", "mark"),
    [("a run", "config.toml"), ("folds", "folds.csv"), ("a search", "search.toml"), ("a comparison", "plan.json")],
)
def test_no_command_writes_into_a_folder_that_holds_something_else(held, mark, tmp_path, capsys):
    assert mark in (runs.CONFIG, folds.TABLE, search_run.RECIPE, compare_run.PLAN)
    (tmp_path / mark).touch()
    commands = {
        "config.toml": ["train", "quickstart"],
        "folds.csv": ["train", "quickstart", "--folds", "2"],
        "search.toml": ["search", "quickstart", "--space", "optimizer.lr={low=1e-4, high=1e-2}"],
        "plan.json": ["compare", "quickstart", "cifar10-mlp"],
    }
    for own, command in commands.items():
        if own != mark:
            assert main([*command, "--out", str(tmp_path)]) == 2
            assert f"already holds {held}; give another --out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [mark]
