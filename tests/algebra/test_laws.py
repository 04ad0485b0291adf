"""The law checker itself: it must catch factors that are wrong."""

import pytest
import torch
from torch import Tensor

from factorlm.algebra import Factor, State, laws
from factorlm.models.table import Table, random_table

PREFIXES, TEXTS = [[0], [1, 0]], [[0, 1], [1, 0]]
GOOD = random_table("ab", 6, torch.Generator().manual_seed(0))


def test_a_good_factor_passes() -> None:
    laws.check(GOOD, PREFIXES, TEXTS, is_normalized=True)


class ForgetsToMoveItsMemory(Table):
    def reorder(self, state: State, row_R: Tensor) -> State:
        return State(state.log_weight_BV[row_R], (*state.memory, *state.memory)[: len(row_R)])


class TrimsOneTooFew(Table):
    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        return super().trim(state, (num_tokens_B - 1).clamp(min=0))


class ScoresWithoutTheFirst(Table):
    def score(self, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
        return super().score(prefix_BT, text_BT).index_fill(1, torch.tensor([0]), 0.0)


class ReadsPadding(Table):
    def start(self, prefix_BT: Tensor) -> State:
        return super().start(prefix_BT.clamp(min=0))


class DividesByZero(Table):
    def extend(self, state: State, token_B: Tensor) -> State:
        state = super().extend(state, token_B)
        return State(state.log_weight_BV * torch.nan, state.memory)


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (ForgetsToMoveItsMemory, "reorder"),
        (TrimsOneTooFew, "trim"),
        (ScoresWithoutTheFirst, "score"),
        (ReadsPadding, "alone"),
        (DividesByZero, "nan"),
    ],
)
def test_broken_factors_are_caught(kind: type[Table], law: str) -> None:
    broken: Factor = kind(GOOD.tokens, GOOD.log_weight)
    with pytest.raises(laws.LawError, match=law):
        laws.check(broken, PREFIXES, TEXTS)


def test_a_false_claim_to_sum_to_one_is_caught() -> None:
    with pytest.raises(laws.LawError, match="sum to one"):
        laws.check(GOOD**2, PREFIXES, TEXTS, is_normalized=True)
