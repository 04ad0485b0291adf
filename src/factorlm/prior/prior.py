"""A distribution over language models: read it, update it by evidence, tilt it, draw from it, write it down."""

# Axes: B texts, K components, N texts of some evidence, T time.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from factorlm.algebra import entropy
from factorlm.errors import IncompatibleError, InputError, IntegrityError
from factorlm.models import CausalLM
from factorlm.models.loading import load_present
from factorlm.models.progress import Report, quiet
from factorlm.prior import beliefs, files
from factorlm.prior.batches import score_rows
from factorlm.prior.ensemble import Ensemble
from factorlm.prior.kinds import KINDS
from factorlm.prior.manifest import Manifest, Update
from factorlm.prior.mixture import Bayes, Blend, PerResponse


@dataclass(frozen=True, eq=False)
class Prior:
    """mu over the models M_k = (base, assumptions A_k), bound to its base; nothing changes it, updates are new ones.

    Attributes:
        manifest: what is known of it, its weights among that.
        tensors: numbers of the components.
        lm: the base.
    """

    manifest: Manifest
    tensors: dict[str, Tensor]
    lm: CausalLM

    def __post_init__(self) -> None:
        base = self.manifest.base
        if base.fingerprint != self.lm.fingerprint:
            raise IncompatibleError(
                f"this prior was learned with {base.name} ({base.fingerprint}), got {self.lm.name} "
                f"({self.lm.fingerprint}); name that model, or learn one for this"
            )

    @staticmethod
    def load(path: Path | str, lm: CausalLM | None = None, *, dtype: str = "auto", device: str = "auto") -> Prior:
        """Read a prior, and its base unless that is given.

        Raises:
            InputError: if there is none, or its base is not here.
            IntegrityError: if a file of it is not what its card says.
            IncompatibleError: if it was learned with another model.
        """
        manifest, tensors = files.read(path)
        if lm is None:
            lm = load_present(manifest.base.name, dtype=dtype, device=device)
        return Prior(manifest, tensors, lm)

    def save(self, path: Path | str, *, replace: bool = False) -> None:
        """Write it down; see `files.write`."""
        files.write(path, self.manifest, self.tensors, replace=replace)

    @cached_property
    def ensemble(self) -> Ensemble:
        """The components, put together."""
        found = KINDS[self.manifest.kind.kind](self.lm, self.manifest.kind, self.tensors)
        if found.num_components != self.num_components:
            raise IntegrityError(
                f"numbers of {self.num_components} components are needed, got those of {found.num_components}; "
                "copy the prior again"
            )
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """Of the components."""
        return self.manifest.names

    @property
    def num_components(self) -> int:
        """K, those without weight included."""
        return len(self.manifest.components)

    @property
    def log_prob_K(self) -> Tensor:
        """Log weights of the components, in nats and float64; -inf for what was filtered out."""
        return torch.tensor(self.manifest.weights, dtype=torch.float64).log()

    @property
    def entropy(self) -> float:
        """Of the weights, in nats."""
        return float(entropy(self.log_prob_K))

    # As language models

    @cached_property
    def mixture(self) -> Bayes:
        """The law sum_k mu_k p_k(x) as a language model; K passes for each token."""
        return Bayes(self.ensemble, self.log_prob_K, self.names)

    @cached_property
    def blend(self) -> Blend:
        """Next-token distributions averaged anew at each token: another law."""
        return Blend(self.ensemble, self.log_prob_K, self.names)

    def per_response(self, component_B: Tensor) -> PerResponse:
        """Each row with its own component: after drawing them from mu, the law of `mixture` at one pass a token."""
        return PerResponse(self.ensemble, component_B)

    def draw(self, n: int, generator: torch.Generator, *, repeat: bool = False) -> Tensor:
        """Components for n responses, [n]; see `beliefs.draw_components`."""
        return beliefs.draw_components(self.log_prob_K, n, generator, repeat=repeat)

    def index(self, name: str) -> int:
        """The number of a component.

        Raises:
            InputError: if there is none of this name.
        """
        if name not in self.names:
            raise InputError(f"one of the components {', '.join(self.names)} is needed, got {name!r}")
        return self.names.index(name)

    # Evidence

    def log_likelihood(self, texts: Sequence[str], *, prompt: str = "", report: Report = quiet) -> Tensor:
        """Log probability of each text under each component that has weight, [N, K], in nats; -inf for the others.

        Args:
            texts: without end tokens.
            prompt: read before each.
            report: told of progress.

        Raises:
            InputError: for an empty text, or one longer than the context.
        """
        prefix = [*self.lm.start_ids, *self.lm.encode_text(prompt)]
        rows = [self.lm.encode_text(text) for text in texts]
        if not rows:
            raise InputError("at least one text is needed as evidence, got none")
        for text, row in zip(texts, rows, strict=True):
            if not row:
                raise InputError("a text of at least one token is needed as evidence, got an empty one; leave it out")
            if len(prefix) + len(row) > self.lm.max_tokens // 2:
                raise InputError(
                    f"evidence of at most {self.lm.max_tokens // 2} tokens a text is read, got {len(row)} in one that "
                    f"begins {text[:40]!r}; give it in pieces, one a line"
                )
        alive = self.mixture.alive.tolist()
        return score_rows(self.ensemble, rows, prefix, report, alive)

    def posterior(self, texts: Sequence[str], *, beta: float = 1.0, prompt: str = "", why: str = "") -> Prior:
        """Weights after evidence: mu_k p_k(D)^beta, for texts that are independent given the model."""
        log_lik_K = self.log_likelihood(texts, prompt=prompt).sum(0)
        return self._updated("posterior", beliefs.posterior(self.log_prob_K, log_lik_K, beta), why or _told(texts))

    def filter(self, texts: Sequence[str], *, epsilon: float = 1e-3, prompt: str = "", why: str = "") -> Prior:
        """Without the components that the evidence refutes; the others keep their proportions."""
        log_lik_K = self.log_likelihood(texts, prompt=prompt).sum(0)
        return self._updated("filter", beliefs.occam_window(self.log_prob_K, log_lik_K, epsilon), why or _told(texts))

    def tilt(self, rewards: Sequence[float], *, temperature: float = 1.0, why: str = "") -> Prior:
        """Weights mu_k exp(R_k / temperature); the support stays.

        Args:
            rewards: of each component, those without weight included.
            temperature: in units of the reward; small ones tilt strongly.
            why: a line for the record.
        """
        if len(rewards) != self.num_components:
            raise InputError(f"a reward for each of {self.num_components} components is needed, got {len(rewards)}")
        reward_K = torch.tensor(list(rewards), dtype=torch.float64)
        return self._updated("tilt", beliefs.tilted(self.log_prob_K, reward_K, temperature), why or "rewards")

    def _updated(self, what: str, log_prob_K: Tensor, why: str) -> Prior:
        prob_K = log_prob_K.exp()
        after = tuple((prob_K / prob_K.sum()).tolist())
        update = Update.model_validate(
            {"what": what, "why": " ".join(why.split())[:300], "before": self.manifest.weights, "after": after,
             "divergence": max(0.0, beliefs.divergence(log_prob_K, self.log_prob_K))}
        )  # fmt: skip
        cards = tuple(
            card.model_copy(update={"weight": weight})
            for card, weight in zip(self.manifest.components, after, strict=True)
        )
        changes = {"components": cards, "updates": (*self.manifest.updates, update)}
        found = replace(self, manifest=self.manifest.model_copy(update=changes))
        if "ensemble" in self.__dict__:  # what components have read stays read
            found.__dict__["ensemble"] = self.ensemble
        return found


def _told(texts: Sequence[str]) -> str:
    return " / ".join(texts)
