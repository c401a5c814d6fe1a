import numpy as np
import pytest

from nnkit.significance import holm, mcnemar, mcnemar_counts


def test_large_counts_give_the_published_chi_square():
    # Raschka 2018, "Model evaluation, model selection, and algorithm selection in machine learning", section 4.2.
    result = mcnemar_counts(25, 15)
    assert result.statistic == pytest.approx(2.025)
    assert result.p == pytest.approx(0.155, abs=5e-4)
    assert not result.exact


def test_few_images_are_tested_exactly():
    # 11 against 1: twice the chance of at most one head in twelve throws, 2 (1 + 12) / 4096.
    result = mcnemar_counts(11, 1)
    assert result.exact
    assert result.p == pytest.approx(26 / 4096)


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 3), (10, 2), (0, 24), (13, 12), (40, 60), (900, 700), (50, 0)])
def test_p_is_scipys(counts):
    stats = pytest.importorskip("scipy.stats")
    first, second = counts
    if sum(counts) == 0:
        expected = 1.0
    elif sum(counts) < 25:
        expected = stats.binomtest(first, first + second, 0.5).pvalue
    else:
        expected = stats.chi2.sf((abs(first - second) - 1) ** 2 / (first + second), 1)
    assert mcnemar_counts(first, second).p == pytest.approx(expected, rel=1e-9)


def test_it_does_not_matter_who_is_first(rng):
    labels, one, two = (rng.integers(0, 4, 500) for _ in range(3))
    result, turned = mcnemar(labels, one, two), mcnemar(labels, two, one)
    assert (result.only_first, result.only_second) == (turned.only_second, turned.only_first)
    assert result.p == turned.p
    assert result.only_first == sum(a == t != b for a, b, t in zip(one, two, labels, strict=True))


def test_it_rejects_as_often_as_it_says(rng):
    """Of two nets that are equally good, one in twenty pairs may differ at p < 0.05, or fewer: the test is cautious."""
    labels = np.zeros(400, int)
    answers = rng.random((2, 1000, 400)) < 0.3
    rejected = np.mean([mcnemar(labels, one, two).p < 0.05 for one, two in zip(*answers.astype(int), strict=True)])
    assert 0.02 < rejected < 0.055


def test_answers_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"got \(3,\) labels, \(3,\) and \(2,\) answers"):
        mcnemar([0, 1, 2], [0, 1, 2], [0, 1])


def test_holm_as_in_its_paper():
    # Holm 1979: the smallest is compared with level / n, the next with level / (n - 1), ...
    assert holm([0.01, 0.02, 0.03, 0.5]) == pytest.approx([0.04, 0.06, 0.06, 0.5])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
