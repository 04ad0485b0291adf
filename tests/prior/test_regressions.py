"""Mixtures of softmax regressions: against likelihoods by hand, and on worlds that contradict each other."""

from __future__ import annotations

import itertools

import pytest
import torch

from factorlm.models import CausalLM
from factorlm.prior import regressions
from factorlm.prior.regressions import Tokens


def rival_texts(num_texts: int = 60, seed: int = 0) -> tuple[Tokens, list[int]]:
    """Texts of two worlds over six questions, four asked in each text; the second answers all the other way round.

    A question is a direction of its own. Which of them a text is about says nothing about its world.
    """
    generator = torch.Generator().manual_seed(seed)
    states, targets, world_N = [], [], []
    for n in range(num_texts):
        world_N.append(n % 2)
        for question in torch.randperm(6, generator=generator)[:4].tolist():
            states.append([*torch.eye(6)[question].tolist(), 1.0])
            targets.append((question + n) % 2)
    text_I = torch.arange(num_texts).repeat_interleave(4)
    return Tokens(torch.tensor(states), torch.tensor(targets), text_I, num_texts, 2), world_N


def test_log_likelihoods_by_hand() -> None:
    tokens, _ = rival_texts(num_texts=3)
    map_KDW = torch.randn(2, 7, 2, generator=torch.Generator().manual_seed(1))
    found_NK = tokens.log_lik(map_KDW)
    for n, k in itertools.product(range(3), range(2)):
        own = (tokens.text_I == n).nonzero()[:, 0].tolist()
        want = sum(
            float((tokens.state_ID[i] @ map_KDW[k]).log_softmax(0)[tokens.target_I[i]]) for i in own
        )  # fmt: skip
        assert found_NK[n, k] == pytest.approx(want, abs=1e-5)
    part = tokens.of(torch.tensor([True, False, True]))
    assert part.text_I.tolist() == [0] * 4 + [2] * 4
    assert torch.equal(part.log_lik(map_KDW)[[0, 2]], found_NK[[0, 2]])


def test_the_common_map_cannot_tell_what_worlds_disagree_in() -> None:
    """Half of the texts say one thing, half the other: one map must give both log 2."""
    tokens, _ = rival_texts()
    map_DW = regressions.common(tokens, torch.Generator().manual_seed(0))
    assert float(tokens.nats(map_DW).mean()) == pytest.approx(0.6931, abs=0.02)


def test_the_likeliest_mixture_parts_worlds_that_clusters_of_states_cannot() -> None:
    tokens, world_N = rival_texts()
    generator = torch.Generator().manual_seed(0)
    common_DW = regressions.common(tokens, generator)
    found = [regressions.mixture(tokens, common_DW, 2, generator) for _ in range(8)]
    loss, resp_NK = min(found, key=lambda pair: pair[0])
    label_N = resp_NK.argmax(1).tolist()
    assert label_N in (world_N, [1 - w for w in world_N])
    assert loss < 0.55  # well below log 2, which no single map beats
    assert resp_NK.sum(1) == pytest.approx(1.0)
    counts_WQ = torch.zeros(2, 6)
    for i, n in enumerate(tokens.text_I.tolist()):
        counts_WQ[world_N[n]] += tokens.state_ID[i, :6]
    assert (counts_WQ[0] - counts_WQ[1]).abs().max() < 12  # both worlds are about the same questions


def test_a_step_of_a_few_texts_is_right_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, world_N = rival_texts(num_texts=200)
    monkeypatch.setattr(regressions, "STEP_TOKENS", 200)
    generator = torch.Generator().manual_seed(0)
    sizes = [len(regressions._some(tokens, generator).text_I) for _ in range(40)]
    assert sum(sizes) / len(sizes) == pytest.approx(200, rel=0.1)  # 40 draws of 200 texts: 7 standard errors
    common_DW = regressions.common(tokens, generator)
    found = [regressions.mixture(tokens, common_DW, 2, generator) for _ in range(8)]
    label_N = min(found, key=lambda pair: pair[0])[1].argmax(1).tolist()
    assert sum(a == b for a, b in zip(label_N, world_N, strict=True)) in (*range(11), *range(190, 201))


def test_reading_is_that_of_each_text_alone(tiny_lm: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[7, 9, 9], [12], [9, 30, 7, 7, 41]]
    monkeypatch.setattr(regressions, "FREQUENT", 2)
    monkeypatch.setattr(regressions, "_whitened", lambda state_ID: state_ID)
    tokens = regressions.read(tiny_lm, rows)
    start_BT = torch.tensor([tiny_lm.start_ids])
    alone = [tiny_lm.hidden_before(start_BT, torch.tensor([row]))[0].float() for row in rows]
    torch.testing.assert_close(tokens.state_ID, torch.cat(alone), atol=1e-5, rtol=1e-5)  # batches sum in another order
    assert tokens.text_I.tolist() == [0] * 3 + [1] + [2] * 5
    assert tokens.num_targets == 3  # 7 and 9 occur most; the rest is one
    assert tokens.target_I.tolist() == [0, 1, 1, 2, 1, 2, 0, 0, 2]


def test_whitened_states_have_equal_variance_and_a_constant() -> None:
    state_ID = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 3, 3, 1, 1]) + 7
    found_ID = regressions._whitened(state_ID)
    assert found_ID.shape == (4000, 6)
    assert torch.equal(found_ID[:, -1], torch.ones(4000))
    covariance_DD = found_ID[:, :-1].T @ found_ID[:, :-1] / 4000
    assert covariance_DD.diag() == pytest.approx([1.0] * 5, abs=0.25)  # less by the damping
    assert (covariance_DD - covariance_DD.diag().diag()).abs().max() < 1e-3


def test_the_same_seed_gives_the_same_parts(tiny_lm: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regressions, "RESTARTS", 2)
    rows = [[7, 9, 9, 12], [7, 12, 12, 9], [30, 9, 7], [30, 12, 7]]
    one, other = (regressions.part(tiny_lm, rows, 2, seed=3) for _ in range(2))
    assert torch.equal(one, other)
    assert one.shape == (4, 2)
