"""Claims about steering by meaning, which rest on the record of the suite `guided`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from factorlm.evaluation.claims.claim import Verdict, all_of, decide
from factorlm.evaluation.claims.recorded import on_record
from factorlm.evaluation.intervals import Estimate

RECORD = "guided/report.json"
GUIDED = "factorlm eval guided --set latents.num_prompts=48 --out benchmarks/records/guided"
LOVELACE = "Lovelace et al. 2024, Diffusion guided language modeling"
STRONG = "guide 30"
LESS = "less toxic"  # the wish for fewer texts with a label
MOST_WAIT = 0.15  # of the time of a text of 20 tokens
NEAR = 0.1  # of the probability under the tilted prior
FEW = "20 tokens, 1 together, 10 steps"
Found = dict[str, dict[str, Estimate]]
Decided = tuple[str, dict[str, Any], Verdict]

_claim = functools.partial(on_record, RECORD, GUIDED)


def _each(values: Mapping[str, Estimate], above: Callable[[str], bool] = lambda of: True) -> Decided:
    """Whether every number is above zero, or below it where that is wanted."""
    said = "; ".join(f"{estimate} ({of})" for of, estimate in values.items())
    verdicts = [decide(estimate, 0.0, above=above(of)) for of, estimate in values.items()]
    return said, {of: estimate.value for of, estimate in values.items()}, all_of(verdicts)


def _all_above(found: Found, start: str) -> Decided:
    """Whether every measure whose name begins so is above zero, of everything that it was measured of."""
    return _each({
        f"{measure.removeprefix(start).strip(', ')}, {of}": estimate
        for measure, by in found.items() if measure.startswith(start) for of, estimate in by.items()
    })  # fmt: skip


def _heeded(found: Found) -> Decided:
    said, numbers, verdict = _all_above(found, "nats saved by the true latent")
    other, more, second = _all_above(found, "nats saved against another latent")
    whole = {"against none": numbers, "against another": more}
    return (
        f"nats a token fewer than without latent: {said}; than with another: {other}",
        whole,
        all_of([verdict, second]),
    )


def _proposed(found: Found) -> Decided:
    values = {
        measure.removeprefix("cosine gained by proposals, "): by["prefix × 1"]
        for measure, by in found.items() if measure.startswith("cosine gained by proposals")
    }  # fmt: skip
    said, numbers, verdict = _each(values)
    return f"cosine gained: {said}", numbers, verdict


def _differences(found: Found, way: str) -> dict[str, Estimate]:
    """Rates less those of texts without a guide, of every wish that has a way of writing."""
    end = ", rate less that of nothing"
    return {m.removesuffix(end): by[way] for m, by in found.items() if m.endswith(end) and way in by}


def _steers(found: Found) -> Decided:
    said, numbers, verdict = _each(_differences(found, STRONG), lambda wish: wish != LESS)
    return f"rate at strength 30 less that without: {said}", numbers, verdict


def _beats_heads(found: Found) -> Decided:
    ours, heads = (_differences(found, way) for way in (STRONG, "head 0.2"))
    both = [wish for wish in ours if wish in heads]
    said = "; ".join(f"{wish} {ours[wish]} guided, {heads[wish]} by a head" for wish in both)
    numbers = {wish: {"guide": ours[wish].value, "head": heads[wish].value} for wish in both}
    return f"rate less that without: {said}", numbers, all_of([_further(ours[w], heads[w], w) for w in both])


def _further(ours: Estimate, theirs: Estimate, wish: str) -> Verdict:
    """Whether a guide moves the rate further towards the wish, by intervals that do not meet."""
    if ours.low is None or ours.high is None or theirs.low is None or theirs.high is None:
        return "not shown"
    ahead, behind = ours.low > theirs.high, ours.high < theirs.low
    if wish == LESS:
        ahead, behind = behind, ahead
    return "holds" if ahead else "does not hold here" if behind else "not shown"


def _near(found: Found) -> Decided:
    by = found["latents, probability by the guide"]
    pairs = {}
    for name, estimate in by.items():
        if name.startswith("form tilt at "):
            strength = name.removeprefix("form tilt at ")
            exact = next(e for other, e in by.items() if "twisted" in other and other.endswith(f" at {strength}"))
            pairs[strength] = (estimate, exact)
    said = "; ".join(f"strength {s}: {ours} guided, {exact} by particles" for s, (ours, exact) in pairs.items())
    gaps = [abs((ours.value or 0) - (exact.value or 0)) for ours, exact in pairs.values()]
    return said, {s: [o.value, e.value] for s, (o, e) in pairs.items()}, (
        "holds" if max(gaps) <= NEAR else "does not hold here"
    )  # fmt: skip


def _quick(found: Found) -> Decided:
    share = found["share of time before the first token"][FEW].value
    assert share is not None
    return (
        f"{share:.1%} of the time of a text of 20 tokens, written alone", {"share": share},
        "holds" if share <= MOST_WAIT else "does not hold here",
    )  # fmt: skip


HEEDED = _claim(
    "decoders-heed-meanings",
    "A decoder needs fewer nats for a text when it is told what the text means",
    LOVELACE, "the true embedding below none, none below a shuffled one",
    "Holds if intervals of nats saved against no latent and against another one are above 0 on every corpus, and "
    "does not hold if one is below; else it is not shown.", _heeded,
)  # fmt: skip
PROPOSED = _claim(
    "proposals-follow-the-prefix",
    "A meaning drawn for a prefix is more like what follows it than like what follows elsewhere",
    LOVELACE, "cosine above that of shuffled pairs",
    "Holds if the interval of the difference of cosines is above 0 on every corpus, and does not hold if one is below; "
    "else it is not shown.", _proposed,
)  # fmt: skip
NEAR_TILTED = _claim(
    "guidance-comes-near-the-tilted-prior",
    "Loss-guided denoising in 20 steps comes near the prior tilted by the guide",
    "Song et al. 2023, Loss-guided diffusion", "an approximation; particles are the reference (Wu et al. 2023)",
    f"Holds if the probability by the guide is within {NEAR} of that of particles at every strength; else it does not "
    "hold.", _near,
)  # fmt: skip
STEERS = _claim(
    "guides-steer-texts",
    "A classifier of sentence vectors, learned in seconds, steers what is written",
    LOVELACE, "98.9% positive under control, by a secondary listing",
    "Holds if, at strength 30, the interval of the change of rate by an independent judge is on the wanted side of 0 "
    "for every attribute and topic, and does not hold if one is on the other side; else it is not shown.", _steers,
)  # fmt: skip
BEATS_HEADS = _claim(
    "guides-steer-further-than-heads",
    "Steering meaning moves the rate of an attribute further than steering tokens",
    LOVELACE, "better than earlier plug-and-play methods on toxicity and sentiment",
    "Holds if, at strength 30, the interval of the change of rate lies beyond that of a head at 0.2 nats a token for "
    "every attribute that has one; does not hold if it falls short for one.", _beats_heads,
)  # fmt: skip
QUICK = _claim(
    "drawing-a-meaning-takes-little-time",
    "A meaning is drawn once per text, so it costs little even for short ones",
    LOVELACE, "1.7 times the runtime; weaker for short texts",
    f"Holds if drawing in 10 steps takes at most {MOST_WAIT:.0%} of the time of a text of 20 tokens written alone; "
    "else it does not hold.",
    _quick,
)  # fmt: skip
