"""Whether an answer is about what was asked: gibberish neither refuses nor complies."""

# Axes: B texts, D width.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.calibration import auroc
from factorlm.models.sentences import load_sentence_encoder

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TopicCheck:
    """Tells answers to a request from answers to others, by the cosine of sentence vectors.

    Attributes:
        threshold: cosine from which on an answer counts as one to the request.
        auc: how well requests and answers that belong together are told from ones that do not.
        accuracy: mean share of both that the threshold gets right.
    """

    threshold: float
    auc: float
    accuracy: float

    @staticmethod
    def fitted(requests: Sequence[str], answers: Sequence[str]) -> TopicCheck:
        """From requests with their own answers; each answer is set against another request for the contrast."""
        ours_B = cosines(requests, answers)
        others_B = np.concatenate([cosines(requests, [*answers[k:], *answers[:k]]) for k in (1, len(answers) // 2)])
        cosine_B = np.concatenate([ours_B, others_B])
        is_own_B = np.arange(len(cosine_B)) < len(ours_B)
        steps = np.unique(cosine_B)
        balanced = [((ours_B >= s).mean() + (others_B < s).mean()) / 2 for s in steps]
        best = int(np.argmax(balanced))
        return TopicCheck(float(steps[best]), auroc(cosine_B, is_own_B), float(balanced[best]))

    def holds(self, requests: Sequence[str], answers: Sequence[str]) -> list[bool]:
        """Whether each answer is about its request; blank ones are about nothing."""
        is_near_B = cosines(requests, answers) >= self.threshold
        return [bool(near) and bool(text.strip()) for near, text in zip(is_near_B, answers, strict=True)]


def cosines(first: Sequence[str], second: Sequence[str]) -> Array:
    """Of the meanings of texts, pair by pair, [B]."""
    encoder = load_sentence_encoder()
    one_BD, other_BD = encoder.encode(list(first)), encoder.encode(list(second))
    return (one_BD * other_BD).sum(1).double().numpy()
