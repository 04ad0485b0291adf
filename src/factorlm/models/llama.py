"""Networks of the Llama kind, run with fewer and larger operations than transformers': a step takes half the time.

Touvron et al. (2023), arXiv:2302.13971, with grouped-query attention (Ainslie et al., 2023, arXiv:2305.13245). What is
done is the same; only roundings differ: projections of one input are one product, weights are packed once
(`linear.Packed`), the heads that share keys are queries of one attention, and what runs through the layers stays
float32.
"""

# Axes: B batch, D width, F width of an attention head, G queries of one key, H heads, K heads of keys, S tokens seen,
# T tokens read.

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, scaled_dot_product_attention, silu

from factorlm.models import linear
from factorlm.models.linear import Packed
from factorlm.models.span import KeysValues, Span

KINDS = ("llama", "mistral", "qwen2")
PLAIN = (nn.Linear, nn.Embedding, nn.ModuleList, nn.SiLU)
FEW_TOKENS = 32  # read at once: up to there one attention for all queries of a key is faster, mask copied and all


class LlamaBody:
    """The layers of a network of the Llama kind; see `Body`. What is written into its weights is packed anew."""

    def __init__(self, network: Any) -> None:
        config, inner = network.config, network.base_model
        self.num_heads: int = config.num_attention_heads
        self.num_keys: int = config.num_key_value_heads
        self.head_width: int = inner.layers[0].self_attn.head_dim
        self._embedding_VD = inner.embed_tokens.weight
        self._rotary = inner.rotary_emb
        self._packing = _Packing(inner)
        self._kept = tuple(range(len(inner.layers)))

    def with_layers(self, kept: Sequence[int]) -> LlamaBody:
        """The body that runs only these of its layers, over the same weights and the same packed copies of them."""
        other = copy.copy(self)
        other._kept = tuple(self._kept[number] for number in kept)
        return other

    @staticmethod
    def is_one(network: Any) -> bool:
        """Whether a network is of this kind, unchanged by anybody, and small enough to be packed."""
        config = network.config
        if config.model_type not in KINDS or config.hidden_act != "silu":
            return False
        if set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
            return False
        if config.model_type == "mistral" and config.sliding_window:
            return False
        own = f"transformers.models.{config.model_type}."
        modules = list(network.base_model.modules())
        is_plain = all(type(m) in PLAIN or type(m).__module__.startswith((own, "transformers.act")) for m in modules)
        is_watched = any(m._forward_hooks or m._forward_pre_hooks for m in modules)
        return is_plain and not is_watched and linear.num_bytes(network) <= linear.MOST_BYTES

    @torch.no_grad()
    def __call__(
        self, token_BT: Tensor, position_BT: Tensor, is_token_BT: Tensor | None, read: KeysValues | None, keep: bool
    ) -> tuple[Tensor, KeysValues]:
        """See Body."""
        layers, last_norm = self._packing.current()
        is_embedded = token_BT.is_floating_point()
        x_BTD = token_BT.clone() if is_embedded else embedding(token_BT, self._embedding_VD)
        num_read = read[0][0].length if read else 0
        cos, sin = self._rotary(x_BTD, position_BT)
        cos, sin = cos[:, :, None], sin[:, :, None]
        half = self.head_width // 2
        sin = torch.cat([-sin[..., :half], sin[..., half:]], -1)
        mask = self._mask(token_BT.shape[1], num_read, is_token_BT, x_BTD)
        dtype, x_BTD = x_BTD.dtype, x_BTD.float()
        kept = []
        for number, layer in enumerate(layers[place] for place in self._kept):
            joint = layer.qkv(layer.norm(x_BTD, dtype)).unflatten(-1, (-1, self.head_width))
            turned = joint[:, :, : self.num_heads + self.num_keys]
            turned = torch.addcmul(turned * cos, turned.roll(half, -1), sin)
            key = turned[:, :, self.num_heads :].transpose(1, 2)
            value = joint[:, :, self.num_heads + self.num_keys :].transpose(1, 2)
            if keep:
                pair = (Span.of(key, 2), Span.of(value, 2)) if read is None else (
                    read[number][0].append(key, reuse=True), read[number][1].append(value, reuse=True))  # fmt: skip
                kept.append(pair)
                key, value = pair[0].view, pair[1].view
            query = turned[:, :, : self.num_heads].transpose(1, 2)
            x_BTD += layer.out(self._attend(query, key, value, mask))
            gate, up = layer.gate_up(layer.middle_norm(x_BTD, dtype)).chunk(2, -1)
            x_BTD += layer.down(silu(gate) * up)
        return last_norm(x_BTD, dtype), tuple(kept)

    def _mask(self, num_tokens: int, num_read: int, is_token_BT: Tensor | None, like: Tensor) -> Tensor | None:
        """What is added to the attention of each query to each key, [1 or B, 1, T or GT, S]; None if all see all."""
        if num_tokens == 1 and is_token_BT is None:
            return None
        length = num_read + num_tokens
        seen = torch.ones(num_tokens, length, dtype=torch.bool, device=like.device).tril(num_read)[None, None]
        if is_token_BT is not None:
            seen = seen & is_token_BT[:, None, None]
            seen = seen | torch.eye(num_tokens, length, dtype=torch.bool, device=like.device).roll(num_read, 1)
            # padding sees itself: nothing would be no number, and spread
        mask = torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(~seen, -torch.inf)
        return mask.repeat(1, 1, self.num_heads // self.num_keys, 1) if num_tokens <= FEW_TOKENS else mask

    def _attend(self, query_BHTF: Tensor, key_BKSF: Tensor, value_BKSF: Tensor, mask: Tensor | None) -> Tensor:
        num_rows, _, num_tokens, _ = query_BHTF.shape
        if num_tokens > FEW_TOKENS:
            found_BHTF = scaled_dot_product_attention(query_BHTF, key_BKSF, value_BKSF, mask, enable_gqa=True)
        else:
            shape = (num_rows, self.num_keys, -1, self.head_width)
            found_BKNF = scaled_dot_product_attention(query_BHTF.reshape(shape), key_BKSF, value_BKSF, mask)
            found_BHTF = found_BKNF.reshape(query_BHTF.shape)
        return found_BHTF.transpose(1, 2).flatten(2)


class _Packing:
    """Packed copies of all layers of a network, for every body that runs some of them."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self._weights = tuple(network.parameters())
        self._packed_at = -1
        self._layers: list[_Layer] = []
        self._last_norm: _Norm

    def current(self) -> tuple[list[_Layer], _Norm]:
        """All layers and the norm behind them, packed anew if anything was written into their weights."""
        written = linear.num_writes(self._weights)
        if written != self._packed_at:  # when first used, too: many commands load a model and read little or nothing
            self._layers, self._last_norm = [_Layer(layer) for layer in self._network.layers], _Norm(self._network.norm)
            self._packed_at = written
        return self._layers, self._last_norm


class _Layer:
    """The weights of one layer, those that read the same input together."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.norm, self.middle_norm = _Norm(layer.input_layernorm), _Norm(layer.post_attention_layernorm)
        self.qkv = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = _joined(attention.o_proj)
        self.gate_up = _joined(mlp.gate_proj, mlp.up_proj)
        self.down = _joined(mlp.down_proj)


def _joined(*layers: nn.Linear) -> Packed:
    return Packed([layer.weight for layer in layers], [layer.bias for layer in layers])


class _Norm:
    """RMS norm, w x / sqrt(mean(x^2) + e) = w sqrt(D) x / hypot(|x|, sqrt(D e)). Zhang and Sennrich (2019)."""

    def __init__(self, norm: Any) -> None:
        width = norm.weight.shape[0]
        self._scale_D = norm.weight.detach().float() * math.sqrt(width)
        self._least = torch.tensor(math.sqrt(width * norm.variance_epsilon), device=norm.weight.device)

    def __call__(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot(self._least)
        return (x * self._scale_D / length).to(dtype)
