"""Soft prompts on a tiny network, against transformers and autograd without batches, masks or caches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from factorlm.models import CausalLM
from factorlm.models.progress import quiet
from factorlm.prior.soft import LARGEST_GRADIENT, SoftComponents, SoftSettings

FLOAT32 = 1e-4  # of likelihoods of some thirty nats, summed in batches of another shape
SETTINGS = SoftSettings(places=3, batch_tokens=96)


def texts(num_texts: int, seed: int = 0) -> list[list[int]]:
    """Of 2 to 9 tokens; the first half of each is one token, again and again, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in torch.randint(2, 10, (num_texts,), generator=generator).tolist():
        row = torch.randint(3, 50, (length,), generator=generator).tolist()
        rows.append([row[0]] * (length // 2) + row[length // 2 :])
    return rows


@pytest.fixture
def learner(tiny_lm: CausalLM) -> SoftComponents:
    return SoftComponents(tiny_lm, SETTINGS, 3, texts(8), seed=1)


def nats_by_transformers(lm: CausalLM, soft_MD: Tensor, row: list[int]) -> Tensor:
    """The twin: one text behind the start token and the vectors."""
    embed = lm.model.get_input_embeddings()
    read_TD = torch.cat([embed(torch.tensor([0])), soft_MD, embed(torch.tensor(row[:-1], dtype=torch.long))])
    logit_TV = lm.model(inputs_embeds=read_TD[None]).logits[0, len(soft_MD) :]
    return torch.nn.functional.cross_entropy(logit_TV, torch.tensor(row), reduction="sum")


def test_likelihoods_are_those_of_the_network(tiny_lm: CausalLM, learner: SoftComponents) -> None:
    rows = texts(7, seed=2)
    soft_KMD = learner.tensors()["soft"]
    with torch.no_grad():
        want_NK = -torch.stack(
            [torch.stack([nats_by_transformers(tiny_lm, soft_MD, row) for soft_MD in soft_KMD]) for row in rows]
        )
    got_NK = learner.log_prob(rows, quiet)
    torch.testing.assert_close(got_NK, want_NK.double(), atol=FLOAT32, rtol=0)
    assert float(want_NK.std(1).min()) > 0.1  # components differ, so a mistake would show
    assert learner.num_parameters == soft_KMD.numel() == 3 * 3 * tiny_lm.width


def test_gradients_are_those_of_autograd(tiny_lm: CausalLM, learner: SoftComponents) -> None:
    rows, components, weights = texts(4, seed=3), [2, 0, 2, 0], [0.5, 1.0, 0.1, 0.25]
    (got_KMD,) = torch.autograd.grad(learner._loss(rows, components, weights), [learner._soft_KMD])
    soft_KMD = learner.tensors()["soft"].requires_grad_(True)
    triples = list(zip(rows, components, weights, strict=True))
    total = torch.stack([w * nats_by_transformers(tiny_lm, soft_KMD[k], row) for row, k, w in triples]).sum()
    (total / sum(w * len(row) for row, _, w in triples)).backward()
    assert soft_KMD.grad is not None
    torch.testing.assert_close(got_KMD, soft_KMD.grad, atol=1e-5, rtol=1e-4)  # float32, other shapes
    assert float(got_KMD[[0, 2]].abs().amax((1, 2)).min()) > 1e-3
    assert not got_KMD[1].any()


def test_a_step_raises_the_likelihood_of_the_texts_that_count(learner: SoftComponents) -> None:
    rows = texts(24, seed=4)
    weight_NK = torch.nn.functional.one_hot(torch.arange(24) % 3, 3).double()
    before_K = (weight_NK * learner.log_prob(rows, quiet)).sum(0)
    learner.improve(rows, weight_NK, rate=1.0, report=quiet)
    once_K = (weight_NK * learner.log_prob(rows, quiet)).sum(0)
    for _ in range(5):
        learner.improve(rows, weight_NK, rate=1.0, report=quiet)
    after_K = (weight_NK * learner.log_prob(rows, quiet)).sum(0)
    assert bool((once_K > before_K).all())
    assert bool((after_K > before_K + 5).all())


def test_a_component_that_has_no_text_stays_where_it_is(learner: SoftComponents) -> None:
    rows, before_KMD = texts(6), learner.tensors()["soft"]
    weight_NK = torch.tensor([[0.7, 0.0, 0.3]] * 6, dtype=torch.float64)
    learner.improve(rows, weight_NK, rate=1.0, report=quiet)
    after_KMD = learner.tensors()["soft"]
    assert torch.equal(after_KMD[1], before_KMD[1])
    assert not torch.equal(after_KMD[0], before_KMD[0])
    assert not torch.equal(after_KMD[2], before_KMD[2])


def test_the_rate_scales_the_step(tiny_lm: CausalLM) -> None:
    whole, half = (SoftComponents(tiny_lm, SETTINGS, 1, texts(3), seed=1) for _ in range(2))
    before_KMD = whole.tensors()["soft"]
    for learner, rate in ((whole, 1.0), (half, 0.5)):
        learner.improve(texts(2), torch.ones(2, 1), rate=rate, report=quiet)
    moved_KMD = whole.tensors()["soft"] - before_KMD
    torch.testing.assert_close(half.tensors()["soft"] - before_KMD, 0.5 * moved_KMD, atol=1e-6, rtol=0)
    assert float(moved_KMD.abs().max()) == pytest.approx(SETTINGS.learning_rate, rel=1e-2)  # as Adam steps at first


def test_large_gradients_are_clipped_for_each_component(learner: SoftComponents) -> None:
    gradient_KMD = torch.ones_like(learner._soft_KMD)
    gradient_KMD[1] *= 1e-3
    learner._soft_KMD.grad = gradient_KMD.clone()
    learner._step()
    size_K = learner._soft_KMD.grad.flatten(1).norm(dim=1)
    assert size_K[[0, 2]].tolist() == pytest.approx([LARGEST_GRADIENT] * 2)
    assert torch.equal(learner._soft_KMD.grad[1], gradient_KMD[1])


def test_it_goes_on_from_a_saved_state_as_if_nothing_had_happened(tiny_lm: CausalLM, learner: SoftComponents) -> None:
    rows, weight_NK = texts(20), torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    learner.improve(rows, weight_NK, rate=1.0, report=quiet)
    saved = learner.state()
    kept = {name: tensor.clone() for name, tensor in saved.items()}
    for _ in range(2):
        learner.improve(rows, weight_NK, rate=0.5, report=quiet)
    other = SoftComponents(tiny_lm, SETTINGS, 3, texts(9, seed=7), seed=99)
    other.restore(saved)
    for _ in range(2):
        other.improve(rows, weight_NK, rate=0.5, report=quiet)
    assert all(torch.equal(tensor, other.state()[name]) for name, tensor in learner.state().items())
    assert all(torch.equal(tensor, saved[name]) for name, tensor in kept.items())  # a state is never written to


def test_beginning_anew_forgets_one_component_alone(learner: SoftComponents) -> None:
    rows = texts(10)
    learner.improve(rows, torch.ones(10, 3), rate=1.0, report=quiet)
    before = learner.state()
    learner.reseed(1, [[7, 7, 7, 7]])
    after = learner.state()
    for name in ("soft", "exp_avg", "exp_avg_sq"):
        assert torch.equal(after[name][[0, 2]], before[name][[0, 2]])
    assert not after["exp_avg"][1].any()
    assert not after["exp_avg_sq"][1].any()
    near_D = learner.lm.embed(torch.tensor(7))
    noise_MD = after["soft"][1] - near_D
    assert 0 < float(noise_MD.norm(dim=1).max()) < 0.5 * float(near_D.norm())


def test_near_copies_differ_a_little(learner: SoftComponents) -> None:
    learner.improve(texts(10), torch.ones(10, 3), rate=1.0, report=quiet)
    before = learner.state()
    learner.spread()
    after = learner.state()
    apart_KMD = after["soft"] - before["soft"][:1]
    assert 0 < float(apart_KMD.std()) < 0.1 * float(before["soft"][0].std())
    assert float((after["soft"][1] - after["soft"][2]).abs().max()) > 0
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(after[name], before[name][:1].expand_as(before[name]))
    learner.improve(texts(10), torch.ones(10, 3), rate=1.0, report=quiet)  # moments are no views of each other


def test_the_base_stays_as_it_is(fresh_lm: CausalLM) -> None:
    before = {name: weight.clone() for name, weight in fresh_lm.model.state_dict().items()}
    learner = SoftComponents(fresh_lm, SETTINGS, 2, texts(4))
    learner.improve(texts(4), torch.ones(4, 2), rate=1.0, report=quiet)
    assert all(torch.equal(weight, before[name]) for name, weight in fresh_lm.model.state_dict().items())
    assert all(weight.grad is None for weight in fresh_lm.model.parameters())
