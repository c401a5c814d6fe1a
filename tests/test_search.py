import contextlib
import csv
import errno
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest

import nnkit
from nnkit import pictures, plots, recipes
from nnkit.cli import main
from nnkit.errors import UsageError
from nnkit.recipes import toml
from nnkit.search import results, search, worker
from nnkit.search import study as studies
from nnkit.search.run import _checked
from nnkit.search.space import Space

optuna = pytest.importorskip("optuna")
pytest.importorskip("sklearn")
SMALL = [
    "data.train_count=120", "data.test_count=20", "data.validation=40", "model.name=mlp", "model.widths=",
    "model.hidden=[8]", "model.dropout=", "training.epochs=2", "training.batch_size=20", "search.folds=2",
]  # fmt: skip
LR = "{low = 1e-4, high = 1e-1, log = true}"
COMMAND = ["search", "quickstart", *(part for setting in SMALL for part in ("--set", setting)), "--space"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(nnkit.__file__).parents[1]), "NNKIT_NUM_THREADS": "1"}


def with_space(*entries, settings=()):
    """The small recipe with these entries of the space."""
    space = ", ".join(entries)
    return recipes.load("quickstart", [*SMALL, f"search.space={{{space}}}", *settings])


def rows_of(folder):
    with (folder / "trials.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# The space


def test_what_a_space_may_hold():
    recipe = with_space(
        f'"optimizer.lr" = {LR}',
        '"training.epochs" = {low = 1, high = 3}',
        '"training.clip_norm" = {low = 1, high = 5}',
        '"model.dropout" = {low = 0.0, high = 0.35, step = 0.1}',
        '"model.hidden" = {depth = {low = 1, high = 3}, width = {choices = [4, 8]}}',
        '"model.activation" = {choices = ["relu", "tanh"]}',
        '"data.augment.flip" = {choices = [true, false]}',
        '"schedule.name" = {choices = ["cosine", "one_cycle"]}',
    )
    space = Space(recipe)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    seen = []
    for _ in range(40):
        trial = study.ask()
        values = space.suggest(trial)
        assert space.values_of(trial.params) == values
        changed = space.recipe_with(values)
        depth, width = values["model.hidden.depth"], values["model.hidden.width"]
        assert list(changed.model["hidden"]) == [width] * depth
        assert changed.optimizer["lr"] == values["optimizer.lr"]
        assert changed.data.augment.flip is values["data.augment.flip"]
        assert changed.schedule["name"] == values["schedule.name"]
        seen.append(values)
    assert {v["training.epochs"] for v in seen} == {1, 2, 3}
    assert all(isinstance(v["training.clip_norm"], float) for v in seen)  # which takes 1.5, too
    assert {v["model.dropout"] for v in seen} == {0.0, 0.1, 0.2, 0.3}
    assert {len(str(v["model.hidden.depth"])) for v in seen} == {1}
    assert sum(v["optimizer.lr"] < 10**-2.5 for v in seen) == pytest.approx(20, abs=10)  # half of the powers of ten


def test_a_list_may_be_a_choice():
    space = Space(with_space('"model.hidden" = {choices = [[8], [16, 8]]}'))
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(1)).ask()
    values = space.suggest(trial)
    assert values["model.hidden"] in ([8], [16, 8], (8,), (16, 8))
    assert list(space.recipe_with(values).model["hidden"]) == list(values["model.hidden"])


def test_steps_are_what_a_person_would_write():
    space = Space(with_space('"model.dropout" = {low = 0.0, high = 0.5, step = 0.05}'))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    trials = [study.ask() for _ in range(60)]
    drawn = {space.suggest(trial)["model.dropout"] for trial in trials}
    assert drawn == {0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5}
    assert {space.values_of(trial.params)["model.dropout"] for trial in trials} == drawn


def test_a_section_is_chosen_before_its_settings():
    optimizers = '"optimizer" = {choices = [{name = "adam", lr = 1.0}, {name = "sgd", lr = 2.0}]}'
    space = Space(with_space(f'"optimizer.lr" = {LR}', optimizers))
    recipe = space.recipe_with({"optimizer": {"name": "sgd", "lr": 2.0}, "optimizer.lr": 0.01})
    assert recipe.optimizer == {"name": "sgd", "lr": 0.01}


def test_a_grid_has_every_point():
    recipe = with_space(
        '"optimizer.lr" = {low = 1e-4, high = 1e-2, log = true, points = 3}',
        '"model.dropout" = {low = 0.0, high = 0.3, step = 0.1}',
        '"training.epochs" = {low = 1, high = 2}',
    )
    points = Space(recipe).grid()
    assert len(points) == 3 * 4 * 2
    assert sorted({point["optimizer.lr"] for point in points}) == pytest.approx([1e-4, 1e-3, 1e-2])
    assert sorted({point["model.dropout"] for point in points}) == [0.0, 0.1, 0.2, 0.3]
    assert (
        _checked(with_space('"training.epochs" = {low = 1, high = 7}', settings=["search.sampler=grid"])).search.trials
        == 7
    )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (f'"optimizer.rate" = {LR}', '"optimizer.rate": optimizer.rate: unknown key'),
        (f'"optimzer.lr" = {LR}', "did you mean 'optimizer'?"),
        ('"model.droput" = {low = 0.0, high = 0.5}', "did you mean 'dropout'?"),
        ('"optimizer.lr" = {low = 0.1, high = 0.01}', "expected low <= high, got low = 0.1 and high = 0.01"),
        ('"optimizer.lr" = {low = 0, high = 0.1, log = true}', "log: expected a range above 0, got low = 0"),
        ('"optimizer.lr" = {low = -1.0, high = 0.1}', "lr must be a number >= 0, got -1"),
        ('"optimizer.lr" = {low = 0.1}', "expected low and high, or choices; got no high"),
        ('"optimizer.lr" = {low = 0.1, high = nan}', "high: expected a number, got nan"),
        ('"optimizer.lr" = {low = 0.1, high = "1"}', "high: expected a number, got '1'"),
        ('"optimizer.lr" = {low = 0.1, high = 1.0, lgo = true}', "unknown key 'lgo'; did you mean"),
        ('"optimizer.lr" = {low = 0.1, high = 1.0, log = 1}', "log: expected true or false, got 1"),
        ('"optimizer.lr" = {low = 0.1, high = 1.0, step = 0.1, log = true}', "step: expected none with log"),
        ('"optimizer.lr" = {low = 0.1, high = 1.0, step = 0.0}', "step: expected a number > 0, got 0.0"),
        ('"optimizer.lr" = {low = 0.1, high = 1.0, points = 0}', "points: expected a whole number >= 1, got 0"),
        ('"optimizer.lr" = 0.1', "expected a table such as"),
        ('"optimizer.lr" = {}', "expected a table such as"),
        ('"optimizer.lr" = {choices = []}', "choices: expected a list of at least one value, got []"),
        ('"optimizer.lr" = {choices = [0.1, 0.1]}', "choices: expected different values"),
        ('"optimizer.lr" = {choices = [0.1], low = 0.1}', "choices stand alone, got choices, low"),
        ('"optimizer.name" = {choices = ["adam", "adan"]}', "did you mean 'adam'?"),
        ('"model.hidden" = {depth = {low = 1, high = 2}}', "expected depth and width, got only one of them"),
        ('"model.hidden" = {depth = {choices = [1.5]}, width = {choices = [8]}}', "depth: expected whole numbers >= 0"),
        ('"model.hidden" = {depth = {choices = [1]}, width = {low = 0, high = 8}}', '"model.hidden": '),
        ('"training.epochs" = {low = 0.5, high = 2.0}', "training.epochs: expected an integer, got 0.5"),
        ('"data.name" = {choices = ["shapes"]}', "cannot be searched"),
        ('"data.train_count" = {low = 10, high = 20}', "cannot be searched"),
        ('seed = {low = 0, high = 9}', "cannot be searched"),
        ('"seed.x" = {low = 0, high = 9}', "cannot be searched"),
        ('"search.folds" = {low = 2, high = 9}', "cannot be searched"),
    ],
)  # fmt: skip
def test_a_wrong_space_is_named(entry, message):
    with pytest.raises(UsageError) as error:
        Space(with_space(entry))
    text = str(error.value)
    assert message in text
    assert "\n" not in text


def test_a_grid_over_a_range_needs_points():
    with pytest.raises(UsageError, match=r'"optimizer.lr": a grid needs points, a step or choices'):
        Space(with_space(f'"optimizer.lr" = {LR}')).grid()
    with pytest.raises(UsageError, match="a grid of at most 100,000 points, got 1,000,000"):
        Space(with_space('"optimizer.lr" = {low = 1e-4, high = 1.0, points = 1000000}')).grid()


# A search from end to end


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a small search, what it printed, and its command."""
    folder = tmp_path_factory.mktemp("search") / "run"
    command = [
        *COMMAND, f"optimizer.lr={LR}", "--space", "optimizer.weight_decay={low=1e-6, high=1e-2, log=true}",
        "--space", "model.hidden={depth={low=1, high=2}, width={choices=[4, 8]}}", "--trials", "9", "--pruner", "asha",
        "--epochs", "3", "--subset", "100",
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main([*command, "--out", str(folder)]) == 0
    return folder, printed.getvalue(), command


def test_a_search_leaves_table_recipe_and_pictures(finished):
    folder, printed, _ = finished
    assert {path.name for path in folder.iterdir()} - {"importance.png"} == {
        "search.toml", "study.db", "trials.csv", "best.toml", "search_history.png", "parallel_coordinates.png",
        "map.png",
    }  # fmt: skip
    rows = rows_of(folder)
    assert [row["trial"] for row in rows] == [str(i) for i in range(9)]
    assert {row["state"] for row in rows} <= {"complete", "pruned"}
    assert "pruned" in {row["state"] for row in rows}
    assert sum(line.startswith("trial ") and "optimizer.lr=" in line for line in printed.splitlines()) == 9
    assert "search  9 trials on 2 folds of 100 images, 3 epochs each; sampler tpe, pruner asha" in printed


def test_best_toml_is_a_recipe_that_gives_the_same_score(finished, tmp_path, capsys):
    folder, _, _ = finished
    complete = [row for row in rows_of(folder) if row["state"] == "complete"]
    best = max(complete, key=lambda row: float(row["accuracy"]))
    recipe = recipes.load(folder / "best.toml")
    assert recipe.optimizer["lr"] == float(best["optimizer.lr"])
    assert list(recipe.model["hidden"]) == [int(best["model.hidden.width"])] * int(best["model.hidden.depth"])
    assert recipe.training.epochs == 2  # which are the recipe's; a trial had three
    # So do the commands that stand in its head.
    head = (folder / "best.toml").read_text(encoding="utf-8").splitlines()
    again = head[1].partition("nnkit ")[2].split()
    assert main([*again, "--out", str(tmp_path / "again"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["accuracy_mean"] == float(best["accuracy"])
    assert f"{figures['accuracy_mean']:.2%}" in head[0]
    assert head[2].endswith(f"nnkit train {folder / 'best.toml'}")


def test_a_finished_search_is_resumed_refitted_and_extended(finished, monkeypatch, capsys):
    folder, _, command = finished
    monkeypatch.setattr(pictures, "draw", lambda *_: None)  # takes a while, and is tested elsewhere
    before = rows_of(folder)
    assert main([*command, "--resume", str(folder), "--trials", "10", "--refit", "--json"]) == 0
    printed = capsys.readouterr()
    figures = json.loads(printed.out)
    assert "quickstart has 9 finished trials already" in printed.err
    assert rows_of(folder)[:9] == before
    assert sum(figures["trials"].values()) == 10
    assert len({row["optimizer.lr"] for row in rows_of(folder)}) == 10  # another seed than before
    assert figures["refit"]["test_images"] == 20
    assert (folder / "refit" / "report.html").exists()
    assert recipes.load(folder / "refit" / "config.toml").model == recipes.load(folder / "best.toml").model
    assert main(["search", "--resume", str(folder), "--trials", "11", "--refit"]) == 2
    assert f"--refit: {folder}/refit already holds a run; continue it" in capsys.readouterr().err
    assert len(rows_of(folder)) == 10


def test_a_search_of_another_recipe_is_not_mixed_in(finished, tmp_path, capsys):
    folder, _, _ = finished
    storage = ["--storage", f"sqlite:///{folder / 'study.db'}", "--out", str(tmp_path / "other")]
    assert main([*COMMAND, f"optimizer.lr={LR}", *storage]) == 2
    error = capsys.readouterr().err
    assert "study 'quickstart' is of another recipe: its search." in error
    assert main(["search", "--resume", str(folder), "--set", "model.batch_norm=false"]) == 2
    error += capsys.readouterr().err
    assert "its model.batch_norm is nothing, not False" in error or "its model.batch_norm is True, not False" in error
    assert error.count("\n") == 2
    assert not (tmp_path / "other").exists()


def test_a_holdout_is_that_of_a_training(tmp_path):
    recipe = with_space('"training.epochs" = {choices = [1]}', settings=["search.holdout=true", "search.trials=1"])
    result = search(recipe, tmp_path / "run")
    head = (tmp_path / "run" / "best.toml").read_text(encoding="utf-8").splitlines()
    assert head[1].endswith(f"nnkit train {tmp_path / 'run' / 'best.toml'}")
    assert main([*head[1].partition("nnkit ")[2].split(), "--out", str(tmp_path / "again")]) == 0
    figures = json.loads((tmp_path / "again" / "metrics.json").read_text(encoding="utf-8"))
    assert figures["val_accuracy"] == result.best.score


def test_a_diverging_trial_teaches_and_a_misfit_fails(tmp_path):
    recipe = with_space(
        '"optimizer.lr" = {choices = [1e-3, 1e36]}', '"training.batch_size" = {choices = [20, 100]}',
        settings=["optimizer.name=sgd", "search.sampler=grid", "schedule="],
    )  # fmt: skip
    result = search(recipe, tmp_path / "run")
    assert [trial.state for trial in result.trials] == ["complete", "failed", "pruned", "failed"]
    assert "batch_size: 100 is more than the 60 images" in result.trials[1].error
    assert "with lr 1e+36" in result.trials[2].error
    assert result.best.number == 0
    with pytest.raises(UsageError, match="none of 1 trials came to its end; the last one: batch_size: 100 is more"):
        search(with_space('"training.batch_size" = {choices = [100]}', settings=["search.trials=1"]), tmp_path / "bad")
    assert not (tmp_path / "bad" / "best.toml").exists()


def test_a_full_disk_leaves_the_recipe_that_was_there(tmp_path, monkeypatch):
    result = search(with_space('"training.epochs" = {choices = [1]}', settings=["search.trials=1"]), tmp_path / "run")
    before = (tmp_path / "run" / "best.toml").read_bytes()

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("nnkit.files._flush", full)
    with pytest.raises(OSError, match=r"No space left.*unharmed"):
        results.write(result, tmp_path / "run")
    assert (tmp_path / "run" / "best.toml").read_bytes() == before
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["quickstart"], 2, "recipe quickstart: expected a section [search.space], or --space KEY={...}; got none"),
        ([], 2, "search: expected a recipe's name or file, or --resume"),
        (["quickstart", "--space", "optimizer.lr"], 2, "--space optimizer.lr: expected KEY={...}"),
        (["quickstart", "--space", "optimizer.lr={low=}"], 2, "expected KEY={...}"),
        (["quickstart", "--space", "optimizer.lr={low=2.0, high=1.0}"], 2, "expected low <= high"),
        (["X", "--trials", "0"], 2, "search.trials: expected a whole number >= 1, got 0"),
        (["X", "--folds", "1"], 2, "search.folds: expected a whole number >= 2, got 1"),
        (["X", "--folds", "13"], 2, "folds: expected at most 12, as many images as class 'circle' has, got 13"),
        (["X", "--subset", "121"], 2, "subset: expected from 1 to 119 images, got 121 of 120"),
        (["X", "--epochs", "0"], 2, "search.epochs: expected a whole number >= 1, got 0"),
        (["X", "--workers", "0"], 2, "workers: expected a whole number from 1 to 1024, got 0"),
        (["X", "--heartbeat", "0"], 2, "heartbeat: expected a whole number >= 1, got 0"),
        (["X", "--sampler", "genetic"], 2, "invalid choice: 'genetic'"),
        (["X", "--sampler", "grid"], 2, "a grid needs points, a step or choices"),
        (["X", "--sampler", "grid", "--trials", "2"], 2, "--trials 2: a grid has as many trials as points"),
        (["X", "--storage", "nonsense"], 2, "--storage: expected a URL such as postgresql://user@host/database"),
        (["X", "--storage", "oracle9://host/db"], 2, "no driver for oracle9 is installed"),
        (
            ["X", "--storage", "postgresql://u:secret@127.0.0.1:1/db"],
            1,
            "--storage postgresql://u:***@127.0.0.1:1/db: connection failed",
        ),
        (["X", "--resume", "nowhere"], 2, "nowhere: no search to resume; it has no search.toml"),
        (["--resume"], 2, "no search in runs/ to resume; start one with: nnkit search NAME"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_nothing(argv, status, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if argv[:1] == ["X"]:
        argv = [*COMMAND[1:], f"optimizer.lr={LR}", *argv[1:]]
    assert main(["search", *argv]) == status
    error = capsys.readouterr().err
    assert message in error
    assert "secret" not in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_several_processes_of_mpiexec_need_a_database_in_common(capsys, monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", "1")
    assert main(["search", "quickstart"]) == 2
    assert "2 searches that would know nothing of each other: expected --storage URL" in capsys.readouterr().err


def test_epochs_are_searched_or_given():
    recipe = with_space('"training.epochs" = {low = 1, high = 3}', settings=["search.epochs=2"])
    with pytest.raises(UsageError, match=r"search.epochs: expected none where training.epochs is searched, got 2"):
        search(recipe)


@pytest.mark.parametrize("name", [name for name in recipes.names() if recipes.load(name).search])
def test_spaces_of_recipes_are_valid(name):
    assert Space(_checked(recipes.load(name))).dimensions


def test_without_optuna_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install 'nnkit\[search\]'"):
        search("quickstart")


def test_importances_tell_what_matters():
    study = optuna.create_study(direction="maximize")
    assert results.importances(study) == {}
    spread = {name: optuna.distributions.FloatDistribution(0, 1) for name in ("a", "b")}
    for i in range(20):
        params = {"a": i / 19, "b": (7 * i % 20) / 19}
        study.add_trial(optuna.create_trial(params=params, distributions=spread, value=params["a"]))
    weights = results.importances(study)
    assert list(weights) == ["a", "b"]
    assert sum(weights.values()) == pytest.approx(1)
    assert weights["a"] > 0.7


# Workers


def test_trials_that_are_run_again_keep_their_place():
    study = optuna.create_study()
    for _ in range(3):
        study.ask()
    study.tell(1, state=optuna.trial.TrialState.FAIL)
    studies.put_back(study, study.trials[1])
    again = study.ask()
    assert again.number == 3
    last = study.ask()
    places = [studies.place(study.trials, trial) for trial in study.trials]
    assert places == [0, 1, 2, 1, 3]
    assert last.number == 4
    for attempt in (2, 3, 4):
        studies._put_back_dead(study, study.trials[-1])
        assert study.trials[-1].user_attrs.get("attempt", 1) == min(attempt, 3)
    assert len(study.trials) == 7  # settings that killed three workers are not tried by a fourth


def test_two_workers_that_begin_the_last_trial_at_once(tmp_path):
    recipe = with_space('"optimizer.lr" = {low = 1e-3, high = 1e-2}', settings=["search.trials=1"])
    job = worker.Job(recipe, f"sqlite:///{tmp_path}/study.db", "s", heartbeat=1)
    with job.open() as study:
        study.add_trial(optuna.create_trial(value=0.5))
        worker._run_one(study, worker._Objective(job, recipe.data.load_part(train=True)))
        assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL"]
        assert study.trials[1].user_attrs["error"].startswith("one more than 1 trials")
        worker.work(job, study, recipe.data.load_part(train=True))
        assert len(study.trials) == 2


@pytest.mark.parametrize("name", ["median", "asha", "hyperband", "none"])
def test_pruners_stop_what_is_worse(name):
    study = optuna.create_study(direction="maximize", pruner=studies.make_pruner(name, steps=9))
    quality = [0.9, 0.8, 0.7, 0.6, 0.5, *[0.1] * 25]

    def objective(trial):
        for step in range(1, 10):
            trial.report(quality[trial.number] * step / 9, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return quality[trial.number]

    study.optimize(objective, n_trials=len(quality))
    pruned = [trial.number for trial in study.trials if trial.state.name == "PRUNED"]
    assert 0 not in pruned
    assert (len(pruned) > 10) is (name != "none")


def test_samplers_draw_by_their_seed():
    def draws(sampler):
        study = optuna.create_study(sampler=sampler)
        return [study.ask().suggest_float("x", 0, 1) for _ in range(3)]

    for name in ("tpe", "random"):
        first, again, other = (draws(studies.make_sampler(name, seed, ())) for seed in (1, 1, 2))
        assert first == again
        assert first != other


def test_a_trial_left_behind_is_run_again(tmp_path):
    """A worker was killed before its trial's first heartbeat."""
    recipe = with_space('"optimizer.lr" = {choices = [1e-3, 2e-3, 4e-3]}', settings=["search.sampler=grid"])
    job = worker.Job(_checked(recipe), f"sqlite:///{tmp_path}/study.db", "s", heartbeat=1)
    with job.open() as study:
        with pytest.warns(UserWarning, match="Heartbeat"):
            study.ask()
        worker.work(job, study, recipe.data.load_part(train=True))
        trials = study.get_trials()
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert {trial.params["optimizer.lr"] for trial in trials[1:]} == {1e-3, 2e-3, 4e-3}


GRID = [*COMMAND, "optimizer.lr={low=1e-4, high=1e-2, log=true, points=4}", "--sampler", "grid", "--pruner", "none"]


def goes_on(folder):
    """Resume the search over this grid; each point has one trial that was not ended."""
    assert not (folder / "best.toml").exists()
    assert main(["search", "--resume", str(folder), "--heartbeat", "1"]) == 0
    rows = rows_of(folder)
    assert [int(row["trial"]) for row in rows] == list(range(len(rows)))
    done = [float(row["optimizer.lr"]) for row in rows if row["state"] == "complete"]
    assert sorted(done) == pytest.approx(list(np.geomspace(1e-4, 1e-2, 4)))
    assert len(rows) > 4
    assert {row["error"] for row in rows if row["state"] == "failed"} == {"killed or interrupted"}
    assert recipes.load(folder / "best.toml").name == "quickstart"


def epochs_in(database):
    """How many epochs the running trials have reported."""
    with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT count(*) FROM trial_intermediate_values").fetchone()[0]
    return 0


def test_a_search_that_was_killed_goes_on(tmp_path):
    """Its two workers notice, and end, too."""
    folder = tmp_path / "run"
    run = [sys.executable, "-m", "nnkit", *GRID, "--out", str(folder), "--heartbeat", "1", "--workers", "2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*run, "--set", "training.epochs=30"], env=ENVIRONMENT, **pipes)
    deadline = time.monotonic() + 60
    while not epochs_in(folder / "study.db"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=60)  # until nobody holds the other ends of the pipes
    goes_on(folder)


def test_a_search_that_was_interrupted_goes_on(tmp_path, monkeypatch, capsys):
    folder, judge, calls = tmp_path / "run", worker.judge, []

    def interrupted(recipe, data, search, on_epoch):
        calls.append(recipe)
        if len(calls) == 2:
            return judge(recipe, data, search, lambda *_: signal.raise_signal(signal.SIGINT))
        return judge(recipe, data, search, on_epoch)

    monkeypatch.setattr(worker, "judge", interrupted)
    assert main([*GRID, "--out", str(folder)]) == 130
    assert capsys.readouterr().err == f"nnkit: interrupted; nnkit search --resume {folder} goes on\n"
    goes_on(folder)


def test_a_search_that_was_interrupted_before_its_first_trial_goes_on(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(studies, "open_study", lambda *_: signal.raise_signal(signal.SIGINT))
        assert main([*GRID, "--out", str(folder)]) == 130
    assert main(["search", "--resume", str(folder)]) == 0
    assert len(rows_of(folder)) == 4


def test_a_script_without_a_guard_is_told(tmp_path):
    recipe = tmp_path / "small.toml"
    recipe.write_text(toml.dumps(with_space(f'"optimizer.lr" = {LR}').to_settings()), encoding="utf-8")
    script = tmp_path / "script.py"
    script.write_text('from nnkit.search import search\nsearch("small.toml", workers=2)\n', encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1
    assert 'workers: a script that asks for several must do so under: if __name__ == "__main__":' in done.stderr
    assert "ChildProcessError: no worker came to its end; nnkit search --resume" in done.stderr
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_database_that_fails_is_one_line(tmp_path, capsys):
    def break_it(line):
        if line.startswith("trial "):
            with contextlib.closing(sqlite3.connect(tmp_path / "run" / "study.db")) as connection:
                connection.execute("DROP TABLE trials")

    recipe = with_space('"optimizer.lr" = {low = 1e-3, high = 1e-2}')
    with pytest.raises(
        ConnectionError, match=r"^the study's database has failed: no such table: trials; --resume goes on$"
    ):
        search(recipe, tmp_path / "run", say=break_it)


# Pictures


def test_pictures_of_searches_of_all_kinds(rng):
    scores = rng.uniform(0.2, 0.6, 30)
    stopped = rng.random(30) < 0.5
    figure = plots.search_history(range(30), scores, stopped)
    assert f"{scores[~stopped].max():.1%}" in figure.get_suptitle()
    columns = {
        "optimizer.lr": list(10 ** rng.uniform(-4, -1, 30)), "model.hidden": [[8] * (i % 3 + 1) for i in range(30)],
        "data.augment.flip": [bool(i % 2) for i in range(30)], "training.epochs": [3] * 30,
    }  # fmt: skip
    plots.parallel_coordinates(columns, scores, log=["optimizer.lr"]).canvas.draw()
    plots.parallel_coordinates({"a": [1]}, [0.5]).canvas.draw()
    plots.importances(["a", "b"], [0.999, 0.001]).canvas.draw()
    pair = ("optimizer.lr", "optimizer.weight_decay")
    grid = np.array([(x, y) for x in (1e-3, 1e-2, 1e-1) for y in (1e-5, 1e-4)])
    figure = plots.score_map(*grid.T, np.arange(6) / 10, names=pair, log=pair)
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.0%", "20.0%", "40.0%", "10.0%", "30.0%", "50.0%"]
    for count in (1, 30):
        figure = plots.score_map(
            columns["optimizer.lr"][:count], scores[:count], scores[:count], names=pair, log=pair[:1]
        )
        figure.canvas.draw()


def test_the_best_line_lies_above_its_equals_and_near_levels_are_told_apart():
    columns = {"weight_decay": [0.0, 1e-5, 1e-3, 1e-5]}
    axes = plots.parallel_coordinates(columns, [0.4, 0.5, 0.5001, 0.5001]).axes[0]
    trials = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_xdata()[0] != line.get_xdata()[1]]
    top = max(trials, key=lambda line: line.get_zorder())
    assert [line.get_zorder() for line in trials].count(top.get_zorder()) == 1
    assert top.get_linewidth() == max(line.get_linewidth() for line in trials)
    assert sorted({line.get_ydata()[0] for line in trials}) == [0, 0.5, 1]
    assert {text.get_text(): text.xy[1] for text in axes.texts if text.xy[0] == 0} == {
        "0": 0.0, "1e-05": 0.5, "0.001": 1.0
    }  # fmt: skip
    heights = sorted(text.xy[1] for text in axes.texts if text.xy[0] == 1)  # of the accuracies, in proportion
    assert np.diff(heights).min() > 0.3


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.search_history([0], [0.5], [True]), "at least one trial that came to its end"),
        (lambda: plots.parallel_coordinates({"a": [1, 2]}, [0.5]), "expected 1 values each"),
        (lambda: plots.importances([], []), "at least one name"),
        (lambda: plots.score_map([1], [1, 2], [0.5], names=("a", "b")), "expected one a trial"),
    ],
)
def test_pictures_of_nothing(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_the_space_is_a_section_of_its_own():
    text = toml.dumps(with_space(f'"optimizer.lr" = {LR}').to_settings())
    assert '[search.space]\n"optimizer.lr" = { low = 0.0001, high = 0.1, log = true }\n' in text
    assert recipes.Recipe.from_settings(tomllib.loads(text)).search.space == {
        "optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True}
    }
