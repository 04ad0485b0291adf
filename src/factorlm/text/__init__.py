"""Vocabularies, the bytes of tokens, and text that arrives token by token."""

from factorlm.text.stream import TextStream
from factorlm.text.vocabulary import Vocabulary, is_utf8, letters

__all__ = ["TextStream", "Vocabulary", "is_utf8", "letters"]
