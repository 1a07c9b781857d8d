"""Run the code blocks of a Markdown page, one after the other, in one folder.

bash: run. python: run, each block in a process of its own. Suites are run without their figures. toml or
python whose first line is `# NAME.toml` or `# NAME.py`: written to that file. toml with a table [scan]: checked as a
suite. text directly after a block that ran: what that block must print, numbers within 10 %.

A comment before a block says more: `<!-- block: slow -->` runs it only with the long tests,
`<!-- block: skip, REASON -->` not at all. The README's `<!-- run -->`, `<!-- test -->` and `<!-- plugin -->` need a
package index and are skipped, too; test_readme.py runs what follows their installation.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from warmed import command, environment, python

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
_FILES = (*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *sorted(ROOT.glob("docs/*.md")))
PAGES = {path.relative_to(ROOT).as_posix(): path for path in _FILES}
LANGUAGES = ("bash", "python", "toml", "text")

_BLOCK = re.compile(r"(?:^<!-- (?P<note>[^\n]*?) -->\n)?^```(?P<language>\S*)\n(?P<code>.*?)^```$", flags=re.M | re.S)
_FILE = re.compile(r"# (?P<name>[\w-]+\.(?:toml|py))\n")
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Block:
    """One block of a page. output: the `text` that follows it directly, or None."""

    page: str
    place: int
    language: str
    code: str
    note: str
    output: str | None

    @property
    def is_slow(self) -> bool:
        return self.note == "block: slow"

    @property
    def reason_to_skip(self) -> str:
        """Why it is not run, or nothing."""
        if self.note in ("run", "test", "plugin"):
            return "needs a package index"
        return self.note.removeprefix("block: skip, ") if self.note.startswith("block: skip, ") else ""

    @property
    def name(self) -> str:
        return f"{self.page}-{self.place}-{self.language}"


def blocks_of(page: str) -> list[Block]:
    """Return the blocks of a page that do something, in order."""
    text = PAGES[page].read_text(encoding="utf-8")
    found = list(_BLOCK.finditer(text))
    blocks = []
    for place, match in enumerate(found):
        after = found[place + 1] if place + 1 < len(found) else None
        prints = after and after["language"] == "text" and not text[match.end() : after.start()].strip()
        if match["language"] != "text":
            output = after["code"] if after and prints else None
            blocks.append(Block(page, place, match["language"], match["code"], match["note"] or "", output))
    return blocks


class PageRun:
    """A page being run: its folder, and what each block printed."""

    def __init__(self, page: str, folder: Path) -> None:
        self.folder = folder
        self.blocks = {block.place: block for block in blocks_of(page)}
        self.printed: dict[int, str] = {}

    def run(self, place: int) -> str:
        """Run a block, after those before it that neither are slow nor skipped; return what it printed."""
        before = [block for block in self.blocks.values() if block.place < place]
        for block in [b for b in before if not (b.is_slow or b.reason_to_skip)] + [self.blocks[place]]:
            if block.place not in self.printed:
                self.printed[block.place] = self._execute(block)
        return self.printed[place]

    def _execute(self, block: Block) -> str:
        named = _FILE.match(block.code)
        if named:
            (self.folder / named["name"]).write_text(block.code, encoding="utf-8")
            if block.language == "python":
                compile(block.code, named["name"], "exec")
        if block.language == "toml":
            tomllib.loads(block.code)
            if "[scan]" not in block.code:
                return ""
            (self.folder / "block.toml").write_text(block.code, encoding="utf-8")
            return _printed(block, command("check", "block.toml", cwd=self.folder))
        if block.language == "python":
            return "" if named else self._python(block)
        return self._bash(block)

    def _python(self, block: Block) -> str:
        return _printed(block, python(block.code, cwd=self.folder))

    def _bash(self, block: Block) -> str:
        """Run the lines of a block; `collapsebench` and `python FILE` in warm processes."""
        lines = block.code.splitlines()
        if not all(re.fullmatch(r"(collapsebench [^|<>;&$*]+|python [\w-]+\.py)", line) for line in lines):
            return self._process(block, "bash", "-euo", "pipefail", "-c", block.code)
        done = []
        for program, *arguments in map(shlex.split, lines):
            if program == "python":
                done.append(python((self.folder / arguments[0]).read_text(encoding="utf-8"), cwd=self.folder))
            else:
                done.append(command(*arguments, cwd=self.folder))
        return "".join(_printed(block, one) for one in done)

    def _process(self, block: Block, *command: str) -> str:
        surroundings = environment()
        surroundings["PATH"] = os.pathsep.join([str(BIN), surroundings.get("PATH", "")])
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=280, check=False, env=surroundings
        )
        return _printed(block, done)


def _printed(block: Block, done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{block.name}\n{block.code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def differs(printed: str, expected: str) -> str:
    """Return how a text differs from what is expected, "" if it does not; numbers may differ by 10 % or 0.002."""
    ours, theirs = _split(printed), _split(expected)
    if ours[0] != theirs[0]:
        return f"printed\n{printed}\nexpected\n{expected}"
    wrong = [
        f"{a:g} where the page has {b:g}"
        for a, b in zip(ours[1], theirs[1], strict=True)
        if not math.isclose(a, b, rel_tol=0.1, abs_tol=0.002)
    ]
    return "; ".join(wrong)


def _split(text: str) -> tuple[list[str], list[float]]:
    """Return the words without their numbers, and the numbers."""
    numbers = [float(number) for number in _NUMBER.findall(text)]
    return _NUMBER.sub("#", text).split(), numbers
