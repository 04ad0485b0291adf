"""Vocabularies, the bytes of tokens, and text that arrives token by token."""

from factorlm.text.stream import TextStream
from factorlm.text.vocabulary import Vocabulary, letters

__all__ = ["TextStream", "Vocabulary", "letters"]
