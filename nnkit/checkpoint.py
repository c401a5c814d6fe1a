"""Saved models and saved training states: safetensors files whose header holds the rest as JSON.

A safetensors file is numbers and text, nothing that could run; loading one from a stranger is safe.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

import nnkit
from nnkit.errors import CheckpointError
from nnkit.files import atomic_path
from nnkit.models import Model, model_from_config, model_to_config

_KEY = "nnkit"  # under which our JSON stands in the header


def save_model(
    path: str | os.PathLike[str],
    model: Model,
    metadata: Mapping[str, Any] | None = None,
    *,
    weights: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write a model: its weights and buffers, and the tree of layers to rebuild it from.

    Parameters
    ----------
    path : path-like
        The file is replaced in one move; whatever goes wrong, the old one or the new one is there.
    model : Model
        A built one.
    metadata : mapping, optional
        Anything else that JSON can hold: class names, normalisation, ...
    weights : mapping of str to ndarray, optional
        A state of the model to write in place of its current one.

    Raises
    ------
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from nnkit.layers import Linear
    >>> from nnkit.models import Sequential
    >>> model = Sequential(Linear(3))
    >>> _ = model.build((2,))
    >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> save_model(path, model, {"class_names": ["ant", "bee", "cat"]})
    >>> loaded, metadata = load_model(path)
    >>> metadata["class_names"]
    ['ant', 'bee', 'cat']
    >>> bool((loaded.forward(np.ones((1, 2), np.float32)) == model.forward(np.ones((1, 2), np.float32))).all())
    True
    """
    tree = {"model": model_to_config(model), "input_shape": model.input_shape, "dtype": str(model.flat_params.dtype)}
    save_arrays(path, model.state_dict() if weights is None else weights, {**(metadata or {}), **tree})


def load_model(path: str | os.PathLike[str]) -> tuple[Model, dict[str, Any]]:
    """Rebuild a model that `save_model` wrote.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    model : Model
    metadata : dict
        What was given to `save_model`, and "nnkit_version", "model", "input_shape" and "dtype".

    Raises
    ------
    CheckpointError
        The file is missing, damaged, or none of a model.
    """
    arrays, metadata = load_arrays(path)
    try:
        model = model_from_config(metadata["model"])
        model.build(tuple(metadata["input_shape"]), dtype=np.dtype(metadata["dtype"]))
    except (KeyError, TypeError, ValueError, AttributeError, MemoryError) as error:
        missing = isinstance(error, KeyError)
        reason = f"the header has no {error}" if missing else f"cannot rebuild the model: {error}"
        raise CheckpointError(f"{path}: {reason}") from error
    try:
        model.load_state_dict(arrays)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return model, metadata


def save_arrays(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Write named arrays and JSON into one safetensors file, in one move.

    Parameters
    ----------
    path : path-like
    arrays : mapping of str to ndarray
    metadata : mapping
        Fit for JSON.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    from safetensors.numpy import save

    header = {_KEY: to_json({"nnkit_version": nnkit.__version__, **metadata})}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save({name: np.asarray(array, order="C") for name, array in arrays.items()}, header))


def load_arrays(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save_arrays` wrote.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    arrays : dict of str to ndarray
    metadata : dict

    Raises
    ------
    CheckpointError
        The file is missing or damaged, or was not written by nnkit.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = json.loads((file.metadata() or {})[_KEY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or 'no such file'}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged, or no safetensors file: {error}") from error
    except (KeyError, ValueError, RecursionError, TypeError, AttributeError) as error:  # last two: types NumPy lacks
        raise CheckpointError(f"{path}: a safetensors file, but not one that nnkit wrote") from error
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: a safetensors file, but not one that nnkit wrote")
    return arrays, metadata


def to_json(value: Any) -> str:
    """Write JSON; NumPy's numbers and arrays become plain ones, and functions their names.

    Parameters
    ----------
    value : object

    Returns
    -------
    str

    Examples
    --------
    >>> to_json({"mean": np.array([0.5, 0.25])})
    '{"mean": [0.5, 0.25]}'
    """
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else getattr(value, "__qualname__", type(value).__name__)
