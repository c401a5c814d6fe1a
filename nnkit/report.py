"""The report of a run."""

import json
import tomllib
from html import escape
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

from nnkit import analysis
from nnkit.errors import DataError
from nnkit.files import atomic_path
from nnkit.history import History
from nnkit.page import contents, duration, fold, heading, known, page, pair, picture, table, tiles
from nnkit.pictures import MANY_CLASSES, SHOWN_CLASSES

_LONG_TABLE = 24  # rows; a longer one starts folded


def write_report(run_dir: str | PathLike[str]) -> Path:
    """Write `report.html` into a run folder from what lies there.

    It opens with the verdict (test accuracy, parameters, time, settings), then come the epochs, the classes and the
    pictures. The file refers to nothing outside itself, and every name in it is escaped.

    Parameters
    ----------
    run_dir : path-like
        Holds metrics.json and history.csv; config.toml and the pictures are shown if they are there.

    Returns
    -------
    Path
        Of the report.

    Raises
    ------
    DataError
        When metrics.json, history.csv or config.toml cannot be read.
    """
    folder = Path(run_dir)
    figures, settings = _read_metrics(folder / "metrics.json"), _read_settings(folder / "config.toml")
    history = History.from_csv(folder / "history.csv")
    try:
        text = _page(folder, figures, settings, history)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:  # a file that nnkit wrote fits
        what = f"{type(error).__name__}: {error}"
        raise DataError(
            f"{folder / 'metrics.json'}: expected the figures of a finished run, got others ({what})"
        ) from error
    with atomic_path(folder / "report.html") as path:
        path.write_text(text, encoding="utf-8")
    return folder / "report.html"


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected the figures of a finished run, got {error}") from error
    if not isinstance(figures, dict) or "test_accuracy" not in figures:
        raise DataError(f"{path}: expected the figures of a finished run, got no test_accuracy")
    return figures


def _read_settings(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected settings in TOML, got {error}") from error


def _page(folder: Path, figures: dict[str, Any], settings: dict[str, Any], history: History) -> str:
    verdict, name = _verdict(figures), figures.get("recipe", folder.name)
    classes = figures.get("classes", [])
    sections = {
        "What the figures say": [_findings_section(figures, history)],
        "Settings": [_settings_section(settings)],
        "Training": [
            picture(folder, "training_curves.png", _curves_text(figures)),
            pair(
                picture(folder, "learning_rate.png", "Line chart of the learning rate over the epochs."),
                picture(folder, "gradient_norms.png", "Line chart of the gradient's norm over the epochs."),
            ),
            fold(_history_table(history, figures.get("best_epoch")), "Every epoch in figures", folded=True),
        ],
        "Class by class": [
            picture(folder, "confusion_matrix.png", _matrix_text(figures)),
            picture(folder, "class_scores.png", "Chart of each class's precision, recall and F1."),
            fold(_class_table(figures, classes), "Every class in figures", folded=len(classes) > _LONG_TABLE),
        ],
        "How sure it is": [
            picture(folder, "reliability.png", "Reliability diagram: the share of right answers, by their confidence.")
        ],
        "What it said": [
            picture(folder, "predictions.png", "Sample test images, each with the predicted class and its confidence."),
            picture(
                folder, "misclassified.png", "The misclassified test images of highest confidence, with true classes."
            ),
            picture(folder, "hardest_right.png", "The recognised test images of lowest confidence."),
        ],
        "What it looks at": [
            picture(folder, "explanations.png", "Test images, and over them which places the answers rest on."),
        ],
        "What it learned": [
            picture(folder, "filters.png", "The weights of the first layer's filters, drawn as images; gray is zero."),
            picture(folder, "feature_maps.png", "What the first convolution makes of a test image."),
            picture(folder, "feature_plane.png", "Test images as points, placed by what the last layer sees of them."),
            _plane_note(folder, figures),
        ],
    }
    filled = {title: parts for title, parts in sections.items() if any(parts)}
    return page(
        f"{name}: {verdict}",
        [
            f'<p class="over">{escape(str(name))}</p>',
            f"<h1>{escape(verdict)}</h1>",
            f"<p>{escape(_story(figures))}</p>",
            _tiles(figures),
            contents(filled),
            *(part for title, parts in filled.items() for part in (heading(title), *parts)),
            f"<footer>{_footer(figures)}</footer>",
        ],
    )


# The verdict


def _verdict(figures: dict[str, Any]) -> str:
    return f"{figures['test_accuracy']:.2%} of {figures.get('test_images', 0):,} test images recognised"


def _story(figures: dict[str, Any]) -> str:
    """Tell in a few sentences what was trained, for how long and which weights were kept."""
    sentences = []
    if "parameters" in figures and "seconds" in figures:
        count = figures.get("epochs", 0)
        epochs = "1 epoch" if count == 1 else f"{count} epochs"
        sentences.append(
            f"A net of {figures['parameters']:,} parameters, trained for {epochs} in {duration(figures['seconds'])}."
        )
    if figures.get("best_epoch") is not None and known(figures.get("val_accuracy")):
        sentences.append(
            f"The weights kept are those of epoch {figures['best_epoch']}, the best on the validation images "
            f"({figures['val_accuracy']:.2%})."
        )
    sentences.append("The test images were looked at only when the training was over; nothing was chosen by them.")
    return " ".join(sentences)


def _tiles(figures: dict[str, Any]) -> str:
    shown = [
        ("test_accuracy", "test accuracy", "{:.2%}"),
        ("val_accuracy", "validation accuracy", "{:.2%}"),
        ("test_loss", "test loss", "{:.4g}"),
        ("parameters", "parameters", "{:,}"),
        ("seconds", "training time", ""),
        ("images_per_second", "images per second", "{:,.0f}"),
    ]
    known_figures = [(figures[key], label, form) for key, label, form in shown if known(figures.get(key))]
    return tiles([(form.format(value) if form else duration(value), label) for value, label, form in known_figures])


def _findings_section(figures: dict[str, Any], history: History) -> str:
    """Return the written analysis, and the rules that it follows."""
    entries = "".join(
        f"<section><h3>{escape(one.topic)}</h3><p><b>{escape(one.headline)}</b> {escape(one.text)}</p></section>"
        for one in analysis.findings(figures, history)
    )
    rules = "".join(f"<p>{escape(rule)}</p>" for rule in analysis.RULES)
    return f'<div class="findings">{entries}</div>\n' + fold(rules, "By which rules", folded=True)


def _settings_section(settings: dict[str, Any]) -> str:
    """Return the settings as a small table a section, those outside any section first."""
    if not settings:
        return ""
    plain = {key: value for key, value in settings.items() if not isinstance(value, dict)}
    sections = {"run": plain} | {key: value for key, value in settings.items() if isinstance(value, dict)}
    tables = []
    for title, entries in sections.items():
        rows = "".join(
            f'<tr><th scope="row">{escape(key)}</th><td>{escape(_setting(value))}</td></tr>'
            for key, value in entries.items()
            if value != ""
        )
        if rows:
            tables.append(f'<section><h3>{escape(title)}</h3><table class="settings">{rows}</table></section>')
    return f'<div class="sections">{"".join(tables)}</div>'


def _setting(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_setting(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_setting, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _footer(figures: dict[str, Any]) -> str:
    made = f"nnkit {figures['nnkit']}" if "nnkit" in figures else "nnkit"
    facts = [f"{key} {figures[key]}" for key in ("seed", "kernels", "threads") if key in figures]
    again = "<code>nnkit train config.toml</code> in this folder trains it again."
    return f"Made by {escape(', '.join([made, *facts]))}. {again}"


def _plane_note(folder: Path, figures: dict[str, Any]) -> str:
    """Say what is not in the picture of the last layer's plane, or, without scikit-learn, why there is none."""
    many = len(figures.get("classes", [])) > MANY_CLASSES
    if (folder / "feature_plane.png").exists():
        return f'<p class="note">Only the {SHOWN_CLASSES} classes with the most mistakes are drawn.</p>' if many else ""
    if "analysis" not in figures or find_spec("sklearn"):  # an older run, or a net without a linear layer
        return ""
    hint = 'With scikit-learn (<code>pip install "nnkit[sklearn]"</code>), the test images are drawn'
    return f'<p class="note">{hint} here, too, placed by what the last layer sees of them.</p>'


# Tables


def _history_table(history: History, best_epoch: int | None) -> str:
    columns = [
        ("epoch", "epoch", "{:.0f}"),
        ("train_loss", "training loss", "{:.4f}"),
        ("train_accuracy", "training accuracy", "{:.2%}"),
        ("val_loss", "validation loss", "{:.4f}"),
        ("val_accuracy", "validation accuracy", "{:.2%}"),
        ("lr", "rate", "{:.3g}"),
        ("grad_norm", "gradient", "{:.3g}"),
        ("seconds", "seconds", "{:.1f}"),
    ]
    epochs = history["epoch"]
    values = [[form.format(value) if known(value) else "–" for value in history[key]] for key, _, form in columns]
    best = epochs.index(best_epoch) if best_epoch in epochs else None
    return table([title for _, title, _ in columns], zip(*values, strict=True), best)


def _class_table(figures: dict[str, Any], classes: list[dict[str, Any]]) -> str:
    if not classes:
        return ""
    shares = ("precision", "recall", "f1")
    rows = [[str(c["name"]), *(f"{c[key]:.1%}" for key in shares), f"{c['support']:,}"] for c in classes]
    if all(f"macro_{key}" in figures for key in shares):
        total = f"{sum(c['support'] for c in classes):,}"
        rows.append(["mean over classes", *(f"{figures[f'macro_{key}']:.1%}" for key in shares), total])
    return table(["class", "precision", "recall", "F1", "images"], rows)


# Pictures


def _curves_text(figures: dict[str, Any]) -> str:
    text = "Line charts of the training and validation loss and accuracy over the epochs"
    if figures.get("best_epoch") is None or not known(figures.get("val_accuracy")):
        return f"{text}."
    return f"{text}; best validation accuracy {figures['val_accuracy']:.2%} in epoch {figures['best_epoch']}."


def _matrix_text(figures: dict[str, Any]) -> str:
    text = "Confusion matrix of the test images, true classes in rows and predicted ones in columns"
    classes = figures.get("classes", [])
    if not classes:
        return f"{text}."
    worst, best = (choose(classes, key=lambda c: c["recall"]) for choose in (min, max))
    return (
        f"{text}; {best['name']} is recognised most often ({best['recall']:.0%}), "
        f"{worst['name']} least often ({worst['recall']:.0%})."
    )
