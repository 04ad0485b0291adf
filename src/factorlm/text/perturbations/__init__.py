"""Errors in texts: typos, what is misheard, short forms, chatter; with marked stretches carried along.

A new kind is a function in a file here and a line in `noise.PERTURBATIONS`.
"""

from factorlm.text.perturbations.edits import Edit, Marked, Span, words_of
from factorlm.text.perturbations.noise import PERTURBATIONS, Noise, Perturbation

__all__ = ["PERTURBATIONS", "Edit", "Marked", "Noise", "Perturbation", "Span", "words_of"]
