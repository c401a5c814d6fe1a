"""Which neighbouring layers run as one: fewer passes over memory for the same results.

Most layers between two convolutions do little arithmetic for every number that they fetch and store. Where two of them
stand next to each other in a `Sequential`, a rule below may have one kernel do the work of both. Layers on their own,
and subclasses, whose `forward` may be anything, run as they are.

A fused step has one of its layers run everything, with an option that says what else to do; what is kept for the way
back is kept there. So there is nothing here that `forget`, pickling or a changed `model.layers` would have to know.

A batch norm behind a convolution stays a step of its own, but its sums are made by the convolution, while the outputs
are at hand: they share an array for them. That is the only fusion that changes bits, for sums are in another order.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from nnkit import functional
from nnkit.layers import GELU, BatchNorm, Conv2d, Layer, Linear, MaxPool2d, ReLU, SiLU
from nnkit.models.base import Model

enabled = True


@contextmanager
def disabled() -> Iterator[None]:
    """Run every layer on its own, for comparisons; a forward pass and its backward pass may stand on either side.

    Examples
    --------
    >>> import numpy as np
    >>> from nnkit.layers import BatchNorm
    >>> from nnkit.models import Sequential
    >>> model = Sequential(BatchNorm(), ReLU())
    >>> x = np.random.default_rng(0).normal(size=(4, *model.build((3,))))
    >>> with disabled():
    ...     plain = model.forward(x)
    >>> np.array_equal(plain, model.forward(x))
    True
    """
    global enabled
    before, enabled = enabled, False
    try:
        yield
    finally:
        enabled = before


class Fused(NamedTuple):
    """Neighbouring layers of which one, `runner`, does the work of all when its `forward` is given `options`.

    `source` is the convolution that makes a batch norm's statistics.
    """

    layers: tuple[Layer, ...]
    runner: Layer
    options: dict[str, Any]
    source: Layer | None = None

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Compute what the layers would, one after the other."""
        return self.runner.forward(x, training, **self.options)

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """Return the gradient of the first layer's input."""
        return self.runner.backward(dout)

    def backward_params(self, dout: np.ndarray) -> None:
        """Write the parameters' gradients only."""
        self.runner.backward_params(dout)

    @property
    def trainable(self) -> bool:
        """Whether there are parameters that an optimizer may change."""
        return any(layer.trainable for layer in self.layers)

    def forget(self) -> None:
        """Drop what was kept."""
        self.runner.forget()


Step = Layer | Fused


def _norm_activation(norm: Layer, activation: Any) -> list[Step]:
    name = _NAMES.get(type(activation)) or _GELU_FORMS[activation.approximate]
    return [Fused((norm, activation), norm, {"activation": name})]


def _product_relu(product: Layer, relu: Layer) -> list[Step]:
    return [Fused((product, relu), product, {"relu": True})]


def _conv_relu_pool(conv: Layer, relu: Layer, pool: Any) -> list[Step]:
    side = _side_by_side(pool)
    if side is None:
        return [conv, *_relu_pool(relu, pool)]  # rectifying what is left after pooling is the least work
    return [Fused((conv, relu, pool), conv, {"relu": True, "pool": side})]


def _conv_pool(conv: Layer, pool: Any) -> list[Step]:
    side = _side_by_side(pool)
    return [conv, pool] if side is None else [Fused((conv, pool), conv, {"pool": side})]


def _side_by_side(pool: MaxPool2d) -> int | None:
    """Return the side of windows that a convolution can pool by: square ones, without overlap, gaps or padding."""
    side = pool.kernel_size[0]
    fits = pool.kernel_size == pool.stride == (side, side) and pool.padding == (0, 0) and 1 < side <= 16
    return side if fits else None


def _relu_pool(relu: Layer, pool: Layer) -> list[Step]:
    return [Fused((relu, pool), pool, {"relu": True})]


_NAMES = {ReLU: "relu", SiLU: "silu"}
_GELU_FORMS = {"none": "gelu", "tanh": "gelu_tanh"}

# Neighbours, and the steps that they become. The first rule that fits is taken: a longer one stands before its parts.
_RULES: list[tuple[tuple[type[Layer], ...], Callable[..., list[Step]]]] = [
    ((Conv2d, ReLU, MaxPool2d), _conv_relu_pool),
    ((Conv2d, MaxPool2d), _conv_pool),
    ((Conv2d, ReLU), _product_relu),
    ((Linear, ReLU), _product_relu),
    ((BatchNorm, ReLU), _norm_activation),
    ((BatchNorm, GELU), _norm_activation),
    ((BatchNorm, SiLU), _norm_activation),
    ((ReLU, MaxPool2d), _relu_pool),
]


def fuse(layers: Iterable[Layer], training: bool = True) -> list[Step]:
    """Plan how a row of layers runs: some on their own, some as one.

    Parameters
    ----------
    layers : iterable of Layer
    training : bool, default True
        In evaluation, no batch norm needs a batch's statistics.

    Returns
    -------
    list of Layer and Fused
    """
    waiting = list(layers)
    if not enabled:
        return [*waiting]
    steps: list[Step] = []
    types = tuple(map(type, waiting))
    for part, make in _matches(types):
        steps += waiting[part] if make is None else make(*waiting[part])
    return _share_statistics(steps) if training and BatchNorm in types else steps


@functools.lru_cache
def _matches(types: tuple[type[Layer], ...]) -> list[tuple[slice, Callable[..., list[Step]] | None]]:
    """Cut a row of layers into those that a rule fits, with what it makes of them, and others.

    Types are all that this depends on, so that it can be remembered: a plan is made anew for each batch, which must not
    show at batches of one.
    """
    parts: list[tuple[slice, Callable[..., list[Step]] | None]] = []
    place = 0
    while place < len(types):
        fitting = (rule for rule in _RULES if types[place : place + len(rule[0])] == rule[0])
        pattern, make = next(fitting, (types[place : place + 1], None))
        parts.append((slice(place, place + len(pattern)), make))
        place += len(pattern)
    return parts


def _share_statistics(steps: list[Step]) -> list[Step]:
    """Have convolutions make the statistics of the batch norms behind them."""
    shared = list(steps)
    for place, (before, after) in enumerate(pairwise(map(_as_fused, steps))):
        conv, norm = before.runner, after.runner
        if type(conv) is Conv2d and type(norm) is BatchNorm:
            statistics = {"statistics": np.zeros((2, conv.out_channels), conv.dtype)}
            shared[place] = before._replace(options=before.options | statistics)
            shared[place + 1] = after._replace(options=after.options | statistics, source=conv)
    return shared


def _as_fused(step: Step) -> Fused:
    return step if isinstance(step, Fused) else Fused((step,), step, {})


def fused(steps: Iterable[Step]) -> dict[str, str]:
    """Return, by name, which layers run as a part of which other one; see `Model.fused`."""
    names: dict[str, str] = {}
    for step in steps:
        if isinstance(step, Fused):
            names |= {layer.name: step.runner.name for layer in step.layers if layer is not step.runner}
            if step.source is not None:
                names[step.runner.name] = step.source.name
        elif isinstance(step, Model):
            names |= step.fused()
    return names


def forward(steps: Sequence[Step], x: np.ndarray, training: bool) -> np.ndarray:
    """Run the steps one after the other."""
    for step in steps:
        x = step.forward(x, training)
    return x


def backward(steps: Sequence[Step], dout: np.ndarray) -> np.ndarray:
    """Go back through all steps."""
    for step in reversed(steps):
        dout = step.backward(dout)
    return dout


def backward_params(steps: Sequence[Step], dout: np.ndarray) -> None:
    """Go back only as far as there are parameters to train, and spare the last input gradient."""
    for place, step in enumerate(steps):
        if step.trainable:
            step.backward_params(backward(steps[place + 1 :], dout))
            return
        step.forget()


class Sum:
    """How a `Residual` ends: the sum of both ways, and its activation.

    Parameters
    ----------
    activation : Layer or None
    """

    def __init__(self, activation: Layer | None) -> None:
        self.activation = activation

    def forward(self, main: np.ndarray, around: np.ndarray, training: bool) -> np.ndarray:
        """Add the two ways and activate."""
        total, _ = functional.add_forward(main, around)
        return total if self.activation is None else self.activation.forward(total, training)

    def backward(self, dout: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients of both ways."""
        dout = dout if self.activation is None else self.activation.backward(dout)
        return dout, dout

    def fused(self) -> dict[str, str]:
        """Return which layers run as a part of another one."""
        return {}


class ReLUSum(Sum):
    """The sum and a ReLU in one pass."""

    activation: ReLU

    def forward(self, main: np.ndarray, around: np.ndarray, training: bool) -> np.ndarray:
        """Add the two ways and rectify."""
        out, cache = functional.add_forward(main, around, relu=True)
        if training:
            self.activation.keep(cache)
        return out

    def fused(self) -> dict[str, str]:
        """Return which layers run as a part of another one."""
        return {self.activation.name: "the sum"}


class NormSum(Sum):
    """A batch norm at the end of the main way, the sum, and a ReLU or nothing in one pass.

    Parameters
    ----------
    step : Fused
        The batch norm alone, with its statistics if they are made elsewhere.
    activation : ReLU or None
    """

    def __init__(self, step: Fused, activation: Layer | None) -> None:
        super().__init__(activation)
        assert isinstance(step.runner, BatchNorm)
        self.step, self.norm = step, step.runner

    def forward(self, main: np.ndarray, around: np.ndarray, training: bool) -> np.ndarray:
        """Normalise the main way, add the other and rectify."""
        activation = "identity" if self.activation is None else "relu"
        return self.norm.forward(main, training, activation=activation, addend=around, **self.step.options)

    def backward(self, dout: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients of both ways."""
        return self.norm.backward_sum(dout)

    def fused(self) -> dict[str, str]:
        """Return which layers run as a part of another one."""
        activation = {} if self.activation is None else {self.activation.name: self.norm.name}
        return fused([self.step]) | activation


def fuse_sum(main: Iterable[Layer], activation: Layer | None, training: bool = True) -> tuple[list[Step], Sum]:
    """Plan how a `Residual` runs.

    Parameters
    ----------
    main : iterable of Layer
        The layers of the main way.
    activation : Layer or None
    training : bool, default True

    Returns
    -------
    steps : list of Layer and Fused
        What runs on the main way before both ways meet.
    end : Sum
    """
    layers = list(main)
    steps = fuse(layers, training)
    if not enabled or type(activation) not in (ReLU, type(None)):
        return steps, Sum(activation)
    if type(layers[-1]) is BatchNorm:
        return steps[:-1], NormSum(_as_fused(steps[-1]), activation)
    return steps, Sum(None) if activation is None else ReLUSum(activation)
