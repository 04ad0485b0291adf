"""Which tokens a head pushes and pulls."""

# Axes: N neutral states, V vocabulary.

from __future__ import annotations

import torch
from torch import Tensor

from factorlm.factors.calibration import neutral_states
from factorlm.factors.head import Head

SELDOM = 1e-6  # probability below which the model would write a token nowhere


@torch.no_grad()
def usual_pushes(head: Head) -> tuple[Tensor, Tensor]:
    """Tokens that the model would write after neutral openings, and what the head does to each, in nats.

    Returns:
        Token numbers, and their mean log potentials at exponent one less the mean under the model, largest first.
    """
    states = neutral_states(head.lm)
    usual_V = states.log_prob_NV.exp().mean(0)
    push_V = head.potential(states.hidden_ND).mean(0)
    push_V = push_V - (push_V * usual_V).sum()
    seen = (usual_V > SELDOM).nonzero()[:, 0]
    order = seen[push_V[seen].argsort(descending=True)]
    return order, push_V[order]


def written(token_bytes: bytes) -> str:
    """A token for people: blanks and line ends are seen."""
    return token_bytes.decode("utf-8", "replace").replace(" ", "␣").replace("\n", "↵")
