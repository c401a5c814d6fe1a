"""Hyperparameter search with Optuna: `search` runs one, `cross_validate` judges a single recipe."""

from nnkit.folds import CrossValidation, Fold, cross_validate
from nnkit.search.results import SearchResult, TrialResult
from nnkit.search.run import search

__all__ = ["CrossValidation", "Fold", "SearchResult", "TrialResult", "cross_validate", "search"]
