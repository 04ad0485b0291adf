"""Learned twists: losses against enumeration, slopes against differences, and particles that they do lead."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from factorlm.algebra import Factor
from factorlm.errors import InputError
from factorlm.factors.sequence import FunctionFactor
from factorlm.factors.training import Description
from factorlm.inference.draw import Sampling, generator_of
from factorlm.inference.particles import Particles, sample_particles
from factorlm.inference.population import Population
from factorlm.inference.twists import LOSSES, Drawn, Loss, _read, ctl_loss, learn_twist
from factorlm.models import CausalLM

PROMPT = [0, 5, 6]
RUNS = 200


def judged(lm: CausalLM, nats: float = 1.5) -> Factor:
    """Texts that have many an "e" are preferred, which is only said at the end."""
    return lm * FunctionFactor("e", lm.vocabulary, lambda text: nats * text.count("e"))


def drawn(lm: CausalLM, number: int = 64) -> Drawn:
    [population] = sample_particles(
        judged(lm), [PROMPT], [generator_of(0, PROMPT, 0)], max_tokens=4, sampling=Sampling(),
        particles=Particles(method="importance", number=number, limit="cut"),
    )  # fmt: skip
    return _read(lm, lm, PROMPT, population)


def test_weights_of_beginnings_and_of_finished_texts_have_one_scale(tiny_lm: CausalLM) -> None:
    """The model alone gives every beginning weight one; a finished text weighs what its judge says."""
    batch = drawn(tiny_lm)
    going = batch.goes_on_BT
    torch.testing.assert_close(batch.log_partial_BT[going], torch.zeros(int(going.sum())).double(), atol=1e-5, rtol=0)
    nats_B = batch.log_weight_B / 1.5
    torch.testing.assert_close(nats_B, nats_B.round(), atol=1e-4, rtol=0)
    assert nats_B.min() >= -1e-4


@pytest.mark.parametrize("loss", LOSSES)
def test_slopes_are_those_of_the_losses(tiny_lm: CausalLM, loss: Loss) -> None:
    batch, generator = drawn(tiny_lm), torch.Generator().manual_seed(0)
    at_D = torch.randn(tiny_lm.width, generator=generator, dtype=torch.float64)
    _, slope_D = LOSSES[loss](at_D, batch)
    for _ in range(5):
        to_D = 1e-6 * torch.randn(tiny_lm.width, generator=generator, dtype=torch.float64)
        rise = float(LOSSES[loss](at_D + to_D, batch)[0] - LOSSES[loss](at_D - to_D, batch)[0])
        assert rise == pytest.approx(float(2 * slope_D @ to_D), rel=1e-5, abs=1e-14)


def test_the_contrastive_loss_is_the_divergence_that_it_says(tiny_lm: CausalLM) -> None:
    """On all texts of two tokens, each with its exact weight: the change of KL(sigma_1 || pi_1)."""
    size, ends = tiny_lm.vocabulary.size, tiny_lm.vocabulary.end_ids
    first_V = tiny_lm.start(torch.tensor([PROMPT])).log_weight_BV[0].double()
    texts = [(a, b) for a, b in itertools.product(range(size), repeat=2) if a not in ends]
    after_NV = tiny_lm.start(torch.tensor([[*PROMPT, a] for a in range(size)])).log_weight_BV.double()
    log_prob_N = torch.stack([first_V[a] + after_NV[a, b] for a, b in texts])
    nats_N = torch.tensor([2.0 * (b % 3 == 0) for _, b in texts], dtype=torch.float64)
    bias_D = torch.randn(tiny_lm.width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    embedding_VD = tiny_lm.unembedding_VD.double()
    sum_NTD = torch.stack([embedding_VD[torch.tensor(text)].cumsum(0) for text in texts])
    log_weight_N = log_prob_N + nats_N  # against one draw of each text
    goes_on = torch.tensor([[True, False]]).expand(len(texts), 2)
    batch = Drawn(sum_NTD, goes_on, torch.stack([log_prob_N, log_weight_N], 1), log_weight_N)
    value = ctl_loss(bias_D, batch)[0] - ctl_loss(torch.zeros_like(bias_D), batch)[0]

    def divergence(psi_V: Tensor) -> float:
        target_V = torch.zeros(size, dtype=torch.float64)
        drawn_V = torch.zeros(size, dtype=torch.float64)
        for (a, _), log_prob, log_weight in zip(texts, log_prob_N, log_weight_N, strict=True):
            target_V[a] += log_weight.exp()
            drawn_V[a] += (log_prob + psi_V[a]).exp()
        target_V, drawn_V = target_V / target_V.sum(), drawn_V / drawn_V.sum()
        return float(torch.special.xlogy(target_V, target_V / drawn_V).nan_to_num().sum())

    want = divergence(embedding_VD @ bias_D) - divergence(torch.zeros(size, dtype=torch.float64))
    assert float(value) == pytest.approx(want, abs=1e-9)


def run(factor: Factor, twist: Factor | None, seed: int) -> list[Population]:
    return sample_particles(
        factor, [PROMPT] * RUNS, [generator_of(seed, PROMPT, n) for n in range(RUNS)], max_tokens=4, twist=twist,
        particles=Particles(number=8, limit="cut"), sampling=Sampling(),
    )  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES)
def test_a_learned_twist_leads_particles_to_what_the_judge_likes(tiny_lm: CausalLM, loss: Loss) -> None:
    """log Z is unbiased either way, and the mean of its log, a lower bound, is nearer to it with the twist."""
    factor = judged(tiny_lm)
    twist = learn_twist(factor, [PROMPT], max_tokens=4, number=1024, loss=loss, limit="cut", seed=3)
    assert twist.gain > {"ctl": 0.1, "fudge": 0.005, "mean": 0.02}[loss]
    assert twist.ridge < math.inf
    assert 4 < twist.effective_size < 1024
    plain, led = run(factor, None, 1), run(factor, twist.head, 1)
    bound, better = (sum(p.log_z for p in found) / len(found) for found in (plain, led))
    assert better > bound
    mean, led_mean = (
        math.log(sum(math.exp(p.log_z) for p in found) / len(found)) for found in (plain, led)
    )  # fmt: skip
    errors = [(sum((math.exp(p.log_z) - math.exp(m)) ** 2 for p in found) / RUNS / (RUNS - 1)) ** 0.5 / math.exp(m)
              for found, m in ((plain, mean), (led, led_mean))]  # fmt: skip
    assert abs(mean - led_mean) < 5 * math.hypot(*errors)


def test_what_cannot_be_learned_is_not(tiny_lm: CausalLM) -> None:
    """A judge of what no token foretells: the twist must not make it up."""
    heads = iter(torch.rand(10_000, generator=torch.Generator().manual_seed(0)).tolist())
    chance = FunctionFactor("chance", tiny_lm.vocabulary, lambda text: 4.0 * next(heads))
    twist = learn_twist(tiny_lm * chance, [PROMPT], max_tokens=3, number=256, limit="cut")
    assert twist.gain < 0.02


def test_bad_input_is_refused(tiny_lm: CausalLM) -> None:
    with pytest.raises(InputError, match="without one"):
        learn_twist(FunctionFactor("f", tiny_lm.vocabulary, lambda text: 0.0), [PROMPT], max_tokens=4)
    with pytest.raises(InputError, match="at least 2 tokens"):
        learn_twist(judged(tiny_lm), [PROMPT], max_tokens=1)
    never = tiny_lm * FunctionFactor("never", tiny_lm.vocabulary, lambda text: text == "xyzzy")
    with pytest.raises(InputError, match="milder judges"):
        learn_twist(never, [PROMPT], max_tokens=3, number=16, limit="cut")


def test_a_twist_is_one_more_head_file(tiny_lm: CausalLM) -> None:
    twist = learn_twist(judged(tiny_lm), [PROMPT], max_tokens=3, number=128, limit="cut")
    trained = twist.trained(Description(name="ends-in-e"))
    assert trained.manifest.kind == "head"
    assert trained.manifest.encoder is not None
    assert trained.manifest.encoder.fingerprint == tiny_lm.fingerprint
    assert torch.equal(trained.tensors["bias"], twist.head.weights.bias_D)
