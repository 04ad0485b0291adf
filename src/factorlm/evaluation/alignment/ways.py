"""Ways of using one reward: each writes responses to the same prompts, measured by reward, judge and divergence."""

# Axes: C components, P prompts, S responses to a prompt.

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from factorlm.algebra import Factor, LocalProduct, Power, pad_left, pad_right
from factorlm.evaluation.judges import Judge
from factorlm.evaluation.judging import judged
from factorlm.evaluation.responses import Sample, Samples, respond
from factorlm.evaluation.workbench import Workbench
from factorlm.factors.head import Head, HeadWeights
from factorlm.factors.reward import Reward
from factorlm.inference import Model, Particles, Sampling
from factorlm.inference.expression import Composed
from factorlm.inference.twists import Loss, learn_twist

Array = NDArray[np.float64]
PLAIN = Sampling()
TOGETHER = 64  # responses read at once
PROMPTS_OF_PARTICLES = 4


@dataclass(frozen=True, eq=False)
class Read:
    """Responses with what is measured of them.

    Attributes:
        samples: of each prompt.
        reward_PS: the proxy, in nats.
        judged_PS: probability of the wanted label in the judge's eyes; nan for a text without words.
        moved_PS: log probability as written less that under the model, in nats per response.
    """

    samples: Samples
    reward_PS: Array
    judged_PS: Array
    moved_PS: Array

    @property
    def length_PS(self) -> Array:
        """Tokens of each response."""
        return np.array([[len(s.token_ids) for s in row] for row in self.samples], dtype=float)

    def texts(self, place_P: Sequence[int] | NDArray[np.intp]) -> list[str]:
        """One response to each prompt."""
        return [row[place].text for row, place in zip(self.samples, place_P, strict=True)]


@dataclass(frozen=True, eq=False)
class Writer:
    """What all ways share.

    Attributes:
        bench: cache, seed and progress.
        base: the composition that is aligned.
        reward: the proxy.
        judge: the independent one.
        label: that it is asked for.
        prompts: to be continued.
        max_tokens: of a response.
    """

    bench: Workbench
    base: Composed
    reward: Reward
    judge: Judge
    label: str
    prompts: Sequence[str]
    max_tokens: int

    def read(self, samples: Samples, stage: str) -> Read:
        """Responses with their rewards and the judge's verdicts."""
        reward_PS = self.rewards(samples, stage)
        judged_PS = judged(self.bench, self.judge, samples, f"judging: {stage}").prob(self.label)
        moved_PS = np.array([[s.log_prob - s.base_log_prob for s in row] for row in samples])
        return Read(samples, reward_PS, judged_PS, moved_PS)

    def rewards(self, samples: Samples, stage: str, reward: Reward | None = None) -> Array:
        """Rewards of responses, [P, S], in nats."""
        reward = reward or self.reward
        prefixes = [self.base.model.encode_prompt(prompt, self.max_tokens) for prompt in self.prompts]
        items = [[prefix, list(s.token_ids)] for prefix, row in zip(prefixes, samples, strict=True) for s in row]

        def work(batch: list[Any]) -> list[float]:
            return reward.of([tuple(prefix) for prefix, _ in batch], [tuple(text) for _, text in batch])

        key = {"what": "rewards", "model": reward.lm.fingerprint, "reward": numbers_of(reward)}
        found = self.bench.in_batches(f"rewards: {stage}", key, items, TOGETHER, work)
        return np.array(found).reshape(len(samples), -1)

    def write(self, n: int, stage: str, factor: Factor | None = None, name: str = "") -> Samples:
        """N responses to each prompt, drawn token by token from the base times a factor.

        Args:
            n: responses to a prompt.
            stage: for the progress bar.
            factor: to multiply with; None writes with the base.
            name: of the factor with its numbers: equal names stand for equal factors.
        """
        composed = self.base
        if factor is not None:
            digest = hashlib.sha256(f"{self.base.fingerprint} {name}".encode()).hexdigest()[:16]
            composed = Composed(f"{self.base.expression} * {stage}", self.base.model * factor, (), digest)
        found = respond(
            self.bench, composed, self.prompts, n=n, max_tokens=self.max_tokens, sampling=PLAIN, stage=stage
        )
        return self._against_base(found) if factor is not None else found

    def particles(self, beta: float, number: int, stage: str) -> Samples:
        """A response to each prompt from particles weighed by exp(r / beta); log probabilities are left at 0."""
        key = {"what": "rewarded particles", "model": self.base.fingerprint, "reward": numbers_of(self.reward),
               "beta": beta, "number": number, "max_tokens": self.max_tokens, "seed": self.bench.seed}  # fmt: skip
        model = self.base.model * Power(self.reward, 1 / beta)

        def work(batch: list[str]) -> list[dict[str, Any]]:
            found = model.generate(
                batch, max_tokens=self.max_tokens, seed=self.bench.seed, particles=Particles(number=number, limit="cut")
            )
            return [{"text": r.text, "token_ids": list(r.token_ids), "finish": r.finish_reason} for r in found]

        rows = self.bench.in_batches(stage, key, list(self.prompts), PROMPTS_OF_PARTICLES, work)
        return [[Sample(row["text"], tuple(row["token_ids"]), 0.0, 0.0, row["finish"])] for row in rows]

    def lead(self, prompts: Sequence[str], beta: float, number: int, loss: Loss) -> Head:
        """A head that looks ahead to exp(r / beta): its logarithm ("ctl") or its plain expectation ("mean")."""
        lm = self.base.model.lm
        key = {"what": "lead", "model": self.base.fingerprint, "reward": numbers_of(self.reward), "beta": beta,
               "prompts": list(prompts), "number": number, "loss": loss, "max_tokens": self.max_tokens,
               "seed": self.bench.seed}  # fmt: skip

        def learn() -> list[float]:
            factor = self.base.model.factor * Power(self.reward, 1 / beta)
            twist = learn_twist(
                factor, [self.base.model.encode_prompt(prompt, self.max_tokens) for prompt in prompts],
                max_tokens=self.max_tokens, number=number, loss=loss, seed=self.bench.seed, limit="cut",
                report=self.bench.report,
            )  # fmt: skip
            numbers: list[float] = twist.head.weights.bias_D.tolist()
            return numbers

        bias_D = torch.tensor(self.bench.cache.get(key, learn))
        return Head(f"{loss} lead", HeadWeights.shift(bias_D).to(lm.device), lm)

    def log_probs(self, samples: Samples, models: Sequence[Model], stage: str) -> Array:
        """Log probability of responses under several models, normalised at each token, [C, P, S], in nats."""
        found = np.empty((len(models), len(samples), len(samples[0])))
        for c, model in enumerate(models):
            factor = LocalProduct.of(model.factor)
            for p, (prompt, row) in enumerate(zip(self.prompts, samples, strict=True)):
                prefix = model.encode_prompt(prompt, self.max_tokens)
                text_BT = pad_right([list(s.token_ids) for s in row])
                with torch.inference_mode():
                    step_BT = factor.score(pad_left([prefix] * len(row)), text_BT)
                found[c, p] = step_BT.double().sum(1).tolist()
                self.bench.report(stage, c * len(samples) + p + 1, len(models) * len(samples))
        return found

    def _against_base(self, samples: Samples) -> Samples:
        """With the log probability under the composition that is aligned, which may itself hold factors."""
        if len(self.base.model.terms) == 1:
            return samples
        base_PS = self.log_probs(samples, [self.base.model], "weighing")[0]
        return [
            [Sample(s.text, s.token_ids, s.log_prob, float(nats), s.finish_reason)
             for s, nats in zip(row, base_S, strict=True)]
            for row, base_S in zip(samples, base_PS, strict=True)
        ]  # fmt: skip


def numbers_of(reward: Reward) -> str:
    """Hash of a reward's numbers."""
    weights = reward.weights
    return hashlib.sha256(weights.weight_D.double().numpy().tobytes() + repr(weights.offset).encode()).hexdigest()[:16]
