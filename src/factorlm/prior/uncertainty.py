"""What a prior does not know, split in two: of the next token given the model, and of the model.

H(sum_k w_k p_k) = sum_k w_k H(p_k) + I: the second term, the mutual information of next token and component, is the
part that evidence on the model would take away. Sources: Depeweg et al. (2018), arXiv:1710.07283; for language models
Malinin and Gales (2021), arXiv:2002.07650.
"""

# Axes: B texts, K components, T time, V vocabulary.

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.algebra import PAD, entropy, log_normalize
from factorlm.prior.mixture import Together


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """At each token of some texts, before it was read, in nats; zero after the end of a text.

    Attributes:
        within_BT: mean entropy of the components: of the next token, given the model.
        between_BT: mutual information of next token and component: of the model.
        log_prob_BT: of the token, under the mixture.
        weight_BTK: of each component, given the text before.
    """

    within_BT: Tensor
    between_BT: Tensor
    log_prob_BT: Tensor
    weight_BTK: Tensor

    @property
    def total_BT(self) -> Tensor:
        """Entropy of the mixture's next token."""
        return self.within_BT + self.between_BT


@torch.no_grad()
def uncertainty(model: Together, prefix_BT: Tensor, text_BT: Tensor) -> Uncertainty:
    """The split at each token of texts, under a prior's mixture.

    Args:
        model: `Prior.mixture`, or its blend, where weights are those of the mixture all the same.
        prefix_BT: what stands before the texts, filled on the left with PAD.
        text_BT: the texts, filled on the right with PAD.
    """
    within, between, log_probs, weights = [], [], [], []
    num_components = model.ensemble.num_components
    for (joint_BK, log_prob_KBV), token_B in zip(model.beliefs(prefix_BT, text_BT), text_BT.unbind(1), strict=True):
        log_weight_BK = log_normalize(joint_BK)
        within_B, between_B, log_prob_BV = decomposed(log_weight_BK, log_prob_KBV)
        real_B = (token_B != PAD).to(log_prob_BV.device)
        token_B1 = token_B.to(log_prob_BV.device).clamp(min=0)[:, None]
        weight_BK = log_weight_BK.new_zeros(len(token_B), num_components)
        weight_BK[:, model.alive.to(weight_BK.device)] = log_weight_BK.exp()
        within.append(torch.where(real_B, within_B, 0.0))
        between.append(torch.where(real_B, between_B, 0.0))
        log_probs.append(torch.where(real_B, log_prob_BV.gather(1, token_B1)[:, 0], 0.0))
        weights.append(torch.where(real_B[:, None], weight_BK, 0.0))
    if not within:
        nothing = torch.zeros(text_BT.shape)
        return Uncertainty(nothing, nothing, nothing, torch.zeros(*text_BT.shape, num_components))
    return Uncertainty(*(torch.stack(found, 1) for found in (within, between, log_probs, weights)))


def decomposed(log_weight_BK: Tensor, log_prob_KBV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean entropy of components and mutual information, [B] each, in nats; and the mixture, [B, V]."""
    log_weight_KB = log_weight_BK.T.to(log_prob_KBV.dtype)
    log_prob_BV = torch.logsumexp(log_weight_KB[:, :, None] + log_prob_KBV, 0)
    within_B = (log_weight_KB.exp() * entropy(log_prob_KBV)).sum(0)
    return within_B, (entropy(log_prob_BV) - within_B).clamp(min=0.0), log_prob_BV


@torch.no_grad()
def pairwise_divergence(model: Together, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
    """Mean Jensen-Shannon divergence of the next-token distributions of each two components, [K, K], in nats a token.

    Components without weight are at zero from all others, since they are not run.
    """
    alive = model.alive.tolist()
    total_KK = torch.zeros(model.ensemble.num_components, model.ensemble.num_components, dtype=torch.float64)
    half = torch.full((1, 2), 0.5, dtype=torch.float64).log()
    for (_, log_prob_KBV), token_B in zip(model.beliefs(prefix_BT, text_BT), text_BT.unbind(1), strict=True):
        real_B = (token_B != PAD).to(log_prob_KBV.device)
        for a, k in enumerate(alive):
            for b, j in enumerate(alive[:a]):
                _, between_B, _ = decomposed(half.expand(len(real_B), 2), log_prob_KBV[[a, b]])
                total_KK[k, j] += float(between_B[real_B].sum())
    return (total_KK + total_KK.T) / max(1, int((text_BT != PAD).sum()))
