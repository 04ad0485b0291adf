"""The seal of a folder: a file of checksums, in the format of sha256sum, so that every changed byte is found.

`factor.json` carries the sha256 of the weights, but nothing in it can vouch for itself; `factor.sha256` does. A seal
finds accidents: bad disks, cut-off copies, an edit by hand. Somebody who can write the folder can write its seal, too.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from factorlm.errors import IntegrityError
from factorlm.files import write_whole
from factorlm.models.download import file_sha256

SEAL = "factor.sha256"


def digest_of(folder: Path) -> str:
    """One number for a factor: the sha256 of its factor.json, which holds the sha256 of every other file.

    Raises:
        IntegrityError: if it cannot be read.
    """
    try:
        return file_sha256(folder / "factor.json")
    except OSError as error:
        reason = error.strerror or error
        raise IntegrityError(
            f"{folder} is no factor: factor.json cannot be read ({reason}); install it again"
        ) from None


def seal(folder: Path) -> None:
    """Write the checksums of all files of a folder into its seal.

    Raises:
        IntegrityError: if something in it is not a plain file, or cannot be read.
        OSError: if the folder cannot be written.
    """
    write_whole(folder / SEAL, "".join(_lines(folder)))


def check_seal(folder: Path) -> None:
    """Check that the files of a folder, their names and their bytes, are those that were sealed.

    Raises:
        IntegrityError: naming the first file that is missing, added or changed, or the seal itself.
    """
    try:
        sealed = (folder / SEAL).read_bytes()
    except OSError:
        raise IntegrityError(
            f"{folder} has no {SEAL}, so a change of factor.json could not be seen; save or pull the factor again"
        ) from None
    lines = list(_lines(folder))
    if sealed == "".join(lines).encode():
        return
    known = sealed.split(b"\n")
    for line in lines:
        if line.strip().encode() not in known:
            name = line.split()[-1]
            raise IntegrityError(
                f"{folder / name} is not the file that was sealed: its sha256 is {line[:12]}…, which {SEAL} does not "
                "say; undo the change, or pull or save the factor again"
            )
    raise IntegrityError(f"{folder / SEAL} does not match the files beside it; save or pull the factor again")


def plain_files(folder: Path) -> list[str]:
    """Names of the files in a folder, sorted.

    Raises:
        IntegrityError: if there is a link, a folder or a device among them, or they cannot be listed.
    """
    try:
        paths = sorted(folder.iterdir())
        for path in paths:
            if not stat.S_ISREG(path.lstat().st_mode):
                raise IntegrityError(f"{path} is a link or a folder; a factor has plain files only; remove it")
    except OSError as error:
        raise IntegrityError(f"{folder} cannot be read: {error.strerror or error}; see to its rights") from None
    return [path.name for path in paths]


def _lines(folder: Path) -> Iterator[str]:
    for name in plain_files(folder):
        if name == SEAL:
            continue
        try:
            yield f"{file_sha256(folder / name)}  {name}\n"
        except OSError as error:
            reason = error.strerror or error
            raise IntegrityError(f"{folder / name} cannot be read: {reason}; see to its rights") from None
