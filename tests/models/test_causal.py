"""A causal language model as a factor: the laws, and that what was read is not read again."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from factorlm.algebra import PAD, LocalProduct, laws, pad_left, pad_right
from factorlm.errors import IncompatibleError, InputError
from factorlm.factors.head import Head, HeadWeights
from factorlm.models import CausalLM
from factorlm.models.loading import read_model

# float32 sums in another order (batched, with a cache, padded) differ by about 1e-6 of logits of size 10.
FLOAT32 = 1e-4
STORY = [0, *range(5, 17)]  # longer than what is worth reusing


def log_probs_by_transformers(lm: CausalLM, row: list[int]) -> Tensor:
    """The twin: transformers on one row, without cache or mask."""
    with torch.no_grad():
        return lm.model(torch.tensor([row])).logits[0].float().log_softmax(-1)


def test_it_obeys_the_laws(tiny_lm: CausalLM) -> None:
    prefixes = [[0], [0, 5, 6, 7], STORY, [*STORY, 20]]
    texts = [[3, 4, 5], [9, 9, 2], [10, 11, 12], [30, 1, 8]]
    laws.check(tiny_lm, prefixes, texts, is_normalized=True, tolerance=FLOAT32)


def test_rows_that_share_a_beginning_obey_the_laws(tiny_lm: CausalLM) -> None:
    prefixes = [STORY, [*STORY, 20], [*STORY, 21, 22, 23]]
    laws.check(tiny_lm, prefixes, [[3, 4, 5], [9, 9, 2], [10, 11, 12]], is_normalized=True, tolerance=FLOAT32)


@pytest.mark.parametrize(
    "rows", [[[0]], [[0], [0, 4]], [[0, 4, 9, 9], [0], [0, 7, 8]], [STORY, STORY], [STORY, [*STORY, 3]]]
)
def test_ragged_prefixes_equal_transformers(tiny_lm: CausalLM, rows: list[list[int]]) -> None:
    log_prob_BV = tiny_lm.start(pad_left(rows)).log_weight_BV
    want_BV = torch.stack([log_probs_by_transformers(tiny_lm, row)[-1] for row in rows])
    torch.testing.assert_close(log_prob_BV, want_BV, atol=FLOAT32, rtol=0)


def test_a_score_is_the_sum_of_steps_of_transformers(tiny_lm: CausalLM) -> None:
    prefixes, texts = [[0, 5], [0], STORY], [[3, 4, 5], [9], [10, 11]]
    score_BT = tiny_lm.score(pad_left(prefixes), pad_right(texts))
    for score_T, prefix, text in zip(score_BT, prefixes, texts, strict=True):
        log_prob_TV = log_probs_by_transformers(tiny_lm, prefix + text)[len(prefix) - 1 : -1]
        want = [float(log_prob_TV[t, token]) for t, token in enumerate(text)]
        torch.testing.assert_close(score_T, torch.tensor(want + [0.0] * (3 - len(want))), atol=FLOAT32, rtol=0)


def test_nothing_to_score_is_no_mistake(tiny_lm: CausalLM) -> None:
    assert tiny_lm.score(torch.tensor([[0], [0]]), torch.empty(2, 0, dtype=torch.long)).shape == (2, 0)


def test_a_shared_beginning_is_read_once(fresh_lm: CausalLM, tiny_lm: CausalLM) -> None:
    rows = [[*STORY, 20], [*STORY, 21, 22], [*STORY, 23]]
    log_prob_BV = fresh_lm.start(pad_left(rows)).log_weight_BV
    assert fresh_lm.num_tokens_read == len(STORY) + 3 * 2
    want_BV = torch.cat([tiny_lm.start(torch.tensor([row])).log_weight_BV for row in rows])
    torch.testing.assert_close(log_prob_BV, want_BV, atol=FLOAT32, rtol=0)


def test_a_later_call_reuses_what_was_read(fresh_lm: CausalLM) -> None:
    fresh_lm.start(torch.tensor([STORY]))
    assert fresh_lm.num_tokens_read == len(STORY)
    longer = fresh_lm.start(torch.tensor([[*STORY, 20, 21]]))
    assert fresh_lm.num_tokens_read == len(STORY) + 2
    other = fresh_lm.start(torch.tensor([[*STORY[:10], 40]]))
    assert fresh_lm.num_tokens_read == len(STORY) + 3
    for state, row in ((longer, [*STORY, 20, 21]), (other, [*STORY[:10], 40])):
        want_V = log_probs_by_transformers(fresh_lm, row)[-1]
        torch.testing.assert_close(state.log_weight_BV[0], want_V, atol=FLOAT32, rtol=0)


def test_a_growing_text_is_read_once(fresh_lm: CausalLM) -> None:
    """One token is scored at a time, as somebody who follows a text does."""
    got = [float(fresh_lm.score(torch.tensor([STORY[:t]]), torch.tensor([[STORY[t]]]))) for t in range(9, len(STORY))]
    assert fresh_lm.num_tokens_read == len(STORY) - 1
    log_prob_TV = log_probs_by_transformers(fresh_lm, STORY)
    want = [float(log_prob_TV[t - 1, STORY[t]]) for t in range(9, len(STORY))]
    torch.testing.assert_close(torch.tensor(got), torch.tensor(want), atol=FLOAT32, rtol=0)


def test_parts_that_share_the_encoder_run_it_once(fresh_lm: CausalLM) -> None:
    head = Head("h", HeadWeights.shift(torch.ones(fresh_lm.width)), fresh_lm)
    product = LocalProduct(fresh_lm * head * head**2.0)
    state = product.start(torch.tensor([[0, 5], [0, 6]]))
    assert fresh_lm.num_tokens_read == 4
    state = product.extend(state, torch.tensor([7, 8]))
    assert fresh_lm.num_tokens_read == 6
    product.extend(
        product.trim(product.reorder(state, torch.tensor([1, 1])), torch.tensor([1, 0])), torch.tensor([3, 3])
    )
    assert fresh_lm.num_tokens_read == 8


def test_an_old_state_can_go_on_in_two_ways(tiny_lm: CausalLM) -> None:
    state = tiny_lm.start(torch.tensor([[0, 5, 6]]))
    left, right = (tiny_lm.extend(state, torch.tensor([token])) for token in (7, 8))
    left, right = (tiny_lm.extend(s, torch.tensor([9])) for s in (left, right))
    for got, row in ((left, [0, 5, 6, 7, 9]), (right, [0, 5, 6, 8, 9]), (state, [0, 5, 6])):
        want_V = log_probs_by_transformers(tiny_lm, row)[-1]
        torch.testing.assert_close(got.log_weight_BV[0], want_V, atol=FLOAT32, rtol=0)


def test_rows_are_trimmed_each_by_its_own_number(tiny_lm: CausalLM) -> None:
    rows, kept = [[0, 5, 6, 7, 8], [0, 9, 10, 11, 12, 13, 14]], [[0, 5], [0, 9, 10, 11, 12, 13, 14]]
    state = tiny_lm.trim(tiny_lm.start(pad_left(rows)), torch.tensor([3, 0]))
    want_BV = torch.stack([log_probs_by_transformers(tiny_lm, row)[-1] for row in kept])
    torch.testing.assert_close(state.log_weight_BV, want_BV, atol=FLOAT32, rtol=0)
    state = tiny_lm.extend(state, torch.tensor([20, 21]))
    want_BV = torch.stack([log_probs_by_transformers(tiny_lm, [*row, 20 + b])[-1] for b, row in enumerate(kept)])
    torch.testing.assert_close(state.log_weight_BV, want_BV, atol=FLOAT32, rtol=0)


def test_a_long_row_may_lose_more_than_a_short_one_has(tiny_lm: CausalLM) -> None:
    state = tiny_lm.trim(tiny_lm.start(pad_left([[0, 5, 6, 7, 8], [0, 9]])), torch.tensor([3, 0]))
    want_BV = torch.stack([log_probs_by_transformers(tiny_lm, row)[-1] for row in ([0, 5], [0, 9])])
    torch.testing.assert_close(state.log_weight_BV, want_BV, atol=FLOAT32, rtol=0)


def test_a_row_keeps_a_token(tiny_lm: CausalLM) -> None:
    state = tiny_lm.start(torch.tensor([[0, 5]]))
    with pytest.raises(ValueError, match="at least one of its tokens"):
        tiny_lm.trim(state, torch.tensor([2]))


@pytest.mark.parametrize("prefix", [[[]], [[PAD]], [[0], [PAD]]])
def test_an_empty_prefix_is_refused(tiny_lm: CausalLM, prefix: list[list[int]]) -> None:
    prefix_BT = torch.tensor(prefix, dtype=torch.long)
    with pytest.raises(InputError, match="at least one token"):
        tiny_lm.start(prefix_BT)
    with pytest.raises(InputError, match="at least one token"):
        tiny_lm.score(prefix_BT, torch.full((len(prefix), 2), 3))


def test_a_text_longer_than_the_context_is_refused(tiny_lm: CausalLM) -> None:
    longest = torch.full((1, tiny_lm.max_tokens), 5)
    assert tiny_lm.start(longest).log_weight_BV.isfinite().all()
    with pytest.raises(InputError, match="at most 256 tokens, got 257"):
        tiny_lm.start(torch.cat([longest, longest[:, :1]], 1))
    with pytest.raises(InputError, match="at most 256 tokens, got 259"):
        tiny_lm.score(longest, torch.full((1, 4), 3))


def test_a_capped_model_is_refused(tiny_folder: Path) -> None:
    loaded = read_model(str(tiny_folder), dtype="float32")
    loaded.model.config.final_logit_softcapping = 30.0
    with pytest.raises(IncompatibleError, match="caps its logits"):
        CausalLM(loaded.model, loaded.tokenizer, name="capped", start_ids=(0,), end_ids=(1,))


def test_the_fingerprint_follows_the_weights_not_the_format(tiny_folder: Path) -> None:
    plain, half, changed = (
        read_model(str(tiny_folder), dtype=dtype, device="cpu") for dtype in ("float32", "bfloat16", "float32")
    )
    assert plain.fingerprint == half.fingerprint
    with torch.no_grad():
        changed.model.model.layers[1].mlp.up_proj.weight.mul_(1.05)
    assert changed.fingerprint != plain.fingerprint
