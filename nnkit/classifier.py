"""A trained model together with what it takes to show it pictures."""

from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from nnkit.checkpoint import load_model
from nnkit.data.batching import checked_normalization
from nnkit.errors import CheckpointError, UsageError
from nnkit.models import Model


@dataclass(frozen=True)
class Classifier:
    """A model, how its input is normalised, and what its classes are called.

    Parameters
    ----------
    model : Model
        For images.
    normalize : pair of sequences of float
        Mean and standard deviation of each channel, as in training.
    class_names : sequence of str
    """

    model: Model
    normalize: tuple[list[float], list[float]]
    class_names: list[str]

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Classifier":
        """Read the `model.safetensors` of a run.

        Parameters
        ----------
        path : path-like

        Returns
        -------
        Classifier

        Raises
        ------
        CheckpointError
            The file is missing or damaged, its model is not one for images, or what it says of itself does not fit.
        """
        model, metadata = load_model(path)
        shape = model.input_shape or ()
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise CheckpointError(f"{path}: expected a model for images, gray or RGB, got one for shapes {shape}")
        try:
            mean, std = checked_normalization(saved(metadata, "normalize", path), shape[0])
        except UsageError as error:
            raise CheckpointError(f"{path}: {error}") from error
        names = saved(metadata, "class_names", path)
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise CheckpointError(f"{path}: class_names: expected a list of strings")
        if (len(names),) != model.output_shape:
            raise CheckpointError(f"{path}: class_names: {len(names)} names, for outputs of shape {model.output_shape}")
        return cls(model, (mean.tolist(), std.tolist()), names)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the model's input, in pixels."""
        _, height, width = self.model.input_shape or ()
        return height, width

    def seen(self, pixels: np.ndarray) -> np.ndarray:
        """Return a picture in the colours that the model sees: as it is, or in gray.

        Parameters
        ----------
        pixels : ndarray of shape (H, W, 3)
            uint8, of the model's image size.

        Returns
        -------
        ndarray of shape (H, W, C)
        """
        channels = (self.model.input_shape or ())[0]
        return pixels.mean(axis=2, keepdims=True) if channels == 1 else pixels

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        """Return a picture as the model's input.

        Parameters
        ----------
        pixels : ndarray of shape (H, W, 3)
            uint8, of the model's image size.

        Returns
        -------
        ndarray of shape (1, C, H, W)
            float32, normalised.
        """
        mean, std = self.normalize
        return ((self.seen(pixels) / 255 - mean) / std).astype(np.float32)[None].transpose(0, 3, 1, 2)


def saved(metadata: dict[str, Any], key: str, path: str | PathLike[str]) -> Any:
    """Return what a model file says of itself.

    Parameters
    ----------
    metadata : dict
        As `load_model` returns it.
    key : str
    path : path-like
        The file, for the message.

    Returns
    -------
    object

    Raises
    ------
    CheckpointError
        It does not say that.
    """
    if key not in metadata:
        raise CheckpointError(f"{path}: does not say its {key}, as a model that `nnkit train` saved does")
    return metadata[key]
