"""First values for parameters: functions of a shape and a generator.

A weight's shape is `(out, in)` or `(out, in, height, width)`; fan-in counts the inputs of one output, fan-out the
outputs of one input.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nnkit.errors import UsageError, did_you_mean

Shape = tuple[int, ...]
Initializer = Callable[[Shape, np.random.Generator, DTypeLike], np.ndarray]


def he_normal(shape: Shape, rng: np.random.Generator, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Draw from a normal distribution of standard deviation `sqrt(2 / fan_in)`, made for ReLU.

    He et al., 2015: Delving Deep into Rectifiers.

    Parameters
    ----------
    shape : tuple of int
    rng : numpy.random.Generator
    dtype : data-type, default float32

    Returns
    -------
    ndarray of the given shape

    Examples
    --------
    >>> import numpy as np
    >>> weight = he_normal((1000, 200), np.random.default_rng(0))
    >>> round(float(weight.std()), 2)
    0.1
    """
    return _normal(shape, rng, dtype, math.sqrt(2 / _fans(shape)[0]))


def he_uniform(shape: Shape, rng: np.random.Generator, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Draw uniformly from `±sqrt(6 / fan_in)`: the same variance as `he_normal`.

    Parameters
    ----------
    shape : tuple of int
    rng : numpy.random.Generator
    dtype : data-type, default float32

    Returns
    -------
    ndarray of the given shape
    """
    return _uniform(shape, rng, dtype, math.sqrt(6 / _fans(shape)[0]))


def xavier_normal(shape: Shape, rng: np.random.Generator, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Draw from a normal distribution of standard deviation `sqrt(2 / (fan_in + fan_out))`, made for tanh.

    Glorot and Bengio, 2010: Understanding the Difficulty of Training Deep Feedforward Neural Networks.

    Parameters
    ----------
    shape : tuple of int
    rng : numpy.random.Generator
    dtype : data-type, default float32

    Returns
    -------
    ndarray of the given shape
    """
    return _normal(shape, rng, dtype, math.sqrt(2 / sum(_fans(shape))))


def xavier_uniform(shape: Shape, rng: np.random.Generator, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Draw uniformly from `±sqrt(6 / (fan_in + fan_out))`: the same variance as `xavier_normal`.

    Parameters
    ----------
    shape : tuple of int
    rng : numpy.random.Generator
    dtype : data-type, default float32

    Returns
    -------
    ndarray of the given shape
    """
    return _uniform(shape, rng, dtype, math.sqrt(6 / sum(_fans(shape))))


def torch_default_weight(shape: Shape, rng: np.random.Generator, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Draw uniformly from `±1 / sqrt(fan_in)`, as PyTorch's Linear and Conv2d start.

    Parameters
    ----------
    shape : tuple of int
    rng : numpy.random.Generator
    dtype : data-type, default float32

    Returns
    -------
    ndarray of the given shape
    """
    return _uniform(shape, rng, dtype, 1 / math.sqrt(_fans(shape)[0]))


def torch_default_bias(
    shape: Shape, rng: np.random.Generator, dtype: DTypeLike = np.float32, *, fan_in: int
) -> np.ndarray:
    """Draw uniformly from `±1 / sqrt(fan_in)`, as PyTorch's biases start.

    Parameters
    ----------
    shape : tuple of int
    rng : numpy.random.Generator
    dtype : data-type, default float32
    fan_in : int
        That of the weight beside it.

    Returns
    -------
    ndarray of the given shape
    """
    return _uniform(shape, rng, dtype, 1 / math.sqrt(fan_in))


def dirac(shape: Shape, rng: np.random.Generator, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Pass each input channel on: ones in the middle of the kernels of `out == in`, zeros elsewhere.

    Zagoruyko and Komodakis, 2017: DiracNets.

    Parameters
    ----------
    shape : tuple of int
    rng : numpy.random.Generator
        Not drawn from.
    dtype : data-type, default float32

    Returns
    -------
    ndarray of the given shape

    Examples
    --------
    >>> import numpy as np
    >>> dirac((2, 3), np.random.default_rng(0)).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    _fans(shape)
    weight = np.zeros(shape, dtype)
    same = np.arange(min(shape[0], shape[1]))
    middle: Any = (same, same, *(size // 2 for size in shape[2:]))
    weight[middle] = 1
    return weight


def zeros(shape: Shape, rng: np.random.Generator, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Return zeros.

    Parameters
    ----------
    shape : tuple of int
    rng : numpy.random.Generator
        Not drawn from.
    dtype : data-type, default float32

    Returns
    -------
    ndarray of the given shape
    """
    return np.zeros(shape, dtype)


def ones(shape: Shape, rng: np.random.Generator, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Return ones.

    Parameters
    ----------
    shape : tuple of int
    rng : numpy.random.Generator
        Not drawn from.
    dtype : data-type, default float32

    Returns
    -------
    ndarray of the given shape
    """
    return np.ones(shape, dtype)


def normal(std: float) -> Initializer:
    """Make an initializer that draws from a normal distribution of this standard deviation.

    Parameters
    ----------
    std : float

    Returns
    -------
    callable
        Its name, by which layers may ask for it, is `"normal(0.01)"` for `std=0.01`.

    Raises
    ------
    UsageError
        If the standard deviation is negative or not finite.

    Examples
    --------
    >>> normal(0.01).__name__
    'normal(0.01)'
    """
    if not 0 <= std < math.inf:
        raise UsageError(f"initializer normal: expected a standard deviation >= 0, got {std}")

    def initializer(shape: Shape, rng: np.random.Generator, dtype: DTypeLike = np.float32) -> np.ndarray:
        return _normal(shape, rng, dtype, std)

    initializer.__name__ = f"normal({std!r})"
    return initializer


NAMED: dict[str, Initializer] = {
    "he_normal": he_normal,
    "he_uniform": he_uniform,
    "xavier_normal": xavier_normal,
    "xavier_uniform": xavier_uniform,
    "torch_default_weight": torch_default_weight,
    "dirac": dirac,
    "zeros": zeros,
    "ones": ones,
}


def get(initializer: str | Initializer) -> Initializer:
    """Return an initializer by its name; a callable is returned as it is.

    Parameters
    ----------
    initializer : str or callable
        A name of this module, `"normal(0.01)"` with any number included.

    Returns
    -------
    callable

    Raises
    ------
    UsageError
        If the name is unknown; the nearest one is proposed.

    Examples
    --------
    >>> get("he_normal") is he_normal
    True
    """
    if callable(initializer):
        return initializer
    if initializer in NAMED:
        return NAMED[initializer]
    if match := re.fullmatch(r"normal\(([0-9.eE+-]+)\)", str(initializer)):
        try:
            return normal(float(match[1]))
        except ValueError as error:
            raise UsageError(f"initializer {initializer!r}: expected a number >= 0 in the brackets") from error
    raise UsageError(f"unknown initializer {initializer!r}{did_you_mean(initializer, [*NAMED, 'normal(STD)'])}")


def _fans(shape: Shape) -> tuple[int, int]:
    if len(shape) < 2 or 0 in shape:
        raise UsageError(f"initializer: expected a weight of shape (out, in, ...), got {shape}")
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def _normal(shape: Shape, rng: np.random.Generator, dtype: DTypeLike, std: float) -> np.ndarray:
    draws = rng.standard_normal(shape, dtype)  # type: ignore[arg-type]
    draws *= std
    return draws


def _uniform(shape: Shape, rng: np.random.Generator, dtype: DTypeLike, bound: float) -> np.ndarray:
    draws = rng.random(shape, dtype)  # type: ignore[arg-type]
    draws *= 2 * bound
    draws -= bound
    return draws
