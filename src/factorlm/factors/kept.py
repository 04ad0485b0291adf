"""Tensors kept on disk between runs: found whole or not at all; a cache that cannot be used costs time, no more."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from factorlm.files import write_whole


def find(path: Path, *names: str) -> tuple[Tensor, ...] | None:
    """The tensors of these names in a file, or None if there is none; a damaged file is taken away."""
    if not path.is_file():
        return None
    try:
        found = safetensors.torch.load_file(path)
        return tuple(found[name] for name in names)
    except (safetensors.SafetensorError, KeyError):
        with contextlib.suppress(OSError):
            path.unlink()
        return None


def keep(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors into a file, as one piece."""
    content = safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    with contextlib.suppress(OSError):
        write_whole(path, content)
