"""genlm-control (Loula et al., 2025; Lipkin et al., 2025): products of prompted models, one sample or particles."""

import asyncio
from collections.abc import Callable

import torch
from genlm.backend import load_model_by_name
from genlm.control import PromptedLLM, direct_token_sampler
from worker import OPENING, instructions, serve


def make(kind: str, folder: str, terms: int) -> Callable[[int], int]:
    """See worker.serve."""
    model = load_model_by_name(folder, backend="hf", llm_opts={"hf_opts": {"torch_dtype": torch.bfloat16}})
    tokenizer = model.tokenizer
    loop = asyncio.new_event_loop()
    product = PromptedLLM(model, prompt_ids=tokenizer.encode(OPENING))
    for text in instructions(terms):
        product = product * PromptedLLM(model, prompt_ids=tokenizer.encode(f"{text}\n\n{OPENING}"))
    number = 16 if kind in ("particles", "samples") else 1
    how = {"ess_threshold": 0.5 if kind == "particles" else 0.0, "verbosity": 0}

    def write(tokens: int) -> int:
        model.clear_cache()
        found = loop.run_until_complete(direct_token_sampler(product).smc(n_particles=number, max_tokens=tokens, **how))
        return max(len(context) for context in found.contexts)

    return write


if __name__ == "__main__":
    serve(make)
