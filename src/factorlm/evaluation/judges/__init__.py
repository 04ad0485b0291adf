"""Judges: independent classifiers that say whether a text has an attribute, each with a card of how often it errs."""

from factorlm.evaluation.judges.card import Agreement, JudgeCard, Quality
from factorlm.evaluation.judges.judge import Classifier, Judge
from factorlm.evaluation.judges.labelled import JudgeRecipe, Labelled, ScoreSet, TestSet, TrainingSet
from factorlm.evaluation.judges.recipes import JUDGES, train_judge
from factorlm.evaluation.judges.store import (
    SHELF,
    JudgeStore,
    judge_labels,
    judge_names,
    judge_stores,
    judges_for,
    load_judge,
)
from factorlm.evaluation.judges.training import train

__all__ = [
    "JUDGES",
    "SHELF",
    "Agreement",
    "Classifier",
    "Judge",
    "JudgeCard",
    "JudgeRecipe",
    "JudgeStore",
    "Labelled",
    "Quality",
    "ScoreSet",
    "TestSet",
    "TrainingSet",
    "judge_labels",
    "judge_names",
    "judge_stores",
    "judges_for",
    "load_judge",
    "train",
    "train_judge",
]
