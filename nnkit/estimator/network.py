"""The network that an estimator's settings describe."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nnkit import layers, models
from nnkit.errors import UsageError, did_you_mean, whole_number
from nnkit.initializers import xavier_uniform
from nnkit.layers import BatchNorm, Conv2d, Dropout, Flatten, Layer, Linear, MaxPool2d
from nnkit.layers.base import Shape
from nnkit.models import Model, Sequential

ACTIVATIONS: dict[str, Callable[[], Layer] | None] = {
    "identity": None,
    "logistic": layers.Sigmoid,
    "tanh": layers.Tanh,
    "relu": layers.ReLU,
    "leaky_relu": layers.LeakyReLU,
    "gelu": layers.GELU,
    "silu": layers.SiLU,
}


def make_network(
    num_outputs: int,
    *,
    hidden: Sequence[int],
    channels: Sequence[int],
    activation: str,
    batch_norm: bool,
    dropout: float,
) -> Sequential:
    """Return convolutions, each with a 2×2 max pool behind it, then linear layers; unbuilt.

    Parameters
    ----------
    num_outputs : int
    hidden : sequence of int
        The hidden linear layers' sizes.
    channels : sequence of int
        The convolutions' channels; none for rows of features.
    activation : str
    batch_norm : bool
        Before each activation.
    dropout : float
        After each hidden linear layer.

    Returns
    -------
    Sequential
    """
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise UsageError(f"activation: unknown activation {activation!r}{did_you_mean(activation, ACTIVATIONS)}")
    make, init = ACTIVATIONS[activation], logistic_uniform if activation == "logistic" else "xavier_uniform"
    net: dict[str, Layer] = {}

    def activate(place: str) -> None:
        if batch_norm:
            net[f"bn_{place}"] = BatchNorm()
        if make is not None:
            net[f"act_{place}"] = make()

    for i, count in enumerate(channels, 1):
        size = whole_number("conv_channels", count, 1)
        net[f"conv{i}"] = Conv2d(size, 3, padding=1, bias=not batch_norm, weight_init=init)
        activate(f"conv{i}")
        net[f"pool{i}"] = MaxPool2d(2)
    net["flatten"] = Flatten()
    for i, count in enumerate(hidden, 1):
        size = whole_number("hidden_layer_sizes", count, 1)
        net[f"fc{i}"] = Linear(size, bias=not batch_norm, weight_init=init)
        activate(f"fc{i}")
        if dropout:
            net[f"drop{i}"] = Dropout(dropout)
    net["out"] = Linear(num_outputs, weight_init=init)
    return Sequential(net)


def model_of(hook: Any, num_outputs: int, has_images: bool) -> Model:
    """Return the unbuilt model that the setting `model` names or makes.

    Parameters
    ----------
    hook : str or callable
        A name of the zoo, or a function of the number of outputs.
    num_outputs : int
    has_images : bool
        Rows of features come as images of one pixel, which are flattened first.

    Returns
    -------
    Model
    """
    if not isinstance(hook, str) and not callable(hook):
        raise UsageError(f"model: expected a name or a function of the number of outputs, got {hook!r}")
    made = models.create(hook, num_outputs) if isinstance(hook, str) else hook(num_outputs)
    if not isinstance(made, Model) or made.built:
        got = "one that is built" if isinstance(made, Model) else f"a {type(made).__name__}"
        raise UsageError(f"model: expected the function to return an unbuilt nnkit Model, got {got}")
    return made if has_images else Sequential({"flatten": Flatten(), "net": made})


def checked_image_shape(shape: Any, features: int) -> tuple[int, int, int]:
    """Return (height, width, channels) of the images that rows of so many features hold.

    Parameters
    ----------
    shape : tuple of int
        (height, width) or (height, width, channels).
    features : int

    Returns
    -------
    tuple of int
    """
    wanted = "(height, width) or (height, width, channels)"
    if not isinstance(shape, (tuple, list)) or len(shape) not in (2, 3):
        raise UsageError(f"image_shape: expected {wanted}, got {shape!r}")
    height, width, channels = (whole_number("image_shape", size, 1) for size in (*shape, 1)[:3])
    if height in (1, 3, 4) and channels > 4:  # a mistake that would train, and badly
        raise UsageError(f"image_shape: expected {wanted}, the channels last, got {tuple(shape)}")
    if height * width * channels != features:
        size = height * width * channels
        raise UsageError(f"image_shape: {tuple(shape)} holds {size} numbers, but a row of X {features}")
    return height, width, channels


def decayed_names(model: Model) -> list[str]:
    """Return the parameters that the penalty `alpha` is on: weights of linear layers and convolutions.

    Parameters
    ----------
    model : Model
        A built one.

    Returns
    -------
    list of str
    """
    return [name for name, array in model.named_parameters().items() if array.ndim > 1]


def logistic_uniform(shape: Shape, rng: np.random.Generator, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Draw uniformly from `±sqrt(2 / (fan_in + fan_out))`, where scikit-learn begins before logistic units.

    Parameters
    ----------
    shape : tuple of int
    rng : numpy.random.Generator
    dtype : data-type, default float32

    Returns
    -------
    ndarray of the given shape
    """
    draws = xavier_uniform(shape, rng, dtype)
    draws *= math.sqrt(1 / 3)
    return draws
