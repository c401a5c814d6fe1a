"""nnkit's side of a comparison: a process that trains or predicts at the pace that `workers.Worker` sets."""

import json
import sys
from typing import Any

import nets
import numpy as np
from workers import Pace

import nnkit
from nnkit._ext import kernels


class PacedSolver(nnkit.Solver):
    """The Solver as it is, which waits for its turn between two steps.

    A step is timed from the end of the one before: with fetching the batch and all that the loop does around it.
    """

    pace: Pace

    def _step(self, *batch: Any) -> None:
        super()._step(*batch)
        self.pace.tick()


def solver(net: nets.Net, kind: type[nnkit.Solver], count: int, batch: int, dropout: bool, **options: Any) -> Any:
    data = nnkit.Dataset(*nets.images(count, net.classes))
    options |= {"batch_size": batch, "normalize": (nets.MEAN, nets.STD), "validation": None, "progress": False}
    return kind(net.model(dropout), data, net.nnkit_optimizer(), **options)


def first_losses(net: nets.Net, batch: int) -> list[float]:
    """Return the losses of two steps on one batch without anything random: of the first weights, and of the next."""
    return solver(net, nnkit.Solver, batch, batch, dropout=False, epochs=2).train().train_loss


def main() -> None:
    job, pace = json.loads(sys.argv[1]), Pace()
    net = nets.NETS[job["net"]]
    try:
        message = {"version": nnkit.__version__, "kernels": kernels.name, "threads": nnkit.get_num_threads()}
        if job["task"] == "train":
            losses = first_losses(net, job["check"]) if job["check"] else []
            augment = nnkit.Augment(flip=True)
            training = solver(
                net, PacedSolver, job["count"], net.batch, dropout=True, epochs=1_000_000, augment=augment
            )
            training.pace = pace
            pace.ready(**message, check=losses)
            training.train()
        else:
            model = net.model()
            data = nnkit.Dataset(*nets.images(job["batch"], net.classes))
            x, _ = next(nnkit.data.batches(data, job["batch"], normalize=(nets.MEAN, nets.STD)))
            x = x if net.images else np.ascontiguousarray(x)  # planes where no layer cares, as PyTorch's side has them
            scores = model.predict_scores(x[:1])[0].tolist()
            pace.ready(**message, check=scores)
            while True:
                model.predict(x)
                pace.tick()
    except Exception as error:
        pace.fail(error)
        raise


if __name__ == "__main__":
    main()
