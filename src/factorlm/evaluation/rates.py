"""How often texts have an attribute, when a judge that errs says which do.

What a judge sees is not what is there: with sensitivity se and specificity sp, a true rate t is seen as the rate
se t + (1 - sp)(1 - t). Rogan and Gladen (1978) turn that round. Caution: the error rates are those of the judge's test
texts, and they are assumed to hold for the model's texts as well, which nobody has checked; a judge that errs more
often on them than on its test set leaves a bias that no interval shows. Read the raw and the corrected rate together,
and prefer what two judges agree on. For one of several labels the specificity is that of the test set's own mixture of
the others.
"""

# Axes: L labels, R resamples, U units.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from factorlm.errors import InputError
from factorlm.evaluation.intervals import LEVEL, RESAMPLES, Estimate, ratio_interval, resampled_means
from factorlm.settings import Config

Array = NDArray[np.float64]
LEAST_INFORMATION = 0.1  # of sensitivity + specificity - 1; with less, a rate is corrected by more than tenfold
JEFFREYS = 0.5  # added to both counts of a share, so that a share seen as 0 or 1 stays uncertain
TAIL = (1 - LEVEL) / 2


class Errors(Config):
    """A judge's counts for one label on its test texts.

    Attributes:
        hits: texts with the label that were given it.
        misses: texts with the label that were not.
        false_alarms: texts without the label that were given it.
        rejections: texts without the label that were not.
    """

    hits: int
    misses: int
    false_alarms: int
    rejections: int

    @property
    def sensitivity(self) -> float:
        """Share of texts with the label that are given it; nan if there were none."""
        with_label = self.hits + self.misses
        return self.hits / with_label if with_label else float("nan")

    @property
    def specificity(self) -> float:
        """Share of texts without the label that are not given it; nan if there were none."""
        without = self.false_alarms + self.rejections
        return self.rejections / without if without else float("nan")

    @property
    def information(self) -> float:
        """Youden's index: 1 for a judge that never errs, 0 for one that does not look."""
        return self.sensitivity + self.specificity - 1


class AttributeRate(Config):
    """A rate as it was seen, and as it is once the judge's errors are undone.

    Attributes:
        raw: share of judged texts that were given the label; resampled over units.
        corrected: the share that has it; its interval also carries the uncertainty of the judge's error rates.
        reason: why there is no corrected rate; empty if there is one.
        num_texts: that were judged.
        num_unjudged: that were not, being blank.
    """

    raw: Estimate
    corrected: Estimate
    reason: str = ""
    num_texts: int
    num_unjudged: int


def errors_of(confusion: Sequence[Sequence[int]], label: int) -> Errors:
    """One label's counts against all others, from a confusion matrix with a row for each true label.

    Raises:
        InputError: if the matrix is not square or has no such label.
    """
    counts_LL = np.asarray(confusion)
    if counts_LL.ndim != 2 or counts_LL.shape[0] != counts_LL.shape[1] or not 0 <= label < len(counts_LL):
        raise InputError(f"a square confusion matrix with label {label} is needed, got shape {counts_LL.shape}")
    hits = int(counts_LL[label, label])
    misses = int(counts_LL[label].sum()) - hits
    false_alarms = int(counts_LL[:, label].sum()) - hits
    rejections = int(counts_LL.sum()) - hits - misses - false_alarms
    return Errors(hits=hits, misses=misses, false_alarms=false_alarms, rejections=rejections)


def corrected_rate(rate: float, sensitivity: float, specificity: float) -> float:
    """The true rate behind a rate that was seen, kept within 0 and 1 (Rogan and Gladen, 1978)."""
    return float(np.clip((rate + specificity - 1) / (sensitivity + specificity - 1), 0, 1))


def attribute_rate(
    verdicts: Sequence[Sequence[int | None]],
    confusion: Sequence[Sequence[int]],
    *,
    label: int = 1,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> AttributeRate:
    """The share of texts that have a label, as seen and corrected for the judge's errors; see the module's caution.

    Units are resampled with all their texts. Beside that, the interval of the corrected rate draws sensitivity and
    specificity from what the test counts leave open (Beta with Jeffreys' prior). Where every text of every unit has the
    same verdict, resampling sees no scatter: the rate then is drawn likewise, each unit counting as one text.

    Args:
        verdicts: of each unit (prompt), the label given to each of its texts; None for blank texts, which are left out.
        confusion: counts on the judge's test texts; rows are true labels, columns verdicts.
        label: whose share is wanted.
        seed: of the resampling.
        resamples: how many.
    """
    errors = errors_of(confusion, label)
    judged = [[v == label for v in unit if v is not None] for unit in verdicts]
    num_texts, num_all = sum(map(len, judged)), sum(map(len, verdicts))
    with_label_U, judged_U = (np.array([of(unit) for unit in judged if unit], float) for of in (sum, len))

    def found(raw: Estimate, corrected: Estimate, reason: str = "") -> AttributeRate:
        return AttributeRate(raw=raw, corrected=corrected, reason=reason, num_texts=num_texts,
                             num_unjudged=num_all - num_texts)  # fmt: skip

    num_units = len(judged_U)
    if num_units == 0:
        nothing = Estimate(value=None)
        return found(nothing, nothing, "no text was judged")
    generator = np.random.default_rng(seed)
    rate = float(with_label_U.sum() / judged_U.sum())
    if rate in (0.0, 1.0) and num_units > 1:
        rate_R = generator.beta(rate * num_units + JEFFREYS, (1 - rate) * num_units + JEFFREYS, size=resamples)
        low, high = (float(x) for x in np.quantile(rate_R, [TAIL, 1 - TAIL]))
        raw = Estimate(value=rate, low=0.0 if rate == 0 else low, high=1.0 if rate == 1 else high, n=num_units)
    else:
        mean_RC = resampled_means(np.stack([with_label_U, judged_U], 1), seed=seed, resamples=resamples)
        rate_R = mean_RC[:, 0] / mean_RC[:, 1]
        raw = ratio_interval(with_label_U, judged_U, seed=seed, resamples=resamples)
    refused = Estimate(value=None, n=num_units)
    if not errors.hits + errors.misses or not errors.false_alarms + errors.rejections:
        return found(raw, refused, "the judge's test set lacks texts with or without the label")
    sensitivity_R = generator.beta(errors.hits + JEFFREYS, errors.misses + JEFFREYS, size=resamples)
    specificity_R = generator.beta(errors.rejections + JEFFREYS, errors.false_alarms + JEFFREYS, size=resamples)
    information_R = sensitivity_R + specificity_R - 1
    if errors.information < LEAST_INFORMATION or np.quantile(information_R, TAIL) <= 0:
        return found(
            raw, refused, f"sensitivity + specificity - 1 of the judge is {errors.information:.2f}, too near to chance"
        )
    value = corrected_rate(rate, errors.sensitivity, errors.specificity)
    if num_units < 2:
        return found(raw, Estimate(value=value, n=num_units))
    kept_R = information_R > 0
    corrected_R = ((rate_R + specificity_R - 1)[kept_R] / information_R[kept_R]).clip(0, 1)
    low, high = (float(x) for x in np.quantile(corrected_R, [TAIL, 1 - TAIL]))
    # The value uses the counts as they are, the draws a prior; at the ends of [0, 1] they may part a little.
    corrected = Estimate(value=value, low=min(low, value), high=max(high, value), n=num_units)
    return found(raw, corrected)
