"""The logits layer that takes the place of vLLM's own: heads before the one unembedding, lexica after it.

Written against vLLM 0.32: `PluggableLayer.register_oot`, and the arguments of `LogitsProcessor.forward`.
"""

# Axes: B rows of a call, D width, V vocabulary.

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.model_executor.custom_op import PluggableLayer, op_registry_oot
from vllm.model_executor.layers.logits_processor import LogitsProcessor

from factorlm.engines.vllm.batch import Batch
from factorlm.errors import IncompatibleError

REPLACED = "LogitsProcessor"
_waiting: list[Batch] = []  # the batch of the runner that builds its model next, in this process


class FactorLogits(LogitsProcessor):
    """vLLM's layer, on hidden states that heads have shifted; without a batch to steer it is vLLM's layer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.batch = _waiting.pop() if _waiting else None  # a drafting network, built later, finds none

    def forward(
        self,
        lm_head: Any,
        hidden_states: Tensor,
        embedding_bias: Tensor | None = None,
        skip_gather: bool = False,
    ) -> Tensor | None:
        """Logits [B, V]; None where another rank has them."""
        batch = self.batch
        if batch is None or not batch.disarm(hidden_states.shape[0]):
            return super().forward(lm_head, hidden_states, embedding_bias, skip_gather)
        logits = super().forward(lm_head, batch.shifted(hidden_states), embedding_bias, skip_gather)
        return None if logits is None else batch.weighed(logits)


def register() -> None:
    """Have every model built from now on use our layer. May be called any number of times.

    Raises:
        IncompatibleError: if another plug-in has taken the layer's place.
    """
    held = op_registry_oot.get(REPLACED)
    if held is FactorLogits:
        return
    if held is not None:
        raise IncompatibleError(
            f"factors need the logits layer of vLLM, which {held.__module__} has taken; leave that plug-in out with "
            "VLLM_PLUGINS"
        )
    PluggableLayer.register_oot(name=REPLACED)(FactorLogits)


def await_model(batch: Batch) -> None:
    """The model that is built next in this process steers by this batch."""
    register()
    _waiting[:] = [batch]
