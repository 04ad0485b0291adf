"""Names of memories: FOLDER, or FOLDER@WHICH with the name of learned weights or of a retriever."""

from __future__ import annotations

from pathlib import Path


def parted(name: Path | str) -> tuple[Path, str]:
    """The folder, and what stands behind its @; "" where nothing does."""
    if "@" not in Path(name).name:
        return Path(name), ""
    folder, _, which = str(name).rpartition("@")
    return Path(folder), which
