"""What heads cost beside their encoder, counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from factorlm.factors.head import HeadWeights
from factorlm.models import CausalLM


@dataclass(frozen=True)
class Cost:
    """Multiply-adds and memory of heads, and of the encoder that they share.

    Attributes:
        macs: of the heads for each token, unembedding not counted again.
        encoder_macs: of the encoder's weight matrices for each token, unembedding included. Attention over what was
            read before comes on top, so the share of the heads is smaller still.
        num_bytes: of the heads' numbers in single precision.
        encoder_bytes: of the encoder's parameters as they are loaded.
    """

    macs: int
    encoder_macs: int
    num_bytes: int
    encoder_bytes: int

    @property
    def macs_share(self) -> float:
        """Multiply-adds of the heads over those of the encoder."""
        return self.macs / self.encoder_macs

    @property
    def memory_share(self) -> float:
        """Memory of the heads over that of the encoder."""
        return self.num_bytes / self.encoder_bytes


def cost_of(lm: CausalLM, heads: Sequence[HeadWeights]) -> Cost:
    """Count what these heads add to the encoder."""
    width = lm.width
    numbers = sum(head.bias_D.numel() + head.up_DR.numel() + head.down_RD.numel() for head in heads)
    # a_k c_k is a multiply-add for each of its numbers; V h, the scaling of its R results, and U of them
    macs = sum(width + 2 * width * head.rank + head.rank for head in heads)
    unembedding = lm.unembedding_VD
    matrices = {
        id(module.weight): module.weight.numel()
        for module in lm.model.modules()
        if isinstance(module, nn.Linear) and module.weight.data_ptr() != unembedding.data_ptr()
    }
    return Cost(
        macs=macs,
        encoder_macs=sum(matrices.values()) + unembedding.numel(),
        num_bytes=4 * numbers,
        encoder_bytes=sum(p.numel() * p.element_size() for p in lm.model.parameters()),
    )
