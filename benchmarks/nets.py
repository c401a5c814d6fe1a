"""The six networks of the comparisons, each written once, and the images that they are trained on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnkit import Sequential, data, models
from nnkit.layers import GELU, BatchNorm, Conv2d, Dropout, Flatten, Layer, Linear, MaxPool2d
from nnkit.optim import SGD, Adam, Optimizer

COUNT = 50_000  # images, as many as CIFAR-10 trains on
SIDE, CHANNELS = 32, 3
FREEZES = hasattr(Sequential, "freeze")  # where nnkit cannot, both sides train every layer
MEAN, STD = (0.48, 0.49, 0.45), (0.25, 0.24, 0.26)


@dataclass(frozen=True)
class Net:
    """A network and how it is trained: PyTorch's names for the optimizer and its settings are nnkit's, too."""

    title: str
    make: Callable[[], Sequential]
    optimizer: str
    settings: dict[str, Any]
    batch: int
    must: float  # how many times faster than PyTorch a training step has to be, and how many it aims to be
    aim: float
    classes: int = 10
    frozen: str = ""  # name of a layer that is not trained
    tolerance: float = 1e-4  # of the losses of the first step, relative

    @property
    def images(self) -> bool:
        """Whether it has layers that care for how images lie in memory."""
        return any(isinstance(leaf, Conv2d) for leaf in self.make().leaves())

    def model(self, dropout: bool = True) -> Sequential:
        """Return the network with its weights, the same ones every time."""
        model = self.make()
        for leaf in model.leaves():
            if isinstance(leaf, Dropout) and not dropout:
                leaf.p = 0.0
        model.build((CHANNELS, SIDE, SIDE), seed=0)
        if self.frozen and FREEZES:
            model.freeze(self.frozen)
        return model

    def nnkit_optimizer(self) -> Optimizer:
        rules: dict[str, Callable[..., Optimizer]] = {"Adam": Adam, "SGD": SGD}
        return rules[self.optimizer](**self.settings)

    def torch_module(self, dropout: bool = True) -> Any:
        """Return the same network with the same weights, of PyTorch's modules, ready to be trained."""
        from nnkit.interop.torch import to_torch

        module = to_torch(self.model(dropout)).train()
        if self.frozen and FREEZES:
            module.get_submodule(self.frozen).requires_grad_(False)
        return module

    def torch_optimizer(self, module: Any, fused: bool) -> Any:
        import torch

        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        return getattr(torch.optim, self.optimizer)(trained, **self.settings, fused=fused or None)


def speedrun() -> Sequential:
    """The net that reaches 94 % on CIFAR-10 within seconds on a GPU, after Jordan, 2024.

    *94% on CIFAR-10 in 3.29 Seconds on a Single GPU*, without its scaling of the outputs.
    """
    net: dict[str, Layer] = {"whiten": Conv2d(24, 2), "gelu": GELU()}
    for i, width in enumerate((64, 256, 256), 1):
        net[f"conv{i}_1"] = Conv2d(width, 3, padding=1, bias=False)
        net[f"pool{i}"] = MaxPool2d(2)
        net |= {f"bn{i}_1": BatchNorm(), f"gelu{i}_1": GELU()}
        net[f"conv{i}_2"] = Conv2d(width, 3, padding=1, bias=False)
        net |= {f"bn{i}_2": BatchNorm(), f"gelu{i}_2": GELU()}
    return Sequential({**net, "pool": MaxPool2d(3), "flatten": Flatten(), "fc": Linear(10)})


NETS = {
    "mlp": Net(
        "MLP 3072-512-10", lambda: models.mlp(10, hidden=(512,)), "Adam", {"lr": 3e-4}, batch=64, must=1.9, aim=3.0
    ),
    "mlp3": Net(
        "MLP 3072-128-64-3",
        lambda: models.mlp(3, hidden=(128, 64)),
        "SGD",
        {"lr": 0.01},
        batch=64,
        must=1.7,
        aim=2.7,
        classes=3,
    ),
    "convnet": Net(
        "three-layer course net",
        lambda: models.convnet(10),
        "Adam",
        {"lr": 1e-3, "weight_decay": 1e-4},
        batch=64,
        must=1.9,
        aim=2.9,
    ),
    "cnn": Net(
        "cifar10-cnn",
        lambda: models.cnn(10),
        "Adam",
        {"lr": 1e-3, "weight_decay": 1e-4},
        batch=64,
        must=1.85,
        aim=2.9,
    ),
    "speedrun": Net(
        "94% net",
        speedrun,
        "SGD",
        {"lr": 0.05, "momentum": 0.85, "nesterov": True, "weight_decay": 5e-4},
        batch=1024,
        must=1.7,
        aim=2.8,
        frozen="whiten",
        tolerance=1e-3,
    ),
    "resnet18": Net(
        "ResNet-18",
        lambda: models.resnet18(10),
        "SGD",
        {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4},
        batch=128,
        must=1.4,
        aim=2.1,
        tolerance=1e-3,
    ),
}


def images(count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 images of shape (count, 32, 32, 3), and labels; a larger count only adds to them.

    They are nnkit's `shapes`, from which a net learns, so that what it computes is what it computes in use: on noise,
    units die, and a net is faster by their zeros than any that works. From 10,000 on, the images repeat.
    """
    shapes = data.make_shapes(min(count, 10_000))
    rows = np.arange(count) % max(len(shapes), 1)
    return shapes.images[rows], shapes.labels[rows] % classes
