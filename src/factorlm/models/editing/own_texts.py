"""Sentences of a model's own, for where no data set is at hand: keys are taken from them, and they guard edits."""

# Axes: B texts, V vocabulary.

from __future__ import annotations

import torch

from factorlm.models.causal import CausalLM
from factorlm.models.progress import Report, quiet


@torch.no_grad()
def own_texts(lm: CausalLM, number: int, length: int, *, seed: int = 0, report: Report = quiet) -> list[str]:
    """Texts drawn from a model, of so many tokens each.

    Args:
        lm: the model.
        number: of texts.
        length: in tokens; a text does not end before.
        seed: of the draw.
        report: told of progress.
    """
    generator = torch.Generator().manual_seed(seed)
    end_ids = list(lm.vocabulary.end_ids)
    state = lm.start(torch.tensor([lm.start_ids], device=lm.device).expand(number, -1))
    columns = []
    for n in range(length):
        prob_BV = state.log_weight_BV.exp().cpu().double()
        prob_BV[:, end_ids] = 0
        columns.append(torch.multinomial(prob_BV, 1, generator=generator)[:, 0])
        if n + 1 < length:
            state = lm.extend(state, columns[-1].to(lm.device))
        report("writing texts", n + 1, length)
    rows = torch.stack(columns, 1).tolist()
    return [str(lm.tokenizer.decode(row)).strip().replace("\ufffd", "") for row in rows]
