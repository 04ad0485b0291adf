"""Training a reward of whole responses from pairs and thumbs."""

# Axes: B texts, D width, S scales tried.

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from factorlm.factors.calibration import SCALES, auc
from factorlm.factors.comparisons import distinct_texts, laid_out
from factorlm.factors.features import LONGEST_PROMPT, tokenized
from factorlm.factors.feedback import Preferences, fingerprint, split_preferences
from factorlm.factors.head import EncoderCard
from factorlm.factors.manifest import Calibration, Manifest, RewardSettings
from factorlm.factors.preferences import (
    LENGTH_EFFECT,
    LONGEST_ANSWER,
    PAIR_ACCURACY,
    beside,
    fit_rewards,
    pair_figures,
    tempered,
)
from factorlm.factors.reward import RewardWeights, mean_states
from factorlm.factors.training import Description, data_card
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet

LENGTH_CORRELATION = "rank correlation of reward and length"


@dataclass(frozen=True)
class TrainedReward:
    """A trained reward, ready for a store.

    Attributes:
        manifest: its card.
        weights: its numbers.
        seconds: time taken by each stage.
    """

    manifest: Manifest
    weights: RewardWeights
    seconds: dict[str, float]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The content of the weights file."""
        offset_1 = torch.tensor([self.weights.offset], dtype=torch.float64)
        return {"weight": self.weights.weight_D.double(), "offset": offset_1}


def train_reward(
    lm: CausalLM,
    preferences: Preferences,
    about: Description,
    *,
    is_length_controlled: bool = True,
    seed: int = 0,
    report: Report = quiet,
) -> TrainedReward:
    """Learn a reward that orders the pairs, set its scale on held-out prompts, and write its card.

    At exponent one sigmoid(r(x) - r(y)) is the calibrated probability that x is chosen over y of the same length.
    Length has a coefficient of its own in the regression, which is thrown away.

    Args:
        lm: the shared encoder.
        preferences: pairs and rated texts; a share of the prompts is held out.
        about: what the card shall say.
        is_length_controlled: False lets the reward explain by length what it can, for comparison.
        seed: of the folds that choose the ridge penalty.
        report: told of progress.

    Raises:
        InputError: if there are too few prompts.
    """
    start = time.perf_counter()
    train, dev = split_preferences(preferences)
    mean_BD, length_B = _read(lm, train, report)
    centre_D, spread_D = mean_BD.mean(0), mean_BD.std(0).clamp(min=1e-6)
    learn = laid_out(train, (mean_BD - centre_D) / spread_D, length_B, per_token=True)
    found_D, length_effect = fit_rewards(
        replace(learn, is_length_controlled=is_length_controlled), seed=seed, report=report
    )
    weight_D = found_D / spread_D
    weights = RewardWeights(weight_D, float(weight_D @ centre_D))
    learned = time.perf_counter()

    mean_BD, length_B = _read(lm, dev, report)
    held = replace(laid_out(dev, mean_BD, length_B, per_token=True), is_length_controlled=is_length_controlled)
    scale, reward_B = tempered(held, torch.stack([weights(mean_BD) * scale for scale in SCALES]))
    weights = weights.scaled(scale)
    loss, prior = beside(held, reward_B, held.covariate_RC[:, 1:], held.label_R)
    effect = pair_figures(held, reward_B)
    worse_R = held.worse_R[held.is_pair_R]
    ranked = torch.cat([reward_B[held.better_R], reward_B[worse_R]])
    manifest = Manifest(
        name=about.name,
        description=about.description,
        label=about.label,
        licence=about.licence,
        settings=RewardSettings(),
        encoder=EncoderCard(name=lm.name, fingerprint=lm.fingerprint, width=lm.width),
        calibration=Calibration(
            scale=round(scale, 4),
            prior=round(float(prior), 4),
            dev_loss=round(loss, 4),
            dev_auc=round(auc(ranked, torch.cat([held.label_R, torch.zeros(len(worse_R))])), 4),
            pair_accuracy=effect.get(PAIR_ACCURACY),
        ),
        data=data_card(about, len(distinct_texts(preferences)), fingerprint(preferences)),
        effect={
            **effect,
            LENGTH_EFFECT: round(length_effect, 4),
            LENGTH_CORRELATION: round(_rank_correlation(reward_B, length_B), 4),
        },
    )
    return TrainedReward(manifest, weights, {"learning": learned - start, "testing": time.perf_counter() - learned})


def _read(lm: CausalLM, preferences: Preferences, report: Report) -> tuple[Tensor, Tensor]:
    """Mean states [B, D] and numbers of tokens [B] of the distinct texts."""
    prompts, texts = zip(*distinct_texts(preferences), strict=True)
    rows = [tuple(row) for row in tokenized(lm, texts, longest=LONGEST_ANSWER)]
    prefixes = [(*lm.start_ids, *lm.encode_text(prompt)[-LONGEST_PROMPT:]) for prompt in prompts]
    length_B = torch.tensor([float(len(row)) for row in rows], dtype=torch.float64)
    return mean_states(lm, prefixes, rows, report).double(), length_B


def _rank_correlation(first_B: Tensor, second_B: Tensor) -> float:
    """Spearman's; 0 where one of them does not vary."""
    from scipy.stats import spearmanr

    if float(first_B.std()) == 0 or float(second_B.std()) == 0:
        return 0.0
    return float(spearmanr(first_B.numpy(), second_B.numpy()).statistic)
