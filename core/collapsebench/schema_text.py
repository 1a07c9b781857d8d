"""Read a pydantic model's JSON Schema: which keys are legal at a place, and how to name a type in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

Path = tuple[str | int, ...]
Schema = Mapping[str, Any]

_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


class ParameterRow(NamedTuple):
    """One parameter in words; `where` says in which variant a nested one occurs."""

    name: str
    type: str
    default: str
    description: str
    where: str = ""


def legal_keys(model: type[BaseModel], path: Path, data: Any) -> list[str]:
    """Return the keys that a model accepts at a path of `data`, which decides between tagged variants."""
    root = model.model_json_schema()
    nodes: list[Schema] = [root]
    for key in path:
        inner = [node for outer in nodes for node in _variants(outer, root, data)]
        nodes = [child for node in inner for child in _child(node, key)]
        data = _at(data, key)
    final = [node for outer in nodes for node in _variants(outer, root, data)]
    return sorted({key for node in final for key in node.get("properties", {})})


def parameter_rows(model: type[BaseModel]) -> list[ParameterRow]:
    """Return the parameters of a model, nested ones included, in their order of declaration."""
    root = model.model_json_schema()
    return list(_rows(root, root, "", ""))


def type_in_words(schema: Schema, root: Schema) -> str:
    """Return the type that a JSON Schema node describes, as "integer >= 1" or "'silu' | 'relu'"."""
    if "$ref" in schema:
        schema = {**_resolve(schema, root), **{k: v for k, v in schema.items() if k != "$ref"}}
    if "const" in schema:
        return _quoted(schema["const"])
    if "enum" in schema:
        return " | ".join(_quoted(value) for value in schema["enum"])
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return " | ".join(dict.fromkeys(type_in_words(option, root) for option in options))
    if schema.get("type") == "array":
        items = schema.get("items")
        return f"list of {type_in_words(items, root)}" if isinstance(items, Mapping) else "list"
    if schema.get("type") == "object":
        kind = _tag(schema)
        return f"table with {kind}" if kind else "table"
    if schema.get("type") == "null":
        return "none"
    bounds = [f"{sign} {schema[key]:g}" for key, sign in _BOUNDS.items() if key in schema]
    return " ".join([str(schema.get("type", "any value")), *bounds])


def _rows(node: Schema, root: Schema, prefix: str, where: str) -> Iterator[ParameterRow]:
    required = set(node.get("required", ()))
    for name, field in node.get("properties", {}).items():
        if prefix and "const" in field:
            continue  # the tag of a variant, told by `where`
        default = "required" if name in required else _in_toml(field.get("default"))
        words = " ".join(str(field.get("description", "")).split())
        yield ParameterRow(prefix + name, type_in_words(field, root), default, words, where)
        for variant in _variants(field, root, None):
            if variant.get("type") == "object":
                yield from _rows(variant, root, f"{prefix}{name}.", _tag(variant))


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
    found: Any = root
    for part in str(node["$ref"]).removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)


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
        return "{" + ", ".join(f"{key} = {_in_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_in_toml(inner) for inner in value) + "]"
    return f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
