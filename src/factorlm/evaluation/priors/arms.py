"""The ways of modelling documents of rival worlds that are compared: mu, and four that are no mu, on equal terms."""

# Axes: K components.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from factorlm.evaluation.priors.kept import fitted
from factorlm.evaluation.workbench import Workbench
from factorlm.inference import Sampling
from factorlm.inference.respond import Mode
from factorlm.models import CausalLM
from factorlm.prior import Fitting, Prior
from factorlm.prior.manifest import ComponentCard, Lora, SoftPrompts

MU, CONSTANT, BLEND, HOT, ENSEMBLE = "μ", "one model", "fixed blend", "one model, hot", "ensemble"
HOT_TEMPERATURE = 1.5


@dataclass(frozen=True, eq=False)
class Arm:
    """One way.

    Attributes:
        name: of it.
        prior: what answers; one model is a prior with one component.
        mode: how it answers.
        sampling: how tokens are drawn.
        is_one: whether it is one model, whatever it is made of: next tokens come from one law.
        num_parameters: trained.
        num_passes: over the texts, by all components together.
    """

    name: str
    prior: Prior
    mode: Mode
    sampling: Sampling
    is_one: bool
    num_parameters: int
    num_passes: float


def make_arms(bench: Workbench, lm: CausalLM, texts: Sequence[str], settings: Fitting) -> list[Arm]:
    """All ways, learned from the same texts.

    One model has as many trained numbers as all components together, and passes over the texts as often as they do
    together. Each member of the ensemble is one component, and passes as often: K times the compute of the others.
    """
    num_components, passes = settings.components, settings.learning.warm + settings.learning.rounds
    mu = fitted(bench, lm, texts, settings, title="components")
    one = fitted(bench, lm, texts, alone(settings, times=num_components), title="one model")
    members = [
        fitted(bench, lm, texts, alone(settings, seed=settings.learning.seed + k), title=f"member {k + 1}")
        for k in range(num_components)
    ]
    plain = Sampling()
    own, single = _num_parameters(mu), _num_parameters(one)
    together = sum(_num_parameters(member) for member in members)
    return [
        Arm(MU, mu, "response", plain, False, own, passes),
        Arm(CONSTANT, one, "response", plain, True, single, passes),
        Arm(BLEND, mu, "blend", plain, True, own, passes),
        Arm(HOT, one, "response", Sampling(temperature=HOT_TEMPERATURE), True, single, passes),
        Arm(ENSEMBLE, joined(members), "response", plain, False, together, passes * num_components),
    ]


def alone(settings: Fitting, *, times: int = 1, seed: int | None = None) -> Fitting:
    """The same learning for one component, with so many times the numbers; it passes over the texts as often."""
    learning, places = settings.learning, settings.soft.places
    longer = (places * times + settings.longest) / (places + settings.longest)  # so that a step has as many texts
    changes = {
        "components": 1,
        "learning": learning.model_copy(
            update={"warm": 0, "rounds": learning.warm + learning.rounds, "patience": learning.warm + learning.rounds,
                    "seed": learning.seed if seed is None else seed}
        ),
        "lora": settings.lora.model_copy(update={"rank": settings.lora.rank * times}),
        "soft": settings.soft.model_copy(
            update={"places": places * times, "batch_tokens": round(settings.soft.batch_tokens * longer)}
        ),
    }  # fmt: skip
    return settings.model_copy(update=changes)


def joined(members: Sequence[Prior]) -> Prior:
    """Several priors of one component and one kind as the components of one, with equal weights."""
    first = members[0]
    kind = first.manifest.kind
    if isinstance(kind, Lora):
        tensors = {f"{k}.{name.split('.', 1)[1]}": t for k, m in enumerate(members) for name, t in m.tensors.items()}
    else:
        assert isinstance(kind, SoftPrompts)
        tensors = {"soft": torch.cat([member.tensors["soft"] for member in members])}
    share = 1 / len(members)
    cards = tuple(
        ComponentCard(name=f"member {k + 1}", weight=share, learned_weight=share) for k in range(len(members))
    )
    manifest = first.manifest.model_copy(update={"components": cards, "divergence": (), "fitted": None})
    return Prior(manifest, tensors, first.lm)


def _num_parameters(prior: Prior) -> int:
    assert prior.manifest.fitted is not None
    return prior.manifest.fitted.num_parameters
