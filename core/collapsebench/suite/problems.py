"""Turn a pydantic error into problems of one sentence each: what was found, what was expected, what to do."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from collapsebench.suite.words import Path, legal_keys


class Problem(NamedTuple):
    """One mistake: where in the suite, and a sentence about it."""

    path: Path
    message: str


def validated(model: type[BaseModel], data: Any, at: Path = ()) -> tuple[BaseModel | None, list[Problem]]:
    """Return the validated model, or None and every problem found, with paths that start with `at`.

    Types are strict, as TOML has them: "3" is no number, 3 is a legal float.
    """
    text = json.dumps(data, default=str)
    placed: list[tuple[Path, ErrorDetails]] = []
    parsed = None
    try:
        parsed = model.model_validate_json(text)
    except ValidationError as error:
        placed = [(_path(detail, data), detail) for detail in error.errors(include_url=False)]
    placed += _coerced(model, text, data, {path for path, _ in placed})
    if parsed is not None and not placed:
        return parsed, []
    found: dict[Path, list[str]] = {}
    for path, detail in placed:
        if any(len(other) > len(path) and other[: len(path)] == path for other, _ in placed):
            continue  # of a union's branches, the one that went deeper is the one that was meant
        found.setdefault(path, [])
        sentence = _sentence(path, detail, model, data)
        if sentence not in found[path]:
            found[path].append(sentence)
    return None, [Problem((*at, *path), _merged(sentences, _at(data, path))) for path, sentences in found.items()]


def _coerced(model: type[BaseModel], text: str, data: Any, known: set[Path]) -> list[tuple[Path, ErrorDetails]]:
    """Return the errors of scalars that only a conversion made legal, as "3" for a number.

    Only scalars are strict: below a validator that runs first, pydantic would refuse a list for a tuple.
    """
    try:
        model.model_validate_json(text, strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False)
    else:
        return []
    placed = [(_path(detail, data), detail) for detail in details]
    written_as_text = {path for path, detail in placed if detail["type"] in _TEXT_TYPES}
    return [
        (path, detail)
        for path, detail in placed
        if detail["type"] in _REFUSED_TYPES
        and path not in known | written_as_text
        and not isinstance(_at(data, path), dict | list)
    ]


def place(path: Path) -> str:
    """Return a path as people write it: `architectures[0].encoder.use`."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def unknown_key(key: str, legal: Sequence[str]) -> str:
    """Return the sentence that says a key is unknown, with the nearest legal one and all of them."""
    return unknown_name("key", key, legal)


def unknown_name(kind: str, found: str, legal: Sequence[str]) -> str:
    """Return the sentence that says a name is none of the legal ones, with the nearest and all of them."""
    close = difflib.get_close_matches(found, legal, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"unknown {kind} '{found}'.{hint} Legal: {', '.join(legal) or 'none'}."


def quoted(value: Any) -> str:
    """Return a value as a short quotation."""
    text = f"'{value}'" if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def _path(detail: ErrorDetails, data: Any) -> Path:
    """Return the error's location without the names of union branches that pydantic puts into it."""
    path: list[str | int] = []
    for i, key in enumerate(detail["loc"]):
        is_key = (isinstance(data, Mapping) and key in data) or (isinstance(data, list) and isinstance(key, int))
        if is_key:
            data = data[key]
            path.append(key)
        elif detail["type"] == "missing" and i == len(detail["loc"]) - 1:
            path.append(key)
    if detail["type"] == "union_tag_invalid":
        path.append(detail["ctx"]["discriminator"].strip("'"))
    return tuple(path)


_REFUSED_TYPES = {"int_type", "float_type", "bool_type", "string_type"}
_REFUSED_TYPES |= {"list_type", "tuple_type", "dict_type", "model_type"}
_TEXT_TYPES = {
    "path_type",
    "is_instance_of",
    "enum",
    "date_type",
    "datetime_type",
    "uuid_type",
    "decimal_type",
    "url_type",
}
_EXPECTED = "\0"  # marks what is only the middle part of a message
_WORDS = {
    "a valid integer": "an integer",
    "a valid array": "a list",
    "a valid list": "a list",
    "a valid tuple": "a list",
}
_WORDS |= {"an object": "a table", "a valid dictionary": "a table", "a valid ": "a "}


def _sentence(path: Path, detail: ErrorDetails, model: type[BaseModel], data: Any) -> str:
    context = detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            return unknown_key(str(path[-1]), _legal(model, path[:-1], data))
        case "missing":
            legal = _legal(model, path[:-1], data)
            return f"missing, but required. Add it; legal here: {', '.join(legal)}."
        case "union_tag_invalid":
            legal = [tag.strip("' ") for tag in context["expected_tags"].split(",")]
            return unknown_name(str(path[-2] if len(path) > 1 else path[-1]), str(context["tag"]), legal)
        case "union_tag_not_found":
            return f"found no {context['discriminator']}, expected it to say which variant is meant. Add it."
        case "value_error":
            return str(context["error"])
        case "path_type":
            return f"{_EXPECTED}a path"
        case "byte_size" | "byte_size_unit":
            return f"{_EXPECTED}an amount of memory such as '2 GiB'"
        case "too_short":
            return f"{_EXPECTED}a list of at least {context['min_length']}"
        case "string_pattern_mismatch":
            return f"{_EXPECTED}a string that matches {context['pattern']}"
    expected = detail["msg"].removeprefix("Input should be ")
    expected = expected.partition(", unable to")[0].partition(", got")[0]
    for pydantic, plain in _WORDS.items():
        expected = expected.replace(pydantic, plain)
    if expected.startswith(("greater", "less")):
        expected = f"a number {expected}"
    return f"{_EXPECTED}{expected}"


def _merged(sentences: list[str], found: Any) -> str:
    expected = [sentence.removeprefix(_EXPECTED) for sentence in sentences if sentence.startswith(_EXPECTED)]
    others = [sentence for sentence in sentences if not sentence.startswith(_EXPECTED)]
    if expected:
        others.append(f"found {quoted(found)}, expected {' or '.join(expected)}.{_nearest(found, expected)}")
    return " ".join(others)


def _nearest(found: Any, expected: list[str]) -> str:
    legal = [part for text in expected for part in text.split("'")[1::2]]
    close = difflib.get_close_matches(found, legal, n=1) if isinstance(found, str) else []
    return f" Did you mean '{close[0]}'?" if close else ""


def _legal(model: type[BaseModel], path: Path, data: Any) -> list[str]:
    try:
        return legal_keys(model, path, data)
    except Exception:  # a model of another distribution may have no JSON Schema; the problem itself is still reported
        return []


def _at(data: Any, path: Path) -> Any:
    key: Any
    for key in path:
        data = data.get(key) if isinstance(data, dict) else data[key]
    return data
