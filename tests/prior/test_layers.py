"""Choosing layers on a tiny network: exact likelihoods, and layers that hurt are found and left out."""

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from factorlm.algebra import pad_right
from factorlm.errors import InputError
from factorlm.models import CausalLM
from factorlm.models.layers import skipping
from factorlm.models.progress import quiet
from factorlm.prior.layers import LayerComponents, LayerSettings
from factorlm.prior.parts import layer_parts
from factorlm.prior.variational import enumerate_masks, exact_bound

FREE = 3  # layers 1, 2 and 3 of five
FLOAT32 = 1e-4  # of likelihoods of texts of some twenty nats, summed in batches of another shape
PLAIN = LayerSettings(first=1, last=1, noise=0.0, initial_logit=1.0, kl=0.0)


@pytest.fixture(scope="module")
def deep_lm(tiny_lm: CausalLM) -> CausalLM:
    """Five layers, each of which changes the likelihood of a text by whole nats."""
    config = LlamaConfig(vocab_size=tiny_lm.vocabulary.size, hidden_size=32, intermediate_size=48, num_hidden_layers=5,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)  # fmt: skip
    network = LlamaForCausalLM(config).float()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.3, generator=generator)
    return CausalLM(network, tiny_lm.tokenizer, name="deep", start_ids=(0,), end_ids=(1,))


def drawn_from(lm: CausalLM, num_texts: int, seed: int) -> list[list[int]]:
    """Texts of 4 to 9 tokens, one token after the other."""
    generator = torch.Generator().manual_seed(seed)
    state = lm.start(torch.zeros(num_texts, 1, dtype=torch.long))
    tokens = []
    for _ in range(9):
        token_B = torch.multinomial(state.log_weight_BV.exp(), 1, generator=generator)[:, 0]
        tokens.append(token_B)
        state = lm.extend(state, token_B)
    token_BT = torch.stack(tokens, 1).tolist()
    return [row[: 4 + n % 6] for n, row in enumerate(token_BT)]


def log_prob(lm: CausalLM, rows: list[list[int]]) -> Tensor:
    return torch.stack([lm.score(torch.tensor([[0]]), pad_right([row])).double().sum() for row in rows])


def train(learner: LayerComponents, rows: list[list[int]], weight_NK: Tensor, passes: int) -> None:
    for _ in range(passes):
        learner.improve(rows, weight_NK, rate=1.0, report=quiet)


def test_likelihoods_are_those_of_the_most_probable_layers(deep_lm: CausalLM) -> None:
    rows = [*drawn_from(deep_lm, 7, 0), []]
    learner = LayerComponents(deep_lm, PLAIN, 3)
    learner._logit_KL = torch.tensor([[1.0, -1.0, 2.0], [-0.1, 0.1, -3.0], [1.0, -2.0, 0.5]])
    got_NK = learner.log_prob(rows, quiet)
    for k, kept in enumerate([[0, 1, 3, 4], [0, 2, 4], [0, 1, 3, 4]]):
        want_N = log_prob(skipping(deep_lm, kept), rows[:-1])
        torch.testing.assert_close(got_NK[:-1, k], want_N, atol=FLOAT32, rtol=0)
        assert [part.name for part in learner.parts()][k] == f"deep with {len(kept)} of 5 layers"
    assert got_NK[-1].tolist() == [0, 0, 0]
    assert learner.num_parameters == 9


def test_learning_goes_by_likelihood_less_the_price_of_layers(deep_lm: CausalLM) -> None:
    rows = drawn_from(deep_lm, 5, 9)
    logit_KL = torch.tensor([[1.0, -1.0, 2.0], [-0.1, -0.1, -3.0]])
    learners = [LayerComponents(deep_lm, PLAIN.model_copy(update={"layer_cost": cost}), 2) for cost in (0.0, 0.7)]
    for learner in learners:
        learner._logit_KL = logit_KL
    free_NK, priced_NK = (learner.log_prob(rows, quiet) for learner in learners)
    want_NK = 0.7 * torch.tensor([[2 * len(row), 0.0] for row in rows])
    torch.testing.assert_close((free_NK - priced_NK).float(), want_NK, atol=1e-5, rtol=0)


def test_equal_choices_are_read_once(deep_lm: CausalLM) -> None:
    first, second, third = layer_parts(
        deep_lm, torch.tensor([[1.0, -1.0, 2.0], [5.0, -5.0, 5.0], [1.0, 1.0, 1.0]]), 1, 1
    )
    assert first is second
    assert first is not third


@pytest.mark.parametrize("estimator", ["reinforce", "gumbel"])
def test_a_layer_that_hurts_is_left_out(deep_lm: CausalLM, estimator: str) -> None:
    """The texts are drawn without layer 2, so it hurts, and the others help: by whole nats per text, measured here."""
    rows = drawn_from(skipping(deep_lm, [0, 1, 3, 4]), 60, 1)
    found = {n: float(log_prob(skipping(deep_lm, [i for i in range(5) if i != n]), rows).mean()) for n in (1, 2, 3)}
    whole = float(log_prob(deep_lm, rows).mean())
    assert found[2] > whole + 1
    learner = LayerComponents(deep_lm, PLAIN.model_copy(update={"estimator": estimator, "batch_tokens": 128}), 1)
    train(learner, rows, torch.ones(60, 1), 10)
    assert (learner._logit_KL[0] > 0).tolist() == [True, False, True]
    assert float(learner.log_prob(rows, quiet).mean()) > whole + 1


def test_each_component_follows_the_texts_that_are_its_own(deep_lm: CausalLM) -> None:
    """Two kinds of texts, each without another layer; weights say whose they are."""
    rows = drawn_from(skipping(deep_lm, [0, 1, 3, 4]), 50, 2) + drawn_from(skipping(deep_lm, [0, 2, 3, 4]), 50, 3)
    weight_NK = torch.eye(2).repeat_interleave(50, 0)
    learner = LayerComponents(deep_lm, PLAIN.model_copy(update={"batch_tokens": 128}), 2)
    train(learner, rows, weight_NK, 10)
    assert (learner._logit_KL > 0).tolist() == [[True, False, True], [False, True, True]]
    found_NK = learner.log_prob(rows, quiet)
    assert float((found_NK[:50, 0] > found_NK[:50, 1]).double().mean()) > 0.8
    assert float((found_NK[50:, 1] > found_NK[50:, 0]).double().mean()) > 0.8


def test_texts_without_weight_teach_nothing(deep_lm: CausalLM) -> None:
    rows = drawn_from(deep_lm, 6, 4)
    learner = LayerComponents(deep_lm, PLAIN, 2)
    before_KL = learner.tensors()["logits"]
    learner.improve(rows, torch.tensor([[1.0, 0.0]] * 6), rate=1.0, report=quiet)
    assert torch.equal(learner._logit_KL[1], before_KL[1])
    assert not torch.equal(learner._logit_KL[0], before_KL[0])


def test_the_mean_step_is_the_gradient_of_the_bound(deep_lm: CausalLM) -> None:
    """400 estimates, each place within 6 standard errors of enumeration: false alarms under 1e-6."""
    rows = drawn_from(deep_lm, 3, 5)
    settings = PLAIN.model_copy(update={"kl": 0.7, "kl_steps": 1, "keep_prior": 0.2, "layer_cost": 2.0})
    learner = LayerComponents(deep_lm, settings, 1)
    learner._step_K += 1
    weight_B = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    mean_tokens = float(weight_B @ torch.tensor([len(row) for row in rows], dtype=torch.float64))
    mask_ML = enumerate_masks(FREE)
    log_prob_M = learner._values(mask_ML, rows, weight_B)
    value_M = log_prob_M - 2.0 * mean_tokens * mask_ML.sum(1)
    logit_L = learner._logit_KL[0].double().requires_grad_(True)
    (want_L,) = torch.autograd.grad(exact_bound(logit_L, lambda _: value_M, 0.2, 0.7), logit_L)
    place_L = 2 ** torch.arange(FREE).double()  # as masks are enumerated: 400 times the same eight are read once
    learner._values = lambda mask_SL, *_: log_prob_M[(mask_SL @ place_L).long()]  # type: ignore[method-assign]
    drawn_NL = torch.stack([learner._gradient(0, rows, weight_B) for _ in range(400)])
    z_L = (drawn_NL.mean(0) - want_L) / (drawn_NL.std(0) / 20)
    assert float(z_L.abs().max()) < 6
    assert float((want_L / (drawn_NL.std(0) / 20)).abs().max()) > 12  # it could fail


def test_a_price_leaves_layers_out(deep_lm: CausalLM) -> None:
    rows = drawn_from(deep_lm, 20, 6)
    free, priced = (LayerComponents(deep_lm, PLAIN.model_copy(update={"layer_cost": cost}), 1) for cost in (0.0, 20.0))
    for learner in (free, priced):
        train(learner, rows, torch.ones(20, 1), 20)
    assert bool((priced._logit_KL < 0).all())
    assert float(free.keep_prob_KL.sum()) > float(priced.keep_prob_KL.sum()) + 0.5


def test_it_goes_on_from_a_saved_state_as_if_nothing_had_happened(deep_lm: CausalLM) -> None:
    rows, weight_NK = drawn_from(deep_lm, 30, 7), torch.rand(30, 2, generator=torch.Generator().manual_seed(0))
    settings = PLAIN.model_copy(update={"noise": 0.5, "kl": 0.05, "batch_tokens": 64})
    learner = LayerComponents(deep_lm, settings, 2, seed=3)
    train(learner, rows, weight_NK, 1)
    saved = learner.state()
    train(learner, rows, weight_NK, 2)
    other = LayerComponents(deep_lm, settings, 2, seed=99)
    other.restore(saved)
    kept = {name: tensor.clone() for name, tensor in saved.items()}
    train(other, rows, weight_NK, 2)
    assert all(torch.equal(saved[name], tensor) for name, tensor in kept.items())  # what is saved does not move
    after, want = other.state(), learner.state()
    assert {name for name in want if not torch.equal(want[name], after[name])} == set()
    assert not torch.equal(want["logits"], saved["logits"])


def test_a_dead_component_becomes_like_the_one_that_explains_the_texts(deep_lm: CausalLM) -> None:
    rows = drawn_from(skipping(deep_lm, [0, 1, 3, 4]), 20, 8)
    learner = LayerComponents(deep_lm, PLAIN.model_copy(update={"noise": 0.01}), 3)
    learner._logit_KL = torch.tensor([[5.0, 5.0, -5.0], [-5.0, 5.0, 5.0], [5.0, -5.0, 5.0]])
    train(learner, rows, torch.ones(20, 3), 1)
    before_KL = learner.tensors()["logits"]
    learner.reseed(0, rows)
    assert torch.equal(learner._logit_KL[1:], before_KL[1:])
    torch.testing.assert_close(learner._logit_KL[0], before_KL[2], atol=0.1, rtol=0)
    assert not torch.equal(learner._logit_KL[0], before_KL[2])
    assert learner.state()["steps"].tolist()[0] == 0
    alone = LayerComponents(deep_lm, PLAIN, 1)
    alone._logit_KL -= 5
    alone.reseed(0, rows)
    assert alone._logit_KL.tolist() == [[1.0] * FREE]


def test_at_least_one_layer_is_free(deep_lm: CausalLM) -> None:
    with pytest.raises(InputError, match="deep has 5, and the first 4 and last 2 are always run"):
        LayerComponents(deep_lm, LayerSettings(), 2)
    with pytest.raises(InputError, match="logits of the 3 layers of deep"):
        layer_parts(deep_lm, torch.zeros(2, 4), 1, 1)
