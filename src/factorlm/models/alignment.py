"""Two language models of different tokenizers laid side by side, by the bytes of their tokens and texts."""

# Axes: B texts, D width of a model, N places laid end to end, S shared tokens.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.algebra import pad_right
from factorlm.models.causal import CausalLM
from factorlm.text import Vocabulary

Report = Callable[[str, int, int], None]  # stage, done, total

LONGEST_TEXT = 64  # tokens of each model
BATCH_TOKENS = 1024


@dataclass(frozen=True, eq=False)
class PairedStates:
    """States of two models at places of the same texts where a token ends in both, in single precision on the CPU.

    Attributes:
        old_ND: of the old model.
        new_ND: of the new model; its width may be another.
        text_N: the text of each place.
    """

    old_ND: Tensor
    new_ND: Tensor
    text_N: Tensor


def shared_tokens(old: CausalLM, new: CausalLM) -> tuple[Tensor, Tensor]:
    """The tokens that both vocabularies hold, byte for byte: their numbers in the old one and in the new one, [S].

    Of several old tokens of the same bytes, the one that the old tokenizer writes is taken. Special tokens are left
    out.
    """
    old_ids = _ids_of_bytes(old)
    pairs = [(old_ids[b], token) for token, b in enumerate(new.vocabulary.token_bytes) if b in old_ids]
    return torch.tensor([p[0] for p in pairs], dtype=torch.long), torch.tensor([p[1] for p in pairs], dtype=torch.long)


def paired_states(
    old: CausalLM, new: CausalLM, texts: Sequence[str], report: Report = lambda stage, done, total: None
) -> PairedStates:
    """Read the texts with both models, and pair their states wherever both tokenizations have a token end.

    Texts that a tokenizer does not give back as they were are left out. Of each text the first LONGEST_TEXT tokens
    are read, by either model.
    """
    rows: list[tuple[list[int], list[int]]] = []
    places: list[tuple[list[int], list[int]]] = []
    for text, old_row, new_row in zip(texts, _tokenized(old, texts), _tokenized(new, texts), strict=True):
        pair = (old_row[:LONGEST_TEXT], new_row[:LONGEST_TEXT])
        ends = (_ends(old.vocabulary, pair[0], text), _ends(new.vocabulary, pair[1], text))
        common = sorted(ends[0].keys() & ends[1].keys())
        if common:
            rows.append(pair)
            places.append(([ends[0][byte] for byte in common], [ends[1][byte] for byte in common]))
    states = []
    for side, lm in enumerate((old, new)):
        states.append(_states(lm, [row[side] for row in rows], [place[side] for place in places], report))
    text_N = torch.tensor([n for n, (mine, _) in enumerate(places) for _ in mine], dtype=torch.long)
    return PairedStates(states[0], states[1], text_N)


def _ids_of_bytes(lm: CausalLM) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    several: set[bytes] = set()
    for token, token_bytes in enumerate(lm.vocabulary.token_bytes):
        if token_bytes and found.setdefault(token_bytes, token) != token:
            several.add(token_bytes)
    texts = [text for token_bytes in sorted(several) if (text := _text(token_bytes)) is not None]
    for text, row in zip(texts, _tokenized(lm, texts), strict=True):
        if len(row) == 1 and lm.vocabulary.token_bytes[row[0]] == text.encode():
            found[text.encode()] = row[0]
    return found


def _text(token_bytes: bytes) -> str | None:
    """The text, or None where the bytes are only a part of a letter."""
    try:
        return token_bytes.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _tokenized(lm: CausalLM, texts: Sequence[str]) -> list[list[int]]:
    """As lm.encode_text, for many texts at once."""
    if not texts:
        return []
    read = lm.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)
    return [list(row) for row in read.input_ids]


def _ends(vocabulary: Vocabulary, row: list[int], text: str) -> dict[int, int]:
    """Tokens read by each byte at which one ends, but for the last; none where the tokenizer changed the text."""
    if not text.encode().startswith(vocabulary.decode(row)):
        return {}
    ends: dict[int, int] = {}
    byte = 0
    for count, token in enumerate(row[:-1], 1):
        byte += len(vocabulary.token_bytes[token])
        ends[byte] = count
    return ends


@torch.no_grad()
def _states(lm: CausalLM, rows: list[list[int]], counts: list[list[int]], report: Report) -> Tensor:
    """States after so many tokens of each row, [N, D], in the order of rows and counts."""
    found: list[Tensor] = [torch.empty(0, lm.width)] * len(rows)
    order = sorted(range(len(rows)), key=lambda n: len(rows[n]))
    done = 0
    while done < len(order):
        batch = order[done : done + max(1, BATCH_TOKENS // len(rows[order[done]]))]
        text_BT = pad_right([rows[n] for n in batch])
        hidden_BTD = lm.hidden_before(torch.tensor([lm.start_ids] * len(batch)), text_BT)
        for b, n in enumerate(batch):
            found[n] = hidden_BTD[b, counts[n]].float().cpu()  # the state before token n has read n tokens
        done += len(batch)
        report(f"reading with {lm.name}", done, len(order))
    return torch.cat([torch.empty(0, lm.width), *found])
