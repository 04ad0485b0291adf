"""What each component assumes, shown: texts it explains best or writes, tokens it likes, words near its vectors."""

# Axes: B texts, D width, K components, M places, N texts, T time, V vocabulary.

from __future__ import annotations

import torch
from torch import Tensor

from factorlm.algebra import PAD, pad_left, pad_right
from factorlm.models import CausalLM
from factorlm.models.progress import Report
from factorlm.prior.drawing import write
from factorlm.prior.learning import Rows
from factorlm.prior.manifest import Portrait
from factorlm.prior.mixture import Bayes, PerResponse
from factorlm.prior.uncertainty import pairwise_divergence

NUM_TYPICAL, NUM_OWN, NUM_TOKENS = 2, 2, 10
OWN_TOKENS = 28
TYPICAL_CHARACTERS = 160
PROBES = 12  # texts on which components are compared
PROBE_TOKENS = 24


def portraits(
    mixture: Bayes, lm: CausalLM, rows: Rows, log_lik_NK: Tensor, soft_KMD: Tensor | None, seed: int, report: Report
) -> tuple[list[Portrait], Tensor]:
    """A portrait of each component, and the divergence of each two, [K, K]; see `uncertainty.pairwise_divergence`.

    Args:
        mixture: of the prior.
        lm: the base.
        rows: token ids of texts that components were learned from.
        log_lik_NK: log probabilities of these.
        soft_KMD: vectors in the places of tokens, where components are made of such.
        seed: of what is written.
        report: told of progress.
    """
    num_components = mixture.ensemble.num_components
    generator = torch.Generator().manual_seed(seed)
    report("portraits", 0, 3)
    component_B = torch.arange(num_components).repeat_interleave(NUM_OWN)
    written = write(
        PerResponse(mixture.ensemble, component_B), [lm.start_ids] * len(component_B), OWN_TOKENS, generator
    )
    report("portraits", 1, 3)
    probes = torch.randperm(len(rows), generator=generator)[:PROBES].tolist()
    text_BT = pad_right([rows[i][:PROBE_TOKENS] for i in probes])
    prefix_BT = pad_left([list(lm.start_ids)] * len(probes))
    divergence_KK = pairwise_divergence(mixture, prefix_BT, text_BT)
    report("portraits", 2, 3)
    liked = _liked(mixture, lm, prefix_BT, text_BT)
    log_resp_NK = (log_lik_NK / torch.tensor([len(row) for row in rows])[:, None]).log_softmax(1)
    found = []
    for k in range(num_components):
        typical = log_resp_NK[:, k].topk(min(NUM_TYPICAL, len(rows))).indices.tolist()
        found.append(
            Portrait(
                typical=tuple(lm.vocabulary.text(rows[n])[:TYPICAL_CHARACTERS] for n in typical),
                own_words=tuple(lm.vocabulary.text(row) for row in written[k * NUM_OWN : (k + 1) * NUM_OWN]),
                tokens=liked[k],
                nearest=() if soft_KMD is None else _nearest(lm, soft_KMD[k]),
            )
        )
    report("portraits", 3, 3)
    return found, divergence_KK


def _liked(mixture: Bayes, lm: CausalLM, prefix_BT: Tensor, text_BT: Tensor) -> list[tuple[str, ...]]:
    """For each component the tokens that add most to its divergence from the mixture, sum_t p_k log(p_k / p)."""
    alive = mixture.alive.tolist()
    total_KV = torch.zeros(mixture.ensemble.num_components, lm.vocabulary.size)
    log_weight_K11 = mixture.log_prob_K[alive].float()[:, None, None]
    for (_, log_prob_KBV), token_B in zip(mixture.beliefs(prefix_BT, text_BT), text_BT.unbind(1), strict=True):
        log_prob_KBV = log_prob_KBV[:, (token_B != PAD).to(log_prob_KBV.device)].cpu()
        log_mixed_BV = torch.logsumexp(log_weight_K11 + log_prob_KBV, 0)
        total_KV[alive] += (log_prob_KBV.exp() * (log_prob_KBV - log_mixed_BV)).nan_to_num(0.0).sum(1)
    return [tuple(lm.vocabulary.text([v]) for v in row_V.topk(NUM_TOKENS).indices.tolist()) for row_V in total_KV]


def _nearest(lm: CausalLM, soft_MD: Tensor) -> tuple[str, ...]:
    """The word whose embedding has the smallest angle with each vector."""
    table_VD = torch.nn.functional.normalize(lm.model.get_input_embeddings().weight.float(), dim=1)
    return tuple(lm.vocabulary.text([v]) for v in (table_VD @ soft_MD.to(table_VD).T).argmax(0).tolist())
