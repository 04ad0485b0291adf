"""Rows that come and go give the same states as each text read alone."""

import random

import pytest
import torch

from factorlm.algebra import pad_left
from factorlm.models import CausalLM
from factorlm.models.slots import Slots


def texts_of(lm: CausalLM, lengths: list[int], seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [[*lm.start_ids, *(rng.randrange(2, lm.vocabulary.size) for _ in range(n))] for n in lengths]


def alone(lm: CausalLM, token_ids: list[int]) -> torch.Tensor:
    return lm.hidden_before(torch.tensor([token_ids]), torch.tensor([[0]]))[0, 0]


class Held:
    """Slots beside the texts that they should hold."""

    def __init__(self, lm: CausalLM) -> None:
        self.lm, self.slots, self.texts = lm, Slots(lm), list[list[int]]()

    def join(self, texts: list[list[int]]) -> None:
        self.slots.join(self.lm.encode(pad_left(texts)))
        self.texts += [list(text) for text in texts]

    def leave(self, rows: list[int]) -> None:
        self.texts = [self.texts[row] for row in self.slots.leave(rows)]

    def advance(self, tokens: list[int]) -> None:
        hidden_RD = self.slots.advance(torch.tensor(tokens))
        self.texts = [[*text, token] for text, token in zip(self.texts, tokens, strict=True)]
        for text, hidden_D in zip(self.texts, hidden_RD, strict=True):
            torch.testing.assert_close(hidden_D, alone(self.lm, text), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_come_and_go_read_what_they_would_alone(fresh_lm: CausalLM, seed: int) -> None:
    rng = random.Random(seed)
    held = Held(fresh_lm)
    for step in range(40):
        if not held.texts or (len(held.texts) < 9 and rng.random() < 0.4):
            lengths = [rng.choice([0, 3, 9, 30, 60]) for _ in range(rng.randint(1, 3))]
            held.join(texts_of(fresh_lm, lengths, seed=1000 * seed + step))
        held.advance([rng.randrange(2, fresh_lm.vocabulary.size) for _ in held.texts])
        if rng.random() < 0.3:
            held.leave(rng.sample(range(len(held.texts)), rng.randint(1, len(held.texts))))


def test_what_rows_begin_with_alike_is_read_once_and_right(fresh_lm: CausalLM) -> None:
    [common] = texts_of(fresh_lm, [20], seed=1)
    held = Held(fresh_lm)
    held.join(texts_of(fresh_lm, [4], seed=2))
    held.join([[*common, 5], [*common, 6, 7, 8, 9], [*common, 10, 11]])  # shorter rows have a gap behind the start
    held.advance([3, 4, 5, 6])
    held.leave([0])
    held.advance([7, 8, 9])


def test_buffers_that_are_full_are_moved_and_forget_nothing(fresh_lm: CausalLM) -> None:
    held = Held(fresh_lm)
    held.join(texts_of(fresh_lm, [2, 5], seed=3))
    for step in range(240):  # more than FEWEST_PLACES for the longer row
        hidden_RD = held.slots.advance(torch.tensor([2 + step % 50, 3 + step % 50]))
        held.texts = [[*held.texts[0], 2 + step % 50], [*held.texts[1], 3 + step % 50]]
    for text, hidden_D in zip(held.texts, hidden_RD, strict=True):
        torch.testing.assert_close(hidden_D, alone(fresh_lm, text), atol=2e-4, rtol=2e-4)
    held.leave([0, 1])
    assert held.slots.num_rows == 0
    held.join(texts_of(fresh_lm, [1], seed=4))
    held.advance([9])


def test_nothing_unwritten_reaches_a_row(fresh_lm: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers begin as nan here: a row that read one would show it."""
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *size, **kw: empty(self, *size, **kw).fill_(torch.nan))
    held = Held(fresh_lm)
    held.join(texts_of(fresh_lm, [8], seed=5))
    held.advance([3])
    held.join(texts_of(fresh_lm, [2, 40], seed=6))
    held.advance([3, 4, 5])
    held.leave([0])
    held.join(texts_of(fresh_lm, [0], seed=7))
    held.advance([3, 4, 5])
