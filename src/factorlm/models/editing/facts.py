"""Facts to be written into a model: a prompt about a subject, and what shall come after it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from factorlm.errors import InputError
from factorlm.models.causal import CausalLM
from factorlm.settings import Config, explain_validation

PLACE = "{}"
FORM = '"SUBJECT | PROMPT WITH {} | NEW TARGET"'


class EditFact(Config):
    """Something that a model shall say from now on.

    Attributes:
        subject: what the fact is about.
        prompt: a text up to the target, with {} once, in the place of the subject.
        target: what shall come next.
        truth: what came next before; empty if nobody says.
    """

    subject: str = Field(min_length=1)
    prompt: str
    target: str = Field(min_length=1)
    truth: str = ""

    @model_validator(mode="after")
    def _has_one_place(self) -> EditFact:
        if self.prompt.count(PLACE) != 1:
            raise ValueError(f"a prompt with {PLACE} once is wanted, in the subject's place")
        return self

    @property
    def asked(self) -> str:
        """The prompt with its subject."""
        return self.prompt.replace(PLACE, self.subject)

    @property
    def statement(self) -> str:
        """The fact as a sentence."""
        return f"{self.asked} {self.target}."

    @classmethod
    def parse(cls, text: str) -> EditFact:
        """From one line.

        Raises:
            InputError: if it has not three parts.
        """
        parts = [part.strip() for part in text.split("|")]
        if len(parts) != 3:
            raise InputError(f"a fact is given as {FORM}, got {text!r}")
        try:
            return cls(subject=parts[0], prompt=parts[1], target=parts[2])
        except ValidationError as error:
            raise explain_validation(error, f"the fact {text!r}") from None

    @classmethod
    def of_row(cls, row: Mapping[str, Any], where: str = "a fact") -> EditFact:
        """From a row of CounterFact, whose prompt has the subject in it; a prompt with {} is taken as it is.

        Raises:
            InputError: if something is missing, or the subject does not stand in the prompt.
        """
        missing = [key for key in ("subject", "prompt", "target_new") if not isinstance(row.get(key), str)]
        if missing:
            raise InputError(f"{where} needs subject, prompt and target_new as texts, got none of {missing[0]!r}")
        subject, prompt = row["subject"], row["prompt"]
        if PLACE not in prompt:
            if subject not in prompt:
                raise InputError(
                    f"{where} needs its subject {subject!r} in its prompt, got {prompt!r}; write {{}} there"
                )
            prompt = prompt.replace(subject, PLACE, 1)
        try:
            return cls(subject=subject, prompt=prompt.rstrip(), target=row["target_new"].strip(),
                       truth=str(row.get("ground_truth", "")).strip())  # fmt: skip
        except ValidationError as error:
            raise explain_validation(error, where) from None


def read_facts(path: Path) -> list[EditFact]:
    """Facts in JSON lines, such as rows of CounterFact.

    Raises:
        InputError: if the file cannot be read, or a row is no fact.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [(n, json.loads(line)) for n, line in enumerate(lines, 1) if line.strip()]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"facts in JSON lines are needed, got {path}: {reason}") from None
    if not rows:
        raise InputError(f"at least one fact is needed, got an empty {path}")
    return [EditFact.of_row(row if isinstance(row, dict) else {}, f"line {n} of {path}") for n, row in rows]


@dataclass(frozen=True)
class Located:
    """A text as tokens, with the place of its subject.

    Attributes:
        ids: of the start token, if there is one, and of the text.
        place: of the last token of the subject.
    """

    ids: tuple[int, ...]
    place: int


def located(lm: CausalLM, before: str, prompt: str, subject: str, *, with_start: bool = True) -> Located:
    """A prompt with its subject as tokens; the subject's last token is found by its characters, not by its text.

    Args:
        lm: whose tokens.
        before: what stands before the prompt.
        prompt: with {} in the place of the subject.
        subject: that fills it.
        with_start: whether the start token is read first, as everywhere else.
    """
    head, _, rest = prompt.partition(PLACE)
    end = len(before) + len(head) + len(subject)
    found = lm.tokenizer(
        before + head + subject + rest, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    start_ids = lm.start_ids if with_start else ()
    last = max(n for n, (first, _) in enumerate(found.offset_mapping) if first < end)
    return Located((*start_ids, *found.input_ids), len(start_ids) + last)
