"""Vectors kept on disk: those of the encoder, read instead of made; a broken file costs time only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from factorlm.errors import InputError, UnknownNameError
from factorlm.models import vectors
from factorlm.models.sentences import SentenceEncoder
from factorlm.models.vectors import KeptVectors, load_encoder

TEXTS = ["a good cat", "bad", "the tree is good", "bad", "é"]


@pytest.fixture(scope="module")
def encoder(tiny_folder: Path) -> SentenceEncoder:
    return SentenceEncoder(tiny_folder)


class Counting:
    """An encoder that remembers what it was asked."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        self.encoder, self.asked = encoder, list[str]()
        self.width = encoder.width

    def encode(self, sentences: Sequence[str], *_: Any) -> torch.Tensor:
        self.asked += sentences
        return self.encoder.encode(sentences)


def test_kept_vectors_are_those_of_the_encoder(encoder: SentenceEncoder, tmp_path: Path) -> None:
    counting: Any = Counting(encoder)
    kept = KeptVectors(counting, tmp_path / "deep" / "v.sqlite")
    want = encoder.encode(TEXTS)
    assert torch.equal(kept.encode(TEXTS), want)
    assert sorted(counting.asked) == sorted(set(TEXTS))
    assert torch.equal(KeptVectors(counting, tmp_path / "deep" / "v.sqlite").encode(TEXTS[::-1]), want.flip(0))
    assert len(counting.asked) == len(set(TEXTS))  # nothing was asked again
    more = kept.encode(["a tree", *TEXTS])
    assert counting.asked[-1] == "a tree"
    torch.testing.assert_close(more[1:], want)
    assert kept.encode([]).shape == (0, encoder.width)


def test_a_stopped_run_goes_on(encoder: SentenceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "TOGETHER", 2)
    counting: Any = Counting(encoder)
    texts = [f"{word} {n}" for word in ("cat", "tree") for n in "abc"]

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        KeptVectors(counting, tmp_path / "v.sqlite").encode(texts, stop)
    seen: list[tuple[int, int]] = []
    KeptVectors(counting, tmp_path / "v.sqlite").encode(texts, lambda done, total: seen.append((done, total)))
    assert seen == [(2, 2)]
    assert sorted(counting.asked) == sorted(texts)


def test_a_broken_file_costs_time_only(encoder: SentenceEncoder, tmp_path: Path) -> None:
    broken = tmp_path / "v.sqlite"
    broken.write_bytes(b"no database" * 100)
    assert torch.equal(KeptVectors(encoder, broken).encode(TEXTS), encoder.encode(TEXTS))
    assert torch.equal(KeptVectors(encoder, tmp_path).encode(TEXTS), encoder.encode(TEXTS))  # a folder


def test_encoders_by_name(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTORLM_CACHE", str(tmp_path / "cache"))
    made = load_encoder(str(tiny_folder))
    assert load_encoder(str(tiny_folder)) is made
    made.encode(["a cat"])
    [file] = (tmp_path / "cache" / "vectors").iterdir()
    assert file == made.path
    with pytest.raises(UnknownNameError, match="minilm"):
        load_encoder("minilmm")
    with pytest.raises(InputError, match="no encoder can be read"):
        load_encoder(str(tmp_path))
