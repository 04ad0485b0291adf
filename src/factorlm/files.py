"""Files and folders appear whole or not at all."""

import contextlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

PATIENCE = 0.05  # seconds that a folder may be missing while somebody puts a new one in its place
_SUPERSEDED = re.compile(r"\.(.+)\.[0-9a-f]{32}\.old")
_LEFT = re.compile(r"\..+\.[0-9a-f]{32}\.(partial|old|removed)")


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name, then rename it; the folder is made if it is not there.

    Raises:
        OSError: if the place cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path, "partial")
    try:
        with partial.open("xb") as file:  # never through a link that somebody laid there
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole_folder(target: Path, write: Callable[[Path], None], *, is_durable: bool = False) -> None:
    """Write a folder beside its place, then put it there in one step; one that was there is superseded.

    Args:
        target: the folder.
        write: fills an empty folder with files.
        is_durable: whether it is on the disk itself, and so outlives a loss of power, before the old one goes.

    Raises:
        OSError: if the place cannot be written; what was there stays.
    """
    recover_folders(target.parent)
    partial, old = _beside(target, "partial"), _beside(target, "old")
    try:
        partial.mkdir(parents=True)
        write(partial)
        if is_durable:
            for path in (*partial.iterdir(), partial):
                sync(path)
        try:
            if target.exists():
                os.replace(target, old)
            os.replace(partial, target)
            if is_durable:
                sync(target.parent)
        except BaseException:  # an interruption, too, may come between the two
            if old.exists() and not target.exists():
                os.replace(old, target)
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


def recover_folders(parent: Path) -> None:
    """Put back folders that a writer moved aside and then, killed, could not replace."""
    if not _orphans(parent):
        return
    time.sleep(PATIENCE)  # it may be a living writer that stands between its two steps
    for target, moved in _orphans(parent).items():
        with contextlib.suppress(OSError):  # read-only, or somebody else was faster
            os.replace(moved, target)


def sweep_folders(parent: Path) -> None:
    """Take away what killed writers left, and put back what they had moved aside; nobody may be writing there."""
    recover_folders(parent)
    for path in parent.glob(".*"):
        if _LEFT.fullmatch(path.name):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk.

    Raises:
        OSError: if the disk refuses.
    """
    if path.is_dir() and os.name == "nt":  # where folders cannot be opened
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_folder(folder: Path) -> None:
    """Take a folder away in one step, with what killed writers left of it.

    Raises:
        OSError: if it cannot be moved.
    """
    doomed = _beside(folder, "removed")
    os.replace(folder, doomed)
    remains = [moved for target, moved in _superseded(folder.parent) if target == folder]
    for path in (doomed, *remains):
        shutil.rmtree(path, ignore_errors=True)


def _beside(path: Path, end: str) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.{end}")


def _orphans(parent: Path) -> dict[Path, Path]:
    """What was moved aside with nothing in its place: by the place, one folder each."""
    return {target: moved for target, moved in _superseded(parent) if not target.exists()}


def _superseded(parent: Path) -> list[tuple[Path, Path]]:
    """Folders that were moved aside, each after the place that it had."""
    found = ((_SUPERSEDED.fullmatch(path.name), path) for path in parent.glob(".*.old"))
    return [(parent / match[1], path) for match, path in found if match]
