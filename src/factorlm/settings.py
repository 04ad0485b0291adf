"""The strict base of every settings class and of every file format."""

from pydantic import BaseModel, ConfigDict, ValidationError

from factorlm.errors import InputError


class Config(BaseModel):
    """Frozen and strict: a typo is an error that names its path."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def explain_validation(error: ValidationError, what: str) -> InputError:
    """All complaints of pydantic about `what`, in one line."""
    complaints = "; ".join(
        f"{'.'.join(map(str, item['loc'])) or what}: {item['msg'].lower()}, got {item['input']!r}"[:200]
        for item in error.errors()
    )
    return InputError(f"{what} cannot be used: {complaints}")
