"""Language models: transformers behind the Factor protocol, and explicit tables for exact tests."""

from factorlm.models.table import Table, markov_pair, random_table

__all__ = ["Table", "markov_pair", "random_table"]
