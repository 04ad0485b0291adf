"""The part `retrieval` on a tiny model that is its own encoder: numbers against their definitions."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from factorlm.errors import InputError, UnknownNameError
from factorlm.evaluation.answers import token_f1
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.document import Curve, Samples, Table
from factorlm.evaluation.intervals import mean_interval
from factorlm.evaluation.memories import retrieval_answering, retrieval_factor, retrieval_texts
from factorlm.evaluation.memories.domains import Domain, Texts
from factorlm.evaluation.memories.retrieval import Retrieval, measure_retrieval
from factorlm.evaluation.memories.retrieval_answering import Answering, measure_answering, prompt_of
from factorlm.evaluation.memories.retrieval_factor import AsFactor, measure_factor
from factorlm.evaluation.memories.retrieval_finding import Finding, measure_finding
from factorlm.evaluation.memories.retrieval_questions import (
    PerQuestion,
    answerable,
    fairytale_qa,
    held,
    holds,
    joined,
    xquad_en,
)
from factorlm.evaluation.memories.retrieval_search import WHOLE, Searching, bytes_on_disk
from factorlm.evaluation.memories.retrieval_texts import Likelihood, held_texts, measure_likelihood, shared_runs
from factorlm.evaluation.requests import generate_until, loglikelihood
from factorlm.evaluation.texts import Corpus
from factorlm.evaluation.units import LN2
from factorlm.evaluation.workbench import Cache, Workbench
from factorlm.inference import Model
from factorlm.inference.expression import Composed
from factorlm.inference.retrieved import Retrieved, Strided, retrieval_log_probs, retrieve_for
from factorlm.memory.passages import PassageSettings
from factorlm.models import CausalLM

FLOAT32 = 1e-4  # logits of size 10, summed in batches of other shapes
NOUNS = ("boat", "lamp", "hill", "song", "bird", "road", "rain", "wall", "door", "fish")
SHORT = Retrieved(k=2, budget=60, template="{passages}\n", query_tokens=16)
STRIDED = Strided(budget=40, context=64, stride=8, query_tokens=16, history="filled")


def sentence(n: int) -> str:
    first, second, third = NOUNS[n % 10], NOUNS[(3 * n + n // 10 + 1) % 10], NOUNS[(7 * n + n // 5) % 10]
    return f"the {first} by the {second} is good, and a bad {third} was {chr(97 + n % 26)}{chr(97 + n // 26)}"


@pytest.fixture
def bench(put: Callable[..., DataFolder], tiny_lm: CausalLM, tmp_path: Path) -> Workbench:
    put("xquad_en/passages", [{"pid": f"p{n}", "text": sentence(n)} for n in range(12)])
    put("xquad_en/questions", [
        {"pid": f"p{n % 12}", "question": f"the {NOUNS[n % 10]} is where {n}", "answers": [NOUNS[(3 * n + 1) % 10]]}
        for n in range(20)
    ])  # fmt: skip
    put("fairytale_qa/test_sections", [
        {"story": f"s{n // 3}", "section": n % 3 + 1, "text": sentence(n + 30)} for n in range(30)
    ])  # fmt: skip
    put("fairytale_qa/test_questions", [
        {"story": f"s{n}", "sections": [1, 3] if n % 2 else [2], "question": f"who saw {sentence(3 * n + 30)[:20]}",
         "answers": ["a bird"]} for n in range(10)
    ])  # fmt: skip
    put("nq_open/dev", [{"question": f"{noun} by", "answer": [noun, "no such"]} for noun in (*NOUNS, "zebra", "gnu")])
    put("mine/stored", [{"text": f"{sentence(n)}. {sentence(n + 1)}."} for n in range(20)])
    tests = [f"{sentence(n + 50)}. {sentence(n + 70)}. {sentence(n + 90)}." for n in range(10)]
    put("mine/test", [{"text": text} for text in (f"{sentence(0)}. {sentence(1)}.", *tests)])
    for part in ("train", "test"):
        path = tmp_path / f"wiki/{part}.txt.gz"
        path.parent.mkdir(exist_ok=True)
        articles = "".join(f" = {NOUNS[n]} = \n\n {sentence(n)} 1 @,@ 000 \n" for n in range(10))
        path.write_bytes(gzip.compress(articles.encode()))
    composed = Composed(tiny_lm.name, Model(tiny_lm, tiny_lm), ({"name": tiny_lm.name, "kind": "model"},), "tiny")
    return Workbench((composed,), DataFolder(tmp_path), Cache(tmp_path / "cache"), lambda *_: None)


@pytest.fixture
def searching(bench: Workbench, tiny_folder: Path) -> Searching:
    return Searching.of(bench, str(tiny_folder))


def rows_of(part: str, number: int | None = None) -> Texts:
    return Texts(corpus=Corpus(part=part, max_documents=None, max_characters=None), number=number)


DOMAIN = Domain(name="mine", stored=rows_of("mine/stored"), valid=rows_of("mine/test"), test=rows_of("mine/test"))
ANSWERING = Answering(
    num_questions=10, max_tokens=3, reading=SHORT, nq_open="nq_open/dev", encyclopedia=("wiki/train", "wiki/test"),
    words=8,
)  # fmt: skip
LIKELIHOOD = Likelihood(domains=(DOMAIN,), documents=8, max_characters=90, size=24, reading=STRIDED, run=6)
FACTOR = AsFactor(domain="mine", documents=8, prompt_characters=50, characters=30, reading=SHORT)


def settings(encoder: Path) -> Retrieval:
    return Retrieval(
        encoder=str(encoder), finding=Finding(timed=4), answering=ANSWERING, likelihood=LIKELIHOOD, factor=FACTOR
    )


def test_the_whole_part(bench: Workbench, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure_retrieval(bench, settings(tiny_folder))
    assert [section.title for section in found.sections] == [
        "Finding passages: xquad_en", "Finding passages: fairytale_qa", "Answering with passages: xquad_en",
        "Answering with passages: nq_open", "Texts read with passages: mine", "Passages as a factor: mine",
    ]  # fmt: skip
    assert len(found.headlines) == 6
    assert all("here" in line for line in found.headlines[:5])
    assert set(found.measures["answering, xquad_en, F1"]) == {"none", "random", "bm25", "dense", "hybrid", "gold"}
    assert "gold" not in found.measures["answering, nq_open, F1"]
    assert set(found.measures["finding, fairytale_qa, nDCG@10"]) == {"bm25", "dense", "hybrid", "min-max"}
    used = {"xquad_en", "fairytale_qa", "nq_open/dev", "wiki/train", "wiki/test", "mine, stored", "mine, test"}
    assert set(bench.used) == used
    kinds = [type(block) for section in found.sections for block in section.blocks]
    assert {Table, Curve, Samples} <= set(kinds)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model reads what is in the cache")

    for module, name in (
        (retrieval_answering, "generate_until"), (retrieval_texts, "retrieval_log_probs"),
        (retrieval_factor, "loglikelihood"), (retrieval_factor, "retrieve_for"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, refuse)
    again = measure_retrieval(bench, settings(tiny_folder))
    assert {k: v for k, v in again.measures.items() if " ms " not in k} == {
        k: v for k, v in found.measures.items() if " ms " not in k
    }


def test_vectors_are_kept(searching: Searching, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [sentence(n) for n in range(5)]
    first = searching.encoder.encode(texts)
    monkeypatch.setattr(searching.sentences, "encode", lambda *_: pytest.fail("encoded again"))
    assert np.array_equal(first.numpy(), searching.encoder.encode(texts).numpy())


def test_ways_and_their_indexes(searching: Searching) -> None:
    store = searching.store("some", [sentence(n) for n in range(8)], PassageSettings(
        unit="words", size=WHOLE, retrievers=("bm25", "dense")))  # fmt: skip
    size = {way: bytes_on_disk(store, way) for way in ("none", "bm25", "dense", "hybrid", "min-max")}
    assert size["dense"] == 8 * searching.sentences.width * 2  # float16
    assert size["hybrid"] == size["min-max"] == size["bm25"] + size["dense"] > size["dense"]
    assert size["none"] == 0
    [hits] = searching.retriever(store, "min-max").search([sentence(3)], 1)
    assert (hits[0].passage, hits[0].score) == (3, 2.0)  # the first of both lists gets one from each
    assert searching.num_cut(["a b", "the good inn " * 300]) == 1


def test_finding_against_the_rankings(searching: Searching) -> None:
    found = measure_finding(searching, Finding(sets=("fairytale_qa",), timed=3)).measures
    asked = fairytale_qa(searching.bench.data, 0)
    store = searching.store("fairytale_qa", asked.passages, PassageSettings(
        unit="words", size=WHOLE, retrievers=("bm25", "dense")))  # fmt: skip
    for way in ("bm25", "hybrid"):
        rows = searching.retriever(store, way).search([q.text for q in asked.questions], 10)
        recall, gain, rank = [], [], []
        for hits, question in zip(rows, asked.questions, strict=True):
            is_right = [hit.passage in question.relevant for hit in hits]
            recall.append(sum(is_right[:5]) / len(question.relevant))
            best = sum(1 / math.log2(n + 2) for n in range(len(question.relevant)))
            gain.append(sum(right / math.log2(n + 2) for n, right in enumerate(is_right)) / best)
            rank.append(1 / (is_right.index(True) + 1) if any(is_right) else 0.0)
        assert found["finding, fairytale_qa, recall@5"][way].value == pytest.approx(np.mean(recall))
        assert found["finding, fairytale_qa, nDCG@10"][way].value == pytest.approx(np.mean(gain))
        assert found["finding, fairytale_qa, reciprocal rank@10"][way].value == pytest.approx(np.mean(rank))
    times = found["finding, fairytale_qa, median ms a query"]["dense"]
    assert times.n == 3
    assert 0 < times.low <= times.value <= times.high
    groups = [v for name, v in found.items() if "group" in name]
    assert sum(row["bm25"].n for row in groups) == 10


def test_shares_are_over_units() -> None:
    """Two questions of one passage are one unit; a share is of questions, not of units."""
    measure = PerQuestion("right", ("a", "a", "b"), {"x": np.array([1.0, 1.0, 0.0]), "y": np.zeros(3)}, 0)
    assert measure.estimate("x").value == pytest.approx(2 / 3)
    assert measure.estimate("x").n == 2
    assert measure.best() == "x"
    assert measure.against("x", "y").verdict == "cannot rank"
    assert held(measure.against("x", "y")) == "cannot be told here"
    alone = PerQuestion("right", tuple("abcdefghij"), {"x": np.arange(10.0), "y": np.arange(10.0) - 1}, 0)
    assert alone.estimate("x") == mean_interval(np.arange(10.0))
    assert held(alone.against("x", "y")) == "holds here"
    assert held(alone.against("y", "x")) == "is reversed here"
    assert alone.of(np.arange(10) < 4).estimate("x").value == 1.5


def test_questions_know_their_passages(bench: Workbench) -> None:
    asked = xquad_en(bench.data, 0)
    assert len({q.unit for q in asked.questions[:12]}) == 12  # one of each passage first
    assert all(q.unit == f"p{q.relevant[0]}" for q in asked.questions)
    tales = fairytale_qa(bench.data, 0)
    by_story = {q.unit: q.relevant for q in tales.questions}
    assert by_story["s1"] == (3, 5)
    assert by_story["s2"] == (7,)


def test_answers_are_found_word_by_word(bench: Workbench) -> None:
    assert holds(["He paid 1,000 dollars."], ["The 1000"])
    assert not holds(["rainbow"], ["rain"])
    assert not holds(["it is the"], ["The"])  # nothing is left of it
    assert joined("a well @-@ known 1 @,@ 000 @.@ 5") == "a well-known 1,000.5"
    found, total = answerable(bench, "nq_open/dev", ["the boat", "a lamp and a hillside"])
    assert (sorted(q.text for q in found), total) == (["boat by", "lamp by"], 12)
    across, _ = answerable(bench, "nq_open/dev", ["no", "such"])  # not from one passage into the next
    assert across == ()


def test_answers_against_the_model(searching: Searching, bench: Workbench) -> None:
    only = ANSWERING.model_copy(update={"sets": ("xquad_en",), "ways": ("none", "gold"), "num_questions": 6})
    found = measure_answering(searching, only).measures
    asked = xquad_en(bench.data, 0)
    model = bench.models[0].model
    scores = {}
    for way in ("none", "gold"):
        prompts = [
            prompt_of(f"{asked.passages[q.relevant[0]]}\n" if way == "gold" else "", q.text)
            for q in asked.questions[:6]
        ]
        written = generate_until(model, [(prompt, ("\n",), 3) for prompt in prompts])
        scores[way] = [token_f1(w.text, q.answers) for w, q in zip(written, asked.questions, strict=False)]
        assert found["answering, xquad_en, F1"][way].value == pytest.approx(np.mean(scores[way]))
    assert found["answering, xquad_en, answer stood in what was read"]["none"].value == 0
    assert found["answering, xquad_en, answer stood in what was read"]["gold"].value == pytest.approx(
        np.mean([holds([asked.passages[q.relevant[0]]], q.answers) for q in asked.questions[:6]])
    )


def test_near_copies_are_left_out(searching: Searching) -> None:
    texts = held_texts(searching, LIKELIHOOD, DOMAIN, 3)
    assert texts.num_near == 1  # the first one is stored
    assert len(texts.texts) == 3
    with pytest.raises(InputError, match="got near copies"):
        held_texts(searching, LIKELIHOOD.model_copy(update={"most_shared": 0.0, "run": 1}), DOMAIN, 3)
    assert shared_runs(["a b c d", "a b x", "a"], ["x A B c", "b c d"], 2) == [1.0, 0.5, 0.0]


def test_likelihood_against_the_reader(searching: Searching, bench: Workbench) -> None:
    found = measure_likelihood(searching, LIKELIHOOD).measures
    texts = held_texts(searching, LIKELIHOOD, DOMAIN, 8)
    size = sum(len(text.encode()) for text in texts.texts)
    nats, copied = {}, {}
    for way in ("none", "bm25"):
        retriever = searching.retriever(texts.store, way)
        reads = [retrieval_log_probs(bench.models[0].model, text, retriever, STRIDED) for text in texts.texts]
        nats[way] = np.concatenate([-read.log_prob_T for read in reads])
        copied[way] = np.concatenate([read.is_copied_T for read in reads])
        assert found["likelihood, mine, bits per byte"][way].value == pytest.approx(nats[way].sum() / LN2 / size)
    is_copied_T = copied["bm25"]
    assert is_copied_T.any()
    assert not copied["none"].any()
    tokens = [t for text in texts.texts for t in searching.lm.encode_text(text)]
    sizes = np.array([len(searching.lm.vocabulary.decode([token])) for token in tokens])
    saved = (nats["bm25"] - nats["none"])[is_copied_T].sum() / LN2 / sizes[is_copied_T].sum()
    against = found["likelihood, mine, bits per byte of copied tokens against none"]
    assert against["bm25"].value == pytest.approx(saved, abs=FLOAT32)
    assert found["likelihood, mine, share of bytes copied"]["none"].value == 0


def test_the_factor_at_one_reads_the_passages(searching: Searching, bench: Workbench) -> None:
    """Exponent 1 is the model with the background before the prompt; 0 is the model alone."""
    found = measure_factor(searching, FACTOR, LIKELIHOOD).measures["factor, mine, bits per byte"]
    assert set(found) == {"none", *(f"{way}^{e}" for way in ("random", "bm25", "dense") for e in ("0.5", "1", "1.5"))}
    texts = held_texts(searching, LIKELIHOOD.model_copy(update={"max_characters": 80}), DOMAIN, 8)
    model, retriever = bench.models[0].model, searching.retriever(texts.store, "bm25")
    plain, with_background, size = 0.0, 0.0, 0
    for text in texts.texts:
        prompt = text[: text[:51].rindex(" ")]
        rest = text[len(prompt) :]
        background = retrieve_for(model, retriever, prompt, SHORT).background
        alone, behind = loglikelihood(model, [(prompt, rest), (background.text + prompt, rest)])
        plain, with_background = plain - alone.log_prob, with_background - behind.log_prob
        size += len(rest.encode())
    assert found["none"].value == pytest.approx(plain / LN2 / size, abs=FLOAT32)
    assert found["bm25^1"].value == pytest.approx(with_background / LN2 / size, abs=FLOAT32)
    with pytest.raises(UnknownNameError, match="other"):
        measure_factor(searching, FACTOR.model_copy(update={"domain": "other"}), LIKELIHOOD)


def test_real_questions(data: DataFolder) -> None:
    if not all(data.has(f"{part}") for part in ("xquad_en/questions", "fairytale_qa/test_questions")):
        pytest.skip("the question sets are not here; set FACTORLM_DATA to a folder that has xquad_en and fairytale_qa")
    asked = xquad_en(data, 0)
    assert (len(asked.passages), len(asked.questions)) == (240, 1190)
    assert all(q.answers[0] in asked.passages[q.relevant[0]] for q in asked.questions)
    tales = fairytale_qa(data, 0)
    assert len(tales.questions) == 1007
    assert len({q.unit for q in tales.questions[:23]}) == 23
