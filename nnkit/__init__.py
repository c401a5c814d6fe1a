"""Train image classifiers from scratch on a plain CPU, with code that a student can read in an afternoon."""

from nnkit import data, functional, initializers, layers, metrics, models, optim
from nnkit._ext import get_num_threads, set_num_threads
from nnkit.checkpoint import load_model, save_model
from nnkit.data import Augment, Dataset
from nnkit.functional.conv import get_conv_algorithm, set_conv_algorithm
from nnkit.history import History
from nnkit.models import Model, Residual, Sequential
from nnkit.solver import Solver

__version__ = "0.1.0"

__all__ = [
    "Augment",
    "Dataset",
    "History",
    "Model",
    "Residual",
    "Sequential",
    "Solver",
    "data",
    "functional",
    "get_conv_algorithm",
    "get_num_threads",
    "initializers",
    "layers",
    "load_model",
    "metrics",
    "models",
    "optim",
    "save_model",
    "set_conv_algorithm",
    "set_num_threads",
]
