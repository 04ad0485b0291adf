"""Learning a twist: a head that looks ahead to what judges of whole texts will say, from weighted samples.

A twist guesses psi_t(x_1..x_t), up to a constant of t the expected weight of the whole text that begins so. Here
log psi_t is the sum of a head's potentials, sum_s e_{x_s} . c, so it is one more head file, costs nothing to read, and
leads both particles (which take it back at the end) and plain decoding (which does not).

Three losses, all convex in c. "ctl", contrastive (Zhao et al., 2024, arXiv:2404.17546): sum_t KL(sigma_t || pi_t),
where sigma_t is what the product makes of the first t tokens, and pi_t ∝ (what was drawn) psi_t; both are estimated on
texts drawn from the local product, weighed and not resampled. "fudge" (Yang and Klein, 2021, arXiv:2104.05218): at
every prefix, cross entropy of the whole text's weight, scaled to at most 1, as the probability of a label. "mean",
controlled decoding (Mudgal et al., 2024, arXiv:2310.17022): at every prefix, squared error of the whole text's log
weight, whose plain expectation it learns; that is the logarithm of the expected weight to first order only.
"""

# Axes: B texts of one prompt, D width, T time.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from factorlm.algebra import PAD, Factor, flatten, merge, pad_left, pad_right, unflatten
from factorlm.errors import InputError
from factorlm.factors.calibration import head_strengths
from factorlm.factors.convex import minimise
from factorlm.factors.head import EncoderCard, Head, HeadWeights
from factorlm.factors.headed import fuse_product
from factorlm.factors.manifest import HeadSettings, Manifest
from factorlm.factors.sequence import SequenceFactor
from factorlm.factors.training import Description, Trained, data_card
from factorlm.inference.draw import Sampling, generator_of
from factorlm.inference.particles import Particles, sample_particles
from factorlm.inference.population import Population
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet

RIDGES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)  # nats for a unit of |g|^2 / 2, from much to little
MOST_STEPS = 40  # of the search for each penalty; the next goes on from there
ENOUGH = 4.0  # effective texts of a prompt, below which nothing can be learned from it
PLAIN = Sampling()
Loss = Literal["ctl", "fudge", "mean"]


@dataclass(frozen=True, eq=False)
class Twist:
    """A learned twist.

    Attributes:
        head: to be given as `twist` to samplers with particles; its exponent one is what was learned.
        ridge: penalty that did best on texts held out; infinite where nothing was learned.
        gain: nats per token by which it brings what is drawn nearer to the target, on texts held out ("ctl"), or by
            which it foretells the label ("fudge"), or half the squared error that it spares ("mean").
        effective_size: of the texts it was learned from, mean over prompts, in [1, number].
        num_texts: that it was learned from.
    """

    head: Head
    ridge: float
    gain: float
    effective_size: float
    num_texts: int

    def trained(self, about: Description) -> Trained:
        """The twist as a factor for a store."""
        lm, weights = self.head.lm, self.head.weights
        manifest = Manifest(
            name=about.name,
            description=about.description,
            label=about.label or "looks ahead to a judge of whole texts",
            licence=about.licence,
            settings=HeadSettings(rank=weights.rank),
            encoder=EncoderCard(name=lm.name, fingerprint=lm.fingerprint, width=lm.width),
            strengths=head_strengths(lm, weights),
            data=data_card(about, self.num_texts, "drawn from the model"),
            effect={"twist: gain in nats per token": round(self.gain, 4)},
            origin=about.label,
        )
        return Trained(manifest, weights, {})


def learn_twist(
    factor: Factor,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    number: int = 256,
    loss: Loss = "ctl",
    seed: int = 0,
    limit: Literal["end", "cut"] = "end",
    name: str = "twist",
    report: Report = quiet,
) -> Twist:
    """Learn what leads particles to texts that the judges in a composition will like.

    Args:
        factor: a language model times anything, judges of whole texts among it.
        prompts: what texts are drawn behind, in tokens; the twist is for texts behind prompts like these.
        max_tokens: most tokens of a text.
        number: texts drawn for each prompt.
        loss: see above.
        seed: of the texts.
        limit: see Particles; as the twist will be used.
        name: of the head.
        report: told of progress.

    Raises:
        InputError: if the composition has no language model that stands as it is, or too few texts have weight.
    """
    terms = merge(flatten(factor))
    lm = next((term.factor for term in terms if isinstance(term.factor, CausalLM)), None)
    if lm is None:
        raise InputError("a twist is a head on a language model, got a composition without one; multiply one")
    if max_tokens < 2 or not prompts:
        raise InputError(f"a twist needs prompts and texts of at least 2 tokens, got {len(prompts)} and {max_tokens}")
    particles = Particles(method="importance", number=number, limit=limit)
    populations = sample_particles(
        factor, prompts, [generator_of(seed, prompt, 0) for prompt in prompts], max_tokens=max_tokens,
        particles=particles, sampling=PLAIN, report=report,
    )  # fmt: skip
    sizes = [population.effective_sizes[-1] if population.effective_sizes else 0.0 for population in populations]
    informed = [p for p, size in enumerate(sizes) if size >= ENOUGH]
    if not informed:
        raise InputError(
            f"at least {ENOUGH:g} of {number} texts that weigh something are needed to learn from, got "
            f"{max(sizes):.1f} effective ones at best; draw more texts, or take milder judges"
        )
    steps = fuse_product(unflatten([term for term in terms if not isinstance(term.factor, SequenceFactor)]))
    batches = []
    for done, p in enumerate(informed):
        population = populations[p]
        batches.append(_read(lm, steps, prompts[p], population))
        report("reading texts", done + 1, len(informed))
    found = _fit(batches, lm.width, loss)
    report("learning the twist", 1, 1)
    bias_D = found.bias_D.float()
    head = Head(name, HeadWeights.shift(bias_D).to(lm.device), lm)
    return Twist(head, found.ridge, found.gain, sum(sizes) / len(sizes), number * len(informed))


@dataclass(frozen=True)
class Drawn:
    """Texts of one prompt, read.

    Attributes:
        sum_BTD: of the embeddings of the first t tokens.
        goes_on_BT: whether a text has more tokens than t + 1.
        log_partial_BT: log weight, against what was drawn, of the first t tokens; of finished texts, the whole weight.
        log_weight_B: of whole texts.
    """

    sum_BTD: Tensor
    goes_on_BT: Tensor
    log_partial_BT: Tensor
    log_weight_B: Tensor

    def rows(self, row_R: Tensor) -> Drawn:
        """Some of the texts."""
        fields = (self.sum_BTD, self.goes_on_BT, self.log_partial_BT, self.log_weight_B)
        return Drawn(*(field[row_R] for field in fields))


@torch.inference_mode()
def _read(lm: CausalLM, steps: Factor, prompt: Sequence[int], population: Population) -> Drawn:
    """What the losses need of the texts drawn for a prompt."""
    texts = population.token_ids
    text_BT = pad_right([list(text) for text in texts]).to(lm.device)
    prefix_BT = pad_left([list(prompt)] * len(texts)).to(lm.device)
    real_BT = text_BT != PAD
    sum_BTD = (lm.unembedding_VD[text_BT.clamp(min=0)].double() * real_BT[..., None]).cumsum(1)
    total_BT = torch.stack([w_BV.double().logsumexp(-1) for w_BV in steps.steps(prefix_BT, text_BT)], 1)
    goes_on_BT = torch.cat([real_BT[:, 1:], torch.zeros_like(real_BT[:, :1])], 1)
    log_share_B = torch.tensor(population.weights, dtype=torch.float64, device=lm.device).log()
    log_weight_B = log_share_B + population.log_z + math.log(len(texts))  # as those of beginnings: not normalised
    log_partial_BT = torch.where(goes_on_BT, (total_BT * real_BT).cumsum(1), log_weight_B[:, None])
    return Drawn(sum_BTD.cpu(), goes_on_BT.cpu(), log_partial_BT.cpu(), log_weight_B.cpu())


def ctl_loss(bias_D: Tensor, batch: Drawn) -> tuple[Tensor, Tensor]:
    """Mean over t of KL(sigma_t || pi_t) up to a constant, in nats, and its slope [D]."""
    log_psi_BT = torch.where(batch.goes_on_BT, batch.sum_BTD @ bias_D, 0.0)
    target_B = batch.log_weight_B.softmax(0)
    log_drawn_BT = batch.log_partial_BT + log_psi_BT
    drawn_BT = log_drawn_BT.softmax(0)
    any_T = batch.goes_on_BT.any(0)
    value_T = log_drawn_BT.logsumexp(0) - batch.log_partial_BT.logsumexp(0) - target_B @ log_psi_BT
    pull_BT = (drawn_BT - target_B[:, None]) * batch.goes_on_BT
    count = max(1, int(any_T.sum()))
    return value_T[any_T].sum() / count, pull_BT.flatten() @ batch.sum_BTD.flatten(0, 1) / count


def fudge_loss(bias_D: Tensor, batch: Drawn) -> tuple[Tensor, Tensor]:
    """Mean cross entropy of the label at every prefix, above that of a constant guess, in nats, and its slope [D].

    A label is the weight of the whole text beyond that of its tokens, over the largest of them.
    """
    label_B = _judged(batch)
    label_B = (label_B - label_B.max()).exp()
    share_BT = torch.where(batch.goes_on_BT, batch.log_partial_BT, -torch.inf).softmax(0).nan_to_num()
    mean = (share_BT * label_B[:, None]).sum() / share_BT.sum().clamp(min=1e-300)
    odds = torch.logit(mean.clamp(1e-6, 1 - 1e-6))
    logit_BT = odds + torch.where(batch.goes_on_BT, batch.sum_BTD @ bias_D, 0.0)
    target_BT = label_B[:, None].expand_as(logit_BT)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    value_BT = entropy(logit_BT, target_BT, reduction="none")
    value_BT = value_BT - entropy(odds.expand_as(target_BT), target_BT, reduction="none")
    pull_BT = share_BT * (logit_BT.sigmoid() - target_BT)
    count = max(1, int(batch.goes_on_BT.any(0).sum()))
    return (share_BT * value_BT).sum() / count, pull_BT.flatten() @ batch.sum_BTD.flatten(0, 1) / count


def mean_loss(bias_D: Tensor, batch: Drawn) -> tuple[Tensor, Tensor]:
    """Half the mean squared error of judges' nats at every prefix, less that of a constant guess, and its slope [D].

    Raises:
        InputError: if a judge makes a text impossible: then there is no mean.
    """
    label_B = _judged(batch)
    if not bool(label_B.isfinite().all()):
        raise InputError("rewards that are numbers are needed for their mean, got impossible texts; take another loss")
    share_BT = torch.where(batch.goes_on_BT, batch.log_partial_BT, -torch.inf).softmax(0).nan_to_num()
    guess_BT = batch.sum_BTD @ bias_D
    wanted_BT = label_B[:, None] - share_BT.T @ label_B  # each place has a constant of its own
    error_BT = guess_BT - (share_BT * guess_BT).sum(0) - wanted_BT
    value = (share_BT * (error_BT.square() - wanted_BT.square())).sum() / 2
    pull_BT = share_BT * error_BT
    count = max(1, int(batch.goes_on_BT.any(0).sum()))
    return value / count, pull_BT.flatten() @ batch.sum_BTD.flatten(0, 1) / count


def _judged(batch: Drawn) -> Tensor:
    """Nats that whole texts weigh beyond their tokens, [B]."""
    last_B = batch.log_partial_BT.gather(1, (batch.goes_on_BT.sum(1, keepdim=True) - 1).clamp(min=0))[:, 0]
    return batch.log_weight_B - torch.where(batch.goes_on_BT.any(1), last_B, 0.0)


LOSSES = {"ctl": ctl_loss, "fudge": fudge_loss, "mean": mean_loss}


@dataclass(frozen=True)
class _Fit:
    bias_D: Tensor
    ridge: float
    gain: float


def _fit(batches: list[Drawn], width: int, loss: Loss) -> _Fit:
    """The bias of least loss, with the ridge that does best on texts held out; nothing where none does any good."""
    objective = LOSSES[loss]
    halves = [[batch.rows(torch.arange(half, len(batch.log_weight_B), 2)) for batch in batches] for half in (0, 1)]

    def total(bias_D: Tensor, some: list[Drawn], ridge: float = 0.0) -> tuple[Tensor, Tensor]:
        values, slopes = zip(*(objective(bias_D, batch) for batch in some), strict=True)
        value = torch.stack(values).mean() + ridge * bias_D.square().sum() / 2
        return value, torch.stack(slopes).mean(0) + ridge * bias_D

    def fitted(some: list[Drawn], ridge: float, start_D: Tensor) -> Tensor:
        return minimise(lambda bias_D: total(bias_D, some, ridge), start_D, most_steps=MOST_STEPS)

    zero_D = torch.zeros(width, dtype=torch.float64)
    best_ridge, best_gain = math.inf, 0.0
    starts = [zero_D, zero_D]
    for ridge in RIDGES:
        starts = [fitted(half, ridge, start_D) for half, start_D in zip(halves, starts, strict=True)]
        gain = -sum(float(total(starts[half], halves[1 - half])[0]) for half in (0, 1)) / 2
        if gain > best_gain:
            best_ridge, best_gain = ridge, gain
    bias_D = zero_D if best_ridge == math.inf else fitted(batches, best_ridge, zero_D)
    return _Fit(bias_D, best_ridge, best_gain)
