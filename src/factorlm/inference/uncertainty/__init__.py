"""How sure a model is of an answer: estimators over any composition, and the chance of being right that they mean."""

from factorlm.inference.uncertainty.estimators import ESTIMATORS, Estimator, Tools, estimator_named
from factorlm.inference.uncertainty.evidence import Answer, Asking, Evidence, Query, Variant
from factorlm.inference.uncertainty.gathering import gather
from factorlm.inference.uncertainty.known import Known, question_states, train_known
from factorlm.inference.uncertainty.meanings import Meanings
from factorlm.inference.uncertainty.recalibration import Map, Recalibration, found_for, read_recalibration

__all__ = [
    "ESTIMATORS",
    "Answer",
    "Asking",
    "Estimator",
    "Evidence",
    "Known",
    "Map",
    "Meanings",
    "Query",
    "Recalibration",
    "Tools",
    "Variant",
    "estimator_named",
    "found_for",
    "gather",
    "question_states",
    "read_recalibration",
    "train_known",
]
