"""Claims about what steering costs: many factors at once, and learning from the model's own texts."""

# Axes: C columns, P prompts, R resamples.

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt

from factorlm.evaluation.claims.claim import Claim, ClaimBench, Outcome, Verdict, all_of, decide
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.intervals import bootstrap
from factorlm.evaluation.judges import load_judge
from factorlm.evaluation.judging import divergence, judged
from factorlm.evaluation.responses import Samples, base_nats, distinct_prompts, respond
from factorlm.evaluation.rivals.rival import digest_of_tensors
from factorlm.evaluation.workbench import Workbench
from factorlm.factors.head import Head
from factorlm.factors.recipe import load_recipe
from factorlm.factors.training import train_head
from factorlm.inference import Model, Sampling
from factorlm.inference.expression import Composed
from factorlm.settings import Config

Array = NDArray[np.float64]
MOST_PERPLEXITY = 1.5
JUDGE, LABEL = "sentiment", "positive"


class _Writing(Config):
    """How texts are written.

    Attributes:
        model: the base.
        part: of data, with prompts.
        prompts: how many.
        max_tokens: of a text.
        sampling: how tokens are drawn.
    """

    model: str = "smollm2"
    part: str = "sentiment_prompts/neutral"
    prompts: PositiveInt = 200
    max_tokens: PositiveInt = 20
    sampling: Sampling = Sampling(top_p=0.9)


class TenSettings(_Writing):
    """Factors, and how texts are written with them.

    Attributes:
        factors: of the store, all at once.
        strength: of each, in nats per token.
    """

    factors: tuple[str, ...] = (
        "positive", "polite", "simple", "romantic", "humorous", "dialogue", "subjective", "childlike", "science",
        "fantasy",
    )  # fmt: skip
    strength: PositiveFloat = 0.05


def _ten(bench: ClaimBench, settings: TenSettings) -> Outcome:
    work = bench.workbench(settings.model)
    prompts = distinct_prompts(work, settings.part, settings.prompts)
    base, steered = (
        respond(
            work, work.models[0], prompts, n=1, max_tokens=settings.max_tokens, sampling=settings.sampling, stage=stage,
            strengths=strengths,
        )
        for stage, strengths in (("the base", {}), ("all factors", dict.fromkeys(settings.factors, settings.strength)))
    )  # fmt: skip
    values_PC = np.concatenate([_columns(work, base), _columns(work, steered)], 1)
    ratio = bootstrap(values_PC, perplexity_ratio, seed=bench.seed)
    moved = divergence(steered, bench.seed)
    shares = values_PC[:, [2, 5]].mean(0).tolist()
    assert ratio.value is not None
    return Outcome(
        measured=f"{ratio.value:.2f} times the perplexity of the base ({ratio.low or 0:.2f} to {ratio.high or 0:.2f}) "
        f"with {len(settings.factors)} factors at {settings.strength} nats a token each, {moved.value or 0:.2f} nats "
        f"together; {shares[0]:.0%} to {shares[1]:.0%} judged positive; {len(prompts)} prompts",
        numbers={"ratio": ratio.model_dump(), "divergence": moved.model_dump(), "positive": shares},
        verdict=decide(ratio, MOST_PERPLEXITY, above=False),
    )


def perplexity_ratio(mean_RC: Array) -> Array:
    """Perplexity under the base of the second samples over that of the first.

    Columns are nats, tokens and share positive of the first, then of the second.
    """
    return np.exp(mean_RC[:, 3] / mean_RC[:, 4] - mean_RC[:, 0] / mean_RC[:, 1])


def _columns(bench: Workbench, samples: Samples) -> Array:
    """Nats, tokens and share judged positive of each prompt, [P, 3]; a text without words is not positive."""
    share_P = judged(bench, load_judge(JUDGE), samples, "judging").share(LABEL)
    return np.concatenate([base_nats(samples), np.nan_to_num(share_P)[:, None]], 1)


TEN_FACTORS = Claim(
    name="ten-factors-stay-fluent",
    sentence="Ten factors at once, each weak, still give fluent text",
    source="",
    reported="",
    rule=f"Holds if the 95 % interval (bootstrap over prompts) of the perplexity under the base of texts with all "
    f"factors, over that of the base's own texts, lies below {MOST_PERPLEXITY}, does not hold if it lies above; else "
    "it is not shown.",
    settings=TenSettings(),
    run=_ten,
    needs=("smollm2", "sentiment_prompts/neutral", *TenSettings().factors),
    minutes=2,
)


class OwnTextsSettings(_Writing):
    """Heads, and how texts are written with them.

    Attributes:
        recipe: of the head, whose labelled texts both learn from.
        own_texts: that one of them learns from besides.
        strengths: in nats per token.
    """

    recipe: str = "positive"
    own_texts: PositiveInt = 4096
    strengths: tuple[PositiveFloat, ...] = (0.2, 0.4)
    prompts: PositiveInt = 300


def _own_texts(bench: ClaimBench, settings: OwnTextsSettings) -> Outcome:
    work = bench.workbench(settings.model)
    composed, lm = work.models[0], work.models[0].model.lm
    prompts = distinct_prompts(work, settings.part, settings.prompts)
    recipe = load_recipe(settings.recipe)
    examples = recipe.examples(bench.data.either)
    bench.used[recipe.name] = fingerprint([e.text for e in examples])
    heads = {}
    for name, own_texts in (("labelled texts", 0), ("own texts too", settings.own_texts)):
        trained = train_head(
            lm, examples, recipe.about, own_texts=own_texts, seed=bench.seed, report=bench.report
        )  # fmt: skip
        heads[name] = Head(name, trained.weights.to(lm.device), lm, trained.manifest.strengths)
    verdicts: list[Verdict] = []
    said: list[str] = []
    numbers: dict[str, Any] = {}
    for strength in settings.strengths:
        columns = []
        for name, head in heads.items():
            assert head.strengths is not None
            model = Model(lm * head ** head.strengths.exponent(strength), lm)
            key = f"{composed.fingerprint} {digest_of_tensors({'bias': head.weights.bias_D})} {strength}"
            steered = Composed(f"{name} {strength}", model, composed.parts, key)
            samples = respond(
                work, steered, prompts, n=1, max_tokens=settings.max_tokens, sampling=settings.sampling, stage=name
            )
            columns.append(_columns(work, samples))
        values_PC = np.concatenate(columns, 1)
        ratio = bootstrap(values_PC, perplexity_ratio, seed=bench.seed)
        gain = bootstrap(values_PC, share_gained, seed=bench.seed)
        assert ratio.value is not None
        verdicts += [decide(ratio, 1.0, above=False), "does not hold here" if (gain.high or 0) < 0 else "holds"]
        share, own_share = values_PC[:, [2, 5]].mean(0)
        said.append(
            f"at {strength} nats {ratio.value:.2f} times the perplexity "
            f"({ratio.low or 0:.2f} to {ratio.high or 0:.2f}) of a head from labelled texts alone, "
            f"{own_share:.0%} against {share:.0%} judged positive"
        )
        numbers[f"{strength}"] = {"perplexity_ratio": ratio.model_dump(), "share_gained": gain.model_dump()}
    return Outcome(
        measured=f"{'; '.join(said)}; {len(prompts)} prompts", numbers=numbers, verdict=all_of(verdicts)
    )  # fmt: skip


def share_gained(mean_RC: Array) -> Array:
    """Share positive of the second samples less that of the first."""
    return mean_RC[:, 5] - mean_RC[:, 2]


OWN_TEXTS = Claim(
    name="own-texts-cost-less",
    sentence="At equal divergence, a head that also learned from the model's own texts costs less perplexity",
    source="after Mudgal et al. 2024, controlled decoding",
    reported="",
    rule="Two heads learn from the same labelled texts, one of them from the model's own texts too. Holds if at each "
    "strength the 95 % interval (paired bootstrap over prompts) of the perplexity under the base of its texts, over "
    "that of the other's texts, lies below 1 and that of the difference of the shares judged positive not below 0; "
    "does not hold if an interval lies on the wrong side; else it is not shown.",
    settings=OwnTextsSettings(),
    run=_own_texts,
    needs=("smollm2", "sentiment_prompts/neutral", "review_sentiment_transfer"),
    minutes=8,
)
