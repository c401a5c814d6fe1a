"""What every layer is: parameters, their gradients, and a pair of passes."""

import inspect
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nnkit.errors import UsageError

Shape = tuple[int, ...]


class Layer:
    """The base class of layers, and the place to start from for a layer of your own.

    A subclass overrides `setup` if it has parameters or changes the shape, `forward`, `backward`, and `config` if its
    constructor takes arguments. Its gradients are written *into* the arrays of `grads`, for in a model these are
    views of one flat buffer.

    Attributes
    ----------
    params, grads, buffers : dict of str to ndarray
        Parameters, their gradients under the same names, and other state that belongs to the model (running
        statistics).
    name : str
        The place in the model, such as `"block1.conv2"`; empty for a layer on its own.
    input_shape, output_shape : tuple of int, or None before `build`
        Without the batch axis.
    dtype : numpy.dtype
        The type of the parameters; float32 unless `build` was told otherwise.
    frozen : bool, default False
        Whether the parameters stay as they are: they get no gradient, and no optimizer changes them. Running statistics
        still follow the batches in training. Freeze before the optimizer is bound or the Solver made.

    Examples
    --------
    >>> class Scale(Layer):
    ...     def setup(self, input_shape, rng):
    ...         self.params["scale"] = np.ones(input_shape, self.dtype)
    ...         return input_shape
    ...
    ...     def forward(self, x, training=False):
    ...         if training:
    ...             self.keep(x)
    ...         return x * self.params["scale"]
    ...
    ...     def backward(self, dout):
    ...         x = self.take()
    ...         np.sum(dout * x, axis=0, out=self.grads["scale"])
    ...         return dout * self.params["scale"]
    >>> from nnkit.testing import check_gradients
    >>> check_gradients(Scale(), np.array([[1.0, 2.0], [3.0, 4.0]])) < 1
    True
    """

    def __init__(self) -> None:
        self.params: dict[str, np.ndarray] = {}
        self.grads: dict[str, np.ndarray] = {}
        self.buffers: dict[str, np.ndarray] = {}
        self.name = ""
        self.input_shape: Shape | None = None
        self.output_shape: Shape | None = None
        self.dtype: np.dtype = np.dtype(np.float32)
        self._cache: Any = None
        self._frozen = False

    @property
    def frozen(self) -> bool:
        """Whether the parameters stay as they are; see `Model.freeze`."""
        return self._frozen

    @frozen.setter
    def frozen(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise UsageError(f"{self.label}: expected frozen to be True or False, got {value!r}")
        self._frozen = value
        if value:
            for gradient in self.grads.values():
                gradient[...] = 0

    @property
    def trainable(self) -> bool:
        """Whether there are parameters that an optimizer may change."""
        return bool(self.params) and not self.frozen

    def build(self, input_shape: Shape, seed: int | np.random.Generator = 0, dtype: DTypeLike = np.float32) -> Shape:
        """Allocate and initialise the parameters for inputs of this shape.

        Parameters
        ----------
        input_shape : tuple of int
            Without the batch axis: `(features,)` or `(channels, height, width)`.
        seed : int or numpy.random.Generator, default 0
        dtype : float32 or float64

        Returns
        -------
        tuple of int
            The output's shape without the batch axis.

        Raises
        ------
        UsageError
            If the layer does not fit such an input.
        """
        shape = tuple(input_shape) if isinstance(input_shape, Iterable) else ()
        if not shape or not all(isinstance(size, (int, np.integer)) and size > 0 for size in shape):
            raise UsageError(f"{self.label}: expected an input shape of positive integers, got {input_shape!r}")
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise UsageError(f"{self.label}: expected dtype float32 or float64, got {np.dtype(dtype)}")
        return self._build(tuple(int(size) for size in shape), np.random.default_rng(seed), np.dtype(dtype))

    def setup(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        """Fill `params` and `buffers` and return the output's shape; called by `build`, for subclasses to override.

        Parameters
        ----------
        input_shape : tuple of int
        rng : numpy.random.Generator

        Returns
        -------
        tuple of int
        """
        return input_shape

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Compute the output; in training, keep what `backward` will need.

        Parameters
        ----------
        x : ndarray of shape (N, *input_shape)
        training : bool, default False

        Returns
        -------
        ndarray of shape (N, *output_shape)
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward method")

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """Write the parameters' gradients into `grads` and return the input's.

        Parameters
        ----------
        dout : ndarray of shape (N, *output_shape)
            The gradient of the loss with respect to the output.

        Returns
        -------
        ndarray of shape (N, *input_shape)
            `dout` itself, or an array that the layer does not need any more: a `Residual` may add to it in place.

        Raises
        ------
        RuntimeError
            If there was no `forward(x, training=True)` since the last call.
        """
        raise NotImplementedError(f"{type(self).__name__} has no backward method")

    def backward_params(self, dout: np.ndarray) -> None:
        """Write the parameters' gradients only: all that is wanted of a network's first layer.

        Parameters
        ----------
        dout : ndarray of shape (N, *output_shape)
        """
        self.backward(dout)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, ready for JSON: `type(layer)(**layer.config())` is such a layer, unbuilt.

        Returns
        -------
        dict
        """
        return {}

    def leaves(self) -> "list[Layer]":
        """Return the layers in it that are no containers, in forward order: for a plain layer, itself.

        Returns
        -------
        list of Layer
        """
        return [self]

    def flops(self) -> int:
        """Return the floating-point operations of one forward pass of one example; 0 where they are negligible.

        Returns
        -------
        int
        """
        return 0

    def keep(self, cache: Any) -> None:
        """Keep something for `take`.

        Parameters
        ----------
        cache : anything but None
        """
        self._cache = cache

    def take(self) -> Any:
        """Return what `keep` got, once.

        Returns
        -------
        anything

        Raises
        ------
        RuntimeError
            If there is nothing: backward was called twice, or without a forward pass in training.
        """
        cache, self._cache = self._cache, None
        if cache is None:
            raise RuntimeError(f"{self.label}: backward needs a forward(x, training=True) before it, one for each call")
        return cache

    def forget(self) -> None:
        """Drop what was kept, where no backward pass will come for it."""
        self._cache = None

    @property
    def label(self) -> str:
        """The layer as error messages name it, such as `Linear 'fc1'`."""
        return f"{type(self).__name__} {self.name!r}" if self.name else type(self).__name__

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters
        shown = []
        for key, value in self.config().items():
            default = parameters[key].default
            if default is inspect.Parameter.empty:
                shown.append(repr(value))
            elif value != default:
                shown.append(f"{key}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": None}

    def _build(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype) -> Shape:
        self.params, self.grads, self.buffers = {}, {}, {}
        self._cache = None
        self.input_shape, self.dtype = input_shape, dtype
        self.output_shape = self.setup(input_shape, rng)
        self.grads = {key: np.zeros_like(value) for key, value in self.params.items()}
        return self.output_shape

    def _images(self, input_shape: Shape) -> tuple[int, int, int]:
        """Check that the input is one of images, in `setup`."""
        if len(input_shape) != 3:
            raise UsageError(f"{self.label}: expected an input shape (channels, height, width), got {input_shape}")
        return input_shape[0], input_shape[1], input_shape[2]

    def _checked(self, x: np.ndarray, axis_name: str = "channels") -> np.ndarray:
        """Check, in `forward`, the number of axes and the size of axis 1, and give x the parameters' type."""
        if self.input_shape is None:
            raise UsageError(f"{self.label}: not built yet: call build(input_shape) first")
        x = np.asarray(x)
        if x.ndim != len(self.input_shape) + 1:
            raise ValueError(f"{self.label}: expected an input of shape (N, {_text(self.input_shape)}), got {x.shape}")
        if x.shape[1] != self.input_shape[0]:
            raise ValueError(f"{self.label}: expected {self.input_shape[0]} {axis_name}, got {x.shape[1]}")
        return x if x.dtype == self.dtype else x.astype(self.dtype)


def _text(shape: Shape) -> str:
    return ", ".join(map(str, shape))
