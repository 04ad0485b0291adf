"""Priors over latents by diffusion: drawn step by step, leant on by guides, corrected by particles."""

from factorlm.diffusion.gaussians import Gaussians
from factorlm.diffusion.guidance import Guidance, Guide, Guided
from factorlm.diffusion.levels import Schedule
from factorlm.diffusion.particles import LatentParticles, Weighted, sample_latents
from factorlm.diffusion.sampling import Denoising, draw, walk

__all__ = [
    "Denoising",
    "Gaussians",
    "Guidance",
    "Guide",
    "Guided",
    "LatentParticles",
    "Schedule",
    "Weighted",
    "draw",
    "sample_latents",
    "walk",
]
