"""Pictures of a first layer's weights."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from nnkit.plots.style import INK, UNDER, cell_grid, in_house_style, one_line_names, shorten, show_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_FILTERS = 64


@in_house_style
def filters(
    weight: ArrayLike, *, input_shape: tuple[int, int, int] | None = None, class_names: Sequence[str] | None = None
) -> "Figure":
    """Show what the first layer looks for: each filter as an image whose middle gray is zero.

    Each filter is scaled by its own largest weight. Of more than 64 filters those with the largest weights are shown.

    Parameters
    ----------
    weight : array_like of shape (O, I, KH, KW) or (O, features)
        Of a convolution or of a fully connected layer.
    input_shape : (C, H, W), optional
        Of the images; needed for a fully connected layer, whose weights are drawn as one template an output.
    class_names : sequence of str, optional
        Captions for the templates of a linear classifier; a layer with another number of outputs is a hidden one and
        gets none.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When the weight has another number of axes, or input_shape is missing or does not fit it.

    Examples
    --------
    >>> import numpy as np
    >>> from nnkit import plots
    >>> plots.filters(np.ones((32, 3, 7, 7))).get_suptitle()
    'What the first layer looks for: 32 filters of 7×7 pixels'
    """
    kernels = _as_kernels(np.asarray(weight), input_shape)
    total, channels, height, width = kernels.shape
    linear = np.ndim(weight) == 2
    classifies = linear and class_names is not None and len(class_names) == total
    names = one_line_names(class_names, total) if classifies else None
    kind = "templates" if linear else "filters"
    title = f"What the first layer looks for: {total} {kind} of {height}×{width} pixels"
    notes = ["Gray is zero; each is scaled by its largest weight."]
    chosen = np.arange(total)
    if total > _MOST_FILTERS:  # first of all, as there may be a gigabyte of them
        strength = np.nan_to_num(np.einsum("ochw,ochw->o", kernels, kernels))
        strongest = np.argsort(-strength, kind="stable")
        chosen = np.sort(strongest[:_MOST_FILTERS])
    kernels = np.nan_to_num(kernels[chosen].astype(np.float64))
    if channels not in (1, 3):
        kernels, notes = kernels.mean(axis=1, keepdims=True), [*notes, f"Mean over {channels} input channels."]
    if total > _MOST_FILTERS:
        notes.append(f"The {_MOST_FILTERS} with the largest weights.")
    largest = np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    images = (0.5 + kernels / np.where(largest > 0, 2 * largest, 1)).transpose(0, 2, 3, 1)
    columns = min(8, len(chosen)) if names is None else min(5, len(chosen))
    size = 0.92 if names is None else 1.5
    figure, cells = cell_grid(len(chosen), columns, size, 0.12 if names is None else 0.4, title, " ".join(notes))
    for axes, image, index in zip(cells, images, chosen, strict=True):
        show_image(axes, image)
        if names is not None:
            axes.annotate(shorten(names[index], 20), (0, 0), (0, -6), **UNDER, color=INK)
    return figure


def _as_kernels(weight: np.ndarray, input_shape: tuple[int, int, int] | None) -> np.ndarray:
    """Return the weights as (O, C, H, W)."""
    if not weight.size:
        raise ValueError(f"weight: expected at least one filter, got shape {weight.shape}")
    if weight.ndim == 2 and input_shape is not None:
        if weight.shape[1] != math.prod(input_shape):
            raise ValueError(
                f"input_shape: {input_shape} has {math.prod(input_shape)} values, the weight {weight.shape[1]} features"
            )
        return weight.reshape(-1, *input_shape)
    if weight.ndim == 4:
        return weight
    raise ValueError(
        "weight: expected (O, I, KH, KW), or (O, features) together with input_shape, "
        f"got shape {weight.shape} and input_shape {input_shape}"
    )
