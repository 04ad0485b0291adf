"""Keys of a datastore: hidden states, centred, divided by their spread and, if wanted, projected.

The spread is the root of the total variance, so two states drawn at random are at a mean squared distance of 2,
whatever the model: distances and temperatures have one scale. Keys are kept as bfloat16; queries stay float32.
"""

# Axes: D width of a state, N states, W width of a key.

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from factorlm.errors import InputError, IntegrityError


@dataclass(frozen=True, eq=False)
class KeyMap:
    """From hidden states to keys: (h - mean) / spread, then the first principal directions if there is a map.

    Attributes:
        mean_D: of the states that it was learned from.
        spread: root of their total variance.
        map_DW: orthonormal directions in the order of their variance, or None to keep all.
    """

    mean_D: Tensor
    spread: float
    map_DW: Tensor | None = None

    @staticmethod
    def learned(hidden_ND: Tensor, width: int) -> KeyMap:
        """Mean, spread and, if width is not zero, so many principal directions of these states.

        Raises:
            InputError: if the width is larger than that of the states, or than their number allows.
        """
        state_ND = hidden_ND.double()
        mean_D = state_ND.mean(0)
        centred_ND = state_ND - mean_D
        spread = max(float(centred_ND.square().sum(1).mean().sqrt()), 1e-9)
        if not width:
            return KeyMap(mean_D.float(), spread)
        if width > min(hidden_ND.shape):
            raise InputError(
                f"keys of at most {min(hidden_ND.shape)} numbers can be learned from {len(hidden_ND)} states of "
                f"{hidden_ND.shape[1]} numbers, got a width of {width}; take a smaller one, or 0 to keep all"
            )
        _, direction_DD = torch.linalg.eigh(centred_ND.T @ centred_ND)  # in rising order
        map_DW = direction_DD.flip(1)[:, :width]
        largest_1W = map_DW.abs().argmax(0, keepdim=True)
        return KeyMap(mean_D.float(), spread, (map_DW * map_DW.gather(0, largest_1W).sign()).float().contiguous())

    @property
    def width(self) -> int:
        """W, numbers of a key."""
        return self.mean_D.shape[0] if self.map_DW is None else self.map_DW.shape[1]

    def __call__(self, hidden_ND: Tensor) -> Tensor:
        """Keys [N, W] in float32, on the CPU."""
        key_ND = (hidden_ND.float().cpu() - self.mean_D) / self.spread
        return key_ND if self.map_DW is None else key_ND @ self.map_DW

    def states(self, key_ND: Tensor) -> Tensor:
        """The hidden states [N, D] of keys, up to the rounding of bfloat16.

        Raises:
            InputError: if keys are projected, and states are therefore lost.
        """
        if self.map_DW is not None:
            raise InputError(
                f"keys of all {len(self.mean_D)} numbers are needed to have the hidden states back, got a projection "
                f"to {self.width}; build the neighbours with width=0"
            )
        return key_ND.float() * self.spread + self.mean_D

    def save(self, path: Path) -> None:
        """Write it."""
        tensors = {"mean": self.mean_D, "spread": torch.tensor([self.spread], dtype=torch.float64)}
        if self.map_DW is not None:
            tensors["map"] = self.map_DW
        safetensors.torch.save_file(tensors, path)

    @staticmethod
    def load(path: Path) -> KeyMap:
        """Read it; see `save`."""
        try:
            found = safetensors.torch.load_file(path)
            read = KeyMap(found["mean"], float(found["spread"]), found.get("map"))
        except (OSError, KeyError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
            raise IntegrityError(f"{path} cannot be read: {error}; copy the folder again, or build it anew") from None
        if read.map_DW is not None and read.map_DW.shape[0] != len(read.mean_D):
            raise IntegrityError(f"{path} projects states of another width; copy the folder again, or build it anew")
        return read
