"""Claims about memories, which rest on the records of the suite `memory` and of the benchmark of the ∞-gram engine."""

from __future__ import annotations

import functools
from typing import Any

from scipy.stats import spearmanr

from factorlm.evaluation.claims.claim import Claim, ClaimBench, NoSettings, Outcome, Verdict, all_of, decide
from factorlm.evaluation.claims.recorded import on_record
from factorlm.evaluation.intervals import Estimate

RECORD, ENGINE = "memory/report.json", "infini.json"
MADE_BY = "factorlm eval memory --out benchmarks/records/memory"
ENGINE_BY = "python benchmarks/infini.py"
LIU = "Liu et al. 2024, Infini-gram, arXiv:2401.17377"
BEST, OTHER = "∞-gram", "∞-gram of other texts"
KNN = "kNN"
LEAST_SINGLE, LEAST_MANY, MOST_ADDED = 1.0, 3.0, 1.1  # times as fast; times the time of a token
RISING = 0.8  # rank correlation
Found = dict[str, dict[str, Estimate]]
Decided = tuple[str, dict[str, Any], Verdict]

_claim = functools.partial(on_record, RECORD, MADE_BY)


def _of(found: Found, start: str) -> dict[str, dict[str, Estimate]]:
    """Measures whose names begin so, by what follows."""
    return {name.removeprefix(start): by for name, by in found.items() if name.startswith(start)}


def _told(values: dict[str, Estimate]) -> str:
    return "; ".join(f"{estimate} ({of})" for of, estimate in values.items())


def _lowers(found: Found) -> Decided:
    saved = {kind: by[BEST] for kind, by in _of(found, "nats saved/").items()}
    other = {kind: by[OTHER] for kind, by in _of(found, "nats saved/").items()}
    verdicts = [decide(estimate, 0.0, above=True) for estimate in saved.values()]
    matters = [
        "holds" if 2 * (other[kind].value or 0) < (estimate.value or 0) else "does not hold here"
        for kind, estimate in saved.items()
    ]
    numbers = {kind: {"own": saved[kind].value, "other": other[kind].value} for kind in saved}
    said = f"nats a token saved: {_told(saved)}; by a memory of other texts: {_told(other)}"
    return said, numbers, all_of([*verdicts, *matters])  # type: ignore[list-item]


def _agrees(found: Found) -> Decided:
    numbers: dict[str, Any] = {}
    verdicts: list[Verdict] = []
    for kind, by in _of(found, "agreement by suffix length/").items():
        known = [(int(n), e.value) for n, e in by.items() if e.value is not None]
        rho = float(spearmanr(*zip(*known, strict=True)).statistic)
        sparse = found[f"agreement/{kind}"]
        numbers[kind] = {
            "rank correlation": rho,
            "one": sparse["one continuation"].value,
            "several": sparse["several"].value,
        }
        above = (sparse["one continuation"].value or 0) > (sparse["several"].value or 0)
        verdicts.append("holds" if rho > RISING and above else "does not hold here")
    said = "; ".join(
        f"{kind}: rank correlation {n['rank correlation']:.2f}, {n['one']:.0%} where one token follows, "
        f"{n['several']:.0%} where several do" for kind, n in numbers.items()
    )  # fmt: skip
    return said, numbers, all_of(verdicts)


def _few_gain(found: Found) -> Decided:
    gain = found["generation, gain in nats per token"][KNN]
    share = found["generation, share of tokens that gain"][KNN]
    top = found["generation, share of gain in the top twentieth"][KNN]
    verdict = all_of([decide(gain, 0.0, above=True), decide(share, 0.5, above=False)])
    said = f"{gain} nats a token gained on average; {share} of tokens gain; the top twentieth has {top} of all gain"
    return said, {"gain": gain.value, "share": share.value, "top": top.value}, verdict


def _texts_better(found: Found) -> Decided:
    name = next(name for name in found if name.startswith("generation, ") and name.endswith("less that of the model"))
    by = found[name]
    ours, control = by[KNN], by.get("model, half of it human")
    said = f"{name.removeprefix('generation, ')}: {ours}; of the control, half of it human, {control}"
    numbers = {"neighbours": ours.value, "control": None if control is None else control.value}
    if control is None or control.low is None or control.low <= 0:
        return f"{said}: the measure has no power here", numbers, "not shown"
    return said, numbers, decide(ours, 0.0, above=True)


def _imitates(found: Found) -> Decided:
    by = found["imitation, gain in nats per token"]
    ours, without = by["MLP, learned weights"], by["MLP without teacher, learned weights"]
    kept = found["imitation, share of the teacher's gain"]["MLP, learned weights"]
    said = f"nats a token gained: {ours} with the teacher, {without} without; {kept} of the teacher's gain kept"
    better = ours.low is not None and ours.low > (without.value or 0.0)
    verdict = decide(ours, 0.0, above=True)
    if verdict == "holds" and not better:
        verdict = "not shown"
    return said, {"with": ours.value, "without": without.value, "kept": kept.value}, verdict


def _drafts(found: Found) -> Decided:
    by = {k: e for k, e in found["drafts, speed-up"].items() if k.startswith("memory of the domain") and "greedy" in k}
    said = f"times as fast: {_told(by)}"
    return said, {k: e.value for k, e in by.items()}, all_of([decide(e, 1.0, above=True) for e in by.values()])


def _lexical(found: Found) -> Decided:
    numbers: dict[str, Any] = {}
    verdicts: list[Verdict] = []
    said = []
    for name, by in found.items():
        if name.startswith("likelihood, ") and name.endswith("bits per byte against bm25") and "dense" in by:
            kind = name.split(", ")[1]
            numbers[kind] = by["dense"].value
            verdicts.append(decide(by["dense"], 0.0, above=True))
            said.append(f"{by['dense']} ({kind})")
    return f"bits per byte that dense retrieval loses more: {'; '.join(said)}", numbers, all_of(verdicts)


def _unlike(found: Found) -> Decided:
    by = found["copied by exponent"]
    low = min(by, key=float)
    own = {kind: (b[low].value or 0) - (b["0"].value or 0) for kind, b in _of(found, "nats by exponent/").items()}
    kinds = list(own)
    said = (
        f"written tokens in stored runs: {by[low]} at exponent {low}, {by['0']} at 0; nats a token more: "
        + ", ".join(f"{own[kind]:.2f} ({kind})" for kind in kinds)
    )
    high = by[low].high
    ahead = high is not None and high < (by["0"].value or 0.0)
    apart = own[kinds[0]] > 2 * own[kinds[1]]
    least = by[low].low
    behind = least is not None and least > (by["0"].value or 0.0)
    verdict: Verdict = "does not hold here" if behind else "holds" if ahead and apart else "not shown"
    return said, {"copied": by[low].value, "plain": by["0"].value, **own}, verdict


def _engine(bench: ClaimBench, settings: NoSettings) -> Outcome:
    [record] = bench.benchmark(ENGINE, ENGINE_BY)
    largest = record["sizes"][-1]
    single = {k: v["theirs"]["median"] / v["ours"]["median"] for k, v in largest["single, µs"].items()}
    batched = {k: v["theirs"] / v["ours"] for k, v in largest["batched, µs"].items()}
    along = largest["along a text, µs a token"]["theirs"] / largest["along a text, µs a token"]["ours"]
    build = largest["build"]["ours"]["tokens a second"] / largest["build"]["theirs"]["tokens a second"]
    is_fast = min(*single.values(), build) >= LEAST_SINGLE and min(*batched.values(), along) >= LEAST_MANY
    told = ", ".join(f"{k} {v:.1f}" for k, v in single.items())
    many = ", ".join(f"{k} {v:.0f}" for k, v in batched.items())
    said = (
        f"{largest['tokens']:,} tokens; times as fast: building {build:.1f}; single {told}; batched {many}; along a "
        f"text {along:.0f}; {largest['queries that agree']:,} queries agree"
    )
    numbers = {"single": single, "batched": batched, "along": along, "build": build}
    return Outcome(measured=said, numbers=numbers, verdict="holds" if is_fast else "does not hold here")


def _mixing(bench: ClaimBench, settings: NoSettings) -> Outcome:
    [record] = bench.benchmark(ENGINE, ENGINE_BY)
    ratios = {batch: found["ratio"] for batch, found in record["mixing"].items()}
    said = "times the time of a token: " + ", ".join(f"{ratio:.3f} ({batch})" for batch, ratio in ratios.items())
    verdict: Verdict = "holds" if max(ratios.values()) < MOST_ADDED else "does not hold here"
    return Outcome(measured=said, numbers=ratios, verdict=verdict)


LOWERS = _claim(
    "memories-lower-perplexity",
    "An ∞-gram memory of matching texts lowers the perplexity of others of their kind, and "
    "one of other texts much less",
    LIU,
    "GPT-2 117M on the Pile 22.8 to 13.7, GPT-Neo 1.3B 8.3 to 7.3, with the Pile as memory",
    "Holds if intervals of nats saved are above 0 for every kind of text, and a memory of other texts saves less than "
    "half as much; does not hold if one interval is below 0 or another memory saves more than half; else not shown.",
    _lowers,
)
AGREES = _claim(
    "longer-matches-are-righter",
    "The longer the suffix that is found, the oftener the ∞-gram gives the next token more "
    "than a half; and oftener where one token follows than where several do",
    LIU,
    "agreement 47 % overall, over 75 % from 16 tokens on; 75 % where one token follows",
    "Holds if over all kinds of text the rank correlation of length and agreement is above 0.8, and agreement is "
    "higher where one token follows; does not hold otherwise.",
    _agrees,
)
FEW_GAIN = _claim(
    "few-tokens-gain",
    "Neighbours lower the loss on average although most tokens lose",
    "Wang et al. 2023, KNN-LM does not improve open-ended text generation, arXiv:2305.14625",
    "perplexity is worse for the majority of tokens",
    "Holds if the interval of the mean gain is above 0 and that of the share of tokens that gain below a half; "
    "does not hold if one is on the other side; else it is not shown.",
    _few_gain,
)
TEXTS_BETTER = _claim(
    "neighbours-improve-texts",
    "Texts written with neighbours are nearer to human texts",
    "Khandelwal et al. 2020, kNN-LM; against it Wang et al. 2023, arXiv:2305.14625",
    "no improvement by MAUVE or by people",
    "Holds if the interval of the gain in nearness is above 0; does not hold if below; not shown else, or where half "
    "human texts cannot be told from the model's.",
    _texts_better,
)
IMITATES = _claim(
    "mlp-imitates-neighbours",
    "A network that learned from neighbours gains likelihood, and more than one of the same "
    "size that learned from next tokens alone",
    "Wei et al. 2025, MLP Memory, arXiv:2508.01832",
    "GPT-2 large fine-tuned 10.42, with an MLP memory 9.51",
    "Holds if the interval of its gain is above 0 and above the gain without the teacher; does not hold if its "
    "interval is below 0; else it is not shown.",
    _imitates,
)
DRAFTS_PAY = _claim(
    "memory-drafts-pay",
    "Guesses from an ∞-gram memory of matching texts make greedy writing faster",
    "He et al. 2024, REST, arXiv:2311.08252",
    "1.6 to 2.4 times as fast with 7B and 13B models",
    "Holds if intervals of the speed-up are above 1 for every kind of text, does not hold if one is below.",
    _drafts,
)
LEXICAL_BEST = _claim(
    "bm25-best-for-likelihood",
    "Passages found by BM25 raise the likelihood of a text more than passages found by dense vectors",
    "Abdallah et al. 2025, From retrieval to generation; Ram et al. 2023, arXiv:2302.00083",
    "BM25 lowers the perplexity of WikiText most",
    "Holds if intervals of what dense loses more are above 0 for every kind of text, does not hold if one is below.",
    _lexical,
)
UNLIKE = _claim(
    "unlike-a-corpus",
    "A memory with a negative exponent makes texts that copy its corpus less, and costs other texts little",
    "ours",
    "not reported",
    "Holds if the share of written tokens in stored runs is below that without, by its interval, and the corpus' own "
    "kind of text becomes dearer by more than twice what another kind does; does not hold if more is copied, by its "
    "interval; else it is not shown.",
    _unlike,
)
ENGINE_FAST = Claim(
    "infini-engine-is-fast",
    "Our ∞-gram engine builds and answers at least as fast as the public one, and at least three "
    "times as fast in batches and along a text, with the same counts",
    "public package infini-gram 2.6",
    "not compared there",
    "Holds if at the largest size building and single queries are at least as fast, and batched ones and those along a "
    "text at least 3 times as fast; does not hold otherwise.",
    NoSettings(),
    _engine,
    (f"benchmarks/records/{ENGINE}",),
    0.1,
    ENGINE_BY,
)
MIXING_CHEAP = Claim(
    "mixing-costs-little",
    "Mixing an ∞-gram memory into the default model adds less than a tenth to the time of a token",
    "ours",
    "not reported",
    "Holds if the ratio is below 1.1 alone and for 8 texts together; does not hold otherwise.",
    NoSettings(),
    _mixing,
    (f"benchmarks/records/{ENGINE}",),
    0.1,
    ENGINE_BY,
)
