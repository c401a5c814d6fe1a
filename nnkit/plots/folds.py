"""The curves of a cross-validation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkit.plots.curves import finite
from nnkit.plots.style import BLUE, INK, ORANGE, headed_figure, in_house_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@in_house_style
def fold_curves(histories: Sequence[Any]) -> "Figure":
    """Draw the folds' losses and accuracies over the epochs: thin lines for each fold, thick ones for the mean.

    Parameters
    ----------
    histories : sequence of History or mapping
        One a fold, each as `training_curves` takes it; they may have different numbers of epochs.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When there is no fold, or one of them has no epoch.

    Examples
    --------
    >>> from nnkit import plots
    >>> first = {"epoch": [1, 2], "train_loss": [2.0, 1.5], "train_accuracy": [0.3, 0.5],
    ...          "val_loss": [1.9, 1.6], "val_accuracy": [0.35, 0.45]}
    >>> second = {**first, "val_accuracy": [0.35, 0.41]}
    >>> plots.fold_curves([first, second]).get_suptitle()
    'Validation accuracy 43.0% ± 2.8% over 2 folds'
    """
    if not histories or not all(len(history["epoch"]) for history in histories):
        raise ValueError("histories: expected at least one fold, and an epoch of each, got none")
    best = np.array([np.nanmax(finite(history["val_accuracy"])) for history in histories])
    spread = f" ± {best.std(ddof=1):.1%}" if len(best) > 1 else ""
    title = f"Validation accuracy {best.mean():.1%}{spread} over {len(best)} fold{'s' * (len(best) > 1)}"
    low, high = int(best.argmin()), int(best.argmax())
    subtitle = f"Best epoch of each fold: from {best[low]:.1%} (fold {low + 1}) to {best[high]:.1%} (fold {high + 1})."
    figure = headed_figure(8.8, 3.4, title, subtitle if len(best) > 1 else "")
    panels = zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True)
    for axes, name in panels:
        _folds_panel(axes, histories, name)
    figure.axes[0].legend(frameon=False, labelcolor=INK, fontsize=9, handlelength=4)
    return figure


def _folds_panel(axes: "Axes", histories: Sequence[Any], name: str) -> None:
    from matplotlib.ticker import MaxNLocator

    longest = max(len(history["epoch"]) for history in histories)
    epochs = np.arange(1, longest + 1)
    for part, label, color, dashes in (("train", "training", BLUE, "--"), ("val", "validation", ORANGE, "-")):
        curves = np.full((len(histories), longest), np.nan)
        for curve, history in zip(curves, histories, strict=True):
            values = finite(history[f"{part}_{name}"])
            curve[: len(values)] = values
            axes.plot(epochs, curve, dashes, color=color, alpha=0.35, linewidth=0.9)
        # Where some folds have ended, a mean of the others would jump.
        whole = ~np.isnan(curves).any(axis=0)
        mean = curves[:, whole].mean(axis=0)
        axes.plot(epochs[whole], mean, dashes, color=color, label=f"{label}, mean", marker="o" if longest == 1 else "")
    if name == "accuracy":
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    margin = min(0.35 + 0.01 * longest, 0.9)
    axes.set_xlim(1 - margin, longest + margin)
    axes.grid(visible=True)
    axes.set_title(name.capitalize())
    axes.set_xlabel("Epoch")
