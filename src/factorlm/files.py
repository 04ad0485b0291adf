"""Files and folders appear whole or not at all."""

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name, then rename it; the folder is made if it is not there.

    Raises:
        OSError: if the place cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Write a folder beside its place, then put it there in one step; one that was there is superseded.

    Args:
        target: the folder.
        write: fills an empty folder.

    Raises:
        OSError: if the place cannot be written; what was there stays.
    """
    partial, old = (target.with_name(f".{target.name}.{uuid.uuid4().hex}.{end}") for end in ("partial", "old"))
    try:
        partial.mkdir(parents=True)
        write(partial)
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(partial, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
