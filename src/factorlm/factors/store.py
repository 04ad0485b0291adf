"""Stores: folders of factor folders. Everything read is checked; everything written appears whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
from pydantic import ValidationError

from factorlm.errors import InputError, IntegrityError, UnknownNameError
from factorlm.factors.manifest import NAME_PATTERN, Manifest
from factorlm.factors.seal import seal
from factorlm.files import write_whole_folder
from factorlm.models.download import file_sha256
from factorlm.settings import explain_validation

if TYPE_CHECKING:
    from torch import Tensor

    from factorlm.factors.unbound import Unbound

MANIFEST, WEIGHTS = "factor.json", "weights.safetensors"
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
        if not self.folder.is_dir():
            return []
        found = (path.parent.name for path in self.folder.glob(f"*/{MANIFEST}"))
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
            InputError: if there is one already and `replace` is not set.
        """
        import safetensors.torch

        self.check_name(manifest.name, replace=replace)
        target = self.folder / manifest.name

        def write(folder: Path) -> None:
            files = {}
            if tensors:
                safetensors.torch.save_file({k: t.contiguous() for k, t in tensors.items()}, folder / WEIGHTS)
                files[WEIGHTS] = file_sha256(folder / WEIGHTS)
            complete = manifest.model_copy(update={"files": files})
            (folder / MANIFEST).write_text(complete.model_dump_json(indent=2) + "\n", encoding="utf-8")
            seal(folder)

        try:
            write_whole_folder(target, write)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{target} cannot be written: {reason}; set FACTORLM_STORE to another folder") from error
        return target

    def remove(self, name: str) -> None:
        """Take a factor away for good, with every version of it that edits have kept.

        Raises:
            UnknownNameError: if it is not in this store.
        """
        if name not in self.names():
            raise UnknownNameError.of("factor of your own", name, self.names())
        for folder in (self.folder / name, self.folder / VERSIONS / name):
            if folder.is_dir():
                discard(folder)


def discard(folder: Path) -> None:
    """Take a folder away in one step."""
    doomed = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.old")
    os.replace(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def default_stores() -> list[Store]:
    """Where names are looked up: the user's own store ($FACTORLM_STORE), then the shelf of the package."""
    own = os.environ.get("FACTORLM_STORE") or platformdirs.user_data_path("factorlm") / "factors"
    return [Store(Path(own)), Store(SHELF)]


def folder_of(name: str) -> Path:
    """The folder of a factor, by name or path.

    Raises:
        UnknownNameError: if there is none; near names are listed.
        IntegrityError: if the path is a pickle.
    """
    path = Path(name)
    if path.suffix in PICKLE_SUFFIXES and path.is_file():
        raise IntegrityError(
            f"a factor folder with safetensors is needed, got {name}, a pickle, which can run code; not read"
        )
    if os.sep in name and path.is_dir():
        return path
    known = {n: store.folder / n for store in reversed(default_stores()) for n in store.names()}
    if name not in known:
        raise UnknownNameError.of("factor", name, known, "factorlm factor list shows all")
    return known[name]


def manifests() -> Iterator[tuple[Path, Manifest]]:
    """Every factor that can be named, with its folder; the user's own come before those of the shelf."""
    seen = set()
    for store in default_stores():
        for name in store.names():
            if name not in seen:
                seen.add(name)
                yield store.folder / name, read_manifest(store.folder / name)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a factor folder.

    Raises:
        IntegrityError: if it is missing or broken.
    """
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_text(encoding="utf-8"))
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
        IntegrityError: if it is missing, changed, or a pickle.
    """
    if not path.is_file():
        raise IntegrityError(f"{path} is missing; {remedy}")
    with path.open("rb") as file:
        if file.read(4).startswith(PICKLE_SIGNS):
            raise IntegrityError(f"{path} is a pickle, which can run code, not safetensors; not read")
    found = file_sha256(path)
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


def _head(manifest: Manifest, folder: Path) -> Unbound:
    import safetensors
    import safetensors.torch

    from factorlm.factors.head import HeadWeights, UnboundHead

    if WEIGHTS not in manifest.files:
        raise IntegrityError(f"{folder / MANIFEST} has no sha256 of {WEIGHTS}; install the factor again")
    try:
        found = safetensors.torch.load_file(folder / WEIGHTS)
        weights = HeadWeights(found["bias"], found["up"], found["down"])
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise IntegrityError(
            f"{folder / WEIGHTS} cannot be read as a head ({error}); install the factor again"
        ) from None
    if manifest.encoder is None:
        raise IntegrityError(f"{folder} does not say for which encoder it was made; install the factor again")
    width, rank = manifest.encoder.width, getattr(manifest.settings, "rank", 0)
    shapes = tuple(tuple(t.shape) for t in (weights.bias_D, weights.up_DR, weights.down_RD))
    if shapes != ((width,), (width, rank), (rank, width)):
        raise IntegrityError(
            f"{folder / WEIGHTS}: a head of width {width} and rank {rank} is needed, got shapes {shapes}; install again"
        )
    return UnboundHead(manifest.name, manifest.strengths, weights, manifest.encoder)


def _lexicon(manifest: Manifest, folder: Path) -> Unbound:
    from factorlm.factors.manifest import LexiconSettings
    from factorlm.factors.wordlist import UnboundLexicon

    assert isinstance(manifest.settings, LexiconSettings)
    return UnboundLexicon.from_settings(manifest.name, manifest.strengths, manifest.settings)


def _prompt(manifest: Manifest, folder: Path) -> Unbound:
    from factorlm.factors.manifest import PromptSettings
    from factorlm.factors.prompt import UnboundPrompt

    assert isinstance(manifest.settings, PromptSettings)
    return UnboundPrompt(manifest.name, manifest.strengths, manifest.settings.instruction)


def _contrast(manifest: Manifest, folder: Path) -> Unbound:
    from factorlm.factors.contrast import UnboundContrast
    from factorlm.factors.manifest import ContrastSettings

    assert isinstance(manifest.settings, ContrastSettings)
    return UnboundContrast(manifest.name, manifest.strengths, manifest.settings.expert, manifest.settings.anti_expert)


KINDS: dict[str, Callable[[Manifest, Path], Unbound]] = {
    "head": _head,
    "lexicon": _lexicon,
    "prompt": _prompt,
    "contrast": _contrast,
}
