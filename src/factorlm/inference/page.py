"""An explanation as one HTML file that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from factorlm.inference.explanation import Explanation
    from factorlm.inference.memories import Recalled
    from factorlm.inference.plans import Plan

LEAST_SHADE = 0.02  # of the probability of a token, from a memory, that is shaded
WIDE, HIGH = 460, 150  # of the picture of a plan, in pixels

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 52rem; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.35rem; margin-bottom: .2rem; } h2 { font-size: 1.05rem; margin-top: 2.2rem; }
.note { opacity: .75; font-size: .88rem; }
.text { font: 17px/2 ui-serif, Georgia, serif; border: 1px solid var(--line); border-radius: 8px;
        padding: .9rem 1.1rem; }
.prompt { opacity: .6; } .t { border-radius: 3px; padding: .12em 0; cursor: help; }
.against { text-decoration: underline dotted; text-underline-offset: .2em; }
.key { display: inline-block; margin-right: 1.2rem; white-space: nowrap; }
.key i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em; }
.steps { max-width: 32rem; width: 100%; font-size: 11px; fill: currentColor; } .steps text { opacity: .7; }
.near td { text-align: left; white-space: normal; } h3 { font-size: .95rem; margin-bottom: .3rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .86rem; width: 100%; }
th, td { text-align: right; padding: .18rem .55rem; border-bottom: 1px solid var(--soft);
         font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; font-family: ui-monospace, monospace; white-space: pre; }
"""


def page(
    title: str,
    explanations: Sequence[Explanation],
    plans: Sequence[Plan | None] = (),
    recalled: Sequence[Sequence[Recalled]] = (),
) -> str:
    """All explanations, one section each, with the plan of each text and what memories recalled."""
    planned = [*plans, *[None] * (len(explanations) - len(plans))]
    known = [*recalled, *[()] * (len(explanations) - len(recalled))]
    sections = "".join(
        _section(number, e) + (_plan(plan) if plan else "") + "".join(map(_recalled, memories))
        for number, (e, plan, memories) in enumerate(zip(explanations, planned, known, strict=True), 1)
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>{html.escape(title)}</h1>"
        '<p class="note">Each token has the colour of the factor that pushed it most, the stronger the fuller; dotted '
        "underlines mark tokens that stood against their factor. Numbers are nats: base + pushes − normaliser = log "
        f"probability.</p>{sections}</body></html>\n"
    )


def _section(number: int, e: Explanation) -> str:
    from factorlm.inference.explanation import COLOURS, FULL, escape, shown

    pieces = [f'<span class="prompt">{escape(e.prompt)}</span>']
    for i, token in enumerate(e.tokens):
        k = e.strongest(i)
        pushes = ", ".join(f"{name} {c:+.2f}" for name, c in zip(e.names, e.contributions[i], strict=True))
        tip = html.escape(
            f"base {e.base_log_probs[i]:.2f}; {pushes}; normaliser {-e.normalizers[i]:+.2f}; "
            f"log prob {e.log_probs[i]:.2f}"
        )
        style, kind = "", "t"
        if k is not None:
            share = min(abs(e.contributions[i][k]) / FULL, 1.0)
            style = f' style="background:{COLOURS[k % len(COLOURS)]}{int(40 + 150 * share):02x}"'
            kind = "t against" if e.contributions[i][k] < 0 else "t"
        pieces.append(f'<span class="{kind}"{style} title="{tip}">{escape(token)}</span>')
    totals = e.totals()
    keys = "".join(
        f'<span class="key"><i style="background:{COLOURS[k % len(COLOURS)]}"></i>{html.escape(name)}'
        f"<sup>{exponent:.3g}</sup> {totals[name]:+.1f} nats</span>"
        for k, (name, exponent) in enumerate(zip(e.names, e.exponents, strict=True))
    )
    head = "".join(f"<th>{html.escape(h)}</th>" for h in ("token", "base", *e.names, "normaliser", "log prob"))
    rows = "".join(
        "<tr><td>"
        + "</td><td>".join(
            [
                html.escape(shown(token)),
                f"{e.base_log_probs[i]:.2f}",
                *(f"{c:+.2f}" for c in e.contributions[i]),
                f"{-e.normalizers[i]:+.2f}",
                f"{e.log_probs[i]:.2f}",
            ]
        )
        + "</td></tr>"
        for i, token in enumerate(e.tokens)
    )
    formula = " · ".join(f"{n}^{a:.3g}" for n, a in zip(e.names, e.exponents, strict=True)) or "the base alone"
    summary = f"log probability {sum(e.log_probs):.1f} nats composed, {sum(e.base_log_probs):.1f} under the base"
    return (
        f"<h2>{number}. {html.escape(formula)}</h2><p>{keys}</p><p class='text'>{''.join(pieces)}</p>"
        f'<p class="note">{summary}</p><details><summary>All tokens</summary><div class="wide"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _plan(plan: Plan) -> str:
    """Guide probabilities over the steps, and the real sentences that the plan is like."""
    from factorlm.inference.explanation import COLOURS

    rows = "".join(f"<tr><td>{cosine:.2f}</td><td>{html.escape(text)}</td></tr>" for text, cosine in plan.nearest)
    keys = "".join(
        f'<span class="key"><i style="background:{COLOURS[k % len(COLOURS)]}"></i>{html.escape(name)}='
        f"{plan.strengths[k]:g}: plan {plan.planned[k]:.2f}"
        + (f", text {plan.written[k]:.2f}" if plan.written else "")
        + "</span>"
        for k, name in enumerate(plan.guides)
    )
    heeded = "" if plan.likeness is None else f" The text has a cosine of {plan.likeness:.2f} to the plan."
    nearest = f'<div class="wide"><table class="near"><tbody>{rows}</tbody></table></div>' if rows else ""
    drawn = '<p class="note">What each guide expects of the text, from noise to plan.</p>' if plan.probs else ""
    note = f'<p class="note">{"Real sentences nearest to the plan." if rows else ""}{heeded}</p>'
    return f"<h3>Plan</h3><p>{keys}</p>{drawn}{_steps(plan)}{note}{nearest}"


def _recalled(recalled: Recalled) -> str:
    """The text shaded by how probable a memory made each token, and where each may come from."""
    from factorlm.inference.explanation import COLOURS, escape, shown
    from factorlm.inference.memories import named_place

    pieces, rows = [], []
    for token, found, about in zip(recalled.tokens, recalled.recollections, recalled.as_json(), strict=True):
        spoken = found.weight * found.prob
        sources = about["sources"]
        place = named_place(found.sources[0]) if found.sources else ""
        tip = html.escape(f"weight {found.weight:.2f}, probability {found.prob:.2f}" + (f", {place}" if place else ""))
        style = f' style="background:{COLOURS[0]}{int(230 * spoken):02x}"' if spoken > LEAST_SHADE else ""
        pieces.append(f'<span class="t"{style} title="{tip}">{escape(token)}</span>')
        numbers = "</td><td>".join(f"{value:.3g}" for value in (found.weight, found.prob, *found.features.values()))
        match = html.escape(shown(sources[0]["match"])) if sources else ""
        rows.append(
            f"<tr><td>{html.escape(shown(token))}</td><td>{numbers}</td><td>{match}</td><td>{html.escape(place)}</td></tr>"
        )
    names = recalled.recollections[0].features if recalled.recollections else ()
    heads = "".join(f"<th>{html.escape(h)}</th>" for h in ("token", "weight", "prob", *names, "found as", "in"))
    return (
        f"<h3>Memory: {html.escape(recalled.name)}</h3><p class='text'>{''.join(pieces)}</p>"
        '<p class="note">The darker, the more of the probability of a token came from the memory.</p><details>'
        '<summary>Where tokens may come from</summary><div class="wide"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _steps(plan: Plan) -> str:
    from factorlm.inference.explanation import COLOURS

    if len(plan.probs) < 2 or not plan.guides:
        return ""
    last = len(plan.probs) - 1
    lines = "".join(
        f'<polyline fill="none" stroke="{COLOURS[k % len(COLOURS)]}" stroke-width="2" points="'
        + " ".join(f"{WIDE * i / last:.1f},{HIGH * (1 - step[k]):.1f}" for i, step in enumerate(plan.probs))
        + f'"><title>{html.escape(name)}</title></polyline>'
        for k, name in enumerate(plan.guides)
    )
    frame = f'<path d="M0 0V{HIGH}H{WIDE}" fill="none" stroke="currentColor" stroke-opacity=".4"/>'
    marks = "".join(
        f'<text x="-6" y="{HIGH * (1 - share) + 4:.0f}" text-anchor="end">{share:g}</text>' for share in (0, 0.5, 1)
    )
    ends = f'<text x="0" y="{HIGH + 16}">noise</text><text x="{WIDE}" y="{HIGH + 16}" text-anchor="end">plan</text>'
    return (
        f'<svg class="steps" viewBox="-34 -8 {WIDE + 44} {HIGH + 30}" role="img" '
        f'aria-label="What each guide expects of the text, by step">{frame}{marks}{ends}{lines}</svg>'
    )
