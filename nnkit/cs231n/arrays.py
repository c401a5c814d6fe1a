"""What notebooks pass as arrays, made ready for nnkit's functions."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def as_floats(*arrays: ArrayLike) -> list[Any]:
    """Convert to one floating type, by NumPy's rules; integers alone become float64. Nothing is copied needlessly.

    Parameters
    ----------
    *arrays : array_like

    Returns
    -------
    list of ndarray, all float32 or all float64

    Examples
    --------
    >>> import numpy as np
    >>> [a.dtype.name for a in as_floats(np.ones(2, np.float32), np.array([0, 128]))]
    ['float64', 'float64']
    """
    converted = [np.asarray(array) for array in arrays]
    dtype = np.result_type(*converted)
    if dtype not in (np.float32, np.float64):
        dtype = np.dtype(np.float64)
    return [array.astype(dtype, copy=False) for array in converted]
