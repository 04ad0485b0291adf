"""Pictures, tables and findings of steering a prior by its components."""

# Axes: B texts, J judges, K components.

from __future__ import annotations

from factorlm.evaluation.document import (
    Block,
    Cell,
    Column,
    Curve,
    Matrix,
    Scatter,
    Section,
    Series,
    Table,
)
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.priors.steered import Steered, equal_rates
from factorlm.evaluation.priors.tilting import COMPONENTS, Written

SHOWN = 3  # texts of a setting that are shown


def components_section(found: Steered) -> Section:
    """Rewards of the components and the weights they lead to."""
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (card.name, float(found.weight_K[k]), *(found.reward_of(k, j) for j in range(len(found.judges))),
         " / ".join(card.portrait.own_words) if card.portrait else "")
        for k, card in enumerate(found.prior.manifest.components)
    )  # fmt: skip
    columns = (
        Column(title="component"),
        Column(title="weight", form=".2f"),
        *(Column(title=f"{found.label} ({judge.name})", form=".2f") for judge in found.judges),
        Column(title="writes"),
    )
    weights = Matrix(
        title="Weights by temperature",
        row_label="temperature",
        column_label="component",
        rows=("untilted", *(f"{tilt.temperature:g}" for tilt in found.tilts)),
        columns=found.prior.names,
        values=tuple(tuple(map(float, w)) for w in (found.weight_K, *(tilt.weight_K for tilt in found.tilts))),
        note="Weights are those learned times exp(reward / temperature). None becomes zero.",
    )
    lead = (
        f"A prior was learned from unlabelled texts, and {found.judges[0].name} read texts of each component: the mean "
        f"probability of “{found.label}” is the component's reward. Tilting multiplies weights of components, and "
        "changes none of them."
    )
    table = Table(title="Components and their rewards", columns=columns, rows=rows)
    return Section(title="Rewards of components", lead=lead, blocks=(table, weights))


def tilts_section(found: Steered) -> Section:
    """What tilted weights promise, and what texts keep of it."""
    line = found.lines[COMPONENTS]
    divergences = (0.0, *(tilt.divergence for tilt in found.tilts))
    predicted = (found.predicted, *(tilt.predicted for tilt in found.tilts))
    picture = Curve(
        title=f"{found.label.capitalize()} against how far weights moved",
        x_label="KL of the tilted from the learned weights (nats)",
        y_label=f"mean probability of “{found.label}”",
        series=(
            Series(name="predicted", x=divergences, y=predicted, is_reference=True),
            *(
                Series(name=f"texts, by {judge.name}{' (gave the rewards)' if j == 0 else ''}", x=divergences,
                       y=tuple(written.mean(j) for written in line))
                for j, judge in enumerate(found.judges)
            ),
        ),
        is_percent=True,
        note="Texts are written anew at each temperature, each by a component drawn from the tilted weights.",
    )  # fmt: skip
    by_temperature = Curve(
        title="The same against the inverse temperature",
        x_label="1 / temperature",
        y_label=f"mean probability of “{found.label}”",
        series=tuple(
            s.model_copy(update={"x": (0.0, *(1 / tilt.temperature for tilt in found.tilts))}) for s in picture.series
        ),
        is_percent=True,
    )
    rows: list[tuple[Cell, ...]] = []
    for written, divergence, promise in zip(line, divergences, predicted, strict=True):
        tilt = next((t for t in found.tilts if t.written is written), None)
        weight_K = found.weight_K if tilt is None else tilt.weight_K
        alive = int((weight_K > 0).sum())
        rows.append(
            (written.name, divergence, alive, promise, *(written.mean(j) for j in range(len(found.judges))),
             found.rate(written), found.beyond_own(written, weight_K), *written.variety)
        )  # fmt: skip
    columns = (
        Column(title="weights"),
        Column(title="KL (nats)", form=".3f"),
        Column(title="components", form="d"),
        Column(title="predicted", form=".3f"),
        *(Column(title=f"texts, by {judge.name}", form=".3f") for judge in found.judges),
        Column(title=f"rate, by {found.judges[-1].name}", form=".0%"),
        Column(title="nats/token beyond the untilted component", form="+.3f"),
        Column(title="distinct-2", form=".2f"),
        Column(title="self-BLEU", form=".1f"),
    )
    note = (
        "A text of a component has the same law whatever the weights, so nats per token beyond those of untilted "
        "texts of the same components are zero but for chance."
    )
    lead = (
        "At each temperature the tilted weights promise a mean reward; texts are then written by components drawn from "
        "them, and judged by the judge that gave the rewards and by one that did not."
    )
    table = Table(title="Tilted components", columns=columns, rows=tuple(rows), note=note)
    return Section(title="Tilting components", lead=lead, blocks=(picture, by_temperature, table))


def against_section(found: Steered) -> Section:
    """Tilted components beside tilted tokens."""
    who = found.judges[-1].name

    def plane(title: str, x_label: str, of: str, note: str = "") -> Scatter:
        return Scatter(
            title=title,
            x_label=x_label,
            y_label=f"texts judged {found.label}, by {who}",
            series=tuple(
                Series(name=way, x=tuple(_position(found, w, of) for w in line), y=tuple(map(found.rate, line)),
                       labels=tuple("" if w.dial is None else f"{w.dial:g}" for w in line))
                for way, line in found.lines.items()
            ),
            y_is_percent=True,
            best="upper left",
            note=note,
        )  # fmt: skip

    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (w.name, *(found.rate(w, j) for j in range(len(found.judges))), w.per_token(w.bare_B2),
         w.per_token(w.nearest_B2), found.moved(w), *w.variety)
        for w in found.everything
    )  # fmt: skip
    columns = (
        Column(title="what is tilted"),
        *(Column(title=f"rate, by {judge.name}", form=".0%") for judge in found.judges),
        Column(title="nats/token, bare model", form=".2f"),
        Column(title="nats/token, nearest component", form=".2f"),
        Column(title="nats/text from its start", form=".2f"),
        Column(title="distinct-2", form=".2f"),
        Column(title="self-BLEU", form=".1f"),
    )
    pairs = equal_rates(found)
    equal: tuple[tuple[Cell, ...], ...] = tuple(
        (p.theirs.name, p.ours.name, found.rate(p.theirs), found.rate(p.ours), p.bare, p.nearest) for p in pairs
    )
    equal_columns = (
        Column(title="tilted tokens"),
        Column(title="tilted components"),
        Column(title="rate of the tokens", form=".0%"),
        Column(title="rate of the components", form=".0%"),
        Column(title="nats/token more, bare model", form="+.2f"),
        Column(title="nats/token more, nearest component", form="+.2f"),
    )
    blocks: tuple[Block, ...] = (
        plane("Attribute against likelihood under the nearest component",
              "nats per token under the nearest component", "nearest",
              "To the left, texts look like texts of one of the components."),
        plane("Attribute against likelihood under the bare model", "nats per token under the bare model", "bare"),
        plane("Attribute against how far texts moved", "nats per text from where each way begins", "moved",
              "Of components: KL of the weights. Of tokens: mean log ratio of the text as written and without the "
              "factor, by the component that wrote it."),
        Table(title="Every setting", columns=columns, rows=rows,
              note="Numbers are temperatures of components and strengths of the factor (nats per token)."),
        Table(title="At the nearest rates", columns=equal_columns, rows=equal,
              note="For each way of tilting tokens, the pair of settings beyond the start with the nearest rates; nats "
              "of tilted tokens minus those of tilted components, over independent texts."),
    )  # fmt: skip
    lead = (
        "The same attribute is asked for at each token, with a factor of the store on the prior's components (drawn as "
        "learned), on their blend, or on the bare model. What is compared is the rate by the judge that measures "
        "against nats per token: under the bare model, and under the component that gives the text most."
    )
    return Section(title="Components against tokens", lead=lead, blocks=blocks)


def examples_section(found: Steered) -> Section:
    """A few texts: untilted, and at the strongest setting of each way."""
    chosen = [found.untilted, *(line[-1] for line in found.lines.values())]
    table = Table(
        title="The first texts of the strongest settings",
        columns=(Column(title="what is tilted"), Column(title="text")),
        rows=tuple((w.name, text) for w in chosen for text in w.texts[:SHOWN]),
    )
    return Section(title="Texts", blocks=(table,))


def headlines(found: Steered) -> list[str]:
    """The findings in a sentence each."""
    strongest, last = found.tilts[-1], found.last
    before, after = (
        [_two(written.mean(j)) for j in range(len(found.judges))] for written in (found.untilted, strongest.written)
    )
    gain = found.gain(strongest.written, last)
    if gain.low is None or gain.high is None or gain.low <= 0 <= gain.high:
        verdict = "no move shown"
    else:
        verdict = f"{'more' if gain.low > 0 else 'less'} by {gain}"
    said = f"{after[0]} instead of {before[0]} by the judge that gave the rewards"
    if last:
        said += f", {after[last]} instead of {before[last]} by {found.judges[last].name}, which did not"
    spread = max(found.rewards) - min(found.rewards)
    lines = [
        f"Weights tilted by exp(reward / {strongest.temperature:g}) promise a mean probability of “{found.label}” of "
        f"{strongest.predicted:.2f} instead of {found.predicted:.2f}; fresh texts have {said} ({verdict}). All "
        f"{strongest.num_alive} components keep weight; rewards differ by {spread:.2f}, and no tilt goes beyond the "
        "best component."
    ]
    for pair in equal_rates(found):
        gap = pair.nearest
        if gap.low is None or gap.high is None or gap.low <= 0 <= gap.high:
            verdict = "lie visibly neither further from nor nearer to the components than"
        else:
            verdict = "lie further from every component than" if gap.low > 0 else "lie nearer to a component than"
        lines.append(
            f"At {_percent(found.rate(pair.theirs))} {found.label} texts, tilted {pair.theirs.way} {verdict} tilted "
            f"components at {_percent(found.rate(pair.ours))} ({gap} nats a token under the nearest); under the bare "
            f"model they cost {pair.bare} more."
        )
    return lines


def _position(found: Steered, written: Written, of: str) -> Estimate:
    if of == "moved":
        return found.moved(written)
    return written.per_token(written.nearest_B2 if of == "nearest" else written.bare_B2)


def _two(found: Estimate) -> str:
    if found.value is None:
        return "not measured"
    if found.low is None or found.high is None:
        return f"{found.value:.2f}"
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def _percent(found: Estimate) -> str:
    return "not measured" if found.value is None else f"{found.value:.0%}"
