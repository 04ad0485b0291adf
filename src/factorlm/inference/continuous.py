"""Writing many texts at once that begin and end at different times, each with factors of its own.

Rows join and leave between steps. Compositions that can share a batch do (see `shared_batch`); any other is read by
itself, beside them. A text comes out as it would alone, to rounding.

Source: batching at the level of iterations, Yu et al. (2022), "Orca".
"""

# Axes: R rows chosen, V vocabulary.

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from factorlm.algebra import Factor, LocalProduct, State, pad_left
from factorlm.errors import FactorlmError, InputError
from factorlm.factors.headed import fuse
from factorlm.inference.shared_batch import Member, SharedBatch, read_together
from factorlm.inference.writing import Drawn, Writing, draw_texts
from factorlm.models import CausalLM
from factorlm.models.encoding import Encoded

CHUNK_TOKENS = 256  # of a long prompt read in one step, so that others do not wait for all of it
CACHE_BYTES = 2 << 30  # of keys and values, where nothing else is said


@dataclass(eq=False)
class _Alone:
    """One writing that is read by itself."""

    writing: Writing
    model: Factor
    state: State
    alive: list[int]


@dataclass(eq=False)
class _Long:
    """A writing with a long prompt: its different prompts are read one after the other, piece by piece."""

    member: Member
    prompts: list[tuple[int, ...]]
    read: list[Encoded] = field(default_factory=list)
    num_read: int = 0  # tokens of the last one


@dataclass(eq=False)
class Batcher:
    """See the head of this file. Not safe to be used from two threads at once.

    Attributes:
        lm: the language model whose encoder is shared.
        most_rows: texts written at once.
        most_places: rows times length of the longest, which is what keys and values take room for; 0 takes what fits
            into 2 GiB.
        num_drawn: tokens drawn so far.
        num_steps: steps so far.
    """

    lm: CausalLM
    most_rows: int = 64
    most_places: int = 0
    num_drawn: int = 0
    num_steps: int = 0
    _waiting: deque[Writing] = field(default_factory=deque)
    _alone: list[_Alone] = field(default_factory=list)
    _reading: deque[_Long] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.most_places = self.most_places or places_within(self.lm, CACHE_BYTES)
        self._shared = SharedBatch(self.lm)

    @property
    def num_rows(self) -> int:
        """Texts being written now."""
        beside = [*(lane.alive for lane in self._alone), *(long.member.alive for long in self._reading)]
        return len(self._shared) + sum(map(len, beside))

    @property
    def num_waiting(self) -> int:
        """Texts that have not begun."""
        return sum(len(writing.rows) for writing in self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._waiting or self.num_rows)

    def check(self, writing: Writing) -> None:
        """Complain of a writing for which there can never be room.

        Raises:
            InputError: naming what is too much.
        """
        num_rows = len(writing.rows)
        if not num_rows or writing.max_tokens < 1:
            raise InputError("at least one text of at least one token is needed; ask for more")
        if num_rows > self.most_rows:
            raise InputError(f"at most {self.most_rows} texts are written at once, got {num_rows}; ask for fewer")
        if num_rows * writing.num_places > self.most_places:
            raise InputError(
                f"{num_rows} texts of up to {writing.num_places} tokens do not fit into {self.most_places} places; "
                "ask for fewer or shorter ones"
            )

    def add(self, writing: Writing) -> None:
        """Put a writing at the end of the queue.

        Raises:
            InputError: see `check`.
        """
        self.check(writing)
        self._waiting.append(writing)

    @torch.inference_mode()
    def cancel(self, writing: Writing) -> None:
        """Stop writing these texts; their places are free at once. Nothing happens if they are done."""
        if writing in self._waiting:
            self._waiting.remove(writing)
        self._forget(writing)
        self._shared.drop(writing)

    @torch.inference_mode()
    def step(self, *, hold: bool = False) -> list[Drawn]:
        """The first token of texts that join, or one token more in every text and a piece of a long prompt.

        What joins comes first, so that a first token waits for no more than the step before it.

        Args:
            hold: let nothing join in this step, since more is about to come that could be read with it.
        """
        self.num_steps += 1
        drawn = [] if hold else self._admit()
        if not drawn:
            drawn = self._read_long()
            if len(self._shared):
                drawn += self._shared.step()
            for lane in list(self._alone):
                drawn += self._guarded(lane.writing, functools.partial(self._step_alone, lane))
            self._alone = [lane for lane in self._alone if lane.alive]
        for writing in {id(d.writing): d.writing for d in drawn if d.row < 0}.values():
            self._forget(writing)
            self._shared.drop(writing)
        self.num_drawn += sum(d.row >= 0 for d in drawn)
        return drawn

    def _forget(self, writing: Writing) -> None:
        self._alone = [lane for lane in self._alone if lane.writing is not writing]
        self._reading = deque(long for long in self._reading if long.member.writing is not writing)

    def _admit(self) -> list[Drawn]:
        """Let in what waits, in order, as long as there is room; what is let in gets its first tokens."""
        joining: list[Member] = []
        drawn: list[Drawn] = []
        num_rows = self.num_rows
        others = [*(lane.writing for lane in self._alone), *(long.member.writing for long in self._reading)]
        longest = max([self._shared.longest, *(writing.num_places for writing in others)])
        while self._waiting:
            writing = self._waiting[0]
            num_rows, longest = num_rows + len(writing.rows), max(longest, writing.num_places)
            if num_rows > self.most_rows or num_rows * longest > self.most_places:
                break
            self._waiting.popleft()
            drawn += self._guarded(writing, functools.partial(self._begin, writing, joining))
        if joining:
            try:
                drawn += self._shared.join(*read_together(self.lm, joining))
            except FactorlmError as error:
                drawn += [member.writing.fail(error) for member in joining]
        return drawn

    def _begin(self, writing: Writing, joining: list[Member]) -> list[Drawn]:
        """Put a writing where it belongs: the texts that join now, the long prompts, or by itself."""
        member = Member.of(writing, self.lm)
        if member is None:
            model = fuse(LocalProduct.of(writing.factor))
            state = model.start(pad_left([row.prompt_ids for row in writing.rows]).to(self.lm.device))
            lane = _Alone(writing, model, state, list(range(len(writing.rows))))
            drawn = self._draw_alone(lane)
            if lane.alive:
                self._alone.append(lane)
            return drawn
        member.begin()
        if max(len(row.prompt_ids) for row in writing.rows) > CHUNK_TOKENS:
            self._reading.append(_Long(member, list(dict.fromkeys(tuple(row.prompt_ids) for row in writing.rows))))
        else:
            joining.append(member)
        return []

    def _read_long(self) -> list[Drawn]:
        """One piece more of the first long prompt; when all of a writing is read, its texts join."""
        if not self._reading:
            return []
        long, texts = self._reading[0], self._reading[0].member.writing.rows
        is_new = long.num_read == 0
        prompt_ids = long.prompts[len(long.read) - (not is_new)]
        piece_BT = torch.tensor([prompt_ids[long.num_read : long.num_read + CHUNK_TOKENS]])
        try:
            read = self.lm.encode(piece_BT) if is_new else self.lm.advance(long.read.pop(), piece_BT)
        except FactorlmError as error:
            return [long.member.writing.fail(error)]
        long.read.append(read)
        long.num_read += piece_BT.shape[1]
        if long.num_read < len(prompt_ids):
            return []
        long.num_read = 0
        if len(long.read) < len(long.prompts):
            return []
        self._reading.popleft()
        place = {prompt: number for number, prompt in enumerate(long.prompts)}
        row_R = torch.tensor([place[tuple(row.prompt_ids)] for row in texts], device=self.lm.device)
        joined = Encoded.joined(long.read).rows(row_R)
        return self._shared.join(joined, [(long.member, number) for number in long.member.alive])

    def _step_alone(self, lane: _Alone) -> list[Drawn]:
        token_R = torch.tensor([lane.writing.rows[n].token_ids[-1] for n in lane.alive], device=self.lm.device)
        lane.state = lane.model.extend(lane.state, token_R)
        return self._draw_alone(lane)

    def _draw_alone(self, lane: _Alone) -> list[Drawn]:
        log_prob_RV = lane.state.log_weight_BV
        rows = [lane.writing.rows[number] for number in lane.alive]
        token_R = draw_texts(log_prob_RV, rows, lane.writing.sampling, self.lm)
        chosen = log_prob_RV.gather(1, token_R[:, None])[:, 0].tolist()
        found = [
            lane.writing.write(number, token, chosen[r], log_prob_RV[r], self.lm)
            for r, (number, token) in enumerate(zip(lane.alive, token_R.tolist(), strict=True))
        ]
        keep = [r for r, row in enumerate(rows) if not row.finish_reason]
        if keep and len(keep) < len(rows):
            lane.state = lane.model.reorder(lane.state, torch.tensor(keep, device=self.lm.device))
        lane.alive = [lane.alive[r] for r in keep]
        return found

    def _guarded(self, writing: Writing, work: Callable[[], list[Drawn]]) -> list[Drawn]:
        """What somebody's composition did, or that it failed: a factor is code of anybody, and the others go on."""
        try:
            return work()
        except Exception as error:
            return [writing.fail(error)]


def places_within(lm: CausalLM, num_bytes: int) -> int:
    """Tokens whose keys and values take so many bytes."""
    pairs = lm.encode(torch.tensor([list(lm.start_ids)])).keys_values
    each = sum(span.view[:, :, :1].nbytes for pair in pairs for span in pair)
    return max(1, num_bytes // each)
