"""What judges see of a text: a sentence vector, or counts of character runs or words hashed into a fixed number.

None of it comes from a model that is steered, so that a factor cannot please a judge by moving what both look at.
"""

# Axes: B texts, F features.

from __future__ import annotations

import hashlib
import html
import io
import json
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from factorlm.errors import IncompatibleError
from factorlm.files import write_whole
from factorlm.models.fetch import MODELS, cache_folder
from factorlm.models.sentences import load_sentence_encoder
from factorlm.settings import Config

Array = NDArray[np.float64]
Report = Callable[[str, int, int], None]  # stage, done, total

CHARACTERS = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "\N{NO-BREAK SPACE}": " "})
BRACKETS = re.compile(r"-([lr])rb-", re.IGNORECASE)
ADDRESS = re.compile(r"https?://\S+|www\.\S+|<url>|@\w+:?")
CONTRACTION = re.compile(r" (n't|'(?:s|ve|re|ll|d|m))\b", re.IGNORECASE)
LOOSE_MARK = re.compile(r"\s+([.,!?;:)])")
WORD = r"(?u)\b\w[\w']*\b|[!?]"


def normalise(text: str) -> str:
    """One spelling for what data sets and models write differently.

    Entities become characters, quotes straight; addresses, names of users and the mark of a shared message go; what a
    tokenizer of words cut off (n't, 's, marks) is joined again; runs of white space become one blank.
    """
    text = html.unescape(text).translate(CHARACTERS).replace("``", '"').replace("''", '"')
    text = BRACKETS.sub(lambda match: "(" if match[1] in "lL" else ")", text)
    text = re.sub(r"^\s*RT\b:?", "", ADDRESS.sub("", text))
    return " ".join(LOOSE_MARK.sub(r"\1", CONTRACTION.sub(r"\1", text)).split())


class SentenceFeatures(Config):
    """The vector of a sentence encoder, of length one.

    Attributes:
        kind: which features these are.
        encoder: its name.
        sha256: of the package it comes from; another encoder's vectors mean something else.
    """

    kind: Literal["sentence"] = "sentence"
    encoder: Literal["minilm"] = "minilm"
    sha256: str = MODELS["minilm"].wheels[0].sha256

    @property
    def width(self) -> int:
        """Number of features."""
        return 384


class CharacterFeatures(Config):
    """Runs of characters within words, hashed.

    Attributes:
        kind: which features these are.
        shortest: run.
        longest: run.
        width: number of features.
    """

    kind: Literal["characters"] = "characters"
    shortest: Annotated[int, Field(ge=1)] = 2
    longest: Annotated[int, Field(ge=1, le=8)] = 5
    width: Annotated[int, Field(ge=2, le=2**20)] = 2**16


class WordFeatures(Config):
    """Words and runs of words, hashed.

    Attributes:
        kind: which features these are.
        longest: run.
        width: number of features.
    """

    kind: Literal["words"] = "words"
    longest: Annotated[int, Field(ge=1, le=4)] = 2
    width: Annotated[int, Field(ge=2, le=2**20)] = 2**17


Features = Annotated[SentenceFeatures | CharacterFeatures | WordFeatures, Field(discriminator="kind")]


def extract(settings: SentenceFeatures | CharacterFeatures | WordFeatures, texts: Sequence[str], report: Report) -> Any:
    """Features of texts: a dense array or a sparse matrix, [B, F].

    Counts are damped to 1 + log(count), and each row is brought to length one, so that long texts say no more than
    short ones.

    Raises:
        IncompatibleError: if a judge was trained on vectors of another encoder than the one at hand.
    """
    clean = [normalise(text) for text in texts]
    if isinstance(settings, SentenceFeatures):
        if settings.sha256 != MODELS[settings.encoder].wheels[0].sha256:
            raise IncompatibleError(
                f"a judge needs {settings.encoder} of sha256 {settings.sha256[:12]}…, here is "
                f"{MODELS[settings.encoder].wheels[0].sha256[:12]}…; train the judge again"
            )
        encoder = load_sentence_encoder()
        return encoder.encode(clean, lambda done, total: report("reading sentences", done, total)).numpy()
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.preprocessing import normalize

    if isinstance(settings, CharacterFeatures):
        runs = {"analyzer": "char_wb", "ngram_range": (settings.shortest, settings.longest)}
    else:
        runs = {"analyzer": "word", "ngram_range": (1, settings.longest), "token_pattern": WORD}
    counter = HashingVectorizer(n_features=settings.width, norm=None, alternate_sign=False, **runs)
    count_BF = counter.transform(clean)
    count_BF.data = 1 + np.log(count_BF.data)
    return normalize(count_BF)


def extract_kept(
    settings: SentenceFeatures | CharacterFeatures | WordFeatures, texts: Sequence[str], report: Report
) -> Any:
    """Features of texts; sentence vectors, which take time, are kept in the cache for the next training."""
    if not isinstance(settings, SentenceFeatures):
        return extract(settings, texts, report)
    key = hashlib.sha256(json.dumps([settings.sha256, [normalise(text) for text in texts]]).encode()).hexdigest()
    path = cache_folder() / "judges" / f"{key[:24]}.npy"
    if path.is_file():
        return np.load(path, allow_pickle=False)
    vector_BF = extract(settings, texts, report)
    content = io.BytesIO()
    np.save(content, vector_BF)
    write_whole(path, content.getvalue())
    return vector_BF
