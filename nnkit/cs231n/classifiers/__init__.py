"""The models of the assignments."""

from nnkit.cs231n.classifiers.k_nearest_neighbor import KNearestNeighbor
from nnkit.cs231n.classifiers.linear_classifier import LinearClassifier, LinearSVM, Softmax

__all__ = ["KNearestNeighbor", "LinearClassifier", "LinearSVM", "Softmax"]
