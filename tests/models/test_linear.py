"""Packed weights: the same products, and nothing stale."""

import copy

import pytest
import torch
from torch import nn

from factorlm.models import linear


@pytest.mark.parametrize("num_rows", [1, 2, 3, 8, 33, 80])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_packed_product_is_the_same(num_rows: int, bias: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(num_rows)
    x = torch.randn(num_rows, 24, generator=generator).to(dtype)
    weights = [torch.randn(out, 24, generator=generator).to(dtype) for out in (40, 8)]
    biases = [torch.randn(40, generator=generator).to(dtype), None] if bias else [None, None]
    want = torch.cat([nn.functional.linear(x, w, b) for w, b in zip(weights, biases, strict=True)], -1)
    packed = linear.Packed(weights, biases)
    tolerance = 0.1 if dtype == torch.bfloat16 else 1e-5  # sums of 24 terms of size 1, of 8 and of 24 bits
    torch.testing.assert_close(packed(x), want, atol=tolerance, rtol=0)
    torch.testing.assert_close(packed(x[None, :, None]), want[None, :, None], atol=tolerance, rtol=0)


def test_an_installed_layer_gives_the_same_and_the_same_gradient() -> None:
    layer = nn.Linear(24, 40)
    x = torch.randn(5, 24, requires_grad=True)
    want = layer(x)
    [want_grad] = torch.autograd.grad(want.square().sum(), x)
    linear.install(nn.Sequential(layer))
    assert isinstance(layer, linear.PackedLinear)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), want.detach(), atol=1e-5, rtol=0)
        layer.requires_grad_(False)
    [got_grad] = torch.autograd.grad(layer(x).square().sum(), x)
    torch.testing.assert_close(got_grad, want_grad, atol=1e-4, rtol=0)


def test_a_copy_with_other_weights_packs_its_own() -> None:
    layer = nn.Linear(24, 40).requires_grad_(False)
    linear.install(nn.Sequential(layer))
    x = torch.randn(5, 24)
    layer(x)
    other = copy.deepcopy(layer)
    other.weight = nn.Parameter(2 * layer.weight, requires_grad=False)
    torch.testing.assert_close(other(x) - other.bias, 2 * (layer(x) - layer.bias), atol=1e-5, rtol=0)


def test_what_is_written_into_a_weight_is_seen() -> None:
    layer = nn.Linear(24, 40).requires_grad_(False)
    linear.install(nn.Sequential(layer))
    x = torch.randn(5, 24)
    layer(x)
    layer.weight.mul_(2.0)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias), atol=1e-5, rtol=0)


def test_a_network_that_is_too_large_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "MOST_BYTES", 100)
    network = nn.Sequential(nn.Linear(24, 40))
    linear.install(network)
    assert type(network[0]) is nn.Linear
