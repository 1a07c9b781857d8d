"""Fixtures that several rooms share."""

from __future__ import annotations

import pytest
from exact_pair import LATENTS, TEMPERATURE, shuffled


@pytest.fixture
def solution(gaussian, exact):
    """The exact linear pair at a temperature, with its latents in another order."""

    def make(temperature=TEMPERATURE, latents=LATENTS, collapsed=None):
        return shuffled(exact(gaussian, [temperature], latents, collapsed=collapsed), latents)

    return make
