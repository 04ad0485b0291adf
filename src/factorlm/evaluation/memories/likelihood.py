"""What memories of matching texts do to the likelihood of others of their kind."""

# Axes: D documents, N tokens.

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from factorlm.algebra import LocalProduct, pad_left, pad_right
from factorlm.errors import InputError
from factorlm.evaluation.document import Bar, Cell, Column, Intervals, Section, Table
from factorlm.evaluation.intervals import Estimate, mean_interval
from factorlm.evaluation.memories.domains import DOMAINS, Domain
from factorlm.evaluation.memories.matches import ALONE, Measured, matches
from factorlm.evaluation.memories.mixed import (
    Documents,
    documents_of,
    evidence_by_document,
    nats_under,
    with_model,
)
from factorlm.evaluation.memories.stores import infini_of, neighbours_of
from factorlm.evaluation.part import Part
from factorlm.evaluation.workbench import Workbench
from factorlm.memory.attribution import longest_matches
from factorlm.memory.datastore import Looking, NeighbourSettings
from factorlm.memory.gates import Evidence, Gate
from factorlm.memory.longest_suffix import InfiniGram
from factorlm.memory.neighbour_fitting import fit_neighbours
from factorlm.memory.weighing import Weighing, fit_gate
from factorlm.models import CausalLM
from factorlm.settings import Config

Array = NDArray[np.float64]
OTHER, NEAR, BOTH = "∞-gram of other texts", "neighbours", "∞-gram and neighbours"
GATES = {
    "∞-gram, one weight": "constant",
    "∞-gram, two weights": "two",
    "∞-gram, a table": "table",
    "∞-gram": "logistic",
}
BEST = "∞-gram"
COPIED_RUN = 20  # tokens of a match that is more than a common phrase
COPIED_SHARE = 0.8  # of a document in such matches: it is in the store, more or less, and is left out


class Likelihood(Config):
    """Settings of this part.

    Attributes:
        domains: kinds of text.
        test_tokens: measured of each.
        valid_tokens: that weights are learned on.
        longest: tokens of a document that are read.
        neighbour_characters: of the stored texts, that neighbours are kept of; 0 leaves neighbours out.
        neighbours: how their datastore is built.
    """

    domains: tuple[Domain, ...] = DOMAINS
    test_tokens: Annotated[int, Field(ge=200)] = 8000
    valid_tokens: Annotated[int, Field(ge=200)] = 8000
    longest: PositiveInt = 512
    neighbour_characters: Annotated[int, Field(ge=0)] = 400_000
    neighbours: NeighbourSettings = NeighbourSettings()


def measure_likelihood(bench: Workbench, settings: Likelihood) -> Part:
    """Measure all domains.

    Raises:
        InputError: with fewer than two domains: each is the control of another.
    """
    if len(settings.domains) < 2:
        raise InputError("at least two kinds of text are needed, each the control of another, got fewer")
    model, lm = LocalProduct.of(bench.models[0].model.factor), bench.models[0].model.lm
    stores = [infini_of(bench, lm, d.name, d.stored.load(bench.data)) for d in settings.domains]
    found = [
        _measured(bench, settings, lm, model, domain, stores[n], stores[(n + 1) % len(stores)])
        for n, domain in enumerate(settings.domains)
    ]
    return _part(bench, settings, found)


def _measured(
    bench: Workbench, settings: Likelihood, lm: CausalLM, model: LocalProduct, domain: Domain, own: InfiniGram,
    other: InfiniGram,
) -> Measured:  # fmt: skip
    valid = documents_of(lm, domain.valid.load(bench.data), settings.valid_tokens, settings.longest)
    tests = documents_of(lm, domain.test.load(bench.data), settings.test_tokens, settings.longest)
    share_D = np.array([_copied(own, row) for row in tests.rows])
    kept = [d for d, share in enumerate(share_D) if share < COPIED_SHARE]
    if not kept:
        raise InputError(f"all test texts of {domain.name} stand in what its memory was built from; take others")
    tests = Documents(tuple(tests.texts[d] for d in kept), tuple(tests.rows[d] for d in kept))
    fingerprint = bench.models[0].fingerprint

    def read(memory: InfiniGram, documents: Documents, name: str) -> list[Evidence]:
        key = {"model": fingerprint, "memory": memory.name}
        return evidence_by_document(bench, key, memory, model, lm.start_ids, documents, f"{domain.name}: {name}")

    infini_valid, infini_test = read(own, valid, "∞-gram, held out"), read(own, tests, "∞-gram")
    nats = {ALONE: nats_under(None, infini_test)}
    for arm, kind in GATES.items():
        gate = fit_gate(own, Evidence.joined(infini_valid), Weighing(kind=kind))  # type: ignore[arg-type]
        nats[arm] = nats_under(gate, infini_test)
    gate = fit_gate(other, Evidence.joined(read(other, valid, "other, held out")), Weighing(kind="logistic"))
    nats[OTHER] = nats_under(gate, read(other, tests, "other"))
    if settings.neighbour_characters:
        near_valid, near_test, near_gate = _near(bench, settings, lm, model, domain, valid, tests)
        nats[NEAR] = nats_under(near_gate, near_test)
        held_out = with_model(infini_valid, nats_under(near_gate, near_valid))
        gate = fit_gate(own, Evidence.joined(held_out), Weighing(kind="logistic"))
        nats[BOTH] = nats_under(gate, with_model(infini_test, nats[NEAR]))
    return Measured(
        domain, tests, nats, infini_test, own.engine.num_tokens, int((share_D >= COPIED_SHARE).sum()), share_D[kept]
    )


def _near(
    bench: Workbench, settings: Likelihood, lm: CausalLM, model: LocalProduct, domain: Domain, valid: Documents,
    tests: Documents,
) -> tuple[list[Evidence], list[Evidence], Gate]:  # fmt: skip
    """What neighbours gave to held-out and test documents, and their gate."""
    texts, left = [], settings.neighbour_characters
    for text in domain.stored.load(bench.data):
        if left <= 0:
            break
        texts.append(text[:left])
        left -= len(text)
    memory = neighbours_of(bench, lm, domain.name, texts, settings.neighbours)
    key = {"model": bench.models[0].fingerprint, "store": memory.store.path.name}

    def fit() -> dict[str, float]:
        prefix_BT = pad_left([list(lm.start_ids)] * len(valid.rows))
        found = fit_neighbours(memory, model, prefix_BT, pad_right([list(r) for r in valid.rows]))
        return {"k": found.looking.k, "temperature": found.looking.temperature}

    bench.report(f"{domain.name}: temperature of neighbours", 0, 1)
    looking = bench.cache.get({"what": "temperature", **key, "rows": [list(r) for r in valid.rows]}, fit)
    memory = memory.looking(Looking(k=int(looking["k"]), temperature=looking["temperature"])).ungated
    key = {**key, **looking}
    held_out, found = (
        evidence_by_document(bench, key, memory, model, lm.start_ids, documents, f"{domain.name}: {name}")
        for documents, name in ((valid, "neighbours, held out"), (tests, "neighbours"))
    )
    return held_out, found, fit_gate(memory, Evidence.joined(held_out), Weighing(kind="logistic"))


def _copied(memory: InfiniGram, row: Sequence[int]) -> float:
    """Share of a text's tokens in long matches with what is stored."""
    lengths = longest_matches(memory.engine, row)
    inside = np.zeros(len(row), np.bool_)
    for t, length in enumerate(lengths):
        if length >= COPIED_RUN:
            inside[t + 1 - length : t + 1] = True
    return float(inside.mean())


def _part(bench: Workbench, settings: Likelihood, found: list[Measured]) -> Part:
    seed = bench.seed
    arms = list(found[0].nats)
    measures: dict[str, dict[str, Estimate]] = {}
    rows: list[tuple[Cell, ...]] = []
    for m in found:
        name = m.domain.name
        measures[f"bits per byte/{name}"] = {arm: m.bits_per_byte(arm, seed) for arm in arms}
        measures[f"perplexity/{name}"] = {arm: m.perplexity(arm, seed) for arm in arms}
        measures[f"nats saved/{name}"] = {arm: m.saved(arm, seed) for arm in arms[1:]}
        measures[f"share of tokens that gain/{name}"] = {arm: m.wins(arm, seed) for arm in arms[1:]}
        measures[f"share in long matches/{name}"] = {BEST: mean_interval(m.share_D, seed=seed)}
        for arm in arms:
            gains = (measures[f"nats saved/{name}"][arm], m.wins(arm, seed)) if arm != ALONE else (None, None)
            rows.append((f"{name}: {arm}", m.bits_per_byte(arm, seed), m.perplexity(arm, seed), *gains))
    columns = (
        Column(title="texts and what reads them"), Column(title="bits per byte", form=".3f"),
        Column(title="perplexity", form=".2f"), Column(title="nats saved a token", form=".3f", best="high"),
        Column(title="tokens that gain", form=".0%"),
    )  # fmt: skip
    sizes = ", ".join(f"{m.domain.name} {m.stored_tokens:,}" for m in found)
    note = (
        f"Weights were learned on held-out texts, never on these. Tokens stored: {sizes}; of neighbours, the first "
        f"{settings.neighbour_characters:,} characters of these. The control is the ∞-gram of the next kind of text, "
        "with weights learned for it here. Intervals resample documents."
    )
    table = Table(title="Likelihood with and without a memory", columns=columns, rows=tuple(rows), note=note)
    bars = tuple(
        Bar(label=m.domain.name, values=tuple(measures[f"nats saved/{m.domain.name}"][arm] for arm in arms[1:]))
        for m in found
    )
    saved = Intervals(title="Nats saved a token", x_label="nats", series=tuple(arms[1:]), bars=bars, zero=0.0)
    sections = (
        Section(title="Likelihood", blocks=(table, saved)),
        Section(title="What is matched", blocks=matches(found, measures, seed)),
    )
    return Part(sections, measures, _headlines(found, measures), _cautions(found))


def _headlines(found: list[Measured], measures: dict[str, dict[str, Estimate]]) -> tuple[str, ...]:
    lines = []
    for m in found:
        name = m.domain.name
        ppl = measures[f"perplexity/{name}"]
        told = ", ".join(f"{ppl[arm].value:.1f} with {arm}" for arm in (BEST, NEAR, BOTH, OTHER) if arm in ppl)
        lines.append(f"{name.capitalize()}: perplexity {ppl[ALONE].value:.1f} alone, {told}.")
    return tuple(lines)


def _cautions(found: list[Measured]) -> tuple[str, ...]:
    lines = [
        f"{m.domain.name.capitalize()}: {m.num_copied} test texts stand in the store almost whole and were left out."
        for m in found
        if m.num_copied
    ]
    few = [m.domain.name for m in found if len(m.documents.rows) < 8]
    if few:
        lines.append(f"Too few documents for intervals: {', '.join(few)}.")
    return tuple(lines)
