"""What passages read before a text are worth in bits: looked for again and again, or once as a factor."""

# Axes: D documents, T tokens.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from factorlm.errors import InputError
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.document import Bar, Block, Cell, Column, Comparisons, Intervals, Section, Table
from factorlm.evaluation.intervals import Comparison, Estimate, adjusted
from factorlm.evaluation.memories.domains import DOMAINS, Domain
from factorlm.evaluation.memories.retrieval_questions import held
from factorlm.evaluation.memories.retrieval_search import BM25, DENSE, HYBRID, NONE, RANDOM, Searching
from factorlm.evaluation.part import Part
from factorlm.evaluation.texts import Limit, cut
from factorlm.evaluation.units import LN2, compare_rates, rate
from factorlm.inference.retrieved import Strided, retrieval_log_probs
from factorlm.memory.bm25 import Bm25Settings
from factorlm.memory.passages import PassageSettings, PassageStore
from factorlm.settings import Config

Array = NDArray[np.float64]
RETRIEVERS = (BM25, DENSE, HYBRID)
BITS = "bits per byte"
COPIED, OTHERS = "bits per byte of copied tokens", "bits per byte of other tokens"


class Likelihood(Config):
    """Settings of this part.

    Attributes:
        domains: kinds of text.
        ways: of finding passages; "none" and "random" are the controls.
        stored: documents of each that passages are cut from; None takes all.
        documents: of each that are measured.
        max_characters: of a measured document.
        size: tokens of a passage.
        reading: stride, query, passages and context.
        run: words in a row that are looked for in what is stored.
        most_shared: a document of which a larger share of such runs is stored is a near copy, and left out.
        bm25: what counts as a word.
    """

    domains: tuple[Domain, ...] = tuple(d for d in DOMAINS if d.name in ("encyclopedia", "contracts"))
    ways: Annotated[tuple[Literal["none", "random", "bm25", "dense", "hybrid"], ...], Field(min_length=1)] = (
        "none", "random", "bm25", "dense", "hybrid",
    )  # fmt: skip
    stored: Limit = 60
    documents: PositiveInt = 16
    max_characters: PositiveInt = 1200
    size: PositiveInt = 96
    reading: Strided = Strided(budget=112, context=256, history="filled")
    run: PositiveInt = 8
    most_shared: Annotated[float, Field(ge=0, le=1)] = 0.5
    bm25: Bm25Settings = Bm25Settings()


@dataclass(frozen=True)
class Held:
    """Texts of a domain.

    Attributes:
        store: passages of it.
        texts: that are measured, none a near copy of what is stored.
        num_near: documents that were left out.
    """

    store: PassageStore
    texts: tuple[str, ...]
    num_near: int


@dataclass(frozen=True, eq=False)
class Measured:
    """Texts of a domain, read with passages found in one way, token by token.

    Attributes:
        nats_D: minus the log probability of each token.
        copied_D: whether each goes on as its passage does.
        bytes_D: of each.
        whole_D: bytes of each document.
    """

    nats_D: list[Array]
    copied_D: list[NDArray[np.bool_]]
    bytes_D: list[Array]
    whole_D: Array

    @property
    def bits_D(self) -> Array:
        """Of each document."""
        return np.array([nats_T.sum() for nats_T in self.nats_D]) / LN2

    def bits_where(self, is_kept_D: Sequence[NDArray[np.bool_]]) -> Array:
        """Of those tokens of each document."""
        return np.array([nats_T[kept_T].sum() for nats_T, kept_T in zip(self.nats_D, is_kept_D, strict=True)]) / LN2

    def bytes_where(self, is_kept_D: Sequence[NDArray[np.bool_]]) -> Array:
        """Of those tokens of each document."""
        return np.array([size_T[kept_T].sum() for size_T, kept_T in zip(self.bytes_D, is_kept_D, strict=True)])


def held_texts(searching: Searching, settings: Likelihood, domain: Domain, number: int) -> Held:
    """Passages of a domain, and texts to measure with them.

    Raises:
        InputError: if every text is a near copy of what is stored.
    """
    bench = searching.bench
    stored = domain.stored.load(bench.data)[: settings.stored]
    whole = domain.test.load(bench.data)
    bench.used[f"{domain.name}, stored"], bench.used[f"{domain.name}, test"] = fingerprint(stored), fingerprint(whole)
    tests = [cut(text, settings.max_characters) for text in whole]
    shared = shared_runs(tests, stored, settings.run)
    kept = [text for text, share in zip(tests, shared, strict=True) if share <= settings.most_shared]
    if not kept:
        raise InputError(f"texts of {domain.name} that are not stored are needed, got near copies; raise most_shared")
    pieces = PassageSettings(size=settings.size, retrievers=("bm25", "dense"), bm25=settings.bm25)
    store = searching.store(domain.name, stored, pieces)
    return Held(store, tuple(kept[:number]), len(tests) - len(kept))


def shared_runs(texts: Sequence[str], stored: Sequence[str], length: int) -> list[float]:
    """Share of the runs of so many words of each text that stand in one of the stored texts; nothing for short ones."""

    def runs(text: str) -> set[tuple[str, ...]]:
        words = text.lower().split()
        return {tuple(words[n : n + length]) for n in range(len(words) - length + 1)}

    rows = [runs(text) for text in texts]
    wanted = {run for row in rows for run in row}
    known = {run for text in stored for run in runs(text) & wanted}
    return [len(row & known) / len(row) if row else 0.0 for row in rows]


def measure_likelihood(searching: Searching, settings: Likelihood) -> Part:
    """Read the texts of all domains with passages found in all ways."""
    return Part.joined([_of_domain(searching, settings, domain) for domain in settings.domains])


def _of_domain(searching: Searching, settings: Likelihood, domain: Domain) -> Part:
    texts = held_texts(searching, settings, domain, settings.documents)
    found: dict[str, Measured] = {way: _read(searching, settings, domain.name, texts, way) for way in settings.ways}
    seed = searching.bench.seed

    def against(measure: str, way: str, rival: str, where: Sequence[NDArray[np.bool_]] | None = None) -> Comparison:
        ours, theirs = found[way], found[rival]
        if where is None:
            bits, sizes = (ours.bits_D, theirs.bits_D), (ours.whole_D, theirs.whole_D)
        else:
            bits = (ours.bits_where(where), theirs.bits_where(where))
            sizes = (ours.bytes_where(where), theirs.bytes_where(where))
        return compare_rates(measure, (way, rival), bits, sizes, seed)

    pairs = [*((way, NONE) for way in found if way != NONE), (DENSE, BM25), (HYBRID, BM25)]
    comparisons = adjusted([against(BITS, *pair) for pair in pairs if set(pair) <= set(found)])
    split = []
    if NONE in found:
        for way in (way for way in (RANDOM, *RETRIEVERS) if way in found):
            copied = found[way].copied_D
            for title, where in ((COPIED, copied), (OTHERS, [~copied_T for copied_T in copied])):
                split.append(against(title, way, NONE, where))
    return _part(settings, domain.name, texts, found, comparisons, split, seed)


def _read(searching: Searching, settings: Likelihood, name: str, texts: Held, way: str) -> Measured:
    bench = searching.bench
    model, retriever = bench.models[0], searching.retriever(texts.store, way)
    key = {
        "what": "memory, likelihood with passages", "model": model.fingerprint, "store": texts.store.path.name,
        "way": way, "seed": bench.seed, "reading": settings.reading.model_dump(mode="json"),
    }  # fmt: skip

    def work(batch: list[str]) -> list[dict[str, Any]]:
        rows = []
        for text in batch:
            read = retrieval_log_probs(model.model, text, retriever, settings.reading)
            sizes = [len(searching.lm.vocabulary.decode([token])) for token in read.token_ids]
            nats, copied = (-read.log_prob_T).tolist(), read.is_copied_T.tolist()
            rows.append({"nats": nats, "copied": copied, "bytes": sizes})
        return rows

    rows = bench.in_batches(f"{name}, passages by {way}", key, list(texts.texts), 1, work)
    return Measured(
        nats_D=[np.array(row["nats"], float) for row in rows],
        copied_D=[np.array(row["copied"], bool) for row in rows],
        bytes_D=[np.array(row["bytes"], float) for row in rows],
        whole_D=np.array([float(len(text.encode())) for text in texts.texts]),
    )


def _part(
    settings: Likelihood, name: str, texts: Held, found: dict[str, Measured], comparisons: list[Comparison],
    split: list[Comparison], seed: int,
) -> Part:  # fmt: skip
    bits = {way: rate(m.bits_D, m.whole_D, seed=seed) for way, m in found.items()}
    shares = {way: rate(m.bytes_where(m.copied_D), m.whole_D, seed=seed) for way, m in found.items()}

    def saved(title: str, way: str) -> Cell:
        return next((c.difference for c in split if (c.measure, c.model) == (title, way)), None)

    columns = (
        Column(title="passages"), Column(title=BITS, form=".3f", best="low"),
        Column(title="share of bytes copied", form=".1%"),
        Column(title="copied tokens, minus none", form="+.3f", best="low"),
        Column(title="other tokens, minus none", form="+.3f", best="low"),
    )  # fmt: skip
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (way, bits[way], shares[way], saved(COPIED, way), saved(OTHERS, way)) for way in found
    )
    reading = settings.reading
    table = Table(
        title=f"Texts read with passages, {name}", columns=columns, rows=rows,
        note=f"A token is copied if it ends {reading.copied} tokens in a row that the passage has, too; the same "
        "tokens without passages are what it is compared with.",
    )  # fmt: skip
    against_none = [c for c in comparisons if c.rival == NONE]
    blocks: list[Block] = [table]
    if against_none:
        bars = tuple(Bar(label=c.model, values=(c.difference,)) for c in against_none)
        blocks.append(Intervals(title=f"{BITS}, minus none", x_label="difference in bits per byte", series=(name,),
                                bars=bars, zero=0.0))  # fmt: skip
    if comparisons:
        blocks.append(Comparisons(title="Paired comparisons", rows=tuple(comparisons)))
    lead = (
        f"{len(texts.texts)} documents, {len(texts.store):,} passages of other documents. Every {reading.stride} "
        f"tokens the last {reading.query_tokens} are looked for; of {reading.context} tokens read at once passages "
        f"take at most {reading.budget}, "
        + ("and what they leave is history." if reading.history == "filled" else "and history never has that room.")
    )
    measures = {
        f"likelihood, {name}, {BITS}": bits,
        f"likelihood, {name}, share of bytes copied": shares,
        **{f"likelihood, {name}, {title} against none": {c.model: c.difference for c in split if c.measure == title}
           for title in dict.fromkeys(c.measure for c in split)},
        **{f"likelihood, {name}, {BITS} against {rival}": {c.model: c.difference for c in comparisons
                                                           if c.rival == rival}
           for rival in dict.fromkeys(c.rival for c in comparisons)},
    }  # fmt: skip
    cautions = (
        f"{texts.num_near} documents of {name} were left out: more than {settings.most_shared:.0%} of their runs of "
        f"{settings.run} words are stored.",
    )
    return Part(
        sections=(Section(title=f"Texts read with passages: {name}", lead=lead, blocks=tuple(blocks)),),
        measures=measures, headlines=_headlines(name, found, bits, comparisons),
        cautions=cautions if texts.num_near else (),
    )  # fmt: skip


def _headlines(
    name: str, found: dict[str, Measured], bits: dict[str, Estimate], comparisons: list[Comparison]
) -> tuple[str, ...]:
    mine = [way for way in RETRIEVERS if way in found]
    if not mine:
        return ()
    best = min(mine, key=lambda way: float(found[way].bits_D.sum()))
    line = f"Likelihood of {name}: {best} is best, {bits[best]} bits per byte"
    if NONE in found:
        line += f", without passages {bits[NONE]}"
    rivals = [c for c in comparisons if c.rival == BM25]
    if rivals:
        c = min(rivals, key=lambda c: c.difference.value or 0.0)
        turned = {"better": "worse", "worse": "better"}.get(c.verdict, c.verdict)
        line += f"; {c.model} minus {BM25} {c.difference}; that {BM25} wins "
        line += held(c.model_copy(update={"verdict": turned}))
    return (f"{line}.",)
