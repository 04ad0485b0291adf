"""Which entries may be nearest to a query: all are looked at, or those in the cells around it.

An index only proposes entries. Their distances are then computed from the stored keys, so both ways of searching give
the same distances, and differ only in what they miss.
"""

# Axes: B queries, C entries proposed or looked at together, K neighbours, N entries, W width of a key.

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from factorlm.errors import IntegrityError
from factorlm.models.progress import Report

Living = NDArray[np.bool_]
KEPT_NUMBERS = 1 << 27  # keys of up to so many numbers are held as float32: half a gigabyte
BLOCK_NUMBERS = 1 << 24  # looked at together
SURPLUS = 32  # entries proposed beyond those wanted, so that rounding decides nothing at the edge


class Found(NamedTuple):
    """Neighbours of queries, nearest first, then in the order of their numbers.

    Attributes:
        distance_BK: squared Euclidean distances; inf where there was no entry.
        entry_BK: numbers of entries; -1 where there was none.
    """

    distance_BK: Tensor
    entry_BK: Tensor


class Index(Protocol):
    """Proposes entries."""

    def candidates(self, query_BW: Tensor, num: int, living_N: Living) -> Tensor:
        """So many living entries near each query, [B, C], in any order; -1 where there are fewer."""
        ...


def blocks(num_entries: int, width: int) -> list[slice]:
    """Stretches of entries that are looked at together."""
    size = max(1, BLOCK_NUMBERS // width)
    return [slice(first, min(num_entries, first + size)) for first in range(0, num_entries, size)]


@dataclass(frozen=True, eq=False)
class ExactIndex:
    """Looks at every entry.

    Attributes:
        key_NW: bfloat16; may lie on disk.
    """

    key_NW: Tensor

    def candidates(self, query_BW: Tensor, num: int, living_N: Living) -> Tensor:
        """See Index."""
        dead_N = ~torch.from_numpy(living_N)
        near_BC = query_BW.new_empty(len(query_BW), 0)
        entry_BC = torch.empty(len(query_BW), 0, dtype=torch.long)
        for part in blocks(len(self.key_NW), max(self.key_NW.shape[1], len(query_BW))):
            fresh_BC = torch.addmm(-self._half_square_N[part][None], query_BW, self._float_keys(part).T)
            fresh_BC.masked_fill_(dead_N[part], -torch.inf)
            fresh_BC, place_BC = fresh_BC.topk(min(num, fresh_BC.shape[1]))
            near_BC = torch.cat([near_BC, fresh_BC], 1)
            entry_BC = torch.cat([entry_BC, place_BC + part.start], 1)
            near_BC, place_BC = near_BC.topk(min(num, near_BC.shape[1]))
            entry_BC = entry_BC.gather(1, place_BC)
        return torch.where(near_BC == -torch.inf, -1, entry_BC)

    def _float_keys(self, part: slice) -> Tensor:
        return self._kept_NW[part] if self._kept_NW is not None else self.key_NW[part].float()

    @cached_property
    def _kept_NW(self) -> Tensor | None:
        return self.key_NW.float() if self.key_NW.numel() <= KEPT_NUMBERS else None

    @cached_property
    def _half_square_N(self) -> Tensor:
        parts = blocks(*self.key_NW.shape)
        return torch.cat([self._float_keys(part).square().sum(1) / 2 for part in parts])


@dataclass(frozen=True, eq=False)
class CellIndex:
    """Looks only into the cells whose centres are nearest to the query, at keys rounded to a byte a number.

    Source: inverted files of Jégou, Douze and Schmid (2011), in the library faiss.

    Attributes:
        cells: an index of faiss.
        num_probes: cells looked into.
    """

    cells: Any
    num_probes: int

    def candidates(self, query_BW: Tensor, num: int, living_N: Living) -> Tensor:
        """See Index."""
        faiss = _faiss()
        settings = faiss.SearchParametersIVF(nprobe=self.num_probes)
        if not living_N.all():
            bits = np.packbits(living_N, bitorder="little")
            settings.sel = faiss.IDSelectorBitmap(bits)
        _, entry_BC = self.cells.search(query_BW.contiguous().numpy(), min(num, self.cells.ntotal), params=settings)
        return torch.from_numpy(entry_BC)

    @staticmethod
    def build(key_NW: Tensor, sample_S: Tensor, num_cells: int, num_probes: int, report: Report) -> CellIndex:
        """Learn cells from a sample of entries, then put all into them."""
        faiss = _faiss()
        cells = faiss.index_factory(key_NW.shape[1], f"IVF{num_cells},SQ8")
        cells.train(key_NW[sample_S].float().numpy())
        for part in blocks(*key_NW.shape):
            cells.add(key_NW[part].float().numpy())
            report("index", part.stop, len(key_NW))
        return CellIndex(cells, num_probes)

    def save(self, path: Path) -> None:
        """Write the cells."""
        _faiss().write_index(self.cells, str(path))

    @staticmethod
    def load(path: Path, num_entries: int, width: int, num_probes: int) -> CellIndex:
        """Read cells; see `save`."""
        try:
            cells = _faiss().read_index(str(path))
        except RuntimeError as error:
            reason = str(error).splitlines()[0][:200]
            raise IntegrityError(f"{path} cannot be read: {reason}; copy the folder again, or build it anew") from None
        if (cells.ntotal, cells.d) != (num_entries, width):
            raise IntegrityError(
                f"{path} has {cells.ntotal} keys of {cells.d} numbers, wanted {num_entries} of {width}; build it anew"
            )
        return CellIndex(cells, num_probes)


def nearest(key_NW: Tensor, index: Index, query_BW: Tensor, k: int, living_N: Living) -> Found:
    """The k nearest living entries of those that an index proposes."""
    entry_BC = index.candidates(query_BW, k + SURPLUS, living_N).sort(1).values
    rows = max(1, BLOCK_NUMBERS // max(1, entry_BC.shape[1] * key_NW.shape[1]))
    found = [
        _ranked(key_NW, query_RW, entry_RC, k)
        for query_RW, entry_RC in zip(query_BW.split(rows), entry_BC.split(rows), strict=True)
    ]
    return Found(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def without_own(found: Found, own_B: Tensor) -> Found:
    """Neighbours of entries without these themselves, [B, K - 1]; where one was not found the last goes instead."""
    order_BK = (found.entry_BK == own_B[:, None]).int().sort(dim=1, stable=True).indices[:, :-1]
    return Found(found.distance_BK.gather(1, order_BK), found.entry_BK.gather(1, order_BK))


def _ranked(key_NW: Tensor, query_BW: Tensor, entry_BC: Tensor, k: int) -> Found:
    """The k nearest entries of those proposed, which rise; distances as differences: nothing cancels."""
    difference_BCW = key_NW[entry_BC.clamp(min=0)].float() - query_BW[:, None]
    distance_BC = difference_BCW.square_().sum(-1).masked_fill(entry_BC < 0, torch.inf)
    distance_BC, place_BC = distance_BC.sort(dim=1, stable=True)
    return Found(distance_BC[:, :k], entry_BC.gather(1, place_BC)[:, :k])


def _faiss() -> Any:
    """The library, whose types do not know its own conveniences."""
    import faiss

    return faiss
