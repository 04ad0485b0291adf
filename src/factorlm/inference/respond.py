"""Responses of a prior: one component for each, or all of them at once."""

# Axes: B responses.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from factorlm.algebra import Factor, Product
from factorlm.errors import InputError, UnknownNameError
from factorlm.inference.doubt import Doubt
from factorlm.inference.draw import Sampling, generator_of
from factorlm.inference.model import PLAIN, Model
from factorlm.inference.results import Response
from factorlm.prior import Prior

MODES = {
    "response": "a component is drawn for each response and writes all of it",
    "bayes": "all components write, weighed by their posterior given the text so far: the same law",
    "blend": "all components write, with fixed weights at each token: another law, which can change its mind",
}
Mode = Literal["response", "bayes", "blend"]


def respond(
    prior: Prior,
    prompts: str | Sequence[str],
    *,
    n: int = 1,
    mode: Mode = "response",
    repeat: bool = False,
    query_is_evidence: bool = False,
    factors: Factor | None = None,
    max_tokens: int = 64,
    seed: int = 0,
    sampling: Sampling = PLAIN,
    chat: bool = False,
    explain: bool = False,
) -> list[Response]:
    """Answer each prompt n times; responses come prompt by prompt and say which component wrote them.

    Args:
        prior: to draw components from.
        prompts: one text or several.
        n: responses to each.
        mode: see MODES.
        repeat: draw components independently; otherwise each comes once before any comes again, so that a few
            responses show different hypotheses.
        query_is_evidence: weigh components by the prompt before anything is drawn: mu_k p_k(prompt) in the place of
            mu_k, which takes the prompt as given.
        factors: bound factors that every response is multiplied with; weights of components are not changed by them,
            that is what `Prior.tilt` does.
        max_tokens: most tokens of a response.
        seed: of all randomness.
        sampling: how tokens are drawn.
        chat: whether a prompt is a message to be answered.
        explain: whether to find what factors did, and what the prior did not know, at each token.

    Raises:
        InputError: as `Model.generate`.
    """
    if mode not in MODES:
        raise UnknownNameError.of("mode", mode, MODES)
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if n < 1:
        raise InputError(f"n is at least 1, got {n}")
    if query_is_evidence and chat:
        raise InputError("a message is no text of the prior's, so it cannot weigh components; leave out one of both")
    priors = [prior.posterior([text]) if query_is_evidence else prior for text in texts]

    def written(factor: Factor, about: list[str], number: int) -> list[Response]:
        composed = factor if factors is None else Product((factor, factors))
        return Model(composed, prior.lm).generate(
            about, n=number, max_tokens=max_tokens, seed=seed, sampling=sampling, chat=chat, explain=explain
        )

    if mode != "response":
        if not query_is_evidence:
            return written(prior.mixture if mode == "bayes" else prior.blend, texts, n)
        found = [
            written(own.mixture if mode == "bayes" else own.blend, [text], n)
            for own, text in zip(priors, texts, strict=True)
        ]
        return [response for responses in found for response in responses]
    drawn = [own.draw(n, _generator(prior, seed, text), repeat=repeat) for own, text in zip(priors, texts, strict=True)]
    component_B = torch.cat(drawn)
    responses = written(prior.per_response(component_B), texts, n)
    owners = [own for own in priors for _ in range(n)]
    return [
        replace(
            response,
            component=prior.names[k],
            doubt=Doubt.of(own.mixture, prior.names, response.prompt_ids, response.token_ids)
            if explain and response.token_ids
            else None,
        )
        for response, k, own in zip(responses, component_B.tolist(), owners, strict=True)
    ]


def _generator(prior: Prior, seed: int, text: str) -> torch.Generator:
    """Randomness of the components for a prompt; that of tokens is another."""
    return generator_of(seed, [-1, *prior.lm.encode_text(text)], 0)
