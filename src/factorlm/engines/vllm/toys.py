"""A tiny random model and random factors on it, made on the spot, for the behavioural check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from factorlm.engines.vllm.orders import Order, sha256_of, write_orders
from factorlm.factors.head import EncoderCard
from factorlm.factors.manifest import HeadSettings, LexiconSettings, Manifest
from factorlm.factors.store import Store
from factorlm.inference import Model, Response, Sampling
from factorlm.models.loading import read_model
from factorlm.text.tokens import byte_of_letter

WIDTH, CONTEXT = 64, 256
START, END = "<s>", "</s>"
PROMPTS = ("the good and the bad ", "once there was a loud night ", "numbers are one two three ", "a day, a year: ")
GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, eq=False)
class Toys:
    """The model, where it lies, and its factors."""

    folder: Path
    store: Store
    model: Model

    def orders(self, ask: Mapping[str, float]) -> dict[str, Any]:
        """Extra arguments of a request that asks for these exponents."""
        return write_orders(Order(name, a, sha256_of(self.store.folder / name)) for name, a in ask.items())

    def by_folder(self, ask: Mapping[str, float]) -> dict[str, float]:
        """The same for the embedded engine, which takes folders for names."""
        return {str(self.store.folder / name): a for name, a in ask.items()}

    def asks(self, count: int) -> list[dict[str, float]]:
        """Requests of every kind in turn."""
        kinds: list[dict[str, float]] = [
            {}, {"loud": 2.0}, {"soft": -1.5}, {"loud": 1.0, "soft": 2.0}, {"words": 1.0}, {"loud": 1.0, "words": 2.0},
            {"bans": 1.0, "quiet": -2.0}, {"quiet": 3.0}, {"loud": 0.5, "soft": 0.5, "quiet": 0.5, "words": 0.5},
        ]  # fmt: skip
        return [{name: a * (1 + 0.07 * n) for name, a in kinds[n % len(kinds)].items()} for n in range(count)]

    def embedded(
        self, prompts: Sequence[str], asks: Sequence[Mapping[str, float]], lengths: Sequence[int]
    ) -> list[Response]:
        """What the embedded engine writes, greedily, each request by itself."""
        return [
            self.model.generate(prompt, max_tokens=length, sampling=GREEDY, exponents=self.by_folder(ask))[0]
            for prompt, ask, length in zip(prompts, asks, lengths, strict=True)
        ]


def make_toys(place: Path) -> Toys:
    """Make the model and its factors in a folder."""
    folder, store = place / "model", Store(place / "store")
    _make_model(folder)
    lm = read_model(str(folder), dtype="float32", device="cpu")
    for name, rank in (("loud", 0), ("quiet", 0), ("soft", 4)):
        store.save(_head(name, rank, lm.fingerprint), _numbers(rank, seed=len(name)))
    store.save(_head("stranger", 0, "0" * 16), _numbers(0, seed=1))
    phrases: dict[str, float | None] = {"good": 4.0, "day": 6.0, "bad night": 8.0, "the": -3.0}
    store.save(Manifest(name="words", settings=LexiconSettings(phrases=phrases, whole_word=False)))
    bans: dict[str, float | None] = {"a": None, "th": None, "q": None, "ee": None}
    store.save(Manifest(name="bans", settings=LexiconSettings(phrases=bans, whole_word=False)))
    return Toys(folder, store, Model(lm, lm))


def _head(name: str, rank: int, fingerprint: str) -> Manifest:
    encoder = EncoderCard(name="toy", fingerprint=fingerprint, width=WIDTH)
    return Manifest(name=name, settings=HeadSettings(rank=rank), encoder=encoder)


def _numbers(rank: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "bias": 0.3 * torch.randn(WIDTH, generator=generator),
        "up": 0.2 * torch.randn(WIDTH, rank, generator=generator),
        "down": 0.2 * torch.randn(rank, WIDTH, generator=generator),
    }


def _make_model(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    merges = [("t", "h"), ("th", "e"), ("o", "o"), ("g", "oo"), ("goo", "d"), ("n", "i"), ("d", "a"), ("da", "y")]
    pieces = [START, END, *byte_of_letter(), *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE({piece: n for n, piece in enumerate(pieces)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=START, eos_token=END).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(pieces), hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=CONTEXT, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    network = LlamaForCausalLM(config).float()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.25, generator=generator)
    network.save_pretrained(folder)
