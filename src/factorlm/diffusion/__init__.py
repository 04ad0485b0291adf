"""Priors over latents by diffusion: drawn step by step, leant on by guides, corrected by particles."""

from factorlm.diffusion.collection import Collection
from factorlm.diffusion.decoders import BiasDecoder, SoftDecoder
from factorlm.diffusion.decoding import BiasLearning, Examples, SoftLearning, learn_bias, learn_soft
from factorlm.diffusion.denoiser import Denoiser
from factorlm.diffusion.files import load, save
from factorlm.diffusion.fitting import MeaningsFitting, fit_meanings
from factorlm.diffusion.gaussians import Gaussians
from factorlm.diffusion.guidance import Guidance, Guide, Guided
from factorlm.diffusion.guide_files import Guides, KeptGuide
from factorlm.diffusion.guides import GuideLearning, LinearGuide, Standard, learn_guide
from factorlm.diffusion.learning import DenoiserLearning, learn_denoiser
from factorlm.diffusion.levels import Schedule
from factorlm.diffusion.meanings import Meanings, Proposal, Proposing
from factorlm.diffusion.noisy_guides import NoisyGuide, NoisyGuideLearning, learn_noisy_guide
from factorlm.diffusion.particles import LatentParticles, Weighted, sample_latents
from factorlm.diffusion.sampling import Denoising, draw, walk
from factorlm.diffusion.windows import Window, WindowSettings, windows_of

__all__ = [
    "BiasDecoder",
    "BiasLearning",
    "Collection",
    "Denoiser",
    "DenoiserLearning",
    "Denoising",
    "Examples",
    "Gaussians",
    "Guidance",
    "Guide",
    "GuideLearning",
    "Guided",
    "Guides",
    "KeptGuide",
    "LatentParticles",
    "LinearGuide",
    "Meanings",
    "MeaningsFitting",
    "NoisyGuide",
    "NoisyGuideLearning",
    "Proposal",
    "Proposing",
    "Schedule",
    "SoftDecoder",
    "SoftLearning",
    "Standard",
    "Weighted",
    "Window",
    "WindowSettings",
    "draw",
    "fit_meanings",
    "learn_bias",
    "learn_denoiser",
    "learn_guide",
    "learn_noisy_guide",
    "learn_soft",
    "load",
    "sample_latents",
    "save",
    "walk",
    "windows_of",
]
