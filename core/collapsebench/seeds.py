"""Randomness as a pure function of named axes: no state to save, none to restore."""

from __future__ import annotations

import hashlib
import json


def seed_of(**axes: int | str) -> int:
    """Return the 63-bit seed for named axes, for example `seed_of(use="noise", seed=0, update=17)`.

    Axes are hashed with their names, so their order does not matter and a new axis never collides with an old one.
    """
    text = json.dumps(axes, sort_keys=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
