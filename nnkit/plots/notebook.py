"""A figure as notebooks show it."""

import io
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def notebook_png(figure: "Figure") -> tuple[bytes, dict[str, Any]]:
    """Return a figure as a PNG, with what a notebook wants to know of it: its width and a text for it.

    This is what a `_repr_png_` method returns.

    Parameters
    ----------
    figure : matplotlib.figure.Figure

    Returns
    -------
    png : bytes
    metadata : dict
        `width` in CSS pixels, 96 to the inch, so that the picture is sharp on screens with finer ones; `alt`.

    Examples
    --------
    >>> from nnkit import plots
    >>> png, metadata = plots.notebook_png(plots.confusion_matrix([[9, 1], [2, 8]], ["cat", "dog"]))
    >>> metadata["alt"]
    '85.0% of 20 images are recognised'
    """
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # as in `save`
        figure.savefig(file, format="png")
    return file.getvalue(), {"width": round(96 * figure.get_size_inches()[0]), "alt": figure.get_suptitle()}
