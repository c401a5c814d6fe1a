"""Layers: objects that own parameters and call `nnkit.functional`. Sizes of inputs are inferred when they are built."""

from nnkit.layers.activation import GELU, LeakyReLU, ReLU, Sigmoid, SiLU, Softmax, Tanh
from nnkit.layers.base import Layer
from nnkit.layers.conv import Conv2d
from nnkit.layers.dropout import Dropout
from nnkit.layers.flatten import Flatten
from nnkit.layers.linear import Linear
from nnkit.layers.loss import BCEWithLogitsLoss, CrossEntropyLoss, Loss, MSELoss, MultiMarginLoss, PoissonNLLLoss
from nnkit.layers.norm import BatchNorm, GroupNorm, LayerNorm
from nnkit.layers.pool import AvgPool2d, GlobalAvgPool2d, MaxPool2d

__all__ = [
    "GELU",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm",
    "Conv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "GroupNorm",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "Loss",
    "MSELoss",
    "MaxPool2d",
    "MultiMarginLoss",
    "PoissonNLLLoss",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
]
