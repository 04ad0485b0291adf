"""Batches, likelihoods of many texts, and plain sampling."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from factorlm.algebra import log_weights_of_texts
from factorlm.models import CausalLM
from factorlm.models.table import random_table
from factorlm.prior import batches
from factorlm.prior.batches import LEAST_WEIGHT, by_length, pairs_of, score_rows, weighted_nats
from factorlm.prior.drawing import write
from factorlm.prior.ensemble import Separate

PARTS = tuple(random_table("ab", 7, torch.Generator().manual_seed(n)) for n in range(3))
LENGTHS = [3, 1, 8, 2, 2, 9, 4, 1, 5, 40]


@pytest.mark.parametrize("seed", [None, 0, 1])
@pytest.mark.parametrize("batch_tokens", [1, 8, 20, 1000])
def test_batches_hold_every_text_once_and_are_not_too_large(seed: int | None, batch_tokens: int) -> None:
    found = by_length(LENGTHS, batch_tokens, None if seed is None else torch.Generator().manual_seed(seed))
    assert sorted(itertools.chain(*found)) == list(range(len(LENGTHS)))
    for batch in found:
        assert len(batch) * max(LENGTHS[i] for i in batch) <= batch_tokens or len(batch) == 1
    assert by_length([], batch_tokens) == by_length([], batch_tokens, torch.Generator()) == []


def test_batches_are_of_like_lengths_and_in_another_order_each_time() -> None:
    lengths = torch.randint(1, 50, (400,), generator=torch.Generator().manual_seed(0)).tolist()
    padding = [
        sum(len(b) * max(lengths[i] for i in b) for b in by_length(lengths, 200, g)) for g in (None, torch.Generator())
    ]
    assert max(padding) < 1.3 * sum(lengths)
    generator = torch.Generator().manual_seed(0)
    one, other = by_length(lengths, 200, generator), by_length(lengths, 200, generator)
    assert one != other
    assert {tuple(sorted(batch)) for batch in one} != {tuple(sorted(batch)) for batch in other}


def test_pairs_that_count_are_kept() -> None:
    weight_NK = torch.tensor([[0.5, 0.5], [1 - LEAST_WEIGHT / 2, LEAST_WEIGHT / 2], [0.0, 0.0], [0.0, 2e-9]]).double()
    found = pairs_of(weight_NK)
    assert [(n, k) for n, k, _ in found] == [(0, 0), (0, 1), (1, 0), (3, 1)]
    assert [weight for *_, weight in found] == [float(weight_NK[n, k]) for n, k, _ in found]


@pytest.mark.parametrize("scored_tokens", [1, 12, 2048])
def test_likelihoods_do_not_depend_on_batches(scored_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SCORED_TOKENS", scored_tokens)
    rows = [[0, 1, 1], [], [1], [0, 0], [1, 0, 1, 0], [1, 1]]
    told: list[tuple[str, int, int]] = []
    got_NK = score_rows(Separate(PARTS), rows, [1], report=lambda *seen: told.append(seen))
    want = [[part.score(torch.tensor([[1]]), torch.tensor([row]).long()).sum() for part in PARTS] for row in rows]
    torch.testing.assert_close(got_NK, torch.tensor(want, dtype=torch.float64), atol=1e-12, rtol=0)
    assert told[-1] == ("likelihoods", 6, 6)
    some_NK = score_rows(Separate(PARTS), rows, [1], components=[2, 0])
    torch.testing.assert_close(some_NK[:, [0, 2]], got_NK[:, [0, 2]], atol=1e-12, rtol=0)
    assert bool((some_NK[:, 1] == -torch.inf).all())
    assert score_rows(Separate(PARTS), [], [1]).shape == (0, 3)


def test_the_loss_is_a_mean_over_weighted_tokens(tiny_lm: CausalLM) -> None:
    rows, weights = [[5, 6, 7], [8], [9, 10]], [1.0, 0.5, 0.25]
    before_BTD = tiny_lm.embed(torch.tensor([[0, 3]] * 3))
    each = [tiny_lm.score(torch.tensor([[0, 3]]), torch.tensor([row])).sum() for row in rows]
    want = -sum(w * e for w, e in zip(weights, each, strict=True)) / (3 * 1.0 + 1 * 0.5 + 2 * 0.25)
    got = weighted_nats(tiny_lm, tiny_lm.model, before_BTD, rows, weights)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)  # float32


def test_what_is_written_follows_the_model(chi_square: Callable[..., float]) -> None:
    """20,000 texts behind a prefix; a false alarm in a million."""
    part = random_table("ab", 5, torch.Generator().manual_seed(0))
    rows = write(part, [[1]] * 20_000, 4, torch.Generator().manual_seed(1))
    prob: dict[object, float] = {
        text[:-1]: float(torch.tensor(p).exp()) for text, p in log_weights_of_texts(part, 4, prefix=(1,)).items()
    }
    count: dict[object, int] = {}
    for row in rows:
        count[tuple(row)] = count.get(tuple(row), 0) + 1
    assert chi_square(count, prob) > 1e-6


def test_texts_are_cut_and_prefixes_may_differ() -> None:
    model = Separate(PARTS).component(1)
    rows = write(model, [[], [0, 1], [1]], 2, torch.Generator().manual_seed(3))
    assert all(len(row) <= 2 and 2 not in row for row in rows)
    assert write(model, [[0], [1]], 0, torch.Generator()) == [[], []]
