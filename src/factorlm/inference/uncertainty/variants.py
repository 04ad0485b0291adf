"""Variants of a question at graded distances, by a genetic algorithm, and trivial ones to compare them with.

Words are replaced by neighbours among static word vectors, or left out. Names, numbers, negations and question words
stay. Variants may change what is asked: they test how answers move with the question, and are no paraphrases.

Source: GAAP of Song et al. (2025), arXiv:2506.09684, which replaces by WordNet.
"""

# Axes: D width, N texts, V words.

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from factorlm.inference.uncertainty.meanings import NEGATIONS, Encode
from factorlm.settings import Config

Array = NDArray[np.float64]
Words = tuple[str, ...]
Replace = Callable[[str], Sequence[str]]
QUESTION_WORDS = frozenset(
    ("who", "whom", "whose", "what", "which", "when", "where", "why", "how", "many", "much", "did", "does")
)
LEAST_LETTERS = 3
TRIVIAL: tuple[Callable[[str], str], ...] = (
    str.lower,
    str.upper,
    str.title,
    lambda text: text.rstrip("?").rstrip(),
    lambda text: f"{text} ",
    lambda text: text.replace(" ", "  "),
    str.swapcase,
    lambda text: f"{text}?",
    lambda text: f" {text}",
)


class Gaap(Config):
    """How variants are bred.

    Attributes:
        number: variants wanted.
        population: texts of a generation.
        generations: at most.
        every: variants are taken from each generation of this distance.
        least_similar: stops once no text is more similar to the question than this.
        seed: of all randomness.
    """

    number: int = 5
    population: int = 24
    generations: int = 10
    every: int = 2
    least_similar: float = 0.7
    seed: int = 0


@dataclass(frozen=True)
class Bred:
    """A variant.

    Attributes:
        text: of it.
        similarity: cosine to the question.
        generation: that it was taken from.
    """

    text: str
    similarity: float
    generation: int


@dataclass(frozen=True, eq=False)
class WordVectors:
    """Static vectors of lower-case words, for neighbours.

    Attributes:
        words: V of them.
        vector_VD: of length one.
        near: cosines between which a word is a neighbour: nearer ones are mostly inflections, farther ones unrelated.
        most: neighbours of a word.
    """

    words: Words
    vector_VD: Array
    near: tuple[float, float] = (0.4, 0.9)
    most: int = 10

    @cached_property
    def _place(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    def neighbours(self, word: str) -> list[str]:
        """The nearest words within the cosines, nearest first; none for an unknown word."""
        place = self._place.get(word.lower())
        if place is None:
            return []
        cosine_V = self.vector_VD @ self.vector_VD[place]
        order = np.argsort(-cosine_V)[: self.most + 1]
        return [self.words[i] for i in order if i != place and self.near[0] <= cosine_V[i] <= self.near[1]]


@lru_cache(maxsize=1)
def word_vectors() -> WordVectors:
    """The vectors of whole words that the sentence encoder begins with, before any context."""
    import torch

    from factorlm.models.sentences import load_sentence_encoder

    encoder = load_sentence_encoder()
    vocabulary = {w: i for w, i in encoder.tokenizer.get_vocab().items() if re.fullmatch(r"[a-z]{3,}", w)}
    words = tuple(sorted(vocabulary))
    weight_VD = encoder.model.get_input_embeddings().weight.detach()[[vocabulary[word] for word in words]]
    return WordVectors(words, torch.nn.functional.normalize(weight_VD, dim=-1).double().numpy())


def keywords(words: Sequence[str]) -> list[int]:
    """Places of words that may change: lower-case content words; never names, numbers, negations, question words."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    kept = ENGLISH_STOP_WORDS | QUESTION_WORDS | NEGATIONS
    bare = [word.strip(".,;:!?\"'()") for word in words]
    return [i for i, w in enumerate(bare) if w.isalpha() and w.islower() and len(w) >= LEAST_LETTERS and w not in kept]


def gaap(question: str, encode: Encode, settings: Gaap, replace: Replace | None = None) -> list[Bred]:
    """Variants of a question, of graded similarity; fewer than wanted where it has too few words that may change.

    Args:
        question: whose variants are bred.
        encode: sentences as vectors.
        settings: of the breeding.
        replace: a word's substitutes; None takes neighbours among `word_vectors`.
    """
    generator = np.random.default_rng(settings.seed)
    replace = replace or word_vectors().neighbours
    origin = tuple(question.split())
    origin_D = np.asarray(encode([question]))[0]
    known: dict[Words, float] = {}

    def fitness(population: Sequence[Words]) -> Array:
        new = [words for words in dict.fromkeys(population) if words not in known]
        if new:
            cosine_N = np.asarray(encode([" ".join(words) for words in new])) @ origin_D
            known.update(zip(new, cosine_N.tolist(), strict=True))
        return np.array([max(0.0, known[words]) for words in population])

    def mutated(words: Words) -> Words:
        places = keywords(words)
        if not places:
            return words
        place = int(generator.choice(places))
        choices = ["", *replace(words[place].strip(".,;:!?\"'()").lower())]
        return _with(words, place, str(generator.choice(choices)))

    population = _different([mutated(origin) for _ in range(settings.population)], origin)
    taken: dict[Words, int] = {}
    for generation in range(settings.generations + 1):
        if not population:
            break
        fitness_N = fitness(population)
        if generation % settings.every == 0:
            taken = {**dict.fromkeys(population, generation), **taken}
        if fitness_N.max() < settings.least_similar or fitness_N.sum() == 0:
            break
        chosen = generator.choice(len(population), settings.population, p=fitness_N / fitness_N.sum())
        parents = [population[i] for i in chosen]
        offspring = [
            child for a, b in zip(parents[::2], parents[1::2], strict=False) for child in _crossed(a, b, generator)
        ]
        candidates = [*parents, *offspring, *(mutated(child) for child in offspring)]
        population = _different(candidates, origin)
        kept = generator.permutation(len(population))[: settings.population]
        population = [population[i] for i in sorted(kept)]
    return _graded(taken, known, settings.number, generator)


def trivial(question: str, number: int) -> list[str]:
    """Variants that ask the same with other letters or blanks."""
    return list(dict.fromkeys(change(question) for change in TRIVIAL if change(question) != question))[:number]


def _graded(
    taken: dict[Words, int], known: dict[Words, float], number: int, generator: np.random.Generator
) -> list[Bred]:
    """As many from each generation as there is room for, each generation in random order."""
    by_generation: dict[int, list[Words]] = {}
    for words, generation in taken.items():
        by_generation.setdefault(generation, []).append(words)
    for group in by_generation.values():
        generator.shuffle(group)
    chosen: list[Words] = []
    while len(chosen) < min(number, len(taken)):
        for group in by_generation.values():
            if group and len(chosen) < number:
                chosen.append(tuple(group.pop()))
    return [Bred(" ".join(words), known[words], taken[words]) for words in chosen]


def _with(words: Words, place: int, substitute: str) -> Words:
    """A word replaced, or left out; marks after it stay."""
    mark = re.search(r"[.,;:!?\"')]*$", words[place])
    tail = mark[0] if mark else ""
    if substitute:
        return (*words[:place], substitute + tail, *words[place + 1 :])
    before = words[:place]
    if tail and before:
        before = (*before[:-1], before[-1] + tail)
    return (*before, *words[place + 1 :])


def _crossed(first: Words, second: Words, generator: np.random.Generator) -> tuple[Words, Words]:
    """Two texts with their tails swapped behind a cut."""
    shorter = min(len(first), len(second))
    if shorter < 2:
        return first, second
    cut = int(generator.integers(1, shorter))
    return first[:cut] + second[cut:], second[:cut] + first[cut:]


def _different(population: Sequence[Words], origin: Words) -> list[Words]:
    """Each once, without the question itself and without those that lost a name, a number or a question word."""
    protected = set(origin) - {origin[i] for i in keywords(origin)}
    bare = {word.strip(".,;:!?") for word in protected}
    return [
        words for words in dict.fromkeys(population)
        if words and words != origin and bare <= {word.strip(".,;:!?") for word in words}
    ]  # fmt: skip
