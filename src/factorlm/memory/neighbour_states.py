"""The states of documents of any length, read in windows: every next token has one state, and is stored once.

A start token stands before each window. A window reads again the last token of the one before it and the `context`
tokens before that, so behind the first window every state has at least that much to go by.
"""

# Axes: B batch, D width, N states laid end to end, T time.

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from factorlm.algebra import pad_right
from factorlm.errors import InputError
from factorlm.memory.corpus import Document, Troubles
from factorlm.memory.datastore import NeighbourSettings
from factorlm.models import CausalLM

SORTED_BATCHES = 4  # that are read after one another in the order of their lengths, to save padding


@dataclass(frozen=True)
class Stretch:
    """A window of a document.

    Attributes:
        tokens: all but the last are read, and each of them is followed or preceded by a state.
        first_new: the first token whose state was not stored before.
        document: its number.
    """

    tokens: list[int]
    first_new: int
    document: int


@dataclass(frozen=True, eq=False)
class Entries:
    """States, what followed them, and where.

    Attributes:
        hidden_ND: on the CPU, in float32.
        value_N: next tokens.
        owner_N: documents.
    """

    hidden_ND: Tensor
    value_N: Tensor
    owner_N: Tensor


def windows(num_targets: int, window: int, context: int) -> Iterator[tuple[int, int, int]]:
    """How a document is parted: where a window begins, its first new target and its end; each target is new once."""
    start = 0
    while start < num_targets:
        first = max(0, start - 1 - context)
        end = min(num_targets, first + window + 1)
        yield first, start, end
        start = end


def check_window(lm: CausalLM, settings: NeighbourSettings) -> None:
    """Raise InputError if the model cannot read a window."""
    longest = lm.max_tokens - len(lm.start_ids)
    if settings.window > longest:
        raise InputError(f"{lm.name} reads windows of at most {longest} tokens, got {settings.window}; shorten them")


def read_entries(
    lm: CausalLM, documents: Iterable[Document], settings: NeighbourSettings, troubles: Troubles, kept: list[Document]
) -> Iterator[Entries]:
    """The entries of documents in order, some batches at a time.

    Args:
        lm: reads them.
        documents: in any number.
        settings: of windows and batches.
        troubles: where documents without tokens are counted.
        kept: those with tokens are appended to it without their text; the number of a document is its place there.
    """
    group: list[Stretch] = []
    size = 0
    for stretch in _stretches(lm, documents, settings, troubles, kept):
        group.append(stretch)
        size += len(stretch.tokens)
        if size >= SORTED_BATCHES * settings.batch_tokens:
            yield _entries(lm, group, settings.batch_tokens)
            group, size = [], 0
    if group:
        yield _entries(lm, group, settings.batch_tokens)


def _stretches(
    lm: CausalLM, documents: Iterable[Document], settings: NeighbourSettings, troubles: Troubles, kept: list[Document]
) -> Iterator[Stretch]:
    for document in documents:
        tokens = lm.encode_text(document.text)
        if not tokens:
            troubles.note("documents without tokens, left out", f"{document.source}:{document.line}")
            continue
        kept.append(replace(document, text=""))
        if settings.ends:
            tokens.append(lm.vocabulary.end_ids[0])
        for first, start, end in windows(len(tokens), settings.window, settings.context):
            yield Stretch(tokens[first:end], start - first, len(kept) - 1)


def _entries(lm: CausalLM, group: list[Stretch], batch_tokens: int) -> Entries:
    order = sorted(range(len(group)), key=lambda n: len(group[n].tokens))
    states: list[Tensor] = [torch.empty(0)] * len(group)
    for batch in _batches(order, group, batch_tokens):
        text_BT = pad_right([group[n].tokens for n in batch])
        hidden_BTD = lm.hidden_before(torch.tensor([lm.start_ids] * len(batch)), text_BT).float().cpu()
        for n, hidden_TD in zip(batch, hidden_BTD, strict=True):
            states[n] = hidden_TD[group[n].first_new : len(group[n].tokens)].clone()
    new = [stretch.tokens[stretch.first_new :] for stretch in group]
    return Entries(
        torch.cat(states),
        torch.tensor([token for tokens in new for token in tokens]),
        torch.repeat_interleave(
            torch.tensor([s.document for s in group]), torch.tensor([len(tokens) for tokens in new])
        ),
    )


def _batches(order: list[int], group: list[Stretch], batch_tokens: int) -> Iterator[list[int]]:
    """Windows of rising length; none too large with its padding, unless it is a single one."""
    batch: list[int] = []
    for n in order:
        if batch and (len(batch) + 1) * len(group[n].tokens) > batch_tokens:
            yield batch
            batch = []
        batch.append(n)
    if batch:
        yield batch
