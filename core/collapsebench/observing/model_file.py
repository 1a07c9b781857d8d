"""Open a trained model: a TorchScript archive, a torch.export archive, or an attribute of a module; never a pickle."""

from __future__ import annotations

import importlib
import io
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from collapsebench.errors import ModelError
from collapsebench.observing.exported_archive import SAFE, vetted


def load_model(model: str | Path, decoder: str | Path | None = None) -> Any:
    """Return what `measure` takes for a model: an object with encode and decode, or a pair of callables.

    model: a file, or `module:attribute`, looked up in the current folder first. decoder: the file of the decoder where
    encoder and decoder are two files; a torch.export file holds one function, so it takes two of them.

    A TorchScript or torch.export file is a program nevertheless: it runs PyTorch operators on your data.
    """
    if decoder is not None:
        return _one(model), _one(decoder)
    found = _one(model)
    if isinstance(found, torch.fx.GraphModule):
        raise ModelError(
            f"{model}: a torch.export file holds one function, expected encoder and decoder. Give the encoder's file "
            "as the model and the decoder's with --decoder."
        )
    return found


def _one(place: str | Path) -> Any:
    path = Path(place)
    if path.is_file():
        return _load_file(path)
    module, colon, attribute = str(place).partition(":")
    if not colon or not all(part.isidentifier() for part in f"{module}.{attribute}".split(".")):
        raise ModelError(f"{place}: no such file, and no module:attribute. {SAFE}.")
    return _import(module, attribute)


def _load_file(path: Path) -> Any:
    kind, archive = vetted(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that TorchScript is deprecated is for those who write it
            if kind == "torchscript":
                return torch.jit.load(io.BytesIO(archive), map_location="cpu")  # type: ignore[no-untyped-call]
            return torch.export.load(io.BytesIO(archive)).module()
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelError(
            f"{path}: PyTorch {torch.__version__} cannot load it as {kind}: {reason}. Save it again with this version."
        ) from error


def _import(module: str, attribute: str) -> Any:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except Exception as error:
        raise ModelError(
            f"{module}:{attribute}: {type(error).__name__}: {error}. Expected a module that Python can "
            "import here, with that attribute; run in its folder or install it."
        ) from error
    finally:
        sys.path.remove(here)
    if isinstance(found, type):
        raise ModelError(f"{module}:{attribute}: found a class, expected a trained model. Name an instance of it.")
    return found
