"""BM25: passages that share rare words with a query. The index is that of bm25s, three arrays and a vocabulary.

A word of the query that comes twice counts twice. Words that no passage has count nothing; a query without others, or
without words, finds nothing.
"""

# Axes: N passages.

from __future__ import annotations

import importlib
import re
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, NonNegativeFloat

from factorlm.errors import InputError, IntegrityError
from factorlm.memory.ranking import NOTHING, Mask, Ranking, highest
from factorlm.settings import Config

FILES = {
    "data_name": "bm25.weights.npy",
    "indices_name": "bm25.passages.npy",
    "indptr_name": "bm25.starts.npy",
    "vocab_name": "bm25.words.json",
    "params_name": "bm25.settings.json",
}
# Ideographs and kana are written without blanks: each is a word of its own.
SINGLE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{SINGLE}]|[^\W{SINGLE}]+")
Terms = Callable[[str], list[str]]


class Bm25Settings(Config):
    """What counts as a word, and what a word counts.

    Attributes:
        k1: how much more a word counts that comes often; zero counts only whether it comes.
        b: how far long passages are held to account for their length.
        lowercase: whether case is left aside.
        stop_words: words that are left aside.
        stemmer: language of a Snowball stemmer, which needs the package PyStemmer; none if empty.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    k1: NonNegativeFloat = 1.2
    b: Annotated[float, Field(ge=0, le=1)] = 0.75
    lowercase: bool = True
    stop_words: Literal["none", "english"] = "english"
    stemmer: str = ""

    def terms(self) -> Terms:
        """What takes a text apart into words: runs of letters and digits, accents composed.

        Raises:
            InputError: if there is no such stemmer.
        """
        stop_words = _stop_words() if self.stop_words == "english" else frozenset()
        stem = _stemmer(self.stemmer) if self.stemmer else None

        def terms(text: str) -> list[str]:
            text = unicodedata.normalize("NFC", text)
            found = WORD.findall(text.lower() if self.lowercase else text)
            found = [word for word in found if word.lower() not in stop_words]
            return found if stem is None else list(stem(found))

        return terms


def write_bm25(folder: Path, texts: Iterable[str], settings: Bm25Settings) -> None:
    """Index passages.

    Args:
        folder: where files are written; see `FILES`.
        texts: of the passages, in order.
        settings: what counts.

    Raises:
        InputError: if no passage has a word.
    """
    import bm25s

    terms, vocabulary = settings.terms(), dict[str, int]()
    rows = [array("i", [vocabulary.setdefault(w, len(vocabulary)) for w in terms(text)]) for text in texts]
    if not vocabulary:
        raise InputError("BM25 needs a passage with a word that is not a stop word, got none; leave it out")
    # Among its variants this pair is the formula with k1 + 1 above and an idf that is never negative.
    index = bm25s.BM25(k1=settings.k1, b=settings.b, method="atire", idf_method="lucene", backend="numpy")
    index.index((rows, vocabulary), create_empty_token=False, show_progress=False)
    index.save(folder, show_progress=False, **FILES)


@dataclass(frozen=True, eq=False)
class Bm25:
    """Ranks by sum over words w of the query of idf(w) f (k1 + 1) / (f + k1 (1 - b + b length / mean length)).

    Here f is how often w comes in the passage, idf(w) = ln(1 + (N - n + 1/2) / (n + 1/2)), and n passages have w.

    Source: Robertson et al. (1995); computed by BM25S, Lù (2024), arXiv:2407.03618.
    """

    index: Any
    terms: Terms

    @classmethod
    def open(cls, folder: Path, settings: Bm25Settings, num_passages: int) -> Bm25:
        """The index in a folder; its arrays are read from disk as they are needed.

        Raises:
            IntegrityError: if its files do not fit together.
        """
        import bm25s

        ours = {"backend": "numpy", "auto_compile": False}  # compiled code would not check bounds
        try:
            index = bm25s.BM25.load(
                folder, mmap=True, allow_pickle=False, show_progress=False, override_params=ours, **FILES
            )
            weight, passage, start = (index.scores[name] for name in ("data", "indices", "indptr"))
            sizes = {len(start) - 1, len(index.vocab_dict)}
            is_whole = len(sizes) == 1 and weight.ndim == passage.ndim == 1 and len(weight) == len(passage)
            is_whole = is_whole and bool((np.diff(start) > 0).all()) and (start[0], start[-1]) == (0, len(weight))
            is_whole = is_whole and sorted(index.vocab_dict.values()) == list(range(len(start) - 1))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
            raise IntegrityError(f"the BM25 index in {folder} cannot be read ({reason}); copy it again") from None
        if not is_whole or index.scores["num_docs"] != num_passages:
            raise IntegrityError(
                f"the BM25 index in {folder} is of other passages than the {num_passages} there; build it anew"
            )
        return cls(index, settings.terms())

    def rank(self, queries: Sequence[str], k: int, allowed_N: Mask | None = None) -> list[Ranking]:
        """The best passages for each query; only such as share a word with it.

        Args:
            queries: what to look for.
            k: most passages of a ranking.
            allowed_N: which passages may be found; None allows all.
        """
        return [self._rank(query, k, allowed_N) for query in queries]

    def _rank(self, query: str, k: int, allowed_N: Mask | None) -> Ranking:
        word_ids = self.index.get_tokens_ids(self.terms(query))
        if not word_ids:
            return NOTHING
        try:
            score_N = self.index.get_scores_from_ids(word_ids)
        except IndexError:
            raise IntegrityError("the BM25 index names passages that are not there; copy it again") from None
        if allowed_N is not None:
            score_N[~allowed_N] = 0.0
        passage_M = np.flatnonzero(score_N > 0)
        return highest(passage_M, score_N[passage_M], k)


def _stop_words() -> frozenset[str]:
    stopwords = importlib.import_module("bm25s.stopwords")
    return frozenset(stopwords.STOPWORDS_EN)


def _stemmer(language: str) -> Callable[[list[str]], list[str]]:
    try:
        return importlib.import_module("Stemmer").Stemmer(language).stemWords
    except ImportError:
        raise InputError(f"the stemmer {language!r} needs PyStemmer; pip install PyStemmer, or leave it out") from None
    except KeyError:
        raise InputError(f"a language of Snowball is needed for the stemmer, got {language!r}") from None
