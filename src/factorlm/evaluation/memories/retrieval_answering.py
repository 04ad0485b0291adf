"""Answering questions with passages that each way of searching finds, read before the question."""

# Axes: K passages of a ranking, Q questions.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PositiveInt

from factorlm.evaluation.answers import exact_match, token_f1
from factorlm.evaluation.document import Bar, Block, Cell, Column, Comparisons, Intervals, Samples, Section, Table
from factorlm.evaluation.intervals import Comparison, adjusted
from factorlm.evaluation.memories.retrieval_questions import (
    Asked,
    PerQuestion,
    answerable,
    encyclopedia,
    held,
    holds,
    load_gold,
)
from factorlm.evaluation.memories.retrieval_search import BM25, DENSE, HYBRID, NONE, RANDOM, WHOLE, Searching
from factorlm.evaluation.part import Part
from factorlm.evaluation.requests import generate_until
from factorlm.evaluation.workbench import Workbench
from factorlm.inference.retrieved import Retrieved, with_passages
from factorlm.memory.bm25 import Bm25Settings
from factorlm.memory.passages import PassageSettings, PassageStore
from factorlm.settings import Config

GOLD = "gold"
STOPS = ("\n",)
BATCH = 32  # questions that are cached together
SHOWN = 2  # questions in the report
F1, EXACT, READ = "F1", "exact match", "answer stood in what was read"
EXAMPLES = (  # of short answers
    ("How many days are there in a week?", "seven"),
    ("Which planet is nearest to the Sun?", "Mercury"),
    ("What do bees make from nectar?", "honey"),
    ("Who wrote the play Hamlet?", "William Shakespeare"),
)


class Answering(Config):
    """Settings of this part.

    Attributes:
        sets: of questions; nq_open asks those of which some passage of the encyclopedia holds an answer.
        ways: of finding what is read before a question: nothing, any passages, those that are found, or those that are
            known to answer, where they are.
        num_questions: of each set.
        max_tokens: of an answer.
        reading: how many passages are looked for, and how many tokens of them are read.
        first: numbers of passages that an answer is looked for in.
        nq_open: part of the questions.
        encyclopedia: parts of WikiText that passages for nq_open are cut from.
        words: of a passage of the encyclopedia.
        bm25: what counts as a word.
    """

    sets: tuple[Literal["xquad_en", "nq_open"], ...] = ("xquad_en", "nq_open")
    ways: Annotated[tuple[Literal["none", "random", "bm25", "dense", "hybrid", "gold"], ...], Field(min_length=1)] = (
        "none", "random", "bm25", "dense", "hybrid", "gold",
    )  # fmt: skip
    num_questions: PositiveInt = 100
    max_tokens: PositiveInt = 12
    reading: Retrieved = Retrieved(k=3, budget=384)
    first: tuple[PositiveInt, ...] = (1, 5)
    nq_open: str = "nq_open/dev"
    encyclopedia: tuple[str, ...] = (
        "wikitext/wikitext103_train_head", "wikitext/wikitext103_valid", "wikitext/wikitext103_test",
    )  # fmt: skip
    words: PositiveInt = 100
    bm25: Bm25Settings = Bm25Settings()


@dataclass(frozen=True, eq=False)
class Answered:
    """What was made of the questions of a set in one way.

    Attributes:
        found: the passages, the best first.
        background: what was read before each question.
        text: the answers.
    """

    found: list[list[str]]
    background: list[str]
    text: list[str]


def measure_answering(searching: Searching, settings: Answering) -> Part:
    """Answer the questions of all sets, in all ways."""
    return Part.joined([_of_set(searching, settings, name) for name in settings.sets])


def _of_set(searching: Searching, settings: Answering, name: str) -> Part:
    asked, store, about = _asked(searching, settings, name)
    ways = [way for way in settings.ways if way != GOLD or all(q.relevant for q in asked.questions)]
    answered: dict[str, Answered] = {way: _answered(searching, settings, name, asked, store, way) for way in ways}
    measures = _measures(asked, answered, settings, searching.bench.seed)
    f1 = measures[0]
    pairs = [(way, NONE) for way in (RANDOM, BM25, DENSE, HYBRID)] + [(way, BM25) for way in (DENSE, HYBRID)]
    comparisons = adjusted([f1.against(*pair) for pair in pairs if set(pair) <= set(ways)])
    named = {f"answering, {name}, {m.measure}": {way: m.estimate(way) for way in m.value_Q} for m in measures}
    named |= {
        f"answering, {name}, {F1} against {rival}": {c.model: c.difference for c in comparisons if c.rival == rival}
        for rival in dict.fromkeys(c.rival for c in comparisons)
    }
    return Part(
        sections=(_section(name, about, settings, asked, answered, measures, comparisons),),
        measures=named,
        headlines=_headlines(name, f1, comparisons),
        cautions=_cautions(name, f1),
    )


def _asked(searching: Searching, settings: Answering, name: str) -> tuple[Asked, PassageStore, str]:
    """Questions, what is searched for them, and what is to be said of both."""
    bench = searching.bench
    retrievers: tuple[Literal["bm25", "dense"], ...] = ("bm25", "dense")
    if name == "xquad_en":
        asked = load_gold(bench, name, settings.num_questions)
        whole = PassageSettings(unit="words", size=WHOLE, retrievers=retrievers, bm25=settings.bm25)
        about = f"{len(asked.questions)} questions; {len(asked.passages)} passages are searched."
        return asked, searching.store(name, asked.passages, whole), about
    articles = encyclopedia(bench, settings.encyclopedia)
    pieces = PassageSettings(unit="words", size=settings.words, retrievers=retrievers, bm25=settings.bm25)
    store = searching.store("encyclopedia, articles", articles, pieces)
    passages = tuple(store.passage(n).text for n in range(len(store)))
    questions, total = answerable(bench, settings.nq_open, passages)
    about = (
        f"Of {total:,} questions {len(questions):,} have an answer that stands in one of the {len(store):,} passages "
        f"of {settings.words} words, by chance or not; {min(len(questions), settings.num_questions)} of them are asked."
    )
    return Asked(passages, questions[: settings.num_questions], "question"), store, about


def _answered(
    searching: Searching, settings: Answering, name: str, asked: Asked, store: PassageStore, way: str
) -> Answered:
    bench, lm = searching.bench, searching.lm
    if way == GOLD:
        found = [[asked.passages[n] for n in q.relevant] for q in asked.questions]
    else:
        most = max(settings.reading.k, *settings.first)
        hits = searching.retriever(store, way).search([q.text for q in asked.questions], most)
        found = [[asked.passages[hit.passage] for hit in row] for row in hits]
    background = [with_passages(lm, row[: settings.reading.k], settings=settings.reading).text for row in found]
    prompts = [prompt_of(text, q.text) for text, q in zip(background, asked.questions, strict=True)]
    return Answered(found, background, _written(bench, f"answering {name}, {way}", prompts, settings.max_tokens))


def prompt_of(background: str, question: str) -> str:
    """What is read before an answer: examples of short answers, what was found, the question."""
    examples = "".join(f"Question: {asked}\nAnswer: {answer}\n\n" for asked, answer in EXAMPLES)
    return f"{examples}{background}Question: {question}\nAnswer:"


def _written(bench: Workbench, stage: str, prompts: list[str], max_tokens: int) -> list[str]:
    model = bench.models[0]
    key = {"what": "memory, answering", "model": model.fingerprint, "stops": list(STOPS), "max_tokens": max_tokens}

    def write(batch: list[str]) -> list[str]:
        found = generate_until(model.model, [(prompt, STOPS, max_tokens) for prompt in batch])
        return [writing.text.strip() for writing in found]

    return bench.in_batches(stage, key, prompts, BATCH, write)


def _measures(asked: Asked, answered: dict[str, Answered], settings: Answering, seed: int) -> list[PerQuestion]:
    questions = asked.questions
    units_Q = tuple(q.unit for q in questions)

    def measure(title: str, by_way: dict[str, Sequence[float]]) -> PerQuestion:
        return PerQuestion(title, units_Q, {way: np.array(values, float) for way, values in by_way.items()}, seed)

    def judged(title: str, judge: Callable[[str, Sequence[str]], float]) -> PerQuestion:
        return measure(
            title, {way: [judge(t, q.answers) for t, q in zip(a.text, questions, strict=True)] for way, a in
                    answered.items()},
        )  # fmt: skip

    read = measure(
        READ, {way: [holds([b], q.answers) for b, q in zip(a.background, questions, strict=True)]
               for way, a in answered.items()},
    )  # fmt: skip
    first = [
        measure(
            f"answer in the first {k}",
            {way: [holds(row[:k], q.answers) for row, q in zip(a.found, questions, strict=True)]
             for way, a in answered.items() if way not in (NONE, GOLD)},
        )
        for k in settings.first
    ]  # fmt: skip
    return [judged(F1, token_f1), judged(EXACT, exact_match), read, *first]


def _section(
    name: str, about: str, settings: Answering, asked: Asked, answered: dict[str, Answered],
    measures: list[PerQuestion], comparisons: list[Comparison],
) -> Section:  # fmt: skip
    ways, f1 = list(answered), measures[0]
    columns = (Column(title="passages"), *(Column(title=m.measure, form=".1%", best="high") for m in measures))
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (way, *(m.estimate(way) if way in m.value_Q else None for m in measures)) for way in ways
    )
    blocks: list[Block] = [
        Table(title=f"Answers, {name}", columns=columns, rows=rows,
              note=f"Answers of at most {settings.max_tokens} tokens, written greedily after four examples, at most "
              f"{settings.reading.k} passages in at most {settings.reading.budget} tokens, and the question."),
        Intervals(title=F1, x_label="F1 over words", series=(name,), is_percent=True,
                  bars=tuple(Bar(label=way, values=(f1.estimate(way),)) for way in ways)),
    ]  # fmt: skip
    if comparisons:
        blocks.append(Comparisons(title="Paired comparisons", rows=tuple(comparisons)))
    texts = tuple(
        (f"{way}: {question.text}", f"right: {question.answers[0]}", answered[way].text[n])
        for n, question in enumerate(asked.questions[:SHOWN])
        for way in ways
    )
    blocks.append(Samples(title="Answers", texts=texts))
    units = len(set(f1.units_Q))
    lead = f"{about} Intervals are over {units} units: questions of one {asked.unit} are resampled together."
    return Section(title=f"Answering with passages: {name}", lead=lead, blocks=tuple(blocks))


def _headlines(name: str, f1: PerQuestion, comparisons: list[Comparison]) -> tuple[str, ...]:
    found = {way: value_Q for way, value_Q in f1.value_Q.items() if way in (BM25, DENSE, HYBRID)}
    if not found:
        return ()
    best = PerQuestion(f1.measure, f1.units_Q, found, f1.seed).best()
    line = f"Answering {name}: {best} is best, F1 {f1.estimate(best)}"
    if NONE in f1.value_Q:
        line += f", without passages {f1.estimate(NONE)}"
    mine = [c for c in comparisons if c.rival == BM25]
    if mine:
        c = max(mine, key=lambda c: c.difference.value or 0.0)
        line += f"; {c.model} minus {BM25} {c.difference}; that vectors win, alone or with words, {held(c)}"
    return (f"{line}.",)


def _cautions(name: str, f1: PerQuestion) -> tuple[str, ...]:
    if GOLD not in f1.value_Q:
        return (f"No passages of {name} are known to answer; that one has the words of an answer may be chance.",)
    return ()
