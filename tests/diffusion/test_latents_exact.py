"""Levels, samplers, guidance and particles against mixtures of Gaussians, whose truth is known."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from factorlm.diffusion.gaussians import Gaussians
from factorlm.diffusion.guidance import Guidance, Guided
from factorlm.diffusion.levels import (
    Schedule,
    clean_from_noise,
    clean_from_velocity,
    noise_from_clean,
    noise_from_velocity,
    noise_share,
    noised,
    signal,
    velocity_of,
)
from factorlm.diffusion.particles import LatentParticles, sample_latents
from factorlm.diffusion.sampling import Denoising, backward, draw, walk
from factorlm.errors import InputError

THREE = Gaussians(
    torch.tensor([0.5, 0.3, 0.2]).double().log(),
    torch.tensor([[-1.5, 0.0], [1.5, 1.0], [1.0, -1.5]]).double(),
    torch.tensor([0.3, 0.3, 0.4]).double(),
)
ONE = Gaussians(torch.zeros(1).double(), torch.tensor([[0.7]]).double(), torch.tensor([0.6]).double())
METHODS = ("ancestral", "ddim", "dpm")
Z = 5.0  # standard errors: a false alarm in less than one of 10^6 tests


@dataclass(frozen=True)
class Linear:
    """g(x) = exp(slope . x)."""

    slope_D: Tensor

    def log_prob(self, latent_BD: Tensor) -> Tensor:
        return latent_BD @ self.slope_D


@dataclass(frozen=True)
class HalfPlane:
    """g(x) = sigmoid(normal . x): a logistic classifier."""

    normal_D: Tensor

    def log_prob(self, latent_BD: Tensor) -> Tensor:
        return logsigmoid(latent_BD @ self.normal_D)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(number: int, width: int, seed: int = 1) -> Tensor:
    return torch.randn(number, width, generator=generator(seed), dtype=torch.float64)


def test_each_guess_gives_back_the_others() -> None:
    clean_BD, noise_BD = noise(6, 4, seed=2), noise(6, 4, seed=3)
    log_snr_B = torch.tensor([-15.0, -6.0, 0.0, 2.0, 7.0, 15.0]).double()
    noisy_BD = noised(clean_BD, noise_BD, log_snr_B)
    velocity_BD = velocity_of(clean_BD, noise_BD, log_snr_B)
    for found_BD, want_BD in (
        (clean_from_velocity(noisy_BD, velocity_BD, log_snr_B), clean_BD),
        (noise_from_velocity(noisy_BD, velocity_BD, log_snr_B), noise_BD),
        (noise_from_clean(noisy_BD, clean_BD, log_snr_B), noise_BD),
        (clean_from_noise(noisy_BD, noise_BD, log_snr_B), clean_BD),
    ):
        torch.testing.assert_close(found_BD, want_BD, atol=1e-6, rtol=0)  # of 1e-16 times exp(15), at the ends
    torch.testing.assert_close(signal(log_snr_B) ** 2 + noise_share(log_snr_B) ** 2, torch.ones(6).double())
    torch.testing.assert_close(2 * (signal(log_snr_B) / noise_share(log_snr_B)).log(), log_snr_B)


def test_the_schedule_is_the_cosine_shifted() -> None:
    time = torch.tensor([0.1, 0.5, 0.9]).double()
    alpha2 = torch.cos(time * math.pi / 2) ** 2
    torch.testing.assert_close(Schedule().log_snr(time), (alpha2 / (1 - alpha2)).log())
    shift = Schedule(scale=3.0).log_snr(time) - Schedule().log_snr(time)
    assert shift.tolist() == pytest.approx([2.1972246] * 3)
    levels = Schedule().levels(8, torch.float64)
    assert levels[0] == -15
    assert levels[-1] == 15
    assert bool((levels.diff() > 0).all())


def test_an_ancestral_step_in_the_form_of_the_guessed_noise() -> None:
    """Mean (z - (1 - a'^2) / s e) / a', a' = a_now / a_next, and log variances between both extremes."""
    noisy_BD, clean_BD = noise(5, 3, seed=4), noise(5, 3, seed=5)
    now_B, next_B = torch.full((5,), -1.2).double(), torch.full((5,), 0.4).double()
    step = (signal(now_B) / signal(next_B))[0]
    guessed_BD = noise_from_clean(noisy_BD, clean_BD, now_B)
    want_BD = (noisy_BD - (1 - step**2) / noise_share(now_B)[0] * guessed_BD) / step
    for share in (0.0, 0.2, 1.0):
        mean_BD, deviation_B1 = backward(noisy_BD, clean_BD, now_B, next_B, share)
        torch.testing.assert_close(mean_BD, want_BD)
        least = ((noise_share(next_B) / noise_share(now_B)) ** 2)[0] * (1 - step**2)
        want = share * math.log(1 - step**2) + (1 - share) * math.log(least)
        assert 2 * math.log(deviation_B1[0, 0]) == pytest.approx(want)


def test_the_exact_denoiser_is_the_mean_over_the_posterior() -> None:
    """By drawing latents, weighed by the likelihood of the noisy one."""
    drawn_SD = THREE.draw(200_000, generator(7))
    for level in (-2.0, 0.5):
        log_snr_B = torch.tensor([level]).double()
        noisy_BD = torch.tensor([[0.4, -0.3]]).double()
        distance_S = (noisy_BD - signal(log_snr_B) * drawn_SD).square().sum(1) / noise_share(log_snr_B) ** 2
        want_D = (-0.5 * distance_S).softmax(0) @ drawn_SD
        torch.testing.assert_close(THREE.denoise(noisy_BD, log_snr_B)[0], want_D, atol=0.03, rtol=0)  # 5 errors


@pytest.mark.parametrize("method", METHODS)
def test_samplers_draw_clusters_by_their_weights(method: str) -> None:
    """Chi-square with two degrees of freedom; 30 is passed by chance in 3 of 10^7 runs."""
    number = 3000
    settings = Denoising(method=method, steps=100, variance=1.0 if method == "ancestral" else 0.2)
    latent_BD = draw(THREE.denoise, noise(number, 2), settings, generator())
    count_K = torch.bincount(THREE.nearest(latent_BD), minlength=3).double()
    expected_K = number * THREE.log_prob_K.exp()
    assert float(((count_K - expected_K) ** 2 / expected_K).sum()) < 30
    for k in range(3):
        own_BD = latent_BD[THREE.nearest(latent_BD) == k]
        spread = float((own_BD - THREE.mean_KD[k]).square().mean().sqrt())
        assert spread == pytest.approx(float(THREE.deviation_K[k]), rel=0.15)  # of 100 steps, not of the limit


def test_dpm_needs_fewer_steps_than_ddim() -> None:
    """Both follow the same path in the limit; the end of it is known from very many steps."""
    want_BD = draw(THREE.denoise, noise(64, 2), Denoising(method="ddim", steps=1500), generator())
    errors = {}
    for method in ("ddim", "dpm"):
        found_BD = draw(THREE.denoise, noise(64, 2), Denoising(method=method, steps=20), generator())
        errors[method] = float((found_BD - want_BD).abs().mean())
    assert errors["dpm"] < 0.6 * errors["ddim"]


@pytest.mark.parametrize("method", METHODS)
def test_no_guidance_is_the_unguided_draw(method: str) -> None:
    settings = Denoising(method=method, steps=10)
    plain_BD = draw(THREE.denoise, noise(8, 2), settings, generator())
    for strength in (0.0, 1e-300):
        guided = Guided.of(THREE.denoise, [HalfPlane(torch.ones(2).double())], [strength], Guidance(), 2)
        assert torch.equal(draw(guided, noise(8, 2), settings, generator()), plain_BD)


def test_guidance_by_a_linear_guide_is_the_tilted_gaussian() -> None:
    """For one Gaussian the law of x given z has the spread r s^2 that the draws only need in the mean."""
    slope_D = torch.tensor([1.5]).double()
    guided = Guided.of(ONE.denoise, [Linear(slope_D)], [1.0], Guidance(), 1)
    tilted, _ = ONE.tilted(slope_D)
    log_snr_B = torch.tensor([-3.0, 0.0, 4.0]).double()
    noisy_BD = torch.tensor([[0.3], [-0.8], [1.1]]).double()
    torch.testing.assert_close(guided(noisy_BD, log_snr_B), tilted.denoise(noisy_BD, log_snr_B), atol=1e-6, rtol=1e-6)


def test_guidance_raises_what_is_wanted_with_every_strength() -> None:
    guide = HalfPlane(torch.tensor([0.0, 2.0]).double())
    for form in ("tilt", "scaled", "released"):
        shares = []
        for strength in (0.0, 1.0, 4.0, 16.0):
            guided = Guided.of(THREE.denoise, [guide], [strength], Guidance(form=form), 2)
            latent_BD = draw(guided, noise(600, 2), Denoising(steps=40, most=4.0), generator())
            shares.append(float((latent_BD[:, 1] > 0).double().mean()))
        assert shares == sorted(shares), form
        assert shares[-1] > shares[0] + 0.2, form


def test_forms_differ_as_they_say() -> None:
    """At strength one, tilt and scaled are the same; two guides lean together as their product, for tilt."""
    one, other = HalfPlane(torch.tensor([0.0, 2.0]).double()), HalfPlane(torch.tensor([1.0, 0.0]).double())

    @dataclass(frozen=True)
    class Both:
        def log_prob(self, latent_BD: Tensor) -> Tensor:
            return 0.5 * one.log_prob(latent_BD) + 3.0 * other.log_prob(latent_BD)

    def leant(guides: list, strengths: list, form: str) -> Tensor:
        guided = Guided.of(THREE.denoise, guides, strengths, Guidance(form=form), 2)
        return guided(noise(5, 2), torch.zeros(5).double())

    assert torch.equal(leant([one], [1.0], "tilt"), leant([one], [1.0], "scaled"))
    assert not torch.allclose(leant([one], [3.0], "tilt"), leant([one], [3.0], "scaled"))
    assert not torch.allclose(leant([one], [1.0], "released"), leant([one], [1.0], "scaled"))
    torch.testing.assert_close(leant([one, other], [0.5, 3.0], "tilt"), leant([Both()], [1.0], "tilt"))


def law_of_steps(settings: Denoising) -> tuple[float, float]:
    """Mean and variance of ancestral draws from one Gaussian: every step is linear, so its law is Gaussian, too."""
    levels = settings.schedule.levels(settings.steps, torch.float64)
    mean, variance = 0.0, 1.0
    for now, following in itertools.pairwise(levels):
        zero, unit = torch.zeros(1, 1).double(), torch.ones(1, 1).double()
        line = [float(ONE.denoise(z, now[None])) for z in (zero, unit)]
        if following == levels[-1]:
            mean, variance = line[0] + (line[1] - line[0]) * mean, (line[1] - line[0]) ** 2 * variance
            continue
        ends, deviation = [], 0.0
        for z, clean in zip((zero, unit), line, strict=True):
            step, size = backward(z, torch.full((1, 1), clean).double(), now[None], following[None], settings.variance)
            ends.append(float(step))
            deviation = float(size)
        mean, variance = ends[0] + (ends[1] - ends[0]) * mean, (ends[1] - ends[0]) ** 2 * variance + deviation**2
    return mean, variance


@pytest.mark.parametrize("method", ["resample", "twisted"])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_weights_of_particles_are_unbiased(method: str, threshold: float) -> None:
    """E[Z] over many groups of few particles is the total that the law of the steps gives."""
    settings, slope = Denoising(steps=8, variance=0.4), 1.5
    mean, variance = law_of_steps(settings)
    want = math.exp(slope * mean + 0.5 * slope**2 * variance)
    guided = Guided.of(ONE.denoise, [Linear(torch.tensor([slope]).double())], [1.0], Guidance(draws=4), 1)
    particles = LatentParticles(method=method, number=4, threshold=threshold)
    found = sample_latents(guided, noise(4 * 1500, 1), settings, particles, generator())
    z_G = found.log_z_G.exp()
    assert abs(float(z_G.mean()) - want) < Z * float(z_G.std()) / math.sqrt(len(z_G))
    x_G = (found.log_prob_GN.exp() * found.latent_GND[:, :, 0]).sum(1)
    # E[Z mean(x)] = E[g(x) x] = want * (mean of the tilted law)
    got_G = z_G * x_G - want * (mean + slope * variance)
    assert abs(float(got_G.mean())) < Z * float(got_G.std()) / math.sqrt(len(got_G))


def test_particles_reach_the_tilted_mixture_where_guidance_only_comes_near() -> None:
    """Weights of clusters under mu * g^3, by drawing from mu; twisted particles agree, and keep more of themselves."""
    guide = HalfPlane(torch.tensor([2.0, 2.0]).double())
    settings = Denoising(steps=30, variance=1.0)
    plain_BD = draw(THREE.denoise, noise(12_000, 2, seed=11), settings, generator(12))
    weight_B = (3 * guide.log_prob(plain_BD)).softmax(0)
    want_K = torch.zeros(3).double().index_add_(0, THREE.nearest(plain_BD), weight_B)
    guided = Guided.of(THREE.denoise, [guide], [3.0], Guidance(), 2)
    found_K, effective = {}, {}
    for method in ("resample", "twisted"):
        particles = LatentParticles(method=method, number=2000)
        found = sample_latents(guided, noise(2000, 2), settings, particles, generator())
        found_K[method] = (
            torch.zeros(3).double().index_add_(0, THREE.nearest(found.latent_GND[0]), found.log_prob_GN[0].exp())
        )
        effective[method] = float(found.effective_G)
        torch.testing.assert_close(found_K[method], want_K, atol=0.06, rtol=0)  # about 5 errors of 2000 particles
    assert effective["twisted"] > 1.5 * effective["resample"]
    assert found.draw(generator()).shape == (1, 2)


def test_particles_need_densities_and_whole_groups() -> None:
    guided = Guided.of(ONE.denoise, [], [], Guidance(), 1)
    with pytest.raises(InputError, match="ancestral"):
        sample_latents(guided, noise(4, 1), Denoising(method="ddim"), LatentParticles(number=2), generator())
    with pytest.raises(InputError, match="3 rows"):
        sample_latents(guided, noise(4, 1), Denoising(), LatentParticles(number=3), generator())


def test_walking_shows_every_step() -> None:
    steps = list(walk(THREE.denoise, noise(3, 2), Denoising(steps=5), generator()))
    assert [step.index for step in steps] == list(range(5))
    assert torch.equal(steps[-1].clean_BD, draw(THREE.denoise, noise(3, 2), Denoising(steps=5), generator()))
    assert steps[0].log_snr == -15
