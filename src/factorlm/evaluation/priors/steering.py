"""Steering a prior by re-weighting its components towards a judge's reward, against tilting tokens."""

# Axes: B texts, J judges, K components.

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from factorlm.algebra import Factor
from factorlm.errors import IncompatibleError, InputError, UnknownNameError
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.judges import Judge, judges_for, load_judge
from factorlm.evaluation.part import Part
from factorlm.evaluation.priors.kept import fitted
from factorlm.evaluation.priors.passages import Source, load_passages
from factorlm.evaluation.priors.steered import Steered, Tilt
from factorlm.evaluation.priors.steering_sections import (
    against_section,
    components_section,
    examples_section,
    headlines,
    tilts_section,
)
from factorlm.evaluation.priors.tilting import BARE, COMPONENTS, TOKEN_WAYS, TOKENS, Writer, Written
from factorlm.evaluation.workbench import Workbench
from factorlm.factors import bind, factor
from factorlm.inference.strengths import exponent_of
from factorlm.models import CausalLM
from factorlm.prior import Fitting, Learning, Prior
from factorlm.settings import Config

UNTILTED, REWARDS = "untilted", "texts of each component"
# Neither judge learned from this part; clusters of its texts differ in sentiment, which those of film snippets do not.
CORPUS = (Source(part="review_sentiment_transfer/yelp_dev", name="reviews", max_documents=None, lines="whole"),)


class Steering(Config):
    """Settings of this part.

    Attributes:
        judge: whose probability of the label is the reward.
        label: the attribute that is wanted.
        independent: judge that measures what comes of it; empty takes the most accurate other one with this label.
        corpus: that the prior is learned from, without labels.
        num_texts: to learn from, of each part of the corpus.
        words: fewest and most of a text.
        is_lower: whether texts are put in lower case.
        fitting: how the prior is learned.
        reward_texts: of each component, that its reward is estimated from.
        temperatures: of the tilt, from weak to strong, in units of probability.
        factor: of the store, that tokens are tilted with; empty compares no tilted tokens.
        strengths: of the factor, in nats per token.
        ways: of tilting tokens.
        texts: at each setting.
        max_tokens: of a text.
    """

    judge: str = "sentiment"
    label: str = "positive"
    independent: str = ""
    corpus: tuple[Source, ...] = CORPUS
    num_texts: PositiveInt = 800
    words: tuple[PositiveInt, PositiveInt] = (6, 24)
    is_lower: bool = True
    fitting: Fitting = Fitting(components=6, longest=24, learning=Learning(warm=2, rounds=6))
    reward_texts: Annotated[int, Field(ge=2)] = 64
    temperatures: tuple[PositiveFloat, ...] = (1.0, 0.5, 0.2, 0.1, 0.05)
    factor: str = "positive"
    strengths: tuple[PositiveFloat, ...] = (0.1, 0.2, 0.4)
    ways: tuple[str, ...] = TOKEN_WAYS
    texts: Annotated[int, Field(ge=2)] = 200
    max_tokens: PositiveInt = 20

    @classmethod
    def sized(cls, size: str) -> Steering:
        """Minutes, or what one would publish."""
        if size == "small":
            return cls(
                num_texts=300, fitting=Fitting(components=4, longest=24, learning=Learning(warm=1, rounds=4)),
                reward_texts=24, temperatures=(0.5, 0.1, 0.03), strengths=(0.1, 0.3), ways=(TOKENS, BARE), texts=48,
                max_tokens=16,
            )  # fmt: skip
        return cls()


def measure_steering(bench: Workbench, settings: Steering) -> Part:
    """Learn a prior, reward its components, tilt it, and compare with tilted tokens.

    Raises:
        InputError: if a way of tilting is unknown, or there are no temperatures.
        UnknownNameError: if a judge or its label is.
    """
    unknown = next((way for way in settings.ways if way not in TOKEN_WAYS), None)
    if unknown is not None:
        raise UnknownNameError.of("way of tilting tokens", unknown, TOKEN_WAYS)
    if not settings.temperatures:
        raise InputError("at least one temperature is needed, got none; 0.1 is clear for rewards between 0 and 1")
    lm, cautions = bench.models[0].model.lm, list[str]()
    judges = _judges(settings, cautions)
    passages = load_passages(bench, settings.corpus, num_train=settings.num_texts, num_held_out=0,
                             words=settings.words, is_lower=settings.is_lower)  # fmt: skip
    texts = [text for p in passages for text in p.train]
    prior = fitted(bench, lm, texts, settings.fitting, title="steering: components")
    writer = Writer(bench, prior, judges, settings.label, settings.max_tokens, _factor(settings, lm, cautions))
    alive = prior.mixture.alive.tolist()
    rewarded = writer.of_components([k for k in alive for _ in range(settings.reward_texts)], REWARDS, None)
    rewards = _rewards(prior, rewarded, cautions)
    untilted = writer.of_components(writer.draw(prior, settings.texts, None), UNTILTED, None)
    tilts = [
        Tilt(prior, temperature, rewards, writer.of_components(
            writer.draw(prior.tilt(rewards, temperature=temperature), settings.texts, temperature),
            COMPONENTS, temperature,
        ))
        for temperature in sorted(settings.temperatures, reverse=True)
    ]  # fmt: skip
    found = Steered(
        prior=prior, judges=judges, label=settings.label, rewarded=rewarded, rewards=rewards, untilted=untilted,
        tilts=tilts, tokens=_token_ways(writer, settings, untilted, lm),
    )  # fmt: skip
    sections = [components_section(found), tilts_section(found)]
    if found.tokens:
        sections.append(against_section(found))
    return Part(
        sections=(*sections, examples_section(found)),
        measures=_measures(found),
        headlines=tuple(headlines(found)),
        cautions=(*cautions, *_cautions(found)),
    )


def _judges(settings: Steering, cautions: list[str]) -> tuple[Judge, ...]:
    """Who gives rewards, and who measures; one judge where there is no other."""
    first = load_judge(settings.judge)
    first.index(settings.label)
    if settings.independent == settings.judge:
        raise InputError(f"another judge than {settings.judge} is needed to measure; leave independent out to take one")
    if settings.independent:
        second = load_judge(settings.independent)
        second.index(settings.label)
        return first, second
    others = [judge for judge in judges_for(settings.label) if judge.name != first.name]
    if not others:
        cautions.append(
            f"No second judge has the label {settings.label}: {first.name} measures what it rewarded, and what only it "
            "sees counts as success."
        )
        return (first,)
    return first, others[0]


def _factor(settings: Steering, lm: CausalLM, cautions: list[str]) -> Factor | None:
    if not settings.factor or not settings.strengths or not settings.ways:
        return None
    try:
        return bind(factor(settings.factor), lm)
    except (IncompatibleError, UnknownNameError) as error:
        cautions.append(f"Tilted tokens were not compared: {error}.")
        return None


def _rewards(prior: Prior, rewarded: Written, cautions: list[str]) -> list[float]:
    """Mean probability of the label over texts of each component; those without weight get the least of the others."""
    by_component = {k: rewarded.judged_BJ[rewarded.component_B == k, 0] for k in range(prior.num_components)}
    means = {
        k: float(np.nanmean(judged_B)) for k, judged_B in by_component.items() if not np.isnan(judged_B).all()
    }  # fmt: skip
    if not means:
        raise InputError("components must write words to be rewarded, got texts without any; learn from other texts")
    silent = [prior.names[k] for k, judged_B in by_component.items() if len(judged_B) and k not in means]
    if silent:
        cautions.append(f"Without a word to reward, and so given the least reward: {', '.join(silent)}.")
    return [means.get(k, min(means.values())) for k in range(prior.num_components)]


def _token_ways(writer: Writer, settings: Steering, untilted: Written, lm: CausalLM) -> dict[str, list[Written]]:
    """Texts with tilted tokens by way, from no tilt on."""
    if writer.factor is None:
        return {}
    found: dict[str, list[Written]] = {}
    exponents = {
        strength: float(f"{exponent_of(lm, writer.factor, strength):.6g}") for strength in sorted(settings.strengths)
    }
    component_B = untilted.component_B.tolist()
    for way in settings.ways:
        start = untilted if way == TOKENS else writer.of_tokens(way, 0.0, 0.0, component_B)
        found[way] = [start]
        for strength, exponent in exponents.items():
            drawn = writer.draw(writer.prior, settings.texts, -strength)  # other components than untilted texts have
            found[way].append(writer.of_tokens(way, strength, exponent, drawn))
    return found


def _measures(found: Steered) -> dict[str, dict[str, Estimate]]:
    measures: dict[str, dict[str, Estimate]] = {
        "reward": {name: found.reward_of(k) for k, name in enumerate(found.prior.names)},
        "predicted reward": {t.written.name: Estimate(value=t.predicted) for t in found.tilts},
        "KL to the untilted weights": {t.written.name: Estimate(value=t.divergence) for t in found.tilts},
        "components with weight": {t.written.name: Estimate(value=t.num_alive) for t in found.tilts},
    }
    measures["predicted reward"][UNTILTED] = Estimate(value=found.predicted)
    for written in found.everything:
        for j, judge in enumerate(found.judges):
            measures.setdefault(f"mean probability by {judge.name}", {})[written.name] = written.mean(j)
            measures.setdefault(f"rate by {judge.name}", {})[written.name] = found.rate(written, j)
        measures.setdefault("nats per token under the bare model", {})[written.name] = written.per_token(
            written.bare_B2
        )
        measures.setdefault("nats per token under the nearest component", {})[written.name] = written.per_token(
            written.nearest_B2
        )
        measures.setdefault("nats per text from the untilted", {})[written.name] = found.moved(written)
        measures.setdefault("distinct-2", {})[written.name] = written.variety[0]
        measures.setdefault("self-BLEU", {})[written.name] = written.variety[1]
    for tilt in found.tilts:
        measures.setdefault("nats under the own component, beyond the untilted", {})[tilt.written.name] = (
            found.beyond_own(tilt.written, tilt.weight_K)
        )
    return measures


def _cautions(found: Steered) -> list[str]:
    lines = [
        "Judges err, and a reward is the mean of what one judge says of few texts: the best of several such means is "
        "too high by chance, so that strong tilts come out below their prediction.",
        "No re-weighting goes beyond the best component; tilted tokens have no such bound, and no such guarantee.",
        "The prior was learned once and without labels; other seeds part the corpus in other ways. The factor that "
        "tilts tokens learned its attribute from labelled texts.",
    ]
    blank = sum(int(np.isnan(written.judged_BJ[:, 0]).sum()) for written in found.everything)
    if blank:
        lines.append(f"{blank} texts without a word were left out of rates.")
    return lines
