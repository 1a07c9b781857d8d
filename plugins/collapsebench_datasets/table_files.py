"""Tables in files, read piece by piece: CSV, TSV, Parquet, Arrow, Feather, NPY and NPZ."""

from __future__ import annotations

import csv
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from collapsebench import DataError

if TYPE_CHECKING:
    import pandas as pd

FORMATS = {
    ".csv": "CSV", ".txt": "CSV", ".tsv": "TSV", ".parquet": "Parquet", ".pq": "Parquet", ".arrow": "Arrow",
    ".feather": "Arrow", ".ipc": "Arrow", ".npy": "NPY", ".npz": "NPZ",
}  # fmt: skip
_SIGNATURES = {
    b"PAR1": "Parquet", b"ARROW1": "Arrow", b"\x93NUMPY": "NPY", b"PK\x03\x04": "NPZ", b"\x1f\x8b": "gzip",
    b"\x89HDF": "HDF5", b"\xd0\xcf\x11\xe0": "Excel", b"%PDF": "PDF", b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text", b"FEA1": "Feather version 1", b"SQLite": "SQLite",
}  # fmt: skip
_VALUES_AT_ONCE = 4_194_304


@dataclass(frozen=True)
class TableFile:
    """A table that has been opened but not read. names: its columns, unique, in the order of the file.

    read: given some of the names, yields frames of consecutive rows with these columns. notices: assumptions, as text.
    """

    names: tuple[str, ...]
    read: Callable[[Sequence[str]], Iterator[pd.DataFrame]]
    notices: tuple[str, ...] = ()


def open_table(path: Path) -> TableFile:
    """Open the table in a file; the format is that of its suffix, and its content must agree."""
    claimed = _format(path)
    try:
        table = _READERS[claimed](path)
    except DataError:
        raise
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise _unreadable(path, claimed, error) from error
    _check_names(path, table.names)

    def read(names: Sequence[str]) -> Iterator[pd.DataFrame]:
        try:
            yield from table.read(names)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise _unreadable(path, claimed, error) from error

    return TableFile(table.names, read, table.notices)


def _format(path: Path) -> str:
    """Return the format of a file that its suffix and its content agree on."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file.{_neighbour(path)} Correct the path.")
    if not path.is_file():
        raise DataError(f"{path}: found a folder, expected a file. Give one of the files in it.")
    claimed = FORMATS.get(path.suffix.lower())
    if claimed is None:
        raise DataError(
            f"{path}: found the suffix '{path.suffix}', expected one of {', '.join(FORMATS)}. Save the table in one of "
            "these formats, or rename the file after its content."
        )
    content = _content(_head(path), path)
    if content != claimed and not (claimed == "TSV" and content == "CSV"):
        raise DataError(
            f"{path}: its name says {claimed}, its content is {content}. Rename it after its content if that is one of "
            f"{', '.join(dict.fromkeys(FORMATS.values()))}, or give the right file."
        )
    return claimed


def _check_names(path: Path, names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        columns = {name: [i + 1 for i, other in enumerate(names) if other == name] for name in repeated[:5]}
        listed = "; ".join(f"'{name}' is the name of columns {numbers}" for name, numbers in columns.items())
        raise DataError(f"{path}: {listed}, expected a name for each column. Rename all but one of them in the file.")
    if not names:
        raise DataError(f"{path}: found no column, expected at least one. Give a table of numbers.")


def _unreadable(path: Path, format: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split()).rstrip(".")
    return DataError(f"{path}: cannot be read as {format} ({reason}). Check that the file is whole, and save it anew.")


def _neighbour(path: Path) -> str:
    import difflib

    if not path.parent.is_dir():
        return f" There is no folder {path.parent} either."
    close = difflib.get_close_matches(path.name, [file.name for file in path.parent.iterdir()], n=1)
    return f" Did you mean '{path.with_name(close[0])}'?" if close else ""


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(65_536)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from error
    if not head:
        raise DataError(f"{path}: the file is empty, expected a table. Save it anew.")
    return head


def _content(head: bytes, path: Path) -> str:
    """Return the format of a file according to its first bytes; "CSV" for plain text."""
    for signature, name in _SIGNATURES.items():
        if head.startswith(signature):
            if name == "NPZ" and not _holds_arrays(path):
                return "a zip archive without arrays (an Excel file, for instance)"
            return name
    if head.startswith(b"\xff\xff\xff\xff"):
        return "Arrow"  # the stream format
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<":
        return "HTML or XML"
    return "binary data" if b"\0" in head else "CSV"


def _holds_arrays(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return True  # cut off: the reader says so
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(".npy") for name in archive.namelist())


def _rows_at_once(columns: int) -> int:
    return max(64, _VALUES_AT_ONCE // max(1, columns))


def _open_text(path: Path) -> TableFile:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = next((line for line in file if line.strip()), "")
            delimiter = max("\t,;|" if path.suffix.lower() == ".tsv" else ",;\t|", key=line.count)
            file.seek(0)
            header = next((row for row in csv.reader(file, delimiter=delimiter) if row), [])
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error.reason}). Save it as UTF-8.") from error
    names = [name.strip() for name in header]
    has_names = not all(map(_is_number, names))
    has_labels = has_names and bool(names) and names[0] in ("", "Unnamed: 0")
    notices = []
    if has_labels:
        notices.append("the first column has no name and was left out as row labels")
    if has_names:
        names = [name or f"column {place}" for place, name in enumerate(names, 1)]
    else:
        notices.append(f"the first line holds numbers, not names: the columns are called x0 to x{len(names) - 1}")
        names = [f"x{place}" for place in range(len(names))]

    def read(wanted: Sequence[str]) -> Iterator[pd.DataFrame]:
        import pandas as pd

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)
                pieces = pd.read_csv(
                    path, sep=delimiter, header=0 if has_names else None, names=names, index_col=False,
                    chunksize=_rows_at_once(len(names)), low_memory=False, encoding="utf-8-sig",
                )  # fmt: skip
                with pieces:
                    for piece in pieces:
                        yield piece[list(wanted)]
        except pd.errors.ParserWarning as error:
            raise ValueError("a row has more fields than the first line") from error

    return TableFile(tuple(names[has_labels:]), read, tuple(notices))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _open_parquet(path: Path) -> TableFile:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = tuple(file.schema_arrow.names)
    names, notices = _without_index(names)

    def read(wanted: Sequence[str]) -> Iterator[pd.DataFrame]:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_rows_at_once(len(wanted)), columns=list(wanted)):
                yield _frame(batch, wanted)

    return TableFile(names, read, notices)


def _open_arrow(path: Path) -> TableFile:
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        names, notices = _without_index(tuple(_arrow_reader(file).schema.names))

    def read(wanted: Sequence[str]) -> Iterator[pd.DataFrame]:
        rows = _rows_at_once(len(wanted))
        with pa.memory_map(str(path)) as file:
            reader = _arrow_reader(file)
            many = getattr(reader, "num_record_batches", None)
            for batch in reader if many is None else map(reader.get_batch, range(many)):
                for first in range(0, batch.num_rows, rows):
                    yield _frame(batch.select(list(wanted)).slice(first, rows), wanted)

    return TableFile(names, read, notices)


def _arrow_reader(file: Any) -> Any:
    """Open the file format, which is random access, or the stream format."""
    import pyarrow as pa

    is_file = file.read(6) == b"ARROW1"
    file.seek(0)
    return pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)


def _frame(batch: Any, wanted: Sequence[str]) -> pd.DataFrame:
    frame: pd.DataFrame = batch.to_pandas(ignore_metadata=True)
    return frame[list(wanted)]


def _without_index(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Leave out the column in which pandas keeps a frame's index."""
    kept = tuple(name for name in names if not name.startswith("__index_level_"))
    return kept, () if kept == names else ("the index of the frame was left out as row labels",)


def _open_npy(path: Path) -> TableFile:
    with path.open("rb") as file:
        shape, fortran, dtype = _array_header(file)
    names = _array_columns(path, shape, dtype)

    def read(wanted: Sequence[str]) -> Iterator[pd.DataFrame]:
        if fortran:
            yield from _slices(np.load(path, mmap_mode="r", allow_pickle=False), names, wanted)
            return
        with path.open("rb") as file:
            yield from _stream(file, names, wanted)

    return TableFile(names, read)


def _open_npz(path: Path) -> TableFile:
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if member.endswith(".npy"):
                with archive.open(member) as file:
                    shapes[member] = _array_header(file)
    tables = [member for member, (shape, _, _) in shapes.items() if len(shape) == 2]
    listed = ", ".join(f"{member.removesuffix('.npy')} {shape}" for member, (shape, _, _) in shapes.items())
    if len(tables) != 1:
        raise DataError(
            f"{path}: found the arrays {listed}, expected exactly one with two axes, (rows, columns). Save the "
            "table alone, with numpy.save."
        )
    member, (shape, fortran, dtype) = tables[0], shapes[tables[0]]
    names = _array_columns(path, shape, dtype)

    def read(wanted: Sequence[str]) -> Iterator[pd.DataFrame]:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            if fortran:
                yield from _slices(np.lib.format.read_array(file, allow_pickle=False), names, wanted)
            else:
                yield from _stream(file, names, wanted)

    rest = [f"of the arrays {listed}, only '{member.removesuffix('.npy')}' was used"] if len(shapes) > 1 else []
    return TableFile(names, read, tuple(rest))


def _array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def _array_columns(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[str, ...]:
    if len(shape) != 2 or dtype.kind not in "fiub":
        raise DataError(
            f"{path}: found an array of shape {shape} and type {dtype}, expected numbers of shape (rows, columns). "
            "Reshape it, and convert what is not a number."
        )
    return tuple(f"x{place}" for place in range(shape[1]))


def _stream(file: IO[bytes], names: Sequence[str], wanted: Sequence[str]) -> Iterator[pd.DataFrame]:
    (rows, columns), _, dtype = _array_header(file)
    at_once = _rows_at_once(columns)
    for first in range(0, rows, at_once):
        count = min(at_once, rows - first)
        content = file.read(count * columns * dtype.itemsize)
        if len(content) < count * columns * dtype.itemsize:
            raise ValueError(f"it ends before row {first + count} of {rows}")
        yield from _slices(np.frombuffer(content, dtype).reshape(count, columns), names, wanted)


def _slices(array: np.ndarray[Any, Any], names: Sequence[str], wanted: Sequence[str]) -> Iterator[pd.DataFrame]:
    import pandas as pd

    places = {name: place for place, name in enumerate(names)}
    chosen = [places[name] for name in wanted]
    at_once = _rows_at_once(len(names))
    for first in range(0, len(array), at_once):
        yield pd.DataFrame(np.asarray(array[first : first + at_once])[:, chosen], columns=list(wanted))


_READERS: dict[str, Callable[[Path], TableFile]] = {
    "CSV": _open_text,
    "TSV": _open_text,
    "Parquet": _open_parquet,
    "Arrow": _open_arrow,
    "NPY": _open_npy,
    "NPZ": _open_npz,
}
