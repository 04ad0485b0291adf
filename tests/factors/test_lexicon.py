import itertools
import math
from collections.abc import Mapping, Sequence
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factorlm.algebra import laws, pad_left, pad_right
from factorlm.errors import InputError
from factorlm.factors.lexicon import Lexicon
from factorlm.factors.manifest import LexiconSettings
from factorlm.factors.wordlist import UnboundLexicon
from factorlm.text import Vocabulary

BAN = -math.inf
TOKENS = (b"a", b"s", b"as", b"ss", b"ass", b" ", b"cl", b"\xc3", b"\xa9", "é".encode(), b"", b"")
SPECIAL, END = 10, 11
VOCABULARY = Vocabulary(TOKENS, (END,))
NAMES = ("a", "s", "as", "ss", "ass", " ", "cl")


def ids(*pieces: str) -> list[int]:
    return [NAMES.index(piece) for piece in pieces]


def exact(phrases: Mapping[str, float], pieces: Mapping[str, list[list[int]]] | None = None, **flags: bool) -> Lexicon:
    return Lexicon("test", phrases, VOCABULARY, pieces=pieces or {}, dtype=torch.float64, **flags)


def is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


class ByEye:
    """The slow, obvious twin: decode, try every substring."""

    def __init__(self, lexicon: Lexicon) -> None:
        self.lexicon = lexicon
        self.places = cache(self.places)  # type: ignore[method-assign]

    def plain(self, words: str) -> str:
        joined = " ".join(words.split())
        return joined if self.lexicon.case_sensitive else joined.casefold()

    def places(self, read: bytes) -> list[tuple[str, int]]:
        """Phrases and the bytes at which they end."""
        text = read.decode(errors="surrogateescape")
        found = []
        for first, end in itertools.combinations(range(len(text) + 1), 2):
            piece = text[first:end]
            for phrase in self.lexicon.phrases:
                if piece != piece.strip() or self.plain(piece) != self.plain(phrase):
                    continue
                bare = phrase.strip()
                word_before = first > 0 and is_word(text[first - 1]) and is_word(bare[0])
                word_after = end < len(text) and is_word(text[end]) and is_word(bare[-1])
                if not (self.lexicon.whole_word and (word_before or word_after)):
                    found.append((phrase, len(text[:end].encode(errors="surrogateescape"))))
        return found

    def log_weight(self, prefix: Sequence[int], text: Sequence[int]) -> float:
        """Of a text without end tokens inside it."""
        start = len(VOCABULARY.decode(prefix))

        def boosts(num_tokens: int) -> list[float]:
            found = self.places(VOCABULARY.decode((*prefix, *text[:num_tokens])))
            return [self.lexicon.phrases[phrase] for phrase, end in found if end > start]

        if any(BAN in boosts(n) for n in range(len(text) + 1)):
            return BAN
        return math.fsum(boosts(len(text)))


LEXICA = {
    "words": exact({"ass": 1.5, "as": -0.5, "a": 0.25, "clas": 0.7, "é": 2.0}),
    "words with pieces": exact({"class": 3.0, "as as": 1.0, "sés": 0.3}, {"class": [[2], [2, 3]], "as as": [[2, 3]]}),
    "bans": exact({"ass": BAN, "a s": BAN, "é": BAN, "class": 1.0}),
    "anywhere": exact({"ass": 1.5, "ss": 0.5, "sss": -1.0, "as": BAN, "sé": 1.0}, whole_word=False),
    "anywhere, look ahead": exact({"sas": 1.0, "ass as": 2.0}, {"ass as": [[3], [1, 4]]}, whole_word=False),
    "sharp s": exact({"aß": 1.0, "ß": 0.25, "SS A": 0.5}),
    "case": exact({"AS": 1.0, "as": 0.5, "sS": BAN}, case_sensitive=True, whole_word=False),
    "edges": exact({" a": 1.0, "é ": 0.5, "s  s": 0.25}),
}


@pytest.mark.parametrize("lexicon", LEXICA.values(), ids=list(LEXICA))
def test_equals_decoding_and_looking_for_every_short_token_sequence(lexicon: Lexicon) -> None:
    by_eye = ByEye(lexicon)
    for length in range(5 if lexicon is LEXICA["words"] else 4):
        texts = [list(text) for text in itertools.product(range(END), repeat=length)]
        got_B = lexicon.score(pad_left([[]] * len(texts)), pad_right([[*text, END] for text in texts])).sum(1)
        want_B = torch.tensor([by_eye.log_weight((), text) for text in texts], dtype=torch.float64)
        torch.testing.assert_close(got_B, want_B, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lexicon", LEXICA.values(), ids=list(LEXICA))
def test_longer_sequences_of_the_richest_tokens(lexicon: Lexicon) -> None:
    by_eye = ByEye(lexicon)
    texts = [list(text) for text in itertools.product((0, 2, 3, 5, 6), repeat=5)]
    got_B = lexicon.score(pad_left([[]] * len(texts)), pad_right([[*text, END] for text in texts])).sum(1)
    want_B = torch.tensor([by_eye.log_weight((), text) for text in texts], dtype=torch.float64)
    torch.testing.assert_close(got_B, want_B, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lexicon", LEXICA.values(), ids=list(LEXICA))
def test_a_match_may_begin_in_the_prefix_but_not_end_in_it(lexicon: Lexicon) -> None:
    by_eye = ByEye(lexicon)
    prefixes = [list(p) for n in range(3) for p in itertools.product((0, 2, 3, 4, 5, 6, 7, 9), repeat=n)]
    texts = [list(t) for n in range(3) for t in itertools.product((0, 1, 3, 5, 8, 9), repeat=n)]
    pairs = list(itertools.product(prefixes, texts))
    got_B = lexicon.score(pad_left([p for p, _ in pairs]), pad_right([[*t, END] for _, t in pairs])).sum(1)
    want_B = torch.tensor([by_eye.log_weight(p, t) for p, t in pairs], dtype=torch.float64)
    torch.testing.assert_close(got_B, want_B, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lexicon", LEXICA.values(), ids=list(LEXICA))
def test_laws(lexicon: Lexicon) -> None:
    prefixes = [[], [6, 2], [4, 5, 7], [SPECIAL, 0], [5], [END, 9]]
    texts = [[6, 2, 1, 5, 0], [3, 5, 0, 3, END], [8, 1, 4, 4, 9], [1, 1, 5, 2, 7], [6, 4, END, 0, 2], [3, 10, 3, 3, 5]]
    laws.check(lexicon, prefixes, texts, tolerance=1e-12)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(LEXICA)), st.lists(st.integers(0, END - 1), max_size=8), st.integers(0, 3))
def test_rows_equal_score(name: str, read: list[int], num_prefix: int) -> None:
    lexicon = LEXICA[name]
    prefix, text = read[:num_prefix], read[num_prefix:]
    state = lexicon.start(pad_left([prefix]))
    for token in text:
        state = lexicon.extend(state, torch.tensor([token]))
    every_BT = torch.tensor([[*text, token] for token in range(VOCABULARY.size)])
    got_V = lexicon.score(pad_left([prefix] * len(every_BT)), every_BT)[:, -1]
    torch.testing.assert_close(state.log_weight_BV[0], got_V, rtol=0, atol=1e-12)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_boosts_do_not_depend_on_the_tokenisation(data: st.DataObject) -> None:
    lexicon = LEXICA[data.draw(st.sampled_from(["words", "words with pieces", "anywhere, look ahead", "sharp s"]))]
    text = data.draw(st.lists(st.integers(0, END - 1), max_size=8))
    whole = VOCABULARY.decode(text)
    other: list[int] = []
    while (rest := whole[len(VOCABULARY.decode(other)) :]) != b"":
        other.append(data.draw(st.sampled_from([i for i, t in enumerate(TOKENS) if t and rest.startswith(t)] or [-1])))
        if other[-1] == -1:  # no other way to spell c
            other = text
            break
    nothing_BT = pad_left([[], []])
    log_weight_B = lexicon.score(nothing_BT, pad_right([[*text, END], [*other, END]])).sum(1)
    torch.testing.assert_close(log_weight_B[0], log_weight_B[1], rtol=0, atol=1e-12)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["bans", "anywhere", "case"]), st.lists(st.integers(0, 10**6), max_size=12))
def test_what_is_allowed_never_shows_a_ban(name: str, choices: list[int]) -> None:
    lexicon = LEXICA[name]
    state, text = lexicon.start(pad_left([[]])), []
    for choice in choices:
        allowed = [i for i in range(END) if state.log_weight_BV[0, i] > BAN]
        text.append(allowed[choice % len(allowed)])
        state = lexicon.extend(state, torch.tensor(text[-1:]))
        found = ByEye(lexicon).places(VOCABULARY.decode(text))
        assert not [phrase for phrase, _ in found if lexicon.phrases[phrase] == BAN]


def test_a_ban_is_strict_yet_one_token_may_pass_through() -> None:
    vocabulary = Vocabulary((b" cat", b" category", b"egory", b" cat's", b"cla", b"ss", b"class", b""), (7,))
    lexicon = Lexicon("ban", {"cat": BAN, "cla": BAN}, vocabulary)
    first_V = lexicon.start(pad_left([[]])).log_weight_BV[0]
    assert (first_V == BAN).tolist() == [True, False, False, True, True, False, False, False]
    after_V = lexicon.start(pad_left([[0]])).log_weight_BV[0]
    assert after_V[2] != BAN  # the prefix holds it already


def test_credit_is_held_at_the_pieces_and_taken_back() -> None:
    lexicon = exact({"class": 3.0}, {"class": [[2], [2, 3]]})
    text = ids("cl", "ass", " ")
    assert lexicon.score(pad_left([[]]), torch.tensor([text])).tolist() == [[1.5, 1.5, 0.0]]
    text = ids("cl", "as", "s", "s")
    assert lexicon.score(pad_left([[]]), torch.tensor([text])).tolist() == [[1.5, 0.5, 1.0, -3.0]]
    assert lexicon.score(pad_left([[]]), torch.tensor([[*ids("cl"), END]])).tolist() == [[1.5, -1.5]]
    assert lexicon.score(pad_left([ids("cl")]), torch.tensor([[SPECIAL, *ids("ass"), END]])).tolist() == [[0, 3, 0]]


def test_a_boost_is_pending_inside_a_character() -> None:
    lexicon = exact({"a": 1.0})
    score_T = lexicon.score(pad_left([[]]), torch.tensor([[0, 7, 8, END]]))[0]
    assert score_T.tolist() == [1, 0, -1, 0]  # aé is a word of its own
    assert lexicon.score(pad_left([[]]), torch.tensor([[0, 7, 0, END]]))[0].tolist() == [1, 0, 1, 0]


def test_pieces_come_from_the_tokenizer() -> None:
    table = {" class": ids(" ", "cl", "as", "s"), "class": ids("cl", "ass"), " a": ids(" ", "a"), "a": ids("a")}
    lexicon = Lexicon.from_tokenizer("t", {"class": 2.0, " a ": 1.0}, VOCABULARY, table.__getitem__)
    assert lexicon.pieces == {"class": [[2, 4], [2]]}
    assert lexicon.score(pad_left([[]]), torch.tensor([ids("cl")])).tolist() == [[1.0]]


def test_a_lexicon_of_a_file_is_given_the_tokens_of_a_model() -> None:
    settings = LexiconSettings(phrases={"class": 2.0, "ass": None}, case_sensitive=True, whole_word=False)
    unbound = UnboundLexicon.from_settings("t", None, settings)
    assert unbound.phrases == {"class": 2.0, "ass": BAN}

    class Model:
        vocabulary = VOCABULARY

        def encode_text(self, text: str) -> list[int]:
            return {"class": ids("cl", "ass"), "ass": ids("ass")}.get(text, [])

    bound = unbound.bind(Model())  # type: ignore[arg-type]
    assert (bound.name, bound.phrases, bound.pieces) == ("t", unbound.phrases, {"class": [[2]]})
    assert bound.case_sensitive
    assert not bound.whole_word


def test_tokens_beyond_the_tokenizer_and_special_ones_weigh_nothing() -> None:
    vocabulary = Vocabulary((*TOKENS, b"", b""), (END,))
    lexicon = Lexicon("test", {"a s": 1.0}, vocabulary, pieces={"a s": [[1]]})
    state = lexicon.extend(lexicon.start(pad_left([[]])), torch.tensor([0]))
    assert state.log_weight_BV[0, -2:].tolist() == [0, 0]
    assert state.log_weight_BV[0, END] == -0.5
    after = lexicon.extend(state, torch.tensor([13]))
    torch.testing.assert_close(after.log_weight_BV, state.log_weight_BV)
    assert lexicon.start(torch.empty(0, 0, dtype=torch.long)).log_weight_BV.shape == (0, 14)


@pytest.mark.parametrize(
    ("phrases", "pieces", "said"),
    [
        ({}, {}, "at least one, got none"),
        ({"": 1.0}, {}, "visible character"),
        ({"\t ": 1.0}, {}, "visible character"),
        ({"a": math.nan}, {}, "finite number of nats.*got nan"),
        ({"a": math.inf}, {}, "got inf"),
        ({"a": "1"}, {}, "got '1'"),
        ({"a": True}, {}, "got True"),
        ({"as": 1.0}, {"b": [[1]]}, "got 'b'"),
        ({"as": 1.0}, {"as": [[2]]}, "from 1 to 1"),
    ],
)
def test_refuses_what_it_cannot_use(phrases: dict[str, float], pieces: dict[str, list[list[int]]], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        exact(phrases, pieces)
    assert "\n" not in str(caught.value)
