"""The page of a comparison, and its pictures."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

import nnkit
from nnkit import plots
from nnkit.compare.entries import Entry
from nnkit.compare.results import LEVEL, Comparison, Contestant, Pair, short_duration, short_number, varied
from nnkit.compare.verdict import counts_text, headline, numbers_of, p_text, pair_sentence, story
from nnkit.files import atomic_path
from nnkit.page import contents, fold, heading, page, picture, table, tiles

PAGE = "comparison.html"
ACCURACY, CURVES, RECALLS, SWEEP = "accuracy.png", "curves.png", "recalls.png", "sweep.png"
_TERMS = {
    "FLOPs": "multiplications and additions of the convolutions and linear layers, for one image, forward",
    "an epoch": "the median epoch's time, its validation included; mean over the seeds",
    "to N%": "training time, validation included, until the end of the first epoch with at least that validation "
    "accuracy; mean over the seeds that got there, whose number is given if it is not all of them; – if none did",
    "memory": "the most RAM that a training's own process had at any time (peak resident set): interpreter, libraries "
    "and data set included; of a resumed training, that of its last process",
    "gap": "training accuracy less validation accuracy in the best epoch, in percentage points; the training accuracy "
    "is that of the batches as they were trained on: augmented, with dropout, by weights that still moved, so that the "
    "gap can be negative",
}
_SECTIONS = (
    "Figures",
    "Over epochs and seconds",
    "Class by class",
    "More than chance?",
    "How it was measured",
    "Trainings",
)
_MANY_NAMES = 5
_MANY_PAIRS = 15  # with more, the page tells only those of the best one


def write_page(result: Comparison) -> Path:
    """Draw the pictures of a comparison, and write the page that holds them.

    Parameters
    ----------
    result : Comparison

    Returns
    -------
    Path
        Of the page.
    """
    is_line = _draw(result)
    with atomic_path(result.folder / PAGE) as path:
        path.write_text(_page(result, is_line), encoding="utf-8")
    return result.folder / PAGE


def _draw(result: Comparison) -> bool:
    """Draw all pictures, and return whether that of the sweep is a line, which shows each training."""
    folder, there = result.folder, [contestant for contestant in result.ranked if contestant.finished]
    names = [contestant.name for contestant in there]
    accuracies = [contestant.accuracies for contestant in there]
    plots.save(plots.accuracy_dots(accuracies, names, part=result.part), folder / ACCURACY)
    curves = {c.name: [(t.elapsed, np.array(t.history.val_accuracy, float)) for t in c.finished] for c in there}
    plots.save(plots.comparison_curves(curves, thresholds=result.thresholds), folder / CURVES)
    recalls = np.array([result.recalls(contestant) for contestant in there])
    plots.save(plots.class_recalls(recalls, names, result.class_names), folder / RECALLS)
    return _draw_sweep(result)


def _draw_sweep(result: Comparison) -> bool:
    axes = {name: values for name, values in varied(result).items() if len(values) > 1}
    path = result.folder / SWEEP
    if len(axes) == 2:
        (row_name, rows), (column_name, columns) = axes.items()
        shape = (len(rows), len(columns))
        cells = [contestant.accuracy for contestant in result.contestants]  # in the order of the product
        stds = [contestant.std for contestant in result.contestants]
        means, spread = (
            np.array([math.nan if v is None else v for v in each]).reshape(shape) for each in (cells, stds)
        )
        figure = plots.sweep_map(means, rows, columns, names=(row_name, column_name), stds=spread, part=result.part)
        plots.save(figure, path)
    elif len(axes) == 1:
        ((name, values),) = axes.items()
        numbers = numbers_of(values)
        if numbers is not None and len(numbers) > 2:
            accuracies = [contestant.accuracies for contestant in result.contestants]
            plots.save(plots.sweep_line(numbers, accuracies, name=name, part=result.part), path)
            return True
    return False


def _page(result: Comparison, is_line: bool) -> str:
    verdict, folder = headline(result), result.folder
    head, rows = result.table()
    sweep = varied(result)
    names = [contestant.name for contestant in result.contestants]
    kind = f"{', '.join(names[:-1])} and {names[-1]}"
    if sweep or len(names) > _MANY_NAMES:
        kind = f"{len(names)} variants of {result.contestants[0].entry.recipe.name}" if sweep else f"{len(names)} nets"
    return page(
        f"Comparison: {verdict}",
        [
            f'<p class="over">{escape(kind)}</p>',
            f"<h1>{escape(verdict)}</h1>",
            *(f"<p>{escape(paragraph)}</p>" for paragraph in story(result)),
            contents(_SECTIONS),
            _tiles(result.ranked[0], result),
            _not_the_test_set(result),
            heading("Figures"),
            table(head, rows, best=0),
            picture(folder, SWEEP, f"Accuracy over {' and '.join(sweep)}.") if sweep else "",
            "" if is_line else picture(folder, ACCURACY, "The accuracies of all, with their spread."),
            heading("Over epochs and seconds"),
            picture(folder, CURVES, "Line charts of validation accuracies, over the epochs and over the seconds."),
            heading("Class by class"),
            picture(folder, RECALLS, "The share of each class's images that each recognises."),
            fold(_recall_table(result), "Every class in figures", folded=True),
            heading("More than chance?"),
            _pairs_section(result),
            heading("How it was measured"),
            _method(result),
            heading("Trainings"),
            fold(_training_table(result), "Every training in figures", folded=True),
            _settings(result),
            f"<footer>Made by nnkit {escape(nnkit.__version__)}. The same figures are in comparison.csv and "
            "comparison.json beside this page.</footer>",
        ],
    )


def _tiles(best: Contestant, result: Comparison) -> str:
    seconds, memory = best.mean(lambda t: t.epoch_seconds), best.mean(lambda t: t.peak_memory)
    entries = [
        (best.accuracy_text(), f"{result.part} accuracy of the best"),
        ("–" if best.parameters is None else f"{best.parameters:,}", "parameters"),
        ("–" if best.flops is None else short_number(best.flops), "FLOPs, one image forward"),
        ("–" if seconds is None else short_duration(seconds), "an epoch"),
        ("–" if memory is None else f"{memory / 2**20:,.0f} MiB", "peak memory"),
        (str(sum(len(contestant.trainings) for contestant in result.contestants)), "trainings"),
    ]
    return tiles(entries)


def _not_the_test_set(result: Comparison) -> str:
    if result.part == "test":
        return ""
    return (
        "<p>These are validation accuracies. A sweep is there to choose settings, and what is chosen by the test "
        "images is no longer measured by them; they were not looked at. Train the one that you choose with "
        "<code>nnkit train</code>, which tests it once.</p>"
    )


def _recall_table(result: Comparison) -> str:
    there = [contestant for contestant in result.ranked if contestant.finished]
    recalls = np.array([result.recalls(contestant) for contestant in there])
    rows = []
    for k, name in enumerate(result.class_names):
        rows.append([str(name), *("–" if math.isnan(r) else f"{r:.1%}" for r in recalls[:, k])])
    return table(["recall", *(contestant.name for contestant in there)], rows)


def _pairs_section(result: Comparison) -> str:
    pairs: Sequence[Pair] = result.pairs
    note = ""
    if len(pairs) > _MANY_PAIRS:
        note = f"<p>Of {len(pairs)} pairs, those of the best one; all are in comparison.json.</p>"
        pairs = [pair for pair in pairs if pair.first is result.ranked[0]]
    rows = []
    for pair in pairs:
        counts = counts_text(pair, True), counts_text(pair, False)
        rows.append(
            [pair.first.name, pair.second.name, *counts, p_text(pair.p), p_text(pair.corrected), pair_sentence(pair)]
        )
    head = ["first", "second", "only first right", "only second right", "p", "p, corrected", "that is"]
    return f"<p>{' '.join(_about_pairs(result))}</p>{note}{table(head, rows)}"


def _about_pairs(result: Comparison) -> list[str]:
    """Return in words what the table of pairs says."""
    sentences = [
        f"McNemar's test looks at the {result.part} images that only one of two nets has right.",
        "If both nets were equally good, such an image would be as likely to be the one's as the other's;",
        "p is how likely a split at least as uneven as this one then is.",
    ]
    if max(len(pair.tests) for pair in result.pairs) > 1:
        sentences.append("With several seeds there is a test for each, and the largest p counts:")
        sentences.append("a difference must show in all of them.")
    if len(result.pairs) > 1:
        sentences.append("p is corrected for the number of pairs (Holm).")
    sentences.append(f"Two nets count as told apart if p is then below {LEVEL:g}.")
    if result.part == "validation":
        sentences.append("The validation images also chose each net's best epoch, so they flatter all of them alike.")
    sentences.append("The test speaks of these trained nets;")
    sentences.append("how much other trainings would differ, the standard deviations tell.")
    return sentences


def _method(result: Comparison) -> str:
    threads = {(t.threads, t.kernels) for c in result.contestants for t in c.finished}
    ran = "; ".join(sorted(f"{n} thread{'s' * (n != 1)}, {k} kernels" for n, k in threads if n is not None))
    apart = " <b>The trainings ran differently: their times cannot be compared.</b>" if len(threads) > 1 else ""
    judged = (
        f"share of the {result.images:,} {result.part} images whose likeliest class is the right one, with the weights"
    )
    judged += " of the best epoch on the validation images; mean ± standard deviation over the seeds"
    terms = {"accuracy": judged, **_TERMS}
    lines = "".join(f"<p><b>{term}:</b> {escape(text)}.</p>" for term, text in terms.items())
    return lines + (f"<p><b>machine:</b> {escape(ran)}.{apart}</p>" if ran else "")


def _training_table(result: Comparison) -> str:
    head = ["", "seed", f"{result.part} accuracy", "validation", "best epoch", "seconds", "memory", "gap"]
    rows = []
    for contestant in result.ranked:
        for t in contestant.trainings:
            if t.diverged:
                rows.append([contestant.name, str(t.seed), "diverged", *["–"] * 5])
                continue
            memory = "–" if t.peak_memory is None else f"{t.peak_memory / 2**20:,.0f} MiB"
            epochs = f"{t.history.best_epoch} of {len(t.history)}"
            shares = f"{t.accuracy:.2%}", f"{t.val_accuracy:.2%}"
            rows.append(
                [contestant.name, str(t.seed), *shares, epochs, f"{t.elapsed[-1]:.1f}", memory, f"{100 * t.gap:+.1f}"]
            )
    return table(head, rows)


def _settings(result: Comparison) -> str:
    """Return the settings in which the contestants differ."""
    flat = [_flat(contestant.entry) for contestant in result.ranked]
    keys = list(dict.fromkeys(key for each in flat for key in each))
    differing = [key for key in keys if len({each.get(key, "–") for each in flat}) > 1]
    rows = [[key, *(each.get(key, "–") for each in flat)] for key in differing]
    content = table(["setting", *(contestant.name for contestant in result.ranked)], rows)
    return fold(content, "Settings in which they differ", folded=len(result.ranked) > 4)


def _flat(entry: Entry) -> dict[str, str]:
    """Return a recipe's settings by their keys, as text."""
    found = {}
    for section, value in entry.recipe.to_settings().items():
        if section in ("name", "description", "seed", "search"):
            continue
        for key, item in value.items():
            found[f"{section}.{key}"] = str(list(item) if isinstance(item, tuple) else item)
    return found
