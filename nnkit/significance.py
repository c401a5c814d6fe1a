"""Whether two classifiers differ by more than chance: McNemar's test, and Holm's correction for many tests."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

_FEW = 25  # images on which the two differ; below it, the chi-square approximation is not trusted


@dataclass(frozen=True)
class McNemar:
    """What McNemar's test found.

    Attributes
    ----------
    only_first, only_second : int
        How many images the first classifier alone has right, and how many the second one alone.
    p : float
        How likely at least so uneven a split of these images is, if neither classifier is the better one.
    statistic : float or None
        Chi-square with continuity correction; None where the test is exact.
    """

    only_first: int
    only_second: int
    p: float
    statistic: float | None

    @property
    def exact(self) -> bool:
        """Whether p comes from the binomial distribution, not from its approximation."""
        return self.statistic is None


def mcnemar(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> McNemar:
    """Compare two classifiers on the same images by those that only one of them has right.

    If both are equally good, each of these images is as likely to be the one's as the other's. With fewer than 25 of
    them, p is exact (two-sided binomial test); otherwise it is that of `(|b - c| - 1)² / (b + c)` under chi-square with
    one degree of freedom (McNemar 1947, "Note on the sampling error of the difference between correlated proportions or
    percentages"; the correction is Edwards', 1948). It says whether these two trained nets differ, not whether others
    trained in the same way would (Dietterich 1998, "Approximate statistical tests for comparing supervised
    classification learning algorithms").

    Parameters
    ----------
    labels, first, second : array_like of int, shape (N,)
        The true classes, and what the two say.

    Returns
    -------
    McNemar

    Raises
    ------
    ValueError
        They are not of the same length.

    Examples
    --------
    >>> result = mcnemar([0] * 20, [0] * 20, [0] * 11 + [1] * 9)
    >>> result.only_first, result.only_second, result.exact, round(result.p, 4)
    (9, 0, True, 0.0039)
    """
    true, one, two = (np.asarray(values) for values in (labels, first, second))
    if not one.shape == two.shape == true.shape or true.ndim != 1:
        raise ValueError(f"expected one answer an image, got {true.shape} labels, {one.shape} and {two.shape} answers")
    return mcnemar_counts(int(((one == true) & (two != true)).sum()), int(((one != true) & (two == true)).sum()))


def mcnemar_counts(only_first: int, only_second: int) -> McNemar:
    """Do the same from the counts.

    Parameters
    ----------
    only_first, only_second : int

    Returns
    -------
    McNemar

    Examples
    --------
    >>> mcnemar_counts(25, 15).statistic
    2.025
    """
    differing, fewer = only_first + only_second, min(only_first, only_second)
    if differing < _FEW:
        tail = sum(math.comb(differing, k) for k in range(fewer + 1)) / 2**differing
        return McNemar(only_first, only_second, min(1.0, 2 * tail), None)
    statistic = max(abs(only_first - only_second) - 1, 0) ** 2 / differing
    return McNemar(only_first, only_second, math.erfc(math.sqrt(statistic / 2)), statistic)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number: the more tests, the more of them come out small by chance.

    The smallest is multiplied by the number of tests, the next one by one less, and so on, and none becomes less than
    the one before it; the chance that any true null hypothesis is rejected is then at most the level (Holm 1979, "A
    simple sequentially rejective multiple test procedure").

    Parameters
    ----------
    p_values : sequence of float

    Returns
    -------
    list of float
        In the same order.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = least
    return corrected
