"""The class of all our figures; it needs Matplotlib, and so is imported where the first one is made."""

from typing import Any

from matplotlib.figure import Figure

from nnkit.plots.notebook import notebook_png


class NotebookFigure(Figure):
    """A figure that a notebook shows at the end of a cell, though it is not one of pyplot's."""

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        return notebook_png(self)
