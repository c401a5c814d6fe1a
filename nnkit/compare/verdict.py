"""What a comparison says, in sentences made of its figures alone."""

from collections.abc import Sequence

import numpy as np

from nnkit.compare.entries import value_of
from nnkit.compare.results import LEVEL, Comparison, Contestant, Pair, short_duration, varied


def headline(result: Comparison) -> str:
    """Return the verdict in one line.

    Parameters
    ----------
    result : Comparison

    Returns
    -------
    str
    """
    best = result.ranked[0]
    verb = "is best" if _leads(result) else "is ahead, though not beyond doubt"
    return f"{best.name} {verb}: {best.accuracy_text()} of {result.images:,} {result.part} images recognised"


def story(result: Comparison) -> list[str]:
    """Return what comes after the headline: a paragraph about the accuracies, and one about all else.

    Parameters
    ----------
    result : Comparison

    Returns
    -------
    list of str
    """
    first = [_lead(result), *_edges(result), _lost(result), _single(result)]
    second = [_reach(result), _cost(result), _overfitting(result), _classes(result)]
    return [" ".join(filter(None, sentences)) for sentences in (first, second) if any(sentences)]


def pair_sentence(pair: Pair) -> str:
    """Return what a test says, in a few words.

    Parameters
    ----------
    pair : Pair

    Returns
    -------
    str
    """
    if not pair.tests:
        return "no nets to compare"
    if pair.significant:
        return "the first is better"
    if disagree(pair):
        return "the seeds disagree"
    return "not told apart"


def disagree(pair: Pair) -> bool:
    """Return whether some seeds speak for the one and some for the other.

    Parameters
    ----------
    pair : Pair

    Returns
    -------
    bool
    """
    return len({np.sign(test.only_first - test.only_second) for test in pair.tests}) > 1


def p_text(p: float) -> str:
    """Return a p value as it is read.

    >>> p_text(0.0002), p_text(0.0312)
    ('< 0.001', '0.031')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def counts_text(pair: Pair, first: bool) -> str:
    """Return how many images one of the two alone has right, for each seed.

    Parameters
    ----------
    pair : Pair
    first : bool
        Which of the two.

    Returns
    -------
    str
    """
    counts = [test.only_first if first else test.only_second for test in pair.tests]
    return ", ".join(f"{count:,}" for count in counts) or "–"


def _leads(result: Comparison) -> bool:
    """Whether the best one differs from the next by more than chance."""
    return result.pairs[0].significant


def _lead(result: Comparison) -> str:
    best, second = result.ranked[:2]
    if best.accuracy is None or second.accuracy is None:
        return ""
    points = 100 * (best.accuracy - second.accuracy)
    text = f"The next one is {second.name} with {second.accuracy_text()}, {points:.1f} percentage points less."
    pair = result.pairs[0]
    if not pair.tests:
        return text
    holm = ", Holm-corrected" if len(result.pairs) > 1 else ""
    p = f"McNemar's test: p {_equals(pair.corrected)}{holm}"
    if pair.significant:
        return f"{text} That is more than chance ({p})."
    if disagree(pair):
        return f"{text} The seeds do not agree on which of the two is better, so it says little."
    return f"{text} Chance alone could make such a difference ({p}, not below {LEVEL:g})."


def _equals(p: float) -> str:
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"


def _edges(result: Comparison) -> list[str]:
    """For each varied number, tell whether its best value is the first or last one that was tried."""
    sentences = []
    best = result.ranked[0]
    for (name, texts), key in zip(varied(result).items(), best.entry.values, strict=True):
        numbers = numbers_of(texts)
        if numbers is None or len(numbers) < 3:
            continue
        value = value_of(best.entry.values[key])
        if value in (min(numbers), max(numbers)):
            which = "largest" if value == max(numbers) else "smallest"
            sentences.append(
                f"{name} = {best.entry.values[key]} is the {which} value tried: the best may lie beyond it."
            )
    return sentences


def numbers_of(texts: Sequence[str]) -> list[float] | None:
    """Return the values as numbers; None if one of them is none.

    Parameters
    ----------
    texts : sequence of str

    Returns
    -------
    list of float or None
    """
    values = [value_of(text) for text in texts]
    is_number = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    return [float(value) for value in values] if is_number else None


def _reach(result: Comparison) -> str:
    """Tell who gets first to the highest accuracy that more than one reaches."""
    for threshold in sorted(result.thresholds, reverse=True):
        times = {c.name: s for c in _whole(result) if (s := _time_of_all(c, threshold)) is not None}
        if len(times) > 1:
            first, second = sorted(times, key=lambda name: times[name])[:2]
            goal, took = f"{100 * threshold:g}%", short_duration(times[first])
            others = f"{second} in {short_duration(times[second])}"
            return f"{first} gets to {goal} validation accuracy first, in {took}; then comes {others}."
    return ""


def _time_of_all(contestant: Contestant, threshold: float) -> float | None:
    times = [training.seconds_to(threshold) for training in contestant.trainings]
    return None if None in times else float(np.mean([time for time in times if time is not None]))


def _whole(result: Comparison) -> list[Contestant]:
    """Return those none of whose trainings diverged, the best first."""
    return [contestant for contestant in result.ranked if len(contestant.finished) == len(contestant.trainings)]


def _cost(result: Comparison) -> str:
    work = [contestant.flops for contestant in result.contestants if contestant.flops]
    if min(work) > 0.8 * max(work):
        return ""  # the times of almost equal work differ by chance
    times = {c.name: c.mean(lambda t: t.epoch_seconds) or 0.0 for c in _whole(result)}
    best, fastest = result.ranked[0].name, min(times, key=lambda name: times[name], default="")
    if not fastest or times[fastest] <= 0:
        return ""
    took = f"{short_duration(times[fastest])} an epoch"
    if fastest == best:
        return f"{best} is also the fastest, with {took}."
    if best not in times:
        return ""
    factor = times[best] / times[fastest]
    ratio = f"; {best} takes {factor:.1f} times as long" if factor >= 1.1 else f"; {best} takes hardly longer"
    return f"{fastest} is the fastest, with {took}{ratio}."


def _overfitting(result: Comparison) -> str:
    gaps = {c.name: c.mean(lambda t: t.gap) or 0.0 for c in _whole(result)}
    if not gaps:
        return ""
    worst = max(gaps, key=lambda name: gaps[name])
    if gaps[worst] < 0.02:
        return "None overfits: training accuracy is at most two points above validation accuracy."
    points = f"{100 * gaps[worst]:.1f} percentage points"
    return f"{worst} overfits most: training accuracy is {points} above validation accuracy in the best epoch."


def _classes(result: Comparison) -> str:
    there = [contestant for contestant in result.ranked if contestant.finished]
    if len(there) < 2:
        return ""
    best, second = there[:2]
    change = result.recalls(best) - result.recalls(second)
    if np.isnan(change).all() or not np.nanmax(change) > 0:
        return ""
    most, least = int(np.nanargmax(change)), int(np.nanargmin(change))
    text = f"Over {second.name}, {best.name} gains most in {result.class_names[most]} "
    text += f"({100 * change[most]:+.1f} points of recall)"
    if change[least] < 0:
        text += f", and loses in {result.class_names[least]} ({100 * change[least]:+.1f})"
    return f"{text}."


def _lost(result: Comparison) -> str:
    lost = [contestant.name for contestant in result.contestants if contestant not in _whole(result)]
    if not lost:
        return ""
    return f"Diverged, all or some of its trainings: {', '.join(lost)}. What diverges is ranked after all others."


def _single(result: Comparison) -> str:
    if max(len(contestant.trainings) for contestant in result.contestants) > 1:
        return ""
    return "Each was trained once; how much the accuracy varies from seed to seed, --seeds 3 would tell."
