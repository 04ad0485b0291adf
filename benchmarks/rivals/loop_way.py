"""A loop over transformers models with a cache for each term, as DExperts (Liu et al., 2021) decodes."""

from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from worker import OPENING, instructions, serve


def make(kind: str, folder: str, terms: int) -> Callable[[int], int]:
    """See worker.serve."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = ["", *(f"{text}\n\n" for text in instructions(terms))]
    exponents = [0.5, *[0.5 / max(terms, 1)] * terms] if terms else [1.0]

    @torch.inference_mode()
    def write(tokens: int) -> int:
        generator = torch.Generator().manual_seed(0)
        inputs = [tokenizer(prompt + OPENING, return_tensors="pt").input_ids for prompt in prompts]
        caches = [None] * len(prompts)
        for _ in range(tokens):
            log_prob_V = 0.0
            for n, exponent in enumerate(exponents):
                out = model(input_ids=inputs[n], past_key_values=caches[n], use_cache=True, logits_to_keep=1)
                caches[n] = out.past_key_values
                log_prob_V = log_prob_V + exponent * out.logits[0, -1].float().log_softmax(-1)
            token = torch.multinomial(log_prob_V.softmax(-1), 1, generator=generator)
            inputs = [token[None]] * len(prompts)
        return tokens

    return write


if __name__ == "__main__":
    serve(make)
