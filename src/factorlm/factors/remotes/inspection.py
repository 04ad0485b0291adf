"""Everything that can be checked of a factor folder, on a disk or as it comes from a shared store."""

from __future__ import annotations

from pathlib import Path

from factorlm.errors import IntegrityError
from factorlm.factors.manifest import Manifest
from factorlm.factors.seal import SEAL, check_seal, plain_files
from factorlm.factors.store import MANIFEST, PICKLE_SUFFIXES, WEIGHTS, load, read_manifest, verify


def inspect(folder: Path) -> Manifest:
    """Check every byte of an installed factor, and that it can be read.

    Raises:
        IntegrityError: naming the first file that is missing, added, changed, or a pickle.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    verify(folder, manifest)
    check_seal(folder)
    load(str(folder.absolute()))  # shapes
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Check that a folder has plain files only, and none that its manifest does not name.

    Raises:
        IntegrityError: naming the first that should not be there.
    """
    for name in plain_files(folder):
        check_name(str(folder), name, manifest)


def check_name(where: str, name: str, manifest: Manifest) -> None:
    """Check one file name.

    Raises:
        IntegrityError: if the manifest does not name it.
    """
    if name not in (MANIFEST, SEAL, *manifest.files):
        what = "a pickle, which can run code," if Path(name).suffix in PICKLE_SUFFIXES else "a file"
        raise IntegrityError(f"{where} has {what} that its manifest does not name: {name}; remove it")


def check_wanted(where: str, manifest: Manifest) -> None:
    """Check the files that a manifest names, before any of them is asked for.

    Raises:
        IntegrityError: unless it is weights.safetensors or nothing.
    """
    for name in manifest.files:
        if name != WEIGHTS:
            raise IntegrityError(f"{where} names {name!r}, and only {WEIGHTS} can belong to a factor; not fetched")
