"""Attacks on a tiny model, against enumeration and plain twins."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from factorlm.errors import InputError
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.redteam.attacks import ATTACKS, Ground, factors_in, negated, without
from factorlm.evaluation.redteam.attacks import suffix as suffixes
from factorlm.evaluation.redteam.attempts import Attempt, Request, answered, prompt_of, requests_of
from factorlm.evaluation.workbench import Cache, Workbench
from factorlm.inference import Model, Sampling
from factorlm.inference.expression import Composed
from factorlm.models import CausalLM

PLAIN = Sampling()


@pytest.fixture
def target(tiny_lm: CausalLM, make_head: Callable[..., object]) -> Composed:
    model = Model(tiny_lm * make_head(0, name="toxic") ** -2.0 * make_head(0, 1, name="polite") ** 0.5, tiny_lm)
    return Composed("tiny * toxic^-2 * polite^0.5", model, (), "tiny")


@pytest.fixture
def desk(target: Composed, tmp_path: Path) -> Workbench:
    return Workbench((target,), DataFolder(tmp_path), Cache(tmp_path / "cache"), lambda stage, done, total: None, 0)


def test_negating_turns_exponents_and_twice_gives_the_target_back(target: Composed, tiny_lm: CausalLM) -> None:
    prefix_BT, text_BT = torch.tensor([[0, 5, 6]]), torch.tensor([[7, 8, 9]])

    def weight(composed: Composed) -> torch.Tensor:
        return composed.model.factor.score(prefix_BT, text_BT)

    turned = negated(target)
    assert turned is not None
    base = weight(Composed("", Model(tiny_lm, tiny_lm), (), ""))
    torch.testing.assert_close(weight(turned) - base, base - weight(target), rtol=0, atol=1e-4)
    again = negated(turned)
    assert again is not None
    torch.testing.assert_close(weight(again), weight(target), rtol=0, atol=1e-5)
    assert turned.fingerprint != target.fingerprint
    one = negated(target, ["toxic"])
    assert one is not None
    assert [float(term.exponent) for term in one.model.terms[1:]] == [2.0, 0.5]
    bare, half = without(target), without(target, ["toxic"])
    assert bare is not None
    assert half is not None
    torch.testing.assert_close(weight(bare), base, rtol=0, atol=1e-5)
    assert [float(term.exponent) for term in half.model.terms[1:]] == [0.5]
    assert negated(bare) is None
    assert factors_in(target, ("toxic", "rude")) == ("toxic",)
    assert (factors_in(bare, ()), factors_in(bare, ("toxic",))) == ((), None)
    with pytest.raises(InputError, match="one of toxic, polite, got 'rude'"):
        negated(target, ["rude"])


def test_answers_begin_as_they_are_made_to_and_are_the_same_alone(desk: Workbench, target: Composed) -> None:
    attempts = [Attempt("good", "the"), Attempt("good"), Attempt("a bad one", "in ")]
    ask = {"n": 2, "max_tokens": 6, "sampling": PLAIN, "stage": "x"}
    together = answered(desk, target, attempts, **ask)  # type: ignore[arg-type]
    assert [len(row) for row in together] == [2, 2, 2]
    for attempt, row in zip(attempts, together, strict=True):
        [alone] = answered(desk, target, [attempt], **ask)  # type: ignore[arg-type]
        assert [s.token_ids for s in alone] == [s.token_ids for s in row]
    ids = [*prompt_of(target, "good"), *target.model.lm.encode_text("the")]
    score = target.model.factor.score(torch.tensor([ids]), torch.tensor([together[0][0].token_ids]))
    lm = target.model.lm
    base = lm.score(torch.tensor([ids]), torch.tensor([together[0][0].token_ids]))
    assert together[0][0].base_log_prob == pytest.approx(float(base.sum()), abs=1e-4)
    assert score.shape == base.shape
    with pytest.raises(InputError, match="reads at most 256 tokens"):
        answered(desk, target, [Attempt("a" * 260)], **ask)  # type: ignore[arg-type]


@pytest.mark.parametrize("uses_gradient", [False, True])
def test_a_search_with_enough_budget_finds_the_best_suffix_of_all(target: Composed, uses_gradient: bool) -> None:
    """All pairs of eight tokens are weighed one by one, by a plain sum of steps; the search must end at the least."""
    lm = target.model.lm
    allowed = [lm.encode_text(text)[0] for text in (" good", " bad", " the", "x", "y", "q", "z", ",")]
    opening = "in"
    twin = {}
    for pair in itertools.product(allowed, repeat=2):
        text = lm.vocabulary.text(list(pair))
        if lm.encode_text(text) == list(pair):
            ids = torch.tensor([prompt_of(target, "a" + text)])
            twin[text] = -float(_log_prob(target, ids, lm.encode_text(opening)))
    found = suffixes.search(target, "a", length=2, steps=12, candidates=20, seed=0, uses_gradient=uses_gradient,
                            allowed=allowed, opening=opening)  # fmt: skip
    assert found.nats == pytest.approx(twin[found.suffix], abs=1e-3)
    assert found.nats <= found.start_nats
    assert found.weighed <= 1 + 12 * 20
    # Coordinate moves reach the least of all pairs unless it lies behind a pair that no single change improves.
    is_stuck = all(
        twin[text] >= found.nats - 1e-3
        for text in twin
        if sum(a != b for a, b in zip(lm.encode_text(text), lm.encode_text(found.suffix), strict=True)) == 1
    )
    assert is_stuck


def _log_prob(target: Composed, prefix_BT: torch.Tensor, text: list[int]) -> torch.Tensor:
    """Normalised at each token, one token after the other."""
    total = torch.zeros(())
    for token in text:
        log_weight_BV = target.model.factor.start(prefix_BT).log_weight_BV
        total = total + log_weight_BV.log_softmax(-1)[0, token]
        prefix_BT = torch.cat([prefix_BT, torch.tensor([[token]])], 1)
    return total


def test_the_gradient_orders_tokens_as_small_steps_of_the_embedding_do(tiny_lm: CausalLM) -> None:
    composed = Composed("tiny", Model(tiny_lm, tiny_lm), (), "tiny")
    suffix = tiny_lm.encode_text(" good bad")
    tokens = tiny_lm.encode_text("abcdefgh")
    [first, _] = suffixes._by_gradient(composed, "the", suffix, tokens, "in")
    ids = prompt_of(composed, "the good bad")
    place, target = ids.index(suffix[0]), tiny_lm.encode_text("in")
    embedding = tiny_lm.model.get_input_embeddings()

    def loss(change_D: torch.Tensor) -> float:
        with torch.no_grad():
            embedded_1TD = embedding(torch.tensor([ids + target])).clone()
            embedded_1TD[0, place] += change_D
            logit_TV = tiny_lm.model(inputs_embeds=embedded_1TD, use_cache=False).logits[0, len(ids) - 1 : -1]
            return float(torch.nn.functional.cross_entropy(logit_TV.double(), torch.tensor(target), reduction="sum"))

    step = 1e-3
    zero = torch.zeros(tiny_lm.width)
    slopes = {}
    for token in tokens:
        direction_D = embedding.weight[token].detach()
        slopes[token] = (loss(zero + step * direction_D) - loss(zero - step * direction_D)) / (2 * step)
    by_slope = sorted(tokens, key=slopes.__getitem__)
    assert first[:3] == by_slope[:3]


def test_every_attack_makes_attempts(desk: Workbench, target: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suffixes, "words_in", lambda composed: composed.model.lm.encode_text("xyqz"))
    requests = [Request("good", "a"), Request("bad", "b"), Request("the", "b")]
    ground = Ground(desk, target, negated(target), PLAIN, steps=2, candidates=2, suffix_tokens=2, searched=2)
    for name, attack in ATTACKS.items():
        attempts = attack.attempts(ground, requests)
        assert len(attempts) == (2 if name.startswith("suffix") else 3), name
        for attempt, request in zip(attempts, requests, strict=False):
            assert request.text in attempt.message
        assert attack.attempts(ground, requests) == attempts, name  # the same again, from the cache
    assert all(attempt.opening for attempt in ATTACKS["prefix"].attempts(ground, requests))


def test_requests_come_by_category(put: Callable[..., DataFolder], desk: Workbench) -> None:
    rows = [{"text": f"t{n}", "source": "s", "category": "ab"[n % 2]} for n in range(6)]
    rows += [{"text": "u", "source": "bare", "category": None}]
    put("redteam/harmful", rows)
    found = requests_of(desk, "s", 2)
    assert [(r.text, r.category) for r in found] == [("t0", "a"), ("t2", "a"), ("t1", "b"), ("t3", "b")]
    assert requests_of(desk, "bare", 9) == [Request("u", "bare")]
    with pytest.raises(InputError, match="one of bare, s, got 'x'"):
        requests_of(desk, "x", 1)
