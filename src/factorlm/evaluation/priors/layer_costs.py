"""What a model loses when it runs fewer layers: those that learned probabilities name, or layers drawn at random."""

# Axes: N texts.

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.document import Cell, Column, Curve, Section, Series, Table
from factorlm.evaluation.intervals import Estimate, ratio_interval
from factorlm.evaluation.part import Part
from factorlm.evaluation.priors.layer_orders import Arm, nats_of
from factorlm.evaluation.workbench import Workbench
from factorlm.models.layers import num_layers
from factorlm.prior.learning import Rows

Array = NDArray[np.float64]
LEARNED, RANDOM = "learned order", "random layers"


def measure_costs(
    bench: Workbench, arms: Sequence[Arm], held_out: Mapping[str, Rows], shares: Sequence[float], random_sets: int
) -> Part:
    """Held-out nats per token against the share of layers that are run.

    Args:
        bench: cache, progress and seed.
        arms: models whose layers are left out.
        held_out: texts by source.
        shares: of all layers, that are run.
        random_sets: draws of as many layers, whose nats are averaged.
    """
    rows = [row for own in held_out.values() for row in own]
    tokens_N = np.array([len(row) for row in rows], dtype=float)
    source_N = np.array([source for source, own in held_out.items() for _ in own])
    total = num_layers(arms[0].lm)
    counts = sorted({max(arms[0].first + arms[0].last, round(share * total)) for share in shares} - {total})
    measures: dict[str, dict[str, Estimate]] = {}
    table: list[tuple[Cell, ...]] = []
    series: list[Series] = []
    steps = len(arms) * (1 + len(counts) * (1 + random_sets))
    done = 0

    def read(arm: Arm, kept: tuple[int, ...]) -> Array:
        nonlocal done
        found_N = nats_of(bench, arm.lm, kept, rows)
        done += 1
        bench.report("layers left out", done, steps)
        return found_N

    def note(measure: str, count: int, estimate: Estimate) -> Estimate:
        measures.setdefault(measure, {})[f"{count} of {total} layers"] = estimate
        return estimate

    for arm in arms:
        whole_N = read(arm, tuple(range(total)))
        nats = {choice: [note(f"nats per token, {arm.name}, {choice}", total,
                              ratio_interval(whole_N, tokens_N, seed=bench.seed))]
                for choice in (LEARNED, RANDOM)}  # fmt: skip
        for count in reversed(counts):
            learned_N = read(arm, arm.kept(count))
            random_N = np.mean([read(arm, arm.kept_at_random(count, bench.seed + i)) for i in range(random_sets)], 0)
            for choice, found_N in ((LEARNED, learned_N), (RANDOM, random_N)):
                estimate = ratio_interval(found_N, tokens_N, seed=bench.seed)
                nats[choice].append(note(f"nats per token, {arm.name}, {choice}", count, estimate))
                for source in held_out:
                    is_own_N = source_N == source
                    own = ratio_interval(found_N[is_own_N], tokens_N[is_own_N], seed=bench.seed)
                    note(f"nats per token on {source}, {arm.name}, {choice}", count, own)
            lost = note(f"nats per token lost, {arm.name}, {LEARNED}", count,
                        ratio_interval(learned_N - whole_N, tokens_N, seed=bench.seed))  # fmt: skip
            saved = note(f"nats per token saved by the learned order, {arm.name}", count,
                         ratio_interval(random_N - learned_N, tokens_N, seed=bench.seed))  # fmt: skip
            table.append((f"{arm.name}, {count} of {total}", nats[LEARNED][-1], nats[RANDOM][-1], lost, saved))
        x = tuple(count / total for count in (total, *reversed(counts)))
        series += [Series(name=f"{arm.name}, {choice}", x=x, y=tuple(found)) for choice, found in nats.items()]
    first, last = arms[0].first, arms[0].last
    lead = (
        f"Nats per token of {len(rows)} held-out texts ({', '.join(held_out)}) against the share of the {total} layers "
        f"that are run; the first {first} and the last {last} always are. The others are left out in the order of "
        f"their learned probability of being run, or at random (the mean of {random_sets} draws). Intervals are over "
        "texts."
    )
    columns = (
        Column(title="model and layers"),
        Column(title=LEARNED, form=".2f", best="low"),
        Column(title=RANDOM, form=".2f", best="low"),
        Column(title="lost to all layers", form=".2f"),
        Column(title="saved by the order", form=".2f"),
    )
    blocks = (
        Curve(title="Quality against layers run", x_label="share of the layers run", y_label="nats per token",
              series=tuple(series)),
        Table(title="Layers left out", columns=columns, rows=tuple(table), note="In nats per token."),
    )  # fmt: skip
    return Part(
        sections=(Section(title="Layers left out", lead=lead, blocks=blocks),),
        measures=measures,
        headlines=tuple(_headline(measures, arm, counts[-1], total) for arm in arms if counts),
    )


def _headline(measures: Mapping[str, Mapping[str, Estimate]], arm: Arm, count: int, total: int) -> str:
    part = f"{count} of {total} layers"
    lost = measures[f"nats per token lost, {arm.name}, {LEARNED}"][part]
    saved = measures[f"nats per token saved by the learned order, {arm.name}"][part]
    return (
        f"The model {arm.name} that runs {part} loses {lost} nats per token; the learned choice of layers saves "
        f"{saved} against random ones."
    )
