"""Versions of factors: an edit keeps what was there, and undoing it brings that back bit for bit.

Versions that an edit or an undo superseded lie in .versions/NAME/VERSION of the user's own store. A factor of the
package is never changed: its edited copy goes into the user's own store, which is looked up first.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from factorlm.errors import InputError, IntegrityError
from factorlm.factors.manifest import Change, Manifest
from factorlm.factors.seal import SEAL, check_seal
from factorlm.factors.store import VERSIONS, Store, default_stores, discard, folder_of, read_manifest, verify
from factorlm.files import write_whole_folder
from factorlm.models.download import file_sha256

if TYPE_CHECKING:
    from torch import Tensor

VERSION_PATTERN = r"\d+\.\d+\.\d+"


@dataclass(frozen=True)
class Undone:
    """An edit taken back.

    Attributes:
        name: of the factor.
        before: the version that was undone.
        change: what is no more.
        folder: where the factor now lies; in the package again if the edit was the first of one of its factors.
        manifest: of the factor as it is now.
    """

    name: str
    before: str
    change: Change
    folder: Path
    manifest: Manifest


def kept_versions(store: Store, name: str) -> dict[str, Path]:
    """The folders of all kept versions of a factor, the lowest version first."""
    place = store.folder / VERSIONS / name
    found = place.iterdir() if place.is_dir() else ()
    versions = {path.name: path for path in found if re.fullmatch(VERSION_PATTERN, path.name)}
    return {version: versions[version] for version in sorted(versions, key=_numbers)}


def next_version(store: Store, manifest: Manifest) -> str:
    """The next minor version: above every one there has been, so that no number ever stands for two contents."""
    taken = [manifest.version, *kept_versions(store, manifest.name)]
    major, minor, _ = max(map(_numbers, taken))
    return f"{major}.{minor + 1}.0"


def save_edit(source: Path, manifest: Manifest, tensors: dict[str, Tensor] | None) -> Path:
    """Put the next version of a factor in the user's own store, and keep the one it was made from.

    Args:
        source: folder of the factor that was edited; if it lies elsewhere, it stays and is superseded by name.
        manifest: after the edit; its last change names the version before.
        tensors: content of the weights file, if there is one.

    Raises:
        InputError: if the store cannot be written, or has another factor of that name.
    """
    store = default_stores()[0]
    own = store.folder / manifest.name
    if own.exists() and not own.samefile(source):
        raise InputError(
            f"{source} cannot be edited: your store has another factor named {manifest.name!r}; remove or edit that one"
        )
    store.check_name(manifest.name, replace=True)
    with _writing(store):
        _copy(source, _kept(store, manifest.name, manifest.changes[-1].version))
    return store.save(manifest, tensors, replace=True)


def undo(name: str) -> Undone:
    """Bring back the version before the last edit, as it was; the version that was undone is kept, too.

    Raises:
        InputError: if there is no edit to undo.
        IntegrityError: if the version before is not what it was; nothing is changed then.
    """
    store = default_stores()[0]
    folder = folder_of(name)
    now = read_manifest(folder)
    own = store.folder / now.name
    if not now.changes:
        raise InputError(
            f"{now.name} {now.version} has no edit to undo; factorlm factor show {now.name} tells of edits"
        )
    change = now.changes[-1]
    kept = _kept(store, now.name, change.version)
    if not own.is_dir() or not own.samefile(folder) or not kept.is_dir():
        raise InputError(
            f"{now.name} {change.version} is not kept in {store.folder / VERSIONS}, so it cannot come back; it was "
            "edited in another store"
        )
    before = read_manifest(kept)
    verify(kept, before)
    if (kept / SEAL).is_file():  # factors of older releases have none
        check_seal(kept)
    if (before.name, before.version) != (now.name, change.version):
        raise IntegrityError(f"{kept} is {before.name} {before.version}; {now.name} {change.version} is needed there")
    shelves = (other.folder / now.name for other in default_stores()[1:])
    shelf = next((path for path in shelves if path.is_dir() and _content(path) == _content(kept)), None)
    with _writing(store):
        _copy(own, _kept(store, now.name, now.version))
        if shelf is None:
            _copy(kept, own)
        else:
            discard(own)
    return Undone(now.name, now.version, change, shelf or own, before)


def _kept(store: Store, name: str, version: str) -> Path:
    if not re.fullmatch(VERSION_PATTERN, version):  # it comes from a file, and becomes a path
        raise IntegrityError(f"a version is three numbers, got {version!r} in the changes of {name}; install it again")
    return store.folder / VERSIONS / name / version


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _copy(source: Path, target: Path) -> None:
    """Copy the content of a folder, not its permissions: the package may be read-only."""

    def write(folder: Path) -> None:
        for path in source.iterdir():
            if path.is_file():
                shutil.copyfile(path, folder / path.name)

    write_whole_folder(target, write)


def _content(folder: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in folder.iterdir() if path.is_file()}


@contextmanager
def _writing(store: Store) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{store.folder} cannot be written: {reason}; set FACTORLM_STORE to another folder") from error
