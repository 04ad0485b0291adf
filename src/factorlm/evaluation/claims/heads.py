"""Claims about heads: one unembedding for all, time that does not grow with their number, evidence that classifies."""

# Axes: B batch, T time, V vocabulary.

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from factorlm.algebra import Factor, LocalProduct, pad_left
from factorlm.evaluation.calibration import auroc, with_interval
from factorlm.evaluation.claims.claim import Claim, ClaimBench, Outcome, all_of, decide
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.harness import median_interval
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.speed import random_heads, time_heads
from factorlm.factors.headed import HeadedModel
from factorlm.settings import Config

ROUNDING = 1e-3  # nats, of a sum of many numbers in float32
VISIBLE = 0.1  # nats by which heads must move something, lest equality be empty
FREE = 1.10  # times the time without heads
LEAST_AUC = 0.70


class UnembeddingSettings(Config):
    """Sizes.

    Attributes:
        model: the encoder.
        counts: numbers of heads.
        rank: of the heads.
        scale: of their numbers.
        prompts: at whose ends the distributions are compared.
    """

    model: str = "smollm2"
    counts: tuple[int, ...] = (1, 8, 32)
    rank: NonNegativeInt = 16
    scale: PositiveFloat = 0.02
    prompts: tuple[str, ...] = ("The food was", "Once upon a time", "In 1969, the first", "def add(a, b):")


def _one_unembedding(bench: ClaimBench, settings: UnembeddingSettings) -> Outcome:
    model = bench.compose(settings.model).model
    prefix_BT = pad_left([model.encode_prompt(text, 0) for text in settings.prompts])
    plain_BV = model.lm.start(prefix_BT).log_weight_BV
    apart: dict[str, float] = {}
    moved: dict[str, float] = {}
    for done, count in enumerate(settings.counts, 1):
        heads = random_heads(model.lm, count, settings.rank, bench.seed, settings.scale)
        exponents = tuple(torch.linspace(-1, 1, len(settings.prompts)) * (1 + k / count) for k in range(count))
        product: Factor = model.lm
        for head, exponent in zip(heads, exponents, strict=True):
            product = product * head**exponent
        fast_BV = HeadedModel(model.lm, heads, exponents).start(prefix_BT).log_weight_BV
        slow_BV = LocalProduct(product).start(prefix_BT).log_weight_BV
        apart[str(count)] = float((fast_BV - slow_BV).abs().max())
        moved[str(count)] = float((slow_BV - plain_BV).abs().max())
        bench.report("numbers of heads", done, len(settings.counts))
    most = max(apart.values())
    is_equal = most <= ROUNDING and min(moved.values()) >= VISIBLE
    return Outcome(
        measured=f"log probabilities with up to {max(settings.counts)} heads of rank {settings.rank} differ by at most "
        f"{most:.0e} nats from the sum of each head's own logits; the heads move them by up to "
        f"{max(moved.values()):.1f} nats",
        numbers={"largest_difference_by_heads": apart, "largest_move_by_heads": moved},
        verdict="holds" if is_equal else "does not hold here",
    )


ONE_UNEMBEDDING = Claim(
    name="one-unembedding",
    sentence="The logits of any number of heads come from one unembedding of a shifted hidden state",
    source="factor heads, after LM-Steer, Han et al. 2024",
    reported="",
    rule=f"Holds if no log probability differs by more than {ROUNDING} nats (float32) from that of the explicit sum of "
    f"all heads' logits, while the heads move some log probability by at least {VISIBLE} nats; else it does not hold.",
    settings=UnembeddingSettings(),
    run=_one_unembedding,
    needs=("smollm2",),
    minutes=0.3,
)


class FlatSettings(Config):
    """Sizes.

    Attributes:
        model: the encoder.
        counts: numbers of heads, in rising order.
        rank: of the heads.
        batch_size: rows, each with exponents of its own.
        new_tokens: written in a run.
        repeats: runs of each way.
    """

    model: str = "smollm2"
    counts: tuple[int, ...] = (1, 8, 32, 100)
    rank: NonNegativeInt = 16
    batch_size: PositiveInt = 8
    new_tokens: PositiveInt = 16
    repeats: PositiveInt = 15


def _flat(bench: ClaimBench, settings: FlatSettings) -> Outcome:
    lm = bench.compose(settings.model).model.lm
    timing = time_heads(
        lm, settings.counts, settings.batch_size, rank=settings.rank, repeats=settings.repeats,
        new_tokens=settings.new_tokens, with_noise=True, report=bench.report,
    )  # fmt: skip
    ratios = {count: timing.ratio(f"{count} heads") for count in settings.counts}
    slope = slope_of(
        {
            0: np.ones(settings.repeats),
            **{
                count: np.array(timing.seconds[f"{count} heads"]) / np.array(timing.seconds[timing.baseline])
                for count in settings.counts
            },
        }
    )
    last = ratios[settings.counts[-1]]
    found = Estimate(value=last.ratio, low=last.low, high=last.high, n=timing.repeats)
    assert timing.noise is not None
    shown = "; ".join(f"{ratio} with {count}" for count, ratio in ratios.items())
    return Outcome(
        measured=f"time a token over that without heads, rank {settings.rank}, batch {settings.batch_size}: {shown}; "
        f"slope {100 * (slope.value or 0):.3f} % a head ({_percent(slope.low)} to {_percent(slope.high)}); without "
        f"against without {timing.noise}",
        numbers={"slope": slope.model_dump(), "timing": timing.model_dump(mode="json")},
        verdict=decide(found, FREE, above=False),
        detail="; ".join(timing.cautions),
    )


def slope_of(ratio_by_count: dict[int, Any]) -> Estimate:
    """Rise of the ratio with each head: the median over repeats of least-squares slopes, with its interval."""
    counts = np.array(list(ratio_by_count), float)
    centred = counts - counts.mean()
    slopes = (centred @ np.stack(list(ratio_by_count.values())) / (centred @ centred)).tolist()
    interval = median_interval(slopes)
    low, high = interval[:2] if interval else (None, None)
    return Estimate(value=float(np.median(slopes)), low=low, high=high, n=len(slopes))


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.3f}"


HEADS_FLAT_IN_NUMBER = Claim(
    name="heads-flat-in-number",
    sentence="The time of a decoding step does not grow with the number of heads",
    source="factor heads, after LM-Steer, Han et al. 2024",
    reported="1.24 times the decoding time with one steer",
    rule=f"Holds if the 95 % interval of the time with the largest number of heads over the time without lies below "
    f"{FREE}, does not hold if it lies above; else it is not shown.",
    settings=FlatSettings(),
    run=_flat,
    needs=("smollm2", "an idle machine"),
    minutes=6,
)


class ClassifierSettings(Config):
    """What is classified.

    Attributes:
        model: the base.
        factor: whose evidence classifies.
        parts: of data, with labels.
        max_texts: of each part, the first ones of both labels in turn.
    """

    model: str = "smollm2"
    factor: str = "positive"
    parts: tuple[str, ...] = ("sst2/test", "review_sentiment_transfer/yelp_test")
    max_texts: PositiveInt = 1400


def _classifies(bench: ClaimBench, settings: ClassifierSettings) -> Outcome:
    work = bench.workbench(f"{settings.model} * {settings.factor}^0")
    [composed] = work.models
    found: dict[str, Estimate] = {}
    for part in settings.parts:
        rows = bench.data.rows(part)
        by_label = [
            [row["text"] for row in rows if row["label"] == label][: settings.max_texts // 2] for label in (0, 1)
        ]
        texts = by_label[0] + by_label[1]
        label_B = np.repeat([0.0, 1.0], list(map(len, by_label)))
        bench.used[part] = fingerprint(texts)
        evidence = work.in_batches(
            f"evidence on {part}",
            {"what": "evidence", "model": composed.fingerprint, "factor": settings.factor},
            texts,
            64,
            lambda batch: [score.log_ratios[settings.factor] for score in composed.model.score(batch)],
        )
        found[part] = with_interval(auroc, evidence, label_B, seed=bench.seed)
    return Outcome(
        measured="; ".join(f"AUC {auc} on {part}, n = {auc.n}" for part, auc in found.items()),
        numbers={part: auc.model_dump() for part, auc in found.items()},
        verdict=all_of([decide(auc, LEAST_AUC, above=True) for auc in found.values()]),
    )


FACTOR_CLASSIFIES = Claim(
    name="factor-classifies",
    sentence="The evidence of a bias-only head classifies texts that it was not trained on",
    source="factor heads, after GeDi, Krause et al. 2021",
    reported="AUC 0.74 on film reviews in our prototype, trained on them",
    rule=f"Holds if the 95 % interval of the AUC lies above {LEAST_AUC} on every set, does not hold if it lies below "
    "on one; else it is not shown.",
    settings=ClassifierSettings(),
    run=_classifies,
    needs=("smollm2", "positive", "sst2/test", "review_sentiment_transfer/yelp_test"),
    minutes=3,
)
