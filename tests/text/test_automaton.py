import sys
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorlm.errors import InputError
from factorlm.text.automaton import AT_EDGE, IN_WORD, UNDECIDED, Automaton, is_word


def matches_by_eye(
    phrases: Sequence[str], text: str, case_sensitive: bool, whole_word: bool
) -> list[tuple[str, int, int]]:
    """Try every substring."""

    def plain(words: str) -> str:
        return " ".join(words.split()) if case_sensitive else " ".join(words.split()).casefold()

    found = []
    for end in range(1, len(text) + 1):
        for phrase in phrases:
            for first in range(end):
                piece = text[first:end]
                if piece != piece.strip() or plain(piece) != plain(phrase):
                    continue
                bare = phrase.strip()
                word_before = first > 0 and is_word(text[first - 1]) and is_word(bare[0])
                word_after = end < len(text) and is_word(text[end]) and is_word(bare[-1])
                if not (whole_word and (word_before or word_after)):
                    found.append((phrase, first, end))
    return found


@pytest.mark.parametrize(
    ("phrase", "text"),
    [
        ("cat", "a CAT."),
        ("café", "CAFÉ"),
        ("Я", "я"),
        ("straße", "STRASSE"),
        ("STRASSE", "straße"),
        ("straße", "STRAẞE"),
        ("office", "oﬃce"),
        ("kelvin", "\u212aelvin"),
        ("new york", "New \n\t\u00a0York"),
        ("  new   york ", "new york"),
        ("#tag", "a#tag"),
        ("c++", "c++"),
        ("c++", "c++x"),
        ("𝒳", "𝒳"),
    ],
)
def test_found(phrase: str, text: str) -> None:
    assert [m[0] for m in Automaton.build([phrase]).matches(text)] == [phrase]


@pytest.mark.parametrize(
    ("phrase", "text"),
    [
        ("cat", "category"),
        ("cat", "bobcat"),
        ("cat", "cat_"),
        ("cat", "caté"),
        ("cat", "éléphantcat"),
        ("cat", "猫cat"),
        ("cat", "𐐨cat"),
        ("new york", "newyork"),
        ("straße", "strase"),
    ],
)
def test_not_found_in_a_word(phrase: str, text: str) -> None:
    assert Automaton.build([phrase]).matches(text) == []


def test_anywhere_and_with_case() -> None:
    assert Automaton.build(["ass"], whole_word=False).matches("class") == [("ass", 2, 5)]
    assert Automaton.build(["Ass"], whole_word=False, case_sensitive=True).matches("class Ass") == [("Ass", 6, 9)]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text("asSßſ é+_", min_size=1, max_size=4).filter(str.strip), min_size=1, max_size=4, unique=True),
    st.text("asSßſẞ éÉ\n+_", max_size=9),
    st.booleans(),
    st.booleans(),
)
def test_equals_trying_every_substring(phrases: list[str], text: str, case_sensitive: bool, whole_word: bool) -> None:
    automaton = Automaton.build(phrases, case_sensitive=case_sensitive, whole_word=whole_word)
    assert automaton.matches(text) == matches_by_eye(phrases, text, case_sensitive, whole_word)


def fates(automaton: Automaton, text: bytes) -> list[int]:
    state, read = 0, []
    for byte in text:
        packed = int(automaton.step_SC[state, byte])
        state = packed >> 2
        read.append(packed & 3)
    return read


def test_every_character_of_unicode_is_told_apart() -> None:
    automaton = Automaton.build(["x"])
    for code in (*range(0xD800), *range(0xE000, sys.maxunicode + 1, 7)):
        want = IN_WORD if is_word(chr(code)) else AT_EDGE
        assert fates(automaton, chr(code).encode()) == [UNDECIDED] * (len(chr(code).encode()) - 1) + [want]


@pytest.mark.parametrize(
    "malformed",
    [
        b"\x80",
        b"\xc3",
        b"\xc0\xaf",
        b"\xe0\x80",
        b"\xed\xa0\x80",
        b"\xf0\x80",
        b"\xf4\x90",
        b"\xff",
        b"\xe0\x81\x81",
        b"\xf0\x80\x81\x81",
    ],
)
def test_malformed_bytes_are_no_word(malformed: bytes) -> None:
    automaton = Automaton.build(["x"])
    state = 0
    for byte in malformed + b"x":
        state = int(automaton.step_SC[state, byte]) >> 2
    assert automaton.paths[0][-1] in automaton.member_node_M[automaton.member_state_M == state]
    assert AT_EDGE in fates(automaton, malformed + b"x")


@pytest.mark.parametrize("phrases", [[], [""], ["a", " \n"], ["\ud800"]])
def test_refuses_what_is_no_phrase(phrases: list[str]) -> None:
    with pytest.raises(InputError, match="phrase"):
        Automaton.build(phrases)
