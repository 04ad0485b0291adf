"""Language models: transformers behind the Factor protocol, and explicit tables for exact tests."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from factorlm.models.causal import CausalLM
    from factorlm.models.sentences import SentenceEncoder
    from factorlm.models.table import Table, markov_pair, random_table

# Loaded when first used: what only fetches models needs no torch.
_HOMES = {
    "CausalLM": "causal",
    "SentenceEncoder": "sentences",
    "Table": "table",
    "markov_pair": "table",
    "random_table": "table",
}

__all__ = ["CausalLM", "SentenceEncoder", "Table", "markov_pair", "random_table"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"factorlm.models.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'factorlm.models' has no attribute {name!r}")
