"""A control is what must come out on a dataset; a board that shows otherwise says so before anything else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scored_results import COMPARED, marked

from collapsebench import Evaluation
from collapsebench.publishing.board_report import render
from collapsebench.publishing.page.tables import board_table
from collapsebench.publishing.results_file import QuestionEntry
from collapsebench.ranking.findings import failed_controls
from collapsebench.scoring.results import CellResult, Question, SuiteResults

FEW = Question(
    "latents", "How few latents does it need?", ("effective-dimension/at-1%",), "needs fewer latents",
    {"gaussian": "none", "arcs": "fewer"},
)  # fmt: skip


def results(**sizes):
    """Return results of four seeds, PCA needing 8. sizes: dataset__architecture -> the latents it needs, by seed."""
    cells = []
    for name, needed in sizes.items():
        dataset, architecture = name.split("__")
        for seed, size in enumerate(needed):
            found = {"effective-dimension": Evaluation({"at-1%": float(size), "pca-at-1%": 8.0})}
            cells.append(CellResult(f"{name}-{seed}", dataset, architecture, "beta-vae", seed, "ok", evaluations=found))
    return SuiteResults("controlled", "Controlled", cells, COMPARED, (FEW,))


GOOD = {
    "gaussian__linear": [8, 8, 8, 8], "gaussian__mlp": [8, 9, 8, 8], "arcs__mlp": [4, 4, 4, 4], "arcs__linear": [8] * 4,
}  # fmt: skip
CHEATING = {**GOOD, "gaussian__mlp": [5, 5, 5, 5]}
BROKEN = {**GOOD, "arcs__mlp": [8, 9, 8, 8]}


def test_controls_that_hold_are_not_mentioned():
    assert failed_controls(results(**GOOD)) == []
    assert "control failed" not in render(results(**GOOD), "text")


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        (CHEATING, "On gaussian, beta-vae, no architecture can need fewer latents than PCA, yet mlp needs fewer"),
        (BROKEN, "On arcs, beta-vae, some architecture must need decidedly fewer latents than PCA, and none can"),
    ],
)
@pytest.mark.parametrize("format", ["text", "md", "html", "tex"])
def test_a_failed_control_stands_on_top_in_every_format(sizes, said, format):
    text = " ".join(render(results(**sizes), format, standalone=True).replace("\\-", "-").split())
    assert text.count("A control failed.") == 1
    assert said in text
    before = text[: text.index("A control failed.")]
    assert not any(word in before for word in ("8 \u00b1", "4 \u00b1", "nothing is decided"))


def test_a_failed_control_stands_on_top_of_the_page():
    said = board_table(results(**BROKEN))["findings"]
    assert said[0].startswith("A control failed.")


@pytest.mark.parametrize("needed", [[4, 5], [4, 6, 5], [7, 9, 7, 9]])
def test_too_few_runs_to_decide_are_no_contradiction(needed):
    assert failed_controls(results(gaussian__mlp=[8] * 4, arcs__mlp=needed)) == []


def test_linear_decoders_and_replicas_that_do_not_rest_contradict_nothing():
    """On a curved manifold only a nonlinear decoder at rest can: BROKEN, with what was measured of its mlp."""
    broken = results(**BROKEN)
    for converged, has_oracle, said in ((10, False, 1), (2, False, 0), (10, True, 0)):
        cells = []
        for cell in broken.cells:
            one = marked(cell, converged, 10)
            cells.append(replace(one, measurement=replace(one.measurement, has_oracle=has_oracle)))
        assert len(failed_controls(replace(broken, cells=cells))) == said


def test_what_is_not_decided_fails_no_control():
    """One run, a missing run, or no measurement: nobody knows whether the control holds."""
    once = results(**{name: needed[:1] for name, needed in BROKEN.items()})
    assert failed_controls(once) == []
    broken = results(**BROKEN)
    cells = [
        replace(cell, status="failed", evaluations={}) if (cell.dataset, cell.seed) == ("arcs", 0) else cell
        for cell in broken.cells
    ]
    assert failed_controls(replace(broken, cells=cells)) == []


def test_controls_travel_with_published_results():
    entry = QuestionEntry.of(FEW)
    assert entry.controls == FEW.controls
    old = {key: value for key, value in entry.model_dump().items() if key != "controls"}
    assert QuestionEntry.model_validate(old).controls == {}
