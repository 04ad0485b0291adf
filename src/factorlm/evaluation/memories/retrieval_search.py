"""Texts made searchable for an evaluation, kept in its cache, and the ways of searching them that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from factorlm.evaluation.memories.stores import place_of
from factorlm.evaluation.priors.kept import titled
from factorlm.evaluation.workbench import Workbench
from factorlm.memory.bm25 import FILES
from factorlm.memory.card import is_memory, mark_of
from factorlm.memory.corpus import Document
from factorlm.memory.dense import LISTS, VECTORS, TextEncoder, sentence_encoder
from factorlm.memory.fusion import Fusion
from factorlm.memory.passages import PassageSettings, PassageStore, token_ends
from factorlm.memory.retrievers import Retriever, build_passages, open_retriever
from factorlm.models import CausalLM
from factorlm.models.sentences import SentenceEncoder
from factorlm.models.vectors import KeptVectors, load_encoder

NONE, RANDOM, BM25, DENSE, HYBRID, MIN_MAX = "none", "random", "bm25", "dense", "hybrid", "min-max"
WHOLE = 1_000_000  # words of a passage that is a document of its own
ON_DISK = {BM25: tuple(FILES.values()), DENSE: (VECTORS, LISTS)}


@dataclass(frozen=True, eq=False)
class Searching:
    """What finds passages.

    Attributes:
        bench: whose cache keeps stores and vectors.
        lm: whose tokens are counted, and that reads what is found.
        encoder: of passages and queries; what was encoded once is read from the cache.
        uncached: the same encoder without that, to be timed.
        sentences: what is behind both.
    """

    bench: Workbench
    lm: CausalLM
    encoder: TextEncoder
    uncached: TextEncoder
    sentences: SentenceEncoder

    @classmethod
    def of(cls, bench: Workbench, name: str) -> Searching:
        """With an encoder; see `dense.sentence_encoder`."""
        uncached, sentences = sentence_encoder(name), load_encoder(name).encoder
        encoder = uncached
        if bench.cache.folder is not None:
            place = Path(bench.cache.folder) / "vectors" / f"{uncached.fingerprint}.sqlite"
            encoder = TextEncoder(uncached.name, uncached.fingerprint, KeptVectors(sentences, place).encode)
        return cls(bench, bench.models[0].model.lm, encoder, uncached, sentences)

    def store(self, name: str, texts: Sequence[str], settings: PassageSettings) -> PassageStore:
        """Passages of texts, none of them blank; what was built once is opened."""
        content = [self.encoder.fingerprint, self.lm.vocabulary.fingerprint, settings.model_dump_json(), list(texts)]
        place = place_of(self.bench, "passages", content)
        if not is_memory(place):
            documents = (Document(text, f"{name} {number}", 1) for number, text in enumerate(texts))
            build_passages(
                documents, place, settings, mark=mark_of(self.lm, with_encoder=False), token_ends=token_ends(self.lm),
                encoder=self.encoder, report=titled(self.bench.report, f"{name}, passages"),
            )  # fmt: skip
        return PassageStore.open(place)

    def retriever(self, store: PassageStore, way: str, encoder: TextEncoder | None = None) -> Retriever:
        """One way of searching a store; "min-max" is the hybrid whose scores, not ranks, are summed.

        Raises:
            UnknownNameError: if there is no such way.
        """
        fusion = Fusion(kind="min-max") if way == MIN_MAX else Fusion()
        kind = HYBRID if way == MIN_MAX else way
        return open_retriever(store, kind, encoder=encoder or self.encoder, fusion=fusion, seed=self.bench.seed)

    def num_cut(self, passages: Sequence[str]) -> int:
        """How many passages are longer than the encoder reads."""
        most = self.sentences.max_tokens
        read = self.sentences.tokenizer(list(passages), truncation=True, max_length=most + 1)
        return sum(len(token_ids) > most for token_ids in read["input_ids"])


def bytes_on_disk(store: PassageStore, way: str) -> int:
    """Of the index that a way of searching reads; the passages themselves are not counted."""
    names = [name for part, files in ON_DISK.items() if way in (part, HYBRID, MIN_MAX) for name in files]
    return sum((store.path / name).stat().st_size for name in names if (store.path / name).is_file())
