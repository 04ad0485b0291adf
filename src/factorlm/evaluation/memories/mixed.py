"""What memory and model gave to each token of test documents, document by document, and mixtures of these."""

# Axes: D documents, F features, N tokens.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlm.algebra import Factor, pad_left, pad_right
from factorlm.evaluation.workbench import Workbench
from factorlm.memory.gates import Evidence, Gate
from factorlm.memory.remembering import Memory, evidence_of
from factorlm.models import CausalLM

Array = NDArray[np.float64]
BATCH_TOKENS = 2048


@dataclass(frozen=True, eq=False)
class Documents:
    """Texts to measure.

    Attributes:
        texts: as they came, cut to the tokens that are measured.
        rows: their tokens.
    """

    texts: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]

    @property
    def bytes_D(self) -> Array:
        """UTF-8 bytes of each."""
        return np.array([len(text.encode()) for text in self.texts], float)

    @property
    def tokens_D(self) -> Array:
        """Tokens of each."""
        return np.array([len(row) for row in self.rows], float)


def documents_of(lm: CausalLM, texts: Sequence[str], most_tokens: int, longest: int) -> Documents:
    """The first texts, up to so many tokens in all; a text alone is parted, of several each is cut.

    Args:
        lm: whose tokens they are cut to.
        texts: to take from.
        most_tokens: of all together.
        longest: tokens of one.
    """
    rows = [lm.encode_text(text) for text in texts] if len(texts) == 1 else _cut(lm, texts, most_tokens, longest)
    if len(texts) == 1:  # a corpus that is one text, such as the lines of a newspaper
        rows = [rows[0][first : first + longest] for first in range(0, len(rows[0]), longest)]
    kept: list[tuple[int, ...]] = []
    for row in rows:
        left = most_tokens - sum(map(len, kept))
        if left <= 0 or not row:
            break
        kept.append(tuple(row[:left]))
    return Documents(tuple(lm.vocabulary.text(row) for row in kept), tuple(kept))


def _cut(lm: CausalLM, texts: Sequence[str], most_tokens: int, longest: int) -> list[list[int]]:
    rows: list[list[int]] = []
    for text in texts:
        if sum(map(len, rows)) >= most_tokens:
            break
        rows.append(lm.encode_text(text)[:longest])
    return rows


def evidence_by_document(
    bench: Workbench, key: Mapping[str, object], memory: Memory, model: Factor, start_ids: Sequence[int],
    documents: Documents, stage: str,
) -> list[Evidence]:  # fmt: skip
    """What memory and model gave to each token, document by document.

    Args:
        bench: whose cache is used.
        key: what memory and model are.
        memory: its gate is not asked.
        model: what it is mixed with.
        start_ids: what stands before each document.
        documents: to read.
        stage: for the progress bar.
    """
    longest = max(map(len, documents.rows))

    def read(rows: list[list[int]]) -> list[list[list[float]]]:
        prefix_BT = pad_left([list(start_ids)] * len(rows))
        found = evidence_of(memory, model, prefix_BT, pad_right([list(row) for row in rows]))
        columns = [*found.feature_NF.T, np.where(np.isinf(found.memory_N), np.nan, found.memory_N), found.model_N]
        ends = np.cumsum([len(row) for row in rows])[:-1]
        return [
            [[None if np.isnan(x) else round(float(x), 5) for x in column] for column in part]  # type: ignore[misc]
            for part in zip(*(np.split(column, ends) for column in columns), strict=True)
        ]

    size = max(1, BATCH_TOKENS // longest)
    found = bench.in_batches(stage, {"what": "memory evidence", **key}, [list(r) for r in documents.rows], size, read)
    return [_evidence(columns) for columns in found]


def _evidence(columns: list[list[float | None]]) -> Evidence:
    *features, memory, model = (np.array([np.nan if x is None else x for x in c], float) for c in columns)
    feature_NF = np.stack(features, 1) if features else np.zeros((len(model), 0))
    return Evidence(feature_NF, np.where(np.isnan(memory), -np.inf, memory), model)


def nats_under(gate: Gate | None, parts: Sequence[Evidence]) -> list[Array]:
    """Minus the log probability of each token under a mixture, document by document; of the model without a gate."""
    return [-(part.model_N if gate is None else part.under(gate)) for part in parts]


def with_model(parts: Sequence[Evidence], nats: Sequence[Array]) -> list[Evidence]:
    """The same memory beside another model, of which these are the nats."""
    return [Evidence(part.feature_NF, part.memory_N, -lost) for part, lost in zip(parts, nats, strict=True)]
