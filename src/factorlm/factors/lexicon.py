"""Words and phrases, boosted or banned, under every tokenisation."""

# Axes: B batch, N nodes of the token trie, S states of the automaton, T time, V vocabulary.

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from factorlm.algebra import PAD, Factor, State, end_together
from factorlm.errors import InputError
from factorlm.text import Vocabulary
from factorlm.text.automaton import AT_EDGE, UNDECIDED, Automaton, fold

if TYPE_CHECKING:
    from factorlm.factors.strength import StrengthMap

Floats = npt.NDArray[np.float64]
_ROWS_KEPT = 256
_BITS = 29  # of a state number, so that step_SC can hold it beside a fate


@dataclass(frozen=True, eq=False)
class Lexicon(Factor):
    """Weight exp(sum of the boosts of all matches); a text with a banned phrase has weight zero.

    A match is a place in the decoded text, however it is cut into tokens. What ends in the prefix does not count,
    what begins in it and ends in the text does. An end token is the edge of a text.

    The steps telescope. A boost is credited when its last byte is read and taken back if the word goes on. Before,
    from where `pieces` says that a token of the phrase ends, a share of the boost is held, taken back if the phrase
    is not finished, so that a sampler that looks one token ahead finds phrases of several tokens.

    Bans are stricter than whole texts need: after no token may the text end with a banned phrase, even if the next
    one could make a harmless word of it. One token may pass through: "class" where "ass" is banned.

    Attributes:
        name: for people.
        phrases: phrase -> log boost in nats; -inf is a ban. White space in a phrase stands for any run of it.
        tokens: the vocabulary.
        case_sensitive: whether a and A differ.
        whole_word: whether a phrase that begins (ends) with a letter, digit or underscore counts only if no other
            one comes before (after) it.
        pieces: phrase -> ways to cut it into tokens, each as the places in its UTF-8 bytes, without white space
            around it, where a token ends; what several ways credit, the largest credit counts.
        dtype: of the log weights.
    """

    name: str
    phrases: Mapping[str, float]
    tokens: Vocabulary
    case_sensitive: bool = False
    whole_word: bool = True
    pieces: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    strengths: StrengthMap | None = None

    def __post_init__(self) -> None:
        for phrase, boost in self.phrases.items():
            if isinstance(boost, bool) or not isinstance(boost, (int, float)) or not boost < math.inf:
                raise InputError(f"a boost must be a finite number of nats (-inf bans), got {boost!r} for {phrase!r}")
        for phrase, ways in self.pieces.items():
            if phrase not in self.phrases:
                raise InputError(f"pieces must be of phrases of the lexicon, got {phrase!r}; add it to the phrases")
            last = len(phrase.strip().encode()) - 1
            if any(not 0 < place <= last for way in ways for place in way):
                raise InputError(f"pieces of {phrase!r} must end inside it, from 1 to {last}, got {ways}; drop others")
        _ = self.automaton  # complains about phrases

    @classmethod
    def from_tokenizer(
        cls,
        name: str,
        phrases: Mapping[str, float],
        vocabulary: Vocabulary,
        encode: Callable[[str], Sequence[int]],
        *,
        case_sensitive: bool = False,
        whole_word: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> Lexicon:
        """A lexicon that looks ahead along the tokens that a tokenizer writes, with a blank before a phrase or not.

        Args:
            name: for people.
            phrases: phrase -> log boost in nats; -inf is a ban.
            vocabulary: the tokens.
            encode: text -> token numbers, without special tokens.
            case_sensitive: see the class.
            whole_word: see the class.
            dtype: of the log weights.

        Raises:
            InputError: if there are no phrases, or one or its boost cannot be used.
        """
        pieces: dict[str, list[list[int]]] = {}
        for phrase in phrases:
            bare = phrase.strip()
            for written in (f" {bare}", bare):
                ids = list(encode(written))
                first = vocabulary.decode(ids).find(bare.encode())
                ends = np.cumsum([len(vocabulary.token_bytes[i]) for i in ids]).astype(int) - first
                places = [int(end) for end in ends if 0 < end < len(bare.encode())]
                if first >= 0 and places:
                    pieces.setdefault(phrase, []).append(places)
        return cls(name, phrases, vocabulary, case_sensitive, whole_word, pieces, dtype)

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens."""
        return self.tokens

    @cached_property
    def automaton(self) -> Automaton:
        """What finds the phrases; `automaton.matches` shows them in a text."""
        return Automaton.build(tuple(self.phrases), case_sensitive=self.case_sensitive, whole_word=self.whole_word)

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        fresh = [self._read([t for t in row if t != PAD]) for row in prefix_BT.tolist()]
        return self._state(torch.tensor(fresh, dtype=torch.long, device=prefix_BT.device)[:, None])

    def extend(self, state: State, token_B: Tensor) -> State:
        """See Factor."""
        history_BT = state.memory
        after = [self._step(p, t)[1] for p, t in zip(history_BT[:, -1].tolist(), token_B.tolist(), strict=True)]
        return self._state(torch.cat([history_BT, history_BT.new_tensor(after)[:, None]], 1))

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""
        return self._state(end_together(state.memory, num_tokens_B))

    def score(self, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
        """See Factor."""
        log_weight_BT = torch.zeros(text_BT.shape, dtype=self.dtype)
        for b, (prefix, text) in enumerate(zip(prefix_BT.tolist(), text_BT.tolist(), strict=True)):
            place = self._read([t for t in prefix if t != PAD])
            for t, token in enumerate(text):
                if token != PAD:
                    log_weight_BT[b, t], place = self._step(place, token)
        return log_weight_BT.to(text_BT.device)

    def _state(self, place_BT: Tensor) -> State:
        rows = [self._row(place) for place in place_BT[:, -1].tolist()]
        if len(rows) == 1:
            return State(rows[0][None].to(place_BT.device), place_BT)  # a view
        log_weight_BV = torch.stack(rows) if rows else torch.empty(0, self.tokens.size, dtype=self.dtype)
        return State(log_weight_BV.to(place_BT.device), place_BT)

    # A place, what the memory holds, packs the state of the automaton; the state with the completed phrases whose
    # words may yet go on, else 0; whether no credit is held since all that was read is prefix.

    def _read(self, token_ids: list[int]) -> int:
        step_SC, state = self.automaton.step_SC, 0
        for token in token_ids:
            for byte in self.tokens.token_bytes[token]:
                state = int(step_SC[state, byte]) >> 2
            if token in self.tokens.end_ids:
                state = 0
        return _pack(state, 0, True)

    def _step(self, place: int, token: int) -> tuple[float, int]:
        """Log weight of a token, and the place after it."""
        token_bytes, is_end = self.tokens.token_bytes[token], token in self.tokens.end_ids
        if not token_bytes and not is_end:
            return 0.0, place
        step_SC, (sure_S, open_S, credit_S) = self.automaton.step_SC, self._values
        state, holder, _ = _unpack(place)
        gain, pending = 0.0, float(open_S[holder])
        for byte in token_bytes:
            packed = int(step_SC[state, byte])
            state, fate = packed >> 2, packed & 3
            gain += float(sure_S[state]) + (pending if fate == AT_EDGE else 0.0)
            if fate != UNDECIDED:
                holder, pending = 0, 0.0
            if open_S[state]:
                holder, pending = state, pending + float(open_S[state])
        held = 0.0 if is_end else float(credit_S[state])
        after = _pack(0, 0, True) if is_end else _pack(state, holder, False)
        return gain + pending + held - self._base(place), after

    def _base(self, place: int) -> float:
        """The credit that a place holds; what follows an impossible text is weighed as if none were held."""
        state, holder, is_fresh = _unpack(place)
        _, open_S, credit_S = self._values
        credit = float(open_S[holder]) + float(credit_S[state])
        return 0.0 if is_fresh or credit == -math.inf else credit

    @cached_property
    def _row(self) -> Callable[[int], Tensor]:
        return lru_cache(_ROWS_KEPT)(self._compute_row)

    def _compute_row(self, place: int) -> Tensor:
        """Log weights of all tokens at a place, [V]: `_step` for the trie of all tokens, a byte of each at a time."""
        trie, (sure_S, open_S, credit_S) = _token_trie(self.tokens), self._values
        start, holder, _ = _unpack(place)
        step_SC = self.automaton.step_SC.reshape(-1)
        state_N = np.full(len(trie.parent_N), start)
        gain_N, pending_N = np.zeros(len(state_N)), np.full(len(state_N), open_S[holder])
        for first, last in trie.levels:
            parent = trie.parent_N[first:last]
            packed = step_SC[state_N[parent] * 256 + trie.byte_N[first:last]]
            state, fate, pending = packed >> 2, packed & 3, pending_N[parent]
            state_N[first:last] = state
            gain_N[first:last] = gain_N[parent] + (sure_S[state] + np.where(fate == AT_EDGE, pending, 0.0))
            pending_N[first:last] = np.where(fate == UNDECIDED, pending, 0.0) + open_S[state]
        weight_N = gain_N + pending_N
        weight_V = (weight_N + credit_S[state_N])[trie.node_V] - self._base(place)
        weight_V[trie.node_V == 0] = 0.0
        for end in self.tokens.end_ids:
            weight_V[end] = weight_N[trie.node_V[end]] - self._base(place)
        return torch.from_numpy(weight_V).to(self.dtype)

    @cached_property
    def _values(self) -> tuple[Floats, Floats, Floats]:
        """For each state, in nats: boosts that its last byte earns for good; until a word goes on; credit held."""
        automaton = self.automaton
        sure, unsure, credit = np.zeros((3, len(automaton.progress_node)))
        for phrase, path, needs_edge in zip(automaton.phrases, automaton.paths, automaton.needs_edge, strict=True):
            boost = float(self.phrases[phrase])
            (unsure if needs_edge else sure)[path[-1]] += boost
            for way in self.pieces.get(phrase, ()) if boost > 0 else ():
                for i, num_characters in enumerate(self._whole_characters(phrase, way)):
                    inner = list(path[num_characters - 1 : -1])
                    credit[inner] = np.maximum(credit[inner], boost * (i + 1) / (len(way) + 1))
        state_M, node_M = automaton.member_state_M, automaton.member_node_M
        sure_S, unsure_S, credit_S = np.zeros((3, automaton.num_states))
        np.add.at(sure_S, state_M, sure[node_M])
        np.add.at(unsure_S, state_M, unsure[node_M])
        np.maximum.at(credit_S, state_M, credit[automaton.progress_node[node_M]])
        return sure_S, unsure_S, credit_S

    def _whole_characters(self, phrase: str, way: Sequence[int]) -> list[int]:
        """How many characters of the folded phrase are whole at each place, or as soon as the one there is."""
        text = phrase.strip()
        lengths = [next(n for n in range(len(text) + 1) if len(text[:n].encode()) >= place) for place in sorted(way)]
        return [len(fold(text[:length], self.case_sensitive)) for length in lengths]


def _pack(state: int, holder: int, is_fresh: bool) -> int:
    return state | holder << _BITS | is_fresh << 2 * _BITS


def _unpack(place: int) -> tuple[int, int, bool]:
    mask = (1 << _BITS) - 1
    return place & mask, place >> _BITS & mask, bool(place >> 2 * _BITS)


@dataclass(frozen=True)
class _TokenTrie:
    """All tokens of a vocabulary by their first bytes; node 0 is the root, nodes are in order of depth."""

    parent_N: npt.NDArray[np.intp]
    byte_N: npt.NDArray[np.intp]
    levels: tuple[tuple[int, int], ...]  # first node of each depth from 1, and the one after its last
    node_V: npt.NDArray[np.intp]


@lru_cache(maxsize=4)
def _token_trie(vocabulary: Vocabulary) -> _TokenTrie:
    heads = sorted({token[:n] for token in vocabulary.token_bytes for n in range(len(token) + 1)} | {b""}, key=len)
    number = {head: n for n, head in enumerate(heads)}
    first_of_depth = np.searchsorted([len(head) for head in heads], range(1, len(heads[-1]) + 2)).tolist()
    return _TokenTrie(
        np.array([number[head[:-1]] for head in heads], np.intp),
        np.array([head[-1] if head else 0 for head in heads], np.intp),
        tuple(itertools.pairwise(first_of_depth)),
        np.array([number[token] for token in vocabulary.token_bytes], np.intp),
    )
