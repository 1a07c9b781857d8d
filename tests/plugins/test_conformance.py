"""Every first-party component keeps the conformance laws, through the kit that plugins of others are tested with."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_huggingface import as_parquet
from test_idx import original_of, pixels, write
from test_worldclim import layers, write_bil, zipped

from collapsebench import testing
from collapsebench.authoring.check import LAWS
from collapsebench.contracts import KINDS, load_registry
from collapsebench_datasets.fashion_mnist import FashionMnist
from collapsebench_datasets.mnist import Mnist


def laws_of(kind, id):
    """Return a test class for a component, as the author of a plugin would write it."""
    return type(
        f"Test_{kind}_{id}", (getattr(testing, f"{kind.capitalize()}Laws"),), {"id": id, "__module__": __name__}
    )


for _kind in KINDS:
    for _component in load_registry().components(_kind):
        if _component.id not in ("worldclim", "table", "fashion-mnist", "mnist", "huggingface"):
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


class TestFashionMnist(testing.DatasetLaws):
    id = "fashion-mnist"

    @pytest.fixture(scope="module", autouse=True)
    @classmethod
    def folder(cls, tmp_path_factory):
        """A folder like the publisher's, small and local, whose checksums are taken for the original's."""
        images = pixels()
        cls.parameters = {"path": str(write(tmp_path_factory.mktemp(cls.id), images))}
        with pytest.MonkeyPatch.context() as patch:
            for preset in (FashionMnist, Mnist):
                patch.setattr(preset, "original", original_of(images, id=preset.original.id))
            yield


class TestMnist(TestFashionMnist):
    id = "mnist"


class TestHuggingFace(testing.DatasetLaws):
    id = "huggingface"

    @pytest.fixture(scope="module", autouse=True)
    @staticmethod
    def folder(tmp_path_factory):
        """A folder of Parquet files, small and local."""
        TestHuggingFace.parameters = {"path": str(as_parquet(tmp_path_factory.mktemp("huggingface"), pixels()))}


def test_every_kind_has_laws_and_a_class_in_the_kit():
    assert LAWS.keys() == set(KINDS)
    for kind, laws in LAWS.items():
        names = [law.name for law in laws]
        assert len(set(names)) == len(names)
        assert getattr(testing, f"{kind.capitalize()}Laws").kind == kind
    assert len(testing.__all__) == len(KINDS)
