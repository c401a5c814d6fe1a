"""What all families share: conversions of type and layout, and the checks that keep bad arguments from the kernels."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from nnkit._ext import kernels, memory
from nnkit.errors import UsageError

Pair = tuple[int, int]
Axes = tuple[int, ...]
Layout = tuple[tuple[int, ...], Axes]  # logical shape, and the axes from the slowest in memory to the fastest
_FLOATS = frozenset((np.dtype(np.float32), np.dtype(np.float64)))
_LARGEST = 2**20 - 1  # window, stride or padding: what the kernels admit


def floats(where: str, *arrays: ArrayLike | None) -> list[Any]:
    """Convert to one common floating type: float64 if one of the arrays has it, else float32; None passes through."""
    first = getattr(arrays[0], "dtype", None)
    if first in _FLOATS:
        for a in arrays:
            if a is not None and not (type(a) is np.ndarray and a.dtype is first and a.flags.aligned):
                break
        else:  # nothing to do, which is the rule inside a model
            return list(arrays)
    converted = [None if a is None else np.asarray(a) for a in arrays]
    wide = False
    for array in converted:
        if array is None:
            continue
        if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
            raise TypeError(f"{where}: expected real numbers (float32 or float64), got an array of {array.dtype}")
        wide |= array.dtype.kind == "f" and array.dtype.itemsize == 8  # in either byte order
    dtype = np.float64 if wide else np.float32
    return [None if a is None else a.astype(dtype, copy=not a.flags.aligned) for a in converted]


def pair(where: str, name: str, value: int | tuple[int, int], minimum: int) -> Pair:
    """Read an option that is one integer, or one for each of (vertical, horizontal)."""
    if type(value) is tuple and len(value) == 2 and type(value[0]) is type(value[1]) is int:
        fits = minimum <= value[0] <= _LARGEST and minimum <= value[1] <= _LARGEST
        if fits:  # the rule inside a model
            return value
    values = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(values) != 2 or not all(isinstance(v, (int, np.integer)) and minimum <= v <= _LARGEST for v in values):
        wanted = f"an integer from {minimum} to {_LARGEST:,} or a pair of them"
        raise UsageError(f"{where}: expected {name} to be {wanted}, got {value!r}")
    return int(values[0]), int(values[1])


def window_output(where: str, size: Pair, kernel_size: Pair, stride: Pair, padding: Pair) -> Pair:
    """Return how many windows of a kernel fit into an image: floor((size + 2 padding - kernel) / stride) + 1."""
    height, width = size[0] + 2 * padding[0], size[1] + 2 * padding[1]
    if kernel_size[0] > height or kernel_size[1] > width:
        window = f"{kernel_size[0]}×{kernel_size[1]}"
        raise UsageError(f"{where}: expected an image of at least {window} pixels, got {height}×{width} with padding")
    return (height - kernel_size[0]) // stride[0] + 1, (width - kernel_size[1]) // stride[1] + 1


def channels_last(where: str, x: np.ndarray, name: str = "x") -> np.ndarray:
    """Return the C-contiguous (N, H, W, C) array of an (N, C, H, W) one: no copy where it is stored so already."""
    if x.ndim != 4:
        raise ValueError(f"{where}: expected {name} of shape (N, C, H, W), got {x.shape}")
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def channels_first(nhwc: np.ndarray) -> np.ndarray:
    """Return the logical (N, C, H, W) view of an array in channels-last storage."""
    return nhwc.transpose(0, 3, 1, 2)


def upstream(where: str, dout: ArrayLike, shape: tuple[int, ...], dtype: DTypeLike | None) -> np.ndarray:
    """Check that a gradient from above has the shape of the output, and give it a type; None keeps its own."""
    gradient = np.asarray(dout, dtype)
    if gradient.shape != shape:
        raise ValueError(f"{where}: expected dout of the output's shape {shape}, got {gradient.shape}")
    return gradient


def before_relu(dout: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """Take a gradient back through the ReLU that gave `out`, where there was one; both are C-contiguous."""
    if out is None:
        return dout
    dx = memory.empty(out.shape, out.dtype)
    kernels.relu_backward(dout.reshape(-1), out.reshape(-1), dx.reshape(-1))
    return dx


def check_shape(where: str, name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise unless the array has exactly this shape."""
    if array.shape != shape:
        raise ValueError(f"{where}: expected {name} of shape {shape}, got {array.shape}")


def destination(where: str, name: str, out: np.ndarray | None, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return the caller's array for a parameter's gradient, checked, or a new one."""
    if out is None:
        return memory.empty(shape, dtype)
    # carray: C-contiguous, aligned and writable
    if isinstance(out, np.ndarray) and out.shape == shape and out.dtype == dtype and out.flags.carray:
        return out
    got = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else f"a {type(out).__name__}"
    wanted = f"a writable C-contiguous {np.dtype(dtype)} array {shape}"
    raise ValueError(f"{where}: expected {name} to be {wanted}, got {got}")


def layout(x: np.ndarray) -> Layout:
    """Describe how a dense array lies in memory; an array with gaps counts as if it were C-contiguous."""
    axes = tuple(range(x.ndim))
    if x.flags.c_contiguous:
        return x.shape, axes
    by_stride = tuple(sorted(axes, key=lambda axis: -x.strides[axis]))
    return x.shape, by_stride if x.transpose(by_stride).flags.c_contiguous else axes


def flat(x: np.ndarray, like: Layout) -> np.ndarray:
    """Return the elements as a 1-D array in the order of a layout: no copy where the array has that layout."""
    axes = like[1]
    ordered = x if axes == tuple(range(len(axes))) else x.transpose(axes)
    return np.ascontiguousarray(ordered).reshape(-1)


def shaped(elements: np.ndarray, like: Layout) -> np.ndarray:
    """Undo `flat`: a view with the layout's logical shape."""
    shape, axes = like
    if axes == tuple(range(len(axes))):
        return elements.reshape(shape)
    return elements.reshape([shape[axis] for axis in axes]).transpose(sorted(axes, key=axes.__getitem__))


def empty_like(x: np.ndarray) -> np.ndarray:
    """Return an uninitialised pooled array of the same shape, type and memory layout."""
    return shaped(memory.empty(x.size, x.dtype), layout(x))
