"""Who gains on human text from mixing with a memory, and who pays: tokens, pieces of words, classes of words."""

# Axes: D documents, T things of a document: tokens, or words.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from factorlm.evaluation.document import (
    Bar,
    Block,
    Cell,
    Column,
    Comparisons,
    Curve,
    Intervals,
    Scatter,
    Section,
    Series,
    Table,
)
from factorlm.evaluation.intervals import Comparison, Estimate, adjusted, ratio_interval
from factorlm.evaluation.memories.generation_gains import (
    TENTHS,
    TOP,
    Gains,
    Human,
    gains_of,
    is_first_piece,
    tenth_of,
    word_gains,
)
from factorlm.evaluation.memories.generation_mixtures import MODEL, Mixed
from factorlm.evaluation.units import compare_rates, rate
from factorlm.evaluation.word_classes import CLASSES


@dataclass(frozen=True, eq=False)
class Found:
    """What human text shows.

    Attributes:
        section: of the report.
        measures: by name, then by mixture.
        gain: of each mixture, in nats per token.
        improves: whether perplexity is better, by mixture.
    """

    section: Section
    measures: dict[str, dict[str, Estimate]]
    gain: dict[str, Estimate]
    improves: dict[str, Comparison]


def on_human_text(human: Human, mixed: Mixed, split: Sequence[str], seed: int) -> Found:
    """Loss, share of tokens that gain, and where the gain is.

    Args:
        human: texts, with what model and memories say of them.
        mixed: the mixtures.
        split: names of mixtures whose gain is split.
        seed: of the intervals.
    """
    gains = {name: gains_of(human, mixture) for name, mixture in mixed.mixtures.items()}
    first = next(iter(gains.values()))
    nats_D = np.array([nats.sum() for nats in first.nats_T])
    rows: list[tuple[Cell, ...]] = [(MODEL, first.nats(seed), *(None,) * 5)]
    losses = {MODEL: first.nats(seed)}
    shares: dict[str, dict[str, Estimate]] = {key: {} for key in ("gain", "won", "lost", "top")}
    compared = []
    for name, found in gains.items():
        mixed_D = nats_D - np.array([gain.sum() for gain in found.gain_T])
        losses[name] = rate(mixed_D, found.number_D, seed=seed)
        told = (found.mean(seed), found.won(seed), found.lost(seed), found.concentration(seed))
        for key, estimate in zip(shares, told, strict=True):
            shares[key][name] = estimate
        weight = [mixed.mixtures[name].weight(observed) for observed in human.observed]
        rows.append((name, losses[name], *told, ratio_interval([w.sum() for w in weight], found.number_D, seed=seed)))
        compared.append(compare_rates(f"nats per token, {name}", (name, MODEL), (mixed_D, nats_D),
                                      (found.number_D,) * 2, seed))  # fmt: skip
    compared = adjusted(compared)
    columns = (
        Column(title="mixture"), Column(title="nats per token", form=".3f", best="low"),
        Column(title="gain", form=".3f", best="high"), Column(title="tokens that gain", form=".1%", best="high"),
        Column(title="tokens that lose", form=".1%", best="low"),
        Column(title=f"share of gain in the top {TOP:.0%}", form=".1%"), Column(title="mean weight", form=".3f"),
    )  # fmt: skip
    table = Table(
        title="Loss on human text, and who has the gain", columns=columns, rows=tuple(rows),
        note=f"{len(human.ids)} documents, {int(first.number_D.sum())} tokens. Gain is nats of the model less nats of "
        "the mixture. The top are the gaining tokens with the largest gains. Intervals resample documents.",
    )  # fmt: skip
    blocks: list[Block] = [
        table, Comparisons(title="Mixtures against the model", rows=tuple(compared)), _frontier(mixed, shares)
    ]  # fmt: skip
    blocks += [_split(human, mixed, name, gains[name], seed) for name in split]
    blocks.append(_by_tenth(human, {name: gains[name] for name in split}, seed))
    blocks.append(_by_class(human, mixed, split, seed))
    measures = {
        "generation, nats per token": losses,
        "generation, gain in nats per token": shares["gain"],
        "generation, share of tokens that gain": shares["won"],
        "generation, share of tokens that lose": shares["lost"],
        "generation, share of gain in the top twentieth": shares["top"],
    }
    section = Section(
        title="Human text", blocks=tuple(blocks),
        lead="What mixing with a memory does to the likelihood of text that was not stored, and at which tokens.",
    )  # fmt: skip
    return Found(section, measures, shares["gain"], dict(zip(gains, compared, strict=True)))


def _frontier(mixed: Mixed, shares: dict[str, dict[str, Estimate]]) -> Scatter:
    series = []
    for memory in mixed.memories:
        names = [name for name, mixture in mixed.mixtures.items() if mixture.memory == memory]
        names.sort(key=lambda name: shares["lost"][name].value or 0.0)
        labels = tuple(name.removeprefix(f"{memory}, ").replace(memory, "learned") for name in names)
        points = ([shares[key][name] for name in names] for key in ("lost", "gain"))
        x, y = (tuple(values) for values in points)
        series.append(Series(name=memory, x=x, y=y, labels=labels))
    return Scatter(
        title="Gain against harm", x_label="share of tokens that lose", y_label="gain, nats per token",
        series=tuple(series), x_is_percent=True, best="upper left",
    )  # fmt: skip


def _split(human: Human, mixed: Mixed, name: str, gains: Gains, seed: int) -> Table:
    vocabulary, mixture = mixed.lm.vocabulary, mixed.mixtures[name]
    words, flags = word_gains(human, mixture, vocabulary)
    kinds = [(f"words: {label}", words.where([f[:, c] for f in flags])) for c, label in enumerate(CLASSES)]
    first = [is_first_piece(ids, vocabulary) for ids in human.ids]
    kinds += [("tokens: first piece of a word", gains.where(first)),
              ("tokens: later piece", gains.where([~f for f in first]))]  # fmt: skip
    tenths = tenth_of(human)
    for tenth in range(TENTHS):
        part = gains.where([t == tenth for t in tenths])
        kinds.append((f"tokens: tenth {tenth + 1} by the model's probability", part))
    rows = tuple(
        (label, int(g.number_D.sum()), g.nats(seed), g.mean(seed), g.won(seed), g.lost(seed), g.concentration(seed))
        for label, g in kinds
        if g.number_D.sum()
    )
    columns = (
        Column(title="of"), Column(title="number", form="d"), Column(title="nats of the model", form=".3g"),
        Column(title="gain of each", form=".3f"), Column(title="gain", form=".1%"), Column(title="lose", form=".1%"),
        Column(title=f"share of gain in the top {TOP:.0%}", form=".1%"),
    )  # fmt: skip
    return Table(
        title=f"Who gains from {name}", columns=columns, rows=rows,
        note="Words are runs of characters that are not white space, with all their tokens; a word can be in several "
        "classes. The first tenth holds the tokens that the model thinks least probable.",
    )  # fmt: skip


def _by_tenth(human: Human, gains: dict[str, Gains], seed: int) -> Curve:
    tenths = tenth_of(human)
    series = []
    for name, found in gains.items():
        parts = [found.where([t == tenth for t in tenths]) for tenth in range(TENTHS)]
        series.append(Series(name=name, x=tuple(float(t + 1) for t in range(TENTHS)),
                             y=tuple(part.won(seed) for part in parts)))  # fmt: skip
    return Curve(title="Tokens that gain, by the model's own probability", x_label="tenth of tokens, least probable "
                 "first", y_label="share that gains", series=tuple(series), is_percent=True)  # fmt: skip


def _by_class(human: Human, mixed: Mixed, split: Sequence[str], seed: int) -> Intervals:
    found = {name: word_gains(human, mixed.mixtures[name], mixed.lm.vocabulary) for name in split}
    bars = []
    for c, label in enumerate(CLASSES):
        parts = [words.where([f[:, c] for f in flags]) for words, flags in found.values()]
        if all(part.number_D.sum() for part in parts):
            bars.append(Bar(label=label, values=tuple(part.mean(seed) for part in parts)))
    return Intervals(title="Gain by class of word", x_label="nats per word that the mixture needs less",
                     series=tuple(split), bars=tuple(bars), zero=0.0)  # fmt: skip
