"""Stores: folders of factor folders. Everything read is checked; everything written appears whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
from pydantic import ValidationError

from factorlm.errors import InputError, IntegrityError, UnknownNameError
from factorlm.factors import kinds
from factorlm.factors.manifest import NAME_PATTERN, Manifest
from factorlm.factors.seal import seal
from factorlm.files import recover_folders, remove_folder, write_whole_folder
from factorlm.models.download import file_sha256
from factorlm.settings import explain_validation

if TYPE_CHECKING:
    from torch import Tensor

    from factorlm.factors.unbound import Unbound

KINDS = kinds.KINDS  # how each kind is loaded
MANIFEST, WEIGHTS = "factor.json", kinds.WEIGHTS
MAX_CARD_BYTES = 2**20  # of factor.json; a lexicon of some 40 000 phrases
VERSIONS = ".versions"  # in a store: NAME/VERSION of factors that were edited
SHELF = Path(__file__).parent / "shelf"  # the factors that the package ships
PICKLE_SIGNS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")  # plain, and as torch.save zips it
PICKLE_SUFFIXES = {".pkl", ".pickle", ".pt", ".pth", ".bin"}


@dataclass(frozen=True)
class Store:
    """A folder of factors, one folder each."""

    folder: Path

    def names(self) -> list[str]:
        """Names of the factors in it, sorted."""
        try:
            if not self.folder.is_dir():
                return []
            recover_folders(self.folder)
            found = [path.parent.name for path in self.folder.glob(f"*/{MANIFEST}")]
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"{self.folder} cannot be read: {reason}; see to its rights, or set FACTORLM_STORE"
            ) from None
        return sorted(name for name in found if not name.startswith("."))

    def check_name(self, name: str, *, replace: bool = False) -> None:
        """Raise InputError if a factor of this name could not be saved."""
        if not re.fullmatch(NAME_PATTERN, name):
            raise InputError(f"a name is small letters, digits, - and _, beginning with a letter, got {name!r}")
        if (self.folder / name).exists() and not replace:
            raise InputError(f"there is a factor named {name!r} in {self.folder}; choose another name, or --replace it")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{self.folder} cannot be made: {reason}; set FACTORLM_STORE to another folder") from error

    def save(self, manifest: Manifest, tensors: dict[str, Tensor] | None = None, *, replace: bool = False) -> Path:
        """Write a factor; with `replace` an existing one of that name is superseded in one step.

        Raises:
            InputError: if there is one already and `replace` is not set, or it could not be read again.
        """
        import safetensors.torch

        self.check_name(manifest.name, replace=replace)
        for key, tensor in (tensors or {}).items():
            if not tensor.isfinite().all():
                raise InputError(
                    f"{manifest.name}: finite numbers are needed as weights, got others in {key}; not saved"
                )
        target = self.folder / manifest.name

        def write(folder: Path) -> None:
            files = {}
            if tensors:
                safetensors.torch.save_file({k: t.contiguous() for k, t in tensors.items()}, folder / WEIGHTS)
                files[WEIGHTS] = file_sha256(folder / WEIGHTS)
            complete = manifest.model_copy(update={"files": files})
            (folder / MANIFEST).write_text(complete.model_dump_json(indent=2) + "\n", encoding="utf-8")
            try:
                read_manifest(folder)
            except IntegrityError as error:  # better now than when it is needed, with the old one gone
                said = str(error).removeprefix(f"{folder / MANIFEST}: ")
                raise InputError(f"{manifest.name} is not saved, as it could not be read again: {said}") from None
            seal(folder)

        try:
            write_whole_folder(target, write, is_durable=True)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{target} cannot be written: {reason}; set FACTORLM_STORE to another folder") from error
        return target

    def remove(self, name: str) -> None:
        """Take a factor away for good, with every version of it that edits have kept.

        Raises:
            UnknownNameError: if it is not in this store.
            InputError: if the store cannot be written.
        """
        if name not in self.names():
            raise UnknownNameError.of("factor of your own", name, self.names())
        for folder in (self.folder / name, self.folder / VERSIONS / name):
            try:
                if folder.is_dir():
                    remove_folder(folder)
            except OSError as error:
                raise InputError(f"{folder} cannot be removed: {error.strerror or error}; see to its rights") from None


def default_stores() -> list[Store]:
    """Where names are looked up: the user's own store ($FACTORLM_STORE), then the shelf of the package."""
    own = os.environ.get("FACTORLM_STORE") or platformdirs.user_data_path("factorlm") / "factors"
    return [Store(Path(own)), Store(SHELF)]


def folder_of(name: str) -> Path:
    """The folder of a factor, by name or path.

    Raises:
        UnknownNameError: if there is none; near names are listed.
        InputError: if the path cannot be looked at.
        IntegrityError: if the path is a pickle.
    """
    path = Path(name)
    try:
        if path.suffix in PICKLE_SUFFIXES and path.is_file():
            raise IntegrityError(
                f"a factor folder with safetensors is needed, got {name}, a pickle, which can run code; not read"
            )
        if os.sep in name and path.is_dir():
            return path
    except (OSError, ValueError) as error:  # a name too long, a folder that is locked, a zero byte
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"a factor's name or folder is needed, got {name[:80]!r}: {reason}; check it") from None
    known = {n: store.folder / n for store in reversed(default_stores()) for n in store.names()}
    if name not in known:
        raise UnknownNameError.of("factor", name, known, "factorlm factor list shows all")
    return known[name]


def manifests() -> Iterator[tuple[Path, Manifest]]:
    """Every factor that can be named and read, with its folder; the user's own come before those of the shelf."""
    for folder, found in entries():
        if isinstance(found, Manifest):
            yield folder, found


def entries() -> Iterator[tuple[Path, Manifest | IntegrityError]]:
    """Every factor that can be named, with its folder, and its card or why that cannot be read."""
    seen = set()
    for store in default_stores():
        for name in store.names():
            if name in seen:
                continue
            seen.add(name)
            try:
                yield store.folder / name, read_manifest(store.folder / name)
            except IntegrityError as error:
                yield store.folder / name, error


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a factor folder.

    Raises:
        IntegrityError: if it is missing or broken.
    """
    try:
        with (folder / MANIFEST).open("rb") as file:
            content = file.read(MAX_CARD_BYTES + 1)
        if len(content) > MAX_CARD_BYTES:
            raise IntegrityError(
                f"{folder / MANIFEST} is too large: at most {MAX_CARD_BYTES:,} bytes are read; not used"
            )
        return Manifest.model_validate_json(content.decode("utf-8"))
    except FileNotFoundError:
        raise IntegrityError(
            f"{folder} is no factor: it has no {MANIFEST}; train one with factorlm factor train"
        ) from None
    except ValidationError as error:
        raise IntegrityError(f"{folder / MANIFEST}: {explain_validation(error, 'the manifest')}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{folder / MANIFEST} is not readable JSON ({error}); install the factor again") from None


def verify(folder: Path, manifest: Manifest) -> None:
    """Check every file of a factor against its manifest.

    Raises:
        IntegrityError: naming the first file that is missing, changed, or a pickle.
    """
    for name, expected in manifest.files.items():
        path = folder / name
        if Path(name).name != name or Path(name).suffix != ".safetensors":
            raise IntegrityError(
                f"{folder}: weights must be a .safetensors file beside factor.json, got {name}; not read"
            )
        verify_weights(path, expected, "install the factor again")


def verify_weights(path: Path, expected: str, remedy: str) -> None:
    """Check one file of weights.

    Args:
        path: of the file.
        expected: its sha256.
        remedy: what to do if it is not as it should be.

    Raises:
        IntegrityError: if it is missing, changed, a pickle, or cannot be read.
    """
    try:
        if not path.is_file():
            raise IntegrityError(f"{path} is missing; {remedy}")
        with path.open("rb") as file:
            if file.read(4).startswith(PICKLE_SIGNS):
                raise IntegrityError(f"{path} is a pickle, which can run code, not safetensors; not read")
        found = file_sha256(path)
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror or error}; {remedy}") from None
    if found != expected:
        raise IntegrityError(f"{path} is corrupted: sha256 should be {expected[:12]}…, is {found[:12]}…; {remedy}")


def load(name: str) -> Unbound:
    """A factor by name or folder, checked, and not yet bound to a model.

    Raises:
        UnknownNameError: if there is no such factor.
        IntegrityError: if its files are not what the manifest says.
    """
    folder = folder_of(name)
    manifest = read_manifest(folder)
    verify(folder, manifest)
    return KINDS[manifest.kind](manifest, folder)
