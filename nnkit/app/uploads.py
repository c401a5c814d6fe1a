"""Pictures from strangers: read if they are what they should be, refused in one line if not."""

import io
import threading

import numpy as np

from nnkit.data import open_image
from nnkit.errors import DataError

FORMATS = ("PNG", "JPEG")
MAX_MEGABYTES = 10
MAX_PIXELS = 50_000_000  # more than a telephone's camera makes
MAX_PICTURES = 12  # at the same time

_decoding = threading.Lock()  # one at a time, so that many visitors need no more memory than one


def read_upload(content: bytes, size: tuple[int, int]) -> np.ndarray:
    """Decode a picture, and scale it to the size that a model wants.

    What a file is shows when it is decoded: neither its name nor the browser's word for its type is asked.

    Parameters
    ----------
    content : bytes
        Of the file.
    size : (height, width)

    Returns
    -------
    ndarray of shape (height, width, 3)
        uint8.

    Raises
    ------
    DataError
        It is too large, in bytes or in pixels, neither PNG nor JPEG, or damaged. Nothing is decoded before the size is
        known to be right.
    """
    if len(content) > MAX_MEGABYTES * 2**20:
        raise DataError(f"the file has {len(content) / 2**20:.1f} MB, the limit is {MAX_MEGABYTES} MB")
    if not content:
        raise DataError("the file is empty")
    with _decoding:
        return open_image(io.BytesIO(content), size, formats=FORMATS, max_pixels=MAX_PIXELS)
