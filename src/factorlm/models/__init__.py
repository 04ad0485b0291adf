"""Language models: transformers behind the Factor protocol, and explicit tables for exact tests."""

from factorlm.models.causal import CausalLM
from factorlm.models.table import Table, markov_pair, random_table

__all__ = ["CausalLM", "Table", "markov_pair", "random_table"]
