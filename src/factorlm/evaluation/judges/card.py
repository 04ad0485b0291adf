"""What `judge.json` says of a judge: what it tells apart, what it was trained on, and how often it is right."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from factorlm.errors import InputError
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.judges.features import Features
from factorlm.factors.manifest import NAME_PATTERN, Source
from factorlm.settings import Config

FREE_LICENCES = frozenset({"CC0 1.0", "MIT", "Apache-2.0", "CC BY 4.0", "CC BY-SA 4.0"})


class Quality(Config):
    """How a judge does on a set of labelled texts that it did not learn from.

    Attributes:
        origin: whether the texts come from where training texts come from.
        n: how many texts.
        accuracy: share judged right.
        macro_f1: mean over labels of the harmonic mean of precision and recall.
        auc: area under the ROC curve; for several labels the mean of each against the rest.
        ece: calibration error of the likeliest label's probability, in bins of equal mass.
        confusion: counts; a row for each true label, a column for each verdict.
        fingerprint: of the texts and labels.
    """

    origin: Literal["same", "other"]
    n: int
    accuracy: float
    macro_f1: float
    auc: float
    ece: float
    confusion: tuple[tuple[int, ...], ...]
    fingerprint: str


class Agreement(Config):
    """Rank correlation of a label's probability with scores from elsewhere.

    Attributes:
        label: whose probability.
        scores: what it is compared with.
        texts: on which texts.
        spearman: Spearman's correlation.
    """

    label: str
    scores: str
    texts: str
    spearman: Estimate


class JudgeCard(Config):
    """The content of judge.json.

    Attributes:
        format: of this file.
        name: of the judge.
        version: of its weights.
        attribute: what it judges, such as "sentiment".
        labels: what it chooses from.
        description: one line for lists.
        licence: of the weights, as the licences of the training texts demand.
        features: what it sees of a text.
        train: the training sets.
        quality: by test set.
        reference: the test set whose error rates stand for the judge's; the floor is about it.
        floor: accuracy below which the judge is refused.
        calibration: slope and offset that the learned logits were given so that the probabilities are right.
        agreement: with scores from elsewhere.
        recipe: the command that trains it again.
        files: sha256 of the weights, by file name.
    """

    format: Literal[1] = 1
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")] = "0.1.0"
    attribute: str
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    description: str = ""
    licence: str = "unspecified"
    features: Features
    train: tuple[Source, ...]
    quality: dict[str, Quality]
    reference: str
    floor: float
    calibration: dict[str, float] = Field(default_factory=dict)
    agreement: tuple[Agreement, ...] = ()
    recipe: str = ""
    files: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> JudgeCard:
        if self.reference not in self.quality:
            raise ValueError(f"the reference test set {self.reference!r} is not among those of quality")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels must differ")
        return self

    @property
    def accuracy(self) -> float:
        """On the reference test set."""
        return self.quality[self.reference].accuracy

    def check_floor(self) -> None:
        """Raise InputError if the judge errs too often to be used."""
        if self.accuracy < self.floor:
            raise InputError(
                f"judge {self.name} is right on {self.accuracy:.1%} of {self.reference}, under its floor of "
                f"{self.floor:.1%}; train it again: {self.recipe}"
            )
