"""factorlm, as compare.py times it."""

from collections.abc import Callable

import torch
from worker import OPENING, instructions, serve

from factorlm.algebra import Factor, LocalProduct
from factorlm.evaluation.speed import random_heads
from factorlm.factors.headed import fuse
from factorlm.factors.prompt import UnboundPrompt
from factorlm.inference.draw import Sampling, generator_of
from factorlm.inference.local import Row, sample_local
from factorlm.inference.particles import Particles, sample_particles
from factorlm.models.loading import load_model
from factorlm.text import TextStream


def make(kind: str, folder: str, terms: int) -> Callable[[int], int]:
    """See worker.serve."""
    lm = load_model(folder, dtype="bfloat16", device="cpu")
    prompt = [*lm.start_ids, *lm.encode_text(OPENING)]
    product: Factor = lm
    if kind == "heads":
        for head in random_heads(lm, terms, 16):
            product = product * head**0.3
    else:
        for n, text in enumerate(instructions(terms)):
            product = product * UnboundPrompt(f"prompt{n}", None, text).bind(lm) ** (0.5 / terms)
    model = fuse(LocalProduct(product))

    def write(tokens: int) -> int:
        lm.forget()
        state = model.start(torch.tensor([prompt]))
        generator = generator_of(0, prompt, 0)
        for _ in range(tokens):
            token_B = torch.multinomial(state.log_weight_BV.exp(), 1, generator=generator)[:, 0]
            state = model.extend(state, token_B)
        return tokens

    def samples(tokens: int, number: int = 16) -> int:
        lm.forget()
        rows = [Row(prompt, generator_of(0, prompt, n), TextStream()) for n in range(number)]
        for _ in sample_local(product, rows, max_tokens=tokens, sampling=Sampling()):
            pass
        return tokens

    def particles(tokens: int, number: int = 16) -> int:
        lm.forget()
        sample_particles(
            product, [prompt], [generator_of(0, prompt, 0)], max_tokens=tokens, sampling=Sampling(),
            particles=Particles(number=number, limit="cut"),
        )  # fmt: skip
        return tokens

    def timed(tokens: int) -> int:
        with torch.inference_mode():
            return {"particles": particles, "samples": samples}.get(kind, write)(tokens)

    return timed


if __name__ == "__main__":
    serve(make)
