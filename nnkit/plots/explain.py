"""Pictures of what an answer rests on, as `nnkit.explain` works it out."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from nnkit.plots.images import caption, check_examples, displayable
from nnkit.plots.style import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    UNDER,
    cell_grid,
    in_house_style,
    shorten,
    show_image,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LUMINANCE = np.array([0.299, 0.587, 0.114])  # of red, green and blue, as the eye weighs them
_LEAST_SCALE = 0.01  # the strongest blue or orange is never less than this, lest nothing look like something


@in_house_style
def overlay(
    image: ArrayLike, heat: ArrayLike, *, scale: float | None = None, title: str = "", ax: "Axes | None" = None
) -> "Figure":
    """Lay one map of what matters over its image, which turns gray.

    A map without negative values, as Grad-CAM's, glows from dark to yellow. One with both signs, as occlusion's, is
    blue where the image speaks for the class and orange where it speaks against it.

    Parameters
    ----------
    image : array_like of shape (H, W, C), (C, H, W) or (H, W), uint8 or float
        Grayscale or RGB. A float image is shown as it is when all of it lies in 0…1, otherwise stretched to it.
    heat : array_like of float, shape (H, W)
    scale : float, optional
        The value of the strongest colour; by default the map's largest, without its sign.
    title : str, optional
        By default, in a figure of its own, in how small a part of the image half of the map lies.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default in a figure of its own.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When the map is not as large as the image.

    Examples
    --------
    >>> import numpy as np
    >>> from nnkit import plots
    >>> figure = plots.overlay(np.zeros((8, 8, 3), np.uint8), np.eye(8), title="What makes it a cat")
    >>> figure.get_suptitle()
    'What makes it a cat'
    """
    image, heat = np.asarray(image), np.asarray(heat)
    (mixed,) = _mixed(_one_image(image), heat[None], scale)
    if ax is None:
        _, (ax,) = cell_grid(1, 1, 4.64, 0.0, title or _concentration(heat[None]))
    elif title:
        ax.set_title(title)
    show_image(ax, mixed)
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


@in_house_style
def explanations(
    images: ArrayLike,
    maps: Mapping[str, ArrayLike],
    labels: ArrayLike,
    probabilities: ArrayLike,
    class_names: Sequence[str],
    *,
    count: int = 6,
) -> "Figure":
    """Show images with what the net took them for, and beside each the maps of what that answer rests on.

    Parameters
    ----------
    images : array_like of shape (N, H, W, C), (N, C, H, W) or (N, H, W), uint8 or float
    maps : mapping of str to array_like of shape (N, H, W)
        Such as `{"Grad-CAM": ..., "occlusion": ...}`, for the predicted classes; drawn as `overlay` does.
    labels : array_like of int, shape (N,)
    probabilities : array_like of float, shape (N, K)
    class_names : sequence of str, K long
    count : int, default 6
        How many images at most, from the first one on.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When the lengths or sizes disagree, there is no image or no map, or a label is not in 0…K-1.

    Examples
    --------
    >>> import numpy as np
    >>> from nnkit import plots
    >>> images, heat = np.zeros((2, 8, 8, 3), np.uint8), np.tile(np.eye(8), (2, 1, 1))
    >>> plots.explanations(images, {"Grad-CAM": heat}, [0, 1], [[0.9, 0.1], [0.8, 0.2]], ["cat", "dog"]).get_suptitle()
    'Half of what speaks for the answers lies in 6% of the picture'
    """
    images, labels, shares, names = check_examples(images, labels, probabilities, class_names, count)
    heats = {kind: np.asarray(heat) for kind, heat in maps.items()}
    if not heats:
        raise ValueError("maps: expected at least one, got none")
    images = displayable(images[:count])
    kinds, mixed, notes = [], [], ["The bar is the net's confidence."]
    for kind, heat in heats.items():
        if heat.shape[:1] != labels.shape:
            raise ValueError(f"maps: expected {len(labels)} of {kind!r}, one for each image, got {heat.shape}")
        heat = heat[:count]
        signed = bool((heat < 0).any())
        scale = max(float(np.abs(np.nan_to_num(heat)).max()), _LEAST_SCALE) if signed else None
        kinds.append(kind)
        mixed.append(_mixed(images, heat, scale))
        word = kind if kind[:1].isupper() else kind.capitalize()
        if scale is None:
            notes.append(f"{word}: the brighter, the more it speaks for the answer.")
        else:
            notes.append(
                f"{word}: blue speaks for it, orange against; full colour is {100 * scale:.2g} percentage points."
            )
    wide = 1 + len(kinds)
    blocks = min(len(images), max(1, 6 // wide))
    title = _concentration(next(iter(heats.values()))[:count])
    figure, cells = cell_grid(len(images) * wide, blocks * wide, 1.5, 0.56, title, " ".join(notes))
    for i, image in enumerate(images):
        plain, *others = cells[i * wide : (i + 1) * wide]
        show_image(plain, image)
        caption(plain, image.shape[:2], int(labels[i]), np.nan_to_num(shares[i]), names)
        for axes, kind, pictures in zip(others, kinds, mixed, strict=True):
            show_image(axes, pictures[i])
            axes.annotate(shorten(kind, 20), (0, 0), (0, -9), **UNDER, color=MUTED)
    return figure


@in_house_style
def feature_maps(maps: ArrayLike, image: ArrayLike | None = None, *, layer: str = "", count: int = 32) -> "Figure":
    """Show what a layer makes of one image: each of its maps as a picture.

    Each map is scaled by its own largest value. Of more maps than `count`, those with the largest values are shown.

    Parameters
    ----------
    maps : array_like of shape (C, H, W)
        One image's, as `nnkit.explain.feature_maps(model, x)[0]` gives them.
    image : array_like, optional
        The image itself, as for `overlay`; shown before its maps.
    layer : str, optional
        The layer's name, for the heading.
    count : int, default 32

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When the maps are not of shape (C, H, W), or the image is none.

    Examples
    --------
    >>> import numpy as np
    >>> from nnkit import plots
    >>> plots.feature_maps(np.eye(4)[:3, None], layer="relu1").get_suptitle()
    'All 3 maps of relu1 answer to this image'
    """
    values = np.nan_to_num(np.asarray(maps, np.float64), posinf=0.0, neginf=0.0)
    if values.ndim != 3 or not values.size:
        raise ValueError(f"maps: expected shape (C, H, W), got {values.shape}")
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    total, largest = len(values), np.abs(values).max(axis=(1, 2))
    silent, of_layer = int((largest == 0).sum()), f" of {shorten(' '.join(layer.split()), 30)}" if layer else ""
    title = f"All {total} maps{of_layer} answer to this image"
    if silent:
        title = f"{silent} of {total} maps{of_layer} {'is' if silent == 1 else 'are'} 0 all over this image"
    if silent == total:
        title = f"No map{of_layer} answers to this image"
    signed = bool((values < 0).any())
    tones = "Gray is zero, white and black are plus and minus" if signed else "Black is zero, white is"
    notes = [f"{tones} each map's largest value."]
    chosen = np.sort(np.argsort(-largest, kind="stable")[:count])
    if total > count:
        notes.append(f"The {count} maps with the largest values.")
    pictures = values[chosen] / np.where(largest > 0, largest, 1)[chosen, None, None]
    pictures = 0.5 + pictures / 2 if signed else pictures
    shown = [(f"{channel}", picture[..., None]) for channel, picture in zip(chosen, pictures, strict=True)]
    if image is not None:
        shown.insert(0, ("the image", _one_image(np.asarray(image))[0]))
    columns = min(len(shown), 8) if len(shown) <= 11 else min(range(11, 5, -1), key=lambda each: -len(shown) % each)
    figure, cells = cell_grid(len(shown), columns, 0.92, 0.22, title, " ".join(notes))
    for axes, (name, picture) in zip(cells, shown, strict=True):
        show_image(axes, picture)
        axes.annotate(name, (0, 0), (0, -2), **UNDER, color=INK if name == "the image" else MUTED)
    return figure


def _one_image(image: np.ndarray) -> np.ndarray:
    """Return an image as (1, H, W, C) with values in 0…1."""
    image = image[..., None] if image.ndim == 2 else image
    return displayable(check_examples(image[None], [0], [[1.0]], [""], 1)[0])


def _mixed(images: np.ndarray, heat: np.ndarray, scale: float | None) -> np.ndarray:
    """Return gray images (N, H, W, 3) under their maps; without a scale each map has its own."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    if heat.shape != images.shape[:3]:
        size, got = images.shape[1:3], heat.shape[1:]
        raise ValueError(f"heat: expected a map of the image's size {size}, got one of shape {got}")
    heat = np.nan_to_num(heat.astype(np.float64), posinf=0.0, neginf=0.0)
    gray = images @ _LUMINANCE if images.shape[3] == 3 else images[..., 0]
    largest = np.abs(heat).max(axis=(1, 2), keepdims=True) if scale is None else scale
    heat = np.clip(heat / np.where(largest == 0, 1, largest), -1, 1)
    gray, share = gray[..., None], np.abs(heat)[..., None]
    if (heat < 0).any():
        colour = np.where(heat[..., None] > 0, to_rgb(BLUE), to_rgb(ORANGE))
        return (1 - 0.85 * share) * gray + 0.85 * share * colour
    return 0.5 * gray + 0.5 * colormaps["inferno"](heat)[..., :3]


def _concentration(heat: np.ndarray) -> str:
    """Say in how small a part of an image half of its map lies: the median of the images for which anything speaks."""
    answers = "answers" if len(heat) > 1 else "answer"
    weights = -np.sort(-np.maximum(np.nan_to_num(heat, posinf=0.0), 0).reshape(len(heat), -1), axis=1)
    weights = weights[weights[:, 0] > 0]
    if not len(weights):
        return f"Nothing in {'these images' if len(heat) > 1 else 'this image'} speaks for the {answers}"
    reached = np.cumsum(weights, axis=1) >= weights.sum(axis=1, keepdims=True) / 2
    part = float(np.median((reached.argmax(axis=1) + 1) / weights.shape[1]))
    return f"Half of what speaks for the {answers} lies in {part:.0%} of the picture"
