"""language-model-arithmetic (Dekoninck et al., 2024): its own generation with prompted terms of one model."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from model_arithmetic import ModelArithmetic, PromptedLLM
from transformers import AutoTokenizer
from worker import OPENING, instructions, serve


def readable(folder: str) -> str:
    """A copy, in links, that the older transformers can read: it knows other names for two settings."""
    copy = Path(tempfile.mkdtemp())
    for file in Path(folder).iterdir():
        (copy / file.name).symlink_to(file)
    config = json.loads((copy / "config.json").read_text())
    rope = config.pop("rope_parameters", None) or {}
    tokenizer = json.loads((copy / "tokenizer_config.json").read_text())
    changed = {
        "config.json": config | {"rope_theta": rope.get("rope_theta", config.get("rope_theta", 10_000.0))},
        "tokenizer_config.json": tokenizer | {"tokenizer_class": "PreTrainedTokenizerFast"},
    }
    for name, settings in changed.items():
        (copy / name).unlink()
        (copy / name).write_text(json.dumps(settings))
    return str(copy)


def make(kind: str, folder: str, terms: int) -> Callable[[int], int]:
    """See worker.serve."""
    folder = readable(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    formula = PromptedLLM("", prompt_template=lambda system, text: text)
    for text in instructions(terms):
        formula = formula + (0.5 / terms) * PromptedLLM(text, prompt_template=lambda s, t: f"{s}\n\n{t}")
    whole = ModelArithmetic(formula, default_model=folder, dtype=torch.bfloat16, calculate_statistics=False)
    torch.manual_seed(0)

    def write(tokens: int) -> int:
        [found] = whole.generate_text(OPENING, max_new_tokens=tokens, temperature=1, batch_size=1)
        ids = tokenizer(found, add_special_tokens=False).input_ids
        return min(tokens, len(ids))

    return write


if __name__ == "__main__":
    serve(make)
