"""The strict base of every settings class and of every file format, and how recipes and --set change settings."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from factorlm.errors import InputError, UnknownNameError


class Config(BaseModel):
    """Frozen and strict: a typo is an error that names its path."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Settings = TypeVar("Settings", bound=Config)


def explain_validation(error: ValidationError, what: str) -> InputError:
    """All complaints of pydantic about `what`, in one line."""
    complaints = "; ".join(
        f"{'.'.join(map(str, item['loc'])) or what}: {item['msg'].lower()}, got {item['input']!r}"[:200]
        for item in error.errors()
    )
    return InputError(f"{what} cannot be used: {complaints}")


def changed(defaults: Settings, recipe: Path | None = None, assignments: Sequence[str] = ()) -> Settings:
    """Settings after a recipe and then after assignments.

    Args:
        defaults: what holds where nothing else is said.
        recipe: a TOML file with some or all of the settings.
        assignments: each "path.to.key=value", the value in TOML; a bare word is taken as text.

    Raises:
        InputError: for a file that cannot be read, an unknown key or a value of the wrong type.
    """
    if recipe is None and not assignments:
        return defaults
    tree = json.loads(defaults.model_dump_json())
    if recipe is not None:
        try:
            _merge(tree, tomllib.loads(recipe.read_text(encoding="utf-8")), str(recipe))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"a recipe in TOML is needed, got {recipe}: {reason}") from None
    for assignment in assignments:
        path, found, text = assignment.partition("=")
        if not found or not path.strip():
            raise InputError(f"--set takes path.to.key=value, got {assignment!r}")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        *folders, key = (name.strip() for name in path.split("."))
        branch: dict[str, Any] = {key: value}
        for name in reversed(folders):
            branch = {name: branch}
        _merge(tree, branch, f"--set {assignment}")
    try:
        return type(defaults).model_validate_json(json.dumps(tree))
    except ValidationError as error:
        raise explain_validation(error, "the settings") from None


def _merge(tree: dict[str, Any], changes: dict[str, Any], source: str) -> None:
    for key, value in changes.items():
        if key not in tree:
            raise UnknownNameError.of("setting", key, tree, f"it came from {source}")
        if isinstance(tree[key], dict) and isinstance(value, dict) and tree[key]:
            _merge(tree[key], value, source)
        else:
            tree[key] = value
