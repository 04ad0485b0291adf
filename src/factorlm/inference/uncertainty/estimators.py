"""Estimators of uncertainty by name. A new one is a function of the evidence and a line in the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from factorlm.errors import UnknownNameError
from factorlm.inference.uncertainty import inverse, likelihood, meanings
from factorlm.inference.uncertainty.evidence import Evidence
from factorlm.inference.uncertainty.meanings import Encode, Meanings

Need = Literal["samples", "true", "known", "variants", "between"]


@dataclass(frozen=True, eq=False)
class Tools:
    """What some estimators need beside the evidence.

    Attributes:
        encode: sentences as vectors.
        meanings: which answers mean the same.
    """

    encode: Encode
    meanings: Meanings

    @staticmethod
    def default(aliases: Mapping[str, str] | None = None) -> Tools:
        """With the default sentence encoder, loaded when it is first needed."""
        return Tools(encode_sentences, Meanings(encode_sentences, aliases=aliases or {}))


@dataclass(frozen=True)
class Estimator:
    """A way to tell how sure a model is of its answer.

    Attributes:
        name: by which it is asked for.
        title: for tables.
        needs: of the evidence, beside the greedy answer.
        confidence: a number that is higher for surer answers; its scale is the estimator's own.
        link: how a raw probability is read off it: "exp" for what is at most 0, "logit" for log odds.
        how: in a sentence.
    """

    name: str
    title: str
    needs: tuple[Need, ...]
    confidence: Callable[[Evidence, Tools], float]
    link: Literal["exp", "logit"]
    how: str

    def raw_probability(self, confidence: float) -> float:
        """What the number says of the chance to be right if it is taken at its word, in [0, 1]."""
        if self.link == "exp":
            return math.exp(min(0.0, confidence))
        return 1 / (1 + math.exp(-confidence)) if confidence > -700 else 0.0


def _true(evidence: Evidence, tools: Tools) -> float:
    assert evidence.true_logit is not None
    return evidence.true_logit


def _known(evidence: Evidence, tools: Tools) -> float:
    assert evidence.known_logit is not None
    return evidence.known_logit


def _semantic(evidence: Evidence, tools: Tools) -> float:
    clusters = tools.meanings.clusters(evidence.question, evidence.texts)
    return -meanings.semantic_entropy(clusters, evidence.samples)


def _discrete(evidence: Evidence, tools: Tools) -> float:
    return -meanings.discrete_semantic_entropy(tools.meanings.clusters(evidence.question, evidence.texts))


def _agreement(evidence: Evidence, tools: Tools) -> float:
    """Log of the share of samples that mean what the answer means, one counted beside them."""
    same = [tools.meanings.same(evidence.question, evidence.answer.text, text) for text in evidence.texts]
    return math.log((sum(same) + 1) / (len(same) + 1))


def _inverse(evidence: Evidence, tools: Tools) -> float:
    return -inverse.estimate(evidence.variants, tools.encode)


ESTIMATORS: dict[str, Estimator] = {
    estimator.name: estimator
    for estimator in (
        Estimator("mean-log-prob", "mean log probability", (), lambda e, _: likelihood.mean_log_prob(e), "exp",
                  "nats per token of the greedy answer"),
        Estimator("log-prob", "log probability", (), lambda e, _: likelihood.total_log_prob(e), "exp",
                  "nats of the greedy answer"),
        Estimator("naive-entropy", "naive entropy", ("samples",), lambda e, _: likelihood.negative_entropy(e), "exp",
                  "minus the mean log probability of the samples"),
        Estimator("mean-entropy", "naive entropy per token", ("samples",),
                  lambda e, _: likelihood.negative_mean_entropy(e), "exp", "the same per token"),
        Estimator("semantic-entropy", "semantic entropy", ("samples",), _semantic, "exp",
                  "entropy over clusters of samples that mean the same, weighed by likelihood"),
        Estimator("discrete-semantic-entropy", "discrete semantic entropy", ("samples",), _discrete, "exp",
                  "entropy over these clusters by number of samples"),
        Estimator("agreement", "agreement", ("samples",), _agreement, "exp",
                  "share of samples that mean what the answer means"),
        Estimator("p-true", "P(True)", ("true",), _true, "logit",
                  "what the model says when it is asked whether its answer is true"),
        Estimator("p-ik", "P(IK)", ("known",), _known, "logit", "a trained head on the state behind the question"),
        Estimator("inv-entropy", "Inv-Entropy", ("variants",), _inverse, "exp",
                  "how many variants of the question could have led to the answers"),
        Estimator("between", "between components", ("between",), lambda e, _: likelihood.negative_between(e), "exp",
                  "what the components of a prior disagree in along the answer"),
    )
}  # fmt: skip


def estimator_named(name: str) -> Estimator:
    """The estimator of this name.

    Raises:
        UnknownNameError: if there is none; near names are listed.
    """
    if name not in ESTIMATORS:
        raise UnknownNameError.of("estimator", name, ESTIMATORS)
    return ESTIMATORS[name]


def encode_sentences(texts: Sequence[str]) -> meanings.Array:
    """Vectors of length one by the default sentence encoder, [B, D]."""
    from factorlm.models.sentences import load_sentence_encoder

    found: meanings.Array = load_sentence_encoder().encode(list(texts)).double().numpy()
    return found
