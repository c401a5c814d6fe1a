"""Images to columns and back, by index arrays: how a convolution becomes one matrix product."""

import numpy as np


def get_im2col_indices(
    x_shape: tuple[int, int, int, int], field_height: int, field_width: int, padding: int = 1, stride: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where the entries of the column matrix come from: `cols[r, p] = padded[n, k[r], i[r, p], j[r, p]]`.

    A row r stands for one weight of a filter: a channel, and a place in the field. A column p stands for one position
    of the field on the image. The pixel's row is the field's upper edge plus the place's row in the field, and the same
    holds for columns.

    Parameters
    ----------
    x_shape : tuple (N, C, H, W)
    field_height, field_width : int
    padding, stride : int, default 1

    Returns
    -------
    k : ndarray of shape (C * field_height * field_width, 1)
        Channels.
    i, j : ndarray of shape (C * field_height * field_width, out_height * out_width)
        Rows and columns in the padded image.

    Examples
    --------
    >>> k, i, j = get_im2col_indices((1, 1, 3, 3), 2, 2, padding=0)
    >>> i[:, 3].tolist(), j[:, 3].tolist()
    ([1, 1, 2, 2], [1, 2, 1, 2])
    """
    _, channels, height, width = x_shape
    out_height = (height + 2 * padding - field_height) // stride + 1
    out_width = (width + 2 * padding - field_width) // stride + 1
    k, rows, columns = (axis.reshape(-1, 1) for axis in np.indices((channels, field_height, field_width)))
    top, left = (stride * axis.reshape(1, -1) for axis in np.indices((out_height, out_width)))
    return k, rows + top, columns + left


def im2col_indices(x: np.ndarray, field_height: int, field_width: int, padding: int = 1, stride: int = 1) -> np.ndarray:
    """Write every window of the images into a column of one matrix.

    Parameters
    ----------
    x : ndarray of shape (N, C, H, W)
    field_height, field_width : int
    padding, stride : int, default 1

    Returns
    -------
    ndarray of shape (C * field_height * field_width, out_height * out_width * N)
        Rows go by channel, then field row, then field column; columns by position, and fastest by image.

    Examples
    --------
    >>> import numpy as np
    >>> im2col_indices(np.arange(9).reshape(1, 1, 3, 3), 2, 2, padding=0)
    array([[0, 1, 3, 4],
           [1, 2, 4, 5],
           [3, 4, 6, 7],
           [4, 5, 7, 8]])
    """
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    k, i, j = get_im2col_indices(x.shape, field_height, field_width, padding, stride)
    windows = padded[:, k, i, j]  # (N, rows, positions)
    return windows.transpose(1, 2, 0).reshape(k.size, -1)


def col2im_indices(
    cols: np.ndarray,
    x_shape: tuple[int, int, int, int],
    field_height: int = 3,
    field_width: int = 3,
    padding: int = 1,
    stride: int = 1,
) -> np.ndarray:
    """Add every column back to the window that it came from: the transpose of `im2col_indices`, which gradients need.

    A pixel that is in several windows gets the sum of all its copies.

    Parameters
    ----------
    cols : ndarray of shape (C * field_height * field_width, out_height * out_width * N)
    x_shape : tuple (N, C, H, W)
    field_height, field_width : int, default 3
    padding, stride : int, default 1

    Returns
    -------
    ndarray of shape (N, C, H, W)

    Examples
    --------
    >>> import numpy as np
    >>> col2im_indices(np.ones((4, 4)), (1, 1, 3, 3), 2, 2, padding=0)[0, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    images, channels, height, width = x_shape
    padded = np.zeros((images, channels, height + 2 * padding, width + 2 * padding), cols.dtype)
    k, i, j = get_im2col_indices(x_shape, field_height, field_width, padding, stride)
    for image, columns in zip(padded, cols.reshape(k.size, -1, images).transpose(2, 0, 1), strict=True):
        np.add.at(image, (k, i, j), columns)  # unlike `image[k, i, j] += columns`, it counts every copy
    return padded[:, :, padding : padding + height, padding : padding + width]
