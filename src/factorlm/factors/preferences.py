"""Training a head from preferences: pairs of texts of which one was chosen, and thumbs.

The reward of a text is a sum over its tokens, r(x) = sum_t e_x . u, and the chance that x is chosen over y is
sigmoid(r(x) - r(y)). Because the reward is a sum over tokens, exp(r) is itself a factor: the model p(x) exp(r(x)) that
a reward model would be trained for is had by multiplying, and the exponent of the factor is one over the temperature
of that reward.

Three things besides taste decide which text is chosen, and none of them shall end up in the head. What all texts have
in common is taken out of the embeddings, which changes no next-token distribution. The length of a text gets a
coefficient of its own in the regression, which is thrown away. And what lifts all answers to one prompt cancels in a
pair; rated texts without a counterpart share an intercept, thrown away as well.

Sources: Bradley and Terry (1952); the scale penalty, Eisenstein et al. (2023), arXiv:2312.09244; length as a
covariate, Dubois et al. (2024), arXiv:2404.04475; a reward as a ratio of models, Rafailov et al. (2023),
arXiv:2305.18290.
"""

# Axes: B texts, C covariates, D width, F folds, R comparisons, S scales tried.

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from factorlm.factors.calibration import SCALES, auc, evidence, head_strengths
from factorlm.factors.comparisons import Comparisons, distinct_texts, laid_out
from factorlm.factors.convex import minimise
from factorlm.factors.features import encode, tokenized
from factorlm.factors.feedback import Preferences, fingerprint, split_preferences
from factorlm.factors.head import EncoderCard, HeadWeights
from factorlm.factors.manifest import Calibration, HeadSettings, Manifest
from factorlm.factors.training import ERROR, Description, Trained, data_card
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet

LONGEST_ANSWER = 128  # tokens
CENTRE_PENALTY = 1e-3  # on the square of the sum of both rewards of a pair, which says nothing of which is better
RIDGES = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 1e-4, 1e-5)  # nats for a unit of |u|^2 / 2, features having length one
NUM_FOLDS = 4
UNEVEN = 2.0  # from this median ratio of lengths on, rewards are means over tokens: sums would compare lengths
MATCHED = 0.2  # lengths differ by at most this share of the longer one

PAIR_ACCURACY, MATCHED_ACCURACY = "pair accuracy", "pair accuracy, length-matched"
LENGTH_EFFECT = "log odds for 10 tokens more"


def train_preferences(
    lm: CausalLM,
    preferences: Preferences,
    about: Description,
    *,
    seed: int = 0,
    report: Report = quiet,
) -> Trained:
    """Learn a bias whose rewards order the pairs, set its temperature on held-out prompts, and write its card.

    Exponent one is the reward at which sigmoid(r(x) - r(y)) is calibrated, with r(x) the evidence log p_1(x) / p(x) of
    the head, in its odd part: r of the head and of its inverse are negatives of each other.

    Args:
        lm: the shared encoder.
        preferences: pairs and rated texts; a share of the prompts is held out.
        about: what the card shall say.
        seed: of the folds that choose the ridge penalty.
        report: told of progress.

    Raises:
        InputError: if there are too few prompts.
    """
    start = time.perf_counter()
    train, dev = split_preferences(preferences)
    learn, centre_D = compare(lm, train)
    bias_D, length_effect = fit_rewards(learn, seed=seed, report=report)
    weights = HeadWeights.shift((bias_D / learn.length_B.mean() if learn.per_token else bias_D).float())
    learned = time.perf_counter()
    held, _ = compare(lm, dev, centre_D, per_token=learn.per_token)
    prompts, texts = zip(*distinct_texts(dev), strict=True)
    features = encode(lm, texts, prompts=prompts, longest=LONGEST_ANSWER, report=report)
    reward_SB = evidence(lm, weights, features, tuple(scale / 2 for scale in SCALES)).double()
    if learn.per_token:
        reward_SB = reward_SB / held.length_B * learn.length_B.mean()
    scale, reward_B = tempered(held, reward_SB)
    weights = weights.scaled(scale)
    report("calibrating", 1, 2)
    strengths = head_strengths(lm, weights)
    report("calibrating", 2, 2)
    loss, prior = beside(held, reward_B, held.covariate_RC[:, 1:], held.label_R)  # length is not to its credit
    effect = pair_figures(held, reward_B)
    worse_R = held.worse_R[held.is_pair_R]
    ranked = torch.cat([reward_B[held.better_R], reward_B[worse_R]])
    label = torch.cat([held.label_R, torch.zeros(len(worse_R))])
    manifest = Manifest(
        name=about.name,
        description=about.description,
        label=about.label,
        licence=about.licence,
        settings=HeadSettings(rank=0),
        encoder=EncoderCard(name=lm.name, fingerprint=lm.fingerprint, width=lm.width),
        calibration=Calibration(
            scale=round(scale, 4),
            prior=round(float(prior), 4),
            dev_loss=round(loss, 4),
            dev_auc=round(auc(ranked, label), 4),
            pair_accuracy=effect.get(PAIR_ACCURACY),
        ),
        strengths=strengths,
        data=data_card(about, len(distinct_texts(preferences)), fingerprint(preferences)),
        effect={**effect, LENGTH_EFFECT: round(length_effect, 4)},
    )
    return Trained(manifest, weights, {"learning": learned - start, "calibrating": time.perf_counter() - learned})


def compare(
    lm: CausalLM,
    preferences: Preferences,
    centre_D: Tensor | None = None,
    *,
    per_token: bool | None = None,
) -> tuple[Comparisons, Tensor]:
    """The comparisons, and the mean embedding of their tokens, which was taken out.

    Args:
        lm: the shared encoder, of which only the tokenizer and the unembedding are used.
        preferences: what to compare.
        centre_D: the mean embedding to take out, if it is known.
        per_token: whether rewards are means over tokens; None decides by how uneven the lengths are.
    """
    rows = tokenized(lm, [text for _, text in distinct_texts(preferences)], longest=LONGEST_ANSWER)
    length_B = torch.tensor([float(len(row)) for row in rows], dtype=torch.float64)
    table_VD = lm.unembedding_VD.detach().cpu()
    sum_BD = torch.stack([table_VD[torch.tensor(row)].double().sum(0) for row in rows])
    if centre_D is None:
        centre_D = sum_BD.sum(0) / length_B.sum()
    text_BD = sum_BD - length_B[:, None] * centre_D
    laid = laid_out(preferences, text_BD, length_B, per_token=False)
    if per_token is None:
        ratio_R = (length_B[laid.better_R] / length_B[laid.worse_R])[laid.is_pair_R]
        per_token = bool(preferences.pairs) and float(ratio_R.log().abs().median()) > math.log(UNEVEN)
    return replace(laid, text_BD=text_BD / length_B[:, None], per_token=True) if per_token else laid, centre_D


def fit_rewards(learn: Comparisons, *, seed: int = 0, report: Report = quiet) -> tuple[Tensor, float]:
    """The bias u [D] in double precision, and the log odds that ten more tokens add, beside it.

    The ridge penalty is the one whose folds of groups, held out in turn, are predicted best.
    """
    feature_RD = learn.contrast(learn.text_BD)
    unit = float(feature_RD.square().sum(1).mean().sqrt().clamp(min=1e-9))
    both_RD = (2 * learn.text_BD[learn.better_R] - feature_RD)[learn.is_pair_R]  # of a pair: better plus worse
    fit = _Regression(
        feature_RD / unit,
        learn.covariate_RC,
        learn.target_R,
        both_RD.T @ (both_RD * learn.weight_R[learn.is_pair_R, None]) / unit**2,
    )
    generator = torch.Generator().manual_seed(seed)
    num_groups = int(learn.group_R.max()) + 1
    fold_R = (torch.randperm(num_groups, generator=generator) % NUM_FOLDS)[learn.group_R]
    losses = torch.zeros(len(RIDGES), dtype=torch.float64)
    for fold in range(NUM_FOLDS):
        held_R = fold_R == fold
        if not held_R.any() or held_R.all():
            continue
        start = None
        for n, ridge in enumerate(RIDGES):  # from the stiffest on, each begins where the last one ended
            start = fit.solve(torch.where(held_R, 0.0, learn.weight_R), ridge, start)
            losses[n] += fit.loss(start, torch.where(held_R, learn.weight_R, 0.0))
        report("learning from pairs", fold + 1, NUM_FOLDS + 1)
    best = fit.solve(learn.weight_R, RIDGES[int(losses.argmin())])
    report("learning from pairs", NUM_FOLDS + 1, NUM_FOLDS + 1)
    width = learn.text_BD.shape[1]
    return best[:width] / unit, float(best[width])


@dataclass(frozen=True, eq=False)
class _Regression:
    """Logistic regression on features, penalised, and covariates, hardly penalised."""

    feature_RD: Tensor
    covariate_RC: Tensor
    target_R: Tensor
    centre_DD: Tensor  # u' M u is the mean square of the sum of a pair's rewards

    def loss(self, found: Tensor, weight_R: Tensor) -> float:
        width = self.feature_RD.shape[1]
        logit_R = self.feature_RD @ found[:width] + self.covariate_RC @ found[width:]
        return float(weight_R @ _cross_entropy(logit_R, self.target_R))

    def solve(self, weight_R: Tensor, ridge: float, start: Tensor | None = None) -> Tensor:
        """Features' coefficients, then covariates'."""
        width = self.feature_RD.shape[1]
        design_RK = torch.cat([self.feature_RD, self.covariate_RC], 1)
        stiff_K = torch.full((design_RK.shape[1],), 1e-6, dtype=torch.float64)
        stiff_K[:width] = ridge
        weight_R = weight_R / weight_R.sum()

        def objective(found_K: Tensor) -> tuple[Tensor, Tensor]:
            logit_R = design_RK @ found_K
            centre_D = CENTRE_PENALTY * (self.centre_DD @ found_K[:width])
            value = weight_R @ _cross_entropy(logit_R, self.target_R) + found_K @ (stiff_K * found_K) / 2
            slope_K = design_RK.T @ (weight_R * (logit_R.sigmoid() - self.target_R)) + stiff_K * found_K
            slope_K[:width] += 2 * centre_D
            return value + found_K[:width] @ centre_D, slope_K

        return minimise(objective, torch.zeros_like(stiff_K) if start is None else start)


def pair_figures(held: Comparisons, reward_B: Tensor) -> dict[str, float]:
    """Share of pairs ordered rightly, of all and of those of like length, with standard errors; ties count half."""
    figures: dict[str, float] = {}
    pair_R = held.is_pair_R
    gap_R = held.contrast(reward_B)[pair_R]
    first_R, second_R = (held.length_B[index_R[pair_R]] for index_R in (held.better_R, held.worse_R))
    matched_R = (first_R - second_R).abs() <= MATCHED * torch.maximum(first_R, second_R)
    for what, chosen_R in ((PAIR_ACCURACY, gap_R), (MATCHED_ACCURACY, gap_R[matched_R])):
        num = len(chosen_R)
        if num > 1:
            share = float(((chosen_R > 0).double() + (chosen_R == 0).double() / 2).mean())
            figures[what] = round(share, 4)
            figures[what + ERROR] = round(math.sqrt(share * (1 - share) / (num - 1)), 4)
    return figures


def tempered(held: Comparisons, reward_SB: Tensor) -> tuple[float, Tensor]:
    """The scale whose rewards predict best beside length and thumbs' intercept, and the rewards at it."""
    losses = [beside(held, reward_B, held.covariate_RC, held.target_R)[0] for reward_B in reward_SB]
    best = min(range(len(SCALES)), key=lambda s: losses[s])
    return SCALES[best], reward_SB[best]


def beside(held: Comparisons, reward_B: Tensor, covariate_RC: Tensor, target_R: Tensor) -> tuple[float, Tensor]:
    """Cross-entropy of these outcomes, given rewards as they are and the best coefficients of the covariates."""
    reward_R = held.contrast(reward_B)

    def objective(found_C: Tensor) -> tuple[Tensor, Tensor]:
        logit_R = reward_R + covariate_RC @ found_C
        value = held.weight_R @ _cross_entropy(logit_R, target_R) + 1e-6 * found_C @ found_C / 2
        return value, covariate_RC.T @ (held.weight_R * (logit_R.sigmoid() - target_R)) + 1e-6 * found_C

    found_C = minimise(objective, torch.zeros(covariate_RC.shape[1], dtype=torch.float64))
    return float(objective(found_C)[0]), found_C


def _cross_entropy(logit_R: Tensor, label_R: Tensor) -> Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(logit_R, label_R, reduction="none")
