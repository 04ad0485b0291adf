"""Passages made searchable, and searched: one interface over BM25, vectors, and both together.

A query that says nothing finds nothing. What is excluded is left out before passages are chosen, so that a list is not
shorter for it.
"""

# Axes: N passages.

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from factorlm.errors import InputError, UnknownNameError
from factorlm.memory.bm25 import Bm25, write_bm25
from factorlm.memory.card import ModelMark, SourceFile, check_place, write_memory
from factorlm.memory.corpus import Document
from factorlm.memory.dense import BLOCK, Dense, TextEncoder, known_vectors, sentence_encoder, write_vectors
from factorlm.memory.fusion import Fusion
from factorlm.memory.passages import (
    Ends,
    Passage,
    PassageCard,
    PassageSettings,
    PassageStore,
    PassageWriter,
    passages_of,
    texts_of,
)
from factorlm.memory.ranking import NOTHING, Mask, Rank, Ranking, by_chance
from factorlm.models.progress import Report, quiet

Troubles = Callable[[], Mapping[str, int]]


class Hit(NamedTuple):
    """A passage that was found.

    Attributes:
        passage: its number.
        score: how well it fits: BM25, a cosine, or what fusion makes of both.
        source: the file that it is from.
    """

    passage: int
    score: float
    source: str


@dataclass(frozen=True, eq=False)
class Retriever:
    """Searches a store of passages.

    Attributes:
        name: of the kind; see `RETRIEVERS`.
        store: what is searched.
        rank: the best passages for queries, at most so many, among those allowed.
    """

    name: str
    store: PassageStore
    rank: Rank

    def search(self, queries: Sequence[str], k: int, exclude_documents: Collection[int] = ()) -> list[list[Hit]]:
        """The best passages for each query, the best first; of equal ones the one of lower number.

        Args:
            queries: what to look for.
            k: most passages for a query.
            exclude_documents: numbers of documents whose passages are not to be found; see `PassageStore.documents_of`.

        Raises:
            InputError: for k less than one, or a single text where several are wanted.
        """
        if k < 1 or isinstance(queries, str):
            raise InputError(f"a list of queries and k of at least 1 are needed, got {type(queries).__name__}, k = {k}")
        found = self.rank(queries, k, self.store.allowed(exclude_documents))
        rows = [zip(*(part.tolist() for part in ranking), strict=True) for ranking in found]
        return [[Hit(n, score, self.store.passage(n).source) for n, score in row] for row in rows]


def open_retriever(
    store: PassageStore | Path | str,
    name: str = "bm25",
    *,
    encoder: TextEncoder | None = None,
    fusion: Fusion | None = None,
    seed: int = 0,
) -> Retriever:
    """A retriever of passages that were built for it.

    Args:
        store: passages, or their folder.
        name: "bm25", "dense" or "hybrid"; for comparison "random" finds any passages, and "none" finds nothing.
        encoder: of queries for dense retrieval; None takes the sentence encoder that the card names.
        fusion: how "hybrid" makes one list of two; None takes reciprocal ranks.
        seed: of "random". A query finds the same passages, whatever it is asked with.

    Raises:
        UnknownNameError: if there is no such kind.
        InputError: if the store was not built for it.
        IncompatibleError: if the encoder is not the one that vectors are by.
    """
    if name not in RETRIEVERS:
        raise UnknownNameError.of("retriever", name, RETRIEVERS)
    opened = store if isinstance(store, PassageStore) else PassageStore.open(store)
    return Retriever(name, opened, RETRIEVERS[name](opened, encoder, fusion or Fusion(), seed))


def _bm25(store: PassageStore, encoder: TextEncoder | None, fusion: Fusion, seed: int) -> Rank:
    _check_built(store, "bm25")
    return Bm25.open(store.path, store.card.settings.bm25, len(store)).rank


def _dense(store: PassageStore, encoder: TextEncoder | None, fusion: Fusion, seed: int) -> Rank:
    _check_built(store, "dense")
    mark = store.card.encoder
    assert mark is not None
    encoder = sentence_encoder(mark.name) if encoder is None else encoder
    return Dense.open(store.path, store.card.settings.dense, len(store), mark, encoder).rank


def _hybrid(store: PassageStore, encoder: TextEncoder | None, fusion: Fusion, seed: int) -> Rank:
    return fusion.ranked([make(store, encoder, fusion, seed) for make in (_bm25, _dense)])


def _random(store: PassageStore, encoder: TextEncoder | None, fusion: Fusion, seed: int) -> Rank:
    def rank(queries: Sequence[str], k: int, allowed_N: Mask | None) -> list[Ranking]:
        return [by_chance(query, len(store), k, seed, allowed_N) for query in queries]

    return rank


def _none(store: PassageStore, encoder: TextEncoder | None, fusion: Fusion, seed: int) -> Rank:
    return lambda queries, k, allowed_N: [NOTHING] * len(queries)


def _check_built(store: PassageStore, name: Literal["bm25", "dense"]) -> None:
    built = store.card.settings.retrievers
    if name not in built:
        raise InputError(f"{store.path} was built for {', '.join(built)}, not for {name}; build it anew with {name}")


RETRIEVERS: dict[str, Callable[[PassageStore, TextEncoder | None, Fusion, int], Rank]] = {
    "bm25": _bm25,
    "dense": _dense,
    "hybrid": _hybrid,
    "random": _random,
    "none": _none,
}


def build_passages(
    documents: Iterable[Document],
    target: Path,
    settings: PassageSettings,
    *,
    mark: ModelMark,
    token_ends: Ends | None = None,
    encoder: TextEncoder | None = None,
    sources: Sequence[SourceFile] = (),
    troubles: Troubles = dict,
    licence: str = "",
    replace: bool = False,
    report: Report = quiet,
) -> PassageStore:
    """Cut documents into passages, and write them to a folder, whole or not at all.

    Args:
        documents: read once.
        target: the folder.
        settings: how to cut, and what to index.
        mark: of the model whose tokens are counted.
        token_ends: of it; see `passages.token_ends`. Not needed for sizes in words.
        encoder: of passages, for dense retrieval; see `dense.sentence_encoder`.
        sources: files that documents come from, for the card.
        troubles: asked at the end what was wrong with them.
        licence: of the corpus.
        replace: whether a memory that is there may go.
        report: told of documents cut, of an unknown total, told as 0, and of passages encoded.

    Raises:
        InputError: if the place is taken or cannot be written, or there is nothing to write.
    """
    check_place(target, replace=replace)
    _check_tools(settings, token_ends, encoder)
    card = PassageCard(
        model=mark, settings=settings, sources=tuple(sources), licence=licence,
        num_documents=0, num_tokens=0, num_passages=1,
    )  # fmt: skip
    new = passages_of(documents, settings, token_ends, report)
    return _write(target, card, new, encoder, troubles, report, replace=replace)


def append_documents(
    path: Path | str,
    documents: Iterable[Document],
    *,
    token_ends: Ends | None = None,
    encoder: TextEncoder | None = None,
    sources: Sequence[SourceFile] = (),
    troubles: Troubles = dict,
    report: Report = quiet,
) -> PassageStore:
    """Add documents behind those that are there; see `build_passages`. BM25 is built anew, vectors are kept.

    Raises:
        IncompatibleError: if vectors are by another encoder.
    """
    old = PassageStore.open(path)
    settings = old.card.settings
    _check_tools(settings, token_ends, encoder)
    if encoder is not None and old.card.encoder is not None:
        old.card.encoder.check(old.path, encoder)
    card = old.card.model_copy(update={"sources": (*old.card.sources, *sources)})
    new = passages_of(documents, settings, token_ends, report)
    return _write(old.path, card, new, encoder, troubles, report, replace=True, old=old)


def remove_documents(path: Path | str, numbers: Collection[int], *, report: Report = quiet) -> PassageStore:
    """Take documents away; those behind them get lower numbers.

    Raises:
        InputError: for a number that there is not, or if nothing would be left.
    """
    old = PassageStore.open(path)
    unknown = sorted(set(numbers) - set(range(len(old.sources))))
    if unknown:
        raise InputError(f"documents from 0 to {len(old.sources) - 1} can be removed from {path}, got {unknown[0]}")
    gone = set(old.sources) - {source for n, source in enumerate(old.sources) if n not in set(numbers)}
    card = old.card.model_copy(update={"sources": tuple(s for s in old.card.sources if s.path not in gone)})
    return _write(old.path, card, (), None, dict, report, replace=True, old=old, without=numbers)


def _check_tools(settings: PassageSettings, token_ends: Ends | None, encoder: TextEncoder | None) -> None:
    if settings.unit == "tokens" and token_ends is None:
        raise InputError("passages sized in tokens need a tokenizer, got none; give token_ends, or count words")
    if "dense" in settings.retrievers and encoder is None:
        raise InputError("dense retrieval needs an encoder, got none; give one, or leave dense out")


def _write(
    target: Path,
    card: PassageCard,
    new: Iterable[list[Passage]],
    encoder: TextEncoder | None,
    troubles: Troubles,
    report: Report,
    *,
    replace: bool,
    old: PassageStore | None = None,
    without: Collection[int] = (),
) -> PassageStore:
    """Passages of an old store without some documents, then new ones, in a folder of their own."""
    settings = card.settings
    kept_N = np.zeros(0, np.int64) if old is None else np.flatnonzero(~np.isin(old.document_N, list(without)))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".partial", dir=target.parent) as work:
            folder = Path(work)
            with PassageWriter(folder) as writer:
                for passages in chain(() if old is None else old.documents(kept_N), new):
                    writer.add(passages)
            if not writer.documents:
                raise InputError(f"a document with text is needed for {target}, got none; nothing was written")
            if "bm25" in settings.retrievers:
                write_bm25(folder, texts_of(folder), settings.bm25)
            more: dict[str, object] = {"troubles": dict(Counter(card.troubles) + Counter(troubles()))}
            if "dense" in settings.retrievers:
                num, known, rest = len(writer.documents), _vectors(old, kept_N), texts_of(folder, len(kept_N))
                width = write_vectors(folder, rest, num, encoder, settings.dense, known, report)
                more["encoder"] = encoder.mark(width) if encoder else card.encoder
            complete = writer.counted(card).model_copy(update=more)

            def fill(empty: Path) -> None:
                for path in sorted(folder.iterdir()):
                    path.rename(empty / path.name)

            write_memory(target, complete, fill, replace=replace)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}; name another place") from None
    return PassageStore.open(target)


def _vectors(old: PassageStore | None, kept_N: np.ndarray) -> Iterator[np.ndarray]:
    """Vectors of those passages of an old store that are kept."""
    if old is not None and old.card.encoder is not None:
        vector_ND = known_vectors(old.path, len(old), old.card.encoder.width)
        for first in range(0, len(kept_N), BLOCK):
            yield vector_ND[kept_N[first : first + BLOCK]]


def open_passages(index: Path, retriever: str = "") -> Retriever:
    """A retriever over the passages in a folder; "" takes hybrid where there are vectors, else what there is.

    Raises:
        UnknownNameError: for a retriever that there is not.
    """
    store = PassageStore.open(index)
    built = store.card.settings.retrievers
    name = retriever or ("hybrid" if len(built) > 1 else built[0])
    if name not in RETRIEVERS:
        raise UnknownNameError.of("retriever", name, RETRIEVERS)
    encoder = sentence_encoder() if name in ("dense", "hybrid") and "dense" in built else None
    return open_retriever(store, name, encoder=encoder)
