"""The rows of a running batch and what each wants: from changes of the batch to shifts of hidden states."""

# Axes: B rows of the batch, D width, H heads in memory, R rank of all heads laid side by side, V vocabulary.

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from factorlm.algebra import State, scale
from factorlm.factors.head import HeadWeights
from factorlm.factors.lexicon import Lexicon

RESIDENT = 64  # heads kept side by side though no row wants them now; beyond, those not in use are dropped
UNKNOWN = -1  # stands for a token that was drawn but has not arrived yet


@dataclass
class Cursor:
    """A lexicon that follows the text of one row.

    Attributes:
        lexicon: what is followed.
        exponent: of it.
        prompt_ids: before the text.
        output_ids: the text; the engine appends to it.
    """

    lexicon: Lexicon
    exponent: float
    prompt_ids: Sequence[int]
    output_ids: Sequence[int]
    _num_read: int = field(init=False, default=0)
    _state: State = field(init=False)

    def __post_init__(self) -> None:
        self._restart()

    def log_weight(self) -> Tensor:
        """Of each token that may come next, to the exponent, [V].

        Raises:
            RuntimeError: if the last token is not known yet.
        """
        if len(self.output_ids) < self._num_read:  # tokens were taken back
            self._restart()
        for token in self.output_ids[self._num_read :]:
            if token == UNKNOWN:
                raise RuntimeError("a lexicon needs to know the last token, which has not arrived; this is a bug")
            self._state = self.lexicon.extend(self._state, torch.tensor([token]))
            self._num_read += 1
        return scale(self._state.log_weight_BV[0], self.exponent)

    def _restart(self) -> None:
        self._state = self.lexicon.start(torch.tensor([list(self.prompt_ids)], dtype=torch.long))
        self._num_read = 0


@dataclass
class Row:
    """What one request wants.

    Attributes:
        heads: with their exponents.
        cursors: lexica.
        is_broken: whether something it wants could not be had; its log probabilities become nan, never unsteered ones.
    """

    heads: tuple[tuple[HeadWeights, float], ...] = ()
    cursors: tuple[Cursor, ...] = ()
    is_broken: bool = False


@dataclass(eq=False)
class Stack:
    """Heads side by side, in float32 on the device."""

    heads: list[HeadWeights]
    device: torch.device
    column: dict[int, int] = field(init=False)  # of each head, by its identity

    def __post_init__(self) -> None:
        placed = [head.to(self.device) for head in self.heads]
        self.column = {id(head): h for h, head in enumerate(self.heads)}
        self.bias_HD = torch.stack([head.bias_D for head in placed])
        self.down_DR = torch.cat([head.down_RD for head in placed]).T.contiguous()
        self.up_RD = torch.cat([head.up_DR for head in placed], 1).T.contiguous()
        ranks = torch.tensor([head.rank for head in placed])
        self.owner_R = torch.repeat_interleave(torch.arange(len(placed)), ranks).to(self.device)


class Batch:
    """Which row wants what, and what that does to a step.

    Attributes:
        rows: by place in the batch; rows that want nothing are not in it.
        size: number of rows of the next step.
        is_armed: whether the next call of the logits layer is the one that tokens are drawn from. Others, for prompt
            log probabilities, warm-up or drafts, are left alone.
    """

    def __init__(self, device: torch.device, *, with_lexica: bool = True) -> None:
        self.device = device
        self.with_lexica = with_lexica  # whether lexica are added where heads are, or by somebody else later
        self.rows: dict[int, Row] = {}
        self.size = 0
        self.is_armed = False
        self._stack: Stack | None = None
        self._plan: _Plan | None = None

    def change(
        self,
        removed: Iterable[int],
        added: Iterable[tuple[int, Row | None]],
        moved: Iterable[tuple[int, int, bool]],
        size: int,
    ) -> None:
        """Rows went, came and moved, in this order.

        Args:
            removed: places that are empty now.
            added: places and what is wanted there; a new row takes the place of what was there.
            moved: from, to, and whether the two were exchanged.
            size: number of rows from now on.
        """
        for place in removed:
            self.rows.pop(place, None)
        for place, row in added:
            self.rows.pop(place, None)
            if row is not None:
                self.rows[place] = row
        for origin, target, is_swap in moved:
            first, second = self.rows.pop(origin, None), self.rows.pop(target, None)
            if first is not None:
                self.rows[target] = first
            if second is not None and is_swap:
                self.rows[origin] = second
        self.size, self._plan = size, None

    def arm(self) -> None:
        """A step begins."""
        self.is_armed = True

    def disarm(self, num_rows: int) -> bool:
        """Whether this call of the logits layer is the one to steer; asked once in each step.

        Raises:
            RuntimeError: if a step has other rows than were announced.
        """
        if not self.is_armed:
            return False
        self.is_armed = False
        if self.rows and num_rows != self.size:
            raise RuntimeError(
                f"factors were announced for {self.size} rows, and {num_rows} are drawn from: this version of vLLM, or "
                "speculation, joins rows to requests in another way; serve without it"
            )
        return bool(self.rows)

    def shifted(self, hidden_BD: Tensor) -> Tensor:
        """H + sum_k a_k g_k(h) where a row wants heads; other rows stay the same bits."""
        plan = self._planned()
        if plan.shift_BD is None:
            return hidden_BD
        wide_BD = hidden_BD.float()
        if plan.exponent_BR is not None:
            assert self._stack is not None
            low_BR = (wide_BD @ self._stack.down_DR) * plan.exponent_BR
            wide_BD = torch.addmm(wide_BD + plan.shift_BD, low_BR, self._stack.up_RD)
        else:
            wide_BD = wide_BD + plan.shift_BD
        return wide_BD.to(hidden_BD.dtype)

    def weighed(self, logit_BV: Tensor) -> Tensor:
        """Logits after lexica have been added, in float32 if there are any; broken rows become nan."""
        broken = [place for place, row in self.rows.items() if row.is_broken]
        if broken:
            logit_BV[broken] = torch.nan
        if self.with_lexica:
            logit_BV = self.with_lexica_added(logit_BV)
        return logit_BV

    def with_lexica_added(self, logit_BV: Tensor) -> Tensor:
        """Logits plus sum_k a_k log w_k of what each row has read, in float32 if there are any."""
        places = [place for place, row in self.rows.items() if row.cursors]
        if not places:
            return logit_BV
        size = logit_BV.shape[1]
        weights = [
            torch.stack([cursor.log_weight()[:size] for cursor in self.rows[place].cursors]).sum(0) for place in places
        ]
        place_L = torch.tensor(places, device=logit_BV.device)
        weight_LV = torch.stack(weights).to(logit_BV.device)
        return logit_BV.float().index_add(0, place_L, weight_LV)

    def _planned(self) -> _Plan:
        if self._plan is None:
            wanted = {id(head): head for row in self.rows.values() for head, _ in row.heads}
            self._plan = self._made(wanted) if wanted else _Plan()
        return self._plan

    def _made(self, wanted: dict[int, HeadWeights]) -> _Plan:
        if self._stack is None or not wanted.keys() <= self._stack.column.keys():
            kept = [] if self._stack is None else [head for head in self._stack.heads if id(head) not in wanted]
            if len(kept) + len(wanted) > RESIDENT:
                kept = []
            self._stack = Stack([*kept, *wanted.values()], self.device)
        stack = self._stack
        exponents = [[0.0] * len(stack.heads) for _ in range(self.size)]
        for place, row in self.rows.items():
            for head, exponent in row.heads:
                exponents[place][stack.column[id(head)]] += exponent
        exponent_BH = torch.tensor(exponents, dtype=torch.float32, device=self.device)
        has_rank = any(head.rank for head in wanted.values())
        return _Plan(exponent_BH @ stack.bias_HD, exponent_BH[:, stack.owner_R] if has_rank else None)


@dataclass(frozen=True)
class _Plan:
    """What stays the same while the batch does: the shift by biases, and the exponent of each rank column."""

    shift_BD: Tensor | None = None
    exponent_BR: Tensor | None = None


def row_of(
    parts: Iterable[tuple[HeadWeights | Lexicon, float]], prompt_ids: Sequence[int], output_ids: Sequence[int]
) -> Row:
    """What a request wants, from the numbers of its factors."""
    parts = list(parts)
    heads = tuple((part, exponent) for part, exponent in parts if isinstance(part, HeadWeights))
    cursors = tuple(
        Cursor(part, exponent, prompt_ids, output_ids) for part, exponent in parts if isinstance(part, Lexicon)
    )
    return Row(heads, cursors)
