"""Spans: whatever is added, cut or moved, every older span keeps its entries."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from factorlm.models.span import SMALLEST_CAPACITY, Span


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dim", [1, 2])
def test_append_adds_behind(dim: int) -> None:
    first, second = numbers(2, 3, 3, seed=0), numbers(2, 3, 3, seed=1)
    span = Span.of(first, dim).append(second)
    assert torch.equal(span.view, torch.cat([first, second], dim))
    assert span.length == 6


def test_plain_decoding_copies_nothing() -> None:
    span = Span.of(numbers(1, 2), 1)
    longer = span.append(numbers(1, 1))
    assert longer.buffer is span.buffer


def test_a_fork_leaves_the_first_branch_alone() -> None:
    root, left, right = numbers(2, 4, seed=0), numbers(2, 1, seed=1), numbers(2, 1, seed=2)
    span = Span.of(root, 1)
    one, other = span.append(left), span.append(right)
    for grown in (one.append(right), other.append(left)):  # and again, from both
        assert grown.length == 6
    assert torch.equal(one.view, torch.cat([root, left], 1))
    assert torch.equal(other.view, torch.cat([root, right], 1))
    assert torch.equal(span.view, root)


def test_a_cut_span_may_grow_again_without_hurting_the_uncut() -> None:
    whole = numbers(2, 5)
    span = Span.of(whole, 1)
    regrown = span.cut(2).append(numbers(2, 2, seed=1))
    assert torch.equal(span.view, whole)
    assert torch.equal(regrown.view, torch.cat([whole[:, :3], numbers(2, 2, seed=1)], 1))
    same = span.cut(0)
    assert torch.equal(same.append(numbers(2, 1)).view[:, :5], span.append(numbers(2, 1, seed=3)).view[:, :5])


def test_what_nobody_holds_is_written_over_where_that_is_allowed() -> None:
    whole = numbers(2, 5)
    span = Span.of(whole, 1)
    longer = span.append(numbers(2, 1, seed=1))
    buffer, short = span.buffer, span.cut(2)
    assert longer.cut(3).append(numbers(2, 1, seed=2), reuse=True).buffer is not buffer  # two longer ones are held
    del longer
    assert short.append(numbers(2, 1, seed=2), reuse=True).buffer is not buffer  # one is
    del span
    assert short.append(numbers(2, 1, seed=2)).buffer is not buffer  # not allowed
    regrown = short.append(numbers(2, 1, seed=2), reuse=True)
    assert regrown.buffer is buffer
    assert torch.equal(regrown.view, torch.cat([whole[:, :3], numbers(2, 1, seed=2)], 1))


def test_a_full_buffer_moves_and_doubles() -> None:
    rows = numbers(1, 3 * SMALLEST_CAPACITY)
    span = Span.of(rows[:, :1], 1)
    spans = [span]
    for t in range(1, rows.shape[1]):
        spans.append(spans[-1].append(rows[:, t : t + 1]))
    assert all(torch.equal(s.view, rows[:, : s.length]) for s in spans)
    assert len({id(s.buffer) for s in spans}) <= 4


def test_rows_may_be_left_out_repeated_and_moved() -> None:
    x_BT = numbers(3, 4)
    span = Span.of(x_BT, 1)
    row_R = torch.tensor([2, 0, 0])
    taken = span.rows(row_R)
    assert torch.equal(taken.append(numbers(3, 1)).view[:, :4], x_BT[row_R])
    assert torch.equal(span.view, x_BT)


@pytest.mark.parametrize("dim", [1, 2])
def test_gathered_takes_an_entry_at_each_place(dim: int) -> None:
    x_BDT = numbers(2, 5, 5)
    index_BT = torch.tensor([[0, 0, 3], [1, 4, 2]])
    got = Span.of(x_BDT, dim).gathered(index_BT).view.movedim(dim, 1)
    want = x_BDT.movedim(dim, 1)
    for b in range(2):
        for t in range(3):
            assert torch.equal(got[b, t], want[b, index_BT[b, t]])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(("append", "cut", "rows", "forget")), st.integers(0, 99), st.integers(0, 3))),
       st.booleans())  # fmt: skip
def test_any_history_equals_plain_tensors(history: list[tuple[str, int, int]], reuse: bool) -> None:
    """The twin keeps a tensor of its own for every span ever made."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 3, generator=generator)
    known = [(Span.of(start, 1), start)]
    for act, which, size in history:
        span, twin = known[which % len(known)]
        if act == "append":
            new = torch.randn(2, size * 20, generator=generator)
            known.append((span.append(new, reuse=reuse), torch.cat([twin, new], 1)))
        elif act == "cut":
            num_cut = min(size, span.length)
            known.append((span.cut(num_cut), twin[:, : span.length - num_cut]))
        elif act == "forget":
            del span
            known[which % len(known)] = known[0]
        else:
            row_R = torch.tensor([size % 2, 0])
            known.append((span.rows(row_R), twin[row_R]))
    assert all(torch.equal(span.view, twin) for span, twin in known)


def test_what_a_writer_left_behind_can_be_added_to() -> None:
    with torch.inference_mode():  # as texts are written
        span = Span.of(numbers(1, 3), 1)
    longer = span.append(numbers(1, 2, seed=1), reuse=True)
    assert torch.equal(longer.view, torch.cat([numbers(1, 3), numbers(1, 2, seed=1)], 1))
    assert torch.equal(span.view, numbers(1, 3))
