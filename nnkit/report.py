"""The report of a run: one HTML file that holds everything, pictures included, and can be mailed or printed."""

import base64
import json
import math
import tomllib
from collections.abc import Iterable, Sequence
from html import escape
from os import PathLike
from pathlib import Path
from typing import Any

from nnkit.errors import DataError
from nnkit.files import atomic_path
from nnkit.history import History

_LONG_TABLE = 24  # rows; a longer one starts folded

_CSS = """
:root { color-scheme: light dark; --ink: #1f2328; --muted: #59636e; --line: #d8dee4; --paper: #fff; --card: #f6f8fa;
  --right: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --muted: #9aa5b1; --line: #30363d; --paper: #0d1117;
  --card: #161b22; --right: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: clamp(1.5rem, 5vw, 2.25rem); line-height: 1.2; margin: 0 0 .75rem; text-wrap: balance; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
h3 { font-size: .8125rem; margin: 0 0 .25rem; color: var(--muted); font-weight: 600; text-transform: uppercase;
  letter-spacing: .05em; }
p { max-width: 42rem; margin: .5rem 0; overflow-wrap: anywhere; }
.over { color: var(--muted); margin: 0 0 .25rem; }
.tiles { display: grid; grid-template-columns: repeat(3, 1fr); gap: .75rem; margin: 1.5rem 0; padding: 0;
  list-style: none; }
.tiles li { background: var(--card); border-radius: .5rem; padding: .75rem 1rem; }
.tiles b { display: block; font-size: 1.375rem; white-space: nowrap; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.tiles span { color: var(--muted); font-size: .875rem; }
.sections { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 1.25rem 2.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 600; }
td { overflow-wrap: anywhere; }
.settings th { font-weight: 400; color: var(--muted); width: 45%; }
.figures th:not(:first-child), .figures td { text-align: right; padding: .3rem 0 .3rem .75rem; white-space: nowrap; }
.figures thead th { vertical-align: bottom; }
tr.best > * { color: var(--right); font-weight: 600; }
figure { margin: 1rem 0 1.5rem; background: #fff; border-radius: .5rem; padding: .5rem; border: 1px solid var(--line); }
img { display: block; max-width: 100%; height: auto; margin: auto; }
summary { cursor: pointer; color: var(--muted); padding: .25rem 0; }
code { font: .9em ui-monospace, "DejaVu Sans Mono", monospace; background: var(--card); padding: .1em .35em;
  border-radius: .25rem; }
footer { margin-top: 3rem; color: var(--muted); font-size: .875rem; }
@media (max-width: 40rem) { .tiles { grid-template-columns: repeat(2, 1fr); } figure { overflow-x: auto; }
  figure img { max-width: none; width: 40rem; } }
@media print { body { max-width: none; padding: 0; font-size: 10.5pt; } h2 { break-after: avoid; }
  figure, section, .tiles li, tr { break-inside: avoid; } .tiles li { border: 1px solid var(--line); }
  .scroll { overflow: visible; } }
"""


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
    with atomic_path(folder / "report.html") as path:
        path.write_text(_page(folder, figures, settings, history), encoding="utf-8")
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
    parts = [
        f'<p class="over">{escape(str(name))}</p>',
        f"<h1>{escape(verdict)}</h1>",
        f"<p>{escape(_story(figures))}</p>",
        _tiles(figures),
        _settings_section(settings),
        "<h2>Training</h2>",
        _picture(folder, "training_curves.png", _curves_text(figures)),
        _fold(_history_table(history, figures.get("best_epoch")), "Every epoch in figures", folded=True),
        "<h2>Test set, class by class</h2>",
        _picture(folder, "confusion_matrix.png", _matrix_text(figures)),
        _fold(_class_table(figures, classes), "Every class in figures", folded=len(classes) > _LONG_TABLE),
        "<h2>What the net said</h2>",
        _picture(folder, "predictions.png", "Sample test images, each with the predicted class and its confidence."),
        _picture(
            folder, "misclassified.png", "The misclassified test images of highest confidence, with true classes."
        ),
        "<h2>What the first layer learned</h2>",
        _picture(folder, "filters.png", "The weights of the first layer's filters, drawn as images; gray is zero."),
        f"<footer>{_footer(figures)}</footer>",
    ]
    body = "\n".join(part for part in parts if part)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(f"{name}: {verdict}")}</title>
<style>{_CSS}</style>
</head>
<body>
{body}
</body>
</html>
"""


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
            f"A net of {figures['parameters']:,} parameters, trained for {epochs} in {_duration(figures['seconds'])}."
        )
    if figures.get("best_epoch") is not None and _known(figures.get("val_accuracy")):
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
    items = []
    for key, label, form in shown:
        value: Any = figures.get(key)
        if _known(value):
            text = form.format(value) if form else _duration(value)
            items.append(f"<li><b>{escape(text)}</b><span>{label}</span></li>")
    return f'<ul class="tiles">{"".join(items)}</ul>'


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
    return f'<h2>Settings</h2>\n<div class="sections">{"".join(tables)}</div>'


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


# Tables


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], best: int | None = None) -> str:
    """Return a table of figures whose first column names the rows; the row at index `best` is set off."""
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    lines = []
    for i, (name, *cells) in enumerate(rows):
        mark = ' class="best"' if i == best else ""
        values = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr{mark}><th scope="row">{escape(name)}</th>{values}</tr>')
    table = f"<thead><tr>{titles}</tr></thead>\n<tbody>{''.join(lines)}</tbody>"
    return f'<div class="scroll" tabindex="0"><table class="figures">{table}</table></div>'


def _history_table(history: History, best_epoch: int | None) -> str:
    columns = [
        ("epoch", "epoch", "{:.0f}"),
        ("train_loss", "training loss", "{:.4f}"),
        ("train_accuracy", "training accuracy", "{:.2%}"),
        ("val_loss", "validation loss", "{:.4f}"),
        ("val_accuracy", "validation accuracy", "{:.2%}"),
        ("lr", "rate", "{:.3g}"),
        ("seconds", "seconds", "{:.1f}"),
    ]
    epochs = history["epoch"]
    values = [[form.format(value) if _known(value) else "–" for value in history[key]] for key, _, form in columns]
    best = epochs.index(best_epoch) if best_epoch in epochs else None
    return _table([title for _, title, _ in columns], zip(*values, strict=True), best)


def _class_table(figures: dict[str, Any], classes: list[dict[str, Any]]) -> str:
    if not classes:
        return ""
    shares = ("precision", "recall", "f1")
    rows = [[str(c["name"]), *(f"{c[key]:.1%}" for key in shares), f"{c['support']:,}"] for c in classes]
    if all(f"macro_{key}" in figures for key in shares):
        total = f"{sum(c['support'] for c in classes):,}"
        rows.append(["mean over classes", *(f"{figures[f'macro_{key}']:.1%}" for key in shares), total])
    return _table(["class", "precision", "recall", "F1", "images"], rows)


def _fold(content: str, summary: str, *, folded: bool) -> str:
    if not content:
        return ""
    return f"<details{'' if folded else ' open'}><summary>{escape(summary)}</summary>{content}</details>"


# Pictures


def _picture(folder: Path, name: str, text: str) -> str:
    """Return the picture as part of the page, with the text for those who do not see it; nothing if it is missing."""
    path = folder / name
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<figure tabindex="0"><img src="data:image/png;base64,{data}" alt="{escape(text)}"></figure>'


def _curves_text(figures: dict[str, Any]) -> str:
    text = "Line charts of the training and validation loss and accuracy over the epochs"
    if figures.get("best_epoch") is None or not _known(figures.get("val_accuracy")):
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


# Numbers


def _known(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _duration(seconds: float) -> str:
    """Return a duration as people say it.

    >>> _duration(8.25), _duration(750), _duration(7260)
    ('8.2 s', '12 min 30 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
