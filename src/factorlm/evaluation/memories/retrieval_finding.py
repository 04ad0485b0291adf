"""Finding passages: which retriever finds those that answer a question, at what cost, and where words decide it."""

# Axes: K passages of a ranking, Q questions or queries, R resamples.

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from factorlm.evaluation.document import Bar, Block, Cell, Column, Comparisons, Curve, Intervals, Section, Series, Table
from factorlm.evaluation.intervals import LEVEL, RESAMPLES, Comparison, Estimate, adjusted
from factorlm.evaluation.memories.retrieval_questions import Asked, PerQuestion, held, load_gold
from factorlm.evaluation.memories.retrieval_search import BM25, WHOLE, Searching, bytes_on_disk
from factorlm.evaluation.part import Part
from factorlm.evaluation.texts import Limit
from factorlm.memory.bm25 import Bm25Settings
from factorlm.memory.passages import PassageSettings, PassageStore
from factorlm.memory.ranking import ndcg_at, recall_at, reciprocal_rank
from factorlm.settings import Config

Array = NDArray[np.float64]
GROUPS = 4  # of questions, by the words that they share with their passages
Judge = Callable[[Sequence[int], Sequence[int]], float]  # from the passages found, and those that answer


class Finding(Config):
    """Settings of this part.

    Attributes:
        sets: of questions.
        ways: of searching that are compared; bm25 is what the others are compared with.
        first: numbers of passages that are looked at for recall.
        depth: of a ranking, for its discounted gain and reciprocal rank.
        num_questions: of each set; None asks all.
        timed: queries asked one by one with the clock running, of each set and way.
        bm25: what counts as a word.
    """

    sets: tuple[Literal["xquad_en", "fairytale_qa"], ...] = ("xquad_en", "fairytale_qa")
    ways: Annotated[tuple[Literal["bm25", "dense", "hybrid", "min-max"], ...], Field(min_length=1)] = (
        "bm25", "dense", "hybrid", "min-max",
    )  # fmt: skip
    first: tuple[PositiveInt, ...] = (1, 5, 10)
    depth: PositiveInt = 10
    num_questions: Limit = None
    timed: PositiveInt = 200
    bm25: Bm25Settings = Bm25Settings()


@dataclass(frozen=True, eq=False)
class Timed:
    """How long queries took.

    Attributes:
        median: in milliseconds.
        slowest: that 99 of 100 do not exceed, in milliseconds.
    """

    median: Estimate
    slowest: Estimate


def measure_finding(searching: Searching, settings: Finding) -> Part:
    """Search for the passages of all questions, in all ways."""
    return Part.joined([_of_set(searching, settings, name) for name in settings.sets])


def _of_set(searching: Searching, settings: Finding, name: str) -> Part:
    bench = searching.bench
    asked = load_gold(bench, name, settings.num_questions)
    store = searching.store(
        name, asked.passages,
        PassageSettings(unit="words", size=WHOLE, retrievers=("bm25", "dense"), bm25=settings.bm25),
    )  # fmt: skip
    assert len(store) == len(asked.passages)
    queries, most = [q.text for q in asked.questions], max(settings.depth, *settings.first)
    rankings, times = dict[str, list[list[int]]](), dict[str, Timed]()
    for done, way in enumerate(settings.ways):
        found = searching.retriever(store, way).search(queries, most)
        rankings[way] = [[hit.passage for hit in hits] for hits in found]
        blanks = " " * (done + 1)  # they change nothing, but keep the encoder from remembering a query
        times[way] = _timed(searching, store, way, [q + blanks for q in queries[: settings.timed]], most)
        bench.report(f"finding passages, {name}", done + 1, len(settings.ways))
    measures = _measures(asked, rankings, settings, bench.seed)
    sizes: dict[str, int] = {way: bytes_on_disk(store, way) for way in settings.ways}
    comparisons = adjusted([
        m.against(way, BM25) for m in measures if BM25 in settings.ways for way in settings.ways if way != BM25
    ])  # fmt: skip
    overlap_Q = np.array([_overlap(q.text, [asked.passages[n] for n in q.relevant], settings) for q in asked.questions])
    by_overlap = _by_overlap(measures[0], overlap_Q)
    return Part(
        sections=(_section(name, asked, settings, measures, comparisons, by_overlap, times, sizes),),
        measures=_named(name, settings.ways, measures, by_overlap, times, sizes),
        headlines=_headlines(name, measures[0], comparisons),
        cautions=_cautions(name, searching, asked),
    )


def _measures(asked: Asked, rankings: dict[str, list[list[int]]], settings: Finding, seed: int) -> list[PerQuestion]:
    units_Q = tuple(q.unit for q in asked.questions)

    def measure(title: str, judge: Judge) -> PerQuestion:
        values = {
            way: np.array([judge(row, q.relevant) for row, q in zip(rows, asked.questions, strict=True)], float)
            for way, rows in rankings.items()
        }
        return PerQuestion(title, units_Q, values, seed)

    def recall(k: int) -> Judge:
        return lambda ranked, relevant: recall_at(ranked, relevant, k)

    def gain(ranked: Sequence[int], relevant: Sequence[int]) -> float:
        return ndcg_at(ranked, dict.fromkeys(relevant, 1.0), settings.depth)

    def rank(ranked: Sequence[int], relevant: Sequence[int]) -> float:
        return reciprocal_rank(ranked[: settings.depth], relevant)

    found = [measure(f"recall@{k}", recall(k)) for k in settings.first]
    return [*found, measure(f"nDCG@{settings.depth}", gain), measure(f"reciprocal rank@{settings.depth}", rank)]


def _timed(searching: Searching, store: PassageStore, way: str, queries: Sequence[str], k: int) -> Timed:
    """How long queries take that are asked one by one."""
    retriever = searching.retriever(store, way, searching.uncached)
    retriever.search([f"{way}?"], k)  # what the first query alone has to wait for
    found = []
    for query in queries:
        start = time.perf_counter()
        retriever.search([query], k)
        found.append(1000 * (time.perf_counter() - start))
    return Timed(*(_quantile(np.array(found), share, searching.bench.seed) for share in (0.5, 0.99)))


def _quantile(value_Q: Array, share: float, seed: int) -> Estimate:
    """A quantile over queries, with its percentile interval over resampled queries."""
    drawn_RQ = np.random.default_rng(seed).integers(0, len(value_Q), (RESAMPLES, len(value_Q)))
    found_R = np.quantile(value_Q[drawn_RQ], share, axis=1)
    low, high = np.quantile(found_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=float(np.quantile(value_Q, share)), low=float(low), high=float(high), n=len(value_Q))


def _overlap(question: str, passages: Sequence[str], settings: Finding) -> float:
    """Share of the words of a question, stop words aside, that its passages have, too."""
    terms = settings.bm25.terms()
    asked = set(terms(question))
    return len(asked & {word for passage in passages for word in terms(passage)}) / max(1, len(asked))


def _by_overlap(recall: PerQuestion, overlap_Q: Array) -> list[tuple[float, PerQuestion]]:
    """Mean overlap and recall of groups of questions of about equal size; those of equal overlap stay together."""
    edges = np.quantile(overlap_Q, np.arange(1, GROUPS) / GROUPS)
    group_Q = np.searchsorted(edges, overlap_Q, side="left")
    return [(float(overlap_Q[group_Q == g].mean()), recall.of(group_Q == g)) for g in np.unique(group_Q)]


def _section(
    name: str, asked: Asked, settings: Finding, measures: list[PerQuestion], comparisons: list[Comparison],
    by_overlap: list[tuple[float, PerQuestion]], times: dict[str, Timed], sizes: dict[str, int],
) -> Section:  # fmt: skip
    columns = (
        Column(title="way"), *(Column(title=m.measure, form=".1%", best="high") for m in measures),
        Column(title="median ms a query", form=".2f", best="low"), Column(title="99 % within, ms", form=".2f"),
        Column(title="index, kB", form=",.0f", best="low"),
    )  # fmt: skip
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (way, *(m.estimate(way) for m in measures), times[way].median, times[way].slowest, sizes[way] / 1000)
        for way in settings.ways
    )
    first = measures[0]
    curve = Curve(
        title=f"{first.measure} by shared words", x_label="words of the question that its passages have, mean of group",
        y_label=first.measure, is_percent=True,
        series=tuple(
            Series(name=way, x=tuple(x for x, _ in by_overlap), y=tuple(m.estimate(way) for _, m in by_overlap))
            for way in settings.ways
        ),
        note="Questions in four groups by the share of their words, stop words aside, that stand in their passages.",
    )  # fmt: skip
    blocks: list[Block] = [
        Table(title=f"Finding passages, {name}", columns=columns, rows=rows,
              note="One query at a time, the query encoded by the clock; indexes without the passages themselves."),
        curve,
    ]  # fmt: skip
    rivals = tuple(way for way in settings.ways if way != BM25)
    if comparisons:
        bars = tuple(
            Bar(label=f"{x:.0%} of the words", values=tuple(m.against(way, BM25).difference for way in rivals))
            for x, m in by_overlap
        )
        blocks += [
            Intervals(title=f"{first.measure}, minus that of {BM25}", x_label="difference of shares", series=rivals,
                      bars=bars, zero=0.0, is_percent=True, note="By shared words, as above."),
            Comparisons(title="Paired comparisons", rows=tuple(comparisons)),
        ]  # fmt: skip
    lead = (
        f"{len(asked.questions)} questions, {len(asked.passages)} passages. Intervals are over "
        f"{len(set(first.units_Q))} units: questions of one {asked.unit} are resampled together."
    )
    return Section(title=f"Finding passages: {name}", lead=lead, blocks=tuple(blocks))


def _named(
    name: str, ways: Sequence[str], measures: list[PerQuestion], by_overlap: list[tuple[float, PerQuestion]],
    times: dict[str, Timed], sizes: dict[str, int],
) -> dict[str, dict[str, Estimate]]:  # fmt: skip
    found = {f"finding, {name}, {m.measure}": {way: m.estimate(way) for way in ways} for m in measures}
    if BM25 in ways:
        found |= {
            f"finding, {name}, {m.measure} against {BM25}": {
                way: m.against(way, BM25).difference for way in ways if way != BM25
            }
            for m in measures
        }
    for number, (_, m) in enumerate(by_overlap, 1):
        found[f"finding, {name}, {m.measure}, group {number} of shared words"] = {way: m.estimate(way) for way in ways}
    found[f"finding, {name}, median ms a query"] = {way: times[way].median for way in ways}
    found[f"finding, {name}, ms of 99 % of queries"] = {way: times[way].slowest for way in ways}
    found[f"finding, {name}, bytes of index"] = {way: Estimate(value=float(sizes[way])) for way in ways}
    return found


def _headlines(name: str, recall: PerQuestion, comparisons: list[Comparison]) -> tuple[str, ...]:
    best = recall.best()
    line = f"Finding passages of {name}: {best} is best, {recall.measure} {recall.estimate(best)}"
    mine = [c for c in comparisons if c.measure == recall.measure]
    if mine:
        c = max(mine, key=lambda c: c.difference.value or 0.0)
        line += f"; {c.model} minus {BM25} {c.difference}; that vectors win, alone or with words, {held(c)}"
    return (f"{line}.",)


def _cautions(name: str, searching: Searching, asked: Asked) -> tuple[str, ...]:
    num_cut = searching.num_cut(asked.passages)
    if not num_cut:
        return ()
    return (
        f"The encoder reads {searching.sentences.max_tokens} tokens: of {num_cut} of {len(asked.passages)} passages of "
        f"{name} dense retrieval knows only the beginning.",
    )
