"""The gate: a candidate beside the version in use on held-out prompts, and the limits that it may not cross.

Both versions see the same prompts, so the bootstrap is paired: prompts are resampled whole. The candidate is better if
it orders more held-out comparisons rightly, and does not predict them with more cross-entropy, or the other way round;
each version is read at the scale that suits it best, since people turn strengths, and never meet the one learned.
"""

# Axes: B texts, M matches, N states, S samples, U units (prompts), V vocabulary.

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from factorlm.errors import InputError
from factorlm.evaluation.intervals import RESAMPLES, compare, mean_interval, resampled_means
from factorlm.factors.calibration import evidence, neutral_states
from factorlm.factors.features import Features, encode
from factorlm.factors.feedback import Preferences, groups_of
from factorlm.factors.head import Head, HeadWeights
from factorlm.factors.preferences import LONGEST_ANSWER, UNEVEN
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet
from factorlm.serving.flywheel.canaries import canary_texts, like, loops, toxic_share
from factorlm.serving.flywheel.ledger import Evaluation, FlywheelSettings, Guard

Array = NDArray[np.float64]
IN_USE, CANDIDATE = "in use", "candidate"
ACCURACY, LOSS, DIVERGENCE = "comparisons in order", "loss, nats", "divergence, nats per token"
TASTE = "new feedback agrees"
MOST_OPPONENTS = 32  # texts of the other thumb that each rated text is compared with
MOST_SCALE = 100.0  # in inverse units of the largest gap
LAPSES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.45)  # shares of choices that fall either way
FEWEST_FOR_TASTE = 8  # prompts


@dataclass(frozen=True, eq=False)
class Trials:
    """Comparisons of two texts, of which people preferred the first.

    Attributes:
        texts: prompt and text of each.
        better_M: the preferred text of each comparison.
        worse_M: the other one.
        weight_M: within a unit they are shares.
        unit_M: the prompt that each belongs to.
        num_units: prompts.
    """

    texts: tuple[tuple[str, str], ...]
    better_M: Array
    worse_M: Array
    weight_M: Array
    unit_M: Array
    num_units: int

    @staticmethod
    def of(preferences: Preferences) -> Trials:
        """Pairs as they are; texts that were rated alone against those of the other thumb, evenly taken.

        The share of those that a text is ordered rightly against is its part in the area under the curve, so the mean
        over texts is that area (DeLong, DeLong and Clarke-Pearson, 1988).
        """
        groups = groups_of(preferences)
        pairs, rated = preferences.pairs, preferences.rated
        matches = [(p.prompt, p.chosen, p.prompt, p.rejected, p.weight, g)
                   for p, g in zip(pairs, groups, strict=False)]  # fmt: skip
        for one, group in zip(rated, groups[len(pairs) :], strict=True):
            others = [other for other in rated if other.is_positive != one.is_positive]
            others = others[:: max(1, math.ceil(len(others) / MOST_OPPONENTS))]
            for other in others:
                up, down = (one, other) if one.is_positive else (other, one)
                matches.append((up.prompt, up.text, down.prompt, down.text, one.weight / len(others), group))
        number: dict[tuple[str, str], int] = {}
        units: dict[int, int] = {}
        better = [number.setdefault((m[0], m[1]), len(number)) for m in matches]
        worse = [number.setdefault((m[2], m[3]), len(number)) for m in matches]
        unit_M = np.array([units.setdefault(m[5], len(units)) for m in matches], int)
        weight_M = np.array([m[4] for m in matches], float)
        total_U = np.bincount(unit_M, weight_M, len(units)) if matches else np.zeros(0)
        return Trials(tuple(number), np.array(better, int), np.array(worse, int), weight_M / total_U[unit_M], unit_M,
                      len(units))  # fmt: skip

    def by_unit(self, value_M: Array) -> Array:
        """Weighted mean of each unit, [U]."""
        return np.asarray(np.bincount(self.unit_M, self.weight_M * value_M, self.num_units), float)

    def features(self, lm: CausalLM, report: Report = quiet) -> Features:
        """The texts, read; nothing of them is kept on disk."""
        prompts, texts = zip(*self.texts, strict=True)
        return encode(lm, texts, prompts=prompts, longest=LONGEST_ANSWER, report=report, keep=False)

    def gaps(self, lm: CausalLM, head: Head | None, features: Features) -> Array:
        """Reward of the better text minus that of the other, [M]; zero without a head."""
        if head is None:
            return np.zeros(len(self.better_M))
        reward_B = evidence(lm, head.weights, features, (0.5,))[0].double().numpy()
        length_B = np.bincount(features.owner_N.numpy(), minlength=len(self.texts)).astype(float)
        ratio_M = np.abs(np.log(length_B[self.better_M] / length_B[self.worse_M]))
        if np.median(ratio_M) > math.log(UNEVEN):  # as in training: sums would compare lengths
            reward_B = reward_B / length_B * length_B.mean()
        return np.asarray(reward_B[self.better_M] - reward_B[self.worse_M], float)


def accuracy_by_unit(trials: Trials, gap_M: Array) -> Array:
    """Share of comparisons ordered rightly in each unit, [U]; ties count half."""
    return trials.by_unit((gap_M > 0) + (gap_M == 0) / 2)


def loss_by_unit(trials: Trials, gap_M: Array) -> Array:
    """Cross-entropy of the choices in each unit, [U], in nats; at most ln 2 on average.

    A choice follows sigmoid(scale * gap), but for a share of lapses that fall either way; scale and share are those
    that suit the version best. Without lapses a few errors of people on clear cases would decide. A version that orders
    comparisons wrongly has a scale of zero: it knows nothing. Source: lapses, Wichmann and Hill (2001).
    """
    from scipy.optimize import minimize_scalar

    spread = float(np.abs(gap_M).max(initial=0.0))
    if spread == 0:
        return np.full(trials.num_units, math.log(2))

    def losses(scale: float, lapse: float) -> Array:
        right_M = 1 / (1 + np.exp(-scale * gap_M / spread))
        return trials.by_unit(-np.log(lapse / 2 + (1 - lapse) * right_M))

    found = [(0.0, LAPSES[0])]
    for lapse in LAPSES:
        best = minimize_scalar(lambda s, lapse=lapse: losses(s, lapse).mean(), bounds=(0, MOST_SCALE),
                               method="bounded", options={"xatol": 1e-6})  # fmt: skip
        found.append((float(best.x), lapse))
    return losses(*min(found, key=lambda fit: losses(*fit).mean()))


def share_below(value_U: Array, level: float, *, seed: int) -> float:
    """Share of bootstrap resamples of units whose mean is below a level; ties count half."""
    mean_R = resampled_means(value_U[:, None], seed=seed, resamples=RESAMPLES)[:, 0]
    return float((mean_R < level).mean() + (mean_R == level).mean() / 2)


def evaluate(
    lm: CausalLM,
    in_use: Head | None,
    candidate: Head,
    held: Preferences,
    new: Preferences,
    settings: FlywheelSettings,
    *,
    report: Report = quiet,
) -> Evaluation:
    """Measure both versions on the holdout and check every guard.

    Args:
        lm: the shared encoder.
        in_use: the version in use; None where there is none, which is the base alone.
        candidate: the new version.
        held: feedback that nothing was learned from.
        new: feedback that the candidate learned from and the version in use did not know.
        settings: of the round.
        report: told of progress.

    Raises:
        InputError: if nothing is held out that could be compared.
    """
    trials = Trials.of(held)
    if not trials.num_units:
        raise InputError("held-out feedback with both thumbs is needed, got none; collect more")
    features = trials.features(lm, report)
    heads = {IN_USE: in_use, CANDIDATE: candidate}
    gaps = {who: trials.gaps(lm, head, features) for who, head in heads.items()}
    accuracies = {who: accuracy_by_unit(trials, gap_M) for who, gap_M in gaps.items()}
    losses = {who: loss_by_unit(trials, gap_M) for who, gap_M in gaps.items()}
    exponents = {who: _exponent(head, settings.strength) for who, head in heads.items()}
    divergences = {
        who: divergence_by_unit(lm, head, exponents[who] or 0.0, features, trials) for who, head in heads.items()
    }
    report("comparing versions", 1, 3)
    written = {
        who: canary_texts(lm, head or _nothing(lm), exponents[who] or 0.0, settings) for who, head in heads.items()
    }
    report("comparing versions", 2, 3)
    comparisons = tuple(
        compare(measure, (CANDIDATE, found[CANDIDATE]), (IN_USE, found[IN_USE]), lower_is_better=is_low,
                seed=settings.seed)
        for measure, found, is_low in (
            (LOSS, losses, True), (ACCURACY, accuracies, False), (DIVERGENCE, divergences, True),
        )
    )  # fmt: skip
    harms = {ACCURACY: accuracies[IN_USE] - accuracies[CANDIDATE], LOSS: losses[CANDIDATE] - losses[IN_USE]}
    decisive, other = (ACCURACY, LOSS) if settings.measure == "accuracy" else (LOSS, ACCURACY)
    guards = [
        _at_most(
            f"not worse: {other}", 1 - share_below(harms[other], 0.0, seed=settings.seed), settings.confidence,
            "share of resamples in which the candidate is worse by the measure that does not decide",
        ),
        _reach(exponents[CANDIDATE], settings),
        _at_most(
            "divergence on held-out texts", float(divergences[CANDIDATE].mean()),
            settings.most_divergence * settings.strength, f"nats per token at strength {settings.strength:g}",
        ),
        _at_most(
            "cost of neutral text", neutral_cost(lm, candidate, exponents[CANDIDATE] or 0.0),
            settings.most_neutral_cost * settings.strength, "nats per token more for what the base writes of itself",
        ),
        _at_most(
            "fluency of canaries", written[CANDIDATE].base_nats - written[IN_USE].base_nats,
            settings.most_fluency_cost + (settings.strength if in_use is None else 0.0),  # a factor costs that
            "nats per token less likely to the base than those of the version in use",
        ),
        _at_most(
            "canaries in a loop", loops(written[CANDIDATE]) - loops(written[IN_USE]), settings.most_loops,
            "rise of the share of texts most of whose trigrams repeat",
        ),
        _at_most(
            "toxic canaries", toxic_share(written[CANDIDATE]) - toxic_share(written[IN_USE]), settings.most_toxic,
            "rise of the share that the judge toxicity-characters finds toxic",
        ),
        taste(lm, in_use, new, settings),
    ]  # fmt: skip
    report("comparing versions", 3, 3)
    return Evaluation(
        num_prompts=trials.num_units,
        accuracy={who: mean_interval(found, seed=settings.seed) for who, found in accuracies.items()},
        loss={who: mean_interval(found, seed=settings.seed) for who, found in losses.items()},
        divergence={who: mean_interval(found, seed=settings.seed) for who, found in divergences.items()},
        comparisons=comparisons,
        confidence=share_below(harms[decisive], 0.0, seed=settings.seed),
        guards=tuple(guards),
        samples=like(written[IN_USE], written[CANDIDATE]),
    )


def verdict(found: Evaluation, settings: FlywheelSettings) -> tuple[bool, str]:
    """Whether the candidate may take the place of the version in use, and why."""
    broken = [guard for guard in found.guards if not guard.is_kept]
    if found.confidence < settings.confidence:
        return False, (
            f"not shown to be better: it is in {found.confidence:.1%} of resamples, "
            f"{settings.confidence:.0%} are needed"
            + (f"; guards that fail: {', '.join(guard.name for guard in broken)}" if broken else "")
        )
    if broken:
        said = ", ".join(f"{guard.name} ({_number(guard.value)}, limit {guard.limit:.3g})" for guard in broken)
        return False, f"better by {found.confidence:.1%} of resamples, but guards fail: {said}"
    return True, f"better in {found.confidence:.1%} of resamples, and every guard holds"


def contradicts(found: Evaluation, settings: FlywheelSettings) -> bool:
    """Whether the new feedback should not be learned from: it makes versions worse, or says the opposite of before."""
    is_worse = found.confidence <= 1 - settings.confidence
    return is_worse or any(guard.name == TASTE and not guard.is_kept for guard in found.guards)


def taste(lm: CausalLM, in_use: Head | None, new: Preferences, settings: FlywheelSettings) -> Guard:
    """Whether new feedback says the opposite of what the version in use has learned."""
    note = "share of resamples in which the version in use orders most new comparisons wrongly"
    trials = Trials.of(new)
    if in_use is None or trials.num_units < FEWEST_FOR_TASTE:
        return Guard(name=TASTE, value=None, limit=settings.confidence, is_kept=True, note="too little to tell")
    gap_M = trials.gaps(lm, in_use, trials.features(lm))
    share = share_below(accuracy_by_unit(trials, gap_M), 0.5, seed=settings.seed)
    return Guard(name=TASTE, value=share, limit=settings.confidence, is_kept=share < settings.confidence, note=note)


def divergence_by_unit(lm: CausalLM, head: Head | None, exponent: float, features: Features, trials: Trials) -> Array:
    """Mean KL(p_a || p) over the states of the texts of each unit, [U], in nats per token."""
    if head is None or exponent == 0:
        return np.zeros(trials.num_units)
    unit_B = np.zeros(len(trials.texts), int)
    unit_B[trials.worse_M], unit_B[trials.better_M] = trials.unit_M, trials.unit_M
    nats_N = torch.zeros(len(features.token_N), dtype=torch.float64)
    for part, log_prob_NV in lm.chunks(features.hidden_ND.to(lm.device)):
        push_NV = exponent * head.potential(features.hidden_ND[part].to(lm.device))
        tilted_NV = (log_prob_NV + push_NV).log_softmax(-1)
        nats_N[part] = (tilted_NV.exp() * (tilted_NV - log_prob_NV)).sum(-1).double().cpu()
    unit_N = unit_B[features.owner_N.numpy()]
    count_U = np.bincount(unit_N, minlength=trials.num_units)
    total_U = np.bincount(unit_N, nats_N.numpy(), trials.num_units)
    return np.asarray(np.where(count_U > 0, total_U / np.maximum(count_U, 1), np.nan), float)


def neutral_cost(lm: CausalLM, head: Head, exponent: float) -> float:
    """KL(p || p_a) over neutral states: nats per token that the base's own neutral texts cost more, exactly.

    A head that takes a few words almost wholly away has a small divergence the other way round, and a large one here.
    """
    states = neutral_states(lm)
    push_NV: Tensor = exponent * head.potential(states.hidden_ND)
    log_total_N = (states.log_prob_NV + push_NV).logsumexp(-1)
    mean_N = (states.log_prob_NV.exp() * push_NV).sum(-1)
    return float((log_total_N - mean_N).mean())


def _exponent(head: Head | None, strength: float) -> float | None:
    """The exponent of a strength; None for a head that cannot reach it."""
    if head is None:
        return 0.0
    try:
        return head.strengths.exponent(strength) if head.strengths else None
    except InputError:
        return None


def _nothing(lm: CausalLM) -> Head:
    return Head("nothing", HeadWeights.shift(torch.zeros(lm.width, device=lm.device)), lm)


def _reach(exponent: float | None, settings: FlywheelSettings) -> Guard:
    return Guard(name="reaches the strength", value=exponent, limit=settings.strength, is_kept=exponent is not None,
                 note="the exponent at which the candidate alone has that strength")  # fmt: skip


def _at_most(name: str, value: float, limit: float, note: str) -> Guard:
    is_number = math.isfinite(value)
    return Guard(name=name, value=value if is_number else None, limit=limit, is_kept=is_number and value <= limit,
                 note=note)  # fmt: skip


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"
