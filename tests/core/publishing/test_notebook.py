"""What notebooks show: every text escaped, long tables cut, and the same facts as elsewhere."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from flow import write_suite

import collapsebench
from collapsebench import Evaluation, Score
from collapsebench.publishing import notebook
from collapsebench.scoring.results import CellResult, SuiteResults
from collapsebench.verbs.run import Outcome

HOSTILE = "<script>alert('x')</script>"


def results(**changes: str) -> SuiteResults:
    names = {"dataset": "digits", "architecture": "linear", "objective": "beta-vae", "reason": "", **changes}
    cells = [
        CellResult(
            key=str(seed),
            seed=seed,
            status="ok" if seed else "failed",
            evaluations={"agreement": Evaluation({"r2": 0.5 + seed})},
            **names,
        )
        for seed in range(2)
    ]
    declared = {"agreement": [Score("r2", "Agreement.", "higher")]}
    return SuiteResults("small", names.pop("title", "A title"), cells, declared, ("agreement/r2",))


def test_a_board_escapes_every_text_that_a_suite_or_a_failure_brings() -> None:
    for field in ("dataset", "architecture", "objective", "reason"):
        html = Outcome(results(**{field: HOSTILE}), Path())._repr_html_()
        assert "<script" not in html
        assert "&lt;script&gt;" in html
    html = Outcome(replace(results(), title=HOSTILE), Path())._repr_html_()
    assert "<script" not in html


def test_a_board_shows_what_failed_beside_the_scores() -> None:
    html = Outcome(results(reason="RuntimeError: broken"), Path())._repr_html_()
    assert "RuntimeError: broken" in html
    assert "<td>1/2</td>" in html


def test_a_plan_shows_every_cell_and_escapes_its_title(tmp_path: Path) -> None:
    suite = write_suite(tmp_path)
    suite.write_text(suite.read_text().replace('title = "Tiny"', f'title = "{HOSTILE}"'))
    plan = collapsebench.plan(suite, store=tmp_path / "store")
    html = plan._repr_html_()
    assert html.count("<td>missing</td>") == len(plan.cells) == 4
    assert "<script" not in html
    assert list(plan.statuses["status"]) == ["missing"] * 4
    assert all(math.isnan(share) for share in plan.statuses["converged"])
    assert repr(plan) == f"Plan(suite={plan.suite.id!r}, cells=4, missing=4)"


def test_the_name_of_an_outcome_is_short() -> None:
    assert repr(Outcome(results(), Path("out"))) == f"Outcome(suite='small', ok=1 of 2, folder={Path('out')!r})"


def test_a_long_table_says_how_many_rows_it_leaves_out() -> None:
    rows = [[str(i)] for i in range(notebook.MOST_ROWS + 5)]
    html = notebook.table(["row"], rows)
    assert html.count("<tr>") == notebook.MOST_ROWS + 1
    assert "5 more rows." in html
    assert "more rows" not in notebook.table(["row"], rows[:3])
