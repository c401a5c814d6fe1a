"""Who takes part: recipes to train, finished runs, or the variants of one recipe."""

import itertools
import json
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnkit import recipes, runs
from nnkit.errors import CheckpointError, DataError, UsageError, whole_number
from nnkit.history import History
from nnkit.page import known
from nnkit.recipes import Recipe, toml

# Rates to begin with, for `--vary optimizer=...`: the authors' own, or in common use. With a momentum of 0.9, steps
# become ten times as long as plain SGD's at the same rate.
STANDARD_RATES = {
    "sgd": 0.1,
    "momentum": 0.01,
    "nesterov": 0.01,
    "rmsprop": 0.001,
    "adagrad": 0.01,
    "adam": 0.001,
    "adamw": 0.001,
}
_NAMED = ("model", "optimizer", "schedule")  # sections for which a name may stand
_KEPT = ("weight_decay", "groups")  # of the recipe's optimizer, whatever the optimizer
_FIXED = ("name", "description", "seed", "search")
_OPEN_DATA = ("augment", "normalize", "per_class")  # all else in [data] decides which images judge


@dataclass(frozen=True)
class Entry:
    """One of those that are compared.

    Parameters
    ----------
    name : str
    recipe : Recipe
        Its seed is the first training's.
    seeds : tuple of int
        One a training.
    runs : tuple of Path
        Finished run folders, one a seed; empty if it is to be trained.
    values : dict of str to str
        In a sweep, what stands at which key, as it was written.
    """

    name: str
    recipe: Recipe
    seeds: tuple[int, ...]
    runs: tuple[Path, ...] = ()
    values: dict[str, str] = field(default_factory=dict)


def read(
    names: Sequence[str | Path],
    vary: Iterable[str] = (),
    overrides: Sequence[str] = (),
    seeds: int | None = None,
    data_dir: str | None = None,
) -> list[Entry]:
    """Return what takes part, checked.

    Parameters
    ----------
    names : sequence of str or path
        Recipes by name or file, and run folders.
    vary : iterable of str
        Each `"key=value,value,..."`; with it, there must be one recipe.
    overrides : sequence of str
        Changes of all recipes, as `recipes.load` takes them.
    seeds : int, optional
        How often to train each recipe; once if not given.
    data_dir : str, optional
        Where the data is, if not where recipes and runs say.

    Returns
    -------
    list of Entry
        At least two, each with other settings.

    Raises
    ------
    UsageError, CheckpointError, DataError
        Something is unknown, there twice, not finished, ...
    """
    vary = list(vary)
    where = [] if data_dir is None else [f"data.dir={toml.dumps_value(data_dir)}"]
    count = 1 if seeds is None else whole_number("seeds", seeds, 1)
    is_run = {str(name): _is_run(name) for name in names}
    if vary:
        if len(names) != 1 or is_run[str(names[0])]:
            raise UsageError(f"--vary: expected one recipe, whose variants are compared, got {_listed(names)}")
        entries = _variants(names[0], vary, [*overrides, *where], count)
    else:
        folders = [name for name in names if is_run[str(name)]]
        if len(folders) == len(names) and (overrides or seeds is not None):
            raise UsageError("settings and seeds are for recipes to train; got finished runs only")
        loaded = {name: recipes.load(name, [*overrides, *where]) for name in names if not is_run[str(name)]}
        if len(loaded) + len(folders) < len(names) or len(set(map(str, folders))) < len(folders):
            raise UsageError(f"compare: expected each recipe and run once, got {_listed(names)}")
        trained = [_to_train(name, recipe, count) for name, recipe in loaded.items()]
        entries = _distinct([*trained, *_finished(folders, where)], names)
    _require_differences(entries)
    if len(entries) < 2:
        got = f"got only {entries[0].name}" if entries else "got none"
        raise UsageError(f"compare: expected at least two recipes or runs, or one recipe and --vary KEY=A,B; {got}")
    return entries


def to_json(entry: Entry) -> dict[str, Any]:
    """Return an entry such that `from_json` makes the same of it.

    Parameters
    ----------
    entry : Entry

    Returns
    -------
    dict
    """
    return {
        "name": entry.name,
        "settings": entry.recipe.to_settings(),
        "seeds": entry.seeds,
        "runs": [str(path.resolve()) for path in entry.runs],
        "values": entry.values,
    }


def from_json(table: dict[str, Any]) -> Entry:
    """Return the entry that `to_json` made this of.

    Parameters
    ----------
    table : dict

    Returns
    -------
    Entry
    """
    paths = tuple(map(Path, table["runs"]))
    recipe = Recipe.from_settings(table["settings"])
    return Entry(table["name"], recipe, tuple(table["seeds"]), paths, table["values"])


def _is_run(name: str | Path) -> bool:
    """Return whether this names a run folder rather than a recipe."""
    path = Path(name)
    if str(name) in recipes.names() or path.suffix == ".toml":
        return False
    return path.exists() or (runs.RUNS / path).exists() or len(path.parts) > 1


def _to_train(name: str | Path, recipe: Recipe, count: int, values: dict[str, str] | None = None) -> Entry:
    return Entry(str(name), recipe, tuple(range(recipe.seed, recipe.seed + count)), (), values or {})


def _distinct(entries: list[Entry], names: Sequence[str | Path]) -> list[Entry]:
    """Name each by its recipe, or by what was asked for where several recipes have one name; in the order asked for."""
    taken = [entry.recipe.name for entry in entries]
    named = []
    for entry in entries:
        name = entry.recipe.name if taken.count(entry.recipe.name) == 1 else entry.name
        named.append(Entry(name, entry.recipe, entry.seeds, entry.runs))
    order = [str(name) for name in names]
    places = {id(new): order.index(old.name) for old, new in zip(entries, named, strict=True)}
    return sorted(named, key=lambda entry: places[id(entry)])


# Finished runs


def _finished(folders: Sequence[str | Path], where: Sequence[str]) -> list[Entry]:
    """Return the runs, those as one that differ only by the seed."""
    groups: dict[str, list[tuple[str, Recipe, Path]]] = {}
    for name in folders:
        folder = runs.find(name)
        recipe = recipes.load(folder / runs.CONFIG, where)
        read_run(folder)  # before anything is trained
        groups.setdefault(_key(recipe), []).append((str(name), recipe, folder))
    entries = []
    for group in groups.values():
        group.sort(key=lambda run: run[1].seed)
        for (one, first, _), (other, second, _) in itertools.pairwise(group):
            if first.seed == second.seed:
                raise UsageError(f"{one} and {other}: the same settings and seed twice; expected different trainings")
        name, recipe, _ = min(group, key=lambda run: list(map(str, folders)).index(run[0]))
        paths = tuple(folder for *_, folder in group)
        entries.append(Entry(name, recipe, tuple(run.seed for _, run, _ in group), paths))
    return entries


def read_run(folder: Path) -> tuple[dict[str, Any], History]:
    """Return the figures and the history of a finished run, once they are what a comparison needs.

    Parameters
    ----------
    folder : path

    Returns
    -------
    figures : dict
    history : History

    Raises
    ------
    CheckpointError, DataError
        The run is not finished, or something is missing or damaged.
    """
    try:
        figures = json.loads((folder / runs.METRICS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: this training is not finished; nnkit train --resume goes on") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / runs.METRICS}: expected the figures of a run: {error}") from None
    if not isinstance(figures, dict) or "val_accuracy" not in figures or not (folder / runs.MODEL).exists():
        raise CheckpointError(f"{folder}: expected a finished run with {runs.MODEL} and {runs.METRICS}")
    memory = figures.get("peak_memory")
    if memory is not None and not known(memory):
        raise CheckpointError(f"{folder / runs.METRICS}: expected peak_memory to be a number, got {memory!r}")
    history = History.from_csv(folder / "history.csv")
    columns = ("train_accuracy", "val_accuracy", "seconds")
    if not len(history) or not all(known(value) for name in columns for value in history[name]):
        raise DataError(f"{folder / 'history.csv'}: expected a number in {', '.join(columns)} of each epoch")
    return figures, history


def _key(recipe: Recipe) -> str:
    """Return what two trainings have in common that differ by nothing but the seed."""
    settings = recipe.to_settings()
    settings["data"].pop("dir", None)
    return json.dumps({key: value for key, value in settings.items() if key not in _FIXED}, sort_keys=True)


def _require_differences(entries: Sequence[Entry]) -> None:
    seen: dict[str, Entry] = {}
    for entry in entries:
        other = seen.setdefault(_key(entry.recipe), entry)
        if other is not entry and not (set(other.runs) | set(entry.runs)):
            raise UsageError(f"{other.name} and {entry.name}: the same settings twice; expected different ones")


def _listed(names: Sequence[str | Path]) -> str:
    return ", ".join(map(str, names)) or "none"


# Variants of one recipe


def _variants(name: str | Path, vary: Sequence[str], overrides: Sequence[str], count: int) -> list[Entry]:
    axes = dict(_parse(text) for text in vary)
    if len(axes) < len(vary):
        raise UsageError(f"--vary: expected each key once, got {', '.join(text.partition('=')[0] for text in vary)}")
    base = recipes.load(name, overrides)
    entries = []
    for point in itertools.product(*axes.values()):
        values = dict(zip(axes, point, strict=True))
        # "optimizer" before "optimizer.lr", which would else be replaced along with it
        changes = [_change(base, key, values[key]) for key in sorted(values)]
        try:
            recipe = recipes.load(name, [*overrides, *changes])
        except UsageError as error:
            raise UsageError(f"--vary {variant_name(values)}: {error}") from None
        entries.append(_to_train(variant_name(values), recipe, count, values))
    return entries


def variant_name(values: dict[str, str]) -> str:
    """Return a name for settings.

    Parameters
    ----------
    values : dict of str to str

    Returns
    -------
    str

    Examples
    --------
    >>> variant_name({"optimizer.lr": "1e-3", "model.depth": "2"})
    'lr=1e-3 depth=2'
    """
    return " ".join(f"{name}={value}" for name, value in zip(short_keys(list(values)), values.values(), strict=True))


def short_keys(keys: Sequence[str]) -> list[str]:
    """Return the keys without their sections, where that leaves no doubt.

    Parameters
    ----------
    keys : sequence of str

    Returns
    -------
    list of str
    """
    lasts = [key.rpartition(".")[2] for key in keys]
    return [last if lasts.count(last) == 1 else key for key, last in zip(keys, lasts, strict=True)]


def _parse(text: str) -> tuple[str, list[str]]:
    """Split `key=value,value` into the key and its values."""
    key, equals, rest = text.partition("=")
    key, values = key.strip(), [value.strip() for value in _split(rest)]
    if not equals or not key or not all(values):
        raise UsageError(f"--vary {text}: expected KEY=VALUE,VALUE,..., as in optimizer.lr=1e-3,1e-2")
    section, _, option = key.partition(".")
    if section in _FIXED or (section == "data" and option.split(".")[0] not in _OPEN_DATA):
        what = "--seeds" if section == "seed" else "a setting of the model, its training or the augmentation"
        raise UsageError(f"--vary {key}: cannot be varied; expected {what}")
    return key, values


def _split(text: str) -> list[str]:
    """Split at the commas that are in no bracket and no quotes.

    >>> _split('[512], [512, 512], "a,b"')
    ['[512]', ' [512, 512]', ' "a,b"']
    """
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        else:
            depth += (char in "[{") - (char in "]}")
        if char == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def value_of(text: str) -> Any:
    """Return what a value in a recipe means: TOML, or else a plain word.

    Parameters
    ----------
    text : str

    Returns
    -------
    object
    """
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _change(base: Recipe, key: str, text: str) -> str:
    """Return the override that puts a value into the recipe; a name stands for what it names, at its defaults."""
    name = value_of(text)
    if key not in _NAMED or not isinstance(name, str):
        return f"{key}={text}"
    table: dict[str, Any] = {"name": name}
    if key == "optimizer":
        rate = {"lr": STANDARD_RATES[name]} if name in STANDARD_RATES else {}
        table |= rate | {option: base.optimizer[option] for option in _KEPT if option in base.optimizer}
    return f"{key}={toml.dumps_value(table)}"
