"""EM on tables of bigrams, whose M-step is exact: the bound, what is undone, what is kept, what goes on."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from factorlm.models.progress import Report, quiet
from factorlm.prior.learning import Learning, Progress, Rows, best_weights, bound_of, responsibilities, split
from factorlm.prior.rounds import SEEDS, learn

LETTERS = 4
EXACT = Learning(assignment="all", rounds=30, patience=99, dev_share=0.0, dead_below=0.0)


def cycles(num_texts: int, seed: int = 0) -> list[list[int]]:
    """Texts of 8 to 27 letters that go up the alphabet in even rows, down in odd ones; one letter in five is any."""
    generator = torch.Generator().manual_seed(seed)
    any_NT = torch.randint(LETTERS, (num_texts, 27), generator=generator).tolist()
    is_any_NT = (torch.rand(num_texts, 27, generator=generator) < 0.2).tolist()
    rows = []
    for n, length in enumerate(torch.randint(8, 28, (num_texts,), generator=generator).tolist()):
        row = any_NT[n][:1]
        for letter, is_any in zip(any_NT[n][1:length], is_any_NT[n][1:length], strict=True):
            row.append(letter if is_any else (row[-1] + (1 if n % 2 == 0 else -1)) % LETTERS)
        rows.append(row)
    return rows


def bigrams(rows: Rows) -> Tensor:
    """How often each letter follows each one, or the beginning, in each text: [N, letters + 1, letters]."""
    place = [
        (n * (LETTERS + 1) + before) * LETTERS + letter
        for n, row in enumerate(rows)
        for before, letter in zip([LETTERS, *row[:-1]], row, strict=True)
    ]
    shape = (len(rows), LETTERS + 1, LETTERS)
    return torch.bincount(torch.tensor(place), minlength=math.prod(shape)).double().reshape(shape)


class Bigrams:
    """K tables, whose M-step is exact: what follows a letter, in proportion to weighted counts."""

    is_monotone = True

    def __init__(self, num_components: int, seed: int = 0) -> None:
        self.num_components = num_components
        self.generator = torch.Generator().manual_seed(seed)
        self.table_KSV = self.noise(num_components, LETTERS + 1).log_softmax(-1)
        self.calls: list[tuple[str, Any]] = []

    def noise(self, *shape: int) -> Tensor:
        return torch.randn(*shape, LETTERS, generator=self.generator, dtype=torch.float64)

    def log_prob(self, rows: Rows, report: Report) -> Tensor:
        return torch.einsum("nsv,ksv->nk", bigrams(rows), self.table_KSV)

    def improve(self, rows: Rows, weight_NK: Tensor, *, rate: float, report: Report) -> None:
        self.calls.append(("improve", (self.table_KSV.clone(), weight_NK.clone(), rate)))
        count_KSV = torch.einsum("nsv,nk->ksv", bigrams(rows), weight_NK)
        seen_KS1 = count_KSV.sum(-1, keepdim=True)
        best_KSV = (count_KSV / seen_KS1).clamp(min=1e-12).log()
        self.table_KSV = torch.where(seen_KS1 > 0, best_KSV, self.table_KSV)

    def spread(self) -> None:
        self.calls.append(("spread", None))
        self.table_KSV = (self.table_KSV[:1] + 0.3 * self.noise(*self.table_KSV.shape[:2])).log_softmax(-1)

    def reseed(self, index: int, rows: Rows) -> None:
        self.calls.append(("reseed", (index, rows)))
        self.table_KSV = self.table_KSV.clone()
        self.table_KSV[index] = (0.1 + bigrams(rows).sum(0)).log().log_softmax(-1)

    def state(self) -> dict[str, Tensor]:
        return {"tables": self.table_KSV.clone(), "generator": self.generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.table_KSV = state["tables"].clone()
        self.generator.set_state(state["generator"])


class Noisy(Bigrams):
    """Half of its steps end somewhere near, as far as the rate."""

    def improve(self, rows: Rows, weight_NK: Tensor, *, rate: float, report: Report) -> None:
        super().improve(rows, weight_NK, rate=rate, report=report)
        noise_KSV = self.noise(*self.table_KSV.shape[:2])
        if float(torch.rand(1, generator=self.generator)) < 0.5:
            self.table_KSV = (self.table_KSV.clamp(min=-9) + rate * noise_KSV).log_softmax(-1)


class Running(Bigrams):
    """Follows counts of batches, the last ones most."""

    def improve(self, rows: Rows, weight_NK: Tensor, *, rate: float, report: Report) -> None:
        count_KSV = torch.einsum("nsv,nk->ksv", bigrams(rows), weight_NK)
        share_KS1 = 1 - torch.exp(-0.02 * rate * count_KSV.sum(-1, keepdim=True))
        prob_KSV = (0.1 + count_KSV) / (0.1 + count_KSV).sum(-1, keepdim=True)
        self.table_KSV = ((1 - share_KS1) * self.table_KSV.exp() + share_KS1 * prob_KSV).log()


def mixed(learner: Bigrams, rows: Rows) -> Tensor:
    """Log probability of each text, where all components have one weight."""
    return torch.logsumexp(learner.log_prob(rows, quiet), 1) - math.log(learner.num_components)


def bounds(progress: Progress) -> list[float]:
    return [r.bound for r in progress.rounds if r.bound is not None]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("temper_tokens", [16.0, 1000.0])
def test_exact_steps_always_raise_the_bound(seed: int, temper_tokens: float) -> None:
    settings = EXACT.model_copy(update={"temper_tokens": temper_tokens})
    progress = learn(Bigrams(3, seed), cycles(60, seed), settings)
    found = bounds(progress)
    assert len(found) == 31
    assert all(b > a for a, b in itertools.pairwise(found[:11]))
    assert all(b > a - 1e-12 for a, b in itertools.pairwise(found))  # rounding, once nothing moves
    assert found[10] > found[0] + 1
    assert {(r.is_undone, r.rate, r.reseeded) for r in progress.rounds} == {(False, 1.0, ())}


def test_the_bound_is_what_it_says() -> None:
    rows = cycles(20)
    learner = Bigrams(3)
    table = learner.table_KSV.tolist()
    progress = learn(learner, rows, EXACT.model_copy(update={"rounds": 1, "alpha": 1.7}))
    total, train, num_tokens = 0.0, 0.0, 0
    for row in rows:
        log_prob = [
            sum(table[k][a][b] for a, b in zip([LETTERS, *row[:-1]], row, strict=True)) - math.log(3) for k in range(3)
        ]
        temper = min(1, 16 / len(row))
        total += math.log(sum(math.exp(temper * (p + math.log(3)) - math.log(3)) for p in log_prob))
        num_tokens += len(row)
    assert progress.rounds[0].bound == pytest.approx((total - 0.7 * 3 * math.log(3)) / 20, abs=1e-12)
    _, weight_NK, _ = learner.calls[0][1]
    temper_N = torch.tensor([min(1, 16 / len(row)) for row in rows], dtype=torch.float64)
    torch.testing.assert_close(weight_NK.sum(1), temper_N)
    share_K = (weight_NK / temper_N[:, None]).sum(0) + 0.7
    log_lik_NK = torch.einsum("nsv,ksv->nk", bigrams(rows), torch.tensor(table, dtype=torch.float64))
    train = -float(torch.logsumexp((share_K / share_K.sum()).log() + log_lik_NK, 1).sum()) / num_tokens
    assert progress.rounds[0].train_nats == progress.rounds[0].dev_nats == pytest.approx(train, abs=1e-12)


def test_responsibilities_and_weights_are_what_they_say() -> None:
    generator = torch.Generator().manual_seed(0)
    log_lik_NK = 3 * torch.randn(7, 3, generator=generator, dtype=torch.float64)
    mu_K = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    raw_NK = mu_K * log_lik_NK.exp()
    resp_NK = raw_NK / raw_NK.sum(1, keepdim=True)
    torch.testing.assert_close(responsibilities(mu_K.log(), log_lik_NK).exp(), resp_NK, atol=1e-14, rtol=0)
    for alpha in (1.0, 1.1, 4.0):
        smooth = (alpha - 1) * float(mu_K.log().sum())
        assert bound_of(mu_K.log(), log_lik_NK, alpha) == pytest.approx(float(raw_NK.sum(1).log().sum()) + smooth)
        best_K = best_weights(resp_NK, alpha)
        torch.testing.assert_close(best_K.exp(), (alpha - 1 + resp_NK.sum(0)) / (7 + 3 * (alpha - 1)))
        other_MK = (best_K + torch.randn(1000, 3, generator=generator, dtype=torch.float64)).log_softmax(1)
        count_K = resp_NK.sum(0) + alpha - 1
        assert float((other_MK @ count_K).max()) < float(best_K @ count_K)
    dead_NK = torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64)
    assert best_weights(dead_NK, 1.0).tolist() == [0.0, -math.inf]
    assert bound_of(best_weights(dead_NK, 1.0), torch.zeros(3, 2, dtype=torch.float64), 1.0) == 0
    assert float(best_weights(dead_NK, 1.1)[1].exp()) == pytest.approx(0.1 / 3.2)


def test_what_makes_it_worse_is_undone_and_made_smaller() -> None:
    num_undone = 0
    for seed in range(5):
        learner = Noisy(3, seed)
        progress = learn(learner, cycles(60, seed), EXACT)
        found = bounds(progress)
        assert all(b >= a - 1e-9 for a, b in itertools.pairwise(found))
        rate, tables = 1.0, [call[1][0] for call in learner.calls]
        assert [call[1][2] for call in learner.calls] == [r.rate for r in progress.rounds[:-1]]
        for n, r in enumerate(progress.rounds[:-1]):
            if r.is_undone:
                rate *= 0.5
                num_undone += 1
                assert torch.equal(tables[n], tables[n - 1])
            assert r.rate == rate
        assert found[-1] > found[0] + 1
    assert num_undone > 10


def test_a_learner_that_climbs_something_else_is_not_undone() -> None:
    learner = Noisy(3)
    learner.is_monotone = False
    progress = learn(learner, cycles(60), EXACT)
    found = bounds(progress)
    assert any(b < a for a, b in itertools.pairwise(found))
    assert {(r.is_undone, r.rate) for r in progress.rounds} == {(False, 1.0)}


@pytest.mark.parametrize("method", ["em", "variational", "hard"])
@pytest.mark.parametrize("assignment", ["drawn", "all"])
def test_every_method_tells_two_languages_apart(method: str, assignment: str) -> None:
    rows = cycles(200)
    settings = Learning.model_validate({"method": method, "assignment": assignment, "rounds": 8, "batch_texts": 20})
    learner = Bigrams(2, 2) if method == "em" else Running(2, 2)
    dev = [rows[n] for n in split(200, settings)[1]]
    before = -float(mixed(learner, dev).sum()) / sum(map(len, dev))
    progress = learn(learner, rows, settings)
    nats = [r.dev_nats for r in progress.rounds if r.dev_nats is not None]
    assert min(nats) == progress.best_dev < before - 0.5
    resp_NK = responsibilities(progress.log_prob_K, learner.log_prob(rows, quiet)).exp()
    first_K = resp_NK[::2].mean(0)
    assert float(first_K.max()) > 0.95
    assert float(resp_NK[1::2].mean(0)[first_K.argmin()]) > 0.95


@pytest.mark.parametrize("method", ["em", "variational"])
def test_a_dead_component_begins_anew_from_what_is_explained_worst(method: str) -> None:
    rows = cycles(80)
    learner = Running(3)
    learner.table_KSV = (0.1 + torch.stack([bigrams(rows[k:40:2]).sum(0) for k in range(3)])).log().log_softmax(-1)
    learner.table_KSV[2] = torch.tensor([0.997, 0.001, 0.001, 0.001], dtype=torch.float64).log()
    log_lik_NK = learner.log_prob(rows, quiet)
    settings = Learning.model_validate(
        {**EXACT.model_dump(), "method": method, "rounds": 1, "dead_below": 0.3, "batch_texts": 80}
    )
    progress = learn(learner, rows, settings)
    assert progress.rounds[0].reseeded == (2,)
    index, seeds = next(found for name, found in learner.calls if name == "reseed")
    assert index == 2
    temper_N1 = torch.tensor([min(1, 16 / len(row)) for row in rows], dtype=torch.float64)[:, None]
    first_K = torch.full((3,), 1 / 3, dtype=torch.float64).log()
    log_prob_K = best_weights(responsibilities(first_K, log_lik_NK * temper_N1).exp(), settings.alpha)
    if method != "em":  # texts are weighed as they come, before weights change
        log_prob_K = first_K
    per_token_N = torch.logsumexp(log_prob_K + log_lik_NK, 1) / torch.tensor([len(row) for row in rows])
    assert sorted(seeds) == sorted(rows[n] for n in per_token_N.argsort()[:SEEDS].tolist())
    assert progress.rounds[0].num_effective > 2.5  # it gets a fair share to begin with


def test_each_text_is_drawn_for_anew() -> None:
    """Equal components: who learns from a text is a fair coin, in each batch another one."""
    learner = Bigrams(2)
    learner.table_KSV[1] = learner.table_KSV[0]
    learner.improve = lambda rows, weight_NK, **_: drawn.append(weight_NK[:, 0] > 0)  # type: ignore[method-assign]
    drawn: list[Tensor] = []
    learn(learner, cycles(160), Learning(method="variational", rounds=1, batch_texts=40, dev_share=0.0))
    assert len(drawn) == 4
    assert all(bool((a != b).any()) for a, b in itertools.combinations(drawn, 2))
    assert 40 < int(torch.cat(drawn).sum()) < 120  # 6 standard deviations: false alarms under 1e-8
