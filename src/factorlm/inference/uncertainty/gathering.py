"""From queries to the evidence that estimators need."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from factorlm.errors import InputError
from factorlm.inference.doubt import Doubt
from factorlm.inference.model import Model
from factorlm.inference.uncertainty.estimators import Need
from factorlm.inference.uncertainty.evidence import (
    Asking,
    Evidence,
    Query,
    Variant,
    greedy_answers,
    prompt_ids_of,
    repeats_much,
    sampled_answers,
)
from factorlm.inference.uncertainty.known import Known, question_states
from factorlm.inference.uncertainty.true_false import true_logits
from factorlm.models.progress import Report, quiet
from factorlm.prior import Prior

Vary = Callable[[Query], Sequence[Query]]
REPLICATIONS = 3  # answers to each variant


def gather(
    model: Model,
    queries: Sequence[Query],
    needs: Collection[Need],
    asking: Asking,
    *,
    known: Known | None = None,
    prior: Prior | None = None,
    vary: Vary | None = None,
    replications: int = REPLICATIONS,
    brainstorm: bool = False,
    report: Report = quiet,
) -> list[Evidence]:
    """Ask a model, and ask what estimators need to know of its answers.

    Args:
        model: that is asked; of a prior, its mixture.
        queries: what is asked.
        needs: of the estimators.
        asking: how.
        known: the head for P(IK).
        prior: the same model's, for what components disagree in.
        vary: variants of a query, without the query itself.
        replications: answers to each variant.
        brainstorm: whether P(True) is told samples before.
        report: told of progress.

    Raises:
        InputError: if something is needed that was not given.
    """
    if "known" in needs and known is None:
        raise InputError("P(IK) needs a head that was trained on this model, got none; factorlm eval uncertainty "
                         "--set 'parts=[\"known\"]' trains one")  # fmt: skip
    if "between" in needs and prior is None:
        raise InputError("what components disagree in needs a prior, got a single model; give the folder of a prior")
    if "variants" in needs and vary is None:
        raise InputError("Inv-Entropy needs variants of the question, got no way to make them")
    stages = ["answer", *needs]
    report("asking", 0, len(stages))
    answers = greedy_answers(model, queries, asking)
    found = [Evidence(query.question, answer) for query, answer in zip(queries, answers, strict=True)]
    report("asking", 1, len(stages))
    if "samples" in needs or brainstorm:
        samples = sampled_answers(model, queries, asking)
        found = [replace(evidence, samples=row) for evidence, row in zip(found, samples, strict=True)]
    if "true" in needs:
        ideas = [evidence.texts for evidence in found] if brainstorm else None
        logits = true_logits(model, queries, [answer.text for answer in answers], ideas)
        found = [replace(evidence, true_logit=logit) for evidence, logit in zip(found, logits, strict=True)]
    if "known" in needs and known is not None:
        known.check(model.lm)
        known_B = known.logits(question_states(model, queries)).tolist()
        found = [replace(evidence, known_logit=logit) for evidence, logit in zip(found, known_B, strict=True)]
    if "between" in needs and prior is not None:
        found = [
            replace(evidence, between=_between(model, prior, query, evidence, asking))
            for evidence, query in zip(found, queries, strict=True)
        ]
    if "variants" in needs and vary is not None:
        found = _with_variants(model, queries, found, asking, vary, replications)
    report("asking", len(stages), len(stages))
    return found


def _with_variants(
    model: Model, queries: Sequence[Query], found: list[Evidence], asking: Asking, vary: Vary, replications: int
) -> list[Evidence]:
    """Answers to every variant; those of one question are asked together, and all where little stands before."""
    rows = [[query, *vary(query)] for query in queries]
    asking = asking.model_copy(update={"samples": replications})
    asked = [query for row in rows for query in row]
    parts = rows if repeats_much(model, asked) else [asked]
    answers = iter([answer for part in parts for answer in sampled_answers(model, part, asking)])
    variants = [tuple(Variant(query.question, next(answers)) for query in row) for row in rows]
    return [replace(evidence, variants=row) for evidence, row in zip(found, variants, strict=True)]


def _between(model: Model, prior: Prior, query: Query, evidence: Evidence, asking: Asking) -> float:
    token_ids = model.lm.encode_text(f" {evidence.answer.text}")
    if not evidence.answer.text:
        return 0.0
    prompt_ids = prompt_ids_of(model, query, asking.max_tokens)
    return Doubt.of(prior.mixture, prior.names, prompt_ids, token_ids).mean_between
