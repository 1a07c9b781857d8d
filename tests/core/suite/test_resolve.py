"""Suites: precedence, sweeps, identity, and every mistake at once at the place where it was written."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from collapsebench.contracts import load_registry
from collapsebench.errors import SuiteError, UserError
from collapsebench.suite.json_schema import json_schema
from collapsebench.suite.resolve import (
    Preconditioned,
    Suite,
    check_presets,
    find_suite,
    load_suite,
    resolve_suite,
    shipped_suites,
)

BASE = """
title = "Toy"
metrics = ["pca-agreement", { use = "equilibrium" }]

[scan]
latent_dim = 8
temperatures = { from = 1e-4, to = 1.0, count = 5 }

[training]
max_updates = 100

[[datasets]]
use = "gaussian"

[[datasets]]
id = "strong"
use = "collapsebench/gaussian"
spectrum = { kind = "gap", strong = 2 }

[[architectures]]
id = "mlp"
encoder = { use = "mlp", width = 16 }
decoder = { use = "linear" }

[[architectures]]
id = "linear"
encoder = { use = "linear" }
decoder = { use = "linear" }
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "toy.toml"
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str = BASE, **options: Any) -> Suite:
    return load_suite(write(folder, text), **options)


def problems(folder: Path, text: str = BASE, **options: Any) -> list[str]:
    with pytest.raises(SuiteError) as error:
        load(folder, text, **options)
    prefix = f"{folder / 'toy.toml'}: "
    return [line.removeprefix(prefix) for line in error.value.problems]


def changed(*pairs: tuple[str, str]) -> str:
    text = BASE
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


def test_the_file_name_is_the_id_and_every_default_is_filled_in(tmp_path: Path) -> None:
    suite = load(tmp_path)
    assert (suite.id, suite.title, suite.seeds, suite.split_seed) == ("toy", "Toy", (0, 1, 2), 0)
    assert [item.id for item in suite.datasets] == ["gaussian", "strong"]
    strong = suite.datasets[1]
    assert (strong.use, strong.distribution, strong.version) == ("gaussian", "collapsebench", 1)
    assert strong.parameters["spectrum"] == {"kind": "gap", "strong": 2, "ratio": 100.0}
    assert strong.parameters["samples"] == 1024
    assert suite.architectures[0].encoder.parameters["depth"] == 2
    assert [architecture.latent_dim for architecture in suite.architectures] == [8, 8]
    assert [(item.id, item.parameters) for item in suite.objectives] == [("beta-vae", {"decoder_variance": 1.0})]
    assert suite.executor.use == "local"
    assert suite.training.optimiser.use == "adam"
    assert suite.training.schedule == "cosine"


def test_a_log_grid_is_geometric_descending_and_hits_both_ends(tmp_path: Path) -> None:
    temperatures = load(tmp_path, overrides=["scan.temperatures.count=121"]).scan.temperatures
    assert (temperatures[0], temperatures[-1], len(temperatures)) == (1.0, 1e-4, 121)
    ratios = [math.log(a / b) for a, b in itertools.pairwise(temperatures)]
    assert ratios == pytest.approx([math.log(1e4) / 120] * 120)


def test_a_list_of_temperatures_is_taken_as_it_is_in_descending_order(tmp_path: Path) -> None:
    assert load(tmp_path, overrides=["scan.temperatures=[0.1, 1, 0.3]"]).scan.temperatures == [1.0, 0.3, 0.1]


def test_the_command_line_wins_over_the_preset_over_the_file_over_the_default(tmp_path: Path) -> None:
    text = BASE + (
        '[presets.cpu]\nscan.temperatures.count = 4\n"training.max_updates" = 7\n'
        "[presets.cpu.datasets.strong]\nsamples = 64\n"
    )
    assert load(tmp_path, text).training.max_updates == 100
    preset = load(tmp_path, text, preset="cpu")
    assert (preset.training.max_updates, len(preset.scan.temperatures)) == (7, 4)
    assert [item.parameters["samples"] for item in preset.datasets] == [1024, 64]
    both = load(
        tmp_path,
        text,
        preset="cpu",
        overrides=["training.max_updates=9", "datasets.strong.samples=65"],
        seeds=[5],
    )
    assert (both.training.max_updates, both.datasets[1].parameters["samples"], both.seeds) == (9, 65, (5,))
    assert check_presets(tmp_path / "toy.toml") == ["cpu"]


def test_an_override_is_toml_where_it_can_be_and_text_where_it_cannot(tmp_path: Path) -> None:
    suite = load(
        tmp_path,
        overrides=[
            "title=Two words",
            "architectures.mlp.encoder.activation=relu",
            "metrics.equilibrium.id=eq",
            "metrics.pca-agreement.id='pca'",
            'training.optimiser={use="preconditioned"}',
            "training.batch_size=full",
        ],
    )
    assert suite.title == "Two words"
    assert suite.architectures[0].encoder.parameters["activation"] == "relu"
    assert [(metric.id, metric.use) for metric in suite.metrics] == [
        ("pca", "pca-agreement"),
        ("eq", "equilibrium"),
    ]
    assert suite.training.optimiser == Preconditioned()
    assert suite.training.batch_size == "full"


def test_a_table_that_names_another_component_replaces_and_any_other_table_is_merged(tmp_path: Path) -> None:
    text = BASE + '[presets.a]\narchitectures.mlp.encoder = { use = "linear" }\nscan = { latent_dim = 3 }\n'
    suite = load(tmp_path, text, preset="a")
    assert suite.architectures[0].encoder.parameters == {"log_variance_bias": 0.0}
    assert (suite.scan.latent_dim, len(suite.scan.temperatures)) == (3, 5)


def test_a_sweep_becomes_the_product_and_ids_end_in_what_was_swept(tmp_path: Path) -> None:
    text = BASE + (
        '[sweep]\n"architectures.mlp.encoder.width" = [32, 64]\n"scan.latent_dim" = [4, 8]\n'
        '"datasets.strong.samples" = [64]\n"objectives.beta-vae.decoder_variance" = [1.0, 0.5]\n'
    )
    suite = load(tmp_path, text)
    assert [(a.id, a.latent_dim, a.encoder.parameters.get("width")) for a in suite.architectures] == [
        ("mlp[encoder.width=32,latent_dim=4]", 4, 32),
        ("mlp[encoder.width=32,latent_dim=8]", 8, 32),
        ("mlp[encoder.width=64,latent_dim=4]", 4, 64),
        ("mlp[encoder.width=64,latent_dim=8]", 8, 64),
        ("linear[latent_dim=4]", 4, None),
        ("linear[latent_dim=8]", 8, None),
    ]
    assert [item.id for item in suite.datasets] == ["gaussian", "strong[samples=64]"]
    assert [item.id for item in suite.objectives] == [
        "beta-vae[decoder_variance=1.0]",
        "beta-vae[decoder_variance=0.5]",
    ]
    single = load(tmp_path, text, overrides=["architectures.mlp.encoder.width=8", "sweep.scan.latent_dim=[5]"])
    assert [item.id for item in single.architectures] == ["mlp[latent_dim=5]", "linear[latent_dim=5]"]
    assert single.architectures[0].encoder.parameters["width"] == 8


def test_the_dimension_is_that_of_what_is_given(tmp_path: Path) -> None:
    overrides = ['datasets.strong={use="gaussian", covariance=[[2, 1], [1, 2]]}']
    parameters = load(tmp_path, overrides=overrides).datasets[1].parameters
    assert (parameters["dimension"], parameters["covariance"]) == (2, [[2.0, 1.0], [1.0, 2.0]])
    overrides = ['datasets.strong.spectrum={kind="explicit", values=[3, 2, 1]}']
    assert load(tmp_path, overrides=overrides).datasets[1].parameters["dimension"] == 3


def test_resolved_parameters_resolve_to_themselves() -> None:
    registry = load_registry()
    for suite in map(load_suite, shipped_suites()):
        for item in (*suite.datasets, *suite.metrics, *suite.objectives, suite.architectures[0].encoder):
            model = registry.get(item.kind, item.qualified).parameters_model()
            assert model.model_validate(dict(item.parameters)).model_dump(mode="json") == item.parameters


def test_the_hash_depends_on_what_is_run_and_not_on_how_it_is_written(tmp_path: Path) -> None:
    suite = load(tmp_path)
    spelt_out = changed(
        ('use = "gaussian"\n\n', 'use = "collapsebench/gaussian"\nsamples = 1024\n\n'),
        ('"pca-agreement",', '{ use = "pca-agreement" },'),
        ('title = "Toy"', 'seeds = [0, 1, 2]\ntitle = "Toy"'),
        ("{ from = 1e-4, to = 1.0, count = 5 }", "[1.0, 0.1, 0.01, 0.001, 0.0001]"),
    )
    (tmp_path / "elsewhere").mkdir()
    assert load(tmp_path / "elsewhere", spelt_out).suite_hash == suite.suite_hash
    assert load(tmp_path, overrides=["training.max_updates=101"]).suite_hash != suite.suite_hash
    assert json.loads(json.dumps(suite.describe())) == suite.describe()


def test_every_mistake_is_reported_at_once_with_its_place_and_the_legal_values(tmp_path: Path) -> None:
    text = changed(
        ('encoder = { use = "mlp", width', 'encoder = { use = "mpl", width'),
        ('[[datasets]]\nuse = "gaussian"', '[[datasets]]\nuse = "gaussian"\nsampels = 3'),
        ("latent_dim = 8", 'latent_dim = "8"'),
        ("to = 1.0", "to = -1.0"),
        ('"pca-agreement"', '"pca-agrement"'),
        ("max_updates = 100", 'max_updates = 100\noptimiser = { use = "adamm" }\nschedule = "cosin"'),
        ('title = "Toy"', 'title = "Toy"\ncolour = "red"\nseeds = true'),
        ("strong = 2", "strong = 2.5"),
    )
    found = problems(tmp_path, text)
    installed = "conv, linear, mlp, residual-mlp"
    assert f"architectures[0].encoder.use: unknown encoder 'mpl'. Did you mean 'mlp'? Installed: {installed}." in found
    assert "scan.latent_dim: found '8', expected an integer." in found
    assert "scan.temperatures.to: found -1.0, expected a number greater than 0." in found
    assert "training.schedule: found 'cosin', expected 'cosine' or 'constant'. Did you mean 'cosine'?" in found
    assert "datasets[1].spectrum.strong: found 2.5, expected an integer." in found
    assert "seeds: found true, expected an integer or a list." in found
    starts = [
        "datasets[0].sampels: unknown key 'sampels'. Did you mean 'samples'? Legal: covariance, dimension,",
        "metrics[0]: unknown metric 'pca-agrement'. Did you mean 'pca-agreement'? Installed:",
        "training.optimiser.use: unknown optimiser 'adamm'. Did you mean 'adam'? Legal: adam,",
        "colour: unknown key 'colour'. Legal: architectures, compute,",
    ]
    for start in starts:
        assert any(line.startswith(start) for line in found), (start, found)
    assert len(found) == 10


MISTAKES = {
    "missing section": (("[training]\nmax_updates = 100", ""), "training: missing, but required."),
    "empty grid": (("{ from = 1e-4, to = 1.0, count = 5 }", "[]"), "scan.temperatures: found [], expected a table or"),
    "twice": (
        ("{ from = 1e-4, to = 1.0, count = 5 }", "[1, 1.0]"),
        "scan: found temperature 1 more than once",
    ),
    "zero": (
        ("{ from = 1e-4, to = 1.0, count = 5 }", "[1, 0]"),
        "scan.temperatures[1]: found 0, expected a number gr",
    ),
    "nan": (
        ("{ from = 1e-4, to = 1.0, count = 5 }", "[1, nan]"),
        "scan.temperatures[1]: found NaN, expected",
    ),
    "same ends": (
        ("to = 1.0", "to = 1e-4"),
        "scan.temperatures: found from = 0.0001, to = 0.0001, count = 5",
    ),
    "no seed": (
        ('title = "Toy"', "seeds = 0"),
        "seeds: found 0, expected a number greater than or equal to 1",
    ),
    "same id": (('id = "strong"', ""), "datasets[1].id: id 'gaussian' is taken by datasets[0]"),
    "same architecture": (
        ('id = "linear"', 'id = "mlp"'),
        "architectures[1].id: id 'mlp' is taken by architectures[0]",
    ),
    "wrong id": (
        ('id = "linear"', 'id = "a.b"'),
        "architectures[1].id: found 'a.b', expected a string that matches",
    ),
    "tag": (
        ('kind = "gap"', 'kind = "gapp"'),
        "datasets[1].spectrum.kind: unknown spectrum 'gapp'.",
    ),
    "law": (
        ("strong = 2", "strong = 16"),
        "datasets[1]: spectrum 'gap': found strong = 16, expected fewer than",
    ),
    "not symmetric": (
        ('spectrum = { kind = "gap", strong = 2 }', "covariance = [[1, 0.5], [0.4, 1]]"),
        "datasets[1]: found a covariance that differs from its transpose by up to 0.1,",
    ),
    "not positive": (
        ('spectrum = { kind = "gap", strong = 2 }', "covariance = [[1, 2], [2, 1]]"),
        "datasets[1]: found a covariance whose lowest eigenvalue is -1 and",
    ),
    "two sources": (
        ("strong = 2 }", "strong = 2 }\ncovariance = [[1]]\ndimension=1"),
        "datasets[1]: spectrum 'gap'",
    ),
    "rank": (('title = "Toy"', 'rank_by = ["pca/x"]'), "rank_by[0]: unknown metric of this suite 'pca'."),
    "executor": (
        ('title = "Toy"', 'compute.executor = "loca"'),
        "compute.executor: unknown executor 'loca'.",
    ),
    "sweep": (
        ('title = "Toy"', 'sweep."architectures.mlp.encoder.widht" = [1, 2]'),
        "sweep.\"architectures.mlp.encoder.widht\": unknown key 'widht'. Did you mean 'width'?",
    ),
    "swept item": (
        ('title = "Toy"', 'sweep."architectures.lstm.encoder.width" = [1, 2]'),
        "sweep.\"architectures.lstm.encoder.width\": unknown architecture 'lstm'. Legal: linear, mlp.",
    ),
    "not swept": (
        ('title = "Toy"', 'sweep."training.max_updates" = [1]'),
        'sweep."training.max_updates": cannot be',
    ),
    "no values": (
        ('title = "Toy"', 'sweep."scan.latent_dim" = 4'),
        'sweep."scan.latent_dim": found 4, expected a list',
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_at_its_place(tmp_path: Path, case: str) -> None:
    change, expected = MISTAKES[case]
    found = problems(tmp_path, changed(change))
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_a_mistake_of_the_command_line_or_of_a_preset_is_reported_there(tmp_path: Path) -> None:
    overrides = [
        "scan.temperatures.cuont=3",
        "datasets.nope.x=1",
        "architectures.mlp.encoder.width=wide",
        "title.x=1",
        "x",
    ]
    found = problems(tmp_path, overrides=overrides)
    assert found[0] == "--set datasets.nope.x: unknown dataset 'nope'. Legal: gaussian, strong."
    assert found[1].startswith("--set title.x: leads through a value that is not a table, expected tables")
    assert found[2].startswith("--set: found 'x', expected PATH=VALUE")
    assert found[3].startswith("--set scan.temperatures.cuont: unknown key 'cuont'. Did you mean 'count'?")
    assert found[4] == "--set architectures.mlp.encoder.width: found 'wide', expected an integer."
    assert len(found) == 5
    text = BASE + "[presets.cpu]\nscan.temperatures.cuont = 3\nscna.x = 1\n"
    in_preset = problems(tmp_path, text, preset="cpu")
    assert [line.split(":")[0] for line in in_preset] == [
        "presets.cpu.scan.temperatures.cuont",
        "presets.cpu.scna.x",
    ]
    assert problems(tmp_path, text, preset="big") == ["--preset: unknown preset 'big'. Legal: cpu."]
    with pytest.raises(SuiteError, match=r"presets\.cpu\.scan\.temperatures\.cuont"):
        check_presets(tmp_path / "toy.toml")


def test_a_key_given_twice_is_an_error_with_its_line(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, 'title = "a"\ntitle = "b"\n')
    assert "not valid TOML" in problem
    assert "line 2" in problem


def test_a_suite_from_a_table_is_the_suite_from_its_file(tmp_path: Path) -> None:
    import tomllib

    assert resolve_suite(tomllib.loads(BASE), id="toy").suite_hash == load(tmp_path).suite_hash


def test_a_suite_that_is_nowhere_comes_with_those_that_ship() -> None:
    with pytest.raises(UserError, match=r"unknown suite 'quikstart'. Did you mean 'quickstart'\?"):
        find_suite("quikstart")
    with pytest.raises(UserError, match=r"found no file 'absent.toml'.*quickstart"):
        find_suite("absent.toml")


@pytest.mark.parametrize("name", sorted(shipped_suites()))
def test_every_suite_that_ships_is_valid_with_each_of_its_presets(name: str) -> None:
    suite = load_suite(name)
    check_presets(name)
    assert suite.id == name
    assert len(suite.seeds) >= 3


def test_the_json_schema_knows_every_section_and_the_parameters_of_the_components() -> None:
    schema = json_schema()
    assert {"scan", "training", "datasets", "architectures", "sweep", "presets"} <= set(schema["properties"])
    text = json.dumps(schema)
    for word in ("decoder_variance", "evaluation_samples", "activation", "near-degenerate"):
        assert word in text
    missing = {ref for ref in _references(schema) if ref.removeprefix("#/$defs/") not in schema["$defs"]}
    assert missing == set()


def _references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(_references, node.values()))
    return set().union(*map(_references, node)) if isinstance(node, list) else set()


def test_a_suite_is_read_where_the_module_resource_does_not_exist() -> None:
    code = "import sys; sys.modules['resource'] = None; import collapsebench; collapsebench.plan('quickstart')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_a_suite_does_not_ask_for_is_no_part_of_its_identity() -> None:
    """Keys that came later, at their defaults: the hash that a published folder names stays that of its suite."""
    plain = load_suite("worldclim-depth")
    described = plain.describe()
    assert "scores_from" not in described
    assert all("controls" not in question for question in described["questions"])
    strict = load_suite("worldclim-depth", overrides=['scores_from="converged"'])
    assert strict.describe()["scores_from"] == "converged"
    assert strict.suite_hash != plain.suite_hash
