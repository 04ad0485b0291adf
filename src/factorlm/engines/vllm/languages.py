"""Formal languages for vLLM's structured outputs: the same grammars that the embedded engine reads.

Both are llguidance's. vLLM's masks would force stretches that the grammar leaves no choice in to be cut into the
tokenizer's own tokens; ours allow every cut, so that is switched off, and probabilities agree.
"""

from __future__ import annotations

import json
from typing import Any

from factorlm.errors import InputError
from factorlm.factors.grammar import choice_grammar, json_grammar, lark_grammar, regex_grammar
from factorlm.factors.manifest import GrammarSettings

EVERY_CUT = '%llguidance {"no_forcing": true}\n'


def rules_of(kind: str, content: str) -> str:
    """A language as rules for vLLM.

    Args:
        kind: json_schema, regex, grammar or choice.
        content: of it; choices are a JSON list.

    Raises:
        InputError: if it cannot be used.
    """
    makers: dict[str, Any] = {
        "json_schema": json_grammar,
        "regex": regex_grammar,
        "grammar": lark_grammar,
        "choice": lambda choices: choice_grammar(json.loads(choices)),
    }
    if kind not in makers:
        raise InputError(f"a language is one of {', '.join(makers)}, got {kind!r}; choose one")
    source = str(makers[kind](content))
    if not source.lstrip().startswith("{"):
        return EVERY_CUT + source
    (grammar,) = json.loads(source)["grammars"]
    if grammar.get("lark_grammar") is not None:
        return EVERY_CUT + str(grammar["lark_grammar"])
    return f"{EVERY_CUT}start: %json {json.dumps(grammar['json_schema'])}"


def language_of(settings: GrammarSettings) -> tuple[str, str]:
    """Kind and content of the language of a factor in a store."""
    if settings.json_schema is not None:
        return "json_schema", settings.json_schema
    if settings.regex is not None:
        return "regex", settings.regex
    if settings.rules is not None:
        return "grammar", settings.rules
    return "choice", json.dumps(list(settings.choices or ()))
