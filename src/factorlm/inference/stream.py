"""Responses while they are being written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from factorlm.algebra import flatten, leaves, merge, pad_left, pad_right, unflatten
from factorlm.factors.sequence import Check
from factorlm.inference.doubt import Doubt
from factorlm.inference.drafts import Draft, ModelDraft
from factorlm.inference.explanation import Explanation
from factorlm.inference.local import Event, Row, sample_local
from factorlm.inference.reading import read, read_base
from factorlm.inference.results import Response
from factorlm.inference.speculation import Tally, sample_speculative
from factorlm.prior.mixture import Together

if TYPE_CHECKING:
    from factorlm.algebra import Factor
    from factorlm.inference.draw import Sampling
    from factorlm.inference.memories import Recalled
    from factorlm.text import Vocabulary


class Stream(Iterator[Event]):
    """Responses being written; iterate to write them, then ask for them.

    Attributes:
        rows: the texts.
        tally: how guessing went, where a draft guesses.
    """

    def __init__(
        self,
        factor: Factor,
        vocabulary: Vocabulary,
        rows: list[Row],
        prompts: list[str],
        max_tokens: int,
        sampling: Sampling,
        draft: Draft | ModelDraft | None = None,
    ) -> None:
        self.rows = rows
        self.tally = Tally()
        self._factor, self._vocabulary, self._prompts = factor, vocabulary, prompts
        self._events = (
            sample_local(factor, rows, max_tokens=max_tokens, sampling=sampling)
            if draft is None
            else sample_speculative(factor, rows, draft, max_tokens=max_tokens, sampling=sampling, tally=self.tally)
        )

    def __next__(self) -> Event:
        return next(self._events)

    def responses(self, *, explain: bool = False) -> list[Response]:
        """The finished responses, in the order of the prompts."""
        return responses_of(self._factor, self._vocabulary, self.rows, self._prompts, explain=explain)


@torch.inference_mode()
def responses_of(
    factor: Factor, vocabulary: Vocabulary, rows: list[Row], prompts: list[str], *, explain: bool
) -> list[Response]:
    """Responses from rows that were written, each with its prompt."""
    texts = pad_left([row.prompt_ids for row in rows]), pad_right([row.token_ids for row in rows])
    terms = flatten(factor)
    if any(isinstance(term.factor, Check) for term in terms):  # it pushes nothing, and asking it is dear
        factor = unflatten([term for term in terms if not isinstance(term.factor, Check)])
    base = merge(terms)[0].factor
    reading = read(factor, *texts, with_contributions=True) if explain else read_base(factor, *texts)
    return [
        Response(
            prompt=prompt,
            prompt_ids=tuple(row.prompt_ids),
            text=row.stream.text,
            token_ids=tuple(row.token_ids),
            log_prob=math.fsum(row.log_probs),
            base_log_prob=float(reading.base_log_prob_BT[b].double().sum()),
            finish_reason=row.finish_reason or "length",
            exponents=dict(zip(reading.names, reading.exponents_BK[b].tolist(), strict=True)),
            explanation=Explanation.of(reading, b, row.token_ids, vocabulary, prompt)
            if explain and row.token_ids
            else None,
            doubt=Doubt.of(base, base.names, row.prompt_ids, row.token_ids)
            if explain and row.token_ids and isinstance(base, Together)
            else None,
            recalled=_recalled(factor, row) if explain and row.token_ids else (),
        )
        for b, (row, prompt) in enumerate(zip(rows, prompts, strict=True))
    ]


def _recalled(factor: Factor, row: Row) -> tuple[Recalled, ...]:
    """What the memories of a composition said of a text."""
    if not any(hasattr(leaf, "recollect") for leaf in leaves(factor)):  # the room of memories is dear to import
        return ()
    from factorlm.inference.memories import Recalled, memories_in

    return tuple(Recalled.of(memory, row.prompt_ids, row.token_ids) for memory in memories_in(factor))
