"""Factors for expressions: by name from a store, or made on the spot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from factorlm.errors import InputError
from factorlm.factors import store
from factorlm.factors.grammar import UnboundGrammar, choice_grammar, json_grammar, lark_grammar, regex_grammar
from factorlm.factors.prompt import UnboundPrompt
from factorlm.factors.unbound import Unbound
from factorlm.factors.wordlist import UnboundLexicon


def factor(name: str) -> Unbound:
    """A factor of the store, by name or folder: `fl.load() * fl.factor("positive") ** 2`.

    Raises:
        UnknownNameError: if there is no such factor.
        IntegrityError: if its files are not what its manifest says.
    """
    folder = store.folder_of(name)
    stamps = tuple((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in sorted(folder.iterdir()))
    return _loaded(str(folder.absolute()), stamps)


@lru_cache(maxsize=256)
def _loaded(folder: str, stamps: tuple[tuple[str, int, int], ...]) -> Unbound:
    """The factor in a folder; the same object while its files stay as they are, so that what was measured is kept."""
    return store.load(folder)  # an absolute path is always taken as a folder


def prompt(instruction: str, *, name: str = "prompt") -> Unbound:
    """The factor p(x | instruction) / p(x): what reading the instruction first changes."""
    return UnboundPrompt(name, None, instruction)


def lexicon(
    phrases: Mapping[str, float] | Sequence[str],
    *,
    ban: bool = False,
    name: str = "lexicon",
    case_sensitive: bool = False,
    whole_word: bool = True,
) -> Unbound:
    """Words and phrases to boost, in nats each, or to ban.

    Args:
        phrases: a boost for each phrase (-inf bans it), or just the phrases.
        ban: whether to ban phrases given without boosts; else each gets 2 nats.
        name: what explanations call it.
        case_sensitive: whether case matters.
        whole_word: whether a phrase must not be part of a longer word.
    """
    if isinstance(phrases, str) or (ban and isinstance(phrases, Mapping)):
        raise InputError("a list of phrases, or a boost for each, is needed; -inf as a boost bans")
    if not isinstance(phrases, Mapping):
        phrases = dict.fromkeys(phrases, float("-inf") if ban else 2.0)
    return UnboundLexicon(name, None, dict(phrases), case_sensitive, whole_word)


def grammar(
    *,
    json_schema: str | Mapping[str, Any] | None = None,
    regex: str | None = None,
    rules: str | None = None,
    choices: Sequence[str] | None = None,
    name: str = "grammar",
) -> Unbound:
    """Texts of a formal language, all others impossible; the language counts from the end of the prompt on.

    Args:
        json_schema: JSON texts that this schema allows, on one line.
        regex: texts that match as a whole (Rust's dialect).
        rules: texts of a context-free grammar, in Lark's notation or in EBNF with ::=.
        choices: one of these texts.
        name: what explanations call it.

    Raises:
        InputError: unless exactly one language is given, and it can be used.
    """
    given = [x for x in (json_schema, regex, rules, choices) if x is not None]
    if len(given) != 1:
        raise InputError(f"one of json_schema, regex, rules and choices is needed, got {len(given)}")
    if json_schema is not None:
        source = json_grammar(json_schema)
    elif regex is not None:
        source = regex_grammar(regex)
    elif rules is not None:
        source = lark_grammar(rules)
    else:
        source = choice_grammar(choices or ())
    return UnboundGrammar(name, None, source)
