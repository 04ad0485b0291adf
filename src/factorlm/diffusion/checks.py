"""What a prior over meanings is worth on held-out texts: do decoders heed latents, are proposals like what follows?

Both ask for a difference: true latents against those of other texts, and against none.

Source: validation signals of Lovelace et al. (2024), arXiv:2408.04220.
"""

# Axes: D numbers of a latent, N windows.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.algebra import Factor, pad_left, pad_right
from factorlm.diffusion.decoding import Examples, bias_decoder, soft_decoder
from factorlm.diffusion.levels import WIDEST, noised
from factorlm.diffusion.meanings import DecoderKind, Meanings, Proposing
from factorlm.models.progress import Report, quiet

TOGETHER = 16  # windows read at once


@dataclass(frozen=True, eq=False)
class Heeding:
    """Nats of continuations under a decoder.

    Attributes:
        decoder: its kind, or "none" for the language model alone.
        share: of the variance of latents that is signal; the rest is noise.
        true_N: of each continuation, per token, with its own latent; for the language model alone, without any.
        other_N: with that of another one; the same numbers for the language model alone.
        num_tokens_N: of the continuations.
    """

    decoder: str
    share: float
    true_N: Tensor
    other_N: Tensor
    num_tokens_N: Tensor


@dataclass(frozen=True, eq=False)
class Likeness:
    """Cosines of proposals.

    Attributes:
        true_N: to the continuation of their own prefix.
        other_N: to that of another one.
    """

    true_N: Tensor
    other_N: Tensor


def measure_decoders(
    meanings: Meanings, examples: Examples, shares: Sequence[float], kinds: Sequence[str], seed: int = 0,
    report: Report = quiet,
) -> list[Heeding]:  # fmt: skip
    """How decoders of these kinds heed latents with this little noise; first comes the language model alone.

    Args:
        meanings: with decoders.
        examples: held out.
        shares: of the variance that is signal, each from 0 to 1.
        kinds: "soft", "bias".
        seed: of the noise.
        report: told of progress.
    """
    latent_ND = examples.latent_ND.float()
    noise_ND = torch.randn(latent_ND.shape, generator=torch.Generator().manual_seed(seed))
    num_tokens_N = torch.tensor([float(len(c)) for c in examples.continuations])
    total, done = 1 + 2 * len(shares) * len(kinds), 0

    def read(kind: str, used_ND: Tensor, log_snr: float) -> Tensor:
        nonlocal done
        nats = []
        for start in range(0, len(used_ND), TOGETHER):
            chosen = slice(start, start + TOGETHER)
            prefix_BT = pad_left(list(examples.prefixes[chosen]))
            text_BT = pad_right(list(examples.continuations[chosen]))
            nats.append(-decoder(kind, used_ND[chosen], log_snr).score(prefix_BT, text_BT).sum(1).cpu())
        done += 1
        report("checks", done, total)
        return torch.cat(nats).float() / num_tokens_N

    def decoder(kind: str, used_BD: Tensor, log_snr: float) -> Factor:
        if kind == "soft" and meanings.soft is not None:
            return soft_decoder(meanings.lm, meanings.soft, used_BD, log_snr)
        if kind == "bias" and meanings.bias is not None:
            return bias_decoder(meanings.lm, meanings.bias, used_BD)
        return meanings.lm

    alone_N = read("none", latent_ND, WIDEST)
    found = [Heeding("none", 0.0, alone_N, alone_N, num_tokens_N)]
    for kind in kinds:
        for share in shares:
            log_snr = float(torch.tensor(share).logit().clamp(-WIDEST, WIDEST))
            level_N = torch.full((len(latent_ND),), log_snr)
            used_ND = noised(latent_ND, noise_ND, level_N)
            true_N = read(kind, used_ND, log_snr)
            other_N = read(kind, used_ND.roll(1, 0), log_snr)
            found.append(Heeding(kind, share, true_N, other_N, num_tokens_N))
    return found


def measure_proposals(
    meanings: Meanings, prefixes: Sequence[str], after_ND: Tensor, settings: Proposing, seed: int = 0
) -> Likeness:
    """How like proposals for prefixes are to the vectors of what truly follows these."""
    found = meanings.propose(prefixes, torch.Generator().manual_seed(seed), settings)
    return Likeness((found.vector_BD * after_ND).sum(1), (found.vector_BD * after_ND.roll(1, 0)).sum(1))


@torch.no_grad()
def measure_heed(
    meanings: Meanings, prefixes: Sequence[str], kind: DecoderKind, *, tokens: int = 20, seed: int = 0,
    report: Report = quiet,
) -> float:  # fmt: skip
    """How far what is written moves with a latent: 1 if texts mean what was planned, 0 if plans are ignored.

    Two plans for each prefix are written; it is the regression of the difference of what was written on that of the
    plans, so that what both have from the prefix does not count.
    """
    generator = torch.Generator().manual_seed(seed)
    twice = [prefix for prefix in prefixes for _ in range(2)]
    plan_ND = meanings.propose(twice, generator, Proposing()).latent_BD
    texts: list[str] = []
    for start in range(0, len(twice), TOGETHER):
        chosen = slice(start, start + TOGETHER)
        decoder = meanings.decoder(plan_ND[chosen], generator, kind)
        texts += _written(meanings, decoder, twice[chosen], tokens, generator)
        report(f"writing, {kind} decoder", len(texts), len(twice))
    text_ND = meanings.after.latent(meanings.encode([text.strip() or "." for text in texts]))
    planned_ND, written_ND = plan_ND[::2] - plan_ND[1::2], text_ND[::2] - text_ND[1::2]
    return float((planned_ND * written_ND).sum() / planned_ND.square().sum())


def _written(
    meanings: Meanings, decoder: Factor, prefixes: Sequence[str], tokens: int, generator: torch.Generator
) -> list[str]:
    """Texts of so many tokens, or up to an end token, drawn as they are likely."""
    lm = meanings.lm
    state = decoder.start(pad_left([[*lm.start_ids, *lm.encode_text(prefix)] for prefix in prefixes]))
    drawn = []
    for step in range(tokens):
        token_B = torch.multinomial(state.log_weight_BV.softmax(-1).cpu(), 1, generator=generator)[:, 0]
        drawn.append(token_B)
        if step + 1 < tokens:
            state = decoder.extend(state, token_B.to(lm.device))
    rows = torch.stack(drawn, 1).tolist()
    ends = set(lm.vocabulary.end_ids)
    cut = [row[: next((i for i, token in enumerate(row) if token in ends), len(row))] for row in rows]
    return [lm.tokenizer.decode(row) for row in cut]
