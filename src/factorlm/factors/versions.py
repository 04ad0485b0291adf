"""Versions of factors: an edit keeps what was there, and undoing it brings that back bit for bit.

What was superseded lies in .versions/NAME/VERSION of the user's own store, and is never written over: another content
of the same version lies beside it, in VERSION+SHA256. A factor of the package is never changed: its edited copy goes
into the user's own store, which is looked up first.
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
from factorlm.factors.manifest import VERSION_PATTERN, Change, Manifest
from factorlm.factors.seal import SEAL, check_seal, digest_of
from factorlm.factors.store import VERSIONS, Store, default_stores, folder_of, read_manifest, verify
from factorlm.files import remove_folder, write_whole_folder
from factorlm.models.download import file_sha256

if TYPE_CHECKING:
    from torch import Tensor

KEPT_PATTERN = VERSION_PATTERN.removesuffix("$") + r"(\+[0-9a-f]{12})?$"  # of the folders of kept versions


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
    """The folders of all kept versions of a factor by their names, the lowest version first."""
    place = store.folder / VERSIONS / name
    found = place.iterdir() if place.is_dir() else ()
    versions = {path.name: path for path in found if re.fullmatch(KEPT_PATTERN, path.name)}
    return {version: versions[version] for version in sorted(versions, key=lambda v: (_numbers(v), v))}


def next_version(store: Store, manifest: Manifest) -> str:
    """The next minor version: above every one there has been, so that no number ever stands for two contents."""
    taken = [manifest.version, *kept_versions(store, manifest.name)]
    major, minor, _ = max(map(_numbers, taken))
    return f"{major}.{minor + 1}.0"


def check_own(source: Path, name: str, store: Store | None = None) -> None:
    """Check that an edited copy of a factor would not supersede another factor of that name.

    Raises:
        InputError: if the user's own store, or the one given, has another one.
    """
    own = (store or default_stores()[0]).folder / name
    if own.exists() and not own.samefile(source):
        raise InputError(
            f"{source} cannot be edited: your store has another factor named {name!r}; remove or edit that one"
        )


def supersede(store: Store, manifest: Manifest, tensors: dict[str, Tensor] | None = None) -> Path:
    """Save a factor in place of one of that name, if there is one, which is kept among the versions.

    Raises:
        InputError: if the store cannot be written.
    """
    keep(store, manifest.name)
    return store.save(manifest, tensors, replace=True)


def keep(store: Store, name: str) -> Path | None:
    """Copy a factor to the versions before something takes its place; nothing is kept of one that cannot be read.

    Raises:
        InputError: if the store cannot be written.
    """
    folder = store.folder / name
    if name not in store.names():
        return None
    try:
        version = read_manifest(folder).version
        digest = digest_of(folder)
    except IntegrityError:
        return None
    with _writing(store):
        return _keep(store, name, version, folder, digest)


def save_edit(
    source: Path, manifest: Manifest, tensors: dict[str, Tensor] | None, *, store: Store | None = None
) -> Path:
    """Put the next version of a factor in the user's own store, and keep the one it was made from.

    Args:
        source: folder of the factor that was edited; if it lies elsewhere, it stays and is superseded by name.
        manifest: after the edit; its last change names the version before, and may hold the sha256 of its card.
        tensors: content of the weights file, if there is one.
        store: to put it in; None is the user's own.

    Raises:
        InputError: if the store cannot be written, or has another factor of that name, or the factor was changed
            since the edit began.
    """
    store = store or default_stores()[0]
    check_own(source, manifest.name, store)
    *earlier, change = manifest.changes
    digest = digest_of(source)
    if change.sha256 not in ("", digest):
        raise InputError(f"{source} was changed while it was being edited; edit it again")
    changes = (*earlier, change.model_copy(update={"sha256": digest}))
    store.check_name(manifest.name, replace=True)
    with _writing(store):
        _keep(store, manifest.name, change.version, source, digest)
    return store.save(manifest.model_copy(update={"changes": changes}), tensors, replace=True)


def undo(name: str, store: Store | None = None) -> Undone:
    """Bring back the version before the last edit, as it was; the version that was undone is kept, too.

    Args:
        name: of the factor.
        store: where it lies; None looks it up, and undoes in the user's own.

    Raises:
        InputError: if there is no edit to undo.
        IntegrityError: if the version before is not what it was; nothing is changed then.
    """
    folder = folder_of(name) if store is None else store.folder / name
    store = store or default_stores()[0]
    now = read_manifest(folder)
    own = store.folder / now.name
    if not now.changes:
        raise InputError(
            f"{now.name} {now.version} has no edit to undo; factorlm factor show {now.name} tells of edits"
        )
    change = now.changes[-1]
    kept = _kept(store, now.name, change.version, change.sha256)
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
    if change.sha256 not in ("", digest_of(kept)):
        raise IntegrityError(
            f"{kept} is another {now.name} {change.version} than the one that was edited, which is not kept; pull or "
            "build it again"
        )
    others = (other.folder / now.name for other in default_stores() if other.folder != store.folder)
    shelf = next((path for path in others if path.is_dir()), None)  # what the name means without a copy in the store
    if shelf is not None and _content(shelf) != _content(kept):
        shelf = None
    with _writing(store):
        _keep(store, now.name, now.version, own, digest_of(own))
        if shelf is None:
            _copy(kept, own)
        else:
            remove_folder(own)
    return Undone(now.name, now.version, change, shelf or own, before)


def _kept(store: Store, name: str, version: str, digest: str) -> Path:
    """Where a version with this sha256 of its card is kept; where it would be without others, if it is not."""
    if not re.fullmatch(VERSION_PATTERN, version):  # it comes from a file, and becomes a path
        raise IntegrityError(
            f"a version is three numbers, got {version[:80]!r} in the changes of {name}; install it again"
        )
    place = store.folder / VERSIONS / name
    other = place / f"{version}+{digest[:12]}"
    return other if digest and other.is_dir() else place / version


def _keep(store: Store, name: str, version: str, source: Path, digest: str) -> Path:
    """Copy a folder to the kept versions, beside another content of that version if there is one."""
    target = _kept(store, name, version, digest)
    if target.is_dir():
        if _content(target) == _content(source):
            return target
        target = target.with_name(f"{version}+{digest[:12]}")
    _copy(source, target)
    return target


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.partition("+")[0].split(".")))


def _copy(source: Path, target: Path) -> None:
    """Copy the content of a folder, not its permissions: the package may be read-only."""

    def write(folder: Path) -> None:
        for path in source.iterdir():
            if path.is_file():
                shutil.copyfile(path, folder / path.name)

    write_whole_folder(target, write, is_durable=True)


def _content(folder: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in folder.iterdir() if path.is_file()}


@contextmanager
def _writing(store: Store) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{store.folder} cannot be written: {reason}; set FACTORLM_STORE to another folder") from error
