"""FUDGE: candidates weighed by a classifier of prefixes, which reads the encoder's state of the extended prefix."""

# Axes: B batch, D width, H units of the classifier, K candidates, N prefixes.

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from factorlm.algebra import Factor, Named, Power
from factorlm.evaluation import clock
from factorlm.evaluation.rivals.candidates import Candidates, states_after
from factorlm.evaluation.rivals.kept import Kept, Learned
from factorlm.evaluation.rivals.rival import Prepared, digest_of_tensors
from factorlm.evaluation.rivals.states import LabelledStates, labelled_states
from factorlm.factors.examples import Split
from factorlm.models import CausalLM
from factorlm.models.encoding import Encoded
from factorlm.models.progress import Report, quiet
from factorlm.settings import Config


class PrefixTraining(Config):
    """How to learn the classifier of prefixes.

    Attributes:
        num_units: in its one hidden layer.
        learning_rate: of AdamW.
        weight_decay: of the same.
        batch: prefixes to a step.
        epochs: at most; the one with the least loss on held-out texts is kept.
        seed: of first values and of the order.
    """

    num_units: Annotated[int, Field(ge=1)] = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    batch: Annotated[int, Field(ge=1)] = 512
    epochs: Annotated[int, Field(ge=1)] = 8
    seed: int = 0


@dataclass(frozen=True, eq=False)
class PrefixClassifier:
    """Log odds of the attribute from a hidden state: one layer of units over the standardised state."""

    tensors: dict[str, Tensor]

    def __call__(self, hidden_ND: Tensor) -> Tensor:
        """Log odds, [...]."""
        t = {name: tensor.to(hidden_ND.device) for name, tensor in self.tensors.items()}
        unit_NH = torch.tanh(((hidden_ND.float() - t["mean"]) / t["deviation"]) @ t["down"].T + t["bias"])
        return unit_NH @ t["up"] + t["prior"]


@dataclass(frozen=True, eq=False, kw_only=True)
class PrefixPosterior(Candidates):
    """The candidates' weight P(a | text with v) / P(a | text), or that of the attribute's absence.

    Attributes:
        classifier: log odds of the attribute from a state.
        sign: 1 for the attribute, -1 for its absence.
    """

    classifier: PrefixClassifier
    sign: int = 1

    def log_class(self, encoded: Encoded, rows: list[list[int]], candidate_BK: Tensor) -> tuple[Tensor, Tensor]:
        """See Candidates."""
        after_BKD = states_after(self.lm, encoded, candidate_BK)
        before_B, after_BK = self.classifier(encoded.hidden_BD), self.classifier(after_BKD)
        return nn.functional.logsigmoid(self.sign * before_B), nn.functional.logsigmoid(self.sign * after_BK)


@dataclass(frozen=True)
class Fudge:
    """log p + dial log P(attribute | text so far and the next token), for the likeliest tokens.

    Attributes:
        settings: of the classifier.
        num_candidates: tokens that are looked at.
    """

    settings: PrefixTraining = field(default_factory=PrefixTraining)
    num_candidates: int = 50
    name: str = "FUDGE"
    dial: str = "exponent of the posterior of candidates"
    source: str = (
        "Yang and Klein (2021), arXiv:2104.05218; here the classifier reads the base's own states, and tokens that are "
        "no candidates keep their probability, so that all rivals draw in the same way"
    )

    def prepare(self, lm: CausalLM, parts: Split, kept: Kept, report: Report = quiet) -> Prepared:
        """See Rival."""
        train, dev = (labelled_states(lm, part, kept, report) for part in (parts.train, parts.dev))
        states = [s.fingerprint for s in (train, dev)]
        key = {"what": "fudge", "settings": self.settings.model_dump(mode="json"), "states": states}
        learned = kept.get("fudge", key, lambda checkpoint: _train(train, dev, self.settings, report))
        classifier = PrefixClassifier(learned.tensors)
        sides = {
            sign: Named(self.name, PrefixPosterior(lm, self.num_candidates, classifier=classifier, sign=sign))
            for sign in (1, -1)
        }

        def factor(dial: float) -> Factor:
            return Power(sides[1 if dial > 0 else -1], abs(dial))

        fitted = sum(learned.tensors[name].numel() for name in ("down", "bias", "up", "prior"))
        seconds = train.seconds + dev.seconds + learned.seconds
        settings = f"{digest_of_tensors(learned.tensors)} {self.num_candidates}"
        return Prepared(self.name, lm, factor, fitted, seconds, settings, f"{self.num_candidates} candidates")


def _train(train: LabelledStates, dev: LabelledStates, settings: PrefixTraining, report: Report) -> Learned:
    """Cross-entropy of the label after every prefix (FUDGE's loss)."""
    hidden_ND, label_N = train.features.hidden_ND.float(), train.label_N
    start = clock.seconds(hidden_ND.device)
    generator = torch.Generator().manual_seed(settings.seed)
    width = hidden_ND.shape[1]
    fitted = {
        "down": (torch.randn(settings.num_units, width, generator=generator) / width**0.5).requires_grad_(),
        "bias": torch.zeros(settings.num_units, requires_grad=True),
        "up": (torch.randn(settings.num_units, generator=generator) / settings.num_units**0.5).requires_grad_(),
        "prior": torch.zeros((), requires_grad=True),
    }
    fixed = {"mean": hidden_ND.mean(0), "deviation": hidden_ND.std(0).clamp(min=1e-3)}
    classifier = PrefixClassifier({**fixed, **fitted})
    optimizer = torch.optim.AdamW(fitted.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    loss_of = nn.functional.binary_cross_entropy_with_logits
    best, least = fitted, float("inf")
    for epoch in range(settings.epochs):
        for batch in torch.randperm(len(label_N), generator=generator).split(settings.batch):
            loss = loss_of(classifier(hidden_ND[batch]), label_N[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            dev_loss = float(loss_of(classifier(dev.features.hidden_ND.float()), dev.label_N))
        report("fitting the classifier of prefixes", epoch + 1, settings.epochs)
        if dev_loss < least:
            best, least = {name: tensor.detach().clone() for name, tensor in fitted.items()}, dev_loss
    return Learned({**fixed, **best}, clock.seconds(hidden_ND.device) - start)
