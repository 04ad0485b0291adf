"""A judge: a linear classifier of texts that says with which probability a text has each of its labels."""

# Axes: B texts, F features, K labels after the first, L labels.

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from factorlm.errors import UnknownNameError
from factorlm.evaluation.judges.card import JudgeCard
from factorlm.evaluation.judges.features import Features, Report, extract, normalise
from factorlm.models.progress import quiet

Array = NDArray[np.float64]
CHUNK_TEXTS = 4096  # whose features are held at once


@dataclass(frozen=True, eq=False)
class Classifier:
    """A linear map from features of a text to the log odds of its labels.

    Attributes:
        labels: what it chooses from.
        features: what it sees of a text.
        weight_KF: of every label but the first, whose logit is always 0.
        bias_K: the same.
    """

    labels: tuple[str, ...]
    features: Features
    weight_KF: Array
    bias_K: Array

    @staticmethod
    def of(labels: tuple[str, ...], features: Features, tensors: dict[str, Tensor]) -> Classifier:
        """From the content of a weights file."""
        return Classifier(labels, features, tensors["weight"].double().numpy(), tensors["bias"].double().numpy())

    def probabilities(self, texts: Sequence[str], report: Report | None = None) -> Array:
        """Probability of every label, [B, L]; a row of nan for a text in which there is nothing to read."""
        prob_BL = np.full((len(texts), len(self.labels)), np.nan)
        readable = [i for i, text in enumerate(texts) if normalise(text)]
        for start in range(0, len(readable), CHUNK_TEXTS):
            chunk = readable[start : start + CHUNK_TEXTS]
            prob_BL[chunk] = self.from_features(extract(self.features, [texts[i] for i in chunk], report or quiet))
        return prob_BL

    def from_features(self, feature_BF: Any) -> Array:
        """Probability of every label, [B, L], from features (dense or sparse)."""
        logit_BK = np.asarray(feature_BF @ self.weight_KF.T) + self.bias_K
        logit_BL = np.concatenate([np.zeros((len(logit_BK), 1)), logit_BK], 1)
        odds_BL = np.exp(logit_BL - logit_BL.max(1, keepdims=True))
        return np.asarray(odds_BL / odds_BL.sum(1, keepdims=True), float)


@dataclass(frozen=True, eq=False)
class Judge:
    """A classifier with its card.

    Attributes:
        card: what it is and how good it is.
        classifier: what it says.
    """

    card: JudgeCard
    classifier: Classifier

    @property
    def name(self) -> str:
        """Of the judge."""
        return self.card.name

    @property
    def labels(self) -> tuple[str, ...]:
        """What it chooses from."""
        return self.card.labels

    @property
    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """Counts on the reference test set, for `rates.attribute_rate`; rows are true labels."""
        return self.card.quality[self.card.reference].confusion

    @property
    def fingerprint(self) -> str:
        """Of all that its verdicts depend on."""
        digest = hashlib.sha256(f"{self.labels}{self.card.features.model_dump_json()}".encode())
        for array in (self.classifier.weight_KF, self.classifier.bias_K):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def index(self, label: str) -> int:
        """Position of a label.

        Raises:
            UnknownNameError: if it is none of the judge's.
        """
        if label not in self.labels:
            raise UnknownNameError.of(f"label of {self.name}", label, self.labels)
        return self.labels.index(label)

    def probabilities(self, texts: Sequence[str], report: Report | None = None) -> Array:
        """Probability of every label, [B, L]; a row of nan for a text in which there is nothing to read.

        Args:
            texts: to judge; a sentence encoder reads only the beginning of long ones.
            report: told of progress.
        """
        return self.classifier.probabilities(texts, report)

    def verdicts(self, texts: Sequence[str], report: Report | None = None) -> list[int | None]:
        """Index of the likeliest label of each text; None for a text in which there is nothing to read."""
        prob_BL = self.probabilities(texts, report)
        return [None if np.isnan(row_L[0]) else int(row_L.argmax()) for row_L in prob_BL]
