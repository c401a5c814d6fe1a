"""Models: containers of layers, and a zoo of known networks."""

from nnkit.models.base import Model
from nnkit.models.config import model_from_config, model_to_config
from nnkit.models.containers import Residual, Sequential
from nnkit.models.zoo import MODELS, cnn, convnet, create, mlp, resnet18, vgg

__all__ = [
    "MODELS",
    "Model",
    "Residual",
    "Sequential",
    "cnn",
    "convnet",
    "create",
    "mlp",
    "model_from_config",
    "model_to_config",
    "resnet18",
    "vgg",
]
