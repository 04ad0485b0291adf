"""Retrieval in context: passages that a prompt calls for are read before it, as text or as a factor.

The factor is p(x | passages, prompt) / p(x | prompt): what reading the passages changes, with any exponent.

Source: In-Context Retrieval-Augmented Language Models, Ram et al. (2023), arXiv:2302.00083.
"""

# Axes: B windows read together, P places where passages are looked for, T time.

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt, model_validator

from factorlm.algebra import Named, pad_left, pad_right
from factorlm.errors import InputError
from factorlm.factors.prompt import Conditioned
from factorlm.inference.model import Model
from factorlm.inference.reading import read
from factorlm.memory.passages import Passage, word_ends
from factorlm.memory.retrievers import Hit, Retriever
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet
from factorlm.settings import Config

SHOWN = 80  # characters of a passage in a list
BATCH_TOKENS = 4096  # read at once, padding included; a single window may be longer
PASSAGES = "{passages}"


class Retrieved(Config):
    """How passages are looked for, and how they stand before a prompt.

    Attributes:
        k: passages looked for.
        budget: most tokens that they take, with the template.
        query_tokens: last tokens of the prompt that are looked for.
        template: text around the passages.
        between: text between two of them.
        order: whether the best passage comes last, next to the prompt, or first.
    """

    k: PositiveInt = 3
    budget: PositiveInt = 256
    query_tokens: PositiveInt = 64
    template: str = f"Background:\n{PASSAGES}\n\n"
    between: str = "\n"
    order: Literal["best-last", "best-first"] = "best-last"

    @model_validator(mode="after")
    def _check(self) -> Retrieved:
        if self.template.count(PASSAGES) != 1:
            raise ValueError(f"a template has {PASSAGES} once")
        return self

    def written(self, passages: Sequence[str]) -> str:
        """Passages, the best first, as they are read."""
        ordered = passages if self.order == "best-first" else passages[::-1]
        return self.between.join(ordered).join(self.template.split(PASSAGES))


class Strided(Retrieved):
    """How a text is read with passages that are looked for again and again.

    Attributes:
        stride: tokens that are scored before the next look.
        context: most tokens read at once, in all: passages, history and the tokens that are scored.
        history: "equal" whatever is found, or "filled" with the room that passages leave, so that totals are equal.
        copied: tokens in a row that the passages must have, too, for the last of them to be a copy.
    """

    k: PositiveInt = 1
    budget: PositiveInt = 128
    query_tokens: PositiveInt = 32
    template: str = f"{PASSAGES}\n"
    stride: PositiveInt = 16
    context: PositiveInt = 512
    history: Literal["equal", "filled"] = "equal"
    copied: PositiveInt = 3


@dataclass(frozen=True)
class Background:
    """Passages as they are read before a prompt.

    Attributes:
        text: with the template; empty where nothing was found, or not a word fits.
        token_ids: of it.
        num_passages: in it.
    """

    text: str
    token_ids: tuple[int, ...]
    num_passages: int


NOTHING = Background("", (), 0)


@dataclass(frozen=True)
class Shown:
    """A passage that was found, for people.

    Attributes:
        hit: its number and how well it fits.
        passage: its text, and where that stands.
        is_read: whether it stands before the prompt, maybe cut; others found no room.
    """

    hit: Hit
    passage: Passage
    is_read: bool

    @property
    def beginning(self) -> str:
        """Its first characters, on one line."""
        return " ".join(self.passage.text.split())[:SHOWN]


@dataclass(frozen=True, eq=False)
class Retrieval:
    """What was found for a prompt.

    Attributes:
        query: what was looked for.
        background: what is read before the prompt.
        prompt: with the background before it, to be continued.
        factor: p(x | background, prompt) / p(x | prompt), for a model that is given the prompt alone.
        shown: the passages, the best first.
    """

    query: str
    background: Background
    prompt: str
    factor: Named
    shown: tuple[Shown, ...]


@dataclass(frozen=True, eq=False)
class RetrievedText:
    """A text, read with passages.

    Attributes:
        token_ids: of the text.
        log_prob_T: of each token, in nats.
        is_copied_T: whether each token goes on as the passages do that were read before it; see `Strided.copied`.
        place_P: where passages were looked for: before these tokens.
        hits: what was found there.
    """

    token_ids: tuple[int, ...]
    log_prob_T: NDArray[np.float64]
    is_copied_T: NDArray[np.bool_]
    place_P: NDArray[np.int64]
    hits: tuple[tuple[Hit, ...], ...]


def with_passages(
    lm: CausalLM, passages: Sequence[str], budget: int | None = None, settings: Retrieved | None = None
) -> Background:
    """Passages as they are read before a prompt, in no more tokens than the budget.

    They are added whole while they fit; if not even the first one does, it is cut behind a word.

    Args:
        lm: counts tokens.
        passages: the best first; blank ones are left out.
        budget: most tokens, with the template; None takes that of the settings.
        settings: template and order.
    """
    settings = settings or Retrieved()
    budget = settings.budget if budget is None else budget

    def background(chosen: Sequence[str]) -> Background:
        text = settings.written(chosen)
        return Background(text, tuple(lm.encode_text(text)), len(chosen))

    found, chosen = NOTHING, list[str]()
    for passage in filter(str.strip, passages):
        chosen.append(passage)
        longer = background(chosen)
        if len(longer.token_ids) > budget:
            break
        found = longer
    if found.num_passages or not chosen:
        return found
    ends = word_ends(chosen[0])  # fewer words may, rarely, be more tokens; but what bisection ends at was itself tried
    count = bisect_right(ends, budget, key=lambda end: len(background([chosen[0][:end]]).token_ids))
    return background([chosen[0][: ends[count - 1]]]) if count else NOTHING


def retrieve_for(
    model: Model | CausalLM,
    retriever: Retriever,
    prompt: str,
    settings: Retrieved | None = None,
    *,
    exclude_sources: Collection[str] = (),
    name: str = "retrieved",
) -> Retrieval:
    """Find passages for the end of a prompt; `(model * found.factor**1.5).generate(prompt)` then heeds them.

    Args:
        model: that will continue the prompt.
        retriever: see `memory.retrievers.open_retriever`.
        prompt: the text, whose end is looked for.
        settings: how many passages, and how they are read.
        exclude_sources: files whose passages are not to be found.
        name: of the factor.

    Raises:
        InputError: if background and prompt are more than the model can read.
    """
    settings = settings or Retrieved()
    lm = model.lm if isinstance(model, Model) else model
    token_ids = lm.encode_text(prompt)
    query = lm.vocabulary.text(token_ids[-settings.query_tokens :], errors="ignore")
    [hits] = retriever.search([query], settings.k, retriever.store.documents_of(exclude_sources))
    passages = [retriever.store.passage(hit.passage) for hit in hits]
    background = with_passages(lm, [passage.text for passage in passages], settings=settings)
    total = len(lm.start_ids) + len(background.token_ids) + len(token_ids)
    if total > lm.max_tokens:
        raise InputError(f"{lm.name} reads {lm.max_tokens} tokens, got {total} with passages; take a smaller budget")
    factor = Named(name, Conditioned(lm, background.token_ids) / lm)
    shown = tuple(Shown(hits[n], passages[n], n < background.num_passages) for n in range(len(hits)))
    return Retrieval(query, background, background.text + prompt, factor, shown)


def retrieval_log_probs(
    model: Model | CausalLM,
    text: str,
    retriever: Retriever,
    settings: Strided | None = None,
    *,
    exclude_sources: Collection[str] = (),
    report: Report = quiet,
) -> RetrievedText:
    """Log probability of each token of a text, with passages that are looked for every few tokens.

    Before token 0, s, 2s, ... of stride s the last tokens are the query, and what is found stands before the history:
    start token, passages, history, then the next s tokens, which alone are scored. Before token 0 nothing is asked
    for. The controls are retrievers, "none" and "random".

    Args:
        model: reads; a composition is normalised at each token.
        text: any length.
        retriever: finds passages.
        settings: stride, query, passages and context.
        exclude_sources: files whose passages are not to be found: above all the one that the text is from.
        report: told of tokens scored.

    Raises:
        InputError: if the context has no room for passages, history and stride, or is more than the model can read.
    """
    settings = settings or Strided()
    model = model if isinstance(model, Model) else Model(model, model)
    lm, store, stride, start = model.lm, retriever.store, settings.stride, list(model.lm.start_ids)
    room = settings.context - stride - len(start)
    if room - settings.budget < 1 or settings.context > lm.max_tokens:
        raise InputError(
            f"a context of {settings.budget + stride + len(start) + 1} to {lm.max_tokens} tokens is needed for "
            f"{settings.budget} of passages and a stride of {stride}, got {settings.context}"
        )
    token_ids = lm.encode_text(text)
    places = range(0, len(token_ids), stride)
    queries = [lm.vocabulary.text(token_ids[max(0, p - settings.query_tokens) : p], errors="ignore") for p in places]
    found = retriever.search(queries, settings.k, store.documents_of(exclude_sources))
    known: dict[tuple[int, ...], Background] = {}
    log_prob_T, is_copied_T = np.zeros(len(token_ids)), np.zeros(len(token_ids), np.bool_)
    num_rows = max(1, BATCH_TOKENS // settings.context)
    for first in range(0, len(places), num_rows):
        prefixes, texts, now = list[list[int]](), list[list[int]](), slice(first, first + num_rows)
        for place, hits in zip(places[now], found[now], strict=True):
            key = tuple(hit.passage for hit in hits)
            if key not in known:
                known[key] = with_passages(lm, [store.passage(n).text for n in key], settings=settings)
            passages = known[key].token_ids
            num_history = room - (settings.budget if settings.history == "equal" else len(passages))
            prefixes.append([*start, *passages, *token_ids[max(0, place - num_history) : place]])
            texts.append(token_ids[place : place + stride])
            is_copied_T[place : place + stride] = _copied(token_ids, place, stride, passages, settings.copied)
        reading = read(model.factor, pad_left(prefixes), pad_right(texts))
        for row, place in enumerate(places[now]):
            log_prob_T[place : place + stride] = reading.log_prob_BT[row, : len(texts[row])].double().cpu().numpy()
        report("tokens", min((first + num_rows) * stride, len(token_ids)), len(token_ids))
    return RetrievedText(tuple(token_ids), log_prob_T, is_copied_T, np.array(places), tuple(map(tuple, found)))


def _copied(token_ids: Sequence[int], place: int, stride: int, passages: Sequence[int], length: int) -> list[bool]:
    """Whether each of some tokens ends a run of this length that the passages have."""
    runs = {tuple(passages[n : n + length]) for n in range(len(passages) - length + 1)}
    stops = range(place + 1, min(place + stride, len(token_ids)) + 1)
    return [tuple(token_ids[max(0, stop - length) : stop]) in runs for stop in stops]
