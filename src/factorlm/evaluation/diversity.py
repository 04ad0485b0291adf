"""How varied texts are: each in itself, and all of them together. Functions from texts to numbers.

Words come from one fixed expression, so that no model's tokenizer has a say. Measures of sets depend on the number of
texts and on their lengths: cut all sides alike with `cut` before comparing. None of them knows good text from noise, so
they are read beside a measure of quality.

Measures of single texts are averaged, and resampled as usual. Measures of sets have intervals from a jackknife that
leaves out one of about twenty groups of texts at a time: resampling with replacement would put texts in twice, and
repetition is the very thing measured.
"""

# Axes: B texts, D width, G groups, M measures, R ranks.

from __future__ import annotations

import lzma
import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import islice, pairwise

import numpy as np
from numpy.typing import NDArray

from factorlm.errors import InputError
from factorlm.evaluation.intervals import FEWEST_UNITS, LEVEL, Comparison, Estimate

Array = NDArray[np.float64]
Index = NDArray[np.intp]
Words = Sequence[str]

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
VOCABULARY = 30_000  # words that the expectation of Dist-n supposes, all equally likely
GROUPS = 20  # of the jackknife
PERIOD, TAIL = 20, 60  # words: a loop repeats within the first, over the whole of the second
DICTIONARY = [{"id": lzma.FILTER_LZMA2, "preset": 6}]  # reaches back 8 MiB, where gzip forgets after 32 KiB


def words_of(text: str) -> tuple[str, ...]:
    """Runs of letters and digits in lower case, apostrophes between them included."""
    return tuple(word.lower() for word in WORD.findall(text))


def cut(text: str, num_words: int) -> str:
    """The text as far as the end of a word; all of it if it has no more words."""
    last = next(islice(WORD.finditer(text), num_words - 1, None), None) if num_words > 0 else None
    return text[: last.end()] if last else (text if num_words > 0 else "")


def repetition(items: Sequence[Hashable], n: int) -> float:
    """Share of n-grams of a text that were there before, rep-n; nan where there are none.

    The items are words, or tokens (seq-rep-n). Source: Welleck et al. (2020), arXiv:1908.04319.
    """
    found = list(_ngrams(items, n))
    return 1 - len(set(found)) / len(found) if found else math.nan


def diversity(items: Sequence[Hashable]) -> float:
    """Product of 1 - rep-n over n = 2, 3, 4: one where nothing repeats. Su et al. (2022), arXiv:2202.06417."""
    return math.prod(1 - repetition(items, n) for n in (2, 3, 4))


def ends_in_loop(words: Words) -> float:
    """One if the last 60 words repeat with a period of at most 20, else zero; nan for shorter texts."""
    if len(words) < TAIL:
        return math.nan
    tail = list(words[-TAIL:])
    return float(any(tail[period:] == tail[:-period] for period in range(1, PERIOD + 1)))


def unigram_entropy(items: Sequence[Hashable]) -> float:
    """Entropy of how often the items of a text occur, in bits; at most log2 of their number; nan for none."""
    share = np.array(list(Counter(items).values()), float) / max(1, len(items))
    return float(-(share * np.log2(share)).sum()) if len(items) else math.nan


def distinct(texts: Sequence[Words], n: int) -> float:
    """Different n-grams of all texts over all of their n-grams, Dist-n. Li et al. (2016), arXiv:1510.03055."""
    num_different, num_all = _count_ngrams(texts, n)
    return num_different / num_all if num_all else math.nan


def expectation_adjusted_distinct(texts: Sequence[Words], n: int, vocabulary: int = VOCABULARY) -> float:
    """Different n-grams over those that as many draws from equally likely ones would give, EAD.

    It falls more slowly than Dist-n as texts get longer, and rises once the draws outnumber the vocabulary: words are
    not equally likely. So it does not make texts of different lengths comparable, only less unlike.

    Source: Liu et al. (2022), arXiv:2202.13587.
    """
    num_different, num_all = _count_ngrams(texts, n)
    expected = -vocabulary * math.expm1(num_all * math.log1p(-1 / vocabulary))
    return num_different / expected if num_all else math.nan


def self_bleu(texts: Sequence[Words], order: int = 4) -> float:
    """Mean over texts of the BLEU of each against all others, 0 to 100: high where texts resemble each other.

    Smoothing is "exp" with effective order, as sacrebleu names them: the k-th precision without a match counts as one
    match in 2^k times as many n-grams. Other smoothings differ by points.

    Source: Zhu et al. (2018), arXiv:1802.01886.

    Raises:
        InputError: for fewer than two texts, or one without words.
    """
    if len(texts) < 2 or not all(texts):
        raise InputError(f"at least two texts with words are needed, got {sum(map(bool, texts))}; leave out empty ones")
    matches: list[list[int]] = [[] for _ in texts]
    for n in range(1, order + 1):
        counts = [Counter(_ngrams(text, n)) for text in texts]
        # The most often that any other text has an n-gram: the largest count, or the second for who holds the largest.
        first: dict[Hashable, tuple[int, int]] = {}
        second: dict[Hashable, int] = {}
        for i, count in enumerate(counts):
            for ngram, number in count.items():
                largest = first.get(ngram, (0, -1))
                if number > largest[0]:
                    first[ngram], second[ngram] = (number, i), largest[0]
                else:
                    second[ngram] = max(number, second[ngram])
        for i, count in enumerate(counts):
            others = ((c, second[g] if first[g][1] == i else first[g][0]) for g, c in count.items())
            matches[i].append(sum(map(min, others)))
    lengths = Counter(map(len, texts))
    return float(np.mean([_bleu(found, len(text), lengths) for found, text in zip(matches, texts, strict=True)]))


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes of the texts, one a line, over their bytes in LZMA2 (preset 6, no container): high where they repeat.

    Source: as a measure of diversity, Shaib et al. (2024), arXiv:2403.00553, with gzip.
    """
    whole = "\n".join(texts).encode()
    return len(whole) / len(lzma.compress(whole, lzma.FORMAT_RAW, filters=DICTIONARY)) if whole else math.nan


def zipf_exponent(texts: Sequence[Words]) -> float:
    """Exponent s of shares proportional to rank ** -s, fitted to the words of all texts by maximum likelihood.

    The ranks are those of the words seen, from the most frequent on. nan for fewer than two different words.
    """
    from scipy.optimize import brentq

    count_R = np.sort(np.array(list(Counter(word for text in texts for word in text).values()), float))[::-1]
    if len(count_R) < 2:
        return math.nan
    log_rank_R = np.log(np.arange(1, len(count_R) + 1))
    seen = float((count_R * log_rank_R).sum() / count_R.sum())

    def gap(exponent: float) -> float:
        weight_R = np.exp(-exponent * log_rank_R)
        return float((weight_R * log_rank_R).sum() / weight_R.sum()) - seen

    return float(brentq(gap, -1.0, 50.0, xtol=1e-10))


def mean_cosine(vector_BD: Array) -> float:
    """Mean cosine of two different texts, from their vectors of length one: high where all say the same thing."""
    num_texts = len(vector_BD)
    if num_texts < 2:
        return math.nan
    return float((np.square(vector_BD.sum(0)).sum() - np.square(vector_BD).sum()) / (num_texts * (num_texts - 1)))


def vendi_score(vector_BD: Array) -> float:
    """Exponential of the entropy of the eigenvalues of the cosines over B: how many unlike texts there are in effect.

    Source: Friedman and Dieng (2023), arXiv:2210.02410.
    """
    if len(vector_BD) == 0:
        return math.nan
    share = np.square(np.linalg.svd(vector_BD, compute_uv=False)) / len(vector_BD)
    share = share[share > 1e-12]
    return float(np.exp(-(share * np.log(share)).sum()))


def leave_groups_out(
    statistic: Callable[[Index], Array], unit_B: Sequence[Hashable], *, groups: int = GROUPS, seed: int = 0
) -> tuple[Array, Array]:
    """A statistic of all texts, [M], and without each group of texts in turn, [G, M].

    Two systems with the same units and seed leave out the same texts, so that differences and ratios of what comes
    back are paired.

    Args:
        statistic: from the numbers of the texts that stay to the measures.
        unit_B: texts of equal value hang together and leave together.
        groups: at most; fewer where there are fewer units.
        seed: of the grouping.
    """
    number = {unit: i for i, unit in enumerate(dict.fromkeys(unit_B))}
    num_groups = min(groups, len(number))
    group_of_unit = np.random.default_rng(seed).permutation(len(number)) % max(1, num_groups)
    group_B = group_of_unit[[number[unit] for unit in unit_B]]
    everything = statistic(np.arange(len(group_B)))
    if num_groups < 2:
        return everything, np.empty((0, len(everything)))
    return everything, np.stack([statistic(np.flatnonzero(group_B != g)) for g in range(num_groups)])


def jackknife_interval(value: float, deleted_G: Array, n: int) -> Estimate:
    """A value with its interval of Student's t, from the values without each group.

    Source: delete-a-group jackknife, Kott (2001); for counts of kinds, Heltshe and Forrester (1983).
    """
    if math.isnan(value):
        return Estimate(value=None, n=n)
    half = _half_width(deleted_G)
    return (
        Estimate(value=value, n=n) if half is None else Estimate(value=value, low=value - half, high=value + half, n=n)
    )


def jackknife_comparison(
    measure: str, names: tuple[str, str], value: float, deleted_G: Array, n: int, *, lower_is_better: bool
) -> Comparison:
    """The verdict on a paired difference of a measure of sets.

    Args:
        measure: its name.
        names: of the model and of its rival.
        value: model minus rival.
        deleted_G: the same without each group.
        n: units.
        lower_is_better: whether a smaller measure is the better one.
    """
    from scipy.stats import t

    difference = jackknife_interval(value, deleted_G, n)
    if difference.value is None or difference.low is None or difference.high is None:
        return Comparison(measure=measure, model=names[0], rival=names[1], difference=difference, p_value=None,
                          verdict="cannot rank", reason=f"{n} units; at least {FEWEST_UNITS} are needed")  # fmt: skip
    error = _standard_error(deleted_G)
    p_value = float(2 * t.sf(abs(value) / error, len(deleted_G) - 1)) if error > 0 else float(value == 0)
    is_shown = p_value < 1 - LEVEL
    better = (value < 0) == lower_is_better
    return Comparison(measure=measure, model=names[0], rival=names[1], difference=difference, p_value=p_value,
                      verdict=("better" if better else "worse") if is_shown else "no difference shown")  # fmt: skip


def _standard_error(deleted_G: Array) -> float:
    spread = np.square(deleted_G - deleted_G.mean()).sum()
    return float(np.sqrt((len(deleted_G) - 1) / len(deleted_G) * spread))


def _half_width(deleted_G: Array) -> float | None:
    """Half of the interval; None where the groups are too few or a group cannot be missed."""
    from scipy.stats import t

    if len(deleted_G) < FEWEST_UNITS or not np.isfinite(deleted_G).all():
        return None
    return float(t.ppf((1 + LEVEL) / 2, len(deleted_G) - 1)) * _standard_error(deleted_G)


def _ngrams(items: Sequence[Hashable], n: int) -> Iterator[Hashable]:
    return pairwise(items) if n == 2 else zip(*(items[i:] for i in range(n)), strict=False)


def _count_ngrams(texts: Sequence[Words], n: int) -> tuple[int, int]:
    """Different n-grams of all texts, and all of them."""
    return len({g for text in texts for g in _ngrams(text, n)}), sum(max(0, len(text) - n + 1) for text in texts)


def _bleu(matches: Sequence[int], length: int, lengths: Counter[int]) -> float:
    """BLEU, 0 to 100, from matches of each order; references are texts of these lengths but one of the text's own."""
    if not any(matches):
        return 0.0
    others = (other for other, number in lengths.items() if number > (other == length))
    nearest = min(others, key=lambda other: (abs(other - length), other))
    misses, logs = 0, []
    for n, found in enumerate(matches, 1):
        total = length - n + 1
        if total <= 0:
            break
        misses += found == 0
        logs.append(math.log(found / total) if found else -math.log(2**misses * total))
    return 100 * min(1.0, math.exp(1 - nearest / length)) * math.exp(sum(logs) / len(logs))
