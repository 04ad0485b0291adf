"""What is known of a served model without its network: its tokens, where texts begin and end, its fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from factorlm.errors import InputError
from factorlm.models.conversation import encode_turns
from factorlm.models.loading import end_ids_of, folder_of_model, start_ids_of
from factorlm.models.quiet import quiet_transformers
from factorlm.text import Vocabulary, is_utf8
from factorlm.text.tokens import vocabulary_of


@dataclass(frozen=True, eq=False)
class Served:
    """A model folder, read as far as tokens and hashes need it.

    Attributes:
        name: as it was asked for.
        folder: where it is.
        tokenizer: of transformers.
        config: of transformers.
        end_ids: tokens that end a text.
        start_ids: what texts begin with.
    """

    name: str
    folder: Path
    tokenizer: Any
    config: Any
    start_ids: tuple[int, ...]
    end_ids: tuple[int, ...]

    @classmethod
    def of(cls, name: str) -> Served:
        """Read what belongs to a model by name or folder.

        Raises:
            InputError: if there is no such model on this machine, or it cannot be read.
        """
        from transformers import AutoConfig, AutoTokenizer, GenerationConfig

        folder = _local_folder(name)
        try:
            with quiet_transformers():
                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
                config = AutoConfig.from_pretrained(folder, local_files_only=True)
                generation = _Generation(
                    GenerationConfig.from_pretrained(folder, local_files_only=True)
                    if (folder / "generation_config.json").is_file()
                    else GenerationConfig.from_model_config(config)
                )
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise InputError(
                f"no causal language model can be read from {folder}: {reason}; check the folder"
            ) from None
        return cls(name, folder, tokenizer, config, start_ids_of(folder, tokenizer), end_ids_of(generation, tokenizer))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokens, as many as the model has rows of its output."""
        return vocabulary_of(self.tokenizer, int(self.config.get_text_config().vocab_size), self.end_ids)

    @cached_property
    def max_tokens(self) -> int:
        """Longest text that the model was made for."""
        return int(getattr(self.config.get_text_config(), "max_position_embeddings", 1 << 30))

    @cached_property
    def fingerprint(self) -> str:
        """That of `CausalLM.fingerprint`, from the files alone."""
        return fingerprint_of(self.folder, self.config)

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a text, without a start token; names of special tokens in it are plain text."""
        if not is_utf8(text):
            raise InputError(f"UTF-8 text is needed, got {text[:40]!r} with bytes that are none; convert it")
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation that the model is to go on with.

        Raises:
            InputError: if the model has no chat template, or refuses these messages.
        """
        return encode_turns(self.tokenizer, self.name, messages)


@dataclass(frozen=True)
class _Generation:
    """What `end_ids_of` asks a model for."""

    generation_config: Any


def _local_folder(name: str) -> Path:
    folder = folder_of_model(name)
    if Path(folder).is_dir():
        return Path(folder)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(folder, local_files_only=True))
    except OSError:
        raise InputError(f"the model {name!r} is not on this machine; fetch it first: hf download {name}") from None


def fingerprint_of(folder: Path, config: Any) -> str:
    """The fingerprint of the causal language model in a folder of safetensors, without running it.

    Raises:
        InputError: if its files do not hold what its configuration says.
    """
    import safetensors
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"), quiet_transformers():
        empty = AutoModelForCausalLM.from_config(config)
    shapes = {name: tuple(weight.shape) for name, weight in empty.state_dict().items()}
    files = [safetensors.safe_open(path, "pt") for path in sorted(folder.glob("*.safetensors"))]
    places = {name: file for file in files for name in file.keys()}  # noqa: SIM118
    twin = {"lm_head.weight": "model.embed_tokens.weight"} if config.get_text_config().tie_word_embeddings else {}
    digest = hashlib.sha256()
    for name, shape in sorted(shapes.items()):
        stored = name if name in places else twin.get(name, name)
        if stored not in places:
            raise InputError(f"{folder} should hold the weight {name}, but does not; its fingerprint is not known")
        flat = places[stored].get_tensor(stored).reshape(-1)
        sample = flat[:: max(1, flat.numel() // 256)][:256].to("cpu", torch.bfloat16).view(torch.int16)
        digest.update(f"{name}{shape}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]
