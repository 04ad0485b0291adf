"""Stochastic language models: a distribution over models, learned, filtered by evidence, tilted, drawn from."""

from factorlm.prior.ensemble import Component, Ensemble, Separate
from factorlm.prior.files import is_prior
from factorlm.prior.fitting import Fitting, fit
from factorlm.prior.incontext import InContext
from factorlm.prior.learning import Learning
from factorlm.prior.mixture import Bayes, Blend, PerResponse
from factorlm.prior.prior import Prior
from factorlm.prior.uncertainty import Uncertainty, uncertainty

__all__ = [
    "Bayes",
    "Blend",
    "Component",
    "Ensemble",
    "Fitting",
    "InContext",
    "Learning",
    "PerResponse",
    "Prior",
    "Separate",
    "Uncertainty",
    "fit",
    "is_prior",
    "uncertainty",
]
