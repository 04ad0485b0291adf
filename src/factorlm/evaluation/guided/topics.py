"""A judge of news topics by words alone, learned where it is used: it shares nothing with guides of vectors."""

# Axes: B texts, L labels.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.diversity import words_of
from factorlm.evaluation.judges.sources import news
from factorlm.evaluation.workbench import Workbench

PART = "ag_news"
PENALTY = 10.0  # inverse, of the regression
TOPICS = {  # labels of the data, and the words of guides
    "world": "topic:world_politics",
    "sports": "topic:sports",
    "business": "topic:business",
    "technology": "topic:computers_and_technology",
}


@dataclass(frozen=True, eq=False)
class TopicJudge:
    """Which of four topics of news a text is about.

    Attributes:
        model: of words.
        confusion: counts on test texts; rows are true labels.
        fingerprint: of what it learned from.
    """

    model: Any
    confusion: tuple[tuple[int, ...], ...]
    fingerprint: str
    name: str = "topic-words"
    labels: tuple[str, ...] = tuple(TOPICS)

    @property
    def num_test(self) -> int:
        """Test texts."""
        return sum(map(sum, self.confusion))

    @property
    def accuracy(self) -> float:
        """Share of the test texts whose verdict is right."""
        return sum(row[i] for i, row in enumerate(self.confusion)) / self.num_test

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Of each label, [B, L]; nan for a text without words."""
        prob_BL = np.asarray(self.model.predict_proba(list(texts)), float)
        prob_BL[[not words_of(text) for text in texts]] = math.nan
        return prob_BL


def learn_topic_judge(bench: Workbench) -> TopicJudge:
    """Logistic regression of words and pairs of words, from news without headlines."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import confusion_matrix
    from sklearn.pipeline import make_pipeline

    train, test = news("train")(bench.data), news("test")(bench.data)
    texts = [e.text for e in train]
    bench.used[f"{PART}/train"] = key = fingerprint(texts)
    bench.report("learning a judge of topics", 0, 1)
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
        LogisticRegression(C=PENALTY, max_iter=1000),
    ).fit(texts, [e.label for e in train])
    bench.report("learning a judge of topics", 1, 1)
    counts_LL = confusion_matrix([e.label for e in test], model.predict([e.text for e in test]))
    return TopicJudge(model, tuple(tuple(row) for row in counts_LL.tolist()), key)
