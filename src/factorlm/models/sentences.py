"""Sentences as vectors: the encoder behind judges and guides."""

# Axes: B sentences, D width, T time.

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from factorlm.models import linear
from factorlm.models.fetch import fetch
from factorlm.models.quiet import quiet_transformers

BATCH_SENTENCES = 32
KEPT_SENTENCES = 8192  # whose vectors are remembered: several judges read the same texts one after the other


class SentenceEncoder:
    """Mean of the last hidden states of a sentence, normalised to length one.

    Source: Sentence-BERT, Reimers and Gurevych (2019), arXiv:1908.10084; weights all-MiniLM-L6-v2.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        with quiet_transformers():
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
            self.model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.max_tokens = min(256, self.model.config.max_position_embeddings)  # 256 is what MiniLM was trained on
        linear.install(self.model)
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def width(self) -> int:
        """D, numbers of a vector."""
        return int(self.model.config.hidden_size)

    @torch.inference_mode()
    def encode(self, sentences: Sequence[str], report: Callable[[int, int], None] = lambda done, total: None) -> Tensor:
        """Vectors [B, D] of length one, in the order of the sentences.

        Args:
            sentences: what to encode; of long ones only the beginning is read.
            report: told of sentences done and their total.
        """
        new = sorted({sentence for sentence in sentences if sentence not in self._kept}, key=lambda s: (len(s), s))
        found = {sentence: self._kept[sentence] for sentence in sentences if sentence in self._kept}
        for start in range(0, len(new), BATCH_SENTENCES):
            batch = new[start : start + BATCH_SENTENCES]
            read = self.tokenizer(batch, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")
            hidden_BTD = self.model(**read).last_hidden_state
            weight_BT1 = read.attention_mask[..., None].float()
            mean_BD = (hidden_BTD * weight_BT1).sum(1) / weight_BT1.sum(1)
            found.update(zip(batch, torch.nn.functional.normalize(mean_BD, dim=-1), strict=True))
            report(start + len(batch), len(new))
        self._kept.update((sentence, found[sentence]) for sentence in new)
        while len(self._kept) > KEPT_SENTENCES:
            self._kept.popitem(last=False)
        if not found:
            return torch.empty(0, self.width)
        return torch.stack([found[sentence] for sentence in sentences])


@lru_cache(maxsize=1)
def load_sentence_encoder() -> SentenceEncoder:
    """The default sentence encoder, fetched the first time."""
    return SentenceEncoder(fetch("minilm"))
