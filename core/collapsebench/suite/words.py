"""Read a pydantic model's JSON Schema: which keys a table accepts, and how to describe a type in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

KeyPath = tuple[str | int, ...]
"""The keys and list positions that lead to a value of a file, the outermost first."""

Schema = Mapping[str, Any]

OWN = "its own"
"""What the documentation says of a table whose keys all have defaults, in place of a default."""

_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


class ParameterRow(NamedTuple):
    """One parameter in words. where: the variant in which a nested parameter occurs."""

    name: str
    type: str
    default: str
    description: str
    where: str = ""


class TableSection(NamedTuple):
    """One table of a file.

    key_path: its dotted keys, "" for the top level, with [] after a list of tables. where: the variant it describes.
    summary: a sentence about it. is_open: whether it also accepts the keys of the component that it names. rows: its
    keys, without those of the tables inside it.
    """

    key_path: str
    where: str
    summary: str
    is_open: bool
    rows: tuple[ParameterRow, ...]


def legal_keys(model: type[BaseModel], key_path: KeyPath, data: Any) -> list[str]:
    """Return the keys that a model accepts at a key path of `data`, which decides between tagged variants."""
    root = model.model_json_schema()
    nodes: list[Schema] = [root]
    for key in key_path:
        inner = [node for outer in nodes for node in _variants(outer, root, data)]
        nodes = [child for node in inner for child in _child(node, key)]
        data = _at(data, key)
    final = [node for outer in nodes for node in _variants(outer, root, data)]
    return sorted({key for node in final for key in node.get("properties", {})})


def parameter_rows(model: type[BaseModel]) -> list[ParameterRow]:
    """Return the parameters of a model, including nested ones, in the order in which they are declared."""
    root = model.model_json_schema()
    return list(_rows(root, root, "", ""))


def table_sections(model: type[BaseModel]) -> list[TableSection]:
    """Return every table of a file that a model describes, outer tables first."""
    root = model.model_json_schema()
    return list(_sections(root, root, "", ""))


def type_in_words(schema: Schema, root: Schema) -> str:
    """Return the type that a JSON Schema node describes, as "integer >= 1" or "'silu' | 'relu'"."""
    if "$ref" in schema:
        schema = {**_resolve(schema, root), **{k: v for k, v in schema.items() if k != "$ref"}}
    if "const" in schema or "enum" in schema:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return " | ".join(_quoted(value) for value in values)
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return " | ".join(dict.fromkeys(type_in_words(option, root) for option in options))
    describe = _DESCRIPTIONS.get(str(schema.get("type")), _describe_scalar)
    return describe(schema, root)


def _describe_list(schema: Schema, root: Schema) -> str:
    items = schema.get("items")
    return f"list of {type_in_words(items, root)}" if isinstance(items, Mapping) else "list"


def _describe_table(schema: Schema, root: Schema) -> str:
    tag = _tag(schema)
    return f"table with {tag}" if tag else "table"


def _describe_scalar(schema: Schema, root: Schema) -> str:
    bounds = [f"{sign} {schema[key]:g}" for key, sign in _BOUNDS.items() if key in schema]
    return " ".join([str(schema.get("type", "any value")), *bounds])


_DESCRIPTIONS: Mapping[str, Callable[[Schema, Schema], str]] = {
    "array": _describe_list,
    "object": _describe_table,
    "null": lambda schema, root: "none",
}


def _rows(node: Schema, root: Schema, prefix: str, where: str) -> Iterator[ParameterRow]:
    required = set(node.get("required", ()))
    for name, field in node.get("properties", {}).items():
        if prefix and "const" in field:
            continue  # the tag of a variant, which `where` already states
        default = "required" if name in required else _in_toml(field.get("default"))
        words = " ".join(str(field.get("description", "")).split())
        yield ParameterRow(prefix + name, type_in_words(field, root), default, words, where)
        for variant in _variants(field, root, None):
            if variant.get("type") == "object":
                yield from _rows(variant, root, f"{prefix}{name}.", _tag(variant))


def _sections(node: Schema, root: Schema, key_path: str, where: str) -> Iterator[TableSection]:
    required = set(node.get("required", ()))
    rows, inner = [], []
    for name, field in node.get("properties", {}).items():
        below = f"{key_path}.{name}".lstrip(".")
        tables = [(below, variant) for variant in _variants(field, root, None)]
        tables += [(f"{at}[]", item) for at, variant in tables for item in _items(variant, root)]
        tables = [(at, table) for at, table in tables if "properties" in table]
        only_table = [at for at, _ in tables] == [below] and "anyOf" not in field
        default = "required" if name in required else OWN if only_table else _in_toml(field.get("default"))
        kind = "table" if only_table else type_in_words(field, root)
        rows.append(ParameterRow(name, kind, default, " ".join(str(field.get("description", "")).split()), where))
        inner += [(table, at, _tag(table) if len(tables) > 1 else "") for at, table in tables]
    summary = " ".join(str(node.get("description", "")).split())
    yield TableSection(key_path, where, summary, node.get("additionalProperties") is True, tuple(rows))
    for table, at, tag in inner:
        yield from _sections(table, root, at, tag)


def _items(node: Schema, root: Schema) -> Iterator[Schema]:
    items = node.get("items")
    if isinstance(items, Mapping):
        yield from _variants(items, root, None)


def _variants(node: Schema, root: Schema, data: Any) -> Iterator[Schema]:
    if "$ref" in node:
        yield from _variants(_resolve(node, root), root, data)
        return
    options: Sequence[Schema] = node.get("anyOf") or node.get("oneOf") or ()
    discriminator = node.get("discriminator", {})
    tag = _at(data, discriminator.get("propertyName"))
    mapping = discriminator.get("mapping", {})
    if isinstance(tag, str) and tag in mapping:
        options = [{"$ref": mapping[tag]}]
    if not options:
        yield node
    for option in options:
        yield from _variants(option, root, data)


def _child(node: Schema, key: str | int) -> Iterator[Schema]:
    if isinstance(key, int):
        child = node.get("items")
    else:
        child = node.get("properties", {}).get(key, node.get("additionalProperties"))
    if isinstance(child, Mapping):
        yield child


def _resolve(node: Schema, root: Schema) -> Schema:
    target: Any = root
    for part in str(node["$ref"]).removeprefix("#/").split("/"):
        target = target[part]
    return dict(target)


def _tag(schema: Schema) -> str:
    constants = (f"{key} = {_quoted(v['const'])}" for key, v in schema.get("properties", {}).items() if "const" in v)
    return next(constants, "")


def _at(data: Any, key: Any) -> Any:
    if isinstance(data, Mapping):
        return data.get(key)
    if isinstance(data, Sequence) and isinstance(key, int) and not isinstance(data, str) and key < len(data):
        return data[key]
    return None


def _quoted(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)


def _in_toml(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_in_toml(inner)}" for key, inner in value.items() if inner is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_in_toml(inner) for inner in value) + "]"
    return f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
