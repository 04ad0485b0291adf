"""How keys lie in texts of any kind: the mean of k kᵀ at the matrices that facts are written into."""

# Axes: B texts, F width of keys, N tokens of a batch laid end to end, T time.

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from factorlm.algebra import PAD, pad_right
from factorlm.errors import InputError
from factorlm.files import write_whole
from factorlm.models.causal import CausalLM
from factorlm.models.editing.sites import Site
from factorlm.models.fetch import cache_folder
from factorlm.models.progress import Report, quiet

RIDGE = 1e-2  # of the mean square of a number in a key; what few texts leave undetermined
LONGEST = 128  # tokens of a text that are read
BATCH_TEXTS = 16


def moments(
    lm: CausalLM,
    sites: Sequence[Site],
    texts: Sequence[str],
    *,
    max_tokens: int = 20_000,
    folder: Path | None = None,
    report: Report = quiet,
) -> dict[int, Tensor]:
    """C of each site by layer, [F, F] in float64, with a ridge so that it can be inverted.

    The start token is among the keys, so that what it makes of a text is kept; it is far larger than others, so the
    ridge is measured without it.

    Args:
        lm: the model, before any edit.
        sites: of which.
        texts: of any kind, read from the first on.
        max_tokens: read at most.
        folder: where they are kept; None keeps them beside the models.
        report: told of progress.

    Raises:
        InputError: if no text has a token.
    """
    rows = [[*lm.start_ids, *lm.encode_text(text)[:LONGEST]] for text in texts]
    rows = _first([row for row in rows if len(row) > len(lm.start_ids)], max_tokens)
    if not rows:
        raise InputError("texts to take keys from are needed, got none with a token; name a file of sentences")
    digest = hashlib.sha256(f"{lm.fingerprint} {lm.model.dtype} {RIDGE} {rows}".encode()).hexdigest()[:16]
    paths = {
        site.layer: (folder or cache_folder() / "editing") / f"{digest}-{site.layer}.safetensors" for site in sites
    }
    if not all(path.is_file() for path in paths.values()):
        for layer, moment_FF in _measured(lm, sites, rows, report).items():
            write_whole(paths[layer], safetensors.torch.save({"moment": moment_FF}))
    return {layer: safetensors.torch.load_file(path)["moment"].to(lm.device) for layer, path in paths.items()}


def _first(rows: list[list[int]], max_tokens: int) -> list[list[int]]:
    taken, total = [], 0
    for row in rows:
        taken.append(row)
        total += len(row)
        if total >= max_tokens:
            break
    return taken


@torch.no_grad()
def _measured(lm: CausalLM, sites: Sequence[Site], rows: list[list[int]], report: Report) -> dict[int, Tensor]:
    total: dict[int, Tensor] = {}
    square = {site.layer: 0.0 for site in sites}
    is_read_BT = is_start_BT = torch.empty(0, dtype=torch.bool)

    def taken(site: Site) -> Any:
        def hook(module: Any, args: tuple[Any, ...]) -> None:
            key_NF = args[0][is_read_BT].double()
            total[site.layer] = total.get(site.layer, 0) + key_NF.T @ key_NF
            square[site.layer] += float(args[0][is_read_BT & ~is_start_BT].double().square().mean(1).sum())

        return site.module.register_forward_pre_hook(hook)

    handles = [taken(site) for site in sites]
    try:
        rows = sorted(rows, key=len)  # little padding
        for start in range(0, len(rows), BATCH_TEXTS):
            token_BT = pad_right(rows[start : start + BATCH_TEXTS]).to(lm.device)
            is_read_BT = token_BT != PAD
            is_start_BT = torch.zeros_like(is_read_BT)
            is_start_BT[:, : len(lm.start_ids)] = True
            lm.model.base_model(input_ids=token_BT.clamp(min=0), use_cache=False)
            report("reading keys", min(len(rows), start + BATCH_TEXTS), len(rows))
    finally:
        for handle in handles:
            handle.remove()
    count = sum(map(len, rows))
    others = count - len(rows) * len(lm.start_ids)
    return {
        layer: moment_FF / count + RIDGE * square[layer] / others * torch.eye(len(moment_FF), device=lm.device)
        for layer, moment_FF in total.items()
    }
