"""A model that is edited, with what is needed to edit it and to see what it lost."""

# Axes: F width of keys.

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from factorlm.algebra import Factor, map_leaves
from factorlm.evaluation.answers import top_is_right
from factorlm.evaluation.edited.cases import Case
from factorlm.evaluation.perplexity import token_log_probs
from factorlm.evaluation.questions import Question
from factorlm.evaluation.requests import Tokenization, loglikelihood, score_tokens
from factorlm.inference import Model
from factorlm.models import CausalLM

BATCH_TOKENS = 2048


@dataclass(frozen=True, eq=False)
class Ground:
    """Where edits are made.

    Attributes:
        name: for tables.
        key: what results depend on beside the edit.
        model: before any edit; its language model is the one that is edited.
        moment_of: of its layers.
        prefixes: put before prompts when values are looked for.
        guard: few sentences.
        large_guard: many, of which the few are the first.
        quizzes: questions with choices, by name.
    """

    name: str
    key: Mapping[str, object]
    model: Model
    moment_of: Mapping[int, Tensor]
    prefixes: tuple[str, ...]
    guard: tuple[str, ...]
    large_guard: tuple[str, ...]
    quizzes: Mapping[str, tuple[Question, ...]]

    def over(self, lm: CausalLM) -> Model:
        """The composition with another language model in the place of its own, in what reads its states too."""
        return over(self.model, lm)

    @cached_property
    def base_nats(self) -> float:
        """Nats a token of the guard's sentences before any edit."""
        return self.nats(self.model)

    def nats(self, model: Model) -> float:
        """Nats a token of the guard's sentences."""
        return _nats(model, self.guard)

    def both_nats(self, model: Model) -> tuple[float, float]:
        """Nats a token of the sentences of both guards, the small one and the large one, which begins with it."""
        small = self.nats(model)
        return small, small if self.large_guard == self.guard else _nats(model, self.large_guard)

    def accuracy(self, model: Model) -> float:
        """Share of questions answered right, the mean over quizzes."""
        return float(np.mean([quiz_accuracy(model, questions) for questions in self.quizzes.values()]))


def _nats(model: Model, sentences: Sequence[str]) -> float:
    return -float(np.concatenate(token_log_probs(model, sentences, batch_tokens=BATCH_TOKENS)).mean())


def over(model: Model, lm: CausalLM) -> Model:
    """A composition with another language model in the place of its own."""

    def change(leaf: Factor) -> Factor:
        if leaf is model.lm:
            return lm
        if dataclasses.is_dataclass(leaf) and getattr(leaf, "lm", None) is model.lm:
            return dataclasses.replace(leaf, lm=lm)
        return leaf

    return Model(map_leaves(model.factor, change), lm)


def quiz_accuracy(model: Model, questions: Sequence[Question]) -> float:
    """Share of questions whose right answer is the most probable one a byte."""
    pairs = [(q.prompt, answer) for q in questions for answer in (q.right[0], *q.wrong)]
    found = iter(loglikelihood(model, pairs))
    right = []
    for question in questions:
        answers = (question.right[0], *question.wrong)
        values = [next(found).log_prob / len(answer.encode()) for answer in answers]
        right.append(top_is_right(values, [n == 0 for n in range(len(answers))]))
    return float(np.mean(right))


def probed(model: Model, case: Case, *, before: str = "", with_start: bool = True) -> dict[str, float]:
    """What a model says of a case: efficacy, magnitude, paraphrase and neighbourhood, shares of prompts.

    Whole texts are weighed, not continuations: a mixture learns from the prompt which part is speaking.

    Args:
        model: any composition.
        case: the fact and its surroundings.
        before: put before every prompt.
        with_start: whether texts begin with the start token.
    """
    tokens = Tokenization.of(model.lm)
    prompts = [before + prompt for prompt in (case.fact.asked, *case.paraphrases, *case.neighbours)]
    ends = (f" {case.fact.target}", f" {case.fact.truth}")
    texts = [prompt + end for prompt in prompts for end in ends] + prompts[:1]
    rows = [tuple(tokens.encode(text)) for text in texts]
    pairs = [(tokens.empty_ids, row) if with_start else (row[:1], row[1:]) for row in rows]
    *nats, asked = (found.log_prob for found in score_tokens(model, pairs))
    gains = [nats[2 * n] - nats[2 * n + 1] for n in range(len(prompts))]
    other, near = gains[1 : 1 + len(case.paraphrases)], gains[1 + len(case.paraphrases) :]
    new, old = (math.exp(min(0.0, joint - asked)) for joint in nats[:2])
    return {
        "efficacy": float(gains[0] > 0),
        "magnitude": new - old,
        "paraphrase": float(np.mean([gain > 0 for gain in other])) if other else math.nan,
        "neighbourhood": float(np.mean([gain < 0 for gain in near])) if near else math.nan,
    }


def harmonic(values: Sequence[float]) -> float:
    """Harmonic mean, 0 where a value is 0: the score S of Meng et al. (2022) of efficacy, paraphrase, neighbourhood."""
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / value for value in values)


def generation_entropy(text: str) -> float:
    """Variety of a text in nats: two thirds that of its pairs of words, four thirds that of its triples, halved.

    After Meng et al. (2022), appendix, who count in bits.
    """
    words = text.split()

    def entropy(n: int) -> float:
        counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        return -sum(c / counts.total() * math.log(c / counts.total()) for c in counts.values())

    return (2 / 3 * entropy(2) + 4 / 3 * entropy(3)) / 2
