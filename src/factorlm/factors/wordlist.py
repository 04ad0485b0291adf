"""A lexicon as words and boosts, before it meets the tokens of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from factorlm.factors.lexicon import Lexicon
from factorlm.factors.manifest import LexiconSettings
from factorlm.factors.strength import StrengthMap
from factorlm.factors.unbound import Unbound
from factorlm.models import CausalLM


@dataclass(frozen=True, eq=False)
class UnboundLexicon(Unbound):
    """Words and phrases with a boost in nats each; -inf bans."""

    phrases: Mapping[str, float]
    case_sensitive: bool = False
    whole_word: bool = True

    @classmethod
    def from_settings(cls, name: str, strengths: StrengthMap | None, settings: LexiconSettings) -> UnboundLexicon:
        """As a factor file has it, where null bans."""
        phrases = {phrase: -math.inf if boost is None else boost for phrase, boost in settings.phrases.items()}
        return cls(name, strengths, phrases, settings.case_sensitive, settings.whole_word)

    def bind(self, lm: CausalLM) -> Lexicon:
        """See Unbound."""
        lexicon = Lexicon.from_tokenizer(
            self.name,
            self.phrases,
            lm.vocabulary,
            lm.encode_text,
            case_sensitive=self.case_sensitive,
            whole_word=self.whole_word,
        )
        return replace(lexicon, strengths=self.strengths)
