"""Editing the phrases of a lexicon, and exceptions from them.

An exception is a longer phrase inside which no other phrase counts: "kill the process" where "kill" is pulled. It is
stored as one more phrase with the boost that makes it weigh nothing in all, so a lexicon file needs no new notion, and
the weight of a text is exactly the sum of the boosts of the matches that lie in no exception.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from factorlm.errors import InputError, UnknownNameError
from factorlm.factors.lexicon import Lexicon
from factorlm.factors.manifest import LexiconSettings
from factorlm.text import letters
from factorlm.text.automaton import Automaton, fold

NEGLIGIBLE = 1e-9  # nats
Boosts = dict[str, float]  # -inf bans


def edited_phrases(
    settings: LexiconSettings,
    exceptions: Collection[str] = (),
    *,
    allow: Sequence[str] = (),
    forbid: Sequence[str] = (),
    boost: Mapping[str, float] | None = None,
) -> tuple[LexiconSettings, tuple[str, ...]]:
    """A lexicon after an edit, and what else followed from it, a line each.

    Args:
        settings: the lexicon before.
        exceptions: which of its phrases were allowed inside others by earlier edits.
        allow: phrases to take out, or to make exceptions of if others count inside them.
        forbid: phrases to ban.
        boost: nats for phrases.

    Raises:
        InputError: if a phrase cannot be allowed, with what to do instead.
    """
    kept = _Phrases.of(settings, exceptions)
    notes: list[str] = []
    for phrase, value in [*((p, -math.inf) for p in forbid), *(boost or {}).items()]:
        kept.drop(phrase)
        kept.boosts[phrase.strip()] = value
    Lexicon("", kept.boosts or {"a": 1.0}, letters("a"))  # complains of what cannot be a phrase
    for phrase in allow:
        kept.allow(phrase)
    if not kept.boosts:
        raise InputError("a lexicon needs at least one phrase, and this takes out its last; remove the factor instead")
    compiled = kept.compiled(allow, notes)
    phrases = {phrase: None if value == -math.inf else value for phrase, value in compiled.items()}
    return settings.model_copy(update={"phrases": phrases}), tuple(notes)


@dataclass
class _Phrases:
    """Phrases in the making: those that count, and the exceptions from them."""

    boosts: Boosts
    exceptions: list[str]
    is_case_sensitive: bool
    is_whole_word: bool

    @classmethod
    def of(cls, settings: LexiconSettings, exceptions: Collection[str]) -> _Phrases:
        keys = {fold(phrase.strip(), settings.case_sensitive) for phrase in exceptions}
        boosts = {p: -math.inf if b is None else b for p, b in settings.phrases.items()}
        excepted = [p for p, b in boosts.items() if fold(p.strip(), settings.case_sensitive) in keys and b > -math.inf]
        counted = {p: b for p, b in boosts.items() if p not in excepted}
        return cls(counted, excepted, settings.case_sensitive, settings.whole_word)

    def key(self, phrase: str) -> str:
        return fold(phrase.strip(), self.is_case_sensitive)

    def drop(self, phrase: str) -> bool:
        """Forget a phrase however it is written; whether it counted."""
        same = [p for p in self.boosts if self.key(p) == self.key(phrase)]
        for p in same:
            del self.boosts[p]
        self.exceptions = [p for p in self.exceptions if self.key(p) != self.key(phrase)]
        return bool(same)

    def allow(self, phrase: str) -> None:
        was_exception = any(self.key(p) == self.key(phrase) for p in self.exceptions)
        counted = self.drop(phrase)
        inside = self.inside(phrase)
        banned = [p for p in inside if self.boosts[p] == -math.inf]
        if banned:
            raise InputError(
                f"{phrase!r} contains {banned[0]!r}, which is banned, and a ban has no exceptions; pull it instead "
                f'(--boost "{banned[0]}=-8") and allow {phrase!r} then, or allow {banned[0]!r} itself'
            )
        if inside:
            self.exceptions.append(phrase.strip())
        if (not counted and not inside) or was_exception:
            raise self._unknown(phrase, was_exception)

    def inside(self, phrase: str) -> list[str]:
        """The phrases that count inside this one, as often as they do."""
        if not self.boosts:
            return []
        return [found for found, _, _ in self._automaton(self.boosts).matches(self.key(phrase))]

    def compiled(self, wanted: Sequence[str], notes: list[str]) -> Boosts:
        """All phrases with their boosts: each exception gets what makes it weigh nothing in all."""
        found = dict(self.boosts)
        by_key = {self.key(p): p for p in self.exceptions}
        finder = self._automaton([*found, *by_key.values()])
        keys_wanted = {self.key(p) for p in wanted}
        for key in sorted(by_key, key=len):  # shorter ones may lie inside longer ones
            phrase = by_key.pop(key)
            inside = [p for p, _, _ in finder.matches(key) if p != phrase and p in found]
            if any(found[p] == -math.inf for p in inside):
                notes.append(f"{phrase!r} is no exception any more: a ban has none")
                continue
            total = math.fsum(found[p] for p in inside)
            if abs(total) > NEGLIGIBLE:
                found[phrase] = -total
            elif key in keys_wanted:
                raise InputError(f"{phrase!r} weighs nothing already, so there is nothing to allow; leave it out")
            else:
                notes.append(f"{phrase!r} needs no exception any more")
        self._check_overlaps([p for p in self.exceptions if p in found])
        return found

    def _check_overlaps(self, exceptions: Sequence[str]) -> None:
        """A match in two exceptions that overlap would be taken back twice: refuse that."""
        if not exceptions:
            return
        finder, keys = self._automaton(self.boosts), [self.key(p) for p in exceptions]
        for first, second in itertools.product(keys, repeat=2):
            for shared in range(1, min(len(first), len(second))):
                if not first.endswith(second[:shared]):
                    continue
                both, begin = first + second[shared:], len(first) - shared
                ends = {(a, b) for _, a, b in self._automaton({first: 0.0, second: 0.0}).matches(both)}
                twice = [p for p, a, b in finder.matches(both) if begin <= a and b <= len(first)]
                if twice and (0, len(first)) in ends and (begin, len(both)) in ends:
                    remedy = f"allow {both!r} instead of one of them" if first != second else f"boost {first!r} instead"
                    raise InputError(
                        f"exceptions {first!r} and {second!r} overlap in {both!r}, where {twice[0]!r} would be taken "
                        f"back twice; {remedy}"
                    )

    def _automaton(self, phrases: Collection[str]) -> Automaton:
        unique = tuple(dict.fromkeys(phrases))
        return Automaton.build(unique, case_sensitive=self.is_case_sensitive, whole_word=self.is_whole_word)

    def _unknown(self, phrase: str, was_exception: bool) -> InputError:
        if was_exception:
            return InputError(f"{phrase!r} is allowed already; there is nothing to change")
        key, by_key = self.key(phrase), {self.key(p): p for p in [*self.boosts, *self.exceptions]}
        longer = [p for k, p in by_key.items() if key in k]
        near = [by_key[k] for k in difflib.get_close_matches(key, by_key, n=3, cutoff=0.5)]
        shown = list(dict.fromkeys([*near, *longer]))[:3] or list(by_key.values())[:5]
        advice = (
            f"did you mean {' or '.join(map(repr, shown))}?" if near or longer else f"it has {', '.join(shown)}, ..."
        )
        return UnknownNameError(f"no phrase {phrase!r} in the lexicon, and none inside it; {advice}")
