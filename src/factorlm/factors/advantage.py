"""A head's bias from the model's own texts: token by token, what each choice was worth to the attribute.

A classifier of prefixes is learned from labelled texts: V(x_<=t), the log odds that a text which begins so has the
attribute, read from the encoder's states. On texts that the model wrote itself, the advantage of a token is how much
it changed that, A_t = V(x_<=t) - V(x_<t). The ideal potential is this advantage for every token of the vocabulary; the
bias fits it where tokens were drawn, by least squares:

    u = argmin sum_t (A_t - u . (e_{x_t} - E_p e))^2.

That is the direction with most advantage per nat of divergence from the model, to first order: the covariance of
e - E_p e, which least squares divides by, is the Fisher information of the bias (a natural policy gradient with a
learned baseline). A classifier of text alone pays for words that tell classes apart wherever they stand; this one pays
only for choices that the model really has, and counts none twice, because the state knows what was said before.

Sources: prefix classifiers, Yang and Klein (2021), arXiv:2104.05218; value heads learned from rollouts, Mudgal et al.
(2024), arXiv:2310.17022; natural policy gradients by compatible features, Kakade (2001).
"""

# Axes: B texts, D width, F features of a prefix, N tokens laid end to end, P parameters, T time.

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.factors.convex import minimise
from factorlm.factors.features import Features, Report, quiet
from factorlm.factors.rollouts import Rollouts

PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01)  # of the squared weights of standardised features; the best on dev is taken
RIDGE = 0.03  # of the mean variance of an unembedding
PRIOR = 0.5  # parts of the bias from texts alone, for one part of the bias from advantages
MOST_TEXTS, LONGEST = 2000, 32  # texts that the classifier of prefixes learns from, and tokens read of each


@dataclass(frozen=True, eq=False)
class PrefixValue:
    """Log odds that a text has an attribute, from the states of the encoder on its beginning.

    Attributes:
        weight_F: of the running mean of the states and of the last one, 2 D numbers.
        constant: to be added.
        dev_loss: cross-entropy of the label after every prefix of texts held out, in nats; ln 2 knows nothing.
    """

    weight_F: Tensor
    constant: float
    dev_loss: float

    def __call__(self, hidden_BTD: Tensor) -> Tensor:
        """The value after each state of texts of one length, [B, T]."""
        hidden_BTD = hidden_BTD.float()
        count_T = torch.arange(1, hidden_BTD.shape[1] + 1)
        mean_BTD = hidden_BTD.cumsum(1) / count_T[:, None]
        return torch.cat([mean_BTD, hidden_BTD], -1) @ self.weight_F + self.constant


def fit_value(train: tuple[Features, Tensor], dev: tuple[Features, Tensor], *, report: Report = quiet) -> PrefixValue:
    """Logistic regression of the label on every prefix; texts weigh the same, and so do classes.

    Args:
        train: states of texts, and their labels as a float tensor [B] (1 has the attribute).
        dev: the same for texts held out, which choose the penalty.
        report: told of progress.
    """
    seen_NF, heard_NF = _prefixes(train[0]), _prefixes(dev[0])
    mean_F, spread_F = seen_NF.mean(0), seen_NF.std(0).clamp(min=1e-6)
    seen_NF, heard_NF = (seen_NF - mean_F) / spread_F, (heard_NF - mean_F) / spread_F
    (label_N, share_N), (dev_label_N, dev_share_N) = _balanced(*train), _balanced(*dev)
    found_P = torch.zeros(seen_NF.shape[1] + 1, dtype=torch.float64)
    best, best_loss = found_P.float(), float("inf")
    for number, penalty in enumerate(PENALTIES):

        def objective(value_P: Tensor, penalty: float = penalty) -> tuple[Tensor, Tensor]:
            weight_F, constant = value_P[:-1].float(), value_P[-1].float()
            logit_N = seen_NF @ weight_F + constant
            gap_N = share_N * (logit_N.sigmoid() - label_N)
            value = _cross_entropy(logit_N, label_N, share_N) + penalty / 2 * weight_F @ weight_F
            return value, torch.cat([gap_N @ seen_NF + penalty * weight_F, gap_N.sum()[None]])

        found_P = minimise(objective, found_P, most_steps=100)
        found = found_P.float()
        loss = float(_cross_entropy(heard_NF @ found[:-1] + found[-1], dev_label_N, dev_share_N))
        report("learning values", number + 1, len(PENALTIES))
        if loss < best_loss:
            best, best_loss = found, loss
        else:
            report("learning values", len(PENALTIES), len(PENALTIES))
            break
    weight_F = best[:-1] / spread_F
    return PrefixValue(weight_F, float(best[-1] - mean_F @ weight_F), best_loss)


def fit_advantage(unembedding_VD: Tensor, value: PrefixValue, texts: Rollouts, *, prior_D: Tensor) -> Tensor:
    """The bias u [D] whose potentials fit the advantages of the tokens that the model chose, with some of another bias.

    Args:
        unembedding_VD: the encoder's.
        value: of prefixes.
        texts: that the model wrote.
        prior_D: a bias learned otherwise, of which PRIOR parts are mixed in for one part of this, both of one Fisher
            norm: it knows words that the model seldom writes by itself.
    """
    value_BT = value(texts.hidden_BTD)
    advantage_N = (value_BT[:, 1:] - value_BT[:, :-1]).flatten()
    advantage_N = advantage_N - advantage_N.mean()
    chosen_BTD = unembedding_VD.detach().float().cpu()[texts.token_BT[:, :-1]]
    surprise_ND = (chosen_BTD - texts.mean_BTD[:, :-1].float()).flatten(0, 1)
    fisher_DD = surprise_ND.T @ surprise_ND / len(surprise_ND)
    fisher_DD.diagonal().add_(RIDGE * fisher_DD.trace() / len(fisher_DD))
    bias_D = torch.linalg.solve(fisher_DD, surprise_ND.T @ advantage_N / len(surprise_ND))

    prior_D = prior_D.float().cpu()
    size, prior_size = ((of_D @ fisher_DD @ of_D).sqrt() for of_D in (bias_D, prior_D))
    return bias_D + PRIOR * size / prior_size.clamp(min=1e-12) * prior_D


def _prefixes(features: Features) -> Tensor:
    """Running mean of the states of each text, and the last of them, at every token, [N, 2 D]."""
    hidden_ND, owner_N = features.hidden_ND.float(), features.owner_N
    first_N = torch.searchsorted(owner_N, owner_N)
    total_ND = hidden_ND.double().cumsum(0)
    before_ND = total_ND[first_N] - hidden_ND[first_N].double()
    count_N = torch.arange(len(owner_N)) - first_N + 1
    return torch.cat([((total_ND - before_ND) / count_N[:, None]).float(), hidden_ND], 1)


def _balanced(features: Features, label_B: Tensor) -> tuple[Tensor, Tensor]:
    """Label and weight of every token: each class weighs one half, in it each text the same."""
    label_N = label_B[features.owner_N]
    share_N = 1 / torch.bincount(features.owner_N)[features.owner_N].float()
    for is_class_N in (label_N > 0, label_N <= 0):
        share_N[is_class_N] /= 2 * share_N[is_class_N].sum()
    return label_N, share_N


def _cross_entropy(logit_N: Tensor, label_N: Tensor, share_N: Tensor) -> Tensor:
    loss_N = torch.nn.functional.binary_cross_entropy_with_logits(logit_N, label_N, reduction="none")
    return share_N @ loss_N
