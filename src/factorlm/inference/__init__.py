"""Compositions at work: drawing texts, scoring them, and explaining what each factor did."""

from factorlm.inference.doubt import Doubt
from factorlm.inference.drafts import ModelDraft, PromptLookup, cheap_part
from factorlm.inference.draw import Sampling
from factorlm.inference.explanation import Explanation
from factorlm.inference.guided import Bound, GuidedPrior, guided
from factorlm.inference.local import sample_local
from factorlm.inference.model import Model, interpolate, load, mix
from factorlm.inference.particles import Particles, sample_particles
from factorlm.inference.plans import Plan
from factorlm.inference.population import Population
from factorlm.inference.reading import Reading, read
from factorlm.inference.respond import respond
from factorlm.inference.results import Response, Score
from factorlm.inference.speculation import sample_speculative

__all__ = [
    "Bound",
    "Doubt",
    "Explanation",
    "GuidedPrior",
    "Model",
    "ModelDraft",
    "Particles",
    "Plan",
    "Population",
    "PromptLookup",
    "Reading",
    "Response",
    "Sampling",
    "Score",
    "cheap_part",
    "guided",
    "interpolate",
    "load",
    "mix",
    "read",
    "respond",
    "sample_local",
    "sample_particles",
    "sample_speculative",
]
