"""What a judge is made from: labelled sets to learn from and to test on, and a recipe that names them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.judges.features import CharacterFeatures, SentenceFeatures, WordFeatures


@dataclass(frozen=True)
class Labelled:
    """A text with its label.

    Attributes:
        text: as it stands in the source.
        label: index of its label.
        group: texts of one group (document, pair) are held out together; empty stands for the text itself.
    """

    text: str
    label: int
    group: str = ""


@dataclass(frozen=True)
class TrainingSet:
    """Labelled texts to learn from.

    Attributes:
        name: set and part.
        licence: as the source states it.
        credit: whom it asks to credit.
        read: its texts.
        most: texts used; labels are brought to equal number.
        weight: of each text.
        is_noisy: whether texts have the label of a larger whole; such texts neither calibrate nor test.
    """

    name: str
    licence: str
    credit: str
    read: Callable[[DataFolder], list[Labelled]]
    most: int = 10**9
    weight: float = 1.0
    is_noisy: bool = False


@dataclass(frozen=True)
class TestSet:
    """Labelled texts to test on; none of them is learned from.

    Attributes:
        name: set and part.
        origin: whether they come from where the training texts come from.
        read: its texts.
        most: texts used.
    """

    __test__ = False  # pytest would take it for a test

    name: str
    origin: Literal["same", "other"]
    read: Callable[[DataFolder], list[Labelled]]
    most: int = 2000


@dataclass(frozen=True)
class ScoreSet:
    """Texts with scores from elsewhere, to compare a label's probability with.

    Attributes:
        label: whose probability.
        scores: what the scores are.
        texts: set and part.
        read: texts and scores.
    """

    label: str
    scores: str
    texts: str
    read: Callable[[DataFolder], list[tuple[str, float]]]


@dataclass(frozen=True)
class JudgeRecipe:
    """How a judge is made.

    Attributes:
        name: of the judge.
        attribute: what it judges.
        labels: in the order of label indices.
        description: one line for lists.
        licence: of the weights.
        features: what it sees of a text.
        sets: to learn from.
        tests: to test on.
        reference: the test set that the floor and corrections are about.
        floor: accuracy on it below which the judge is refused.
        inverse_penalty: of logistic regression; smaller keeps weights smaller.
        naive_bayes: whether features are first multiplied by their log ratio between two labels, after Wang and
            Manning (2012).
        holds_out: whether a share of the training sets is kept for testing, where they have no test part.
        scores: from elsewhere, to compare with.
    """

    name: str
    attribute: str
    labels: tuple[str, ...]
    description: str
    licence: str
    features: SentenceFeatures | CharacterFeatures | WordFeatures
    sets: tuple[TrainingSet, ...]
    tests: tuple[TestSet, ...]
    reference: str
    floor: float
    inverse_penalty: float = 1.0
    naive_bayes: bool = False
    holds_out: bool = False
    scores: tuple[ScoreSet, ...] = ()
