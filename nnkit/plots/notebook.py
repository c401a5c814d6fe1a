"""A figure as notebooks show it."""

import io
from typing import TYPE_CHECKING, Any

from nnkit.plots.style import house_style

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
        `width` in CSS pixels, 96 to the inch, of which the picture has more; `alt`.

    Examples
    --------
    >>> from nnkit import plots
    >>> png, metadata = plots.notebook_png(plots.confusion_matrix([[9, 1], [2, 8]], ["cat", "dog"]))
    >>> metadata["alt"]
    '85.0% of 20 images are recognised'
    """
    file = io.BytesIO()
    with house_style():
        figure.savefig(file, format="png", dpi=120)
    return file.getvalue(), {"width": round(96 * figure.get_size_inches()[0]), "alt": figure.get_suptitle()}
