"""Compositions at work: drawing texts, scoring them, and explaining what each factor did."""

from factorlm.inference.draw import Sampling
from factorlm.inference.explanation import Explanation
from factorlm.inference.local import sample_local
from factorlm.inference.model import Model, Response, Score, interpolate, load, mix
from factorlm.inference.reading import Reading, read

__all__ = [
    "Explanation",
    "Model",
    "Reading",
    "Response",
    "Sampling",
    "Score",
    "interpolate",
    "load",
    "mix",
    "read",
    "sample_local",
]
