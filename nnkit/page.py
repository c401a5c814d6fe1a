"""The parts of an HTML page that holds everything, pictures included, and can be mailed or printed."""

import base64
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

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
img { display: block; max-width: 100%; width: var(--w, auto); height: auto; margin: auto; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 0 1rem; }
.findings { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); gap: 1rem 2.5rem;
  margin: 1rem 0; }
.findings b { display: block; }
.findings p { margin: .125rem 0; font-size: .9375rem; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 1.25rem 0; font-size: .9375rem; }
nav a { color: var(--right); }
h2 { scroll-margin-top: .5rem; }
.note { color: var(--muted); font-size: .875rem; }
summary { cursor: pointer; color: var(--muted); padding: .25rem 0; }
code { font: .9em ui-monospace, "DejaVu Sans Mono", monospace; background: var(--card); padding: .1em .35em;
  border-radius: .25rem; }
footer { margin-top: 3rem; color: var(--muted); font-size: .875rem; }
@media (max-width: 40rem) { .tiles { grid-template-columns: repeat(2, 1fr); } figure { overflow-x: auto; }
  .figures th:not(:first-child), .figures td { padding-left: .5rem; } table { font-size: .8125rem; }
  figure img { max-width: none; width: max(100%, min(.63 * var(--w, 64rem), 44rem)); } }
@media print { body { max-width: none; padding: 0; font-size: 10.5pt; } nav { display: none; }
  h2 { break-after: avoid; } figure, section, .tiles li, tr { break-inside: avoid; }
  .tiles li { border: 1px solid var(--line); } img { max-height: 11.5cm; width: auto; }
  .scroll { overflow: visible; } }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """Return a whole page; empty parts are left out. It may load nothing from anywhere and run no script."""
    body = "\n".join(part for part in parts if part)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_CSS}</style>
</head>
<body>
{body}
</body>
</html>
"""


def tiles(entries: Iterable[tuple[str, str]]) -> str:
    """Return figures in large type, each a text with its label."""
    items = "".join(f"<li><b>{escape(text)}</b><span>{escape(label)}</span></li>" for text, label in entries)
    return f'<ul class="tiles">{items}</ul>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], best: int | None = None) -> str:
    """Return a table of figures whose first column names the rows; the row at index `best` is set off."""
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    lines = []
    for i, (name, *cells) in enumerate(rows):
        mark = ' class="best"' if i == best else ""
        values = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr{mark}><th scope="row">{escape(name)}</th>{values}</tr>')
    table = f"<thead><tr>{titles}</tr></thead>\n<tbody>{''.join(lines)}</tbody>"
    return f'<div class="scroll" tabindex="0"><table class="figures">{table}</table></div>'


def fold(content: str, summary: str, *, folded: bool) -> str:
    """Return what a reader can fold away, or unfold; nothing if there is no content."""
    if not content:
        return ""
    return f"<details{'' if folded else ' open'}><summary>{escape(summary)}</summary>{content}</details>"


def picture(folder: Path, name: str, text: str) -> str:
    """Return the picture as part of the page; nothing if it is missing.

    For those who do not see it, there is the text, which says what it shows, and after it the picture's own heading.
    """
    path = folder / name
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    width, finding = _read(path)
    size = f' style="--w: {width}px"' if width else ""
    text = f"{text} {finding}".strip()
    return f'<figure tabindex="0"{size}><img src="data:image/png;base64,{data}" alt="{escape(text)}"></figure>'


def pair(*pictures: str) -> str:
    """Return pictures side by side where there is room; nothing if there are none."""
    return f'<div class="pair">{"".join(pictures)}</div>' if any(pictures) else ""


def _read(path: Path) -> tuple[int, str]:
    """Return how wide a picture is, at 100 dots an inch, and what it says of itself, as those of `plots.save` do."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            title, description = (str(image.info.get(key, "")) for key in ("Title", "Description"))
            sentences = (f"{text}." if text and text[-1] not in ".!?" else text for text in (title, description))
            return round(image.width / 1.5), " ".join(sentences).strip()
    except (OSError, ValueError):  # not for this page to judge
        return 0, ""


def heading(title: str) -> str:
    """Return the heading of a section, to which `contents` leads."""
    return f'<h2 id="{_anchor(title)}">{escape(title)}</h2>'


def contents(titles: Iterable[str]) -> str:
    """Return links to the sections of those headings."""
    links = "".join(f'<a href="#{_anchor(title)}">{escape(title)}</a>' for title in titles)
    return f'<nav aria-label="Contents">{links}</nav>'


def _anchor(title: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())


def known(value: Any) -> bool:
    """Return whether that is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def duration(seconds: float) -> str:
    """Return a duration as people say it.

    >>> duration(8.25), duration(59.97), duration(750), duration(7260)
    ('8.2 s', '1 min 0 s', '12 min 30 s', '2 h 1 min')
    """
    if seconds < 59.95:  # else one decimal makes 60.0 s of it
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
