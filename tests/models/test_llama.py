"""Our Llama layers against transformers' own, which are the twin."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from factorlm.models import CausalLM
from factorlm.models.body import TransformersBody, body_of
from factorlm.models.llama import FEW_TOKENS, LlamaBody
from factorlm.models.loading import read_model

SIZES: dict[str, Any] = {"vocab_size": 50, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3,
                         "num_attention_heads": 6, "num_key_value_heads": 2}  # fmt: skip
SCALED = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32, "rope_theta": 10_000.0}  # fmt: skip
NETWORKS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama with biases": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)),
    "llama with scaled places": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=SCALED)),
    "llama with wide heads": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, head_dim=16)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
}
# float32 sums in another order, through three layers; states after the norm are of size one.
FLOAT32 = 1e-4


def network_of(name: str) -> Any:
    torch.manual_seed(0)
    network = NETWORKS[name]().eval().requires_grad_(False)
    for weight in network.parameters():  # biases and norms as well: what is left out must show
        weight += 0.3 * torch.randn_like(weight)
    return network


def places(is_token_BT: Tensor) -> Tensor:
    return (is_token_BT.long().cumsum(1) - 1).clamp(min=0)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("num_tokens", [1, 7, FEW_TOKENS, FEW_TOKENS + 5])
@pytest.mark.parametrize("padding", [0, 3])
def test_it_does_what_transformers_does(name: str, num_tokens: int, padding: int) -> None:
    network = network_of(name)
    fast, slow = body_of(network), TransformersBody(network)
    assert isinstance(fast, LlamaBody)
    token_BT = torch.randint(50, (3, padding + num_tokens + 4), generator=torch.Generator().manual_seed(num_tokens))
    is_token_BT = torch.ones_like(token_BT, dtype=torch.bool)
    is_token_BT[0, :padding] = False
    place_BT = places(is_token_BT)
    first, last = padding + num_tokens, padding + num_tokens + 4
    read: list[Any] = [None, None]
    for start, end in ((0, first), (first, first + 1), (first + 1, last)):
        mask = is_token_BT[:, :end] if padding else None
        piece = slice(start, end)
        found = [
            body(token_BT[:, piece], place_BT[:, piece], mask, known, True)
            for body, known in zip((fast, slow), read, strict=True)
        ]
        real = is_token_BT[:, piece]
        torch.testing.assert_close(found[0][0][real], found[1][0][real], atol=FLOAT32, rtol=0)
        read = [keys_values for _, keys_values in found]
    whole, kept = fast(token_BT, place_BT, is_token_BT if padding else None, None, False)
    assert kept == ()
    torch.testing.assert_close(whole[:, -1], found[0][0][:, -1], atol=FLOAT32, rtol=0)
    assert whole.isfinite().all()


def test_keys_are_those_of_transformers() -> None:
    """So that whoever reads keys and values of the one can go on with the other."""
    network = network_of("llama")
    token_BT, place_BT = torch.arange(8)[None], torch.arange(8)[None]
    _, got = body_of(network)(token_BT, place_BT, None, None, True)
    _, want = TransformersBody(network)(token_BT, place_BT, None, None, True)
    for (key, value), (want_key, want_value) in zip(got, want, strict=True):
        torch.testing.assert_close(key.view, want_key.view, atol=FLOAT32, rtol=0)
        torch.testing.assert_close(value.view, want_value.view, atol=FLOAT32, rtol=0)


@torch.no_grad()
def test_bfloat16_is_nearer_to_float32_than_transformers_is(lm: CausalLM) -> None:
    """What runs through the layers stays float32; the margin measured was 0.6."""
    token_BT = torch.tensor([[*lm.start_ids, *lm.encode_text("The history of the city goes back to the Romans, who")]])
    place_BT = torch.arange(token_BT.shape[1])[None]
    want = lm._body(token_BT, place_BT, None, None, False)[0]
    network = read_model("smollm2", dtype="bfloat16", device="cpu").model
    away = [
        float((body(token_BT, place_BT, None, None, False)[0].float() - want).square().mean())
        for body in (LlamaBody(network), TransformersBody(network))
    ]
    assert away[0] < 0.9 * away[1]


def test_what_is_written_into_the_weights_is_seen() -> None:
    network = network_of("qwen2")
    fast, slow = body_of(network), TransformersBody(network)
    token_BT, place_BT = torch.arange(8)[None], torch.arange(8)[None]
    before, _ = fast(token_BT, place_BT, None, None, False)
    for name in ("layers.1.mlp.up_proj.weight", "layers.0.self_attn.k_proj.bias", "norm.weight"):
        network.base_model.get_parameter(name).mul_(1.5)
        got, _ = fast(token_BT, place_BT, None, None, False)
        want, _ = slow(token_BT, place_BT, None, None, False)
        torch.testing.assert_close(got, want, atol=FLOAT32, rtol=0)
        assert not torch.allclose(got, before, atol=1e-3)
        before = got


def other_networks() -> dict[str, Any]:
    hooked, replaced = network_of("llama"), network_of("llama")
    hooked.model.layers[1].register_forward_hook(lambda module, inputs, output: output)
    replaced.model.layers[0].mlp.up_proj = type("Other", (nn.Linear,), {})(48, 64, bias=False)
    torch.manual_seed(0)
    windowed = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4))
    gemma = Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, head_dim=8))
    rounded = LlamaForCausalLM(LlamaConfig(**SIZES, hidden_act="gelu"))
    return {"hooked": hooked, "replaced": replaced, "windowed": windowed, "gemma": gemma, "gelu": rounded}


@pytest.mark.parametrize("name", ["hooked", "replaced", "windowed", "gemma", "gelu"])
def test_what_it_cannot_run_is_left_to_transformers(name: str) -> None:
    network = other_networks()[name].eval().requires_grad_(False)
    token_BT = torch.arange(12)[None]
    with torch.no_grad():
        want = network.base_model(token_BT).last_hidden_state
    body = body_of(network)
    assert isinstance(body, TransformersBody)
    got, _ = body(token_BT, torch.arange(12)[None], None, None, False)
    torch.testing.assert_close(got, want, atol=FLOAT32, rtol=0)
