"""A report: titled tables with sentences around them, written as text, Markdown, LaTeX or HTML from one model.

Every text is escaped in the format it is written in, so that a name cannot be read as markup. LaTeX is plain ASCII and
needs booktabs alone; HTML has no script and asks for nothing.
"""

from __future__ import annotations

import math
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from tabulate import MIN_PADDING, tabulate

from collapsebench.errors import UserError

FORMATS = {"text": "txt", "md": "md", "csv": "csv", "json": "json", "tex": "tex", "html": "html"}
"""Format -> suffix of its files; csv and json hold long tables, the others a report."""

TEXT_WIDTH = 120
"""Characters of a line of plain text."""

LATEX_WIDTH = 96
"""Characters of a line of LaTeX, at \\scriptsize across the text of an article with margins of 2 cm."""

NOTEBOOK_ROWS = 60
"""How many rows of a table a notebook shows; a last line says how many more there are."""

_HTML_STYLE = (
    ":root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;margin:2rem auto;max-width:90rem;"
    "padding:0 1rem}.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "caption{text-align:left;font-weight:600;padding:.5rem 0}th,td{border-bottom:1px solid #8888;padding:.3rem .7rem;"
    "text-align:left;vertical-align:bottom}thead th{border-bottom-width:2px}"
)


_SPECIAL = {
    '"': r"\char`\"{}",
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "[": "{[}", "]": "{]}",
    "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$",
    "→": r"$\rightarrow$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "∞": r"$\infty$", "−": r"$-$", "²": r"$^2$",
    "³": r"$^3$", "°": r"$^\circ$", "–": "--", "—": "---", "’": "'", "‘": "`", "“": "``", "”": "''", "…": r"\ldots{}",
    "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}", "Ø": r"\O{}",
    "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}", "§": r"\S{}", "©": r"\copyright{}", "µ": r"$\mu$", "\u00a0": "~",
}  # fmt: skip
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip
_NUMBER = re.compile(r"(\()?(-?[\d.]+(?:e-?\d+)?)(?: ± ([\d.]+(?:e-?\d+)?))?(?:\)e(-?\d+))?( \(.*\))?")
_LATEX_HEADER = r"""% Needs \usepackage{booktabs}. Read it with \input{NAME}.
"""
_LATEX_PREAMBLE = r"""\documentclass{article}
\usepackage[a4paper,margin=2cm]{geometry}
\usepackage{booktabs}
\begin{document}
"""


@dataclass(frozen=True)
class TableColumn:
    """One column: the lines of its header, the last of them direction and unit, and a cell for each row."""

    header: tuple[str, ...]
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A titled table with notes. fixed: what every table has; scores: what differs.

    lead: sentences above it. named: the place of the row's name among the fixed columns.
    """

    title: str
    fixed: tuple[TableColumn, ...]
    scores: tuple[TableColumn, ...]
    notes: tuple[str, ...]
    lead: tuple[str, ...] = ()
    named: int = 1

    @property
    def columns(self) -> tuple[TableColumn, ...]:
        """All columns, from left to right."""
        return (*self.fixed, *self.scores)

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The cells, row by row."""
        return list(zip(*(column.cells for column in self.columns), strict=True))


@dataclass(frozen=True)
class Report:
    """A title, sentences, tables and a footer."""

    title: str
    tables: tuple[Table, ...]
    footer: tuple[str, ...]
    lead: tuple[str, ...] = ()


def written(report: Report, format: str, *, standalone: bool = False) -> str:
    """Return a report as "text", "md", "tex" (with `standalone` a whole document) or "html"."""
    match format:
        case "text":
            return plain_text(report)
        case "md":
            return markdown(report)
        case "tex":
            return latex(report, standalone=standalone)
        case "html":
            return html_document(report)
    raise UserError(f"format '{format}' is unknown. Expected one of {', '.join(FORMATS)}; choose one of these.")


def number(mean: float, low: float = math.nan, high: float = math.nan) -> str:
    """Return `mean ± half-width` with two significant digits of the half-width, or four of the mean without one."""
    half = (high - low) / 2
    size = max(abs(mean), 0.0 if math.isnan(half) else half)
    if size and not 1e-3 <= size < 1e5:
        exponent = math.floor(math.log10(size))
        scale = 10.0**exponent
        text = number(mean / scale, low / scale, high / scale)
        return f"({text})e{exponent}" if "±" in text else f"{text}e{exponent}"
    if math.isnan(half):
        return f"{mean:.4g}"
    if half == 0:
        return f"{mean:.4g} ± 0"
    digits = max(0, 1 - math.floor(math.log10(half)))
    if digits > 6:
        return f"{mean:.6g} ± {half:.1g}"
    rounded = round(mean, digits) + 0.0  # no minus before a zero
    return f"{rounded:.{digits}f} ± {half:.{digits}f}"


def plain_text(report: Report) -> str:
    """Return a report as plain text of at most 120 columns."""
    blocks = [_underlined(report.title, "="), _wrapped(report.lead)]
    for table in report.tables:
        parts = map(_text_table, pieces(table, TEXT_WIDTH))
        blocks += [_underlined(table.title, "-"), _wrapped(table.lead), *parts, _wrapped(table.notes)]
    return _joined([*blocks, _wrapped(report.footer)])


def markdown(report: Report) -> str:
    """Return a report as Markdown."""
    blocks = [f"# {escape_markdown(report.title)}", _markdown_list(report.lead)]
    for table in report.tables:
        said, notes = _markdown_list(table.lead), _markdown_list(table.notes)
        blocks += [f"## {escape_markdown(table.title)}", said, _markdown_table(table.columns), notes]
    return _joined([*blocks, "---", _markdown_list(report.footer)])


def latex(report: Report, *, standalone: bool = False) -> str:
    """Return a report as floating tables for `\\input`, or as a document that compiles by itself."""
    tables = [_latex_table(report.title, table, report.footer) for table in report.tables]
    lead = "".join(f"\\item {escape_latex(line)}\n" for line in report.lead)
    body = "\n".join([f"\\begin{{itemize}}\n{lead}\\end{{itemize}}\n"] * bool(lead) + tables)
    return f"{_LATEX_PREAMBLE}{body}\n\\end{{document}}\n" if standalone else _LATEX_HEADER + body + "\n"


def html_document(report: Report) -> str:
    """Return a report as one HTML document of its own: no script, no request, a caption and headers to every table."""
    title = escape(report.title)
    body = "\n".join(map(_html_section, report.tables))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>{_HTML_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{_html_list(report.lead)}\n{body}\n"
        f"</main>\n<footer>\n{_html_list(report.footer)}\n</footer>\n</body>\n</html>\n"
    )


def html_fragment(report: Report) -> str:
    """Return a report for a notebook, as one element: its tables with their notes, and the footer."""
    parts = [f"<h4>{escape(report.title)}</h4>", _paragraphs(report.lead)]
    for table in report.tables:
        caption = f"<p><strong>{escape(table.title)}</strong></p>"
        parts += [caption, _paragraphs(table.lead), _notebook_table(table), _paragraphs(table.notes)]
    return f"<div>{''.join(parts)}</div>{_paragraphs(report.footer)}"


def pieces(table: Table, width: int) -> list[list[TableColumn]]:
    """Break a table's columns into pieces no wider than so many characters; every piece names the rows."""
    found = [list(table.fixed)]
    for column in table.scores:
        if sum(_width(item) + 2 for item in found[-1]) + _width(column) > width:
            found.append([table.fixed[table.named]])
        found[-1].append(column)
    return found


def escape_markdown(text: str) -> str:
    """Return a text in which Markdown and the HTML within it find nothing to interpret, on one line."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{sign}" if sign in "\\`*[]|" else sign for sign in line)


def _joined(blocks: Iterable[str]) -> str:
    return "\n\n".join(block for block in blocks if block) + "\n"


def _underlined(title: str, sign: str) -> str:
    return f"{title}\n{sign * len(title)}"


def _wrapped(lines: Iterable[str]) -> str:
    wrapped = (textwrap.wrap(line, TEXT_WIDTH, subsequent_indent="  ", break_on_hyphens=False) for line in lines)
    return "\n".join(part for lines in wrapped for part in lines)


def _width(column: TableColumn) -> int:
    return max(*(len(line) + MIN_PADDING for line in column.header), *map(len, column.cells))


def _text_table(columns: Sequence[TableColumn]) -> str:
    headers = ["\n".join(column.header) for column in columns]
    body = list(zip(*(column.cells for column in columns), strict=True))
    return tabulate(body, headers, tablefmt="simple", disable_numparse=True)


def _markdown_table(columns: Sequence[TableColumn]) -> str:
    headers = ["<br>".join(map(escape_markdown, column.header)) for column in columns]
    body = list(zip(*(map(escape_markdown, column.cells) for column in columns), strict=True))
    return tabulate(body, headers, tablefmt="pipe", disable_numparse=True)


def _markdown_list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {escape_markdown(line)}" for line in lines)


def _html_section(table: Table) -> str:
    title = escape(table.title)
    header = "".join(f'<th scope="col">{"<br>".join(map(escape, column.header))}</th>' for column in table.columns)
    rows = "\n".join(f"<tr>{_html_row(row, table.named)}</tr>" for row in table.rows)
    said = f"{_html_list(table.lead)}\n" if table.lead else ""
    return (
        f'<section>\n{said}<div class="wide" role="region" aria-label="{title}" tabindex="0">\n<table>\n'
        f"<caption>{title}</caption>\n<thead><tr>{header}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>\n"
        f"{_html_list(table.notes)}\n</section>"
    )


def _html_row(row: tuple[str, ...], named: int) -> str:
    """Return the cells of a row, whose name heads it."""
    cells = [f"<td>{escape(cell)}</td>" for cell in row]
    cells[named] = f'<th scope="row">{escape(row[named])}</th>'
    return "".join(cells)


def _html_list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _paragraphs(sentences: Iterable[str]) -> str:
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)


def _notebook_table(table: Table) -> str:
    """Return a table; line breaks of a cell are kept, and rows beyond `NOTEBOOK_ROWS` are counted, not shown."""
    header = ["\n".join(column.header) for column in table.columns]
    shown = [_notebook_row("th", header), *(_notebook_row("td", row) for row in table.rows[:NOTEBOOK_ROWS])]
    left_out = len(table.rows) - NOTEBOOK_ROWS
    more = f"<p>{left_out} more rows.</p>" if left_out > 0 else ""
    return f"<table>{''.join(shown)}</table>{more}"


def _notebook_row(tag: str, cells: Sequence[str]) -> str:
    inner = "".join(f"<{tag}>{escape(cell).replace(chr(10), '<br>')}</{tag}>" for cell in cells)
    return f"<tr>{inner}</tr>"


def escape_latex(text: str) -> str:
    """Return a text in which LaTeX finds nothing to interpret, in ASCII; what no stock font has becomes its code."""
    line = unicodedata.normalize("NFC", " ".join(text.split()))
    # Ligatures of hyphens and quotes would change what a name says.
    return re.sub(r"(?<=-)(?=-)|(?<=')(?=')|(?<=`)(?=`)", "{}", "".join(map(_latex_sign, line)))


def _latex_sign(sign: str) -> str:
    if sign in _SPECIAL:
        return _SPECIAL[sign]
    if sign.isspace():
        return " "
    if sign.isascii() and sign.isprintable():
        return sign
    return _greek_letter(sign) or _accented_letter(sign) or f"{{[}}U+{ord(sign):04X}{{]}}"


def _greek_letter(sign: str) -> str | None:
    letter = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", unicodedata.name(sign, ""))
    return _greek(letter[1], letter[2]) if letter else None


def _accented_letter(sign: str) -> str | None:
    parts = unicodedata.normalize("NFD", sign)
    if len(parts) != 2 or not (parts[0].isascii() and parts[0].isalpha() and parts[1] in _ACCENTS):
        return None
    return f"\\{_ACCENTS[parts[1]]}{{{parts[0]}}}"


def _greek(size: str, name: str) -> str:
    """Return a Greek letter in mathematics; capitals that look Latin have no command of their own."""
    word = {"LAMDA": "lambda", "FINAL": "varsigma"}.get(name, name.lower())
    if word == "omicron":
        return "$o$" if size == "SMALL" else "O"
    capitals = ("gamma", "delta", "theta", "lambda", "xi", "pi", "sigma", "upsilon", "phi", "psi", "omega")
    if size == "SMALL":
        return f"$\\{word}$"
    latin = {"eta": "H", "rho": "P", "chi": "X", "nu": "N", "mu": "M"}
    return f"$\\{word.title()}$" if word in capitals else latin.get(word, word[0].upper())


def _latex_cell(text: str) -> str:
    """Return a cell; a number with its interval becomes mathematics."""
    found = _NUMBER.fullmatch(text)
    if not found or bool(found[1]) != bool(found[4]):
        return escape_latex(text)
    _, mean, half, exponent, rest = found.groups()
    inner = _power(mean) + (rf" \pm {_power(half)}" if half else "")
    if exponent:
        inner = rf"({inner})\times 10^{{{exponent}}}"
    return f"${inner}${escape_latex(rest or '')}"


def _power(number: str) -> str:
    mean, sign, exponent = number.partition("e")
    return rf"{mean}\times 10^{{{int(exponent)}}}" if sign else mean


def _latex_table(title: str, table: Table, footer: Sequence[str]) -> str:
    parts = "\n\\par\\medskip\n".join(_tabular(piece) for piece in pieces(table, LATEX_WIDTH))
    notes = "\\par\n".join(escape_latex(line) for line in (*table.notes, *footer))
    caption = f"{title}: {table.title}" + (f". {' '.join(table.lead)}" if table.lead else "")
    return (
        "\\begin{table}[htbp]\n\\centering\n"
        f"\\caption{{{escape_latex(caption)}}}\n"
        f"\\scriptsize\n\\setlength{{\\tabcolsep}}{{4pt}}\n{parts}\n\\par\\medskip\n"
        f"\\begin{{minipage}}{{\\linewidth}}\\raggedright\n{notes}\n\\end{{minipage}}\n\\end{{table}}\n"
    )


def _tabular(columns: Sequence[TableColumn]) -> str:
    headers = [_stacked(column.header) for column in columns]
    rows = zip(*(map(_latex_cell, column.cells) for column in columns), strict=True)
    lines = [" & ".join(line) + r" \\" for line in rows]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{@{{}}{'l' * len(columns)}@{{}}}}", r"\toprule", " & ".join(headers) + r" \\",
            r"\midrule", *lines, r"\bottomrule", r"\end{tabular}",
        ]
    )  # fmt: skip


def _stacked(lines: Sequence[str]) -> str:
    r"""Return the lines of a header above each other; `\\` within a cell needs a table of its own."""
    stacked = r"\\".join(map(escape_latex, lines))
    return rf"\begin{{tabular}}[b]{{@{{}}l@{{}}}}{stacked}\end{{tabular}}"
