"""Factors: heads on the shared encoder, lexica, prompts, contrasts; their files, their training, and fusing them."""

from factorlm.factors.contrast import contrast
from factorlm.factors.head import Head, HeadWeights, UnboundHead
from factorlm.factors.headed import HeadedModel, fuse
from factorlm.factors.lexicon import Lexicon
from factorlm.factors.named import factor, grammar, lexicon, prompt
from factorlm.factors.store import Store
from factorlm.factors.strength import StrengthMap
from factorlm.factors.unbound import Unbound, bind

__all__ = [
    "Head",
    "HeadWeights",
    "HeadedModel",
    "Lexicon",
    "Store",
    "StrengthMap",
    "Unbound",
    "UnboundHead",
    "bind",
    "contrast",
    "factor",
    "fuse",
    "grammar",
    "lexicon",
    "prompt",
]
