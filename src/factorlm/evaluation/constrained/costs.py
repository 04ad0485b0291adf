"""What the ways of meeting constraints cost: numbers to train, seconds to train them, seconds to change one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from factorlm.evaluation import clock
from factorlm.evaluation.constrained.constraints import Constraint, instruction
from factorlm.evaluation.constrained.interference import Interference
from factorlm.evaluation.constrained.sections import Found
from factorlm.evaluation.constrained.ways import FACTORISED, MONOLITHIC, PROMPT, Work
from factorlm.evaluation.document import Cell, Column, Section, Table
from factorlm.factors import Head, advantage, bind, factor
from factorlm.factors.examples import Example, evenly, fingerprint, split
from factorlm.factors.features import LONGEST_TEXT, encode
from factorlm.factors.rollouts import rollouts
from factorlm.factors.store import folder_of, read_manifest
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
        f"K heads count K times that.{trained.about_own} Turning a constraint down, off or round needs no training: "
        "its exponent is in force at the next token. The fine-tuned model learned from "
        f"{work.writing.texts} texts of each constraint in {work.writing.lora.epochs} passes, and learns from all of "
        "them again when one constraint changes. Seconds are those of the run that trained, on its machine: of all its "
        "cores together, waiting threads included, on a processor."
    )
    table = Table(title="Costs", columns=columns, rows=tuple(rows), note=note)
    last = counts[-1]
    again = float(np.mean(changes.seconds)) if changes is not None else found.made[last].monolith.seconds
    monolith = found.made[last].monolith
    finding = (
        f"To change one of {last} constraints takes no training with its fader, which is in force at the next token; "
        f"{trained.seconds:.0f} s where its head is trained anew ({trained.num_texts} texts); and {again:.0f} s where "
        f"one model is fine-tuned again ({monolith.num_texts} texts). The heads have {sum(sizes):,} parameters "
        f"together, {sum(sizes) / num_encoder:.4%} of the encoder's {num_encoder:,}; the fine-tuning trains "
        f"{monolith.adapter.num_parameters:,}."
    )
    return Costs(
        finding, Section(title="Costs", lead="What is trained, and what a change of mind costs.", blocks=(table,))
    )


@dataclass(frozen=True)
class _Retraining:
    """How long a head took, in seconds of the processor, on how many texts.

    Attributes:
        seconds: without the model's own texts, which are written once for all heads.
        num_texts: with labels.
        num_own: texts of the model's own.
        seconds_own: that writing these took; None where they had been written before.
    """

    seconds: float
    num_texts: int
    num_own: int
    seconds_own: float | None

    @property
    def about_own(self) -> str:
        """A sentence on the model's own texts; nothing if there are none."""
        if not self.num_own:
            return ""
        took = "had been written before" if self.seconds_own is None else f"took {self.seconds_own:.0f} s"
        return (
            f" It learned from {self.num_own} texts of the model's own besides; these are written once for all heads, "
            f"are not counted here, and {took}."
        )


def _retraining(work: Work, constraint: Constraint, most: int) -> _Retraining:
    """Train the head of a constraint as it was trained; nothing but the time is kept."""
    examples = list(work.examples_of(constraint.factor))
    num_own = read_manifest(folder_of(constraint.factor)).data.own_texts
    if most:
        sides = [[e for e in examples if e.is_positive == side][:most] for side in (True, False)]
        examples, num_own = [e for side in sides for e in side], min(num_own, most)
    bound = bind(factor(constraint.factor), work.lm)
    rank = bound.weights.rank if isinstance(bound, Head) else 0
    key = {"what": "seconds to train a head", "model": work.base.fingerprint, "texts": fingerprint(examples),
           "own_texts": num_own, "rank": rank, "seed": work.bench.seed}  # fmt: skip
    found = work.bench.cache.get(key, lambda: _timed(work, examples, rank, num_own))
    return _Retraining(num_texts=len(examples), num_own=num_own, **found)


def _timed(work: Work, examples: list[Example], rank: int, num_own: int) -> dict[str, float | None]:
    """Seconds of training, as if no text had been read before, and of writing the model's own texts."""
    lm, report, device = work.lm, work.bench.report, work.lm.device
    written: list[str] = []

    def writing(stage: str, done: int, total: int) -> None:
        written.append(stage)  # nothing is told of texts that were written before
        report(stage, done, total)

    start = clock.seconds(device)
    if num_own:
        rollouts(lm, num_own, report=writing)
    seconds_own = clock.seconds(device) - start
    batches: Counter[int] = Counter()

    def counting(stage: str, done: int, total: int) -> None:
        if stage == "reading texts" and done < total:
            batches[total] += 1  # texts that were read before are reported at once, as is a single batch
        report(stage, done, total)

    start = clock.seconds(device)
    train_head(lm, examples, Description("timed"), rank=rank, own_texts=num_own, seed=work.bench.seed, report=counting)
    parts = split(examples)
    read: list[tuple[Sequence[Example], int]] = [(parts.dev, LONGEST_TEXT)]
    if num_own:
        read.append((evenly(parts.train, advantage.MOST_TEXTS), advantage.LONGEST))
    for part, longest in read:
        if not batches[len(part)]:  # found on disk: what reading takes is added
            texts = [e.text for e in part]
            encode(lm, texts, prompts=[""] * len(texts), longest=longest, report=report, keep=False)
    return {"seconds": clock.seconds(device) - start, "seconds_own": seconds_own if written else None}


def _num_parameters(bound: object) -> int:
    """Numbers of a head; factors of other kinds are not trained."""
    if not isinstance(bound, Head):
        return 0
    return sum(weight.numel() for weight in (bound.weights.bias_D, bound.weights.up_DR, bound.weights.down_RD))
