"""A training on the disk, in the Solver's folder `out`: its best weights, its history, the state to go on from."""

from __future__ import annotations

import json
import reprlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import nnkit
from nnkit._ext import kernels
from nnkit.checkpoint import load_arrays, save_arrays, save_model, to_json
from nnkit.data import Dataset
from nnkit.errors import CheckpointError, UsageError
from nnkit.files import remove_partial_files
from nnkit.history import EpochSums, History
from nnkit.models import model_to_config

if TYPE_CHECKING:
    from nnkit.solver import Solver


class Saved(NamedTuple):
    """The contents of a state on the disk; `best_weights` are None before the end of the first epoch."""

    path: Path
    arrays: dict[str, np.ndarray]
    info: dict[str, Any]
    best_weights: dict[str, np.ndarray] | None


def state_path(folder: Path) -> Path:
    """Return where a training with this folder keeps its state.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    Path
    """
    return folder / "last.ckpt" / "state.safetensors"


def open_folder(solver: Solver, resume: bool) -> None:
    """Make sure that the Solver's folder is free, or take over the state that is in it; rank 0's it remains alone.

    Parameters
    ----------
    solver : Solver
    resume : bool

    Raises
    ------
    UsageError
        The folder holds a training already; or there is none to resume.
    CheckpointError
        The state is missing, damaged, or that of another training.
    """
    out, ranks = solver.out, solver.communicator
    if out is None:
        if resume:
            raise UsageError("resume: expected the folder to go on from as `out`, got None")
    elif resume:
        restore_state(solver, ranks.from_first(lambda: read_state(out)))
        solver.saved_epoch = solver.history.best_epoch
    elif ranks.from_first(state_path(out).exists):
        raise UsageError(f"out: {out} holds a run already; resume it (resume=True) or choose another folder")
    if ranks.rank:
        solver.out = None


def save_epoch(solver: Solver, is_last: bool) -> None:
    """Write what the epoch has brought.

    The best model comes before the state. A kill in between costs nothing: the resumed run finds the older state,
    goes through the same epoch once more and writes the same model.

    Parameters
    ----------
    solver : Solver
    is_last : bool
        Write the state, too, whatever `checkpoint_every` says.

    Raises
    ------
    OSError
        A file cannot be written; the older ones are unharmed.
    """
    save_best(solver)
    if solver.out is not None:
        solver.history.to_csv(solver.out / "history.csv")
    if is_last or solver.is_finished or solver.epoch % solver.checkpoint_every == 0:
        save_state(solver)


def save_best(solver: Solver) -> None:
    """Write the best model, if it is not on the disk yet.

    Parameters
    ----------
    solver : Solver
    """
    best = solver.history.best_epoch
    if solver.out is None or best is None or best == solver.saved_epoch:
        return
    row = solver.history.row(solver.history.epoch.index(best))
    figures = {key: row[key] for key in ("epoch", "step", "val_loss", "val_accuracy")}
    metadata = {"class_names": solver.data.class_names, "normalize": solver.normalize, **figures}
    save_model(solver.out / "model.safetensors", solver.model, metadata, weights=solver.best_weights)
    solver.saved_epoch = best


def save_state(solver: Solver) -> None:
    """Write all that a resumed training needs, apart from the best weights so far.

    These are in `model.safetensors`. Random numbers need no state: they are drawn from seed, epoch and step.

    Parameters
    ----------
    solver : Solver
    """
    if solver.out is None:
        return
    arrays = {f"model/{name}": array for name, array in solver.model.state_dict().items()}
    arrays |= {f"optimizer/{name}": array for name, array in solver.optimizer.state_dict().items()}
    info = {
        "epoch": solver.epoch,
        "step": solver.step,
        "sums": asdict(solver.sums),
        "history": asdict(solver.history),
        "schedule": solver.schedule.state_dict(),
        "settings": settings_of(solver),
    }
    if solver.ema is not None and solver.ema.average is not None:
        arrays["ema/average"] = solver.ema.average
        info["ema_updates"] = solver.ema.updates
    save_arrays(state_path(solver.out), arrays, info)


def read_state(folder: Path) -> Saved:
    """Read what `save_state` and `save_best` wrote.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    Saved

    Raises
    ------
    CheckpointError
        The file is missing or damaged.
    """
    remove_partial_files(folder)
    path = state_path(folder)
    arrays, info = load_arrays(path)
    try:
        best = load_arrays(folder / "model.safetensors")[0] if info["history"]["epoch"] else None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not the state of a training: {error!r}") from error
    return Saved(path, arrays, info, best)


def restore_state(solver: Solver, saved: Saved) -> None:
    """Put a solver that was made with the same settings where the one that wrote the state was.

    Parameters
    ----------
    solver : Solver
    saved : Saved

    Raises
    ------
    CheckpointError
        The state is no such thing, or the settings differ; the message names them.
    UsageError
        The solver wants fewer epochs than are done already.
    """
    path, info = saved.path, saved.info
    parts: dict[str, dict[str, np.ndarray]] = {"model": {}, "optimizer": {}, "ema": {}}
    try:
        require_same(info["settings"], settings_of(solver))
        for name, array in saved.arrays.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = array
        if saved.best_weights is not None:
            solver.model.load_state_dict(saved.best_weights)
        best_weights = solver.model.state_dict()
        solver.model.load_state_dict(parts["model"])
        solver.optimizer.load_state_dict(parts["optimizer"])
        if solver.ema is not None and parts["ema"]:
            solver.ema.average, solver.ema.updates = parts["ema"]["average"], info["ema_updates"]
        solver.schedule.load_state_dict(info["schedule"])
        solver.epoch, solver.step, solver.sums = info["epoch"], info["step"], EpochSums(**info["sums"])
        solver.history, solver.best_weights = History(**info["history"]), best_weights
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not the state of a training: {error!r}") from error
    if solver.epoch > solver.epochs:
        raise UsageError(f"epochs: {solver.epochs} is less than the {solver.epoch} that are done already")


def require_same(saved: Mapping[str, Any], current: Mapping[str, Any], what: str = "saved with other settings") -> None:
    """Raise CheckpointError naming the settings in which a saved training differs from the current one.

    Parameters
    ----------
    saved, current : mapping
        Nested settings; tuples and lists count as the same.
    what : str
        How the message begins.

    Raises
    ------
    CheckpointError

    Examples
    --------
    >>> require_same({"seed": 0, "optimizer": {"lr": 0.1}}, {"seed": 0, "optimizer": {"lr": 0.2}})
    Traceback (most recent call last):
        ...
    nnkit.errors.CheckpointError: saved with other settings: optimizer.lr (0.1 there, 0.2 here)
    """
    differences = list(_differences(saved, json.loads(to_json(current)), ""))
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise CheckpointError(f"{what}: {', '.join(differences[:3])}{more}")


def require_same_on_all(solver: Solver) -> None:
    """Raise CheckpointError on each rank whose settings, data or kernels differ from rank 0's.

    Parameters
    ----------
    solver : Solver

    Raises
    ------
    CheckpointError
    """
    own = {"nnkit": nnkit.__version__, "kernels": kernels.name, "epochs": solver.epochs, **settings_of(solver)}
    first = solver.communicator.from_first(lambda: json.loads(to_json(own)))
    require_same(first, own, f"rank {solver.communicator.rank} differs from rank 0")


def _differences(saved: Any, current: Any, where: str) -> Iterator[str]:
    if isinstance(saved, dict) and isinstance(current, dict):
        for key in {**saved, **current}:
            yield from _differences(saved.get(key), current.get(key), f"{where}.{key}" if where else key)
    elif saved != current:
        yield f"{where} ({reprlib.repr(saved)} there, {reprlib.repr(current)} here)"


def settings_of(solver: Solver) -> dict[str, Any]:
    """Return what decides the course of a training.

    Parameters
    ----------
    solver : Solver

    Returns
    -------
    dict
    """
    loss = solver.loss
    return {
        "seed": solver.seed,
        "batch_size": solver.batch_size,
        "shuffle": solver.shuffle,
        "data": _fingerprint(solver.data),
        "validation": None if solver.validation is None else _fingerprint(solver.validation),
        "model": model_to_config(solver.model),
        "dtype": str(solver.model.flat_params.dtype),
        "loss": {"type": type(loss).__name__, **loss.config()},
        "optimizer": solver.optimizer.config(),
        "schedule": solver.schedule.config(),
        "augment": None if solver.augment is None else asdict(solver.augment),
        "normalize": solver.normalize,
        "clip_norm": solver.clip_norm,
        "clip_value": solver.clip_value,
        "ema": None if solver.ema is None else solver.ema.decay,
        **({"sync_bn": True} if solver.sync_bn else {}),
    }


def _fingerprint(dataset: Dataset) -> dict[str, Any]:
    """Return what tells a data set from others: size, classes, a checksum of labels, weights and some images."""
    some = dataset.images[:: max(len(dataset) // 100, 1)]
    checksum = zlib.crc32(some.tobytes(), zlib.crc32(dataset.labels.tobytes()))
    if dataset.sample_weight is not None:
        checksum = zlib.crc32(dataset.sample_weight.tobytes(), checksum)
    return {"images": len(dataset), "class_names": dataset.class_names, "checksum": checksum}
