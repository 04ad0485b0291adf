"""Hidden states of labelled texts, read once and kept."""

# Axes: D width, N tokens laid end to end.

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from factorlm.algebra import pad_left, pad_right
from factorlm.factors import kept
from factorlm.models import CausalLM
from factorlm.models.fetch import cache_folder
from factorlm.models.progress import Report, quiet

BATCH_TOKENS = 1024
LONGEST_TEXT = 64  # tokens read of each text; later ones say little more about its class
LONGEST_PROMPT = 192  # tokens read of what a text answers, its last ones


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


def tokenized(lm: CausalLM, texts: Sequence[str], *, longest: int = LONGEST_TEXT) -> list[list[int]]:
    """Tokens of each text, cut to a bounded length. A leading space makes words the ones that appear mid-text."""
    return [lm.encode_text(" " + text)[:longest] for text in texts]


def encode(
    lm: CausalLM,
    texts: Sequence[str],
    *,
    prompts: Sequence[str] | None = None,
    longest: int = LONGEST_TEXT,
    report: Report = quiet,
    keep: bool = True,
) -> Features:
    """Read the texts, or find them read already.

    Args:
        lm: the shared encoder.
        texts: what to read; of each the first tokens.
        prompts: what to read before each, of which the last LONGEST_PROMPT tokens; their own states are not kept.
        longest: tokens read of a text.
        report: told of progress.
        keep: whether to keep the states on disk for the next head on the same texts.
    """
    path = _path(lm, texts, prompts, longest)
    if (found := kept.find(path, "hidden_ND", "token_N", "owner_N")) is not None:
        report("reading texts", len(texts), len(texts))
        hidden_ND, token_N, owner_N = found
        return Features(hidden_ND, token_N.long(), owner_N.long())
    rows = tokenized(lm, texts, longest=longest)
    before = [[*lm.start_ids, *lm.encode_text(prompt)[-LONGEST_PROMPT:]] for prompt in prompts or [""] * len(rows)]
    order = sorted(range(len(rows)), key=lambda i: (len(before[i]) + len(rows[i]), len(rows[i])))
    hidden: list[Tensor] = [torch.empty(0, lm.width, dtype=torch.float16)] * len(rows)
    done = 0
    while done < len(order):
        first = order[done]
        size = max(1, BATCH_TOKENS // (len(before[first]) - len(lm.start_ids) + max(1, len(rows[first]))))
        batch = order[done : done + size]
        hidden_BTD = lm.hidden_before(pad_left([before[i] for i in batch]), pad_right([rows[i] for i in batch]))
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
        indices = {"token_N": features.token_N.int(), "owner_N": features.owner_N.int()}
        kept.keep(path, {"hidden_ND": features.hidden_ND, **indices})
    return features


def _path(lm: CausalLM, texts: Sequence[str], prompts: Sequence[str] | None, longest: int) -> Path:
    digest = hashlib.sha256(f"{lm.fingerprint} {longest}".encode())
    for text in texts:
        digest.update(text.encode() + b"\0")
    for prompt in prompts or ():
        digest.update(b"\1" + prompt.encode() + b"\0")
    return cache_folder() / "features" / f"{digest.hexdigest()[:24]}.safetensors"
