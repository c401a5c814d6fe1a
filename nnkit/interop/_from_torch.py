"""Reading a PyTorch module: which nnkit layer each part is, and which input it was made for."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from nnkit import layers
from nnkit.errors import UsageError
from nnkit.functional.pool import window_options
from nnkit.layers import Layer
from nnkit.layers.base import Shape
from nnkit.models import Model, Residual, Sequential

_SIZES = (32, 28, 64, 224, *range(1, 513))  # of images, the likeliest first


def read_module(torch: Any, module: Any, input_shape: Shape | None) -> Model:
    """Do what `nnkit.interop.torch.from_torch` says."""
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"from_torch: expected a torch.nn.Module, got {type(module).__name__}")
    for path, part in module.named_modules(remove_duplicate=False):
        if _kind(part) not in _SUPPORTED:
            raise _unsupported(path, part)
        if part._forward_hooks or part._forward_pre_hooks:  # such as those of nn.utils.spectral_norm
            raise _unsupported(path, part, " with hooks on its forward")
        if _kind(part) in _FROM_TORCH:
            _FROM_TORCH[_kind(part)](part, path)  # a setting that nnkit has not is told before anything is tried
    shape, sizes = _trace(torch, module, input_shape)
    pairs: list[tuple[Layer, Any]] = []
    layer = _to_layer(module, "", sizes, pairs)
    if layer is None:
        raise UsageError("from_torch: the module does nothing; a model needs at least one layer")
    model = layer if isinstance(layer, Model) else Sequential(layer)
    is_double = any(tensor.dtype == torch.float64 for tensor in module.parameters())
    model.build(shape, dtype=np.float64 if is_double else np.float32)
    for built, part in pairs:
        for key, array in (built.params | built.buffers).items():
            value = getattr(part, key).detach().cpu().double().numpy()
            if value.shape != array.shape:  # as of a LayerNorm over the last axis only
                raise UsageError(f"from_torch: {built.label}: expected {key} of shape {array.shape}, got {value.shape}")
            array[...] = value
        built.frozen = _is_frozen(built, part)
    return model


def _is_frozen(layer: Layer, module: Any) -> bool:
    wants = {tensor.requires_grad for tensor in module.parameters()}
    if len(wants) > 1:
        raise UsageError(f"from_torch: {layer.label}: requires_grad is set for some of its parameters only")
    return wants == {False}


def _only(module: Any, path: str, **settings: Any) -> None:
    """Raise unless the module's settings are the only ones that nnkit has."""
    for name, value in settings.items():
        if getattr(module, name) != value:
            raise _unsupported(path, module, f" with {name}={getattr(module, name)!r}")


def _conv2d(module: Any, path: str) -> Layer:
    _only(module, path, groups=1, dilation=(1, 1), padding_mode="zeros")
    padding, kernel = module.padding, module.kernel_size
    if padding == "same" and all(size % 2 for size in kernel):
        padding = kernel[0] // 2, kernel[1] // 2
    elif padding == "valid":
        padding = 0
    if isinstance(padding, str):
        raise _unsupported(path, module, f" with padding={padding!r} and the kernel {kernel}")
    has_bias = module.bias is not None
    return layers.Conv2d(module.out_channels, kernel, stride=module.stride, padding=padding, bias=has_bias)


def _batch_norm(module: Any, path: str) -> Layer:
    _only(module, path, affine=True, track_running_stats=True)
    if module.momentum is None:
        raise _unsupported(path, module, " with momentum=None")
    return layers.BatchNorm(momentum=module.momentum, eps=module.eps)


def _layer_norm(module: Any, path: str) -> Layer:
    _only(module, path, elementwise_affine=True)
    if module.bias is None:
        raise _unsupported(path, module, " with bias=False")
    return layers.LayerNorm(eps=module.eps)


def _group_norm(module: Any, path: str) -> Layer:
    _only(module, path, affine=True)
    return layers.GroupNorm(module.num_groups, eps=module.eps)


def _max_pool2d(module: Any, path: str) -> Layer:
    _only(module, path, ceil_mode=False, return_indices=False)
    if module.dilation not in (1, (1, 1)):
        raise _unsupported(path, module, f" with dilation={module.dilation}")
    kernel, stride, padding = window_options("MaxPool2d", module.kernel_size, module.stride, module.padding)
    return layers.MaxPool2d(kernel, stride=stride, padding=padding)


def _avg_pool2d(module: Any, path: str) -> Layer:
    _only(module, path, ceil_mode=False, divisor_override=None)
    kernel, stride, padding = window_options("AvgPool2d", module.kernel_size, module.stride, module.padding)
    if padding != (0, 0):
        _only(module, path, count_include_pad=True)
    return layers.AvgPool2d(kernel, stride=stride, padding=padding)


def _flatten(module: Any, path: str) -> Layer:
    _only(module, path, start_dim=1, end_dim=-1)
    return layers.Flatten()


def _softmax(module: Any, path: str) -> Layer:
    _only(module, path, dim=1)
    return layers.Softmax()


# From PyTorch: a function of (module, path) for each class of torch.nn.
_FROM_TORCH: dict[str, Callable[[Any, str], Layer]] = {
    "Linear": lambda module, path: layers.Linear(module.out_features, bias=module.bias is not None),
    "Conv2d": _conv2d,
    "BatchNorm1d": _batch_norm,
    "BatchNorm2d": _batch_norm,
    "LayerNorm": _layer_norm,
    "GroupNorm": _group_norm,
    "MaxPool2d": _max_pool2d,
    "AvgPool2d": _avg_pool2d,
    "Dropout": lambda module, path: layers.Dropout(module.p),
    "Flatten": _flatten,
    "ReLU": lambda module, path: layers.ReLU(),
    "LeakyReLU": lambda module, path: layers.LeakyReLU(module.negative_slope),
    "GELU": lambda module, path: layers.GELU(module.approximate),
    "SiLU": lambda module, path: layers.SiLU(),
    "Sigmoid": lambda module, path: layers.Sigmoid(),
    "Tanh": lambda module, path: layers.Tanh(),
    "Softmax": _softmax,
}
_SUPPORTED = ("Sequential", "Residual", *_FROM_TORCH, "AdaptiveAvgPool2d", "Identity")


def _kind(module: Any) -> str:
    """Return the name of a class of torch.nn, or of ours; of any other class the full name, which no table has."""
    kind = type(module)
    is_known = kind.__module__.startswith(("torch.nn.modules.", "nnkit.interop."))
    return kind.__name__ if is_known else f"{kind.__module__}.{kind.__qualname__}"


def _unsupported(path: str, module: Any, setting: str = "") -> UsageError:
    where = f"module {path!r}" if path else "the module"
    known = ", ".join(_SUPPORTED)
    return UsageError(f"from_torch: {where} is a {_kind(module)}{setting}, which nnkit has not; supported are {known}")


def _to_layer(module: Any, path: str, sizes: dict[int, Shape], pairs: list[tuple[Layer, Any]]) -> Layer | None:
    """Rebuild one module, or a tree of them, in nnkit; nothing where it does nothing."""
    kind = _kind(module)
    if kind == "Sequential":
        if [_kind(part) for part in module] == ["AdaptiveAvgPool2d", "Flatten"] and _size(module[0]) == (1, 1):
            return layers.GlobalAvgPool2d()
        found = _parts(module._modules, path, sizes, pairs)
        return Sequential(found) if found else None
    if kind == "Residual":
        main = {name: module.get_submodule(name) for name in module.main_names}
        found = _parts(main, path, sizes, pairs)
        around = _parts({"shortcut": module.shortcut, "activation": module.activation}, path, sizes, pairs)
        return Residual(found["main"] if list(found) == ["main"] else Sequential(found), **around)
    if kind == "Identity":
        return None
    if kind == "AdaptiveAvgPool2d":
        return _adaptive_pool(module, path, sizes)
    layer = _FROM_TORCH[kind](module, path)
    if any(module is other for _, other in pairs) and list(module.parameters()):
        raise UsageError(f"from_torch: module {path!r} is used twice, and nnkit's layers do not share their weights")
    pairs.append((layer, module))
    return layer


def _parts(
    modules: Mapping[str, Any], path: str, sizes: dict[int, Shape], pairs: list[tuple[Layer, Any]]
) -> dict[str, Layer]:
    named = {
        name: _to_layer(part, f"{path}.{name}" if path else name, sizes, pairs)
        for name, part in modules.items()
        if part is not None
    }
    return {name: layer for name, layer in named.items() if layer is not None}


def _adaptive_pool(module: Any, path: str, sizes: dict[int, Shape]) -> Layer:
    """Make the pooling whose windows, for images of this size, are the adaptive ones."""
    size = sizes[id(module)][-2:]
    rows, columns = (have if want is None else want for want, have in zip(_size(module), size, strict=True))
    if size[0] % rows or size[1] % columns:
        raise _unsupported(path, module, f" from {size} to {(rows, columns)}, windows that are not equal")
    return layers.AvgPool2d((size[0] // rows, size[1] // columns))


def _size(module: Any) -> tuple[int | None, int | None]:
    size = module.output_size
    return tuple(size) if isinstance(size, (tuple, list)) else (size, size)


def _trace(torch: Any, module: Any, input_shape: Shape | None) -> tuple[Shape, dict[int, Shape]]:
    """Run the module without numbers, on PyTorch's meta device: find a shape that fits, and what each part gets."""
    sizes: dict[int, Shape] = {}
    ids = {}
    phantom = copy.deepcopy(module).to("meta").eval()
    for original, part in zip(module.modules(), phantom.modules(), strict=True):
        ids[id(part)] = id(original)
        part.register_forward_pre_hook(lambda part, args: sizes.update({ids[id(part)]: tuple(args[0].shape)}))
    dtype = next((tensor.dtype for tensor in module.parameters()), torch.float32)
    candidates = list(_guesses(module)) if input_shape is None else [tuple(input_shape)]
    reason = "there is nothing to tell it from"
    for shape in candidates:
        try:
            phantom(torch.empty((2, *shape), dtype=dtype, device="meta"))
            return shape, sizes
        except (RuntimeError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
    if input_shape is None:
        raise UsageError(f"from_torch: cannot infer the input's shape ({reason}); give input_shape, as in (3, 32, 32)")
    raise UsageError(f"from_torch: the module does not take inputs of shape {input_shape}: {reason}")


def _guesses(module: Any) -> Iterator[Shape]:
    """Yield shapes that the first module with a size may have been made for, the likeliest first."""
    flattened = False
    for part in module.modules():
        kind = _kind(part)
        flattened |= kind == "Flatten"
        if kind == "Linear":
            n = part.in_features
            if flattened:
                squares = ((channels, math.isqrt(n // channels)) for channels in (3, 1))
                yield from ((channels, side, side) for channels, side in squares if channels * side * side == n)
            yield (n,)
            return
        if kind == "LayerNorm":
            yield tuple(part.normalized_shape)
            return
        if kind == "BatchNorm1d":
            yield (part.num_features,)
            return
        if kind in ("Conv2d", "BatchNorm2d", "GroupNorm"):
            channels = {"Conv2d": "in_channels", "BatchNorm2d": "num_features", "GroupNorm": "num_channels"}[kind]
            yield from ((getattr(part, channels), side, side) for side in _SIZES)
            yield (getattr(part, channels),)
            return
