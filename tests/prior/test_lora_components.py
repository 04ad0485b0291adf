"""Adapters as components, on a tiny network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from factorlm.errors import InputError
from factorlm.models import CausalLM
from factorlm.models.progress import quiet
from factorlm.prior.batches import weighted_nats
from factorlm.prior.lora import SEEDING_STEPS, LoraComponents, LoraComponentSettings

FLOAT32 = 1e-4  # of likelihoods of some thirty nats, summed in batches of another shape and with merged weights
SETTINGS = LoraComponentSettings(rank=2, batch_tokens=64, learning_rate=1e-2)


def texts(num_texts: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 9, (num_texts,), generator=generator).tolist()
    return [torch.randint(3, 50, (length,), generator=generator).tolist() for length in lengths]


@pytest.fixture
def learner(tiny_lm: CausalLM) -> LoraComponents:
    """Three adapters that were taught a little, each something else."""
    made = LoraComponents(tiny_lm, SETTINGS, 3, seed=1)
    made.improve(texts(9), torch.eye(3).repeat(3, 1).double(), rate=1.0, report=quiet)
    return made


def nats_by_transformers(network: torch.nn.Module, row: list[int]) -> Tensor:
    """The twin: one text through a network with thin matrices beside its layers."""
    logit_TV = network(input_ids=torch.tensor([[0, *row[:-1]]])).logits[0]
    return torch.nn.functional.cross_entropy(logit_TV, torch.tensor(row), reduction="sum")


def test_they_begin_as_the_base(tiny_lm: CausalLM) -> None:
    rows = texts(5)
    learner = LoraComponents(tiny_lm, SETTINGS, 2)
    want_N = torch.stack([tiny_lm.score(torch.tensor([[0]]), torch.tensor([row])).double().sum() for row in rows])
    torch.testing.assert_close(learner.log_prob(rows, quiet), want_N[:, None].expand(-1, 2), atol=FLOAT32, rtol=0)
    assert not torch.equal(*(learner.tensors()[f"{k}.down.model.layers.0.self_attn.q_proj"] for k in range(2)))


def test_likelihoods_are_those_of_the_network(learner: LoraComponents) -> None:
    rows = texts(6, seed=2)
    with torch.no_grad():
        want_NK = -torch.tensor(
            [[float(nats_by_transformers(network, row)) for network in learner._networks] for row in rows]
        )
    torch.testing.assert_close(learner.log_prob(rows, quiet), want_NK.double(), atol=FLOAT32, rtol=0)
    assert float(want_NK.std(1).min()) > 0.01  # components differ
    num_numbers = sum(weight.numel() for weight in learner.tensors().values())
    assert learner.num_parameters == num_numbers == 3 * learner.adapter(0).num_parameters


def test_gradients_are_those_of_autograd(learner: LoraComponents) -> None:
    rows, weights = texts(4, seed=3), [0.5, 1.0, 0.1, 0.25]
    network, own = learner._networks[1], list(learner._weights[1].values())
    before_BTD = learner.lm.embed(torch.tensor([[0]] * 4))
    got = torch.autograd.grad(weighted_nats(learner.lm, network, before_BTD, rows, weights), own)
    pairs = list(zip(rows, weights, strict=True))
    total = torch.stack([w * nats_by_transformers(network, row) for row, w in pairs]).sum()
    want = torch.autograd.grad(total / sum(w * len(row) for row, w in pairs), own)
    for mine, other in zip(got, want, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-3)  # float32, other shapes
    assert max(float(gradient.abs().max()) for gradient in want) > 1e-3


def test_a_step_raises_the_likelihood_of_the_texts_that_count(learner: LoraComponents) -> None:
    rows = texts(24, seed=4)
    weight_NK = torch.nn.functional.one_hot(torch.arange(24) % 3, 3).double()
    before_K = (weight_NK * learner.log_prob(rows, quiet)).sum(0)
    for _ in range(5):
        learner.improve(rows, weight_NK, rate=1.0, report=quiet)
    assert bool(((weight_NK * learner.log_prob(rows, quiet)).sum(0) > before_K + 5).all())


def test_a_component_that_has_no_text_stays_where_it_is(learner: LoraComponents) -> None:
    before = learner.state()
    learner.improve(texts(6), torch.tensor([[0.7, 0.0, 0.3]] * 6).double(), rate=1.0, report=quiet)
    after = learner.state()
    for name, tensor in after.items():
        if name.startswith("1."):
            assert torch.equal(tensor, before[name])
    assert not torch.equal(
        after["0.up.model.layers.1.self_attn.v_proj"], before["0.up.model.layers.1.self_attn.v_proj"]
    )


def test_the_rate_scales_the_step(tiny_lm: CausalLM) -> None:
    name = "0.up.model.layers.0.self_attn.v_proj"  # zero at the beginning
    moved = []
    for rate in (1.0, 0.25):
        learner = LoraComponents(tiny_lm, SETTINGS, 1)
        learner.improve(texts(2), torch.ones(2, 1), rate=rate, report=quiet)
        moved.append(learner.tensors()[name])
    torch.testing.assert_close(moved[1], 0.25 * moved[0], atol=1e-8, rtol=1e-5)
    assert float(moved[0].abs().max()) == pytest.approx(SETTINGS.learning_rate, rel=1e-2)  # as Adam steps at first


def test_it_goes_on_from_a_saved_state_as_if_nothing_had_happened(tiny_lm: CausalLM, learner: LoraComponents) -> None:
    rows, weight_NK = texts(20), torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    saved = learner.state()
    kept = {name: tensor.clone() for name, tensor in saved.items()}
    for _ in range(2):
        learner.improve(rows, weight_NK, rate=0.5, report=quiet)
    other = LoraComponents(tiny_lm, SETTINGS, 3, seed=99)
    other.restore(saved)
    for _ in range(2):
        other.improve(rows, weight_NK, rate=0.5, report=quiet)
    assert all(torch.equal(tensor, other.state()[name]) for name, tensor in learner.state().items())
    assert all(torch.equal(tensor, saved[name]) for name, tensor in kept.items())  # a state is never written to


def test_beginning_anew_is_to_follow_the_best_and_then_the_texts(learner: LoraComponents) -> None:
    rows = texts(6, seed=5)
    weight_NK = torch.tensor([[0.0, 0.0, 1.0]] * 6).double()
    for _ in range(4):
        learner.improve(rows, weight_NK, rate=1.0, report=quiet)
    before, before_NK = learner.state(), learner.log_prob(rows, quiet)
    assert int(before_NK.sum(0).argmax()) == 2
    learner.reseed(0, rows)
    after, after_K = learner.state(), learner.log_prob(rows, quiet).sum(0)
    assert float(after_K[0]) > float(before_NK[:, 2].sum())  # better than the one it followed
    assert {int(tensor) for name, tensor in after.items() if name.startswith("0.") and name.endswith("/step")} == {
        SEEDING_STEPS
    }
    for name, tensor in after.items():
        assert name == "generator" or name.startswith("0.") or torch.equal(tensor, before[name])


def test_near_copies_differ_a_little(learner: LoraComponents) -> None:
    learner.spread()
    state = learner.state()
    for name in learner._weights[0]:
        first, second, third = (state[f"{k}.{name}"] for k in range(3))
        assert 0 < float((second - first).std()) < 0.1 * float(first.std())
        assert not torch.equal(second, third)
        assert torch.equal(state[f"1.{name}/exp_avg"], state[f"0.{name}/exp_avg"])
    learner.improve(texts(6), torch.tensor([[0.0, 1.0, 0.0]] * 6).double(), rate=1.0, report=quiet)
    after = learner.state()
    assert all(torch.equal(after[name], state[name]) for name in state if name.startswith(("0.", "2.")))


def test_the_base_stays_as_it_is(fresh_lm: CausalLM) -> None:
    before = {name: weight.clone() for name, weight in fresh_lm.model.state_dict().items()}
    learner = LoraComponents(fresh_lm, SETTINGS, 2)
    learner.improve(texts(4), torch.ones(4, 2), rate=1.0, report=quiet)
    learner.log_prob(texts(2), quiet)
    assert before.keys() == fresh_lm.model.state_dict().keys()
    assert all(torch.equal(weight, before[name]) for name, weight in fresh_lm.model.state_dict().items())


def test_layers_that_are_not_there_are_refused(tiny_lm: CausalLM) -> None:
    with pytest.raises(InputError, match="named query are needed, got none"):
        LoraComponents(tiny_lm, SETTINGS.model_copy(update={"layers": ("query",)}), 2)
