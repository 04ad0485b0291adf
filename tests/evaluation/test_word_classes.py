"""Nats by word and by kind of word: hand-made cases, and the same words from different tokens."""

import math
from collections import Counter

import numpy as np
import pytest

from factorlm.evaluation.document import Intervals, Matrix, Prose, Table
from factorlm.evaluation.word_classes import (
    CLASSES,
    FUNCTION_WORDS,
    RARE_SHARE,
    ClassSums,
    classify,
    core,
    nats_per_word,
    rare_words,
    sum_by_class,
    word_blocks,
)
from factorlm.text import Vocabulary


def spelt(*tokens: str | bytes) -> tuple[list[int], Vocabulary]:
    """These tokens, one after the other, and a vocabulary of them."""
    token_bytes = tuple(t if isinstance(t, bytes) else t.encode() for t in tokens)
    return list(range(len(tokens))), Vocabulary((*token_bytes, b""), (len(tokens),))


def per_word(text: str, tokens: tuple[str | bytes, ...], nats: list[float]) -> list[float] | None:
    ids, vocabulary = spelt(*tokens)
    found = nats_per_word(ids, -np.array(nats, float), vocabulary, text)
    return None if found is None else found.tolist()


def classes_of(text: str) -> list[tuple[str, set[str]]]:
    names = list(CLASSES)
    [flags_WC] = classify([text])
    return [(w, {names[c] for c in np.nonzero(row)[0]}) for w, row in zip(text.split(), flags_WC.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("tokens", "nats", "want"),
    [
        (("The", " cat", " s", "at", ".\n"), [1, 2, 3, 4, 5], [1, 2, 12]),
        (("The ", "cat ", "sat.", "\n"), [1, 2, 3, 4], [1, 2, 7]),  # blanks behind: the last one has no word to go with
        (("The", " ", "c", "at", " ", "sat", ".", "\n"), [1, 2, 3, 4, 5, 6, 7, 8], [1, 9, 26]),
        (("The cat", " sat", ".\n"), [1, 2, 4], [1, 0, 6]),  # a token over two words counts for the first
    ],
)
def test_every_token_goes_to_the_word_of_its_first_letter(
    tokens: tuple[str], nats: list[float], want: list[float]
) -> None:
    assert per_word("The cat sat.\n", tokens, nats) == want
    assert sum(want) == sum(nats)


def test_characters_may_be_cut_into_bytes() -> None:
    euro = "€".encode()
    assert per_word("a €5", ("a", b" " + euro[:1], euro[1:2], euro[2:] + b"5"), [1, 2, 3, 4]) == [1, 9]
    assert per_word("€€ b c", ("€€", " b", " c"), [1, 2, 4]) == [1, 2, 4]
    assert per_word("a\u3000b", ("a", "\u3000".encode()[:2], "\u3000".encode()[2:], "b"), [1, 2, 3, 4]) == [1, 9]


def test_a_blank_in_front_and_lower_case_do_no_harm_but_lost_words_do() -> None:
    assert per_word("Good day", (" Good", " day"), [1, 2]) == [1, 2]
    assert per_word("Good day", ("good", " day"), [1, 2]) == [1, 2]
    assert per_word("Good 日 day", ("Good", "  ", "day"), [1, 2, 3]) is None
    assert per_word("Good", (b"\xff",), [1]) is None
    assert per_word("", (), []) == []
    assert per_word(" \n", (" ", "\n"), [1, 2]) == []


def test_tokens_that_are_not_counted_take_their_word_with_them() -> None:
    found = per_word("today is fine", ("to", "day", " is", " fine"), [math.nan, 1, 2, math.inf])
    assert found is not None
    assert math.isnan(found[0])
    assert found[1:] == [2, math.inf]


def test_kinds_of_words_in_a_text() -> None:
    text = (
        'Yesterday Mr. Smith saw 14 extraordinary dogs - said "Paris" .\n'
        '" The dogs\' walk , in Paris ! "\n'
        "It's done: Dogs"
    )  # every word is rare but dogs and Paris
    found = [(w, kinds - {"rare"}) for w, kinds in classes_of(text)]
    new, old, function = {"first mention"}, {"seen before"}, {"function word"}
    assert found == [
        ("Yesterday", new),
        ("Mr.", new | {"name"}),
        ("Smith", new | {"name"}),  # Mr. ends no sentence
        ("saw", new),
        ("14", new | {"number"}),
        ("extraordinary", new | {"long"}),
        ("dogs", new | {"other"}),
        ("-", {"punctuation"}),
        ("said", new),
        ('"Paris"', new | {"name"}),
        (".", {"punctuation"}),
        ('"', {"punctuation"}),
        ("The", function),
        ("dogs'", old | {"other"}),
        ("walk", new),
        (",", {"punctuation"}),
        ("in", function),
        ("Paris", old | {"name"}),
        ("!", {"punctuation"}),
        ('"', {"punctuation"}),
        ("It's", function),
        ("done:", function),
        ("Dogs", old | {"other"}),  # a sentence may begin behind a colon
    ]


def test_a_capital_behind_a_line_break_is_no_name() -> None:
    kinds = dict(classes_of("we met\nAnna and then Anna said J. Doe came"))
    assert "name" in kinds["Anna"]
    [flags_WC] = classify(["we met\nAnna and then"])
    assert not flags_WC[2, list(CLASSES).index("name")]
    assert {"J.", "Doe"} <= {w for w, found in kinds.items() if "name" in found}


def test_a_word_is_seen_before_only_in_its_own_document() -> None:
    first, second = classify(["dog cat dog", "dog"])
    seen, new = (list(CLASSES).index(name) for name in ("seen before", "first mention"))
    assert first[:, seen].tolist() == [False, False, True]
    assert second[:, new].tolist() == [True]


@pytest.mark.parametrize(
    ("word", "want"),
    [("(Dogs,", "dogs"), ("'s", "'s"), ("'scat'", "scat"), ("I’m", "i'm"), ("--", ""), ("n't", "n't"), ("3.5%", "3.5"),
     ("STRASSE!", "strasse"), ("well-known", "well-known")],
)  # fmt: skip
def test_core_of_a_word(word: str, want: str) -> None:
    assert core(word) == want
    assert (want in FUNCTION_WORDS) == (want in {"'s", "i'm", "n't"})


def test_rare_words_are_the_rarest_fifth_and_equals_share_their_fate() -> None:
    count = Counter({"a": 60, "b": 20, "c": 10, "d": 6, "e": 4})
    assert rare_words(count) == {"c", "d", "e"}  # 4 + 6 are a tenth, 4 + 6 + 10 a fifth
    assert rare_words(Counter({"a": 8, "b": 1, "c": 1})) == {"b", "c"}  # both or none
    assert rare_words(Counter()) == frozenset()
    generator = np.random.default_rng(0)
    drawn = Counter(generator.zipf(1.3, 2000).astype(str).tolist())
    rare = rare_words(drawn)
    assert sum(drawn[w] for w in rare) >= RARE_SHARE * 2000
    assert max(drawn[w] for w in rare) < min(c for w, c in drawn.items() if w not in rare)


def test_sums_by_class_count_the_same_words_for_all_models() -> None:
    texts = ["the dog", "the cat 5", "the bird"]
    first = [np.array([1.0, 2.0]), np.array([1.0, 2.0, 4.0]), None]
    second = [np.array([math.nan, 3.0]), np.array([0.5, math.inf, 1.0]), np.array([1.0, 1.0])]
    sums = sum_by_class(texts, [first, second])
    everything, function, number, new = (["all words", *CLASSES].index(n) for n in
                                         ("all words", "function word", "number", "first mention"))  # fmt: skip
    assert sums.nats_KDC.shape == (2, 2, 1 + len(CLASSES))
    assert sums.words_DC[:, [everything, function, number, new]].tolist() == [[1, 0, 0, 1], [3, 1, 1, 2]]
    assert sums.nats_KDC[0][:, [everything, function, number, new]].tolist() == [[2, 0, 0, 2], [7, 1, 4, 6]]
    assert sums.nats_KDC[1][:, [everything, function, number]].tolist() == [[3, 0, 0], [math.inf, 0.5, 1]]
    joined = ClassSums.joined([sums, sums])
    assert joined.words(everything) == 8
    assert joined.per_word(0, number, 0).value == 4
    assert joined.share(function, 0).value == pytest.approx(2 / 18)


def test_two_tokenizers_are_compared_word_by_word() -> None:
    """The same words cost the same, but numbers cost one nat more: the blocks find that and nothing else."""
    generator = np.random.default_rng(0)
    texts = [f"the dog number {n} ran home" for n in range(12)]
    ours, theirs = [], []
    for text in texts:
        words = text.split()
        nats_W = generator.uniform(1, 3, len(words))
        whole, whole_vocabulary = spelt(*(f" {w}" for w in words))
        split, split_vocabulary = spelt(*(piece for w in words for piece in (" ", w)))
        more_W = nats_W + np.array([w.isdigit() for w in words])
        halves_T = np.stack([0.25 * nats_W, 0.75 * nats_W], 1).flatten()
        ours.append(nats_per_word(whole, -more_W, whole_vocabulary, text))
        theirs.append(nats_per_word(split, -halves_T, split_vocabulary, text))
    groups = {"a": sum_by_class(texts[:6], [o[:6] for o in (ours, theirs)]),
              "b": sum_by_class(texts[6:], [o[6:] for o in (ours, theirs)])}  # fmt: skip
    prose, table, picture, matrix = word_blocks(["A", "B"], groups)
    assert isinstance(prose, Prose)
    assert isinstance(table, Table)
    assert isinstance(picture, Intervals)
    assert isinstance(matrix, Matrix)
    rows = {row[0]: row for row in table.rows}
    assert rows["number"][1] == 12
    assert rows["number"][5].value == pytest.approx(1.0)  # type: ignore[union-attr]
    assert rows["number"][6] == "worse"
    assert rows["function word"][5].value == pytest.approx(0.0, abs=1e-12)  # type: ignore[union-attr]
    assert rows["function word"][6] == "no difference shown"
    assert "long" not in rows
    assert matrix.values[matrix.rows.index("number")] == (pytest.approx(1.0), pytest.approx(1.0))
    assert [bar.label for bar in picture.bars] == list(rows)
    alone = word_blocks(["A"], {"a": sum_by_class(texts, [ours])})
    assert [block.kind for block in alone] == ["prose", "table", "intervals"]
