import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nnkit
from nnkit import plots, recipes, runs
from nnkit.cli import main
from nnkit.compare import compare, entries, results, verdict
from nnkit.compare.results import Comparison, Contestant, Training
from nnkit.compare.run import _is_done
from nnkit.errors import UsageError
from nnkit.history import History

RECIPE = """
name = "{name}"
[data]
name = "shapes"
train_count = {images}
test_count = 120
validation = 60
[model]
name = "mlp"
hidden = [{width}]
[optimizer]
name = "adam"
lr = 0.003
[training]
epochs = {epochs}
batch_size = 20
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(nnkit.__file__).parents[1]), "NNKIT_NUM_THREADS": "1"}


def recipe_file(folder, name, width=8, images=200, epochs=2):
    path = folder / f"{name}.toml"
    path.write_text(RECIPE.format(name=name, width=width, images=images, epochs=epochs), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two recipes with two seeds each: the folder, and what the command printed."""
    folder = tmp_path_factory.mktemp("compared")
    names = [recipe_file(folder, "narrow", 4), recipe_file(folder, "w<b>ide", 32)]
    command = [sys.executable, "-m", "nnkit", "compare", *names, "--seeds", "2", "--to", "15,99", "--out", "out"]
    printed = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=ENVIRONMENT)
    assert (printed.returncode, printed.stderr) == (0, "")
    return folder / "out", printed.stdout


# A comparison


def test_it_leaves_a_table_a_page_and_the_trainings(compared):
    folder, printed = compared
    assert {path.name for path in folder.iterdir()} == {
        "plan.json", "comparison.csv", "comparison.json", "comparison.html", "accuracy.png", "curves.png",
        "recalls.png", "runs",
    }  # fmt: skip
    assert sorted(path.name for path in (folder / "runs").iterdir()) == [
        "1-narrow-seed0", "1-narrow-seed1", "2-w_b_ide-seed0", "2-w_b_ide-seed1",
    ]  # fmt: skip
    turns = re.findall(r"train +\d of 4: (.*), seed (\d)", printed)
    assert turns == [("narrow", "0"), ("w<b>ide", "0"), ("narrow", "1"), ("w<b>ide", "1")]
    assert printed.count("epoch 2/2") == 4
    page = (folder / "comparison.html").read_text(encoding="utf-8")
    assert "w&lt;b&gt;ide" in page
    assert "<b>ide" not in page
    assert page.count("<img") == 3
    assert "src=" not in page.replace('src="data:', "")


def test_the_figures_are_those_of_the_runs(compared, capsys):
    folder, _ = compared
    figures = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert figures["judged_by"] == "test images"
    assert figures["images"] == 120
    by_name = {contestant["name"]: contestant for contestant in figures["contestants"]}
    for training in by_name["narrow"]["trainings"]:
        assert (
            main(
                [
                    "evaluate",
                    training["run"] if Path(training["run"]).is_absolute() else str(folder.parent / training["run"]),
                    "--json",
                ]
            )
            == 0
        )
        again = json.loads(capsys.readouterr().out)
        assert training["accuracy"] == again["test_accuracy"]
    narrow = by_name["narrow"]
    accuracies = [training["accuracy"] for training in narrow["trainings"]]
    assert narrow["accuracy"] == pytest.approx(np.mean(accuracies))
    assert narrow["accuracy_std"] == pytest.approx(np.std(accuracies, ddof=1))
    assert narrow["parameters"] == 3072 * 4 + 4 + 4 * 10 + 10
    assert narrow["flops"] == 2 * (3072 * 4 + 4 * 10)
    assert 30e6 < narrow["peak_memory"] < 2e9  # an interpreter with NumPy has more, a small net with few images less
    with (folder / "comparison.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [contestant["name"] for contestant in figures["contestants"]]
    assert float(rows[0]["accuracy"]) == figures["contestants"][0]["accuracy"]
    assert rows[0]["seconds_to_0.99"] == ""
    assert rows[0]["reached_0.99"] == "0"
    (pair,) = figures["pairs"]
    assert len(pair["tests"]) == 2
    for test, ours, others in zip(
        pair["tests"], *(by_name[pair[k]]["trainings"] for k in ("first", "second")), strict=True
    ):
        assert test["only_first"] - test["only_second"] == round(120 * (ours["accuracy"] - others["accuracy"]))


def test_finished_runs_are_compared_without_training(compared, tmp_path, capsys):
    folder, _ = compared
    everything = sorted(map(str, (folder / "runs").iterdir()))
    assert main(["compare", *everything, "--out", str(tmp_path / "again"), "--json"]) == 0
    answer = capsys.readouterr()
    assert "train " not in answer.err
    again, before = json.loads(answer.out), json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert again["pairs"] == before["pairs"]  # folders that differ by the seed only are one contestant's
    for one, other in zip(again["contestants"], before["contestants"], strict=True):
        assert (one["name"], one["accuracy"], one["accuracy_std"]) == (
            other["name"],
            other["accuracy"],
            other["accuracy_std"],
        )
    assert main(["compare", everything[0], everything[2], "--out", str(tmp_path / "two"), "--epochs", "2"]) == 2
    assert "for recipes to train" in capsys.readouterr().err


def test_resuming_what_is_done_trains_nothing(compared, capsys):
    folder, _ = compared
    before = (folder / "comparison.csv").read_bytes()
    assert main(["compare", "--resume", str(folder)]) == 0
    assert "kept    4 of 4" in capsys.readouterr().out
    assert (folder / "comparison.csv").read_bytes() == before
    for more in (["narrow.toml"], ["--epochs", "3"], ["--seeds", "3"], ["--vary", "optimizer.lr=1,2"]):
        assert main(["compare", "--resume", str(folder), *more]) == 2
        assert "leave out" in capsys.readouterr().err


def test_the_same_training_as_alone(compared, tmp_path):
    folder, _ = compared
    run = folder / "runs" / "1-narrow-seed1"
    runs.train(recipes.load(run / "config.toml"), tmp_path / "alone", only_train=True)
    alone = nnkit.load_model(tmp_path / "alone" / "model.safetensors")[0]
    assert np.array_equal(nnkit.load_model(run / "model.safetensors")[0].flat_params, alone.flat_params)


# Sweeps


def test_a_sweep_with_one_that_diverges(tmp_path, capsys):
    name = recipe_file(tmp_path, "net")
    out = tmp_path / "out"
    values = "1e-3,3e-3,1e30"
    assert main(["compare", name, "--vary", f"optimizer.lr={values}", "--epochs", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "the test set is not looked at" in printed
    assert "diverged: " in printed
    figures = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert figures["judged_by"] == "validation images"
    assert figures["images"] == 60
    assert [contestant["name"] for contestant in figures["contestants"]][-1] == "lr=1e30"
    lost = figures["contestants"][-1]
    assert (lost["accuracy"], lost["diverged"], lost["recalls"]) == (None, 1, None)
    for contestant in figures["contestants"][:2]:
        (training,) = contestant["trainings"]
        assert training["accuracy"] == pytest.approx(training["val_accuracy"])
        assert "test_accuracy" not in json.loads((Path(training["run"]) / "metrics.json").read_text(encoding="utf-8"))
    assert (out / "sweep.png").exists()
    assert "1e30" in (out / "comparison.html").read_text(encoding="utf-8")
    assert all(map(_is_done, (out / "runs").iterdir()))  # what diverged is done, too


def test_ctrl_c_keeps_what_is_done(tmp_path):
    names = [recipe_file(tmp_path, "first", 4), recipe_file(tmp_path, "second", 64, images=4000, epochs=30)]
    command = [sys.executable, "-m", "nnkit", "compare", *names, "--out", "out"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, start_new_session=True, **streams) as process:
        for line in process.stdout:
            if "epoch  1/30" in line:
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all
                break
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "nnkit: interrupted; nnkit compare --resume out goes on\n"
    runs = tmp_path / "out" / "runs"
    assert (runs / "1-first-seed0" / "metrics.json").exists()
    assert (runs / "2-second-seed0" / "last.ckpt").exists()
    assert not (runs / "2-second-seed0" / "metrics.json").exists()


# What is to be varied


def test_values_are_split_at_their_commas_only():
    found = entries.read(["quickstart"], ["model.widths=[8],[8, 16],[4]"])
    assert [entry.recipe.model["widths"] for entry in found] == [[8], [8, 16], [4]]
    assert [entry.name for entry in found] == ["widths=[8]", "widths=[8, 16]", "widths=[4]"]
    product = entries.read(["cifar10-mlp"], ["optimizer.lr=1e-4,1e-3", "model.depth=1,2,3"], seeds=3)
    assert len(product) == 6
    assert product[-1].name == "lr=1e-3 depth=3"
    assert product[-1].seeds == (0, 1, 2)
    assert product[-1].recipe.create_model(10).build((3, 32, 32)) == (10,)


def test_a_name_stands_for_an_optimizer_with_its_standard_rate():
    found = entries.read(["cifar10-cnn"], ["optimizer=sgd,momentum,adamw"])
    assert [entry.recipe.optimizer for entry in found] == [
        {"name": "sgd", "lr": 0.1, "weight_decay": 1e-4},
        {"name": "momentum", "lr": 0.01, "weight_decay": 1e-4},
        {"name": "adamw", "lr": 0.001, "weight_decay": 1e-4},
    ]
    both = entries.read(["cifar10-mlp"], ["optimizer.lr=0.5", "optimizer=sgd,adam"])  # in whatever order
    assert [entry.recipe.optimizer for entry in both] == [{"name": "sgd", "lr": 0.5}, {"name": "adam", "lr": 0.5}]
    models = entries.read(["quickstart"], ["model=mlp,cnn"])
    assert [entry.recipe.model for entry in models] == [{"name": "mlp"}, {"name": "cnn"}]


def test_every_optimizer_has_a_standard_rate():
    assert set(entries.STANDARD_RATES) == set(nnkit.optim.OPTIMIZERS)


def test_an_mlp_has_a_depth():
    model = nnkit.models.create("mlp", 10, hidden=(32, 16), depth=2)
    model.build((3, 32, 32))
    shapes = [array.shape for name, array in model.named_parameters().items() if name.endswith("weight")]
    assert sorted(shapes) == sorted([(32, 3072), (32, 32), (16, 32), (16, 16), (10, 16)])
    with pytest.raises(UsageError, match="depth >= 1, got 0"):
        nnkit.models.create("mlp", 10, depth=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected at least two recipes or runs"),
        (["quickstart"], "got only quickstart"),
        (["quickstart", "quickstart"], "each recipe and run once"),
        (["quickstrat", "quickstart"], "did you mean 'quickstart'"),
        (["nowhere/run", "quickstart"], "no such run folder"),
        (["quickstart", "--vary", "optimizer.lrr=1,2"], "did you mean 'lr'"),
        (["quickstart", "--vary", "optimizer.lr="], "expected KEY=VALUE,VALUE"),
        (["quickstart", "--vary", "optimizer.lr=1,,2"], "expected KEY=VALUE,VALUE"),
        (["quickstart", "--vary", "optimizer.lr"], "expected KEY=VALUE,VALUE"),
        (["quickstart", "--vary", "optimizer.lr=1"], "got only lr=1"),
        (["quickstart", "--vary", "optimizer.lr=1e-3,0.001"], "the same settings twice"),
        (["quickstart", "--vary", "optimizer.lr=1,2", "--vary", "optimizer.lr=3,4"], "each key once"),
        (["quickstart", "--vary", "optimizer=sgd,adan"], "did you mean 'adam'"),
        (["quickstart", "--vary", "seed=1,2"], "expected --seeds"),
        (["quickstart", "--vary", "data.test_count=10,20"], "cannot be varied"),
        (["quickstart", "--vary", "training.epochs=0,1"], "epochs: expected a whole number >= 1, got 0"),
        (["quickstart", "cifar10-mlp", "--vary", "optimizer.lr=1,2"], "expected one recipe"),
        (["quickstart", "cifar10-mlp", "--seeds", "0"], "seeds: expected a whole number >= 1"),
        (["quickstart", "cifar10-mlp", "--to", "much"], "expected percentages"),
        (["quickstart", "--vary", "optimizer.lr=1,2", "--to", "120"], "up to 100%"),
        (["--resume", "nowhere"], "no comparison to resume"),
        (["--resume"], "no comparison in runs/ to resume"),
    ],
)
def test_wrong_use_is_refused_before_anything_is_written(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_other_images_are_refused(compared, tmp_path, monkeypatch, capsys):
    folder, _ = compared
    monkeypatch.chdir(tmp_path)
    run = str(folder / "runs" / "1-narrow-seed0")
    text = Path(recipe_file(tmp_path, "other")).read_text(encoding="utf-8")
    (tmp_path / "more.toml").write_text(text.replace("test_count = 120", "test_count = 130"), encoding="utf-8")
    (tmp_path / "fewer.toml").write_text(text.replace("[data]", '[data]\nclasses = ["ring", "star"]'), encoding="utf-8")
    assert main(["compare", run, "more.toml"]) == 1
    assert "have other test images (120 of 3×32×32 and 130 of 3×32×32)" in capsys.readouterr().err
    assert main(["compare", run, "fewer.toml"]) == 1
    assert "they cannot be compared" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_run_that_is_not_finished_is_refused(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text(recipes.source("quickstart"), encoding="utf-8")
    assert main(["compare", str(run), "quickstart"]) == 1
    assert "not finished; nnkit train --resume goes on" in capsys.readouterr().err
    (run / "metrics.json").write_text("{", encoding="utf-8")
    assert main(["compare", str(run), "quickstart"]) == 1
    assert "expected the figures of a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("history.csv", r",[^,]*\n\Z", "", "history.csv: cannot read this history: line 3 ends too early"),
        ("history.csv", r",[^,]*(,[^,]*\n)\Z", r",nan\1", "history.csv: expected a number in "),
        ("metrics.json", r'"peak_memory": \d+', '"peak_memory": "much"', "peak_memory to be a number, got 'much'"),
    ],
)
def test_a_damaged_run_is_refused_before_anything_is_written(compared, tmp_path, capsys, file, old, new, message):
    runs = compared[0] / "runs"
    damaged = shutil.copytree(runs / "1-narrow-seed0", tmp_path / "damaged")
    text, count = re.subn(old, new, (damaged / file).read_text(encoding="utf-8"))
    assert count == 1
    (damaged / file).write_text(text, encoding="utf-8")
    assert main(["compare", str(damaged), str(runs / "2-w_b_ide-seed0"), "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folders_that_hold_something_else_are_left_alone(compared, tmp_path, capsys):
    folder, _ = compared
    name = recipe_file(tmp_path, "net")
    vary = ["--vary", "optimizer.lr=1,2"]
    assert main(["compare", name, *vary, "--out", str(folder)]) == 2
    assert "already holds a comparison" in capsys.readouterr().err
    assert main(["compare", name, *vary, "--out", str(folder / "runs" / "1-narrow-seed0")]) == 2
    assert "already holds a run" in capsys.readouterr().err
    for damaged in ('{"part": "test"}', '{"part": "test", "thresholds": [0.5], "entries": []}'):
        (tmp_path / "plan.json").write_text(damaged, encoding="utf-8")
        assert main(["compare", "--resume", str(tmp_path)]) == 1
        assert "cannot read this plan" in capsys.readouterr().err


def test_a_setting_that_only_the_data_refuse(tmp_path):
    name, other = recipe_file(tmp_path, "net"), recipe_file(tmp_path, "other", 4)
    with pytest.raises(UsageError, match="net: batch_size"):
        compare([name, other], tmp_path / "out", overrides=["training.batch_size=1000"])


# Sentences


def contestant(name, *answers, seconds=1.0, values=None, gap=0.0, flops=100):
    """One whose nets give these answers; all labels are 0."""
    trainings = []
    for seed, said in enumerate(answers):
        said = np.asarray(said)
        history, accuracy = History(), float(np.mean(said == 0)) if said.size else 0.0
        history.append(
            epoch=1, step=1, train_loss=1.0, train_accuracy=accuracy + gap, val_loss=1.0, val_accuracy=accuracy, lr=0.1,
            grad_norm=1.0, seconds=seconds, images_per_second=1.0,
        )  # fmt: skip
        why = "" if said.size else "loss became NaN"
        trainings.append(Training(seed, Path("x"), history, 2**20, 1, "avx2", np.zeros(said.size, int), said, why))
    recipe = recipes.load("quickstart")
    return Contestant(entries.Entry(name, recipe, tuple(range(len(answers))), (), values or {}), trainings, 10, flops)


def said(right, of=200, shift=0):
    return np.roll(np.r_[np.zeros(right, int), np.ones(of - right, int)], shift)


def comparison(*contestants, part="test"):
    return Comparison(list(contestants), ["zero", "one"], part, (0.5, 0.7), Path("x"))


def test_the_verdict_names_the_best_and_what_it_costs():
    result = comparison(
        contestant("mlp", said(100), said(102), seconds=1.0, flops=10),
        contestant("cnn", said(160), said(164), seconds=5.0, gap=0.1),
    )
    assert verdict.headline(result) == "cnn is best: 81.0 ± 1.4% of 200 test images recognised"
    first, second = verdict.story(result)
    assert "The next one is mlp with 50.5 ± 0.7%, 30.5 percentage points less." in first
    assert "more than chance (McNemar's test: p < 0.001)" in first
    assert "mlp gets to 50% validation accuracy first, in 1.0 s; then comes cnn in 5.0 s." in second
    assert "mlp is the fastest, with 1.0 s an epoch; cnn takes 5.0 times as long." in second
    assert "cnn overfits most: training accuracy is 10.0 percentage points above" in second


def test_a_small_lead_is_not_called_a_victory():
    result = comparison(contestant("a", said(100)), contestant("b", said(102)))
    assert verdict.headline(result).startswith("b is ahead, though not beyond doubt: 51.0%")
    (pair,) = result.pairs
    assert (pair.tests[0].only_first, pair.tests[0].only_second) == (2, 0)
    assert verdict.pair_sentence(pair) == "not told apart"
    assert "--seeds 3" in verdict.story(result)[0]


def test_seeds_that_disagree_are_no_difference():
    result = comparison(contestant("a", said(150), said(100)), contestant("b", said(100), said(148)))
    (pair,) = result.pairs
    assert all(test.p < 0.001 for test in pair.tests)
    assert (pair.p, pair.significant) == (1.0, False)
    assert "seeds disagree" in verdict.pair_sentence(pair)


def test_what_diverged_comes_last_whatever_the_others_reached():
    result = comparison(contestant("wild", said(199), []), contestant("tame", said(50), said(52)))
    assert [each.name for each in result.ranked] == ["tame", "wild"]
    assert result.ranked[1].accuracy_text() == "99.5% (1 of 2 diverged)"
    assert "Diverged, all or some of its trainings: wild." in " ".join(verdict.story(result))
    assert "diverged" in comparison(contestant("gone", []), contestant("a", said(1))).table()[1][1]


def test_a_best_value_at_the_edge_is_told():
    rates = {"1e-3": 100, "1e-2": 120, "1e-1": 150}
    sweep = [contestant(f"lr={text}", said(n), values={"optimizer.lr": text}) for text, n in rates.items()]
    text = " ".join(verdict.story(comparison(*sweep, part="validation")))
    assert "lr = 1e-1 is the largest value tried: the best may lie beyond it." in text
    assert results.varied(comparison(*sweep)) == {"lr": ["1e-3", "1e-2", "1e-1"]}


# Pictures


def test_pictures_say_what_they_show(tmp_path):
    long = "a very long name of a contestant, with <markup> and $dollars$"
    figure = plots.accuracy_dots([[0.5, 0.6], [0.7]], [long, "b"])
    assert figure.get_suptitle() == "b recognises most: 70.0% of the test images"
    assert plots.accuracy_dots([[0.5], [0.5]], ["a", "b"]).get_suptitle() == "All recognise 50.0% of the test images"
    many = {f"contestant {i}": [([1.0, 2.0], [0.1, 0.1 + i / 20])] * 2 for i in range(12, 0, -1)}
    figure = plots.comparison_curves(many, thresholds=[0.5])
    assert figure.get_suptitle() == "contestant 12 climbs highest: 70.0% validation accuracy"
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "5 more"
    alike = {f"{long} {i}": [([1.0], [0.5])] for i in (1, 2)}  # of which the legend shows the same beginning
    assert len(plots.comparison_curves(alike).legends[0].get_texts()) == 2
    recalls = np.random.default_rng(0).random((3, 40))
    recalls[:, 7] = np.nan  # a class without images
    figure = plots.class_recalls(recalls, ["a", "b", long], [f"class {k}" for k in range(40)])
    assert len(figure.axes[0].get_yticks()) == 25
    assert "class 7" not in [text.get_text() for text in figure.axes[0].get_yticklabels()]
    figure = plots.sweep_line([0.1, 0.001, 0.01], [[], [0.4, 0.42], [0.5, 0.52]], name="lr")
    assert figure.get_suptitle() == "Best at lr = 0.01: 51.0 ± 1.4% validation accuracy"
    assert figure.axes[0].get_xscale() == "log"
    figure = plots.sweep_map([[0.1, np.nan], [0.3, 0.2]], ["1", "2"], [long, "x"], names=("depth", "hidden"))
    assert "diverged" in [text.get_text() for text in figure.axes[0].texts]
    plots.save(figure, tmp_path / "map.png")


def test_pictures_can_be_drawn_into_given_axes():
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots(2, 2).ravel()
    assert plots.accuracy_dots([[0.5], [0.6]], ["a", "b"], ax=axes[0]) is figure
    assert plots.class_recalls([[0.5, 0.1]], ["a"], ["x", "y"], ax=axes[1]) is figure
    assert plots.sweep_line([1, 2, 3], [[0.5], [0.6], [0.7]], name="depth", ax=axes[2]) is figure
    assert plots.sweep_map([[0.5, 0.6]], ["a"], ["x", "y"], names=("r", "c"), ax=axes[3]) is figure
    assert axes[0].get_title(loc="left") == "b recognises most: 60.0% of the test images"


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.accuracy_dots([], []),
        lambda: plots.accuracy_dots([[0.5], []], ["a", "b"]),
        lambda: plots.comparison_curves({}),
        lambda: plots.comparison_curves({"a": [([], [])]}),
        lambda: plots.class_recalls([[0.5]], ["a", "b"], ["x"]),
        lambda: plots.class_recalls([[np.nan]], ["a"], ["x"]),
        lambda: plots.sweep_line([1, 2], [[], []], name="x"),
        lambda: plots.sweep_line([1, 2], [[0.5]], name="x"),
        lambda: plots.sweep_map([[np.nan]], ["a"], ["b"], names=("r", "c")),
    ],
)
def test_pictures_refuse_what_they_cannot_show(draw):
    with pytest.raises(ValueError, match=r"expected|Expected"):
        draw()
