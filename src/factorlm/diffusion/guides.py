"""Guides: classifiers of sentence vectors, which lean on latents through the map from latents to vectors.

A diffusion works on standardised vectors; a classifier is learned from vectors of length one. `Standard` is the map
between them, and forgetting either half of it would silently make a guide worthless.
"""

# Axes: B rows, D numbers of a vector, N texts.

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from factorlm.errors import InputError
from factorlm.settings import Config

LEAST_DEVIATION = 1e-6


@dataclass(frozen=True, eq=False)
class Standard:
    """From vectors of length one to latents of mean 0 and variance 1 in each number, and back.

    Attributes:
        mean_D: of the vectors that latents were learned from.
        deviation_D: standard deviation of each number of theirs.
    """

    mean_D: Tensor
    deviation_D: Tensor

    @staticmethod
    def of(vector_ND: Tensor) -> Standard:
        """From the vectors to learn from.

        Raises:
            InputError: if there are fewer than two.
        """
        if len(vector_ND) < 2:
            raise InputError(f"at least two vectors are needed to know their spread, got {len(vector_ND)}")
        return Standard(vector_ND.mean(0), vector_ND.std(0).clamp(min=LEAST_DEVIATION))

    def latent(self, vector_BD: Tensor) -> Tensor:
        """Latents of vectors, [B, D]."""
        return (vector_BD - self.mean_D) / self.deviation_D

    def vector(self, latent_BD: Tensor) -> Tensor:
        """Vectors of length one, [B, D], which latents stand for."""
        return normalize(latent_BD * self.deviation_D + self.mean_D, dim=1)


@dataclass(frozen=True, eq=False)
class LinearGuide:
    """Log probability of a label by logistic regression; a `guidance.Guide`.

    Attributes:
        weight_D: by which the numbers of a vector count.
        bias: of the logit.
        standard: from latents to vectors.
    """

    weight_D: Tensor
    bias: float
    standard: Standard

    def log_prob(self, latent_BD: Tensor) -> Tensor:
        """See Guide."""
        return logsigmoid(self.standard.vector(latent_BD) @ self.weight_D + self.bias)

    @property
    def opposite(self) -> LinearGuide:
        """Of the label not being so."""
        return replace(self, weight_D=-self.weight_D, bias=-self.bias)


class GuideLearning(Config):
    """How a guide is learned.

    Attributes:
        inverse_penalties: of the regression; the one with the best held-out likelihood is taken.
        folds: of the texts, for that choice and for calibration.
        held_out: share of the texts on which the quality is measured; the guide then learns from all.
        seed: of the folds.
    """

    inverse_penalties: tuple[PositiveFloat, ...] = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
    folds: Annotated[int, Field(ge=2)] = 5
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    seed: int = 0


class GuideQuality(Config):
    """What a guide is worth on texts that it was not learned from.

    Attributes:
        accuracy: share of labels that are right.
        auc: probability that a text with the label ranks above one without.
        log_loss: nats per label; log 2 is that of knowing nothing, where both are equally many.
        num_texts: it was measured on.
    """

    accuracy: float
    auc: float
    log_loss: float
    num_texts: int


def learn_guide(
    positive_ND: Tensor, negative_ND: Tensor, settings: GuideLearning | None = None
) -> tuple[Tensor, float, GuideQuality]:
    """Weights [D] and bias of calibrated logistic regression of vectors of length one, and its quality.

    The probabilities are calibrated on texts left out (Platt, 1999), and both labels count alike, however many texts
    there are of each: a guide says how much more a text is of the one than of the other.

    Raises:
        InputError: if there are too few texts for the folds.
    """
    from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
    from sklearn.model_selection import train_test_split

    settings = settings or GuideLearning()
    check_enough(len(positive_ND), len(negative_ND), settings)
    vector_ND = torch.cat([positive_ND, negative_ND]).double().numpy()
    label_N = np.repeat([1, 0], [len(positive_ND), len(negative_ND)])
    train_N, test_N = train_test_split(
        np.arange(len(label_N)), test_size=settings.held_out, stratify=label_N, random_state=settings.seed
    )
    weight_D, bias = _fitted(vector_ND[train_N], label_N[train_N], settings)
    logit_N = vector_ND[test_N] @ weight_D + bias
    weight_N = _balance(label_N[test_N])
    quality = GuideQuality(
        accuracy=float(accuracy_score(label_N[test_N], logit_N > 0, sample_weight=weight_N)),
        auc=float(roc_auc_score(label_N[test_N], logit_N)),
        log_loss=float(log_loss(label_N[test_N], 1 / (1 + np.exp(-logit_N)), sample_weight=weight_N, labels=[0, 1])),
        num_texts=len(test_N),
    )
    weight_D, bias = _fitted(vector_ND, label_N, settings)
    return torch.from_numpy(weight_D).float(), bias, quality


def check_enough(num_positive: int, num_negative: int, settings: GuideLearning) -> None:
    """Raise InputError if there are too few texts for the folds."""
    least = math.ceil(settings.folds / (1 - settings.held_out)) + 1
    if min(num_positive, num_negative) < least:
        raise InputError(
            f"at least {least} texts with the label and {least} without are needed, got {num_positive} and "
            f"{num_negative}; give more"
        )


def _fitted(vector_ND: Any, label_N: Any, settings: GuideLearning) -> tuple[Any, float]:
    """Calibrated weights and bias."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    folds = StratifiedKFold(settings.folds, shuffle=True, random_state=settings.seed)
    search = GridSearchCV(
        LogisticRegression(class_weight="balanced", max_iter=2000), {"C": list(settings.inverse_penalties)},
        scoring="neg_log_loss", cv=folds,
    ).fit(vector_ND, label_N)  # fmt: skip
    best = LogisticRegression(class_weight="balanced", max_iter=2000, **search.best_params_)
    found = CalibratedClassifierCV(best, method="sigmoid", cv=folds, ensemble=False)
    [whole] = found.fit(vector_ND, label_N, sample_weight=_balance(label_N)).calibrated_classifiers_
    [sigmoid] = whole.calibrators  # its slope has the sign of a loss
    weight_D = -sigmoid.a_ * whole.estimator.coef_[0]
    return weight_D, float(-(sigmoid.a_ * whole.estimator.intercept_[0] + sigmoid.b_))


def _balance(label_N: Any) -> Any:
    """Weights under which both labels count alike, of mean 1."""
    count_2 = np.bincount(label_N, minlength=2)
    return len(label_N) / (2 * count_2[label_N])
