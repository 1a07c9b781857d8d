"""The page about the structure of the core, made from the import contract and from what the rooms say of themselves."""

from __future__ import annotations

import ast
import re
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "core/collapsebench"
CONTRACT = "The flow runs one way"
_WIDTH, _ROW, _GAP, _LEFT = 1080, 60, 12, 150
_PARTS = ("In", "Out", "Add here")


@dataclass(frozen=True)
class Room:
    """A part of the core. path: below the core. title: its first sentence. parts: what comes in, goes out, goes where.

    files: its modules and the first sentence of each.
    """

    path: str
    title: str
    parts: dict[str, str]
    files: tuple[tuple[str, str], ...]


def layers() -> list[list[str]]:
    """Return the layers of the import contract, top first, each with the names of its rooms."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (contract,) = [one for one in contracts if one["name"] == CONTRACT]
    return [re.split(r"\s*[|:]\s*", layer) for layer in contract["layers"]]


def rooms(name: str) -> list[Room]:
    """Return a room and the rooms within it, or what stands for a single module."""
    path = CORE / name
    if not path.is_dir():
        return [Room(f"{name}.py", _sentence(path.with_suffix(".py")), {}, ())]
    inner = [found for folder in sorted(path.iterdir()) if (folder / "__init__.py").exists()
             for found in rooms(f"{name}/{folder.name}")]  # fmt: skip
    return [_room(name), *inner]


def _room(name: str) -> Room:
    folder = CORE / name
    title, _, rest = _docstring(folder / "__init__.py").partition("\n\n")
    parts: dict[str, str] = {}
    for paragraph in re.split(r"\n(?=[A-Z][a-z ]*: )", rest):
        key, _, text = paragraph.partition(": ")
        parts[key] = " ".join(text.split())
    files = tuple((path.name, _sentence(path)) for path in sorted(folder.glob("*.py")) if path.stem != "__init__")
    return Room(name, " ".join(title.split()), parts, files)


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _sentence(path: Path) -> str:
    return " ".join(_docstring(path).partition("\n\n")[0].split())


def may_import(name: str) -> list[str]:
    """Return the rooms and modules that a room may import, nearest first."""
    found = layers()
    (place,) = [i for i, layer in enumerate(found) if name in layer]
    return [other for layer in found[place + 1 :] for other in layer]


def page() -> str:
    """Return docs/architecture.md."""
    blocks = [
        "# The structure of the core",
        "This page is generated: `python docs/generate.py docs` writes it anew.",
        "The core, `core/collapsebench`, is divided into rooms, one folder for each stage of a run and a few that all "
        "stages use. The sections below are in the order of a run, lowest room first, which is the bottom of the "
        "picture: a suite is read, planned, trained, observed, scored, ranked and published. A room imports only from "
        "the rooms listed under *May import*; `lint-imports` checks this, and that plugins import from `collapsebench` "
        "alone.",
        "A *replica* is one model at one temperature. A *stack* is several replicas, computed together. A *scan* is a "
        "dataset, an architecture and an objective over a grid of temperatures; a *cell* is one scan with one seed, "
        "the unit that is stored and has a *key*. A *job* is what an executor receives: the cells of a stack. The "
        "*dial* is what an objective turns along the grid, usually beta. *Ward identities* are equations that hold "
        "exactly where a replica is stationary. An *observable* is measured on trained replicas, a *metric* makes "
        "scores of observables.",
        "![the rooms of the core, from the bottom up](architecture.svg)",
        "Plugins are in `plugins/`, one package for each kind of component and one file for each method. Shipped "
        "suites are in `suites/`, tests of a room in `tests/core/ROOM/`.",
    ]
    for layer in reversed(layers()):
        for name in layer:
            for room in rooms(name):
                blocks += _section(room)
    return "\n\n".join(blocks) + "\n"


def _section(room: Room) -> Iterator[str]:
    if room.path.endswith(".py"):
        yield f"## `{room.path}`"
        yield room.title
        return
    level = "###" if "/" in room.path else "##"
    yield f"{level} `{room.path}`"
    yield room.title
    lines = [f"- **{key}.** {room.parts[key][:1].upper()}{room.parts[key][1:]}" for key in _PARTS]
    if "/" not in room.path:
        below = may_import(room.path)
        lines.insert(2, f"- **May import.** {', '.join(f'`{name}`' for name in below)}.")
    yield "\n".join(lines)
    yield "\n".join(
        ["| file | what it is about |", "| --- | --- |", *(f"| `{f}` | {text} |" for f, text in room.files)]
    )


def picture() -> str:
    """Return docs/architecture.svg: a row for each layer, the first stage of a run at the bottom."""
    found = layers()
    height = len(found) * (_ROW + _GAP) + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="sans-serif" '
        'role="img" aria-label="The rooms of the core in layers, the first stage of a run at the bottom">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        '<defs><marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L10 5L0 10z" fill="#333"/></marker></defs>',
        *_arrow(40, height - 30, 30, "a run goes up"),
        *_arrow(100, 30, height - 30, "imports point down"),
    ]
    for row, layer in enumerate(found):
        parts += _layer(layer, 30 + row * (_ROW + _GAP))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _arrow(x: int, start: int, end: int, text: str) -> list[str]:
    middle = (start + end) // 2
    return [
        f'<line x1="{x}" y1="{start}" x2="{x}" y2="{end}" stroke="#333" stroke-width="1.5" marker-end="url(#a)"/>',
        f'<text x="{x - 8}" y="{middle}" font-size="14" text-anchor="middle" fill="#333" '
        f'transform="rotate(-90 {x - 8} {middle})">{text}</text>',
    ]


def _layer(names: Sequence[str], top: int) -> Iterator[str]:
    width = (_WIDTH - _LEFT - 20 - _GAP * (len(names) - 1)) / len(names)
    for column, name in enumerate(names):
        left = _LEFT + column * (width + _GAP)
        title = re.split("[:;]", rooms(name)[0].title)[0].rstrip(".").replace("`", "")
        lines = textwrap.wrap(title, int(width / 6.6))
        yield (
            f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{_ROW}" rx="6" fill="#e8eef7" '
            'stroke="#2b4c7e"/>'
        )
        centre = left + width / 2
        yield (
            f'<text x="{centre:.0f}" y="{top + 20}" font-size="15" font-weight="bold" text-anchor="middle" '
            f'fill="#1b2f4d">{escape(name)}</text>'
        )
        for number, line in enumerate(lines[:2]):
            yield (
                f'<text x="{centre:.0f}" y="{top + 38 + 15 * number}" font-size="12" text-anchor="middle" '
                f'fill="#333">{escape(line)}</text>'
            )
