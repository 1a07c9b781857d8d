"""One file per checkpoint: tensors with their metadata, written under a temporary name and renamed."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from collapsebench.errors import StoreError


def write_checkpoint(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Write tensors and JSON metadata into one safetensors file; a crash leaves the old file or the new one."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    plain = {name: _alone(value) for name, value in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(plain, temporary, metadata={"meta": json.dumps(meta)})
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path}: could not be written ({error}). Free some space or choose another store.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_checkpoint(path: Path, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, on a device, and the metadata of a file that `write_checkpoint` wrote."""
    with safe_open(path, framework="pt", device=str(device)) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return tensors, json.loads(file.metadata()["meta"])


def _alone(value: Tensor) -> Tensor:
    """Return a tensor as it can be stored, copied only where its memory is part of a larger one."""
    plain = value.detach().cpu().contiguous()
    return plain if plain.untyped_storage().nbytes() == plain.nbytes else plain.clone()
