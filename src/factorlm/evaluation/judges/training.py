"""Training a judge: from labelled sets to calibrated weights and a card that says how good they are.

Texts are chosen, held out and folded by hashes of themselves or of the group they belong to, so that a training is the
same wherever it runs, and no text and no group stands on both sides.
"""

# Axes: B texts, C resampled scores, F features, K labels after the first, L labels.

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from factorlm.errors import InputError
from factorlm.evaluation.calibration import (
    auroc,
    calibration_error,
    fit_platt,
    fit_temperature,
    top_label,
    with_interval,
)
from factorlm.evaluation.corpora import DataFolder, fingerprint
from factorlm.evaluation.judges.card import Agreement, JudgeCard, Quality
from factorlm.evaluation.judges.features import Report, extract_kept, normalise
from factorlm.evaluation.judges.judge import Classifier
from factorlm.evaluation.judges.labelled import JudgeRecipe, Labelled, ScoreSet, TestSet, TrainingSet
from factorlm.factors.manifest import Source

Array = NDArray[np.float64]
FEWEST_TEXTS = 20  # of each label
FOLDS = 5  # that take turns in being predicted, for calibration
HELD_OUT_SHARE = 0.15
SMOOTHING = 0.1  # of feature sums in naive Bayes
HELD_OUT = "held out of the training sets"


def train(recipe: JudgeRecipe, data: DataFolder, report: Report) -> tuple[JudgeCard, dict[str, Tensor]]:
    """Learn, calibrate and test a judge: its card and the content of its weights file.

    Logits for calibration are cross-fitted: each text's come from a fit that did not see its group. The weights that
    are kept are learned from all training texts, then scaled and shifted as the calibration says, and rounded to half
    precision; quality is measured on the rounded ones.

    Raises:
        InputError: if a label has too few texts.
    """
    tests = {test: texts_of(test, data) for test in recipe.tests}
    scored = {part: [(t, s) for t, s in part.read(data) if normalise(t)] for part in recipe.scores}
    banned = {_key(e.text) for part in tests.values() for e in part} | {_key(t) for p in scored.values() for t, _ in p}
    chosen: dict[TrainingSet, list[Labelled]] = {}
    held_out: list[Labelled] = []
    for part in recipe.sets:
        found = [e for e in unique(part.read(data)) if _key(e.text) not in banned]
        if recipe.holds_out:
            is_out = {e.group: _number(f"test {e.group}") < HELD_OUT_SHARE for e in found}
            held_out += [] if part.is_noisy else [e for e in found if is_out[e.group]]
            found = [e for e in found if not is_out[e.group]]
        chosen[part] = _balanced(found, len(recipe.labels), part.most)
        banned |= {_key(e.text) for e in chosen[part]}
    if held_out:  # a set read before may hold a text that a later one held out
        out = {_key(e.text) for e in held_out}
        chosen = {part: [e for e in found if _key(e.text) not in out] for part, found in chosen.items()}
    examples = [e for found in chosen.values() for e in found]
    for label, name in enumerate(recipe.labels):
        if (count := sum(e.label == label for e in examples)) < FEWEST_TEXTS:
            raise InputError(f"at least {FEWEST_TEXTS} different texts labelled {name} are needed, got {count}")
    weight_KF, bias_K, calibration = _fit(recipe, chosen, report)
    tensors = {"weight": torch.from_numpy(weight_KF).half(), "bias": torch.from_numpy(bias_K).float()}

    classifier = Classifier.of(recipe.labels, recipe.features, tensors)
    quality = {}
    if held_out:
        quality[HELD_OUT] = measured_quality(classifier, held_out, "same", report)
    for test, found in tests.items():
        quality[test.name] = measured_quality(classifier, found, test.origin, report)
    card = JudgeCard(
        name=recipe.name,
        attribute=recipe.attribute,
        labels=recipe.labels,
        description=recipe.description,
        licence=recipe.licence,
        features=recipe.features,
        train=tuple(
            Source(name=p.name, licence=p.licence, credit=p.credit, num_texts=len(found), fingerprint=_print(found))
            for p, found in chosen.items()
        ),
        quality=quality,
        reference=recipe.reference,
        floor=recipe.floor,
        calibration=calibration,
        agreement=tuple(_agreement(classifier, part, pairs, report) for part, pairs in scored.items()),
        recipe=f"factorlm eval judge train {recipe.name}",
    )
    return card, tensors


def measured_quality(
    classifier: Classifier, examples: Sequence[Labelled], origin: Literal["same", "other"], report: Report
) -> Quality:
    """How a classifier does on labelled texts."""
    feature_BF = extract_kept(classifier.features, [e.text for e in examples], report)
    prob_BL = classifier.from_features(feature_BF)
    label_B = np.array([e.label for e in examples])
    num_labels = len(classifier.labels)
    confusion_LL = np.zeros((num_labels, num_labels), int)
    np.add.at(confusion_LL, (label_B, prob_BL.argmax(1)), 1)
    hits_L = np.diag(confusion_LL)
    f1_L = 2 * hits_L / np.maximum(1, confusion_LL.sum(0) + confusion_LL.sum(1))
    ranked = [1] if num_labels == 2 else range(num_labels)
    return Quality(
        origin=origin,
        n=len(examples),
        accuracy=round(float(hits_L.sum() / len(examples)), 4),
        macro_f1=round(float(f1_L.mean()), 4),
        auc=round(float(np.mean([auroc(prob_BL[:, k], label_B == k) for k in ranked])), 4),
        ece=round(calibration_error(*top_label(prob_BL, label_B)), 4),
        confusion=tuple(tuple(row) for row in confusion_LL.tolist()),
        fingerprint=_print(examples),
    )


def texts_of(test: TestSet, data: DataFolder) -> list[Labelled]:
    """The texts of a test set that are used."""
    return _spread(unique(test.read(data)), test.most)


def unique(examples: Sequence[Labelled]) -> list[Labelled]:
    """Without blank texts, repeated ones, and those that have several labels; every text gets its group."""
    known: dict[str, Labelled] = {}
    ambiguous = set()
    for example in examples:
        key = _key(example.text)
        if known.setdefault(key, example).label != example.label:
            ambiguous.add(key)
    return [Labelled(e.text, e.label, e.group or key) for key, e in known.items() if key and key not in ambiguous]


def _fit(
    recipe: JudgeRecipe, chosen: dict[TrainingSet, list[Labelled]], report: Report
) -> tuple[Array, Array, dict[str, float]]:
    """Calibrated weights [K, F] and biases [K], with the slope and offset of the calibration."""
    parts = [extract_kept(recipe.features, [e.text for e in found], report) for found in chosen.values() if found]
    feature_BF = _stacked(parts)
    label_B = np.array([e.label for found in chosen.values() for e in found])
    weight_B = np.array([part.weight for part, found in chosen.items() for _ in found])
    fold_B = np.array([int(_number(f"fold {e.group}") * FOLDS) for found in chosen.values() for e in found])
    sound_B = np.array([not part.is_noisy for part, found in chosen.items() for _ in found])
    report("fitting", 0, FOLDS + 1)
    logit_BK = np.zeros((len(label_B), len(recipe.labels) - 1))
    for fold in range(FOLDS):
        in_B, out_B = fold_B != fold, (fold_B == fold) & sound_B
        if out_B.any():
            # The sum of losses grows with the texts, the penalty does not: their ratio is kept.
            of_all = len(in_B) / in_B.sum()
            weight_KF, bias_K = _logistic(recipe, feature_BF[in_B], label_B[in_B], of_all * weight_B[in_B])
            logit_BK[out_B] = feature_BF[out_B] @ weight_KF.T + bias_K
        report("fitting", fold + 1, FOLDS + 1)
    weight_KF, bias_K = _logistic(recipe, feature_BF, label_B, weight_B)
    report("fitting", FOLDS + 1, FOLDS + 1)
    logit_BK, label_B = logit_BK[sound_B], label_B[sound_B]
    if len(recipe.labels) == 2:
        slope, offset = fit_platt(logit_BK[:, 0], label_B)
    else:
        logit_BL = np.concatenate([np.zeros((len(logit_BK), 1)), logit_BK], 1)
        slope, offset = 1 / fit_temperature(logit_BL, label_B), 0.0
    calibration = {"slope": round(slope, 4), "offset": round(offset, 4)}
    return slope * weight_KF, slope * bias_K + offset, calibration


def _logistic(recipe: JudgeRecipe, feature_BF: Any, label_B: Array, weight_B: Array) -> tuple[Array, Array]:
    """Logistic regression; the first label's logit is 0."""
    from sklearn.linear_model import LogisticRegression

    is_binary = len(recipe.labels) == 2
    is_sparse = not isinstance(feature_BF, np.ndarray)
    ratio_F = np.ones(feature_BF.shape[1])
    if recipe.naive_bayes:
        with_F, without_F = (np.asarray(feature_BF[label_B == k].sum(0)).ravel() + SMOOTHING for k in (1, 0))
        ratio_F = np.log(with_F / with_F.sum()) - np.log(without_F / without_F.sum())
        feature_BF = feature_BF.multiply(ratio_F).tocsr() if is_sparse else feature_BF * ratio_F
    fit = LogisticRegression(
        C=recipe.inverse_penalty, max_iter=2000, solver="liblinear" if is_binary and is_sparse else "lbfgs"
    ).fit(feature_BF, label_B, sample_weight=weight_B)
    weight_LF, bias_L = fit.coef_ * ratio_F, fit.intercept_
    return (weight_LF, bias_L) if is_binary else (weight_LF[1:] - weight_LF[0], bias_L[1:] - bias_L[0])


def _agreement(classifier: Classifier, part: ScoreSet, pairs: list[tuple[str, float]], report: Report) -> Agreement:
    from scipy.stats import rankdata

    def spearman(first_B: Array, second_B: Array) -> float:
        return float(np.corrcoef(rankdata(first_B), rankdata(second_B))[0, 1])

    feature_BF = extract_kept(classifier.features, [text for text, _ in pairs], report)
    prob_B = classifier.from_features(feature_BF)[:, classifier.labels.index(part.label)]
    found = with_interval(spearman, prob_B, np.array([score for _, score in pairs]), resamples=1000)
    rounded = {key: value and round(value, 4) for key, value in found.model_dump().items()}
    return Agreement(label=part.label, scores=part.scores, texts=part.texts, spearman=type(found)(**rounded))


def _balanced(examples: list[Labelled], num_labels: int, most: int) -> list[Labelled]:
    """Equal numbers of every label, chosen by hash."""
    by_label: dict[int, list[Labelled]] = defaultdict(list)
    for example in examples:
        by_label[example.label].append(example)
    count = min([most // num_labels, *(len(by_label[label]) for label in range(num_labels))])
    return [e for label in range(num_labels) for e in _spread(by_label[label], count)]


def _spread(examples: list[Labelled], most: int) -> list[Labelled]:
    return sorted(examples, key=lambda e: (_number(e.text), e.text))[:most]


def _stacked(parts: list[Any]) -> Any:
    from scipy.sparse import vstack

    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else vstack(parts).tocsr()


def _key(text: str) -> str:
    """What makes two texts the same one."""
    return normalise(text).lower()


def _number(text: str) -> float:
    """A number in [0, 1) that only the text decides."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _print(examples: Sequence[Labelled]) -> str:
    return fingerprint([f"{e.label} {e.text}" for e in examples])
