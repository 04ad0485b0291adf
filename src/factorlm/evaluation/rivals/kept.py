"""What rivals learned, kept on disk with the time that it took, so that no run learns it twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from factorlm.errors import InputError
from factorlm.files import write_whole
from factorlm.models.fetch import cache_folder

Tensors = dict[str, Tensor]
PROTOCOL = 1  # raised whenever anything would be learned otherwise from the same settings


@dataclass(frozen=True)
class Learned:
    """Numbers, and the seconds that finding them took when they were found."""

    tensors: Tensors
    seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """Work in progress as one file; nothing is kept where there is no folder."""

    path: Path | None

    def load(self) -> Learned | None:
        """What was saved last, if it can be read."""
        return None if self.path is None else _read(self.path)

    def save(self, tensors: Mapping[str, Tensor], seconds: float) -> None:
        """Put this in place of what was saved before."""
        if self.path is not None:
            _write(self.path, tensors, seconds)

    def drop(self) -> None:
        """It is done: the file goes."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Kept:
    """A folder of learned numbers, named by what they depend on.

    Attributes:
        folder: where; None keeps nothing.
    """

    folder: Path | None

    def get(self, name: str, key: Mapping[str, object], make: Callable[[Checkpoint], Learned]) -> Learned:
        """What is kept for this key, else what `make` learns, kept from now on.

        Args:
            name: of the file's beginning.
            key: all that the numbers depend on; JSON values.
            make: learns; it may save its progress, and is given it back after a broken run.
        """
        text = json.dumps({"protocol": PROTOCOL, **key}, sort_keys=True, ensure_ascii=False)
        stem = f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"
        path = None if self.folder is None else self.folder / f"{stem}.safetensors"
        if path is not None and (found := _read(path)) is not None:
            return found
        checkpoint = Checkpoint(None if path is None else path.with_name(f"{stem}.checkpoint"))
        learned = make(checkpoint)
        if path is not None:
            _write(path, learned.tensors, learned.seconds)
            checkpoint.drop()
        return learned


def default_kept() -> Kept:
    """Beside the models, in `rivals`."""
    return Kept(cache_folder() / "rivals")


def _read(path: Path) -> Learned | None:
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
            return Learned(tensors, float((file.metadata() or {})["seconds"]))
    except (OSError, safetensors.SafetensorError, KeyError, ValueError):
        return None  # not there, or not whole: learned again


def _write(path: Path, tensors: Mapping[str, Tensor], seconds: float) -> None:
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        write_whole(path, safetensors.torch.save(whole, {"seconds": str(seconds)}))
    except OSError as error:
        raise InputError(
            f"{path.parent} cannot be written: {error.strerror or error}; set FACTORLM_CACHE, or use --no-cache"
        ) from None
