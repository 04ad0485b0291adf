"""The Factor protocol, its operators, its laws, and exact answers for tiny languages."""

from factorlm.algebra import laws
from factorlm.algebra.backoff import Backoff, BackoffRatio
from factorlm.algebra.enumeration import global_product, local_product, log_weights_of_texts, total_variation
from factorlm.algebra.factor import PAD, Factor, State, end_together, pad_left, pad_right, select_rows, without_last
from factorlm.algebra.logspace import entropy, log_mean, log_normalize, mean_where_possible, scale
from factorlm.algebra.operators import (
    Interpolation,
    Intersection,
    LocalProduct,
    Mixture,
    Named,
    Power,
    Product,
    Union,
)
from factorlm.algebra.tree import Term, device_of, flatten, leaves, map_leaves, merge, names_of, rows_of, unflatten

__all__ = [
    "PAD",
    "Backoff",
    "BackoffRatio",
    "Factor",
    "Interpolation",
    "Intersection",
    "LocalProduct",
    "Mixture",
    "Named",
    "Power",
    "Product",
    "State",
    "Term",
    "Union",
    "device_of",
    "end_together",
    "entropy",
    "flatten",
    "global_product",
    "laws",
    "leaves",
    "local_product",
    "log_mean",
    "log_normalize",
    "log_weights_of_texts",
    "map_leaves",
    "mean_where_possible",
    "merge",
    "names_of",
    "pad_left",
    "pad_right",
    "rows_of",
    "scale",
    "select_rows",
    "total_variation",
    "unflatten",
    "without_last",
]
