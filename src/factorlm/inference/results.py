"""What generation and scoring give back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from factorlm.inference.doubt import Doubt
from factorlm.inference.explanation import Explanation
from factorlm.inference.plans import Plan
from factorlm.inference.population import Population

if TYPE_CHECKING:
    from factorlm.inference.memories import Recalled


@dataclass(frozen=True, eq=False)
class Response:
    """A generated text.

    Attributes:
        prompt: what it continues.
        prompt_ids: the tokens of that, with a start token or the turns of a conversation.
        text: without prompt, end token and stop string.
        token_ids: as drawn, an end token included.
        log_prob: of the drawn tokens under the composed model (untruncated, temperature one), in nats: normalised at
            each token. Where particles were drawn, it is normalised over texts instead: the weight that the sampler
            gave the text (at its temperature) over its estimate of the weight of all texts that it allowed.
        base_log_prob: of the same tokens under the base model alone, in nats.
        finish_reason: "end", "stop" or "length".
        exponents: of each factor.
        explanation: what each factor did, if it was asked for.
        population: the particles that it was drawn from, if it was.
        component: of a prior, that wrote it, if one did.
        doubt: what the prior did not know at each token, if there was one and an explanation was asked for.
        plan: the meaning that was drawn for it, if a diffusion over meanings drew one.
        recalled: what each memory said of each token, if there were any and an explanation was asked for.
    """

    prompt: str
    prompt_ids: tuple[int, ...]
    text: str
    token_ids: tuple[int, ...]
    log_prob: float
    base_log_prob: float
    finish_reason: str
    exponents: dict[str, float]
    explanation: Explanation | None = None
    population: Population | None = None
    component: str | None = None
    doubt: Doubt | None = None
    plan: Plan | None = None
    recalled: tuple[Recalled, ...] = ()


@dataclass(frozen=True)
class Score:
    """What a composition thinks of a text.

    Attributes:
        text: the text.
        log_prob: under the composed model, in nats.
        base_log_prob: under the base model alone, in nats.
        num_tokens: tokens of the text.
        num_bytes: UTF-8 bytes of the text.
        log_ratios: evidence log p_k(x) / p(x) of each factor at exponent one, in nats.
    """

    text: str
    log_prob: float
    base_log_prob: float
    num_tokens: int
    num_bytes: int
    log_ratios: dict[str, float]

    @property
    def bits_per_byte(self) -> float:
        """Surprise of the composed model per byte, comparable across tokenizers; nan for an empty text."""
        return -self.log_prob / math.log(2) / self.num_bytes if self.num_bytes else math.nan
