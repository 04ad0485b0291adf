"""From a name, a folder or a hub name to a language model in memory."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from factorlm.errors import InputError, UnknownNameError
from factorlm.models.causal import CausalLM
from factorlm.models.fetch import MODELS, fetch, installed
from factorlm.models.quiet import quiet_transformers

DEFAULT_MODEL = "smollm2"


def load_model(name: str = DEFAULT_MODEL, *, dtype: str = "auto", device: str = "auto") -> CausalLM:
    """Load a causal language model; the same arguments give the same object.

    Args:
        name: a model that `factorlm models list` shows, a folder in the transformers format, or a hub name
            (owner/model).
        dtype: "float32", "bfloat16" or "auto": bfloat16 on an accelerator and on processors that multiply it
            natively, else float32, which is then faster.
        device: "cpu", "cuda" or "auto": an accelerator if there is one.

    Raises:
        InputError: if there is no such model, or it cannot be read.
        FetchError: if a listed model could not be fetched.
    """
    return _kept(name, dtype, device, False)


def load_present(name: str, *, dtype: str = "auto", device: str = "auto") -> CausalLM:
    """As load_model, for a name that stands on a card: only the default model is fetched, others must be here.

    Raises:
        InputError: if it is not here, or cannot be read.
    """
    if name != DEFAULT_MODEL and not is_present(name):
        how = f"factorlm models fetch {name}" if name in MODELS else f"hf download {name}"
        raise InputError(
            f"the model {name!r} that the card names is not here, and nothing is fetched on a card's word; fetch it if "
            f"you trust it ({how}), or name a model with an option"
        )
    return _kept(name, dtype, device, _is_hub_name(name))


def is_present(name: str) -> bool:
    """Whether a model can be read without fetching anything."""
    if name in MODELS:
        return any(model.name == name and model.is_fetched for model in installed())
    if not _is_hub_name(name):
        return Path(name).is_dir()
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return False
    return isinstance(config, str) and any(Path(config).parent.glob("*.safetensors"))


@lru_cache(maxsize=4)
def _kept(name: str, dtype: str, device: str, is_local: bool) -> CausalLM:
    return read_model(name, dtype=dtype, device=device, is_local=is_local)


def read_model(name: str, *, dtype: str = "auto", device: str = "auto", is_local: bool = False) -> CausalLM:
    """As load_model, but a new object each time; `is_local` keeps transformers from asking the hub."""
    import safetensors
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if (Path(name) / "edit.json").is_file():
        return _edited(name, dtype, device)
    folder = folder_of_model(name)
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    number = _number_format(dtype, place)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=is_local)
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=number, local_files_only=is_local, use_safetensors=True
            ).to(place)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, safetensors.SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"no causal language model can be read from {folder}: {reason}") from error
    start_ids = start_ids_of(Path(folder), tokenizer)
    end_ids = end_ids_of(model, tokenizer)
    lm = CausalLM(model, tokenizer, name=name, start_ids=start_ids, end_ids=end_ids)
    lm.check_unembedding()
    return lm


def _edited(name: str, dtype: str, device: str) -> CausalLM:
    """A model with facts written into it: its base, and changes beside some of the base's weights."""
    from factorlm.models.editing.artefact import EDITS, Edits

    return Edits.load(name, load_present(EDITS.read_card(name).base, dtype=dtype, device=device)).model(name)


def folder_of_model(name: str) -> str:
    """Where a model is or will be: a folder, or a hub name.

    Raises:
        UnknownNameError: if it is neither, nor a model known by name.
    """
    if name in MODELS:
        return str(fetch(name))
    if Path(name).is_dir():
        return name
    if _is_hub_name(name):
        return name  # a hub name: transformers looks into its cache, then asks the hub
    raise UnknownNameError.of("model", name, MODELS, "or give a folder or a hub name as owner/model")


def _is_hub_name(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).is_dir()


def _number_format(dtype: str, device: str) -> Any:
    import torch

    formats = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype in formats:
        return formats[dtype]
    if dtype != "auto":
        raise InputError(f"a number format is auto, float32 or bfloat16, got {dtype!r}")
    native = device != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def start_ids_of(folder: Path, tokenizer: Any) -> tuple[int, ...]:
    """The token that documents begin with: as noted when the model was fetched, else the tokenizer's."""
    note = folder / "complete.json"
    if note.is_file() and (token := json.loads(note.read_text()).get("start_token")):
        return (int(tokenizer.convert_tokens_to_ids(token)),)
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return (int(token_id),)
    raise InputError(f"the tokenizer in {folder} has no start or end token; set bos_token in its configuration")


def end_ids_of(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end a text, by the generation configuration of a model and its tokenizer."""
    found = model.generation_config.eos_token_id
    ids = list(found) if isinstance(found, (list, tuple)) else [found]
    ids.append(tokenizer.eos_token_id)
    vocabulary = tokenizer.get_vocab()
    ids += [vocabulary[token] for token in ("<|endoftext|>", "</s>") if token in vocabulary]
    ids = list(dict.fromkeys(int(i) for i in ids if i is not None))
    if not ids:
        raise InputError("the model has no end-of-text token; set eos_token_id in its generation configuration")
    return tuple(ids)
