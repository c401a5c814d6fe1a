"""Many small images, such as filters, put together into one to look at."""

import math
from collections.abc import Sequence

import numpy as np


def visualize_grid(Xs: np.ndarray, ubound: float = 255.0, padding: int = 1) -> np.ndarray:
    """Arrange images in a square, each scaled by itself to the range from 0 to ubound.

    Parameters
    ----------
    Xs : ndarray of shape (N, H, W, C)
    ubound : float, default 255
    padding : int, default 1
        Black pixels between neighbours.

    Returns
    -------
    ndarray of shape (A * H + padding * (A - 1), A * W + padding * (A - 1), C), with A the square root of N, rounded up

    Examples
    --------
    >>> import numpy as np
    >>> visualize_grid(np.arange(5 * 2 * 2 * 3.0).reshape(5, 2, 2, 3)).shape
    (8, 8, 3)
    """
    count, height, width, channels = Xs.shape
    side = math.ceil(math.sqrt(count))
    grid = np.zeros((side * (height + padding) - padding, side * (width + padding) - padding, channels))
    for n, image in enumerate(Xs):
        top, left = n // side * (height + padding), n % side * (width + padding)
        grid[top : top + height, left : left + width] = ubound * _to_unit(image)
    return grid


def vis_grid(Xs: np.ndarray) -> np.ndarray:
    """Arrange images in a square, all scaled together to the range from 0 to 1; one pixel after each.

    Parameters
    ----------
    Xs : ndarray of shape (N, H, W, C)

    Returns
    -------
    ndarray of shape (A * (H + 1), A * (W + 1), C), with A the square root of N, rounded up

    Examples
    --------
    >>> import numpy as np
    >>> vis_grid(np.arange(8.0).reshape(2, 2, 2, 1)).shape
    (6, 6, 1)
    """
    side = math.ceil(math.sqrt(len(Xs)))
    return vis_nn([list(Xs[start : start + side]) for start in range(0, side * side, side)])


def vis_nn(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Arrange rows of images, all scaled together to the range from 0 to 1; one pixel after each.

    Parameters
    ----------
    rows : sequence of sequences of ndarray of shape (H, W, C)
        The first row is the longest.

    Returns
    -------
    ndarray of shape (R * (H + 1), D * (W + 1), C), for R rows of D images

    Examples
    --------
    >>> import numpy as np
    >>> image = np.arange(4.0).reshape(2, 2, 1)
    >>> vis_nn([[image, image], [image, image]]).shape
    (6, 6, 1)
    """
    first = rows[0][0]
    height, width, channels = first.shape
    lowest = min(image.min() for row in rows for image in row)
    grid = np.full((len(rows) * (height + 1), len(rows[0]) * (width + 1), channels), lowest, first.dtype)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + 1), j * (width + 1)
            grid[top : top + height, left : left + width] = image
    return _to_unit(grid)


def _to_unit(image: np.ndarray) -> np.ndarray:
    """Scale to the range from 0 to 1; one without any contrast becomes 0."""
    values = image.astype(np.result_type(image, np.float32), copy=False)
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)
