"""LM-Steer: a linear map of the last hidden state, h + dial W h, learned as two language models +W and -W.

A map of full rank over the unembedding is a head without a bias, so it runs as one.
"""

# Axes: D width, N tokens of a step.

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from factorlm.algebra import Factor, Power
from factorlm.evaluation import clock
from factorlm.evaluation.rivals.kept import Checkpoint, Kept, Learned
from factorlm.evaluation.rivals.rival import Prepared, digest_of_tensors
from factorlm.evaluation.rivals.states import LabelledStates, labelled_states
from factorlm.factors.examples import Split
from factorlm.factors.head import Head, HeadWeights
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet
from factorlm.settings import Config


class SteerTraining(Config):
    """How to learn the map.

    Attributes:
        learning_rate: of Adam, at first; it falls to zero in a straight line.
        tokens: to a step.
        epochs: over the tokens.
        seed: of the order of tokens.
    """

    learning_rate: float = 3e-4
    tokens: Annotated[int, Field(ge=1)] = 256
    epochs: Annotated[int, Field(ge=1)] = 2
    seed: int = 0


@dataclass(frozen=True)
class LMSteer:
    """softmax(E (h + dial W h)), where dial 1 is the model that was fitted to texts with the attribute.

    Attributes:
        settings: of the training.
    """

    settings: SteerTraining = field(default_factory=SteerTraining)
    name: str = "LM-Steer"
    dial: str = "multiple of the map as it was fitted"
    source: str = (
        "Han et al. (2024), arXiv:2305.12798, with its second map, the same for both classes, that takes up what sets "
        "the texts apart from the base; dropped afterwards"
    )

    def prepare(self, lm: CausalLM, parts: Split, kept: Kept, report: Report = quiet) -> Prepared:
        """See Rival."""
        states = labelled_states(lm, parts.train, kept, report)
        settings = self.settings.model_dump(mode="json")
        key = {"what": "lm-steer", "model": lm.fingerprint, "settings": settings, "states": states.fingerprint}

        def train(checkpoint: Checkpoint) -> Learned:
            return _train(lm, states, self.settings, report)

        learned = kept.get("lm-steer", key, train)
        map_DD = learned.tensors["map"]
        weights = HeadWeights(torch.zeros(lm.width), map_DD, torch.eye(lm.width))
        head = Head(self.name, weights.to(lm.device), lm)

        def factor(dial: float) -> Factor:
            return Power(head, dial)

        return Prepared(
            self.name, lm, factor, map_DD.numel(), states.seconds + learned.seconds, digest_of_tensors(learned.tensors)
        )


def _train(lm: CausalLM, states: LabelledStates, settings: SteerTraining, report: Report) -> Learned:
    """Fit W and the shared map by the likelihood of each token; the encoder and the unembedding stay fixed."""
    start = clock.seconds(lm.device)
    width, features = lm.width, states.features
    map_DD, shared_DD = (torch.zeros(width, width, device=lm.device, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.Adam([map_DD, shared_DD], lr=settings.learning_rate)
    generator = torch.Generator().manual_seed(settings.seed)
    num_tokens = len(features.token_N)
    sign_N = 2 * states.label_N - 1
    batches = [
        batch
        for _ in range(settings.epochs)
        for batch in torch.randperm(num_tokens, generator=generator).split(settings.tokens)
    ]
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (1 - step / len(batches))
        hidden_ND = features.hidden_ND[batch].float().to(lm.device)
        sign_N1 = sign_N[batch, None].to(lm.device)
        steered_ND = hidden_ND + hidden_ND @ shared_DD.T + sign_N1 * (hidden_ND @ map_DD.T)
        logit_NV = nn.functional.linear(steered_ND.to(lm.unembedding_VD.dtype), lm.unembedding_VD).float()
        loss = nn.functional.cross_entropy(logit_NV, features.token_N[batch].to(lm.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        report("fitting LM-Steer", step + 1, len(batches))
    return Learned({"map": map_DD.detach()}, clock.seconds(lm.device) - start)
