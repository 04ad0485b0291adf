"""Instructions in one batch: equal to reading each for itself, through every operation, and less work."""

from collections.abc import Callable

import pytest
import torch

from factorlm.algebra import Factor, LocalProduct, Named, laws
from factorlm.factors.head import Head
from factorlm.factors.headed import fuse, fuse_product
from factorlm.factors.lexicon import Lexicon
from factorlm.factors.prompt import Conditioned, UnboundPrompt
from factorlm.factors.prompted import PromptedModel, PromptedProduct
from factorlm.models import CausalLM

FLOAT32 = 2e-4  # nats: sums of float32 in another order, times exponents of a few units
MakeHead = Callable[..., Head]


def compositions(lm: CausalLM, make_head: MakeHead) -> dict[str, Factor]:
    calm, loud = (
        UnboundPrompt(name, None, text).bind(lm) for name, text in (("calm", "be good"), ("loud", "a bad joy of it"))
    )
    by_row = torch.tensor([0.5, -1.0])
    return {
        "one": lm * calm**1.5,
        "two": lm * calm**1.5 * loud**-0.7,
        "with heads": lm * calm * make_head(3) ** 1.2 * make_head(0) ** -0.5 / loud,
        "by row": lm * calm**by_row * make_head(0) ** by_row,
        "the same twice": lm * calm * calm**0.5,
        "a density": lm * Conditioned(lm, (5, 6, 7)) ** 0.6,
    }


@pytest.mark.parametrize("name", ["one", "two", "with heads", "by row", "the same twice", "a density"])
@pytest.mark.parametrize("is_local", [True, False])
def test_laws_and_the_slow_twin(tiny_lm: CausalLM, make_head: MakeHead, name: str, is_local: bool) -> None:
    product = compositions(tiny_lm, make_head)[name]
    product = LocalProduct(product) if is_local else product
    fused = fuse(product) if is_local else fuse_product(product)
    assert isinstance(fused, PromptedModel if is_local else PromptedProduct)
    prefixes, texts = [[0], [0, 8, 9]], [[4, 5, 6], [7, 8, 9]]
    if name != "by row":  # laws read rows alone
        laws.check(fused, prefixes, texts, is_normalized=is_local, tolerance=FLOAT32)
    prefix_BT = torch.tensor([[-1, -1, 0], [0, 8, 9]])
    slow, fast = product.start(prefix_BT), fused.start(prefix_BT)
    for token_B in torch.tensor(texts).T:
        torch.testing.assert_close(fast.log_weight_BV, slow.log_weight_BV.float(), atol=FLOAT32, rtol=0)
        slow, fast = product.extend(slow, token_B), fused.extend(fast, token_B)
    torch.testing.assert_close(fast.log_weight_BV, slow.log_weight_BV.float(), atol=FLOAT32, rtol=0)
    row_R = torch.tensor([1, 0, 1])
    moved = fused.extend(fused.reorder(fast, row_R), torch.tensor([3, 4, 5]))
    want = product.extend(product.reorder(slow, row_R), torch.tensor([3, 4, 5]))
    torch.testing.assert_close(moved.log_weight_BV, want.log_weight_BV.float(), atol=FLOAT32, rtol=0)
    cut = fused.trim(moved, torch.tensor([0, 2, 1]))
    torch.testing.assert_close(
        cut.log_weight_BV, product.trim(want, torch.tensor([0, 2, 1])).log_weight_BV.float(), atol=FLOAT32, rtol=0
    )


def test_what_is_no_instruction_stays_beside(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    words = Lexicon("words", {"good": 2.0}, tiny_lm.vocabulary)
    product = LocalProduct(compositions(tiny_lm, make_head)["two"] * words)
    fused = fuse(product)
    assert isinstance(fused, LocalProduct)
    assert any(isinstance(part, PromptedModel) for part in fused.base.parts)
    prefix_BT = torch.tensor([[0, 8, 9]])
    got, want = fused.start(prefix_BT), product.start(prefix_BT)
    torch.testing.assert_close(got.log_weight_BV, want.log_weight_BV, atol=FLOAT32, rtol=0)
    other = LocalProduct(tiny_lm * Named("other", words**2.0))
    assert fuse(other) is other


def test_instructions_share_one_pass(fresh_lm: CausalLM) -> None:
    """A step reads one token for each condition, in one call of the encoder."""
    calls = []
    run = fresh_lm.run_layers
    fresh_lm.run_layers = lambda *args, **kept: calls.append(args[0].shape) or run(*args, **kept)  # type: ignore[method-assign, func-returns-value]
    product = fresh_lm
    for n, text in enumerate(("be good", "be bad", "the joy", "a house")):
        product = product * UnboundPrompt(f"p{n}", None, text).bind(fresh_lm) ** 0.5
    fused = fuse(LocalProduct(product))
    state = fused.start(torch.tensor([[0, 8, 9], [0, 4, 4]]))
    calls.clear()
    state = fused.extend(state, torch.tensor([5, 6]))
    assert calls == [torch.Size([10, 1])]
    fused.extend(state, torch.tensor([5, 6]))
    assert len(calls) == 2
