"""What a model says about labelled images, and the figures that follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nnkit import data, metrics
from nnkit.data import Dataset
from nnkit.models import Model


@dataclass(frozen=True)
class Evaluation:
    """What a model says about labelled images.

    Parameters
    ----------
    labels : ndarray of shape (N,)
    probabilities : ndarray of shape (N, classes)
    class_names : sequence of str
    """

    labels: np.ndarray
    probabilities: np.ndarray
    class_names: Sequence[str]

    @property
    def accuracy(self) -> float:
        """The share of images whose likeliest class is the right one."""
        return metrics.accuracy(self.labels, self.probabilities.argmax(axis=1))

    @property
    def matrix(self) -> np.ndarray:
        """The confusion matrix of shape (classes, classes): true classes in rows, predicted ones in columns."""
        return metrics.confusion_matrix(self.labels, self.probabilities.argmax(axis=1), len(self.class_names))

    def figures(self) -> dict[str, Any]:
        """Return accuracy, cross-entropy, calibration, macro averages and each class's scores, ready for JSON.

        Returns
        -------
        dict
        """
        scores = metrics.precision_recall_f1(self.matrix)
        given_to_truth = self.probabilities[np.arange(len(self.labels)), self.labels]
        columns = zip(self.class_names, scores.precision, scores.recall, scores.f1, scores.support, strict=True)
        return {
            "test_images": len(self.labels),
            "test_accuracy": self.accuracy,
            "test_loss": float(-np.log(np.maximum(given_to_truth, 1e-30, dtype=np.float64)).mean()),
            **self._calibration(),
            "macro_precision": scores.macro_precision,
            "macro_recall": scores.macro_recall,
            "macro_f1": scores.macro_f1,
            "class_names": list(self.class_names),
            "confusion_matrix": self.matrix.tolist(),
            "classes": [
                {"name": name, "precision": float(p), "recall": float(r), "f1": float(f1), "support": int(n)}
                for name, p, r, f1, n in columns
            ],
        }

    def _calibration(self) -> dict[str, Any]:
        """Return how sure the model is next to how often it is right; nothing where its answers are no numbers."""
        if not np.isfinite(self.probabilities).all():
            return {}
        found = metrics.reliability(self.labels, self.probabilities)
        bins = zip(found.edges, found.edges[1:], found.count, found.confidence, found.accuracy, strict=False)
        return {
            "mean_confidence": float(self.probabilities.max(axis=1).mean(dtype=np.float64)),
            "calibration_error": found.error,
            "calibration_error_by_chance": found.error_by_chance,
            "reliability": [
                {"from": float(low), "to": float(high), "images": int(n), "confidence": float(c), "accuracy": float(a)}
                for low, high, n, c, a in bins
                if n
            ],
        }


def evaluate_model(
    model: Model, dataset: Dataset, normalize: tuple[ArrayLike, ArrayLike] | None, label: str | None = "test"
) -> Evaluation:
    """Run a model over a data set; on a terminal, a bar tells how far it is.

    Parameters
    ----------
    model : Model
    dataset : Dataset
    normalize : pair of array_like of shape (C,), or None
        Mean and standard deviation, as in training.
    label : str, optional
        What the bar calls the images; None for no bar. "test" by default.

    Returns
    -------
    Evaluation
    """
    from tqdm import tqdm

    look = {"desc": label, "unit": " images", "unit_scale": True, "dynamic_ncols": True, "leave": False}
    parts = []
    with tqdm(
        total=len(dataset), disable=True if label is None else None, **look
    ) as bar:  # None: where stderr is no terminal
        for x, _ in data.batches(dataset, 250, normalize=normalize):
            parts.append(model.predict_proba(x))
            bar.update(len(x))
    return Evaluation(dataset.labels, np.concatenate(parts), dataset.class_names)
