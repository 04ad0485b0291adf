"""Guides: the map between latents and vectors, learned classifiers, and that guidance through both works."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from factorlm.diffusion.gaussians import Gaussians
from factorlm.diffusion.guidance import Guidance, Guided
from factorlm.diffusion.guides import GuideLearning, LinearGuide, Standard, learn_guide
from factorlm.diffusion.levels import noise_share, noised, signal
from factorlm.diffusion.noisy_guides import NoisyGuide, NoisyGuideLearning, learn_noisy_guide
from factorlm.diffusion.particles import LatentParticles, sample_latents
from factorlm.diffusion.sampling import Denoising, draw
from factorlm.errors import InputError

WIDTH = 6


def vectors(number: int, shift: float, seed: int) -> Tensor:
    """Of length one, moved along the first number."""
    noise_ND = torch.randn(number, WIDTH, generator=torch.Generator().manual_seed(seed))
    noise_ND[:, 0] += shift
    return torch.nn.functional.normalize(noise_ND + 1.0, dim=1)


def test_latents_are_standard_and_come_back() -> None:
    vector_ND = vectors(500, 0.0, 0)
    standard = Standard.of(vector_ND)
    latent_ND = standard.latent(vector_ND)
    assert latent_ND.mean(0).abs().max() < 1e-5
    assert latent_ND.std(0).tolist() == pytest.approx([1.0] * WIDTH, abs=1e-5)
    torch.testing.assert_close(standard.vector(latent_ND), vector_ND)
    assert standard.vector(5 * latent_ND).norm(dim=1).tolist() == pytest.approx([1.0] * 500, abs=1e-5)
    with pytest.raises(InputError, match="at least two"):
        Standard.of(vector_ND[:1])


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_guide_is_a_calibrated_classifier(kind: Literal["linear", "mlp"]) -> None:
    """Of 3,000 fresh texts, those that it gives a probability near p have the label in a share near p."""
    found = learn_guide(vectors(400, 0.8, 1), vectors(1200, -0.8, 2), GuideLearning(kind=kind))
    quality = found.quality
    assert quality.num_texts == 320
    fresh_ND = torch.cat([vectors(1500, 0.8, 3), vectors(1500, -0.8, 4)])
    label_N = torch.tensor([1.0] * 1500 + [0.0] * 1500)
    unchanged = Standard(torch.zeros(WIDTH), torch.ones(WIDTH))
    prob_N = LinearGuide(found.weight_D, found.bias, unchanged, found.hidden).log_prob(fresh_ND).exp()
    accuracy = float(((prob_N > 0.5) == (label_N == 1)).float().mean())
    assert accuracy == pytest.approx(quality.accuracy, abs=0.08)  # of 80 and 240 texts: 3 standard errors
    assert accuracy > 0.75
    assert 0.7 < quality.auc <= 1
    assert quality.log_loss < math.log(2)
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        inside_N = (prob_N >= low) & (prob_N < low + 0.2)
        # Balanced, though there were three times as many texts without the label; 0.1 is 3 errors of 200 texts.
        assert abs(float((label_N - prob_N)[inside_N].mean())) < 0.1, low


def test_a_hidden_layer_learns_what_a_plane_cannot() -> None:
    """Texts with the label lie at both ends of a line, the others in its middle."""
    one_ND, other_ND, middle_ND = vectors(300, 2.5, 1), vectors(300, -2.5, 2), vectors(600, 0.0, 3)
    ends_ND = torch.cat([one_ND, other_ND])
    linear, mlp = (
        learn_guide(ends_ND, middle_ND, GuideLearning(kind=kind, weight_decays=(0.01,))) for kind in ("linear", "mlp")
    )
    assert linear.quality.auc < 0.65
    assert mlp.quality.auc > 0.75


def test_opposites_and_log_probabilities_by_hand() -> None:
    standard = Standard(torch.zeros(2), torch.tensor([2.0, 1.0]))
    guide = LinearGuide(torch.tensor([1.0, -1.0]), 0.5, standard)
    latent_BD = torch.tensor([[1.5, 4.0]])  # the vector (3, 4) / 5
    want = 1 / (1 + math.exp(-(0.6 - 0.8 + 0.5)))
    assert guide.log_prob(latent_BD).exp().item() == pytest.approx(want)
    assert guide.opposite.log_prob(latent_BD).exp().item() == pytest.approx(1 - want)


def test_guidance_through_the_map_moves_vectors_to_the_label() -> None:
    both_ND = torch.cat([vectors(400, 0.8, 1), vectors(400, -0.8, 2)])
    found = learn_guide(both_ND[:400], both_ND[400:])
    standard = Standard.of(both_ND)
    guide = LinearGuide(found.weight_D, found.bias, standard)
    # A Gaussian around each of some latents is a prior over all of them.
    latent_ND = standard.latent(both_ND[::8])
    prior = Gaussians(torch.full((100,), -math.log(100)), latent_ND, torch.full((100,), 0.3))
    noise_BD = torch.randn(300, WIDTH, generator=torch.Generator().manual_seed(5))
    share = {}
    for name, chosen, strength in (("none", guide, 0.0), ("label", guide, 4.0), ("opposite", guide.opposite, 4.0)):
        guided = Guided.of(prior.denoise, [chosen], [strength], Guidance(), WIDTH)
        latent_BD = draw(guided, noise_BD, Denoising(steps=30, most=4.0), torch.Generator().manual_seed(7))
        share[name] = float((guide.log_prob(latent_BD) > math.log(0.5)).float().mean())
    assert share["opposite"] < share["none"] - 0.2 < share["none"] + 0.2 < share["label"]


def test_too_few_texts() -> None:
    with pytest.raises(InputError, match="at least 8 texts with the label"):
        learn_guide(vectors(5, 1.0, 0), vectors(50, 0.0, 1), GuideLearning())


TWO = Gaussians(torch.tensor([0.5, 0.5]).log(), torch.tensor([[-1.0, 0.4], [1.0, -0.4]]), torch.tensor([0.4, 0.4]))


@pytest.fixture(scope="module")
def noisy_guide() -> NoisyGuide:
    """Of the second of two Gaussians."""
    first_ND, second_ND = (
        Gaussians(torch.zeros(1), TWO.mean_KD[k : k + 1], TWO.deviation_K[:1]).draw(
            2000, torch.Generator().manual_seed(k)
        )
        for k in range(2)
    )
    settings = NoisyGuideLearning(width=32, steps=600, learning_rate=5e-3)
    return learn_noisy_guide(second_ND, first_ND[:500], settings)


def test_a_noisy_guide_knows_the_posterior_at_every_level(noisy_guide: NoisyGuide) -> None:
    """Against Bayes' rule for the noisy Gaussians, on their own draws."""
    clean_BD = TWO.draw(800, torch.Generator().manual_seed(3))
    for level in (-4.0, -1.0, 0.0, 2.0, 8.0):
        log_snr_B = torch.full((800,), level)
        noisy_BD = noised(clean_BD, torch.randn(800, 2, generator=torch.Generator().manual_seed(4)), log_snr_B)
        total = signal(log_snr_B)[0] ** 2 * 0.16 + noise_share(log_snr_B)[0] ** 2
        middle_KD = signal(log_snr_B)[0] * TWO.mean_KD
        want_B = (-0.5 * (noisy_BD[:, None] - middle_KD).square().sum(2) / total).softmax(1)[:, 1]
        found_B = noisy_guide.log_prob_at(noisy_BD, log_snr_B).exp()
        assert float((found_B - want_B).abs().mean()) < 0.04, level
        torch.testing.assert_close(noisy_guide.opposite.log_prob_at(noisy_BD, log_snr_B).exp(), 1 - found_B)


def test_leaning_on_noisy_latents_and_weighing_reach_the_label(noisy_guide: NoisyGuide) -> None:
    """At strength one the tilted prior is the second Gaussian nearly alone; particles weigh the end."""
    generator = torch.Generator().manual_seed(5)
    guided = Guided.of(TWO.denoise, [noisy_guide], [1.0], Guidance(form="noisy"), 2)
    noise_BD = torch.randn(400, 2, generator=generator)
    latent_BD = draw(guided, noise_BD, Denoising(steps=40), generator)
    assert float((TWO.nearest(latent_BD) == 1).float().mean()) > 0.93
    found = sample_latents(guided, noise_BD, Denoising(steps=40), LatentParticles(number=400), generator)
    plain_BD = draw(TWO.denoise, torch.randn(4000, 2, generator=generator), Denoising(steps=40), generator)
    want = float(noisy_guide.log_prob(plain_BD).exp().mean())
    assert float(found.log_z_G.exp()) == pytest.approx(want, rel=0.15)  # 5 errors of 400 particles
    assert float(found.effective_G) > 200


def test_noisy_latents_are_read_by_guides_that_can(noisy_guide: NoisyGuide) -> None:
    linear = LinearGuide(torch.ones(2), 0.0, Standard(torch.zeros(2), torch.ones(2)))
    generator = torch.Generator()
    with pytest.raises(InputError, match="read noisy latents"):
        Guided.of(TWO.denoise, [noisy_guide, linear], [1.0, 1.0], Guidance(form="noisy"), 2)
    with pytest.raises(InputError, match="got 3 and 0"):
        learn_noisy_guide(torch.zeros(3, 2), torch.zeros(0, 2), NoisyGuideLearning())
    guided = Guided.of(TWO.denoise, [noisy_guide], [2.0], Guidance(form="noisy"), 2)
    noisy_BD, log_snr_B = torch.randn(5, 2, generator=generator), torch.zeros(5)
    leaf_BD = noisy_BD.clone().requires_grad_(True)
    [slope_BD] = torch.autograd.grad(2 * noisy_guide.log_prob_at(leaf_BD, log_snr_B).sum(), leaf_BD)
    want_BD = TWO.denoise(noisy_BD, log_snr_B) + (0.5 / math.sqrt(0.5)) * slope_BD  # s^2 / a at log-SNR 0
    torch.testing.assert_close(guided(noisy_BD, log_snr_B), want_BD)
