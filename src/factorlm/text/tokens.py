"""The bytes of every token of a tokenizer."""

from __future__ import annotations

import json
import re
from typing import Any

from factorlm.errors import InputError
from factorlm.text.vocabulary import Vocabulary

BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


def byte_of_letter() -> dict[str, int]:
    """The bytes behind the printable letters of byte-level tokenizers.

    Source: byte-level byte pair encoding, Radford et al. (2019): printable bytes stand for themselves, the others
    are moved up behind U+0100 in order.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(moved)}


def vocabulary_of(tokenizer: Any, size: int, end_ids: tuple[int, ...]) -> Vocabulary:
    """Vocabulary of a fast tokenizer.

    Args:
        tokenizer: a fast tokenizer of transformers.
        size: rows of the model's output, which may be more than the tokenizer has tokens.
        end_ids: the tokens that end a text.

    Raises:
        InputError: if the tokenizer is not a fast one.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError(f"a fast tokenizer is needed, got {type(tokenizer).__name__}; convert it to tokenizer.json")
    decoders = json.dumps(json.loads(backend.to_str()).get("decoder") or {})
    letters = byte_of_letter() if '"ByteLevel"' in decoders else None
    special = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    added = set(tokenizer.added_tokens_decoder)
    token_bytes = [b""] * size
    for piece, token_id in tokenizer.get_vocab().items():
        if token_id in special or token_id >= size:
            continue
        token_bytes[token_id] = piece.encode() if token_id in added else _bytes_of(piece, letters)
    return Vocabulary(tuple(token_bytes), end_ids)


def _bytes_of(piece: str, letters: dict[str, int] | None) -> bytes:
    if letters is not None:
        return bytes(letters[letter] for letter in piece) if all(c in letters for c in piece) else piece.encode()
    byte = BYTE_PIECE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()
