"""Every first-party component keeps the conformance laws, through the kit that plugins of others are tested with."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_huggingface import as_parquet
from test_idx import original_of, pixels, write
from test_worldclim import layers, write_bil, zipped

from collapsebench import testing
from collapsebench.authoring.check import LAWS, check_component
from collapsebench.contracts import KINDS, load_registry
from collapsebench_datasets.fashion_mnist import FashionMnist
from collapsebench_datasets.mnist import Mnist

NEED_FILES = ("worldclim", "table", "fashion-mnist", "mnist", "huggingface")
COMPONENTS = [
    (kind, component.id)
    for kind in KINDS
    for component in load_registry().components(kind)
    if component.id not in NEED_FILES
]


@pytest.mark.parametrize(("kind", "id"), COMPONENTS, ids=map("-".join, COMPONENTS))
def test_a_component_keeps_every_law_of_its_kind(kind, id, tmp_path):
    registry = load_registry()
    findings = check_component(registry.find(kind, id), registry, tmp_path)
    broken = [f"{found.law}: {found.sentence}: {found.reason}" for found in findings if not found.holds]
    assert broken == []
    assert [found.law for found in findings] == [law.name for law in LAWS[kind]]


class TestDecoder(testing.DecoderLaws):
    id = "mlp"


class TestObjective(testing.ObjectiveLaws):
    id = "beta-vae"


class TestObservable(testing.ObservableLaws):
    id = "latent-moments"


class TestMetric(testing.MetricLaws):
    id = "effective-dimension"


class TestExecutor(testing.ExecutorLaws):
    id = "local"


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
