"""Frame of a report: one HTML file that needs nothing else, in light and dark."""

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from astrid_dist.figures.canvas import png
from astrid_dist.figures.triplets import PLANES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Markup(str):
    """HTML that goes into a table as it is; plain strings are escaped."""


def page(title: str, lead: str, sections: Iterable[str]) -> str:
    """A whole HTML document; nothing in it points outside.

    Parameters
    ----------
    title, lead : str
        Heading, and the sentence below it; plain text.
    sections : iterable of str
        HTML, from the functions of this file.
    """
    style = resources.files("astrid_dist.figures").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style></head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n'
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def section(heading: str, text: str, *parts: str) -> str:
    """A heading, a paragraph of plain text (empty: none) and HTML parts."""
    paragraph = f"<p>{escape(text)}</p>\n" if text else ""
    anchor = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
    return f'<h2 id="{anchor}">{escape(heading)}</h2>\n{paragraph}' + "\n".join(parts)


def cards(items: Iterable[tuple[str, str]]) -> str:
    """Headline figures: (value with unit, what it is)."""
    inner = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(what)}</span></div>' for value, what in items
    )
    return f'<div class="cards">{inner}</div>'


def row(*parts: str) -> str:
    """Parts beside one another, wrapping on a narrow screen."""
    return f'<div class="row">{"".join(parts)}</div>'


def figure(drawing: "Figure", caption: str, alt: str) -> str:
    """A drawn figure with its caption; `alt` says in words what it shows."""
    width = round(96 * drawing.get_size_inches()[0])
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><img width="{width}" src="{_data_url(png(drawing))}" alt="{escape(alt)}">{below}</figure>'
    )


def gallery(items: Iterable[tuple[bytes, str, str]], planes: Sequence[str] = PLANES) -> str:
    """Small pictures in a grid: (PNG, title, caption); each shows `planes` side by side."""
    inner = "".join(
        f'<figure><img src="{_data_url(picture)}" alt="{escape(", ".join(planes))} of {escape(title)}">'
        f"<figcaption><b>{escape(title)}</b><br>{escape(caption)}</figcaption></figure>"
        for picture, title, caption in items
    )
    return f'<div class="gallery">{inner}</div>' if inner else '<p class="note">None.</p>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain text or `Markup`, numbers to the right."""
    head = "".join(f"<th>{_cell(name)}</th>" for name in header)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in cells) + "</tr>" for cells in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def chip(text: str, colour: str = "") -> Markup:
    """A word on a coloured ground: green, yellow, orange, red, or none of them."""
    return Markup(f'<span class="chip {escape(colour)}">{escape(text)}</span>')


def words(text: str) -> Markup:
    """A sentence in a table: to the left, wrapping."""
    return Markup(f'<div class="words">{escape(text)}</div>')


def anchor(name: str, text: str, note: str = "") -> Markup:
    """A link to a place of the same page; `note` shows when pointed at."""
    return Markup(f'<a href="#{escape(name)}" title="{escape(note)}">{escape(text)}</a>')


def maps(name: str, heading: str, text: str, items: Iterable[tuple[bytes, str]], size_px: int = 72) -> str:
    """Small pictures (PNG, caption) in a row under a heading that `anchor(name)` leads to."""
    inner = "".join(
        f'<figure><img style="height:{size_px}px" src="{_data_url(picture)}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for picture, caption in items
    )
    return (
        f'<div class="maps" id="{escape(name)}"><h3>{_cell(heading)}</h3>'
        f'<p class="note">{escape(text)}</p><div class="row">{inner}</div></div>'
    )


def code(text: str) -> str:
    """Lines to copy."""
    return f"<pre>{escape(text)}</pre>"


def plain(text: str) -> str:
    """Text as HTML."""
    return escape(text)


def _cell(cell: str) -> str:
    return cell if isinstance(cell, Markup) else escape(cell)


def _data_url(picture: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(picture).decode()
