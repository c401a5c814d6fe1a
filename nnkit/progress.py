"""The progress bar of a training."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from nnkit.callbacks import short_loss

if TYPE_CHECKING:
    from tqdm import tqdm

    from nnkit.solver import Solver


def progress_bar(solver: Solver) -> tqdm[Any]:
    """Return a bar of all epochs' images, at the place where the training is; one that stays hidden, if need be.

    Parameters
    ----------
    solver : Solver

    Returns
    -------
    tqdm
    """
    from tqdm import tqdm

    is_wanted = sys.stderr.isatty() if solver.progress is None else solver.progress
    # What matters most comes first: a narrow terminal cuts the end off.
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}, {rate_fmt}"
    look: dict[str, Any] = {"unit": " images", "unit_scale": True, "dynamic_ncols": True, "bar_format": form}
    is_hidden = not is_wanted or solver.communicator.rank > 0
    total = solver.epochs * _images_per_epoch(solver)
    return tqdm(total=total, initial=_images_done(solver), leave=False, disable=is_hidden, **look)


def show(bar: tqdm[Any], solver: Solver) -> None:
    """Bring the bar up to date: epoch, loss and accuracy so far, images done.

    Parameters
    ----------
    bar : tqdm
    solver : Solver
    """
    if bar.disable:
        return
    bar.set_description_str(f"epoch {solver.epoch + 1}/{solver.epochs}", refresh=False)
    accuracy = "" if solver.sums.accuracy is None else f" acc {solver.sums.accuracy:.0%}"
    bar.set_postfix_str(f"loss {short_loss(solver.sums.mean_loss)}{accuracy}", refresh=False)
    bar.update(_images_done(solver) - bar.n)


def _images_per_epoch(solver: Solver) -> int:
    return min(solver.steps_per_epoch * solver.batch_size, len(solver.data))


def _images_done(solver: Solver) -> int:
    return solver.epoch * _images_per_epoch(solver) + solver.sums.images
