"""What tests of the room share: a tiny model that reads assumptions of several lengths."""

import pytest
import torch

from factorlm.models import CausalLM
from factorlm.prior.incontext import InContext


@pytest.fixture
def in_context(tiny_lm: CausalLM) -> InContext:
    """Three components of different lengths: vectors, tokens, one vector."""
    generator = torch.Generator().manual_seed(3)
    return InContext(
        tiny_lm,
        [
            torch.randn(3, tiny_lm.width, generator=generator),
            torch.tensor([7, 30, 12, 9, 41]),
            torch.randn(1, tiny_lm.width, generator=generator),
        ],
    )
