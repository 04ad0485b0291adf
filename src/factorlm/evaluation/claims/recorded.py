"""Claims that rest on the record of a heavier benchmark; running one applies its rule to the record."""

from __future__ import annotations

import itertools
from typing import Any

from factorlm.errors import InputError
from factorlm.evaluation.claims.claim import Claim, ClaimBench, NoSettings, Outcome

MOST_TIME = 1.1  # times that without heads
LEAST_SEPARATION = 0.45
MUCH_FASTER = 0.6  # of the time of float32
EFFECT = "python benchmarks/effect.py --factor positive"
LINEAR = "python benchmarks/linear.py"
SPEED = "factorlm bench all --json > benchmarks/records/speed.jsonl"


def _origin(file: str, found: dict[str, Any]) -> dict[str, Any]:
    """Which record numbers came from."""
    return {"file": file, **{key: found[key] for key in ("commit", "machine", "versions", "torch") if key in found}}


def _heads_cost(bench: ClaimBench, settings: NoSettings) -> Outcome:
    rows = bench.benchmark("speed.jsonl", SPEED)
    rows = [row for row in rows if row["benchmark"].startswith("time per token with heads")]
    if not rows:
        raise InputError(f"times with heads are needed in speed.jsonl, got none; make it with {SPEED}")
    worst = max(row["ratio"] for row in rows)
    one = rows[0]
    return Outcome(
        measured=f"{worst:.3f} times with {one['num_heads']} heads of rank {one['rank']}",
        numbers={
            "ratio_by_batch": {str(row["batch_size"]): row["ratio"] for row in rows},
            "record": _origin("speed.jsonl", one),
        },
        verdict="holds" if worst <= MOST_TIME else "does not hold here",
    )


HEADS_COST_LITTLE = Claim(
    name="heads-cost-little",
    sentence="Log-linear heads share one unembedding",
    source="Han et al. 2024, LM-Steer",
    reported="1.24 times the decoding time with one steer",
    rule=f"Holds if the median ratio of the time per token with heads to that without is at most {MOST_TIME} for every "
    "batch size; else it does not hold.",
    settings=NoSettings(),
    run=_heads_cost,
    needs=("benchmarks/records/speed.jsonl",),
    minutes=0.1,
    made_by="factorlm bench heads",
)


def _bias_steers(bench: ClaimBench, settings: NoSettings) -> Outcome:
    [effect] = bench.benchmark("effect-positive.json", EFFECT)
    share = {row["strength"]: row["share"] for row in effect["rows"]}
    separation = share[0.2] - share[-0.2]
    return Outcome(
        measured=f"{separation:.2f} at 0.2 nats: {share[-0.2]:.0%} to {share[0.2]:.0%} judged positive",
        numbers={"separation": separation, "record": _origin("effect-positive.json", effect)},
        verdict="holds" if separation >= LEAST_SEPARATION else "does not hold here",
    )


BIAS_STEERS = Claim(
    name="bias-steers",
    sentence="A bias alone, trained on a few thousand sentences, steers sentiment",
    source="factor heads",
    reported="separation 0.67 at 0.2 nats in our prototype",
    rule=f"Holds if the share of texts judged positive at 0.2 nats per token less that at -0.2 is at least "
    f"{LEAST_SEPARATION}; else it does not hold.",
    settings=NoSettings(),
    run=_bias_steers,
    needs=("benchmarks/records/effect-positive.json",),
    minutes=0.1,
    made_by=EFFECT,
)


def _share_rises(bench: ClaimBench, settings: NoSettings) -> Outcome:
    [effect] = bench.benchmark("effect-positive.json", EFFECT)
    steps = list(itertools.pairwise(effect["rows"]))
    falls = [(a, b) for a, b in steps if b["share"] <= a["share"]]
    are_noise = all(b["share_interval"][1] >= a["share_interval"][0] for a, b in falls)
    return Outcome(
        measured=f"{len(steps) - len(falls)} of {len(steps)} steps rise"
        + "".join(
            f"; from {a['strength']:+} to {b['strength']:+} it goes from {a['share']:.0%} to {b['share']:.0%}"
            for a, b in falls
        ),
        numbers={
            "share": {f"{row['strength']:+}": row["share"] for row in effect["rows"]},
            "record": _origin("effect-positive.json", effect),
        },
        verdict="holds" if not falls else "not shown" if are_noise else "does not hold here",
        detail=f"the fall is {'inside' if are_noise else 'outside'} the intervals" if falls else "",
    )


SHARE_RISES = Claim(
    name="share-rises-with-strength",
    sentence="The share judged positive rises with the strength all the way",
    source="",
    reported="",
    rule="Holds if the share rises at every step of strength; not shown if it falls somewhere, but the 95 % intervals "
    "of both ends of every fall overlap; else it does not hold.",
    settings=NoSettings(),
    run=_share_rises,
    needs=("benchmarks/records/effect-positive.json",),
    minutes=0.1,
    made_by=EFFECT,
)


def _bfloat16(bench: ClaimBench, settings: NoSettings) -> Outcome:
    [found] = bench.benchmark("linear.json", LINEAR)
    ratios = {row["what"]: row["ratio"] for row in found["formats"]}
    is_faster = max(ratios.values()) < MUCH_FASTER
    native = "with" if found["native_bfloat16"] else "without"
    return Outcome(
        measured="time over that of float32: "
        + "; ".join(f"{ratio:.2f} {what}" for what, ratio in ratios.items())
        + f"; {native} native bfloat16",
        numbers={"ratios": ratios, "record": _origin("linear.json", found)},
        verdict="holds" if is_faster else "does not hold here",
        detail="" if is_faster else "float32 is the default there",
    )


BFLOAT16_ON_PROCESSOR = Claim(
    name="bfloat16-on-processor",
    sentence="bfloat16 is faster than float32 on a processor",
    source="our design",
    reported="about twice",
    rule=f"Holds if the median time in bfloat16 over that in float32 is below {MUCH_FASTER} in decoding and in "
    "reading; else it does not hold.",
    settings=NoSettings(),
    run=_bfloat16,
    needs=("benchmarks/records/linear.json",),
    minutes=0.1,
    made_by=LINEAR,
)
