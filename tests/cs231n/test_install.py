"""The alias: `cs231n` is `nnkit.cs231n`, module by module, and star imports carry what notebooks take for granted."""

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import nnkit
import nnkit.cs231n
from nnkit.errors import UsageError

LAYERS = [
    "affine_forward", "affine_backward", "relu_forward", "relu_backward", "svm_loss", "softmax_loss",
    "batchnorm_forward", "batchnorm_backward", "batchnorm_backward_alt", "layernorm_forward", "layernorm_backward",
    "dropout_forward", "dropout_backward", "conv_forward_naive", "conv_backward_naive", "max_pool_forward_naive",
    "max_pool_backward_naive", "spatial_batchnorm_forward", "spatial_batchnorm_backward", "spatial_groupnorm_forward",
    "spatial_groupnorm_backward",
]  # fmt: skip
FAST = [
    "conv_forward_fast", "conv_backward_fast", "conv_forward_im2col", "conv_backward_im2col", "conv_forward_strides",
    "conv_backward_strides", "max_pool_forward_fast", "max_pool_backward_fast", "max_pool_forward_reshape",
    "max_pool_backward_reshape", "max_pool_forward_im2col", "max_pool_backward_im2col",
]  # fmt: skip
SANDWICHES = [
    "affine_relu_forward", "affine_relu_backward", "conv_relu_forward", "conv_relu_backward", "conv_bn_relu_forward",
    "conv_bn_relu_backward", "conv_relu_pool_forward", "conv_relu_pool_backward",
]  # fmt: skip
NAMES = {
    "layers": LAYERS,
    "fast_layers": FAST,
    "layer_utils": LAYERS + FAST + SANDWICHES,
    "classifiers.fc_net": [*LAYERS, *FAST, *SANDWICHES, "TwoLayerNet", "FullyConnectedNet"],
    "classifiers.cnn": [*LAYERS, *FAST, *SANDWICHES, "ThreeLayerConvNet"],
    "classifiers": ["KNearestNeighbor", "LinearSVM", "Softmax", "LinearClassifier"],
    "classifiers.linear_classifier": ["LinearSVM", "Softmax", "LinearClassifier"],
    "classifiers.linear_svm": ["svm_loss_naive", "svm_loss_vectorized"],
    "classifiers.softmax": ["softmax_loss_naive", "softmax_loss_vectorized"],
    "classifiers.neural_net": ["TwoLayerNet"],
    "classifiers.k_nearest_neighbor": ["KNearestNeighbor"],
    "im2col": ["get_im2col_indices", "im2col_indices", "col2im_indices"],
    "im2col_cython": ["im2col_cython", "col2im_cython", "col2im_6d_cython"],
    "optim": ["sgd", "sgd_momentum", "rmsprop", "adam"],
    "solver": ["Solver"],
    "gradient_check": [
        "eval_numerical_gradient", "eval_numerical_gradient_array", "eval_numerical_gradient_blobs",
        "eval_numerical_gradient_net", "grad_check_sparse",
    ],
    "vis_utils": ["visualize_grid", "vis_grid", "vis_nn"],
    "features": ["extract_features", "hog_feature", "color_histogram_hsv", "rgb2gray"],
    "data_utils": [
        "load_pickle", "load_CIFAR_batch", "load_CIFAR10", "get_CIFAR10_data", "load_tiny_imagenet", "load_models",
        "load_imagenet_val",
    ],
}  # fmt: skip


@pytest.mark.parametrize("module", NAMES)
def test_star_imports(module):
    namespace = {}
    exec(f"from cs231n.{module} import *", namespace)
    assert set(NAMES[module]) <= set(namespace)


def test_both_names_are_the_same_modules():
    for module in pkgutil.walk_packages(nnkit.cs231n.__path__, "nnkit.cs231n."):
        assert sys.modules[module.name.removeprefix("nnkit.")] is sys.modules[module.name]
    assert sys.modules["cs231n"] is nnkit.cs231n


# What notebooks of all editions begin with.
FIRST_CELL = """
import numpy as np
import nnkit.cs231n
nnkit.cs231n.install()
from cs231n.classifiers.fc_net import *
from cs231n.classifiers.cnn import *
from cs231n.data_utils import get_CIFAR10_data, load_CIFAR10
from cs231n.gradient_check import eval_numerical_gradient, eval_numerical_gradient_array, grad_check_sparse
from cs231n.solver import Solver
from cs231n.fast_layers import *
from cs231n.vis_utils import visualize_grid
from cs231n.features import *
from cs231n.classifiers import KNearestNeighbor
from cs231n.classifiers.softmax import softmax_loss_naive
import cs231n.layers, cs231n.optim
import time
assert cs231n.layers.affine_forward is affine_forward
assert cs231n.layers is nnkit.cs231n.layers
"""


def test_the_first_cell_in_a_fresh_interpreter(tmp_path):
    """Also with the course's own package lying in the working directory, where notebooks are started."""
    (tmp_path / "cs231n").mkdir()
    (tmp_path / "cs231n" / "__init__.py").write_text("raise ImportError('the other package')")
    root = str(Path(nnkit.__file__).parents[1])
    code = f"import sys; sys.path.insert(1, {root!r})\n{FIRST_CELL}\nassert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=tmp_path)


def test_importing_nnkit_does_not_import_the_course():
    code = "import sys, nnkit; assert 'nnkit.cs231n' not in sys.modules"
    root = Path(nnkit.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_nothing_of_nnkit_stands_on_the_course():
    package = Path(nnkit.__file__).parent
    for path in package.rglob("*.py"):
        if "cs231n" in path.relative_to(package).parts:
            continue
        imports = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.ImportFrom)]
        assert not [node for node in imports if "cs231n" in (node.module or "")], path


def test_only_known_editions():
    with pytest.raises(UsageError, match="2017 to 2025"):
        nnkit.cs231n.install(edition=2016)
