"""Learned decoders: a latent that says what comes next makes it likely, and what is shuffled does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from factorlm.algebra import pad_left
from factorlm.diffusion.decoders import PlanSettings
from factorlm.diffusion.decoding import (
    BiasLearning,
    Examples,
    SoftLearning,
    bias_decoder,
    learn_bias,
    learn_soft,
    soft_decoder,
    soft_nats,
)
from factorlm.errors import InputError
from factorlm.models import CausalLM

SOFT = SoftLearning(
    plan=PlanSettings(places=2, narrow=8, layers=1, heads=4), steps=150, batch=32, rising=10, learning_rate=1e-2,
    kept=0.9,
)  # fmt: skip
BIAS = BiasLearning(steps=150, batch=128, rising=10, learning_rate=3e-2, kept=0.9)
CLEAN = 8.0  # nats of log-SNR


def examples(number: int = 96) -> Examples:
    """Continuations of one of two words, which the latent knows and the prefix does not."""
    generator = torch.Generator().manual_seed(0)
    kind_N = torch.randint(2, (number,), generator=generator)
    words = ([6, 7, 6], [8, 9, 8])
    latent_ND = torch.randn(number, 4, generator=generator)
    latent_ND[:, 0] = 2.0 * kind_N - 1
    prefixes = [[0, 10 + n % 5, 20] if n % 2 else [0, 10 + n % 5] for n in range(number)]
    return Examples(prefixes, [list(words[k]) for k in kind_N.tolist()], latent_ND)


def nats(lm: CausalLM, decoder: object, some: Examples) -> float:
    texts = torch.tensor(some.continuations)
    return -float(decoder.score(pad_left(list(some.prefixes)), texts).mean())  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["soft", "bias"])
def test_true_latents_make_continuations_likely_and_shuffled_ones_do_not(tiny_lm: CausalLM, kind: str) -> None:
    some = examples()
    shuffled_ND = some.latent_ND[torch.randperm(96, generator=torch.Generator().manual_seed(3))]
    if kind == "soft":
        network = learn_soft(tiny_lm, some, SOFT)
        made = [soft_decoder(tiny_lm, network, z, CLEAN) for z in (some.latent_ND, shuffled_ND)]
    else:
        layer = learn_bias(tiny_lm, some, BIAS)
        made = [bias_decoder(tiny_lm, layer, z) for z in (some.latent_ND, shuffled_ND)]
    true, shuffled = (nats(tiny_lm, decoder, some) for decoder in made)
    bare = -float(tiny_lm.score(pad_left(list(some.prefixes)), torch.tensor(some.continuations)).mean())
    assert true < bare - 1.0
    assert true < shuffled - 0.3


def test_training_and_decoding_agree_on_nats(tiny_lm: CausalLM) -> None:
    some = examples(8)
    network = learn_soft(tiny_lm, some, SOFT.model_copy(update={"steps": 3}))
    plan_BME = network(some.latent_ND, torch.full((8,), CLEAN))
    found_I = soft_nats(tiny_lm, plan_BME, some.prefixes, some.continuations)
    want = nats(tiny_lm, soft_decoder(tiny_lm, network, some.latent_ND, CLEAN), some)
    assert float(found_I.mean()) == pytest.approx(want, abs=1e-4)


def test_a_bias_that_was_not_trained_is_the_language_model(tiny_lm: CausalLM) -> None:
    some = examples(8)
    layer = learn_bias(tiny_lm, some, BIAS.model_copy(update={"steps": 1, "learning_rate": 1e-12}))
    bare = -float(tiny_lm.score(pad_left(list(some.prefixes)), torch.tensor(some.continuations)).mean())
    assert nats(tiny_lm, bias_decoder(tiny_lm, layer, some.latent_ND), some) == pytest.approx(bare, abs=1e-4)


def test_a_stopped_run_goes_on(tiny_lm: CausalLM, tmp_path: Path) -> None:
    some, settings = examples(16), SOFT.model_copy(update={"steps": 6, "checkpoint_every": 2})
    whole = learn_soft(tiny_lm, some, settings)

    def stop(stage: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_soft(tiny_lm, some, settings, checkpoint=tmp_path / "run", report=stop)
    again = learn_soft(tiny_lm, some, settings, checkpoint=tmp_path / "run")
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_examples_belong_together() -> None:
    with pytest.raises(InputError, match="got 1, 1 and 2"):
        Examples([[0]], [[1]], torch.zeros(2, 3))
    with pytest.raises(InputError, match="at least one token"):
        Examples([[0]], [[]], torch.zeros(1, 3))
