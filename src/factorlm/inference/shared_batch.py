"""One running batch for texts with different factors: one pass of the encoder and one unembedding for all of them.

It takes in every composition of the batch's language model with heads, and with factors that read tokens alone (lexica,
grammars). A text comes out as it would alone, to rounding.
"""

# Axes: B rows of the batch, D width, K heads, R rows chosen, V vocabulary.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from factorlm.algebra import Factor, LocalProduct, State, Term, flatten, leaves, merge, pad_left, scale
from factorlm.errors import DeadEndError
from factorlm.factors.head import Head, HeadStack
from factorlm.inference.draw import Sampling
from factorlm.inference.pushes import Pushes, pushes_of
from factorlm.inference.writing import Drawn, Writing, draw_texts
from factorlm.models import CausalLM
from factorlm.models.encoding import Encoded
from factorlm.models.slots import Slots

IDLE_HEADS = 64  # beyond so many, heads that nobody uses any more leave the stack


@dataclass(eq=False)
class Member:
    """One writing in the batch.

    Attributes:
        writing: its texts.
        heads: with their exponents.
        rest: other factors, which read tokens alone, with their exponents.
        alive: numbers of the texts that are still written.
        states: of each of `rest`, over those texts.
    """

    writing: Writing
    heads: dict[Head, float]
    rest: list[Term]
    alive: list[int] = field(default_factory=list)
    states: list[State] = field(default_factory=list)

    @classmethod
    def of(cls, writing: Writing, lm: CausalLM) -> Member | None:
        """The parts of a composition that can share a batch; None if it must be read by itself."""
        factor = writing.factor
        base, *terms = merge(flatten(factor.base if isinstance(factor, LocalProduct) else factor))
        if base.factor is not lm or not base.is_plain:
            return None
        heads: dict[Head, float] = {}
        rest = []
        for term in terms:
            if isinstance(term.exponent, Tensor) and term.exponent.ndim:
                return None
            if isinstance(term.factor, Head) and term.factor.lm is lm:
                heads[term.factor] = float(term.exponent)
            elif _reads_encoder(term.factor):
                return None
            else:
                rest.append(term)
        return cls(writing, heads, rest)

    def begin(self) -> None:
        """Start the factors that read tokens alone behind the prompts."""
        prefix_RT = pad_left([row.prompt_ids for row in self.writing.rows])
        self.states = [term.factor.start(prefix_RT) for term in self.rest]
        self.alive = list(range(len(self.writing.rows)))

    def extend(self, token_R: Tensor) -> None:
        """Read a token in each text that is still written."""
        self.states = [t.factor.extend(state, token_R) for t, state in zip(self.rest, self.states, strict=True)]

    def keep_unfinished(self) -> None:
        """Leave out texts that are finished."""
        keep = [place for place, number in enumerate(self.alive) if not self.writing.rows[number].finish_reason]
        if len(keep) < len(self.alive):
            self.alive = [self.alive[place] for place in keep]
            if keep:
                keep_R = torch.tensor(keep)
                self.states = [t.factor.reorder(s, keep_R) for t, s in zip(self.rest, self.states, strict=True)]

    def log_weights(self, number: int) -> list[tuple[str, Tensor]]:
        """Name and log weights [V] of each factor of `rest` for the next token of a text, at its exponent."""
        place = self.alive.index(number)
        return [
            (term.name, scale(state.log_weight_BV[place].float(), float(term.exponent)))
            for term, state in zip(self.rest, self.states, strict=True)
        ]


class SharedBatch:
    """See the head of this file."""

    def __init__(self, lm: CausalLM) -> None:
        self.lm = lm
        self._slots = Slots(lm)
        self._rows: list[tuple[Member, int]] = []  # whose each row of the slots is, and which of its texts
        self._token_B = torch.zeros(0, dtype=torch.long)  # drawn, and not read yet
        self._stack = HeadStack(())
        self._places: dict[Head, int] = {}
        self._exponent_BK = torch.zeros(0, 0)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def longest(self) -> int:
        """Tokens of the longest text that any writing in it may come to."""
        return max((member.writing.num_places for member, _ in self._rows), default=0)

    def join(self, encoded: Encoded, texts: Sequence[tuple[Member, int]]) -> list[Drawn]:
        """Take in texts whose prompts were read, and draw their first tokens."""
        self._lay([head for member, _ in texts for head in member.heads])
        first = len(self._rows)
        self._slots.join(encoded)
        self._rows += texts
        self._token_B = torch.cat([self._token_B, torch.zeros(len(texts), dtype=torch.long)])
        self._tabulate()
        return self._draw(encoded.hidden_BD, list(range(first, len(self._rows))))

    def step(self) -> list[Drawn]:
        """A token more in every text."""
        hidden_BD = self._slots.advance(self._token_B)
        failed = []
        for member in self._members():
            if member.rest:
                place = {number: b for b, (owner, number) in enumerate(self._rows) if owner is member}
                try:
                    member.extend(self._token_B[[place[number] for number in member.alive]])
                except Exception as error:  # a factor is code of anybody, and the others go on
                    failed.append(member.writing.fail(error))
        return failed + self._draw(hidden_BD, list(range(len(self._rows))))

    def drop(self, writing: Writing) -> None:
        """Leave out the texts of a writing."""
        self._leave([b for b, (member, _) in enumerate(self._rows) if member.writing is writing])

    def _members(self) -> list[Member]:
        return list({id(member): member for member, _ in self._rows}.values())

    def _leave(self, rows: Sequence[int]) -> None:
        if rows:
            order = self._slots.leave(rows)
            self._rows = [self._rows[b] for b in order]
            self._token_B = self._token_B[order]
            self._tabulate()

    def _draw(self, hidden_RD: Tensor, rows: list[int]) -> list[Drawn]:
        """A token for each of these rows, from their states."""
        hidden_RD = hidden_RD.float()
        shift_RD = self._stack.shift(hidden_RD, self._exponent_BK[rows]) if self._stack.heads else 0.0
        logit_RV = self.lm.unembed(hidden_RD + shift_RD)
        texts = [self._rows[b] for b in rows]
        found = self._multiply(logit_RV, texts)
        log_prob_RV = logit_RV.log_softmax(-1)
        living = [r for r, (member, _) in enumerate(texts) if member.writing.error is None]
        groups: dict[Sampling, list[int]] = {}
        for r in living:
            groups.setdefault(texts[r][0].writing.sampling, []).append(r)
        token_R = torch.zeros(len(rows), dtype=torch.long, device=log_prob_RV.device)
        for sampling, group in groups.items():  # those that are drawn alike are drawn together
            own = [texts[r][0].writing.rows[texts[r][1]] for r in group]
            token_R[group] = draw_texts(log_prob_RV[group], own, sampling, self.lm)
        chosen = log_prob_RV.gather(1, token_R[:, None])[:, 0].tolist()
        self._token_B[rows] = token_R.cpu()
        for r, token in enumerate(token_R.tolist()):
            member, number = texts[r]
            if member.writing.error is None:
                pushes = self._explained(member, number, hidden_RD[r], log_prob_RV[r], token)
                found.append(member.writing.write(number, token, chosen[r], log_prob_RV[r], self.lm, pushes))
        for member in {id(member): member for member, _ in texts}.values():
            member.keep_unfinished()
        self._leave([b for b, (m, n) in enumerate(self._rows) if m.writing.error or m.writing.rows[n].finish_reason])
        return found

    def _multiply(self, logit_RV: Tensor, texts: list[tuple[Member, int]]) -> list[Drawn]:
        """Multiply on the factors that read tokens alone, in place; tell of writings that cannot go on."""
        failed = []
        for logit_V, (member, number) in zip(logit_RV, texts, strict=True):
            if member.rest and member.writing.error is None:
                for _, log_weight_V in member.log_weights(number):
                    logit_V += log_weight_V.to(logit_V.device)
        for (member, number), best in zip(texts, logit_RV.amax(-1).tolist(), strict=True):
            if best == -torch.inf and member.writing.error is None:
                written = len(member.writing.rows[number].token_ids)
                failed.append(member.writing.fail(DeadEndError(
                    f"every next token is impossible after {written} generated tokens; a factor bans all of them: "
                    "allow some words again or take a factor away")))  # fmt: skip
        return failed

    def _explained(
        self, member: Member, number: int, hidden_D: Tensor, log_prob_V: Tensor, token: int
    ) -> Pushes | None:
        if not member.writing.explain:
            return None
        rest = [(name, weight_V.to(log_prob_V.device)) for name, weight_V in member.log_weights(number)]
        return pushes_of(self.lm, hidden_D, log_prob_V, token, member.heads, rest)

    def _lay(self, heads: Sequence[Head]) -> None:
        """Lay heads beside those that are there; the stack is made anew only if one is new."""
        new = [head for head in dict.fromkeys(heads) if head not in self._places]
        if not new:
            return
        kept = list(self._places)
        if len(kept) + len(new) > IDLE_HEADS:
            used = {head for member, _ in self._rows for head in member.heads}
            kept = [head for head in kept if head in used or head in heads]
        self._stack = HeadStack((*kept, *new))
        self._places = {head: k for k, head in enumerate(self._stack.heads)}

    def _tabulate(self) -> None:
        """The exponents of all rows."""
        table_BK = torch.zeros(len(self._rows), len(self._places))
        for b, (member, _) in enumerate(self._rows):
            for head, exponent in member.heads.items():
                table_BK[b, self._places[head]] = exponent
        self._exponent_BK = table_BK.to(self.lm.device)


def _reads_encoder(factor: Factor) -> bool:
    return any(isinstance(leaf, CausalLM) or hasattr(leaf, "lm") for leaf in leaves(factor))


def read_together(lm: CausalLM, members: Sequence[Member]) -> tuple[Encoded, list[tuple[Member, int]]]:
    """The prompts of all texts of some writings in one pass, with whose each is.

    Raises:
        FactorlmError: if one of them cannot be read.
    """
    texts = [(member, number) for member in members for number in member.alive]
    return lm.encode(pad_left([member.writing.rows[number].prompt_ids for member, number in texts])), texts
