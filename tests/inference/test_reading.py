"""Reading texts with heads, a lexicon, a prompt and a contrast at once, against formulas over the whole vocabulary."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from factorlm.algebra import PAD, Factor, LocalProduct, Term, flatten, log_normalize, merge, pad_left, pad_right, scale
from factorlm.factors import bind, contrast, lexicon, prompt
from factorlm.factors.head import Head
from factorlm.factors.headed import fuse
from factorlm.inference.reading import BLOCK_TOKENS, Reading, read, read_base
from factorlm.models import CausalLM
from factorlm.models.table import Table, random_table
from factorlm.text import letters

FLOAT32 = 1e-4  # logits of size 10 summed in another order, over some factors with exponents of up to two
PREFIX_BT = pad_left([[0, 5, 6], [0], [0, 30, 2, 5]])
ROW_EXPONENT_B = torch.tensor([2.0, 0.0, -1.0])
MakeHead = Callable[..., Head]


@pytest.fixture(scope="module")
def text_BT(tiny_lm: CausalLM) -> Tensor:
    return pad_right([tiny_lm.encode_text(text) for text in (" the good house", " bad", " in a good, good")])


@pytest.fixture(scope="module")
def mixed(tiny_lm: CausalLM, make_head: MakeHead) -> Factor:
    """Terms in an order in which heads do not come first."""
    words = lexicon({"good": 1.5, "bad": -2.0}, name="words")
    asked = prompt("be the good", name="asked")
    versus = contrast("versus", tiny_lm, tiny_lm * make_head(0, 7))
    product = (
        tiny_lm
        * words**0.5
        * make_head(0, 1, name="flat") ** ROW_EXPONENT_B
        * asked**1.5
        * make_head(3, 1, name="bent") ** -0.5
        * versus**ROW_EXPONENT_B
    )
    return bind(product, tiny_lm)


def terms_of(product: Factor) -> list[Term]:
    base, *terms = merge(flatten(product))
    assert isinstance(base.factor, CausalLM)
    return terms


def exponent_BK(terms: list[Term]) -> Tensor:
    return torch.stack([torch.as_tensor(term.exponent).float().expand(3) for term in terms], 1)


def steps(factor: Factor, text_BT: Tensor) -> Tensor:
    """[B, T, V], state by state: nothing fused, nothing read at once."""
    state, found = factor.start(PREFIX_BT), []
    for token_B in text_BT.unbind(1):
        found.append(state.log_weight_BV)
        state = factor.extend(state, token_B.clamp(min=0))
    return torch.stack(found, 1).float()


def at(x_BTV: Tensor, text_BT: Tensor) -> Tensor:
    return x_BTV.gather(2, text_BT.clamp(min=0)[..., None])[..., 0].masked_fill(text_BT == PAD, 0.0)


def close(got: Tensor | None, want: Tensor) -> None:
    assert got is not None
    torch.testing.assert_close(got, want, atol=FLOAT32, rtol=0)


@pytest.fixture(scope="module")
def found(mixed: Factor, text_BT: Tensor) -> Reading:
    return read(LocalProduct(mixed), PREFIX_BT, text_BT, with_contributions=True, with_ratios=True)


def test_names_and_exponents_keep_their_order(found: Reading) -> None:
    assert found.names == ("words", "flat", "asked", "bent", "versus")
    want = [[0.5, a, 1.5, -0.5, a] for a in ROW_EXPONENT_B.tolist()]
    assert found.exponents_BK.tolist() == want


def test_numbers_add_up(found: Reading) -> None:
    assert found.contribution_BTK is not None
    assert found.normalizer_BT is not None
    close(found.base_log_prob_BT + found.contribution_BTK.sum(-1) - found.normalizer_BT, found.log_prob_BT)


def test_log_probs_are_those_of_the_fused_and_of_the_slow_product(
    found: Reading, mixed: Factor, text_BT: Tensor, tiny_lm: CausalLM
) -> None:
    close(found.log_prob_BT, fuse(LocalProduct(mixed)).score(PREFIX_BT, text_BT))
    close(found.log_prob_BT, at(steps(LocalProduct(mixed), text_BT), text_BT))
    close(found.base_log_prob_BT, tiny_lm.score(PREFIX_BT, text_BT))


def test_contributions_equal_sums_over_the_vocabulary(
    found: Reading, mixed: Factor, text_BT: Tensor, tiny_lm: CausalLM
) -> None:
    base_BTV = steps(tiny_lm, text_BT)
    terms = terms_of(mixed)
    mean_total_BT = torch.zeros(text_BT.shape)
    for k, term in enumerate(terms):
        log_weight_BTV = steps(term.factor, text_BT)
        mean_BT = (base_BTV.exp() * log_weight_BTV).sum(-1)
        exponent_B1 = exponent_BK(terms)[:, k : k + 1]
        want_BT = exponent_B1 * (log_weight_BTV - mean_BT[..., None]).gather(2, text_BT.clamp(min=0)[..., None])[..., 0]
        assert found.contribution_BTK is not None
        close(found.contribution_BTK[..., k], want_BT.masked_fill(text_BT == PAD, 0.0))
        mean_total_BT += exponent_B1 * mean_BT
    composed_BTV = base_BTV + sum(
        scale(steps(term.factor, text_BT), exponent_BK(terms)[:, k, None, None]) for k, term in enumerate(terms)
    )
    price_BT = composed_BTV.logsumexp(-1) - mean_total_BT
    close(found.normalizer_BT, price_BT.masked_fill(text_BT == PAD, 0.0))
    assert found.normalizer_BT is not None
    assert float(found.normalizer_BT.min()) >= -FLOAT32


def test_ratios_are_those_of_normalised_models(
    found: Reading, mixed: Factor, text_BT: Tensor, tiny_lm: CausalLM
) -> None:
    base_BTV = steps(tiny_lm, text_BT)
    assert found.log_ratio_BTK is not None
    for k, term in enumerate(terms_of(mixed)):
        alone_BTV = log_normalize(base_BTV + steps(term.factor, text_BT))
        close(found.log_ratio_BTK[..., k], at(alone_BTV - base_BTV, text_BT))


def test_nothing_stands_in_the_padding(found: Reading, text_BT: Tensor) -> None:
    padding_BT = text_BT == PAD
    assert bool(padding_BT.any())
    for x in (found.base_log_prob_BT, found.log_prob_BT, found.contribution_BTK, found.normalizer_BT):
        assert x is not None
        assert bool((x[padding_BT] == 0).all())
    assert found.log_ratio_BTK is not None
    assert bool((found.log_ratio_BTK[padding_BT] == 0).all())


def test_rows_read_alone_are_the_same(found: Reading, tiny_lm: CausalLM, mixed: Factor, text_BT: Tensor) -> None:
    for b in range(3):
        terms = [
            Term(t.factor, t.exponent[b].item() if isinstance(t.exponent, Tensor) else t.exponent)
            for t in terms_of(mixed)
        ]
        product: Factor = tiny_lm
        for term in terms:
            product = product * term.as_factor()
        row_T = text_BT[b][text_BT[b] != PAD]
        prefix_BT = PREFIX_BT[b][PREFIX_BT[b] != PAD][None]
        alone = read(product, prefix_BT, row_T[None], with_contributions=True)
        close(alone.log_prob_BT[0], found.log_prob_BT[b, : len(row_T)])
        assert found.contribution_BTK is not None
        assert alone.contribution_BTK is not None
        close(alone.contribution_BTK[0], found.contribution_BTK[b, : len(row_T)])


def test_only_what_is_asked_for_is_found(mixed: Factor, text_BT: Tensor, found: Reading) -> None:
    plain = read(mixed, PREFIX_BT, text_BT)
    assert plain.contribution_BTK is None
    assert plain.normalizer_BT is None
    assert plain.log_ratio_BTK is None
    close(plain.log_prob_BT, found.log_prob_BT)


def test_a_model_alone_is_its_own_base(tiny_lm: CausalLM, text_BT: Tensor) -> None:
    alone = read(tiny_lm, PREFIX_BT, text_BT, with_contributions=True, with_ratios=True)
    assert alone.names == ()
    assert torch.equal(alone.log_prob_BT, alone.base_log_prob_BT)
    assert alone.contribution_BTK is not None
    assert alone.contribution_BTK.shape == (3, text_BT.shape[1], 0)
    close(alone.normalizer_BT, torch.zeros(text_BT.shape))
    assert alone.log_ratio_BTK is not None
    assert alone.log_ratio_BTK.shape == (3, text_BT.shape[1], 0)


def test_texts_longer_than_a_block(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    generator = torch.Generator().manual_seed(0)
    long_BT = torch.randint(2, 50, (3, 2 * BLOCK_TOKENS // 5), generator=generator)
    product = tiny_lm * make_head(3) * make_head(0) ** ROW_EXPONENT_B
    got = read(product, PREFIX_BT, long_BT, with_ratios=True)
    close(got.log_prob_BT, fuse(LocalProduct(product)).score(PREFIX_BT, long_BT))


def test_no_text_is_no_mistake(mixed: Factor) -> None:
    empty = read(mixed, PREFIX_BT, torch.empty(3, 0, dtype=torch.long), with_contributions=True, with_ratios=True)
    assert empty.log_prob_BT.shape == (3, 0)
    assert empty.contribution_BTK is not None
    assert empty.contribution_BTK.shape == (3, 0, 5)


def test_a_base_that_is_no_language_model_of_ours() -> None:
    first, second = (random_table("ab", 5, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    prefix_BT, text_BT = pad_left([[0], []]), pad_right([[0, 1, 2], [1, 2]])
    got = read(first * second**0.5, prefix_BT, text_BT, with_contributions=True, with_ratios=True)
    want_BT = LocalProduct(first * second**0.5).score(prefix_BT, text_BT)
    close(got.log_prob_BT, want_BT.float())
    close(got.base_log_prob_BT, first.score(prefix_BT, text_BT).float())


def test_a_banned_word_is_impossible_and_nothing_is_nan(tiny_lm: CausalLM) -> None:
    product = bind(tiny_lm * lexicon(["bad"], ban=True) ** 2.0, tiny_lm)
    text_BT = pad_right([tiny_lm.encode_text(" the bad "), tiny_lm.encode_text(" the good ")])
    got = read(product, PREFIX_BT[:2], text_BT, with_contributions=True, with_ratios=True)
    assert float(got.log_prob_BT[0].sum()) == -torch.inf
    assert bool(got.log_prob_BT[1].isfinite().all())
    assert not bool(got.log_prob_BT.isnan().any())
    assert got.contribution_BTK is not None
    assert not bool(got.contribution_BTK.isnan().any())


def test_a_base_with_an_exponent_for_each_row(tiny_lm: CausalLM, make_head: MakeHead, text_BT: Tensor) -> None:
    product = tiny_lm * (tiny_lm * make_head(0)) ** ROW_EXPONENT_B
    got = read(product, PREFIX_BT, text_BT, with_contributions=True)
    close(got.log_prob_BT, LocalProduct(product).score(PREFIX_BT, text_BT))


def test_a_large_constant_in_a_potential_leaves_its_evidence(
    tiny_lm: CausalLM, make_head: MakeHead, text_BT: Tensor
) -> None:
    head = make_head(0)
    head.weights.bias_D[0] += 300.0  # 150 nats for every token alike
    got = read(tiny_lm * head, PREFIX_BT, text_BT, with_ratios=True)
    assert got.log_ratio_BTK is not None
    assert bool(got.log_ratio_BTK.isfinite().all())


def test_shape_equals_sums_over_the_vocabulary(mixed: Factor, text_BT: Tensor) -> None:
    log_prob_BTV = torch.stack(list(LocalProduct(mixed).steps(PREFIX_BT, text_BT)), 1).float()
    got = read(mixed, PREFIX_BT, text_BT, with_shape=True)
    padding_BT = text_BT == PAD
    want_BT = -(log_prob_BTV.exp() * log_prob_BTV).sum(-1)
    close(got.entropy_BT, want_BT.masked_fill(padding_BT, 0.0))
    top_BT = log_prob_BTV.argmax(-1)
    assert got.is_top_BT is not None
    assert torch.equal(got.is_top_BT, (top_BT == text_BT) & ~padding_BT)
    best_BT = top_BT.masked_fill(padding_BT, PAD)
    log_prob_BTV = torch.stack(list(LocalProduct(mixed).steps(PREFIX_BT, best_BT)), 1).float()
    best = read(mixed, PREFIX_BT, best_BT, with_shape=True)
    assert best.is_top_BT is not None
    assert torch.equal(best.is_top_BT, (log_prob_BTV.argmax(-1) == best_BT) & ~padding_BT)
    assert bool(best.is_top_BT[:, 0].all())


def test_shape_of_a_model_alone_and_only_when_asked_for(tiny_lm: CausalLM, text_BT: Tensor, found: Reading) -> None:
    log_prob_BTV = torch.stack(list(tiny_lm.steps(PREFIX_BT, text_BT)), 1)
    got = read(tiny_lm, PREFIX_BT, text_BT, with_shape=True, with_ratios=True)
    want_BT = -(log_prob_BTV.exp() * log_prob_BTV).sum(-1)
    close(got.entropy_BT, want_BT.masked_fill(text_BT == PAD, 0.0))
    assert got.is_top_BT is not None
    assert torch.equal(got.is_top_BT, (log_prob_BTV.argmax(-1) == text_BT) & (text_BT != PAD))
    assert found.entropy_BT is None
    assert found.is_top_BT is None


def constant(*weights: float) -> Table:
    """The same next-token weights everywhere; the last token is the end."""
    texts = [text for length in (1, 2) for text in itertools.product(range(len(weights)), repeat=length)]
    return Table(letters("abcd"), {text: torch.tensor(weights, dtype=torch.float64).log() for text in texts})


def test_shape_where_tokens_are_impossible_or_tie() -> None:
    weight_V = torch.tensor([2.0, 2.0, 0.0, 1.0, 3.0])
    fixed, even = constant(*weight_V.tolist()), constant(1, 1, 1, 1, 1)
    text_BT = torch.tensor([[0, 1], [2, 3]])
    prefix_BT = pad_left([[0], [0]])
    for product, power in ((fixed, 1.0), (even * fixed**2.0, 2.0)):
        got = read(product, prefix_BT, text_BT, with_shape=True)
        share_V = weight_V**power / (weight_V**power).sum()
        want = -sum(float(p) * math.log(p) for p in share_V if p > 0)
        close(got.entropy_BT, torch.full((2, 2), want))
        assert got.is_top_BT is not None
        assert not bool(got.is_top_BT.any())  # the end is likelier than each of them
    tied = read(fixed * constant(1, 1, 1, 1, 0), prefix_BT, text_BT, with_shape=True)
    assert tied.is_top_BT is not None
    assert tied.is_top_BT.tolist() == [[True, True], [False, False]]


def test_the_base_alone_is_read_as_within_the_product(mixed: Factor, text_BT: Tensor, found: Reading) -> None:
    alone = read_base(LocalProduct(mixed), PREFIX_BT, text_BT)
    assert alone.names == found.names
    assert torch.equal(alone.exponents_BK, found.exponents_BK)
    close(alone.base_log_prob_BT, found.base_log_prob_BT)
    bare = read_base(terms_base(mixed), PREFIX_BT, text_BT)
    assert bare.names == ()
    assert bare.exponents_BK.shape == (3, 0)


def terms_base(product: Factor) -> Factor:
    return merge(flatten(product))[0].as_factor()
