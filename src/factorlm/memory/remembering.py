"""What every memory is: a distribution over next tokens that knows how much it knows.

A memory's next-token weights sum to the weight that its gate gives it, at most one; `Backoff((memory, model))` lets
the model say the rest. Without a gate they sum to one, and the memory is a language model of its own.
"""

# Axes: B batch, F features of an answer, N tokens of texts laid end to end, T time, V vocabulary.

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from factorlm.algebra import PAD, Factor, LocalProduct, State
from factorlm.errors import InputError
from factorlm.memory.gates import Evidence, Gate
from factorlm.models import CausalLM


class Answer(NamedTuple):
    """What a memory says of the next token of each row.

    Attributes:
        log_prob_BV: in nats; all -inf where it knows nothing.
        feature_BF: what it knows of its own answer; see the memory's `FEATURES`.
    """

    log_prob_BV: Tensor
    feature_BF: Tensor


@dataclass(frozen=True)
class Source:
    """A place in the texts of a memory that an answer comes from.

    Attributes:
        document: its number.
        path: of the file that held it; empty where that is not known.
        line: of the file, at which the document begins; None where that is not known.
        before: some tokens before what matched.
        match: what matched.
        after: some tokens behind it.
    """

    document: int
    path: str
    line: int | None
    before: tuple[int, ...]
    match: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Recollection:
    """What a memory said of one token of a text.

    Attributes:
        weight: of the memory there.
        prob: of the token, by the memory alone.
        features: what it knew of its answer, by name.
        sources: some places that the answer comes from.
    """

    weight: float
    prob: float
    features: dict[str, float]
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True, eq=False)
class Memory(Factor):
    """A memory; a subclass says what it looks up.

    Attributes:
        name: what people call it.
        gate: how much it may say; None lets it say everything.
        most: a weight that it never passes, whatever the gate.
    """

    FEATURES: ClassVar[tuple[str, ...]] = ()

    name: str
    gate: Gate | None
    most: float

    @abstractmethod
    def look(self, memory: Any) -> Answer:
        """What is said after what a state has read."""

    @abstractmethod
    def looks(self, prefix_BT: Tensor, text_BT: Tensor) -> Iterator[Answer]:
        """What is said before each token of whole texts; means nothing after PAD."""

    @property
    def ungated(self) -> Self:
        """The same memory as a language model of its own."""
        return replace(self, gate=None, most=1.0)

    def gated(self, gate: Gate | None, most: float = 1.0) -> Self:
        """The same memory under another gate, never with more than this weight."""
        if not 0 <= most <= 1:
            raise InputError(f"a memory has a weight from 0 to 1, got {most}")
        return replace(self, gate=gate, most=most)

    def steps(self, prefix_BT: Tensor, text_BT: Tensor) -> Iterator[Tensor]:
        """See Factor."""
        for answer in self.looks(prefix_BT, text_BT):
            yield self.weighed(answer)

    def recollect(self, prefix_ids: Sequence[int], text_ids: Sequence[int], most: int = 3) -> list[Recollection]:
        """What was said of each token of a text, with at most so many sources each."""
        answers = self.looks(torch.tensor([list(prefix_ids)]), torch.tensor([list(text_ids)]))
        return [self._recollection(answer, token) for answer, token in zip(answers, text_ids, strict=True)]

    def _recollection(self, answer: Answer, token: int, sources: Sequence[Source] = ()) -> Recollection:
        features = dict(zip(self.FEATURES, answer.feature_BF[0].tolist(), strict=True))
        prob = float(answer.log_prob_BV[0, token].exp())
        return Recollection(float(self.weight_B(answer)[0]), prob, features, tuple(sources))

    def weighed(self, answer: Answer) -> Tensor:
        """Next-token log weights [B, V]: the answer times its weight."""
        if self.gate is None and self.most == 1:
            return answer.log_prob_BV
        return self.weight_B(answer).log()[:, None] + answer.log_prob_BV

    def weight_B(self, answer: Answer) -> Tensor:
        """The weight of each answer, [B]; zero where nothing is known."""
        knows_B = answer.log_prob_BV.amax(-1) > -torch.inf
        weight_B = torch.ones(len(knows_B)) if self.gate is None else self.gate.weights(answer.feature_BF.cpu())
        return torch.where(knows_B, weight_B.clamp(max=self.most).to(answer.log_prob_BV), 0.0)

    def _state(self, memory: Any) -> State:
        return State(lambda: self.weighed(self.look(memory)), memory)


def evidence_of(memory: Memory, model: Factor, prefix_BT: Tensor, text_BT: Tensor) -> Evidence:
    """What memory and model gave to each token of texts, for fitting a gate.

    Args:
        memory: its gate is not asked.
        model: normalised at each token.
        prefix_BT: what was read before, filled on the left with PAD.
        text_BT: held-out texts, filled on the right with PAD.
    """
    real_BT = text_BT != PAD
    model_BT = log_probs_of(model, prefix_BT, text_BT).cpu()
    memory_BT, features = torch.full(text_BT.shape, -torch.inf), []
    for t, answer in enumerate(memory.looks(prefix_BT, text_BT)):
        token_B1 = text_BT[:, t, None].clamp(min=0).to(answer.log_prob_BV.device)
        memory_BT[:, t] = answer.log_prob_BV.gather(1, token_B1)[:, 0].cpu()
        features.append(answer.feature_BF.cpu())
    feature_BTF = torch.stack(features, 1)
    return Evidence(*(x[real_BT].double().numpy() for x in (feature_BTF, memory_BT, model_BT)))


def log_probs_of(model: Factor, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
    """Log probability of each token of texts, [B, T], normalised at each token; language models are that already."""
    inner = model.base if isinstance(model, LocalProduct) else model
    known = inner if isinstance(inner, CausalLM) else LocalProduct.of(model)
    return known.score(prefix_BT, text_BT)
