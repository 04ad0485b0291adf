import pytest
import torch

from factorlm.factors.cost import cost_of
from factorlm.factors.head import HeadWeights
from factorlm.models import CausalLM


def _head(width: int, rank: int) -> HeadWeights:
    return HeadWeights(torch.zeros(width), torch.zeros(width, rank), torch.zeros(rank, width))


def test_costs_are_counted_by_hand(tiny_lm: CausalLM) -> None:
    config = tiny_lm.model.config
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    keys = config.num_key_value_heads * (width // config.num_attention_heads)
    matrices = layers * (2 * width * width + 2 * width * keys + 3 * width * inner) + config.vocab_size * width
    cost = cost_of(tiny_lm, [_head(width, 2), _head(width, 0)])
    assert cost.encoder_macs == matrices
    assert cost.macs == 2 * width + 2 * 2 * width + 2
    assert cost.num_bytes == 4 * (2 * width + 2 * 2 * width)


@pytest.mark.model
def test_a_head_is_small_beside_the_default_model(lm: CausalLM) -> None:
    assert cost_of(lm, [_head(lm.width, 16)]).macs_share < 0.0003
    assert cost_of(lm, [_head(lm.width, 16)] * 100).memory_share < 0.10
