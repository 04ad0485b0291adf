"""A small Llama trained from scratch on the texts of a world, and kept as a model folder."""

# Axes: B texts, T time.

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn

from factorlm.algebra import PAD, pad_right
from factorlm.evaluation.facts.world import World
from factorlm.evaluation.lora import shuffled
from factorlm.files import write_whole_folder
from factorlm.models.fetch import cache_folder
from factorlm.models.progress import Report, quiet
from factorlm.settings import Config
from factorlm.text.tokens import byte_of_letter

START, END = "<s>", "</s>"
CARD = "facts.json"
LARGEST_GRADIENT = 1.0  # norm to which gradients are clipped
WARM_UP = 0.05  # share of the steps in which the learning rate rises; after that it falls to a tenth
WORDS = r" ?[\p{L}]+| ?[^\s\p{L}]|\s"  # a word or a mark with the blank before it


class Training(Config):
    """The network and its training.

    Attributes:
        width, depth, heads: of the network.
        epochs: passes over the texts.
        batch_texts: texts of a step.
        learning_rate: the highest.
        seed: of first weights and of the order of texts.
    """

    width: PositiveInt = 128
    depth: PositiveInt = 3
    heads: PositiveInt = 4
    epochs: PositiveInt = 4
    batch_texts: PositiveInt = 32
    learning_rate: PositiveFloat = 3e-3
    seed: NonNegativeInt = 0


def train_fact_model(
    world: World,
    texts: Sequence[str],
    settings: Training = Training(),  # noqa: B008 - frozen
    *,
    folder: Path | None = None,
    report: Report = quiet,
) -> Path:
    """The folder of a language model that has read these texts, trained unless it is kept from an equal run.

    Args:
        world: whose names become tokens, also where no text has them.
        texts: see `make_corpus`.
        settings: of the network and its training.
        folder: where folders are kept; None keeps them beside the other models.
        report: told of progress.
    """
    content = json.dumps([settings.model_dump(), world.settings.model_dump(), list(texts)])
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    place = (folder or cache_folder() / "facts") / digest
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):
        if not (place / CARD).is_file():
            _train(place, world, texts, settings, report)
    return place


def word_tokenizer(texts: Sequence[str]) -> Any:
    """A tokenizer with a token for every word of these texts, alone and behind a blank, and for every byte."""
    from transformers import PreTrainedTokenizerFast

    letter_of = {byte: letter for letter, byte in byte_of_letter().items()}
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    words = {word.strip() for text in texts for word, _ in split.pre_tokenize_str(text)} - {""}
    pieces = dict.fromkeys([START, END, *(letter_of[byte] for byte in range(256))])
    for word in sorted(words):
        for text in (word, f" {word}"):
            pieces["".join(letter_of[byte] for byte in text.encode())] = None
    # A word that is known is taken whole; with no merges, any other falls to its bytes.
    model = models.BPE({piece: n for n, piece in enumerate(pieces)}, [], ignore_merges=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=START, eos_token=END)


def _train(place: Path, world: World, texts: Sequence[str], settings: Training, report: Report) -> None:
    names = [*(fact.statement(0) for fact in world.facts), *(o for found in world.objects.values() for o in found)]
    tokenizer = word_tokenizer([*texts, *names, *(fact.answered() for fact in world.facts)])
    network = _network(len(tokenizer), settings)
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    rows = [[start, *tokenizer(text, add_special_tokens=False).input_ids, end] for text in texts]
    generator = torch.Generator().manual_seed(settings.seed)
    lengths = [len(row) for row in rows]
    batches = [b for _ in range(settings.epochs) for b in shuffled(lengths, settings.batch_texts, generator)]
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, len(batches)))
    losses = []
    for step, batch in enumerate(batches, 1):
        loss = _loss(network, pad_right([rows[i] for i in batch]))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        report("training on facts", step, len(batches))
    card = {
        "texts": len(texts),
        "tokens": sum(map(len, rows)),
        "world": world.settings.model_dump(mode="json"),
        "training": settings.model_dump(mode="json"),
        "nats_per_token": losses[:: max(1, len(losses) // 20)],
    }

    def write(folder: Path) -> None:
        tokenizer.save_pretrained(folder)
        network.save_pretrained(folder)
        (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")

    write_whole_folder(place, write)


def _network(num_tokens: int, settings: Training) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=num_tokens,
        hidden_size=settings.width,
        intermediate_size=8 * settings.width // 3,
        num_hidden_layers=settings.depth,
        num_attention_heads=settings.heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):  # transformers draws first weights from the global generator
        torch.manual_seed(settings.seed)
        return LlamaForCausalLM(config).float()


def _loss(network: Any, token_BT: Tensor) -> Tensor:
    """Mean cross-entropy of the tokens behind the first, in nats."""
    # What fills the right side comes after every real token, so a causal model does not see it.
    logit_BTV = network(input_ids=token_BT[:, :-1].clamp(min=0), use_cache=False).logits
    return nn.functional.cross_entropy(logit_BTV.flatten(0, 1), token_BT[:, 1:].flatten(), ignore_index=PAD)


def _rate(step: int, num_steps: int) -> float:
    """Share of the highest learning rate."""
    rise = max(1, round(WARM_UP * num_steps))
    return (step + 1) / rise if step < rise else 1 - 0.9 * (step - rise) / max(1, num_steps - rise)
