"""Alignment: a reward from preferences, and what each way of using it gains and costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import PositiveInt

from factorlm.evaluation.alignment.combined import Combined, measure_combined
from factorlm.evaluation.alignment.confidence import Confidence, measure_confidence
from factorlm.evaluation.alignment.frontier import Frontier, measure_frontier
from factorlm.evaluation.alignment.learned import learned_reward
from factorlm.evaluation.alignment.rewards import RewardQuality, measure_rewards
from factorlm.evaluation.alignment.sources import Divided, Source, divided, pairs_of, source_named
from factorlm.evaluation.alignment.ways import Writer
from factorlm.evaluation.document import Section
from factorlm.evaluation.judges import load_judge
from factorlm.evaluation.judging import judge_blocks
from factorlm.evaluation.part import Part
from factorlm.evaluation.workbench import Findings, Workbench
from factorlm.factors.dpo import needs_trl
from factorlm.settings import Config

PartName = Literal["rewards", "frontier", "confidence", "combined"]


class Settings(Config):
    """Settings of the suite.

    Attributes:
        parts: which to measure, in order.
        preference: whose pairs teach the reward: positive or civil. The model writes civilly of itself, so that there
            is little to gain by the latter.
        judge: of the shelf, who looks at responses; empty takes the preference's own.
        second: the other reward, of two at once.
        pairs: that rewards learn from.
        tuning_pairs: that DPO learns from.
        unseen_pairs: that rewards are tested on; their beginnings are the prompts.
        prompts: that responses are written to.
        max_tokens: of a response.
        rewards: pairs in order, and length.
        frontier: ways of using the reward.
        confidence: calibration after tuning.
        combined: two rewards at once.
    """

    parts: tuple[PartName, ...] = ("rewards", "frontier", "confidence", "combined")
    preference: str = "positive"
    judge: str = ""
    second: str = "civil"
    pairs: PositiveInt = 800
    tuning_pairs: PositiveInt = 200
    unseen_pairs: PositiveInt = 300
    prompts: PositiveInt = 32
    max_tokens: PositiveInt = 24
    rewards: RewardQuality = RewardQuality()
    frontier: Frontier = Frontier()
    confidence: Confidence = Confidence()
    combined: Combined = Combined()

    @classmethod
    def sized(cls, size: str) -> Settings:
        """Minutes on two cores, or what one would publish."""
        if size == "small":
            return cls()
        return cls(
            pairs=1000, tuning_pairs=400, unseen_pairs=400, prompts=150, max_tokens=32,
            frontier=Frontier(
                pool=64, best_of=(1, 2, 4, 8, 16, 32), particle_betas=(2.0, 1.0, 0.5, 0.25), particles=32,
                lead_exponents=(0.5, 1.0, 2.0, 4.0), lead_prompts=40, lead_texts=128,
                dpo_exponents=(0.5, 1.0, 2.0, 4.0), components=("polite", "positive", "encyclopedic", "toxic"),
                samples=8,
            ),
            confidence=Confidence(texts=400), rewards=RewardQuality(few=(40, 200)),
        )  # fmt: skip


def run(bench: Workbench, settings: Settings) -> Findings:
    """Measure the first model on the bench.

    Raises:
        InputError: for too little data, or without TRL where something is tuned.
    """
    tunes = "confidence" in settings.parts or ("frontier" in settings.parts and settings.frontier.dpo_exponents)
    if tunes:
        needs_trl()  # now rather than when everything else is done
    composed, lm = bench.models[0], bench.models[0].model.lm
    source = source_named(settings.preference)
    source = replace(source, judge=settings.judge or source.judge)
    found = _divided(bench, settings, source)

    def writer(of: Source, pairs: Divided) -> Writer:
        reward = learned_reward(bench, lm, of, pairs.rewards).reward
        prompts = found.prompts[: settings.prompts]
        return Writer(bench, composed, reward, load_judge(of.judge), of.label, prompts, settings.max_tokens)

    parts: list[Part] = []
    judges = [load_judge(source.judge)]
    for name in settings.parts:
        if name == "rewards":
            of = source_named(settings.rewards.preference)
            pairs = found if of.name == source.name else _divided(bench, settings, of, is_tested=True)
            parts.append(measure_rewards(bench, lm, of, pairs.rewards, pairs.unseen, settings.rewards))
        elif name == "frontier":
            parts.append(measure_frontier(writer(source, found), settings.frontier, found))
        elif name == "confidence":
            tuned = settings.frontier.dpo
            parts.append(
                measure_confidence(bench, composed.model, composed.fingerprint, tuned, found, settings.confidence)
            )
        else:
            other = source_named(settings.second)
            judges.append(load_judge(other.judge))
            both = [writer(source, found), writer(other, _divided(bench, settings, other))]
            parts.append(measure_combined(both, settings.frontier.pool, settings.combined))
    whole = Part.joined(parts)
    sections = (*whole.sections, Section(title="The judges", blocks=judge_blocks(judges)))
    return Findings(
        title="Preference alignment as a factor", sections=sections, measures=whole.measures,
        headlines=whole.headlines, cautions=whole.cautions,
    )  # fmt: skip


def _divided(bench: Workbench, settings: Settings, source: Source, *, is_tested: bool = False) -> Divided:
    """Pairs of a source, some kept for tuning and for tests if it is the first or is tested."""
    is_first = source.name == settings.preference
    return divided(
        pairs_of(bench, source),
        num_rewards=settings.pairs,
        num_tuning=settings.tuning_pairs if is_first else 0,
        num_prompts=settings.unseen_pairs if is_first or is_tested else 0,
    )
