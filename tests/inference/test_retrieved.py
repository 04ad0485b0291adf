"""Retrieval in context on the tiny model: prompts, the factor, and text read with passages, against slow twins."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch

from factorlm.algebra import LocalProduct, laws, pad_left, pad_right
from factorlm.errors import InputError
from factorlm.factors.headed import fuse
from factorlm.factors.prompted import PromptedModel
from factorlm.inference.model import Model
from factorlm.inference.retrieved import (
    NOTHING,
    Retrieved,
    Strided,
    retrieval_log_probs,
    retrieve_for,
    with_passages,
)
from factorlm.memory.bm25 import Bm25Settings
from factorlm.memory.card import mark_of
from factorlm.memory.corpus import Document
from factorlm.memory.passages import PassageSettings, token_ends
from factorlm.memory.retrievers import Hit, Retriever, build_passages, open_retriever
from factorlm.models import CausalLM

FLOAT32 = 1e-4  # logits of size 10, summed in batches of other shapes
TEXTS = {
    "otters.txt": "the river otter sleeps by the good bank",
    "banks.txt": "a bad bank lends money to people",
    "inns.txt": "in the good inn a good bed is in the good house",
}
TEXT = "the otter in the inn sleeps on a good bank, and the bad inn is by the river. " * 3
PAIR = Retrieved(k=2, template="see: {passages}.\n", between=" / ")


@pytest.fixture(scope="module")
def bm25(tiny_lm: CausalLM, tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    settings = PassageSettings(size=60, bm25=Bm25Settings(stop_words="none"))
    documents = [Document(text, source, n) for n, (source, text) in enumerate(TEXTS.items(), 1)]
    place = tmp_path_factory.mktemp("passages") / "store"
    mark = mark_of(tiny_lm, with_encoder=False)
    return open_retriever(build_passages(documents, place, settings, mark=mark, token_ends=token_ends(tiny_lm)))


# What stands before a prompt


@pytest.mark.parametrize("order", ["best-last", "best-first"])
def test_passages_are_added_whole_while_they_fit(tiny_lm: CausalLM, order: str) -> None:
    settings = Retrieved(template="see: {passages}.\n", between=" / ", order=order)
    passages = ["the good inn", "a bad inn by the river", "x"]
    full = len(tiny_lm.encode_text(settings.written(passages)))
    seen = set()
    for budget in range(1, full + 3):
        found = with_passages(tiny_lm, passages, budget, settings)
        assert list(found.token_ids) == tiny_lm.encode_text(found.text)
        assert len(found.token_ids) <= budget
        if found.num_passages > 1 or found.text == settings.written(passages[:1]):
            assert found.text == settings.written(passages[: found.num_passages])
            more = settings.written(passages[: found.num_passages + 1])
            assert found.num_passages == 3 or len(tiny_lm.encode_text(more)) > budget, "more would have fitted"
        elif found.num_passages:
            assert found.text in {settings.written(["the"]), settings.written(["the good"])}, "cut inside a word"
        else:
            assert found == NOTHING
            assert len(tiny_lm.encode_text(settings.written(["the"]))) > budget
        seen.add(found.text)
    assert len(seen) == 6, "nothing, one word, two words, one passage, two and three"


def test_odd_passages(tiny_lm: CausalLM) -> None:
    assert with_passages(tiny_lm, []) == with_passages(tiny_lm, ["", "  "]) == NOTHING
    assert with_passages(tiny_lm, ["", "good"], 20, PAIR).text == "see: good.\n"
    braces = with_passages(tiny_lm, ["{passages} <s> {0}"], settings=PAIR)
    assert braces.text == "see: {passages} <s> {0}.\n"
    assert 0 not in braces.token_ids, "a name of a special token in a passage became that token"
    long = with_passages(tiny_lm, ["é" * 100], 70, Retrieved(template="{passages}"))
    assert long.text == "é" * 64, "without blanks, a piece of a word"
    with pytest.raises(ValueError, match=r"has \{passages\} once"):
        Retrieved(template="no place")


def test_what_was_found_is_shown(tiny_lm: CausalLM, bm25: Retriever) -> None:
    found = retrieve_for(tiny_lm, bm25, "where the otter sleeps by the", PAIR)
    best = found.shown[0]
    assert (best.passage.source, best.passage.line, best.is_read) == ("otters.txt", 1, True)
    assert best.beginning == TEXTS["otters.txt"][:80]
    assert best.hit.score > found.shown[1].hit.score > 0
    assert found.prompt == found.background.text + "where the otter sleeps by the"
    assert found.background.text == f"see: {found.shown[1].passage.text} / {best.passage.text}.\n", "best last"
    small = retrieve_for(tiny_lm, bm25, "where the otter sleeps by the", Retrieved(k=2, budget=60))
    assert [shown.is_read for shown in small.shown] == [True, False]
    other = retrieve_for(tiny_lm, bm25, "where the otter sleeps by the", PAIR, exclude_sources=["otters.txt"])
    assert "otters.txt" not in {shown.passage.source for shown in other.shown}


def test_only_the_end_of_a_prompt_is_looked_for(tiny_lm: CausalLM, bm25: Retriever) -> None:
    prompt = "money money bank lends people." + " otter"
    length = len(tiny_lm.encode_text(" otter"))
    found = retrieve_for(tiny_lm, bm25, prompt, Retrieved(k=1, query_tokens=length))
    assert (found.query, found.shown[0].passage.source) == (" otter", "otters.txt")
    assert retrieve_for(tiny_lm, bm25, prompt, Retrieved(k=1)).shown[0].passage.source == "banks.txt"


def test_too_much_is_refused(tiny_lm: CausalLM, bm25: Retriever) -> None:
    with pytest.raises(InputError, match="take a smaller budget"):
        retrieve_for(tiny_lm, bm25, " otter" * 45, Retrieved(k=3))


# The factor


@pytest.mark.parametrize("exponent", [1.0, 0.5, -1.0, 2.0])
def test_the_factor_is_what_passages_change(tiny_lm: CausalLM, bm25: Retriever, exponent: float) -> None:
    prompt = "the otter sleeps"
    found = retrieve_for(tiny_lm, bm25, prompt, PAIR)
    product = Model(tiny_lm, tiny_lm) * found.factor**exponent
    fast = fuse(LocalProduct.of(product.factor))
    assert isinstance(fast, PromptedModel), "the slow way"
    bare = [*tiny_lm.start_ids, *tiny_lm.encode_text(prompt)]
    read = [*tiny_lm.start_ids, *found.background.token_ids, *tiny_lm.encode_text(prompt)]
    text_BT = pad_right([tiny_lm.encode_text(" in the good bed")])
    p_TV, q_TV = (torch.stack(list(tiny_lm.steps(pad_left([row]), text_BT)), 1)[0] for row in (bare, read))
    want_TV = ((1 - exponent) * p_TV + exponent * q_TV).log_softmax(-1)
    got_TV = torch.stack(list(fast.steps(pad_left([bare]), text_BT)), 1)[0]
    torch.testing.assert_close(got_TV, want_TV, atol=FLOAT32, rtol=0)
    assert float((want_TV - p_TV).abs().max()) > 0.5, "the passages changed nothing"
    [score] = product.score(" in the good bed", prompt=prompt)
    want = want_TV.gather(1, text_BT[0][:, None]).sum()
    assert score.log_prob == pytest.approx(float(want), abs=FLOAT32 * text_BT.shape[1])
    assert set(score.log_ratios) == {"retrieved"}


def test_exponent_one_is_the_prompt_with_its_background(tiny_lm: CausalLM, bm25: Retriever) -> None:
    found = retrieve_for(tiny_lm, bm25, "the otter sleeps", PAIR)
    assert tiny_lm.encode_text(found.prompt) == [*found.background.token_ids, *tiny_lm.encode_text("the otter sleeps")]
    model = Model(tiny_lm, tiny_lm)
    [inside] = (model * found.factor).score(" by the bank", prompt="the otter sleeps")
    [before] = model.score(" by the bank", prompt=found.prompt)
    assert inside.log_prob == pytest.approx(before.log_prob, abs=FLOAT32)
    written = [r.text for r in (model * found.factor).generate("the otter sleeps", n=3, max_tokens=8, seed=1)]
    assert len(written) == 3


def test_the_factor_obeys_the_laws(tiny_lm: CausalLM, bm25: Retriever) -> None:
    found = retrieve_for(tiny_lm, bm25, "the otter", PAIR)
    laws.check(found.factor, prefixes=[[0, 5], [0, 6, 7]], texts=[[5, 6, 7], [8, 9, 10]], tolerance=FLOAT32)


def test_nothing_found_changes_nothing(tiny_lm: CausalLM, bm25: Retriever) -> None:
    found = retrieve_for(tiny_lm, bm25, "zzz qqq", PAIR)
    assert (found.shown, found.background, found.prompt) == ((), NOTHING, "zzz qqq")
    text_BT = pad_right([tiny_lm.encode_text(" good bad")])
    assert float(found.factor.score(pad_left([[0, 5]]), text_BT).abs().max()) == 0
    [alone] = Model(tiny_lm, tiny_lm).score(" good", prompt="zzz")
    [both] = (Model(tiny_lm, tiny_lm) * found.factor**3).score(" good", prompt="zzz")
    assert both.log_prob == pytest.approx(alone.log_prob, abs=FLOAT32)
    assert retrieve_for(tiny_lm, bm25, "", PAIR).shown == ()


# Texts read with passages


def naive(lm: CausalLM, text: str, settings: Strided, find: Callable[[str], str]) -> list[float]:
    """One token after the other, each in a window of its own."""
    token_ids, found = lm.encode_text(text), []
    for t, token in enumerate(token_ids):
        place = t - t % settings.stride
        query = lm.vocabulary.text(token_ids[max(0, place - settings.query_tokens) : place], errors="ignore")
        passages = list(with_passages(lm, [find(query)], settings=settings).token_ids)
        room = settings.context - settings.stride - len(lm.start_ids)
        num_history = room - (settings.budget if settings.history == "equal" else len(passages))
        first = max(0, place - num_history)
        read = [*lm.start_ids, *passages, *token_ids[first:t]]
        assert len(read) <= settings.context
        found.append(float(lm.start(pad_left([read])).log_weight_BV[0, token]))
    return found


@pytest.mark.parametrize("history", ["equal", "filled"])
@pytest.mark.parametrize("stride", [1, 5, 16, 1000])
def test_every_token_is_scored_once(tiny_lm: CausalLM, bm25: Retriever, stride: int, history: str) -> None:
    text = TEXT if stride < 1000 else TEXT[:20]
    settings = Strided(stride=min(stride, 40), context=90, budget=30, query_tokens=12, history=history)

    def find(query: str) -> str:
        hits = bm25.search([query], 1)[0]
        return bm25.store.passage(hits[0].passage).text if hits else ""

    found = retrieval_log_probs(tiny_lm, text, bm25, settings)
    assert found.token_ids == tuple(tiny_lm.encode_text(text))
    assert found.place_P.tolist() == list(range(0, len(found.token_ids), settings.stride))
    assert len(found.hits) == len(found.place_P)
    assert found.hits[0] == (), "there is nothing to ask before the first token"
    assert found.log_prob_T == pytest.approx(naive(tiny_lm, text, settings, find), abs=FLOAT32)
    assert stride > 16 or len({hits[0].passage for hits in found.hits if hits}) > 1, "always the same passage"


@dataclass(frozen=True)
class Blank:
    """A store whose passages are empty."""

    def passage(self, number: int) -> object:
        return type("passage", (), {"text": ""})

    def documents_of(self, sources: object) -> frozenset[int]:
        return frozenset()


@dataclass(frozen=True)
class Finder:
    store: object = Blank()

    def search(self, queries: list[str], k: int, exclude_documents: object = ()) -> list[list[Hit]]:
        return [[Hit(0, 1.0, "")] for _ in queries]


def test_empty_passages_are_plain_windows(tiny_lm: CausalLM, bm25: Retriever) -> None:
    settings = Strided(stride=7, context=60, budget=20)
    plain = naive(tiny_lm, TEXT, settings, lambda query: "")
    empty = retrieval_log_probs(tiny_lm, TEXT, Finder(), settings)  # type: ignore[arg-type]
    none = retrieval_log_probs(tiny_lm, TEXT, open_retriever(bm25.store, "none"), settings)
    assert empty.log_prob_T == pytest.approx(plain, abs=FLOAT32)
    assert np.array_equal(none.log_prob_T, empty.log_prob_T)
    assert not none.is_copied_T.any()


def test_controls_and_exclusion(tiny_lm: CausalLM, bm25: Retriever) -> None:
    settings = Strided(stride=8, context=90, budget=40)
    chance = open_retriever(bm25.store, "random", seed=4)
    found = retrieval_log_probs(tiny_lm, TEXT, chance, settings, exclude_sources=["inns.txt"])
    sources = [hit.source for hits in found.hits for hit in hits]
    assert set(sources) == {"otters.txt", "banks.txt"}
    assert len(sources) == len(found.place_P) - 1
    again = retrieval_log_probs(tiny_lm, TEXT, chance, settings, exclude_sources=["inns.txt"])
    assert np.array_equal(found.log_prob_T, again.log_prob_T)
    best = retrieval_log_probs(tiny_lm, TEXT, bm25, settings, exclude_sources={"otters.txt", "inns.txt"})
    assert {hit.source for hits in best.hits for hit in hits} == {"banks.txt"}
    assert not np.array_equal(found.log_prob_T, best.log_prob_T)


def test_copied_tokens_by_hand(tiny_lm: CausalLM, bm25: Retriever) -> None:
    text = "otter " + TEXTS["otters.txt"]
    settings = Strided(stride=6, context=120, budget=60, copied=2)
    found = retrieval_log_probs(tiny_lm, text, bm25, settings)
    passage = tiny_lm.encode_text(TEXTS["otters.txt"] + "\n")
    pairs = set(pairwise(passage))
    ids = found.token_ids
    want = [t > 0 and found.hits[t // 6] != () and (ids[t - 1], ids[t]) in pairs for t in range(len(ids))]
    assert all(hits[0].source == "otters.txt" for hits in found.hits[1:])
    assert found.is_copied_T.tolist() == want
    assert 0.5 < np.mean(want) < 1


def test_a_composition_reads_too(tiny_lm: CausalLM, bm25: Retriever, make_head: Callable[..., object]) -> None:
    settings = Strided(stride=8, context=90, budget=40)
    model = Model(tiny_lm, tiny_lm) * make_head(2, 5)
    found = retrieval_log_probs(model, TEXT, bm25, settings)
    plain = retrieval_log_probs(tiny_lm, TEXT, bm25, settings)
    assert np.abs(found.log_prob_T - plain.log_prob_T).max() > 0.1
    ids = list(found.token_ids[8:16])
    passage = bm25.store.passage(found.hits[1][0].passage).text
    read = [*tiny_lm.start_ids, *with_passages(tiny_lm, [passage], settings=settings).token_ids, *found.token_ids[:8]]
    want = LocalProduct.of(model.factor).score(pad_left([read]), pad_right([ids]))[0]
    assert found.log_prob_T[8:16] == pytest.approx(want.tolist(), abs=FLOAT32)


def test_odd_texts_and_settings(tiny_lm: CausalLM, bm25: Retriever) -> None:
    empty = retrieval_log_probs(tiny_lm, "", bm25, Strided(context=200))
    assert (empty.token_ids, empty.hits, len(empty.log_prob_T)) == ((), (), 0)
    told: list[tuple[str, int, int]] = []
    one = retrieval_log_probs(tiny_lm, "é", bm25, Strided(context=200), report=lambda *args: told.append(args))
    assert math.isfinite(one.log_prob_T.sum())
    assert told == [("tokens", len(one.token_ids), len(one.token_ids))]
    for settings in (Strided(context=512), Strided(context=145), Strided(stride=72, context=200)):
        with pytest.raises(InputError, match=f"is needed for 128 of passages .* got {settings.context}"):
            retrieval_log_probs(tiny_lm, TEXT, bm25, settings)
