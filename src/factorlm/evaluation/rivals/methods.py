"""Ours and its rivals as methods: each writes texts at a setting of its dial, in the same way as all others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import PositiveFloat

from factorlm.evaluation.responses import Samples, respond
from factorlm.evaluation.rivals.activation import ActivationSteering
from factorlm.evaluation.rivals.arithmetic import Arithmetic
from factorlm.evaluation.rivals.dexperts import DExperts
from factorlm.evaluation.rivals.fudge import Fudge
from factorlm.evaluation.rivals.gedi import GeDi
from factorlm.evaluation.rivals.goals import Goal
from factorlm.evaluation.rivals.kept import Kept
from factorlm.evaluation.rivals.lm_steer import LMSteer
from factorlm.evaluation.rivals.rival import Rival
from factorlm.evaluation.rivals.speed import milliseconds_per_token
from factorlm.evaluation.workbench import Workbench
from factorlm.factors.examples import Split
from factorlm.factors.head import Head
from factorlm.factors.named import factor as named_factor
from factorlm.factors.unbound import bind
from factorlm.inference import Sampling
from factorlm.inference.expression import Composed, compose, written
from factorlm.inference.strengths import exponent_of
from factorlm.settings import Config

Doses = tuple[PositiveFloat, ...]
Writer = Callable[[float, list[str], str], Samples]


class Dials(Config):
    """Where each dial is set, towards the goal; a rival without a setting is left out.

    Attributes:
        ours: strengths of the factor, in nats a token.
        prompting: exponents of each instruction; 1 is plain prompting.
        dexperts: exponents of the experts' ratio.
        gedi: exponents of the posterior.
        fudge: exponents of the candidates' posterior.
        lm_steer: multiples of the map.
        activation: multiples of the vector.
        arithmetic: multiples of the classifier term.
    """

    ours: Doses = (0.1, 0.2, 0.4, 0.6)
    prompting: Doses = (0.5, 1.0, 1.5)
    dexperts: Doses = (0.75, 1.0, 1.5, 2.0)
    gedi: Doses = (1.0, 2.0, 5.0, 10.0)
    fudge: Doses = (1.0, 3.0)
    lm_steer: Doses = (1.5, 2.0, 3.0, 4.0)
    activation: Doses = (1.5, 2.0, 3.0, 4.0)
    arithmetic: Doses = (2.0, 6.0)


@dataclass(frozen=True)
class Writing:
    """How all methods write.

    Attributes:
        samples: texts for each prompt.
        max_tokens: of a text.
        sampling: how tokens are drawn.
    """

    samples: int
    max_tokens: int
    sampling: Sampling


@dataclass(frozen=True, eq=False)
class Method:
    """A way of steering.

    Attributes:
        name: for tables.
        doses: settings of its dial towards the goal, from the weakest on.
        write: texts at a setting after prompts, with the name of the stage.
        milliseconds: that a token takes at a setting.
        num_parameters: that were learned; None where it is not known.
        seconds: of preparation; None where it is not known.
        dial: what it turns.
        about: source and choices.
        has_dial: whether there is anything to turn.
    """

    name: str
    doses: tuple[float, ...]
    write: Writer
    milliseconds: Callable[[float], float]
    num_parameters: int | None = None
    seconds: float | None = None
    dial: str = ""
    about: str = ""
    has_dial: bool = True


def bare(bench: Workbench) -> Composed:
    """The language model of the first model under test, alone."""
    lm = bench.models[0].model.lm
    return compose(written(lm.name), dtype=str(lm.model.dtype).removeprefix("torch."), device=lm.device.type)


def ours(bench: Workbench, factor: str, goal: Goal, doses: Doses, how: Writing) -> Method:
    """A factor of the store over the base, at strengths; 0 is the base."""
    base = bare(bench)
    lm = base.model.lm
    bound = bind(named_factor(factor), lm)
    weights = bound.weights if isinstance(bound, Head) else None

    def write(dose: float, prompts: list[str], stage: str) -> Samples:
        strengths = {factor: goal.sign * dose} if dose else {}
        return respond(
            bench, base, prompts, n=how.samples, max_tokens=how.max_tokens, sampling=how.sampling, stage=stage,
            strengths=strengths,
        )  # fmt: skip

    def milliseconds(dose: float) -> float:
        return milliseconds_per_token(bench, base, {factor: exponent_of(lm, bound, goal.sign * dose)} if dose else {})

    learned = None if weights is None else weights.bias_D.numel() + weights.up_DR.numel() + weights.down_RD.numel()
    return Method(f"{factor} (ours)", tuple(sorted(doses)), write, milliseconds, learned, None,
                  "strength in nats a token", "a head of the store, trained before")  # fmt: skip


def rivals_of(bench: Workbench, goal: Goal, dials: Dials, parts: Split, kept: Kept, how: Writing) -> list[Method]:
    """All rivals that have a setting, prepared on these texts."""
    has_template = bool(bench.models[0].model.lm.tokenizer.chat_template)
    wordings = [wording for wording in goal.wordings if has_template or not wording.is_message]
    rivals: list[tuple[Rival, Doses]] = [(wording, dials.prompting) for wording in wordings]
    rivals += [
        (DExperts(), dials.dexperts),
        (GeDi(), dials.gedi),
        (Fudge(), dials.fudge),
        (LMSteer(), dials.lm_steer),
        (ActivationSteering(), dials.activation),
        (Arithmetic(), dials.arithmetic),
    ]
    return [_prepared(bench, goal, rival, doses, parts, kept, how) for rival, doses in rivals if doses]


def _prepared(
    bench: Workbench, goal: Goal, rival: Rival, doses: Doses, parts: Split, kept: Kept, how: Writing
) -> Method:
    prepared = rival.prepare(bare(bench).model.lm, parts, kept, bench.report)

    def write(dose: float, prompts: list[str], stage: str) -> Samples:
        return respond(
            bench, prepared.composed(goal.sign * dose), prompts, n=how.samples, max_tokens=how.max_tokens,
            sampling=how.sampling, stage=stage,
        )  # fmt: skip

    def milliseconds(dose: float) -> float:
        return milliseconds_per_token(bench, prepared.composed(goal.sign * dose))

    about = "; ".join(filter(None, (rival.source, prepared.note)))
    return Method(rival.name, tuple(sorted(doses)), write, milliseconds, prepared.num_parameters, prepared.seconds,
                  rival.dial, about)  # fmt: skip


def given(bench: Workbench, how: Writing) -> list[Method]:
    """The models under test that are more than their language model, as they are: one setting each."""
    found = []
    for name, model in zip(bench.names, bench.models, strict=True):
        if len(model.parts) > 1:
            found.append(_as_given(bench, name, model, how))
    return found


def _as_given(bench: Workbench, name: str, model: Composed, how: Writing) -> Method:
    def write(dose: float, prompts: list[str], stage: str) -> Samples:
        return respond(
            bench, model, prompts, n=how.samples, max_tokens=how.max_tokens, sampling=how.sampling, stage=stage
        )

    return Method(
        name, (1.0,), write, lambda dose: milliseconds_per_token(bench, model), about="as given", has_dial=False
    )
