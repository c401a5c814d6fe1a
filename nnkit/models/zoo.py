"""Networks by name. Each function returns an unbuilt model; `create` finds them by name."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from nnkit import layers
from nnkit.errors import UsageError, did_you_mean
from nnkit.layers import (
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
)
from nnkit.models.containers import Residual, Sequential

_ACTIVATIONS: dict[str, Callable[[], Layer]] = {
    "relu": layers.ReLU,
    "leaky_relu": layers.LeakyReLU,
    "gelu": layers.GELU,
    "silu": layers.SiLU,
    "sigmoid": layers.Sigmoid,
    "tanh": layers.Tanh,
}
_DEFAULT = "torch_default_weight"


def mlp(
    num_classes: int,
    *,
    hidden: Sequence[int] = (512,),
    depth: int = 1,
    activation: str = "relu",
    batch_norm: bool = False,
    dropout: float = 0.0,
    weight_init: str = _DEFAULT,
) -> Sequential:
    """Fully connected layers: flatten, then linear – (batch norm) – activation – (dropout) for each hidden layer.

    Parameters
    ----------
    num_classes : int
    hidden : sequence of int, default (512,)
        Sizes of the hidden layers.
    depth : int, default 1
        How many layers there are of each size.
    activation : str, default "relu"
        relu, leaky_relu, gelu, silu, sigmoid or tanh.
    batch_norm : bool, default False
    dropout : float, default 0
    weight_init : str, default PyTorch's
        A name from `nnkit.initializers`.

    Returns
    -------
    Sequential

    Examples
    --------
    >>> model = mlp(3, hidden=(128, 64))
    >>> model.build((3, 32, 32))
    (3,)
    >>> model.num_parameters
    401795
    """
    if depth < 1:
        raise UsageError(f"mlp: expected depth >= 1, got {depth}")
    net: dict[str, Layer] = {"flatten": Flatten()}
    sizes = [size for size in hidden for _ in range(depth)]
    for i, size in enumerate(sizes, 1):
        net[f"fc{i}"] = Linear(size, weight_init=weight_init)
        if batch_norm:
            net[f"bn{i}"] = BatchNorm()
        net[f"act{i}"] = _activation(activation)
        if dropout:
            net[f"drop{i}"] = Dropout(dropout)
    net[f"fc{len(sizes) + 1}"] = Linear(num_classes, weight_init=weight_init)
    return Sequential(net)


def convnet(
    num_classes: int,
    *,
    filters: int = 32,
    kernel_size: int = 7,
    hidden: int = 100,
    dropout: float = 0.0,
    batch_norm: bool = False,
    weight_init: str = _DEFAULT,
) -> Sequential:
    """Three layers, as in Stanford's course CS231n: convolution – ReLU – 2×2 max pool – linear – ReLU – linear.

    Parameters
    ----------
    num_classes : int
    filters : int, default 32
    kernel_size : int, default 7
        Odd, so that padding keeps the image's size.
    hidden : int, default 100
    dropout : float, default 0
        Before the last layer.
    batch_norm : bool, default False
        After the convolution and after the first linear layer.
    weight_init : str, default PyTorch's

    Returns
    -------
    Sequential

    Examples
    --------
    >>> model = convnet(10)
    >>> model.build((3, 32, 32)), model.num_parameters
    ((10,), 825046)
    """
    if kernel_size % 2 == 0:
        raise UsageError(f"convnet: expected an odd kernel_size, got {kernel_size}")
    padding = kernel_size // 2
    net: dict[str, Layer] = {"conv1": Conv2d(filters, kernel_size, padding=padding, weight_init=weight_init)}
    if batch_norm:
        net["bn1"] = BatchNorm()
    net |= {
        "relu1": ReLU(),
        "pool1": MaxPool2d(2),
        "flatten": Flatten(),
        "fc1": Linear(hidden, weight_init=weight_init),
    }
    if batch_norm:
        net["bn2"] = BatchNorm()
    net["relu2"] = ReLU()
    if dropout:
        net["drop"] = Dropout(dropout)
    net["fc2"] = Linear(num_classes, weight_init=weight_init)
    return Sequential(net)


def cnn(num_classes: int, *, dropout: float = 0.5, weight_init: str = _DEFAULT) -> Sequential:
    """Two convolutions with batch norm and two linear layers: 6,447,754 parameters for ten classes of 32×32 RGB.

    Parameters
    ----------
    num_classes : int
    dropout : float, default 0.5
        Before the last layer.
    weight_init : str, default PyTorch's

    Returns
    -------
    Sequential

    Examples
    --------
    >>> model = cnn(10)
    >>> model.build((3, 32, 32)), model.num_parameters
    ((10,), 6447754)
    """
    return Sequential(
        {
            "conv1": Conv2d(32, 3, weight_init=weight_init),
            "relu1": ReLU(),
            "bn1": BatchNorm(),
            "conv2": Conv2d(64, 3, weight_init=weight_init),
            "relu2": ReLU(),
            "pool": MaxPool2d(2),
            "bn2": BatchNorm(),
            "flatten": Flatten(),
            "fc1": Linear(512, weight_init=weight_init),
            "relu3": ReLU(),
            "drop": Dropout(dropout),
            "fc2": Linear(num_classes, weight_init=weight_init),
        }
    )


def vgg(
    num_classes: int,
    *,
    widths: Sequence[int] = (32, 64, 128),
    depth: int = 1,
    hidden: int = 0,
    batch_norm: bool = True,
    dropout: float = 0.0,
    weight_init: str = _DEFAULT,
) -> Sequential:
    """Stages of 3×3 convolutions, each ended by a 2×2 max pool; then a global average, or a hidden linear layer.

    After Simonyan and Zisserman, 2014: Very Deep Convolutional Networks for Large-Scale Image Recognition.

    Parameters
    ----------
    num_classes : int
    widths : sequence of int, default (32, 64, 128)
        Channels of each stage.
    depth : int, default 1
        Convolutions in a stage.
    hidden : int, default 0
        The size of a linear layer on the flattened last maps; 0 averages each map instead.
    batch_norm : bool, default True
        After each convolution, which then has no bias.
    dropout : float, default 0
        Before the last layer.
    weight_init : str, default PyTorch's

    Returns
    -------
    Sequential

    Examples
    --------
    >>> model = vgg(10)
    >>> model.build((3, 32, 32)), model.num_parameters
    ((10,), 94762)
    """
    if depth < 1 or not widths:
        raise UsageError(f"vgg: expected at least one width and depth >= 1, got {list(widths)} and {depth}")
    net: dict[str, Layer] = {}
    for i, width in enumerate(widths, 1):
        for j in range(1, depth + 1):
            place = f"{i}" if depth == 1 else f"{i}_{j}"
            net[f"conv{place}"] = Conv2d(width, 3, padding=1, bias=not batch_norm, weight_init=weight_init)
            if batch_norm:
                net[f"bn{place}"] = BatchNorm()
            net[f"relu{place}"] = ReLU()
        net[f"pool{i}"] = MaxPool2d(2)
    if hidden:
        net |= {"flatten": Flatten(), "fc1": Linear(hidden, weight_init=weight_init), "relu_fc1": ReLU()}
    else:
        net["average"] = GlobalAvgPool2d()
    if dropout:
        net["drop"] = Dropout(dropout)
    net["fc"] = Linear(num_classes, weight_init=weight_init)
    return Sequential(net)


def resnet18(
    num_classes: int, *, widths: Sequence[int] = (64, 128, 256, 512), weight_init: str = _DEFAULT
) -> Sequential:
    """Eight residual blocks of two 3×3 convolutions, with a 3×3 stem for small images.

    11,173,962 parameters for ten classes. He et al., 2016: Deep Residual Learning for Image Recognition.

    Parameters
    ----------
    num_classes : int
    widths : sequence of int, default (64, 128, 256, 512)
        Channels of the four stages; each but the first halves the image.
    weight_init : str, default PyTorch's

    Returns
    -------
    Sequential

    Examples
    --------
    >>> model = resnet18(10, widths=(8, 16, 32, 64))
    >>> model.build((3, 32, 32)), model.num_parameters
    ((10,), 176402)
    """
    if not widths:
        raise UsageError("resnet18: expected at least one width")
    net: dict[str, Layer] = {
        "conv1": Conv2d(widths[0], 3, padding=1, bias=False, weight_init=weight_init),
        "bn1": BatchNorm(),
        "relu": ReLU(),
    }
    before = widths[0]
    for i, width in enumerate(widths, 1):
        first = _block(before, width, 1 if i == 1 else 2, weight_init)
        net[f"layer{i}"] = Sequential(first, _block(width, width, 1, weight_init))
        before = width
    net |= {"average": GlobalAvgPool2d(), "linear": Linear(num_classes, weight_init=weight_init)}
    return Sequential(net)


MODELS: dict[str, Callable[..., Sequential]] = {
    "mlp": mlp,
    "convnet": convnet,
    "cnn": cnn,
    "vgg": vgg,
    "resnet18": resnet18,
}


def create(name: str, num_classes: int, **options: Any) -> Sequential:
    """Make an unbuilt model by its name.

    Parameters
    ----------
    name : str
        mlp, convnet, cnn, vgg or resnet18.
    num_classes : int
    **options
        Those of the function of this name.

    Returns
    -------
    Sequential

    Raises
    ------
    UsageError
        If the name or an option is unknown, with the nearest known one, or if a value does not fit.

    Examples
    --------
    >>> create("mlp", 10, hidden=[256])
    Sequential(flatten: Flatten(), fc1: Linear(256), act1: ReLU(), fc2: Linear(10))
    """
    if name not in MODELS:
        raise UsageError(f"unknown model {name!r}{did_you_mean(name, MODELS)}")
    known = {key: parameter.default for key, parameter in inspect.signature(MODELS[name]).parameters.items()}
    del known["num_classes"]
    for option, value in options.items():
        if option not in known:
            raise UsageError(f"model {name}: unknown option {option!r}{did_you_mean(option, known)}")
        if not _fits(value, known[option]):
            raise UsageError(f"model {name}: expected {option} to be like {known[option]!r}, got {value!r}")
    return MODELS[name](num_classes, **options)


def _fits(value: Any, default: Any) -> bool:
    """Whether a value has the type of an option's default; a list may stand for a tuple, an integer for a float."""
    if isinstance(default, tuple):
        return isinstance(value, (list, tuple)) and all(_fits(item, default[0]) for item in value)
    kinds = {float: (float, int)}.get(type(default), (type(default),))
    return isinstance(value, kinds) and isinstance(value, bool) == isinstance(default, bool)


def _block(before: int, width: int, stride: int, weight_init: str) -> Residual:
    main = Sequential(
        {
            "conv1": Conv2d(width, 3, stride=stride, padding=1, bias=False, weight_init=weight_init),
            "bn1": BatchNorm(),
            "relu": ReLU(),
            "conv2": Conv2d(width, 3, padding=1, bias=False, weight_init=weight_init),
            "bn2": BatchNorm(),
        }
    )
    if stride == 1 and before == width:
        return Residual(main, activation=ReLU())
    shortcut = Sequential(Conv2d(width, 1, stride=stride, bias=False, weight_init=weight_init), BatchNorm())
    return Residual(main, shortcut, ReLU())


def _activation(name: str) -> Layer:
    if name not in _ACTIVATIONS:
        raise UsageError(f"unknown activation {name!r}{did_you_mean(name, _ACTIVATIONS)}")
    return _ACTIVATIONS[name]()
