"""Continuations of the same prompts by several writers, people among them: cut alike, and measured side by side."""

# Axes: B texts, C columns, D width, G groups, M measures, P prompts, S samples of a prompt, U units.

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from factorlm.errors import InputError
from factorlm.evaluation import diversity
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.diversity import Words, cut, jackknife_interval, leave_groups_out, words_of
from factorlm.evaluation.intervals import Estimate, ratio_interval

Array = NDArray[np.float64]
CLOSED = re.compile(r"[\s,.;:!?)\]}’'%]")  # at the start of a continuation: no blank before it
OPEN = re.compile(r"""[(\[{“‘]$|(?:^|\s)["']$""")  # at the end of a prompt: no blank behind it


@dataclass(frozen=True)
class Prompt:
    """The beginning of a text, and how a person went on.

    Attributes:
        text: the beginning.
        human: the rest, with the blank between them.
        unit: prompts of equal value come from one work, so that they hang together.
    """

    text: str
    human: str
    unit: str


def prompts_of(
    data: DataFolder, part: str, *, num_prompts: int, prompt_words: int, words: int, unit: str | None, seed: int
) -> list[Prompt]:
    """Prompts with human continuations of at least some words, drawn at random and spread over the units.

    Args:
        data: where the part is.
        part: with columns `prompt` and `continuation`, or `text`, of which the first words are the prompt.
        num_prompts: at most.
        prompt_words: words of the prompt, between white space, where a part has only `text`.
        words: the least of a continuation, as `diversity.words_of` counts.
        unit: column whose equal values mark rows of one work; None, or a missing column, takes each row by itself.
        seed: of the draw.

    Raises:
        InputError: for a part without these columns, or without one continuation that is long enough.
    """
    rows = data.rows(part)
    beginning = re.compile(rf"\s*(?:\S+\s+){{{prompt_words - 1}}}\S+")
    found = []
    for i, row in enumerate(rows):
        if "prompt" in row and "continuation" in row:
            text, human = str(row["prompt"]).rstrip(), str(row["continuation"])
            human = human if CLOSED.match(human) or OPEN.search(text) else f" {human}"
        elif "text" in row:
            match = beginning.match(row["text"])
            text, human = (data.asking(match[0].strip()), row["text"][match.end() :]) if match else ("", "")
        else:
            raise InputError(f"columns prompt and continuation, or text, are needed, {part} has {', '.join(row)}")
        if text and len(words_of(human)) >= words:
            found.append(Prompt(text, human, str(row.get(unit, i)) if unit else str(i)))
    if not found:
        raise InputError(f"human continuations of at least {words} words are needed, {part} has none; ask for fewer")
    order = np.random.default_rng(seed).permutation(len(found))
    drawn = {found[i].text: found[i] for i in order}  # one of each wording
    before: Counter[str] = Counter()
    turns = []
    for prompt in drawn.values():
        turns.append(before[prompt.unit])
        before[prompt.unit] += 1
    spread = np.argsort(turns, kind="stable")  # every unit once before any comes twice
    return [list(drawn.values())[i] for i in spread[:num_prompts]]


@dataclass(frozen=True)
class Measure:
    """What is measured of texts.

    Attributes:
        key: its name for scripts.
        title: its name in tables.
        lower_is_better: what comparisons take for better; None compares nothing.
        most: the largest value there can be, so that no interval goes beyond it.
    """

    key: str
    title: str
    lower_is_better: bool | None = None
    most: float = math.inf


EACH: dict[Measure, Callable[[Words], float]] = {
    Measure("rep_2", "rep-2"): lambda words: diversity.repetition(words, 2),
    Measure("rep_3", "rep-3"): lambda words: diversity.repetition(words, 3),
    Measure("rep_4", "rep-4"): lambda words: diversity.repetition(words, 4),
    Measure("diversity", "diversity: product of 1 - rep-n", False): diversity.diversity,
    Measure("loops", "texts that end in a loop"): diversity.ends_in_loop,
    Measure("entropy_bits", "entropy of a text's words, bits"): diversity.unigram_entropy,
}
SEQ_REP = Measure("seq_rep_4", "seq-rep-4, in tokens", True)
WHOLE = (
    Measure("dist_1", "Dist-1", most=1.0),
    Measure("dist_2", "Dist-2", False, most=1.0),
    Measure("dist_3", "Dist-3", most=1.0),
    Measure("ead_2", "EAD-2"),
    Measure("self_bleu", "Self-BLEU", True, most=100.0),
    Measure("compression", "compression ratio"),
    Measure("zipf", "Zipf exponent"),
    Measure("cosine", "mean cosine of two texts", most=1.0),
    Measure("vendi", "Vendi score", False),
)


@dataclass(frozen=True, eq=False)
class Side:
    """What one writer wrote.

    Attributes:
        name: of the model, or that of human text.
        texts_SP: as written: a list of texts, one for each prompt, for each sample.
        ids_SP: their tokens, end tokens left out.
        words: that texts are cut to.
    """

    name: str
    texts_SP: list[list[str]]
    ids_SP: list[list[tuple[int, ...]]]
    words: int

    @cached_property
    def num_words_SP(self) -> NDArray[np.int_]:
        """Words of each text as written."""
        return np.array([[len(words_of(text)) for text in row] for row in self.texts_SP])

    @cached_property
    def cut_SP(self) -> list[list[str]]:
        """The texts, cut."""
        return [[cut(text, self.words).strip() for text in row] for row in self.texts_SP]


def long_enough(sides: Sequence[Side]) -> NDArray[np.intp]:
    """Numbers of the prompts that every side continued, in every sample, to the words that texts are cut to."""
    return np.flatnonzero(np.all([(side.num_words_SP >= side.words).all(0) for side in sides], axis=0))


@dataclass(frozen=True, eq=False)
class Variety:
    """The measures of one side over the prompts that are kept.

    Attributes:
        unit_P: of the prompts kept.
        each_P: measures of single texts, mean over samples; nan where a text is too short for one.
        whole_M: measures of all texts of a sample together, mean over samples, in the order of `WHOLE`.
        deleted_GM: the same without each group of prompts.
        vector_SPD: sentence vectors of the cut texts.
    """

    unit_P: list[str]
    each_P: dict[str, Array]
    whole_M: Array
    deleted_GM: Array
    vector_SPD: Array

    @property
    def num_units(self) -> int:
        """Works that the prompts come from."""
        return len(set(self.unit_P))

    def estimate(self, key: str, seed: int) -> Estimate:
        """A measure of single texts or of all together, with its interval."""
        if key in self.each_P:
            total_U2 = by_unit(self.each_P[key], self.unit_P)
            return ratio_interval(total_U2[:, 0], total_U2[:, 1], seed=seed)
        m = index_of(key)
        found = jackknife_interval(float(self.whole_M[m]), self.deleted_GM[:, m], self.num_units)
        if found.high is None or found.high <= WHOLE[m].most:
            return found
        return found.model_copy(update={"high": WHOLE[m].most})

    def relative_to(self, other: Variety, key: str, seed: int) -> Estimate:
        """The measure over that of another side, less one, paired."""
        if key in self.each_P:
            ours_U2, theirs_U2 = (by_unit(side.each_P[key], self.unit_P) for side in (self, other))
            return ratio_interval(ours_U2[:, 0], theirs_U2[:, 0], change=lambda ratio: ratio - 1, seed=seed)
        m = index_of(key)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio_G = self.deleted_GM[:, m] / other.deleted_GM[:, m] - 1
            return jackknife_interval(float(self.whole_M[m] / other.whole_M[m] - 1), ratio_G, self.num_units)

    def cosine_within_prompts(self, seed: int) -> Estimate:
        """Mean cosine of two samples of one prompt."""
        vector_PSD = self.vector_SPD.transpose(1, 0, 2)
        total_U2 = by_unit(np.array([diversity.mean_cosine(v) for v in vector_PSD]), self.unit_P)
        return ratio_interval(total_U2[:, 0], total_U2[:, 1], seed=seed)


def varieties(
    sides: Sequence[Side],
    kept_P: NDArray[np.intp],
    unit_P: Sequence[str],
    vectors: Callable[[list[str]], Array],
    *,
    vocabulary: int,
    seed: int,
) -> list[Variety]:
    """Measure sides over the same prompts, all cut to the same words.

    Args:
        sides: with their texts for all prompts.
        kept_P: numbers of the prompts to measure.
        unit_P: of the prompts to measure.
        vectors: from texts to sentence vectors of length one.
        vocabulary: of EAD.
        seed: of the grouping of prompts.

    Returns:
        The measures of each side; nothing if no prompt is kept.
    """
    if not len(kept_P):
        return []
    num_tokens = min(len(row[p]) for side in sides for row in side.ids_SP for p in kept_P)
    return [_variety(side, kept_P, list(unit_P), vectors, num_tokens, vocabulary, seed) for side in sides]


def _variety(
    side: Side,
    kept_P: NDArray[np.intp],
    unit_P: list[str],
    vectors: Callable[[list[str]], Array],
    num_tokens: int,
    vocabulary: int,
    seed: int,
) -> Variety:
    texts_SP = [[row[p] for p in kept_P] for row in side.cut_SP]
    words_SP = [[words_of(text) for text in row] for row in texts_SP]
    each_P = {
        measure.key: np.mean([[of(words) for words in row] for row in words_SP], axis=0) for measure, of in EACH.items()
    }
    ids_SP = [[row[p][:num_tokens] for p in kept_P] for row in side.ids_SP]
    each_P[SEQ_REP.key] = np.mean([[diversity.repetition(ids, 4) for ids in row] for row in ids_SP], axis=0)
    vector_SPD = vectors([text for row in texts_SP for text in row]).reshape(len(texts_SP), len(kept_P), -1)

    def whole(index_B: NDArray[np.intp]) -> Array:
        rows = (
            _whole([words[i] for i in index_B], [texts[i] for i in index_B], vector_PD[index_B], vocabulary)
            for words, texts, vector_PD in zip(words_SP, texts_SP, vector_SPD, strict=True)
        )
        return np.mean(list(rows), axis=0)

    return Variety(unit_P, each_P, *leave_groups_out(whole, unit_P, seed=seed), vector_SPD)


def _whole(words: list[tuple[str, ...]], texts: list[str], vector_BD: Array, vocabulary: int) -> Array:
    """The measures of `WHOLE`, in their order."""
    return np.array(
        [
            *(diversity.distinct(words, n) for n in (1, 2, 3)),
            diversity.expectation_adjusted_distinct(words, 2, vocabulary),
            diversity.self_bleu(words) if len(words) > 1 else np.nan,
            diversity.compression_ratio(texts),
            diversity.zipf_exponent(words),
            diversity.mean_cosine(vector_BD),
            diversity.vendi_score(vector_BD),
        ]
    )


def index_of(key: str) -> int:
    """Place of a measure in `WHOLE`."""
    return [measure.key for measure in WHOLE].index(key)


def by_unit(value_PC: Array, unit_P: Sequence[Hashable]) -> Array:
    """Sums over the prompts of each unit, [U, C]; of single values their sum and number, [U, 2], nan left out."""
    if value_PC.ndim == 1:
        value_PC = np.stack([np.nan_to_num(value_PC), ~np.isnan(value_PC)], 1).astype(float)
    number = {unit: i for i, unit in enumerate(dict.fromkeys(unit_P))}
    total_UC = np.zeros((len(number), value_PC.shape[1]))
    np.add.at(total_UC, [number[unit] for unit in unit_P], value_PC)
    return total_UC
