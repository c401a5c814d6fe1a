"""Containers: layers in a row, and a detour around them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnkit import functional
from nnkit.errors import UsageError
from nnkit.layers import Layer
from nnkit.layers.base import Shape
from nnkit.models import fusion
from nnkit.models.base import Model


class Sequential(Model):
    """Layers one after the other.

    Parameters
    ----------
    *layers : Layer, or one mapping of str to Layer
        The mapping gives them names; else they are called "0", "1" and so on.

    Examples
    --------
    >>> from nnkit.layers import Flatten, Linear, ReLU
    >>> model = Sequential(Flatten(), Linear(100), ReLU(), Linear(10))
    >>> model.build((3, 32, 32))
    (10,)
    >>> model.num_parameters
    308310
    >>> list(model.named_parameters())
    ['1.weight', '1.bias', '3.weight', '3.bias']
    """

    def __init__(self, *layers: Layer | Mapping[str, Layer]) -> None:
        super().__init__()
        named: Mapping[str, object]
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            named = layers[0]
        else:
            named = {str(index): layer for index, layer in enumerate(layers)}
        self.layers: dict[str, Layer] = {}
        for name, layer in named.items():
            if not isinstance(layer, Layer):
                got = f"the class {layer.__name__}, not an object" if isinstance(layer, type) else repr(layer)
                raise UsageError(f"Sequential: expected layer {name!r} to be a Layer, got {got}")
            self.layers[_valid(name)] = layer
        if not self.layers:
            raise UsageError("Sequential: expected at least one layer")

    def children(self) -> dict[str, Layer]:
        """Return the layers with their full names."""
        return {_join(self.name, key): layer for key, layer in self.layers.items()}

    def leaves(self) -> list[Layer]:
        """Return the layers in it that are no containers, in forward order."""
        return [leaf for layer in self.layers.values() for leaf in layer.leaves()]

    def setup(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        """Build each layer for the output of the one before."""
        shape = input_shape
        for name, layer in self.children().items():
            layer.name = name
            shape = layer._build(shape, rng, self.dtype)
        return shape

    def backward_params(self, dout: np.ndarray) -> None:
        """Go back only as far as there are parameters to train, and spare the last input gradient."""
        fusion.backward_params(self._steps(), dout)

    def fused(self) -> dict[str, str]:
        """Return which layers run as a part of another one."""
        return fusion.fused(fusion.fuse(self.layers.values()))

    def config(self) -> dict[str, Any]:
        """Return `{"layers": ...}` for `nnkit.models.model_from_config`."""
        return {"layers": {name: layer_config(layer) for name, layer in self.layers.items()}}

    def __repr__(self) -> str:
        return f"Sequential({', '.join(f'{name}: {layer!r}' for name, layer in self.layers.items())})"

    def _forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        steps = fusion.fuse(self.layers.values(), training)
        if training:
            self.keep(steps)
        return fusion.forward(steps, x, training)

    def _backward(self, dout: np.ndarray) -> np.ndarray:
        return fusion.backward(self._steps(), dout)

    def _steps(self) -> list[fusion.Step]:
        """Return the steps of the forward pass, once; without one, the layers, which will say that it is missing."""
        steps, self._cache = self._cache, None
        return steps or list(self.layers.values())


class Residual(Model):
    """Layers with a detour around them: `out = activation(main(x) + shortcut(x))`.

    The parts of `main` are named as if they stood in the residual itself: `"conv1.weight"`, not `"main.conv1.weight"`.

    He et al., 2016: Deep Residual Learning for Image Recognition.

    Parameters
    ----------
    main : Layer
    shortcut : Layer, optional
        The identity where left out.
    activation : Layer, optional
        Applied to the sum.

    Examples
    --------
    >>> from nnkit.layers import Conv2d, ReLU
    >>> block = Residual(Conv2d(16, 3, padding=1), activation=ReLU())
    >>> block.build((16, 32, 32))
    (16, 32, 32)
    """

    def __init__(self, main: Layer, shortcut: Layer | None = None, activation: Layer | None = None) -> None:
        super().__init__()
        parts = {"main": main, "shortcut": shortcut, "activation": activation}
        for name, part in parts.items():
            if not isinstance(part, Layer) and (part is not None or name == "main"):
                raise UsageError(f"Residual: expected {name} to be a Layer, got {part!r}")
        taken = {"shortcut", "activation"} & set(getattr(main, "layers", ()))
        if taken:
            raise UsageError(f"Residual: main may not have a layer called {taken.pop()!r}; that is the name of a part")
        self.main, self.shortcut, self.activation = main, shortcut, activation

    def children(self) -> dict[str, Layer]:
        """Return main under the residual's own name, then shortcut and activation."""
        parts = {self.name: self.main}
        for key, part in (("shortcut", self.shortcut), ("activation", self.activation)):
            if part is not None:
                parts[_join(self.name, key)] = part
        return parts

    def setup(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        """Build both ways, which must end in the same shape."""
        for name, part in self.children().items():
            part.name = name
        shape = self.main._build(input_shape, rng, self.dtype)
        around = input_shape if self.shortcut is None else self.shortcut._build(input_shape, rng, self.dtype)
        if shape != around:
            raise UsageError(f"{self.label}: main gives {shape}, but the shortcut gives {around}; they are to be added")
        return shape if self.activation is None else self.activation._build(shape, rng, self.dtype)

    def backward_params(self, dout: np.ndarray) -> None:
        """Spare the input gradients of both ways."""
        steps, end = self._steps()
        dmain, around = end.backward(dout)
        fusion.backward_params(steps, dmain)
        if self.shortcut is not None:
            fusion.backward_params([self.shortcut], around)

    def fused(self) -> dict[str, str]:
        """Return which layers run as a part of another one."""
        steps, end = self._plan()
        around = [] if self.shortcut is None else [self.shortcut]
        return fusion.fused(steps) | fusion.fused(around) | end.fused()

    def config(self) -> dict[str, Any]:
        """Return the three parts for `nnkit.models.model_from_config`."""
        parts = {"main": self.main, "shortcut": self.shortcut, "activation": self.activation}
        return {name: None if part is None else layer_config(part) for name, part in parts.items()}

    def __repr__(self) -> str:
        return f"Residual({self.main!r}, shortcut={self.shortcut!r}, activation={self.activation!r})"

    def _forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        steps, end = self._plan(training)
        if training:
            self.keep((steps, end))
        around = x if self.shortcut is None else self.shortcut.forward(x, training)
        return end.forward(fusion.forward(steps, x, training), around, training)

    def _backward(self, dout: np.ndarray) -> np.ndarray:
        steps, end = self._steps()
        dmain, around = end.backward(dout)
        around = around if self.shortcut is None else self.shortcut.backward(around)
        dx = fusion.backward(steps, dmain)
        own = not np.may_share_memory(dx, dmain)  # a dropout of 0, say, hands dout on
        return functional.add_forward(dx, around, overwrite_a=own)[0]

    def _plan(self, training: bool = True) -> tuple[list[fusion.Step], fusion.Sum]:
        main = self.main.layers.values() if type(self.main) is Sequential else [self.main]
        return fusion.fuse_sum(main, self.activation, training)

    def _steps(self) -> tuple[list[fusion.Step], fusion.Sum]:
        """Return the steps of the forward pass, once; without one, the layers, which will say that it is missing."""
        kept, self._cache = self._cache, None
        alone: list[fusion.Step] = [self.main]
        return kept or (alone, fusion.Sum(self.activation))


def layer_config(layer: Layer) -> dict[str, Any]:
    """Return a layer's type and constructor arguments, and whether it is frozen."""
    frozen = {"frozen": True} if layer.frozen and not isinstance(layer, Model) else {}
    return {"type": type(layer).__name__, **layer.config(), **frozen}


def _join(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key


def _valid(name: str) -> str:
    if not isinstance(name, str) or not name or "." in name:
        raise UsageError(f"Sequential: expected layer names that are not empty and without dots, got {name!r}")
    return name
