"""Model files: the safe formats load, and nothing that a file holds is executed as Python."""

from __future__ import annotations

import io
import json
import os
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import torch
from flow import invoke
from torch import nn

import collapsebench
from collapsebench.errors import ModelError
from collapsebench.observing.model_file import load_model


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.log_variance = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x):
        return self.mean(x), self.log_variance(x)


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 5))

    def forward(self, z):
        return self.body(z)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Encoder(), Decoder()

    @torch.jit.export
    def encode(self, x):
        return self.first(x)

    @torch.jit.export
    def decode(self, z):
        return self.second(z)


class Children(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()

    def forward(self, x):
        return self.decoder(self.encoder(x)[0])


def script(module, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(str(path))
    return path


def export(module, width, path, **options):
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module.eval(), (torch.randn(4, width),), dynamic_shapes=dynamic, **options)
        torch.export.save(program, path)
    return path


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return Pair().eval()


@pytest.fixture
def data():
    return np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)


def latents(model, data):
    return collapsebench.measure(model, data, temperature=0.1).latents.drop(columns="split").to_numpy(float)


@pytest.mark.parametrize("form", ["methods", "children", "two scripts", "two exports"])
def test_a_model_from_a_file_is_measured_like_the_model_in_memory(pair, data, tmp_path, form):
    if form == "methods":
        found = load_model(script(pair, tmp_path / "vae.pt"))
    elif form == "children":
        whole = Children().eval()
        whole.encoder, whole.decoder = pair.first, pair.second
        found = load_model(script(whole, tmp_path / "vae.pt"))
    elif form == "two scripts":
        places = script(pair.first, tmp_path / "e.pt"), script(pair.second, tmp_path / "d.pt")
        found = load_model(*places)
    else:
        places = export(pair.first, 5, tmp_path / "e.pt2"), export(pair.second, 3, tmp_path / "d.pt2")
        found = load_model(*places)
    assert latents(found, data) == pytest.approx(latents(pair, data), rel=1e-5, abs=1e-6, nan_ok=True)


def test_an_exported_program_with_sizes_computed_from_the_batch_is_read(data, tmp_path):
    class Reshaping(nn.Module):
        def forward(self, z):
            flat = z.reshape(z.shape[0] * 3, 1)
            return torch.cat([flat.reshape(z.shape[0], 3), z[:, :2]], 1)

    place = export(Reshaping(), 3, tmp_path / "d.pt2")
    decoder = load_model(export(Encoder(), 5, tmp_path / "e.pt2"), place)[1]
    z = torch.randn(7, 3)
    assert torch.equal(decoder(z), torch.cat([z, z[:, :2]], 1))


# What a malicious file may try. Every payload creates a file when it is executed.


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "executed"


def rewritten(path, change):
    """Change the members of a zip archive: change(name below the root, content) returns the new content."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, change(name.partition("/")[2], content))
    return path


def replaced(member, content):
    return lambda name, old: content if name == member else old


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def plain_zip(path, payload):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", payload)
        archive.writestr("model/version", b"3\n")
    return path


def disguise(kind, place, payload):
    raw = pickle.dumps(payload, protocol=2)  # the only one that PyTorch's C++ reader goes on with
    if kind == "pickle":
        place.write_bytes(raw)
    elif kind == "torch.save":
        torch.save({"weights": payload}, place)
    elif kind == "legacy torch.save":
        torch.save(payload, place, _use_new_zipfile_serialization=False)
    elif kind == "zip with data.pkl":
        plain_zip(place, raw)
    elif kind == "zip with code":
        plain_zip(place, raw)
        with zipfile.ZipFile(place, "a") as archive:
            archive.writestr("model/code/__torch__.py", b"")
            archive.writestr("model/constants.pkl", raw)
    else:
        script(Pair(), place)
        rewritten(place, replaced(kind, raw))
    return place


DISGUISES = [
    "pickle", "torch.save", "legacy torch.save", "zip with data.pkl", "zip with code", "data.pkl", "constants.pkl"
]  # fmt: skip


@pytest.mark.parametrize("suffix", [".pt", ".pt2", ".zip", ".pkl"])
@pytest.mark.parametrize("kind", DISGUISES)
def test_a_pickle_with_a_side_effect_is_refused_and_has_none(kind, suffix, tmp_path, marker):
    place = disguise(kind, tmp_path / f"model{suffix}", Payload(marker))
    with pytest.raises(ModelError, match=r"TorchScript|torchscript"):
        load_model(place)
    assert not marker.exists()
    done = invoke("measure", place, "--dataset", "gaussian", "--temperature", "0.1")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {place}: ")
    assert not marker.exists()


def test_the_payload_of_these_tests_is_alive(tmp_path, marker):
    place = disguise("torch.save", tmp_path / "model.pt", Payload(marker))
    torch.load(place, weights_only=False)
    assert marker.exists()


def test_pickles_beside_a_torchscript_model_are_not_read(data, tmp_path, marker, pair):
    raw = pickle.dumps(Payload(marker))
    place = rewritten(script(pair, tmp_path / "vae.pt"), lambda name, old: raw if name.endswith(".debug_pkl") else old)
    assert latents(load_model(place), data) == pytest.approx(latents(pair, data), rel=1e-5, abs=1e-6, nan_ok=True)
    assert not marker.exists()


def test_a_torchscript_model_that_writes_files_is_refused(tmp_path):
    class Writer(nn.Module):
        def forward(self, x):
            torch.save(x, "leak")
            return x

    with pytest.raises(ModelError, match="calls save, which reads or writes files"):
        load_model(script(Writer(), tmp_path / "w.pt"))


@pytest.fixture
def exported(tmp_path):
    return export(Decoder(), 3, tmp_path / "d.pt2")


def edited(member, change):
    """Change a JSON member in place."""

    def apply(name, old):
        if name != member:
            return old
        content = json.loads(old)
        change(content)
        return json.dumps(content).encode()

    return apply


def set_size(text):
    def change(program):
        values = program["graph_module"]["graph"]["tensor_values"]
        values["z"]["sizes"][0]["as_expr"]["expr_str"] = text

    return change


def test_the_sample_inputs_and_guards_of_an_exported_program_are_not_executed(exported, marker):
    code = f"__import__('os').system('touch {marker}')"
    rewritten(exported, replaced("data/sample_inputs/model.pt", saved((Payload(marker),))))
    rewritten(exported, edited("models/model.json", lambda program: program["guards_code"].append(code)))
    rewritten(exported, lambda name, old: old)
    decoder = load_model(exported, exported)[1]
    assert decoder(torch.zeros(2, 3)).shape == (2, 5)
    assert not marker.exists()


def poisoned(kind, place, marker):
    code = f"__import__('os').system('touch {marker}')"
    weights = "data/weights/model_weights_config.json"
    if kind == "pickled weight":
        rewritten(place, replaced("data/weights/weight_0", saved(Payload(marker))))
        rewritten(place, edited(weights, lambda c: c["config"]["body.0.weight"].update(use_pickle=True)))
    elif kind == "opaque constant":
        payload = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        rewritten(place, edited("data/constants/model_constants_config.json", lambda c: c["config"].update(a=payload)))
        with zipfile.ZipFile(place, "a") as archive:
            archive.writestr("d/data/constants/opaque_obj_0", pickle.dumps(Payload(marker)))
    elif kind == "size":
        rewritten(place, edited("models/model.json", set_size(code)))
    elif kind == "attribute of a size":
        rewritten(place, edited("models/model.json", set_size("Symbol('s1').__class__")))
    elif kind == "operator":
        change = edited("models/model.json", lambda p: first_node(p).update(target="torch.hub.load"))
        rewritten(place, change)
    elif kind == "file operator":
        change = edited("models/model.json", lambda p: first_node(p).update(target="torch.ops.aten.from_file.default"))
        rewritten(place, change)
    elif kind == "name":
        rewritten(place, edited("models/model.json", lambda p: first_node(p).update(name=f"a={code}")))
    elif kind == "tree":
        spec = '[1, {"type": "collections.defaultdict", "context": "{}", "children_spec": []}]'
        change = lambda p: p["graph_module"]["module_call_graph"][0]["signature"].update(in_spec=spec)  # noqa: E731
        rewritten(place, edited("models/model.json", change))
    elif kind == "legacy weights":
        with zipfile.ZipFile(place, "a") as archive:
            archive.writestr("d/data/weights/model.pt", saved(Payload(marker)))


def first_node(program):
    return program["graph_module"]["graph"]["nodes"][0]


POISONS = [
    "pickled weight", "opaque constant", "size", "attribute of a size", "operator", "file operator", "name", "tree"
]  # fmt: skip


@pytest.mark.parametrize("kind", POISONS)
def test_an_exported_program_that_would_execute_something_is_refused(kind, exported, marker):
    poisoned(kind, exported, marker)
    with pytest.raises(ModelError, match=str(exported)):
        load_model(exported, exported)
    assert not marker.exists()


def test_what_the_format_does_not_name_is_left_out_of_an_exported_archive(exported, marker):
    poisoned("legacy weights", exported, marker)
    load_model(exported, exported)
    assert not marker.exists()


def test_a_file_that_is_something_else_is_one_clear_error(tmp_path, exported):
    empty = tmp_path / "empty.pt"
    empty.write_bytes(b"")
    other = tmp_path / "notes.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("notes/read.me", "hello")
    cases = {
        empty: "not a zip archive",
        other: "no model",
        tmp_path / "absent.pt": "no such file, and no module:attribute",
        rewritten(exported, replaced("models/model.json", b"{")): "is not JSON",
    }
    for place, message in cases.items():
        with pytest.raises(ModelError, match=message):
            load_model(place)


def test_one_exported_function_asks_for_the_other(exported):
    with pytest.raises(ModelError, match=r"holds one function.*--decoder"):
        load_model(exported)


MODULE = """
import torch
class Vae:
    def encode(self, x):
        return x[:, :2], torch.zeros_like(x[:, :2])
    def decode(self, z):
        return torch.cat([z, torch.zeros(len(z), 2)], 1)
class Box:
    vae = Vae()
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_trained_vae.py").write_text(MODULE + "model = Vae()\n")
    (tmp_path / "broken_vae.py").write_text("model = 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    return "my_trained_vae"


def test_an_attribute_of_a_module_in_the_current_folder_is_found(module):
    assert load_model(f"{module}:model").encode(torch.ones(1, 4))[0].shape == (1, 2)
    assert load_model(f"{module}:Box.vae").decode(torch.ones(1, 2)).shape == (1, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}:absent", "has no attribute 'absent'"),
        ("{}:Vae", "found a class, expected a trained model"),
        ("broken_vae:model", "ZeroDivisionError: division by zero"),
        ("no_such_module:model", "No module named 'no_such_module'"),
        ("{}", "no such file, and no module:attribute"),
        ("{}:a b", "no such file, and no module:attribute"),
    ],
)
def test_a_wrong_attribute_is_one_clear_error(module, name, message):
    with pytest.raises(ModelError, match=message):
        load_model(name.format(module))


# The command.


GAUSSIAN = ("--dataset", "gaussian", "--set", "dimension=4", "--set", "samples=64")


def test_the_command_prints_the_measurement_as_text_and_as_json_and_writes_it(module, tmp_path):
    options = (f"{module}:model", *GAUSSIAN, "--beta", "0.2", "--convention", "disentanglement_lib")
    done = invoke("measure", *options, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "Ward residual" in done.stdout
    assert "9 files in" in done.stderr
    assert (tmp_path / "out" / "report.txt").read_text() == done.stdout
    told = json.loads(invoke("measure", *options, "--json").stdout)
    assert told["beta"] == pytest.approx(0.1)
    assert [row["split"] for row in told["losses"]] == ["train", "validation", "test"]


def test_the_command_takes_torchscript_and_exported_files_with_npy_and_npz(pair, data, tmp_path):
    np.save(tmp_path / "x.npy", data)
    np.savez(tmp_path / "x.npz", train=data, test=data[:50])
    files = [
        (script(pair, tmp_path / "v.pt"),),
        (export(pair.first, 5, tmp_path / "e.pt2"), "--decoder", export(pair.second, 3, tmp_path / "d.pt2")),
    ]
    for model in files:
        for name, splits in (("x.npy", {"train"}), ("x.npz", {"train", "test"})):
            done = invoke("measure", *model, "--data", tmp_path / name, "--temperature", "0.1", "--json")
            assert done.exit_code == 0, done.output
            told = json.loads(done.stdout)
            assert {row["split"] for row in told["latents"]} == splits
            assert told["linear_decoder"] is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "expected either --dataset ID or --data FILE"),
        (("--dataset", "gaussian", "--data", "x.npy"), "found both or neither"),
        (("--dataset", "gausian", "--temperature", "0.1"), "Did you mean 'gaussian'?"),
        (("--dataset", "gaussian"), "either a temperature, or beta together with the convention"),
        (
            ("--dataset", "gaussian", "--set", "dimension", "--temperature", "1"),
            "found 'dimension', expected KEY=VALUE",
        ),
        (("--dataset", "gaussian", "--set", "size=4", "--temperature", "1"), "unknown key 'size'"),
        (("--data", "absent.npy", "--temperature", "1"), "absent.npy: cannot be read"),
        (("--data", "x.npy", "--set", "a=1", "--temperature", "1"), "--set: found with --data"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_clear_error(module, options, message):
    done = invoke("measure", f"{module}:model", *options)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.output


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "pickle.npy", "text.npy"])
def test_arrays_of_objects_are_refused_without_unpickling_them(module, tmp_path, marker, name):
    objects = np.array([Payload(marker)], dtype=object)
    if name == "x.npz":
        np.savez(tmp_path / name, train=objects)
    elif name == "x.npy":
        np.save(tmp_path / name, objects)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(Payload(marker)) if name == "pickle.npy" else b"1,2\n3,4\n")
    done = invoke("measure", f"{module}:model", "--data", tmp_path / name, "--temperature", "0.1")
    assert done.exit_code == 2
    assert "not an NPY or NPZ file of numbers" in done.stderr
    assert not marker.exists()
