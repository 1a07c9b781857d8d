"""A table comes out of its file as it went in, in any format; what cannot be used is named, with the remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import ValidationError

from collapsebench.contracts import SPLITS, Data
from collapsebench.data.standardise import fingerprint, standardise
from collapsebench.errors import DataError
from collapsebench_datasets.table_rows import RowSample

ROWS = 60
NAMES = ["height", "weight", "age", "income"]
FRAME = pd.DataFrame(
    np.random.default_rng(0).normal(size=(ROWS, 4)) * [1, 10, 3, 1e4] + [0, 70, 40, 1e6], columns=NAMES
)
TEXT = FRAME.assign(species=[f"kind {n % 3}" for n in range(ROWS)], seen=pd.date_range("2020-01-01", periods=ROWS))


def write_stream(frame: pd.DataFrame, path: Path) -> None:
    table = pa.Table.from_pandas(frame)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


WRITERS: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    "t.csv": lambda frame, path: frame.to_csv(path, index=False),
    "semicolons.csv": lambda frame, path: frame.to_csv(path, index=False, sep=";"),
    "labelled.csv": lambda frame, path: frame.to_csv(path),
    "mark.csv": lambda frame, path: frame.to_csv(path, index=False, encoding="utf-8-sig"),
    "t.tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    "t.parquet": lambda frame, path: frame.to_parquet(path, row_group_size=17),
    "indexed.parquet": lambda frame, path: frame.set_axis(range(5, 5 + 2 * len(frame), 2)).to_parquet(path),
    "t.feather": lambda frame, path: frame.to_feather(path),
    "stream.arrow": write_stream,
    "t.npy": lambda frame, path: np.save(path, np.ascontiguousarray(frame)),
    "fortran.npy": lambda frame, path: np.save(path, np.asfortranarray(frame)),
    "t.npz": lambda frame, path: np.savez_compressed(path, x=np.ascontiguousarray(frame)),
    "fortran.npz": lambda frame, path: np.savez(path, x=np.asfortranarray(frame), y=np.arange(3)),
}


@pytest.fixture
def load(component, tmp_path):
    def make(path: Path | str, seed: int = 0, **parameters) -> Data:
        made = component("dataset", "table", path=str(path), **parameters)
        assert not made.is_prepared(tmp_path / "cache") or Path(path).is_file()
        made.prepare(tmp_path / "cache")
        assert made.is_prepared(tmp_path / "cache")
        return made.load(seed, tmp_path / "cache")

    return make


@pytest.fixture
def saved(tmp_path):
    def write(frame: pd.DataFrame | str | bytes, name: str = "t.csv") -> Path:
        path = tmp_path / name
        if isinstance(frame, str):
            path.write_text(frame)
        elif isinstance(frame, bytes):
            path.write_bytes(frame)
        else:
            WRITERS[name if name in WRITERS else f"t{path.suffix}"](frame, path)
        return path

    return write


def together(data: Data) -> np.ndarray:
    return np.concatenate([getattr(data, name).values for name in SPLITS])


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_rows_of_the_table_up_to_a_constant_per_column(load, saved, name):
    data = load(saved(FRAME, name))
    rows, own = together(data), FRAME.to_numpy()
    assert rows.dtype == np.float32
    shift = np.median(own, axis=0)
    assert np.sort(rows, axis=0) + shift == pytest.approx(np.sort(own, axis=0), rel=1e-6)
    assert sorted(data.feature_names) == sorted(
        NAMES if not name.endswith(("npy", "npz")) else ["x0", "x1", "x2", "x3"]
    )


@pytest.mark.parametrize("rows_at_once", [7, 64])
@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "stream.arrow", "t.npy", "fortran.npy", "t.npz"])
def test_the_size_of_the_pieces_changes_nothing(load, saved, monkeypatch, name, rows_at_once):
    whole = load(saved(FRAME, name))
    monkeypatch.setattr("collapsebench_datasets.table_files._rows_at_once", lambda columns: rows_at_once)
    again = load(saved(FRAME, name), leave_out=())
    assert fingerprint(whole) == fingerprint(again)


def test_a_seed_gives_the_same_disjoint_splits_of_the_shares_asked_for(load, saved):
    path = saved(FRAME)
    one, two, other = load(path), load(path), load(path, seed=1)
    assert fingerprint(one) == fingerprint(two) != fingerprint(other)
    assert [len(getattr(one, name).values) for name in SPLITS] == [42, 9, 9]
    assert len(np.unique(together(one), axis=0)) == ROWS
    shares = load(path, train_share=0.5, validation_share=0.4)
    assert [len(getattr(shares, name).values) for name in SPLITS] == [30, 24, 6]


def test_six_rows_are_enough_and_every_split_has_two(load, saved):
    data = load(saved(FRAME[:6]))
    assert [len(getattr(data, name).values) for name in SPLITS] == [2, 2, 2]


def test_neither_the_folder_nor_the_name_of_a_file_changes_its_arrays(load, saved, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    one, two = load(saved(FRAME)), load(saved(FRAME, "elsewhere/t.csv"))
    assert fingerprint(one) == fingerprint(two)
    assert str(tmp_path) not in f"{two.revision} {two.notes}"


def test_a_file_that_changes_is_read_anew(load, saved):
    before = load(saved(FRAME))
    after = load(saved(FRAME * 2))
    assert fingerprint(before) != fingerprint(after)


def test_large_constants_cost_no_digits(load, saved):
    """Seconds since 1970 have a spacing of 128 in float32."""
    seconds = FRAME.assign(age=1.7e9 + np.arange(ROWS))
    data = load(saved(seconds))
    assert np.diff(np.sort(together(data)[:, 2])) == pytest.approx(np.ones(ROWS - 1))


def test_columns_are_chosen_in_the_order_of_the_file_and_left_out_by_name(load, saved):
    path = saved(TEXT)
    assert load(path, columns=["age", "height"]).feature_names == ("height", "age")
    assert load(path, leave_out=["species", "seen", "age"]).feature_names == ("height", "weight", "income")


def test_numbers_in_quotes_truth_values_and_integers_are_numbers(load, saved):
    frame = pd.DataFrame({"a": [True, False] * 5, "b": range(10), "c": [f" {n}.5" for n in range(10)]})
    assert load(saved(frame.to_csv(index=False, quoting=1))).feature_names == ("a", "b", "c")
    assert load(saved(frame, "t.parquet")).feature_names == ("a", "b", "c")


def test_a_file_without_a_header_gets_names_and_says_so(load, saved):
    data = load(saved(FRAME.to_csv(index=False, header=False)))
    assert data.feature_names == ("x0", "x1", "x2", "x3")
    assert len(together(data)) == ROWS
    assert "x0 to x3" in data.notes["notices"][0]


def test_incomplete_rows_are_dropped_where_that_is_asked_for_and_counted(load, saved):
    holes = FRAME.copy()
    holes.loc[[3, 7], "age"] = np.nan
    holes.loc[7, "income"] = np.inf
    data = load(saved(holes), missing="drop-rows")
    assert len(together(data)) == ROWS - 2
    assert data.notes["notices"] == ["2 of 60 rows were dropped: they hold missing or infinite values"]


def test_a_column_that_repeats_another_is_noticed_and_kept(load, saved):
    data = load(saved(FRAME.assign(again=FRAME["age"], almost=FRAME["age"] + 1e-3 * (FRAME.index == 50))))
    (notice,) = data.notes["notices"]
    assert notice.startswith("columns 'again' repeat 'age'")
    assert len(data.feature_names) == 6


def test_a_constant_column_is_left_out_by_the_core(load, saved):
    ready = standardise(load(saved(FRAME.assign(one=3.0))), "t")
    assert ready.left_out == ("one",)
    assert ready.total_variance == pytest.approx(4, rel=1e-5)


def test_fewer_rows_than_columns_run_with_a_notice_of_the_consequence(load, saved):
    wide = pd.DataFrame(np.random.default_rng(1).normal(size=(20, 30)))
    (notice,) = load(saved(wide, "t.npy")).notes["notices"]
    assert "rank 13 at most" in notice
    assert "too high" in notice


@pytest.mark.parametrize("piece", [1, 13, 1000])
def test_a_sample_of_a_stream_is_uniform_in_order_and_as_large_as_asked_for(piece):
    counts = np.zeros(200)
    for repeat in range(60):
        sample = RowSample(50, 1)
        sample._generator = np.random.default_rng(repeat)
        stream = np.arange(200.0)[:, None]
        for first in range(0, 200, piece):
            sample.add(stream[first : first + piece])
        rows = sample.finish()[:, 0] + sample.offset[0]
        assert len(rows) == 50
        assert (np.diff(rows) > 0).all()
        counts[rows.astype(int)] += 1
    assert np.abs(counts - 15).max() < 5 * np.sqrt(60 * 0.25 * 0.75)


def test_a_long_stream_is_held_in_bounded_memory():
    sample = RowSample(500, 4)
    for _ in range(200):
        sample.add(np.random.default_rng(0).normal(size=(1000, 4)))
        assert len(sample._rows) <= 500 + 1024
    assert sample.seen == 200_000
    assert sample.finish().shape == (500, 4)


def test_max_rows_takes_a_sample_and_says_so(load, saved):
    data = load(saved(FRAME), max_rows=20)
    assert len(together(data)) == 20
    assert data.notes["rows_in_file"] == ROWS
    assert "20 of the 60 rows" in data.notes["notices"][0]


STRAY = FRAME.assign(age=[*FRAME["age"][:41], "n.a.", *FRAME["age"][42:]])
BAD_FILES = {
    "text columns, with rows and option": (
        "t.csv",
        TEXT,
        {},
        [
            "'species' (row 1: 'kind 0', row 2: 'kind 1'",
            "'seen' (row 1: '2020-01-01'",
            "--leave-out species --leave-out seen",
        ],
    ),
    "text in Parquet": (
        "t.parquet",
        TEXT,
        {},
        ["'species' (row 1: 'kind 0'", "'seen'", 'leave_out = ["species", "seen"]'],
    ),
    "a stray word": ("t.csv", STRAY, {}, ["row 42: 'n.a.'"]),
    "missing values": (
        "t.csv",
        FRAME.assign(age=FRAME["age"].where(FRAME["age"] < 42)),
        {},
        ["'age' in ", " of 60 rows (first: ", "--missing drop-rows", "--leave-out age"],
    ),
    "an empty column": (
        "t.csv",
        FRAME.assign(none=np.nan),
        {"missing": "drop-rows"},
        ["'none' in all of 60 rows", "--leave-out none"],
    ),
    "one row": ("t.csv", FRAME[:1], {}, ["found 1 row, expected at least 6"]),
    "a header only": ("t.csv", FRAME[:0], {}, ["found 0 rows"]),
    "an empty file": ("t.csv", "", {}, ["the file is empty"]),
    "two columns of one name": ("t.csv", "a,b,a\n1,2,3\n", {}, ["'a' is the name of columns [1, 3]", "Rename"]),
    "a row that is too long": (
        "t.csv",
        "a,b\n" + "1,2\n" * 9 + "1,2,3\n",
        {},
        ["cannot be read as CSV", "line 11, saw 3"],
    ),
    "a first row that is too long": ("t.csv", "a,b\n1,2,3\n" + "1,2\n" * 9, {}, ["cannot be read as CSV"]),
    "Parquet named CSV": ("wrong.csv", "PAR1" + "x" * 50, {}, ["its name says CSV, its content is Parquet", "Rename"]),
    "CSV named Parquet": ("wrong.parquet", "a,b\n1,2\n", {}, ["its name says Parquet, its content is CSV"]),
    "a web page": ("wrong.csv", "\n<!DOCTYPE html>", {}, ["its content is HTML or XML"]),
    "binary data": ("wrong.csv", b"\0\1\2\3", {}, ["its content is binary data"]),
    "not UTF-8": ("latin.csv", "größe\n1\n".encode("latin1"), {}, ["is not UTF-8 text"]),
    "a pickle named NPY": ("wrong.npy", b"\x80\x04K\x01.", {}, ["its name says NPY"]),
    "an unknown suffix": ("t.xlsx", "a", {}, ["the suffix '.xlsx', expected one of .csv"]),
    "an unknown column": (
        "t.csv",
        FRAME,
        {"columns": ["age", "hight"]},
        ["'hight'. Did you mean 'height'?", "'income'"],
    ),
    "nothing left": ("t.csv", FRAME, {"leave_out": NAMES}, ["leave none of its 4 columns"]),
    "beyond float32": ("t.csv", FRAME.assign(age=10.0 ** np.arange(ROWS)), {}, ["'age'", "3e38", "--leave-out age"]),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_what_cannot_be_used_is_refused_with_place_reason_and_remedy(load, saved, case):
    name, content, parameters, expected = BAD_FILES[case]
    path = saved(content, name)
    with pytest.raises(DataError) as caught:
        load(path, **parameters)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    for part in expected:
        assert part in message


@pytest.mark.parametrize("name", ["t.parquet", "t.feather", "t.npy", "t.npz"])
def test_a_file_that_was_cut_off_is_refused(load, saved, name):
    path = saved(FRAME, name)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match="cannot be read as"):
        load(path)


def test_an_array_of_objects_is_never_unpickled(load, tmp_path):
    path = tmp_path / "objects.npy"
    np.save(path, np.array([[1, "a"]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="type object"):
        load(path)


def test_an_archive_must_hold_exactly_one_table(load, tmp_path):
    np.savez(tmp_path / "two.npz", a=np.ones((9, 2)), b=np.ones((9, 3)))
    with pytest.raises(DataError, match=r"a \(9, 2\), b \(9, 3\), expected exactly one"):
        load(tmp_path / "two.npz")


def test_a_file_that_is_not_there_is_named_with_its_neighbour(load, saved, tmp_path):
    saved(FRAME, "penguins.csv")
    with pytest.raises(DataError, match=r"no such file. Did you mean '.*penguins.csv'"):
        load(tmp_path / "pengiuns.csv")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"train_share": 0.9, "validation_share": 0.1}, "expected less than 1"),
        ({"columns": ["a", "a"]}, "'a' more than once in columns"),
        ({"missing": "mean"}, "drop-rows"),
        ({"max_rows": 5}, "greater than or equal to 6"),
    ],
)
def test_parameters_that_cannot_be_are_refused(component, parameters, message):
    with pytest.raises(ValidationError, match=message):
        component("dataset", "table", path="t.csv", **parameters)
