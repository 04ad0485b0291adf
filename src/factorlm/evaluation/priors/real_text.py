"""A prior learned from real texts of several sources: what its components are, and what the mixture is worth."""

# Axes: K components, N texts.

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field, PositiveInt

from factorlm.errors import InputError
from factorlm.evaluation.document import Cell, Column, Section, Table
from factorlm.evaluation.part import Part
from factorlm.evaluation.priors.arms import alone
from factorlm.evaluation.priors.calibrated import measure_calibration
from factorlm.evaluation.priors.kept import fitted
from factorlm.evaluation.priors.likelihoods import BARE, MIXTURE, SINGLE, Cost, measure_likelihoods, nats_of
from factorlm.evaluation.priors.outside import Pair, measure_outside
from factorlm.evaluation.priors.passages import Passages, Source, load_passages
from factorlm.evaluation.priors.reading import MixtureTokens, Tokens, digest, read_mixture, read_model, rows_of
from factorlm.evaluation.priors.recovery import clusters, measure_recovery
from factorlm.evaluation.workbench import Workbench
from factorlm.prior import Fitting, Learning, Prior
from factorlm.settings import Config

SOURCES = (
    Source(part="tinystories/train", name="stories"),
    Source(part="cuad/contracts", name="contracts", max_documents=150),
    Source(part="movie_reviews/all", name="film reviews", max_documents=None, max_characters=3000),
    Source(part="tinyshakespeare/input", name="Shakespeare", documents="whole", max_characters=None, lines="joined"),
    Source(part="wikitext/wikitext103_train_head", name="encyclopedia", documents="headings"),
)
OUTSIDE = (
    Source(part="ag_news/test", name="news", max_documents=2000),
    Source(part="gsm8k/test", name="sums", fields=("question",), max_documents=None),
)
SHOWN = 2  # texts of each source that are shown


class RealText(Config):
    """Settings of this part.

    Attributes:
        sources: that texts are learned from and measured on.
        outside: sources that are only measured on.
        num_texts: to learn from, of each source.
        held_out: to measure on, of each source and each outside one.
        words: fewest and most of a text.
        is_lower: whether all texts are put in lower case, as film reviews are by themselves, so that case gives nothing
            away.
        components: of the prior; 0 takes as many as sources.
        fitting: how it is learned; its number of components is not used.
        first_tokens: of texts that are compared at equal length.
    """

    sources: tuple[Source, ...] = SOURCES
    outside: tuple[Source, ...] = OUTSIDE
    num_texts: PositiveInt = 250
    held_out: PositiveInt = 80
    words: tuple[PositiveInt, PositiveInt] = (12, 40)
    is_lower: bool = True
    components: Annotated[int, Field(ge=0, le=64)] = 0
    fitting: Fitting = Fitting(longest=32, learning=Learning(warm=2, rounds=6))
    first_tokens: Annotated[int, Field(ge=2)] = 14

    @classmethod
    def sized(cls, size: str) -> RealText:
        """Minutes, or what one would publish."""
        if size == "small":
            return cls(num_texts=60, held_out=30, fitting=Fitting(longest=32, learning=Learning(warm=1, rounds=3)))
        return cls()


def measure_real_text(bench: Workbench, settings: RealText) -> Part:
    """Learn a prior and one model of as many numbers from real texts, and compare them.

    Raises:
        InputError: if there are fewer than two sources, none outside, or components of a kind whose numbers cannot be
            put into one model.
    """
    if len(settings.sources) < 2 or not settings.outside:
        raise InputError(
            f"at least two sources and one outside are needed, got {len(settings.sources)} and {len(settings.outside)}"
        )
    if settings.fitting.kind not in ("soft-prompt", "lora"):
        raise InputError(
            f"soft-prompt or lora is needed, so that one model can have as many numbers, got {settings.fitting.kind}"
        )
    lm, seed, longest = bench.models[0].model.lm, bench.seed, settings.fitting.longest
    passages = _passages(bench, settings)
    own, foreign = passages[: len(settings.sources)], passages[len(settings.sources) :]
    num_components = settings.components or len(own)
    fitting = settings.fitting.model_copy(update={"components": num_components})
    texts = [text for p in own for text in p.train]
    prior = fitted(bench, lm, texts, fitting, title="real text: components")
    one = alone(fitting, times=num_components)
    single = fitted(bench, lm, texts, one, title="real text: one model")
    rows = [row for p in passages for row in rows_of(lm, p.held_out, longest)]
    mixture = read_mixture(bench, prior, rows, stage="real text: the mixture reads")
    by_single = read_model(bench, single.ensemble.component(0), lm, rows, name=digest(single),
                           stage="real text: one model reads")  # fmt: skip
    by_bare = read_model(bench, lm, lm, rows, name="bare", stage="real text: the bare model reads")
    source_N = np.repeat(np.arange(len(passages)), [len(p.held_out) for p in passages])
    num_own = int((source_N < len(own)).sum())
    names = [p.name for p in own]
    cluster_N = np.array(
        clusters(bench, lm, rows_of(lm, texts, longest), rows[:num_own], num_components, fitting.learning.seed)
    )
    ours, theirs, bares = mixture[:num_own], by_single[:num_own], by_bare[:num_own]
    costs = {MIXTURE: _cost(prior, fitting), SINGLE: _cost(single, one)}
    parts = (
        measure_recovery(names, source_N[:num_own], prior.names, np.stack([t.responsibility_K for t in ours]),
                         cluster_N, seed),
        measure_likelihoods(names, source_N[:num_own], nats_of(ours, theirs, bares),
                            np.array([t.num_tokens for t in ours], float), costs, seed),
        measure_calibration({MIXTURE: ours, SINGLE: theirs, BARE: bares}, seed),
        measure_outside(*_sides(own, foreign, mixture, by_bare), settings.first_tokens, seed),
    )  # fmt: skip
    return Part(
        sections=(_texts_section(passages, len(own), settings, prior), *(s for part in parts for s in part.sections)),
        measures={measure: found for part in parts for measure, found in part.measures.items()},
        headlines=tuple(line for part in parts for line in part.headlines),
        cautions=(*(line for part in parts for line in part.cautions), *_cautions(settings, prior, single)),
    )


def _passages(bench: Workbench, settings: RealText) -> list[Passages]:
    def load(sources: Sequence[Source], num_train: int) -> list[Passages]:
        return load_passages(bench, sources, num_train=num_train, num_held_out=settings.held_out, words=settings.words,
                             is_lower=settings.is_lower)  # fmt: skip

    found = [*load(settings.sources, settings.num_texts), *load(settings.outside, 0)]
    names = [p.name for p in found]
    if len(set(names)) < len(names):
        raise InputError(f"sources of different names are needed, inside and outside, got {', '.join(names)}")
    return found


def _sides(
    own: Sequence[Passages], foreign: Sequence[Passages], mixture: Sequence[MixtureTokens], bare: Sequence[Tokens]
) -> tuple[dict[str, list[Pair]], dict[str, list[Pair]]]:
    """Readings by source: those learned from, and the others."""
    pairs = iter(zip(mixture, bare, strict=True))
    inside, outside = ({p.name: [next(pairs) for _ in p.held_out] for p in side} for side in (own, foreign))
    return inside, outside


def _cost(prior: Prior, fitting: Fitting) -> Cost:
    assert prior.manifest.fitted is not None
    return Cost(prior.manifest.fitted.num_parameters, fitting.learning.warm + fitting.learning.rounds)


def _texts_section(passages: Sequence[Passages], num_own: int, settings: RealText, prior: Prior) -> Section:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            p.name,
            source.part,
            "yes" if number < num_own else "no",
            len(p.train),
            len(p.held_out),
            float(np.mean([len(text.split()) for text in p.held_out])),
        )
        for number, (p, source) in enumerate(zip(passages, (*settings.sources, *settings.outside), strict=True))
    )
    columns = (
        Column(title="source"),
        Column(title="data set"),
        Column(title="learned from"),
        Column(title="texts to learn from", form="d"),
        Column(title="held-out texts", form="d"),
        Column(title="words of a held-out text", form=".1f"),
    )
    samples = Table(
        title="Held-out texts",
        columns=(Column(title="source"), Column(title="text")),
        rows=tuple((p.name, text) for p in passages for text in p.held_out[:SHOWN]),
    )
    written = Table(
        title="What components write by themselves",
        columns=(Column(title="component"), Column(title="weight", form=".2f"), Column(title="text")),
        rows=tuple(
            (card.name, card.learned_weight, words)
            for card in prior.manifest.components
            if card.portrait is not None
            for words in card.portrait.own_words[:SHOWN]
        ),
    )
    lead = (
        f"Sentences of {settings.words[0]} to {settings.words[1]} words, read as far as {settings.fitting.longest} "
        f"tokens{', in lower case' if settings.is_lower else ''}, with quotes left out and spaces set alike, so that "
        "the manner of a file gives nothing away. Held-out texts are of other documents than those learned from."
    )
    return Section(title="Texts and components", lead=lead,
                   blocks=(Table(title="Sources", columns=columns, rows=rows), samples, written))  # fmt: skip


def _cautions(settings: RealText, prior: Prior, single: Prior) -> list[str]:
    found = [
        "Everything was learned once, with one seed: intervals are over texts, not over runs of learning.",
        f"Texts have at most {settings.fitting.longest} tokens, so a posterior has little to go by; on longer texts it "
        "is surer.",
    ]
    said = []
    for title, learned in (("components", prior), ("one model", single)):
        assert learned.manifest.fitted is not None
        rounds = learned.manifest.fitted.rounds
        said.append(f"the {title} {len(rounds)} rounds, {sum(r.is_undone for r in rounds)} of them undone")
    found.append(f"Learning may stop early, and undoes steps that did not help: {'; '.join(said)}.")
    return found
