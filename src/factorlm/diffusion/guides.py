"""Guides: classifiers of sentence vectors, which lean on latents through the map from latents to vectors.

A diffusion works on standardised vectors; a classifier is learned from vectors of length one. `Standard` is the map
between them, and forgetting either half of it would silently make a guide worthless.
"""

# Axes: B rows, D numbers of a vector, N texts.

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
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
class Hidden:
    """A layer between vector and logit: what is above zero of a linear map.

    Attributes:
        weight_HD: of the map.
        bias_H: of the map.
    """

    weight_HD: Tensor
    bias_H: Tensor

    def __call__(self, vector_BD: Tensor) -> Tensor:
        """Numbers of the layer, [B, H]."""
        return torch.relu(vector_BD @ self.weight_HD.T + self.bias_H)


@dataclass(frozen=True, eq=False)
class LinearGuide:
    """Log probability of a label by logistic regression, maybe behind a hidden layer; a `guidance.Guide`.

    Attributes:
        weight_D: by which the numbers of a vector, or of the hidden layer, count.
        bias: of the logit.
        standard: from latents to vectors.
        hidden: the layer, which makes it a small multilayer perceptron; None for logistic regression.
        heed: how far texts move with latents: the log probability is then of the text that will be written, whose
            logit moves so much less than that of the latent, from that of ordinary texts on.
    """

    weight_D: Tensor
    bias: float
    standard: Standard
    hidden: Hidden | None = None
    heed: float = 1.0

    def log_prob(self, latent_BD: Tensor) -> Tensor:
        """See Guide."""
        logit_B = self._logit(self.standard.vector(latent_BD))
        if self.heed != 1.0:
            ordinary = self._logit(normalize(self.standard.mean_D, dim=0))
            logit_B = ordinary + self.heed * (logit_B - ordinary)
        return logsigmoid(logit_B)

    def _logit(self, vector_BD: Tensor) -> Tensor:
        read_BD = vector_BD if self.hidden is None else self.hidden(vector_BD)
        return read_BD @ self.weight_D + self.bias

    def heeded(self, heed: float) -> LinearGuide:
        """Of what will be written by a decoder that heeds latents so far."""
        return replace(self, heed=heed)

    @property
    def opposite(self) -> LinearGuide:
        """Of the label not being so."""
        return replace(self, weight_D=-self.weight_D, bias=-self.bias)


class GuideLearning(Config):
    """How a guide is learned.

    Attributes:
        kind: linear is logistic regression; mlp has a hidden layer before it.
        inverse_penalties: of the regression; the one with the best held-out likelihood is taken.
        units: of the hidden layer.
        weight_decays: of the multilayer perceptron; the one with the best held-out likelihood is taken.
        folds: of the texts, for that choice and for calibration.
        held_out: share of the texts on which the quality is measured; the guide then learns from all.
        seed: of the folds.
    """

    kind: Literal["linear", "mlp"] = "linear"
    inverse_penalties: tuple[PositiveFloat, ...] = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
    units: PositiveInt = 32
    weight_decays: tuple[PositiveFloat, ...] = (0.1, 1.0, 10.0)
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


@dataclass(frozen=True, eq=False)
class Learned:
    """Numbers of a guide, and what they are worth.

    Attributes:
        weight_D: see LinearGuide.
        bias: see LinearGuide.
        hidden: see LinearGuide.
        quality: on texts left out.
    """

    weight_D: Tensor
    bias: float
    hidden: Hidden | None
    quality: GuideQuality


@dataclass(frozen=True, eq=False)
class _Fitted:
    """Calibrated numbers, as numpy has them."""

    weight_D: Any
    bias: float
    hidden: tuple[Any, Any] | None = None

    def logit(self, vector_ND: Any) -> Any:
        read_ND = vector_ND
        if self.hidden is not None:
            read_ND = np.maximum(vector_ND @ self.hidden[0].T + self.hidden[1], 0)
        return read_ND @ self.weight_D + self.bias


def learn_guide(positive_ND: Tensor, negative_ND: Tensor, settings: GuideLearning | None = None) -> Learned:
    """A calibrated classifier of vectors of length one, and its quality.

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
    logit_N = _fitted(vector_ND[train_N], label_N[train_N], settings).logit(vector_ND[test_N])
    weight_N = _balance(label_N[test_N])
    quality = GuideQuality(
        accuracy=float(accuracy_score(label_N[test_N], logit_N > 0, sample_weight=weight_N)),
        auc=float(roc_auc_score(label_N[test_N], logit_N)),
        log_loss=float(log_loss(label_N[test_N], 1 / (1 + np.exp(-logit_N)), sample_weight=weight_N, labels=[0, 1])),
        num_texts=len(test_N),
    )
    whole = _fitted(vector_ND, label_N, settings)
    hidden = whole.hidden and Hidden(*(torch.from_numpy(values).float() for values in whole.hidden))
    return Learned(torch.from_numpy(whole.weight_D).float(), whole.bias, hidden, quality)


def check_enough(num_positive: int, num_negative: int, settings: GuideLearning) -> None:
    """Raise InputError if there are too few texts for the folds."""
    least = math.ceil(settings.folds / (1 - settings.held_out)) + 1
    if min(num_positive, num_negative) < least:
        raise InputError(
            f"at least {least} texts with the label and {least} without are needed, got {num_positive} and "
            f"{num_negative}; give more"
        )


def _fitted(vector_ND: Any, label_N: Any, settings: GuideLearning) -> _Fitted:
    """Calibrated by Platt's sigmoid on logits of texts left out."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(settings.folds, shuffle=True, random_state=settings.seed)
    best, out_N = _chosen(vector_ND, label_N, settings, folds)
    sigmoid = LogisticRegression(C=np.inf).fit(out_N[:, None], label_N, sample_weight=_balance(label_N))
    slope, shift = float(sigmoid.coef_[0, 0]), float(sigmoid.intercept_[0])
    return _Fitted(slope * best.weight_D, slope * best.bias + shift, best.hidden)


def _chosen(vector_ND: Any, label_N: Any, settings: GuideLearning, folds: Any) -> tuple[_Fitted, Any]:
    """The classifier with the best likelihood on texts left out, and the logits of these."""
    if settings.kind == "linear":
        return _best(vector_ND, label_N, folds, [(_regression, c) for c in settings.inverse_penalties])
    make = functools.partial(_perceptron, units=settings.units, seed=settings.seed)
    return _best(vector_ND, label_N, folds, [(make, decay) for decay in settings.weight_decays])


def _best(vector_ND: Any, label_N: Any, folds: Any, ways: list[tuple[Any, float]]) -> tuple[_Fitted, Any]:
    weight_N, sign_N = _balance(label_N), 2 * label_N - 1
    found: list[tuple[float, int, Any]] = []
    for make, number in ways:
        out_N = np.zeros(len(label_N))
        for train_N, test_N in folds.split(vector_ND, label_N):
            out_N[test_N] = make(vector_ND[train_N], label_N[train_N], number).logit(vector_ND[test_N])
        found.append((float((weight_N * np.logaddexp(0, -sign_N * out_N)).mean()), len(found), out_N))
    _, place, out_N = min(found, key=lambda entry: entry[:2])
    make, number = ways[place]
    return make(vector_ND, label_N, number), out_N


def _regression(vector_ND: Any, label_N: Any, inverse_penalty: float) -> _Fitted:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=inverse_penalty, class_weight="balanced", max_iter=2000).fit(vector_ND, label_N)
    return _Fitted(model.coef_[0], float(model.intercept_[0]))


def _perceptron(vector_ND: Any, label_N: Any, decay: float, *, units: int, seed: int) -> _Fitted:
    from sklearn.neural_network import MLPClassifier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it could go on converging
        model = MLPClassifier((units,), alpha=decay, learning_rate_init=3e-3, max_iter=60, random_state=seed)
        model.fit(vector_ND, label_N, sample_weight=_balance(label_N))
    (down_DH, up_H1), (bias_H, bias_1) = model.coefs_, model.intercepts_
    return _Fitted(up_H1[:, 0], float(bias_1[0]), (np.ascontiguousarray(down_DH.T), bias_H))


def _balance(label_N: Any) -> Any:
    """Weights under which both labels count alike, of mean 1."""
    count_2 = np.bincount(label_N, minlength=2)
    return len(label_N) / (2 * count_2[label_N])
