"""What the figures of a run mean, in words: computed from the figures alone, by rules that are written down here.

`findings` tells what a reader would see in the curves and tables, were he to look long enough; `analyse` returns the
numbers behind it. What the figures do not hold, as those of an older run may not, is left out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nnkit import metrics
from nnkit.history import History

GAP = 0.05  # training accuracy ahead of the validation accuracy by so much is overfitting
RISE = 0.02  # and so is a validation loss this share above its lowest
LEARNED = 0.9  # a net that recognises less of its own training images, and has no gap, underfits
SHORTEST = 3  # epochs; of fewer, no course can be told
CALIBRATED = 0.02  # mean confidence and accuracy this close, or a calibration error this small, are as they should be

RULES = [
    f"It overfits if the training accuracy is more than {GAP * 100:.0f} points ahead of the validation accuracy, up to "
    "the last epoch; or if the validation loss of the last epoch, and of the median one since its lowest, is more than "
    f"{RISE:.0%} and 0.01 above that lowest, while the training loss has fallen further. It dates from the first such "
    "epoch.",
    f"It underfits if it does not overfit and recognises less than {LEARNED:.0%} even of the training images.",
    "Training figures are means over an epoch, while the weights still moved, on augmented images and with dropout "
    "where the settings say so: the true gap is rather larger.",
    f"It is over- or underconfident if mean confidence and accuracy differ by more than {CALIBRATED * 100:.0f} points. "
    "The expected calibration error is the mean difference of the two over 15 bins of confidence (Guo et al., 2017).",
    "A difference counts only if it is also larger than two standard errors, so that few images prove little. The "
    "interval of the accuracy is Wilson's, of 95%.",
]


@dataclass(frozen=True)
class Finding:
    """One paragraph of the analysis.

    Attributes
    ----------
    topic : str
        What it is about.
    headline : str
        What was found, in a few words.
    text : str
        The figures behind it, in a sentence or more.
    """

    topic: str
    headline: str
    text: str


def analyse(figures: dict[str, Any], history: History) -> dict[str, Any]:
    """Return the numbers that `findings` speaks of, ready for JSON.

    Parameters
    ----------
    figures : dict
        As in a run's metrics.json.
    history : History

    Returns
    -------
    dict
        "fit" as of `fit`, "confusions" as of `confusions`, "accuracy_interval" as of `metrics.accuracy_interval`, and
        "calibration": "overconfident", "underconfident", "calibrated" or "uneven" (right only on average); those that
        the figures suffice for.
    """
    names, matrix = figures.get("class_names"), figures.get("confusion_matrix")
    total = figures.get("test_images", 0)
    found: dict[str, Any] = {"fit": fit(history, figures.get("val_images"), figures.get("best_epoch"))}
    if names and matrix:
        found["confusions"] = confusions(matrix, names)
    if total:
        ends = metrics.accuracy_interval(round(figures["test_accuracy"] * total), total)
        found["accuracy_interval"] = [float(end) for end in ends]
    if "reliability" in figures:
        found["calibration"] = _calibration(figures)
    return found


def fit(history: History, val_images: int | None = None, kept: int | None = None) -> dict[str, Any]:
    """Judge by the curves whether a net over- or underfits.

    Parameters
    ----------
    history : History
    val_images : int, optional
        How many images the validation figures are of; the fewer, the larger a gap must be to count.
    kept : int, optional
        The epoch whose weights were kept, by default the best one.

    Returns
    -------
    dict
        "verdict": "overfits", "underfits", "fits" or, where the figures do not tell, "unknown"; "since_epoch", if it
        overfits, and of that "gap_since" and "rise_since", the epochs since which the accuracies are apart and since
        which the validation loss rises, either of them None if it is not so; "epoch", the one kept, with its
        "training_accuracy", "validation_accuracy" and their difference "gap"; "still_improving".

    Examples
    --------
    >>> from nnkit.history import History
    >>> history = History([1, 2, 3, 4], train_accuracy=[0.4, 0.6, 0.8, 0.9], val_accuracy=[0.4, 0.58, 0.6, 0.61],
    ...                   train_loss=[1.6, 1.2, 0.7, 0.4], val_loss=[1.6, 1.3, 1.2, 1.2], lr=[0.1] * 4)
    >>> found = fit(history)
    >>> found["verdict"], found["since_epoch"]
    ('overfits', 3)
    """
    unknown = {"verdict": "unknown", "since_epoch": None, "epoch": kept}
    training, validation = (_finite(history[f"{part}_accuracy"]) for part in ("train", "val"))
    if not len(history) or np.isnan([training, validation]).any():
        return unknown
    kept = history.best_epoch if kept not in history.epoch else kept
    at = history.epoch.index(kept)  # type: ignore[arg-type]  # there is an epoch
    error = np.sqrt(validation * (1 - validation) / val_images) if val_images else 0 * validation
    apart = training - validation > np.maximum(GAP, 2 * error)
    found = {
        "epoch": kept,
        "training_accuracy": float(training[at]),
        "validation_accuracy": float(validation[at]),
        "gap": float(training[at] - validation[at]),
    }
    if len(history) < SHORTEST:
        return unknown | found
    gap_since = history.epoch[_start_of_end(apart)] if apart[-1] else None
    rise_since = _rise(history)
    since = min((epoch for epoch in (gap_since, rise_since) if epoch is not None), default=None)
    learned = max(training[at], validation[at]) >= LEARNED  # the former is underestimated
    verdict = "overfits" if since is not None else "fits" if learned else "underfits"
    gained = validation[-1] - validation[-SHORTEST]
    return {
        "verdict": verdict,
        "since_epoch": since,
        "gap_since": gap_since,
        "rise_since": rise_since,
        **found,
        "still_improving": bool(
            kept == history.epoch[-1]
            and gained > max(0.01, 2 * error[-1])
            and history.lr[-1] > 0.1 * max(history.lr)  # a rate that has run out promises nothing
        ),
    }


def _start_of_end(flags: np.ndarray) -> int:
    """Return where the unbroken run of True begins with which the flags end."""
    return 0 if flags.all() else int(np.flatnonzero(~flags)[-1]) + 1


def _rise(history: History) -> int | None:
    """Return the epoch since which the validation loss rises while the training loss falls; None if it does not."""
    training, validation = _finite(history.train_loss), _finite(history.val_loss)
    if np.isnan([training, validation]).any():
        return None
    lowest = int(validation.argmin())
    after = validation[lowest + 1 :]
    if len(after) < 2 or training[-1] >= training[lowest]:
        return None
    bound = validation[lowest] + max(RISE * validation[lowest], 0.01)
    return history.epoch[lowest + 1] if min(after[-1], np.median(after)) > bound else None


def confusions(matrix: ArrayLike, class_names: Sequence[str], count: int = 3) -> list[dict[str, Any]]:
    """Return the pairs of classes that are most often taken for each other.

    Parameters
    ----------
    matrix : array_like of int, shape (K, K)
        True classes in rows, predicted ones in columns.
    class_names : sequence of str, K long
    count : int, default 3
        How many pairs at most.

    Returns
    -------
    list of dict
        Of each pair its "classes", the one first that is mistaken more often; "mistakes", how often the first is taken
        for the second and the second for the first; and "images", how many there are of each.

    Examples
    --------
    >>> confusions([[8, 2, 0], [5, 5, 0], [0, 1, 9]], ["cat", "dog", "ship"], count=1)
    [{'classes': ['dog', 'cat'], 'mistakes': [5, 2], 'images': [10, 10]}]
    """
    counts = np.asarray(matrix)
    both = np.triu(counts + counts.T, 1)
    order = np.argsort(-both, axis=None, kind="stable")[:count]
    support = counts.sum(axis=1)
    pairs = []
    for i, j in zip(*np.unravel_index(order, both.shape), strict=True):
        if both[i, j]:
            first, second = (i, j) if counts[i, j] >= counts[j, i] else (j, i)
            mistakes = [int(counts[first, second]), int(counts[second, first])]
            images = [int(support[first]), int(support[second])]
            names = [str(class_names[first]), str(class_names[second])]
            pairs.append({"classes": names, "mistakes": mistakes, "images": images})
    return pairs


def _calibration(figures: dict[str, Any]) -> str:
    accuracy, total = figures["test_accuracy"], figures["test_images"]
    difference = figures["mean_confidence"] - accuracy
    if abs(difference) > max(CALIBRATED, 2 * math.sqrt(accuracy * (1 - accuracy) / total)):
        return "overconfident" if difference > 0 else "underconfident"
    bound = max(CALIBRATED, 2 * figures["calibration_error_by_chance"])
    return "calibrated" if figures["calibration_error"] <= bound else "uneven"


# In words


def findings(figures: dict[str, Any], history: History) -> list[Finding]:
    """Say in words how a run went: its fit, its mistakes, its classes, its confidence, and how sure all that is.

    Parameters
    ----------
    figures : dict
        As in a run's metrics.json.
    history : History

    Returns
    -------
    list of Finding
        Without those that the figures do not suffice for.
    """
    numbers = analyse(figures, history)
    found = [_fit_in_words(numbers["fit"], history)]
    if "confusions" in numbers:
        found.append(_confusions_in_words(numbers["confusions"], figures))
    if any(one["support"] for one in figures.get("classes", [])):
        found.append(_classes_in_words(figures["classes"]))
    if "calibration" in numbers:
        found.append(_calibration_in_words(numbers["calibration"], figures))
    if "accuracy_interval" in numbers:
        found.append(_certainty_in_words(numbers["accuracy_interval"], figures))
    return found


def _fit_in_words(fit: dict[str, Any], history: History) -> Finding:
    topic = "Over- or underfitting"
    if fit["verdict"] == "unknown":
        if "gap" not in fit:
            return Finding(topic, "It cannot be told", "Without validation images, nothing says how new ones fare.")
        count = "One epoch is" if len(history) == 1 else f"{len(history)} epochs are"
        return Finding(topic, "It cannot be told yet", f"{count} too few to see where the curves go.")
    training, validation = f"{fit['training_accuracy']:.1%}", f"{fit['validation_accuracy']:.1%}"
    more = " The validation accuracy was still rising at the end: more epochs may help." * fit["still_improving"]
    if fit["verdict"] == "underfits":
        text = (
            f"Even of the training images it recognises only {training}; of the validation images, {validation}. A "
            "larger net, more epochs or less regularisation may help; more images would hardly."
        )
        return Finding(topic, "It underfits", text + more)
    if fit["verdict"] == "fits":
        text = (
            f"In epoch {fit['epoch']}, whose weights were kept, it recognises {training} of the training images and "
            f"{validation} of the validation images."
        )
        return Finding(topic, "It neither over- nor underfits", text + more)
    sentences = []
    if fit["gap_since"] is not None:
        sentences.append(
            f"{_from(fit['gap_since'])}the training accuracy is more than {GAP * 100:.0f} points ahead of the "
            f"validation accuracy; in the last epoch it is {history.train_accuracy[-1]:.1%} against "
            f"{history.val_accuracy[-1]:.1%}."
        )
    if fit["rise_since"] is not None:
        lowest = min(history.val_loss)  # type: ignore[type-var]  # none of them is None
        sentences.append(
            f"{_from(fit['rise_since'])}the validation loss rises, from {lowest:.3g} to {history.val_loss[-1]:.3g}, "
            "while the training loss goes on falling."
        )
    sentences.append(f"In epoch {fit['epoch']}, whose weights were kept, it is {training} against {validation}.")
    if fit["epoch"] == history.epoch[-1] and fit["gap_since"] is not None:
        sentences.pop()  # was said already
    return Finding(topic, f"It overfits since epoch {fit['since_epoch']}", " ".join(sentences) + more)


def _from(epoch: int) -> str:
    return "From the first epoch on, " if epoch == 1 else f"From epoch {epoch} on, "


def _confusions_in_words(pairs: list[dict[str, Any]], figures: dict[str, Any]) -> Finding:
    topic = "Confusions"
    matrix = np.asarray(figures["confusion_matrix"])
    mistakes = int(matrix.sum() - matrix.trace())
    if not pairs:
        return Finding(topic, "It confuses nothing", "There is no mistake among the test images.")
    (one, other), (there, back), (ones, others) = (pairs[0][key] for key in ("classes", "mistakes", "images"))
    if there + back == 1:
        headline = "No two classes are confused more than once"
        return Finding(topic, headline, f"{_mistakes(mistakes)} in all, each of another kind.")
    text = f"Of {ones:,} images of {one}, {there:,} are taken for {other} ({_share(there, ones)})"
    if back:
        text += f", and of {others:,} of {other}, {back:,} for {one} ({_share(back, others)})"
    if there + back == mistakes:
        text += ": there is no other mistake."
    else:
        text += f": {_share(there + back, mistakes)} of all {_mistakes(mistakes)}."
    after = [f"{' and '.join(pair['classes'])} ({sum(pair['mistakes']):,})" for pair in pairs[1:]]
    if after:
        text += f" Then come {', and '.join(after)}."
    return Finding(topic, f"It most often confuses {one} and {other}", text)


def _mistakes(count: int) -> str:
    return f"{count:,} mistake{'s' * (count != 1)}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _classes_in_words(classes: list[dict[str, Any]]) -> Finding:
    topic = "Best and worst class"
    there = [one for one in classes if one["support"]]
    absent = [str(one["name"]) for one in classes if not one["support"]]
    note = ""
    if absent:
        listed = ", ".join(absent[:3]) + (f" and {len(absent) - 3} more" if len(absent) > 3 else "")
        note = f" No test image is of {listed}."
    best, worst = (choose(there, key=lambda one: one["recall"]) for choose in (max, min))
    if best["recall"] == worst["recall"]:
        headline = f"Only {best['name']} was tested" if len(there) == 1 else "All classes fare the same"
        return Finding(topic, headline, f"{best['recall']:.1%} of the images are recognised.{note}")
    equals = sum(one["recall"] == best["recall"] for one in there) - 1
    also = f", as in {equals} more class{'es' * (equals > 1)}" if equals else ""
    text = (
        f"Of {_of(best)} are recognised{also}; of {_of(worst)}. When the net says {worst['name']}, it is right in "
        f"{worst['precision']:.1%}.{note}"
    )
    return Finding(topic, f"Best is {best['name']}, worst is {worst['name']}", text)


def _of(one: dict[str, Any]) -> str:
    return (
        f"{one['support']:,} images of {one['name']}, {round(one['recall'] * one['support']):,} ({one['recall']:.1%})"
    )


def _calibration_in_words(verdict: str, figures: dict[str, Any]) -> Finding:
    headline = {
        "overconfident": "It is overconfident",
        "underconfident": "It is underconfident",
        "calibrated": "It is as sure as it is right",
        "uneven": "It is as sure as it is right only on average",
    }[verdict]
    sure, right = figures["mean_confidence"], figures["test_accuracy"]
    error, chance = figures["calibration_error"], figures["calibration_error_by_chance"]
    top = figures["reliability"][-1]
    text = (
        f"On average it is {sure:.1%} sure and right in {right:.1%}. The expected calibration error is {error:.1%}; on "
        f"so many images, about {chance:.1%} would come by chance."
    )
    if top["to"] > 1 - 1e-9:
        answers = "1 answer" if top["images"] == 1 else f"{top['images']:,} answers"
        text += f" Of the {answers} it was more than {top['from']:.0%} sure of, {top['accuracy']:.1%} are right."
    return Finding("Calibration", headline, text)


def _certainty_in_words(interval: Sequence[float], figures: dict[str, Any]) -> Finding:
    low, high = interval
    text = (
        f"With {figures['test_images']:,} test images, the true accuracy lies between {low:.1%} and {high:.1%} (95% "
        "interval)."
    )
    headline = f"The accuracy is known to ±{(high - low) / 2 * 100:.1f} points"
    if any(one["support"] for one in figures.get("classes", [])):
        most = max(figures["classes"], key=lambda one: one["support"])
        share = most["support"] / sum(one["support"] for one in figures["classes"])
        even = all(one["support"] == most["support"] for one in figures["classes"])
        guess = "Guessing" if even else f"Always answering {most['name']}, the most frequent class,"
        text += f" {guess} would be right in {share:.1%}."
        if low <= share:
            headline = "It may be no better than a guess"
    return Finding("Certainty", headline, text)


def _finite(values: Sequence[float | None]) -> np.ndarray:
    array = np.array([math.nan if value is None else value for value in values], np.float64)
    array[~np.isfinite(array)] = math.nan
    return array
