"""HTML for notebooks: headings, sentences and tables in which every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

MOST_ROWS = 60
"""How many rows of a table a notebook shows; a last line says how many more there are."""


def fragment(heading: str, sentences: Iterable[str], tables: Iterable[tuple[str, str]]) -> str:
    """Return a heading, paragraphs, and tables given as (caption, HTML of `table`), as one element."""
    parts = [f"<h4>{escape(heading)}</h4>", paragraphs(sentences)]
    for caption, content in tables:
        parts += [f"<p><strong>{escape(caption)}</strong></p>"] * bool(caption) + [content]
    return f"<div>{''.join(parts)}</div>"


def paragraphs(sentences: Iterable[str]) -> str:
    """Return a paragraph for each sentence."""
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; line breaks of a cell are kept, and rows beyond `MOST_ROWS` are counted, not shown."""
    shown = [_row("th", header), *(_row("td", row) for row in rows[:MOST_ROWS])]
    more = f"<p>{len(rows) - MOST_ROWS} more rows.</p>" if len(rows) > MOST_ROWS else ""
    return f"<table>{''.join(shown)}</table>{more}"


def _row(tag: str, cells: Sequence[str]) -> str:
    inner = "".join(f"<{tag}>{escape(cell).replace(chr(10), '<br>')}</{tag}>" for cell in cells)
    return f"<tr>{inner}</tr>"
