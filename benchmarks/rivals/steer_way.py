"""LM-Steer (Han et al., 2024): its adaptor for several steers over the unembedding, in transformers' own loop."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from worker import OPENING, serve

sys.path.insert(0, str(Path(sys.prefix).parent / "src" / "LM-Steer"))
from lm_steer.models.steers import Projected_Adaptor


def make(kind: str, folder: str, terms: int) -> Callable[[int], int]:
    """See worker.serve."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if terms:
        width, size = model.config.hidden_size, model.config.vocab_size
        steers = Projected_Adaptor(model.lm_head, "multiply", terms, width, size, 16, 1e-3, 1e-2).to(torch.bfloat16)
        steers.set_value(torch.full((1, terms), 0.3, dtype=torch.bfloat16))
        model.lm_head.forward = steers.forward
    text = tokenizer(OPENING, return_tensors="pt")

    @torch.inference_mode()
    def write(tokens: int) -> int:
        torch.manual_seed(0)
        config = GenerationConfig(max_new_tokens=tokens, min_new_tokens=tokens, do_sample=True, pad_token_id=0)
        return int(model.generate(**text, generation_config=config).shape[1] - text.input_ids.shape[1])

    return write


if __name__ == "__main__":
    serve(make)
