"""factorlm generate: continue a prompt with a product of factors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factorlm.cli import faders

if TYPE_CHECKING:
    from torch import Tensor

    from factorlm.algebra import Factor
    from factorlm.factors.doses import Choice
    from factorlm.inference import Model, Particles, PromptLookup, Response, Sampling
    from factorlm.inference.population import Population

SAMPLERS = ("local", "smc", "importance", "metropolis")
TEXTS_SHOWN = 5
OVERSHOOT = 1.3  # times what factors move the base one by one: worth a warning


def generate(
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads it from standard input.")],
    factor: Annotated[list[str], typer.Option("--factor", help=faders.HELP)] = [],  # noqa: B006
    target: Annotated[
        list[str],
        typer.Option("--target", help="NAME=RATE: the least strength at which so many texts have it, such as 0.9."),
    ] = [],  # noqa: B006
    budget: Annotated[
        float | None,
        typer.Option("--budget", help="Most nats per token that all factors together may move the base."),
    ] = None,
    decorrelate: Annotated[
        bool, typer.Option("--decorrelate", help="Refit exponents so that factors that push alike count once.")
    ] = False,
    json_schema: Annotated[
        Path | None, typer.Option("--json-schema", help="File with a JSON schema that each text must fit.")
    ] = None,
    regex: Annotated[str | None, typer.Option("--regex", help="Regular expression that each text must match.")] = None,
    grammar: Annotated[
        Path | None, typer.Option("--grammar", help="File with a grammar (Lark, or EBNF with ::=) of the texts.")
    ] = None,
    choice: Annotated[list[str], typer.Option("--choice", help="A text to choose; give several.")] = [],  # noqa: B006
    n: Annotated[int, typer.Option("--n", min=1, help="Number of texts.")] = 1,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=0, help="Most tokens of a text.")] = 64,
    seed: Annotated[int, typer.Option("--seed", help="Of all randomness.")] = 0,
    sampler: Annotated[
        str,
        typer.Option(
            "--sampler",
            help="local: normalised at each token; smc, importance or metropolis: over texts, with particles.",
        ),
    ] = "local",
    particles: Annotated[int, typer.Option("--particles", min=2, help="Texts that each text is drawn from.")] = 16,
    resampling: Annotated[
        str, typer.Option("--resampling", help="stratified, systematic, residual or multinomial.")
    ] = "stratified",
    ess: Annotated[
        float,
        typer.Option("--ess", min=0, max=1, help="Resample when this share of the particles is not effective."),
    ] = 0.5,
    limit: Annotated[
        str, typer.Option("--limit", help="With particles, at the last token: end forces an end, cut does not.")
    ] = "end",
    speculate: Annotated[
        bool,
        typer.Option("--speculate", help="Guess what repeats: the same text, sooner."),
    ] = False,
    temperature: Annotated[float, typer.Option("--temperature", help="0 takes the most probable token.")] = 1.0,
    top_k: Annotated[int, typer.Option("--top-k", help="Keep the k most probable tokens; 0 keeps all.")] = 0,
    top_p: Annotated[float, typer.Option("--top-p", help="Keep the most probable tokens up to this mass.")] = 1.0,
    min_p: Annotated[float, typer.Option("--min-p", help="Keep tokens with this share of the largest.")] = 0.0,
    typical_p: Annotated[float, typer.Option("--typical-p", help="Locally typical sampling.")] = 1.0,
    epsilon: Annotated[float, typer.Option("--epsilon", help="Keep tokens of at least this probability.")] = 0.0,
    eta: Annotated[
        float, typer.Option("--eta", help="Eta sampling: a floor that falls where the model is unsure; 0.002 is usual.")
    ] = 0.0,
    repetition_penalty: Annotated[
        float, typer.Option("--repetition-penalty", help="Above 1 makes repeating less likely.")
    ] = 1.0,
    dry: Annotated[
        float, typer.Option("--dry", help="Nats lost by tokens that make runs of three repeat, and more for longer.")
    ] = 0.0,
    stop: Annotated[list[str], typer.Option("--stop", help="A string to end at; may be given several times.")] = [],  # noqa: B006
    model: Annotated[
        str,
        typer.Option("--model", help="Base: a name, folder or hub name, or an expression such as 'smollm2 / toxic'."),
    ] = "smollm2",
    dtype: Annotated[str, typer.Option("--dtype", help="Number format: auto, float32 or bfloat16.")] = "auto",
    chat: Annotated[bool, typer.Option("--chat", help="Answer the prompt as a message.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show what each factor did to each token.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Write the explanation to an HTML file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Continue a prompt with a product of factors.

    Example: factorlm generate "The food was" --factor positive=0.4 --factor toxic=-0.3 --max-tokens 40 --explain
    """
    from factorlm.cli.terminal import notes, print_json, progress, read_prompt, sampling_of, write_file
    from factorlm.errors import InputError, UnknownNameError
    from factorlm.factors.features import quiet
    from factorlm.inference import PromptLookup
    from factorlm.inference.expression import compose

    if sampler not in SAMPLERS:
        raise UnknownNameError.of("sampler", sampler, SAMPLERS)
    population = _particles(sampler, particles, resampling, ess, limit)
    if speculate and population is not None:
        raise InputError(f"--speculate is for the local sampler, got --sampler {sampler}; leave one out")
    draft = PromptLookup() if speculate else None
    choices = faders.chosen(faders.parse_targets(target))
    wanted = faders.parse(factor + [f"{name}={choice.strength!r}" for name, choice in choices.items()])
    sampling = sampling_of(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        typical_p=typical_p,
        epsilon_cutoff=epsilon,
        eta_cutoff=eta,
        repetition_penalty=repetition_penalty,
        dry_multiplier=dry,
        stop=tuple(stop),
    )
    prompt = read_prompt(prompt)
    plain = compose(model, dtype=dtype).model
    plain.encode_prompt(prompt, max_tokens, chat=chat)  # complain before anything slow
    language = _language(json_schema, regex, grammar, choice)
    composed = _fitted(faders.compose(plain, wanted), choices, budget, decorrelate)
    if language is not None:
        composed = composed * language
    with_explanation = explain or html is not None
    if n == 1 and not as_json and population is None:
        response = _stream(composed, prompt, max_tokens, seed, sampling, chat, explain, with_explanation, draft)
        responses = [response]
    else:
        with progress() as report:
            responses = composed.generate(
                prompt, n=n, max_tokens=max_tokens, seed=seed, sampling=sampling, chat=chat, explain=with_explanation,
                particles=population, draft=draft, report=report if population else quiet,
            )  # fmt: skip
        for number, response in enumerate(responses, 1):
            if as_json:
                print_json(as_object(composed, response, seed))
            else:
                _show(composed, response, number, explain)
    if language is not None and any(response.finish_reason == "length" for response in responses):
        notes.print("[yellow]cut at --max-tokens, before the end that its language needs; allow more tokens[/yellow]")
    if html is not None:
        from factorlm.inference.page import page

        explanations = [r.explanation for r in responses if r.explanation is not None]
        write_file(html, page("What each factor did", explanations))


def _language(schema: Path | None, regex: str | None, rules: Path | None, choices: list[str]) -> Factor | None:
    """The formal language that was asked for, if any."""
    from factorlm.factors import grammar
    from factorlm.factors.grammar import read_rules

    if schema is None and regex is None and rules is None and not choices:
        return None
    return grammar(
        json_schema=None if schema is None else read_rules(schema),
        regex=regex,
        rules=None if rules is None else read_rules(rules),
        choices=choices or None,
    )


def _particles(sampler: str, number: int, scheme: str, threshold: float, limit: str) -> Particles | None:
    """Settings of a sampler that works with particles; None for the local one."""
    from pydantic import ValidationError

    from factorlm.errors import UnknownNameError
    from factorlm.inference import Particles
    from factorlm.inference.resampling import SCHEMES
    from factorlm.settings import explain_validation

    if scheme not in SCHEMES:
        raise UnknownNameError.of("scheme of resampling", scheme, SCHEMES)
    if sampler == "local":
        return None
    try:
        return Particles.model_validate(
            {"method": sampler, "number": number, "scheme": scheme, "threshold": threshold, "limit": limit}
        )
    except ValidationError as error:
        raise explain_validation(error, "the particles") from None


def _fitted(model: Model, choices: dict[str, Choice], budget: float | None, decorrelate: bool) -> Model:
    """The composition after what was asked of it as a whole; what that did, and what it costs, goes to the notes."""
    from factorlm.algebra import Term, unflatten
    from factorlm.cli.terminal import notes
    from factorlm.errors import InputError
    from factorlm.factors.decorrelation import decorrelated
    from factorlm.factors.dependence import warnings_of
    from factorlm.inference.budget import divergence_of, within_budget
    from factorlm.inference.model import Model

    factors = [(term.factor, term.exponent) for term in model.terms[1:]]
    if decorrelate:
        if len(factors) < 2:
            raise InputError(f"two factors or more are needed to decorrelate, got {len(factors)}; add a --factor")
        refit = decorrelated(model.lm, [(f, float(exponent)) for f, exponent in factors])
        for name, before, after in zip(refit.names, refit.exponents_before, refit.exponents_after, strict=True):
            notes.print(f"[dim]{name}^{before:.3g} becomes {name}^{after:.3g}[/dim]")
        terms = [Term(f, after) for (f, _), after in zip(factors, refit.exponents_after, strict=True)]
        model = Model(unflatten([model.terms[0], *terms]), model.lm)
    else:
        for line in warnings_of(model.lm, factors):
            notes.print(f"[yellow]{line}[/yellow]", soft_wrap=True)
    for name, choice in choices.items():
        notes.print(
            f"[dim]{name}={choice.strength:g} for {choice.rate:.0%} (base {choice.base_rate:.0%}); alone it makes the "
            f"perplexity of texts ×{choice.perplexity_ratio:.2f}[/dim]",
            soft_wrap=True,
        )
    if budget is not None:
        found = within_budget(model, budget)
        model = found.model
        kept = "kept" if found.scale == 1 else f"kept by taking all exponents ×{found.scale:.2f}"
        notes.print(
            f"[dim]budget {budget:g} {kept}: {found.divergence:.3f} nats per token, {found.asked:.3f} asked for[/dim]",
            soft_wrap=True,
        )
    elif len(factors) > 1 and not decorrelate:
        alone, together = sum(map(_strength_alone, factors)), divergence_of(model)
        if together > OVERSHOOT * alone > 0:
            notes.print(
                f"[yellow]together the factors move the model by {together:.2f} nats per token, one by one by "
                f"{alone:.2f}: they push alike; --decorrelate refits the exponents, --budget caps the sum[/yellow]",
                soft_wrap=True,
            )
    return model


def _strength_alone(term: tuple[Factor, float | Tensor]) -> float:
    """What the factor would move the base by alone, in nats per token; 0 where that is not known without measuring."""
    from factorlm.inference.strengths import known_map

    strengths = known_map(term[0])
    return abs(strengths.strength(float(term[1]))) if strengths else 0.0


def as_object(model: Model, response: Response, seed: int) -> dict[str, Any]:
    """A response as JSON has it."""
    from factorlm.cli.terminal import factor_numbers

    found: dict[str, Any] = {
        "prompt": response.prompt,
        "text": response.text,
        "token_ids": list(response.token_ids),
        "log_prob": response.log_prob,
        "base_log_prob": response.base_log_prob,
        "finish_reason": response.finish_reason,
        "seed": seed,
        "factors": factor_numbers(model),
    }
    if response.population is not None:
        found["particles"] = response.population.as_json()
    if response.explanation is not None:
        found["attribution"] = response.explanation.as_json()
    return found


def _stream(
    model: Model,
    prompt: str,
    max_tokens: int,
    seed: int,
    sampling: Sampling,
    chat: bool,
    explain: bool,
    with_explanation: bool,
    draft: PromptLookup | None,
) -> Response:
    from factorlm.cli.terminal import console, notes, stream_coloured

    run = model.stream(prompt, max_tokens=max_tokens, seed=seed, sampling=sampling, chat=chat, draft=draft)
    if not chat:
        console.print(prompt, end="", style="dim", markup=False, highlight=False, soft_wrap=True)
    if explain and console.is_terminal:
        stream_coloured(model, run)
    else:
        for piece in run:
            console.file.write(piece.text)
            console.file.flush()
    console.print()
    if draft is not None:
        tally = run.tally
        notes.print(
            f"[dim]{tally.num_drawn} tokens in {tally.num_passes + 1} passes; {tally.num_right} of {tally.num_guessed} "
            "guesses right[/dim]"
        )
    response = run.responses(explain=with_explanation)[0]
    if explain:
        _explain(model, response)
    return response


def _show(model: Model, response: Response, number: int, explain: bool) -> None:
    from factorlm.cli.terminal import console

    console.print(f"[dim]{number}.[/dim] ", end="")
    console.print(response.prompt, end="", style="dim", markup=False, highlight=False, soft_wrap=True)
    text = response.explanation.coloured() if explain and response.explanation else response.text
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    if response.population is not None:
        _show_population(response.population, with_texts=explain)
    if explain:
        _explain(model, response)


def _show_population(population: Population, *, with_texts: bool) -> None:
    """What the particles say of themselves; their texts are shown with weights, as they are no independent samples."""
    from rich.table import Table
    from rich.text import Text

    from factorlm.cli.terminal import console

    effective = population.effective_sizes[-1] if population.effective_sizes else len(population.texts)
    moved = "" if population.acceptance is None else f", {population.acceptance:.0%} of moves accepted"
    console.print(
        f"[dim]drawn from {len(population.texts)} particles: {effective:.1f} effective, {population.num_ancestors} "
        f"first ancestors, resampled {len(population.resampled)} times{moved}; log Z {population.log_z:.2f} ± "
        f"{population.log_z_error:.2f} nats[/dim]",
        soft_wrap=True,
    )
    if with_texts:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("weight", justify="right")
        table.add_column("text of the particles, not independent", overflow="fold")
        for text, weight in list(population.distribution.items())[:TEXTS_SHOWN]:
            table.add_row(f"{weight:.2f}", Text(" ".join(text.split())))
        console.print(table)


def _explain(model: Model, response: Response) -> None:
    from factorlm.cli.terminal import console, factor_numbers

    if response.explanation is None:
        return
    console.print()
    if response.explanation.names:
        strengths = {name: numbers["strength"] for name, numbers in factor_numbers(model).items()}
        console.print(response.explanation.legend(strengths))
        console.print("[dim]tokens that the factors pushed most, in nats (base + pushes + normaliser = log prob)[/dim]")
        console.print(response.explanation.table())
    total = f"log probability {response.log_prob:.2f} nats composed, {response.base_log_prob:.2f} under the base"
    console.print(f"[dim]{total}, {len(response.token_ids)} tokens[/dim]")
