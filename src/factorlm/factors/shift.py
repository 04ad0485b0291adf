"""Stage A of training: the bias of a head, from labelled texts alone.

The evidence of a text is the sum over its tokens of 2 e_x . u; every prefix of a text is a training example with the
label of the whole (FUDGE's loss on an additive score). That needs no pass over the vocabulary and no hidden state, so
it takes seconds. In our comparison (docs/benchmarks.md) such a shift steers as well per nat as costlier objectives.

Sources: prefix classification, Yang and Klein (2021), arXiv:2104.05218; steering by output embeddings, Han et al.
(2024), arXiv:2305.12798.
"""

# Axes: B texts, D width, T time, U tokens that occur, V vocabulary.

from __future__ import annotations

import torch
from torch import Tensor

from factorlm.algebra import PAD, pad_right
from factorlm.models.progress import Report, quiet

BATCH_TEXTS = 32
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2
MOST_EPOCHS = 30
PATIENCE = 3  # epochs without a better dev loss


def fit_shift(
    unembedding_VD: Tensor,
    train: tuple[list[list[int]], Tensor],
    dev: tuple[list[list[int]], Tensor],
    *,
    seed: int = 0,
    report: Report = quiet,
) -> Tensor:
    """The bias u [D] with the best prefix loss on the dev texts.

    Args:
        unembedding_VD: the encoder's unembedding, which is not trained.
        train: tokens of each text, and its label (1 has the attribute) as a float tensor [B].
        dev: the same for texts to stop on.
        seed: of the order of texts.
        report: told of progress.
    """
    bias_D = torch.zeros(unembedding_VD.shape[1], requires_grad=True)
    prior = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.AdamW(
        [{"params": [bias_D], "weight_decay": WEIGHT_DECAY}, {"params": [prior], "weight_decay": 0.0}],
        lr=LEARNING_RATE,
    )
    generator = torch.Generator().manual_seed(seed)
    used = sorted({token for rows, _ in (train, dev) for row in rows for token in row})
    table_UD = unembedding_VD.detach().float().cpu()[used]  # the others have no evidence
    number = {token: n for n, token in enumerate(used)}
    rows, dev_rows = ([[number[token] for token in row] for row in part] for part, _ in (train, dev))
    label_B, dev_label_B = train[1], dev[1]
    best_loss, best_D, waited = float("inf"), bias_D.detach().clone(), 0
    for epoch in range(MOST_EPOCHS):
        for batch in torch.randperm(len(rows), generator=generator).split(BATCH_TEXTS):
            loss = _prefix_loss(bias_D, prior, table_UD, [rows[i] for i in batch], label_B[batch])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([bias_D, prior], 1.0)
            optimizer.step()
        with torch.no_grad():
            dev_loss = float(_prefix_loss(bias_D, prior, table_UD, dev_rows, dev_label_B))
        report("learning the bias", epoch + 1, MOST_EPOCHS)
        if dev_loss < best_loss - 1e-5:
            best_loss, best_D, waited = dev_loss, bias_D.detach().clone(), 0
        else:
            waited += 1
            if waited == PATIENCE:
                break
    report("learning the bias", MOST_EPOCHS, MOST_EPOCHS)
    return best_D


def _prefix_loss(bias_D: Tensor, prior: Tensor, table_UD: Tensor, rows: list[list[int]], label_B: Tensor) -> Tensor:
    """Mean over texts and their prefixes of the cross-entropy of the label, in nats; classes weigh the same."""
    token_BT = pad_right(rows)
    real_BT = token_BT != PAD
    evidence_BT = 2 * (table_UD @ bias_D)[token_BT.clamp(min=0)] * real_BT
    logit_BT = evidence_BT.cumsum(1) + prior
    loss_BT = torch.nn.functional.binary_cross_entropy_with_logits(
        logit_BT, label_B[:, None].expand_as(logit_BT), reduction="none"
    )
    return ((loss_BT * real_BT).sum(1) / real_BT.sum(1).clamp(min=1)).mean()
