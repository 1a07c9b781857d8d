"""Tables with their notes as LaTeX in plain ASCII that compiles with booktabs and nothing else."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from collapsebench.publishing.layout import Column, Layout, Section
from collapsebench.publishing.tables import pieces

WIDTH = 96
"""Characters of a line of text, at \\scriptsize across the text of an article with margins of 2 cm."""

_SPECIAL = {
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
_HEADER = r"""% Needs \usepackage{booktabs}. Read it with \input{NAME}.
"""
_STANDALONE = r"""\documentclass{article}
\usepackage[a4paper,margin=2cm]{geometry}
\usepackage{booktabs}
\begin{document}
"""


def latex(found: Layout, *, standalone: bool = False) -> str:
    """Return a layout as floating tables for `\\input`, or as a document that compiles by itself."""
    tables = [_table(found.title, section, found.footer) for section in found.sections]
    lead = "".join(f"\\item {escape_latex(line)}\n" for line in found.lead)
    body = "\n".join([f"\\begin{{itemize}}\n{lead}\\end{{itemize}}\n"] * bool(lead) + tables)
    return f"{_STANDALONE}{body}\n\\end{{document}}\n" if standalone else _HEADER + body + "\n"


def escape_latex(text: str) -> str:
    """Return a text in which LaTeX finds nothing to interpret, in ASCII; what no stock font has becomes its code."""
    line = unicodedata.normalize("NFC", " ".join(text.split()))
    # Ligatures of hyphens and quotes would change what a name says.
    return re.sub(r"(?<=-)(?=-)|(?<=')(?=')|(?<=`)(?=`)", "{}", "".join(map(_sign, line)))


def _sign(sign: str) -> str:
    if sign == '"':
        return r"\char`\"{}"
    if sign in _SPECIAL:
        return _SPECIAL[sign]
    if sign.isspace():
        return " "
    if sign.isascii():
        return sign if sign.isprintable() else f"{{[}}U+{ord(sign):04X}{{]}}"
    name = unicodedata.name(sign, "")
    if found := re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", name):
        return _greek(found[1], found[2])
    parts = unicodedata.normalize("NFD", sign)
    if len(parts) == 2 and parts[0].isascii() and parts[0].isalpha() and parts[1] in _ACCENTS:
        return f"\\{_ACCENTS[parts[1]]}{{{parts[0]}}}"
    return f"{{[}}U+{ord(sign):04X}{{]}}"


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


def _cell(text: str) -> str:
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


def _table(title: str, section: Section, footer: Sequence[str]) -> str:
    parts = "\n\\par\\medskip\n".join(_tabular(piece) for piece in pieces(section, WIDTH))
    notes = "\\par\n".join(escape_latex(line) for line in (*section.notes, *footer))
    return (
        "\\begin{table}[htbp]\n\\centering\n"
        f"\\caption{{{escape_latex(title)}: {escape_latex(section.title)}}}\n"
        f"\\scriptsize\n\\setlength{{\\tabcolsep}}{{4pt}}\n{parts}\n\\par\\medskip\n"
        f"\\begin{{minipage}}{{\\linewidth}}\\raggedright\n{notes}\n\\end{{minipage}}\n\\end{{table}}\n"
    )


def _tabular(columns: Sequence[Column]) -> str:
    headers = [_stacked(column.header) for column in columns]
    rows = zip(*(map(_cell, column.cells) for column in columns), strict=True)
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
