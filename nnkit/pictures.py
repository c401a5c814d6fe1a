"""The pictures of a run folder: which there are, and what each is drawn from."""

import contextlib
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from nnkit import data, explain, plots
from nnkit.data import Dataset
from nnkit.evaluation import Evaluation
from nnkit.files import atomic_path
from nnkit.history import History
from nnkit.models import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLE = "example.png"
MANY_CLASSES, SHOWN_CLASSES = 40, 20  # of more than the former, the plane of features shows the worst of the latter

_EXPLAINED = 6  # images; half of them mistakes, where there are so many
_PLACES = 50  # that occlusion covers in each, about
_POINTS = 2000  # images in the plane of features
_EFFORT = 4e11  # floating-point operations for any picture, some seconds; of larger nets, it shows fewer images


def draw(
    folder: Path,
    model: Model,
    history: History,
    test: Dataset,
    evaluation: Evaluation,
    normalize: tuple[ArrayLike, ArrayLike] | None = None,
) -> None:
    """Write the pictures, and the first test image as a file to try `nnkit predict` with.

    A picture that is not drawn this time, such as one of convolutions where there are none, is removed if it is there.

    Parameters
    ----------
    folder : path
        The run's.
    model : Model
        With the weights that were kept.
    history : History
    test : Dataset
    evaluation : Evaluation
        Of that model on that data.
    normalize : pair of array_like of shape (C,), or None
        Mean and standard deviation, as in training.
    """
    from PIL import Image

    names, answers = test.class_names, (test.images, test.labels, evaluation.probabilities, test.class_names)
    drawings: dict[str, Callable[[], Figure | None]] = {
        "training_curves": lambda: plots.training_curves(history),
        "learning_rate": lambda: plots.learning_rate(history),
        "gradient_norms": lambda: plots.gradient_norms(history),
        "confusion_matrix": lambda: plots.confusion_matrix(evaluation.matrix, names),
        "class_scores": lambda: plots.class_scores(evaluation.matrix, names),
        "reliability": lambda: plots.reliability(test.labels, evaluation.probabilities),
        "predictions": lambda: plots.predictions(*answers),
        "misclassified": lambda: plots.misclassified(*answers),
        "hardest_right": lambda: plots.hardest_right(*answers),
        "explanations": lambda: _explanations(model, test, evaluation, normalize),
        "filters": lambda: _filters(model, test),
        "feature_maps": lambda: _feature_maps(model, test, normalize),
        "feature_plane": lambda: _feature_plane(model, test, evaluation, normalize),
    }
    for name, drawing in drawings.items():
        figure = drawing()
        if figure is None:
            (folder / f"{name}.png").unlink(missing_ok=True)
        else:
            plots.save(figure, folder / f"{name}.png")
    with atomic_path(folder / EXAMPLE) as path:
        image = test.images[0]
        Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(path)


def _explanations(
    model: Model, test: Dataset, evaluation: Evaluation, normalize: tuple[ArrayLike, ArrayLike] | None
) -> "Figure | None":
    """Draw what the answers to some images rest on: the surest mistakes, and right ones of different classes."""
    chosen = _some_of_each(evaluation, max(1, _affordable(model, _EXPLAINED * _PLACES) // _PLACES))
    shown = test[chosen]
    x = _batch(shown, normalize)
    maps = {}
    with contextlib.suppress(ValueError):  # there may be no convolution
        maps["Grad-CAM"] = explain.grad_cam(model, x)
    maps["occlusion"] = explain.occlusion(model, x)
    return plots.explanations(shown.images, maps, shown.labels, evaluation.probabilities[chosen], test.class_names)


def _some_of_each(evaluation: Evaluation, count: int) -> np.ndarray:
    """Return the indices of `count` images: the most confident mistakes, then right ones, each of another class."""
    confidence, said = evaluation.probabilities.max(axis=1), evaluation.probabilities.argmax(axis=1)
    wrong, right = (np.flatnonzero(mask) for mask in (said != evaluation.labels, said == evaluation.labels))
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    _, firsts = np.unique(said[right], return_index=True)  # the first image of each class
    right = np.concatenate([right[np.sort(firsts)], np.delete(right, firsts)])
    mistakes = min(len(wrong), max(count // 2, count - len(right)))
    return np.concatenate([wrong[:mistakes], right[: count - mistakes]])


def _filters(model: Model, test: Dataset) -> "Figure | None":
    """Draw the first weights that see images; the very first parameters may be a batch norm's."""
    for weight in model.named_parameters().values():
        if weight.ndim == 4 or (weight.ndim == 2 and weight.shape[1] == math.prod(test.image_shape)):
            return plots.filters(weight, input_shape=test.image_shape, class_names=test.class_names)
    return None


def _feature_maps(model: Model, test: Dataset, normalize: tuple[ArrayLike, ArrayLike] | None) -> "Figure | None":
    try:
        maps = explain.feature_maps(model, _batch(test[:1], normalize))
    except ValueError:  # there is no convolution
        return None
    return plots.feature_maps(maps[0], test.images[0], layer="the first convolution")


def _feature_plane(
    model: Model, test: Dataset, evaluation: Evaluation, normalize: tuple[ArrayLike, ArrayLike] | None
) -> "Figure | None":
    """Draw test images by what the last layer sees of them, with scikit-learn; of many classes the worst."""
    if find_spec("sklearn") is None:
        return None
    names, labels, chosen = test.class_names, test.labels, np.arange(len(test))
    if len(names) > MANY_CLASSES:
        worst = _most_mistaken(evaluation.matrix)
        names, chosen = [names[i] for i in worst], np.flatnonzero(np.isin(labels, worst))
        labels = np.searchsorted(worst, labels)
    if len(chosen) < 2:
        return None
    count = min(_affordable(model, _POINTS), len(chosen))
    # Spread evenly, as data sets may be sorted by class.
    chosen = chosen[np.linspace(0, len(chosen) - 1, count).round().astype(int)]
    try:
        features = explain.penultimate_features(model, data.batches(test[chosen], 250, normalize=normalize))
        points = explain.embed(features)
    except ValueError:  # there is no linear layer
        return None
    return plots.feature_plane(points, labels[chosen], names)


def _most_mistaken(matrix: np.ndarray) -> np.ndarray:
    """Return the classes with the most mistakes, in their order; of equal ones those with more images."""
    support = matrix.sum(axis=1)
    return np.sort(np.lexsort((-support, matrix.diagonal() - support))[:SHOWN_CLASSES])


def _affordable(model: Model, most: int) -> int:
    """Return how many images may be asked for, of `most` at least a tenth."""
    flops = sum(leaf.flops() for leaf in model.leaves())
    return int(np.clip(_EFFORT / max(flops, 1), most / 10, most))


def _batch(images: Dataset, normalize: tuple[ArrayLike, ArrayLike] | None) -> np.ndarray:
    x, _ = next(iter(data.batches(images, len(images), normalize=normalize)))
    return x
