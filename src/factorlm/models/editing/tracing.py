"""Which layer a fact comes through: the subject is blurred, and one stretch of MLPs gets what it gave without the blur.

Source: Meng et al. (2022), arXiv:2202.05262, section 2. That the layer found is the best one to edit is not a given:
Hase et al. (2023), arXiv:2301.04213.
"""

# Axes: B rows, D width, L layers, T time.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from factorlm.algebra import pad_right
from factorlm.models.causal import CausalLM
from factorlm.models.editing.facts import EditFact, located
from factorlm.models.editing.sites import run, site_of
from factorlm.models.layers import num_layers
from factorlm.models.progress import Report, quiet

NOISE = 3.0  # standard deviations of the numbers in embeddings
STRETCH = 6  # one layer of so many is restored at once
BLURS = 4  # drawn for each fact


@torch.no_grad()
def indirect_effects(lm: CausalLM, facts: Sequence[EditFact], *, seed: int = 0, report: Report = quiet) -> list[float]:
    """By layer, what restoring the MLPs around it at the subject's last token gives back of the lost probability.

    A mean over facts and blurs of p(answer) restored less p(answer) blurred; the answer is what the model itself says
    without a blur.
    """
    total = num_layers(lm)
    effect_L = torch.zeros(total)
    generator = torch.Generator().manual_seed(seed)
    for n, fact in enumerate(facts):
        effect_L += _of_fact(lm, fact, generator)
        report("tracing facts", n + 1, len(facts))
    return (effect_L / max(1, len(facts))).tolist()


def _of_fact(lm: CausalLM, fact: EditFact, generator: torch.Generator) -> Tensor:
    total = num_layers(lm)
    whole = located(lm, "", fact.prompt, fact.subject)
    num_subject = len(lm.encode_text(f" {fact.subject}"))
    first = max(len(lm.start_ids), whole.place + 1 - num_subject)
    token_BT = pad_right([list(whole.ids)]).to(lm.device)
    place_B = torch.tensor([whole.place], device=lm.device)
    sites = [site_of(lm, layer) for layer in range(total)]
    clean = run(lm, token_BT, place_B, sites)
    answer = int(lm.unembed(clean.hidden_BTD[0, -1]).argmax())
    scale = NOISE * float(lm.model.get_input_embeddings().weight.float().std())
    width = clean.hidden_BTD.shape[-1]
    blur_BTD = scale * torch.randn(BLURS, whole.place + 1 - first, width, generator=generator)
    reach = max(1, round(total / STRETCH)) // 2
    windows: list[range | None] = [None]
    windows += [range(max(0, layer - reach), min(total, layer + reach + 1)) for layer in range(total)]
    row_BT = token_BT.expand(BLURS * len(windows), -1)
    values = {site.layer: value[0] for site, value in zip(sites, clean.value_SBO, strict=True)}

    def blurred(module: Any, args: tuple[Any, ...], embedded_BTD: Tensor) -> Tensor:
        changed = embedded_BTD.clone()
        changed[:, first : whole.place + 1] += blur_BTD.repeat(len(windows), 1, 1).to(changed)
        return changed

    def restored(layer: int) -> Any:
        rows = [n for n, window in enumerate(windows) if window is not None and layer in window]
        index = torch.tensor([n * BLURS + b for n in rows for b in range(BLURS)], device=lm.device)

        def hook(module: Any, args: tuple[Any, ...], value_BTO: Tensor) -> Tensor:
            changed = value_BTO.clone()
            changed[index, whole.place] = values[layer]
            return changed

        return hook

    handles = [lm.model.get_input_embeddings().register_forward_hook(blurred)]
    try:
        handles += [site.module.register_forward_hook(restored(site.layer)) for site in sites]
        hidden_BTD = lm.model.base_model(input_ids=row_BT, use_cache=False).last_hidden_state
    finally:
        for handle in handles:
            handle.remove()
    prob_B = lm.unembed(hidden_BTD[:, -1]).softmax(-1)[:, answer].cpu()
    prob_W = prob_B.view(len(windows), BLURS).mean(1)
    return prob_W[1:] - prob_W[0]


def best_layer(effects: Sequence[float]) -> int:
    """The layer of the largest effect."""
    return max(range(len(effects)), key=lambda layer: effects[layer])
