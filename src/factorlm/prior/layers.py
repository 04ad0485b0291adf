"""Components that are choices of layers: each runs its own part of one language model.

A component k has q_k(z) = prod_l Bernoulli(sigmoid(a_kl)) over masks of the layers that are free, and maximises
E_q[log p(x | z)] - KL(q_k || prior) - price of the layers run. It reads and writes with its most probable mask.

Source: layer-selection posteriors, Li et al. (2020), arXiv:2009.13102; here without training the network itself, but
for a small change that all components share, if it is asked for; see `layerdrop`.
"""

# Axes: B texts of a batch, K components, L layers that are free, N texts, S masks.

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from factorlm.algebra import pad_right
from factorlm.models import CausalLM
from factorlm.models.layers import Gated
from factorlm.models.lora import Adapter, merged
from factorlm.models.progress import Report
from factorlm.prior.batches import by_length, pairs_of, score_rows
from factorlm.prior.ensemble import Separate
from factorlm.prior.layerdrop import Adaptation, adapt
from factorlm.prior.learning import Rows
from factorlm.prior.parts import count_free, layer_parts
from factorlm.prior.variational import Slopes, bernoulli_kl, gumbel_sigmoid, most_probable_mask, reinforce
from factorlm.settings import Config

KEPT_GRADIENT, KEPT_SQUARE, LEAST_SIZE = 0.9, 0.999, 1e-8  # of Adam


class LayerSettings(Config):
    """How layers are chosen.

    Attributes:
        first: layers at the beginning that are always run.
        last: layers at the end that are always run.
        initial_logit: of running a free layer; 2 is a probability of 0.88.
        noise: standard deviation of what is added to the logits of each component, to make them differ.
        estimator: of the gradient: reinforce (no bias, forward passes only) or gumbel (less noise, but a bias, and it
            goes back through the network, which takes longer and more memory).
        num_masks: drawn for each component and batch.
        temperature: of the relaxed masks of gumbel.
        learning_rate: of Adam, on logits.
        kl: what a nat of divergence from the prior counts beside a text of weight 1; one over the weight of all texts
            of a component makes the objective the evidence lower bound.
        kl_steps: of a component, over which kl grows from zero to that.
        keep_prior: probability of running a free layer under the prior.
        layer_cost: price of running a layer, in nats per token; what components learn from and share texts by is the
            likelihood less this price, else all texts would go to those that run most layers.
        batch_tokens: to a step, padding included.
        adapt: how the model first learns to do without layers; None leaves it as it is.
    """

    first: PositiveInt = 4
    last: NonNegativeInt = 2
    initial_logit: float = 2.0
    noise: NonNegativeFloat = 0.5
    estimator: Literal["reinforce", "gumbel"] = "reinforce"
    num_masks: Annotated[int, Field(ge=2)] = 4
    temperature: PositiveFloat = 1.0
    learning_rate: PositiveFloat = 0.1
    kl: NonNegativeFloat = 0.01
    kl_steps: PositiveInt = 50
    keep_prior: Annotated[float, Field(gt=0, lt=1)] = 0.5
    layer_cost: NonNegativeFloat = 0.0
    batch_tokens: PositiveInt = 1024
    adapt: Adaptation | None = None


class LayerComponents:
    """K choices of layers of one language model, as a learner; see `learning.Learner`.

    Args:
        lm: the model, which stays as it is.
        settings: how layers are chosen.
        num_components: K.
        seed: of everything random.
    """

    is_monotone = False  # a step climbs the mean over masks, and likelihoods are those of the most probable one

    def __init__(self, lm: CausalLM, settings: LayerSettings, num_components: int, seed: int = 0) -> None:
        self.lm, self.settings, self.num_components, self._seed = lm, settings, num_components, seed
        self.adapter: Adapter | None = None
        self._generator = torch.Generator().manual_seed(seed)
        num_free = count_free(lm, settings.first, settings.last)
        self._logit_KL = torch.stack([self._near(torch.full((num_free,), settings.initial_logit)) for _ in self._all])
        self._mean_KL, self._square_KL = torch.zeros_like(self._logit_KL), torch.zeros_like(self._logit_KL)
        self._step_K = torch.zeros(num_components, dtype=torch.long)
        self._slopes = [Slopes.none(num_free) for _ in self._all]

    @property
    def num_parameters(self) -> int:
        """Numbers that are trained."""
        return self._logit_KL.numel() + (self.adapter.num_parameters if self.adapter is not None else 0)

    @property
    def keep_prob_KL(self) -> Tensor:
        """Probability that each component runs each free layer."""
        return self._logit_KL.sigmoid()

    @property
    def ensemble(self) -> Separate:
        """The components as they are now."""
        return Separate(self.parts())

    def parts(self) -> tuple[CausalLM, ...]:
        """The language model with the most probable layers of each component; equal choices are one object."""
        return layer_parts(self._whole, self._logit_KL, self.settings.first, self.settings.last)

    def adapt(self, rows: Rows, report: Report) -> None:
        """Learn from texts to do without layers, if the settings ask for it; before the layers are chosen."""
        if self.settings.adapt is not None:
            first, last = self.settings.first, self.settings.last
            self._take(adapt(self.lm, rows, self.settings.adapt, first=first, last=last, seed=self._seed,
                             report=report))  # fmt: skip

    def log_prob(self, rows: Rows, report: Report) -> Tensor:
        """See Learner."""
        parts = self.parts()
        different = list(dict.fromkeys(parts))
        log_prob_NU = score_rows(Separate(tuple(different)), rows, self.lm.start_ids, report)
        num_run_K = torch.stack([most_probable_mask(logit_L).sum() for logit_L in self._logit_KL]).double()
        num_tokens_N1 = torch.tensor([[len(row)] for row in rows], dtype=torch.float64)
        price_NK = self.settings.layer_cost * num_tokens_N1 * num_run_K
        return log_prob_NU[:, [different.index(part) for part in parts]] - price_NK

    def improve(self, rows: Rows, weight_NK: Tensor, *, rate: float, report: Report) -> None:
        """See Learner."""
        pairs = pairs_of(weight_NK)
        jobs: list[tuple[int, list[tuple[int, float]]]] = []
        for k in self._all:
            own = [(n, weight) for n, index, weight in pairs if index == k and rows[n]]
            lengths = [len(rows[n]) + len(self.lm.start_ids) for n, _ in own]
            batches = by_length(lengths, self.settings.batch_tokens, self._generator)
            jobs += [(k, [own[i] for i in batch]) for batch in batches]
        for number, (k, batch) in enumerate(jobs, 1):
            weight_B = torch.tensor([weight for _, weight in batch], dtype=torch.float64)
            gradient_L = self._gradient(k, [rows[n] for n, _ in batch], weight_B / weight_B.sum())
            self._climb(k, gradient_L.to(self._logit_KL), rate)
            report("layers", number, len(jobs))

    def spread(self) -> None:
        """See Learner."""
        for k in self._all[1:]:
            self._logit_KL[k] = self._near(self._logit_KL[0])
            self._mean_KL[k], self._square_KL[k] = self._mean_KL[0], self._square_KL[0]
            self._step_K[k] = self._step_K[0]
            self._slopes[k] = self._slopes[0]

    def reseed(self, index: int, rows: Rows) -> None:
        """See Learner: the component becomes like the other one that explains these texts best, with noise."""
        others = [k for k in self._all if k != index]
        if others and rows:
            log_prob_K = self.log_prob(rows, lambda *_: None).sum(0)
            near_L = self._logit_KL[max(others, key=lambda k: float(log_prob_K[k]))]
        else:
            near_L = torch.full_like(self._logit_KL[index], self.settings.initial_logit)
        self._logit_KL[index] = self._near(near_L)
        self._mean_KL[index], self._square_KL[index], self._step_K[index] = 0.0, 0.0, 0
        self._slopes[index] = Slopes.none(len(near_L))

    def state(self) -> dict[str, Tensor]:
        """See Learner."""
        return {**self.tensors(), "mean": self._mean_KL.clone(), "square": self._square_KL.clone(),
                "steps": self._step_K.clone(), "generator": self._generator.get_state(),
                "outer": torch.stack([slopes.outer_LL for slopes in self._slopes]),
                "cross": torch.stack([slopes.cross_L for slopes in self._slopes])}  # fmt: skip

    def restore(self, state: dict[str, Tensor]) -> None:
        """See Learner."""
        if self.settings.adapt is not None:
            adapter = Adapter.of(state, self.settings.adapt.scale)
            if self.adapter is None or not _are_equal(adapter.tensors, self.adapter.tensors):
                self._take(adapter if adapter.down_RI else None)
        self._logit_KL = state["logits"].clone()
        self._mean_KL, self._square_KL = state["mean"].clone(), state["square"].clone()
        self._step_K = state["steps"].clone()
        self._slopes = [Slopes(*pair) for pair in zip(state["outer"], state["cross"], strict=True)]
        self._generator.set_state(state["generator"])

    def tensors(self) -> dict[str, Tensor]:
        """What is saved of the components."""
        adapter = {} if self.adapter is None else self.adapter.tensors
        return {"logits": self._logit_KL.clone(), **{name: weight.clone() for name, weight in adapter.items()}}

    @property
    def _all(self) -> range:
        return range(self.num_components)

    @cached_property
    def _whole(self) -> CausalLM:
        """The model whose layers are chosen."""
        return self.lm if self.adapter is None else merged(self.lm, self.adapter)

    @cached_property
    def _gated(self) -> Gated:
        return Gated(self._whole)

    def _take(self, adapter: Adapter | None) -> None:
        self.adapter = adapter
        for name in ("_whole", "_gated"):
            self.__dict__.pop(name, None)

    def _near(self, logit_L: Tensor) -> Tensor:
        return logit_L + self.settings.noise * torch.randn(len(logit_L), generator=self._generator)

    def _gradient(self, k: int, rows: Rows, weight_B: Tensor) -> Tensor:
        """Of the objective for a text of weight 1, [L]; the weights of the texts sum to one."""
        settings = self.settings
        logit_L = self._logit_KL[k].double().requires_grad_(True)
        num_tokens = float(weight_B @ torch.tensor([len(row) for row in rows], dtype=torch.float64))
        if settings.estimator == "reinforce":
            gradient_L, mask_SL, value_S = reinforce(
                logit_L,
                lambda mask_SL: self._values(mask_SL, rows, weight_B),
                settings.num_masks,
                self._generator,
                num_tokens * self._slopes[k].slope_L,
            )
            self._slopes[k] = self._slopes[k].after(mask_SL, value_S / num_tokens)
        else:
            gradient_L = self._gradient_through_gates(logit_L, rows, weight_B)
        with torch.enable_grad():
            kl = settings.kl * min(1.0, int(self._step_K[k]) / settings.kl_steps)
            price = kl * bernoulli_kl(logit_L, settings.keep_prior)
            price = price + settings.layer_cost * num_tokens * logit_L.sigmoid().sum()
            return gradient_L - torch.autograd.grad(price, logit_L)[0]

    def _values(self, mask_SL: Tensor, rows: Rows, weight_B: Tensor) -> Tensor:
        """Weighted log probability of texts under each mask, [S], in nats; what is drawn twice is run once."""
        prefix_BT, text_BT = torch.tensor([self.lm.start_ids]).expand(len(rows), -1), pad_right(list(rows))
        parts = layer_parts(self._whole, mask_SL - 0.5, self.settings.first, self.settings.last)
        value_of = {
            part: weight_B @ part.score(prefix_BT, text_BT).sum(1).double().cpu() for part in dict.fromkeys(parts)
        }
        return torch.stack([value_of[part] for part in parts])

    def _gradient_through_gates(self, logit_L: Tensor, rows: Rows, weight_B: Tensor) -> Tensor:
        """The straight-through estimate of the gradient of the mean weighted log probability, [L]."""
        settings = self.settings
        total_L = torch.zeros_like(logit_L)
        with torch.enable_grad():
            for _ in range(settings.num_masks):
                free_L = gumbel_sigmoid(logit_L, settings.temperature, self._generator)
                always = free_L.new_ones(settings.first), free_L.new_ones(settings.last)
                log_prob_B = self._gated.log_prob(torch.cat([always[0], free_L, always[1]]), rows)
                value = weight_B.to(log_prob_B) @ log_prob_B
                total_L += torch.autograd.grad(value, logit_L)[0]
        return total_L / settings.num_masks

    def _climb(self, k: int, gradient_L: Tensor, rate: float) -> None:
        """A step of Adam up the gradient, for one component alone. Kingma and Ba (2015), arXiv:1412.6980."""
        self._step_K[k] += 1
        step = int(self._step_K[k])
        self._mean_KL[k].lerp_(gradient_L, 1 - KEPT_GRADIENT)
        self._square_KL[k].lerp_(gradient_L**2, 1 - KEPT_SQUARE)
        mean_L = self._mean_KL[k] / (1 - KEPT_GRADIENT**step)
        size_L = (self._square_KL[k] / (1 - KEPT_SQUARE**step)).sqrt()
        self._logit_KL[k] += rate * self.settings.learning_rate * mean_L / (size_L + LEAST_SIZE)


def _are_equal(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(some[name].to(t), t) for name, t in others.items())
