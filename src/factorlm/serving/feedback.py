"""What clients say of responses: how it comes in, how much of it, and how it is given out again."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, model_validator

from factorlm.errors import InputError
from factorlm.serving.database import Feedback
from factorlm.settings import Config

LONGEST_ID, LONGEST_TEXT, LONGEST_COMMENT = 200, 1 << 17, 1 << 13  # characters
LONGEST_SETTING = 1 << 16  # characters of JSON
MOST_GIVEN = 1000  # at once
LARGEST = 2**63 - 1  # number that SQLite keeps

Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
Id = Annotated[int, Field(ge=1, le=LARGEST)]


class FeedbackRequest(Config):
    """What somebody says of a response: a thumb, a better text, or words.

    Attributes:
        response_id: as the response had it.
        choice: which of its texts.
        prompt: what it answers.
        text: the response.
        thumb: "up" or "down".
        edit: what the response should have been.
        comment: in words.
        setting: what it was written with.
        model: that wrote it.
    """

    response_id: Annotated[str, Field(max_length=LONGEST_ID)] = ""
    choice: Annotated[NonNegativeInt, Field(le=LARGEST)] = 0
    prompt: Text
    text: Text
    thumb: Literal["up", "down"] | None = None
    edit: Text | None = None
    comment: Annotated[str, Field(max_length=LONGEST_COMMENT)] | None = None
    setting: dict[str, Any] | None = None
    model: Annotated[str, Field(max_length=LONGEST_ID)] = ""

    @model_validator(mode="after")
    def _check(self) -> FeedbackRequest:
        if self.thumb is None and self.edit is None and not self.comment:
            raise ValueError("a thumb, an edit or a comment is needed, got none of them")
        return self

    def of(self, tenant: str) -> Feedback:
        """As it is kept.

        Raises:
            InputError: if the setting is too long.
        """
        setting = self.setting or {}
        try:
            length = len(json.dumps(setting, allow_nan=False))
        except (ValueError, RecursionError) as error:
            raise InputError(f"a setting is a JSON object with finite numbers, got another: {error}") from None
        if length > LONGEST_SETTING:
            raise InputError(
                f"a setting of at most {LONGEST_SETTING:,} characters is kept, got {length:,}; leave something out"
            )
        return Feedback(tenant=tenant, **{**dict(self), "setting": setting})


class Kept(BaseModel):
    """The answer to feedback: it is on the disk.

    Attributes:
        id: its number.
    """

    id: Id


class FeedbackItem(BaseModel):
    """What somebody said, and when."""

    id: Id
    created: str
    response_id: str
    choice: int
    prompt: str
    text: str
    thumb: Literal["up", "down"] | None
    edit: str | None
    comment: str | None
    setting: dict[str, Any]
    model: str

    @classmethod
    def of(cls, found: Feedback) -> FeedbackItem:
        """What clients see of it."""
        return cls(**{name: value for name, value in asdict(found).items() if name != "tenant"})


class FeedbackList(BaseModel):
    """Some feedback, the oldest first.

    Attributes:
        data: the feedback.
        after: what to ask for the rest with; none if that was all.
    """

    object: Literal["list"] = "list"
    data: list[FeedbackItem]
    after: PositiveInt | None


class Deleted(BaseModel):
    """The answer to a deletion.

    Attributes:
        deleted: how many there were.
    """

    deleted: NonNegativeInt
