"""Copies of a language model that share its numbers, so that one can be changed and the other stays as it was."""

from __future__ import annotations

import copy
from typing import Any

from factorlm.models.causal import CausalLM


def twin(lm: CausalLM) -> Any:
    """The network of a language model, module by module anew, over the very same parameters.

    Modules may be replaced and hooks added without touching the original; parameters must not be written to.
    """
    return copy.deepcopy(lm.model, {id(weight): weight for weight in lm.model.parameters()})


def as_language_model(network: Any, lm: CausalLM, name: str) -> CausalLM:
    """A changed twin as a language model with the tokens of the original."""
    return CausalLM(network, lm.tokenizer, name=name, start_ids=lm.start_ids, end_ids=lm.vocabulary.end_ids)
