"""Download one file, continuing after an interruption, and trust its checksum on first use.

Beside an archive `a.zip` stand `a.zip.json`, the checksum of the first download, which every later use must match,
and, while a download is incomplete, `a.zip.part` and `a.zip.part.json`, from which it continues. An archive gets its
final name only after its reader has read it without an error.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from collapsebench import DataError

CHUNK_BYTES = 1 << 18
TIMEOUT_SECONDS = 60.0


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recorded_sha256(archive: Path) -> str | None:
    """Return the checksum recorded when `archive` was first downloaded, None if there is no record."""
    record = _beside(archive, ".json")
    if not record.exists():
        return None
    recorded = _read_json(record).get("sha256")
    if not isinstance(recorded, str):
        raise DataError(
            f"{record}: found no checksum in it, expected one under 'sha256'. Delete this file to trust the "
            f"archive anew."
        )
    return recorded


@contextmanager
def verified(url: str, archive: Path, sha256: str | None = None) -> Iterator[tuple[Path, str]]:
    """Yield a file with the bytes of `archive`, downloaded from `url` if need be, and its SHA-256.

    The checksum must be `sha256` or, without that, the recorded one; with neither, it is trusted and recorded
    once the caller's block has ended without an error. A new download that the block refuses with a DataError
    is discarded.
    """
    record = _beside(archive, ".json")
    expected = sha256 or recorded_sha256(archive)
    source = "given by the parameter sha256" if sha256 else f"recorded in {record} at the first download"
    if archive.exists():
        actual = sha256_of(archive)
        if expected not in (None, actual):
            raise DataError(
                f"{archive}: its SHA-256 is {actual}, expected {expected} ({source}). The file has "
                "changed: delete it to download it again."
            )
        yield archive, actual
    else:
        part = _beside(archive, ".part")
        download(url, part)
        try:
            actual = sha256_of(part)
            if expected not in (None, actual):
                raise DataError(
                    f"{url}: the SHA-256 of the download is {actual}, expected {expected} ({source}). Nothing "
                    f"was kept. Try again; if the publisher has released another file that you trust, "
                    f"{'change sha256' if sha256 else f'delete {record}'} first."
                )
            yield part, actual
        except DataError:
            _discard(part)
            raise
    if not record.exists():
        _write_json(record, {"url": url, "sha256": actual})
    if not archive.exists():
        part.replace(archive)
        _discard(part)


def download(url: str, part: Path) -> None:
    """Complete the file `part` from `url`; repeat the request as long as each one makes the file longer."""
    while True:
        before = _size(part)
        total = _attempt(url, part)
        if total == _size(part):
            return
        if _size(part) <= before:
            raise DataError(
                f"{url}: the connection ended after {_size(part)} bytes, expected "
                f"{'more' if total is None else total}. Run again: the download continues where it ended."
            )


def _attempt(url: str, part: Path) -> int | None:
    """Append the response of one request to `part`; return the size of the whole file, None if that is unknown."""
    state = _read_json(_beside(part, ".json"))
    if not state:
        _discard(part)
    offset = _size(part)
    try:
        response = urllib.request.urlopen(_request(url, offset, state.get("validator")), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416 or not offset:
            raise DataError(
                f"{url}: the server answered {error.code} ({error.reason}), expected the file. Check the "
                "address, or download the archive by hand and give its path."
            ) from error
        if state.get("total") == offset:
            return offset
        _discard(part)
        return _attempt(url, part)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"{url}: cannot be reached ({getattr(error, 'reason', error)}), expected a connection. Check the "
            "network and run again, or download the archive by hand and give its path."
        ) from error
    with response:
        start, total = _extent(response, offset)
        if start != offset or (start and state.get("total") not in (None, total)):
            _discard(part)
            if start:
                return _attempt(url, part)
        if not start:
            _write_json(_beside(part, ".json"), {"validator": _validator(response), "total": total})
        ended = _append(response, part, start, total)
    return _size(part) if total is None and ended else total


def _request(url: str, offset: int, validator: str | None) -> urllib.request.Request:
    headers = {"User-Agent": "collapsebench"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if validator:
            headers["If-Range"] = validator
    return urllib.request.Request(url, headers=headers)


def _extent(response: http.client.HTTPResponse, offset: int) -> tuple[int, int | None]:
    """Return where the body begins in the whole file, and the size of the whole file if it is known."""
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if offset and response.status == 206 and span:
        return int(span[1]), None if span[2] == "*" else int(span[2])
    length = response.headers.get("Content-Length")
    return 0, None if length is None else int(length)


def _validator(response: http.client.HTTPResponse) -> str | None:
    tag: str | None = response.headers.get("ETag")
    # A weak tag promises equal meaning, not equal bytes, and is not allowed in If-Range.
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _append(response: http.client.HTTPResponse, part: Path, start: int, total: int | None) -> bool:
    """Append the body to `part`; return whether it arrived completely."""
    with (
        part.open("ab" if start else "wb") as file,
        tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar,
    ):
        while True:
            try:
                chunk = response.read(CHUNK_BYTES)
            except (OSError, http.client.HTTPException):
                return False
            if not chunk:
                return True
            file.write(chunk)
            bar.update(len(chunk))


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _beside(part, ".json").unlink(missing_ok=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    temporary = _beside(path, ".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
