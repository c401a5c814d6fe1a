"""Optimizers, schedules of the rate, gradient clipping and weight averaging, on flat arrays of all parameters."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from nnkit.errors import UsageError, did_you_mean
from nnkit.optim.averaging import ExponentialMovingAverage
from nnkit.optim.clipping import clip_grad_norm, clip_grad_value, gradient_norm
from nnkit.optim.optimizer import Optimizer
from nnkit.optim.rules import SGD, AdaGrad, Adam, AdamW, RMSProp
from nnkit.optim.schedules import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LinearWarmup,
    OneCycleLR,
    ReduceLROnPlateau,
    Schedule,
    StepLR,
)

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "ConstantLR",
    "CosineAnnealingLR",
    "ExponentialLR",
    "ExponentialMovingAverage",
    "LinearWarmup",
    "OneCycleLR",
    "Optimizer",
    "RMSProp",
    "ReduceLROnPlateau",
    "Schedule",
    "StepLR",
    "clip_grad_norm",
    "clip_grad_value",
    "create",
    "create_schedule",
    "gradient_norm",
]

# Names as recipes spell them: the class, and the options that the name implies.
OPTIMIZERS: dict[str, tuple[Callable[..., Optimizer], dict[str, Any]]] = {
    "sgd": (SGD, {}),
    "momentum": (SGD, {"momentum": 0.9}),
    "nesterov": (SGD, {"momentum": 0.9, "nesterov": True}),
    "rmsprop": (RMSProp, {}),
    "adagrad": (AdaGrad, {}),
    "adam": (Adam, {}),
    "adamw": (AdamW, {}),
}
SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": ConstantLR,
    "step": StepLR,
    "exponential": ExponentialLR,
    "cosine": CosineAnnealingLR,
    "one_cycle": OneCycleLR,
    "plateau": ReduceLROnPlateau,
}


def create(name: str, **options: Any) -> Optimizer:
    """Make an optimizer by name.

    Parameters
    ----------
    name : {"sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adam", "adamw"}
        "momentum" is SGD with a momentum of 0.9, "nesterov" the same with Nesterov's variant.
    **options
        Arguments of the class.

    Returns
    -------
    Optimizer

    Raises
    ------
    UsageError
        The name or an option is unknown; the message names the nearest.

    Examples
    --------
    >>> create("nesterov", lr=0.1).config()["momentum"]
    0.9
    """
    kind, implied = OPTIMIZERS[_known("optimizer", name, OPTIMIZERS)]
    return kind(**{**implied, **_known_options(f"optimizer {name!r}", kind, options)})


def create_schedule(
    name: str, *, warmup_epochs: float = 0.0, start_factor: float | None = None, **options: Any
) -> Schedule:
    """Make a schedule by name.

    Parameters
    ----------
    name : {"constant", "step", "exponential", "cosine", "one_cycle", "plateau"}
    warmup_epochs : float, default 0
        If above 0, the schedule follows on a `LinearWarmup` of that length.
    start_factor : float, default 1/3
        Where the warm-up starts.
    **options
        Arguments of the class.

    Returns
    -------
    Schedule

    Raises
    ------
    UsageError
        The name or an option is unknown; the message names the nearest. Or `start_factor` has no warm-up to start.

    Examples
    --------
    >>> create_schedule("step", step_size=5)
    StepLR(step_size=5, gamma=0.1)
    """
    kind = SCHEDULES[_known("schedule", name, SCHEDULES)]
    schedule = kind(**_known_options(f"schedule {name!r}", kind, options))
    if warmup_epochs:
        return LinearWarmup(warmup_epochs, schedule, 1 / 3 if start_factor is None else start_factor)
    if start_factor is not None:
        raise UsageError("start_factor: is where a warm-up starts; give warmup_epochs, too")
    return schedule


def _known_options(of: str, kind: Callable[..., Any], options: Mapping[str, Any]) -> Mapping[str, Any]:
    names = inspect.signature(kind).parameters
    for name in options:
        _known(f"option of {of}", name, names)
    return options


def _known(what: str, name: str, names: Mapping[str, Any]) -> str:
    if name not in names:
        raise UsageError(f"unknown {what} {name!r}{did_you_mean(str(name), names)}")
    return name
