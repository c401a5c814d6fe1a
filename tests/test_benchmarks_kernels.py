"""The benchmarks of single operations run and write what they promise; what they measure here means nothing."""

import importlib
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
PAGE = FOLDER.parent / "docs" / "performance.md"
PNG = b"\x89PNG"
SIDES = {"nnkit", "torch"} if find_spec("torch") else {"nnkit"}

pytestmark = [
    pytest.mark.skipif(not FOLDER.exists(), reason="not in a source tree"),
    pytest.mark.skipif(not Path("/proc/stat").exists(), reason="reads Linux's /proc"),
]


def started(script, *options):
    """Run a benchmark with its own folder on the path, which PYTHONSAFEPATH would keep off it."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONSAFEPATH", "NNKIT_KERNELS")}
    command = [sys.executable, str(FOLDER / script), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=kept)


def trial(script, folder, *options):
    outputs = ["--json", str(folder / "found.json"), "--figure", str(folder / "figure.png")]
    done = started(script, "--quick", "--threads", "1", *options, *outputs)
    assert done.returncode == 0, done.stderr
    assert (folder / "figure.png").read_bytes().startswith(PNG)
    return json.loads((folder / "found.json").read_text()), done.stdout


def test_layers_are_timed_and_compared_with_float64(tmp_path):
    found, text = trial("kernels.py", tmp_path, "--only", "cnn: (32→64|512→10)")
    kinds = [(r["kind"], r["pass"]) for r in found["records"]]
    passes = ("forward", "backward_input", "backward_weight")
    assert kinds == [(kind, which) for kind in ("convolution", "linear") for which in passes]
    for r in found["records"]:
        assert r["auto"] in r["gflops"]
        assert r["gflops"].keys() >= SIDES - {"nnkit"} | {"direct"}
        assert 0 < r["error"]["direct"] < 1e-5
        assert max(r["error"].values()) < 1e-3
    assert "| cifar10-cnn: 32→64 3×3 @30 | forward |" in text


def test_passes_over_memory_are_timed(tmp_path):
    found, text = trial("memory_ops.py", tmp_path, "--only", "^(max pool|pick)")
    assert len(found["records"]) == 3 * 3
    assert all(r["gb_per_s"].keys() == SIDES for r in found["records"])
    assert "| max pool 2×2, backward |" in text


def test_growth_is_measured(tmp_path):
    found, text = trial("scaling.py", tmp_path)
    assert [r["what"] for r in found["records"]] == ["batch size", "width", "depth", "image size", "threads"]
    for r in found["records"]:
        for times in r["milliseconds"]:
            assert times["step"] == pytest.approx(times["forward"] + times["backward"] + times["update"])
    assert "| batch size | 1 … 4 |" in text


@pytest.mark.skipif(find_spec("mpi4py") is None, reason="mpi4py is not installed")
def test_two_ranks_are_timed_and_the_model_is_checked(tmp_path):
    found, text = trial("distributed.py", tmp_path, "--nets", "mlp3")
    (record,) = found["records"]
    assert record["model"] == pytest.approx(record["compute"] + record["sum"] + record["figures"])
    assert min(record["two_ranks"], found["fit"]["gb_per_s"], *record["one_process"]) > 0
    assert "| MLP 3072-128-64-3 | 8 | 1.6 |" in text
    assert "| MLP 3072-128-64-3 | 8 each | 100 Gbit/s |" in text
    assert (PAGE.parent / "scaling.md").read_text().count("<!-- distributed -->") == 1


def test_an_unknown_pass_is_refused():
    done = started("memory_ops.py", "--only", "maxpool")
    assert done.returncode == 2
    assert "'maxpool'" in done.stderr
    assert "max pool 2×2" in done.stderr


def test_a_step_is_taken_apart(tmp_path):
    found, text = trial("profile_step.py", tmp_path, "--nets", "mlp3")
    (record,) = found["records"]
    assert record["step"] == pytest.approx(record["between"] + sum(record["kernels"].values()))
    assert record["calls"]["gemm"] >= 3 + 2 + 3  # forward, backward to the inputs and to the weights
    assert "| MLP 3072-128-64-3, batch 8 | `sgd_step` | 1 |" in text


def test_neighbours_are_measured(tmp_path):
    found, _ = trial("neighbour.py", tmp_path, "--nets", "mlp3")
    (record,) = found["records"]
    assert record["neighbours"] == [0, 1]
    assert record["milliseconds"].keys() == SIDES
    for products in found["products_us"].values():
        assert products.keys() == {"numpy", "nnkit"}
        assert all(figures.keys() == {"alone", "after"} for figures in products.values())


def test_every_section_has_its_place_and_links_its_figure():
    text = PAGE.read_text()
    pictured = ("train_step", "inference", "footprint", "kernels", "memory_ops", "scaling", "profile_step", "neighbour")
    for name in (*pictured, "winograd_accuracy"):
        assert text.count(f"<!-- {name} -->") == text.count(f"<!-- /{name} -->") == 1
    drawn = {name for name in pictured if (PAGE.parent / "images" / f"{name}.png").exists()}
    assert set(re.findall(r"\]\(images/(\w+)\.png\)", text)) == drawn


def test_a_section_gets_its_table_and_the_link_to_its_figure(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    monkeypatch.syspath_prepend(FOLDER)
    charts = importlib.import_module("charts")
    page.write_text("before\n<!-- kernels -->\nold\n<!-- /kernels -->\nafter\n")
    charts.write_section("kernels", ["| new |"], "Dots", page)
    section = "<!-- kernels -->\n![Dots](images/kernels.png)\n\n| new |\n<!-- /kernels -->"
    assert page.read_text() == f"before\n{section}\nafter\n"
    with pytest.raises(SystemExit, match="scaling"):
        charts.write_section("scaling", ["| new |"], "Lines", page)


@pytest.mark.skipif(not find_spec("sklearn"), reason="scikit-learn is not installed")
def test_estimators_race_to_an_accuracy(tmp_path):
    found, text = trial("estimator_speed.py", tmp_path, "--only", "digits")
    (record,) = found["records"]
    assert record["reached"].keys() >= {"nnkit", "mlp"}
    for side, (run,) in record["curves"].items():
        epochs = int(record["reached"][side]["epochs"])
        assert run["accuracy"][epochs - 1] >= record["accuracy"] > max(run["accuracy"][: epochs - 1], default=0)
        assert record["reached"][side]["seconds"] == pytest.approx(sum(run["seconds"][:epochs]))
    assert "| digits |" in text
