"""Learned denoisers against exact ones, and what learning must obey."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from factorlm.diffusion.denoiser import Denoiser, DenoiserSettings
from factorlm.diffusion.gaussians import Gaussians
from factorlm.diffusion.learning import DenoiserLearning, Levels, learn_denoiser, level_weight
from factorlm.diffusion.levels import noised
from factorlm.diffusion.sampling import Denoising, draw
from factorlm.diffusion.training import Run
from factorlm.errors import InputError

SMALL = DenoiserLearning(
    network=DenoiserSettings(width=64, blocks=2, waves=8), steps=900, batch=256, learning_rate=3e-3, rising=50,
    kept=0.99, absent=0.3,
)  # fmt: skip
TWO = Gaussians(torch.tensor([0.6, 0.4]).log(), torch.tensor([[-1.0, 0.5], [1.2, -0.4]]), torch.tensor([0.3, 0.3]))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def learned() -> Denoiser:
    """Of latents of two clusters, conditioned on the cluster for what is not left out."""
    latent_ND = TWO.draw(4000, generator())
    condition_NC = torch.nn.functional.one_hot(TWO.nearest(latent_ND), 2).float()
    return learn_denoiser(latent_ND, condition_NC, SMALL)


def test_a_learned_denoiser_is_near_the_exact_one(learned: Denoiser) -> None:
    clean_BD = TWO.draw(500, generator(5))
    alone = Gaussians(torch.zeros(1), TWO.mean_KD[:1], TWO.deviation_K[:1])
    for level in (-2.0, 0.0, 2.0):
        log_snr_B = torch.full((500,), level)
        noisy_BD = noised(clean_BD, torch.randn(500, 2, generator=generator(6)), log_snr_B)
        for condition, scale, truth in (([1.0, 0.0], 0.0, TWO), ([1.0, 0.0], 1.0, alone)):
            found_BD = learned.given(torch.tensor([condition]), scale)(noisy_BD, log_snr_B)
            want_BD = truth.denoise(noisy_BD, log_snr_B)
            rms = float((found_BD - want_BD).square().mean().sqrt())
            # Rows of the other cluster are unlike anything that was seen with this condition.
            assert rms < (0.12 if scale == 0 else 0.35), (level, scale)


def test_latents_are_drawn_by_condition_and_without(learned: Denoiser) -> None:
    noise_BD = torch.randn(800, 2, generator=generator(1))
    settings = Denoising(method="dpm", steps=25)
    share = {}
    for name, condition, scale in (("first", [1.0, 0.0], 1.0), ("second", [0.0, 1.0], 1.0), ("none", [0.0, 1.0], 0.0)):
        latent_BD = draw(learned.given(torch.tensor([condition]), scale), noise_BD, settings, generator())
        share[name] = float((TWO.nearest(latent_BD) == 0).float().mean())
    assert share["first"] > 0.97
    assert share["second"] < 0.03
    assert share["none"] == pytest.approx(0.6, abs=0.1)  # 5 standard errors of 800 draws, and what learning lacks


def test_a_scale_of_two_leans_away_from_what_is_known_without_the_condition() -> None:
    network = Denoiser(SMALL.network, 2, 2)
    torch.nn.init.normal_(network.leave.weight, generator=generator(2))
    noisy_BD, log_snr_B = torch.randn(4, 2, generator=generator(3)), torch.zeros(4)
    with_it, without, double = (network.given(torch.eye(2)[:1], s)(noisy_BD, log_snr_B) for s in (1.0, 0.0, 2.0))
    torch.testing.assert_close(double, 2 * with_it - without)
    several = network.given(torch.eye(2), 1.0)(noisy_BD[:2], log_snr_B[:2])
    torch.testing.assert_close(several[:1], with_it[:1])


def test_levels_are_drawn_where_the_loss_is_and_counted_for_less() -> None:
    levels = Levels(SMALL)
    everywhere_B = torch.linspace(-9.99, 9.99, 5000)
    for _ in range(50):
        levels.see(everywhere_B, level_weight(everywhere_B, 2.4))
    log_snr_B, weight_B = levels.draw(200_000, generator())
    assert float((log_snr_B.abs() < 2.4).float().mean()) > 0.4  # of evenly drawn ones it would be 0.24
    grid = torch.linspace(-10, 10, 20_001)
    for f in (torch.ones_like, torch.square, lambda x: level_weight(x, 1.0)):
        value_B = weight_B * f(log_snr_B)
        assert abs(float(value_B.mean() - f(grid).mean())) < 5 * float(value_B.std()) / 200_000**0.5


def test_weights_of_levels_by_hand() -> None:
    found = level_weight(torch.tensor([-2.4, 0.0, 2.4]), 2.4)
    assert found.tolist() == pytest.approx([0.5, 1.0, 0.60653], abs=1e-5)


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latent_ND, condition_NC = torch.randn(50, 3, generator=generator()), torch.randn(50, 2, generator=generator(1))
    settings = SMALL.model_copy(update={"steps": 9, "batch": 16, "checkpoint_every": 4})
    whole = learn_denoiser(latent_ND, condition_NC, settings)
    path, steps = tmp_path / "run", Run.step

    def stops(run: Any, loss: Any) -> None:
        if run.done == 6:
            raise KeyboardInterrupt
        steps(run, loss)

    monkeypatch.setattr(Run, "step", stops)
    with pytest.raises(KeyboardInterrupt):
        learn_denoiser(latent_ND, condition_NC, settings, checkpoint=path)
    monkeypatch.setattr(Run, "step", steps)
    seen: list[int] = []
    again = learn_denoiser(
        latent_ND, condition_NC, settings, checkpoint=path, report=lambda _, done, __: seen.append(done)
    )
    assert seen == [5, 6, 7, 8, 9]
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    seen.clear()  # a finished run is not repeated
    once_more = learn_denoiser(
        latent_ND, condition_NC, settings, checkpoint=path, report=lambda _, done, __: seen.append(done)
    )
    assert not seen
    assert torch.equal(once_more.leave.weight, whole.leave.weight)
    learn_denoiser(latent_ND, condition_NC, settings.model_copy(update={"steps": 4}), checkpoint=path)
    other = learn_denoiser(latent_ND + 1, condition_NC, settings, checkpoint=path)  # of other data: from the start
    assert not torch.equal(other.leave.weight, whole.leave.weight)


def test_examples_are_needed() -> None:
    with pytest.raises(InputError, match="as many conditions"):
        learn_denoiser(torch.zeros(3, 2), torch.zeros(2, 2), SMALL)
    with pytest.raises(InputError, match="are needed, got 0"):
        learn_denoiser(torch.zeros(0, 2), torch.zeros(0, 2), SMALL)
