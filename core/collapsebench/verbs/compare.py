"""The verb compare: two architectures of a suite, or two published folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from collapsebench.contracts import Score
from collapsebench.errors import UserError
from collapsebench.publishing.comparison import ABSENT, Comparison, compare_architectures, difference_frame, row
from collapsebench.publishing.folder import Published, read_published, rows, values
from collapsebench.ranking.differences import Difference, no_difference, paired_difference, unpaired_difference
from collapsebench.verbs.run import open_session, score_only

_ABOUT = (
    "suite_hash", "preset", "seeds", "collapsebench", "git", "torch", "python", "device", "cpu", "precision", "date",
)  # fmt: skip


def compare(first: str | Path, second: str | Path, suite: str | Path | None = None, **options: Any) -> Comparison:
    """Compare two architectures of a suite, or without a suite two published folders. Options: `open_session`.

    Architectures are paired by seed; nothing is trained or written. Folders are paired by seed where both hold the
    value of every seed, else compared by the intervals of their boards.

    >>> import collapsebench
    >>> options = {"preset": "smoke", "overrides": ['datasets=[{use="gaussian"}]', "training.max_updates=20"]}
    >>> trained = collapsebench.run("quickstart", **options)
    >>> found = collapsebench.compare("linear", "mlp", suite="quickstart", **options)
    >>> found.first, found.second, list(found.differences.columns[7:12])
    ('linear', 'mlp', ['first', 'second', 'difference', 'low', 'high'])
    """
    if suite is not None:
        return compare_architectures(score_only(open_session(suite, **options)), str(first), str(second))
    given = sorted(name for name, value in options.items() if value not in (None, (), []))
    if given:
        raise UserError(
            f"two published folders are compared as they are; found the option {', '.join(given)}. "
            "Leave it out, or name the suite of two architectures with --suite."
        )
    return compare_published(read_published(first), read_published(second))


def compare_published(first: Published, second: Published) -> Comparison:
    """Compare what two published folders hold, row by row of their boards."""
    names = _names(first.folder, second.folder)
    first_rows, second_rows = rows(first), rows(second)
    first_values, second_values = values(first), values(second)
    differences = []
    for key in dict.fromkeys([*first_rows, *second_rows]):
        one, other = first_rows.get(key), second_rows.get(key)
        about = one or other
        assert about is not None
        score = Score(key[4], "", about["direction"], about["unit"])
        if one is None or other is None:
            absent = names[0] if one is None else names[1]
            difference = no_difference(0, f"{ABSENT} {absent}")
        else:
            difference = _difference(one, other, first_values.get(key, {}), second_values.get(key, {}))
        means = tuple(float("nan") if item is None else float(item["value"]) for item in (one, other))
        differences.append(row((key[0], key[1], key[2], key[3]), score, (means[0], means[1]), difference, names))
    paired = "paired by seed" if first_values and second_values else "not paired: from the intervals of the two boards"
    return Comparison(
        *names,
        f"{names[0]} and {names[1]}",
        difference_frame(differences),
        tuple(_changes(first, second, names)),
        (
            f"Differences are {names[0]} minus {names[1]}, {paired}; ±: 95 % t-interval.",
            *(f"{name}: {_origin(held)}." for name, held in zip(names, (first, second), strict=True)),
        ),
    )


def _difference(
    one: Mapping[str, Any],
    other: Mapping[str, Any],
    first_values: Mapping[int, float],
    second_values: Mapping[int, float],
) -> Difference:
    seeds = sorted(first_values.keys() & second_values.keys())
    if seeds:
        return paired_difference([[first_values[seed] for seed in seeds]], [[second_values[seed] for seed in seeds]])
    known = [(item["value"], item["low"], item["high"], int(item["n_ok"])) for item in (one, other)]
    return unpaired_difference(known[0], known[1])


def _names(first: Path, second: Path) -> tuple[str, str]:
    """Return what two folders are called: their last names, or as much of their paths as tells them apart."""
    if first.resolve() == second.resolve():
        raise UserError(f"{first} is compared with itself. Expected two published folders.")
    if first.resolve().name != second.resolve().name:
        return first.resolve().name, second.resolve().name
    return first.as_posix(), second.as_posix()


def _changes(first: Published, second: Published, names: tuple[str, str]) -> Iterator[str]:
    """Yield a sentence for what differs besides scores: suite, code, machine, cells, rows."""
    suites = [", ".join(dict.fromkeys(held.board["suite"])) for held in (first, second)]
    if suites[0] != suites[1]:
        yield f"Suite: {suites[0]} and {suites[1]}."
    for key in _ABOUT:
        one, other = (held.provenance.get(key) for held in (first, second))
        if one != other:
            yield f"{key}: {_short(key, one)} and {_short(key, other)}."
    counts = [f"{int((held.cells['status'] == 'ok').sum())} of {len(held.cells)}" for held in (first, second)]
    if counts[0] != counts[1]:
        yield f"Runs that ended ok: {counts[0]} and {counts[1]}."
    keys = [set(held.cells["key"]) for held in (first, second)]
    shared = len(keys[0] & keys[1])
    if shared:
        yield f"{shared} runs are the very same, with the same key."
    first_keys, second_keys = rows(first).keys(), rows(second).keys()
    for name, only in zip(names, (first_keys - second_keys, second_keys - first_keys), strict=True):
        if only:
            scans = sorted({" / ".join(key[:3]) for key in only})
            yield f"Only in {name}: {len(only)} scores, of {', '.join(scans[:6])}{' ...' if len(scans) > 6 else ''}."
    if not first_keys & second_keys:
        yield "The two have no score in common."


def _origin(held: Published) -> str:
    facts = [
        f"{key} {_short(key, held.provenance[key])}" for key in _ABOUT if held.provenance.get(key) not in (None, "")
    ]
    return ", ".join(facts)


def _short(key: str, value: Any) -> str:
    return "none" if value in (None, "") else str(value)[: 12 if key == "suite_hash" else 60]
