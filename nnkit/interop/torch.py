"""To PyTorch and back: models, and state dictionaries. Reading safetensors needs no PyTorch, all the rest does."""

import io
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nnkit import layers
from nnkit.errors import CheckpointError, UsageError
from nnkit.files import atomic_path
from nnkit.interop._from_torch import read_module
from nnkit.interop._torch_state import EXTRA, LoadReport, fit, read_state, state_arrays, targets
from nnkit.layers import Layer
from nnkit.layers.base import Shape
from nnkit.models import Model, Residual, Sequential

__all__ = ["LoadReport", "from_torch", "load_torch_state", "state_arrays", "to_torch", "write_state"]


def to_torch(model: Model) -> Any:
    """Rebuild a model from PyTorch's own modules, with copies of its weights and buffers.

    The result is an `nn.Sequential` of `nn.Conv2d`, `nn.BatchNorm2d` and so on; only residual blocks need a module of
    nnkit's. It is in evaluation mode, as an nnkit model is until it is told otherwise: call `.train()` to train it.

    Parameters
    ----------
    model : Model
        A built one.

    Returns
    -------
    torch.nn.Module
        Its parameters have nnkit's names. (One exception: a residual's `main` that is a single layer is called "main".)

    Raises
    ------
    UsageError
        If the model is not built, or holds a layer that PyTorch does not have.
    ImportError
        If PyTorch is not installed.

    Examples
    --------
    >>> import torch
    >>> from nnkit.layers import Linear, ReLU
    >>> model = Sequential({"fc1": Linear(8), "relu": ReLU(), "fc2": Linear(3)})
    >>> _ = model.build((4,))
    >>> net = to_torch(model)
    >>> net
    Sequential(
      (fc1): Linear(in_features=4, out_features=8, bias=True)
      (relu): ReLU()
      (fc2): Linear(in_features=8, out_features=3, bias=True)
    )
    >>> x = np.ones((2, 4), np.float32)
    >>> bool(np.allclose(net(torch.from_numpy(x)).detach(), model.forward(x), atol=1e-6))
    True
    """
    torch = _torch()
    if not isinstance(model, Model) or not model.built:
        raise UsageError("to_torch: expected a model that is built; call model.build(input_shape) first")
    return _to_module(torch.nn, model).to(torch.from_numpy(model.flat_params).dtype).eval()


def from_torch(module: Any, input_shape: Shape | None = None) -> Model:
    """Rebuild a PyTorch module from nnkit's layers, with copies of its weights and buffers.

    Parameters
    ----------
    module : torch.nn.Module
        `nn.Sequential`, nested at will, of modules that nnkit has a layer for; or one of these alone; or what
        `to_torch` made. A module with a `forward` of its own cannot be read: build the model in nnkit, and use
        `load_torch_state`.
    input_shape : tuple of int, optional
        Of one example, such as `(3, 32, 32)`. Where left out, it is inferred from the modules' sizes; where these
        leave the image's size open, 32×32 is assumed if it fits, else the first square that does.

    Returns
    -------
    Model
        Built, in float64 if the module is, else in float32.

    Raises
    ------
    UsageError
        If a module, or a setting of one, has no counterpart in nnkit: its path, its type and what is supported are
        named. If the input's shape cannot be inferred, or does not fit.
    ImportError
        If PyTorch is not installed.

    Examples
    --------
    >>> from torch import nn
    >>> model = from_torch(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 26 * 26, 10)))
    >>> model
    Sequential(0: Conv2d(8, 3), 1: ReLU(), 2: Flatten(), 3: Linear(10))
    >>> model.input_shape, model.output_shape
    ((1, 28, 28), (10,))
    """
    return read_module(_torch(), module, input_shape)


def load_torch_state(
    model: Model,
    source: "str | os.PathLike[str] | Mapping[str, Any]",
    *,
    by: str = "name",
    strict: bool = True,
) -> LoadReport:
    """Take over weights and running statistics from a PyTorch state dictionary.

    What training scripts add is tolerated: the prefix "module." of DataParallel and "_orig_mod." of `torch.compile`,
    the counters `num_batches_tracked`, a dictionary under "state_dict", "model" or "net" in a larger one. All of it
    works without PyTorch, but for reading `.pt` and `.pth` files.

    Parameters
    ----------
    model : Model
        A built one.
    source : path-like, or mapping of str to tensor or ndarray
        A `.safetensors` file; any other file is read by `torch.load(weights_only=True)`, which runs no code from it.
    by : {"name", "order"}, default "name"
        Which array goes where: the one of the same name, or, where another's net has other names, the first to the
        first and so on.
    strict : bool, default True
        Whether every array must fit. If not, those that do are loaded, and the report tells the rest.

    Returns
    -------
    LoadReport

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or holds no state dictionary, or if `strict` and something is missing,
        unexpected or of another shape; then the model stays as it was.
    UsageError
        If the model is not built, or `by` is something else.
    ImportError
        If it is a file for PyTorch, which is not installed.

    Examples
    --------
    >>> from nnkit.layers import Linear
    >>> model = Sequential({"fc": Linear(2, bias=False)})
    >>> _ = model.build((3,))
    >>> print(load_torch_state(model, {"module.fc.weight": np.ones((2, 3))}))
    1 arrays fit
    >>> print(load_torch_state(model, {"fc.weight": np.ones((5, 3)), "fc.bias": np.ones(5)}, strict=False))
    0 arrays fit; 1 unexpected: fc.bias; 1 mis-shaped: fc.weight (expected (2, 3), got (5, 3))
    """
    if not isinstance(model, Model) or not model.built:
        raise UsageError("load_torch_state: expected a model that is built; call model.build(input_shape) first")
    where, arrays = read_state(source)
    report, pairs = fit(model, arrays, by)
    if strict and not report.complete:
        hint = ""
        if by == "name" and fit(model, arrays, "order")[0].complete:
            hint = "; all of them would fit in their order: by='order'"
        raise CheckpointError(f"{where} does not fit the model: {report}{hint}")
    own = targets(model)
    for name, theirs in pairs.items():
        own[name][...] = arrays[theirs]
    return report


def write_state(
    path: "str | os.PathLike[str]", model: Model, kind: str, metadata: Mapping[str, str] | None = None
) -> int:
    """Write a model's weights and buffers, under PyTorch's names, into a file.

    Parameters
    ----------
    path : path-like
        Replaced in one move: whatever goes wrong, the old file or the new one is there.
    model : Model
        A built one.
    kind : {"torch", "safetensors"}
        A state dictionary in PyTorch's own format, for `torch.load`; or safetensors, for which PyTorch is not needed.
    metadata : mapping of str to str, optional
        Noted in the header of a safetensors file.

    Returns
    -------
    int
        How many tensors it holds.

    Raises
    ------
    UsageError
        If `kind` is something else.
    ImportError
        If `kind` is "torch" and PyTorch is not installed.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from nnkit.layers import Linear
    >>> model = Sequential(Linear(3))
    >>> _ = model.build((2,))
    >>> path = os.path.join(tempfile.mkdtemp(), "weights.safetensors")
    >>> write_state(path, model, "safetensors")
    2
    >>> print(load_torch_state(model, path))
    2 arrays fit
    """
    state = state_arrays(model)
    if kind == "safetensors":
        from safetensors.numpy import save

        content = save(state, {"format": "pt", **(metadata or {})})
    elif kind == "torch":
        torch, memory = _torch(), io.BytesIO()
        torch.save(OrderedDict((name, torch.from_numpy(array)) for name, array in state.items()), memory)
        content = memory.getvalue()
    else:
        raise UsageError(f"write_state: expected kind to be 'torch' or 'safetensors', got {kind!r}")
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return len(state)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(EXTRA) from error
    return torch


# A function of (torch.nn, layer) for each layer. The exact type decides, for a subclass may do something else.
_TO_TORCH: dict[type[Layer], Callable[[Any, Any], Any]] = {
    layers.Linear: lambda nn, x: nn.utils.skip_init(nn.Linear, x.input_shape[0], x.out_features, bias=x.bias),
    layers.Conv2d: lambda nn, x: nn.utils.skip_init(
        nn.Conv2d, x.input_shape[0], x.out_channels, x.kernel_size, x.stride, x.padding, bias=x.bias
    ),
    layers.BatchNorm: lambda nn, x: (nn.BatchNorm1d if len(x.input_shape) == 1 else nn.BatchNorm2d)(
        x.input_shape[0], eps=x.eps, momentum=x.momentum
    ),
    layers.LayerNorm: lambda nn, x: nn.LayerNorm(x.input_shape, eps=x.eps),
    layers.GroupNorm: lambda nn, x: nn.GroupNorm(x.num_groups, x.input_shape[0], eps=x.eps),
    layers.MaxPool2d: lambda nn, x: nn.MaxPool2d(x.kernel_size, x.stride, x.padding),
    layers.AvgPool2d: lambda nn, x: nn.AvgPool2d(x.kernel_size, x.stride, x.padding),
    layers.GlobalAvgPool2d: lambda nn, x: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    layers.Dropout: lambda nn, x: nn.Dropout(x.p),
    layers.Flatten: lambda nn, x: nn.Flatten(),
    layers.ReLU: lambda nn, x: nn.ReLU(),
    layers.LeakyReLU: lambda nn, x: nn.LeakyReLU(x.negative_slope),
    layers.GELU: lambda nn, x: nn.GELU(x.approximate),
    layers.SiLU: lambda nn, x: nn.SiLU(),
    layers.Sigmoid: lambda nn, x: nn.Sigmoid(),
    layers.Tanh: lambda nn, x: nn.Tanh(),
    layers.Softmax: lambda nn, x: nn.Softmax(dim=1),
}


def _to_module(nn: Any, layer: Layer) -> Any:
    """Rebuild one layer, or a tree of them, in PyTorch."""
    try:
        if type(layer) is Sequential:
            return nn.Sequential(OrderedDict((name, _to_module(nn, part)) for name, part in layer.layers.items()))
        if type(layer) is Residual:
            from nnkit.interop._torch_modules import Residual as TorchResidual

            around = [None if part is None else _to_module(nn, part) for part in (layer.shortcut, layer.activation)]
            return TorchResidual(_to_module(nn, layer.main), *around)
    except KeyError as error:  # such as "attribute 'type' already exists"
        raise UsageError(f"to_torch: {layer.label}: PyTorch cannot name a part so: {error}") from error
    if type(layer) not in _TO_TORCH:
        known = ", ".join(kind.__name__ for kind in (Sequential, Residual, *_TO_TORCH))
        raise UsageError(f"to_torch: {layer.label}: PyTorch has no such layer; supported are {known}")
    module = _TO_TORCH[type(layer)](nn, layer)
    tensors = module.to(_torch().from_numpy(np.empty(0, layer.dtype)).dtype).state_dict()
    for key, array in (layer.params | layer.buffers).items():
        tensors[key].copy_(_torch().from_numpy(array))
    return module.requires_grad_(not layer.frozen)
