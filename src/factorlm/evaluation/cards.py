"""A factor's card as a report: pictures of dose and response, evidence, tokens, data."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from factorlm.evaluation.document import Cell, Column, Curve, ModelCard, Provenance, Report, Section, Series, Table
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.provenance import versions
from factorlm.factors.doses import is_monotone
from factorlm.factors.manifest import Manifest, Response

WIDTH = 1.96  # standard errors to either side of a 95 % interval
Push = tuple[str, float]  # a token and its nats at exponent one


def card(manifest: Manifest, pushed: Sequence[Push] = (), pulled: Sequence[Push] = ()) -> Report:
    """The card of a factor.

    Args:
        manifest: of the factor.
        pushed: the tokens that it pushes most, with nats at exponent one.
        pulled: those that it pulls down most.
    """
    sections = []
    if manifest.response:
        sections.append(_doses(manifest.name, manifest.response))
    sections.append(_evidence(manifest))
    if pushed or pulled:
        sections.append(_tokens(pushed, pulled))
    if manifest.data.train:
        sections.append(_data(manifest))
    encoder = manifest.encoder
    parts = ({"name": encoder.name, "kind": "model", "fingerprint": encoder.fingerprint},) if encoder else ()
    return Report(
        suite="card",
        title=f"{manifest.name} {manifest.version}",
        headlines=tuple(headlines(manifest)),
        cautions=tuple(cautions(manifest)),
        models=(ModelCard(name=encoder.name, expression=encoder.name, parts=parts),) if encoder else (),
        sections=tuple(sections),
        measures={},
        provenance=Provenance(
            command=manifest.data.recipe or f"factorlm factor show {manifest.name}",
            settings=manifest.settings.model_dump(mode="json") if manifest.kind == "head" else {"kind": manifest.kind},
            seed=0,
            data={s.name: s.fingerprint for s in manifest.data.train if s.fingerprint},
            versions=versions(),
            machine="any",
            seconds=0.0,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )


def headlines(manifest: Manifest) -> list[str]:
    """What the factor is and does, in a sentence each."""
    found = [line for line in (manifest.description, manifest.label and f"Learned from {manifest.label}.") if line]
    if response := manifest.response:
        by_strength = {d.strength: d for d in response.doses}
        base = by_strength[0.0]
        steps = [
            f"{d.rate:.0%} at {s:+g} (perplexity of the texts ×{d.perplexity_ratio:.2f})"
            for s, d in by_strength.items()
            if s in (0.2, 0.6)
        ]
        found.append(f"Judged {manifest.name}: {base.rate:.0%} of the base model's texts, {', '.join(steps)}.")
    return found


def cautions(manifest: Manifest) -> list[str]:
    """What the card's numbers cannot bear."""
    found = []
    if (calibration := manifest.calibration) and calibration.dev_auc < 0.8:
        found.append(f"Its evidence tells held-out texts apart with an AUC of only {calibration.dev_auc:.2f}.")
    if response := manifest.response:
        if not is_monotone(response):
            found.append("The rate does not rise with every strength by more than chance allows.")
        if response.accuracy < 0.8:
            found.append(f"The judge itself is right on only {response.accuracy:.0%} of texts held out from it.")
    return found


def _doses(name: str, response: Response) -> Section:
    strengths = tuple(d.strength for d in response.doses)
    rates = tuple(
        Estimate(
            value=d.rate,
            low=max(0.0, d.rate - WIDTH * d.rate_error),
            high=min(1.0, d.rate + WIDTH * d.rate_error),
            n=response.num_texts,
        )
        for d in response.doses
    )
    columns = (
        Column(title="strength", form="+.1f"),
        Column(title=f"judged {name}", form=".0%"),
        Column(title="perplexity, times the base's", form=".2f"),
        Column(title="different trigrams", form=".2f"),
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (d.strength, rate, d.perplexity_ratio, d.distinct) for d, rate in zip(response.doses, rates, strict=True)
    )
    return Section(
        title="Dose and response",
        lead=(
            f"The factor alone, {response.num_texts} continuations of neutral openings of {response.num_tokens} tokens "
            f"at each strength, top-p 0.9, without their openings. Judge: {response.judge}; it is right on "
            f"{response.accuracy:.0%} of texts held out from it (mean of both classes)."
        ),
        blocks=(
            Curve(
                title=f"Texts judged {name}",
                x_label="strength (nats per token)",
                y_label=f"texts judged {name}",
                series=(Series(name=name, x=strengths, y=rates),),
                is_percent=True,
                note="The band is the 95 % interval over openings.",
            ),
            Curve(
                title="What it costs",
                x_label="strength (nats per token)",
                y_label="perplexity under the base, times the base's own",
                series=(Series(name=name, x=strengths, y=tuple(d.perplexity_ratio for d in response.doses)),),
            ),
            Table(title="By strength", columns=columns, rows=rows),
        ),
    )


def _evidence(manifest: Manifest) -> Section:
    rows: list[tuple[Cell, ...]] = [("kind", manifest.kind), ("licence", manifest.licence)]
    if calibration := manifest.calibration:
        rows += [
            ("held-out AUC of the evidence", f"{calibration.dev_auc:.3f}"),
            ("held-out cross-entropy (nats; ln 2 = 0.693 knows nothing)", f"{calibration.dev_loss:.3f}"),
        ]
        if calibration.pair_accuracy is not None:
            rows.append(("held-out pairs ordered rightly", f"{calibration.pair_accuracy:.1%}"))
        rows += [(f"AUC on {name}", f"{auc:.3f}") for name, auc in calibration.test_auc.items()]
    if strengths := manifest.strengths:
        reach = [s for s in (-0.6, -0.2, 0.2, 0.6) if strengths.points[0][0] <= s <= strengths.points[-1][0]]
        rows += [(f"exponent at strength {s:+g}", f"{strengths.exponent(s):.2f}") for s in reach]
    rows += [(what, f"{value:.3g}") for what, value in manifest.effect.items()]
    rows += [(f"edited after {change.version}", change.what) for change in manifest.changes]
    if manifest.origin:
        rows.append(("origin", manifest.origin))
    return Section(
        title="Evidence",
        lead="The evidence of a text is log p₊(x) / p₋(x): what the factor and its inverse make of it.",
        blocks=(Table(title="Numbers", columns=(Column(title="what"), Column(title="found")), rows=tuple(rows)),),
    )


def _tokens(pushed: Sequence[Push], pulled: Sequence[Push]) -> Section:
    columns = (Column(title="token"), Column(title="nats at exponent 1", form="+.2f"))
    return Section(
        title="Tokens",
        lead="What it pushes and pulls most, among tokens that the model would write after neutral openings.",
        blocks=tuple(
            Table(title=title, columns=columns, rows=tuple(tokens))
            for title, tokens in (("Pushed", pushed), ("Pulled", pulled))
            if tokens
        ),
    )


def _data(manifest: Manifest) -> Section:
    columns = (Column(title="set"), Column(title="licence"), Column(title="credit"))
    rows: tuple[tuple[Cell, ...], ...] = tuple((s.name, s.licence, s.credit) for s in manifest.data.train)
    texts = manifest.data.train[0].num_texts
    own = f", and from {manifest.data.own_texts} that the encoder wrote" if manifest.data.own_texts else ""
    return Section(
        title="Data",
        lead=f"It learned from {texts} texts of the sets below{own}:",
        blocks=(Table(title="Training texts", columns=columns, rows=rows),),
    )
