"""Fields of bodies: names, numbers, fields that come in several forms, and fields that mean nothing here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, StringConstraints, Tag, WithJsonSchema
from pydantic_core import PydanticCustomError

from factorlm.factors.manifest import NAME_PATTERN
from factorlm.serving.settings import PLACE_PATTERN
from factorlm.settings import Config

LARGEST_EXPONENT = 1000.0
LARGEST_STRENGTH = 100.0
LARGEST_SEED = 2**62  # a number that floats have exactly, as OpenAPI needs

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
GuideName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}(:[^\x00-\x1f]{1,64})?$")]
PlaceName = Annotated[str, StringConstraints(pattern=PLACE_PATTERN)]
Text = Annotated[str, StringConstraints(min_length=1)]
Exponent = Annotated[float, Field(ge=-LARGEST_EXPONENT, le=LARGEST_EXPONENT)]
Strength = Annotated[float, Field(ge=-LARGEST_STRENGTH, le=LARGEST_STRENGTH)]


def _empty(value: Any) -> Any:
    if value:
        raise PydanticCustomError("unsupported", "it is not honoured here")
    return value


def _unsupported(**schema: Any) -> tuple[AfterValidator, WithJsonSchema]:
    """A field of OpenAI's that only takes what asks for nothing."""
    told = {**schema, "description": "Not honoured here: leave it out."}
    return AfterValidator(_empty), WithJsonSchema(told)


Zero = Annotated[float, *_unsupported(type="number", minimum=0, maximum=0)]
Never = Annotated[bool, *_unsupported(enum=[False])]
Nothing = Annotated[str | None, *_unsupported(enum=[None, ""])]
NoObject = Annotated[dict[str, Any], *_unsupported(type="object", maxProperties=0)]
NoList = Annotated[list[Any], *_unsupported(type="array", maxItems=0)]


def forms(*known: str) -> Discriminator:
    """Which form of a field came, so that complaints are about that one; what has none of them counts as the first."""

    def form_of(value: Any) -> str:
        found = "<list>" if isinstance(value, list) else "<object>" if isinstance(value, (dict, Config)) else "<plain>"
        return found if found in known else known[0]

    return Discriminator(form_of)


def dose_form(value: Any) -> str:
    """Which form of a dose came: a number, or an object with one of two names."""
    if not isinstance(value, (dict, Config)):
        return "<plain>"
    given = value if isinstance(value, dict) else value.model_fields_set
    return "<exponent>" if "exponent" in given else "<strength>"


TextOrList = Annotated[
    Annotated[Text, Tag("<plain>")] | Annotated[list[Text], Field(min_length=1), Tag("<list>")],
    forms("<plain>", "<list>"),
]


class Body(Config):
    """What all bodies are: strict, and without numbers that are none."""

    model_config = ConfigDict(allow_inf_nan=False)
