"""Write docs/benchmarks.md and docs/claims.md from the records; no number in them is typed.

python benchmarks/report.py
"""

import itertools
import json
from pathlib import Path
from typing import Any

from effect import table_of

HERE = Path(__file__).resolve().parent
RECORDS, DOCS = HERE / "records", HERE.parent / "docs"


def lines(name: str) -> list[dict[str, Any]]:
    path = RECORDS / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def record(name: str) -> dict[str, Any] | None:
    path = RECORDS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def speed_table(rows: list[dict[str, Any]]) -> str:
    heads = ("ratio", "pairs", "what", "heads", "rank", "batch", "ms a token", "other way", "n")
    cells = [heads, ("---:", "---", "---", "---:", "---:", "---:", "---:", "---:", "---:")]
    for row in rows:
        cells.append(
            (
                f"**{row['ratio']:.3f}**",
                f"{row['lowest']:.3f} to {row['highest']:.3f}",
                row["benchmark"],
                str(row["num_heads"]),
                str(row["rank"]),
                str(row["batch_size"]),
                f"{row['ms_per_token']:.1f}",
                f"{row['other_ms_per_token']:.1f}",
                str(row["num_repeats"]),
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def orders_table(rows: list[dict[str, Any]]) -> str:
    counts = sorted({row["rows"] for row in rows})
    shapes = sorted({(row["out"], row["width"]) for row in rows}, reverse=True)
    ratio = {(row["out"], row["width"], row["rows"]): f"{row['ratio']:.2f}" for row in rows}
    cells = [("W", *map(str, counts)), ("---", *["---:"] * len(counts))]
    cells += [(f"{out} x {width}", *(ratio[out, width, n] for n in counts)) for out, width in shapes]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def training_text(found: dict[str, Any]) -> str:
    heads = "; ".join(
        f"{h['head']} head {h['seconds']:.0f} s (held-out AUC {h['dev_auc']:.3f}; "
        + ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in h["stages"].items() if seconds >= 0.05)
        + ")"
        for h in found["heads"]
    )
    return f"`{found['command']}`: {found['num_texts']} sentences of {found['data']}, {found['cores']} cores: {heads}."


def benchmarks() -> str:
    speed = lines("speed.jsonl")
    parts = [
        "# Benchmarks",
        "Written by `python benchmarks/report.py` from the records in `benchmarks/records`. Ratios are medians of "
        "pairs run in turn in one process; which way goes first alternates.",
    ]
    if speed:
        one = speed[0]
        share = next(r["head_bytes"] / r["encoder_bytes"] / r["num_heads"] for r in speed if r["num_heads"])
        parts += [
            "## Speed",
            f"`factorlm bench all --json`, {one['number_format']}, {one['machine']}.",
            speed_table(speed),
            f"Memory: 100 heads of rank {one['rank']} take {100 * share:.1%} of the encoder's; a head of rank zero is "
            "one vector.",
            "The first rows compare decoding with heads (another exponent for each head in every row) with decoding "
            "without, on the same engine. The rows against transformers run its own greedy `generate` on the same "
            "weights as transformers loads them; ours differs by caches that only grow, and by the order in which "
            "matrices are multiplied when a batch has few rows. Scoring with composed log probability runs all factors "
            "at an exponent; the evidence is the exact log-likelihood ratio of each factor, normaliser included.",
        ]
    if linear := record("linear.json"):
        parts += [
            "## Matrix products",
            f"`{linear['command']}`, float32, {linear['cores']} cores, torch {linear['torch']}: time of x Wᵀ over time "
            "of (W xᵀ)ᵀ by number of rows of x; above one, the second order is faster.",
            orders_table(linear["orders"]),
        ]
    if training := record("training.json"):
        parts += ["## Training", training_text(training)]
    for name in ("positive", "toxic"):
        if effect := record(f"effect-{name}.json"):
            machine = effect["machine"]
            parts += [
                f"## Effect of `{name}`",
                f"`{effect['command']}`, {machine['cpu']}, {machine['cores']} cores.",
                f"![Share of texts judged {name} and perplexity against strength](pictures/effect-{name}.png)",
                table_of(effect),
                "The correction for the judge's errors assumes that they are the same on a model's text as on the "
                "judge's test texts; the share as judged is the number to compare. Divergence is measured along the "
                "steered texts, truncated at top-p, so it need not equal the strength, which is measured along the "
                "base model's own.",
            ]
    return "\n\n".join(parts) + "\n"


def claims() -> str:
    speed = lines("speed.jsonl")
    rows = [("idea", "reported", "measured here", "how", "verdict"), ("---",) * 5]
    rows.append(
        (
            "A product of next-token distributions is not the product over texts (Lew et al. 2023)",
            "—",
            "total variation 0.32 on the two-letter example, by enumeration",
            "`pytest tests/algebra -k by_hand`",
            "holds",
        )
    )
    rows.append(
        (
            "Subtracting a union only pushes down what the other model prefers (Dekoninck et al. 2024)",
            "—",
            "exact on random tables",
            "`pytest tests/algebra -k union`",
            "holds",
        )
    )
    with_heads = [r for r in speed if r["benchmark"].startswith("time per token with heads")]
    if with_heads:
        worst = max(r["ratio"] for r in with_heads)
        one = with_heads[0]
        rows.append(
            (
                "Log-linear heads share one unembedding (Han et al. 2024, LM-Steer)",
                "1.24 times the decoding time with one steer",
                f"{worst:.3f} times with {one['num_heads']} heads of rank {one['rank']}",
                "`factorlm bench heads`",
                "holds" if worst <= 1.1 else "does not hold here",
            )
        )
    if effect := record("effect-positive.json"):
        share = {row["strength"]: row["share"] for row in effect["rows"]}
        separation = share[0.2] - share[-0.2]
        steps = list(itertools.pairwise(effect["rows"]))
        falls = [(a, b) for a, b in steps if b["share"] <= a["share"]]
        are_noise = all(b["share_interval"][1] >= a["share_interval"][0] for a, b in falls)
        rows.append(
            (
                "A bias alone, trained on a few thousand sentences, steers sentiment (factor heads)",
                "separation 0.67 at 0.2 nats in our prototype",
                f"{separation:.2f} at 0.2 nats: {share[-0.2]:.0%} to {share[0.2]:.0%} judged positive",
                f"`{effect['command']}`",
                "holds" if separation >= 0.45 else "does not hold here",
            )
        )
        rows.append(
            (
                "The share judged positive rises with the strength all the way",
                "—",
                f"{len(steps) - len(falls)} of {len(steps)} steps rise"
                + "".join(
                    f"; from {a['strength']:+} to {b['strength']:+} it goes from {a['share']:.0%} to {b['share']:.0%}"
                    for a, b in falls
                ),
                f"`{effect['command']}`",
                f"not shown: the fall is {'inside' if are_noise else 'outside'} the intervals" if falls else "holds",
            )
        )
    if found := record("linear.json"):
        ratios = {row["what"]: row["ratio"] for row in found["formats"]}
        rows.append(
            (
                "bfloat16 is faster than float32 on a processor (our design)",
                "about twice",
                "time over that of float32: " + "; ".join(f"{r:.2f} {what}" for what, r in ratios.items()),
                f"`{found['command']}`, without native bfloat16" * (not found["native_bfloat16"])
                or f"`{found['command']}`",
                "holds" if max(ratios.values()) < 0.6 else "does not hold here; float32 is the default there",
            )
        )
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"# Claims\n\nWritten by `python benchmarks/report.py`. A claim is a sentence that can fail.\n\n{table}\n"


if __name__ == "__main__":
    (DOCS / "benchmarks.md").write_text(benchmarks(), encoding="utf-8")
    (DOCS / "claims.md").write_text(claims(), encoding="utf-8")
