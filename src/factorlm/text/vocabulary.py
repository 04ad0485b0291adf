"""What a token is: its bytes, and which tokens end a text."""

import codecs
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8: bytes that were none come in as halves of characters."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a language, by number.

    Attributes:
        token_bytes: for each token the bytes it adds to a text; special tokens add none.
        end_ids: the tokens that end a text. The first is the one to write when an end is forced.
    """

    token_bytes: tuple[bytes, ...]
    end_ids: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of tokens V."""
        return len(self.token_bytes)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all tokens: two models can be multiplied only if theirs agree."""
        digest = hashlib.sha256()
        for token in self.token_bytes:
            digest.update(len(token).to_bytes(4, "big") + token)
        digest.update(repr(self.end_ids).encode())
        return digest.hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Vocabulary) and self.fingerprint == other.fingerprint)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def decode(self, token_ids: Sequence[int]) -> bytes:
        """The bytes of a text; special tokens add none."""
        return b"".join(self.token_bytes[i] for i in token_ids)

    def pieces(self, token_ids: Sequence[int]) -> tuple[str, ...]:
        """The text of each token of a text; a character spread over several stands at the last of them."""
        decoder, last = codecs.getincrementaldecoder("utf-8")(errors="replace"), len(token_ids) - 1
        return tuple(decoder.decode(self.token_bytes[t], final=i == last) for i, t in enumerate(token_ids))

    def text(self, token_ids: Sequence[int], errors: str = "replace") -> str:
        """The characters of a text; bytes that are none are replaced, or left out with errors="ignore"."""
        return self.decode(token_ids).decode(errors=errors)


def letters(alphabet: str) -> Vocabulary:
    """A tiny vocabulary for tests: one token a letter, and a last one that ends the text."""
    return Vocabulary((*(letter.encode() for letter in alphabet), b""), (len(alphabet),))
