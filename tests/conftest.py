"""What tests share: the default model, read once, and a tiny one that is made on the spot."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # tests side by side, and what they start, share the cores
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // int(workers)))

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import factorlm as fl
from factorlm.errors import FetchError
from factorlm.factors.head import Head, HeadWeights
from factorlm.models import CausalLM
from factorlm.models.loading import load_model, read_model

# Byte-level pieces: a blank, a line break, letters, marks, and the single bytes of é and €.
LETTERS = ["Ġ", "Ċ", *"abcdefghijklmnopqrstuvwxyz", *".,:'<>/|", "Ã", "©", "â", "Ĥ", "¬"]
MERGES = ["Ġ t", "h e", "Ġt he", "o o", "g oo", "goo d", "b a", "ba d", "Ġ good", "Ġ bad", "i n", "Ã ©"]
START, END = "<s>", "</s>"
CONTEXT = 256


def make_tokenizer() -> PreTrainedTokenizerFast:
    pieces = [START, END, *LETTERS, *(merge.replace(" ", "") for merge in MERGES)]
    tokenizer = Tokenizer(
        models.BPE({p: n for n, p in enumerate(pieces)}, [(m.split()[0], m.split()[1]) for m in MERGES])
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=START, eos_token=END)


def make_network(num_tokens: int) -> LlamaForCausalLM:
    """Weights large enough that every token read matters to the next one by whole nats."""
    config = LlamaConfig(
        vocab_size=num_tokens,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=1,
    )
    network = LlamaForCausalLM(config).float()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.3, generator=generator)
        network.lm_head.weight[:, 0] = 0.5  # so that the first direction of a head's bias is a constant: its gauge
    return network


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    make_network(len(tokenizer)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_lm(tiny_folder: Path) -> CausalLM:
    """Two layers, 32 wide, 55 tokens, random; shared, so tests count what it reads only by differences."""
    return load_model(str(tiny_folder), dtype="float32", device="cpu")


@pytest.fixture
def fresh_lm(tiny_folder: Path) -> CausalLM:
    """The tiny model without any memory of other tests."""
    return read_model(str(tiny_folder), dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def make_head(tiny_lm: CausalLM) -> Callable[..., Head]:
    """A random head of the tiny model: make_head(rank, seed); its potentials vary by about a nat."""

    def make(rank: int = 0, seed: int = 0, name: str | None = None) -> Head:
        generator = torch.Generator().manual_seed(100 * rank + seed)
        bias_D = 0.5 * torch.randn(tiny_lm.width, generator=generator)
        up_DR = 0.3 * torch.randn(tiny_lm.width, rank, generator=generator)
        down_RD = 0.3 * torch.randn(rank, tiny_lm.width, generator=generator)
        return Head(name or f"head{rank}-{seed}", HeadWeights(bias_D, up_DR, down_RD), tiny_lm)

    return make


@pytest.fixture(scope="session")
def model() -> fl.Model:
    """The default model; float32, so that its answers do not depend on the processor."""
    try:
        return fl.load(dtype="float32", device="cpu")
    except FetchError as error:
        pytest.skip(f"the default model could not be fetched: {error}")


@pytest.fixture(scope="session")
def lm(model: fl.Model) -> CausalLM:
    return model.lm


@pytest.fixture(scope="session")
def chi_square() -> Callable[[Mapping[object, int], Mapping[object, float]], float]:
    """Probability of counts at least this far from these probabilities; texts expected under 10 times go together."""
    from scipy.stats import chi2

    def p_value(count: Mapping[object, int], prob: Mapping[object, float]) -> float:
        assert set(count) <= {key for key, p in prob.items() if p > 0}, "something impossible was drawn"
        total = sum(count.values())
        common = [key for key, p in prob.items() if p * total >= 10]
        pairs = [(count.get(key, 0), prob[key] * total) for key in common]
        pairs.append((total - sum(c for c, _ in pairs), total - sum(e for _, e in pairs)))
        assert len(pairs) >= 4, "too few common outcomes to say anything"
        statistic = sum((seen - expected) ** 2 / expected for seen, expected in pairs if expected > 1e-6)
        return float(chi2.sf(statistic, sum(expected > 1e-6 for _, expected in pairs) - 1))

    return p_value
