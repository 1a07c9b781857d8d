"""Model files, vetted before PyTorch sees them: which archives hold no pickle that Python would execute.

`torch.load` and `torch.export.load` unpickle, and the latter also evaluates symbolic sizes and guards that stand in the
file as Python text (PyTorch 2.13). So an archive is read once, everything but graph and weights is dropped or refused,
and what is loaded is a new archive made of what passed. A TorchScript archive has its pickles read by PyTorch's C++
reader, which knows tensors and TorchScript's own classes and calls no Python.

Source: torch/export/pt2_archive/_package.py, torch/_export/serde/serialize.py, torch/csrc/jit/serialization.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from collapsebench.errors import ModelError

Kind = Literal["torchscript", "exported"]
SAFE = (
    "Expected a TorchScript archive (torch.jit.script(model).save(...)), a torch.export archive "
    "(torch.export.save(...), PyTorch 2.8 or later), or module:attribute"
)
_FILE_ACCESS = re.compile(r"\b(?:torch|ops\s*\.\s*\w+)\s*\.\s*(save|load|from_file)\s*\(")
_PLAIN = re.compile(r"[\w.\-]*")
_TARGET = re.compile(
    r"torch\.ops\.aten\.(?!from_file|save|load)\w+(\.\w+)?|_operator\.(add|sub|mul|floordiv|mod|neg|getitem)"
)
_SIZE = re.compile(r"[\w\s(),*+/='-]*")
_SIZE_NAMES = re.compile(
    r"Symbol|[su]\d+|positive|nonnegative|integer|True|False|Integer|Add|Mul|Pow|Max|Min|Mod|FloorDiv|CleanDiv|CeilDiv|PythonMod"
)
_RESERVED = ("as_custom_obj", "as_graph", "as_operator", "custom_obj", "backward_token_name")


def vetted(path: Path) -> tuple[Kind, bytes]:
    """Return the kind of a model file and a clean archive to load it from; refuse what would execute a pickle."""
    members = _members(path)
    if any(name.startswith("code/") for name in members) and {"data.pkl", "constants.pkl"} <= members.keys():
        return "torchscript", _torchscript(path, members)
    if "archive_format" in members and "models/model.json" in members:
        try:
            return "exported", _exported(path, members)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise ModelError(f"{path}: a torch.export archive of unknown form ({error!r}); refused. {SAFE}.") from error
    if "data.pkl" in members:
        raise ModelError(
            f"{path}: a pickle saved by torch.save, whose loading executes what it holds; refused. {SAFE}. A "
            "state_dict goes into a model of your own, which module:attribute then names."
        )
    raise ModelError(f"{path}: a zip archive that is no model. {SAFE}.")


def _members(path: Path) -> dict[str, bytes]:
    """Return the archive's records by name below its root folder."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
            contents = [archive.read(name) for name in names]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ModelError(
            f"{path}: not a zip archive, so a pickle or something else whose loading may execute code; refused. {SAFE}."
        ) from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error}). {SAFE}.") from error
    if len(set(names)) < len(names) or len({name.partition("/")[0] for name in names}) != 1:
        raise ModelError(f"{path}: a zip archive with repeated names or without one root folder. {SAFE}.")
    return {name.partition("/")[2]: content for name, content in zip(names, contents, strict=True)}


def _archive(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def _torchscript(path: Path, members: Mapping[str, bytes]) -> bytes:
    for name, content in members.items():
        if name.startswith("code/") and name.endswith(".py"):
            access = _FILE_ACCESS.search(content.decode("utf-8", "replace"))
            if access:
                raise ModelError(
                    f"{path}: its {name} calls {access[1]}, which reads or writes files; refused. Save the model "
                    "without."
                )
    return _archive({name: content for name, content in members.items() if not name.endswith(".debug_pkl")})


def _exported(path: Path, members: Mapping[str, bytes]) -> bytes:
    """Keep the graph and the raw weights of the program `model`; sample inputs, guards and stack traces are dropped."""
    kept = {
        name: members[name]
        for name in ("archive_format", "archive_version", "byteorder", ".data/version")
        if name in members
    }
    program = _json(path, members, "models/model.json")
    kept["models/model.json"] = json.dumps(_program(path, program)).encode()
    kept["data/sample_inputs/model.pt"] = b""
    for part in ("weights", "constants"):
        name = f"data/{part}/model_{part}_config.json"
        payloads = _json(path, members, name)["config"]
        kept[name] = members[name]
        for owner, payload in payloads.items():
            record = f"data/{part}/{payload['path_name']}"
            raw = re.fullmatch(r"(weight|tensor)_\d+", payload["path_name"])
            if payload["use_pickle"] or raw is None or record not in members:
                raise ModelError(
                    f"{path}: {part} '{owner}' is stored as a pickle, not as a plain tensor; refused. Export the model "
                    "with plain tensors for parameters and buffers."
                )
            _check_text(path, [owner])
            kept[record] = members[record]
    return _archive(kept)


def _json(path: Path, members: Mapping[str, bytes], name: str) -> Any:
    if name not in members:
        raise ModelError(f"{path}: its {name} is absent; saved by a PyTorch before 2.8 or damaged. {SAFE}.")
    try:
        return json.loads(members[name])
    except ValueError as error:
        raise ModelError(f"{path}: its {name} is not JSON ({error}). {SAFE}.") from error


def _program(path: Path, program: dict[str, Any]) -> dict[str, Any]:
    graph = program["graph_module"]
    calls = [call for call in graph["module_call_graph"] if call["fqn"] == ""]
    for call in calls:
        for side in ("in_spec", "out_spec"):
            _check_spec(path, json.loads(call["signature"][side])[1])
    specs = [(call["signature"].pop("in_spec"), call["signature"].pop("out_spec")) for call in calls]
    program = {**program, "guards_code": [], "torch_version": ""}
    graph["module_call_graph"] = calls
    for node in graph["graph"]["nodes"]:
        node["metadata"] = {}
        if not _TARGET.fullmatch(node["target"]):
            raise ModelError(
                f"{path}: its graph calls '{node['target']}', expected PyTorch's aten operators only; refused. Export "
                "encoder and decoder as plain tensor computations, or use module:attribute."
            )
    _check_text(path, program)
    for call, (in_spec, out_spec) in zip(calls, specs, strict=True):
        call["signature"] |= {"in_spec": in_spec, "out_spec": out_spec}
    return program


def _check_spec(path: Path, spec: Any) -> None:
    """Refuse inputs or outputs that are not tensors in tuples and lists."""
    legal = {
        None: ("null", None),
        "builtins.tuple": ("null", None),
        "builtins.list": ("null", None),
        "builtins.dict": ("[]",),
    }
    if spec["context"] not in legal.get(spec["type"], ()):
        raise ModelError(
            f"{path}: its graph takes or returns a {spec['type']}, expected one tensor in, and a tensor or a tuple of "
            "them out. Export a module whose forward does that."
        )
    for child in spec["children_spec"]:
        _check_spec(path, child)


def _check_text(path: Path, value: Any, key: str = "") -> None:
    """Refuse every text in the graph that could be Python: PyTorch makes source code of names and sizes."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in _RESERVED and inner:
                raise ModelError(f"{path}: its graph holds {name}, expected tensors and numbers only; refused.")
            _check_text(path, [str(name)])
            _check_text(path, inner, name)
    elif isinstance(value, list):
        for inner in value:
            _check_text(path, inner, key)
    elif isinstance(value, str):
        plain = _PLAIN.fullmatch(value)
        if key == "expr_str":
            plain = _SIZE.fullmatch(value)
            names = re.findall(r"[A-Za-z_]\w*", value)
            plain = plain if all(_SIZE_NAMES.fullmatch(name) for name in names) else None
        if plain is None:
            raise ModelError(
                f"{path}: its graph holds the text {value[:60]!r}, which is no plain name or size; refused."
            )
