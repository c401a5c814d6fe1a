"""Reading one image from a file that may be anything."""

import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nnkit.errors import DataError

MAX_PIXELS = 64_000_000  # of an image to be decoded: larger than any camera's, small enough for any memory
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def open_image(
    source: str | Path | BinaryIO,
    size: int | tuple[int, int] | None = None,
    *,
    formats: tuple[str, ...] = FORMATS,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Read an image as RGB, whatever its own colours are.

    Grayscale (of 8 or 16 bits), palette and CMYK images are converted, transparent parts are put on white, and the
    camera's orientation is applied.

    Parameters
    ----------
    source : str, Path or binary file
    size : int or (height, width), optional
        Scale to this size; what is too long in one direction is cut off equally at both ends.
    formats : tuple of str
        What is read, in Pillow's names. What a file is shows when it is decoded; its name says nothing.
    max_pixels : int, default 64 million

    Returns
    -------
    ndarray of shape (H, W, 3)
        uint8.

    Raises
    ------
    DataError
        If the file is missing, is no image, is damaged, or has more pixels than that (which is found out before any
        of them is decoded).
    """
    from PIL import Image, ImageOps

    name = f"'{source}'" if isinstance(source, str | Path) else "the file"
    try:
        # Pillow warns of large images and of odd metadata; what matters of that is an error below.
        with warnings.catch_warnings(action="ignore"), Image.open(source, formats=formats) as image:
            if image.width * image.height > max_pixels:
                raise DataError(f"{name} has {image.width} × {image.height} pixels, the limit is {max_pixels:,}")
            rgb = _to_rgb(ImageOps.exif_transpose(image))
            if size is not None:
                height, width = (size, size) if isinstance(size, int) else size
                rgb = ImageOps.fit(rgb, (width, height), Image.Resampling.BICUBIC)
            return np.array(rgb, np.uint8)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        received = str(error).partition(" exceeds")[0].lower()
        raise DataError(f"{name} is too large: {received}, the limit is {max_pixels:,}") from None
    except Image.UnidentifiedImageError:
        raise DataError(f"{name} is no image, expected {', '.join(formats)}") from None
    except FileNotFoundError:
        raise DataError(f"{name} does not exist") from None
    except IsADirectoryError:
        raise DataError(f"{name} is a folder, expected an image") from None
    except Exception as error:  # a damaged file can make a decoder fail in any way
        raise DataError(f"cannot read {name}: {' '.join(str(error).split())[:200] or type(error).__name__}") from None


def _to_rgb(image: Any) -> Any:
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits, where Pillow's own conversion would clip instead of scale
        values = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise DataError(f"'{image.filename}' has floating-point pixels, expected whole numbers")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
