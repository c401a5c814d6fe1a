"""Models as trees of plain data, for checkpoints."""

from typing import Any

from nnkit import layers
from nnkit.errors import CheckpointError
from nnkit.layers import Layer
from nnkit.models.base import Model
from nnkit.models.containers import Residual, Sequential, layer_config

_TYPES: dict[str, type[Layer]] = {
    name: kind
    for name in layers.__all__
    if isinstance(kind := getattr(layers, name), type) and issubclass(kind, Layer) and kind is not Layer
}


def model_to_config(model: Model) -> dict[str, Any]:
    """Describe a model's architecture, ready for JSON.

    Parameters
    ----------
    model : Model

    Returns
    -------
    dict

    Examples
    --------
    >>> from nnkit.layers import Linear
    >>> model_to_config(Sequential({"fc": Linear(10)}))["layers"]["fc"]["type"]
    'Linear'
    """
    return layer_config(model)


def model_from_config(config: dict[str, Any]) -> Model:
    """Make the unbuilt model that a tree describes.

    Parameters
    ----------
    config : dict
        From `model_to_config`.

    Returns
    -------
    Model

    Raises
    ------
    CheckpointError
        If it is no such tree, or names a layer that nnkit does not have.

    Examples
    --------
    >>> model_from_config({"type": "Sequential", "layers": {"fc": {"type": "Linear", "out_features": 10}}})
    Sequential(fc: Linear(10))
    """
    try:
        model = _layer(config, "model")
    except RecursionError as error:
        raise CheckpointError("model: expected layers in layers to end somewhere, got too many levels") from error
    if not isinstance(model, Model):
        raise CheckpointError(f"model: expected a Sequential or Residual, got {type(model).__name__}")
    return model


def _layer(config: Any, where: str) -> Layer:
    if not isinstance(config, dict) or not isinstance(config.get("type"), str):
        raise CheckpointError(f"{where}: expected the description of a layer, with its type, got {str(config)[:60]!r}")
    kind = config["type"]
    arguments = {key: value for key, value in config.items() if key not in ("type", "frozen")}
    try:
        if kind == "Sequential":
            return Sequential({name: _layer(part, f"{where}.{name}") for name, part in arguments["layers"].items()})
        if kind == "Residual":
            parts = {key: value and _layer(value, f"{where}.{key}") for key, value in arguments.items()}
            return Residual(**parts)
        if kind in _TYPES:
            layer = _TYPES[kind](**arguments)
            layer.frozen = config.get("frozen", False)
            return layer
    except CheckpointError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{where}: expected the settings of a {kind}, got {str(arguments)[:80]}: {error}"
        ) from error
    raise CheckpointError(f"{where}: unknown layer type {kind!r}; expected one of {', '.join(sorted(_TYPES))}")
