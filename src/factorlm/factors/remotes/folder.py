"""A shared store in a folder: a disk, a network drive, or what a web server serves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from factorlm.errors import FetchError, InputError, IntegrityError
from factorlm.factors.remotes.index import INDEX
from factorlm.factors.remotes.place import MAX_INDEX_BYTES, Plan, check_size, copy_limited
from factorlm.factors.store import MANIFEST
from factorlm.files import write_whole, write_whole_folder

LOCK = ".push.lock"
PATIENCE = 30  # seconds that one push waits for another


@dataclass(frozen=True)
class FolderPlace:
    """A folder."""

    folder: Path
    warning: str = ""

    @property
    def address(self) -> str:
        """The path."""
        return str(self.folder)

    def get(self, path: str, into: BinaryIO, limit: int) -> bool:
        """As every place does."""
        found = self._inside(path)
        try:
            if not found.exists():
                return False
            if not found.is_file():
                raise IntegrityError(f"{found} is not a plain file; not read")
            with found.open("rb") as file:
                check_size(found.stat().st_size, limit, str(found))
                copy_limited(file.read, into, limit, str(found))
        except OSError as error:
            raise FetchError(f"{found} cannot be read: {error.strerror or error}; check its permissions") from error
        return True

    def names(self, folder: str) -> list[str] | None:
        """As every place does."""
        found = self._inside(folder)
        try:
            return sorted(path.name for path in found.iterdir()) if found.is_dir() else []
        except OSError as error:
            raise FetchError(f"{found} cannot be read: {error.strerror or error}; check its permissions") from error

    def publish(self, plan: Plan) -> None:
        """As every place does; one push at a time."""
        from filelock import FileLock, Timeout

        try:
            if next(self.folder.glob(f"*/{MANIFEST}"), None) is not None:
                raise InputError(
                    f"{self.folder} holds installed factors, and a shared store keeps versions apart; push elsewhere"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / LOCK, timeout=PATIENCE):
                index = self._inside(INDEX)
                if index.is_file():
                    check_size(index.stat().st_size, MAX_INDEX_BYTES, str(index))
                publication = plan(index.read_bytes() if index.is_file() else None)
                if publication is None:
                    return
                for path, files in publication.folders.items():
                    write_whole_folder(self._inside(path), lambda folder, files=files: _write(folder, files))  # type: ignore[misc]
                write_whole(index, publication.index)
        except Timeout:
            raise FetchError(f"another push to {self.folder} has not ended after {PATIENCE} s; try again") from None
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{self.folder} cannot be written: {reason}; choose another store") from error

    def _inside(self, path: str) -> Path:
        """The file or folder, if no link leads out of the store."""
        try:
            found = (self.folder / path).resolve()
        except (OSError, RuntimeError) as error:  # links in a circle
            reason = getattr(error, "strerror", None) or error
            raise FetchError(f"{self.folder / path} cannot be read: {reason}; check its permissions") from error
        if not found.is_relative_to(self.folder.resolve()):
            raise IntegrityError(f"{self.folder / path} leads out of the store, to {found}; not followed")
        return found


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)
