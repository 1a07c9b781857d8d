"""Datasets read through `datasets`: every way in gives the same arrays, from files and from a Hub on this machine."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import shorten

import numpy as np
import pytest
from local_hub import LocalHub
from PIL import Image
from test_idx import REAL, needs_real, pixels, small, write

from collapsebench.contracts import SPLITS
from collapsebench.errors import DataError
from collapsebench_datasets import huggingface, sample_source
from collapsebench_datasets.fashion_mnist import FashionMnist
from collapsebench_datasets.huggingface import HuggingFace
from collapsebench_datasets.idx_files import read_original
from collapsebench_datasets.image_parameters import HuggingFaceParameters, OriginalParameters
from collapsebench_datasets.sample_cache import has_split, keep_split

FOLDER = Path(__file__).parent


def png(array, mode=None):
    """Return an image as the bytes of a PNG file."""
    content = io.BytesIO()
    (Image.fromarray(array) if mode is None else Image.fromarray(array).convert(mode)).save(
        content, "PNG", compress_level=1
    )
    return content.getvalue()


def table(images, **columns):
    """Return a dataset of the package `datasets` with a column of images, given as arrays or as bytes."""
    import datasets

    cells = [{"bytes": image if isinstance(image, bytes) else png(image), "path": None} for image in images]
    made = datasets.Dataset.from_dict({"image": cells, **columns})
    return made.cast_column("image", datasets.Image())


def parquet(folder, splits):
    """Write one Parquet file a split, named as the Hub names them."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, made in splits.items():
        made.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def load(tmp_path, seed=0, **parameters):
    """Prepare and load what local files hold."""
    made = HuggingFace(HuggingFaceParameters(**parameters))
    made.prepare(tmp_path / "cache")
    return made.load(seed, tmp_path / "cache")


def equal(one, other):
    return all(np.array_equal(getattr(one, name).values, getattr(other, name).values) for name in SPLITS)


def as_parquet(folder, images):
    return parquet(folder, {split: table(values) for split, values in images.items()})


def as_arrow(folder, images):
    import datasets

    return datasets.DatasetDict({split: table(values) for split, values in images.items()}).save_to_disk(folder)


def as_files(folder, images):
    for split, values in images.items():
        (folder / split).mkdir(parents=True)
        for place, image in enumerate(values):
            (folder / split / f"{place:05}.png").write_bytes(png(image))


@pytest.fixture(autouse=True)
def quiet():
    import datasets

    datasets.disable_progress_bars()


@pytest.mark.parametrize("written", [as_parquet, as_arrow, as_files])
def test_parquet_arrow_and_image_files_give_the_arrays_of_the_idx_files(tmp_path, written):
    images = pixels()
    original = small(images, path=write(tmp_path / "idx", images))
    original.prepare(tmp_path / "cache")
    written(tmp_path / "data", images)
    data = load(tmp_path, path=tmp_path / "data", test_split="test")
    assert equal(data, original.load(0, tmp_path / "cache"))
    assert (data.scaling, data.notes["column"]) == ("global", "image")
    assert data.revision.startswith("data, SHA-256 ")


def test_a_preset_read_from_parquet_is_the_preset_read_from_idx_files(tmp_path):
    images = pixels()
    as_parquet(tmp_path / "parquet", images)
    found = {}
    for place in (write(tmp_path / "idx", images), tmp_path / "parquet"):
        made = small(images, path=place)
        made.prepare(tmp_path / f"cache-{place.name}")
        found[place.name] = made.load(3, tmp_path / f"cache-{place.name}")
    assert equal(found["idx"], found["parquet"])
    with pytest.raises(DataError, match=r"split train: .*parquet: the SHA-256 of its content is .*, expected"):
        small(pixels(seed=1), path=tmp_path / "parquet").prepare(tmp_path / "other")
    with pytest.raises(DataError, match=r"'small-mnist': found neither IDX nor Parquet files in .*nowhere, expected"):
        small(images, path=tmp_path / "nowhere").prepare(tmp_path / "other")


@needs_real
def test_real_fashion_mnist_is_the_same_from_idx_and_from_parquet(tmp_path):
    as_parquet(tmp_path / "parquet", {name: v[:, 0] for name, v in read_original(REAL, "fashion-mnist", {}).items()})
    original = FashionMnist(OriginalParameters(path=REAL))
    original.prepare(tmp_path / "cache")
    by_name = load(tmp_path, path=tmp_path / "parquet", test_split="test")
    assert equal(original.load(0, tmp_path / "cache"), by_name)
    assert [len(getattr(by_name, name).values) for name in SPLITS] == [54_000, 6_000, 10_000]


def test_one_arrow_or_parquet_file_is_a_train_split_from_which_the_others_are_cut(tmp_path):
    made = table(pixels()["train"])
    made.to_parquet(tmp_path / "one.parquet")
    data = load(tmp_path, path=tmp_path / "one.parquet", validation_share=0.2, test_share=0.1)
    assert [len(getattr(data, name).values) for name in SPLITS] == [28, 8, 4]
    together = np.concatenate([getattr(data, name).values for name in SPLITS])
    assert len(np.unique(together, axis=0)) == 40
    made.save_to_disk(tmp_path / "disk")
    (arrow,) = (tmp_path / "disk").glob("*.arrow")
    for place in (arrow, tmp_path / "disk"):
        assert equal(load(tmp_path, path=place, validation_share=0.2), data)


def test_a_seed_gives_the_same_splits_every_time_and_another_seed_others(tmp_path):
    path = as_parquet(tmp_path / "data", pixels())
    one, two, other = (load(tmp_path, seed, path=path) for seed in (0, 0, 1))
    assert equal(one, two)
    assert not equal(one, other)


def test_images_declared_as_mere_bytes_are_images_all_the_same(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    images = pixels()["train"]
    pa.parquet.write_table(pa.table({"picture": [png(image) for image in images]}), tmp_path / "bytes.parquet")
    table(images).to_parquet(tmp_path / "image.parquet")
    assert equal(load(tmp_path, path=tmp_path / "bytes.parquet"), load(tmp_path, path=tmp_path / "image.parquet"))


def test_coloured_images_have_three_channels_and_grey_takes_their_luminance(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
    table(images).to_parquet(tmp_path / "a.parquet")
    colour = load(tmp_path, path=tmp_path / "a.parquet", colour="rgb")
    assert equal(colour, load(tmp_path, path=tmp_path / "a.parquet"))
    assert colour.train.values.shape[1:] == (3, 4, 4)
    assert sorted(map(bytes, np.concatenate([getattr(colour, name).values for name in SPLITS]))) == sorted(
        map(bytes, images.transpose(0, 3, 1, 2).astype(np.float32))
    )
    assert colour.feature_names[16] == "green pixel 0,0"
    grey = load(tmp_path, path=tmp_path / "a.parquet", colour="grey")
    luminance = np.einsum("ncij,c->nij", colour.train.values, [0.299, 0.587, 0.114])
    assert np.abs(grey.train.values[:, 0] - luminance).max() <= 1


def test_crop_keeps_the_middle_and_resize_keeps_everything(tmp_path):
    image = np.zeros((4, 8), dtype=np.uint8)
    image[:, 2:6], image[:, 6:] = 100, 200
    table([image] * 6 + [image[:, ::-1].copy()] * 6).to_parquet(tmp_path / "a.parquet")
    crop = load(tmp_path, path=tmp_path / "a.parquet", size=4, fit="crop").train.values
    assert crop.shape[1:] == (1, 4, 4)
    assert (crop == 100).all()
    resized = load(tmp_path, path=tmp_path / "a.parquet", size=2, fit="resize").train.values
    assert resized.mean((1, 2, 3)) == pytest.approx([100] * len(resized), abs=2)
    assert {tuple(np.sign(row - 100)) for row in resized[:, 0, 0]} == {(-1, 1), (1, -1)}


def test_a_column_of_vectors_is_scaled_feature_by_feature(tmp_path):
    import datasets

    numbers = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
    datasets.Dataset.from_dict({"x": numbers.tolist(), "y": list(range(30))}).to_parquet(tmp_path / "a.parquet")
    data = load(tmp_path, path=tmp_path / "a.parquet", column="x")
    assert sorted(map(bytes, np.concatenate([getattr(data, name).values for name in SPLITS]))) == sorted(
        map(bytes, numbers)
    )
    assert (data.scaling, data.feature_names) == ("per-feature", ("x0", "x1", "x2", "x3", "x4"))
    assert load(tmp_path, path=tmp_path / "a.parquet", column="x", scaling="none").scaling == "none"


def test_a_bounded_stream_of_a_sorted_source_is_mixed_and_stays_the_same(tmp_path):
    images = np.repeat(np.arange(100, dtype=np.uint8), 16).reshape(100, 4, 4)
    table(images).to_parquet(tmp_path / "a.parquet")
    bounded = {"path": tmp_path / "a.parquet", "max_samples": 20, "mixing": 60}
    data = load(tmp_path, **bounded)
    found = np.concatenate([getattr(data, name).values for name in SPLITS])[:, 0, 0, 0]
    assert len(found) == len(set(found.tolist())) == 20
    assert 20 < found.max() < 80
    assert equal(data, load(tmp_path / "again", **bounded))


@pytest.mark.parametrize(("waiting", "most"), [(1, 7), (5, 7), (50, 7), (5, 30), (50, 100)])
def test_mixing_draws_without_repeats_and_reads_no_more_than_it_needs(waiting, most):
    stream = iter(enumerate(range(30)))
    found = list(sample_source._mixed(stream, waiting, most))
    assert len(found) == len(set(found)) == min(most, 30)
    assert len(list(stream)) == max(0, 30 - waiting - most)
    assert max(index for index, _ in found) < waiting + most


def test_without_a_bound_everything_comes_in_order():
    assert list(sample_source._mixed(enumerate("abc"), 2, None)) == [(0, "a"), (1, "b"), (2, "c")]


def test_an_interrupted_preparation_goes_on_with_the_split_that_is_missing(tmp_path, monkeypatch):
    path = as_parquet(tmp_path / "data", pixels())
    read = sample_source.read_samples
    asked = []

    def interrupted(source, role, own):
        asked.append(role)
        if asked.count("test") == 1 and role == "test":
            raise KeyboardInterrupt
        return read(source, role, own)

    monkeypatch.setattr(huggingface, "read_samples", interrupted)
    made = HuggingFace(HuggingFaceParameters(path=path, test_split="test"))
    with pytest.raises(KeyboardInterrupt):
        made.prepare(tmp_path / "cache")
    assert not made.is_prepared(tmp_path / "cache")
    with pytest.raises(DataError, match="is not prepared"):
        made.load(0, tmp_path / "cache")
    made.prepare(tmp_path / "cache")
    assert asked == ["train", "test", "test"]
    assert equal(made.load(0, tmp_path / "cache"), load(tmp_path / "again", path=path, test_split="test"))


def test_a_split_that_was_kept_of_another_revision_is_read_again(tmp_path):
    keep_split(tmp_path, "train", np.zeros((3, 1, 2, 2), dtype=np.uint8), "a")
    assert has_split(tmp_path, "train", "a")
    assert not has_split(tmp_path, "train", "b")


def test_other_content_at_the_same_place_is_prepared_anew(tmp_path):
    path = as_parquet(tmp_path / "data", pixels())
    before = load(tmp_path, path=path)
    as_parquet(path, pixels(seed=1))
    assert not HuggingFace(HuggingFaceParameters(path=path)).is_prepared(tmp_path / "cache")
    assert not equal(before, load(tmp_path, path=path))


def test_how_samples_are_shared_out_needs_no_new_preparation(tmp_path):
    path = as_parquet(tmp_path / "data", pixels())
    load(tmp_path, path=path)
    for other in ({"train_samples": 5}, {"validation_share": 0.3}, {"test_share": 0.3}, {"scaling": "none"}):
        assert HuggingFace(HuggingFaceParameters(path=path, **other)).is_prepared(tmp_path / "cache")
    for other in ({"colour": "grey"}, {"size": 6}, {"max_samples": 30}, {"test_split": "test"}):
        assert not HuggingFace(HuggingFaceParameters(path=path, **other)).is_prepared(tmp_path / "cache")


GREY = list(pixels()["train"])
BAD = {
    "corrupt image": (
        [*GREY[:17], png(GREY[17])[:60], *GREY[18:]],
        {},
        "index 17: found 60 bytes that are no readable",
    ),
    "no image": (
        [*GREY[:3], b"text", *GREY[4:]],
        {},
        r"index 3: found 4 bytes that are no readable image \(of no known",
    ),
    "no cell": ([*GREY[:5], None], {}, "index 5: found None, expected an image. Remove"),
    "one channel": (
        GREY,
        {"colour": "rgb"},
        r"index 0: found 1 channel \(mode L\), expected 3, for colour = 'rgb'. Set",
    ),
    "other shape": (
        [*GREY, GREY[0][:4]],
        {},
        "index 40: found shape 1 x 4 x 6, expected 1 x 6 x 6 as before. Set size",
    ),
    "not square": (
        [*GREY, GREY[0][:4]],
        {"size": 6},
        "index 40: found 4 x 6 pixels, which is not square, expected 6 x 6",
    ),
    "other size": (GREY, {"size": 8}, r"index 0: found 6 x 6 pixels, expected 8 x 8. Set fit = 'crop'"),
    "transparent": ([*GREY, png(GREY[0], "RGBA")], {}, "index 40: found an image of mode RGBA, expected grey or"),
    "missing column": (GREY, {"column": "img"}, "found no column 'img', expected one of 'image'. Set column"),
    "missing split": (
        GREY,
        {"test_split": "dev"},
        "split test: found no split 'dev', expected one of 'train'. Set test_",
    ),
    "empty split": ([], {}, "split train: found no samples, expected at least 2"),
    "too few": (GREY[:3], {}, r"split train: 0 of the 3 training samples are left for it|expected at least 2"),
    "unknown config": (
        GREY,
        {"config": "x"},
        r"cannot be opened \(BuilderConfig 'x' not found. Available: \['default'\]\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_dataset_split_and_index(tmp_path, name):
    import datasets

    images, parameters, message = BAD[name]
    cells = [image if image is None or isinstance(image, bytes) else png(image) for image in images]
    cells = [cell if cell is None else {"bytes": cell, "path": None} for cell in cells]
    features = datasets.Features({"image": datasets.Image()})
    made = datasets.Dataset.from_dict({"image": cells}, features=features)
    path = parquet(tmp_path / "data", {"train": made})
    with pytest.raises(DataError, match=message) as raised:
        load(tmp_path, path=path, **parameters)
    assert "dataset 'huggingface'" in str(raised.value)
    if "index" in message:
        assert f"({path}), split train, index" in str(raised.value)


def test_a_corrupt_image_file_is_named(tmp_path):
    as_files(tmp_path / "data", pixels())
    (tmp_path / "data" / "train" / "00007.png").write_bytes(png(pixels()["train"][7])[:-30])
    with pytest.raises(
        DataError, match=r"split train, index 7: .*00007.png holds \d+ bytes that are no readable image"
    ):
        load(tmp_path, path=tmp_path / "data")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1.0, 2.0]] * 8 + [[1.0]], r"index 8: found shape 1, expected 2 as before. Choose another column"),
        ([[1.0, 2.0]] * 8 + [[1.0, None]], r"index 8: found missing or infinite numbers, expected finite ones"),
        (["a", "b"], r"index 0: found 'a', expected numbers in lists of equal length"),
    ],
)
def test_vectors_that_are_none_are_refused_with_their_index(tmp_path, values, message):
    import datasets

    datasets.Dataset.from_dict({"x": values}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        load(tmp_path, path=tmp_path / "a.parquet", column="x")


def test_a_file_that_cannot_be_read_is_refused_in_place(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"dataset 'huggingface' \(.*a.parquet\).*cannot be"):
        load(tmp_path, path=tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("a,b\n")
    with pytest.raises(
        DataError, match=r"found a file of type '.csv', expected one of .parquet.* use the dataset 'table'"
    ):
        load(tmp_path, path=tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"nowhere does not exist, expected a Parquet or Arrow file, or a folder"):
        load(tmp_path, path=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty\): cannot be opened"):
        load(tmp_path, path=tmp_path / "empty")


def test_more_numbers_than_fit_into_memory_are_refused_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_source, "MOST_VALUES", 100)
    path = as_parquet(tmp_path / "data", pixels())
    with pytest.raises(DataError, match=r"more than 100 numbers \(3 samples of 1 x 6 x 6\).* Set max_samples"):
        load(tmp_path, path=path)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "found neither name nor path, expected one"),
        ({"name": "a/b", "path": "c"}, "found name and path, expected one"),
        ({"name": "a/b", "test_split": "train"}, "found the split 'train' in two roles"),
        ({"name": "a/b", "fit": "crop"}, "found fit = 'crop' without size"),
        ({"path": "c", "revision": "main"}, "found revision without name"),
        ({"name": "a/b/c"}, "String should match pattern"),
    ],
)
def test_parameters_that_contradict_one_another_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        HuggingFaceParameters(**parameters)


CLIENT = """
import json, sys
from pathlib import Path
import numpy as np
from collapsebench.data.standardise import fingerprint
from collapsebench.errors import DataError
from collapsebench_datasets.huggingface import HuggingFace
from collapsebench_datasets.image_parameters import HuggingFaceParameters
from test_idx import pixels, small
for kind, parameters, cache in json.loads(sys.argv[1]):
    try:
        if kind == "preset":
            made = small(pixels(), **parameters)
        else:
            made = HuggingFace(HuggingFaceParameters(**parameters))
        if kind != "load":
            made.prepare(Path(cache))
        data = made.load(0, Path(cache))
        print(json.dumps({"data": fingerprint(data), "revision": data.revision, "licence": data.licence,
                          "citation": data.citation, "rows": data.notes["source samples"]}))
    except DataError as error:
        print(json.dumps({"error": str(error)}))
"""


def ask(jobs, home, **environment):
    """Prepare and load in a process of its own, for the Hub's address is read when its client is imported."""
    python_path = os.pathsep.join([str(FOLDER), *filter(None, sys.path)])
    own = {"HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": python_path, **environment}
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, json.dumps(jobs)], env={**inherited, **own}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A Hub with the images of `pixels` as its only dataset."""
    folder = as_parquet(tmp_path_factory.mktemp("hub"), pixels())
    files = {f"data/{path.name}": path.read_bytes() for path in folder.iterdir()}
    files["README.md"] = b"---\nlicense: cc0-1.0\n---\n# Small images\n"
    with LocalHub("someone/small_mnist", "0" * 40, files, {"license": "cc0-1.0"}, "Nobody (2026).") as served:
        yield served


def test_the_hub_gives_the_arrays_of_local_files_and_is_asked_once(hub, tmp_path):
    from collapsebench.data.standardise import fingerprint

    named = {"name": "someone/small_mnist", "test_split": "test"}
    jobs = [
        ["huggingface", named, str(tmp_path / "cache")],
        ["preset", {}, str(tmp_path / "preset")],
        ["huggingface", {**named, "max_samples": 20, "mixing": 10}, str(tmp_path / "stream")],
    ]
    whole, preset, streamed = ask(jobs, tmp_path / "home", HF_ENDPOINT=hub.address)
    local = load(tmp_path, path=as_parquet(tmp_path / "data", pixels()), test_split="test")
    assert whole["data"] == preset["data"] == fingerprint(local)
    assert (whole["licence"], whole["citation"]) == ("cc0-1.0", "Nobody (2026).")
    assert whole["revision"] == f"someone/small_mnist at {'0' * 40}"
    assert streamed["rows"] == {"train": 20, "test": 12}
    assert any("bytes=" in request for request in hub.requests)

    asked = len(hub.requests)
    jobs[0][0] = "load"
    assert ask(jobs, tmp_path / "other-home", HF_ENDPOINT=hub.address) == [whole, preset, streamed]
    assert len(hub.requests) == asked
    pinned = ["huggingface", {**named, "revision": "0" * 40}, str(tmp_path / "from-its-own-cache")]
    (again,) = ask([pinned], tmp_path / "home", HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="1")
    assert again["data"] == whole["data"]
    assert len(hub.requests) == asked


def test_what_the_hub_does_not_have_is_said_before_anything_is_fetched(hub, tmp_path):
    named = {"name": "someone/small_mnist"}
    cases = {
        r"found no revision 'v9', expected a commit, tag or branch of someone/small_mnist": {**named, "revision": "v9"},
        r"(someone/none): found no such dataset on the Hub, or it needs a login": {"name": "someone/none"},
        r"split test: found no split 'dev', expected one of 'train', 'test'": {
            **named,
            "test_split": "dev",
            "max_samples": 9,
        },
        r"found no column 'img', expected one of 'image'": {**named, "column": "img", "max_samples": 9},
    }
    jobs = [["huggingface", parameters, str(tmp_path / "cache")] for parameters in cases.values()]
    for message, found in zip(cases, ask(jobs, tmp_path / "home", HF_ENDPOINT=hub.address), strict=True):
        assert message in found["error"]


@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_offline_without_a_cache_one_error_names_the_ways_out(tmp_path, environment):
    jobs = [["huggingface", {"name": "a/b"}, str(tmp_path)], ["preset", {}, str(tmp_path)]]
    for found in ask(jobs, tmp_path / "home", **environment):
        assert "the Hub cannot be reached" in found["error"]
        shown = shorten(found["error"], 300)
        for way in (
            "copy the cache",
            "COLLAPSEBENCH_CACHE",
            "Set path to local files",
            "IDX files",
            "Parquet",
            "HF_HUB_OFFLINE=1",
        ):
            assert way in shown
