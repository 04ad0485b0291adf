"""Stage B of training: a low-rank map of the hidden state, learned on top of a bias that stays as it is.

With phi(v|h) = e_v . (c + U V h), the two models p_s(v|h) ∝ p(v|h) exp(s phi(v|h)), s = ±1, are those of texts with
the attribute and without. They are learned as GeDi learns its two: to predict the texts of their own class, and to
tell by their ratio which class a text belongs to. The variance of phi over the next token, which is twice the nats
that a small exponent costs for its square, is penalised.

A sum over the vocabulary in each step is avoided: beside each state its most probable tokens are kept, and as many
drawn from the rest, which stand for all of it. That estimate of the normaliser is unbiased.

Source: the objective, Krause et al. (2021), arXiv:2009.06367.
"""

# Axes: B texts, C candidate tokens, D width, N tokens laid end to end, R rank, V vocabulary.

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from factorlm.algebra import log_mean
from factorlm.factors.calibration import auc
from factorlm.factors.features import Features
from factorlm.factors.head import HeadWeights
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet

MOST_TEXTS = 2000  # that are read for learning; time and memory grow with them
NUM_TOP, NUM_TAIL = 128, 128
GENERATIVE_SHARE = 0.8  # of the loss; the rest is discriminative
PENALTY = 1.0
BATCH_TEXTS = 32
MOST_EPOCHS = 8
LEARNING_RATE = 5e-4
CLASSIFIER_RATE = 1e-2  # of the two numbers that turn evidence into a posterior
WEIGHT_DECAY = 1e-2


@dataclass(frozen=True, eq=False)
class Candidates:
    """Weighted next tokens of each state that stand for all: sum_c weight_c f(token_c) estimates E_p[f] without bias.

    Attributes:
        token_NC: int32.
        log_weight_NC: in nats, half precision; weights of a state sum to one.
    """

    token_NC: Tensor
    log_weight_NC: Tensor


def draw_candidates(
    lm: CausalLM,
    hidden_ND: Tensor,
    generator: torch.Generator,
    *,
    num_top: int = NUM_TOP,
    num_tail: int = NUM_TAIL,
    report: Report = quiet,
) -> Candidates:
    """The most probable tokens of each state with their probability, and tokens drawn from the others.

    A token of the tail is drawn, with replacement, in proportion to its probability, so each drawn one weighs the
    probability of the whole tail divided by their number. A vocabulary no larger than both numbers together is kept
    as it is, which makes sums exact.
    """
    num_tokens = lm.unembedding_VD.shape[0]
    if num_top + num_tail >= num_tokens:
        num_top, num_tail = num_tokens, 0
    tokens, log_weights = [], []
    for part, log_prob_NV in lm.chunks(hidden_ND.to(lm.device)):
        top = log_prob_NV.topk(num_top)
        token_NC, log_weight_NC = top.indices.cpu(), top.values.cpu()
        if num_tail:
            tail_NV = log_prob_NV.exp().scatter(1, top.indices, 0.0).cpu()
            log_mass_N1 = tail_NV.sum(1, keepdim=True).log()
            # The least number lets a state draw whose tail is zero in single precision; it weighs nothing then.
            drawn_NC = torch.multinomial(tail_NV.clamp(min=1e-30), num_tail, replacement=True, generator=generator)
            each_N1 = log_mass_N1 - torch.tensor(num_tail).log()
            token_NC = torch.cat([token_NC, drawn_NC], 1)
            log_weight_NC = torch.cat([log_weight_NC, each_N1.expand_as(drawn_NC)], 1)
        tokens.append(token_NC.int())
        log_weights.append(log_weight_NC.half())
        report("finding candidates", min(part.stop, hidden_ND.shape[0]), hidden_ND.shape[0])
    return Candidates(torch.cat(tokens), torch.cat(log_weights))


@dataclass(frozen=True, eq=False)
class Texts:
    """Labelled texts with all that learning needs to know of the frozen model; label 1 has the attribute."""

    features: Features
    label_B: Tensor
    candidates: Candidates

    def select(self, text_B: Tensor) -> Texts:
        """These texts, renumbered in this order."""
        counts = torch.bincount(self.features.owner_N, minlength=len(self.label_B))
        new_B = torch.full_like(counts, -1)
        new_B[text_B] = torch.arange(len(text_B))
        chosen_N = (new_B[self.features.owner_N] >= 0).nonzero()[:, 0]
        features, candidates = self.features, self.candidates
        owner_N = new_B[features.owner_N[chosen_N]]
        return Texts(
            Features(features.hidden_ND[chosen_N], features.token_N[chosen_N], owner_N),
            self.label_B[text_B],
            Candidates(candidates.token_NC[chosen_N], candidates.log_weight_NC[chosen_N]),
        )


class LowRankLearner(nn.Module):
    """U and V, the frozen numbers around them, and the loss. V reads states standardised over the training texts."""

    mean_D: Tensor
    std_D: Tensor
    bias_D: Tensor
    table_VD: Tensor

    def __init__(self, lm: CausalLM, bias_D: Tensor, train: Features, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        hidden_ND = train.hidden_ND.float()
        self.register_buffer("mean_D", hidden_ND.mean(0))
        self.register_buffer("std_D", hidden_ND.std(0).clamp(min=1e-3))
        self.register_buffer("bias_D", bias_D.float())
        self.register_buffer("table_VD", lm.unembedding_VD.detach().float())
        # U is zero, so learning starts from the bias alone; V h then varies by about one.
        self.up_DR = nn.Parameter(torch.zeros(lm.width, rank))
        self.down_RD = nn.Parameter(torch.randn(rank, lm.width, generator=generator) / lm.width**0.5)
        # The posterior of a text: its mean evidence a token times a scale, at first that of a text of mean length.
        self.log_scale = nn.Parameter(torch.tensor(len(train.token_N) / max(1, train.num_texts)).log())
        self.prior = nn.Parameter(torch.zeros(()))
        self.to(lm.device)

    def potentials(self, hidden_ND: Tensor, token_NC: Tensor) -> Tensor:
        """Phi of these tokens, [N, C]: U goes through the unembedding once, not once for each token."""
        low_NR = ((hidden_ND.float() - self.mean_D) / self.std_D) @ self.down_RD.T
        tilt_VR = self.table_VD @ self.up_DR
        fixed_V = self.table_VD @ self.bias_D
        low_NC = (nn.functional.embedding(token_NC, tilt_VR) @ low_NR[:, :, None])[:, :, 0]
        return fixed_V[token_NC] + low_NC

    def log_ratios(self, texts: Texts) -> tuple[Tensor, Tensor, Tensor]:
        """Log p_+ / p and log p_- / p of each token, and the variance of phi over what could have stood there, [N]."""
        device = self.table_VD.device
        token_N1 = texts.features.token_N[:, None].to(device)
        token_NC = torch.cat([token_N1, texts.candidates.token_NC.to(device)], 1).long()
        phi_NC = self.potentials(texts.features.hidden_ND.to(device), token_NC)
        own_N, phi_NC = phi_NC[:, 0], phi_NC[:, 1:]
        log_weight_NC = texts.candidates.log_weight_NC.to(device).float().log_softmax(1)  # mends half precision
        weight_NC = log_weight_NC.exp()
        mean_N1 = (weight_NC * phi_NC).sum(1, keepdim=True)
        variance_N = (weight_NC * (phi_NC - mean_N1).square()).sum(1)
        return own_N - log_mean(phi_NC, log_weight_NC), -own_N - log_mean(-phi_NC, log_weight_NC), variance_N

    def loss(self, texts: Texts, penalty: float) -> tuple[Tensor, Tensor]:
        """The loss in nats, and the evidence log p_+(x) / p_-(x) of each text, [B]."""
        with_N, without_N, variance_N = self.log_ratios(texts)
        owner_N, label_B = texts.features.owner_N.to(with_N.device), texts.label_B.to(with_N.device)
        generative = -torch.where(label_B[owner_N] > 0.5, with_N, without_N).mean()
        evidence_B = torch.zeros_like(label_B).index_add(0, owner_N, with_N - without_N)
        length_B = torch.bincount(owner_N, minlength=len(label_B)).clamp(min=1)
        logit_B = self.log_scale.exp() * evidence_B / length_B + self.prior
        discriminative = nn.functional.binary_cross_entropy_with_logits(logit_B, label_B)
        loss = GENERATIVE_SHARE * generative + (1 - GENERATIVE_SHARE) * discriminative + penalty * variance_N.mean()
        return loss, evidence_B

    @torch.no_grad()
    def quality(self, texts: Texts, penalty: float) -> tuple[float, float]:
        """Area under the curve of the evidence, then minus the loss, which decides between equals."""
        losses, evidences = [], []
        for text_B in torch.arange(len(texts.label_B)).split(BATCH_TEXTS):
            loss, evidence_B = self.loss(texts.select(text_B), penalty)
            losses.append(float(loss) * len(text_B))
            evidences.append(evidence_B.cpu())
        return auc(torch.cat(evidences), texts.label_B), -sum(losses) / len(texts.label_B)

    def folded(self) -> HeadWeights:
        """The head for plain states: c + U V (h - m) / s = (c - U V' m) + U V' h with V' = V / s."""
        with torch.no_grad():
            down_RD = self.down_RD / self.std_D
            bias_D = self.bias_D - self.up_DR @ (down_RD @ self.mean_D)
            return HeadWeights(bias_D.cpu(), self.up_DR.detach().clone().cpu(), down_RD.cpu())


def fit_low_rank(
    lm: CausalLM,
    shift: HeadWeights,
    train: Features,
    train_label_B: Tensor,
    dev: Features,
    dev_label_B: Tensor,
    *,
    rank: int,
    seed: int = 0,
    penalty: float = PENALTY,
    report: Report = quiet,
) -> HeadWeights:
    """A head of this rank over a bias: the epoch, none included, whose evidence tells the dev texts apart best.

    Args:
        lm: the shared encoder; its unembedding is not trained.
        shift: a head of rank zero, whose bias is not trained either.
        train: states of the training texts. All are used and all their candidates are kept in memory, about 1.5 kB a
            token: MOST_TEXTS texts are plenty.
        train_label_B: of each text; 1 has the attribute.
        dev: the same for the texts that choose the epoch.
        dev_label_B: of each of those.
        rank: R.
        seed: of first values, candidates and the order of texts.
        penalty: nats of loss for each unit of the mean variance of the potential.
        report: told of progress.
    """
    generator = torch.Generator().manual_seed(seed)
    learn, held = (
        Texts(features, label_B, draw_candidates(lm, features.hidden_ND, generator, report=report))
        for features, label_B in ((train, train_label_B), (dev, dev_label_B))
    )
    learner = LowRankLearner(lm, shift.bias_D, train, rank, generator)
    matrices, classifier = [learner.up_DR, learner.down_RD], [learner.log_scale, learner.prior]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
            {"params": classifier, "lr": CLASSIFIER_RATE, "weight_decay": 0.0},
        ]
    )
    best, best_weights = learner.quality(held, penalty), learner.folded()
    for epoch in range(MOST_EPOCHS):
        for text_B in torch.randperm(len(train_label_B), generator=generator).split(BATCH_TEXTS):
            loss, _ = learner.loss(learn.select(text_B), penalty)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*matrices, *classifier], 1.0)
            optimizer.step()
        quality = learner.quality(held, penalty)
        if quality > best:
            best, best_weights = quality, learner.folded()
        report("learning the map", epoch + 1, MOST_EPOCHS)
    return best_weights
