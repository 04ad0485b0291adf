"""What a matrix must give at a subject so that a fact comes out: found by gradient, as in ROME.

Source: Meng et al. (2022), arXiv:2202.05262, section 3.1, and their code for the weights of the terms.
"""

# Axes: B rows, N facts, O width of values, T time, V vocabulary.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from factorlm.algebra import PAD
from factorlm.models.causal import CausalLM
from factorlm.models.editing.facts import PLACE, EditFact, Located, located
from factorlm.models.editing.own_texts import own_texts
from factorlm.models.editing.sites import Site, batched, run
from factorlm.models.progress import Report, quiet
from factorlm.settings import Config

ESSENCE = f"{PLACE} is a"  # what the subject is must stay
AT_ONCE = 16  # facts


class ValueSettings(Config):
    """How values are found.

    Attributes:
        steps: of Adam at most.
        learning_rate: in units of the root mean square of the value before.
        weight_decay: weight of the square of the length of the change, in lengths of the value before. (The paper's
            code divides one length by the square of the other, which depends on a model's scale.)
        divergence: weight of the change of what comes after "SUBJECT is a".
        clamp: longest change, in lengths of the value before.
        enough: nats below which a fact is left alone.
        prefixes: lengths in tokens of texts that are put before the prompt, which is read without any too.
        place: where a fact is written: at the last token of its subject, or of its prompt. Networks of few layers
            bring subject and relation together there only.
        with_start: whether texts begin with the start token, as everywhere else.
        seed: of the prefixes.
    """

    steps: Annotated[int, Field(ge=1)] = 25
    learning_rate: Annotated[float, Field(gt=0)] = 0.3
    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    divergence: Annotated[float, Field(ge=0)] = 0.0625
    clamp: Annotated[float, Field(gt=0)] = 4.0
    enough: Annotated[float, Field(ge=0)] = 0.05
    prefixes: tuple[Annotated[int, Field(ge=1)], ...] = (5, 5, 10, 10)
    place: Literal["subject", "prompt"] = "subject"
    with_start: bool = True
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Wanted:
    """Changes of what a matrix gives.

    Attributes:
        delta_NO: for each fact.
        nats_N: of the target afterwards, a token.
        row_of: the rows of each fact: its prompt alone, then behind each prefix.
    """

    delta_NO: Tensor
    nats_N: Tensor
    row_of: list[list[Located]]


def drawn_prefixes(lm: CausalLM, lengths: Sequence[int], seed: int = 0) -> list[str]:
    """Texts of the model's own, each of so many tokens, to put before prompts."""
    return [f"{own_texts(lm, 1, length, seed=seed + n)[0]}. " for n, length in enumerate(lengths)]


def wanted_values(
    lm: CausalLM,
    site: Site,
    facts: Sequence[EditFact],
    prefixes: Sequence[str],
    settings: ValueSettings,
    *,
    lengths_of: str = "value",
    report: Report = quiet,
) -> Wanted:
    """The change of what a site gives at each subject that makes its target likely; facts do not touch each other.

    Args:
        lm: the model as it is now.
        site: where.
        facts: what shall come out.
        prefixes: texts before the prompt.
        settings: of the search.
        lengths_of: what lengths are measured by: "value", what the matrix gives, or "after", the state behind its
            layer.
        report: told of progress.
    """
    found = []
    for start in range(0, len(facts), AT_ONCE):
        problem = _Problem.of(lm, facts[start : start + AT_ONCE], prefixes, settings)
        found.append(_searched(lm, site, problem, settings, lengths_of))
        report("looking for values", min(len(facts), start + AT_ONCE), len(facts))
    return Wanted(
        torch.cat([part.delta_NO for part in found]),
        torch.cat([part.nats_N for part in found]),
        [rows for part in found for rows in part.row_of],
    )


@dataclass(frozen=True, eq=False)
class _Problem:
    """What is read to find the values of some facts.

    Attributes:
        row_of: the prompts of each fact, as `Wanted` has them.
        token_BT: the prompts with their targets, in order, then what "SUBJECT is a" becomes for each fact.
        place_B: of the subject in each row.
        fact_B: which fact a row is about.
        want_BT: the token of a target that comes next; PAD elsewhere, and in all of the last rows.
        last_N: place of the last token of "SUBJECT is a".
    """

    row_of: list[list[Located]]
    token_BT: Tensor
    place_B: Tensor
    fact_B: Tensor
    want_BT: Tensor
    last_N: Tensor

    @classmethod
    def of(cls, lm: CausalLM, facts: Sequence[EditFact], prefixes: Sequence[str], settings: ValueSettings) -> _Problem:
        def placed(before: str, prompt: str, subject: str) -> Located:
            found = located(lm, before, prompt, subject, with_start=settings.with_start)
            return found if settings.place == "subject" else Located(found.ids, len(found.ids) - 1)

        row_of = [[placed(before, fact.prompt, fact.subject) for before in ("", *prefixes)] for fact in facts]
        essences = [placed("", ESSENCE, fact.subject) for fact in facts]
        targets = [lm.encode_text(f" {fact.target}") for fact in facts]
        pairs = [(row, target, n) for n, (own, target) in enumerate(zip(row_of, targets, strict=True)) for row in own]
        rows = [Located((*row.ids, *target[:-1]), row.place) for row, target, _ in pairs]
        token_BT, place_B = batched(lm, [*rows, *essences])
        want_BT = torch.full_like(token_BT, PAD)
        for b, (row, target, _) in enumerate(pairs):
            start = len(row.ids) - 1
            want_BT[b, start : start + len(target)] = torch.tensor(target)
        fact_B = torch.tensor([*(n for _, _, n in pairs), *range(len(facts))], device=lm.device)
        last_N = torch.tensor([len(row.ids) - 1 for row in essences], device=lm.device)
        return cls(row_of, token_BT, place_B, fact_B, want_BT, last_N)

    def essence(self, lm: CausalLM, hidden_BTD: Tensor) -> Tensor:
        """Log probabilities of what comes after "SUBJECT is a", [N, V]."""
        number = len(self.row_of)
        place_N = torch.arange(number, device=self.last_N.device)
        return _log_prob(lm, hidden_BTD[-number:][place_N, self.last_N])

    def nats(self, lm: CausalLM, hidden_BTD: Tensor) -> Tensor:
        """Nats a token of each target, [N], the mean over prompts."""
        is_target_BT = self.want_BT != PAD
        log_prob_MV = _log_prob(lm, hidden_BTD[is_target_BT])
        nats_M = -log_prob_MV.gather(1, self.want_BT[is_target_BT][:, None])[:, 0]
        row_M = is_target_BT.nonzero()[:, 0]
        share_M = 1 / (is_target_BT.sum(1)[row_M] * len(self.row_of[0]))
        return nats_M.new_zeros(len(self.row_of)).index_add(0, self.fact_B[row_M], nats_M * share_M)


def _searched(lm: CausalLM, site: Site, problem: _Problem, settings: ValueSettings, lengths_of: str) -> Wanted:
    number, rows_of_one = len(problem.row_of), len(problem.row_of[0])
    with torch.no_grad():
        seen = run(lm, problem.token_BT, problem.place_B, [site])
        before_NV = problem.essence(lm, seen.hidden_BTD)
        value_BO = (seen.value_SBO if lengths_of == "value" else seen.after_SBD)[0].float()
        length_N = value_BO[: number * rows_of_one : rows_of_one].norm(dim=1)  # behind no prefix
    width = value_BO.shape[1]
    unit_N1 = (length_N / width**0.5)[:, None]
    step_NO = torch.zeros(number, width, device=lm.device, requires_grad=True)
    optimizer = torch.optim.Adam([step_NO], lr=settings.learning_rate)
    for turn in range(settings.steps + 1):
        delta_NO = unit_N1 * step_NO
        seen = run(lm, problem.token_BT, problem.place_B, [], add=(site, delta_NO[problem.fact_B]))
        nats_N = problem.nats(lm, seen.hidden_BTD)
        change_NV = before_NV - problem.essence(lm, seen.hidden_BTD)
        divergence_N = (before_NV.exp() * change_NV).sum(1)
        decay_N = delta_NO.square().sum(1) / length_N**2  # not the norm, which has no gradient at zero
        loss_N = nats_N + settings.divergence * divergence_N + settings.weight_decay * decay_N
        is_open_N1 = (loss_N.detach() >= settings.enough)[:, None]
        if turn == settings.steps or not bool(is_open_N1.any()):
            break
        held_NO = step_NO.detach().clone()
        optimizer.zero_grad()
        loss_N.sum().backward()
        optimizer.step()
        with torch.no_grad():
            longest = settings.clamp * width**0.5  # in units of unit_N1
            shrunk_NO = step_NO * (longest / step_NO.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
            step_NO.copy_(torch.where(is_open_N1, shrunk_NO, held_NO))
    return Wanted(delta_NO.detach(), nats_N.detach(), problem.row_of)


def _log_prob(lm: CausalLM, hidden_ND: Tensor) -> Tensor:
    """Log probabilities [N, V]; unlike the model's own a gradient goes through it."""
    unembedding_VD = lm.unembedding_VD
    return nn.functional.linear(hidden_ND.to(unembedding_VD.dtype), unembedding_VD).float().log_softmax(-1)
