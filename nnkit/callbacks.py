"""Things to do at the end of each epoch: any callable that takes the Solver.

`Solver(..., callbacks=[print_epoch, my_function])` calls each when an epoch's figures are in `solver.history`. A
callback may look at everything (`solver.model`, `solver.optimizer`, ...) and end the training by raising
`StopTraining`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnkit.solver import Solver


class StopTraining(Exception):  # noqa: N818 - a wish, not an error
    """Raised by a callback: this epoch was the last one. The Solver saves, restores the best weights and returns.

    Examples
    --------
    >>> def good_enough(solver):
    ...     if solver.history.val_accuracy[-1] > 0.9:
    ...         raise StopTraining
    """


def print_epoch(solver: Solver) -> None:
    """Print one line with the figures of the epoch that has just ended: loss and accuracy, training and validation.

    Parameters
    ----------
    solver : Solver

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from nnkit.history import History
    >>> history = History()
    >>> history.append(epoch=1, step=10, train_loss=2.0, train_accuracy=0.25, val_loss=1.8, val_accuracy=0.3,
    ...                lr=0.1, grad_norm=1.0, seconds=2.0, images_per_second=320.0)
    >>> print_epoch(SimpleNamespace(history=history, epochs=5))
    epoch 1/5  loss 2.000 acc 25.0%  val 1.800 30.0%  best  2.0 s  320 images/s
    """
    row = solver.history.row(-1)
    parts = [
        f"epoch {row['epoch']:{len(str(solver.epochs))}}/{solver.epochs}",
        f"loss {short_loss(row['train_loss'])}{_accuracy(' acc ', row['train_accuracy'])}",
    ]
    if row["val_loss"] is not None:
        best = "best" if solver.history.best_epoch == row["epoch"] else "    "
        parts += [f"val {short_loss(row['val_loss'])}{_accuracy(' ', row['val_accuracy'])}", best]
    print("  ".join([*parts, f"{row['seconds']:.1f} s", f"{row['images_per_second']:.0f} images/s"]), flush=True)


def short_loss(loss: float) -> str:
    """Return a loss for a line of a terminal: in scientific notation where it is huge.

    Parameters
    ----------
    loss : float

    Returns
    -------
    str

    Examples
    --------
    >>> short_loss(1.2), short_loss(2.3e21)
    ('1.200', '2.30e+21')
    """
    return f"{loss:.3f}" if abs(loss) < 1e6 else f"{loss:.2e}"


def _accuracy(before: str, share: float | None) -> str:
    return "" if share is None else f"{before}{share:.1%}"
