"""The schema of results.json: the same bytes out as in, and a damaged file is refused with the place and what to do."""

from __future__ import annotations

import json
import shutil

import pytest

from collapsebench.errors import StoreError
from collapsebench.publishing.bundle import read_data
from collapsebench.publishing.results_file import ResultsFile


def test_what_was_read_is_written_to_the_same_bytes(published, tmp_path):
    path = published / "data" / "results.json"
    again = ResultsFile.read(path).write(tmp_path / "results.json")
    assert again.read_bytes() == path.read_bytes()
    assert '"reached": "inf"' in again.read_text(encoding="utf-8")


def changed(published, folder, change):
    """Return a copy of the data of a published folder whose results.json was changed."""
    shutil.copytree(published / "data", folder / "data")
    path = folder / "data" / "results.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=4), r"results\.json: has format 4, expected at most 3.*Publish the suite again"),
        (lambda c: c.pop("format"), "has format None, expected at most 3"),
        (lambda c: c.pop("cells"), r"results\.json: cells is missing, but expected. Publish the suite again"),
        (lambda c: c.update(colour="red"), "colour is unknown here"),
        (lambda c: c["cells"][0].pop("status"), r"cells\[0\]\.status is missing"),
        (lambda c: c["cells"][1].update(seed="one"), r"cells\[1\]\.seed: found 'one', expected a valid integer"),
        (lambda c: c["declared"]["shape"][0].update(direction="up"), r"direction: found 'up', expected 'higher', 'low"),
        (
            lambda c: c["cells"][0]["measurement"].update(spectrum=7),
            r"cells\[0\]\.measurement\.spectrum: found 7, expected the place of one of 1 spectra",
        ),
        (
            lambda c: c["cells"][0]["measurement"]["tables"].append("losses"),
            r"losses\.parquet: has no rows of cell 0, expected some.*Publish the suite again",
        ),
        (
            lambda c: c["cells"][2]["evaluations"].update(shape={"values": {}, "reasons": {}, "modes": True}),
            r"modes-shape\.parquet: has no rows of cell 2",
        ),
    ],
)
def test_a_damaged_file_is_refused_with_the_place_and_what_to_do(published, tmp_path, change, message):
    with pytest.raises(StoreError, match=message):
        read_data(changed(published, tmp_path, change))


def test_a_file_of_before_there_were_questions_asks_one(published, tmp_path):
    def as_before(content):
        content.pop("questions")
        content.update(format=2, rank_by=["shape/slope"])

    (question,) = read_data(changed(published, tmp_path, as_before)).questions
    assert (question.id, question.title, question.scores) == ("rank", "", ("shape/slope",))


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_what_is_no_object_is_refused(published, tmp_path, text):
    folder = changed(published, tmp_path, lambda content: None)
    (folder / "data" / "results.json").write_text(text)
    with pytest.raises(StoreError, match=r"results\.json: (cannot be read|has format None)"):
        read_data(folder)
