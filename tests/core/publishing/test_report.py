"""Tables in every format say what is in them, whatever names are called, and compile, parse and render as they are."""

from __future__ import annotations

import html.parser
import math
import shutil
import subprocess

import pytest
from markdown_it import MarkdownIt

from collapsebench.publishing.report import (
    NOTEBOOK_ROWS,
    Report,
    Table,
    TableColumn,
    escape_latex,
    html_document,
    html_fragment,
    latex,
    markdown,
    number,
    plain_text,
)

NAMES = [
    "<script>alert(1)</script>", "a|b", "50 % & more", r"back\slash_{x}^2~", "#1 $5", '"quoted" \'names\'',
    "--double--", "`code` *bold* [link](x)", "β-VAE, σ² ≥ λ ± Ω", "naïve Čapek Øresund ß", "漢字",
    "line\nbreak", "&lt;b&gt;", "?`!`",
]  # fmt: skip
SPANS = tuple(
    TableColumn((f"metric-{n}", "a-long-score-name", "↓ latents"), ("1.25 ± 0.31",) * len(NAMES)) for n in range(9)
)
NUMBERS = ("0.988 ± 0.012", "12 ± 0", "(1.23 ± 0.11)e-5", "-3.8 ± 1.1", "1.235e-7", "> 16", "-", "not reached (1 of 3)",
           "0.5 ± 1e-15", "0.7", "1-3", "-0.2 ± 1.8 (n = 2)", "(-1.2 ± 0.1)e7", "2")  # fmt: skip


@pytest.fixture
def found():
    table = Table(
        "digits, beta-vae",
        (
            TableColumn(("rank", "↓"), NUMBERS),
            TableColumn(("architecture",), tuple(NAMES)),
            TableColumn(("runs ok",), NUMBERS),
        ),
        SPANS,
        tuple(f"{name} is not ranked: no <b>reason</b> & 3 % | more." for name in NAMES),
    )
    return Report("A | board <i>with</i> 100 %", (table, table), ("Ranked by r² ± 2 %, x_y|z.",), ("<u>lead</u>",))


class Reader(html.parser.HTMLParser):
    """Collects the texts of cells, and every tag."""

    def __init__(self):
        super().__init__()
        self.tags, self.cells, self.text = [], [], None

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag in ("td", "th"):
            self.text = []

    def handle_data(self, data):
        if self.text is not None:
            self.text.append(data)

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cells.append("".join(self.text))
            self.text = None


def read(text):
    reader = Reader()
    reader.feed(text)
    return reader


def test_every_name_is_text_on_the_page_and_nothing_else(found):
    for text in (html_document(found), html_fragment(found)):
        reader = read(text)
        assert {"script", "b", "i", "u"}.isdisjoint(reader.tags)
        assert set(NAMES) - {"line\nbreak"} <= set(reader.cells)


def test_the_page_is_one_document_whose_tables_have_captions_and_headers(found):
    text = html_document(found)
    reader = read(text)
    assert text.startswith('<!doctype html>\n<html lang="en">')
    assert reader.tags.count("caption") == reader.tags.count("table") == 2
    assert text.count('<th scope="row">') == 2 * len(NAMES)
    assert text.count('<th scope="col">') == 2 * len(found.tables[0].columns)
    assert "http" not in text
    assert "src=" not in text


def test_markdown_renders_to_the_same_cells(found):
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown(found))
    reader = read(rendered)
    assert {"script", "b", "i", "u", "a", "code", "strong", "em"}.isdisjoint(reader.tags)
    expected = [" ".join(cell.split()) for table in found.tables for row in table.rows for cell in row]
    body = [cell for cell in reader.cells if cell in set(expected)]
    assert body == expected


def test_text_breaks_wide_tables_into_pieces_that_name_their_rows(found):
    text = plain_text(found)
    rows = [line for line in text.splitlines() if line.count("a|b") and "not ranked" not in line]
    assert len(rows) > 4
    assert max(map(len, rows)) <= 120


@pytest.mark.parametrize("name", NAMES)
def test_latex_is_ascii_without_anything_to_interpret(name):
    escaped = escape_latex(name)
    assert escaped.isascii()
    assert "\n" not in escaped
    for sign in "%&#_":
        assert escaped.count(sign) == escaped.count(f"\\{sign}")


def test_numbers_become_mathematics_and_names_that_look_like_numbers_do_not(found):
    text = latex(found)
    assert r"$0.988 \pm 0.012$" in text
    assert r"$(1.23 \pm 0.11)\times 10^{-5}$" in text
    assert r"$-3.8 \pm 1.1$" in text
    assert r"$1.235\times 10^{-7}$" in text
    assert "1-3 &" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not on the path")
@pytest.mark.parametrize("standalone", [True, False])
def test_latex_compiles_as_it_is_with_booktabs_alone(found, tmp_path, standalone):
    (tmp_path / "board.tex").write_text(latex(found, standalone=standalone), encoding="utf-8")
    main = "board.tex"
    if not standalone:
        main = "paper.tex"
        body = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n\\input{board}\n\\end{document}\n"
        (tmp_path / main).write_text(body)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", main],
        cwd=tmp_path, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    log = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, log[-3000:]
    assert "Missing character" not in log
    assert "Overfull \\hbox" not in log
    assert (tmp_path / main).with_suffix(".pdf").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (0.98765, 0.01234, "0.988 ± 0.012"),
        (12.0, 0.0, "12 ± 0"),
        (1.234e-5, 1.1e-6, "(1.23 ± 0.11)e-5"),
        (0.0, 0.05, "0.000 ± 0.050"),
        (1234.4, 21.0, "1234 ± 21"),
        (0.5, math.nan, "0.5"),
        (1.23456e-7, math.nan, "1.235e-7"),
        (0.5, 1e-15, "0.5 ± 1e-15"),
    ],
)
def test_numbers_have_as_many_digits_as_their_interval_allows(mean, half, text):
    assert number(mean, mean - half, mean + half) == text


def test_a_long_table_says_in_a_notebook_how_many_rows_it_leaves_out():
    def shown(count):
        rows = TableColumn(("row",), tuple(map(str, range(count))))
        return html_fragment(Report("", (Table("", (rows,), (), ()),), ()))

    html = shown(NOTEBOOK_ROWS + 5)
    assert html.count("<tr>") == NOTEBOOK_ROWS + 1
    assert "5 more rows." in html
    assert "more rows" not in shown(3)
