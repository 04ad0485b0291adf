"""Texts that are written as a whole: by particles, by a meaning, by one component of a prior, or to be explained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from factorlm.algebra import Term, unflatten
from factorlm.errors import InputError
from factorlm.inference import Response, guided, respond
from factorlm.serving.composition import Composer
from factorlm.serving.jobs import Job, Piece

Report = Callable[[str, int, int], None]


class Cancelled(Exception):
    """Nobody waits for these texts any more."""


def written_whole(composer: Composer, job: Job, report: Report) -> Iterator[list[Piece]]:
    """The pieces of each text when it is whole, prompt by prompt.

    Args:
        composer: over a reader of the model that no other thread uses.
        job: what is asked for.
        report: called as work goes on; it may raise Cancelled.
    """
    for number, (prompt_ids, text) in enumerate(zip(job.prompts, job.prompt_texts, strict=True)):
        report("texts", number, len(job.prompts))
        for sample, response in enumerate(_responses(composer, job, prompt_ids, text, report)):
            yield _pieces(composer, response, number * job.n + sample)


def _responses(composer: Composer, job: Job, prompt_ids: tuple[int, ...], text: str, report: Report) -> list[Response]:
    recipe = job.recipe
    is_chat = list(prompt_ids) != [*composer.served.lm.start_ids, *composer.served.lm.encode_text(text)]
    about: dict[str, Any] = {"n": job.n, "seed": job.seed}
    options: dict[str, Any] = {
        **about, "max_tokens": job.max_tokens, "sampling": job.sampling, "explain": job.explain, "chat": is_chat,
    }  # fmt: skip
    if is_chat and list(prompt_ids) != composer.served.lm.encode_message(text):
        raise InputError("such a text answers one message; send a single user message, or take the local sampler")
    if recipe.prior is not None and recipe.prior[2] == "response":
        factors = composer.with_factors(composer.served, recipe).terms[1:]
        if recipe.memories:
            raise InputError("a component of a prior writes without memories; take mode bayes or blend")
        if recipe.language is not None:
            factors = [*factors, Term(composer.language(*recipe.language))]
        prior = composer.prior(recipe.prior[1])
        return respond(prior, text, mode="response", factors=unflatten(factors) if factors else None, **options)
    model = composer.compose(recipe, text)
    if recipe.guides:
        if is_chat:
            raise InputError("guides continue a text, got messages; use /v1/completions")
        meant = guided(model, dict(recipe.guides))
        planned, proposal = meant.planned(text, apart=job.explain, **about)
        return meant.with_plans(planned.generate(text, **options), proposal)
    return model.generate(text, particles=job.particles, report=report, **options)


def _pieces(composer: Composer, response: Response, row: int) -> list[Piece]:
    """A piece for each token; what is known of the whole text comes with the last one."""
    vocabulary = composer.served.lm.vocabulary
    told = response.explanation
    tokens = response.token_ids
    texts = list(told.tokens if told is not None else vocabulary.pieces(tokens))
    each = response.log_prob / max(1, len(tokens))
    shown = _shares(response.text, texts)
    pieces = []
    for t, (token, piece) in enumerate(zip(tokens, texts, strict=True)):
        explained: dict[str, Any] = {}
        if told is not None:
            explained = {
                "base_log_prob": told.base_log_probs[t],
                "pushes": tuple(zip(told.names, told.contributions[t], strict=True)),
                "normalizer": told.normalizers[t],
            }
        if t == len(tokens) - 1:
            explained |= {"finish_reason": response.finish_reason, "extra": _extra(response)}
        log_prob = told.log_probs[t] if told is not None else each
        pieces.append(Piece(row, token, shown[t], piece, log_prob, **explained))
    return pieces


def _shares(text: str, pieces: list[str]) -> list[str]:
    """A text cut at its tokens; what does not fit (half characters, what a stop string cut off) goes to the last."""
    shown, left = [], text
    for piece in pieces[:-1]:
        own = piece if left.startswith(piece) else ""
        shown.append(own)
        left = left[len(own) :]
    return [*shown, left] if pieces else []


def _extra(response: Response) -> dict[str, Any]:
    found: dict[str, Any] = {"log_prob": response.log_prob, "base_log_prob": response.base_log_prob}
    if response.population is not None:
        found["particles"] = response.population.as_json()
    if response.doubt is not None:
        found["uncertainty"] = response.doubt.as_json()
    if response.plan is not None:
        found["plan"] = response.plan.as_json()
    if response.component is not None:
        found["component"] = response.component
    if response.recalled:
        found["recalled"] = {recalled.name: recalled.as_json() for recalled in response.recalled}
    return found
