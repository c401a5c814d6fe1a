import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from nnkit import data, models, recipes
from nnkit.callbacks import StopTraining
from nnkit.cli import main
from nnkit.errors import UsageError
from nnkit.folds import cross_validate
from nnkit.optim import Adam
from nnkit.plots import fold_curves
from nnkit.runs import make_solver

pytest.importorskip("sklearn")
SMALL = [
    "data.train_count=200", "data.test_count=20", "model.name=mlp", "model.widths=", "model.hidden=[16]",
    "model.dropout=0", "training.epochs=2", "training.batch_size=20",
]  # fmt: skip


@pytest.fixture(scope="module")
def recipe():
    return recipes.load("quickstart", SMALL)


@pytest.fixture(scope="module")
def images(recipe):
    return recipe.data.load_part(train=True)


def small():
    return models.create("mlp", num_classes=10, hidden=(8,)), {"optimizer": Adam(lr=0.003), "epochs": 1}


def test_each_image_is_held_out_once_and_every_fold_has_its_share_of_each_class(recipe, images):
    result = cross_validate(recipe, images, k=4)
    held_out = np.concatenate([fold.indices for fold in result.folds])
    assert sorted(held_out) == list(range(200))
    for fold in result.folds:
        assert images[fold.indices].class_counts().tolist() == [5] * 10
        np.testing.assert_array_equal(fold.evaluation.labels, images.labels[fold.indices])
    assert result.probabilities.shape == (200, 10)
    np.testing.assert_allclose(result.probabilities.sum(axis=1), 1, atol=1e-5)
    assert result.matrix.sum() == 200
    # Folds of one size: the mean of their accuracies is the accuracy of all the out-of-fold predictions.
    assert result.mean() == pytest.approx((result.probabilities.argmax(axis=1) == result.labels).mean())
    assert result.mean() == pytest.approx(result.matrix.trace() / 200)
    assert result.std() == pytest.approx(np.std([row["accuracy"] for row in result.table()], ddof=1))


def test_a_fold_is_the_training_that_a_solver_does_on_its_part(recipe, images):
    fold = cross_validate(recipe, images, k=4).folds[2]
    mask = np.ones(200, bool)
    mask[fold.indices] = False
    solver = make_solver(recipe, images[mask], images[~mask], progress=False)
    history = solver.train()
    assert fold.history.train_loss == history.train_loss
    assert fold.history.val_accuracy == history.val_accuracy
    # The score is that of the best epoch, whose weights predict.
    assert fold.evaluation.accuracy == max(history.val_accuracy) == fold.figures()["accuracy"]


def test_nothing_is_learned_from_what_is_held_out(recipe, images, monkeypatch):
    """Whoever normalises by all the images lets the validation part leak into the training."""
    seen = []
    statistics = data.Dataset.statistics
    monkeypatch.setattr(data.Dataset, "statistics", lambda self: seen.append(len(self)) or statistics(self))
    monkeypatch.setattr("nnkit.recipes.recipe.load_data", lambda *_, train, **__: images if train else 1 / 0)
    cross_validate(recipe, k=4)  # a look at the test set would divide by zero
    assert seen == [150] * 4


def test_seeds_repeat_it_with_other_splits(recipe, images):
    result = cross_validate(recipe, images, k=2, seeds=[3, 7])
    assert [fold.seed for fold in result.folds] == [3, 3, 7, 7]
    assert [fold.number for fold in result.folds] == [1, 2, 3, 4]
    assert not np.array_equal(result.folds[0].indices, result.folds[2].indices)
    assert result.matrix.sum() == 400
    first, third = result.folds[0], result.folds[2]
    both = sorted(set(first.indices) & set(third.indices))[0]
    mean = [fold.evaluation.probabilities[list(fold.indices).index(both)] for fold in (first, third)]
    np.testing.assert_allclose(result.probabilities[both], np.mean(mean, axis=0), rtol=1e-6)
    again = cross_validate(recipe, images, k=2, seeds=[7])
    assert again.folds[0].history.val_loss == third.history.val_loss


def test_holdout_is_the_split_of_a_training(recipe, images):
    result = cross_validate(recipe, images, holdout=0.2)
    _, validation = images.split(0.2, recipe.seed)
    np.testing.assert_array_equal(images[result.folds[0].indices].images, validation.images)
    assert len(result.folds) == 1
    assert np.isnan(result.probabilities).any(axis=1).sum() == 160
    assert result.figures()["accuracy_std"] is None
    assert "std" not in str(result)
    json.dumps(result.figures(), allow_nan=False)


def test_a_function_returns_models_and_settings(images):
    assert len(cross_validate(small, images, k=2).folds) == 2
    assert len(cross_validate(lambda: small()[0], images, k=2, subset=160, progress=False).labels) == 160
    model, settings = small()
    with pytest.raises(UsageError, match="same model again"):
        cross_validate(lambda: (model, settings), images, k=2)
    with pytest.raises(UsageError, match="expected a Dataset"):
        cross_validate(small)
    with pytest.raises(TypeError, match="expected a recipe or a function, got a int"):
        cross_validate(3, images)


def test_on_epoch_may_end_a_fold_or_everything(recipe, images):
    told = []

    def stop_the_second(fold, epoch, accuracy):
        told.append((fold, epoch, accuracy))
        if fold == 2:
            raise StopTraining

    result = cross_validate(recipe, images, k=3, on_epoch=stop_the_second)
    assert [(fold, epoch) for fold, epoch, _ in told] == [(1, 1), (1, 2), (2, 1), (3, 1), (3, 2)]
    assert [accuracy for _, _, accuracy in told[:2]] == result.folds[0].history.val_accuracy

    def fail(fold, epoch, accuracy):
        raise RuntimeError(f"pruned in fold {fold}")

    with pytest.raises(RuntimeError, match="pruned in fold 1"):
        cross_validate(recipe, images, k=3, on_epoch=fail)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 1}, "folds: expected a whole number >= 2, got 1"),
        ({"k": 2.5}, "folds: expected a whole number >= 2, got 2.5"),
        ({"k": 21}, "folds: expected at most 20, as many images as class 'circle' has, got 21"),
        ({"seeds": []}, "seeds: expected at least one, each another, got []"),
        ({"seeds": [1, 1]}, "seeds: expected at least one, each another, got [1, 1]"),
        ({"seeds": [2**32]}, "seeds: expected a whole number from 0 to 4294967295, got 4294967296"),
        ({"subset": 300}, "subset: expected from 1 to 199 images, got 300 of 200"),
        ({"holdout": 1.5}, "holdout: expected a fraction between 0 and 1, an image on each side, got 1.5 of 200"),
    ],
)
def test_wrong_arguments_are_named(recipe, images, options, message):
    with pytest.raises(UsageError) as error:
        cross_validate(recipe, images, **options)
    assert str(error.value) == message


def test_without_scikit_learn_the_remedy_is_named(recipe, images, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"pip install 'nnkit\[search\]'"):
        cross_validate(recipe, images, k=2)


def test_on_the_command_line(tmp_path, capsys):
    settings = [argument for setting in SMALL for argument in ("--set", setting)]
    command = ["train", *settings, "--folds", "2", "--repeats", "2", "--subset", "100", "--out", str(tmp_path / "run")]
    assert main(command) == 0
    printed = capsys.readouterr().out
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {
        "recipe.toml", "folds.csv", "metrics.json", "fold_curves.png", "confusion_matrix.png",
    }  # fmt: skip
    figures = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    with (run / "folds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows] == [row["accuracy"] for row in figures["folds"]]
    assert [row["seed"] for row in rows] == ["0", "0", "1", "1"]
    assert figures["accuracy_mean"] == pytest.approx(np.mean([float(row["accuracy"]) for row in rows]))
    assert printed.count("\nfold ") == 5  # one a fold, and the table's heading
    lines = printed.splitlines()
    assert lines[-3].split()[:2] == ["mean", f"{figures['accuracy_mean']:.2%}"]
    assert lines[-2].split()[:2] == ["std", f"{figures['accuracy_std']:.2%}"]
    assert main([*command, "--json"]) == 2  # the folder is taken
    assert "already holds folds" in capsys.readouterr().err
    assert main(["train", "quickstart", "--out", str(run)]) == 2
    assert "already holds folds" in capsys.readouterr().err
    # What it was trained by is a recipe that says the same.
    again = cross_validate(run / "recipe.toml", k=2, seeds=[0, 1], subset=100)
    assert again.mean() == figures["accuracy_mean"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--folds", "1"], "folds: expected a whole number >= 2, got 1"),
        (["--folds", "5", "--resume"], "a cross-validation (--folds) begins anew"),
        (["--folds", "2", "--repeats", "0"], "repeats: expected a whole number >= 1, got 0"),
        (["--repeats", "2"], "--repeats and --subset belong to --folds"),
        (["--folds", "30", "--subset", "200"], "folds: expected at most 20"),
    ],
)
def test_wrong_use_of_the_command(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--set", "data.train_count=400", *argv]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_curves_of_folds_of_different_lengths():
    def history(epochs, best):
        accuracies = list(np.linspace(0.1, best, epochs))
        losses = list(np.linspace(2, 1, epochs))
        return {
            "epoch": list(range(1, epochs + 1)), "train_loss": losses, "val_loss": losses,
            "train_accuracy": accuracies, "val_accuracy": accuracies,
        }  # fmt: skip

    figure = fold_curves([history(5, 0.5), history(3, 0.6), history(1, 0.1)])
    assert figure.get_suptitle() == "Validation accuracy 40.0% ± 26.5% over 3 folds"
    figure.canvas.draw()
    means = [line for line in figure.axes[1].get_lines() if "mean" in line.get_label()]
    assert [len(line.get_xdata()) for line in means] == [1, 1]  # as long as all folds go
    assert fold_curves([history(2, 0.5)]).get_suptitle() == "Validation accuracy 50.0% over 1 fold"
    with pytest.raises(ValueError, match="at least one fold"):
        fold_curves([])


def test_importing_loads_neither_scikit_learn_nor_optuna():
    code = "import sys, nnkit.folds; print([m for m in ('sklearn', 'optuna') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
