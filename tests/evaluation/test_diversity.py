"""Measures of variety: hand-computed cases, sacrebleu, and what the literature says of them on human text."""

import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest

from factorlm.errors import InputError
from factorlm.evaluation import diversity as of
from factorlm.evaluation.corpora import DataFolder

STORIES = "fairytale_qa/train_sections"


@pytest.fixture(scope="module")
def stories(data: DataFolder) -> list[tuple[str, ...]]:
    """Human texts of at least 200 words."""
    return [words for row in data.rows(STORIES) if len(words := of.words_of(row["text"])) >= 200]


def made_up(num_texts: int, length: int, seed: int, types: int = 300) -> list[tuple[str, ...]]:
    """Texts of words whose frequency falls with their rank."""
    chosen = random.Random(seed)
    weights = [1 / (rank + 3) for rank in range(types)]
    return [tuple(f"w{i}" for i in chosen.choices(range(types), weights, k=length)) for _ in range(num_texts)]


def test_words_do_not_depend_on_a_tokenizer() -> None:
    assert of.words_of("Don't stop: it’s 3-D, «Größe» x_y ... '") == (
        "don't", "stop", "it’s", "3", "d", "größe", "x", "y",
    )  # fmt: skip
    assert of.words_of("...\n") == ()


def test_cut_ends_with_a_word() -> None:
    text = " One, two; three?"
    assert [of.cut(text, n) for n in (0, 1, 2, 3, 4)] == ["", " One", " One, two", " One, two; three", text]


def test_repetition_counts_what_was_there_before() -> None:
    words = ["a", "b", "a", "b", "a", "b"]
    assert [of.repetition(words, n) for n in (1, 2, 3, 4)] == pytest.approx([4 / 6, 3 / 5, 2 / 4, 1 / 3])
    assert of.diversity(words) == pytest.approx(2 / 5 * 2 / 4 * 2 / 3)
    assert of.diversity(["a", "b", "c", "d", "e"]) == 1
    assert of.repetition([3, 3, 3], 2) == pytest.approx(1 / 2)  # tokens too
    assert math.isnan(of.repetition(words, 7))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([str(i % 20) for i in range(60)], 1.0),
        ([str(i % 21) for i in range(60)], 0.0),
        (["x"] * 60, 1.0),
        (["x"] * 59 + ["y"], 0.0),
        ([str(i) for i in range(100)] + ["x"] * 59, 0.0),
        ([str(i) for i in range(100)] + ["x"] * 60, 1.0),
    ],
)
def test_a_loop_covers_the_end(words: list[str], expected: float) -> None:
    assert of.ends_in_loop(words) == expected


def test_a_short_text_has_no_loop_to_find() -> None:
    assert math.isnan(of.ends_in_loop(["x"] * 59))


def test_entropy_of_words() -> None:
    assert of.unigram_entropy(list(range(37)) * 3) == pytest.approx(math.log2(37))
    assert of.unigram_entropy(["a", "a", "a", "b"]) == pytest.approx(2 - 0.75 * math.log2(3))
    assert math.isnan(of.unigram_entropy([]))


def test_distinct_by_hand() -> None:
    texts = [("a", "b", "c"), ("a", "b", "d"), ()]
    assert of.distinct(texts, 1) == pytest.approx(4 / 6)
    assert of.distinct(texts, 2) == pytest.approx(3 / 4)  # no bigram goes from one text into the next
    assert of.distinct(texts, 3) == 1
    assert math.isnan(of.distinct(texts, 4))


def test_expectation_is_that_of_equally_likely_words() -> None:
    every = list(itertools.product("abc", repeat=4))
    expected = np.mean([len(set(draws)) for draws in every])
    texts = [("a", "b"), ("a", "a")]
    assert of.expectation_adjusted_distinct(texts, 1, vocabulary=3) == pytest.approx(2 / expected)


@pytest.mark.parametrize("num_texts", [3, 8, 30])  # of few texts, each has a length of its own
def test_self_bleu_is_that_of_sacrebleu(num_texts: int) -> None:
    sacrebleu = pytest.importorskip("sacrebleu.metrics")
    metric = sacrebleu.BLEU(smooth_method="exp", effective_order=True, tokenize="none")
    texts = [text[: 1 + 4 * i % 13] for i, text in enumerate(made_up(num_texts, 14, 0, types=6))]
    texts += [texts[-1], ("unseen",), ("unseen", "words", "w1", "w2")] if num_texts > 8 else []
    lines = [" ".join(text) for text in texts]
    expected = [metric.sentence_score(line, lines[:i] + lines[i + 1 :]).score for i, line in enumerate(lines)]
    assert of.self_bleu(texts) == pytest.approx(np.mean(expected), abs=1e-9)
    assert 0 < np.mean(expected) < 100


def test_self_bleu_of_equal_and_of_unlike_texts() -> None:
    assert of.self_bleu([tuple("abcde")] * 3) == pytest.approx(100)
    assert of.self_bleu([tuple("abcde"), tuple("fghij")]) == 0


@pytest.mark.parametrize("texts", [[("a",)], [("a",), ()]])
def test_self_bleu_needs_texts_with_words(texts: Sequence[tuple[str, ...]]) -> None:
    with pytest.raises(InputError, match="leave out empty ones"):
        of.self_bleu(texts)


def test_compression_reaches_the_entropy_of_noise() -> None:
    letters = random.Random(0).choices("abcdefghijklmnop", k=40_000)  # 4 of 8 bits
    assert of.compression_ratio(["".join(letters)]) == pytest.approx(2, rel=0.05)
    assert math.isnan(of.compression_ratio([]))


def test_compression_sees_repetition_farther_back_than_gzip() -> None:
    text = "".join(random.Random(0).choices("abcdefghijklmnop", k=60_000))
    assert of.compression_ratio([text, text]) > 1.9 * of.compression_ratio([text])


def test_zipf_exponent_is_found_again() -> None:
    for exponent in (0.7, 1.1):
        words = [f"w{rank}" for rank in range(1, 301) for _ in range(round(20_000 * rank**-exponent))]
        assert of.zipf_exponent([words]) == pytest.approx(exponent, abs=2e-3)
    assert of.zipf_exponent([list("abcd") * 5]) == pytest.approx(0, abs=1e-6)
    assert math.isnan(of.zipf_exponent([("a", "a")]))


def test_likeness_of_vectors() -> None:
    vector_BD = np.random.default_rng(0).normal(size=(7, 4))
    vector_BD /= np.linalg.norm(vector_BD, axis=1, keepdims=True)
    cosine_BB = vector_BD @ vector_BD.T
    pairs = [cosine_BB[i, j] for i, j in itertools.combinations(range(7), 2)]
    assert of.mean_cosine(vector_BD) == pytest.approx(np.mean(pairs))
    share = np.linalg.eigvalsh(cosine_BB / 7)
    share = share[share > 1e-12]
    assert of.vendi_score(vector_BD) == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert of.vendi_score(np.eye(5)) == pytest.approx(5)
    assert of.vendi_score(np.ones((5, 1))) == pytest.approx(1)
    assert of.mean_cosine(np.ones((5, 1))) == pytest.approx(1)
    assert math.isnan(of.mean_cosine(np.eye(1)))


def test_distinct_falls_with_length(stories: list[tuple[str, ...]]) -> None:
    found = [of.distinct([words[:n] for words in stories[:64]], 2) for n in (50, 100, 200)]
    assert found[0] > found[1] > found[2]


def test_adjusted_distinct_holds_for_few_texts_only(stories: list[tuple[str, ...]]) -> None:
    def change(num_texts: int) -> float:
        found = [
            of.expectation_adjusted_distinct([words[:n] for words in stories[:num_texts]], 2) for n in (50, 100, 200)
        ]
        return max(found) / min(found) - 1

    assert change(64) < 0.05
    assert change(500) > 0.2  # so it is no licence to compare texts of different lengths


def test_duplicates_are_seen_by_sets_and_not_by_texts() -> None:
    chosen = random.Random(2)
    texts = [chosen.sample([f"w{i}" for i in range(400)], k=38) for _ in range(60)]
    texts = [[*words, *words[:2]] for words in texts]  # one bigram of 39 comes twice
    bleu, ratio, single = [], [], []
    for share in (0.0, 0.25, 0.5, 1.0):
        num_copies = round(share * len(texts))
        mixed = [texts[0]] * num_copies + texts[num_copies:]
        bleu.append(of.self_bleu(mixed))
        ratio.append(of.compression_ratio([" ".join(words) for words in mixed]))
        single.append(np.mean([of.repetition(words, 2) for words in mixed]))
    assert bleu == sorted(set(bleu))
    assert ratio == sorted(set(ratio))
    assert single == pytest.approx([1 / 39] * 4)


def test_jackknife_of_a_mean_is_the_usual_interval() -> None:
    from scipy.stats import t

    value_B = np.random.default_rng(0).normal(size=12)
    whole, deleted = of.leave_groups_out(lambda i: value_B[i].mean(keepdims=True), range(12), groups=20)
    found = of.jackknife_interval(float(whole[0]), deleted[:, 0], 12)
    half = t.ppf(0.975, 11) * value_B.std(ddof=1) / math.sqrt(12)
    assert (found.value, found.low, found.high) == pytest.approx(
        (value_B.mean(), value_B.mean() - half, value_B.mean() + half)
    )


def test_units_leave_together() -> None:
    units = [i % 9 for i in range(30)]
    seen: list[set[int]] = []

    def statistic(index: np.ndarray) -> np.ndarray:
        seen.append({units[i] for i in index})
        return np.array([float(sum(units[i] == u for i in index)) for u in range(9)])

    _, deleted = of.leave_groups_out(statistic, units, groups=5)
    assert len(deleted) == 5
    whole = np.bincount(units)
    assert all(count in (0, whole[u]) for row in deleted for u, count in enumerate(row))
    assert sorted(u for kept in seen[1:] for u in set(range(9)) - kept) == list(range(9))


def test_few_units_have_no_interval() -> None:
    whole, deleted = of.leave_groups_out(lambda i: np.array([float(len(i))]), range(7))
    assert of.jackknife_interval(float(whole[0]), deleted[:, 0], 7).low is None
    found = of.jackknife_comparison("m", ("a", "b"), 1.0, deleted[:, 0], 7, lower_is_better=False)
    assert (found.verdict, found.reason) == ("cannot rank", "7 units; at least 8 are needed")


def test_resampling_would_count_texts_as_repetition() -> None:
    texts = made_up(60, 30, 3)

    def statistic(index: np.ndarray) -> np.ndarray:
        return np.array([of.distinct([texts[i] for i in index], 2)])

    whole, deleted = of.leave_groups_out(statistic, range(60))
    found = of.jackknife_interval(float(whole[0]), deleted[:, 0], 60)
    assert found.low is not None
    generator = np.random.default_rng(0)
    resampled = [statistic(generator.integers(60, size=60))[0] for _ in range(50)]
    assert max(resampled) < found.low < found.value


def test_jackknife_covers_the_truth() -> None:
    truth = np.mean([of.distinct(made_up(40, 12, 1000 + i), 1) for i in range(300)])
    covered = 0
    for i in range(100):
        texts = made_up(40, 12, i)
        whole, deleted = of.leave_groups_out(
            lambda k, t=texts: np.array([of.distinct([t[j] for j in k], 1)]), range(40)
        )
        found = of.jackknife_interval(float(whole[0]), deleted[:, 0], 40)
        covered += found.low <= truth <= found.high
    assert covered >= 87  # of 100 at 95 %: less in 1 of 1,000 such tests


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "no difference shown"), (1.0, "better"), (-1.0, "worse")])
def test_verdicts_on_sets_are_paired(shift: float, verdict: str) -> None:
    value_B = np.random.default_rng(1).normal(0, 10, size=40)
    other_B = value_B - shift + 0.3 * np.random.default_rng(2).normal(size=40)
    statistics = [of.leave_groups_out(lambda i, v=v: v[i].mean(keepdims=True), range(40)) for v in (value_B, other_B)]
    (ours, ours_G), (theirs, theirs_G) = statistics
    found = of.jackknife_comparison(
        "m", ("a", "b"), float(ours[0] - theirs[0]), (ours_G - theirs_G)[:, 0], 40, lower_is_better=False
    )
    assert found.verdict == verdict
