"""Fast matrix products for the few rows of a decoding step on a processor."""

# Axes: B rows, D width in, O width out.

import torch
from torch import Tensor, nn

# Between these numbers of rows x W^T is up to three times slower than (W x^T)^T in float32 on processors
# (benchmarks/linear.py): the library blocks over the rows of x, of which there are too few.
FEWEST_ROWS, MOST_ROWS = 7, 56


def product(x: Tensor, weight_OD: Tensor) -> Tensor:
    """X W^T, [..., O], in the order of multiplication that is fastest for its number of rows."""
    num_rows = x.numel() // x.shape[-1]
    if FEWEST_ROWS <= num_rows <= MOST_ROWS and x.dtype == torch.float32 and x.device.type == "cpu":
        return (weight_OD @ x.reshape(num_rows, -1).T).T.reshape(*x.shape[:-1], -1)
    return nn.functional.linear(x, weight_OD)


class FewRowsLinear(nn.Linear):
    """A linear layer that multiplies in the faster order; installed by changing the class of a loaded layer."""

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Linear."""
        y = product(x, self.weight)
        return y if self.bias is None else y + self.bias


def install(model: nn.Module) -> None:
    """Make every plain linear layer of the model a FewRowsLinear; weights are not touched."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FewRowsLinear
