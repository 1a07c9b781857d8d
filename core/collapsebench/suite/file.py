"""Prepare a suite file for validation: find it, read it, apply a preset and the command line, expand the sweep.

Everything here works on plain tables and remembers where each changed value came from, so that a mistake is
reported where somebody wrote it.
"""

from __future__ import annotations

import copy
import importlib.resources
import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from collapsebench.errors import SuiteError, UserError, unknown
from collapsebench.suite.problems import Problem, place, quoted, unknown_name
from collapsebench.suite.words import KeyPath

Table = dict[str, Any]
Keys = tuple[str, ...]
LISTS_BY_ID = ("datasets", "architectures", "objectives", "metrics")
SWEPT_LISTS = ("datasets", "architectures", "objectives")


class SuiteLocation(NamedTuple):
    """A suite's id, its file, and the name of that file in messages."""

    id: str
    path: Path
    label: str


class Origin(NamedTuple):
    """A change of the suite. label: where it was written, and where problems below `key_path` are reported."""

    key_path: KeyPath
    label: str


class Swept(NamedTuple):
    """A swept parameter of a variant. keys: below the item. text: `key=value`. label: where the sweep is written."""

    keys: Keys
    text: str
    label: str


class Variant(NamedTuple):
    """A variant that the sweep makes of an item: the item's position in the file, and the swept parameters."""

    position: int
    swept: tuple[Swept, ...]


def shipped_suites() -> dict[str, Path]:
    """Return the suites that ship with collapsebench: id -> file."""
    packaged = Path(str(importlib.resources.files("collapsebench"))) / "suites"
    folder = packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "suites"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_suite(name_or_path: str | Path) -> SuiteLocation:
    """Return where a suite is, given the id of one that ships with collapsebench or the path of a TOML file."""
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(".toml") or os.sep in text or "/" in text:
        path = Path(name_or_path)
        if not path.is_file():
            raise UserError(
                f"found no file '{text}', expected a suite in TOML; correct the path or give a shipped id: "
                f"{', '.join(shipped_suites())}."
            )
        return SuiteLocation(path.stem, path, text)
    shipped = shipped_suites()
    if text not in shipped:
        raise UserError(f"{unknown('suite', text, shipped)} To run your own file, give its path, ending in .toml.")
    return SuiteLocation(text, shipped[text], f"suites/{text}.toml")


def read_suite(location: SuiteLocation) -> Table:
    """Return the content of a suite file; an error of syntax or a repeated key is reported with its line."""
    try:
        return tomllib.loads(location.path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SuiteError([f"{location.label}: not valid TOML: {error}. Correct the file there."]) from error
    except OSError as error:
        raise UserError(f"cannot read suite '{location.label}': {error.strerror}. Check the file.") from error


def parsed_value(text: str) -> Any:
    """Return a value from the command line: parsed if it is TOML, otherwise as a string."""
    try:
        table = tomllib.loads(f"value = {text.strip()}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


class SuiteEditor:
    """The raw content of a suite, the changes made to it, and the problems they caused.

    A table with `use` names a component or an optimiser and replaces the earlier table; other tables are merged.
    """

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw: Table = copy.deepcopy(dict(raw))
        sweep = self.raw.pop("sweep", {})
        self._sweep: dict[Keys, Any] = dict(_leaves(sweep)) if isinstance(sweep, dict) else {("",): sweep}
        self._origins: list[Origin] = []
        self._problems: list[tuple[str, str]] = []
        self._variants: dict[str, list[Variant]] = {}

    def apply_preset(self, name: str) -> None:
        """Apply a preset of the file."""
        presets = self.raw.get("presets", {})
        if not isinstance(presets, dict) or not isinstance(presets.get(name), dict):
            legal = sorted(presets) if isinstance(presets, dict) else []
            self._problems.append(("--preset", unknown_name("preset", name, legal)))
            return
        for keys, value in _leaves(presets[name]):
            self._assign(keys, value, f"presets.{name}.{'.'.join(keys)}")

    def apply_override(self, text: str) -> None:
        """Apply `dotted.path=value`."""
        dotted, equals, value = text.partition("=")
        keys = tuple(key.strip() for key in dotted.split("."))
        if not equals or not all(keys):
            message = f"found '{text}', expected PATH=VALUE, as in scan.temperatures.count=31."
            self._problems.append(("--set", message))
            return
        self._assign(keys, parsed_value(value), f"--set {dotted.strip()}")

    def apply_seeds(self, seeds: int | Sequence[int]) -> None:
        """Replace the training seeds."""
        self.raw["seeds"] = seeds if isinstance(seeds, int) else list(seeds)
        self._origins.append(Origin(("seeds",), "--seeds"))

    def expand_sweep(self) -> None:
        """Replace each swept item by its variants."""
        for keys, values in self._sweep.items():
            label = f'sweep."{".".join(keys)}"' if keys != ("",) else "sweep"
            if not isinstance(values, list) or not values:
                message = f"found {quoted(values)}, expected a list with at least one value; write such a list."
                self._problems.append((label, message))
            elif keys in (("scan", "latent_dim"), ("scan", "protocol")):
                self._vary("architectures", None, keys[1:], values, label)
            elif keys[0] not in SWEPT_LISTS or len(keys) < 3:
                message = (
                    "cannot be swept, expected scan.latent_dim, scan.protocol or a component's parameter; write "
                    "datasets.ID.PARAMETER, architectures.ID.encoder.PARAMETER or objectives.ID.PARAMETER."
                )
                self._problems.append((label, message))
            elif self._index(keys[0], keys[1], label) is not None:
                self._vary(keys[0], keys[1], keys[2:], values, label)

    def suffix(self, section: str, index: int) -> str:
        """Return the end of an item's id, which states what was swept, as in `[encoder.width=32]`."""
        variants = self._variants.get(section)
        swept = variants[index].swept if variants else ()
        return f"[{','.join(item.text for item in swept)}]" if swept else ""

    def report(self, problems: Iterable[Problem], label: str) -> list[str]:
        """Return every problem as a line that starts with where the mistake was written."""
        lines = [f"{_source(where, label)}: {message}" for where, message in self._problems]
        lines += [f"{_source(self._where(problem.key_path), label)}: {problem.message}" for problem in problems]
        return list(dict.fromkeys(lines))

    def _assign(self, keys: Keys, value: Any, label: str) -> None:
        if keys[0] == "sweep":
            self._sweep[keys[1:]] = value
            return
        self._sweep.pop(keys, None)
        node: Table = self.raw
        item_path: KeyPath = ()
        inner = keys
        if keys[0] in LISTS_BY_ID and len(keys) > 1:
            index = self._index(keys[0], keys[1], label)
            if index is None:
                return
            node, item_path, inner = self.raw[keys[0]][index], (keys[0], index), keys[2:]
            if not inner:
                node.clear()
                node.update({"id": keys[1], **value} if isinstance(value, dict) else {"use": value, "id": keys[1]})
                self._origins.append(Origin(item_path, label))
                return
        created = _put(node, inner, value)
        if created is None:
            self._problems.append(
                (label, "leads through a value that is not a table, expected tables up to the last key; set that whole "
                 "value instead.")
            )  # fmt: skip
        else:
            self._origins.append(Origin((*item_path, *inner[:created]), label))

    def _index(self, section: str, id: str, label: str) -> int | None:
        """Return the position of the item with an id in a list, after turning bare ids in the list into tables."""
        items = self.raw.get(section, [])
        if not isinstance(items, list):
            return None
        items[:] = [{"use": item} if isinstance(item, str) else item for item in items]
        ids = [item_id(item) for item in items]
        if id in ids:
            return ids.index(id)
        self._problems.append((label, unknown_name(section.removesuffix("s"), id, sorted({*ids} - {""}))))
        return None

    def _vary(self, section: str, id: str | None, keys: Keys, values: list[Any], label: str) -> None:
        items = self.raw.get(section, [])
        if not isinstance(items, list):
            return
        variants = self._variants.get(section) or [Variant(i, ()) for i in range(len(items))]
        new: list[tuple[Any, Variant]] = []
        for item, variant in zip(items, variants, strict=True):
            swept = isinstance(item, dict) and (item_id(item) == id if id is not None else keys[0] not in item)
            if not swept:
                new.append((item, variant))
                continue
            for value in values:
                changed = copy.deepcopy(item)
                _put(changed, keys, value)
                text = f"{'.'.join(keys)}={value if isinstance(value, str) else json.dumps(value, default=str)}"
                new.append((changed, Variant(variant.position, (*variant.swept, Swept(keys, text, label)))))
        self.raw[section] = [item for item, _ in new]
        self._variants[section] = [variant for _, variant in new]

    def _where(self, key_path: KeyPath) -> str:
        if len(key_path) > 1 and key_path[0] in self._variants and isinstance(key_path[1], int):
            variant = self._variants[str(key_path[0])][key_path[1]]
            for swept in variant.swept:
                if key_path[2 : 2 + len(swept.keys)] == swept.keys:
                    return swept.label
            key_path = (key_path[0], variant.position, *key_path[2:])
        for origin in reversed(self._origins):
            if key_path[: len(origin.key_path)] == origin.key_path:
                return origin.label
        return place(key_path)


def item_id(item: Any) -> str:
    """Return the id of an item of a list: the one it gives, otherwise its component's."""
    if not isinstance(item, dict):
        return ""
    return str(item.get("id") or str(item.get("use", "")).rpartition("/")[2])


def _leaves(table: Mapping[str, Any], prefix: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    for key, value in table.items():
        keys = (*prefix, *key.split("."))
        if isinstance(value, dict) and "use" not in value:
            yield from _leaves(value, keys)
        else:
            yield keys, value


def _put(table: Table, keys: Keys, value: Any) -> int | None:
    """Set a value; return how many keys lead to the first table or value created, or None if a key is not a table."""
    created = len(keys)
    for depth, key in enumerate(keys[:-1], 1):
        if key not in table:
            created = min(created, depth)
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            return None
    table[keys[-1]] = copy.deepcopy(value)
    return created


def _source(where: str, label: str) -> str:
    if where.startswith("--"):
        return where
    return f"{label}: {where}" if where else label
