"""The figures of a training run, epoch by epoch."""

import csv
import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nnkit.errors import DataError
from nnkit.files import atomic_path

_WHOLE = ("epoch", "step")


@dataclass(repr=False)
class History:
    """A table with a row for each epoch; each column is a list.

    Attributes
    ----------
    epoch : list of int
        Counted from 1.
    step : list of int
        Steps done since the start of the training.
    train_loss, train_accuracy : list of float
        Means over the epoch's batches, as they were trained on: augmented, with dropout, by weights that still move.
        Accuracies are None where numbers are predicted, of which none is right or wrong.
    val_loss, val_accuracy : list of float or None
        On the validation set, at the end of the epoch; None where there is none.
    lr : list of float
        Rate of the epoch's last step.
    grad_norm : list of float
        Length of the gradient in the epoch's last step, before clipping.
    seconds : list of float
        Time that the epoch took, validation included.
    images_per_second : list of float
        Of training, validation not counted.

    Examples
    --------
    >>> history = History()
    >>> for epoch, accuracy in ((1, 0.5), (2, 0.75), (3, 0.625)):
    ...     history.append(epoch=epoch, step=100 * epoch, train_loss=1 / epoch, train_accuracy=0.7, val_loss=0.9,
    ...                    val_accuracy=accuracy, lr=0.01, grad_norm=1.5, seconds=2.0, images_per_second=3200.0)
    >>> history.best_epoch
    2
    >>> history.val_accuracy
    [0.5, 0.75, 0.625]
    >>> history
    epoch  train_loss  train_accuracy  val_loss  val_accuracy    lr  seconds
        1      1.0000          70.00%    0.9000        50.00%  0.01      2.0
        2      0.5000          70.00%    0.9000        75.00%  0.01      2.0  best
        3      0.3333          70.00%    0.9000        62.50%  0.01      2.0
    """

    epoch: list[int] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    train_accuracy: list[float | None] = field(default_factory=list)
    val_loss: list[float | None] = field(default_factory=list)
    val_accuracy: list[float | None] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    images_per_second: list[float] = field(default_factory=list)

    def append(self, **row: float | None) -> None:
        """Add an epoch.

        Parameters
        ----------
        **row
            A value for each column.

        Raises
        ------
        ValueError
            A column is missing or unknown.
        """
        if set(row) != set(self.columns):
            raise ValueError(f"history: expected the columns {', '.join(self.columns)}, got {', '.join(row)}")
        for name, value in row.items():
            self[name].append(value)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return [column.name for column in fields(self)]

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the highest validation accuracy; of several, the one with the lowest validation loss.

        Where there is no accuracy, it is the one with the lowest loss; without validation set it is the last epoch,
        and before the first None.
        """
        if not self.epoch:
            return None
        if None in self.val_loss:
            return self.epoch[-1]
        # A tie in both goes to the earlier epoch.
        best = max(range(len(self)), key=lambda i: (self.val_accuracy[i] or 0, -self.val_loss[i]))  # type: ignore[operator]
        return self.epoch[best]

    def row(self, index: int) -> dict[str, Any]:
        """Return one epoch's figures.

        Parameters
        ----------
        index : int
            Position in the table; -1 is the last epoch.

        Returns
        -------
        dict
        """
        return {name: self[name][index] for name in self.columns}

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the table, a row an epoch; None becomes an empty field.

        Parameters
        ----------
        path : path-like
        """
        with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.row(i) for i in range(len(self)))

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> "History":
        """Read what `to_csv` wrote.

        Parameters
        ----------
        path : path-like

        Returns
        -------
        History
            Equal to the one that was written.

        Raises
        ------
        DataError
            The file is missing or is no history.
        """
        history = cls()
        try:
            with Path(path).open(newline="") as file:
                reader = csv.DictReader(file)
                if reader.fieldnames != history.columns:
                    raise ValueError(f"expected the columns {', '.join(history.columns)}, got {reader.fieldnames}")
                for row in reader:
                    if None in row.values():
                        raise ValueError(f"line {reader.line_num} ends too early")
                    history.append(**{name: _number(name, text) for name, text in row.items()})
        except (OSError, ValueError, TypeError, csv.Error) as error:
            raise DataError(f"{path}: cannot read this history: {error}") from error
        return history

    def __getitem__(self, column: str) -> list[Any]:
        values: list[Any] = getattr(self, column)
        return values

    def __len__(self) -> int:
        return len(self.epoch)

    def __repr__(self) -> str:
        rows = [["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds"]]
        for row in map(self.row, range(len(self))):
            losses = {key: "-" if row[key] is None else f"{row[key]:.4f}" for key in ("train_loss", "val_loss")}
            shares = {key: "-" if row[key] is None else f"{row[key]:.2%}" for key in ("train_accuracy", "val_accuracy")}
            texts = {**losses, **shares, "epoch": str(row["epoch"]), "lr": f"{row['lr']:.4g}"}
            rows.append([{**texts, "seconds": f"{row['seconds']:.1f}"}[key] for key in rows[0]])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
        if self.epoch:
            lines[self.epoch.index(self.best_epoch) + 1] += "  best"  # type: ignore[arg-type]
        return "\n".join(lines)

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]] | None:
        """Show the curves in a notebook, once there are any."""
        from nnkit import plots

        return plots.notebook_png(plots.training_curves(self)) if self.epoch else None


@dataclass
class EpochSums:
    """What is added up over the batches of one epoch.

    Attributes
    ----------
    batches, images : int
        Counts so far.
    correct : float
        How many images were recognised; NaN where that is no question.
    loss, weight : float
        Sum of the losses times the images' weights, and of the weights.
    lr, grad_norm : float
        Of the last step.
    seconds : float

    Examples
    --------
    >>> sums = EpochSums()
    >>> sums.add(loss=2.0, images=10, correct=5)
    >>> sums.add(loss=1.0, images=30, correct=25)
    >>> sums.mean_loss, sums.accuracy
    (1.25, 0.75)
    """

    batches: int = 0
    images: int = 0
    correct: float = 0
    loss: float = 0.0
    weight: float = 0.0
    lr: float = 0.0
    grad_norm: float = 0.0
    seconds: float = 0.0

    def add(self, loss: float, images: float, correct: float, weight: float | None = None) -> None:
        """Take in a batch.

        Parameters
        ----------
        loss : float
            The batch's (weighted) mean.
        images, correct : float
        weight : float, optional
            The sum of the images' weights, if they have any.
        """
        weight = images if weight is None else weight
        self.batches += 1
        self.images += int(images)
        self.correct += correct
        self.loss += loss * weight
        self.weight += weight

    @property
    def mean_loss(self) -> float:
        """Mean over the images so far."""
        return self.loss / (self.weight or 1.0)  # so far, all images may have had the weight 0

    @property
    def accuracy(self) -> float | None:
        """Share of the images so far that were recognised; None where that is no question."""
        return None if math.isnan(self.correct) else self.correct / self.images


def _number(column: str, text: str) -> float | None:
    if column in _WHOLE:
        return int(text)
    return float(text) if text else None
