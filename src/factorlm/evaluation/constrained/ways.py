"""Ways of making a model meet several constraints: factors, one fine-tuned model, one instruction."""

# Axes: K constraints, P prompts, S samples of a prompt.

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from factorlm.algebra import Factor, Power, Product
from factorlm.evaluation.constrained.constraints import Constraint, Examiner, ExamplesOf, instruction
from factorlm.evaluation.constrained.matching import Matched, matched, potentials
from factorlm.evaluation.constrained.matching import divergence as neutral_divergence
from factorlm.evaluation.constrained.monolithic import Monolith, fine_tuned
from factorlm.evaluation.diversity import distinct, jackknife_interval, leave_groups_out, words_of
from factorlm.evaluation.intervals import Estimate, bootstrap, mean_interval
from factorlm.evaluation.judging import base_perplexity, divergence
from factorlm.evaluation.rates import attribute_rate
from factorlm.evaluation.responses import Samples, base_nats, respond
from factorlm.evaluation.workbench import Workbench
from factorlm.factors import bind, factor, prompt
from factorlm.inference import Model, Sampling
from factorlm.inference.expression import Composed, factor_part
from factorlm.inference.strengths import exponent_of
from factorlm.models import CausalLM
from factorlm.models.lora import LoraSettings

Array = NDArray[np.float64]
FACTORISED, MONOLITHIC, PROMPT = "factorised", "monolithic", "prompt"
AS_TRAINED, MATCHED_PROMPT = "monolithic, as trained", "prompt, matched"
BASE = "base"
WAYS = (FACTORISED, MONOLITHIC, PROMPT, AS_TRAINED, MATCHED_PROMPT)
CLAIMED = WAYS[:3]  # those that headlines speak of
RIVALS = (MONOLITHIC, PROMPT, MATCHED_PROMPT)  # those that factors are tested against
NEVER_WRONG = ((1, 0), (0, 1))  # the confusion of a judge whose verdicts are taken as they are


@dataclass(frozen=True, eq=False)
class Condition:
    """Texts written in one way, and which constraints each of them meets.

    Attributes:
        samples: the texts.
        meets_PS: by the title of a constraint, 1, 0, or nan for a text without words.
        seed: of the intervals.
    """

    samples: Samples
    meets_PS: dict[str, Array]
    seed: int

    def share(self, title: str) -> Array:
        """Share of each prompt's texts that meet a constraint, [P]."""
        return _mean_over_samples(self.meets_PS[title])

    def rate(self, title: str) -> Estimate:
        """Share of texts that meet a constraint."""
        return _rate(self.meets_PS[title], self.seed)

    def mean_share(self, titles: Sequence[str]) -> Array:
        """The mean over constraints of `share`, [P]."""
        return np.asarray(np.mean([self.share(title) for title in titles], 0))

    def mean_rate(self, titles: Sequence[str]) -> Estimate:
        """The mean over constraints of their rates."""
        return self.rate(titles[0]) if len(titles) == 1 else mean_interval(self.mean_share(titles), seed=self.seed)

    def joint_share(self, titles: Sequence[str]) -> Array:
        """Share of each prompt's texts that meet all of these constraints at once, [P]."""
        return _mean_over_samples(self._joint_PS(titles))

    def joint_rate(self, titles: Sequence[str]) -> Estimate:
        """Share of texts that meet all of these constraints at once."""
        return _rate(self._joint_PS(titles), self.seed)

    def _joint_PS(self, titles: Sequence[str]) -> Array:
        return np.asarray(np.prod([self.meets_PS[title] for title in titles], 0))

    @cached_property
    def perplexity(self) -> Estimate:
        """Of the texts under the base model."""
        return base_perplexity(self.samples, self.seed)

    @cached_property
    def moved(self) -> Estimate:
        """Nats a token that the texts lie from the base model."""
        return divergence(self.samples, self.seed)

    @cached_property
    def distinct_3(self) -> Estimate:
        """Different word trigrams of all texts over all of their trigrams."""
        words = [[words_of(sample.text) for sample in row] for row in self.samples]

        def statistic(kept: NDArray[np.intp]) -> Array:
            return np.array([distinct([text for p in kept for text in words[p]], 3)])

        whole, deleted_G1 = leave_groups_out(statistic, range(len(words)), seed=self.seed)
        return jackknife_interval(float(whole[0]), deleted_G1[:, 0] if len(deleted_G1) else whole[:0], len(words))

    def perplexity_ratio(self, base: Condition) -> Estimate:
        """Perplexity of the texts over that of the base model's own after the same prompts, both under the base."""
        nats_P4 = np.concatenate([base_nats(self.samples), base_nats(base.samples)], 1)
        return bootstrap(
            nats_P4, lambda mean_R4: np.exp(mean_R4[:, 0] / mean_R4[:, 1] - mean_R4[:, 2] / mean_R4[:, 3]),
            seed=self.seed,
        )  # fmt: skip


class Composition(NamedTuple):
    """Factors with exponents, and how far they move the base at the neutral states, in nats per token."""

    exponents: dict[str, float]
    divergence: float
    sum_of_strengths: float


@dataclass(frozen=True)
class Writing:
    """How all texts are written and how far they are moved.

    Attributes:
        samples: texts for each prompt.
        max_tokens: of a text.
        sampling: how tokens are drawn.
        strength: of each factor, in nats per token.
        budget: most nats per token of all factors together.
        texts: of each constraint, for fine-tuning.
        lora: how to fine-tune.
    """

    samples: int
    max_tokens: int
    sampling: Sampling
    strength: float
    budget: float
    texts: int
    lora: LoraSettings


@dataclass(frozen=True, eq=False)
class Work:
    """Writes the texts of every way, and has them examined.

    Attributes:
        bench: cache, seed and progress.
        base: the bare language model.
        prompts: what is continued.
        writing: how.
        examiners: of every constraint.
        examples_of: labelled texts of an attribute.
        cautions: found on the way.
    """

    bench: Workbench
    base: Composed
    prompts: Sequence[str]
    writing: Writing
    examiners: Mapping[Constraint, Examiner]
    examples_of: ExamplesOf
    cautions: list[str] = field(default_factory=list)

    @property
    def lm(self) -> CausalLM:
        """The language model."""
        return self.base.model.lm

    def plain(self) -> Condition:
        """Texts of the base model."""
        return self._written(BASE, self.base)

    def composition(self, constraints: Sequence[Constraint], *, within_budget: bool = True) -> Composition:
        """Factors of equal strength, all turned down alike if they move the base by more than the budget together."""
        strength, budget = self.writing.strength, self.writing.budget
        key = {
            "what": "exponents of equal strength", "model": self.base.fingerprint, "strength": strength,
            "factors": [{**factor_part(c.factor), "sign": c.sign} for c in constraints],
            "budget": budget if within_budget else None,
        }  # fmt: skip

        def compute() -> dict[str, object]:
            bound = [bind(factor(c.factor), self.lm) for c in constraints]
            exponent_K = [exponent_of(self.lm, f, c.sign * strength) for f, c in zip(bound, constraints, strict=True)]
            total_NV = _sum(exponent_K, [potentials(self.lm, f) for f in bound])
            moved = Matched(1.0, neutral_divergence(self.lm, total_NV))
            if within_budget and moved.divergence > budget:
                moved = matched(self.lm, total_NV, budget, largest=1.0)
            return {
                "exponents": {
                    c.factor: float(f"{moved.exponent * e:.6g}") for c, e in zip(constraints, exponent_K, strict=True)
                },
                "divergence": moved.divergence,
            }

        found = self.bench.cache.get(key, compute)
        return Composition(dict(found["exponents"]), float(found["divergence"]), strength * len(constraints))

    def divergence(self, exponents: Mapping[str, float]) -> float:
        """How far factors with these exponents move the base at the neutral states, in nats per token."""
        key = {
            "what": "divergence of a composition", "model": self.base.fingerprint, "exponents": dict(exponents),
            "factors": [factor_part(name) for name in sorted(exponents)],
        }  # fmt: skip

        def compute() -> float:
            bound = [bind(factor(name), self.lm) for name in exponents]
            return neutral_divergence(self.lm, _sum(list(exponents.values()), [potentials(self.lm, f) for f in bound]))

        return float(self.bench.cache.get(key, compute))

    def factorised(self, exponents: Mapping[str, float], name: str) -> Condition:
        """Texts of the base times factors."""
        return self._written(f"{FACTORISED}, {name}", self.base, exponents)

    def monolith(self, constraints: Sequence[Constraint]) -> Monolith:
        """The model fine-tuned towards the constraints."""
        return fine_tuned(
            self.bench, self.lm, constraints, self.examples_of, self.writing.lora, most=self.writing.texts
        )

    def monolithic(self, monolith: Monolith, targets: Mapping[str, float | None]) -> dict[str, tuple[Condition, float]]:
        """Texts of a fine-tuned model, moved on its way from the base as far as a target, with the exponent.

        Args:
            monolith: the model.
            targets: in nats per token, by a name for progress and cautions; None takes the model as it was trained.
        """
        ratio = monolith.ratio(self.lm)  # large in memory, so it is made for all targets and then let go
        found = {}
        for name, target in targets.items():
            exponent = 1.0 if target is None else self._matched(ratio, monolith.fingerprint, target, name)
            found[name] = self._written(name, self._raised(ratio, monolith.fingerprint, exponent)), exponent
        return found

    def prompted(
        self, constraints: Sequence[Constraint], name: str, *, target: float | None
    ) -> tuple[Condition, float]:
        """Texts after an instruction with all constraints, and the exponent of its ratio to the base.

        Args:
            constraints: what is asked for.
            name: for progress and cautions.
            target: nats per token; None takes the instruction as it is.
        """
        asked = instruction(constraints)
        ratio = bind(prompt(asked), self.lm)
        exponent = 1.0 if target is None else self._matched(ratio, asked, target, name)
        return self._written(name, self._raised(ratio, asked, exponent)), exponent

    def _matched(self, ratio: Factor, fingerprint: str, target: float, name: str) -> float:
        key = {"what": "matched exponent", "model": self.base.fingerprint, "of": fingerprint, "target": target}
        found = Matched(*self.bench.cache.get(key, lambda: list(matched(self.lm, potentials(self.lm, ratio), target))))
        if found.divergence < 0.95 * target:
            self.cautions.append(
                f"{name}: could not be moved by {target:.2f} nats a token, only by {found.divergence:.2f} (exponent "
                f"{found.exponent:g})."
            )
        return found.exponent

    def _raised(self, ratio: Factor, fingerprint: str, exponent: float) -> Composed:
        digest = hashlib.sha256(f"{self.base.fingerprint} {fingerprint} {exponent!r}".encode()).hexdigest()[:16]
        model = Model(Product((self.lm, Power(ratio, exponent))), self.lm)
        return Composed(f"{self.base.expression} * {fingerprint}^{exponent:g}", model, self.base.parts, digest)

    def _written(self, name: str, composed: Composed, exponents: Mapping[str, float] | None = None) -> Condition:
        writing = self.writing
        samples = respond(
            self.bench, composed, self.prompts, n=writing.samples, max_tokens=writing.max_tokens,
            sampling=writing.sampling, stage=f"writing: {name}", exponents=exponents,
        )  # fmt: skip
        meets = {c.title: e.examine(samples, f"judging: {name}") for c, e in self.examiners.items()}
        return Condition(samples, meets, self.bench.seed)


def _sum(exponent_K: Sequence[float], potential_KNV: Sequence[Tensor]) -> Tensor:
    return sum(
        (a * x for a, x in zip(exponent_K[1:], potential_KNV[1:], strict=True)), exponent_K[0] * potential_KNV[0]
    )


def _mean_over_samples(meets_PS: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(meets_PS, 1) / (~np.isnan(meets_PS)).sum(1))


def _rate(meets_PS: Array, seed: int) -> Estimate:
    verdicts = [[None if math.isnan(meets) else int(meets) for meets in row] for row in meets_PS.tolist()]
    return attribute_rate(verdicts, NEVER_WRONG, label=1, seed=seed).raw
