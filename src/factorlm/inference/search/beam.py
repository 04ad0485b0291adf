"""Beam search: the texts of largest weight among those that a few best beginnings lead to."""

# Axes: K beams, V vocabulary.

from __future__ import annotations

from collections.abc import Sequence

import torch

from factorlm.algebra import Factor, LocalProduct, device_of, pad_left
from factorlm.errors import DeadEndError, InputError
from factorlm.factors.headed import fuse, fuse_product
from factorlm.inference.search.counting import Counting
from factorlm.inference.search.found import Found


@torch.inference_mode()
def beam_search(
    factor: Factor,
    prompt_ids: Sequence[int],
    *,
    width: int = 4,
    max_tokens: int = 64,
    length_power: float = 0.0,
    is_global: bool = False,
    num_found: int = 1,
) -> list[Found]:
    """The texts of largest value that were met, best first; a text that did not end in time counts as it is.

    With a width of one this is greedy decoding, except that an end on the way may be worth more. Wide beams find
    likelier texts, which for language models are not better ones: short, and dull. Source: Lowerre (1976); the trouble
    with wide beams, Stahlberg and Byrne (2019).

    Args:
        factor: any composition.
        prompt_ids: what is continued.
        width: beginnings that are kept.
        max_tokens: most tokens of a text, its end included.
        length_power: values are log weights divided by the number of tokens to this power. Above zero longer texts
            are preferred: another measure than probability.
        is_global: whether weights are those of the composition as it stands, rather than normalised at each token.
        num_found: how many texts to give.

    Raises:
        DeadEndError: if every beginning comes to a dead end.
        InputError: for a width below one.
    """
    if width < 1 or num_found < 1 or max_tokens < 1:
        raise InputError(
            f"a width, a number and a length of at least 1 are needed, got {width}, {num_found}, {max_tokens}"
        )
    model = Counting(fuse_product(factor) if is_global else fuse(LocalProduct.of(factor)))
    vocabulary = factor.vocabulary
    end_ids = set(vocabulary.end_ids)
    state = model.start(pad_left([list(prompt_ids)]).to(device_of(factor)))
    beams: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    finished: list[tuple[float, float, tuple[int, ...], str]] = []  # value, log weight, tokens, reason
    for length in range(1, max_tokens + 1):
        so_far_K = torch.tensor([log_weight for log_weight, _ in beams], dtype=torch.float64)
        total_KV = so_far_K[:, None] + state.log_weight_BV.double().cpu()
        # Each end token may take one place of each beam, so this many candidates hold `width` that go on.
        best = total_KV.flatten().topk(min(width * (1 + len(end_ids)), total_KV.numel()))
        going: list[tuple[int, int, float]] = []
        for log_weight, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            if log_weight == float("-inf"):
                break
            beam, token = divmod(place, vocabulary.size)
            text = (*beams[beam][1], token)
            if token in end_ids or length == max_tokens:
                reason = "end" if token in end_ids else "length"
                finished.append((log_weight / length**length_power, log_weight, text, reason))
            elif len(going) < width:
                going.append((beam, token, log_weight))
        if not going or (not is_global and length_power == 0 and _is_settled(finished, going[0][2], num_found)):
            break
        state = model.reorder(state, torch.tensor([beam for beam, _, _ in going], device=state.log_weight_BV.device))
        beams = [(log_weight, (*beams[beam][1], token)) for beam, token, log_weight in going]
        state = model.extend(state, torch.tensor([token for _, token, _ in going], device=state.log_weight_BV.device))
    if not finished:
        raise DeadEndError(f"all {width} beams came to a dead end; take more, allow more, or take a factor away")
    finished.sort(key=lambda found: -found[0])
    return [
        Found(text, vocabulary.text(text), value, log_weight, reason, model.spent)
        for value, log_weight, text, reason in finished[:num_found]
    ]


def _is_settled(finished: list[tuple[float, float, tuple[int, ...], str]], best_open: float, num_found: int) -> bool:
    """Whether no open beginning can still beat what is finished: its probability only falls."""
    better = [value for value, *_ in finished if value >= best_open]
    return len(better) >= num_found
