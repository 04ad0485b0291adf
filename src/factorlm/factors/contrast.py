"""The contrast factor p_expert(x) / p_anti(x) of any two models of one vocabulary.

Source: DExperts, Liu et al. (2021), arXiv:2105.03023; contrastive decoding, Li et al. (2023), arXiv:2210.15097.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from factorlm.algebra import Factor, Named, Power
from factorlm.errors import IncompatibleError, InputError
from factorlm.factors.unbound import Unbound
from factorlm.models import CausalLM
from factorlm.models.loading import load_present


@dataclass(frozen=True, eq=False)
class UnboundContrast(Unbound):
    """Names of the two models; None leaves that side out, which makes a plain ratio to the steered model."""

    expert: str | None
    anti_expert: str | None

    def bind(self, lm: CausalLM) -> Factor:
        """See Unbound."""
        if self.expert is None and self.anti_expert is None:
            raise InputError(f"contrast {self.name!r} needs an expert or an anti-expert, got neither")
        expert, anti = self._model(self.expert, lm), self._model(self.anti_expert, lm)
        return replace(contrast(self.name, expert, anti), strengths=self.strengths)

    def _model(self, name: str | None, lm: CausalLM) -> CausalLM:
        if name is None or name == lm.name:
            return lm
        return load_present(name, dtype=str(lm.model.dtype).removeprefix("torch."), device=lm.device.type)


def contrast(name: str, expert: Factor, anti_expert: Factor) -> Named:
    """The factor expert / anti_expert under a name.

    Raises:
        IncompatibleError: if their vocabularies differ.
    """
    if expert.vocabulary != anti_expert.vocabulary:
        raise IncompatibleError(
            f"contrast {name!r} needs two models of one vocabulary, got {expert.vocabulary.size} and "
            f"{anti_expert.vocabulary.size} different tokens; take models with the same tokenizer"
        )
    return Named(name, expert * Power(anti_expert, -1.0))
