"""Kinds of text in three parts: what a memory is built from, what its weights are learned on, what is measured."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt

from factorlm.errors import InputError
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.texts import Corpus, Limit
from factorlm.settings import Config


class Texts(Config):
    """Some documents of a part of a data set.

    Attributes:
        corpus: the part, and what a document of it is; it says how much of each is taken.
        first: documents left out at the beginning.
        number: that are taken; None takes all behind these.
    """

    corpus: Corpus
    first: NonNegativeInt = 0
    number: Limit = None

    def load(self, data: DataFolder) -> list[str]:
        """The documents.

        Raises:
            InputError: if there are none.
        """
        everything = self.corpus.model_copy(update={"max_documents": None}).load(data)
        last = None if self.number is None else self.first + self.number
        texts = [document.text for document in everything[self.first : last]]
        if not texts:
            raise InputError(f"{self.corpus.part} has {len(everything)} documents, got none behind {self.first}")
        return texts


class Domain(Config):
    """A kind of text.

    Attributes:
        name: of it.
        stored: what a memory is built from.
        valid: what weights are learned on.
        test: what is measured.
    """

    name: Annotated[str, Field(min_length=1)]
    stored: Texts
    valid: Texts
    test: Texts


def _all(
    part: str, documents: str = "rows", first: int = 0, number: int | None = None, cut: int | None = None
) -> Texts:
    corpus = Corpus(part=part, documents=documents, max_documents=None, max_characters=cut)  # type: ignore[arg-type]
    return Texts(corpus=corpus, first=first, number=number)


DOMAINS = (
    Domain(
        name="encyclopedia",
        stored=_all("wikitext/wikitext103_train_head", "headings"),
        valid=_all("wikitext/wikitext103_valid", "headings", cut=4000),
        test=_all("wikitext/wikitext103_test", "headings", cut=4000),
    ),
    Domain(
        name="newswire",
        stored=_all("ptb/train", "whole"),
        valid=_all("ptb/valid", "whole", cut=60_000),
        test=_all("ptb/test", "whole", cut=60_000),
    ),
    Domain(
        name="stories",
        stored=_all("tinystories/train"),
        valid=_all("tinystories/valid", number=100),
        test=_all("tinystories/valid", first=100),
    ),
    Domain(
        name="contracts",
        stored=_all("cuad/contracts", number=420),
        valid=_all("cuad/contracts", first=420, number=30, cut=4000),
        test=_all("cuad/contracts", first=450, cut=4000),
    ),
)
