"""A deterministic automaton over bytes that finds phrases, however the text is cut into tokens.

A phrase is folded into characters: case away unless it matters, every run of white space one blank. The folded
phrases form a trie; a character of the text is an edge of it, spelt out in UTF-8 bytes, so that é and É, ß and SS, a
blank and a line break lead to the same node. Beside the trie the automaton reads which characters belong to words.
"""

# Axes: C byte values (256), K contexts, M members of states, S states of the automaton.

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from factorlm.errors import InputError
from factorlm.text.vocabulary import is_utf8

OTHER, WORD = 0, 1  # contexts after a whole character; the others are inside one
UNDECIDED, IN_WORD, AT_EDGE = 0, 1, 2  # what a byte says about the character that it belongs to, or that it breaks off

Ints = npt.NDArray[np.int32]


def is_word(character: str) -> bool:
    """Whether a character belongs to words: letters and digits of all scripts, and the underscore."""
    return character.isalnum() or character == "_"


@dataclass(frozen=True, eq=False)
class Automaton:
    """All phrases at once. State 0 is the edge of a text.

    A member of a state is a trie node that the last bytes have led to. Nodes inside a character are their own, and
    stand for the progress of the node before it.

    Attributes:
        phrases: what is looked for, as given.
        is_case_sensitive: whether a and A differ.
        step_SC: after each state and byte, next state * 4 + fate, where the fate UNDECIDED, IN_WORD or AT_EDGE tells
            whether the text before the character being read ends there as a word.
        member_state_M: the states of the pairs (state, node).
        member_node_M: their nodes.
        progress_node: for each node the one that it stands for: itself, unless it is inside a character.
        paths: for each phrase its nodes, one after each folded character; the last completes the phrase.
        needs_edge: for each phrase whether it counts only if no character of a word follows.
    """

    phrases: tuple[str, ...]
    is_case_sensitive: bool
    step_SC: Ints
    member_state_M: Ints
    member_node_M: Ints
    progress_node: Ints
    paths: tuple[tuple[int, ...], ...]
    needs_edge: tuple[bool, ...]

    @classmethod
    def build(cls, phrases: Sequence[str], *, case_sensitive: bool = False, whole_word: bool = True) -> Automaton:
        """Compile phrases; white space around them is ignored.

        Args:
            phrases: what to look for.
            case_sensitive: whether a and A differ.
            whole_word: whether a phrase that begins (ends) with a character of a word must not follow (be followed
                by) another one.

        Raises:
            InputError: if there is no phrase, or one that is empty or cannot be written in UTF-8.
        """
        if not phrases:
            raise InputError("a list of phrases needs at least one, got none; add a word or drop the list")
        trie = _Trie(case_sensitive)
        paths, needs_edge = [], []
        for phrase in phrases:
            bare = phrase.strip()
            if not bare:
                raise InputError(f"a phrase needs at least one visible character, got {phrase!r}; remove it")
            if not is_utf8(bare):
                raise InputError(f"a phrase must be valid Unicode, got {phrase!r}; remove the broken character")
            root = _BOUND if whole_word and is_word(bare[0]) else _FREE
            paths.append(trie.insert(root, fold(bare, case_sensitive)))
            needs_edge.append(whole_word and is_word(bare[-1]))
        tables = (*_determinize(trie.spell()), np.array(trie.progress_node, np.int32))
        return cls(tuple(phrases), case_sensitive, *tables, tuple(paths), tuple(needs_edge))

    @property
    def num_states(self) -> int:
        """Number of states S."""
        return len(self.step_SC)

    def matches(self, text: str) -> list[tuple[str, int, int]]:
        """Each phrase found in a text with its first character and the one after its last, in order of their ends."""
        found: list[tuple[str, int, int]] = []
        state = 0
        for end, character in enumerate(text, 1):
            for byte in character.encode(errors="surrogatepass"):
                state = int(self.step_SC[state, byte]) >> 2
            for number in sorted(self._completed.get(state, ())):
                if not (self.needs_edge[number] and end < len(text) and is_word(text[end])):
                    found.append((self.phrases[number], self._first(self.phrases[number], text, end), end))
        return found

    @cached_property
    def _completed(self) -> dict[int, list[int]]:
        """For each state the numbers of the phrases that it completes."""
        by_node: dict[int, list[int]] = {}
        for number, path in enumerate(self.paths):
            by_node.setdefault(path[-1], []).append(number)
        completed: dict[int, list[int]] = {}
        for state, node in zip(self.member_state_M.tolist(), self.member_node_M.tolist(), strict=True):
            if node in by_node:
                completed.setdefault(state, []).extend(by_node[node])
        return completed

    def _first(self, phrase: str, text: str, end: int) -> int:
        wanted = fold(phrase.strip(), self.is_case_sensitive)
        first = end - 1
        while text[first].isspace() or fold(text[first:end], self.is_case_sensitive) != wanted:
            first -= 1
        return first


def fold(text: str, case_sensitive: bool) -> str:
    """Text as phrases are compared: each run of white space one blank, and without case unless it matters."""
    blank = " ".join(f"|{text}|".split())[1:-1]
    return blank if case_sensitive else blank.casefold()


_BOUND, _FREE = 0, 1  # roots of the trie: for phrases that begin only at the edge of a word, and for all others


class _Trie:
    """Folded phrases, and the bytes that spell their characters; grows while it is built."""

    def __init__(self, case_sensitive: bool) -> None:
        self.case_sensitive = case_sensitive
        self.children: list[dict[str, int]] = [{}, {}]
        self.progress_node = [_BOUND, _FREE]
        self.byte_edges: list[dict[int, int]] = []

    def insert(self, root: int, folded: str) -> tuple[int, ...]:
        """Add a phrase; its nodes after each character."""
        path, node = [], root
        for character in folded:
            if character not in self.children[node]:
                self.children[node][character] = len(self.children)
                self.progress_node.append(len(self.children))
                self.children.append({})
            node = self.children[node][character]
            path.append(node)
        return tuple(path)

    def spell(self) -> list[dict[int, int]]:
        """For each node the bytes that lead on, and whereto; adds nodes inside characters."""
        self.byte_edges = [{} for _ in self.children]
        for node, children in enumerate(self.children):
            for folded, child in children.items():
                if folded == " ":
                    for origin in (node, child):  # one or more of them
                        for character in _blanks():
                            self._add(origin, character, child)
                    continue
                same, longer = ((folded,), ()) if self.case_sensitive else _foldings().get(folded, ((folded,), ()))
                for character in same:
                    self._add(node, character, child)
                for character in longer:
                    self._add(node, character, self._walk(node, character.casefold()))
        return self.byte_edges

    def _walk(self, node: int, folded: str) -> int | None:
        at: int | None = node
        for character in folded:
            at = None if at is None else self.children[at].get(character)
        return at

    def _add(self, node: int, character: str, target: int | None) -> None:
        if target is None:
            return
        *inside, last = character.encode()
        at = node
        for byte in inside:
            if byte not in self.byte_edges[at]:
                self.byte_edges[at][byte] = len(self.byte_edges)
                self.byte_edges.append({})
                self.progress_node.append(node)
            at = self.byte_edges[at][byte]
        self.byte_edges[at][last] = target


def _determinize(edges: list[dict[int, int]]) -> tuple[Ints, Ints, Ints]:
    """Subset construction: the table of steps, and the pairs (state, node).

    A state is a context and the nodes reached. Most bytes lead on from no node, so a row is that of its context, where
    only the roots lead on, with a few entries of its own.
    """
    next_KC, fate_KC = _contexts()
    next_context: list[list[int]] = next_KC.tolist()
    num_contexts = len(next_context)
    roots = {context: {b: {n} for b, n in edges[r].items()} for context, r in ((OTHER, _BOUND), (WORD, _FREE))}
    for byte, node in edges[_FREE].items():
        roots[OTHER].setdefault(byte, set()).add(node)
    context_S = list(range(num_contexts))  # the states without nodes come first, so that they are their contexts
    nodes_S: list[tuple[int, ...]] = [()] * num_contexts
    index: dict[tuple[int, tuple[int, ...]], int] = {}

    def state_of(context: int, nodes: set[int]) -> int:
        key = (context, tuple(sorted(nodes)))
        if key not in index:
            index[key] = len(nodes_S)
            context_S.append(context)
            nodes_S.append(key[1])
        return index[key]

    base_KC = next_KC.copy()
    inside = np.arange(num_contexts) > WORD
    for context in (OTHER, WORD):
        for byte, nodes in roots[context].items():
            base_KC[context, byte] = state_of(next_context[context][byte], nodes)
            if context == OTHER:  # the first byte of a character breaks off one before it, which then is none
                base_KC[inside, byte] = base_KC[OTHER, byte]

    changes: list[tuple[int, int, int]] = []
    state = num_contexts
    while state < len(nodes_S):
        context, root = context_S[state], roots[WORD if context_S[state] == WORD else OTHER]
        onward: dict[int, set[int]] = {}
        for node in nodes_S[state]:
            for byte, target in edges[node].items():
                onward.setdefault(byte, set()).add(target)
        for byte, targets in onward.items():
            targets |= root.get(byte, set())
            changes.append((state, byte, state_of(next_context[context][byte], targets)))
        state += 1

    step_SC = base_KC[context_S]
    changed = np.array(changes, np.int64).reshape(-1, 3)
    step_SC[changed[:, 0], changed[:, 1]] = changed[:, 2]
    step_SC = step_SC * 4 + fate_KC[context_S]
    counts = np.array([len(nodes) for nodes in nodes_S])
    member_node_M = np.array([node for nodes in nodes_S for node in nodes], np.int32)
    return step_SC, np.repeat(np.arange(len(nodes_S), dtype=np.int32), counts), member_node_M


@lru_cache(maxsize=1)
def _contexts() -> tuple[Ints, Ints]:
    """After each context and byte, the next context and the fate, [K, C]: is the last character one of a word?"""
    word = np.fromiter(map(is_word, map(chr, range(sys.maxunicode + 1))), np.bool_)
    inner: dict[tuple[int, ...], int] = {}  # contexts after each of 64 continuations, -1 for none: number

    def inside(first: int, num_more: int) -> int:
        """The context in which num_more continuation bytes are missing from a character; first has them all zero."""
        if num_more == 1:
            continuations = tuple(word[first : first + 64].astype(int).tolist())
        else:
            shift = 6 * (num_more - 1)
            least = 0 if first else {2: 0x800, 3: 0x10000}[num_more]  # what is shorter in fewer bytes is malformed
            starts = [first + (i << shift) for i in range(64)]
            valid = [least <= s <= sys.maxunicode and not 0xD800 <= s < 0xE000 for s in starts]
            continuations = tuple(inside(s, num_more - 1) if v else -1 for s, v in zip(starts, valid, strict=True))
        return inner.setdefault(continuations, WORD + 1 + len(inner))

    start = [int(word[b]) if b < 0x80 else OTHER for b in range(256)]
    for num_more, leads in {1: range(0xC2, 0xE0), 2: range(0xE0, 0xF0), 3: range(0xF0, 0xF5)}.items():
        for lead in leads:
            start[lead] = inside((lead & (0x3F >> num_more)) << 6 * num_more, num_more)

    def fate(context: int) -> int:
        return {OTHER: AT_EDGE, WORD: IN_WORD}.get(context, UNDECIDED)

    nexts, fates = [start] * 2, [[fate(context) for context in start]] * 2
    for continuations in inner:
        row, row_fate = list(start), [AT_EDGE] * 256
        for byte, context in enumerate(continuations, 0x80):
            if context >= 0:
                row[byte], row_fate[byte] = context, fate(context)
        nexts.append(row)
        fates.append(row_fate)
    return np.array(nexts, np.int32), np.array(fates, np.int32)


@lru_cache(maxsize=1)
def _blanks() -> tuple[str, ...]:
    return tuple(character for character in map(chr, range(0x3001)) if character.isspace())


@lru_cache(maxsize=1)
def _foldings() -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """For a folded character, those that fold to it, and those whose folding is longer and begins with it."""
    same: dict[str, list[str]] = {}
    longer: dict[str, list[str]] = {}
    for character in map(chr, (*range(0xD800), *range(0xE000, sys.maxunicode + 1))):
        folded = character.casefold()
        if folded != character:
            (same if len(folded) == 1 else longer).setdefault(folded[0], []).append(character)
    return {f: ((f, *same.get(f, ())), tuple(longer.get(f, ()))) for f in {*same, *longer}}
