"""Datastore: hidden states of a corpus with the tokens that followed them, to be searched for near ones.

Files of the folder: keys (bfloat16 bits [N, W]), values and owners (int32 [N]: the next token, the document), a mask
(a byte an entry: 1 is removed), the documents as JSON lines, the map from states to keys, and cells where the size
calls for them. Everything is read in place; nothing is pickled.
"""

# Axes: B queries, K neighbours, N entries, W width of a key.

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from factorlm.errors import InputError, IntegrityError
from factorlm.memory.card import MemoryCard, read_card
from factorlm.memory.datastore_keys import KeyMap
from factorlm.memory.neighbour_index import CellIndex, ExactIndex, Found, Index, Living, nearest
from factorlm.settings import Config

KEYS, VALUES, OWNERS, REMOVED = "keys.u16", "values.i32", "owners.i32", "removed.u8"
DOCUMENTS, KEY_MAP, CELLS = "documents.jsonl", "key_map.safetensors", "cells.faiss"


class NeighbourSettings(Config):
    """How a datastore is built. Query with about as much context as it was built with: keys depend on it.

    Attributes:
        window: tokens of a document that are read at once, behind the start token.
        context: tokens that a window reads again from the one before, besides the last; none is stored twice.
        ends: whether the end of each document is stored, too.
        width: numbers of a key after a projection; 0 keeps the states whole, which an MLP memory needs.
        pilot: states, the first ones, from which mean, spread and projection are learned.
        search: "exact" looks at every entry, "cells" into some; "auto" decides by `most_exact`.
        most_exact: entries up to which every one is looked at.
        cells: to part the entries into; 0 takes four times the root of their number.
        probes: cells that a query looks into.
        batch_tokens: read at once, padding included.
        seed: of the samples that cells and their recall are learned from.
    """

    window: PositiveInt = 256
    context: NonNegativeInt = 0
    ends: bool = True
    width: NonNegativeInt = 0
    pilot: PositiveInt = 10_000
    search: Literal["auto", "exact", "cells"] = "auto"
    most_exact: PositiveInt = 300_000
    cells: NonNegativeInt = 0
    probes: PositiveInt = 32
    batch_tokens: PositiveInt = 4096
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> NeighbourSettings:
        if self.context >= self.window:
            raise ValueError("a window must be longer than the context that it reads again")
        return self


class Looking(Config):
    """How neighbours become a distribution.

    Attributes:
        k: neighbours looked at.
        temperature: T of exp(-distance / T); two entries drawn at random are at a mean distance of 2.
    """

    k: PositiveInt = 64
    temperature: Annotated[PositiveFloat, Field(allow_inf_nan=False)] = 0.1


class NeighbourCard(MemoryCard):
    """The card of a datastore; `num_documents` and `num_tokens` count what was not removed.

    Attributes:
        settings: that it was built with.
        state_width: D, numbers of a hidden state.
        width: W, numbers of a key.
        num_entries: in the files, removed ones included.
        num_listed: documents in the files, removed ones included.
        search: how it is searched.
        recall: of the k nearest entries by exact search, the share that the cells find, by k; empty if it is exact.
        lookings: by the name of the gate that was learned with them; "" holds where there is no other.
    """

    kind: Literal["knn"] = "knn"
    settings: NeighbourSettings
    state_width: PositiveInt
    width: PositiveInt
    num_entries: PositiveInt
    num_listed: PositiveInt
    search: Literal["exact", "cells"]
    recall: dict[str, float] = Field(default_factory=dict)
    lookings: dict[str, Looking] = Field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Datastore:
    """An open datastore.

    Attributes:
        path: its folder.
        card: what is said of it.
        key_map: from hidden states to keys.
        key_NW: bfloat16, on disk.
        value_N: the token that followed each state.
        owner_N: the document of each entry; it never falls.
        living_N: which entries were not removed.
        index: finds near entries.
    """

    path: Path
    card: NeighbourCard
    key_map: KeyMap
    key_NW: Tensor
    value_N: NDArray[np.int32]
    owner_N: NDArray[np.int32]
    living_N: Living
    index: Index

    @staticmethod
    def open(path: Path | str) -> Datastore:
        """Open a folder.

        Raises:
            InputError: if there is none.
            IntegrityError: if a file is not what the card says.
        """
        folder = Path(path)
        card = read_card(folder, NeighbourCard)
        num, width = card.num_entries, card.width
        key_map = KeyMap.load(folder / KEY_MAP)
        if (len(key_map.mean_D), key_map.width) != (card.state_width, width):
            raise IntegrityError(f"{folder / KEY_MAP} makes keys of another width than the card says; build it anew")
        key_NW = torch.from_numpy(_mapped(folder / KEYS, "<i2", (num, width))).view(torch.bfloat16)
        owner_N = _mapped(folder / OWNERS, "<i4", (num,))
        if owner_N[0] < 0 or owner_N[-1] >= card.num_listed or (np.diff(owner_N) < 0).any():
            raise IntegrityError(f"{folder / OWNERS} is out of order; copy the folder again, or build it anew")
        return Datastore(
            path=folder,
            card=card,
            key_map=key_map,
            key_NW=key_NW,
            value_N=_mapped(folder / VALUES, "<i4", (num,)),
            owner_N=owner_N,
            living_N=_mapped(folder / REMOVED, "u1", (num,)) == 0,
            index=ExactIndex(key_NW)
            if card.search == "exact"
            else CellIndex.load(folder / CELLS, num, width, card.settings.probes),
        )

    @cached_property
    def documents(self) -> tuple[dict[str, Any], ...]:
        """Source and line of each document, removed ones included."""
        try:
            lines = (self.path / DOCUMENTS).read_text(encoding="utf-8").splitlines()
            found = tuple(json.loads(line) for line in lines)
        except (OSError, ValueError):
            found = ()
        if len(found) != self.card.num_listed or not all(
            isinstance(d, dict) and {"source", "line"} <= {*d} for d in found
        ):
            raise IntegrityError(f"{self.path / DOCUMENTS} cannot be read; copy the folder again, or build it anew")
        return found

    def without(self, documents: Collection[int]) -> Living:
        """Which entries remain where these documents must not be looked at, [N].

        Raises:
            InputError: if there is no document of such a number.
        """
        check_documents(documents, self.card.num_listed)
        if not documents:
            return self.living_N
        return self.living_N & ~np.isin(self.owner_N, np.fromiter(documents, np.int32))

    def search(self, query_BW: Tensor, k: int, living_N: Living | None = None) -> Found:
        """The nearest living entries to each query, at most k, fewer where there are no more.

        Of entries at one distance those that were written first are taken. With cells some may be missed.

        Args:
            query_BW: keys; see `key_map`.
            k: neighbours.
            living_N: entries that may be found; None takes all that were not removed.
        """
        living_N = self.living_N if living_N is None else living_N
        k = min(k, int(np.count_nonzero(living_N)))
        if k == 0 or not len(query_BW):
            shape = (len(query_BW), k)
            return Found(torch.full(shape, torch.inf), torch.full(shape, -1))
        return nearest(self.key_NW, self.index, query_BW, k, living_N)

    def first_entry(self, document: int) -> int:
        """Where the entries of a document begin."""
        return int(np.searchsorted(self.owner_N, document))


def check_documents(documents: Collection[int], num_listed: int) -> None:
    """Raise InputError if a document of such a number was never stored."""
    wrong = [number for number in documents if not 0 <= number < num_listed]
    if wrong:
        raise InputError(f"documents have numbers from 0 to {num_listed - 1}, got {wrong[0]}; look at {DOCUMENTS}")


def _mapped(path: Path, number: str, shape: tuple[int, ...]) -> Any:
    """A file as an array that is read when it is looked at; what is written into it stays in memory."""
    wanted = int(np.prod(shape)) * np.dtype(number).itemsize
    if not path.is_file() or path.stat().st_size != wanted:
        raise IntegrityError(f"{path} must have {wanted} bytes by the card; copy the folder again, or build it anew")
    return np.memmap(path, dtype=number, mode="c", shape=shape)
