"""The training that comes first where there is no run yet: in the background, once for all visitors."""

import threading
import time

from nnkit import recipes, runs
from nnkit.solver import Solver


class FirstTraining:
    """The quickstart, trained in a thread of its own, which a page may look at as often as it likes.

    Reloading the page, closing it or opening it twice makes no difference: the training belongs to the process.

    Attributes
    ----------
    line : str
        What is going on.
    error : str
        Why it failed; empty if it did not.
    started : float
        When it began, by `time.monotonic`.
    """

    def __init__(self) -> None:
        self.line = self.error = ""
        self.started = 0.0
        self._solver: Solver | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def is_running(self) -> bool:
        """Whether it has begun and not ended."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def progress(self) -> float:
        """The share of the training's steps that are done, from 0 to 1."""
        solver = self._solver
        return 0.0 if solver is None else min(solver.step / (solver.epochs * solver.steps_per_epoch), 1.0)

    def start(self) -> None:
        """Begin, if it is not running."""
        with self._lock:
            if self.is_running:
                return
            self.line, self.error, self._solver = "drawing the images", "", None
            self.started = time.monotonic()
            # A daemon: Ctrl-C ends the app at once, and what is trained so far is saved.
            self._thread = threading.Thread(target=self._train, name="first-training", daemon=True)
            self._thread.start()

    def _train(self) -> None:
        try:
            runs.train(recipes.load("quickstart"), callbacks=[self._note], begin=self._begin, say=self._say)
        except Exception as error:  # whatever it is, the visitors shall read it
            self.error = " ".join(str(error).split()) or type(error).__name__

    def _begin(self, solver: Solver) -> None:
        """Remember the Solver, which knows how far it is."""
        self._solver, self.line = solver, "training the first epoch"

    def _say(self, line: str) -> None:
        if self._solver is not None:  # what it says before is about settings
            self.line = line

    def _note(self, solver: Solver) -> None:
        """Tell how good it is, at the end of an epoch."""
        accuracy = solver.history.val_accuracy[-1]
        known = "" if accuracy is None else f", {accuracy:.0%} of the validation images recognised"
        self.line = f"epoch {solver.epoch} of {solver.epochs} is done{known}"
