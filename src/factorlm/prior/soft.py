"""Implicit assumptions: vectors in the places of tokens, learned by gradient; everything else stays as it is.

Sources: soft prompts, Lester et al. (2021), arXiv:2104.08691; mixtures of them, Qin and Eisner (2021),
arXiv:2104.06599.
"""

# Axes: B pairs of text and component, D width, K components, M places of an assumption, N texts.

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from factorlm.models import CausalLM
from factorlm.models.progress import Report
from factorlm.prior.batches import by_length, moments, pairs_of, score_rows, weighted_nats
from factorlm.prior.incontext import InContext
from factorlm.prior.learning import Rows
from factorlm.settings import Config

SPREAD = 0.05  # noise of near copies, as a share of the spread of the numbers
LARGEST_GRADIENT = 1.0  # norm of the gradient of one component, to which it is clipped


class SoftSettings(Config):
    """How soft prompts are made and trained.

    Attributes:
        places: vectors of each component.
        learning_rate: of Adam.
        noise: standard deviation of what is added to the embeddings that they begin with, as a share of theirs.
        batch_tokens: to a step, padding included.
    """

    places: PositiveInt = 8
    learning_rate: PositiveFloat = 3e-2
    noise: Annotated[float, Field(ge=0)] = 0.2
    batch_tokens: PositiveInt = 256


class SoftComponents:
    """K soft prompts of one language model, as a learner; see `learning.Learner`."""

    is_monotone = True

    def __init__(self, lm: CausalLM, settings: SoftSettings, num_components: int, rows: Rows, seed: int = 0) -> None:
        self.lm, self.settings, self.num_components = lm, settings, num_components
        self._generator = torch.Generator().manual_seed(seed)
        picked = torch.randperm(len(rows), generator=self._generator)[:num_components].tolist()
        start_KMD = torch.stack([self._near([rows[i]]) for i in picked])
        self._soft_KMD = start_KMD.requires_grad_(True)
        self._optimizer = torch.optim.Adam([self._soft_KMD], lr=settings.learning_rate)
        self._optimizer.state[self._soft_KMD] = moments(self._soft_KMD)

    @property
    def num_parameters(self) -> int:
        """Numbers that are trained."""
        return self._soft_KMD.numel()

    @property
    def ensemble(self) -> InContext:
        """The components as they are now."""
        return InContext(self.lm, list(self._soft_KMD.detach().clone()))

    def log_prob(self, rows: Rows, report: Report) -> Tensor:
        """See Learner."""
        return score_rows(self.ensemble, rows, self.lm.start_ids, report)

    def improve(self, rows: Rows, weight_NK: Tensor, *, rate: float, report: Report) -> None:
        """See Learner."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * rate
        pairs = pairs_of(weight_NK)
        lengths = [self.settings.places + len(rows[n]) + 1 for n, _, _ in pairs]
        batches = by_length(lengths, self.settings.batch_tokens, self._generator)
        for number, batch in enumerate(batches, 1):
            chosen = [pairs[i] for i in batch]
            with torch.enable_grad():
                loss = self._loss([rows[n] for n, _, _ in chosen], [k for _, k, _ in chosen], [w for *_, w in chosen])
                self._optimizer.zero_grad()
                loss.backward()
            self._step()
            report("soft prompts", number, len(batches))

    def spread(self) -> None:
        """See Learner."""
        moments = self._optimizer.state[self._soft_KMD]
        with torch.no_grad():
            near_KMD = self._soft_KMD[:1].expand_as(self._soft_KMD)
            noise_KMD = torch.randn(near_KMD.shape, generator=self._generator).to(near_KMD)
            self._soft_KMD.copy_(near_KMD + SPREAD * near_KMD.std() * noise_KMD)
        for name in ("exp_avg", "exp_avg_sq"):
            moments[name] = moments[name][:1].expand_as(moments[name]).clone()

    def reseed(self, index: int, rows: Rows) -> None:
        """See Learner."""
        with torch.no_grad():
            self._soft_KMD[index] = self._near(rows)
            for name in ("exp_avg", "exp_avg_sq"):
                self._optimizer.state[self._soft_KMD][name][index] = 0.0

    def state(self) -> dict[str, Tensor]:
        """See Learner."""
        moments = {name: moment.clone() for name, moment in self._optimizer.state[self._soft_KMD].items()}
        return {**self.tensors(), **moments, "generator": self._generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """See Learner."""
        with torch.no_grad():
            self._soft_KMD.copy_(state["soft"])
        self._optimizer.state[self._soft_KMD] = {
            name: state[name].to(self._soft_KMD.device if name != "step" else "cpu").clone()
            for name in ("step", "exp_avg", "exp_avg_sq")
        }
        self._generator.set_state(state["generator"])

    def tensors(self) -> dict[str, Tensor]:
        """What is saved of the components."""
        return {"soft": self._soft_KMD.detach().clone()}

    def _step(self) -> None:
        """One step of Adam; components without a text in the batch have a gradient of zero, and hardly move."""
        gradient_KMD = self._soft_KMD.grad
        assert gradient_KMD is not None
        size_K = gradient_KMD.flatten(1).norm(dim=1)
        gradient_KMD.mul_((LARGEST_GRADIENT / size_K.clamp(min=LARGEST_GRADIENT))[:, None, None])
        self._optimizer.step()

    def _loss(self, rows: Rows, components: Sequence[int], weights: Sequence[float]) -> Tensor:
        lm = self.lm
        start_ND = lm.embed(torch.tensor(lm.start_ids))
        soft_BMD = self._soft_KMD[torch.tensor(components, device=lm.device)].to(start_ND.dtype)
        before_BTD = torch.cat([start_ND.expand(len(rows), -1, -1), soft_BMD], 1)
        return weighted_nats(lm, lm.model, before_BTD, rows, weights)

    def _near(self, rows: Rows) -> Tensor:
        """Embeddings [M, D] of tokens of these texts, with noise."""
        tokens = [token for row in rows for token in row] or [0]
        picked = torch.randint(len(tokens), (self.settings.places,), generator=self._generator).sort().values
        embedded_MD = self.lm.embed(torch.tensor([tokens[i] for i in picked.tolist()])).float()
        noise_MD = torch.randn(embedded_MD.shape, generator=self._generator).to(embedded_MD)
        return embedded_MD + self.settings.noise * embedded_MD.std() * noise_MD
