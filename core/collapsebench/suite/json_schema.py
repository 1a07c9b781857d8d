"""The JSON Schema of suite files, for editors: the sections of `schema`, with the parameters of what is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from collapsebench.contracts import Kind, Registry, load_registry
from collapsebench.errors import PluginError
from collapsebench.suite.schema import SuiteFile


def json_schema(registry: Registry | None = None) -> dict[str, Any]:
    """Return the JSON Schema of suite files, including the parameters of the installed components."""
    registry = registry or load_registry()
    schema = SuiteFile.model_json_schema()
    definitions = schema["$defs"]
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "A collapsebench suite"
    named: dict[str, Kind] = {"datasets": "dataset", "objectives": "objective", "metrics": "metric"}
    for section, kind in named.items():
        tables = _component_schema(
            kind, registry, definitions, {"id": definitions["NamedComponent"]["properties"]["id"]}
        )
        ids = {"enum": sorted({component.id for component in registry.components(kind)})}
        schema["properties"][section]["items"] = {"anyOf": [ids, tables]} if kind == "metric" else tables
    coders: tuple[Kind, ...] = ("encoder", "decoder")
    for kind in coders:
        definitions["ArchitectureTable"]["properties"][kind] = _component_schema(kind, registry, definitions, {})
    return schema


def _component_schema(
    kind: Kind, registry: Registry, definitions: dict[str, Any], extra: Mapping[str, Any]
) -> dict[str, Any]:
    options = []
    for registered in registry.registered(kind):
        component, prefix = (
            registered.component,
            f"{registered.owner.distribution}.{kind}.{registered.component.id}.",
        )
        try:
            model = registered.parameters_model().model_json_schema(ref_template=f"#/$defs/{prefix}{{model}}")
        except PluginError:
            continue  # `check` reports it where a suite uses it
        definitions |= {prefix + name: value for name, value in model.pop("$defs", {}).items()}
        use = {"enum": [component.id, f"{registered.owner.distribution}/{component.id}"]}
        model["properties"] = {"use": use, **extra, **model.get("properties", {})}
        model["required"] = ["use", *model.get("required", [])]
        options.append(model)
    return {"anyOf": options}
