"""The curves of a training run."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkit.plots.style import BLUE, GREEN, INK, MUTED, ORANGE, headed_axes, headed_figure, in_house_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@in_house_style
def training_curves(history: Any) -> "Figure":
    """Draw loss and accuracy over the epochs, for training and validation, with the best epoch marked.

    Parameters
    ----------
    history : History or mapping
        `history["epoch"]` and likewise train_loss, train_accuracy, val_loss and val_accuracy are sequences of one
        value an epoch, accuracies from 0 to 1; None, NaN and infinities are left out.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When no epoch has ended yet.

    Examples
    --------
    >>> from nnkit import plots
    >>> history = {"epoch": [1, 2], "train_loss": [2.0, 1.5], "train_accuracy": [0.3, 0.5],
    ...            "val_loss": [1.9, 1.6], "val_accuracy": [0.35, 0.45]}
    >>> plots.training_curves(history).get_suptitle()
    'Best validation accuracy 45.0% in epoch 2'
    """
    names = ("epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy")
    epochs, *curves = (finite(history[name]) for name in names)
    if not epochs.size:
        raise ValueError("history: expected at least one epoch, got none")
    panels = [("Loss", "{:.3g}", curves[0], curves[1])]
    if not all(np.isnan(curve).all() for curve in curves[2:]):
        panels.append(("Accuracy", "{:.1%}", curves[2], curves[3]))
    best = _best_epoch(curves[1], curves[3])
    figure = headed_figure(4.4 * len(panels) if len(panels) > 1 else 6, 3.4, *_finding(epochs, curves, best))
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (label, form, training, validation) in zip(all_axes, panels, strict=True):
        _curves_panel(axes, epochs, training, validation, best, form)
        axes.set_title(label)
        axes.set_xlabel("Epoch")
    all_axes[0].legend(frameon=False, labelcolor=INK, fontsize=9, handlelength=4)  # long enough for dashes
    return figure


@in_house_style
def learning_rate(history: Any, *, ax: "Axes | None" = None) -> "Figure":
    """Draw the learning rate over the epochs.

    Parameters
    ----------
    history : History or mapping
        `history["epoch"]` and `history["lr"]` are sequences of one value an epoch.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default in a figure of its own.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When no epoch has ended yet.

    Examples
    --------
    >>> from nnkit import plots
    >>> plots.learning_rate({"epoch": [1, 2, 3], "lr": [0.001, 0.01, 0.0002]}).get_suptitle()
    'The learning rate is highest in epoch 2: 0.01'
    """
    epochs, rates = _column(history, "lr")
    first, last, top = rates[0], rates[-1], int(rates.argmax())
    title = f"The learning rate is highest in epoch {epochs[top]:.0f}: {rates[top]:.3g}"
    if rates.min() == rates.max():
        title = f"The learning rate is {first:.3g}" + " throughout" * (len(epochs) > 1)
    elif top == 0:
        title = f"The learning rate falls from {first:.3g} to {last:.3g}"
    elif top == len(epochs) - 1:
        title = f"The learning rate grows from {first:.3g} to {last:.3g}"
    figure, axes = headed_axes(ax, 5.2, 2.6, title, "Of the last step of each epoch.")
    _line(axes, epochs, rates)
    axes.set(xlabel="Epoch", ylabel="Learning rate")
    axes.set_ylim(bottom=0)
    return figure


@in_house_style
def gradient_norms(history: Any, *, ax: "Axes | None" = None) -> "Figure":
    """Draw the length of the gradient over the epochs.

    Parameters
    ----------
    history : History or mapping
        `history["epoch"]` and `history["grad_norm"]` are sequences of one value an epoch.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default in a figure of its own.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        When no epoch has ended yet.

    Examples
    --------
    >>> from nnkit import plots
    >>> plots.gradient_norms({"epoch": [1, 2, 3], "grad_norm": [2.0, 1.0, 0.5]}).get_suptitle()
    'The gradient shrinks from 2 to 0.5'
    """
    epochs, norms = _column(history, "grad_norm")
    first, last, top = norms[0], norms[-1], int(norms.argmax())
    title = f"The gradient is between {norms.min():.3g} and {norms.max():.3g} long"
    if norms.min() == norms.max():
        title = f"The gradient is {first:.3g} long"
    elif norms[top] > 5 * np.median(norms) and top:  # in the first epoch, a long one is usual
        title = f"The gradient leaps to {norms[top]:.3g} in epoch {epochs[top]:.0f}"
    elif last < 0.6 * first:
        title = f"The gradient shrinks from {first:.3g} to {last:.3g}"
    elif last > 1.7 * first:
        title = f"The gradient grows from {first:.3g} to {last:.3g}"
    figure, axes = headed_axes(ax, 5.2, 2.6, title, "Of the last step of each epoch, before clipping.")
    _line(axes, epochs, norms)
    _scale(axes, norms)
    axes.set(xlabel="Epoch", ylabel="Norm of the gradient")
    if axes.get_yscale() == "linear":
        axes.set_ylim(bottom=0)
    return figure


def _column(history: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the epochs that have a number in this column, and the numbers."""
    epochs, values = finite(history["epoch"]), finite(history[name])
    if not epochs.size:
        raise ValueError("history: expected at least one epoch, got none")
    if np.isnan(values).all():
        raise ValueError(f"history: expected a number in {name}, got none")
    known = ~np.isnan(values)
    return epochs[known], values[known]


def _line(axes: "Axes", epochs: np.ndarray, values: np.ndarray) -> None:
    """Draw one curve that is neither of training nor of validation images."""
    axes.plot(epochs, values, color=GREEN, marker="o" if len(epochs) <= 30 else "", clip_on=False)
    _label_epochs(axes, epochs)
    axes.grid(visible=True)


def finite(values: Sequence[float | None]) -> np.ndarray:
    """Return the values as float64, NaN in place of None and infinities."""
    array = np.array([math.nan if value is None else value for value in values], np.float64)
    array[~np.isfinite(array)] = math.nan
    return array


def _best_epoch(val_loss: np.ndarray, val_accuracy: np.ndarray) -> int | None:
    """Return the index of the epoch of highest validation accuracy, of equal ones that of lowest loss."""
    if np.isnan(val_accuracy).all():
        return None if np.isnan(val_loss).all() else int(np.nanargmin(val_loss))
    return int(np.lexsort((np.nan_to_num(val_loss, nan=np.inf), -np.nan_to_num(val_accuracy, nan=-1)))[0])


def _finding(epochs: np.ndarray, curves: list[np.ndarray], best: int | None) -> tuple[str, str]:
    """Return the figure's title and the line under it."""
    train_loss, val_loss, train_accuracy, val_accuracy = curves
    if best is None:
        accuracy, loss = train_accuracy[-1], train_loss[-1]
        after = f"after {len(epochs)} epochs" if len(epochs) > 1 else "after 1 epoch"
        finding = (
            f"Training loss {loss:.3g} {after}" if np.isnan(accuracy) else f"Training accuracy {accuracy:.1%} {after}"
        )
        return finding, "There was no validation set."
    if np.isnan(val_accuracy[best]):
        return f"Lowest validation loss {val_loss[best]:.3g} in epoch {epochs[best]:.0f}", ""
    known = [("training accuracy {:.1%}", train_accuracy[best]), ("validation loss {:.3g}", val_loss[best])]
    also = " and ".join(form.format(value) for form, value in known if not np.isnan(value))
    return (
        f"Best validation accuracy {val_accuracy[best]:.1%} in epoch {epochs[best]:.0f}",
        f"Of {len(epochs)} {'epochs' if len(epochs) > 1 else 'epoch'}; {also} in that epoch." if also else "",
    )


def _curves_panel(
    axes: "Axes", epochs: np.ndarray, training: np.ndarray, validation: np.ndarray, best: int | None, form: str
) -> None:
    dots = len(epochs) <= 30
    styles = [("training", training, BLUE, "--", "o"), ("validation", validation, ORANGE, "-", "s")]
    for label, curve, color, dashes, marker in styles:
        known = ~np.isnan(curve)
        if known.any():
            axes.plot(epochs[known], curve[known], dashes, color=color, marker=marker if dots else "", label=label)
    both = np.concatenate([training, validation])
    if form.endswith("%}"):
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
    else:
        _scale(axes, both)
    _label_epochs(axes, epochs)
    axes.grid(visible=True)
    if best is not None:
        axes.axvline(epochs[best], color=MUTED, linewidth=1, linestyle=":", zorder=1)
        if not np.isnan(validation[best]):
            ring: dict[str, Any] = {
                "markersize": 9,
                "markerfacecolor": "none",
                "markeredgecolor": INK,
                "markeredgewidth": 1.3,
            }
            axes.plot(epochs[best : best + 1], validation[best : best + 1], "o", **ring)
            axes.set_title(
                f"○ {form.format(validation[best])} in epoch {epochs[best]:.0f}", loc="right", weight="normal"
            )


def _scale(axes: "Axes", values: np.ndarray) -> None:
    """Make the scale logarithmic where the values are of different orders of magnitude."""
    if np.nanmin(values, initial=np.inf) > 0 and np.nanmax(values) > 30 * np.nanmin(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _label_epochs(axes: "Axes", epochs: np.ndarray) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    margin = min(0.35 + 0.01 * (epochs[-1] - epochs[0]), 0.9)  # below 1, so that there is no tick at epoch 0
    axes.set_xlim(epochs[0] - margin, epochs[-1] + margin)
