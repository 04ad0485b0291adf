"""Priors on disk: a folder with `prior.json` and `weights.safetensors`, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
from pydantic import ValidationError
from torch import Tensor

from factorlm.errors import InputError, IntegrityError
from factorlm.files import write_whole_folder
from factorlm.models.download import file_sha256
from factorlm.prior.manifest import Manifest
from factorlm.settings import explain_validation

MANIFEST, WEIGHTS = "prior.json", "weights.safetensors"
MAX_CARD_BYTES = 2**22


def is_prior(path: Path | str) -> bool:
    """Whether there is a prior in this folder."""
    return (Path(path) / MANIFEST).is_file()


def read_manifest(path: Path | str) -> Manifest:
    """What is said of a prior; its weights are not read.

    Raises:
        InputError: if there is no prior.
        IntegrityError: if its card cannot be used.
    """
    folder = Path(path)
    if not is_prior(folder):
        raise InputError(f"a folder with a {MANIFEST} is needed, got {folder}; factorlm prior fit makes one")
    try:
        content = (folder / MANIFEST).read_bytes()
        if len(content) > MAX_CARD_BYTES:
            raise IntegrityError(f"{folder / MANIFEST} is larger than {MAX_CARD_BYTES} bytes; learn the prior anew")
        return Manifest.model_validate_json(content)
    except OSError as error:
        raise InputError(f"{folder / MANIFEST} cannot be read: {error.strerror or error}; see to its rights") from None
    except ValidationError as error:
        raise IntegrityError(str(explain_validation(error, str(folder / MANIFEST)))) from None


def read(path: Path | str) -> tuple[Manifest, dict[str, Tensor]]:
    """Card and numbers of a prior, checked against their sums.

    Raises:
        InputError: if there is no prior.
        IntegrityError: if a file is not what the card says.
    """
    folder, manifest = Path(path), read_manifest(path)
    if WEIGHTS not in manifest.files:
        return manifest, {}
    try:
        if file_sha256(folder / WEIGHTS) != manifest.files[WEIGHTS]:
            raise IntegrityError(f"{folder / WEIGHTS} is not the file that {MANIFEST} names; copy the prior again")
        return manifest, safetensors.torch.load_file(folder / WEIGHTS)
    except (OSError, safetensors.SafetensorError) as error:
        raise IntegrityError(f"{folder / WEIGHTS} cannot be read ({error}); copy the prior again") from None


def check_place(path: Path | str, *, replace: bool) -> None:
    """Raise InputError if a prior could not be written there."""
    target = Path(path)
    if target.exists() and not replace:
        raise InputError(f"there is something at {target}; name another place with --out, or give --replace")
    if target.exists() and not is_prior(target):
        raise InputError(f"{target} is not a prior, so it is not replaced; name another place with --out")


def write(path: Path | str, manifest: Manifest, tensors: dict[str, Tensor], *, replace: bool = False) -> None:
    """Write a prior.

    Raises:
        InputError: if there is something already and `replace` is not set, a number is not finite, or the place
            cannot be written.
    """
    target = Path(path)
    check_place(target, replace=replace)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"finite numbers are needed in {name}, got others; not saved: learn with smaller steps")

    def fill(folder: Path) -> None:
        files = {}
        if tensors:
            safetensors.torch.save_file({k: t.cpu().contiguous() for k, t in tensors.items()}, folder / WEIGHTS)
            files[WEIGHTS] = file_sha256(folder / WEIGHTS)
        complete = manifest.model_copy(update={"files": files})
        (folder / MANIFEST).write_text(complete.model_dump_json(indent=2) + "\n", encoding="utf-8")
        read_manifest(folder)

    try:
        write_whole_folder(target, fill)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}; name another place") from None
