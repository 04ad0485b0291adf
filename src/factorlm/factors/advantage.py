"""A head's bias from the model's own texts: token by token, what each choice was worth to the attribute.

A classifier of prefixes is learned from labelled texts: V, the log odds that a text which begins so has the attribute,
linear in the encoder's states. On texts that the model wrote itself, the credit A_t of a token is what it added to V.
The bias fits that where tokens were drawn, by least squares:

    u = argmin sum_t (A_t - u . (e_{x_t} - E_p e))^2.

The covariance of e - E_p e, which least squares divides by, is the Fisher information of the bias, so this is the
direction with most credit per nat of divergence from the model, to first order: a natural policy gradient, with V as
critic and one step of look-ahead (V was learned from texts of others, so what a token brings about later counts only as
far as the state after it foretells). A classifier of words alone pays for all that tell the classes apart; this pays
for choices that the model really has.

Sources: prefix classifiers, Yang and Klein (2021), arXiv:2104.05218; value heads learned from rollouts, Mudgal et al.
(2024), arXiv:2310.17022; natural policy gradients by compatible features, Kakade (2001).
"""

# Axes: B texts, D width, F features of a prefix, N tokens laid end to end, P parameters, T time.

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.factors.convex import minimise
from factorlm.factors.features import Features
from factorlm.factors.rollouts import Rollouts
from factorlm.models.progress import Report, quiet

PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01)  # of the squared weights of standardised features; the best on dev is taken
LEAST_GAIN = 0.01  # nats by which a classifier must beat a coin on texts held out
RIDGE = 0.03  # of the mean variance of an unembedding
TEXT_SHARE = 0.5  # parts of the bias from texts alone, for one part of the bias from credits
SPREAD = 0.1  # nats
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

    @property
    def is_informed(self) -> bool:
        """Whether it tells held-out texts apart at all."""
        return self.dev_loss < math.log(2) - LEAST_GAIN

    def __call__(self, hidden_BTD: Tensor) -> Tensor:
        """The value after each state of texts of one length, [B, T]."""
        of_mean_BT, of_last_BT = self._parts(hidden_BTD)
        count_T = torch.arange(1, hidden_BTD.shape[1] + 1)
        return of_mean_BT.cumsum(1) / count_T + of_last_BT + self.constant

    def credits(self, hidden_BTD: Tensor) -> Tensor:
        """What each token between two states adds to the value of the whole text, [B, T - 1].

        That is the change of the last state's part, and the new state's share of the final mean: the running mean
        itself would credit early tokens more, just because they come early.
        """
        of_mean_BT, of_last_BT = self._parts(hidden_BTD)
        return of_last_BT[:, 1:] - of_last_BT[:, :-1] + of_mean_BT[:, 1:] / hidden_BTD.shape[1]

    def _parts(self, hidden_BTD: Tensor) -> tuple[Tensor, Tensor]:
        of_mean_D, of_last_D = self.weight_F.chunk(2)
        hidden_BTD = hidden_BTD.float()
        return hidden_BTD @ of_mean_D, hidden_BTD @ of_last_D


def beginnings(features: Features) -> Features:
    """The first LONGEST tokens of each text."""
    is_early_N = _places(features) < LONGEST
    return Features(features.hidden_ND[is_early_N], features.token_N[is_early_N], features.owner_N[is_early_N])


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


def fit_advantage(unembedding_VD: Tensor, value: PrefixValue, texts: Rollouts, *, text_bias_D: Tensor) -> Tensor:
    """The bias u [D] whose potentials fit the credits of the tokens that the model chose, with some of another bias.

    Its size is arbitrary: potentials have the standard deviation SPREAD on the model's own texts.

    Args:
        unembedding_VD: the encoder's.
        value: of prefixes.
        texts: that the model wrote.
        text_bias_D: a bias learned from texts alone, of which TEXT_SHARE parts are mixed in for one part of this, both
            of one Fisher norm: it knows words that the model seldom writes by itself.
    """
    credit_BT = value.credits(texts.hidden_BTD)
    credit_N = (credit_BT - credit_BT.mean(0)).flatten()
    chosen_BTD = unembedding_VD.detach().float().cpu()[texts.token_BT[:, :-1]]
    surprise_ND = (chosen_BTD - texts.mean_BTD[:, :-1].float()).flatten(0, 1)
    fisher_DD = surprise_ND.T @ surprise_ND / len(surprise_ND)
    fisher_DD.diagonal().add_(RIDGE * fisher_DD.trace() / len(fisher_DD))

    def unit(bias_D: Tensor) -> Tensor:
        return bias_D / (bias_D @ fisher_DD @ bias_D).sqrt().clamp(min=1e-12)

    bias_D = torch.linalg.solve(fisher_DD, surprise_ND.T @ credit_N / len(surprise_ND))
    return SPREAD * unit(unit(bias_D) + TEXT_SHARE * unit(text_bias_D.float().cpu()))


def _prefixes(features: Features) -> Tensor:
    """Running mean of the states of each text, and the last of them, at every token, [N, 2 D]."""
    hidden_ND, place_N = features.hidden_ND.float(), _places(features)
    first_N = torch.arange(len(place_N)) - place_N
    total_ND = hidden_ND.double().cumsum(0)
    before_ND = total_ND[first_N] - hidden_ND[first_N].double()
    return torch.cat([((total_ND - before_ND) / (place_N + 1)[:, None]).float(), hidden_ND], 1)


def _places(features: Features) -> Tensor:
    """The number of each token in its text, from zero, [N]."""
    return torch.arange(len(features.owner_N)) - torch.searchsorted(features.owner_N, features.owner_N)


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
