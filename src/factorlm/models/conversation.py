"""Conversations as tokens: marks between turns come from the model's template alone, never from what people wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from factorlm.errors import InputError
from factorlm.text import is_utf8

PLACE = "\ue000{}\ue001"  # private-use characters stand for a content while the template is filled in


def encode_turns(tokenizer: Any, name: str, turns: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of a conversation that the model is to go on with.

    Names of special tokens in a content are plain text, so that nobody can write turns of somebody else.

    Args:
        tokenizer: of the model, with its template.
        name: of the model.
        turns: each with a `role` and a `content`.

    Raises:
        InputError: if the model has no template, the template refuses the turns, or moves their contents about so that
            names of special tokens in them could not be told apart.
    """
    if not tokenizer.chat_template:
        raise InputError(f"{name} has no chat template, so it cannot be asked; continue a text instead")
    contents = [turn["content"] for turn in turns]
    for content in contents:
        if not is_utf8(content):
            raise InputError(f"UTF-8 text is needed, got {content[:40]!r} with bytes that are none; convert it")
    special = [str(token) for token in tokenizer.get_added_vocab()]
    if not any(token in content for content in contents for token in special):
        return list(tokenizer(_filled_in(tokenizer, name, turns), add_special_tokens=False).input_ids)
    marked = [{**turn, "content": PLACE.format(number)} for number, turn in enumerate(turns)]
    text = _filled_in(tokenizer, name, marked)
    parts = re.split("\ue000(\\d+)\ue001", text)
    if sorted(parts[1::2], key=int) != [str(number) for number in range(len(turns))]:
        named = next(token for token in special if any(token in content for content in contents))
        raise InputError(f"{name} cannot read {named!r} in a message as plain text; take it out")
    found: list[int] = []
    for place, part in enumerate(parts):
        is_content = place % 2 == 1
        piece = contents[int(part)] if is_content else part
        found += tokenizer(piece, add_special_tokens=False, split_special_tokens=is_content).input_ids
    return found


def _filled_in(tokenizer: Any, name: str, turns: Sequence[Mapping[str, str]]) -> str:
    try:
        return str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template is a program of the model's makers
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"the chat template of {name} refuses these messages: {reason}") from error
