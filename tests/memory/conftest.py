"""Small corpora and their indexes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from factorlm.memory.engine import Engine
from factorlm.memory.shard import Shard, ShardWriter
from factorlm.memory.suffixes import separator_of, write_table

Shards = Sequence[Sequence[Sequence[int]]]


@pytest.fixture
def make_engine(tmp_path: Path) -> Callable[..., Engine]:
    """Shards of documents on disk: make_engine(shards, num_tokens, width)."""

    def make(shards: Shards, num_tokens: int, width: int = 1) -> Engine:
        for k, documents in enumerate(shards):
            writer = ShardWriter(tmp_path, k, width)
            for number, document in enumerate(documents):
                writer.add(list(document), {"path": "made/up.txt", "linenum": number})
            writer.close()
            write_table(tmp_path / f"tokenized.{k}", width, tmp_path / f"table.{k}", 1 << 30, lambda *_: None)
        return Engine(tuple(Shard(tmp_path, k, width, num_tokens + 1) for k in range(len(shards))))

    return make


@pytest.fixture
def shards() -> list[list[list[int]]]:
    """Two shards of short documents over three tokens, some of them empty."""
    rng = np.random.default_rng(0)
    return [[rng.integers(0, 3, int(rng.integers(0, 9))).tolist() for _ in range(12)] for _ in range(2)]


def laid_out(documents: Sequence[Sequence[int]], width: int = 1) -> list[int]:
    """A shard's text, as it should be."""
    return [token for document in documents for token in [separator_of(width), *document]]
