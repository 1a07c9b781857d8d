"""Suites: what a benchmark runs, read from TOML and resolved against the installed components.

`load_suite` reports every mistake at once; the `Suite` it returns has every default filled in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from collapsebench.contracts import Kind, Registry, load_registry
from collapsebench.errors import CollapsebenchError, SuiteError
from collapsebench.suite.file import SuiteEditor, find_suite, item_id, read_suite, shipped_suites
from collapsebench.suite.problems import Problem, unknown_name, validated
from collapsebench.suite.schema import (
    Adam,
    ComputeSettings,
    Convergence,
    EvaluationSettings,
    Preconditioned,
    Protocol,
    QuestionTable,
    Scan,
    SuiteFile,
    Training,
)
from collapsebench.suite.words import KeyPath

__all__ = [
    "Adam",
    "Architecture",
    "ComputeSettings",
    "Convergence",
    "EvaluationSettings",
    "Preconditioned",
    "Reference",
    "Scan",
    "Suite",
    "Training",
    "check_presets",
    "find_suite",
    "load_suite",
    "resolve_suite",
    "shipped_suites",
]


@dataclass(frozen=True)
class Reference:
    """A component as a suite uses it.

    id: its name in the suite. use: the component's id. parameters: JSON values, every default filled in.
    version: the descriptor's. distribution: who provides it. location_parameters: names of the parameters that say
    where data lie; they are part of no identity. Hashes and job files call them `places`.
    """

    kind: Kind
    id: str
    use: str
    parameters: Mapping[str, Any]
    version: int
    distribution: str
    location_parameters: Annotated[tuple[str, ...], Field(alias="places")] = ()

    @property
    def qualified(self) -> str:
        """The id that `Registry.get` finds even if several distributions provide `use`."""
        return f"{self.distribution}/{self.use}"


@dataclass(frozen=True)
class Architecture:
    """A named pair of encoder and decoder, with its number of latents and its order of training.

    learning_rate: None for that of the suite.
    """

    id: str
    encoder: Reference
    decoder: Reference
    latent_dim: int
    protocol: Protocol = "fresh"
    learning_rate: float | None = None


@dataclass(frozen=True)
class Suite:
    """A suite with everything resolved.

    path: its file, if any. overrides: the changes to file and preset, as `dotted.key=value`. Preset, path and overrides
    say how the suite was called and are no part of its identity.
    """

    id: str
    title: str
    seeds: tuple[int, ...]
    split_seed: int
    metrics: tuple[Reference, ...]
    questions: tuple[QuestionTable, ...]
    rank_by: tuple[str, ...] | None
    scores_from: str
    scan: Scan
    training: Training
    evaluation: EvaluationSettings
    datasets: tuple[Reference, ...]
    architectures: tuple[Architecture, ...]
    objectives: tuple[Reference, ...]
    compute: ComputeSettings
    executor: Reference
    preset: str | None = None
    path: Path | None = None
    overrides: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return the resolved suite as JSON values, with every temperature listed."""
        sections = ("scan", "training", "evaluation", "compute")
        description = {key: value for key, value in vars(self).items() if key in self.__dataclass_fields__}
        for name in ("path", "preset", "overrides", *sections):
            del description[name]
        for name in ("metrics", "datasets", "architectures", "objectives"):
            description[name] = [_without_locations(_plain(item)) for item in getattr(self, name)]
        description |= {name: getattr(self, name).model_dump(mode="json") for name in sections}
        # A suite that asks for nothing that came later is what it was before.
        description["questions"] = [one.description for one in self.questions]
        for name, absent in (("questions", []), ("scores_from", "all")):
            description = {key: value for key, value in description.items() if key != name or value != absent}
        description["scan"] = {
            **self.scan.model_dump(mode="json", exclude={"grid"}),
            "temperatures": self.scan.temperatures if self.scan.auto is None else f"auto-{self.scan.count}",
        }
        del description["compute"]["executor"]
        resolved: dict[str, Any] = json.loads(json.dumps({**description, "executor": _plain(self.executor)}))
        return resolved

    def dataset(self, id: str) -> Reference:
        """Return the dataset with an id."""
        return next(item for item in self.datasets if item.id == id)

    def architecture(self, id: str) -> Architecture:
        """Return the architecture with an id."""
        return next(item for item in self.architectures if item.id == id)

    def objective(self, id: str) -> Reference:
        """Return the objective with an id."""
        return next(item for item in self.objectives if item.id == id)

    def training_of(self, architecture: Architecture) -> Training:
        """Return the settings that an architecture is trained with, including its own learning rate if it has one."""
        if architecture.learning_rate is None:
            return self.training
        optimiser = self.training.optimiser.model_copy(update={"learning_rate": architecture.learning_rate})
        return self.training.model_copy(update={"optimiser": optimiser})

    @cached_property
    def suite_hash(self) -> str:
        """SHA-256 of the description as canonical JSON, in hexadecimal."""
        text = json.dumps(self.describe(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def _plain(item: Reference | Architecture) -> dict[str, Any]:
    """Return a component or an architecture as JSON values, under the names that are hashed."""
    described: dict[str, Any] = TypeAdapter(type(item)).dump_python(item, mode="json", by_alias=True)
    return described


def _without_locations(described: dict[str, Any]) -> dict[str, Any]:
    """Drop the parameters that say where data lie, so that a suite's hash is the same on every machine."""
    locations = described.pop("places", ())
    if locations:
        described["parameters"] = {key: v for key, v in described["parameters"].items() if key not in locations}
    return described


def load_suite(
    name_or_path: str | Path,
    *,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    seeds: int | Sequence[int] | None = None,
    registry: Registry | None = None,
) -> Suite:
    """Return a suite; overrides take precedence over the preset, the preset over the file, the file over defaults.

    name_or_path: the id of a suite that ships, or the path of a TOML file. overrides: each `dotted.key=value`, in TOML
    or a bare string; items of lists are addressed by id, as in "datasets.worldclim.path=...". Raises SuiteError.
    """
    location = find_suite(name_or_path)
    return resolve_suite(
        read_suite(location), id=location.id, label=location.label, path=location.path, preset=preset,
        overrides=overrides, seeds=seeds, registry=registry,
    )  # fmt: skip


def resolve_suite(
    raw: Mapping[str, Any],
    *,
    id: str,
    label: str | None = None,
    path: Path | None = None,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    seeds: int | Sequence[int] | None = None,
    registry: Registry | None = None,
) -> Suite:
    """Return the suite that a table describes, as `load_suite` does; `label` names it in messages."""
    registry = registry or load_registry()
    editor = SuiteEditor({"objectives": [{"use": registry.default("objective")}], **raw})
    if preset is not None:
        editor.apply_preset(preset)
    for override in overrides:
        editor.apply_override(override)
    if seeds is not None:
        editor.apply_seeds(seeds)
    editor.expand_sweep()

    file, problems = validated(SuiteFile, editor.raw)
    resolver = _Resolver(editor, registry)
    parts = resolver.resolve()
    lines = editor.report([*problems, *resolver.problems], label or f"suite '{id}'")
    if lines or not isinstance(file, SuiteFile):
        raise SuiteError(lines)
    return Suite(
        id=id,
        title=file.title or id,
        seeds=tuple(range(file.seeds)) if isinstance(file.seeds, int) else file.seeds,
        split_seed=file.split_seed,
        metrics=tuple(parts["metrics"]),
        questions=file.questions,
        rank_by=file.rank_by,
        scores_from=file.scores_from,
        scan=file.scan,
        training=file.training,
        evaluation=file.evaluation,
        datasets=tuple(parts["datasets"]),
        architectures=tuple(
            Architecture(
                resolver.architecture_id(i),
                encoder,
                decoder,
                table.latent_dim or file.scan.latent_dim,
                table.protocol or file.scan.protocol,
                table.learning_rate,
            )
            for i, (encoder, decoder, table) in enumerate(
                zip(parts["encoders"], parts["decoders"], file.architectures, strict=True)
            )
        ),
        objectives=tuple(parts["objectives"]),
        compute=file.compute,
        executor=parts["executor"][0],
        preset=preset,
        path=path,
        overrides=(*overrides, *([] if seeds is None else [f"seeds={seeds if isinstance(seeds, int) else [*seeds]}"])),
    )


def check_presets(name_or_path: str | Path, *, registry: Registry | None = None) -> list[str]:
    """Return the names of a suite's presets; raise SuiteError with the mistakes that any preset adds."""
    presets = read_suite(find_suite(name_or_path)).get("presets", {})
    problems: dict[str, None] = {}
    for preset in presets if isinstance(presets, dict) else ():
        try:
            load_suite(name_or_path, preset=preset, registry=registry)
        except SuiteError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise SuiteError(list(problems))
    return list(presets)


class _Resolver:
    """Look up the components that raw tables name, as far as the tables can be read, and collect the problems."""

    def __init__(self, editor: SuiteEditor, registry: Registry) -> None:
        self.problems: list[Problem] = []
        self._editor = editor
        self._raw = editor.raw
        self._registry = registry

    def resolve(self) -> dict[str, list[Reference]]:
        parts: dict[str, list[Reference]] = {
            "datasets": self._named("dataset", "datasets"),
            "objectives": self._named("objective", "objectives"),
            "metrics": self._named("metric", "metrics"),
            "encoders": [],
            "decoders": [],
            "executor": [],
        }
        for i, table in self._items("architectures"):
            if isinstance(table, dict):
                parts["encoders"] += self._reference("encoder", table.get("encoder"), ("architectures", i, "encoder"))
                parts["decoders"] += self._reference("decoder", table.get("decoder"), ("architectures", i, "decoder"))
        self._refuse_repeated("architectures", [self.architecture_id(i) for i, _ in self._items("architectures")])
        compute = self._raw.get("compute", {})
        named = compute.get("executor") if isinstance(compute, dict) else None
        executor = {"use": self._registry.default("executor")} if named is None else named
        parts["executor"] += self._reference("executor", executor, ("compute", "executor"))
        self._check_exchange(parts["objectives"])
        metrics = [table if isinstance(table, str) else item_id(table) for _, table in self._items("metrics")]
        self._check_scores(self._raw.get("rank_by"), ("rank_by",), metrics)
        self._refuse_repeated("questions", [item_id(table) for _, table in self._items("questions")])
        for i, table in self._items("questions"):
            if isinstance(table, dict):
                self._check_scores(table.get("scores"), ("questions", i, "scores"), metrics)
        return parts

    def architecture_id(self, index: int) -> str:
        table = self._raw["architectures"][index]
        return item_id(table) + self._editor.suffix("architectures", index)

    def _items(self, section: str) -> list[tuple[int, Any]]:
        items = self._raw.get(section)
        return list(enumerate(items)) if isinstance(items, list) else []

    def _named(self, kind: Kind, section: str) -> list[Reference]:
        references: list[Reference] = []
        ids: list[str] = []
        for i, table in self._items(section):
            plain = table if isinstance(table, str) else item_id(table)
            ids.append(plain.rpartition("/")[2] + self._editor.suffix(section, i))
            references += self._reference(kind, table, (section, i), ids[-1])
        self._refuse_repeated(section, ids)
        return references

    def _refuse_repeated(self, section: str, ids: list[str]) -> None:
        for i, id in enumerate(ids):
            if id and id in ids[:i]:
                kind = section.removesuffix("s")
                taken = f"id '{id}' is taken by {section}[{ids.index(id)}]"
                message = f"{taken}, expected unique ids; rename this {kind}."
                self.problems.append(Problem((section, i, "id"), message))

    def _reference(self, kind: Kind, table: Any, at: KeyPath, id: str = "") -> list[Reference]:
        """Return a list with the reference, or an empty list after noting the problem."""
        bare = isinstance(table, str)
        use = table if bare else table.get("use") if isinstance(table, dict) else None
        if not isinstance(use, str):
            return []  # the schema has reported it
        reserved = {"use", "id"} if kind in ("dataset", "objective", "metric") else {"use"}
        given = {} if bare else {key: value for key, value in table.items() if key not in reserved}
        try:
            registered = self._registry.find(kind, use)
            model = registered.parameters_model()
        except CollapsebenchError as error:
            self.problems.append(Problem(at if bare else (*at, "use"), str(error)))
            return []
        parameters, problems = validated(model, given, at)
        self.problems += problems
        if parameters is None:
            return []
        component = registered.component
        return [
            Reference(
                kind, id or component.id, component.id, parameters.model_dump(mode="json"), component.version,
                registered.owner.distribution, model.location_parameters,
            )
        ]  # fmt: skip

    def _check_exchange(self, objectives: list[Reference]) -> None:
        """Note the objectives under which replicas cannot exchange weights, if the suite asks for that."""
        scan = self._raw.get("scan")
        asking: list[KeyPath] = [("scan", "protocol")] if isinstance(scan, dict) else []
        tables = self._items("architectures")
        asking += [("architectures", i, "protocol") for i, table in tables if isinstance(table, dict)]
        at = next((path for path in asking if self._value(path) == "exchange"), None)
        for reference in objectives if at else ():
            try:
                objective = self._registry.get("objective", reference.qualified).load()
            except CollapsebenchError:
                continue  # planning reports it
            reason = "" if objective.affine else "its loss is not affine in distortion and rates"
            if not objective.dial_is_price:
                reason = f"its dial, {objective.dial}, is no price"
            if at and reason:
                message = (
                    "'exchange' compares what weights cost at the prices of other replicas, which is not known for the "
                    f"objective '{reference.id}': {reason}. Expected fresh, up or down with it."
                )
                self.problems.append(Problem(at, message))

    def _value(self, path: KeyPath) -> Any:
        value: Any = self._raw
        for key in path:
            value = value.get(key) if isinstance(value, dict) else value[int(key)]
        return value

    def _check_scores(self, scores: Any, path: KeyPath, metrics: list[str]) -> None:
        for i, score in enumerate(scores) if isinstance(scores, list | tuple) else ():
            metric, slash, name = str(score).partition("/")
            if isinstance(score, str) and not (slash and name and metric in metrics):
                message = f"{unknown_name('metric of this suite', metric, metrics)} Write METRIC/SCORE."
                self.problems.append(Problem((*path, i), message))
