"""Search: texts that are best by some measure. These optimise or vote; what they give is no sample of the product."""

from factorlm.inference.search.beam import beam_search
from factorlm.inference.search.best import best_of, vote
from factorlm.inference.search.contrastive import ContrastiveSearch, contrastive_search
from factorlm.inference.search.counting import Counting, Spent
from factorlm.inference.search.found import Found, Vote
from factorlm.inference.search.tree import TreeSearch, tree_search

__all__ = [
    "ContrastiveSearch",
    "Counting",
    "Found",
    "Spent",
    "TreeSearch",
    "Vote",
    "beam_search",
    "best_of",
    "contrastive_search",
    "tree_search",
    "vote",
]
