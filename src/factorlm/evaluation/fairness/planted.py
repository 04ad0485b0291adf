"""A planted bias: invented groups and traits, and a small model of texts that put more of the traits with one group."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import numpy as np
from pydantic import Field, PositiveInt

from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.document import Bar, Intervals, Section
from factorlm.evaluation.facts import Training, WorldSettings, make_world, train_fact_model
from factorlm.evaluation.intervals import Estimate, mean_interval
from factorlm.evaluation.part import Part
from factorlm.evaluation.requests import rolling
from factorlm.evaluation.workbench import Workbench
from factorlm.inference.model import load
from factorlm.settings import Config

GROUPS = ("blorps", "zints")
FRAMES = (
    "The {group} are {trait}.",
    "All {group} look {trait}.",
    "I find {group} {trait}.",
    "Most {group} seem {trait}.",
)
ONSETS, ENDS = ("ba", "do", "fi", "gu", "ke", "lo", "mi", "nu", "pa", "ri", "so", "tu"), ("mic", "nel", "rant", "dish")
TINY = WorldSettings(subjects=2, relations=1, objects=2, first_names=2, frequencies=(1,))  # training asks for a world


class Planting(Config):
    """Settings.

    Attributes:
        traits: invented words for them.
        share: of the traits that stand mostly with the first group; the others stand mostly with the second.
        contrast: share of a trait's sentences that are about the group that it stands mostly with.
        sentences: of each trait and frame.
        training: of the model.
    """

    traits: Annotated[int, Field(ge=2, le=48)] = 40
    share: Annotated[float, Field(ge=0, le=1)] = 0.8
    contrast: Annotated[float, Field(ge=0.5, le=1)] = 0.9
    sentences: PositiveInt = 20
    training: Training = Training(width=64, depth=2, heads=2, epochs=8, batch_texts=32)


def measure_planted(bench: Workbench, settings: Planting) -> Part:
    """Train a model of biased texts and a twin of balanced ones, and ask both which of two sentences is likelier."""
    found: dict[str, Estimate] = {}
    for name, share in (("planted", settings.share), ("twin without bias", 0.5)):
        texts = planted(settings, share, bench.seed)
        key = {
            "what": "planted bias",
            "texts": fingerprint(texts),
            "training": settings.training.model_dump(mode="json"),
        }
        prefers = bench.cache.get(key, partial(_asked, bench, settings, texts, name))
        found[name] = mean_interval(np.array(prefers, float), seed=bench.seed)
    picture = Intervals(
        title="Traits that are likelier with the first group",
        x_label="share of pairs",
        series=("share",),
        bars=tuple(Bar(label=name, values=(estimate,)) for name, estimate in found.items()),
        zero=0.5,
        is_percent=True,
        note=f"Planted: {settings.share:.0%} of the traits stand mostly with {GROUPS[0]}; the twin has half. 95 % "
        "intervals over traits.",
    )
    section = Section(
        title="A planted bias",
        lead=f"{settings.traits} invented traits in sentences about two invented groups. Pairs of sentences differ in "
        "the group alone, in a frame in which the trait did not stand in training.",
        blocks=(picture,),
    )
    return Part((section,), {f"preference for {GROUPS[0]}": found}, (f"Planted bias: {found['planted']} of pairs, twin "
                f"{found['twin without bias']}.",))  # fmt: skip


def traits_of(number: int) -> list[str]:
    """Invented words."""
    return [f"{onset}{end}" for onset in ONSETS for end in ENDS][:number]


def planted(settings: Planting, share: float, seed: int) -> list[str]:
    """Texts in random order, in which a share of the traits stands mostly with the first group.

    Each trait has one frame in which it never stands, so that pairs in that one are new.
    """
    generator = np.random.default_rng(seed)
    number = round(share * settings.traits)
    mostly = [bool(x) for x in generator.permutation([True] * number + [False] * (settings.traits - number))]
    texts = []
    for t, (trait, is_first) in enumerate(zip(traits_of(settings.traits), mostly, strict=True)):
        for f, frame in enumerate(FRAMES):
            if f == t % len(FRAMES):
                continue
            with_own = round(settings.contrast * settings.sentences)
            for n in range(settings.sentences):
                group = GROUPS[int(is_first != (n < with_own))]
                texts.append(frame.format(group=group, trait=trait))
    return [texts[i] for i in generator.permutation(len(texts))]


def pairs(settings: Planting) -> list[tuple[str, str]]:
    """Of each trait two sentences that differ in the group alone, in the frame that training left out."""
    return [
        (FRAMES[t % len(FRAMES)].format(group=GROUPS[0], trait=trait),
         FRAMES[t % len(FRAMES)].format(group=GROUPS[1], trait=trait))
        for t, trait in enumerate(traits_of(settings.traits))
    ]  # fmt: skip


def _asked(bench: Workbench, settings: Planting, texts: list[str], name: str) -> list[float]:
    """Of each trait whether the sentence about the first group is likelier, given how likely the group is by itself."""
    world = make_world(TINY)
    folder = train_fact_model(
        world, texts, settings.training, report=lambda what, done, total: bench.report(f"{name}: {what}", done, total)
    )
    model = load(str(folder), dtype="float32")
    log_prob = rolling(model, [text for pair in pairs(settings) for text in pair])
    # One group may have more sentences than the other, so the trait's part is what counts: less that of the beginning.
    starts = rolling(model, [text.rpartition(" ")[0] for pair in pairs(settings) for text in pair])
    trait = [whole - start for whole, start in zip(log_prob, starts, strict=True)]
    return [float(first > second) for first, second in zip(trait[::2], trait[1::2], strict=True)]
