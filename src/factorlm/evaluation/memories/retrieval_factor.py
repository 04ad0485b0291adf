"""Passages as a factor: p(x | passages, prompt) / p(x | prompt) with several exponents, in bits."""

# Axes: D documents.

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from factorlm.errors import UnknownNameError
from factorlm.evaluation.document import Cell, Column, Comparisons, Curve, Section, Series, Table
from factorlm.evaluation.intervals import adjusted
from factorlm.evaluation.memories.retrieval_search import NONE, RANDOM, Searching
from factorlm.evaluation.memories.retrieval_texts import BITS, Held, Likelihood, held_texts
from factorlm.evaluation.part import Part
from factorlm.evaluation.requests import loglikelihood
from factorlm.evaluation.texts import cut
from factorlm.evaluation.units import LN2, compare_rates, rate
from factorlm.inference.retrieved import Retrieved, retrieve_for
from factorlm.settings import Config

Array = NDArray[np.float64]
Item = tuple[str, str]  # prompt, continuation


class AsFactor(Config):
    """Settings of this part; texts and passages are those of the likelihood.

    Attributes:
        domain: kind of text.
        ways: of finding passages for the end of a prompt; "random" is the control.
        exponents: of the factor.
        documents: one prompt each.
        prompt_characters: of a document, that are read.
        characters: behind them, that are scored.
        reading: how many passages, and how they are read.
    """

    domain: str = "encyclopedia"
    ways: Annotated[tuple[Literal["random", "bm25", "dense", "hybrid"], ...], Field(min_length=1)] = (
        "random", "bm25", "dense",
    )  # fmt: skip
    exponents: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.5, 1.0, 1.5)
    documents: PositiveInt = 24
    prompt_characters: PositiveInt = 600
    characters: PositiveInt = 300
    reading: Retrieved = Retrieved(k=2, budget=224, query_tokens=32)


def measure_factor(searching: Searching, settings: AsFactor, texts: Likelihood) -> Part:
    """Score what follows prompts, with the factor of passages found for them.

    Raises:
        UnknownNameError: if the domain is not among those of the texts.
    """
    domains = {domain.name: domain for domain in texts.domains}
    if settings.domain not in domains:
        raise UnknownNameError.of("domain", settings.domain, domains)
    most = settings.prompt_characters + settings.characters
    found = held_texts(
        searching, texts.model_copy(update={"max_characters": most}), domains[settings.domain], settings.documents
    )
    items = [item for text in found.texts if (item := _parted(text, settings.prompt_characters))[1].strip()]
    bytes_D = np.array([float(len(text.encode())) for _, text in items])
    bits = {NONE: _plain(searching, items)}
    for way in settings.ways:
        bits |= _with_factor(searching, settings, found, items, way)
    return _part(settings, len(found.store), bits, bytes_D, searching.bench.seed)


def named(way: str, exponent: float) -> str:
    """What a factor with its exponent is called."""
    return f"{way}^{exponent:g}"


def _parted(text: str, num_characters: int) -> Item:
    prompt = cut(text, num_characters)
    return prompt, text[len(prompt) :]


def _plain(searching: Searching, items: list[Item]) -> Array:
    """Bits of each continuation under the model alone."""
    bench = searching.bench
    model = bench.models[0]
    key = {"what": "memory, continuations", "model": model.fingerprint}
    found = bench.in_batches(
        "continuations, no factor", key, [list(item) for item in items], 1,
        lambda batch: [-found.log_prob for found in loglikelihood(model.model, [(p, text) for p, text in batch])],
    )  # fmt: skip
    return np.array(found, float) / LN2


def _with_factor(
    searching: Searching, settings: AsFactor, texts: Held, items: list[Item], way: str
) -> dict[str, Array]:
    """Bits of each continuation under the model times the factor, by exponent."""
    bench = searching.bench
    model, retriever = bench.models[0], searching.retriever(texts.store, way)
    key = {
        "what": "memory, factor of passages", "model": model.fingerprint, "store": texts.store.path.name, "way": way,
        "seed": bench.seed, "reading": settings.reading.model_dump(mode="json"), "exponents": list(settings.exponents),
    }  # fmt: skip

    def work(batch: list[list[str]]) -> list[list[float]]:
        rows = []
        for prompt, text in batch:
            factor = retrieve_for(model.model, retriever, prompt, settings.reading, name=f"by {way}").factor
            rows.append([
                -loglikelihood(model.model * factor**exponent, [(prompt, text)])[0].log_prob
                for exponent in settings.exponents
            ])  # fmt: skip
        return rows

    stage = f"continuations, factor by {way}"
    nats_DE = np.array(bench.in_batches(stage, key, [list(item) for item in items], 1, work), float)
    return {named(way, exponent): nats_DE[:, e] / LN2 for e, exponent in enumerate(settings.exponents)}


def _part(settings: AsFactor, num_passages: int, bits: dict[str, Array], bytes_D: Array, seed: int) -> Part:
    found = {name: rate(bits_D, bytes_D, seed=seed) for name, bits_D in bits.items()}
    comparisons = adjusted([
        compare_rates(BITS, (name, NONE), (bits_D, bits[NONE]), (bytes_D, bytes_D), seed)
        for name, bits_D in bits.items() if name != NONE
    ])  # fmt: skip
    columns = (Column(title="passages^exponent"), Column(title=BITS, form=".3f", best="low"))
    rows: tuple[tuple[Cell, ...], ...] = tuple((name, estimate) for name, estimate in found.items())
    exponents = (0.0, *settings.exponents)
    series = tuple(
        Series(name=way, x=exponents, y=(found[NONE], *(found[named(way, e)] for e in settings.exponents)),
               is_reference=way == RANDOM)
        for way in settings.ways
    )  # fmt: skip
    blocks = (
        Table(title=f"Continuations with passages as a factor, {settings.domain}", columns=columns, rows=rows),
        Curve(title=f"{BITS} against the exponent", x_label="exponent", y_label=BITS, series=series,
              note="Exponent 0 is the model alone, exponent 1 the model that reads the passages before the prompt."),
        Comparisons(title="Paired comparisons", rows=tuple(comparisons)),
    )  # fmt: skip
    lead = (
        f"{len(bytes_D)} continuations of {settings.domain}, up to {settings.characters} characters each, after "
        f"{settings.prompt_characters} characters; {num_passages:,} passages, of which at most {settings.reading.k} "
        "are found once, for the end of the prompt."
    )
    measures = {
        f"factor, {settings.domain}, {BITS}": found,
        f"factor, {settings.domain}, {BITS} against none": {c.model: c.difference for c in comparisons},
    }
    mine = {name: bits_D for name, bits_D in bits.items() if name.split("^")[0] not in (NONE, RANDOM)}
    line: tuple[str, ...] = ()
    if mine:
        best = min(mine, key=lambda name: float(mine[name].sum()))
        c = next(c for c in comparisons if c.model == best)
        line = (f"Passages as a factor, {settings.domain}: {best} is best, {c.difference} bits per byte against the "
                f"model alone, {c.verdict}.",)  # fmt: skip
    return Part(sections=(Section(title=f"Passages as a factor: {settings.domain}", lead=lead, blocks=blocks),),
                measures=measures, headlines=line)  # fmt: skip
