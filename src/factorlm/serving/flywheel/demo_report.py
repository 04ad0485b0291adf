"""The demonstration of the flywheel as a report: a table and a picture of the gain by round, for each arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from factorlm.evaluation.document import Cell, Column, Curve, ModelCard, Provenance, Report, Section, Series, Table
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.provenance import commit, machine, versions
from factorlm.evaluation.report import write_report
from factorlm.serving.flywheel.demo import DemoSettings, Turn

ARMS = {
    "users": "users are asked about what is uncertain and new, and about a random share",
    "random": "users are asked about a random choice",
    "self": "nobody is asked: the text that the composition finds more probable counts as the better one",
}


def write_demo(
    found: Mapping[str, Sequence[Turn]], settings: DemoSettings, model: str, folder: Path, command: str
) -> list[Path]:
    """Write the report of all arms."""
    return write_report(demo_report(found, settings, model, command), folder)


def demo_report(found: Mapping[str, Sequence[Turn]], settings: DemoSettings, model: str, command: str) -> Report:
    """The report of all arms."""
    picture = Curve(
        title="Win rate against the bare model",
        x_label="choices of users",
        y_label="texts that beat the bare model's",
        is_percent=True,
        series=(
            *(
                Series(name=arm, x=tuple(float(t.labels or t.round) for t in turns), y=tuple(t.win_rate for t in turns))
                for arm, turns in found.items() if arm != "self"
            ),
            Series(name="the bare model", x=(0.0,), y=(Estimate(value=0.5),), is_reference=True),
        ),
        note="By the users' hidden utility, on frozen prompts; bands are 95 % intervals over prompts.",
    )  # fmt: skip
    by_round = Curve(
        title="Gain by round",
        x_label="round",
        y_label="texts that beat the bare model's",
        is_percent=True,
        series=tuple(
            Series(name=arm, x=tuple(float(t.round) for t in turns), y=tuple(t.win_rate for t in turns))
            for arm, turns in found.items()
        ),
        note="A round that was blocked keeps the version before.",
    )
    pictures = (by_round, picture) if set(found) != {"self"} else (by_round,)
    sections = [Section(title="Gain", lead=_lead(settings), blocks=pictures)]
    sections += [Section(title=f"Arm: {arm}", lead=f"Here {ARMS[arm]}.", blocks=(_table(arm, turns),))
                 for arm, turns in found.items()]  # fmt: skip
    return Report(
        suite="flywheel demo",
        title=f"The flywheel with simulated users, {model}",
        headlines=tuple(_headline(arm, turns, settings) for arm, turns in found.items()),
        cautions=(
            "The users are simulated: a judge of texts with random errors. People are less consistent, and their taste "
            "moves.",
            "The gate looks at the same holdout in every round.",
        ),
        models=tuple(ModelCard(name=arm, expression=f"{model} after the last round", parts=()) for arm in found),
        sections=tuple(sections),
        measures={"win rate": {arm: turns[-1].win_rate for arm, turns in found.items()}},
        provenance=Provenance(
            command=command, settings=settings.model_dump(mode="json"), seed=settings.seed, data={},
            judges={"sentiment": "users"}, versions=versions(), machine=machine(), commit=commit(),
            seconds=sum(turn.seconds for turns in found.values() for turn in turns),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )  # fmt: skip


def _lead(settings: DemoSettings) -> str:
    flipped = f" In round {settings.flipped} users say the opposite of what they think." if settings.flipped else ""
    return (
        f"In each round {settings.shown} texts are written for each of {settings.pool} prompts, and users name the "
        f"best and the worst for {settings.budget} of them, {settings.noise:.0%} of the time the wrong way round; "
        f"choices on {settings.held} other prompts are held out. Factors are used at strength "
        f"{settings.flywheel.strength:g}.{flipped}"
    )


def _headline(arm: str, turns: Sequence[Turn], settings: DemoSettings) -> str:
    last = turns[-1]
    said = ""
    flipped = [turn for turn in turns if turn.flipped]
    if flipped:
        said = f" The round of flipped feedback was {flipped[0].decision}: {flipped[0].reason}."
    return (
        f"{arm}: after {last.round} rounds and {last.labels} choices the composition wins {last.win_rate.value:.1%} of "
        f"comparisons with the bare model ({_interval(last.win_rate)}).{said}"
    )


def _interval(found: Estimate) -> str:
    return "no interval" if found.low is None or found.high is None else f"{found.low:.1%} to {found.high:.1%}"


def _table(arm: str, turns: Sequence[Turn]) -> Table:
    columns = (
        Column(title="round"), Column(title="choices", form="d"), Column(title="win rate", form=".1%", best="high"),
        Column(title="hidden utility", form=".2f"), Column(title="held out in order", form=".1%"),
        Column(title="distinct-2", form=".2f"), Column(title="base nats per token", form=".2f"),
        Column(title="in use"), Column(title="decision"),
    )  # fmt: skip
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (f"{t.round}{' (flipped)' if t.flipped else ''}", t.labels, t.win_rate, t.utility, t.held_accuracy, t.distinct,
         t.base_nats, t.version or "—", f"{t.decision}: {t.reason}" if t.reason else t.decision or "the bare model")
        for t in turns
    )  # fmt: skip
    return Table(title=f"Rounds, {arm}", columns=columns, rows=rows)
