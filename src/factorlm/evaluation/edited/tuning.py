"""The plain rival of a closed form: the same matrix, moved by gradient until the fact comes out.

Source: the rival FT of Meng et al. (2022), arXiv:2202.05262.
"""

# Axes: F width of keys, O width of values.

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from factorlm.models import CausalLM
from factorlm.models.editing.facts import EditFact
from factorlm.models.editing.sites import Site
from factorlm.models.twins import twin
from factorlm.settings import Config


class Tuning(Config):
    """How a matrix is tuned.

    Attributes:
        steps: of Adam at most.
        learning_rate: in units of the root mean square of the matrix.
        enough: nats a token below which nothing is done.
    """

    steps: Annotated[int, Field(ge=1)] = 25
    learning_rate: Annotated[float, Field(gt=0)] = 0.03
    enough: Annotated[float, Field(ge=0)] = 0.05


def tuned(lm: CausalLM, site: Site, facts: Sequence[EditFact], settings: Tuning) -> Tensor:
    """The change of the matrix of a site, [O, F], by which the targets come out behind their prompts."""
    network = twin(lm)
    module = dict(network.named_modules())[site.name]
    before = module.weight.detach()
    weight = nn.Parameter(before.clone())
    module.weight = weight
    rate = settings.learning_rate * float(before.square().mean().sqrt())
    optimizer = torch.optim.Adam([weight], lr=rate)
    pairs = [(lm.encode_text(fact.asked), lm.encode_text(f" {fact.target}")) for fact in facts]
    for _ in range(settings.steps):
        loss = torch.zeros(())
        for prompt, target in pairs:
            token_BT = torch.tensor([[*lm.start_ids, *prompt, *target[:-1]]], device=lm.device)
            hidden_BTD = network.base_model(input_ids=token_BT, use_cache=False).last_hidden_state
            logit_TV = nn.functional.linear(hidden_BTD[0, -len(target) :], lm.unembedding_VD)
            loss = loss + nn.functional.cross_entropy(logit_TV, torch.tensor(target, device=lm.device)) / len(pairs)
        if float(loss.detach()) < settings.enough:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    change_OF = weight.detach() - before
    return change_OF.T if site.is_transposed else change_OF
