"""Layers left out: against transformers with the layers deleted, and that they are really not run."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from factorlm.algebra import laws, pad_left, pad_right
from factorlm.errors import IncompatibleError, InputError
from factorlm.models import CausalLM
from factorlm.models.layers import Gated, num_layers, skipping
from factorlm.models.linear import PackedLinear
from factorlm.models.llama import LlamaBody

SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4,
                         "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
# Windows of three tokens, and a whole view at layers 2 and 5: types that move when layers go.
TYPES = ["sliding_attention", "sliding_attention", "full_attention"] * 2
NETWORKS = {
    "llama": lambda v: LlamaForCausalLM(LlamaConfig(vocab_size=v, **SIZES)),
    "qwen2": lambda v: Qwen2ForCausalLM(Qwen2Config(vocab_size=v, **SIZES)),
    "gemma3": lambda v: Gemma3ForCausalLM(
        Gemma3TextConfig(vocab_size=v, **SIZES, head_dim=8, sliding_window=3, layer_types=TYPES)
    ),
    "gpt2": lambda v: GPT2LMHeadModel(
        GPT2Config(vocab_size=v, n_embd=32, n_layer=6, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=1,
                   scale_attn_by_inverse_layer_idx=True)
    ),
}  # fmt: skip
SETS = [[0], [5], [0, 2, 5], [1, 2, 4], [0, 1, 3, 4, 5]]
FLOAT32 = 1e-4  # sums in another order through a few layers; states after the norm are of size one
ROWS = [[0, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [0, 30, 20], [0, 4, 9, 9, 8]]
TEXTS = [[3, 4, 5, 8, 8], [9, 9, 2], [10, 11, 12, 7]]


def lm_of(name: str, tokenizer: Any) -> CausalLM:
    torch.manual_seed(0)
    network = NETWORKS[name](len(tokenizer)).eval().requires_grad_(False)
    for weight in network.parameters():  # large enough that every layer shows
        weight += 0.1 * torch.randn_like(weight)
    return CausalLM(network, tokenizer, name=name, start_ids=(0,), end_ids=(1,))


def layers_of(network: Any) -> nn.ModuleList:
    return network.transformer.h if hasattr(network, "transformer") else network.model.layers


def with_layers_deleted(network: Any, kept: list[int]) -> Any:
    """The twin: the others are taken out of a deep copy, which then has nothing to do with a cache."""
    other = copy.deepcopy(network)
    for module in other.modules():
        if type(module) is PackedLinear:
            module.__class__ = nn.Linear
    layers, types = layers_of(other), getattr(other.config, "layer_types", None)
    for number in sorted(set(range(len(layers))) - set(kept), reverse=True):
        del layers[number]
    other.config.num_hidden_layers = len(kept)
    if types:
        other.config.layer_types = [types[number] for number in kept]
    return other


def log_probs(network: Any, row: list[int]) -> Tensor:
    with torch.no_grad():
        return network(torch.tensor([row]), use_cache=False).logits[0].float().log_softmax(-1)


@pytest.fixture(params=NETWORKS)
def base(request: pytest.FixtureRequest, tiny_lm: CausalLM) -> CausalLM:
    return lm_of(request.param, tiny_lm.tokenizer)


@pytest.fixture
def llama(tiny_lm: CausalLM) -> CausalLM:
    return lm_of("llama", tiny_lm.tokenizer)


@pytest.mark.parametrize("kept", SETS)
def test_it_does_what_transformers_does_without_the_layers(base: CausalLM, kept: list[int]) -> None:
    part, twin = skipping(base, kept), with_layers_deleted(base.model, kept)
    score_BT = part.score(pad_left(ROWS), pad_right(TEXTS))
    for row, text, score_T in zip(ROWS, TEXTS, score_BT, strict=True):
        want_TV = log_probs(twin, row + text)[len(row) - 1 : -1]
        want_T = want_TV[range(len(text)), text]
        torch.testing.assert_close(score_T[: len(text)], want_T, atol=FLOAT32, rtol=0)


@pytest.mark.parametrize("kept", SETS)
def test_it_obeys_the_laws(base: CausalLM, kept: list[int]) -> None:
    """Decoding with a cache equals reading at once; a row in a batch equals the row alone."""
    prefixes, texts = [*ROWS, [0]], [[3, 4, 5], [9, 9, 2], [10, 11, 12], [30, 1, 8]]
    laws.check(skipping(base, kept), prefixes, texts, is_normalized=True, tolerance=FLOAT32)


def test_with_every_layer_it_is_the_original(base: CausalLM) -> None:
    whole = skipping(base, range(6))
    args = (pad_left(ROWS), pad_right(TEXTS))
    assert torch.equal(whole.score(*args), base.score(*args))
    assert (whole.name, whole.fingerprint) == (base.name, base.fingerprint)


def test_the_original_stays_as_it_was(base: CausalLM) -> None:
    before_BT = base.score(pad_left(ROWS), pad_right(TEXTS))
    part = skipping(base, [0, 3])
    part.start(torch.tensor([[0, 5]]))
    base.forget()
    assert torch.equal(base.score(pad_left(ROWS), pad_right(TEXTS)), before_BT)
    assert num_layers(base) == 6
    assert num_layers(part) == 2
    assert part.fingerprint != base.fingerprint
    assert len(base.start(torch.tensor([[0, 5]])).memory.keys_values) == 6


def test_layers_left_out_are_not_run(base: CausalLM) -> None:
    part = skipping(base, [0, 2, 5])
    assert len(part.start(torch.tensor([[0, 5, 6]])).memory.keys_values) == 3
    if isinstance(part._body, LlamaBody):
        return
    calls = []
    for number, layer in enumerate(layers_of(base.model)):
        part_of_it = layer.mlp  # shared with the part, unlike what knows its place
        part_of_it.register_forward_hook(lambda *_, number=number: calls.append(number))
    part.start(torch.tensor([[0, 5, 6, 7]]))
    assert calls == [0, 2, 5]


def test_weights_and_packed_copies_are_shared(base: CausalLM) -> None:
    base.score(pad_left(ROWS), pad_right(TEXTS))
    part = skipping(base, [1, 4])
    known = {id(weight) for weight in base.model.parameters()}
    assert {id(weight) for weight in part.model.parameters()} <= known
    assert part._unembedding is base._unembedding
    if isinstance(base._body, LlamaBody):
        assert part._body._packing is base._body._packing
    else:
        mine, other = layers_of(part.model)[1].mlp, layers_of(base.model)[4].mlp
        assert mine is other


def test_what_is_written_into_the_weights_is_seen(base: CausalLM) -> None:
    part, row = skipping(base, [1, 4]), torch.tensor([[0, 5, 6, 7]])
    before_BV = part.start(row).log_weight_BV
    weight = next(w for n, w in base.model.named_parameters() if ".4." in n and "mlp" in n and w.ndim == 2)
    weight.mul_(1.5)
    part.forget()
    part._memo = type(part._memo)()
    got_BV = part.start(row).log_weight_BV
    assert not torch.allclose(got_BV, before_BV, atol=1e-3)
    want_V = log_probs(with_layers_deleted(base.model, [1, 4]), row[0].tolist())[-1]
    torch.testing.assert_close(got_BV[0], want_V, atol=FLOAT32, rtol=0)


def test_a_part_of_a_part_counts_its_own_layers(base: CausalLM) -> None:
    twice, once = skipping(skipping(base, [0, 2, 3, 5]), [1, 3]), skipping(base, [2, 5])
    args = (pad_left(ROWS), pad_right(TEXTS))
    assert torch.equal(twice.score(*args), once.score(*args))


@pytest.mark.parametrize("kept", [[], [1, 0], [2, 2], [-1, 3], [0, 6]])
def test_numbers_that_are_no_layers_are_refused(llama: CausalLM, kept: list[int]) -> None:
    with pytest.raises(InputError, match=r"layers 0 to 5 of llama are kept, each once and in order, got \["):
        skipping(llama, kept)


def test_layers_that_read_others_are_refused(llama: CausalLM) -> None:
    llama.model.config.num_kv_shared_layers = 2
    with pytest.raises(IncompatibleError, match="num_kv_shared_layers"):
        skipping(llama, [0, 1])


@pytest.mark.parametrize("kept", SETS)
def test_gates_of_zero_and_one_leave_layers_out(base: CausalLM, kept: list[int]) -> None:
    gate_L = torch.zeros(6).index_fill(0, torch.tensor(kept), 1.0)
    got_B = Gated(base).log_prob(gate_L, TEXTS)
    want_B = skipping(base, kept).score(torch.zeros(3, 1, dtype=torch.long), pad_right(TEXTS)).sum(1)
    torch.testing.assert_close(got_B, want_B, atol=FLOAT32, rtol=0)
    assert len(base.start(torch.tensor([[0, 7]])).memory.keys_values) == 6


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_the_gradient_of_gates_is_a_difference_quotient(tiny_lm: CausalLM, name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name](len(tiny_lm.tokenizer)).double()
    gated = Gated(CausalLM(network, tiny_lm.tokenizer, name=name, start_ids=(0,), end_ids=(1,)))
    gate_L = torch.rand(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    (gradient_L,) = torch.autograd.grad(gated.log_prob(gate_L, TEXTS).sum(), gate_L)
    step, rounding = 1e-3, 3e-3  # log probabilities of size 50 are float32, and their difference is divided by the step
    for number, gradient in enumerate(gradient_L):
        nudge_L = step * nn.functional.one_hot(torch.tensor(number), 6)
        with torch.no_grad():
            quotient = (gated.log_prob(gate_L + nudge_L, TEXTS) - gated.log_prob(gate_L - nudge_L, TEXTS)).sum()
        assert float(quotient / (2 * step)) == pytest.approx(float(gradient), abs=rounding)
    assert float(gradient_L.abs().max()) > 50 * rounding
