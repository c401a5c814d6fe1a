"""The comparisons run and write what they promise; what they measure here means nothing."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
PNG = b"\x89PNG"
# A script finds its neighbours in its own folder, which is not that of nnkit's sources.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}

pytestmark = [
    pytest.mark.skipif(not FOLDER.exists(), reason="not in a source tree"),
    pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed"),
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc"),
]


def run(script, folder, *options):
    outputs = ["--json", str(folder / "found.json"), "--figure", str(folder / "figure.png")]
    command = [sys.executable, str(FOLDER / script), "--nets", "mlp3", "--threads", "1", *options, *outputs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert (folder / "figure.png").read_bytes().startswith(PNG)
    return json.loads((folder / "found.json").read_text()), done.stdout


def test_training_steps_are_compared(tmp_path):
    short = ["--quick", "--force", "--turns", "1", "--turn-seconds", "0.02", "--images", "256", "--markdown"]
    found, text = run("train_step.py", tmp_path, *short)
    (result,) = found["results"]
    best = min(result[column]["ms"] for column in ("shipped", "best", "tuned"))
    assert result["ratio"] == pytest.approx(best / result["nnkit"]["ms"])
    assert result["nnkit"]["steps"] >= 1
    assert "| MLP 3072-128-64-3 | 64 |" in text


def test_footprints_are_compared(tmp_path):
    found, text = run("footprint.py", tmp_path, "--quick")
    ours, *theirs = found["peaks"]["mlp3"]
    assert found["libraries_bytes"]["nnkit"] < ours < min(theirs)
    assert found["import_seconds"]["nnkit"] < found["import_seconds"]["torch"]
    assert "nnkit's peak is below PyTorch's least on every net." in text


def test_an_unknown_net_is_named():
    command = [sys.executable, str(FOLDER / "train_step.py"), "--nets", "mpl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=ENVIRONMENT)
    assert done.returncode == 2
    assert "got 'mpl'" in done.stderr
