"""What every model is: a tree of layers whose parameters lie in one flat array."""

import copy
from collections.abc import Mapping
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from nnkit import functional
from nnkit.errors import CheckpointError, UsageError
from nnkit.layers import Dropout, Layer, Softmax
from nnkit.layers.base import Shape
from nnkit.models.summary import summary_table


class Model(Layer):
    """The base class of containers, `Sequential` and `Residual`.

    `build` packs all parameters of the tree into one contiguous array, and all gradients into a second; the arrays in
    each layer's `params` and `grads` become views of these.

    Attributes
    ----------
    flat_params, flat_grads : ndarray of shape (num_parameters,)
        There once the model is built.
    """

    def __init__(self) -> None:
        super().__init__()
        self._flat: tuple[np.ndarray, np.ndarray] | None = None
        self._gradients: dict[str, np.ndarray] = {}

    def children(self) -> dict[str, Layer]:
        """Return the parts with their full names, in the order of the forward pass.

        Returns
        -------
        dict of str to Layer
        """
        raise NotImplementedError(f"{type(self).__name__} has no children method")

    def leaves(self) -> list[Layer]:
        """Return the layers in it that are no containers, in forward order.

        Returns
        -------
        list of Layer
        """
        return [leaf for child in self.children().values() for leaf in child.leaves()]

    def build(self, input_shape: Shape, seed: int | np.random.Generator = 0, dtype: DTypeLike = np.float32) -> Shape:
        """Allocate and initialise all parameters for examples of this shape.

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
            If a layer does not fit the output of the one before, or is in the model twice.
        """
        leaves = self.leaves()
        if len({id(leaf) for leaf in leaves}) < len(leaves):
            twice = next(leaf for i, leaf in enumerate(leaves) if any(leaf is other for other in leaves[:i]))
            raise UsageError(f"{self.label}: the same {type(twice).__name__} object is in the model twice; make two")
        self.name = ""
        output_shape = super().build(input_shape, seed, dtype)
        self._pack()
        return output_shape

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """Compute the output of a batch; in training, keep what `backward` will need.

        Parameters
        ----------
        x : ndarray of shape (N, *input_shape)
            Any memory layout; converted to the model's type.
        training : bool, default False

        Returns
        -------
        ndarray of shape (N, *output_shape)

        Raises
        ------
        UsageError
            If the model is not built.
        ValueError
            If a layer gets an input that it was not built for; it is named.
        TypeError
            If `x` does not hold real numbers.
        """
        self._require_built()
        x = np.asarray(x)
        if x.dtype.kind not in "fiub":
            raise TypeError(f"{self.label}: expected an array of numbers, got one of {x.dtype}")
        assert self.input_shape is not None
        if x.ndim != len(self.input_shape) + 1:
            raise ValueError(f"{self.label}: expected an input of shape (N, *{self.input_shape}), got {x.shape}")
        return self._forward(x.astype(self.dtype, copy=False), training)

    @overload
    def backward(self, dout: np.ndarray, input_gradient: Literal[True] = True) -> np.ndarray: ...
    @overload
    def backward(self, dout: np.ndarray, input_gradient: bool) -> np.ndarray | None: ...
    def backward(self, dout: np.ndarray, input_gradient: bool = True) -> np.ndarray | None:
        """Overwrite all gradients with those of the last batch.

        Parameters
        ----------
        dout : ndarray of shape (N, *output_shape)
        input_gradient : bool, default True
            Whether to compute dx, too: training does not need it.

        Returns
        -------
        ndarray of shape (N, *input_shape), or None without `input_gradient`

        Raises
        ------
        RuntimeError
            If there was no `forward(x, training=True)` since the last call.
        """
        self._require_built()
        dx = None
        if input_gradient:
            dx = self._backward(dout)
        else:
            self.backward_params(dout)
        self._collect_gradients()
        return dx

    def forget(self) -> None:
        """Drop what the layers kept, where no backward pass will come for it."""
        for leaf in self.leaves():
            leaf.forget()

    @property
    def built(self) -> bool:
        """Whether the parameters are allocated."""
        return self.output_shape is not None

    @property
    def flat_params(self) -> np.ndarray:
        """All parameters, one after the other in forward order."""
        return self._flat_arrays()[0]

    @property
    def flat_grads(self) -> np.ndarray:
        """All gradients, in the order of `flat_params`."""
        return self._flat_arrays()[1]

    @property
    def num_parameters(self) -> int:
        """How many trainable numbers there are."""
        self._require_built()
        return sum(array.size for array in self.named_parameters().values())

    def named_parameters(self) -> dict[str, np.ndarray]:
        """Return the parameters under names such as `"block1.conv2.weight"`, in forward order; they are views.

        Returns
        -------
        dict of str to ndarray
        """
        return self._named("params")

    def named_gradients(self) -> dict[str, np.ndarray]:
        """Return the gradients under the parameters' names; they are views.

        Returns
        -------
        dict of str to ndarray
        """
        return self._named("grads")

    def named_buffers(self) -> dict[str, np.ndarray]:
        """Return the state that is not trained, such as running statistics: the arrays themselves.

        Returns
        -------
        dict of str to ndarray
        """
        return self._named("buffers")

    def parameter_slices(self) -> dict[str, slice]:
        """Return where each parameter lies in `flat_params`.

        Returns
        -------
        dict of str to slice
        """
        slices, start = {}, 0
        for name, array in self.named_parameters().items():
            slices[name] = slice(start, start + array.size)
            start += array.size
        return slices

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of all parameters and buffers.

        Returns
        -------
        dict of str to ndarray
        """
        return {name: array.copy() for name, array in (self.named_parameters() | self.named_buffers()).items()}

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Overwrite all parameters and buffers; nothing is changed unless everything fits.

        Parameters
        ----------
        state : mapping of str to ndarray
            With exactly the names and shapes of `state_dict`.

        Raises
        ------
        CheckpointError
            If an array is missing, unexpected or of another shape; the first one is named.
        """
        self._require_built()
        own = self.named_parameters() | self.named_buffers()
        arrays = {name: np.asarray(array) for name, array in state.items()}
        for name, target in own.items():
            if name not in arrays:
                raise CheckpointError(f"{name!r} is missing: expected an array of shape {target.shape}")
            if arrays[name].shape != target.shape:
                raise CheckpointError(f"{name!r}: expected shape {target.shape}, got {arrays[name].shape}")
            if arrays[name].dtype.kind not in "fiu":
                raise CheckpointError(f"{name!r}: expected numbers, got an array of {arrays[name].dtype}")
        for name, array in arrays.items():
            if name not in own:
                raise CheckpointError(f"{name!r} (shape {array.shape}) is unexpected: the model has no such array")
        for name, target in own.items():
            target[...] = arrays[name]

    def predict_scores(self, x: ArrayLike, batch_size: int = 256) -> np.ndarray:
        """Return the model's outputs, computed in batches.

        Parameters
        ----------
        x : ndarray of shape (N, *input_shape)
            Normalised as the training data were.
        batch_size : int, default 256

        Returns
        -------
        ndarray of shape (N, *output_shape)

        Raises
        ------
        UsageError
            If the model is not built, or the batch size is not positive.
        ValueError
            If `x` has another shape.
        """
        self._require_built()
        assert self.output_shape is not None
        if batch_size < 1:
            raise UsageError(f"{self.label}: expected a batch size >= 1, got {batch_size}")
        examples = np.asarray(x)
        if examples.shape[1:] != self.input_shape:
            raise ValueError(f"{self.label}: expected an input of shape (N, *{self.input_shape}), got {examples.shape}")
        scores = np.empty((len(examples), *self.output_shape), self.dtype)
        for start in range(0, len(examples), batch_size):
            scores[start : start + batch_size] = self.forward(examples[start : start + batch_size])
        return scores

    def predict_proba(self, x: ArrayLike, batch_size: int = 256) -> np.ndarray:
        """Return the probability of each class: the softmax of the scores, once, even if the model ends with one.

        Parameters
        ----------
        x : ndarray of shape (N, *input_shape)
        batch_size : int, default 256

        Returns
        -------
        ndarray of shape (N, C)
        """
        scores = self.predict_scores(x, batch_size)
        return scores if isinstance(self.leaves()[-1], Softmax) else functional.softmax_forward(scores)[0]

    def predict(self, x: ArrayLike, batch_size: int = 256) -> np.ndarray:
        """Return the most probable labels.

        Parameters
        ----------
        x : ndarray of shape (N, *input_shape)
        batch_size : int, default 256

        Returns
        -------
        ndarray of int64 of shape (N,)
        """
        return self.predict_scores(x, batch_size).argmax(axis=1)

    def reseed(self, entropy: tuple[int, ...]) -> None:
        """Give every dropout layer a new generator, so that what it drops depends on these numbers alone.

        Parameters
        ----------
        entropy : tuple of int
            Non-negative; for instance (seed, step). The layer's place in the model is added.
        """
        for index, leaf in enumerate(self.leaves()):
            if isinstance(leaf, Dropout):
                leaf.rng = np.random.default_rng((*entropy, index))

    def summary(self, input_shape: Shape | None = None) -> str:
        """Return a table of layers, output shapes, parameters and floating-point operations.

        Parameters
        ----------
        input_shape : tuple of int, optional
            Needed where the model is not built; it stays so.

        Returns
        -------
        str

        Raises
        ------
        UsageError
            If the model is not built and no shape is given.
        """
        if input_shape is None or input_shape == self.input_shape:
            self._require_built()
            return summary_table(self)
        other = copy.deepcopy(self)
        other.build(input_shape)
        return summary_table(other)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_flat": self._flat is not None, "_gradients": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Pack the parameters of a copy or of an unpickled model again, for its arrays have lost their common base."""
        packed = state.pop("_flat")
        self.__dict__.update(state, _flat=None)
        if packed:
            self._pack()

    def _build(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype) -> Shape:
        self._flat = None  # the root packs the whole tree when it is done
        return super()._build(input_shape, rng, dtype)

    def _forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        raise NotImplementedError

    def _backward(self, dout: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _require_built(self) -> None:
        if self.output_shape is None:
            raise UsageError(
                f"{self.label} is not built yet: call model.build(input_shape), such as (3, 32, 32), first"
            )

    def _named(self, kind: str) -> dict[str, np.ndarray]:
        prefix = f"{self.name}." if self.name else ""
        named = {}
        for leaf in self.leaves():
            for key, array in getattr(leaf, kind).items():
                named[_full_name(leaf, key).removeprefix(prefix)] = array
        return named

    def _flat_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        self._require_built()
        if self._flat is None:
            raise UsageError(f"{self.label}: only the whole model has flat_params and flat_grads, not its parts")
        for name, array in self.named_parameters().items():
            if array.size and not np.may_share_memory(array, self._flat[0]):  # an optimizer's step would not reach it
                raise UsageError(
                    f"{self.label}: {name!r} is no longer part of flat_params: it was assigned anew (write into it "
                    f"instead, with [...] =), or its layer was built or copied into another model"
                )
        return self._flat

    def _pack(self) -> None:
        """Move all parameters and gradients of the tree into two flat arrays."""
        total = sum(array.size for leaf in self.leaves() for array in leaf.params.values())
        params, grads = np.empty(total, self.dtype), np.zeros(total, self.dtype)
        start = 0
        for leaf in self.leaves():
            for key, array in leaf.params.items():
                place = slice(start, start + array.size)
                params[place] = array.reshape(-1)
                leaf.params[key] = params[place].reshape(array.shape)
                leaf.grads[key] = grads[place].reshape(array.shape)
                start += array.size
        self._flat = params, grads
        self._gradients = self.named_gradients()

    def _collect_gradients(self) -> None:
        """Copy gradients that a layer assigned to `grads`, instead of writing into the array there, to their place."""
        if self._flat is None:
            return
        for leaf in self.leaves():
            for key, array in leaf.grads.items():
                place = self._gradients[_full_name(leaf, key)]
                if array is not place:
                    place[...] = array
                    leaf.grads[key] = place


def _full_name(leaf: Layer, key: str) -> str:
    return f"{leaf.name}.{key}" if leaf.name else key
