"""The main job in one go: a prompt continued plainly and under two mixes of factors, coloured, and scored crosswise.

python examples/demo.py [PROMPT] [--seed S] [--max-tokens M] [--html FILE]
"""

import argparse
from pathlib import Path

from rich.table import Table

import factorlm as fl
from factorlm.cli.terminal import console, stream_coloured, write_file
from factorlm.errors import FactorlmError
from factorlm.inference import Response
from factorlm.inference.page import page

SAMPLING = fl.Sampling(top_p=0.9)


def mixes() -> dict[str, fl.Model]:
    """The plain model and two compositions on it; nothing is retrained, and the encoder is shared."""
    plain = fl.load()
    kind = plain.steered(strengths={"positive": 0.5, "toxic": -0.3})
    no_bad_words = fl.lexicon(["bad", "terrible", "horrible", "awful", "worst"], ban=True, name="no-bad-words")
    critical = plain.steered(strengths={"positive": -0.5}) * no_bad_words
    return {"plain": plain, "kind": kind, "critical, politely": critical}


def formula(model: fl.Model) -> str:
    """The composition as people write it."""
    base, *terms = model.terms
    return " · ".join([base.name, *(f"{t.name}^{float(t.exponent):.2f}" for t in terms)])


def write(name: str, model: fl.Model, prompt: str, seed: int, max_tokens: int) -> Response:
    """Stream one continuation in the colours of its factors."""
    console.rule(f"[bold]{name}[/bold]  [dim]{formula(model)}[/dim]", align="left", style="dim")
    console.print(prompt, end="", style="dim", markup=False)
    run = model.stream(prompt, seed=seed, max_tokens=max_tokens, sampling=SAMPLING)
    stream_coloured(model, run)
    console.print()
    response = run.responses(explain=True)[0]
    if response.explanation and response.explanation.names:
        console.print(response.explanation.legend())
    console.print()
    return response


def compare(models: dict[str, fl.Model], responses: dict[str, Response]) -> None:
    """Log probability of every text under every model, and the evidence of each factor."""
    judge = fl.load() * fl.factor("positive") ** 0 * fl.factor("toxic") ** 0
    table = Table(title="log probability of each text under each model, in nats", title_justify="left", box=None)
    table.add_column("text written by", style="bold")
    for name in models:
        table.add_column(f"under {name}", justify="right")
    table.add_column("evidence positive", justify="right")
    table.add_column("evidence toxic", justify="right")
    for name, response in responses.items():
        if not response.token_ids:
            continue
        scores = {other: model.explain(response.prompt, response) for other, model in models.items()}
        evidence = judge.score(response.text, prompt=response.prompt)[0].log_ratios
        best = max(scores, key=lambda other: sum(scores[other].log_probs))
        cells = [
            f"{'[green]' if other == best else ''}{sum(score.log_probs):.1f}{'[/green]' if other == best else ''}"
            for other, score in scores.items()
        ]
        table.add_row(name, *cells, f"{evidence['positive']:+.2f}", f"{evidence['toxic']:+.2f}")
    console.print(table)


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", default="The food was")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--html", type=Path, default=Path("demo.html"))
    options = parser.parse_args()
    models = mixes()
    responses = {
        name: write(name, model, options.prompt, options.seed, options.max_tokens) for name, model in models.items()
    }
    compare(models, responses)
    explanations = [r.explanation for r in responses.values() if r.explanation is not None]
    write_file(options.html, page("factorlm demo: what each factor did", explanations))


if __name__ == "__main__":
    try:
        main()
    except FactorlmError as error:
        raise SystemExit(f"demo: {error}") from None
