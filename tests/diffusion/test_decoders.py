"""Decoders obey the laws of language models; what they are trained through reads as they read."""

from __future__ import annotations

import pytest
import torch

from factorlm.algebra import laws
from factorlm.diffusion.decoders import BiasDecoder, PlanNetwork, PlanSettings, SoftDecoder, embedded
from factorlm.models import CausalLM

PREFIXES, TEXTS = [[0, 7], [0, 9, 12, 30]], [[6, 7, 8], [41, 9, 6]]
TOLERANCE = 2e-5  # nats: rows of other lengths are summed in another order, in float32


def plans(lm: CausalLM, number: int = 2) -> torch.Tensor:
    return torch.randn(number, 3, lm.width, generator=torch.Generator().manual_seed(1))


def test_laws(tiny_lm: CausalLM) -> None:
    for decoder in (SoftDecoder(tiny_lm, plans(tiny_lm, 1)), BiasDecoder(tiny_lm, plans(tiny_lm, 1)[:, 0])):
        laws.check(decoder, PREFIXES, TEXTS, is_normalized=True, tolerance=TOLERANCE)
        laws.check(decoder, PREFIXES, [[6, 7, 6], [41, 41, 6]], is_normalized=True, tolerance=TOLERANCE)


def test_a_bias_pushes_up_what_was_said_no_more(tiny_lm: CausalLM) -> None:
    """By hand: the logit of a token that was said is that of the model alone, or less where the bias pushes down."""
    bias_BE = plans(tiny_lm)[:, 0]
    decoder = BiasDecoder(tiny_lm, bias_BE)
    prefix_BT, text_BT = torch.tensor([[-1, -1, 0, 7], [0, 9, 12, 30]]), torch.tensor([[6, 7, 6, 8], [41, 9, 9, 41]])
    hidden_BTE = tiny_lm.hidden_before(prefix_BT, text_BT)
    push_BV = bias_BE @ tiny_lm.unembedding_VD.T
    assert bool((push_BV.gather(1, text_BT) > 0).any())
    assert bool((push_BV.gather(1, text_BT) < 0).any())
    for t, found_BV in enumerate(decoder.steps(prefix_BT, text_BT)):
        logit_BV = hidden_BTE[:, t] @ tiny_lm.unembedding_VD.T
        pushed_BV = logit_BV + push_BV
        for b in range(2):
            for token in text_BT[b, :t].tolist():
                pushed_BV[b, token] = min(pushed_BV[b, token], logit_BV[b, token])
        torch.testing.assert_close(found_BV, pushed_BV.log_softmax(-1), atol=TOLERANCE, rtol=1e-4)


@pytest.mark.parametrize("kind", ["soft", "bias"])
def test_rows_with_plans_of_their_own_are_as_alone(tiny_lm: CausalLM, kind: str) -> None:
    """In a batch, reordered, and chosen by `for_rows`: each row keeps its plan."""
    plan_BME = plans(tiny_lm)
    made = SoftDecoder(tiny_lm, plan_BME) if kind == "soft" else BiasDecoder(tiny_lm, plan_BME[:, 0])
    prefix_BT, text_BT = torch.tensor([[-1, -1, 0, 7], [0, 9, 12, 30]]), torch.tensor(TEXTS)
    together_BT = made.score(prefix_BT, text_BT)
    for b in range(2):
        alone = made.for_rows([b]).score(torch.tensor([PREFIXES[b]]), text_BT[b : b + 1])
        torch.testing.assert_close(together_BT[b : b + 1], alone, atol=TOLERANCE, rtol=0)
    assert not torch.allclose(together_BT, made.for_rows([1, 0]).score(prefix_BT, text_BT), atol=1e-2)
    swapped = made.reorder(made.start(prefix_BT), torch.tensor([1, 0]))
    want = made.extend(made.start(prefix_BT), text_BT[:, 0]).log_weight_BV[[1, 0]]
    torch.testing.assert_close(made.extend(swapped, text_BT[[1, 0], 0]).log_weight_BV, want, atol=TOLERANCE, rtol=0)


def test_a_plan_of_embedded_tokens_is_reading_these_tokens(tiny_lm: CausalLM) -> None:
    tokens = torch.tensor([[11, 12, 13]])
    made = SoftDecoder(tiny_lm, tiny_lm.embed(tokens))
    text_BT = torch.tensor([[6, 7, 8]])
    want = tiny_lm.score(torch.tensor([[0, 7, 11, 12, 13]]), text_BT)
    torch.testing.assert_close(made.score(torch.tensor([[0, 7]]), text_BT), want, atol=TOLERANCE, rtol=0)
    none = BiasDecoder(tiny_lm, torch.zeros(1, tiny_lm.width))
    torch.testing.assert_close(
        none.score(torch.tensor([[0, 7]]), text_BT), tiny_lm.score(torch.tensor([[0, 7]]), text_BT)
    )


def test_training_reads_as_the_decoder_does(tiny_lm: CausalLM) -> None:
    """Log probabilities of ragged continuations, and a gradient that reaches the plan of each row."""
    plan_BME = plans(tiny_lm).requires_grad_(True)
    continuations = [[6, 7, 8], [41]]
    with torch.enable_grad():
        read_BTE, row_N, place_N = embedded(tiny_lm, plan_BME, PREFIXES, continuations)
        hidden_BTE = tiny_lm.model.base_model(inputs_embeds=read_BTE, use_cache=False).last_hidden_state
        logit_NV = hidden_BTE[row_N, place_N] @ tiny_lm.unembedding_VD.T
        token_N = torch.tensor([token for row in continuations for token in row])
        log_prob_N = logit_NV.log_softmax(-1).gather(1, token_N[:, None])[:, 0]
        log_prob_N.sum().backward()
    made = SoftDecoder(tiny_lm, plan_BME.detach())
    want = made.score(torch.tensor([[-1, -1, 0, 7], [0, 9, 12, 30]]), torch.tensor([[6, 7, 8], [41, -1, -1]]))
    torch.testing.assert_close(log_prob_N.detach(), torch.cat([want[0], want[1, :1]]), atol=TOLERANCE, rtol=0)
    assert plan_BME.grad is not None
    assert bool((plan_BME.grad.abs().sum((1, 2)) > 0).all())


def test_vectors_have_the_size_of_embedded_tokens(tiny_lm: CausalLM) -> None:
    settings = PlanSettings(places=4, narrow=8, layers=1, heads=4)
    network = PlanNetwork(settings, 5, tiny_lm.width, 0.7)
    latent_BD = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    plan_BME = network(latent_BD, torch.full((3,), 3.0))
    assert plan_BME.shape == (3, 4, tiny_lm.width)
    assert plan_BME.square().mean(-1).sqrt().flatten().tolist() == pytest.approx([0.7] * 12, rel=1e-3)
    assert not torch.allclose(plan_BME, network(latent_BD, torch.full((3,), -3.0)), atol=1e-3)  # it is told the level
