"""Heads: the fast path against its slow, obvious twin, on a tiny model with random heads."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from factorlm.algebra import PAD, Factor, LocalProduct, Power, Product, laws, leaves, log_mean, pad_left, pad_right
from factorlm.errors import IncompatibleError, UnboundError
from factorlm.factors.head import EncoderCard, Head, HeadStack, HeadWeights, UnboundHead, stack_exponents
from factorlm.factors.headed import HeadedModel, fuse
from factorlm.factors.unbound import bind
from factorlm.models import CausalLM
from factorlm.models.table import random_table

# float32: e.(h + sum a g) rounds differently from e.h + sum a (e.g) by about 1e-6 of logits of size 10.
FLOAT32 = 1e-5
BATCHED = 1e-4  # and rows of other batches differ by the order of sums inside the layers
PREFIXES = [[0, 5, 6, 7], [0], [0, 9, 10]]
PREFIX_BT = pad_left(PREFIXES)
TEXT_BT = pad_right([[3, 4, 5, 6], [9, 8], [10, 11, 12]])
ROW_EXPONENT_B = torch.tensor([0.0, -1.5, 2.0])
MakeHead = Callable[..., Head]


def compositions(lm: CausalLM, make: MakeHead) -> dict[str, Factor]:
    flat, bent, third = make(0, 0), make(3, 0), make(3, 1)
    return {
        "a bias": lm * flat,
        "a map": lm * bent**-2.0,
        "both": lm * flat**0.5 * bent**1.5 / third,
        "the same twice": lm * bent**0.7 * flat * bent**0.8,
        "rows": lm * flat**ROW_EXPONENT_B * bent**2.0,
        "nested": (lm * flat**2.0) * (bent * third**ROW_EXPONENT_B) ** 0.5,
        "switched off": lm * flat**0.0 * bent**0.0,
        "base last": flat * bent**-1.0 * lm,
    }


NAMES = ("a bias", "a map", "both", "the same twice", "rows", "nested", "switched off", "base last")


@pytest.mark.parametrize("name", NAMES)
def test_fused_equals_its_slow_twin(tiny_lm: CausalLM, make_head: MakeHead, name: str) -> None:
    slow = LocalProduct(compositions(tiny_lm, make_head)[name])
    fast = fuse(slow)
    assert isinstance(fast, HeadedModel)

    def compare(got: Tensor, want: Tensor) -> None:
        torch.testing.assert_close(got, want, atol=FLOAT32, rtol=0)

    slow_state, fast_state = slow.start(PREFIX_BT), fast.start(PREFIX_BT)
    compare(fast_state.log_weight_BV, slow_state.log_weight_BV)
    for token_B in TEXT_BT[:, :2].clamp(min=0).unbind(1):
        slow_state, fast_state = slow.extend(slow_state, token_B), fast.extend(fast_state, token_B)
        compare(fast_state.log_weight_BV, slow_state.log_weight_BV)
    num_tokens_B = torch.tensor([2, 0, 1])
    compare(fast.trim(fast_state, num_tokens_B).log_weight_BV, slow.trim(slow_state, num_tokens_B).log_weight_BV)
    row_R, token_R = torch.tensor([2, 2, 0, 1]), torch.tensor([3, 4, 5, 6])
    slow_state, fast_state = slow.reorder(slow_state, row_R), fast.reorder(fast_state, row_R)
    compare(fast.extend(fast_state, token_R).log_weight_BV, slow.extend(slow_state, token_R).log_weight_BV)
    compare(fast.score(PREFIX_BT, TEXT_BT), slow.score(PREFIX_BT, TEXT_BT))
    assert bool((fast.score(PREFIX_BT, TEXT_BT)[TEXT_BT == PAD] == 0).all())


@pytest.mark.parametrize("rank", [0, 3])
def test_heads_and_headed_models_obey_the_laws(tiny_lm: CausalLM, make_head: MakeHead, rank: int) -> None:
    head = make_head(rank)
    prefixes, texts = [[0], [0, 5, 6], [0, 7]], [[3, 4], [9, 9], [10, 1]]
    laws.check(head, prefixes, texts, tolerance=BATCHED)
    headed = HeadedModel(tiny_lm, (head, make_head(3, 5)), (2.0, -0.5))
    laws.check(headed, prefixes, texts, is_normalized=True, tolerance=BATCHED)


def test_any_number_of_heads_is_one_head(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    heads = [make_head(0, 1), make_head(3, 2), make_head(2, 3)]
    exponents = [0.5, -1.0, 1.5]
    scaled = [head.weights.scaled(a) for head, a in zip(heads, exponents, strict=True)]
    summed = HeadWeights(
        sum(w.bias_D for w in scaled),  # type: ignore[arg-type]
        torch.cat([w.up_DR for w in scaled], 1),
        torch.cat([w.down_RD for w in scaled]),
    )
    many = HeadedModel(tiny_lm, tuple(heads), tuple(exponents))
    one = HeadedModel(tiny_lm, (Head("one", summed, tiny_lm),), (1.0,))
    got, want = one.score(PREFIX_BT, TEXT_BT), many.score(PREFIX_BT, TEXT_BT)
    torch.testing.assert_close(got, want, atol=FLOAT32, rtol=0)


def test_rows_with_exponents_of_their_own_equal_rows_alone(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    head = make_head(3)
    together_BT = HeadedModel(tiny_lm, (head,), (ROW_EXPONENT_B,)).score(PREFIX_BT, TEXT_BT)
    for b, exponent in enumerate(ROW_EXPONENT_B.tolist()):
        alone_BT = HeadedModel(tiny_lm, (head,), (exponent,)).score(pad_left([PREFIXES[b]]), TEXT_BT[b : b + 1])
        torch.testing.assert_close(alone_BT[0], together_BT[b], atol=BATCHED, rtol=0)


def test_a_constant_potential_changes_nothing(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    """The first direction of the tiny unembedding is the same for every token: the gauge of a bias."""
    head = make_head(3)
    gauge_D = torch.zeros(tiny_lm.width)
    gauge_D[0] = 6.0
    weights = replace(head.weights, bias_D=head.weights.bias_D + gauge_D)
    moved = Head("moved", weights, tiny_lm)
    hidden_ND, token_N = tiny_lm.hidden_before(PREFIX_BT, TEXT_BT).flatten(0, 1), TEXT_BT.flatten().clamp(min=0)
    difference_NV = moved.potential(hidden_ND) - head.potential(hidden_ND)
    torch.testing.assert_close(difference_NV, torch.full_like(difference_NV, 3.0), atol=FLOAT32, rtol=0)
    got, want = (HeadedModel(tiny_lm, (h,), (2.0,)).score(PREFIX_BT, TEXT_BT) for h in (moved, head))
    torch.testing.assert_close(got, want, atol=FLOAT32, rtol=0)
    log_prob_NV = tiny_lm.unembed(hidden_ND).log_softmax(-1)
    got, want = (HeadStack((h,)).log_ratio(hidden_ND, token_N, log_prob_NV.exp()) for h in (moved, head))
    torch.testing.assert_close(got, want, atol=FLOAT32, rtol=0)


def test_a_stack_equals_its_heads(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    heads = (make_head(0, 1), make_head(3, 1), make_head(0, 2), make_head(1, 1))
    stack = HeadStack(heads)
    hidden_ND, token_N = tiny_lm.hidden_before(PREFIX_BT, TEXT_BT).flatten(0, 1), TEXT_BT.flatten().clamp(min=0)
    exponent_NK = torch.randn(len(token_N), 4, generator=torch.Generator().manual_seed(0))
    output_NKD = torch.stack([head.weights(hidden_ND) for head in heads], 1)
    torch.testing.assert_close(stack.outputs(hidden_ND), output_NKD, atol=FLOAT32, rtol=0)
    shift_ND = (exponent_NK[..., None] * output_NKD).sum(1)
    torch.testing.assert_close(stack.shift(hidden_ND, exponent_NK), shift_ND, atol=FLOAT32, rtol=0)
    log_prob_NV = tiny_lm.unembed(hidden_ND).log_softmax(-1)
    log_ratio_NK = stack.log_ratio(hidden_ND, token_N, log_prob_NV.exp())
    for k, head in enumerate(heads):
        potential_NV = head.potential(hidden_ND)
        want_N = potential_NV.gather(1, token_N[:, None])[:, 0] - log_mean(potential_NV, log_prob_NV)
        torch.testing.assert_close(log_ratio_NK[:, k], want_N, atol=FLOAT32, rtol=0)


def test_exponents_are_stacked_by_row() -> None:
    stacked_BK = stack_exponents([2.0, ROW_EXPONENT_B], 3, torch.device("cpu"))
    assert stacked_BK.tolist() == [[2.0, 0.0], [2.0, -1.5], [2.0, 2.0]]


def test_fuse_leaves_what_cannot_be_fused(tiny_lm: CausalLM, fresh_lm: CausalLM, make_head: MakeHead) -> None:
    head = make_head(0)
    for factor in (
        tiny_lm * head,  # not normalised
        LocalProduct(tiny_lm**0.5 * head),
        LocalProduct(tiny_lm * tiny_lm * head),
        LocalProduct(fresh_lm * head),  # a head of another encoder
        LocalProduct(head * make_head(3)),
        LocalProduct((tiny_lm * head) | tiny_lm),
        random_table("ab", 3, torch.Generator().manual_seed(0)),
    ):
        assert fuse(factor) is factor
    assert fuse(LocalProduct(tiny_lm)) is tiny_lm


def test_fuse_keeps_other_factors_beside(tiny_lm: CausalLM, fresh_lm: CausalLM, make_head: MakeHead) -> None:
    slow = LocalProduct(tiny_lm * make_head(3) * Power(fresh_lm, 0.5) * make_head(0) ** 2.0)
    fast = fuse(slow)
    assert isinstance(fast, LocalProduct)
    assert isinstance(fast.base, Product)
    assert isinstance(fast.base.parts[0], HeadedModel)
    assert len(fast.base.parts) == 2
    got, want = fast.score(PREFIX_BT, TEXT_BT), slow.score(PREFIX_BT, TEXT_BT)
    torch.testing.assert_close(got, want, atol=FLOAT32, rtol=0)


def test_a_head_is_bound_to_its_own_encoder_only(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    weights = make_head(3).weights
    mine = EncoderCard(name="tiny", fingerprint=tiny_lm.fingerprint, width=tiny_lm.width)
    unbound = UnboundHead("nice", None, weights, mine)
    product = bind(tiny_lm * unbound**2.0 / unbound, tiny_lm)
    assert isinstance(product, Product)
    heads = [leaf for leaf in leaves(product) if isinstance(leaf, Head)]
    assert len(heads) == 2
    assert heads[0] is heads[1], "the same factor twice is bound once"
    other = UnboundHead("nice", None, weights, mine.model_copy(update={"name": "hal-9000", "fingerprint": "00ff"}))
    with pytest.raises(IncompatibleError, match=r"'nice' needs the encoder hal-9000 \(00ff\), got .*tiny"):
        bind(tiny_lm * other, tiny_lm)


def test_an_unbound_head_cannot_be_read(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    card = EncoderCard(name="tiny", fingerprint=tiny_lm.fingerprint, width=tiny_lm.width)
    unbound = UnboundHead("nice", None, make_head(0).weights, card)
    wanted = "'nice' has no model yet; multiply it by one"
    with pytest.raises(UnboundError, match=wanted):
        _ = unbound.vocabulary
    with pytest.raises(UnboundError, match=wanted):
        unbound.start(PREFIX_BT)
    with pytest.raises(UnboundError, match=wanted):
        unbound.score(PREFIX_BT, TEXT_BT)


def test_scaling_a_head_is_raising_it(make_head: MakeHead, tiny_lm: CausalLM) -> None:
    head = make_head(3)
    hidden_ND = tiny_lm.hidden_before(PREFIX_BT, TEXT_BT).flatten(0, 1)
    got = replace(head, weights=head.weights.scaled(-1.7)).potential(hidden_ND)
    torch.testing.assert_close(got, -1.7 * head.potential(hidden_ND), atol=FLOAT32, rtol=0)
