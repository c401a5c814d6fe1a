"""Comparisons: recipes, finished runs, or the variants of one recipe, side by side on the same images."""

from nnkit.compare.results import Comparison, Contestant, Pair, Training
from nnkit.compare.run import compare

__all__ = ["Comparison", "Contestant", "Pair", "Training", "compare"]
