"""PyTorch's state dictionaries without PyTorch: names, reading files, and fitting arrays to a model."""

import errno
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnkit.errors import CheckpointError, UsageError
from nnkit.layers import Layer
from nnkit.models import Model, Residual, Sequential

EXTRA = 'PyTorch is not installed; get it with: pip install "nnkit[torch]"'
_WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name
_NESTED = ("state_dict", "model_state_dict", "model", "net")  # where training scripts put the state
_COUNTER = "num_batches_tracked"
_BUFFERS = ("running_mean", "running_var")


@dataclass(frozen=True)
class LoadReport:
    """What `load_torch_state` found; `str(report)` tells it in one line.

    Parameters
    ----------
    loaded : tuple of str
        Names of the arrays that were taken over, as the PyTorch state has them.
    missing : tuple of str
        What the model has and the state has not.
    unexpected : tuple of str
        What the state has and the model has not.
    mis_shaped : tuple of str
        What both have, but in different shapes, which are told.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mis_shaped: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every array found its place."""
        return not (self.missing or self.unexpected or self.mis_shaped)

    def __str__(self) -> str:
        text = f"{len(self.loaded)} arrays fit"
        for kind in ("missing", "unexpected", "mis_shaped"):
            if names := getattr(self, kind):
                more = f" and {len(names) - 4} more" if len(names) > 5 else ""
                shown = ", ".join(names[: 4 if more else 5])
                text += f"; {len(names)} {kind.replace('_', '-')}: {shown}{more}"
        return text


def torch_leaves(layer: Layer, prefix: str = "") -> Iterator[tuple[str, Layer]]:
    """Yield each layer that is no container with the name that `to_torch` gives it.

    It is nnkit's own name, but for a single layer in the place of a residual's `main`: a PyTorch module cannot lend its
    own name to a child, which is called "main" therefore.
    """
    if isinstance(layer, Sequential):
        for key, child in layer.layers.items():
            yield from torch_leaves(child, prefix + key + ".")
    elif isinstance(layer, Residual):
        inside = "" if isinstance(layer.main, Sequential) else "main."
        yield from torch_leaves(layer.main, prefix + inside)
        for key, part in (("shortcut", layer.shortcut), ("activation", layer.activation)):
            if part is not None:
                yield from torch_leaves(part, f"{prefix}{key}.")
    else:
        yield prefix, layer


def state_arrays(model: Model) -> dict[str, np.ndarray]:
    """Return what `to_torch(model).state_dict()` holds, under the same names and in the same order; needs no PyTorch.

    Parameters
    ----------
    model : Model
        A built one.

    Returns
    -------
    dict of str to ndarray
        Copies; with batch normalisation's counter `num_batches_tracked`, as 0.
    """
    state = {}
    for prefix, leaf in torch_leaves(model):
        for key, array in (leaf.params | leaf.buffers).items():
            state[prefix + key] = array.copy()
        if leaf.buffers:
            state[prefix + _COUNTER] = np.array(0, np.int64)
    return state


def fit(model: Model, source: Mapping[str, np.ndarray], by: str) -> tuple[LoadReport, dict[str, str]]:
    """Find each array's place: return the report, and for each name of `targets` that is served one of the source."""
    if by not in ("name", "order"):
        raise UsageError(f"load_torch_state: expected by to be 'name' or 'order', got {by!r}")
    wanted = targets(model)
    pairs = _by_order(wanted, source) if by == "order" else match_names(model, wanted, source)
    bad = {
        own: f"{theirs} (expected {wanted[own].shape}, got {source[theirs].shape})"
        for own, theirs in pairs.items()
        if wanted[own].shape != source[theirs].shape
    }
    good = {own: theirs for own, theirs in pairs.items() if own not in bad}
    taken = set(pairs.values())
    missing = tuple(name for name in wanted if name not in pairs)
    unexpected = tuple(name for name in source if name not in taken)
    return LoadReport(tuple(good.values()), missing, unexpected, tuple(bad.values())), good


def targets(model: Model) -> dict[str, np.ndarray]:
    """Return the model's own parameters and buffers under PyTorch's names."""
    return {
        prefix + key: array
        for prefix, leaf in torch_leaves(model)
        for key, array in (leaf.params | leaf.buffers).items()
    }


def read_state(source: Any) -> tuple[str, dict[str, np.ndarray]]:
    """Read a state dictionary, or a file of one; return what to call it in messages, and its arrays."""
    where = "the state"
    if not isinstance(source, Mapping):
        if not isinstance(source, (str, os.PathLike)):
            kind = type(source).__name__
            raise TypeError(f"load_torch_state: expected a file's path or a mapping of names to arrays, got a {kind}")
        where = os.fspath(source)
        source = _read_safetensors(where) if where.endswith(".safetensors") else _read_torch(where)
    for _ in range(2):
        nested = [source[key] for key in _NESTED if isinstance(source.get(key), Mapping)]
        source = nested[0] if nested else source
    arrays = {str(name): _array(where, name, value) for name, value in source.items() if not _ignored(name)}
    for prefix in _WRAPPERS * 2:
        if arrays and all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
    return where, arrays


def _ignored(name: object) -> bool:
    return str(name).rsplit(".", 1)[-1] == _COUNTER


def match_names(model: Model, wanted: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, str]:
    """Pair equal names; nnkit's own name of an array is as good as PyTorch's."""
    pairs = {name: name for name in wanted if name in source}
    for prefix, leaf in torch_leaves(model):
        for key in leaf.params | leaf.buffers:
            own = f"{leaf.name}.{key}" if leaf.name else key
            if prefix + key not in pairs and own in source and own not in wanted:
                pairs[prefix + key] = own
    return pairs


def _by_order(wanted: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, str]:
    """Pair the first parameter with the first, and so on; and the running statistics among themselves."""
    pairs: dict[str, str] = {}
    for are_buffers in (False, True):
        own, theirs = (
            [name for name in names if name.rsplit(".", 1)[-1].startswith(_BUFFERS) is are_buffers]
            for names in (wanted, source)
        )
        pairs |= dict(zip(own, theirs, strict=False))
    return {name: pairs[name] for name in wanted if name in pairs}


def _array(where: str, name: object, value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a tensor
        try:
            value = value.detach().cpu()
            if value.is_floating_point() and value.element_size() < 4:
                value = value.float()  # NumPy has no bfloat16
            value = value.numpy()
        except (RuntimeError, TypeError) as error:  # sparse, quantised, or without any numbers on the meta device
            reason = str(error).split("\n", 1)[0]
            raise CheckpointError(f"{where}: expected plain tensors; {name!r} is none: {reason}") from error
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        kind = type(value).__name__ if array.dtype.kind in "OSU" else array.dtype
        raise CheckpointError(f"{where}: expected a PyTorch state_dict, of names and tensors; {name!r} is a {kind}")
    return array


def _read_safetensors(path: str) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or _no_file(path)}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged, or no safetensors file: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: holds a type of numbers that NumPy does not have ({error})") from error


def _no_file(path: str) -> str:
    return "is a folder" if os.path.isdir(path) else "no such file"


def _read_torch(path: str) -> Mapping[str, Any]:
    if not os.path.isfile(path):  # with or without PyTorch
        raise CheckpointError(f"{path}: cannot be read: {_no_file(path)}")
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"{path}: {EXTRA}; or save the weights as .safetensors, which needs no PyTorch") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which is what it says of half an archive
            raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
        # torch.load raises whatever its archive reader and its unpickler stumble over.
        reason = f"{type(error).__name__}: " + re.split(r"\.\s|\n", str(error).strip(), maxsplit=1)[0][:120]
        raise CheckpointError(f"{path}: damaged, or more than tensors; save model.state_dict() ({reason})") from error
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: expected a PyTorch state_dict, got a {type(state).__name__}")
    return state
