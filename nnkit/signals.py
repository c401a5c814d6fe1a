"""Ctrl-C and SIGTERM, noted when they come and acted on when it suits."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM came.

    Attributes
    ----------
    signum : int
        Which signal it was.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class TrainingInterrupted(Interrupted):
    """Ctrl-C or SIGTERM ended the training after a whole step; its state is saved if the Solver has an `out` folder."""


@contextlib.contextmanager
def raising_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise Interrupted for a while, as Ctrl-C raises KeyboardInterrupt; where it is ignored, it stays so.

    Examples
    --------
    >>> try:
    ...     with raising_on_sigterm():
    ...         signal.raise_signal(signal.SIGTERM)
    ... except Interrupted as interrupt:
    ...     print(interrupt, interrupt.signum)
    interrupted 15
    """
    before = signal.getsignal(signal.SIGTERM)
    if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, _raise_interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _raise_interrupted(signum: int, frame: FrameType | None) -> None:
    raise Interrupted("interrupted", signum)


class Interruption:
    """Remembers the first Ctrl-C or SIGTERM that comes while listening; a second one raises KeyboardInterrupt at once.

    Attributes
    ----------
    signum : int or None
        The signal that came; None again when the listening is over.

    Examples
    --------
    >>> interruption = Interruption()
    >>> with interruption.listening():
    ...     signal.raise_signal(signal.SIGTERM)
    ...     interruption.signum == signal.SIGTERM
    True
    """

    def __init__(self) -> None:
        self.signum: int | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the place of the signals' handlers for a while; outside the main thread, where that cannot be, don't."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
        # Who has a signal ignored (nohup, a shell's background job) wants it to stay ignored.
        heard = [signum for signum, handler in before.items() if handler is not signal.SIG_IGN]
        try:
            for signum in heard:
                signal.signal(signum, self._note)
            yield
        finally:
            for signum in heard:
                signal.signal(signum, before[signum] or signal.SIG_DFL)
            self.signum = None

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            _raise_interrupted(signum, frame)
        self.signum = signum
