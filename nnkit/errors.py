"""The errors that nnkit raises on purpose; a message is one line that says what was received and what was expected."""

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

_LISTED = 20  # known names in a message, at most


class UsageError(ValueError):
    """A setting is wrong: an unknown name, an unknown key, a value of the wrong type or range."""


class DataError(ValueError):
    """A data file is missing, damaged or not what it says it is."""


class CheckpointError(ValueError):
    """A saved model or training state cannot be read or does not fit the model."""


class DivergenceError(ArithmeticError):
    """Training produced a loss that is NaN or infinite."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return `"; did you mean 'nearest'? (known: a, b, c)"`, to end a message about an unknown name.

    Parameters
    ----------
    name : object
        What was received.
    known : iterable of str
        What would have been right.

    Returns
    -------
    str

    Examples
    --------
    >>> from nnkit.errors import did_you_mean
    >>> "unknown optimizer 'adan'" + did_you_mean("adan", ["sgd", "adam"])
    "unknown optimizer 'adan'; did you mean 'adam'? (known: adam, sgd)"
    """
    known = sorted(known)
    nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    question = f"; did you mean '{nearest[0]}'?" if nearest else ""
    listed = ", ".join(known[:_LISTED]) + (", ..." if len(known) > _LISTED else "")
    return f"{question} (known: {listed})"


def whole_number(name: str, value: Any, lowest: int, highest: int | None = None) -> int:
    """Return a setting that must be a whole number.

    Parameters
    ----------
    name : str
        What the setting is called.
    value : object
        What was received.
    lowest, highest : int
        Its range, both ends in it.

    Returns
    -------
    int

    Raises
    ------
    UsageError
        It is none, or out of range.

    Examples
    --------
    >>> from nnkit.errors import whole_number
    >>> whole_number("epochs", 2.5, 1)
    Traceback (most recent call last):
        ...
    nnkit.errors.UsageError: epochs: expected a whole number >= 1, got 2.5
    """
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or value < lowest or (highest is not None and value > highest):
        expected = f">= {lowest}" if highest is None else f"from {lowest} to {highest}"
        raise UsageError(f"{name}: expected a whole number {expected}, got {value!r}")
    return int(value)


def positive_number(name: str, value: Any) -> float:
    """Return a setting that must be a finite number above 0.

    Parameters
    ----------
    name : str
        What the setting is called.
    value : object
        What was received.

    Returns
    -------
    float

    Raises
    ------
    UsageError
        It is none, or out of range.

    Examples
    --------
    >>> from nnkit.errors import positive_number
    >>> positive_number("clip_norm", 5)
    5.0
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise UsageError(f"{name}: expected a number > 0, got {value!r}")
    return float(value)
