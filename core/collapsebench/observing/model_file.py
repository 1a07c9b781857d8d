"""Open a trained model: a TorchScript file, or an attribute of a Python module; never a pickle.

Which files can be opened without running what their author put into them, by PyTorch 2.6 to 2.13:

- `torch.jit.load` reads pickles in C++, where a global can only be a tensor or one of the archive's own TorchScript
  classes; no Python is called. It does run `__setstate__` of those classes, so an archive that defines one is refused.
  A TorchScript program can write and map files, by `torch.save` and `torch.from_file`; one that does is refused, too.
- `torch.export.load` has no safe mode. It unpickles weights, constants and sample inputs with `weights_only=False`, and
  evaluates the sizes in the graph as Python text. Its files are refused.
- `torch.load(weights_only=True)` is safe, but yields weights without the model that they belong to.

Source: torch/csrc/jit/serialization/unpickler.cpp and import.cpp, torch/export/pt2_archive/_package.py,
torch/_export/serde/serialize.py, SECURITY.md of PyTorch.
"""

from __future__ import annotations

import importlib
import io
import re
import sys
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from collapsebench.errors import ModelError

EXPECTED = "Expected a TorchScript file (torch.jit.script(model).save(...)) or module:attribute"
YOUR_OWN_CODE = "If you trust the file, load it in a Python module of your own and pass module:attribute"
_EXPORTED = ("models/model.json", "serialized_exported_program.json")
_FILE_ACCESS = re.compile(r"\b(?:torch|ops\.\w+)\.(save|load|from_file)\(")


def load_model(model: str | Path, decoder: str | Path | None = None) -> Any:
    """Return what `measure` takes for a model: an object with encode and decode, or a pair of callables.

    model: a TorchScript file, or `module:attribute`, looked up in the current folder first. decoder: the same for the
    decoder, where encoder and decoder are stored apart.

    Opening a TorchScript file runs nothing that it holds. Measuring it does: it is a program of PyTorch's operators,
    which can take up memory and time, though it cannot call Python or use files. PyTorch recommends to treat every
    such program as code, and to run it only if you trust its author.
    """
    return _load(model) if decoder is None else (_load(model), _load(decoder))


def _load(model: str | Path) -> Any:
    path = Path(model)
    if path.is_file():
        return _load_file(path)
    module, colon, attribute = str(model).partition(":")
    if not colon or not all(part.isidentifier() for part in f"{module}.{attribute}".split(".")):
        raise ModelError(f"{model}: no such file, and no module:attribute. {EXPECTED}.")
    return _import(module, attribute)


def _load_file(path: Path) -> Any:
    members = _members(path)
    _refuse_other_formats(path, members)
    _refuse_code_that_loading_runs(path, members)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript's deprecation concerns the author of the file
            module = torch.jit.load(_archive(members), map_location="cpu")  # type: ignore[no-untyped-call]
            program = _printed(module)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelError(
            f"{path}: PyTorch {torch.__version__} cannot load it as TorchScript: {reason}. Save it again with this "
            "version."
        ) from error
    _refuse_file_access(path, program)
    return module


def _members(path: Path) -> dict[str, bytes]:
    """Return the contents of an archive by name, without TorchScript's pickles for debugging."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist() if not name.endswith(".debug_pkl")}
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error}). {EXPECTED}.") from error
    except Exception as error:
        raise ModelError(
            f"{path}: found something else than a zip archive, such as a pickle, whose loading can run any code; "
            f"refused. {EXPECTED}."
        ) from error


def _archive(members: Mapping[str, bytes]) -> io.BytesIO:
    """Return an archive of the members that were checked, so that PyTorch reads these and no others."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    buffer.seek(0)
    return buffer


def _refuse_other_formats(path: Path, names: Iterable[str]) -> None:
    """Refuse an archive that is not laid out like a TorchScript file, and say what it is instead."""
    if any(name.endswith(_EXPORTED) for name in names):
        raise ModelError(
            f"{path}: found a torch.export file, whose loading can run any code (torch.export.load unpickles); "
            f"refused. {EXPECTED}. {YOUR_OWN_CODE}."
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise ModelError(f"{path}: found a zip archive that holds no model. {EXPECTED}.")
    if not any(name.endswith("constants.pkl") for name in names):
        raise ModelError(
            f"{path}: found a file of torch.save, a pickle whose loading can run any code; refused. {EXPECTED}. "
            f"{YOUR_OWN_CODE}; there, load a state_dict into the model that it belongs to."
        )


def _refuse_code_that_loading_runs(path: Path, members: Mapping[str, bytes]) -> None:
    for name, content in members.items():
        if name.endswith(".py") and b"__setstate__" in content:
            raise ModelError(
                f"{path}: its {name} defines __setstate__, which would run while the file is loaded; refused. Save "
                f"the model without it. {YOUR_OWN_CODE}."
            )


def _printed(module: torch.jit.ScriptModule) -> dict[str, str]:
    """Return the compiled program as text, by file, in PyTorch's one spelling: a file can name an operator in many."""
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")}


def _refuse_file_access(path: Path, program: Mapping[str, str]) -> None:
    for name, code in program.items():
        access = _FILE_ACCESS.search(code)
        if access:
            raise ModelError(
                f"{path}: its {name} calls {access[1]}, which reads or writes files; refused. Save the model without "
                f"that call. {YOUR_OWN_CODE}."
            )


def _import(module: str, attribute: str) -> Any:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        model: Any = importlib.import_module(module)
        for name in attribute.split("."):
            model = getattr(model, name)
    except Exception as error:
        raise ModelError(
            f"{module}:{attribute}: {type(error).__name__}: {error}. Expected a module that Python can import from "
            "this folder or an installed package, with that attribute. Run in its folder, or install it."
        ) from error
    finally:
        sys.path.remove(here)
    if isinstance(model, type):
        raise ModelError(f"{module}:{attribute}: found a class, expected a trained model. Name an instance of it.")
    return model
