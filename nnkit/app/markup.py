"""The HTML of the app's own: answers as bars, figures as tiles. Every text is escaped, whoever wrote it.

Streamlit's markdown would make markup of a class called `**cat**`, and a link of a file called `www.example.com.png`,
even where its signs are escaped; so texts from outside are shown by these functions alone.
"""

import base64
from collections.abc import Iterable
from html import escape

from nnkit.app.answers import Answer, encode, overlay

_SIDE = 256  # pixels, about, of a picture on the screen

# Colours are those of nnkit's pictures; the text's own colour is the theme's, light or dark.
STYLE = """<style>
.stMainBlockContainer { padding-top: 2rem; max-width: 72rem; }
.nn-card { border: 1px solid color-mix(in srgb, currentColor 18%, transparent); border-radius: .5rem; padding: 1rem;
  overflow-wrap: anywhere; }
.nn-card h3 { font-size: .875rem; font-weight: 600; margin: 0 0 .75rem; padding: 0; opacity: .75; }
.nn-body { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; }
.nn-pictures { display: flex; gap: .75rem; flex: 1 1 17rem; max-width: 32rem; }
.nn-pictures figure { margin: 0; flex: 1 1 0; min-width: 0; }
.nn-pictures img { width: 100%; display: block; border-radius: .25rem; image-rendering: pixelated; }
.nn-pictures .nn-smooth { image-rendering: auto; }
.nn-pictures figcaption { font-size: .8125rem; opacity: .75; margin-top: .25rem; line-height: 1.35; }
.nn-answer { flex: 1 1 15rem; min-width: 0; }
.nn-verdict { font-size: 1.375rem; font-weight: 700; line-height: 1.25; margin: 0 0 .25rem; }
.nn-why { font-size: .875rem; margin: 0 0 .5rem; }
.nn-unsure .nn-verdict::before { content: "?"; display: inline-block; width: 1.6em; height: 1.6em; line-height: 1.6em;
  border-radius: 50%; background: #D55E00; color: #fff; text-align: center; margin-right: .5em; font-size: .7em;
  vertical-align: .15em; }
.nn-card .nn-bars { list-style: none; margin: .5rem 0 0; padding: 0; }
.nn-card .nn-bars li { display: grid; grid-template-columns: 1fr auto; gap: 0 .75rem; margin: 0 0 .5rem; padding: 0;
  font-size: .9375rem; line-height: 1.35; }
.nn-bars b { font-weight: 400; font-variant-numeric: tabular-nums; }
.nn-bars li:first-child { font-weight: 600; }
.nn-bars li:first-child b { font-weight: 600; }
.nn-track { grid-column: 1 / -1; height: .5rem; border-radius: .25rem; margin-top: .125rem;
  background: color-mix(in srgb, currentColor 12%, transparent); }
.nn-bar { height: 100%; border-radius: .25rem; background: #0072B2; }
.nn-unsure .nn-bar { background: #D55E00; }
.nn-alert { margin: 0; padding: .75rem 1rem; border-radius: .5rem; border-left: .25rem solid #D55E00;
  background: color-mix(in srgb, #D55E00 12%, transparent); overflow-wrap: anywhere; }
.nn-sentence { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
ul.nn-tiles.nn-tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .5rem; margin: 0;
  padding: 0; list-style: none; }
ul.nn-tiles.nn-tiles li { margin: 0; padding: .5rem .75rem; border-radius: .5rem;
  background: color-mix(in srgb, currentColor 6%, transparent); font-size: .8125rem; }
.nn-tiles b { display: block; font-size: 1.125rem; font-variant-numeric: tabular-nums; }
</style>"""

_LOOKED = {
    "grad-cam": "Where it sees {} (Grad-CAM)",
    "occlusion": "Where it sees {} (by occlusion, as there are no convolutions for Grad-CAM)",
}


def card(answer: Answer, title: str = "") -> str:
    """Return an answer: the picture as the model sees it, where it looked, what it says and how sure it is.

    Parameters
    ----------
    answer : Answer
    title : str, optional
        A file's name, or a run's.

    Returns
    -------
    str
    """
    height, width = answer.heat.shape
    zoom = max(1, _SIDE // max(height, width))
    doubt, first = answer.doubt, answer.names[0]
    said = "Not sure" if doubt else first
    why = doubt or f"with a probability of {percent(answer.probabilities[0])}"
    heading = f"<h3>{escape(_one_line(title, 80))}</h3>" if title else ""
    pictures = _figure(encode(answer.seen, "png"), f"As the net sees it: {width} × {height} pixels")
    looked = encode(overlay(answer.seen, answer.heat, zoom), "jpeg")
    pictures += _figure(looked, _LOOKED[answer.method].format(first), smooth=True)
    return (
        f'<div class="nn-card{" nn-unsure" * bool(doubt)}">{heading}<div class="nn-body">'
        f'<div class="nn-pictures">{pictures}</div>'
        f'<div class="nn-answer"><p class="nn-verdict">{escape(said)}</p><p class="nn-why">{escape(why)}</p>'
        f"{_bars(answer)}</div></div></div>"
    )


def tiles(entries: Iterable[tuple[str, str]]) -> str:
    """Return figures in large type, each a text with its label.

    Parameters
    ----------
    entries : iterable of (str, str)

    Returns
    -------
    str
    """
    items = "".join(f"<li><b>{escape(text)}</b>{escape(label)}</li>" for text, label in entries)
    return f'<ul class="nn-tiles">{items}</ul>'


def picture(content: bytes) -> str:
    """Return a PNG file as an image of the width that it is given.

    Parameters
    ----------
    content : bytes

    Returns
    -------
    str
    """
    return f'<div class="nn-pictures"><img src="{_data_url(content)}" alt=""></div>'


def percent(share: float) -> str:
    """Return a share with one decimal, without rounding to none or all what is not.

    Parameters
    ----------
    share : float

    Returns
    -------
    str

    Examples
    --------
    >>> percent(0.125), percent(0.9999), percent(1e-6), percent(1)
    ('12.5%', '>99.9%', '<0.1%', '100.0%')
    """
    if 0 < share < 0.0005:
        return "<0.1%"
    return ">99.9%" if 0.9995 <= share < 1 else f"{share:.1%}"


def alert(text: str) -> str:
    """Return what went wrong, in one line that stands out and is read out.

    Parameters
    ----------
    text : str

    Returns
    -------
    str

    Examples
    --------
    >>> alert("<b>.png: the file is empty")
    '<p class="nn-alert" role="alert">&lt;b&gt;.png: the file is empty</p>'
    """
    return f'<p class="nn-alert" role="alert">{escape(_one_line(text, 300))}</p>'


def sentence(text: str) -> str:
    """Return a sentence by itself.

    Parameters
    ----------
    text : str

    Returns
    -------
    str
    """
    return f'<p class="nn-sentence">{escape(_one_line(text, 300))}</p>'


def _one_line(text: str, length: int) -> str:
    line = " ".join(text.split())
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if len(line) <= length else f"{line[: length - 1]}…"


def _figure(content: bytes, caption: str, smooth: bool = False) -> str:
    kind = ' class="nn-smooth"' * smooth
    image = f'<img{kind} src="{_data_url(content)}" alt="{escape(caption)}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _data_url(content: bytes) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _bars(answer: Answer) -> str:
    items = "".join(
        f"<li><span>{escape(name)}</span><b>{escape(percent(share))}</b>"
        f'<div class="nn-track"><div class="nn-bar" style="width:{100 * share:.1f}%"></div></div></li>'
        for name, share in zip(answer.names, answer.probabilities, strict=True)
    )
    return f'<ol class="nn-bars">{items}</ol>'
