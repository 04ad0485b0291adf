"""Claims about truncated sampling."""

# Axes: C columns, P prompts, R resamples.

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt

from factorlm.errors import InputError
from factorlm.evaluation.claims.claim import Claim, ClaimBench, Outcome, decide
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.diversity import repetition
from factorlm.evaluation.intervals import bootstrap
from factorlm.evaluation.responses import Sample, respond
from factorlm.inference import Sampling
from factorlm.settings import Config

Array = NDArray[np.float64]
ORDERS = (2, 3, 4)
COLUMNS = 2 + 2 * len(ORDERS)  # of one sampler: nats, tokens, then repeated n-grams and all n-grams of each order


class TypicalSettings(Config):
    """Samplers and sizes.

    Attributes:
        model: who writes.
        part: of data, with prompts; each is taken once.
        prompts: how many.
        max_tokens: of a text.
        typical_p: of typical sampling, small enough to be another thing: from 0.9 on it keeps nearly the tokens that
            nucleus sampling keeps, for it drops the most probable one only where that has less than 1 - typical_p.
        top_p: of nucleus sampling, less and more random than the typical sampling: between them lies the nucleus
            sampling of equal quality. They were chosen by log probability alone, on other prompts.
    """

    model: str = "smollm2"
    part: str = "sentiment_prompts/neutral"
    prompts: PositiveInt = 120
    max_tokens: PositiveInt = 60
    typical_p: PositiveFloat = 0.2
    top_p: tuple[float, float] = (0.95, 1.0)


def _typical(bench: ClaimBench, settings: TypicalSettings) -> Outcome:
    work = bench.workbench(settings.model)
    prompts = list(dict.fromkeys(row["prompt"] for row in bench.data.rows(settings.part)))[: settings.prompts]
    if len(prompts) < settings.prompts:
        raise InputError(f"{settings.prompts} prompts are needed, got {len(prompts)} in {settings.part}; take fewer")
    bench.used[settings.part] = fingerprint(prompts)
    samplers = {
        f"typical {settings.typical_p}": Sampling(typical_p=settings.typical_p),
        **{f"nucleus {p}": Sampling(top_p=p) for p in settings.top_p},
    }
    columns = []
    for name, sampling in samplers.items():
        rows = respond(
            work, work.models[0], prompts, n=1, max_tokens=settings.max_tokens, sampling=sampling, stage=name
        )
        columns.append(np.array([numbers_of(sample) for [sample] in rows], float))
    values_PC = np.concatenate(columns, 1)
    seed = bench.seed
    by_sampler = {
        name: {
            "nats_per_token": bootstrap(found_PC, nats_per_token, seed=seed).model_dump(),
            "repetition": bootstrap(found_PC, mean_repetition, seed=seed).model_dump(),
            "tokens": float(found_PC[:, 1].mean()),
        }
        for name, found_PC in zip(samplers, columns, strict=True)
    }
    place = float(place_between(values_PC.mean(0, keepdims=True))[0])
    difference = bootstrap(values_PC, difference_at_equal_quality, seed=seed)
    verdict = decide(difference, 0.0, above=False)
    is_between = 0 <= place <= 1
    repeated = by_sampler[f"typical {settings.typical_p}"]["repetition"]["value"]  # type: ignore[index]
    assert difference.value is not None
    return Outcome(
        measured=f"{repeated:.2%} of n-grams (n = 2 to 4) repeat, {100 * difference.value:+.2f} points "
        f"({100 * (difference.low or 0):+.2f} to {100 * (difference.high or 0):+.2f}) against nucleus sampling of "
        f"equal log probability; {len(prompts)} prompts",
        numbers={"difference": difference.model_dump(), "place_between": place, "samplers": by_sampler},
        verdict=verdict if is_between else "not shown",
        detail="" if is_between else "its log probability lies outside that of the two nucleus samplings",
    )


def numbers_of(sample: Sample) -> list[float]:
    """Nats and tokens of a text; repeated n-grams and all n-grams of its tokens for each order."""
    token_ids = sample.token_ids[:-1] if sample.finish_reason == "end" else sample.token_ids
    totals = [max(0, len(token_ids) - n + 1) for n in ORDERS]
    pairs = [
        (repetition(token_ids, n) * total if total else 0.0, total) for n, total in zip(ORDERS, totals, strict=True)
    ]
    return [-sample.log_prob, len(sample.token_ids), *(number for pair in pairs for number in pair)]


def nats_per_token(mean_RC: Array) -> Array:
    """Surprise of the texts of one sampler under the untruncated model, which is how quality is measured here."""
    return mean_RC[:, 0] / mean_RC[:, 1]


def mean_repetition(mean_RC: Array) -> Array:
    """Mean of rep-2, rep-3 and rep-4 of one sampler, each over the n-grams of all texts."""
    return np.mean([mean_RC[:, 2 + 2 * i] / mean_RC[:, 3 + 2 * i] for i in range(len(ORDERS))], 0)


def place_between(mean_RC: Array) -> Array:
    """Where the nats per token of the first sampler lie between those of the second (0) and the third (1)."""
    quality, low, high = (nats_per_token(mean_RC[:, i * COLUMNS : (i + 1) * COLUMNS]) for i in range(3))
    return np.asarray((quality - low) / (high - low))


def difference_at_equal_quality(mean_RC: Array) -> Array:
    """Repetition of the first sampler minus that between the second and third, where nats per token are the same."""
    mine, low, high = (mean_repetition(mean_RC[:, i * COLUMNS : (i + 1) * COLUMNS]) for i in range(3))
    place = place_between(mean_RC)
    return np.asarray(mine - (low + place * (high - low)))


TYPICAL_REPEATS_LESS = Claim(
    name="typical-repeats-less",
    sentence="At equal quality, locally typical sampling repeats itself less than nucleus sampling",
    source="Meister et al. 2023",
    reported="fewer degenerate repetitions at competitive quality, on summaries and stories",
    rule="Quality is the mean log probability of a token under the untruncated model; repetition is the mean of rep-2, "
    "rep-3 and rep-4 of tokens within a text. Nucleus sampling is measured at two p, and its repetition where its "
    "quality equals that of typical sampling is found by a line between them, anew in each resample. Holds if the 95 % "
    "interval of the difference (typical minus nucleus, bootstrap over prompts) lies below zero, does not hold if it "
    "lies above; else, or if the quality of typical sampling is not between the two, it is not shown.",
    settings=TypicalSettings(),
    run=_typical,
    needs=("smollm2", "sentiment_prompts/neutral"),
    minutes=7,
)
