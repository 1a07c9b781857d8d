"""Model files: the safe formats load, and nothing that a file holds is executed as Python."""

from __future__ import annotations

import contextlib
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


def exported(module, width):
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(module.eval(), (torch.randn(4, width),), dynamic_shapes=dynamic)


@pytest.fixture
def exported_file(tmp_path):
    path = tmp_path / "d.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(exported(Decoder(), 3), path)
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


@pytest.mark.parametrize("form", ["methods", "children", "two scripts"])
def test_a_model_from_a_file_is_measured_like_the_model_in_memory(pair, data, tmp_path, form):
    if form == "methods":
        loaded = load_model(script(pair, tmp_path / "vae.pt"))
    elif form == "children":
        whole = Children().eval()
        whole.encoder, whole.decoder = pair.first, pair.second
        loaded = load_model(script(whole, tmp_path / "vae.pt"))
    else:
        loaded = load_model(script(pair.first, tmp_path / "e.pt"), script(pair.second, tmp_path / "d.pt"))
    assert latents(loaded, data) == pytest.approx(latents(pair, data), rel=1e-5, abs=1e-6, nan_ok=True)


def test_programs_of_torch_export_from_your_own_code_are_measured_like_the_model_in_memory(pair, data):
    programs = exported(pair.first, 5).module(), exported(pair.second, 3).module()
    assert latents(programs, data) == pytest.approx(latents(pair, data), rel=1e-5, abs=1e-6, nan_ok=True)


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


class Writer(nn.Module):
    def forward(self, x):
        torch.save(x, "leak")
        return x


CALL = 'torch.save(x, "leak")'
SPELLINGS = {
    "as saved": CALL,
    "through a variable": 'f = torch.save\n    f(x, "leak")',
    "with a comment inside": '(torch.# (\n    save)(x, "leak")',
    "over two lines": 'torch.\\\nsave(x, "leak")',
    "as an operator": 'ops.aten.save(x, "leak")',
    "by getattr": 'getattr(torch, "save")(x, "leak")',
    "by getattr and an octal escape": 'getattr(torch, "\\163ave")(x, "leak")',
    "by from_file": 'x = ops.aten.from_file("leak", True, 4)',
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_torchscript_model_that_accesses_files_is_refused_however_it_spells_that(spelling, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = script(Writer(), tmp_path / "w.pt")
    rewritten(place, edited_text(CALL, SPELLINGS[spelling]))
    torch.jit.load(place)(torch.zeros(1))
    assert (tmp_path / "leak").exists(), "this spelling writes nothing, so it tests nothing"
    (tmp_path / "leak").unlink()
    with pytest.raises(ModelError, match=r"calls (save|from_file), which reads or writes files"):
        load_model(place)
    assert not (tmp_path / "leak").exists()


def edited_text(old, new):
    return lambda name, content: content.replace(old.encode(), new.encode()) if name.endswith(".py") else content


class Restoring(nn.Module):
    @torch.jit.export
    def __getstate__(self):
        return (torch.zeros(1), self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        torch.save(state[0], "leak")
        self.training = state[1]

    def forward(self, x):
        return x


def test_code_that_would_run_while_a_torchscript_file_is_loaded_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = script(Restoring(), tmp_path / "r.pt")
    torch.jit.load(place)
    assert (tmp_path / "leak").exists(), "loading runs nothing, so there is nothing to refuse"
    (tmp_path / "leak").unlink()
    with pytest.raises(ModelError, match="defines __setstate__, which would run while the file is loaded"):
        load_model(place)
    assert not (tmp_path / "leak").exists()


def edited(member, change):
    """Change a JSON member in place."""

    def apply(name, old):
        if name != member:
            return old
        content = json.loads(old)
        change(content)
        return json.dumps(content).encode()

    return apply


def pickled_weight(place, marker):
    rewritten(place, replaced("data/weights/weight_0", saved(Payload(marker))))
    config = "data/weights/model_weights_config.json"
    rewritten(place, edited(config, lambda c: c["config"]["body.0.weight"].update(use_pickle=True)))


def opaque_constant(place, marker):
    payload = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    rewritten(place, edited("data/constants/model_constants_config.json", lambda c: c["config"].update(a=payload)))
    with zipfile.ZipFile(place, "a") as archive:
        archive.writestr("d/data/constants/opaque_obj_0", pickle.dumps(Payload(marker)))


def sample_inputs(place, marker):
    rewritten(place, replaced("data/sample_inputs/model.pt", saved((Payload(marker),))))


def size(place, marker):
    code = f"__import__('os').system('touch {marker}')"

    def change(program):
        program["graph_module"]["graph"]["tensor_values"]["z"]["sizes"][0]["as_expr"]["expr_str"] = code

    rewritten(place, edited("models/model.json", change))


def legacy_weights(place, marker):
    with zipfile.ZipFile(place, "a") as archive:
        archive.writestr("d/data/weights/model.pt", saved(Payload(marker)))


POISONS = [pickled_weight, opaque_constant, sample_inputs, size, legacy_weights]


@pytest.mark.parametrize("poison", POISONS)
def test_a_file_of_torch_export_is_refused_because_pytorch_runs_what_it_holds(poison, exported_file, marker):
    poison(exported_file, marker)
    with pytest.raises(ModelError, match=r"found a torch\.export file.*; refused\. Expected.*pass module:attribute"):
        load_model(exported_file)
    assert not marker.exists()
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.load(exported_file)
    assert marker.exists(), "torch.export.load has become safe here: perhaps it need not be refused any more"


def test_a_file_that_is_something_else_is_one_clear_error(tmp_path, exported_file):
    empty = tmp_path / "empty.pt"
    empty.write_bytes(b"")
    other = tmp_path / "notes.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("notes/read.me", "hello")
    cases = {
        empty: "found something else than a zip archive",
        other: "found a zip archive that holds no model",
        tmp_path / "absent.pt": "no such file, and no module:attribute",
        exported_file: "found a torch.export file",
    }
    for place, message in cases.items():
        with pytest.raises(ModelError, match=message):
            load_model(place)


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
    content = json.loads(invoke("measure", *options, "--json").stdout)
    assert content["beta"] == pytest.approx(0.1)
    assert [row["split"] for row in content["losses"]] == ["train", "validation", "test"]


def test_the_command_takes_one_or_two_torchscript_files_with_npy_and_npz(pair, data, tmp_path):
    np.save(tmp_path / "x.npy", data)
    np.savez(tmp_path / "x.npz", train=data, test=data[:50])
    files = [
        (script(pair, tmp_path / "v.pt"),),
        (script(pair.first, tmp_path / "e.pt"), "--decoder", script(pair.second, tmp_path / "d.pt")),
    ]
    for model in files:
        for name, splits in (("x.npy", {"train"}), ("x.npz", {"train", "test"})):
            done = invoke("measure", *model, "--data", tmp_path / name, "--temperature", "0.1", "--json")
            assert done.exit_code == 0, done.output
            content = json.loads(done.stdout)
            assert {row["split"] for row in content["latents"]} == splits
            assert content["linear_decoder"] is False


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
