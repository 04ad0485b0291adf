"""What another factor does to the next token, state by state: the lessons that a head is distilled from."""

# Axes: B texts, D width, N states, T time, V vocabulary; n is a part of N.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.algebra import PAD, Factor, LocalProduct, log_normalize, pad_left, pad_right
from factorlm.errors import InputError
from factorlm.factors.calibration import OPENINGS
from factorlm.factors.examples import FEWEST_TEXTS, evenly
from factorlm.factors.features import tokenized
from factorlm.factors.nucleus import draw_nucleus
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet

MOST_STATES = 1500
MOST_BYTES = 300_000_000  # of next-token probabilities in memory; large vocabularies get fewer states
BATCH_TEXTS = 16
LEAST_DIVERGENCE = 1e-5  # nats per token of a teacher; below that there is nothing to learn

# Openings for the texts that the model writes; each time with each subject.
TIMES = (
    "Yesterday", "This year", "In the morning,", "Last week", "After a while", "At home", "In the city",
    "A few days later",
)  # fmt: skip
SUBJECTS = ("the weather", "my neighbour", "a friend of mine", "the company", "the food", "everyone", "the old house",
            "a new study")  # fmt: skip
WRITTEN_TOKENS, TOP_P = 24, 0.95


@dataclass(frozen=True, eq=False)
class Lessons:
    """What a teacher does to the next token at some states.

    Attributes:
        hidden_ND: the encoder's states.
        prob_NV: next-token probabilities of the base.
        target_ND: mean embedding of the next token under the teacher.
        divergence_N: KL(teacher || base), in nats.
    """

    hidden_ND: Tensor
    prob_NV: Tensor
    target_ND: Tensor
    divergence_N: Tensor


@torch.no_grad()
def neutral_texts(
    lm: CausalLM, teacher: Factor, *, num_texts: int | None = None, seed: int = 0, report: Report = quiet
) -> list[str]:
    """Texts that begin neutrally and go on half as the model writes, half as the model and the teacher write together.

    Args:
        lm: the model.
        teacher: bound to it.
        num_texts: how many; None is one for each opening, and never more.
        seed: of the draws.
        report: told of progress.
    """
    generator = torch.Generator().manual_seed(seed)
    openings = [*OPENINGS, *(f"{time} {subject}" for time in TIMES for subject in SUBJECTS)]
    openings = evenly(openings, num_texts or len(openings))
    texts = []
    for part, factor in enumerate((lm, LocalProduct(lm * teacher))):
        rows = [lm.encode_text(opening) for opening in openings[part::2]]
        state = factor.start(pad_left([[*lm.start_ids, *row] for row in rows]).to(lm.device))
        alive_B = torch.ones(len(rows), dtype=torch.bool)
        for step in range(WRITTEN_TOKENS):
            log_prob_BV = state.log_weight_BV.cpu().clone()
            log_prob_BV[:, list(lm.vocabulary.end_ids)] = -torch.inf
            alive_B &= log_prob_BV.amax(1) > -torch.inf  # where the teacher allows nothing more, the text ends
            token_B = draw_nucleus(torch.where(alive_B[:, None], log_prob_BV, 0.0).softmax(-1), TOP_P, generator)
            drawn = zip(rows, token_B.tolist(), alive_B.tolist(), strict=True)
            rows = [[*row, token] if alive else row for row, token, alive in drawn]
            if step + 1 < WRITTEN_TOKENS:
                state = factor.extend(state, token_B.to(lm.device))
            report("writing texts", part * WRITTEN_TOKENS + step + 1, 2 * WRITTEN_TOKENS)
        texts += [lm.vocabulary.text(row).strip() for row in rows]
    return texts


@torch.no_grad()
def read_lessons(
    lm: CausalLM,
    teacher: Factor,
    texts: Sequence[str],
    shares: Sequence[float],
    *,
    most: int = MOST_STATES,
    seed: int = 0,
    report: Report = quiet,
) -> list[Lessons]:
    """Compare the teacher with the base at every token of some texts.

    Args:
        lm: the shared encoder.
        teacher: bound to it.
        texts: taken in a random order, until there are enough states.
        shares: of the texts and states for each set of lessons; together one.
        most: states; fewer if their probabilities take more than MOST_BYTES.
        seed: of that order.
        report: told of progress.

    Raises:
        InputError: if there are too few texts, or the teacher changes nothing in them.
    """
    rows = [row for row in tokenized(lm, list(dict.fromkeys(texts))) if row]
    if len(rows) < FEWEST_TEXTS:
        raise InputError(f"at least {FEWEST_TEXTS} different texts are needed, got {len(rows)}; add some")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    rows = [rows[i] for i in order]
    most = min(most, MOST_BYTES // (4 * lm.unembedding_VD.shape[0]))
    sides, first = [], 0
    for share in shares:
        last = min(len(rows), first + max(1, round(share * len(rows))))
        sides.append(_lessons(lm, teacher, rows[first:last], max(1, int(share * most)), report))
        first = last
    if min(float(side.divergence_N.mean()) for side in sides) < LEAST_DIVERGENCE:
        raise InputError(
            f"a teacher that changes what is written is needed, got one that moves the model by less than "
            f"{LEAST_DIVERGENCE} nats per token; raise its exponent, or give texts in which it matters"
        )
    return sides


def _lessons(lm: CausalLM, teacher: Factor, rows: list[list[int]], most: int, report: Report) -> Lessons:
    table_VD = lm.unembedding_VD.detach().float()
    prob_NV = table_VD.new_empty(most, table_VD.shape[0])  # by far the largest: filled in place
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    done = 0
    while rows and done < most:
        batch, rows = rows[:BATCH_TEXTS], rows[BATCH_TEXTS:]
        text_BT, prefix_BT = pad_right(batch).to(lm.device), torch.tensor([lm.start_ids] * len(batch), device=lm.device)
        hidden_BTD = lm.hidden_before(prefix_BT, text_BT)
        for t, log_weight_BV in enumerate(teacher.steps(prefix_BT, text_BT)):
            hidden_BD = hidden_BTD[:, t].float()
            log_prob_BV = lm.unembed(hidden_BD).log_softmax(-1)
            log_target_BV = log_normalize(log_prob_BV + log_weight_BV.to(log_prob_BV.device))
            real_B = (text_BT[:, t] != PAD) & (log_target_BV.amax(1) > -torch.inf)
            if not real_B.any():
                continue
            kept_n = real_B.nonzero()[: most - done, 0]
            log_prob_nV, log_target_nV = log_prob_BV[kept_n], log_target_BV[kept_n]
            target_nV = log_target_nV.exp()
            gain_nV = torch.where(target_nV > 0, target_nV * (log_target_nV - log_prob_nV), 0.0)
            found.append((hidden_BD[kept_n], target_nV @ table_VD, gain_nV.sum(1)))
            torch.exp(log_prob_nV, out=prob_NV[done : done + len(kept_n)])
            done += len(kept_n)
            report("comparing with the teacher", done, most)
            if done >= most:
                break
    if not found:
        raise InputError("a teacher that allows some next token is needed, got one that allows none in these texts")
    hidden_ND, target_ND, divergence_N = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Lessons(hidden_ND, prob_NV[:done], target_ND, divergence_N)
