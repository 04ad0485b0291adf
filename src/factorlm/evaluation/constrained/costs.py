"""What the ways of meeting constraints cost: numbers to train, seconds to train them, seconds to change one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from factorlm.evaluation.constrained.constraints import Constraint, instruction
from factorlm.evaluation.constrained.interference import Interference
from factorlm.evaluation.constrained.sections import Found
from factorlm.evaluation.constrained.ways import FACTORISED, MONOLITHIC, PROMPT, Work
from factorlm.evaluation.document import Cell, Column, Section, Table
from factorlm.factors import Head, bind, factor
from factorlm.factors.training import Description, train_head


class Costs(NamedTuple):
    """A sentence for the head of the report, and the section with all numbers."""

    finding: str
    section: Section


def measure_costs(found: Found, counts: Sequence[int], changes: Interference | None, head_texts: int) -> Costs:
    """Count parameters and take times.

    Args:
        found: what was made.
        counts: of constraints.
        changes: with the times of fine-tuning again for a change, where that was measured.
        head_texts: of each class, that a head is trained on for its time; 0 takes all.
    """
    work = found.work
    num_encoder = sum(weight.numel() for weight in work.lm.model.parameters())
    sizes = [_num_parameters(bind(factor(c.factor), work.lm)) for c in found.constraints]
    trained = _retraining(work, found.constraints[0], head_texts)
    fader = _seconds_of_a_fader(work, found.made[counts[-1]].composition.exponents)
    rows: list[tuple[Cell, ...]] = []
    for k in counts:
        monolith = found.made[k].monolith
        is_last = k == counts[-1]
        again = float(np.mean(changes.seconds)) if changes is not None and is_last else monolith.seconds
        length = len(work.lm.encode_text(instruction(found.constraints[:k])))
        of_way: dict[str, tuple[int, int, float, float, int]] = {  # parameters, texts, seconds twice, tokens
            FACTORISED: (sum(sizes[:k]), k * trained.num_texts, k * trained.seconds, trained.seconds, 0),
            MONOLITHIC: (monolith.adapter.num_parameters, monolith.num_texts, monolith.seconds, again, 0),
            PROMPT: (0, 0, 0.0, 0.0, length),
        }
        rows += [(f"K={k}, {way}", cost[0], cost[0] / num_encoder, *cost[1:]) for way, cost in of_way.items()]
    columns = (
        Column(title="constraints and way"),
        Column(title="parameters trained", form=",d"),
        Column(title="share of the encoder", form=".4%"),
        Column(title="texts to train on", form=",d"),
        Column(title="seconds to train", form=",.1f"),
        Column(title="seconds to change one", form=",.1f"),
        Column(title="more tokens to read", form="d"),
    )
    note = (
        f"A head was trained here on {trained.num_texts} texts of {found.constraints[0].factor}, calibration included; "
        f"K heads count K times that. Turning a constraint down, off or round needs no training: its exponent is "
        f"exchanged in {1000 * fader:.1f} ms. The fine-tuned model learned from {work.writing.texts} texts of each "
        f"constraint in {work.writing.lora.epochs} passes, and learns from all of them again when one constraint "
        "changes. Seconds are those of the run that trained, on its machine."
    )
    table = Table(title="Costs", columns=columns, rows=tuple(rows), note=note)
    last = counts[-1]
    again = float(np.mean(changes.seconds)) if changes is not None else found.made[last].monolith.seconds
    monolith = found.made[last].monolith
    finding = (
        f"To change one of {last} constraints takes {1000 * fader:.1f} ms with its fader, {trained.seconds:.0f} s "
        f"where its head is trained anew ({trained.num_texts} texts), and {again:.0f} s where one model is fine-tuned "
        f"again ({monolith.num_texts} texts). The heads have {sum(sizes):,} parameters together, "
        f"{sum(sizes) / num_encoder:.4%} of the encoder's {num_encoder:,}; the fine-tuning trains "
        f"{monolith.adapter.num_parameters:,}."
    )
    return Costs(
        finding, Section(title="Costs", lead="What is trained, and what a change of mind costs.", blocks=(table,))
    )


@dataclass(frozen=True)
class _Retraining:
    """How long a head took, on how many texts."""

    seconds: float
    num_texts: int


def _retraining(work: Work, constraint: Constraint, most: int) -> _Retraining:
    """Train the head of a constraint as its recipe does; nothing but the time is kept."""
    examples = list(work.examples_of(constraint.factor))
    if most:
        sides = [[e for e in examples if e.is_positive == side][:most] for side in (True, False)]
        examples = [e for side in sides for e in side]
    bound = bind(factor(constraint.factor), work.lm)
    rank = bound.weights.rank if isinstance(bound, Head) else 0
    key = {"what": "seconds to train a head", "model": work.base.fingerprint, "factor": constraint.factor,
           "texts": len(examples), "rank": rank, "seed": work.bench.seed}  # fmt: skip

    def compute() -> float:
        start = time.perf_counter()
        train_head(work.lm, examples, Description(constraint.factor), rank=rank, seed=work.bench.seed,
                   report=work.bench.report)  # fmt: skip
        return time.perf_counter() - start

    return _Retraining(float(work.bench.cache.get(key, compute)), len(examples))


def _seconds_of_a_fader(work: Work, exponents: Mapping[str, float]) -> float:
    """To make the composition with one exponent turned round, from factors that are loaded."""
    name = next(iter(exponents))
    key = {"what": "seconds to exchange an exponent", "model": work.base.fingerprint, "exponents": dict(exponents)}

    def compute() -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            work.base.model.steered(exponents={**exponents, name: -exponents[name]})
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    return float(work.bench.cache.get(key, compute))


def _num_parameters(bound: object) -> int:
    """Numbers of a head; factors of other kinds are not trained."""
    if not isinstance(bound, Head):
        return 0
    return sum(weight.numel() for weight in (bound.weights.bias_D, bound.weights.up_DR, bound.weights.down_RD))
