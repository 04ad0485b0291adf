"""Claims about preference alignment: exact ones on worlds where every text is counted, and ones on a record."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from factorlm.evaluation.alignment import exact
from factorlm.evaluation.alignment.arms import BEST, DPO
from factorlm.evaluation.alignment.confidence import MODEL, PLAIN, REPAIRED
from factorlm.evaluation.alignment.rewards import AGAINST, ALL, CONTROLLED, FREE
from factorlm.evaluation.claims.claim import Claim, ClaimBench, Outcome, Verdict, all_of, decide
from factorlm.evaluation.claims.recorded import on_record
from factorlm.evaluation.intervals import Estimate
from factorlm.settings import Config

RECORD, MADE_BY = "alignment/report.json", "factorlm eval alignment --out benchmarks/records/alignment"
KORBAK = "Korbak et al. 2022, arXiv:2205.11275; Rafailov et al. 2023, DPO, arXiv:2305.18290"
MOST_APART = 0.05  # total variation
Found = dict[str, dict[str, Estimate]]
Decided = tuple[str, dict[str, Any], Verdict]
_claim = functools.partial(on_record, RECORD, MADE_BY)


class Worlds(Config):
    """Random worlds.

    Attributes:
        worlds: how many.
        texts: in each.
        policies: tried against the product, from near to far.
    """

    worlds: PositiveInt = 5
    texts: PositiveInt = 27
    policies: PositiveInt = 10_000


def _world(settings: Worlds, seed: int) -> tuple[Tensor, Tensor]:
    """Log probabilities and rewards of the texts of a world."""
    generator = torch.Generator().manual_seed(seed)
    log_prob_X = torch.randn(settings.texts, generator=generator, dtype=torch.float64).log_softmax(0)
    return log_prob_X, torch.randn(settings.texts, generator=generator, dtype=torch.float64)


def _product(bench: ClaimBench, settings: Worlds) -> Outcome:
    lead, apart, off = math.inf, 0.0, 0.0
    for number in range(settings.worlds):
        log_prob_X, reward_X = _world(settings, bench.seed + number)
        for beta in (0.5, 1.0, 2.0):
            best_X = exact.optimum(log_prob_X, reward_X, beta)
            value = float(exact.objective(best_X, log_prob_X, reward_X, beta))
            off = max(off, abs(value - exact.best_value(log_prob_X, reward_X, beta)))
            generator = torch.Generator().manual_seed(bench.seed + number)
            size_N1 = torch.logspace(-2, 1, settings.policies, dtype=torch.float64)[:, None]
            noise_NX = torch.randn(settings.policies, settings.texts, generator=generator, dtype=torch.float64)
            rivals_NX = (best_X + size_N1 * noise_NX).log_softmax(-1)
            lead = min(lead, value - float(exact.objective(rivals_NX, log_prob_X, reward_X, beta).max()))
            apart = max(apart, exact.total_variation(exact.dpo_optimum(log_prob_X, reward_X, beta), best_X))
        bench.report("worlds", number + 1, settings.worlds)
    holds = lead > 0 and off < 1e-9 and apart < MOST_APART
    return Outcome(
        measured=f"the product beats every one of {settings.policies} policies by {lead:.1e} or more; its value is "
        f"β log Z to {off:.0e}; DPO on all pairs ends {apart:.3f} from it in total variation",
        numbers={"least lead": lead, "largest error of the value": off, "largest distance of DPO": apart},
        verdict="holds" if holds else "does not hold here",
    )


def _bound(bench: ClaimBench, settings: Worlds) -> Outcome:
    most = -math.inf
    for number in range(settings.worlds):
        log_prob_X, reward_X = _world(settings, bench.seed + number)
        for rewards_X in (reward_X, reward_X.round()):
            for n in (2, 4, 8, 16, 64):
                nats = float(exact.divergence(exact.best_of(log_prob_X, rewards_X, n), log_prob_X))
                most = max(most, nats - exact.best_of_bound(n))
    even_X = torch.full((2048,), -math.log(2048), dtype=torch.float64)
    laws = {n: exact.best_of(even_X, torch.arange(2048, dtype=torch.float64), n) for n in (2, 4, 8, 16)}
    share = min(float(exact.divergence(law_X, even_X)) / exact.best_of_bound(n) for n, law_X in laws.items())
    return Outcome(
        measured=f"at most {most:.3f} nats above the bound; {share:.1%} of it where no text is likely",
        numbers={"most above the bound": most, "least share where no text is likely": share},
        verdict="holds" if most <= 1e-9 and share > 0.98 else "does not hold here",
    )


PRODUCT = Claim(
    "kl-regularised-optimum-is-a-product",
    "The best law at a price β of divergence is p exp(r/β) / Z, its value is β log Z, and DPO on all pairs finds it",
    KORBAK,
    "a theorem",
    f"Holds if on every world the product beats every policy tried, its value is β log Z to 1e-9, and DPO at its least "
    f"loss is within {MOST_APART} of it in total variation; else it does not hold.",
    Worlds(), _product, (), 0.5,
)  # fmt: skip
BOUND = Claim(
    "best-of-n-kl-bound",
    "The best of n texts is at most log n - (n - 1) / n nats from the model",
    "Stiennon et al. 2020; Beirami et al. 2024, arXiv:2401.01879",
    "an upper bound, close where no text is likely",
    "Holds if no world exceeds the bound, with equal rewards or without, and with 2,048 equally likely texts at least "
    "98 % of it is reached; else it does not hold.",
    Worlds(), _bound, (), 0.1,
)  # fmt: skip


def _beats_dpo(found: Found) -> Decided:
    gaps = found.get(f"reward, {BEST} less DPO", {})
    if not gaps:
        return "no dose of DPO lies within the divergences of best of n", {}, "not shown"
    verdicts = [decide(gap, 0.0, above=True) for gap in gaps.values()]
    said = "reward of best of n less that of DPO at equal divergence: " + "; ".join(
        f"{gap} ({dial})" for dial, gap in gaps.items()
    )
    return said, {dial: gap.value for dial, gap in gaps.items()}, all_of(verdicts)


def _realigned(found: Found) -> Decided:
    nats, gain = found[f"nats/{DPO}"], found[f"gain in reward/{DPO}"]
    order = sorted(nats, key=lambda dial: float(dial.removeprefix("w=")))
    rising = all((nats[a].value or 0) < (nats[b].value or 0) for a, b in itertools.pairwise(order))
    verdict = decide(gain["w=2"], gain["w=1"].value or 0.0, above=True)
    said = "; ".join(f"{dial}: {nats[dial]} nats, reward {gain[dial]} above the model's" for dial in order)
    numbers = {dial: {"nats": nats[dial].value, "gain": gain[dial].value} for dial in order}
    return said, numbers, all_of(["holds" if rising else "does not hold here", verdict])


def _over(found: Found) -> Decided:
    halves = {name.removeprefix("upper half/"): by for name, by in found.items() if name.startswith("upper half/")}
    broken = [
        way for way, by in halves.items()
        if decide(by["reward"], 0.0, above=True) == "holds" and decide(by["judged"], 0.0, above=False) == "holds"
    ]  # fmt: skip
    sound = [way for way, by in halves.items() if decide(by["judged"], 0.0, above=True) == "holds"]
    verdict: Verdict = "holds" if broken else "does not hold here" if len(sound) == len(halves) else "not shown"
    said = "from the middle dose to the strongest: " + "; ".join(
        f"{way}: reward {by['reward']}, judge {by['judged']}" for way, by in halves.items()
    )
    return said, {way: {what: e.value for what, e in by.items()} for way, by in halves.items()}, verdict


def _length(found: Found) -> Decided:
    few = min(
        int(name.rsplit(", ", 1)[1].removesuffix(" pairs"))
        for name in found
        if name.startswith(f"pair accuracy/{FREE}")
    )
    free, controlled = (found[f"pair accuracy/{way}, {few} pairs"] for way in (FREE, CONTROLLED))
    tied = found[f"correlation with length/{FREE}, {few} pairs"][ALL]
    said = (
        f"learned from {few} pairs, of unseen pairs whose chosen text is not shorter {free[AGAINST]} are ordered "
        f"rightly with length left in, {controlled[AGAINST]} with length taken out; correlation with length {tied}"
    )
    better = (controlled[AGAINST].value or 0) > (free[AGAINST].value or 0)
    verdict = decide(free[AGAINST], 0.5, above=False)
    numbers = {"left in": free[AGAINST].value, "taken out": controlled[AGAINST].value, "correlation": tied.value}
    return said, numbers, "not shown" if verdict == "holds" and not better else verdict


def _confident(found: Found) -> Decided:
    before = found[f"calibration error/{MODEL}"][PLAIN]
    names = [name for name in found if name.startswith("calibration error/DPO")]
    strongest = max(names, key=lambda name: float(name.rsplit("=", 1)[1]))
    after, repaired = found[strongest][PLAIN], found[strongest][REPAIRED]
    rise: Verdict = "not shown"
    if before.high is not None and after.low is not None and after.low > before.high:
        rise = "holds"
    elif before.low is not None and after.high is not None and after.high < before.low:
        rise = "does not hold here"
    is_repaired = (repaired.value or 0) < (after.value or 0) / 2
    said = f"{before} before, {after} after ({strongest.split('/')[1]}), {repaired} at one temperature"
    numbers = {"before": before.value, "after": after.value, "repaired": repaired.value}
    return said, numbers, "not shown" if rise == "holds" and not is_repaired else rise


def _both(found: Found) -> Decided:
    gains = {name: by for name, by in found.items() if name.startswith("gain in ") and name.endswith("/both")}
    told = {name.removeprefix("gain in ").removesuffix("/both"): next(iter(by.values())) for name, by in gains.items()}
    said = "gains with both rewards: " + "; ".join(f"{label} {gain}" for label, gain in told.items())
    verdict = all_of([decide(gain, 0.0, above=True) for gain in told.values()])
    return said, {label: gain.value for label, gain in told.items()}, verdict


BEATS_DPO = _claim(
    "best-of-n-beats-dpo-at-small-kl",
    "At a nat or two a response, best of n by a reward gets more of it than DPO on pairs of the same origin",
    "Gao et al. 2022, arXiv:2210.10760; Beirami et al. 2024, arXiv:2401.01879",
    "best of n is more efficient in divergence than tuning",
    "Reward of best of n, interpolated, less that of each dose of DPO within its divergences. Holds if all intervals "
    "are above 0; does not hold if one is below; else it is not shown.",
    _beats_dpo,
)
REALIGNED = _claim(
    "decoding-time-realignment",
    "Powers of the ratio of a tuned model to its reference move along the frontier without tuning again",
    "Liu et al. 2024, arXiv:2402.02992",
    "as good as tuning anew at each strength",
    "Holds if divergence rises at every step of the exponent and the gain in reward at 2 has its interval above the "
    "gain at 1; does not hold if divergence falls somewhere or the interval is below; else it is not shown.",
    _realigned,
)
OVER = _claim(
    "over-optimisation-of-a-proxy",
    "Pushed far, a learned reward goes on rising while an independent judge sees less of what was wanted",
    "Gao et al. 2022, arXiv:2210.10760",
    "true reward rises, then falls, with the root of the divergence",
    "From the middle to the strongest dose of each way. Holds if for one way the reward's interval is above 0 and the "
    "judge's below; does not hold if the judge's is above 0 for all; else it is not shown.",
    _over,
)
LENGTH = _claim(
    "reward-heads-learn-length-first",
    "A reward learned from few pairs tells length rather than what was preferred, unless length is taken out",
    "Singhal et al. 2023, arXiv:2310.03716; Dubois et al. 2024, arXiv:2404.04475",
    "length explains most of the gain in reward",
    "Of unseen pairs whose chosen text is not the shorter one, by the reward of fewest pairs with length left in. "
    "Holds if fewer than half are ordered rightly, by the interval, and taking length out orders more; does not hold "
    "if more than half are; else it is not shown.",
    _length,
)
CONFIDENT = _claim(
    "preference-tuning-raises-confidence",
    "Tuning to preferences makes a model too sure, and one temperature repairs it",
    "OpenAI 2023, GPT-4, arXiv:2303.08774; Kadavath et al. 2022, arXiv:2207.05221",
    "calibration error 0.007 before, 0.074 after",
    "Calibration error of the next token at the strongest exponent. Holds if its interval is above that of the model "
    "and one temperature takes it below half; does not hold if it is below; else it is not shown.",
    _confident,
)
BOTH = _claim(
    "multi-objective-composition",
    "The factors of two rewards multiply: weighed by their sum, responses have more of both",
    "Shi et al. 2024, multi-objective decoding, arXiv:2406.18853",
    "better in both than merging parameters",
    "Holds if with both rewards the gains in both judges' eyes have intervals above 0; does not hold if one is below; "
    "else it is not shown.",
    _both,
)
