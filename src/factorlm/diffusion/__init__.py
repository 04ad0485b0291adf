"""Priors over latents by diffusion: drawn step by step, leant on by guides, corrected by particles."""

from factorlm.diffusion.denoiser import Denoiser
from factorlm.diffusion.gaussians import Gaussians
from factorlm.diffusion.guidance import Guidance, Guide, Guided
from factorlm.diffusion.guides import GuideLearning, LinearGuide, Standard, learn_guide
from factorlm.diffusion.learning import DenoiserLearning, learn_denoiser
from factorlm.diffusion.levels import Schedule
from factorlm.diffusion.noisy_guides import NoisyGuide, NoisyGuideLearning, learn_noisy_guide
from factorlm.diffusion.particles import LatentParticles, Weighted, sample_latents
from factorlm.diffusion.sampling import Denoising, draw, walk

__all__ = [
    "Denoiser",
    "DenoiserLearning",
    "Denoising",
    "Gaussians",
    "Guidance",
    "Guide",
    "GuideLearning",
    "Guided",
    "LatentParticles",
    "LinearGuide",
    "NoisyGuide",
    "NoisyGuideLearning",
    "Schedule",
    "Standard",
    "Weighted",
    "draw",
    "learn_denoiser",
    "learn_guide",
    "learn_noisy_guide",
    "sample_latents",
    "walk",
]
