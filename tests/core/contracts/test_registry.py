"""Plugins are registered one at a time, and what a broken one does is its own affair."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from collapsebench.contracts import KINDS, Component, Registry, Source, hookimpl, load_registry
from collapsebench.errors import ComponentError, PluginError


def plugin(hook: str = "collapsebench_datasets", result: Any = None, *, mark: bool = True) -> SimpleNamespace:
    def implementation() -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    implementation.__name__ = hook
    return SimpleNamespace(**{hook: hookimpl(implementation) if mark else implementation})


def source(plugin: Any, *, name: str = "one", distribution: str = "one-dist", version: str = "1.0") -> Source:
    return Source(name, distribution, version, lambda: plugin)


def dataset(id: str = "toy", target: str = "nowhere:Toy") -> Component:
    return Component(id, target, "a toy")


GOOD = source(plugin(result=[dataset()]), name="good", distribution="good-dist")


def broken_import() -> Any:
    raise ImportError("No module named 'absent'")


BROKEN = {
    "import": (Source("bad", "bad-dist", "2.0", broken_import), "ImportError: No module named 'absent'"),
    "no hook": (source(SimpleNamespace()), "found no hook"),
    "misspelt": (source(plugin("collapsebench_dataset", [])), "Did you mean 'collapsebench_datasets'?"),
    "unmarked": (source(plugin(result=[], mark=False)), "is not marked as a hook"),
    "raises": (source(plugin(result=ValueError("oh"))), "raised ValueError: oh"),
    "None": (source(plugin(result=None)), "returned None, expected a list"),
    "not a list": (source(plugin(result=dataset())), "returned Component, expected a list"),
    "no component": (source(plugin(result=["toy"])), "returned 'toy' in its list"),
    "id": (source(plugin(result=[dataset("Toy_1")])), "with id 'Toy_1', expected lower-case"),
    "twice": (source(plugin(result=[dataset(), dataset()])), "registered twice by one-dist"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_reported_with_its_reason_and_the_others_work(case: str) -> None:
    bad, reason = BROKEN[case]
    registry = Registry([bad, GOOD])
    assert registry.get("dataset", "toy") == dataset()
    assert registry.owner("dataset", "toy") == ("good-dist", "1.0")
    good, failed = sorted(registry.plugins(), key=lambda report: report.status, reverse=True)
    assert good.components == ("dataset toy",)
    assert (failed.distribution, failed.version, failed.entry_point) == (
        bad.distribution,
        bad.version,
        bad.name,
    )
    assert reason in failed.reason
    assert failed.components == ()


def test_a_plugin_that_exits_at_import_does_not_end_the_process() -> None:
    def leave() -> Any:
        raise SystemExit(3)

    registry = Registry([("bad", "bad-dist", "1", leave), GOOD])
    assert [report.status for report in registry.plugins()] == ["failed", "ok"]


def test_the_registry_does_not_depend_on_the_order_of_the_plugins() -> None:
    sources = [source(plugin(result=[dataset(f"d{i}")]), name=f"n{i}", distribution=f"dist{i % 3}") for i in range(9)]
    reports = Registry(sources).plugins()
    random.Random(0).shuffle(sources)
    assert Registry(sources).plugins() == reports
    assert list(reports) == sorted(reports, key=lambda report: (report.distribution, report.entry_point))


def test_one_id_from_two_distributions_is_an_error_only_when_it_is_used_unqualified() -> None:
    other = Source("x", "other_dist", "3.1", lambda: plugin(result=[dataset(target="elsewhere:Toy")]))
    registry = Registry([GOOD, other])
    assert [report.status for report in registry.plugins()] == ["ok", "ok"]
    assert [component.id for component in registry.components("dataset")] == ["toy", "toy"]
    with pytest.raises(
        ComponentError, match=r"good-dist 1\.0 and other_dist 3\.1.*'good-dist/toy' or 'other_dist/toy'"
    ):
        registry.get("dataset", "toy")
    assert registry.get("dataset", "other_dist/toy").target == "elsewhere:Toy"
    assert registry.get("dataset", "Other-Dist/toy").target == "elsewhere:Toy"


def test_one_id_may_serve_two_kinds() -> None:
    both = plugin("collapsebench_encoders", [dataset("linear")])
    both.collapsebench_decoders = plugin("collapsebench_decoders", [dataset("linear")]).collapsebench_decoders
    registry = Registry([source(both)])
    assert registry.plugins()[0].components == ("encoder linear", "decoder linear")


def test_an_unknown_id_comes_with_the_nearest_one_the_list_and_the_plugins_that_failed() -> None:
    registry = Registry([GOOD, BROKEN["import"][0]])
    with pytest.raises(ComponentError) as error:
        registry.get("dataset", "toys")
    assert str(error.value) == (
        "unknown dataset 'toys'. Did you mean 'toy'? Installed: toy. Not loaded: plugin bad; see "
        "`collapsebench plugins list`."
    )


def test_parameters_that_cannot_be_loaded_name_their_owner() -> None:
    lost = Component("lost", "nowhere:Lost", "lost", parameters="collapsebench_nowhere:Lost")
    registry = Registry([source(plugin(result=[lost]))])
    with pytest.raises(PluginError, match=r"dataset 'lost' from 'collapsebench_nowhere:Lost'.*one-dist 1\.0"):
        registry.find("dataset", "lost").parameters_model()


def test_every_installed_component_has_parameters_that_load() -> None:
    registry = load_registry()
    assert registry is load_registry()
    assert all(report.status == "ok" for report in registry.plugins()), registry.plugins()
    for kind in KINDS:
        assert registry.registered(kind), kind
        for registered in registry.registered(kind):
            registered.parameters_model().model_json_schema()
