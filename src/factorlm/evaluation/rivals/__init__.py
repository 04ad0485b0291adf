"""Other ways of steering the same language model, to compare with: each is a file here and a line in the table.

All are written anew from their papers, over the same base, and are factors, so that our samplers run them with the
dial as an exponent or as what the method has in its place.
"""

from factorlm.evaluation.rivals.activation import ActivationSteering
from factorlm.evaluation.rivals.arithmetic import Arithmetic
from factorlm.evaluation.rivals.dexperts import DExperts
from factorlm.evaluation.rivals.fudge import Fudge
from factorlm.evaluation.rivals.gedi import GeDi
from factorlm.evaluation.rivals.kept import Kept, default_kept
from factorlm.evaluation.rivals.lm_steer import LMSteer
from factorlm.evaluation.rivals.prompting import Prompting
from factorlm.evaluation.rivals.rival import Prepared, Rival, bounded

__all__ = [
    "ActivationSteering",
    "Arithmetic",
    "DExperts",
    "Fudge",
    "GeDi",
    "Kept",
    "LMSteer",
    "Prepared",
    "Prompting",
    "Rival",
    "bounded",
    "default_kept",
]
