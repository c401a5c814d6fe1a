"""The year of the course that a notebook comes from, for the two things that changed their meaning after 2017."""

from nnkit.errors import UsageError

_FIRST, _LATEST = 2017, 2025
_edition = _LATEST


def use_edition(year: int) -> None:
    """Choose the edition of the course.

    In 2017 `dropout_param["p"]` was the probability of dropping a unit; since 2018 it is that of keeping it. In 2017
    Adam's step counter started from 1; since 2018 it starts from 0. Everything else works in every edition's spelling.

    Parameters
    ----------
    year : int
        From 2017 to 2025. Without a call of this function it is the latest.

    Raises
    ------
    UsageError
        If there is no such edition.

    Examples
    --------
    >>> use_edition(2017)
    >>> is_first_edition()
    True
    >>> use_edition(2025)
    """
    global _edition
    if year not in range(_FIRST, _LATEST + 1):
        raise UsageError(f"edition: expected a year from {_FIRST} to {_LATEST}, got {year!r}")
    _edition = year


def is_first_edition() -> bool:
    """Return whether the edition of 2017 was asked for.

    Returns
    -------
    bool
    """
    return _edition == _FIRST
