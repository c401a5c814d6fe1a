"""Transfer learning: begin with the weights of a net that was trained before, for the same classes or for others."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnkit.errors import CheckpointError, UsageError
from nnkit.interop._torch_state import match_names, read_state, targets, torch_leaves
from nnkit.models import Model

__all__ = ["LoadedWeights", "load_weights", "start_from"]

Normalization = tuple[tuple[float, ...], tuple[float, ...]]
_LISTED = 6  # names in a message, at most


@dataclass(frozen=True)
class LoadedWeights:
    """What `load_weights` did; `str(loaded)` tells it in one line.

    Parameters
    ----------
    path : Path
        The file.
    taken : tuple of str
        Names of the layers that have the file's weights and running statistics now.
    head : str
        Name of the last layer that has weights.
    fresh : str
        Why the head has kept its own weights, such as "7 classes there, 3 here"; empty if it has the file's.
    left : tuple of str
        Arrays of the file for which the model has no place.
    class_names : tuple of str, or None
        The classes that the net was trained for, if the file says so.
    normalize : (mean, std) or None
        How its pixels were normalised, if the file says so: one number for each channel.
    """

    path: Path
    taken: tuple[str, ...]
    head: str
    fresh: str
    left: tuple[str, ...]
    class_names: tuple[str, ...] | None
    normalize: Normalization | None

    def __str__(self) -> str:
        head = f"head {self.head} {f'fresh ({self.fresh})' if self.fresh else 'taken as well'}"
        body = [name for name in self.taken if name != self.head]
        left = f"left out {_listed(self.left)}" if self.left else "nothing left out"
        return f"{_listed(body) or 'nothing'} taken from {self.path}; {head}; {left}"


def load_weights(
    model: Model, source: str | os.PathLike[str], *, class_names: Sequence[str] | None = None
) -> LoadedWeights:
    """Give a model the weights of one that was trained before; its head stays fresh if it is for other classes.

    The head is the last layer with parameters. It keeps its own weights where the two nets do not tell apart the same
    classes: by name, if both are known, else by number. All other layers must be in the file, in the same shapes and
    under the same names, nnkit's or PyTorch's; batch norm's running statistics come along. What else the file holds is
    left out. Either all of it succeeds, or the model stays as it was.

    Parameters
    ----------
    model : Model
        A built one.
    source : path-like
        A run folder; a `.safetensors` file, nnkit's own or any other; or a file for `torch.load`, which is read with
        `weights_only=True`, so that no code in it runs.
    class_names : sequence of str, optional
        What the model shall tell apart, in the order of its outputs.

    Returns
    -------
    LoadedWeights

    Raises
    ------
    CheckpointError
        The file is missing or damaged, lacks a layer, has one in another shape, or holds NaN or infinity.
    UsageError
        The model is not built, or has nothing to load.
    ImportError
        It is a file for PyTorch, which is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from nnkit import load_model, models, save_model
    >>> from nnkit.transfer import load_weights
    >>> old = models.create("mlp", num_classes=7, hidden=(16,))
    >>> _ = old.build((3, 8, 8), seed=1)
    >>> folder = tempfile.mkdtemp()
    >>> save_model(f"{folder}/model.safetensors", old)

    >>> new = models.create("mlp", num_classes=3, hidden=(16,))
    >>> _ = new.build((3, 8, 8), seed=2)
    >>> loaded = load_weights(new, folder)
    >>> loaded.taken, loaded.head, loaded.fresh
    (('fc1',), 'fc2', '7 classes there, 3 here')
    >>> bool((new.flat_params[:16] == old.flat_params[:16]).all())
    True
    """
    if not isinstance(model, Model) or not model.built:
        raise UsageError("load_weights: expected a model that is built; call model.build(input_shape) first")
    layers = {prefix.rstrip("."): leaf for prefix, leaf in torch_leaves(model) if leaf.params}
    if not layers:
        raise UsageError(f"load_weights: {model.label} has no layer with parameters")
    path = Path(source)
    if path.is_dir():
        path /= "model.safetensors"
    _, arrays = read_state(str(path))
    names_there, normalize = _about(path)
    own, head = targets(model), list(layers)[-1]
    theirs = match_names(model, own, arrays)
    in_head = {name for name in own if _layer(name) == head}
    fresh = _why_fresh(own, arrays, theirs, in_head, names_there, class_names)
    wanted = {name: array for name, array in own.items() if not (fresh and name in in_head)}
    problems = [problem for name, array in wanted.items() if (problem := _problem(name, array, arrays, theirs))]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise CheckpointError(f"{path}: {problems[0]}{more}")
    for name, array in wanted.items():
        array[...] = arrays[theirs[name]]
    used = set(theirs.values()) | {name for name in arrays if _layer(name) == head}
    left = tuple(name for name in arrays if name not in used)
    return LoadedWeights(path, tuple(dict.fromkeys(map(_layer, wanted))), head, fresh, left, names_there, normalize)


def start_from(
    source: str | os.PathLike[str] | None,
    model: Model,
    freeze: Sequence[str] = (),
    class_names: Sequence[str] | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> LoadedWeights | None:
    """Do what a recipe's section `[transfer]` asks for: load weights, if any, and freeze layers, if any.

    Parameters
    ----------
    source : path-like, optional
        As for `load_weights`.
    model : Model
        A built one.
    freeze : sequence of str
        Patterns, as for `Model.freeze`.
    class_names : sequence of str, optional
        As for `load_weights`.
    say : callable
        Called with a line that tells what was loaded, and one that tells what is frozen.

    Returns
    -------
    LoadedWeights or None

    Raises
    ------
    CheckpointError, ImportError
        As `load_weights` raises them.
    UsageError
        A pattern fits no layer; or no layer is left to train; or a fresh head would never be trained.
    """
    loaded = None
    if source is not None:
        loaded = load_weights(model, source, class_names=class_names)
        say(f"weights {loaded}")
    if freeze:
        model.freeze(*freeze)
        frozen = list(dict.fromkeys(map(_layer, model.frozen_parameters())))
        if not model.num_trainable:
            raise UsageError(f"freeze: expected to leave a layer to train, got {', '.join(map(repr, freeze))}")
        if loaded and loaded.fresh and loaded.head in frozen:
            raise UsageError(f"freeze: {loaded.head!r} is fresh ({loaded.fresh}), so it must be trained")
        say(f"frozen  {_listed(frozen)}; {model.num_trainable:,} of {model.num_parameters:,} parameters are trained")
    return loaded


def _why_fresh(
    own: Mapping[str, np.ndarray],
    arrays: Mapping[str, np.ndarray],
    theirs: Mapping[str, str],
    in_head: set[str],
    names_there: Sequence[str] | None,
    names_here: Sequence[str] | None,
) -> str:
    """Say why the head cannot be the file's, or nothing if it can."""
    found = [name for name in own if name in in_head and name in theirs]
    if not found:
        return "the file has none"
    name = found[0]
    here, there = len(own[name]), arrays[theirs[name]].shape[:1]
    if there != (here,):
        return f"{there[0] if there else 'no'} classes there, {here} here"
    if names_there and names_here and list(names_there) != list(names_here):
        return f"other classes there: {_listed(names_there)}"
    return ""


def _problem(name: str, array: np.ndarray, arrays: Mapping[str, np.ndarray], theirs: Mapping[str, str]) -> str | None:
    """Say what keeps an array of the model from being taken from the file."""
    what = f"layer {_layer(name)!r}: expected {name.rpartition('.')[2]} of shape {array.shape}"
    if name not in theirs:
        return f"{what}, got none; the file has {_listed(list(dict.fromkeys(map(_layer, arrays)))) or 'nothing'}"
    found = arrays[theirs[name]]
    if found.shape != array.shape:
        return f"{what}, got {found.shape}"
    with np.errstate(over="ignore"):  # what is too large for the model's type is infinite there
        is_finite = np.isfinite(found.astype(array.dtype)).all()
    return None if is_finite else f"{what} and finite, got NaN or infinity"


def _about(path: Path) -> tuple[tuple[str, ...] | None, Normalization | None]:
    """Return the class names and the normalisation that `nnkit train` and `nnkit export` note in a file's header."""
    if path.suffix != ".safetensors":
        return None, None
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        header = file.metadata() or {}
    about = _json(header["nnkit"]) if "nnkit" in header else {key: _json(text) for key, text in header.items()}
    if not isinstance(about, dict):
        return None, None
    names = about.get("class_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        names = None
    return None if names is None else tuple(names), _normalization(about.get("normalize"))


def _normalization(value: Any) -> Normalization | None:
    """Return a mean and a standard deviation as they stand in a header, or None where it is something else."""
    try:
        mean, std = (value["mean"], value["std"]) if isinstance(value, dict) else value
        return tuple(map(float, mean)), tuple(map(float, std))
    except (KeyError, TypeError, ValueError):
        return None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _layer(name: str) -> str:
    """Return the layer that an array belongs to."""
    return name.rpartition(".")[0]


def _listed(names: Sequence[str]) -> str:
    """List names on one line, but the middle ones of many."""
    names = ["".join(c if c.isprintable() else "?" for c in name) for name in names]
    if len(names) > _LISTED:
        return f"{', '.join(names[:3])}, ... {names[-1]} ({len(names)} in all)"
    return ", ".join(names)
