"""The functions of the course's compiled extension, by strided views: nothing needs to be compiled for them."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def im2col_cython(x: np.ndarray, field_height: int, field_width: int, padding: int, stride: int) -> np.ndarray:
    """Write every window of the images into a column of one matrix, in the order of `im2col.im2col_indices`.

    Parameters
    ----------
    x : ndarray of shape (N, C, H, W)
    field_height, field_width, padding, stride : int

    Returns
    -------
    ndarray of shape (C * field_height * field_width, out_height * out_width * N)

    Examples
    --------
    >>> import numpy as np
    >>> im2col_cython(np.arange(9).reshape(1, 1, 3, 3), 2, 2, 0, 1)
    array([[0, 1, 3, 4],
           [1, 2, 4, 5],
           [3, 4, 6, 7],
           [4, 5, 7, 8]])
    """
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(padded, (field_height, field_width), axis=(2, 3))[:, :, ::stride, ::stride]
    return windows.transpose(1, 4, 5, 2, 3, 0).reshape(x.shape[1] * field_height * field_width, -1)


def col2im_cython(
    cols: np.ndarray,
    N: int,
    C: int,
    H: int,
    W: int,
    field_height: int,
    field_width: int,
    padding: int,
    stride: int,
) -> np.ndarray:
    """Add every column back to its window: the transpose of `im2col_cython`.

    Parameters
    ----------
    cols : ndarray of shape (C * field_height * field_width, out_height * out_width * N)
    N, C, H, W : int
        The images' shape.
    field_height, field_width, padding, stride : int

    Returns
    -------
    ndarray of shape (N, C, H, W)

    Examples
    --------
    >>> import numpy as np
    >>> col2im_cython(np.ones((4, 4)), 1, 1, 3, 3, 2, 2, 0, 1)[0, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    out_height = (H + 2 * padding - field_height) // stride + 1
    out_width = (W + 2 * padding - field_width) // stride + 1
    split = cols.reshape(C, field_height, field_width, out_height, out_width, N)
    return col2im_6d_cython(split.transpose(0, 1, 2, 5, 3, 4), N, C, H, W, field_height, field_width, padding, stride)


def col2im_6d_cython(
    cols: np.ndarray, N: int, C: int, H: int, W: int, HH: int, WW: int, pad: int, stride: int
) -> np.ndarray:
    """Add every window back to the images, from an array with one axis for each index.

    Parameters
    ----------
    cols : ndarray of shape (C, HH, WW, N, out_height, out_width)
    N, C, H, W : int
        The images' shape.
    HH, WW, pad, stride : int

    Returns
    -------
    ndarray of shape (N, C, H, W)

    Examples
    --------
    >>> import numpy as np
    >>> col2im_6d_cython(np.ones((1, 2, 2, 1, 2, 2)), 1, 1, 3, 3, 2, 2, 0, 1)[0, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    out_height, out_width = cols.shape[4:]
    padded = np.zeros((C, N, H + 2 * pad, W + 2 * pad), cols.dtype)
    for row in range(HH):
        for column in range(WW):
            rows = slice(row, row + stride * (out_height - 1) + 1, stride)
            columns = slice(column, column + stride * (out_width - 1) + 1, stride)
            padded[:, :, rows, columns] += cols[:, row, column]
    return padded[:, :, pad : pad + H, pad : pad + W].transpose(1, 0, 2, 3)
