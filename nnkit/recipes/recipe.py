"""A recipe: data, model, optimizer, schedule and training settings under one name, read from TOML and checked."""

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nnkit import models, optim
from nnkit.data import Augment, Dataset
from nnkit.data import load as load_data
from nnkit.data.loading import LOADERS
from nnkit.errors import UsageError, did_you_mean, positive_number, whole_number
from nnkit.layers import CrossEntropyLoss, MultiMarginLoss
from nnkit.models import MODELS, Model
from nnkit.optim import Optimizer, Schedule
from nnkit.recipes.schema import check_options

_FOLDER = Path(__file__).parent
_NAMES = (  # from the quickest to the longest
    "quickstart",
    "cifar10-mlp-3class",
    "cifar10-mlp",
    "cifar10-fc-bn-dropout",
    "cifar10-convnet",
    "cifar10-cnn",
    "cifar10-resnet18",
)
_POSITIONAL = ("data_dir", "train", "seed", "download")  # arguments of a loader that are no options of the data set


@dataclass(frozen=True)
class DataSettings:
    """Section `[data]`: which images, which of them validate, and how pixels become numbers.

    `validation` is a number of training images or a fraction of them. `per_class` is how many images of each class to
    train on, drawn from what is left when the validation part is taken. `normalize` is "standard" (per channel, by mean
    and standard deviation of the training part), "unit" (pixels in [0, 1]), or a mean and a standard deviation for each
    channel. `dir` is the folder that holds the data,
    a relative one starting from the working directory; the command line's `--data` goes before it. `options` are those
    of the data set, as in `nnkit.data.load`; in TOML they stand beside the others.
    """

    name: str
    dir: str | None = None
    classes: tuple[str, ...] | None = None
    validation: int | float = 0.1
    per_class: int | None = None
    normalize: Literal["standard", "unit"] | tuple[tuple[float, ...], tuple[float, ...]] = "standard"
    augment: Augment = field(default_factory=Augment)
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_settings(cls, table: Any) -> "DataSettings":
        """Check the table `[data]`.

        Parameters
        ----------
        table : dict
            As tomllib reads it.

        Returns
        -------
        DataSettings

        Raises
        ------
        UsageError
            Naming the first key that is unknown, missing or of the wrong type.
        """
        name, _ = _named(table, "data", LOADERS)
        checked = check_options(table, "data", cls, LOADERS[name], skip=["options", *_POSITIONAL])
        if checked.get("per_class") is not None:
            whole_number("data.per_class", checked["per_class"], 1)
        if isinstance(pair := checked.get("normalize"), tuple) and len(pair) != 2:
            raise UsageError(f"data.normalize: expected a list of means and one of deviations, got {len(pair)} lists")
        if "dir" in checked:  # absolute, so that a run's config.toml holds wherever it is read
            checked["dir"] = str(Path(checked["dir"]).expanduser().resolve())
        own = [item.name for item in dataclasses.fields(cls)]
        options = {key: value for key, value in checked.items() if key not in own}
        return cls(**{key: value for key, value in checked.items() if key in own}, options=options)

    def load(self, download: bool = False) -> tuple[Dataset, Dataset]:
        """Load the images.

        Parameters
        ----------
        download : bool, default False
            Fetch what is missing.

        Returns
        -------
        training, test : Dataset

        Raises
        ------
        UsageError, DataError
            As `load_part` raises them.
        """
        return self.load_part(True, download), self.load_part(False, download)

    def load_part(self, train: bool, download: bool = False) -> Dataset:
        """Load the training or the test images.

        Parameters
        ----------
        train : bool
            The training images rather than the test images.
        download : bool, default False
            Fetch what is missing.

        Returns
        -------
        Dataset

        Raises
        ------
        UsageError
            If an option or a class is unknown, or no image is left.
        DataError
            If files are missing, damaged or not what they should be.
        """
        options = {"classes": self.classes, "download": download, **self.options}
        dataset = load_data(self.name, self.dir, train=train, **options)
        if len(dataset) == 0:
            raise UsageError(f"data: expected at least one {'training' if train else 'test'} image, got none")
        return dataset


@dataclass(frozen=True)
class TrainingSettings:
    """Section `[training]`: how long, in which portions, and against which loss."""

    epochs: int = 10
    batch_size: int = 64
    loss: Literal["cross_entropy", "multi_margin"] = "cross_entropy"
    label_smoothing: float = 0.0
    patience: int | None = None
    clip_norm: float | None = None
    clip_value: float | None = None
    ema: float | None = None
    sync_bn: bool = False

    def __post_init__(self) -> None:
        # The Solver checks these, too, but by then a comparison may have trained others.
        whole_number("epochs", self.epochs, 1)
        whole_number("batch_size", self.batch_size, 1)
        if self.patience is not None:
            whole_number("patience", self.patience, 1)
        if self.clip_norm is not None:
            positive_number("clip_norm", self.clip_norm)
        if self.clip_value is not None:
            positive_number("clip_value", self.clip_value)
        if self.ema is not None:
            optim.ExponentialMovingAverage(self.ema)


@dataclass(frozen=True)
class TransferSettings:
    """Section `[transfer]`: what to begin with, and what of it to leave as it is.

    `init_from` is a run, a `.safetensors` file or one for `torch.load`, as `nnkit.transfer.load_weights` takes them; a
    relative path starts from the working directory. `freeze` are patterns for names of layers, as in `Model.freeze`.
    """

    init_from: str | None = None
    freeze: tuple[str, ...] = ()

    @classmethod
    def from_settings(cls, table: Any) -> "TransferSettings":
        """Check the table `[transfer]`.

        Parameters
        ----------
        table : dict
            As tomllib reads it.

        Returns
        -------
        TransferSettings

        Raises
        ------
        UsageError
            Naming the first key that is unknown or of the wrong type.
        """
        checked = check_options(table, "transfer", cls)
        source = checked.get("init_from")
        if source == "":
            raise UsageError("transfer.init_from: expected a run or a file of weights, got ''")
        if source is not None and Path(source).expanduser().exists():  # else it is a run's name, or a mistake
            checked["init_from"] = str(Path(source).expanduser().resolve())
        return cls(**checked)


@dataclass(frozen=True)
class SearchSettings:
    """Section `[search]`: what `nnkit search` tries, and how it judges it; see `nnkit.search`.

    `space` maps keys of the recipe to what may stand there. A trial's score is the mean validation accuracy over
    `folds`, `repeats` times, or, with `holdout`, on the one validation part that `nnkit train` would hold out. To save
    time, trials may be trained on a `subset` of so many images, and for fewer `epochs` than the recipe is.
    """

    space: dict[str, Any] = field(default_factory=dict)
    trials: int = 20
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    pruner: Literal["median", "asha", "hyperband", "none"] = "median"
    folds: int = 3
    repeats: int = 1
    holdout: bool = False
    subset: int | None = None
    epochs: int | None = None


@dataclass(frozen=True)
class Recipe:
    """Everything that a training run is made from, checked.

    `model`, `optimizer` and `schedule` hold a "name" and the options of what is so named.

    Examples
    --------
    >>> from nnkit import recipes
    >>> recipe = recipes.load("quickstart", ["training.epochs=3"])
    >>> recipe.training.epochs
    3
    >>> recipe.create_model(num_classes=10).built
    False
    """

    name: str
    data: DataSettings
    model: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any] | None = None
    training: TrainingSettings = field(default_factory=TrainingSettings)
    transfer: TransferSettings | None = None
    search: SearchSettings | None = None
    description: str = ""
    seed: int = 0

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "Recipe":
        """Check settings and make a recipe of them.

        Parameters
        ----------
        settings : dict
            As tomllib reads them.

        Returns
        -------
        Recipe

        Raises
        ------
        UsageError
            Naming the first key that is unknown, missing or of the wrong type.
        """
        parts = dict(settings)
        if "data" in parts:
            parts["data"] = DataSettings.from_settings(parts["data"])
        if "transfer" in parts:
            parts["transfer"] = TransferSettings.from_settings(parts["transfer"])
        recipe = cls(**check_options(parts, "", cls))
        if not recipe.name or Path(recipe.name).name != recipe.name:
            raise UsageError(f"name: expected one that can name a folder, got {recipe.name!r}")
        if recipe.seed < 0:
            raise UsageError(f"seed: expected 0 or more, got {recipe.seed}")
        recipe.create_model(num_classes=2)
        recipe.create_optimizer()
        recipe.create_schedule()
        recipe.create_loss()
        return recipe

    def create_model(self, num_classes: int) -> Model:
        """Return the net, not built yet.

        Parameters
        ----------
        num_classes : int

        Returns
        -------
        Model
        """
        name, options = _named(self.model, "model", MODELS)
        options = check_options(options, "model", MODELS[name], skip=["num_classes"])
        return models.create(name, num_classes, **options)

    def create_optimizer(self) -> Optimizer:
        """Return a fresh optimizer.

        Returns
        -------
        Optimizer
        """
        name, options = _named(self.optimizer, "optimizer", optim.OPTIMIZERS)
        return optim.create(name, **check_options(options, "optimizer", optim.OPTIMIZERS[name][0]))

    def create_schedule(self) -> Schedule | None:
        """Return a fresh schedule; None stands for a fixed rate.

        Returns
        -------
        Schedule or None
        """
        if self.schedule is None:
            return None
        name, options = _named(self.schedule, "schedule", optim.SCHEDULES)
        targets = optim.create_schedule, optim.SCHEDULES[name]
        return optim.create_schedule(name, **check_options(options, "schedule", *targets, skip=["name"]))

    def create_loss(self) -> CrossEntropyLoss | MultiMarginLoss:
        """Return the loss.

        Returns
        -------
        CrossEntropyLoss or MultiMarginLoss
        """
        if self.training.loss == "cross_entropy":
            return CrossEntropyLoss(label_smoothing=self.training.label_smoothing)
        if self.training.label_smoothing:
            raise UsageError(f"training.label_smoothing: only cross_entropy has it, got loss '{self.training.loss}'")
        return MultiMarginLoss()

    def to_settings(self) -> dict[str, Any]:
        """Return all settings such that `from_settings` makes the same recipe of them.

        Defaults are included, but for options that belong to the data set, model, optimizer or schedule named.

        Returns
        -------
        dict
        """
        settings = dataclasses.asdict(self)
        settings["data"].update(settings["data"].pop("options"))
        return {
            key: {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value
            for key, value in settings.items()
            if value is not None
        }


def names() -> list[str]:
    """Return the names of the recipes that come with nnkit, the quickest first.

    Returns
    -------
    list of str

    Examples
    --------
    >>> from nnkit import recipes
    >>> recipes.names()[:2]
    ['quickstart', 'cifar10-mlp-3class']
    """
    return list(_NAMES)


def source(name: str | Path) -> str:
    """Return the TOML text of a recipe.

    Parameters
    ----------
    name : str or path
        A recipe's name, or a file that ends in `.toml`.

    Returns
    -------
    str

    Raises
    ------
    UsageError
        If there is no such recipe or file, or it is no text.

    Examples
    --------
    >>> from nnkit import recipes
    >>> recipes.source("quickstrat")
    Traceback (most recent call last):
        ...
    nnkit.errors.UsageError: unknown recipe 'quickstrat'; did you mean 'quickstart'? (known: ...)
    """
    path = Path(name)
    if path.suffix != ".toml":
        if str(name) not in _NAMES:
            raise UsageError(f"unknown recipe '{name}'{did_you_mean(str(name), _NAMES)}")
        path = _FOLDER / f"{name}.toml"
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot read this recipe: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: expected a TOML file, got bytes that are no text") from error


def load(name: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe, apply overrides and check the result.

    Parameters
    ----------
    name : str or path
        A recipe's name, or a file that ends in `.toml`.
    overrides : iterable of str
        Each `"section.key=value"` with a TOML value, quotes around a plain word not needed; without a value the key
        is taken out, so that its default holds.

    Returns
    -------
    Recipe

    Raises
    ------
    UsageError
        If the recipe is unknown, is no TOML, or says something that nnkit does not understand.

    Examples
    --------
    >>> from nnkit import recipes
    >>> recipes.load("quickstart", ["optimizer.lr=0.01"]).optimizer["lr"]
    0.01
    """
    try:
        settings = tomllib.loads(source(name))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name}: not valid TOML: {error}") from error
    for override in overrides:
        _apply(settings, override)
    try:
        return Recipe.from_settings(settings)
    except UsageError as error:
        raise UsageError(f"recipe {name}: {error}") from error


def _named(table: Any, section: str, known: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Split a table into its name, which must be known, and the options beside it."""
    if not isinstance(table, Mapping):
        raise UsageError(f"{section}: expected a table, got {table!r}")
    options = dict(table)
    name = options.pop("name", None)
    if not isinstance(name, str):
        got = "nothing" if name is None else repr(name)
        raise UsageError(f"{section}.name: expected one of {', '.join(known)}, got {got}")
    if name not in known:
        raise UsageError(f"{section}.name: unknown {section} {name!r}{did_you_mean(name, known)}")
    return name, options


def _apply(settings: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    *sections, key = [part.strip() for part in path.split(".")]
    if not equals or not all([*sections, key]):
        raise UsageError(f"--set {override}: expected section.key=value")
    table = settings
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise UsageError(f"--set {override}: '{section}' is a value, not a table")
    if text.strip():
        table[key] = _parse(text.strip())
    else:
        table.pop(key, None)


def _parse(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text
