"""What the parts of the suite share: models, judges, answers and what is said of them."""

# Axes: S answers to an attempt, U attempts.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.intervals import Estimate, mean_interval
from factorlm.evaluation.judges import Judge, judges_for
from factorlm.evaluation.judging import Verdicts, judged
from factorlm.evaluation.rates import attribute_rate
from factorlm.evaluation.redteam.attempts import Attempt, answered
from factorlm.evaluation.redteam.refusing import AuditedJudge, refusal_judges
from factorlm.evaluation.redteam.topic import TopicCheck
from factorlm.evaluation.responses import Samples
from factorlm.evaluation.workbench import Workbench
from factorlm.inference import Sampling
from factorlm.inference.expression import Composed

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
XSTEST = "redteam/xstest"


@dataclass(frozen=True)
class Balance:
    """Prompts that look unsafe, safe and unsafe ones.

    Attributes:
        text: of the prompt.
        kind: of it, as the set has it.
        is_unsafe: whether it should be refused.
    """

    text: str
    kind: str
    is_unsafe: bool


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of an attack.

    Attributes:
        answers: of each attempt.
        refusal: verdicts of each judge of refusals.
        toxicity: verdicts of each judge of toxicity.
        topic_US: whether each answer is about its request.
    """

    answers: Samples
    refusal: tuple[Verdicts, ...]
    toxicity: tuple[Verdicts, ...]
    topic_US: Flags

    def granted(self, judge: int) -> Array:
        """Whether each answer grants its request by a judge of refusals, [U, S]: it complies and is about it."""
        return np.nan_to_num(self.refusal[judge].has("complies")) * self.topic_US

    def corrected(self, judge: int, seed: int) -> Estimate:
        """Share of answers that grant their requests, corrected for the judge's errors on audited answers.

        Answers about something else are neither refusals nor successes, so only the others are corrected.
        """
        verdicts = self.refusal[judge]
        said = [
            [int(s) if s >= 0 and near else None for s, near in zip(said_S, near_S, strict=True)]
            for said_S, near_S in zip(verdicts.said_PS, self.topic_US, strict=True)
        ]
        share = float(np.mean([s is not None for row in said for s in row]))
        found = attribute_rate(said, verdicts.judge.confusion, label=0, seed=seed).corrected
        return Estimate(
            value=None if found.value is None else share * found.value,
            low=None if found.low is None else share * found.low,
            high=None if found.high is None else share * found.high,
            n=found.n,
        )


@dataclass(eq=False)
class Work:
    """One run of the suite.

    Attributes:
        bench: models, data, cache, progress and seed.
        sampling: how answers are drawn: as where the model is used.
        max_tokens: of an answer.
        safety: names of the factors that make a model safe; none for all factors of a composition.
        balance_per_kind: prompts of each kind of XSTest.
        show_texts: whether attempts and answers stand in the report.
    """

    bench: Workbench
    sampling: Sampling
    max_tokens: int
    safety: tuple[str, ...]
    balance_per_kind: int
    show_texts: bool
    refusal: list[AuditedJudge] = field(default_factory=refusal_judges)
    toxicity: list[Judge] = field(default_factory=lambda: judges_for("toxic")[:2])
    _balanced: dict[str, Samples] = field(default_factory=dict)
    _topic: TopicCheck | None = None

    @property
    def balance(self) -> list[Balance]:
        """The first prompts of each kind of XSTest."""
        seen: dict[str, int] = {}
        found = []
        for row in self.bench.data.rows(XSTEST):
            kind = str(row["type"])
            seen[kind] = seen.get(kind, 0) + 1
            if seen[kind] <= self.balance_per_kind:
                found.append(Balance(str(row["text"]), kind, row["label"] == 1))
        self.bench.used[XSTEST] = fingerprint([b.text for b in found])
        return found

    def balanced(self, index: int) -> Samples:
        """Answers of a model to the prompts of XSTest, one each."""
        name = self.bench.name(index)
        if name not in self._balanced:
            self._balanced[name] = answered(
                self.bench, self.bench.models[index], [Attempt(b.text) for b in self.balance], n=1,
                max_tokens=self.max_tokens, sampling=self.sampling, stage=f"{name}: look-alikes",
            )  # fmt: skip
        return self._balanced[name]

    @property
    def topic(self) -> TopicCheck:
        """The check of topics, made from the first model's answers to safe prompts of XSTest."""
        if self._topic is None:
            pairs = [
                (b.text, row[0].text)
                for b, row in zip(self.balance, self.balanced(0), strict=True)
                if not b.is_unsafe and row[0].text.strip()
            ]
            self._topic = TopicCheck.fitted(*map(list, zip(*pairs, strict=True)))
        return self._topic

    def outcome(self, requests: Sequence[str], answers: Samples, stage: str) -> Outcome:
        """What all judges say of answers to requests."""
        flat = [(request, s.text) for request, row in zip(requests, answers, strict=True) for s in row]
        near = self.topic.holds([r for r, _ in flat], [text for _, text in flat])
        return Outcome(
            answers,
            tuple(judged(self.bench, judge, answers, f"judging {stage}") for judge in self.refusal),
            tuple(judged(self.bench, judge, answers, f"judging {stage}") for judge in self.toxicity),
            np.array(near, bool).reshape(len(answers), -1),
        )

    def answer(self, composed: Composed, attempts: Sequence[Attempt], stage: str, n: int = 1) -> Samples:
        """Answers to attempts, drawn as this run draws them."""
        return answered(self.bench, composed, attempts, n=n, max_tokens=self.max_tokens, sampling=self.sampling,
                        stage=stage)  # fmt: skip

    def mean(self, values: Array) -> Estimate:
        """Mean over attempts of the mean over their answers."""
        return mean_interval(np.asarray(values, float).reshape(len(values), -1).mean(1), seed=self.bench.seed)
