import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from nnkit import recipes
from nnkit.errors import UsageError
from nnkit.recipes import toml
from nnkit.recipes.schema import check_options, check_value


@dataclass
class Point:
    x: int
    y: float = 0.0


def function(
    size: int,
    rate: float = 0.1,
    on: bool = False,
    name: str = "",
    hidden: tuple[int, ...] = (),
    limit: float | None = None,
    share: int | float = 1,
    mode: Literal["fast", "exact"] = "fast",
    groups: Sequence[Mapping[str, object]] = (),
    point: Point | None = None,
    **rest: object,
) -> None: ...


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "part.size: missing; expected an integer"),
        ({"size": 1.5}, "part.size: expected an integer, got 1.5"),
        ({"size": True}, "part.size: expected an integer, got True"),
        ({"size": "3"}, "part.size: expected an integer, got '3'"),
        ({"size": 1, "rate": "fast"}, "part.rate: expected a number, got 'fast'"),
        ({"size": 1, "rate": float("nan")}, "part.rate: expected a number, got nan"),
        ({"size": 1, "rate": True}, "part.rate: expected a number, got True"),
        ({"size": 1, "on": 1}, "part.on: expected true or false, got 1"),
        ({"size": 1, "name": 5}, "part.name: expected a string, got 5"),
        ({"size": 1, "hidden": 5}, "part.hidden: expected a list, got 5"),
        ({"size": 1, "hidden": "55"}, "part.hidden: expected a list, got '55'"),
        ({"size": 1, "hidden": [1, "2"]}, "part.hidden[1]: expected an integer, got '2'"),
        ({"size": 1, "limit": "none"}, "part.limit: expected a number, got 'none'"),
        ({"size": 1, "share": "all"}, "part.share: expected an integer or a number, got 'all'"),
        ({"size": 1, "mode": "exakt"}, "part.mode: unknown value 'exakt'; did you mean 'exact'? (known: exact, fast)"),
        ({"size": 1, "groups": [3]}, "part.groups[0]: expected a table, got 3"),
        ({"size": 1, "point": {"x": 1, "z": 2}}, "part.point.z: unknown key (known: x, y)"),
        ({"size": 1, "point": {"x": "a"}}, "part.point.x: expected an integer, got 'a'"),
        ({"size": 1, "hiden": [1]}, "part.hiden: unknown key; did you mean 'hidden'?"),
        ({"size": 1, "rest": [1]}, "part.rest: unknown key"),
        ([1], "part: expected a table, got [1]"),
    ],
)
def test_what_does_not_fit_the_signature_is_named(options, message):
    with pytest.raises(UsageError) as error:
        check_options(options, "part", function)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_what_fits_is_converted():
    options = {"size": 1, "rate": 2, "hidden": [3, 4], "share": 5, "point": {"x": 6}, "groups": [{"names": ["a"]}]}
    checked = check_options(options, "part", function)
    assert checked == {**options, "hidden": (3, 4), "point": Point(6), "groups": ({"names": ["a"]},)}
    assert isinstance(checked["rate"], float)
    assert isinstance(checked["share"], int)
    assert isinstance(check_value(0.5, int | float, ""), float)


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_is_valid_and_survives_a_round_trip(name):
    recipe = recipes.load(name)
    assert recipe.name == name
    assert recipe.description
    again = recipes.Recipe.from_settings(tomllib.loads(toml.dumps(recipe.to_settings())))
    assert again.to_settings() == recipe.to_settings()


def test_every_recipe_is_listed():
    files = Path(recipes.__file__).parent.glob("*.toml")
    assert sorted(path.stem for path in files) == sorted(recipes.names())


def test_parameter_counts():
    counts = {}
    for name in ("cifar10-cnn", "cifar10-mlp", "cifar10-mlp-3class", "cifar10-convnet"):
        recipe = recipes.load(name)
        model = recipe.create_model(len(recipe.data.classes or range(10)))
        model.build((3, 32, 32))
        counts[name] = model.num_parameters
    assert counts == {
        "cifar10-cnn": 6_447_754,
        "cifar10-mlp": 3072 * 512 + 512 + 512 * 10 + 10,
        "cifar10-mlp-3class": 3072 * 128 + 128 + 128 * 64 + 64 + 64 * 3 + 3,
        "cifar10-convnet": 3 * 49 * 32 + 32 + 32 * 256 * 100 + 100 + 100 * 10 + 10,
    }


def test_the_three_class_recipe_is_as_published():
    recipe = recipes.load("cifar10-mlp-3class")
    assert recipe.data.classes == ("airplane", "automobile", "bird")
    assert recipe.data.normalize == "unit"
    assert recipe.model == {"name": "mlp", "hidden": [128, 64], "weight_init": "he_normal"}
    assert recipe.optimizer["name"] == "sgd"
    assert not recipe.optimizer.get("momentum")
    assert recipe.schedule is None
    assert recipe.training.epochs == 50


def test_overrides_take_toml_values_and_plain_words():
    overrides = [
        "optimizer.name=sgd", "optimizer.lr = 1e-2", "data.augment.flip=true", 'data.classes=["star", "heart"]',
        "training.patience=3", "seed=7", "schedule=",
    ]  # fmt: skip
    recipe = recipes.load("quickstart", overrides)
    assert recipe.optimizer == {"name": "sgd", "lr": 0.01}
    assert recipe.data.augment.flip
    assert recipe.data.classes == ("star", "heart")
    assert recipe.training.patience == 3
    assert recipe.seed == 7
    assert recipe.schedule is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr", "expected section.key=value"),
        ("=3", "expected section.key=value"),
        ("seed.x=3", "'seed' is a value, not a table"),
        ("optimzer.lr=3", "optimzer: unknown key; did you mean 'optimizer'?"),
        ("optimizer.rate=3", "optimizer.rate: unknown key"),
        ("optimizer.lr=fast", "optimizer.lr: expected a number, got 'fast'"),
        ("optimizer.lr=-1", "lr must be a number >= 0, got -1"),
        ("optimizer.name=adan", "optimizer.name: unknown optimizer 'adan'; did you mean 'adam'?"),
        ("optimizer.name=", "optimizer.name: expected one of"),
        ("model.name=vg", "model.name: unknown model 'vg'; did you mean 'vgg'?"),
        ("model.droput=0.5", "model.droput: unknown key; did you mean 'dropout'?"),
        ("schedule.name=cosin", "schedule.name: unknown schedule 'cosin'; did you mean 'cosine'?"),
        ("training.batch_size=many", "training.batch_size: expected an integer, got 'many'"),
        ("training.batch_size=0", "batch_size: expected a whole number >= 1, got 0"),
        ("training.patience=0", "patience: expected a whole number >= 1, got 0"),
        ("training.clip_norm=-1", "clip_norm: expected a number > 0, got -1"),
        ("training.clip_value=0", "clip_value: expected a number > 0, got 0"),
        ("training.ema=3", "decay must be in [0, 1), got 3"),
        ("training.loss=hinge", "training.loss: unknown value 'hinge'"),
        ("data.augment.flop=true", "data.augment.flop: unknown key; did you mean 'flip'?"),
        ("data.augment=true", "data.augment: expected a table, got True"),
        ("data.name=", "data.name: expected one of shapes, cifar10,"),
        ("name=../elsewhere", "name: expected one that can name a folder, got '../elsewhere'"),
        ('name=""', "name: expected one that can name a folder, got ''"),
        ('data.name="a\nb = 1"', "data.name"),
    ],
)
def test_wrong_overrides_are_named(override, message):
    with pytest.raises(UsageError, match=r"quickstart|--set") as error:
        recipes.load("quickstart", [override])
    assert message in str(error.value)


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(recipes.source("cifar10-mlp").replace("cifar10-mlp", "mine"), encoding="utf-8")
    assert recipes.load(path).name == "mine"
    path.write_text("name = \n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"mine\.toml: not valid TOML: .*line 1"):
        recipes.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="bytes that are no text"):
        recipes.load(path)
    with pytest.raises(UsageError, match="cannot read this recipe"):
        recipes.load(tmp_path / "absent.toml")


def test_the_data_folder_is_found_again_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    for written, meant in [("pets", f"{tmp_path}/pets"), ("~/pets", "/home/someone/pets"), ("/pets", "/pets")]:
        assert recipes.load("cifar10-mlp", [f"data.dir={written}"]).data.dir == meant


def test_label_smoothing_needs_cross_entropy():
    with pytest.raises(UsageError, match="label_smoothing: only cross_entropy has it"):
        recipes.load("quickstart", ["training.loss=multi_margin", "training.label_smoothing=0.1"])


def test_toml_writes_what_tomllib_reads():
    settings = {
        "text": 'quotes " and \\ and\nnew line, ü, \x7f \u2028',
        "odd key!": 1,
        "numbers": [1, -2.5, 1e-30, 1e300],
        "table": {"on": True, "empty": [], "nested": {"a b": "c"}, "rows": [{"names": ["*.bias"], "lr": 0.0}]},
    }
    assert tomllib.loads(toml.dumps(settings)) == settings
