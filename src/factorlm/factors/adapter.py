"""The factor p_adapted(x) / p(x) of a low-rank adapter: what tuning did to a model, with an exponent.

After preference tuning at a temperature beta the ratio is exp(r / beta) up to a constant of the prompt, so its w-th
power gives, for whole texts, the model that tuning at beta / w would have given.

Source: Liu et al. (2024), decoding-time realignment, arXiv:2402.02992.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from factorlm.algebra import Named
from factorlm.errors import IncompatibleError
from factorlm.factors.contrast import contrast
from factorlm.factors.head import EncoderCard
from factorlm.factors.unbound import Unbound
from factorlm.models import CausalLM
from factorlm.models.lora import Adapter, merged


@dataclass(frozen=True, eq=False)
class UnboundAdapter(Unbound):
    """An adapter as loaded from its file."""

    adapter: Adapter
    encoder: EncoderCard

    def bind(self, lm: CausalLM) -> Named:
        """See Unbound."""
        if self.encoder.fingerprint != lm.fingerprint:
            raise IncompatibleError(
                f"adapter {self.name!r} needs the model {self.encoder.name} ({self.encoder.fingerprint}), got "
                f"{lm.name} ({lm.fingerprint}); use that model or tune this one"
            )
        return replace(ratio(self.name, lm, self.adapter), strengths=self.strengths)


def ratio(name: str, lm: CausalLM, adapter: Adapter) -> Named:
    """The adapted model over the model it was made from."""
    return contrast(name, merged(lm, adapter), lm)
