"""Tables with their notes as plain text for a terminal, and as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from tabulate import MIN_PADDING, tabulate

from collapsebench.publishing.layout import Column, Layout, Section, number

WIDTH = 120


def page(found: Layout, *, markdown: bool = False) -> str:
    """Return a layout as plain text of at most 120 columns, or as Markdown."""
    blocks = [_heading(found.title, 1, markdown), _list(found.lead, markdown)]
    for section in found.sections:
        blocks.append(_heading(section.title, 2, markdown))
        blocks += [_markdown(section.columns)] if markdown else map(_text, pieces(section, WIDTH))
        blocks.append(_list(section.notes, markdown))
    blocks += ["---"] * markdown + [_list(found.footer, markdown)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def pieces(section: Section, width: int) -> list[list[Column]]:
    """Break a section's columns into pieces no wider than so many characters; every piece names the architectures."""
    found = [list(section.fixed)]
    for column in section.scores:
        if sum(_width(item) + 2 for item in found[-1]) + _width(column) > width:
            found.append([section.fixed[1]])
        found[-1].append(column)
    return found


def escape_markdown(text: str) -> str:
    """Return a text in which Markdown and the HTML within it find nothing to interpret, on one line."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{sign}" if sign in "\\`*[]|" else sign for sign in line)


def _width(column: Column) -> int:
    return max(*(len(line) + MIN_PADDING for line in column.header), *map(len, column.cells))


def _text(columns: Sequence[Column]) -> str:
    headers = ["\n".join(column.header) for column in columns]
    body = list(zip(*(column.cells for column in columns), strict=True))
    return tabulate(body, headers, tablefmt="simple", disable_numparse=True)


def _markdown(columns: Sequence[Column]) -> str:
    headers = ["<br>".join(map(escape_markdown, column.header)) for column in columns]
    body = list(zip(*(map(escape_markdown, column.cells) for column in columns), strict=True))
    return tabulate(body, headers, tablefmt="pipe", disable_numparse=True)


def _heading(text: str, level: int, markdown: bool) -> str:
    return f"{'#' * level} {escape_markdown(text)}" if markdown else f"{text}\n{'=-'[level - 1] * len(text)}"


def _list(lines: Iterable[str], markdown: bool) -> str:
    if markdown:
        return "\n".join(f"- {escape_markdown(line)}" for line in lines)
    wrapped = (textwrap.wrap(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False) for line in lines)
    return "\n".join(part for lines in wrapped for part in lines)


__all__ = ["WIDTH", "escape_markdown", "number", "page", "pieces"]
