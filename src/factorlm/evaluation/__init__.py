"""Measures. So far: speed, as ratios within one run."""

from factorlm.evaluation.speed import Ratio, decoding_against_transformers, heads_against_none, scoring_with_factors

__all__ = ["Ratio", "decoding_against_transformers", "heads_against_none", "scoring_with_factors"]
