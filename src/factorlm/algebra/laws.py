"""The laws that every factor must obey, as public code: check your own factor in five lines.

from factorlm.algebra import laws
laws.check(my_factor, prefixes=[[0], [1, 0]], texts=[[0, 1, 2], [1, 1, 0]])
"""

# Axes: B batch, T time, V vocabulary.

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from factorlm.algebra.factor import PAD, Factor, State, pad_left


class LawError(AssertionError):
    """A factor broke a law; the message says which and by how much."""


def check(
    factor: Factor,
    prefixes: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    *,
    is_normalized: bool = False,
    tolerance: float = 1e-9,
) -> None:
    """Check all laws on a batch of prefixes, each followed by a text; all texts must have one length.

    Args:
        factor: the factor to check.
        prefixes: at least two, of different lengths, so that padding is tested.
        texts: what is read after each prefix, token by token.
        is_normalized: whether the steps claim to sum to one.
        tolerance: largest allowed difference in nats; say why where it is not tiny.

    Raises:
        LawError: naming the first law that does not hold.
    """
    prefix_BT = pad_left([list(p) for p in prefixes])
    text_BT = torch.tensor([list(t) for t in texts])
    states = [factor.start(prefix_BT)]
    for token_B in text_BT.unbind(1):
        states.append(factor.extend(states[-1], token_B))

    def compare(law: str, got: Tensor, want: Tensor) -> None:
        same = (got == want) | ((got - want).abs() <= tolerance)
        if got.shape != want.shape or not bool(same.all()):
            worst = (got - want).abs().nan_to_num(torch.inf).max() if got.shape == want.shape else "shape"
            raise LawError(f"{law}: differs by {worst} nats, allowed {tolerance}")

    for state in states:
        if bool(state.log_weight_BV.isnan().any()) or bool((state.log_weight_BV == torch.inf).any()):
            raise LawError("weights are finite or -inf: found nan or +inf")
        if is_normalized:
            total_B = torch.logsumexp(state.log_weight_BV, -1)
            alive_B = total_B > -torch.inf
            compare("steps sum to one", total_B[alive_B], torch.zeros_like(total_B[alive_B]))

    step_BT = torch.stack(
        [s.log_weight_BV.gather(1, t[:, None])[:, 0] for s, t in zip(states[:-1], text_BT.unbind(1), strict=True)], 1
    )
    compare("score is the sum of steps", factor.score(prefix_BT, text_BT), step_BT)
    _check_rows_alone(factor, prefix_BT, text_BT, states, compare)
    _check_reorder(factor, text_BT, states, compare)
    _check_trim(factor, text_BT, states, compare)
    _check_through(factor, text_BT, states, compare)
    again = factor.start(prefix_BT)
    compare("an old state stays good", again.log_weight_BV, states[0].log_weight_BV)
    if text_BT.shape[1]:
        compare(
            "an old state can be extended again",
            factor.extend(states[0], text_BT[:, 0]).log_weight_BV,
            states[1].log_weight_BV,
        )


def _check_rows_alone(factor: Factor, prefix_BT: Tensor, text_BT: Tensor, states: list[State], compare) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    for b in range(prefix_BT.shape[0]):
        alone = factor.start(prefix_BT[b][prefix_BT[b] != PAD][None])
        compare("a row in a batch equals the row alone", alone.log_weight_BV[0], states[0].log_weight_BV[b])
        for t, state in enumerate(states[1:]):
            alone = factor.extend(alone, text_BT[b : b + 1, t])
            compare("a row in a batch equals the row alone", alone.log_weight_BV[0], state.log_weight_BV[b])


def _check_reorder(factor: Factor, text_BT: Tensor, states: list[State], compare) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    num_rows = text_BT.shape[0]
    row_R = torch.tensor([num_rows - 1, *range(num_rows)])
    for t, (before, after) in enumerate(itertools.pairwise(states)):
        moved = factor.reorder(before, row_R)
        compare("reorder takes rows", moved.log_weight_BV, before.log_weight_BV[row_R])
        got = factor.extend(moved, text_BT[row_R, t])
        compare("reorder, then extend = extend, then reorder", got.log_weight_BV, after.log_weight_BV[row_R])
        for u in range(t + 1, text_BT.shape[1]):  # a memory that was left behind shows up later
            got = factor.extend(got, text_BT[row_R, u])
            compare("reorder, then extend to the end", got.log_weight_BV, states[u + 1].log_weight_BV[row_R])


def _check_through(factor: Factor, text_BT: Tensor, states: list[State], compare) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    length = text_BT.shape[1]
    for start in range(length):
        log_weight_BTV, last = factor.extend_through(states[start], text_BT[:, start:])
        want_BTV = torch.stack([state.log_weight_BV for state in states[start + 1 :]], 1)
        compare("extend through several tokens = extend by each", log_weight_BTV, want_BTV)
        compare("the state after several tokens", last.log_weight_BV, states[-1].log_weight_BV)
        cut = factor.trim(last, torch.full((text_BT.shape[0],), length - start))
        compare("extend through several tokens, then trim", cut.log_weight_BV, states[start].log_weight_BV)


def _check_trim(factor: Factor, text_BT: Tensor, states: list[State], compare) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    num_rows, length = text_BT.shape
    for n in range(length + 1):
        cut = factor.trim(states[-1], torch.full((num_rows,), n))
        compare("trim, as if never read", cut.log_weight_BV, states[length - n].log_weight_BV)
        if n:
            cut = factor.extend(cut, text_BT[:, length - n])
            compare("trim, then extend", cut.log_weight_BV, states[length - n + 1].log_weight_BV)
    if length:
        num_tokens_B = torch.arange(num_rows) % (length + 1)
        cut = factor.trim(states[-1], num_tokens_B)
        want = torch.stack([states[length - int(n)].log_weight_BV[b] for b, n in enumerate(num_tokens_B)])
        compare("trim by row", cut.log_weight_BV, want)
        again_B = text_BT[:, 0]
        got = factor.extend(cut, again_B).log_weight_BV
        want = torch.stack(
            [factor.extend(states[length - int(n)], again_B).log_weight_BV[b] for b, n in enumerate(num_tokens_B)]
        )
        compare("trim by row, then extend", got, want)
