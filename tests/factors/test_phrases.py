"""Phrases of a lexicon come and go, and no phrase counts inside an allowed one: exact, by enumeration."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from factorlm.algebra import pad_left, pad_right
from factorlm.errors import InputError
from factorlm.factors.lexicon import Lexicon
from factorlm.factors.manifest import LexiconSettings
from factorlm.factors.phrases import edited_phrases
from factorlm.text import letters


def by_eye(text: str, phrases: Mapping[str, float], exceptions: Sequence[str]) -> float:
    """The sum of boosts of whole-word matches that lie in no exception; a run of blanks is as good as one."""
    text = re.sub(" +", " ", text)

    def places(phrase: str) -> list[tuple[int, int]]:
        found = []
        for first in range(len(text) - len(phrase) + 1):
            end = first + len(phrase)
            edges = (first == 0 or not text[first - 1].isalnum()) and (end == len(text) or not text[end].isalnum())
            if edges and text[first:end] == phrase:
                found.append((first, end))
        return found

    excused = [place for phrase in exceptions for place in places(phrase)]
    counted = [
        boost
        for phrase, boost in phrases.items()
        for first, end in places(phrase)
        if not any(a <= first and end <= b for a, b in excused)
    ]
    return math.fsum(counted)


EXCEPTIONS: dict[str, tuple[dict[str, float], list[list[str]]]] = {
    "one": ({"a": 1.5, "b": -0.5}, [["a b"]]),
    "around": ({"a": 1.5, "ab": 1.0}, [["b a b"]]),
    "a phrase that counts itself": ({"a": 1.5, "a b": 0.75, "b": -3.0}, [["a b"]]),
    "nested, the shorter first": ({"b": -2.0, "aa": 1.0}, [["a b"], ["aa a b"]]),
    "nested, the longer first": ({"b": -2.0, "a": 0.25}, [["aa a b"], ["a b"]]),
    "at once": ({"b": -2.0, "bb": 1.0, "a": 0.5}, [["b bb", "b bb a"]]),
    "a phrase across its end": ({"a": 1.0, "b a": 0.5}, [["a b"]]),
}


@pytest.mark.parametrize("case", EXCEPTIONS)
def test_no_phrase_counts_inside_an_allowed_one(case: str) -> None:
    phrases, edits = EXCEPTIONS[case]
    settings, excepted = LexiconSettings(phrases=dict(phrases)), list[str]()
    for allow in edits:
        settings, _ = edited_phrases(settings, excepted, allow=allow)
        excepted += allow
    counted = {p: b for p, b in phrases.items() if p not in excepted}
    vocabulary = letters("ab ")
    lexicon = Lexicon("test", settings.phrases, vocabulary, dtype=torch.float64)  # type: ignore[arg-type]
    texts = ["".join(t) for length in range(8) for t in itertools.product("ab ", repeat=length)]
    ids = [["ab ".index(letter) for letter in text] + [3] for text in texts]
    got_B = lexicon.score(pad_left([[]] * len(texts)), pad_right(ids)).sum(1)
    want_B = torch.tensor([by_eye(text, counted, excepted) for text in texts], dtype=torch.float64)
    assert len(set(want_B.tolist())) > 2
    torch.testing.assert_close(got_B, want_B, rtol=0, atol=1e-12)


def lexicon_after(phrases: Mapping[str, float | None], exceptions: Sequence[str] = (), **edits: Any) -> Any:
    return edited_phrases(LexiconSettings(phrases=dict(phrases)), exceptions, **edits)


def test_phrases_come_and_go_however_they_are_written() -> None:
    settings, notes = lexicon_after({"Kill": 2.0, "maim": None, "harm": 1.0}, forbid=["kill"], allow=["  MAIM "])
    assert (settings.phrases, notes) == ({"harm": 1.0, "kill": None}, ())
    settings, _ = lexicon_after(settings.phrases, boost={"KILL": -3.0, "joy": 1.0})
    assert settings.phrases == {"harm": 1.0, "KILL": -3.0, "joy": 1.0}


def test_exceptions_follow_what_they_are_from() -> None:
    phrases: dict[str, float | None] = {"kill": -2.0, "kill time": 2.0, "joy": 1.0}
    known = ["kill time"]
    settings, notes = lexicon_after(phrases, known, boost={"kill": -5.0})
    assert settings.phrases == {"joy": 1.0, "kill": -5.0, "kill time": 5.0}
    settings, notes = lexicon_after(phrases, known, allow=["kill"])
    assert settings.phrases == {"joy": 1.0}
    assert notes == ("'kill time' needs no exception any more",)
    settings, notes = lexicon_after(phrases, known, forbid=["kill"])
    assert settings.phrases == {"joy": 1.0, "kill": None}
    assert notes == ("'kill time' is no exception any more: a ban has none",)
    settings, _ = lexicon_after(phrases, known, forbid=["kill time"])
    assert settings.phrases == {"kill": -2.0, "joy": 1.0, "kill time": None}
    settings, _ = lexicon_after(phrases, boost={"kill": -5.0})  # no edit made it an exception: it is as it was given
    assert settings.phrases["kill time"] == 2.0


BAD_PHRASES: dict[str, tuple[dict[str, float | None], dict[str, Any], str]] = {
    "unknown, near": ({"kill": 1.0}, {"allow": ["kil"]}, "did you mean 'kill'"),
    "unknown, longer": ({"kill the process": 1.0}, {"allow": ["the"]}, "did you mean 'kill the process'"),
    "unknown": ({"kill": 1.0}, {"allow": ["zebra"]}, "it has kill"),
    "banned inside": ({"kill": None}, {"allow": ["kill time"]}, 'pull it instead .--boost "kill=-8".'),
    "its last": ({"kill": 1.0}, {"allow": ["kill"]}, "remove the factor"),
    "nothing to allow": ({"kill": 1.0, "time": -1.0}, {"allow": ["kill time"]}, "weighs nothing already"),
    "inside another": ({"kill": 1.0, "kill time": -1.0}, {"allow": ["to kill time"]}, "weighs nothing already"),
    "allowed already": ({"kill": 1.0, "kill time": -1.0}, {"allow": ["kill time"]}, "allowed already"),
    "overlap": ({"kill": 1.0}, {"allow": ["kill time", "to kill"]}, "allow 'to kill time' instead of one"),
    "overlap with itself": ({"kill": 1.0}, {"allow": ["kill kill"]}, "boost 'kill kill' instead"),
    "nothing visible": ({"kill": 1.0}, {"forbid": [" "]}, "visible character"),
}


@pytest.mark.parametrize("case", BAD_PHRASES)
def test_what_a_lexicon_cannot_do(case: str) -> None:
    phrases, edits, message = BAD_PHRASES[case]
    with pytest.raises(InputError, match=message) as caught:
        lexicon_after(phrases, ["kill time"] if case in ("allowed already", "inside another") else [], **edits)
    assert "\n" not in str(caught.value)
