"""Every first-party component keeps the conformance laws, through the kit that plugins of others are tested with."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_worldclim import layers, write_bil, zipped

from collapsebench import testing
from collapsebench.components import KINDS
from collapsebench.conformance import LAWS
from collapsebench.registry import load_registry


def laws_of(kind, id):
    """Return a test class for a component, as the author of a plugin would write it."""
    return type(
        f"Test_{kind}_{id}", (getattr(testing, f"{kind.capitalize()}Laws"),), {"id": id, "__module__": __name__}
    )


for _kind in KINDS:
    for _component in load_registry().components(_kind):
        if _component.id not in ("worldclim", "table"):
            globals()[f"Test_{_kind}_{_component.id}"] = laws_of(_kind, _component.id)
del _kind, _component


class TestConvOfOddImages(testing.EncoderLaws):
    id = "conv"
    shape = (2, 7, 7)


class TestWorldClim(testing.DatasetLaws):
    id = "worldclim"

    @pytest.fixture(scope="module", autouse=True)
    @staticmethod
    def archive(tmp_path_factory):
        """An archive like the publisher's, small and local."""
        folder = tmp_path_factory.mktemp("worldclim")
        archive = zipped(write_bil(folder / "layers", layers()), folder / "bio_10m_bil.zip")
        TestWorldClim.parameters = {"version": "1.4", "path": str(archive)}


class TestTable(testing.DatasetLaws):
    id = "table"

    @pytest.fixture(scope="module", autouse=True)
    @staticmethod
    def file(tmp_path_factory):
        """A table of numbers, without which there is nothing to load."""
        path = tmp_path_factory.mktemp("table") / "numbers.csv"
        numbers = np.random.default_rng(0).standard_normal((200, 4))
        pd.DataFrame(numbers, columns=list("abcd")).to_csv(path, index=False)
        TestTable.parameters = {"path": str(path)}


def test_every_kind_has_laws_and_a_class_in_the_kit():
    assert LAWS.keys() == set(KINDS)
    for kind, laws in LAWS.items():
        names = [law.name for law in laws]
        assert len(set(names)) == len(names)
        assert getattr(testing, f"{kind.capitalize()}Laws").kind == kind
    assert len(testing.__all__) == len(KINDS)
