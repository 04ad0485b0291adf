"""Matrix products with weights in the order in which a processor multiplies them fastest."""

# Axes: B rows, D width in, O width out.

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

MOST_BYTES = 8 << 30  # of a network whose weights are held a second time for the sake of speed


class Packed:
    """The product x W^T + b with a copy of W in the blocks that oneDNN wants: it packs W anew at each call otherwise.

    Up to four times as fast as torch's own product for the few rows of a decoding step, never slower
    (benchmarks/linear.py). On an accelerator, and in formats or builds that oneDNN does not serve, W stays as it is.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor | None] = ()) -> None:
        whole_OD = torch.cat(list(weights)) if len(weights) > 1 else weights[0]
        self.bias_O = _stacked(weights, biases)
        self._is_packed = is_packable(whole_OD)
        self._weight: Any = whole_OD.detach()
        if self._is_packed:
            with torch.no_grad():
                self._weight = torch.ops.mkldnn._reorder_linear_weight(whole_OD.contiguous(), None)

    def __call__(self, x: Tensor) -> Tensor:
        """The product, [..., O]; without a gradient."""
        if self._is_packed:
            return torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias_O, "none", [], "")
        return nn.functional.linear(x, self._weight, self.bias_O)


class Repacked:
    """The product x W^T with a copy of W packed when first used, and anew after each write to W; may be shared."""

    def __init__(self, weight_OD: Tensor) -> None:
        self._weight_OD = weight_OD
        self._packed: tuple[int, Packed] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """The product, [..., O]; without a gradient."""
        written = num_writes([self._weight_OD])
        if self._packed is None or self._packed[0] != written:
            self._packed = (written, Packed([self._weight_OD]))
        return self._packed[1](x)


class PackedLinear(nn.Linear):
    """A linear layer that multiplies with a packed copy of its weight; see `install`."""

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Linear; where a gradient is asked for it is the plain layer."""
        if torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad):
            return super().forward(x)
        now = (self.weight, num_writes(self.parameters()))
        packed = self.__dict__.get("_packed")
        if packed is None or packed[0] is not now[0] or packed[1] != now[1]:
            packed = self.__dict__["_packed"] = (*now, Packed([self.weight], [self.bias]))
        return packed[2](x)

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedLinear:
        """A copy packs its own."""
        import copy

        other = PackedLinear.__new__(PackedLinear)
        memo[id(self)] = other
        other.__dict__ = {key: copy.deepcopy(value, memo) for key, value in self.__dict__.items() if key != "_packed"}
        return other


def install(model: nn.Module) -> None:
    """Make the plain linear layers of a network PackedLinear; what is written into its weights is packed anew."""
    if num_bytes(model) > MOST_BYTES:
        return
    for module in model.modules():
        if type(module) is nn.Linear and is_packable(module.weight):
            module.__class__ = PackedLinear


def num_writes(weights: Iterable[Tensor]) -> int:
    """How often weights were written to: a copy of them is good as long as this stays."""
    return sum(weight._version for weight in weights if not weight.is_inference())  # those are not counted


def is_packable(weight_OD: Tensor) -> bool:
    """Whether oneDNN multiplies by this weight here."""
    if weight_OD.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return weight_OD.dtype == torch.float32 or (
        weight_OD.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def num_bytes(model: nn.Module) -> int:
    """Memory of the weights."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def _stacked(weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor | None:
    if all(bias is None for bias in biases):
        return None
    zeros = [weight.new_zeros(weight.shape[0]) for weight in weights]
    return torch.cat([zero if bias is None else bias for zero, bias in zip(zeros, biases, strict=True)]).detach()
