"""Sentences as components: the search takes the best of what it tries, by exact likelihoods of a tiny network."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from factorlm.models import CausalLM
from factorlm.models.progress import quiet
from factorlm.prior.explicit import ExplicitComponents, ExplicitSettings
from factorlm.prior.kinds import prompt_tokens

FLOAT32 = 1e-4  # of likelihoods of some thirty nats, summed in batches of another shape
POOL = ["the good", "a bad thing.", "in the zoo", "good, good", "xyz"]
PLAIN = ExplicitSettings(from_pool=len(POOL), from_texts=0, from_model=0)


@pytest.fixture
def rows(tiny_lm: CausalLM) -> list[list[int]]:
    texts = ["the good dog", "bad bad", "in the end", "a zoo in the rain", "hm", "good food: no", "the cat"]
    return [tiny_lm.encode_text(text) for text in texts]


def log_prob_of(lm: CausalLM, sentence: str, rows: list[list[int]]) -> Tensor:
    """The twin: the sentence as a paragraph behind the start token, text by text."""
    prefix_BT = torch.tensor([[0, *lm.encode_text(sentence + "\n\n")]])
    return torch.stack([lm.score(prefix_BT, torch.tensor([row])).double().sum() for row in rows])


def test_likelihoods_are_those_behind_the_sentence(tiny_lm: CausalLM, rows: list[list[int]]) -> None:
    learner = ExplicitComponents(tiny_lm, PLAIN, 3, rows, POOL)
    assert len(set(learner.assumptions)) == 3
    assert set(learner.assumptions) < set(POOL)
    want_NK = torch.stack([log_prob_of(tiny_lm, sentence, rows) for sentence in learner.assumptions], 1)
    torch.testing.assert_close(learner.log_prob(rows, quiet), want_NK, atol=FLOAT32, rtol=0)
    assert float(want_NK.std(1).min()) > 0.05


def test_without_a_pool_texts_are_examples(tiny_lm: CausalLM, rows: list[list[int]]) -> None:
    texts = {b"".join(tiny_lm.vocabulary.token_bytes[t] for t in row).decode() for row in rows}
    assert set(ExplicitComponents(tiny_lm, PLAIN, 4, rows).assumptions) < texts
    some = ExplicitComponents(tiny_lm, PLAIN, 7, rows, POOL[:2], seed=2).assumptions
    assert len(set(some)) == 7
    assert set(some) < texts | set(POOL[:2])


def test_each_component_takes_the_best_sentence_for_its_texts(tiny_lm: CausalLM, rows: list[list[int]]) -> None:
    learner = ExplicitComponents(tiny_lm, PLAIN, 2, rows, POOL)
    weight_NK = torch.rand(len(rows), 2, generator=torch.Generator().manual_seed(0)).double()
    value_KC = weight_NK.T @ torch.stack([log_prob_of(tiny_lm, sentence, rows) for sentence in POOL], 1)
    best = [POOL[c] for c in value_KC.argmax(1).tolist()]
    assert float((value_KC.topk(2).values @ torch.tensor([1.0, -1.0]).double()).min()) > 10 * FLOAT32
    learner.improve(rows, weight_NK, rate=1.0, report=quiet)
    assert learner.assumptions == best
    learner.improve(rows, weight_NK, rate=1.0, report=quiet)
    assert learner.assumptions == best


def test_a_round_is_never_worse(tiny_lm: CausalLM, rows: list[list[int]]) -> None:
    settings = ExplicitSettings(from_pool=2, from_texts=1, from_model=0)
    learner = ExplicitComponents(tiny_lm, settings, 3, rows, POOL, seed=4)
    weight_NK = torch.rand(len(rows), 3, generator=torch.Generator().manual_seed(1)).double()
    values = []
    for _ in range(6):
        values.append((weight_NK * learner.log_prob(rows, quiet)).sum(0))
        learner.improve(rows, weight_NK, rate=1.0, report=quiet)
    assert all(bool((after_K >= before_K - FLOAT32).all()) for before_K, after_K in itertools.pairwise(values))
    assert bool((values[-1] > values[0] + 1).any())


def test_texts_that_count_most_judge(tiny_lm: CausalLM, rows: list[list[int]]) -> None:
    settings = PLAIN.model_copy(update={"judged_texts": 2})
    learner = ExplicitComponents(tiny_lm, settings, 1, rows, POOL)
    weight_NK = torch.tensor([[0.5], [0.5], [1.0], [0.5], [0.9], [0.5], [0.5]]).double()
    learner.improve(rows, weight_NK, rate=1.0, report=quiet)
    value_C = [float(log_prob_of(tiny_lm, s, [rows[2], rows[4]]) @ torch.tensor([1.0, 0.9]).double()) for s in POOL]
    assert learner.assumptions == [POOL[value_C.index(max(value_C))]]


def test_a_component_that_has_no_text_keeps_its_sentence(tiny_lm: CausalLM, rows: list[list[int]]) -> None:
    for seed in range(4):
        learner = ExplicitComponents(tiny_lm, PLAIN, 2, rows, POOL, seed=seed)
        before = learner.assumptions
        learner.improve(rows, torch.tensor([[1.0, 0.0]] * len(rows)).double(), rate=1.0, report=quiet)
        assert learner.assumptions[1] == before[1]


def test_the_model_is_asked_what_texts_have_in_common(fresh_lm: CausalLM, rows: list[list[int]]) -> None:
    settings = ExplicitSettings(from_pool=0, from_texts=0, from_model=3)
    learner = ExplicitComponents(fresh_lm, settings, 2, rows, POOL)
    assert learner._candidates(rows) == []  # it was not made for conversations
    fresh_lm.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    asked: list[str] = []
    encode = fresh_lm.encode_message
    fresh_lm.encode_message = lambda text: asked.append(text) or encode(text)[:40]  # type: ignore[method-assign, func-returns-value]
    found = learner._candidates(rows[:2])
    assert "- the good dog" in asked[0]
    assert "- bad bad" in asked[0]
    assert 1 <= len(found) <= 3
    assert all(tokens[-2:] == tuple(fresh_lm.encode_text("\n\n")) for tokens in found)


def test_what_is_saved_is_what_is_read(tiny_lm: CausalLM, rows: list[list[int]]) -> None:
    """Sentences that are cut, in the middle of a letter too, are the same after they were written down."""
    settings = PLAIN.model_copy(update={"longest": 3})
    pool = ["the good dog in the zoo", "x€€", "  ab  cd ", "é."]
    learner = ExplicitComponents(tiny_lm, settings, 4, rows, pool)
    assert {"the good", "x"} < set(learner.assumptions)
    for sentence, tokens in zip(learner.assumptions, learner.ensemble.assumptions, strict=True):
        assert prompt_tokens(tiny_lm, sentence) == tokens.tolist()
        assert len(tokens) <= 3 + 2


def test_it_goes_on_from_a_saved_state_as_if_nothing_had_happened(tiny_lm: CausalLM, rows: list[list[int]]) -> None:
    settings = ExplicitSettings(from_pool=2, from_texts=2, from_model=0)
    learner = ExplicitComponents(tiny_lm, settings, 3, rows, POOL)
    weight_NK = torch.rand(len(rows), 3, generator=torch.Generator().manual_seed(2)).double()
    learner.improve(rows, weight_NK, rate=1.0, report=quiet)
    saved = learner.state()
    other = ExplicitComponents(tiny_lm, settings, 3, rows, POOL, seed=9)
    other.restore(saved)
    assert other.assumptions == learner.assumptions
    for made in (learner, other):
        for _ in range(2):
            made.improve(rows, weight_NK, rate=1.0, report=quiet)
    assert other.assumptions == learner.assumptions
    assert all(torch.equal(tensor, other.state()[name]) for name, tensor in learner.state().items())


def test_beginning_anew_is_an_example(tiny_lm: CausalLM, rows: list[list[int]]) -> None:
    learner = ExplicitComponents(tiny_lm, PLAIN, 3, rows, POOL)
    before = learner.assumptions
    learner.reseed(1, rows)
    assert learner.assumptions == [before[0], "the good dog", before[2]]
    learner.spread()
    assert learner.assumptions == [before[0], "the good dog", before[2]]
    assert learner.tensors() == {}
