"""Datastores are built, appended to, and parted from documents, each time whole or not at all."""

# Axes: N entries, S entries of a sample, W width of a key.

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from factorlm.errors import InputError
from factorlm.memory.card import SourceFile, check_model, check_place, counted, mark_of, read_card, write_memory
from factorlm.memory.corpus import Document, Troubles
from factorlm.memory.datastore import (
    CELLS,
    DOCUMENTS,
    KEY_MAP,
    KEYS,
    OWNERS,
    REMOVED,
    VALUES,
    Datastore,
    NeighbourCard,
    NeighbourSettings,
    check_documents,
)
from factorlm.memory.datastore_keys import KeyMap
from factorlm.memory.neighbour_index import CellIndex, ExactIndex, nearest, without_own
from factorlm.memory.neighbour_states import Entries, check_window, read_entries
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet

SAMPLE_A_CELL = 48  # entries from which each cell is learned; faiss asks for 39
RECALLED = (1, 8, 64)  # neighbours whose recall is measured
RECALL_QUERIES = 256


def build_neighbours(
    lm: CausalLM,
    documents: Iterable[Document],
    target: Path,
    settings: NeighbourSettings,
    *,
    troubles: Troubles,
    sources: Sequence[SourceFile] = (),
    report: Report = quiet,
    replace: bool = False,
    licence: str = "",
) -> NeighbourCard:
    """Read documents and write their states; memory does not grow with their number, but for a line of each.

    Args:
        lm: the model whose states are stored.
        documents: in any number.
        target: the folder.
        settings: of windows, keys and search.
        troubles: what was wrong with the documents; more is noted here.
        sources: files that they came from, for the card.
        report: told of documents read (their total is 0 where it is not known) and of entries put into cells.
        replace: whether a memory that is there may go.
        licence: of the documents.

    Raises:
        InputError: if there is nothing to store, a window is too long, or the place cannot be written.
    """
    check_place(target, replace=replace)
    check_window(lm, settings)
    with _workplace(target) as work:
        kept: list[Document] = []
        writer = _Writer(work, settings)
        _read_into(writer, lm, documents, settings, troubles, kept, report)
        return _finished(
            work, target, lm, settings, kept, troubles=counted(troubles), sources=sources, report=report,
            replace=replace, licence=licence,
        )  # fmt: skip


def append_neighbours(
    lm: CausalLM,
    path: Path,
    documents: Iterable[Document],
    *,
    troubles: Troubles,
    sources: Sequence[SourceFile] = (),
    report: Report = quiet,
) -> NeighbourCard:
    """Add documents behind those that are there, as if all had been read at once.

    Mean, spread and projection stay those of the first build: had it fewer states than its pilot, building at once
    would have learned them from more. Learned gates stay, too; learn them anew if the new text is of another sort.
    """
    store = Datastore.open(path)
    card = store.card
    check_model(path, card.model, lm)
    with _workplace(path) as work:
        for name in (KEYS, VALUES, OWNERS, REMOVED, DOCUMENTS, KEY_MAP):
            shutil.copyfile(path / name, work / name)
        kept = [Document("", str(told["source"]), int(told["line"])) for told in store.documents]
        writer = _Writer(work, card.settings, store.key_map)
        _read_into(writer, lm, documents, card.settings, troubles, kept, report)
        if len(kept) == card.num_listed:
            raise InputError(f"there is no document to append to {path}; name files with text")
        all_troubles = {
            what: card.troubles.get(what, 0) + troubles.counts.get(what, 0)
            for what in sorted({*card.troubles, *troubles.counts})
        }
        return _finished(
            work, path, lm, card.settings, kept, troubles=all_troubles, sources=(*card.sources, *sources),
            report=report, replace=True, licence=card.licence, old=card,
        )  # fmt: skip


def remove_neighbours(path: Path, documents: Collection[int]) -> NeighbourCard:
    """Mark documents as removed: they are never found again; those that were removed before may be named.

    Their entries stay in the files, masked; build anew where they must be gone from the disk.

    Raises:
        InputError: if there is no document of such a number, or none would be left.
    """
    store = Datastore.open(path)
    check_documents(documents, store.card.num_listed)
    living_N = store.without(documents)
    if not living_N.any():
        raise InputError(f"at least one document must stay in {path}; remove the folder if none is wanted")
    num_documents, num_tokens = len(np.unique(store.owner_N[living_N])), int(living_N.sum())
    card = store.card.model_copy(update={"num_documents": num_documents, "num_tokens": num_tokens})
    linked = [path / name for name in card.files if name != REMOVED]

    def fill(folder: Path) -> None:
        for place in linked:
            _link(place, folder / place.name)
        (folder / REMOVED).write_bytes((~living_N).astype("u1").tobytes())

    write_memory(path, card, fill, replace=True, known=linked)
    return read_card(path, NeighbourCard)


class _Writer:
    """Appends entries to the files of a folder; the first ones wait until the key map can be learned from them."""

    def __init__(self, folder: Path, settings: NeighbourSettings, key_map: KeyMap | None = None) -> None:
        self.folder, self.settings, self.key_map = folder, settings, key_map
        self.waiting: list[Entries] = []

    def add(self, entries: Entries) -> None:
        if self.key_map is not None:
            return self._write(entries, self.key_map)
        self.waiting.append(entries)
        if sum(len(waiting.value_N) for waiting in self.waiting) >= self.settings.pilot:
            self.finish()

    def finish(self) -> None:
        if self.key_map is None and self.waiting:
            pilot_ND = torch.cat([waiting.hidden_ND for waiting in self.waiting])[: self.settings.pilot]
            self.key_map = KeyMap.learned(pilot_ND, self.settings.width)
            self.key_map.save(self.folder / KEY_MAP)
            for waiting in self.waiting:
                self._write(waiting, self.key_map)
            self.waiting = []

    def _write(self, entries: Entries, key_map: KeyMap) -> None:
        bits_NW = key_map(entries.hidden_ND).to(torch.bfloat16).view(torch.int16).numpy()
        self._append(KEYS, bits_NW.astype("<i2").tobytes())
        self._append(VALUES, entries.value_N.numpy().astype("<i4").tobytes())
        self._append(OWNERS, entries.owner_N.numpy().astype("<i4").tobytes())
        self._append(REMOVED, bytes(len(entries.value_N)))

    def _append(self, name: str, content: bytes) -> None:
        with (self.folder / name).open("ab") as file:
            file.write(content)


def _read_into(
    writer: _Writer, lm: CausalLM, documents: Iterable[Document], settings: NeighbourSettings, troubles: Troubles,
    kept: list[Document], report: Report,
) -> None:  # fmt: skip
    total = len(documents) if isinstance(documents, Sized) else 0
    before = listed = len(kept)
    for entries in read_entries(lm, documents, settings, troubles, kept):
        writer.add(entries)
        with (writer.folder / DOCUMENTS).open("a", encoding="utf-8") as file:
            for document in kept[listed:]:
                file.write(json.dumps({"source": document.source, "line": document.line}) + "\n")
        listed = len(kept)
        report("documents", listed - before, total)
    writer.finish()
    if not kept:
        raise InputError("neighbours need at least one document with a token, got none; name files with text")


def _finished(
    work: Path, target: Path, lm: CausalLM, settings: NeighbourSettings, kept: Sequence[Document], *,
    troubles: dict[str, int], sources: Sequence[SourceFile], report: Report, replace: bool, licence: str,
    old: NeighbourCard | None = None,
) -> NeighbourCard:  # fmt: skip
    """The folder at its place, with cells if there are many entries, and its card."""
    owner_N = np.fromfile(work / OWNERS, "<i4")
    living_N = np.fromfile(work / REMOVED, "u1") == 0
    key_map = KeyMap.load(work / KEY_MAP)
    num, width = len(owner_N), key_map.width
    is_exact = settings.search == "exact" or (settings.search == "auto" and num <= settings.most_exact)
    recall: dict[str, float] = {}
    if not is_exact:
        mapped = np.memmap(work / KEYS, dtype="<i2", mode="c", shape=(num, width))
        recall = _build_cells(work, torch.from_numpy(mapped).view(torch.bfloat16), settings, report)
    card = NeighbourCard(
        model=mark_of(lm, with_encoder=True),
        sources=tuple(sources),
        troubles=troubles,
        licence=licence,
        gates=old.gates if old else {},
        lookings=old.lookings if old else {},
        settings=settings,
        state_width=len(key_map.mean_D),
        width=width,
        num_entries=num,
        num_listed=len(kept),
        search="exact" if is_exact else "cells",
        recall=recall,
        num_documents=len(np.unique(owner_N[living_N])),
        num_tokens=int(living_N.sum()),
    )

    def fill(folder: Path) -> None:
        for place in sorted(work.iterdir()):
            os.replace(place, folder / place.name)

    write_memory(target, card, fill, replace=replace)
    return read_card(target, NeighbourCard)


def _build_cells(work: Path, key_NW: Tensor, settings: NeighbourSettings, report: Report) -> dict[str, float]:
    """Cells in their file; how much of exact search they find of entries that they were not learned from."""
    num = len(key_NW)
    num_cells = settings.cells or max(1, round(4 * num**0.5))
    num_cells = min(num_cells, max(1, num // (SAMPLE_A_CELL + 1)))
    order_N = torch.randperm(num, generator=torch.Generator().manual_seed(settings.seed))
    query_S = order_N[:RECALL_QUERIES].sort().values
    learned = order_N[RECALL_QUERIES:] if num > 2 * RECALL_QUERIES else order_N
    index = CellIndex.build(
        key_NW, learned[: num_cells * SAMPLE_A_CELL].sort().values, num_cells, settings.probes, report
    )
    index.save(work / CELLS)
    return measure_recall(key_NW, index, query_S)


def measure_recall(key_NW: Tensor, index: CellIndex, query_S: Tensor) -> dict[str, float]:
    """The share of the k nearest entries that cells find, by k; queries are entries, which do not count themselves."""
    everything = np.ones(len(key_NW), bool)
    most = min(max(RECALLED), len(key_NW) - 1)
    query_SW = key_NW[query_S].float()
    want, got = (
        without_own(nearest(key_NW, some, query_SW, most + 1, everything), query_S).entry_BK
        for some in (ExactIndex(key_NW), index)
    )
    recall = {}
    for k in sorted({min(k, most) for k in RECALLED} - {0}):
        is_found_SK = (want[:, :k, None] == got[:, None, :k]).any(2)
        recall[str(k)] = float(f"{float(is_found_SK.float().mean()):.4g}")
    return recall


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """A folder beside the target, on its disk, that is gone in the end."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{target.name}.", suffix=".work", dir=target.parent) as work:
            yield Path(work)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}; name another place") from None


def _link(place: Path, copy: Path) -> None:
    try:
        os.link(place, copy)
    except OSError:  # a disk without links
        shutil.copyfile(place, copy)
