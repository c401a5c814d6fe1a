"""Features of images for linear classifiers: gradient histograms for texture, hue histograms for colour."""

from collections.abc import Callable, Sequence

import numpy as np

_CELL = 8  # pixels
_ORIENTATIONS = 9


def extract_features(
    imgs: np.ndarray, feature_fns: Sequence[Callable[[np.ndarray], np.ndarray]], verbose: bool = False
) -> np.ndarray:
    """Apply functions to every image and join what they return.

    Parameters
    ----------
    imgs : ndarray of shape (N, H, W, C)
    feature_fns : sequence of callable
        Each maps one image to a 1-D array of a fixed length.
    verbose : bool, default False
        Print the progress every 1000 images.

    Returns
    -------
    ndarray of shape (N, F)
        F is the sum of the lengths.

    Examples
    --------
    >>> import numpy as np
    >>> extract_features(np.ones((2, 4, 4, 3)), [lambda im: im.sum(axis=(0, 1)), np.ravel]).shape
    (2, 51)
    """
    if len(imgs) == 0:
        return np.array([])
    rows = []
    for i, image in enumerate(imgs):
        rows.append(np.concatenate([np.ravel(feature(np.squeeze(image))) for feature in feature_fns]))
        if verbose and i % 1000 == 999:
            print(f"Done extracting features for {i + 1} / {len(imgs)} images")
    return np.array(rows, np.float64)


def rgb2gray(rgb: np.ndarray) -> np.ndarray:
    """Weigh red, green and blue into gray: 0.299, 0.587 and 0.144.

    Blue's weight is the course's; the television standard BT.601, from which the other two are, has 0.114.

    Parameters
    ----------
    rgb : ndarray of shape (..., 3) or more channels, which are ignored

    Returns
    -------
    ndarray of shape (...)

    Examples
    --------
    >>> import numpy as np
    >>> float(rgb2gray(np.array([1.0, 0.0, 0.0])))
    0.299
    """
    return rgb[..., :3] @ np.array([0.299, 0.587, 0.144])


def hog_feature(im: np.ndarray) -> np.ndarray:
    """Histogram of oriented gradients: which way the edges run, cell by cell.

    The image is cut into cells of 8 × 8 pixels. In each, the gradients' magnitudes are averaged in 9 bins of 20
    degrees. As in the course, differences are taken to the right and lower neighbour, and only gradients towards the
    right count; those to the left, of the opposite sort of edge, do not.

    Dalal and Triggs, 2005: Histograms of Oriented Gradients for Human Detection.

    Parameters
    ----------
    im : ndarray of shape (H, W, 3) or (H, W)

    Returns
    -------
    ndarray of shape (H // 8 * (W // 8) * 9,)
        144 values for 32 × 32 pixels. Cells go down the columns of the image; orientations are fastest.

    Examples
    --------
    >>> import numpy as np
    >>> ramp = np.tile(np.arange(32.0), (32, 1))  # brighter towards the right: one orientation of 9 in each cell
    >>> feature = hog_feature(ramp)
    >>> feature.shape, np.flatnonzero(feature[:18]).tolist()
    ((144,), [4, 13])
    """
    gray = np.asarray(rgb2gray(im) if im.ndim == 3 else im, np.float64)
    dx, dy = np.zeros(gray.shape), np.zeros(gray.shape)
    dx[:, :-1] = np.diff(gray, axis=1)
    dy[:-1, :] = np.diff(gray, axis=0)
    magnitude = np.hypot(dx, dy)
    # A tiny dx decides for "right" where an edge is exactly horizontal.
    degrees = np.degrees(np.arctan2(dy, dx + 1e-15)) + 90
    bins = np.floor(degrees / (180 / _ORIENTATIONS)).astype(int)
    bins[degrees <= 0] = -1
    rows, columns = gray.shape[0] // _CELL, gray.shape[1] // _CELL
    inside = np.s_[: rows * _CELL, : columns * _CELL]
    weights = np.where(bins[inside][..., None] == np.arange(_ORIENTATIONS), magnitude[inside][..., None], 0)
    cells = weights.reshape(rows, _CELL, columns, _CELL, _ORIENTATIONS).mean(axis=(1, 3))
    return cells.transpose(1, 0, 2).ravel()


def color_histogram_hsv(
    im: np.ndarray, nbin: int = 10, xmin: float = 0, xmax: float = 255, normalized: bool = True
) -> np.ndarray:
    """Histogram of the hue: how much of the image has which colour.

    Parameters
    ----------
    im : ndarray of shape (H, W, 3)
        RGB from 0 to xmax.
    nbin : int, default 10
    xmin, xmax : float, default 0 and 255
        The range of the bins; hue is scaled to go from 0 to xmax.
    normalized : bool, default True
        Return fractions of the pixels rather than counts.

    Returns
    -------
    ndarray of shape (nbin,)

    Examples
    --------
    >>> import numpy as np
    >>> blue = np.zeros((4, 4, 3)) + [0, 0, 255]
    >>> color_histogram_hsv(blue)
    array([0., 0., 0., 0., 0., 0., 1., 0., 0., 0.])
    """
    hue = _hue(np.asarray(im, np.float64) / xmax) * xmax
    counts, _ = np.histogram(hue, bins=np.linspace(xmin, xmax, nbin + 1))
    return counts / max(counts.sum(), 1) if normalized else counts.astype(np.float64)


def _hue(rgb: np.ndarray) -> np.ndarray:
    """Return the angle on the colour wheel, from 0 (red) by 1/3 (green) and 2/3 (blue) to 1; grays get 0."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    largest, chroma = rgb[..., :3].max(axis=-1), np.ptp(rgb[..., :3], axis=-1)
    divisor = np.where(chroma > 0, chroma, 1)
    sixths = np.select(
        [chroma == 0, largest == blue, largest == green],
        [0, 4 + (red - green) / divisor, 2 + (blue - red) / divisor],
        (green - blue) / divisor,
    )
    return sixths / 6 % 1.0
