"""A reward of whole responses, r(prompt, response): linear in what the shared encoder makes of the response.

The response is read behind its prompt, the encoder's last hidden states after its tokens are averaged, and r is linear
in the mean. Being no sum over tokens it cannot be multiplied in token by token as a head can: it judges finished texts,
so the best of n texts can be chosen by it, or particles weighed by exp(r / beta), the exponent being 1 / beta.
Particles are led by the reward of what was written so far, asked for anew whenever the text has doubled; without that
a text that ends early would carry its whole reward against texts that carry none yet.

Sources: reward models, Stiennon et al. (2020), arXiv:2009.01325; the optimum of reward less beta times divergence as a
product, Korbak et al. (2022), arXiv:2205.11275; rewards of beginnings, Mudgal et al. (2024), arXiv:2310.17022.
"""

# Axes: B texts, D width, T time.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from factorlm.algebra import pad_left, pad_right
from factorlm.errors import IncompatibleError
from factorlm.factors.head import EncoderCard
from factorlm.factors.sequence import SequenceFactor, Tokens
from factorlm.factors.unbound import Unbound
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet

BATCH_TOKENS = 1024
MOST_REMEMBERED = 4096  # rewards of texts, for samplers that ask again


@dataclass(frozen=True, eq=False)
class RewardWeights:
    """The numbers of a reward: r = weight . mean state - offset, with which the mean text learned from has r = 0."""

    weight_D: Tensor
    offset: float

    def __call__(self, mean_BD: Tensor) -> Tensor:
        """Rewards [B] in double precision, of mean states."""
        return mean_BD.double() @ self.weight_D.double().to(mean_BD.device) - self.offset

    def scaled(self, scale: float) -> RewardWeights:
        """The rewards times a number."""
        return RewardWeights(self.weight_D * scale, self.offset * scale)


@dataclass(frozen=True, eq=False)
class UnboundReward(Unbound):
    """A reward as loaded from its file."""

    weights: RewardWeights
    encoder: EncoderCard

    def bind(self, lm: CausalLM) -> Reward:
        """See Unbound."""
        if self.encoder.fingerprint != lm.fingerprint:
            raise IncompatibleError(
                f"reward {self.name!r} needs the encoder {self.encoder.name} ({self.encoder.fingerprint}), got "
                f"{lm.name} ({lm.fingerprint}); use that model or train the reward for this one"
            )
        return Reward(self.name, lm.vocabulary, self.weights, lm)


@dataclass(frozen=True, eq=False)
class Reward(SequenceFactor):
    """The weight exp(r) of a finished response.

    Attributes:
        weights: of the reward.
        lm: the encoder.
    """

    weights: RewardWeights
    lm: CausalLM
    remembered: dict[tuple[Tokens, Tokens], float] = field(default_factory=dict, repr=False)

    def finished(self, prefix: Tokens, text: Tokens) -> float:
        """See SequenceFactor."""
        key = prefix, text
        if key not in self.remembered:
            while len(self.remembered) >= MOST_REMEMBERED:
                self.remembered.pop(next(iter(self.remembered)))
            self.remembered[key] = self.of([prefix], [text])[0]
        return self.remembered[key]

    def unfinished(self, prefix: Tokens, text: Tokens) -> float:
        """See SequenceFactor: the reward of the first 1, 2, 4, ... tokens, as many as there are."""
        return self.finished(prefix, text[: 1 << (len(text).bit_length() - 1)]) if text else 0.0

    def of(self, prefixes: Sequence[Tokens], texts: Sequence[Tokens], report: Report = quiet) -> list[float]:
        """Rewards, in nats, of responses in tokens behind prompts in tokens; 0 of a response without any."""
        ends = self.tokens.end_ids
        rows = [tuple(token for token in text if token not in ends) for text in texts]
        found = self.weights(mean_states(self.lm, prefixes, rows, report)).tolist() if rows else []
        return [value if row else 0.0 for value, row in zip(found, rows, strict=True)]

    def _weights(self, prefix: Tokens, text: Tokens) -> list[float]:
        """All of the weight at the end: a next token's share of it would cost a reading for each of the vocabulary."""
        weights = [0.0] * self.tokens.size
        if not any(token in self.tokens.end_ids for token in text):
            for token in self.tokens.end_ids:
                weights[token] = self.finished(prefix, (*text, token))
        return weights


@torch.no_grad()
def mean_states(lm: CausalLM, prefixes: Sequence[Tokens], rows: Sequence[Tokens], report: Report = quiet) -> Tensor:
    """Means over each text's tokens of the hidden states after them, [B, D]; of an empty text, the state before it.

    Args:
        lm: the encoder.
        prefixes: tokens before each text, the start token among them.
        rows: tokens of each text.
        report: told of progress.
    """
    order = sorted(range(len(rows)), key=lambda i: len(prefixes[i]) + len(rows[i]))
    mean_BD = torch.zeros(len(rows), lm.width)
    done = 0
    while done < len(order):
        size = max(1, BATCH_TOKENS // (len(prefixes[order[done]]) + len(rows[order[done]]) + 1))
        batch = order[done : done + size]
        # One more token, which is never read, so that the state after the last one is among those before a token.
        text_BT = pad_right([[*rows[i], 0] for i in batch])
        hidden_BTD = lm.hidden_before(pad_left([list(prefixes[i]) for i in batch]), text_BT).float().cpu()
        for b, i in enumerate(batch):
            first = 1 if rows[i] else 0
            mean_BD[i] = hidden_BTD[b, first : len(rows[i]) + 1].mean(0)
        done += len(batch)
        report("reading responses", done, len(order))
    return mean_BD
