"""Turn a pydantic error into one problem per mistake: what was found, what was expected, what to do."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from collapsebench.suite.words import KeyPath, legal_keys


class Problem(NamedTuple):
    """One mistake: where in the suite it was made, and a sentence about it."""

    key_path: KeyPath
    message: str


def validated(model: type[BaseModel], data: Any, at: KeyPath = ()) -> tuple[BaseModel | None, list[Problem]]:
    """Return the validated model, or None and every problem, with key paths that start with `at`.

    Types are as strict as in TOML: "3" is not a number, but 3 is a legal float.
    """
    text = json.dumps(data, default=str)
    errors: list[tuple[KeyPath, ErrorDetails]] = []
    parsed = None
    try:
        parsed = model.model_validate_json(text)
    except ValidationError as error:
        errors = [(_key_path(detail, data), detail) for detail in error.errors(include_url=False)]
    errors += _coerced(model, text, data, {keys for keys, _ in errors})
    if parsed is not None and not errors:
        return parsed, []
    sentences_at: dict[KeyPath, list[str]] = {}
    for keys, detail in errors:
        if any(len(other) > len(keys) and other[: len(keys)] == keys for other, _ in errors):
            continue  # where several branches of a union fail, the one that got furthest is the one that was meant
        sentences = sentences_at.setdefault(keys, [])
        sentence = _sentence(keys, detail, model, data)
        if sentence not in sentences:
            sentences.append(sentence)
    return None, [
        Problem((*at, *keys), _merged(sentences, _at(data, keys))) for keys, sentences in sentences_at.items()
    ]


def _coerced(model: type[BaseModel], text: str, data: Any, known: set[KeyPath]) -> list[tuple[KeyPath, ErrorDetails]]:
    """Return the errors of scalars that are legal only after a conversion, such as "3" for a number.

    Only scalars are checked strictly: pydantic would otherwise refuse a list for a tuple below a "before" validator.
    """
    try:
        model.model_validate_json(text, strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False)
    else:
        return []
    errors = [(_key_path(detail, data), detail) for detail in details]
    written_as_text = {keys for keys, detail in errors if detail["type"] in _TEXT_TYPES}
    return [
        (keys, detail)
        for keys, detail in errors
        if detail["type"] in _REFUSED_TYPES
        and keys not in known | written_as_text
        and not isinstance(_at(data, keys), dict | list)
    ]


def place(key_path: KeyPath) -> str:
    """Return a key path as people write it: `architectures[0].encoder.use`."""
    text = ""
    for key in key_path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def unknown_key(key: str, legal: Sequence[str]) -> str:
    """Return the sentence that says a key is unknown, with the nearest legal key and the list of all legal keys."""
    return unknown_name("key", key, legal)


def unknown_name(kind: str, name: str, legal: Sequence[str]) -> str:
    """Return the sentence that says a name is not legal, with the nearest legal name and the list of all of them."""
    close = difflib.get_close_matches(name, legal, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"unknown {kind} '{name}'.{hint} Legal: {', '.join(legal) or 'none'}."


def quoted(value: Any) -> str:
    """Return a value as a short quotation."""
    text = f"'{value}'" if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def _key_path(detail: ErrorDetails, data: Any) -> KeyPath:
    """Return the error's location without the names of union branches that pydantic puts into it."""
    keys: list[str | int] = []
    for i, key in enumerate(detail["loc"]):
        is_key = (isinstance(data, Mapping) and key in data) or (isinstance(data, list) and isinstance(key, int))
        if is_key:
            data = data[key]
            keys.append(key)
        elif detail["type"] == "missing" and i == len(detail["loc"]) - 1:
            keys.append(key)
    if detail["type"] == "union_tag_invalid":
        keys.append(detail["ctx"]["discriminator"].strip("'"))
    return tuple(keys)


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
_EXPECTED = "\0"  # marks a text that only names what was expected; `_merged` makes a sentence of it
_WORDS = {
    "a valid integer": "an integer",
    "a valid array": "a list",
    "a valid list": "a list",
    "a valid tuple": "a list",
}
_WORDS |= {"an object": "a table", "a valid dictionary": "a table", "a valid ": "a "}


class _Mistake(NamedTuple):
    """An error of pydantic, with the key path that it is about. legal: returns the keys that are accepted there."""

    keys: KeyPath
    context: Mapping[str, Any]
    legal: Callable[[], list[str]]


def _unknown_tag(mistake: _Mistake) -> str:
    keys, context = mistake.keys, mistake.context
    legal = [tag.strip("' ") for tag in context["expected_tags"].split(",")]
    return unknown_name(str(keys[-2] if len(keys) > 1 else keys[-1]), str(context["tag"]), legal)


_MEMORY = f"{_EXPECTED}an amount of memory such as '2 GiB'"
_SENTENCES: Mapping[str, Callable[[_Mistake], str]] = {
    "extra_forbidden": lambda mistake: unknown_key(str(mistake.keys[-1]), mistake.legal()),
    "missing": lambda mistake: f"missing, but required. Add it; legal here: {', '.join(mistake.legal())}.",
    "union_tag_invalid": _unknown_tag,
    "union_tag_not_found": lambda mistake: (
        f"found no {mistake.context['discriminator']}, expected it to say which variant is meant. Add it."
    ),
    "value_error": lambda mistake: str(mistake.context["error"]),
    "path_type": lambda mistake: f"{_EXPECTED}a path",
    "byte_size": lambda mistake: _MEMORY,
    "byte_size_unit": lambda mistake: _MEMORY,
    "too_short": lambda mistake: f"{_EXPECTED}a list of at least {mistake.context['min_length']}",
    "string_pattern_mismatch": lambda mistake: f"{_EXPECTED}a string that matches {mistake.context['pattern']}",
}


def _sentence(keys: KeyPath, detail: ErrorDetails, model: type[BaseModel], data: Any) -> str:
    """Return what is wrong, in words of this project where there are some, else in those of pydantic."""
    write = _SENTENCES.get(detail["type"])
    if write is not None:
        return write(_Mistake(keys, detail.get("ctx", {}), lambda: _legal(model, keys[:-1], data)))
    expected = detail["msg"].removeprefix("Input should be ")
    expected = expected.partition(", unable to")[0].partition(", got")[0]
    for pydantic, plain in _WORDS.items():
        expected = expected.replace(pydantic, plain)
    if expected.startswith(("greater", "less")):
        expected = f"a number {expected}"
    return f"{_EXPECTED}{expected}"


def _merged(sentences: list[str], value: Any) -> str:
    expected = [sentence.removeprefix(_EXPECTED) for sentence in sentences if sentence.startswith(_EXPECTED)]
    others = [sentence for sentence in sentences if not sentence.startswith(_EXPECTED)]
    if expected:
        others.append(f"found {quoted(value)}, expected {' or '.join(expected)}.{_nearest(value, expected)}")
    return " ".join(others)


def _nearest(value: Any, expected: list[str]) -> str:
    legal = [part for text in expected for part in text.split("'")[1::2]]
    close = difflib.get_close_matches(value, legal, n=1) if isinstance(value, str) else []
    return f" Did you mean '{close[0]}'?" if close else ""


def _legal(model: type[BaseModel], key_path: KeyPath, data: Any) -> list[str]:
    try:
        return legal_keys(model, key_path, data)
    except Exception:  # a model of another distribution may have no JSON Schema; the problem itself is still reported
        return []


def _at(data: Any, key_path: KeyPath) -> Any:
    key: Any
    for key in key_path:
        data = data.get(key) if isinstance(data, dict) else data[key]
    return data
