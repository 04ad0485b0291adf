"""Hidden states of labelled texts, read once and kept."""

# Axes: D width, N tokens laid end to end.

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from factorlm.algebra import pad_right
from factorlm.models import CausalLM
from factorlm.models.fetch import cache_folder

Report = Callable[[str, int, int], None]  # stage, done, total: whoever shows progress

BATCH_TOKENS = 1024
LONGEST_TEXT = 64  # tokens read of each text; later ones say little more about its class


def quiet(stage: str, done: int, total: int) -> None:
    """Report to nobody."""


@dataclass(frozen=True, eq=False)
class Features:
    """Every token of some texts with the hidden state it is predicted from.

    Attributes:
        hidden_ND: states before each token, half precision.
        token_N: the tokens.
        owner_N: the text that each token belongs to.
    """

    hidden_ND: Tensor
    token_N: Tensor
    owner_N: Tensor

    @property
    def num_texts(self) -> int:
        """Number of texts."""
        return int(self.owner_N.max()) + 1 if self.owner_N.numel() else 0


def tokenized(lm: CausalLM, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of each text, cut to a bounded length. A leading space makes words the ones that appear mid-text."""
    return [lm.encode_text(" " + text)[:LONGEST_TEXT] for text in texts]


def encode(lm: CausalLM, texts: Sequence[str], *, report: Report = quiet, keep: bool = True) -> Features:
    """Read the texts, or find them read already.

    Args:
        lm: the shared encoder.
        texts: what to read; of each the first LONGEST_TEXT tokens.
        report: told of progress.
        keep: whether to keep the states on disk for the next head on the same texts.
    """
    path = _path(lm, texts)
    if path.is_file():
        try:
            kept = safetensors.torch.load_file(path)
            report("reading texts", len(texts), len(texts))
            return Features(kept["hidden_ND"], kept["token_N"].long(), kept["owner_N"].long())
        except (safetensors.SafetensorError, KeyError):
            path.unlink()  # damaged: read the texts again
    rows = tokenized(lm, texts)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    hidden: list[Tensor] = [torch.empty(0, lm.width, dtype=torch.float16)] * len(rows)
    done = 0
    while done < len(order):
        size = max(1, BATCH_TOKENS // max(1, len(rows[order[done]])))
        batch = order[done : done + size]
        text_BT = pad_right([rows[i] for i in batch])
        prefix_BT = torch.tensor([lm.start_ids] * len(batch))
        hidden_BTD = lm.hidden_before(prefix_BT, text_BT)
        for b, i in enumerate(batch):
            hidden[i] = hidden_BTD[b, : len(rows[i])].to("cpu", torch.float16)
        done += len(batch)
        report("reading texts", done, len(texts))
    features = Features(
        torch.cat(hidden),
        torch.tensor([token for row in rows for token in row]),
        torch.tensor([i for i, row in enumerate(rows) for _ in row]),
    )
    if keep:
        _save(features, path)
    return features


def _save(features: Features, path: Path) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    tensors = {"hidden_ND": features.hidden_ND, "token_N": features.token_N.int(), "owner_N": features.owner_N.int()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(tensors, partial)
        partial.replace(path)
    except (OSError, safetensors.SafetensorError):  # a cache that cannot be written saves no time, and that is all
        partial.unlink(missing_ok=True)


def _path(lm: CausalLM, texts: Sequence[str]) -> Path:
    digest = hashlib.sha256(f"{lm.fingerprint} {LONGEST_TEXT}".encode())
    for text in texts:
        digest.update(text.encode() + b"\0")
    return cache_folder() / "features" / f"{digest.hexdigest()[:24]}.safetensors"
