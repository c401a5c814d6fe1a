"""Beginning with other weights: what is taken, what stays fresh, what is refused; and the command line's part of it."""

import importlib.util
import itertools
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

from nnkit import models, pictures, recipes, runs
from nnkit.checkpoint import load_model, save_model
from nnkit.cli import main
from nnkit.data import TargetDataset, make_shapes
from nnkit.errors import CheckpointError, UsageError
from nnkit.folds import cross_validate
from nnkit.interop.torch import write_state
from nnkit.recipes import toml
from nnkit.transfer import load_weights, start_from

EXAMPLE = Path(__file__).parents[1] / "examples" / "transfer.py"
NAMES = ["ant", "bee", "cat", "dog"]
BODY = ("conv1", "bn1", "conv2", "bn2")
SMALL = [
    "--set", "data.train_count=500", "--set", "data.test_count=100", "--set", "data.validation=60",
    "--set", "model.widths=[8, 8]", "--set", "training.batch_size=20", "--epochs", "2",
]  # fmt: skip
OLD, NEW = ["circle", "cross", "bolt", "square"], ["heart", "ring"]


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    """Leave out what takes most of a tiny training's time; the tests of reports have it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "draw", lambda *arguments: None)
        yield


def net(classes, seed=0, widths=(4, 6), **options):
    model = models.create("vgg", classes, widths=widths, **options)
    model.build((3, 8, 8), seed=seed)
    for array in model.named_buffers().values():
        array[...] = np.random.default_rng(seed).uniform(0.5, 2, array.shape)
    return model


@pytest.fixture
def old():
    return net(4, seed=1)


@pytest.fixture
def saved(old, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, old, {"class_names": NAMES, "normalize": [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]})
    return path


def assert_same_body(model, other):
    for name, array in model.state_dict().items():
        assert np.array_equal(array, other.state_dict()[name]) == (not name.startswith("fc.")), name


@pytest.mark.parametrize("kind", ["folder", "model", "safetensors", "torch"])
def test_the_body_is_taken_with_its_running_statistics_and_the_head_is_fresh(kind, old, saved, tmp_path):
    source = {"folder": tmp_path, "model": saved}.get(kind)
    if source is None:
        if kind == "torch":
            pytest.importorskip("torch")
        source = tmp_path / f"weights.{'pt' if kind == 'torch' else kind}"
        write_state(source, old, kind, {"class_names": json.dumps(NAMES), "normalize": '{"mean": [0], "std": [2]}'})
    model = net(3)
    head = model.named_parameters()["fc.weight"].copy()
    loaded = load_weights(model, source)
    assert_same_body(model, old)
    np.testing.assert_array_equal(model.named_parameters()["fc.weight"], head)
    assert (loaded.taken, loaded.head, loaded.fresh, loaded.left) == (BODY, "fc", "4 classes there, 3 here", ())
    assert loaded.class_names == (None if kind == "torch" else tuple(NAMES))
    normalize = {"torch": None, "safetensors": ((0.0,), (2.0,))}.get(kind, ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    assert loaded.normalize == normalize
    line = f"conv1, bn1, conv2, bn2 taken from {loaded.path}; head fc fresh (4 classes there, 3 here); nothing left out"
    assert str(loaded) == line


@pytest.mark.parametrize(
    ("names", "fresh"),
    [
        (NAMES, ""),
        (None, ""),
        (NAMES[::-1], "other classes there: ant, bee, cat, dog"),
        (["ant", "bee", "cat", "owl"], "other classes there: ant, bee, cat, dog"),
    ],
)
def test_the_head_is_taken_only_for_the_same_classes(names, fresh, old, saved):
    model = net(4)
    loaded = load_weights(model, saved, class_names=names)
    assert loaded.fresh == fresh
    same = np.array_equal(model.named_parameters()["fc.weight"], old.named_parameters()["fc.weight"])
    assert same == (not fresh)
    assert ("fc" in loaded.taken) == same
    assert ("head fc taken as well" in str(loaded)) == same


def test_a_file_may_lack_the_head_and_hold_more_than_is_wanted(old, tmp_path):
    from safetensors.numpy import save_file

    arrays = {name: array for name, array in old.state_dict().items() if not name.startswith("fc.")}
    arrays = {f"module.{name}": array for name, array in {**arrays, "extra\n.weight": np.ones(2, np.float32)}.items()}
    path = tmp_path / "elsewhere.safetensors"
    save_file(arrays, path, {"nnkit": "[", "class_names": "cats and dogs"})  # a header that is none of ours
    model = net(3)
    loaded = load_weights(model, path)
    assert_same_body(model, old)
    assert (loaded.fresh, loaded.left, loaded.class_names) == ("the file has none", ("extra\n.weight",), None)
    assert "left out extra?.weight" in str(loaded)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (net(4, widths=(4, 7)), r"layer 'conv2': expected weight of shape (7, 4, 3, 3), got (6, 4, 3, 3) (and 5 more)"),
        (net(3, widths=(4, 6, 8)), r"layer 'conv3': expected weight of shape (8, 6, 3, 3), got none; the file has bn1"),
        (net(4, widths=(4, 6), hidden=5), r"layer 'fc1': expected weight of shape (5, 24), got none"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_changes(model, message, saved):
    before = model.state_dict()
    with pytest.raises(CheckpointError) as error:
        load_weights(model, saved)
    assert str(error.value).startswith(f"{saved}: {message}")
    assert "\n" not in str(error.value)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_bad_files_are_refused_in_a_line(old, saved, tmp_path):
    old.named_parameters()["conv2.weight"][0, 0, 0, 0] = np.nan
    write_state(tmp_path / "nan.safetensors", old, "safetensors")
    (tmp_path / "half.safetensors").write_bytes(saved.read_bytes()[:-7])
    (tmp_path / "empty").mkdir()
    for name, message in [
        ("nan.safetensors", "'conv2': expected weight of shape (6, 4, 3, 3) and finite, got NaN or infinity"),
        ("half.safetensors", "damaged, or no safetensors file"),
        ("none.safetensors", "cannot be read: "),
        ("empty", "model.safetensors: cannot be read: "),
    ]:
        with pytest.raises(CheckpointError) as error:
            load_weights(net(3), tmp_path / name)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="expected a model that is built"):
        load_weights(models.create("vgg", 3), saved)


def test_numbers_too_large_for_the_model_are_refused(old, tmp_path):
    from safetensors.numpy import save_file

    arrays = {name: array.astype(np.float64) for name, array in old.state_dict().items()}
    arrays["conv1.weight"] *= 1e300
    save_file(arrays, tmp_path / "large.safetensors")
    with pytest.raises(CheckpointError, match=r"layer 'conv1': .* and finite"):
        load_weights(net(4), tmp_path / "large.safetensors")


def test_a_file_for_pytorch_runs_no_code(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"fc.weight": print}, tmp_path / "code.pt")
    with pytest.raises(CheckpointError, match="damaged, or more than tensors"):
        load_weights(net(3), tmp_path / "code.pt")


def test_without_pytorch_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "weights.pt").write_bytes(b"")
    with pytest.raises(ImportError, match=r"pip install \"nnkit\[torch\]\""):
        load_weights(net(3), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"none\.pt: cannot be read: no such file"):
        load_weights(net(3), tmp_path / "none.pt")


def test_freezing_leaves_something_to_train(saved):
    said = []
    model = net(3)
    start_from(saved, model, ["conv*", "bn1"], say=said.append)
    assert model.frozen_parameters() == ["conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight"]
    assert said[1] == "frozen  conv1, bn1, conv2; 33 of 365 parameters are trained"
    with pytest.raises(UsageError, match="expected to leave a layer to train, got '\\*'"):
        start_from(saved, net(4), ["*"])
    with pytest.raises(UsageError, match="'fc' is fresh \\(4 classes there, 3 here\\), so it must be trained"):
        start_from(saved, net(3), ["fc"])
    with pytest.raises(UsageError, match="freeze: no layer or parameter is named 'block1"):
        start_from(None, net(3), ["block1.*"])


def test_samples_have_as_many_images_of_each_class_and_grow_by_adding():
    data = make_shapes(400, seed=3)
    few, many = data.sample_per_class(5), data.sample_per_class(20)
    assert few.class_counts().tolist() == [5] * 10
    assert many.class_counts().tolist() == [20] * 10
    images = {image.tobytes() for image in many.images}
    assert all(image.tobytes() in images for image in few.images)
    assert not np.array_equal(few.images, data.sample_per_class(5, seed=1).images)
    np.testing.assert_array_equal(few.images, data.sample_per_class(5).images)
    for count in (0, 2.5, "5"):
        with pytest.raises(UsageError, match="per_class: expected a whole number >= 1"):
            data.sample_per_class(count)
    with pytest.raises(UsageError, match=r"per_class: class 'circle' has \d+ training images, expected at least 99"):
        data.sample_per_class(99)
    with pytest.raises(UsageError, match="expected images with class labels"):
        TargetDataset(data.images[:3], [[1.0], [2.0], [3.0]]).sample_per_class(1)


def test_recipes_say_it_all_and_survive_a_round_trip(saved, monkeypatch):
    monkeypatch.chdir(saved.parent)
    given = [
        "transfer.init_from=model.safetensors",
        'transfer.freeze=["conv*"]',
        "data.per_class=7",
        "data.normalize=[[0.1, 0.2, 0.3], [1, 2, 3]]",
        'optimizer.groups=[{names=["bn*"], lr_scale=0.1}]',
    ]
    recipe = recipes.load("quickstart", given)
    assert recipe.transfer.init_from == str(saved.resolve())
    assert recipe.data.normalize == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    again = recipes.Recipe.from_settings(tomllib.loads(toml.dumps(recipe.to_settings())))
    assert again.to_settings() == recipe.to_settings()
    assert recipes.load("quickstart", ["transfer.init_from=quickstart-1"]).transfer.init_from == "quickstart-1"
    for wrong, message in [
        ("transfer.init_form=x", "transfer.init_form: unknown key; did you mean 'init_from'"),
        ("transfer.init_from=3", "transfer.init_from: expected a string, got 3"),
        ("transfer.init_from=''", "transfer.init_from: expected a run or a file of weights"),
        ("transfer.freeze=conv1", "transfer.freeze: expected a list, got 'conv1'"),
        ("data.per_class=0", "data.per_class: expected a whole number >= 1, got 0"),
        ("data.normalize=[[1.0], [1.0], [1.0]]", "data.normalize: expected a list of means and one of deviations"),
        ("data.normalize=standart", "data.normalize: expected 'standard' or 'unit' or a list, got 'standart'"),
    ]:
        with pytest.raises(UsageError) as error:
            recipes.load("quickstart", [wrong])
        assert message in str(error.value)


@pytest.fixture(scope="module")
def pretrained(no_pictures, tmp_path_factory):
    """A finished run on four classes, in `runs` of a folder."""
    folder = tmp_path_factory.mktemp("transfer")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", *SMALL, "--set", f"data.classes={json.dumps(OLD)}"]) == 0
    return folder / "runs" / "quickstart-1"


@pytest.fixture
def at_runs(pretrained, monkeypatch):
    monkeypatch.chdir(pretrained.parents[1])


def weights(run):
    return load_model(Path(run) / "model.safetensors")[0].state_dict()


@pytest.mark.usefixtures("at_runs")
def test_a_run_from_a_run_is_reproduced_and_resumed_from_what_it_left(pretrained, tmp_path, capsys):
    train = ["train", *SMALL, "--set", f"data.classes={json.dumps(NEW)}"]
    few = ["--set", "data.per_class=10", "--set", "data.validation=40"]
    assert main([*train, *few, "--init-from", "quickstart-1", "--freeze", "conv*", "--out", str(tmp_path / "a")]) == 0
    printed = capsys.readouterr().out
    assert "20 training, 40 validation, 20 test images" in printed  # the validation part is as large as asked for
    assert "conv1, bn1, conv2, bn2 taken from runs/quickstart-1/model.safetensors; head fc fresh (4 classes" in printed
    assert "frozen  conv1, conv2; 50 of 842 parameters are trained" in printed
    before, after = weights(pretrained), weights(tmp_path / "a")
    for name, array in after.items():
        if not name.startswith("fc."):
            # The running statistics of batch norm follow the new images, as Model.freeze says.
            assert np.array_equal(array, before[name]) == name.startswith("conv"), name

    recipe = recipes.load(tmp_path / "a" / "config.toml")
    assert recipe.transfer.init_from == str(pretrained / "model.safetensors")
    assert recipe.transfer.freeze == ("conv*",)
    normalize = load_model(pretrained / "model.safetensors")[1]["normalize"]
    assert [list(numbers) for numbers in recipe.data.normalize] == normalize  # what the weights are used to
    assert main(["train", str(tmp_path / "a" / "config.toml"), "--out", str(tmp_path / "b")]) == 0
    for name, array in weights(tmp_path / "b").items():
        np.testing.assert_array_equal(array, after[name])

    hidden = (pretrained / "model.safetensors").rename(pretrained / "hidden")
    try:  # a resumed run loads nothing
        resume = ["train", "--resume", str(tmp_path / "a")]
        assert main([*resume, "--epochs", "3"]) == 0
        assert recipes.load(tmp_path / "a" / "config.toml").transfer == recipe.transfer
        for name in ("conv1.weight", "conv2.weight"):
            np.testing.assert_array_equal(weights(tmp_path / "a")[name], before[name])
        capsys.readouterr()
        assert main([*resume, "--freeze", "bn1"]) == 2
        assert "has begun with its own" in capsys.readouterr().err
        assert main([*train, "--init-from", "quickstart-1"]) == 1
        assert "no epoch is finished yet, so there is no model.safetensors" in capsys.readouterr().err
    finally:
        hidden.rename(pretrained / "model.safetensors")


@pytest.mark.usefixtures("at_runs")
def test_mistakes_on_the_command_line_leave_no_folder(capsys):
    there = sorted(Path("runs").iterdir())
    for arguments, status, message in [
        (["--init-from", "quickstart-2"], 2, "no such run folder; did you mean 'quickstart-1'"),
        (["--init-from", "weights.pt"], 1, "weights.pt: cannot be read: no such file"),
        (["--init-from", "quickstart-1", "--set", "model.widths=[8, 9]"], 1, "layer 'conv2': expected weight of shape"),
        (["--init-from", "quickstart-1", "--freeze", "block1.*"], 2, "no layer or parameter is named 'block1.*'"),
        (["--set", "data.per_class=1000"], 2, "training images, expected at least 1000"),
    ]:
        assert main(["train", *SMALL, *arguments]) == status
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert sorted(Path("runs").iterdir()) == there


def small_recipe(*settings):
    pairs = [value for flag, value in itertools.pairwise(SMALL) if flag == "--set"]
    return recipes.load("quickstart", [*pairs, "training.epochs=1", f"data.classes={json.dumps(NEW)}", *settings])


def test_layers_can_have_rates_of_their_own(pretrained):
    still = 'optimizer.groups=[{names=["conv1.*"], lr_scale=0.0, weight_decay=0.0}]'
    recipe = small_recipe(f"transfer.init_from='{pretrained}'", still)
    training, validation = recipe.data.load_part(train=True).split(20)
    solver = runs.make_solver(recipe, training, validation)
    solver.train()
    before = weights(pretrained)
    for name, array in solver.model.named_parameters().items():
        if not name.startswith("fc."):
            assert np.array_equal(array, before[name]) == (name == "conv1.weight"), name


def test_each_fold_begins_with_the_weights_and_few_images(pretrained):
    pytest.importorskip("sklearn")
    recipe = small_recipe(f"transfer.init_from='{pretrained}'", "data.per_class=10")
    said = []
    result = cross_validate(recipe, k=2, say=said.append)
    assert [fold.history.step for fold in result.folds] == [[1], [1]]  # 20 images of each fold's fifty or so
    assert sum(len(fold.indices) for fold in result.folds) == 100  # all are held out once
    assert len(said) == 1
    assert "head fc fresh" in said[0]


def test_a_search_begins_with_the_weights_and_survives_nets_that_they_do_not_fit(pretrained, tmp_path):
    pytest.importorskip("optuna")
    pytest.importorskip("sklearn")
    from nnkit.search.run import search

    space = 'search.space={"model.widths"={choices=[[8, 8], [8, 9]]}}'
    recipe = small_recipe(
        f"transfer.init_from='{pretrained}'", space, "search.sampler=grid", "search.folds=2", "search.pruner=none"
    )
    result = search(recipe, tmp_path / "search")
    assert sorted(trial.state for trial in result.trials) == ["complete", "failed"]
    assert "layer 'conv2': expected weight of shape (9, 8, 3, 3)" in next(t.error for t in result.trials if t.error)
    assert result.best_recipe.transfer == recipe.transfer


@pytest.mark.skipif(not EXAMPLE.exists(), reason="the examples are not installed with the package")
def test_the_study_runs_and_goes_on_where_it_was(tmp_path, capsys, monkeypatch):
    spec = importlib.util.spec_from_file_location("transfer_example", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(example, "RATES", (0.001, 0.01))
    settings = ("model.widths=[4, 4]", "data.train_count=1200", "data.test_count=100", "training.batch_size=10")
    arguments = ["--recipe", "quickstart", "--new", "star", "heart", "--sizes", "5", "8", "--seeds", "2"]
    arguments += ["--epochs", "1", "--out", str(tmp_path), *(word for one in settings for word in ("--set", one))]
    example.main(arguments)
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "results.json").read_text(encoding="utf-8")).values()
    assert len(rows) == 3 * 2 * 2
    assert {len(row["tried"]) for row in rows if row["size"] == 5 and row["seed"] == 0} == {2}
    assert {len(row["tried"]) for row in rows if row["seed"] == 1 or row["size"] == 8} == {1}
    assert all(0 <= row["test"] <= 1 for row in rows)
    table = printed[printed.index("| images") :]
    assert len(table.splitlines()) == 4
    assert (tmp_path / "transfer.png").stat().st_size > 10_000
    example.main(arguments)  # all is there already
    assert capsys.readouterr().out == table
