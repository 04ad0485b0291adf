"""What one model believes once it has read some evidence, as the text before."""

# Axes: S statements.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from factorlm.algebra import Factor, pad_left, pad_right
from factorlm.inference.respond import Mode
from factorlm.prior import Prior

Array = NDArray[np.float64]


def one_model(prior: Prior, mode: Mode) -> Factor:
    """The blend of a prior, or its only component: a language model with one law for next tokens."""
    return prior.blend if mode == "blend" else prior.ensemble.component(0)


def log_probs_after(prior: Prior, mode: Mode, evidence: str, statements: Sequence[str]) -> Array:
    """Log probability of each statement as the sentence after the evidence, [S], in nats.

    Without evidence, as a text of its own.
    """
    lm = prior.lm
    before = lm.encode_text(evidence) if evidence else []
    rows = [lm.encode_text(f" {statement}" if evidence else statement) for statement in statements]
    prefix_BT = pad_left([[*lm.start_ids, *before]] * len(rows))
    with torch.no_grad():
        log_prob_BT = one_model(prior, mode).score(prefix_BT, pad_right(rows))
    return np.asarray(log_prob_BT.double().sum(1).cpu().numpy())


def updates_in_context(prior: Prior, mode: Mode, pairs: Sequence[tuple[str, str]]) -> Array:
    """Delta = log P(s' | s read before) - log P(s') for each pair, [S], in nats."""
    found = []
    for statement, negation in pairs:
        [after] = log_probs_after(prior, mode, statement, [negation])
        [before] = log_probs_after(prior, mode, "", [negation])
        found.append(after - before)
    return np.array(found)


def belief_after(prior: Prior, mode: Mode, evidence: str, pairs: Sequence[tuple[str, str]]) -> Array:
    """Probability of each statement against its negation after the evidence, [S]."""
    log_prob_N = log_probs_after(prior, mode, evidence, [text for pair in pairs for text in pair])
    return np.asarray(1 / (1 + np.exp(log_prob_N[1::2] - log_prob_N[0::2])))
