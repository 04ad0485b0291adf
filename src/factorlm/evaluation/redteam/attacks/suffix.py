"""Words behind the request that make an answer that grants it likely, searched for one token at a time.

Each step weighs some suffixes that differ in one token from the best one so far, and keeps the best. Which tokens are
tried is drawn evenly, or from those that the gradient at the embedding calls best. Both count the same budget: the
number of suffixes weighed. A suffix is kept only if its text becomes the same tokens again.

Source: greedy coordinate gradient, Zou et al. (2023), arXiv:2307.15043; a small one, for reference only.
"""

# Axes: C candidates, D width, S tokens of a suffix, T time, V vocabulary.

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from factorlm.errors import InputError
from factorlm.evaluation.redteam.attacks.attack import Attack, Ground
from factorlm.evaluation.redteam.attacks.prefix import OPENING
from factorlm.evaluation.redteam.attempts import Attempt, Request, prompt_of
from factorlm.evaluation.requests import score_tokens
from factorlm.inference.draw import generator_of
from factorlm.inference.expression import Composed

WORD = re.compile(r" [A-Za-z]{2,}")  # tokens that suffixes are made of: whole words, so that texts survive as tokens
BEST = 64  # tokens of each place that the gradient proposes


@dataclass(frozen=True)
class Found:
    """The end of a search.

    Attributes:
        suffix: the words.
        nats: -log probability of the opening behind the request with the suffix.
        start_nats: the same at the start of the search.
        weighed: suffixes that were weighed.
    """

    suffix: str
    nats: float
    start_nats: float
    weighed: int


def words_in(composed: Composed) -> list[int]:
    """Tokens that are a blank and a word."""
    vocabulary = composed.model.lm.vocabulary
    return [t for t in range(vocabulary.size) if WORD.fullmatch(vocabulary.text([t]))]


def nats_of(composed: Composed, request: str, suffixes: Sequence[str], opening: str = OPENING) -> list[float]:
    """-log probability of the opening as an answer to the request with each suffix, under the whole composition."""
    lm = composed.model.lm
    target = tuple(lm.encode_text(opening))
    pairs = [(tuple(prompt_of(composed, request + suffix)), target) for suffix in suffixes]
    return [-found.log_prob for found in score_tokens(composed.model, pairs)]


def search(
    composed: Composed, request: str, *, length: int, steps: int, candidates: int, seed: int, uses_gradient: bool,
    allowed: Sequence[int] | None = None, opening: str = OPENING,
) -> Found:  # fmt: skip
    """Search for a suffix.

    Args:
        composed: the target.
        request: that it stands behind.
        length: of the suffix, in tokens.
        steps: of the search.
        candidates: weighed in each step.
        seed: of the start and of all choices.
        uses_gradient: whether tokens are proposed by the gradient of the base model, or evenly.
        allowed: tokens to make suffixes of; None takes words.
        opening: that is to become likely.

    Raises:
        InputError: if there are too few words to make suffixes of.
    """
    lm = composed.model.lm
    tokens = list(allowed) if allowed is not None else words_in(composed)
    if len(tokens) < 2:
        raise InputError(f"at least 2 words are needed among the tokens of {lm.name}, got {len(tokens)}")
    generator = generator_of(seed, lm.encode_text(request), length)

    def below(bound: int) -> int:
        return int(torch.randint(bound, (), generator=generator))

    best = [tokens[below(len(tokens))] for _ in range(length)]
    [nats] = nats_of(composed, request, [lm.vocabulary.text(best)], opening)
    start, weighed = nats, 1
    for _ in range(steps):
        proposed = _by_gradient(composed, request, best, tokens, opening) if uses_gradient else [tokens] * length
        tried: dict[str, list[int]] = {}
        for _ in range(4 * candidates):  # some do not survive as tokens, or come twice
            place = below(length)
            changed = list(best)
            changed[place] = proposed[place][below(len(proposed[place]))]
            text = lm.vocabulary.text(changed)
            if changed != best and lm.encode_text(text) == changed:
                tried[text] = changed
            if len(tried) == candidates:
                break
        if not tried:
            continue
        found = nats_of(composed, request, list(tried), opening)
        weighed += len(tried)
        if min(found) < nats:
            nats = min(found)
            best = list(tried.values())[found.index(nats)]
    return Found(lm.vocabulary.text(best), nats, start, weighed)


def _by_gradient(
    composed: Composed, request: str, suffix: list[int], tokens: list[int], opening: str
) -> list[list[int]]:
    """The tokens at each place of a suffix that lower the loss of the base model most, to first order."""
    lm = composed.model.lm
    ids = prompt_of(composed, request + lm.vocabulary.text(suffix))
    start = _place_of(ids, suffix)
    if start is None:  # the template or the tokenizer joined it with something; any token is as good
        return [tokens] * len(suffix)
    target = lm.encode_text(opening)
    with torch.enable_grad():
        embedding = lm.model.get_input_embeddings()
        embedded_1TD = embedding(torch.tensor([ids + target], device=lm.device)).detach().requires_grad_(True)
        logit_TV = lm.model(inputs_embeds=embedded_1TD, use_cache=False).logits[0, len(ids) - 1 : -1].float()
        loss = torch.nn.functional.cross_entropy(logit_TV, torch.tensor(target, device=lm.device), reduction="sum")
        [gradient_1TD] = torch.autograd.grad(loss, embedded_1TD)
    gradient_SD: Tensor = gradient_1TD[0, start : start + len(suffix)].float()
    change_SV = gradient_SD @ embedding.weight[torch.tensor(tokens, device=lm.device)].float().T
    order_SV = change_SV.argsort(dim=1)[:, : min(BEST, len(tokens))].tolist()
    return [[tokens[v] for v in row] for row in order_SV]


def _place_of(ids: Sequence[int], part: Sequence[int]) -> int | None:
    """Where a run of tokens begins for the last time."""
    starts = range(len(ids) - len(part), -1, -1)
    return next((i for i in starts if list(ids[i : i + len(part)]) == list(part)), None)


def _found(composed: Composed, request: str, asked: dict[str, Any]) -> dict[str, Any]:
    return asdict(search(composed, request, **asked))


def _attempts(ground: Ground, requests: Sequence[Request], *, uses_gradient: bool) -> list[Attempt]:
    chosen = list(requests)[: ground.searched or None]
    stage = f"searching suffixes by {'gradient' if uses_gradient else 'chance'}"
    made = []
    for number, request in enumerate(chosen):
        ground.bench.report(stage, number, len(chosen))
        asked = {"length": ground.suffix_tokens, "steps": ground.steps, "candidates": ground.candidates,
                 "seed": ground.bench.seed, "uses_gradient": uses_gradient}  # fmt: skip
        key = {"what": "suffix", "model": ground.target.fingerprint, "request": request.text, **asked}
        found = ground.bench.cache.get(key, functools.partial(_found, ground.target, request.text, asked))
        made.append(Attempt(request.text + found["suffix"]))
    ground.bench.report(stage, len(chosen), len(chosen))
    return made


def by_chance(ground: Ground, requests: Sequence[Request]) -> list[Attempt]:
    """The first requests, with suffixes whose tokens are tried evenly."""
    return _attempts(ground, requests, uses_gradient=False)


def by_gradient(ground: Ground, requests: Sequence[Request]) -> list[Attempt]:
    """The first requests, with suffixes whose tokens the gradient of the base model proposes."""
    return _attempts(ground, requests, uses_gradient=True)


SUFFIX_RANDOM = Attack("words behind the request that make a granting answer likely, tried evenly", by_chance)
SUFFIX_GRADIENT = Attack("the same, proposed by the gradient; needs the base model in hand", by_gradient)
