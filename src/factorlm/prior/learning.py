"""Learning a prior: expectation maximisation over components, whatever they are made of.

The bound is F = sum_n log sum_k mu_k p_k(x_n)^t_n + (alpha - 1) sum_k log mu_k, with t_n = min(1, T / tokens of x_n):
without tempering, responsibilities of long texts are 0 or 1 from the first round on, and components never move.
EM computes responsibilities and weights exactly; what the M-step does to the components is kept only if the bound did
not fall, else it is undone and the next one is made with smaller steps. So the bound never falls, unless T changes, a
dead component begins anew, or the learner is not monotone.

Sources: Dempster, Laird and Rubin (1977); mixtures of text generators, Shen et al. (2019), arXiv:1902.07816; of soft
prompts, Qin and Eisner (2021), arXiv:2104.06599.
"""

# Axes: K components, N texts.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from factorlm.algebra import log_normalize
from factorlm.models.progress import Report
from factorlm.settings import Config

Rows = Sequence[list[int]]  # token ids of texts, without the start token


class Learner(Protocol):
    """Components that can be improved.

    Attributes:
        num_components: K.
        is_monotone: whether a step is meant to raise what `log_prob` gives. Then one after which the bound fell is
            undone, and held-out likelihood decides when to stop. Where steps climb something else, such as a mean over
            random choices, they stand, and all rounds are made; the best is kept all the same.
    """

    num_components: int
    is_monotone: bool

    def log_prob(self, rows: Rows, report: Report) -> Tensor:
        """Log probability of each text under each component, [N, K], in nats, without any noise.

        Less what the component costs, where it has a price.
        """

    def improve(self, rows: Rows, weight_NK: Tensor, *, rate: float, report: Report) -> None:
        """Go through the texts once and raise sum_nk weight_nk log p_k(x_n); `rate` scales the steps."""

    def spread(self) -> None:
        """Make all components near copies of the first one."""

    def reseed(self, index: int, rows: Rows) -> None:
        """Begin a component anew, near these texts, which nobody explains well."""

    def state(self) -> dict[str, Tensor]:
        """Everything that goes on from here."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from there."""


class Learning(Config):
    """How a prior is learned.

    Attributes:
        method: em (responsibilities of all texts, then a step of the components), variational (both for one batch of
            texts after the other: stochastic ascent of the bound) or hard (the same, but only the most responsible
            component of a text learns from it: online hard EM).
        batch_texts: texts to a batch of the latter two.
        assignment: which components learn from a text in a step: one, drawn by responsibility (K times as fast, and
            right on average), or all, each by its share.
        warm: passes of the first component over all texts, after which the others begin as its near copies: what all
            texts have in common is then learned once, and components compete in the rest alone.
        rate: what steps of the learner are scaled by after these. Small steps let components part by what many texts
            of one kind share, before each has learned its own texts by heart.
        rounds: at most, after these.
        patience: rounds without a better held-out likelihood, after which it stops.
        temper_tokens: T above; a text counts as at most so many tokens while responsibilities are computed.
        anneal_from: T of the first round, from which it goes to temper_tokens by equal factors: at first only what
            many texts tell apart can part components (deterministic annealing, Ueda and Nakano, 1998); None stays at T.
        alpha: of the Dirichlet prior on weights; above 1 no component dies.
        dev_share: of the texts, held out to decide when to stop and what is kept.
        dead_below: a component with less weight than this share of 1/K begins anew.
        seed: of everything random.
    """

    method: Literal["em", "hard", "variational"] = "em"
    batch_texts: PositiveInt = 64
    assignment: Literal["drawn", "all"] = "drawn"
    warm: Annotated[int, Field(ge=0)] = 0
    rate: PositiveFloat = 1.0
    rounds: PositiveInt = 6
    patience: PositiveInt = 2
    temper_tokens: PositiveFloat = 16.0
    anneal_from: PositiveFloat | None = None
    alpha: Annotated[float, Field(ge=1)] = 1.1
    dev_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    dead_below: Annotated[float, Field(ge=0, lt=1)] = 0.1
    seed: int = 0


class Round(Config):
    """What a round found, before it changed anything; of components with a price, the price counted in.

    Attributes:
        bound: F above, in nats per text, None where nothing was measured; of variational and
            hard, the mean over batches as they came.
        train_nats: negative log likelihood of a training text under the mixture, in nats per token, not tempered.
        dev_nats: the same on held-out texts; of the training texts where none are held out.
        num_effective: exp(H(mu)).
        certainty: mean over texts of the largest responsibility.
        rate: what step sizes were scaled by.
        is_undone: whether the step before was undone, as the bound had fallen.
        reseeded: components that began anew.
    """

    bound: float | None
    train_nats: float | None
    dev_nats: float | None
    num_effective: float
    certainty: float
    rate: float
    is_undone: bool = False
    reseeded: tuple[int, ...] = ()


@dataclass
class Progress:
    """Where learning stands after a round; everything needed to go on.

    Attributes:
        log_prob_K: log weights.
        rounds: what each found; the first may be unmeasured, where responsibilities were given.
        rate: of the next step.
        best_dev: lowest held-out nats per token so far.
        best: weights and learner's state there.
        before: weights, learner's state and log likelihoods before the last step, in case it must be undone.
    """

    log_prob_K: Tensor
    rounds: list[Round] = field(default_factory=list)
    rate: float = 1.0
    best_dev: float = math.inf
    best: tuple[Tensor, dict[str, Tensor]] | None = None
    before: tuple[Tensor, dict[str, Tensor], Tensor] | None = None

    @staticmethod
    def begun(num_components: int) -> Progress:
        """Nothing learned, all components alike."""
        return Progress(torch.full((num_components,), -math.log(num_components), dtype=torch.float64))


def responsibilities(log_prob_K: Tensor, log_lik_NK: Tensor) -> Tensor:
    """Log of mu_k p_k(x_n), normalised over components, [N, K]."""
    return log_normalize(log_prob_K + log_lik_NK)


def bound_of(log_prob_K: Tensor, log_lik_NK: Tensor, alpha: float) -> float:
    """F above, in nats: the marginal log likelihood of all texts and the Dirichlet prior on weights."""
    smooth = (alpha - 1) * float(log_prob_K.sum()) if alpha > 1 else 0.0
    return float(torch.logsumexp(log_prob_K + log_lik_NK, -1).sum()) + smooth


def best_weights(resp_NK: Tensor, alpha: float) -> Tensor:
    """Log of the weights that maximise the bound at these responsibilities: mu_k ∝ alpha - 1 + sum_n r_nk, [K]."""
    return log_normalize((alpha - 1 + resp_NK.sum(0)).log())


def split(num_texts: int, settings: Learning) -> tuple[list[int], list[int]]:
    """Numbers of the texts to learn from, and of those held out."""
    order = torch.randperm(num_texts, generator=torch.Generator().manual_seed(settings.seed)).tolist()
    num_dev = round(settings.dev_share * num_texts)
    return sorted(order[num_dev:]), sorted(order[:num_dev])
