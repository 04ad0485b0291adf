"""Grammars as factors: weight one for texts of a formal language, zero for all others.

The masks are llguidance's (Microsoft, MIT): a token is possible if and only if some text of the language begins with
what was read and this token, however the text is cut into tokens. End tokens are possible where the text is whole.
"""

# Axes: B batch, R rows chosen, T time, V vocabulary.

from __future__ import annotations

import bisect
import json
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llguidance
import numpy as np
import torch
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark
from torch import Tensor

from factorlm.algebra import PAD, Factor, State
from factorlm.errors import InputError
from factorlm.factors.unbound import Unbound
from factorlm.text import Vocabulary, is_utf8

if TYPE_CHECKING:
    from factorlm.models import CausalLM

Tokens = tuple[int, ...]
KEPT_TEXTS = 256  # beginnings whose parsers are kept for scoring, trimming, and rows that write the same
JSON_STYLE: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True, eq=False)
class Grammar(Factor):
    """Weight one for texts of a language, zero for others; what was read before the text does not count.

    Attributes:
        name: for people.
        source: a grammar of llguidance; `json_grammar`, `regex_grammar`, `lark_grammar` and `choice_grammar` make them.
        tokens: the vocabulary.
        dtype: of the log weights.
    """

    name: str
    source: str
    tokens: Vocabulary
    dtype: torch.dtype = torch.float32
    _read: OrderedDict[Tokens, _Parsed] = field(default_factory=OrderedDict, repr=False)

    def __post_init__(self) -> None:
        if not self.tokens.end_ids:
            raise InputError("a grammar needs a token that ends a text, got a vocabulary without one")
        matcher = llguidance.LLMatcher(_tokenizer_of(self.tokens), self.source, log_level=0)
        if matcher.is_error():
            raise InputError(f"a grammar is needed that can be parsed, got: {_first_line(matcher.get_error())}")
        self._read[()] = _Parsed(matcher, self._mask(matcher))

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens."""
        return self.tokens

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        return self._state((((), self._parsed(())),) * prefix_BT.shape[0], prefix_BT.device)

    def extend(self, state: State, token_B: Tensor) -> State:
        """See Factor."""
        longer = []
        for (text, parsed), token in zip(state.memory, token_B.tolist(), strict=True):
            text = (*text, token)
            longer.append((text, self._keep(text, self._read.get(text) or self._after(parsed, token))))
        return self._state(tuple(longer), state.log_weight_BV.device)

    def reorder(self, state: State, row_R: Tensor) -> State:
        """See Factor."""
        return State(state.log_weight_BV[row_R], tuple(state.memory[r] for r in row_R.tolist()))

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""
        texts = [text[: len(text) - n] for (text, _), n in zip(state.memory, num_tokens_B.tolist(), strict=True)]
        return self._state(tuple((text, self._parsed(text)) for text in texts), state.log_weight_BV.device)

    def score(self, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
        """See Factor."""
        log_weight_BT = torch.zeros(text_BT.shape, dtype=self.dtype)
        for b, row in enumerate(text_BT.tolist()):
            for t, token in enumerate(row):
                if token != PAD:
                    log_weight_BT[b, t] = self._parsed(tuple(row[:t])).log_weight_V[token]
        return log_weight_BT.to(text_BT.device)

    def is_whole(self, text: Sequence[int]) -> bool:
        """Whether a text without its end is of the language."""
        end_ids = list(self.tokens.end_ids)
        return bool((self._parsed(tuple(text)).log_weight_V[end_ids] > -torch.inf).any())

    def _state(self, read: tuple[tuple[Tokens, _Parsed], ...], device: torch.device) -> State:
        rows = [parsed.log_weight_V for _, parsed in read]
        log_weight_BV = torch.stack(rows) if rows else torch.empty(0, self.tokens.size, dtype=self.dtype)
        return State(log_weight_BV.to(device), read)

    def _parsed(self, text: Tokens) -> _Parsed:
        """The parser after a text, from the longest beginning that is remembered."""
        known = next(n for n in range(len(text), -1, -1) if text[:n] in self._read)
        found = self._read[text[:known]]
        for n in range(known, len(text)):
            found = self._keep(text[: n + 1], self._after(found, text[n]))
        return found

    def _after(self, before: _Parsed, token: int) -> _Parsed:
        """The parser after one more token, and the weights of what may come next."""
        if before.matcher is None or token in self.tokens.end_ids:
            weights_V = before.log_weight_V if before.matcher is None else torch.zeros_like(before.log_weight_V)
            return _Parsed(None, weights_V)
        if before.log_weight_V[token] == -torch.inf:
            return _Parsed(None, torch.full_like(before.log_weight_V, -torch.inf))
        matcher = before.matcher.deep_copy()
        matcher.consume_token(token)  # an error of it stays, and the mask complains
        return _Parsed(matcher, self._mask(matcher))

    def _keep(self, text: Tokens, parsed: _Parsed) -> _Parsed:
        """Remember it; the empty text is never forgotten."""
        self._read[text] = parsed
        self._read.move_to_end(text)
        if len(self._read) > KEPT_TEXTS:
            oldest = next(key for key in self._read if key)
            del self._read[oldest]
        return parsed

    def _mask(self, matcher: Any) -> Tensor:
        """Log weights of the next tokens, [V].

        Where the next bytes are forced, llguidance allows only the tokens that a tokenizer would write (its issue 263);
        all others that begin or continue these bytes are found here.
        """
        forced = b"" if matcher.is_stopped() else matcher.compute_ff_bytes()
        if forced:
            possible_V = torch.zeros(self.tokens.size, dtype=torch.bool)
            shorter, longer = _pieces_of(self.tokens).around(forced)
            possible_V[shorter + [token for token in longer if matcher.validate_tokens([token])]] = True
        else:
            bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
            possible_V = torch.from_numpy(bits[: self.tokens.size].astype(bool))
        if matcher.is_error():
            raise InputError(f"grammar {self.name!r} is too large to go on: {_first_line(matcher.get_error())}")
        return torch.where(possible_V, 0.0, -torch.inf).to(self.dtype)


@dataclass(frozen=True, eq=False)
class _Parsed:
    """A parser after a text (None after its end, or where the text is impossible) and weights of next tokens [V]."""

    matcher: Any
    log_weight_V: Tensor


@dataclass(frozen=True, eq=False)
class UnboundGrammar(Unbound):
    """A grammar that waits for its vocabulary."""

    source: str

    def bind(self, lm: CausalLM) -> Factor:
        """See Unbound."""
        return Grammar(self.name, self.source, lm.vocabulary)


def json_grammar(schema: str | Mapping[str, Any]) -> str:
    """JSON texts that a schema allows, written on one line as Python's json module writes them.

    Raises:
        InputError: for a schema that is none, or that uses what is not supported.
    """
    try:
        parsed = json.loads(schema) if isinstance(schema, str) else dict(schema)
    except json.JSONDecodeError as error:
        raise InputError(f"a JSON schema is needed, got text that is no JSON: {error}") from None
    if not isinstance(parsed, (dict, bool)):
        raise InputError(f"a JSON schema is an object, got {type(parsed).__name__}")
    try:
        source = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(parsed), overrides=JSON_STYLE)
    except ValueError as error:
        raise InputError(f"a JSON schema is needed that can be used, got: {_first_line(str(error))}") from None
    return _checked(source, "JSON schema")


def regex_grammar(pattern: str) -> str:
    """Texts that match a regular expression as a whole (Rust's dialect, without look-around).

    Raises:
        InputError: for a pattern that is none.
    """
    return _checked(llguidance.LLMatcher.grammar_from_regex(_utf8(pattern)), "regular expression")


def lark_grammar(rules: str) -> str:
    """Texts of a context-free grammar in Lark's notation, or in EBNF of llama.cpp (with ::=); both begin at a rule.

    Raises:
        InputError: for rules that cannot be read.
    """
    _utf8(rules)
    if re.search(r"^\s*[\w-]+\s*::=", rules, re.MULTILINE):
        try:
            rules = gbnf_to_lark(rules)
        except (GbnfToLarkError, ValueError) as error:
            raise InputError(f"an EBNF grammar is needed that can be read, got: {_first_line(str(error))}") from None
    return _checked(llguidance.LLMatcher.grammar_from_lark(rules), "Lark grammar")


def read_rules(path: Path) -> str:
    """The text of a file with a schema or a grammar.

    Raises:
        InputError: if there is none.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"a file with a schema or a grammar is needed, got {path}: {reason}") from None


def choice_grammar(choices: Sequence[str]) -> str:
    """One of these texts.

    Raises:
        InputError: if there are none, or one is empty.
    """
    if isinstance(choices, str) or not choices or not all(choices):
        raise InputError(f"a list of choices that are not empty is needed, got {choices!r}")
    written = (json.dumps(_utf8(choice), ensure_ascii=False).replace("\x7f", "\\x7f") for choice in choices)
    return _checked(llguidance.LLMatcher.grammar_from_lark("start: " + " | ".join(written)), "list of choices")


def _utf8(text: str) -> str:
    """The text itself, unless it has bytes that are no UTF-8."""
    if not is_utf8(text):
        raise InputError(f"UTF-8 text is needed in a grammar, got {text[:40]!r} with bytes that are none; convert it")
    return text


def _checked(source: str, what: str) -> str:
    error = llguidance.LLMatcher.validate_grammar(source)
    if error and not error.startswith("WARNING"):
        raise InputError(f"a {what} is needed that can be used, got: {_first_line(error)}")
    return source


@lru_cache(maxsize=4)
def _tokenizer_of(vocabulary: Vocabulary) -> Any:
    """What llguidance knows of the tokens: a second or so for a large vocabulary."""
    pieces = llguidance.TokenizerWrapper(_pieces_of(vocabulary))
    return llguidance.LLTokenizer(pieces, n_vocab=vocabulary.size, eos_token=list(vocabulary.end_ids))


@lru_cache(maxsize=4)
def _pieces_of(vocabulary: Vocabulary) -> _Pieces:
    return _Pieces(vocabulary)


class _Pieces:
    """The tokens in the form that llguidance asks for."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.eos_token_id = vocabulary.end_ids[0]
        self.bos_token_id = None
        self.tokens = list(vocabulary.token_bytes)
        self.special_token_ids = [token for token, part in enumerate(self.tokens) if not part]
        self._by_bytes: dict[bytes, list[int]] = {}
        for token, part in enumerate(self.tokens):
            if part:
                self._by_bytes.setdefault(part, []).append(token)
        self._sorted = sorted(self._by_bytes)
        self._longest = max(map(len, self._by_bytes), default=0)

    def around(self, text: bytes) -> tuple[list[int], list[int]]:
        """Tokens that the text begins with, itself included, and longer tokens that begin with the text."""
        shorter = [token for n in range(1, len(text) + 1) for token in self._by_bytes.get(text[:n], ())]
        longer: list[int] = []
        for place in range(bisect.bisect_right(self._sorted, text), len(self._sorted)):
            if not self._sorted[place].startswith(text):
                break
            longer += self._by_bytes[self._sorted[place]]
        return shorter, longer

    def __call__(self, text: bytes | str) -> list[int]:
        """The longest tokens from the left; bytes that no token has are left out, as nothing can write them."""
        left = text.encode() if isinstance(text, str) else text
        found: list[int] = []
        while left:
            for length in range(min(self._longest, len(left)), 0, -1):
                if left[:length] in self._by_bytes:
                    found.append(self._by_bytes[left[:length]][0])
                    break
            else:
                length = 1
            left = left[length:]
        return found


def _first_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[0] if lines else "no reason given"
