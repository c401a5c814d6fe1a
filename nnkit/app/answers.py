"""What a model says of one picture: its classes, how sure it is, and where it looked."""

import io
import math
import threading
from dataclasses import dataclass

import numpy as np

from nnkit import explain
from nnkit.classifier import Classifier
from nnkit.layers import Conv2d

SHOWN = 5  # classes
LIKELY = 0.5  # what the first class must reach for an answer
LEAD = 0.2  # by how much it must be ahead of the second

RULE = (
    f"It counts as sure when the first class gets at least {LIKELY:.0%} and is at least {LEAD * 100:.0f} points ahead "
    "of the second. A net knows only the classes that it was trained on: shown anything else, it names one of them "
    "all the same, and may be sure of it."
)

_computing = threading.Lock()  # one picture at a time: the kernels use all cores for it


@dataclass(frozen=True)
class Answer:
    """A model's answer to one picture.

    Parameters
    ----------
    names : list of str
        Of the likeliest classes, the likeliest first.
    probabilities : list of float
    seen : ndarray of shape (H, W, 3)
        uint8: the picture as the model sees it.
    heat : ndarray of shape (H, W)
        From 0 to 1: where what speaks for the first class is found.
    method : {"grad-cam", "occlusion"}
        How that was found out.
    """

    names: list[str]
    probabilities: list[float]
    seen: np.ndarray
    heat: np.ndarray
    method: str

    @property
    def doubt(self) -> str:
        """Why the model is not sure, in a sentence; empty if it is sure."""
        first, second = (*self.probabilities, 0.0)[:2]
        if math.isnan(first):
            return "The net's probabilities are no numbers."
        if first < LIKELY:
            return f"No class gets {LIKELY:.0%}: the first, {self.names[0]}, has {first:.0%}."
        if first - second < LEAD:
            return f"It is between {self.names[0]} ({first:.0%}) and {self.names[1]} ({second:.0%})."
        return ""


def verdict(one: Answer, two: Answer) -> str:
    """Return in a sentence whether two models agree.

    Parameters
    ----------
    one, two : Answer

    Returns
    -------
    str
    """
    unsure = [bool(each.doubt) for each in (one, two)]
    first, second = one.names[0], two.names[0]
    if all(unsure):
        return "Neither is sure."
    if any(unsure):
        return f"Only one is sure: {second if unsure[0] else first}."
    return f"Both say {first}." if first == second else f"They do not agree: {first}, or {second}?"


def answer(classifier: Classifier, pixels: np.ndarray) -> Answer:
    """Ask a model what a picture shows, and where it sees that.

    Parameters
    ----------
    classifier : Classifier
    pixels : ndarray of shape (H, W, 3)
        uint8, of the model's image size.

    Returns
    -------
    Answer
        With Grad-CAM's map, or an occlusion map where the model has no convolution.
    """
    x, model = classifier.prepare(pixels), classifier.model
    with _computing:
        probabilities = model.predict_proba(x)[0]
        first = int(probabilities.argmax())
        if any(isinstance(leaf, Conv2d) for leaf in model.leaves()):
            heat, method = explain.grad_cam(model, x, first)[0], "grad-cam"
        else:
            drop = np.maximum(explain.occlusion(model, x, first)[0], 0)
            heat, method = drop / max(drop.max(), np.finfo(np.float32).tiny), "occlusion"
    best = np.argsort(-probabilities, kind="stable")[:SHOWN]
    seen = np.broadcast_to(classifier.seen(pixels), pixels.shape).astype(np.uint8)
    names = [classifier.class_names[i] for i in best]
    return Answer(names, [float(probabilities[i]) for i in best], seen, np.nan_to_num(heat), method)


def overlay(seen: np.ndarray, heat: np.ndarray, zoom: int) -> np.ndarray:
    """Lay a map over a picture: gray where nothing is, through orange to yellow where the map is highest.

    Parameters
    ----------
    seen : ndarray of shape (H, W, 3)
        uint8.
    heat : ndarray of shape (H, W)
        From 0 to 1.
    zoom : int
        How many pixels each becomes, in both directions; the map is smoothed in between.

    Returns
    -------
    ndarray of shape (H · zoom, W · zoom, 3)
        uint8.
    """
    from PIL import Image

    height, width = heat.shape
    size = (width * zoom, height * zoom)
    smooth = Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    level = np.rint(np.clip(np.asarray(smooth), 0, 1) * 255).astype(np.uint8)
    gray = seen.mean(axis=2, dtype=np.float32).repeat(zoom, axis=0).repeat(zoom, axis=1)
    colour, share = _scale()
    return np.rint(gray[:, :, None] * (1 - share[level]) + colour[level]).astype(np.uint8)


def _scale() -> tuple[np.ndarray, np.ndarray]:
    """Return for each of 256 levels the colour, times its share, and the share that it has; the picture has the rest.

    From dark red through orange to yellow: brighter with the level, so that it can be read without colour vision.
    """
    level = np.linspace(0, 1, 256, dtype=np.float32)
    red, green, blue = (np.interp(level, (0, 0.5, 1), stops) for stops in ((90, 213, 255), (0, 94, 225), (20, 0, 90)))
    share = (0.75 * level**0.7)[:, None]
    return np.stack([red, green, blue], axis=1).astype(np.float32) * share, share


def encode(pixels: np.ndarray, kind: str) -> bytes:
    """Return a picture as a file.

    Parameters
    ----------
    pixels : ndarray of shape (H, W, 1 or 3)
        uint8.
    kind : {"png", "jpeg"}

    Returns
    -------
    bytes
    """
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, kind, quality=85)
    return file.getvalue()
