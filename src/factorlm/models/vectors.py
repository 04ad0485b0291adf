"""Vectors of sentences, kept on disk: what was encoded once is read from then on."""

# Axes: B sentences, D width.

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from factorlm.errors import InputError, UnknownNameError
from factorlm.models.convert import WEIGHTS
from factorlm.models.download import file_sha256
from factorlm.models.fetch import MODELS, cache_folder
from factorlm.models.sentences import SentenceEncoder, load_sentence_encoder

DEFAULT_ENCODER = "minilm"
TOGETHER = 1024  # sentences that are encoded before they are written: what a run that is stopped loses at most
WAIT = 30.0  # seconds for another process that writes


class KeptVectors:
    """A sentence encoder that remembers.

    A file that cannot be read or written costs time and nothing else: sentences are encoded anew.

    Args:
        encoder: makes vectors.
        path: of an SQLite file, made when it is missing; of this encoder alone.
    """

    def __init__(self, encoder: SentenceEncoder, path: Path) -> None:
        self.encoder, self.path = encoder, path

    def encode(self, sentences: Sequence[str], report: Callable[[int, int], None] = lambda done, total: None) -> Tensor:
        """Vectors [B, D] of length one, in the order of the sentences; as `SentenceEncoder.encode`."""
        texts = sorted(set(sentences), key=lambda text: (len(text), text))  # of like length together: little padding
        keys = {text: hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts}
        found = self._read(keys)
        new = [text for text in texts if text not in found]
        for start in range(0, len(new), TOGETHER):
            some = new[start : start + TOGETHER]
            vector_BD = self.encoder.encode(some)
            found.update(zip(some, vector_BD, strict=True))
            self._write({keys[text]: found[text] for text in some})
            report(start + len(some), len(new))
        if not found:
            return torch.empty(0, self.encoder.width)
        return torch.stack([found[text] for text in sentences])

    def _read(self, keys: dict[str, bytes]) -> dict[str, Tensor]:
        if not self.path.is_file():
            return {}
        found = {}
        try:
            with closing(self._connected()) as kept:
                for text, key in keys.items():
                    row = kept.execute("SELECT vector FROM vectors WHERE key = ?", (key,)).fetchone()
                    if row is not None and len(row[0]) == 4 * self.encoder.width:
                        found[text] = torch.from_numpy(np.frombuffer(row[0], "<f4").astype(np.float32))
        except sqlite3.Error:
            return {}
        return found

    def _write(self, vectors: dict[bytes, Tensor]) -> None:
        rows = [(key, vector.numpy().astype("<f4").tobytes()) for key, vector in vectors.items()]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._connected()) as kept, kept:
                kept.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID")
                kept.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
        except (OSError, sqlite3.Error):
            return

    def _connected(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=WAIT)


@lru_cache(maxsize=4)
def load_encoder(name: str = DEFAULT_ENCODER) -> KeptVectors:
    """An encoder whose vectors are kept in the cache folder.

    Args:
        name: the default one, or a folder of another in the transformers format; its last hidden states are averaged.

    Raises:
        UnknownNameError: if it is neither.
        InputError: if the folder cannot be read.
        FetchError: if the default one could not be fetched.
    """
    if name == DEFAULT_ENCODER:
        return KeptVectors(load_sentence_encoder(), _place(f"{name}-{MODELS[name].version}"))
    folder = Path(name)
    if not folder.is_dir():
        raise UnknownNameError.of("encoder", name, [DEFAULT_ENCODER], "or give a folder in the transformers format")
    try:
        encoder = SentenceEncoder(folder)
        key = file_sha256(folder / WEIGHTS)[:16]
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"no encoder can be read from {folder}: {reason}") from None
    return KeptVectors(encoder, _place(key))


def _place(key: str) -> Path:
    return cache_folder() / "vectors" / f"{key}.sqlite"
