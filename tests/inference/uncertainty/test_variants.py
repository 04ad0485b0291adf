"""Variants of questions: graded, different, and with names, numbers and question words kept."""

import numpy as np
from scipy.stats import spearmanr

from factorlm.inference.uncertainty.variants import Gaap, WordVectors, _with, gaap, keywords, trivial

QUESTION = "Which large river near Paris did Napoleon not cross in 1805 before winter began?"
NEIGHBOURS = {"large": ["big", "huge"], "river": ["lake", "creek"], "near": ["by"], "cross": ["pass"],
              "winter": ["summer", "autumn"], "began": ["started"]}  # fmt: skip


class Fixed:
    """An encoder whose axes do not depend on the batch."""

    def __init__(self) -> None:
        self.place: dict[str, int] = {}

    def __call__(self, texts: object) -> np.ndarray:
        found = np.zeros((len(texts), 512))  # type: ignore[arg-type]
        for row, text in zip(found, texts, strict=True):  # type: ignore[call-overload]
            for word in text.split():
                row[self.place.setdefault(word, len(self.place))] += 1
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_only_content_words_may_change() -> None:
    words = QUESTION.split()
    changeable = {words[i] for i in keywords(words)}
    assert {"large", "river", "winter", "began?"} <= changeable
    assert not changeable & {"Which", "Paris", "Napoleon", "not", "1805", "did", "in"}


def test_variants_differ_keep_what_is_protected_and_fall_off_with_the_generations() -> None:
    by_level: dict[int, list[float]] = {}
    for seed in range(6):
        settings = Gaap(number=90, population=60, generations=8, every=2, least_similar=0.2, seed=seed)
        bred = gaap(QUESTION, Fixed(), settings, lambda word: NEIGHBOURS.get(word, []))
        assert len({variant.text for variant in bred}) == len(bred) == 90
        for variant in bred:
            assert variant.text != QUESTION
            kept = {word.strip("?") for word in variant.text.split()}
            assert {"Which", "Paris", "Napoleon", "not", "1805"} <= kept
            by_level.setdefault(variant.generation, []).append(variant.similarity)
    levels = sorted(by_level)
    assert spearmanr(levels, [np.mean(by_level[level]) for level in levels]).statistic < -0.9


def test_the_same_seed_breeds_the_same_and_similarity_is_the_cosine() -> None:
    encoder = Fixed()
    first, again = (gaap(QUESTION, encoder, Gaap(number=6), lambda w: NEIGHBOURS.get(w, [])) for _ in range(2))
    assert first == again
    for variant in first:
        pair = encoder([QUESTION, variant.text])
        assert abs(variant.similarity - float(pair[0] @ pair[1])) < 1e-12
    assert first != gaap(QUESTION, encoder, Gaap(number=6, seed=1), lambda w: NEIGHBOURS.get(w, []))


def test_a_question_without_content_words_has_no_variants() -> None:
    assert gaap("Who is Napoleon?", Fixed(), Gaap(), lambda word: ["x"]) == []


def test_marks_stay_where_a_word_goes() -> None:
    words = ("the", "river", "here?")
    assert _with(words, 2, "there") == ("the", "river", "there?")
    assert _with(words, 2, "") == ("the", "river?")
    assert _with(words, 1, "") == ("the", "here?")


def test_neighbours_lie_between_the_cosines() -> None:
    vector_VD = np.array([[1, 0], [0.95, (1 - 0.95**2) ** 0.5], [0.6, 0.8], [0, 1], [0.45, (1 - 0.45**2) ** 0.5]])
    vectors = WordVectors(("river", "rivers", "creek", "sky", "lake"), vector_VD)
    assert vectors.neighbours("River") == ["creek", "lake"]  # an inflection is too near, the sky too far
    assert vectors.neighbours("unknown") == []


def test_trivial_variants_change_letters_and_blanks_only() -> None:
    found = trivial("Who wrote Hamlet?", 5)
    assert len(set(found)) == 5
    assert all("".join(text.lower().split()).rstrip("?") == "whowrotehamlet" for text in found)
