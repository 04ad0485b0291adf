"""GeDi: the posterior of the attribute by Bayes' rule from two class-conditional models, raised to its dial."""

# Axes: B batch, R rows chosen, T time, V vocabulary.

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from factorlm.algebra import Factor, Named, Power, State, end_together, pad_right
from factorlm.evaluation import clock
from factorlm.evaluation.rivals.dexperts import fine_tuned_pair, num_parameters
from factorlm.evaluation.rivals.finetuning import FineTuning
from factorlm.evaluation.rivals.kept import Checkpoint, Kept, Learned
from factorlm.evaluation.rivals.rival import Prepared, digest, digest_of_tensors
from factorlm.factors.examples import Example, Split
from factorlm.factors.features import tokenized
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet
from factorlm.text import Vocabulary

MOST_TEXTS = 200  # that the scale and the prior are fitted on
BATCH_TEXTS = 16


@dataclass(frozen=True, eq=False)
class Posterior(Factor):
    """The weight sigmoid(sign (b + (scale / t) sum_s log p_+(x_s) / p_-(x_s))) of each next token, t counting it.

    What is read after the prefix counts as evidence; the prefix does not. The length t divides the evidence, as the
    model was fitted, so this is a weight of steps, not of whole texts.

    Attributes:
        expert: the model of texts with the attribute.
        anti_expert: the model of texts without.
        scale: of the mean evidence.
        prior: log odds b.
        sign: 1 for the attribute's posterior, -1 for that of its absence.
    """

    expert: Factor
    anti_expert: Factor
    scale: float
    prior: float
    sign: int

    @property
    def vocabulary(self) -> Vocabulary:
        """That of both models."""
        return self.expert.vocabulary

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        expert, anti = self.expert.start(prefix_BT), self.anti_expert.start(prefix_BT)
        nothing_BT = expert.log_weight_BV.new_zeros(prefix_BT.shape[0], 1)
        return self._state(expert, anti, nothing_BT, nothing_BT)

    def extend(self, state: State, token_B: Tensor) -> State:
        """See Factor."""
        expert, anti, evidence_BT, count_BT = state.memory
        ratio_BV = expert.log_weight_BV - anti.log_weight_BV
        step_B1 = ratio_BV.gather(1, token_B[:, None])
        evidence_BT = torch.cat([evidence_BT, evidence_BT[:, -1:] + step_B1], 1)
        count_BT = torch.cat([count_BT, count_BT[:, -1:] + 1], 1)
        return self._state(
            self.expert.extend(expert, token_B), self.anti_expert.extend(anti, token_B), evidence_BT, count_BT
        )

    def reorder(self, state: State, row_R: Tensor) -> State:
        """See Factor."""
        expert, anti, evidence_BT, count_BT = state.memory
        states = self.expert.reorder(expert, row_R), self.anti_expert.reorder(anti, row_R)
        return State(state.log_weight_BV[row_R], (*states, evidence_BT[row_R], count_BT[row_R]))

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""
        expert, anti, evidence_BT, count_BT = state.memory
        return self._state(
            self.expert.trim(expert, num_tokens_B),
            self.anti_expert.trim(anti, num_tokens_B),
            end_together(evidence_BT, num_tokens_B),
            end_together(count_BT, num_tokens_B),
        )

    def _state(self, expert: State, anti: State, evidence_BT: Tensor, count_BT: Tensor) -> State:
        total_BV = evidence_BT[:, -1:] + expert.log_weight_BV - anti.log_weight_BV
        logit_BV = self.prior + self.scale * total_BV / (count_BT[:, -1:] + 1)
        log_weight_BV = torch.nn.functional.logsigmoid(self.sign * logit_BV)
        return State(log_weight_BV, (expert, anti, evidence_BT, count_BT))


@dataclass(frozen=True)
class GeDi:
    """log p + dial log P(attribute | text so far and the next token).

    Attributes:
        settings: of both fine-tunings; those of DExperts are shared.
    """

    settings: FineTuning = field(default_factory=FineTuning)
    name: str = "GeDi"
    dial: str = "exponent of the posterior"
    source: str = (
        "Krause et al. (2021), arXiv:2009.06367; here with LoRA fine-tunes of the base in place of control codes, "
        "scale and prior fitted on held-out texts, and no filter of its own"
    )

    def prepare(self, lm: CausalLM, parts: Split, kept: Kept, report: Report = quiet) -> Prepared:
        """See Rival."""
        (expert, anti), learned = fine_tuned_pair(lm, parts, self.settings, kept, report)
        change = [digest_of_tensors(part.tensors) for part in learned]
        texts = parts.dev[:: max(1, -(-len(parts.dev) // MOST_TEXTS))]
        key = {"what": "posterior", "changes": change, "model": lm.fingerprint,
               "texts": digest([[e.text, e.is_positive] for e in texts])}  # fmt: skip

        def fit(checkpoint: Checkpoint) -> Learned:
            return _fit(lm, expert, anti, texts, report)

        fitted = kept.get("posterior", key, fit)
        scale, prior = float(fitted.tensors["scale"]), float(fitted.tensors["prior"])
        sides = {sign: Named(self.name, Posterior(expert, anti, scale, prior, sign)) for sign in (1, -1)}

        def factor(dial: float) -> Factor:
            return Power(sides[1 if dial > 0 else -1], abs(dial))

        return Prepared(
            self.name, lm, factor, num_parameters((*learned, fitted)),
            sum(part.seconds for part in (*learned, fitted)), digest([*change, scale, prior]),
            f"scale {scale:.2f}, prior {prior:+.2f}",
        )  # fmt: skip


def _fit(lm: CausalLM, expert: Factor, anti: Factor, examples: tuple[Example, ...], report: Report) -> Learned:
    """Scale and prior that best predict the labels of texts from their mean evidence."""
    from sklearn.linear_model import LogisticRegression

    start = clock.seconds(lm.device)
    rows = tokenized(lm, [e.text for e in examples])
    order = sorted((i for i, row in enumerate(rows) if row), key=lambda i: len(rows[i]))
    mean, label = [], []
    for first in range(0, len(order), BATCH_TEXTS):
        batch = order[first : first + BATCH_TEXTS]
        prefix_BT, text_BT = torch.tensor([lm.start_ids] * len(batch)), pad_right([rows[i] for i in batch])
        with torch.no_grad():
            ratio_B = (expert.score(prefix_BT, text_BT) - anti.score(prefix_BT, text_BT)).sum(1)
        mean += [float(ratio) / len(rows[i]) for ratio, i in zip(ratio_B, batch, strict=True)]
        label += [examples[i].is_positive for i in batch]
        report("fitting the posterior", len(mean), len(order))
    fit = LogisticRegression(C=1e4).fit([[x] for x in mean], label)
    found = {"scale": torch.tensor(float(fit.coef_[0, 0])), "prior": torch.tensor(float(fit.intercept_[0]))}
    return Learned(found, clock.seconds(lm.device) - start)
