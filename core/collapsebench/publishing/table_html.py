"""Tables with their notes as plain HTML, without scripts: a document, or a fragment for notebooks. All is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from collapsebench.publishing import notebook
from collapsebench.publishing.layout import Layout, Section

_STYLE = (
    ":root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;margin:2rem auto;max-width:90rem;"
    "padding:0 1rem}.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "caption{text-align:left;font-weight:600;padding:.5rem 0}th,td{border-bottom:1px solid #8888;padding:.3rem .7rem;"
    "text-align:left;vertical-align:bottom}thead th{border-bottom-width:2px}"
)


def document(found: Layout) -> str:
    """Return a layout as one HTML document of its own: no script, no request, a caption and headers to every table."""
    title = escape(found.title)
    body = "\n".join(_section(section) for section in found.sections)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{_list(found.lead)}\n{body}\n</main>\n"
        f"<footer>\n{_list(found.footer)}\n</footer>\n</body>\n</html>\n"
    )


def fragment(found: Layout) -> str:
    """Return a layout for a notebook: its tables with their notes, and the footer."""
    tables = [
        (
            section.title,
            notebook.table(["\n".join(column.header) for column in section.columns], section.rows)
            + notebook.paragraphs(section.notes),
        )
        for section in found.sections
    ]
    return notebook.fragment(found.title, found.lead, tables) + notebook.paragraphs(found.footer)


def _section(section: Section) -> str:
    title = escape(section.title)
    header = "".join(f'<th scope="col">{"<br>".join(map(escape, column.header))}</th>' for column in section.columns)
    rows = "\n".join(f"<tr>{_cells(row)}</tr>" for row in section.rows)
    return (
        f'<section>\n<div class="wide" role="region" aria-label="{title}" tabindex="0">\n<table>\n'
        f"<caption>{title}</caption>\n<thead><tr>{header}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>\n"
        f"{_list(section.notes)}\n</section>"
    )


def _cells(row: tuple[str, ...]) -> str:
    """Return the cells of a row; the second one, its name, heads it."""
    cells = [f"<td>{escape(cell)}</td>" for cell in row]
    cells[1] = f'<th scope="row">{escape(row[1])}</th>'
    return "".join(cells)


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""
