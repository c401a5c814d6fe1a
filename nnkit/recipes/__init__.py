"""Recipes: a model, data, optimizer and schedule with a name, one for every published result.

A recipe is a TOML file. `nnkit train NAME` trains one, `nnkit train mine.toml` one of your own; an unknown key or a
value of the wrong type is refused before anything is loaded.
"""

from nnkit.recipes.recipe import (
    DataSettings,
    Recipe,
    SearchSettings,
    TrainingSettings,
    TransferSettings,
    load,
    names,
    source,
)

__all__ = [
    "DataSettings",
    "Recipe",
    "SearchSettings",
    "TrainingSettings",
    "TransferSettings",
    "load",
    "names",
    "source",
]
