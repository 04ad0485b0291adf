"""Explicit assumptions: sentences, chosen from a pool by the bound, with proposals from the texts and the model itself.

The M-step is a search: a component tries other sentences and takes the one under which its texts are most probable.
"""

# Axes: C candidates, K components, N texts.

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from factorlm.algebra import pad_left
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet
from factorlm.prior.batches import score_rows
from factorlm.prior.drawing import write
from factorlm.prior.incontext import InContext
from factorlm.prior.learning import Rows
from factorlm.settings import Config

QUESTION = "Here are some texts:\n{texts}\nIn one short sentence, what do all of them have in common?"
SHOWN_TEXTS = 4  # to the model, when it is asked what texts have in common
SHOWN_TOKENS = 48  # of each
PROPOSAL_TOKENS = 32


class ExplicitSettings(Config):
    """How sentences are searched for.

    Attributes:
        from_pool: sentences of the pool that a component tries in a round.
        from_texts: texts that a component tries as an assumption: examples of what it is about.
        from_model: sentences that the model proposes for a component, when it is shown some of its texts.
        judged_texts: on which candidates are compared, those that count most for the component.
        longest: tokens of a sentence.
    """

    from_pool: Annotated[int, Field(ge=0)] = 8
    from_texts: Annotated[int, Field(ge=0)] = 4
    from_model: Annotated[int, Field(ge=0)] = 2
    judged_texts: PositiveInt = 64
    longest: PositiveInt = 64


class ExplicitComponents:
    """K sentences that one language model reads first, as a learner; see `learning.Learner`."""

    num_parameters = 0  # nothing is trained; sentences are chosen
    is_monotone = True

    def __init__(
        self,
        lm: CausalLM,
        settings: ExplicitSettings,
        num_components: int,
        rows: Rows,
        pool: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        self.lm, self.settings, self.num_components = lm, settings, num_components
        self._generator = torch.Generator().manual_seed(seed)
        self._pool = tuple(tuple(self._tokens(sentence)) for sentence in pool)
        order = torch.randperm(len(self._pool) + len(rows), generator=self._generator)[:num_components].tolist()
        if len(self._pool) >= num_components:
            order = torch.randperm(len(self._pool), generator=self._generator)[:num_components].tolist()
        self._chosen = [
            self._pool[i] if i < len(self._pool) else self._example(rows[i - len(self._pool)]) for i in order
        ]

    @property
    def assumptions(self) -> list[str]:
        """The sentences, as they are now."""
        return [self.lm.vocabulary.text(tokens).strip() for tokens in self._chosen]

    @property
    def ensemble(self) -> InContext:
        """The components as they are now."""
        return self._reading(self._chosen)

    def log_prob(self, rows: Rows, report: Report) -> Tensor:
        """See Learner."""
        return score_rows(self.ensemble, rows, self.lm.start_ids, report)

    def improve(self, rows: Rows, weight_NK: Tensor, *, rate: float, report: Report) -> None:
        """See Learner; how far a step goes is not a question here."""
        for k in range(self.num_components):
            report("sentences", k, self.num_components)
            most = weight_NK[:, k].topk(min(self.settings.judged_texts, len(rows)))
            judged = [rows[n] for n in most.indices.tolist()]
            candidates = list(dict.fromkeys([self._chosen[k], *self._candidates(judged)]))
            log_prob_NC = score_rows(self._reading(candidates), judged, self.lm.start_ids, quiet)
            self._chosen[k] = candidates[int((most.values[:, None] * log_prob_NC).sum(0).argmax())]
        report("sentences", self.num_components, self.num_components)

    def spread(self) -> None:
        """See Learner: equal sentences would stay equal, so they are left as they were."""

    def reseed(self, index: int, rows: Rows) -> None:
        """See Learner."""
        self._chosen[index] = self._example(rows[0])

    def state(self) -> dict[str, Tensor]:
        """See Learner."""
        return {"chosen": pad_left([list(t) for t in self._chosen]), "generator": self._generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """See Learner."""
        self._chosen = [tuple(t for t in row if t >= 0) for row in state["chosen"].tolist()]
        self._generator.set_state(state["generator"])

    def tensors(self) -> dict[str, Tensor]:
        """What is saved of the components beside the sentences: nothing."""
        return {}

    def _candidates(self, judged: Rows) -> list[tuple[int, ...]]:
        """Other sentences for a component that explains these texts."""
        settings = self.settings
        found = [self._pool[i] for i in self._picked(len(self._pool), settings.from_pool)]
        found += [self._example(judged[i]) for i in self._picked(len(judged), settings.from_texts)]
        if settings.from_model and self.lm.tokenizer.chat_template:
            shown = [judged[i][:SHOWN_TOKENS] for i in self._picked(len(judged), SHOWN_TEXTS)]
            question = QUESTION.format(texts="\n".join(f"- {self.lm.vocabulary.text(row).strip()}" for row in shown))
            prefixes = [self.lm.encode_message(question)] * settings.from_model
            answers = write(self.lm, prefixes, PROPOSAL_TOKENS, self._generator)
            found += [tuple(self._tokens(text)) for row in answers if (text := self.lm.vocabulary.text(row).strip())]
        return found

    def _picked(self, number: int, wanted: int) -> list[int]:
        return torch.randperm(number, generator=self._generator)[:wanted].tolist()

    def _example(self, row: Sequence[int]) -> tuple[int, ...]:
        return tuple(self._tokens(self.lm.vocabulary.text(row)))

    def _tokens(self, sentence: str) -> list[int]:
        """As `kinds.prompt_tokens`, of a sentence that is not too long."""
        kept = self.lm.encode_text(sentence.strip())[: self.settings.longest]
        return self.lm.encode_text(self.lm.vocabulary.text(kept).strip() + "\n\n")

    def _reading(self, sentences: Sequence[tuple[int, ...]]) -> InContext:
        return InContext(self.lm, [torch.tensor(tokens) for tokens in sentences])
