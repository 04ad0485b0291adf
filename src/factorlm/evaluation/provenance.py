"""How numbers came about: machine, versions, commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("factorlm", "torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn")


def versions() -> dict[str, str]:
    """Of Python and of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Processor and cores, or accelerator."""
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.is_file() else None
    return f"{found[1] if found else platform.machine()}, {os.cpu_count()} cores"


@lru_cache(maxsize=1)
def commit() -> str | None:
    """Of this code, with "+" for changes since; None where it is not a checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        if not Path(git("rev-parse", "--show-toplevel"), "src/factorlm/evaluation").is_dir():
            return None
        return git("rev-parse", "--short", "HEAD") + "+" * bool(git("status", "--porcelain", "--", str(here.parent)))
    except (OSError, subprocess.SubprocessError):
        return None
