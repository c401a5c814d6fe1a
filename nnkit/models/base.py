"""What every model is: a tree of layers whose parameters lie in one flat array."""

import copy
import fnmatch
from collections.abc import Mapping
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from nnkit import functional
from nnkit._ext import memory
from nnkit.errors import CheckpointError, UsageError, did_you_mean
from nnkit.layers import Dropout, Layer, Softmax
from nnkit.layers.base import Shape
from nnkit.models.summary import summary_html, summary_table


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
        self._gradients: list[tuple[Layer, str, np.ndarray]] = []  # whose, which, and its place in the flat array

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

    def fused(self) -> dict[str, str]:
        """Return which layers run as a part of another one, as `nnkit.models.fusion` has it.

        Returns
        -------
        dict of str to str
            From the layer's name to that of the layer that does its work, or "the sum" of a `Residual`; from a batch
            norm's to that of the convolution that makes its statistics.
        """
        return {}

    @property
    def built(self) -> bool:
        """Whether the parameters are allocated."""
        return self.output_shape is not None

    @property
    def flat_params(self) -> np.ndarray:
        """All parameters, one after the other in forward order."""
        params = self._flat_arrays()[0]
        self._require_packed(params)
        return params

    @property
    def flat_grads(self) -> np.ndarray:
        """All gradients, in the order of `flat_params`."""
        return self._flat_arrays()[1]

    @property
    def num_parameters(self) -> int:
        """How many numbers there are to train, those of frozen layers among them."""
        self._require_built()
        return sum(array.size for array in self.named_parameters().values())

    @property
    def num_trainable(self) -> int:
        """How many numbers are trained: all parameters but those of frozen layers."""
        self._require_built()
        return sum(array.size for leaf in self.leaves() if leaf.trainable for array in leaf.params.values())

    @property
    def trainable(self) -> bool:
        """Whether there are parameters that an optimizer may change."""
        return any(leaf.trainable for leaf in self.leaves())

    @property
    def frozen(self) -> bool:
        """Whether all layers with parameters are frozen; setting it freezes or unfreezes every layer."""
        leaves = [leaf for leaf in self.leaves() if leaf.params]
        return bool(leaves) and all(leaf.frozen for leaf in leaves)

    @frozen.setter
    def frozen(self, value: bool) -> None:
        for leaf in self.leaves():
            leaf.frozen = value

    def freeze(self, *patterns: str) -> None:
        """Keep layers as they are: their parameters get no gradient, and no optimizer bound from now on changes them.

        A Solver binds its optimizer when it is made. The running statistics of a frozen batch norm still follow the
        batches in training.

        Parameters
        ----------
        *patterns : str
            As in the shell, for names of layers, or of all parameters of a layer: `"conv1"`, `"layer[12].*"`,
            `"conv1.*"`.

        Raises
        ------
        UsageError
            If the model is not built, or a pattern fits nothing or only some parameters of a layer.

        Examples
        --------
        >>> from nnkit import models
        >>> model = models.create("mlp", num_classes=10, hidden=(100,))
        >>> _ = model.build((3, 32, 32), seed=0)
        >>> model.freeze("fc1")
        >>> model.frozen_parameters(), model.num_trainable
        (['fc1.weight', 'fc1.bias'], 1010)
        """
        for leaf in self._matching("freeze", patterns):
            leaf.frozen = True

    def unfreeze(self, *patterns: str) -> None:
        """Train layers again that `freeze` has frozen.

        Parameters
        ----------
        *patterns : str
            As for `freeze`.

        Raises
        ------
        UsageError
            As for `freeze`.
        """
        for leaf in self._matching("unfreeze", patterns):
            leaf.frozen = False

    def frozen_parameters(self) -> list[str]:
        """Return the names of the parameters that are not trained.

        Returns
        -------
        list of str
        """
        prefix = f"{self.name}." if self.name else ""
        frozen = [leaf for leaf in self.leaves() if leaf.frozen]
        return [_full_name(leaf, key).removeprefix(prefix) for leaf in frozen for key in leaf.params]

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
        if 0 < len(examples) <= batch_size:  # nothing to put together: that would show at batches of one
            return self.forward(examples).astype(self.dtype, order="C")  # a copy: it may be a view of x
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

    def summary(self, input_shape: Shape | None = None, *, kernels: bool = False) -> str:
        """Return a table of layers, output shapes, parameters and floating-point operations.

        Parameters
        ----------
        input_shape : tuple of int, optional
            Needed where the model is not built; it stays so.
        kernels : bool, default False
            Whether to say, too, how each layer runs: a convolution's algorithms in its three passes, and what runs
            together with the layer before or behind.

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
            return summary_table(self, kernels)
        other = copy.deepcopy(self)
        other.build(input_shape)
        return summary_table(other, kernels)

    def _repr_html_(self) -> str | None:
        """Show the summary in a notebook, once the model is built."""
        return summary_html(self) if self.built else None

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_flat": self._flat is not None, "_gradients": []}

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

    def _matching(self, what: str, patterns: tuple[str, ...]) -> list[Layer]:
        """Return the layers of which a pattern fits the name, that of a container around it, or all parameters."""
        self._require_built()
        if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
            got = ", ".join(map(repr, patterns)) or "none"
            raise UsageError(f"{what}: expected patterns, such as 'conv1.*', or '*' for everything, got {got}")
        named = {leaf: (_places(leaf), [_full_name(leaf, key) for key in leaf.params]) for leaf in self.leaves()}
        named = {leaf: names for leaf, names in named.items() if leaf.params}
        known = {name for places, parameters in named.values() for name in (*places, *parameters)}
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in known):
                raise UsageError(f"{what}: no layer or parameter is named {pattern!r}{did_you_mean(pattern, known)}")
        fitting = {name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}
        for leaf, (places, parameters) in named.items():
            missing = [name for name in parameters if name not in fitting]
            if fitting.isdisjoint(places) and 0 < len(missing) < len(parameters):
                whole = f"a layer is trained or frozen as a whole, and no pattern fits {missing[0]!r}"
                raise UsageError(f"{what}: {leaf.label}: {whole}")
        return [leaf for leaf, names in named.items() if not fitting.isdisjoint([*names[0], *names[1]])]

    def _flat_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        self._require_built()
        if self._flat is None:
            raise UsageError(f"{self.label}: only the whole model has flat_params and flat_grads, not its parts")
        return self._flat

    def _require_packed(self, flat: np.ndarray) -> None:
        """Find a parameter that is stored elsewhere, where an optimizer's step would not reach it."""
        for leaf in self.leaves():
            for key, array in leaf.params.items():
                if array.base is not flat and array.size and not np.may_share_memory(array, flat):
                    name = _full_name(leaf, key)
                    raise UsageError(
                        f"{self.label}: {name!r} is no longer part of flat_params: it was assigned anew (write into it "
                        f"instead, with [...] =), or its layer was built or copied into another model"
                    )

    def _pack(self) -> None:
        """Move all parameters and gradients of the tree into two flat arrays."""
        total = sum(array.size for leaf in self.leaves() for array in leaf.params.values())
        # Where a vector straddles two cache lines, products of a weight with a single row take a tenth longer.
        params, grads = memory.aligned(total, self.dtype), memory.aligned(total, self.dtype)
        start = 0
        for leaf in self.leaves():
            for key, array in leaf.params.items():
                place = slice(start, start + array.size)
                params[place] = array.reshape(-1)
                leaf.params[key] = params[place].reshape(array.shape)
                leaf.grads[key] = grads[place].reshape(array.shape)
                start += array.size
        self._flat = params, grads
        self._gradients = [(leaf, key, place) for leaf in self.leaves() for key, place in leaf.grads.items()]

    def _collect_gradients(self) -> None:
        """Copy gradients that a layer assigned to `grads`, instead of writing into the array there, to their place.

        A frozen layer's are 0, even if it is one of the user's own that has written some.
        """
        if self._flat is None:
            return
        for leaf, key, place in self._gradients:
            if leaf.frozen or leaf.grads[key] is not place:
                place[...] = 0 if leaf.frozen else leaf.grads[key]
                leaf.grads[key] = place


def _full_name(leaf: Layer, key: str) -> str:
    return f"{leaf.name}.{key}" if leaf.name else key


def _places(leaf: Layer) -> list[str]:
    """Return the names of the containers that a layer is in, and its own."""
    parts = leaf.name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]
