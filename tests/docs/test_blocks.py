"""Every code block of the README and of docs/ runs, and prints what the page says; every link leads somewhere."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from markdown_blocks import LANGUAGES, PAGES, ROOT, Block, PageRun, blocks_of, differs

BLOCKS = [block for page in PAGES for block in blocks_of(page)]


@pytest.fixture(scope="module")
def page_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PageRun]:
    return {page: PageRun(page, tmp_path_factory.mktemp(Path(page).stem)) for page in PAGES}


@pytest.fixture(scope="module", autouse=True)
def notebook_store(page_runs: dict[str, PageRun]) -> None:
    """Let docs/notebook.md begin with what the README trained: it runs the same preset of the same suite."""
    page_runs["README.md"].run(example_of_the_readme().place)
    shutil.copytree(
        page_runs["README.md"].folder / "smoke-store", page_runs["docs/notebook.md"].folder / "notebook-store"
    )


def example_of_the_readme() -> Block:
    (example,) = [b for b in blocks_of("README.md") if b.language == "python" and "collapsebench.run" in b.code]
    return example


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=block.name, marks=[pytest.mark.slow] * block.is_slow)
        for block in BLOCKS
        if not block.reason_to_skip
    ],
)
def test_a_block_runs_and_prints_what_the_page_says(block: Block, page_runs: dict[str, PageRun]) -> None:
    printed = page_runs[block.page].run(block.place)
    if block.output is not None:
        assert differs(printed, block.output) == ""


def test_the_readme_example_prints_the_exact_solution_and_a_board(page_runs: dict[str, PageRun]) -> None:
    printed = page_runs["README.md"].run(example_of_the_readme().place)
    assert "0.825" in printed  # 1 - 0.1 / (4 / 7)
    assert "pca-agreement" in printed


def test_a_model_of_ones_own_is_measured_from_python_and_from_the_shell(page_runs: dict[str, PageRun]) -> None:
    readme = page_runs["README.md"]
    (example,) = [b for b in blocks_of("README.md") if b.language == "python" and "from my_vae import" in b.code]
    printed = readme.run(example.place)
    assert "posterior-variance" in printed
    assert "True" in printed
    (command,) = [b for b in blocks_of("README.md") if b.code.startswith("collapsebench measure")]
    assert "2 of 3 latents active" in readme.run(command.place)
    assert (readme.folder / "measured" / "latents.csv").exists()


@pytest.mark.parametrize("page", PAGES)
def test_every_block_names_a_language_that_is_run(page: str) -> None:
    fences = re.findall(r"^```(\S*)$", PAGES[page].read_text(encoding="utf-8"), flags=re.M)
    assert len(fences) % 2 == 0
    assert set(fences[::2]) <= set(LANGUAGES), "give the block a language that tests/docs/markdown_blocks.py runs"
    assert set(fences[1::2]) <= {""}


def test_only_blocks_that_need_a_package_index_are_skipped_without_a_reason() -> None:
    notes = {block.note for block in BLOCKS if block.note}
    assert {note for note in notes if note not in ("run", "test", "plugin", "block: slow")} == {
        note for note in notes if re.fullmatch(r"block: skip, .{10,}", note)
    }


def test_a_number_that_is_off_and_a_word_that_is_missing_are_told() -> None:
    assert differs("a 1.00 b", "a 1.04  b") == ""
    assert "2 where the page has 1" in differs("a 2", "a 1")
    assert "expected" in differs("a 1 c", "a 1 b")


@pytest.mark.parametrize("page", PAGES)
def test_every_link_within_the_project_leads_to_a_file_and_a_heading(page: str) -> None:
    text = re.sub(r"^```.*?^```$", "", PAGES[page].read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (PAGES[page].parent / name).resolve() if name else PAGES[page]
        assert path.exists(), f"{page}: {target}"
        assert path.is_relative_to(ROOT)
        if anchor:
            assert anchor in _anchors(path), f"{page}: {target}"


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
