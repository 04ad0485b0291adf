"""The layers of a language model between embedding and unembedding: transformers' own, and a faster twin."""

# Axes: B batch, D width, T time.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from factorlm.models import linear
from factorlm.models.llama import LlamaBody
from factorlm.models.span import KeysValues, Span


class Body(Protocol):
    """Reads tokens."""

    def __call__(
        self, token_BT: Tensor, position_BT: Tensor, is_token_BT: Tensor | None, read: KeysValues | None, keep: bool
    ) -> tuple[Tensor, KeysValues]:
        """Last hidden states [B, T, D] after the final norm, and keys and values of all tokens.

        Args:
            token_BT: what is read now; or [B, T, D], what the layers read in the places of tokens.
            position_BT: place of each token in its text, [B, T] or [1, T].
            is_token_BT: False where there is padding, over everything read and to be read; None if there is none.
            read: of what was read before; None if nothing was.
            keep: whether anything will be read behind these tokens; without, no keys and values are given.
        """


class TransformersBody:
    """The layers as transformers runs them: any network."""

    def __init__(self, network: Any) -> None:
        self.network = network.base_model
        self.num_layers = network.config.num_hidden_layers

    def __call__(
        self, token_BT: Tensor, position_BT: Tensor, is_token_BT: Tensor | None, read: KeysValues | None, keep: bool
    ) -> tuple[Tensor, KeysValues]:
        """See Body."""
        spans: Sequence[tuple[Span, Span] | None] = [None] * self.num_layers if read is None else read
        layers = [SpanLayer(pair) for pair in spans]
        output = self.network(
            **({"inputs_embeds": token_BT} if token_BT.is_floating_point() else {"input_ids": token_BT}),
            attention_mask=None if is_token_BT is None else is_token_BT.long(),
            position_ids=position_BT,
            past_key_values=Cache(layers=layers) if keep else None,
            use_cache=keep,
        )
        return output.last_hidden_state, tuple(layer.spans for layer in layers if layer.spans is not None)


def body_of(network: Any) -> Body:
    """The fastest way to run a network, the same as transformers but for rounding."""
    if LlamaBody.is_one(network):
        return LlamaBody(network)
    linear.install(network)
    return TransformersBody(network)


class SpanLayer(CacheLayerMixin):
    """One attention layer's cache in the form that transformers wants, over a pair of spans."""

    is_sliding = False

    def __init__(self, spans: tuple[Span, Span] | None) -> None:
        super().__init__()
        self.spans = spans
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to prepare."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add keys and values [B, H, T, ...]; return all of them."""
        if self.spans is None:
            self.spans = (Span.of(key_states, 2), Span.of(value_states, 2))
        else:
            key, value = self.spans
            self.spans = (key.append(key_states, reuse=True), value.append(value_states, reuse=True))
        return self.spans[0].view, self.spans[1].view

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of keys that the mask covers, and its offset."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Entries held."""
        return 0 if self.spans is None else self.spans[0].length

    def get_max_length(self) -> int:
        """No limit of its own."""
        return -1
