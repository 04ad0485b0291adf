"""factorlm generate: continue a prompt with a product of factors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factorlm.cli import faders, guiding, remembering, rewarding
from factorlm.cli import generate_options as options

if TYPE_CHECKING:
    from torch import Tensor

    from factorlm.algebra import Factor
    from factorlm.factors.doses import Choice
    from factorlm.inference import Model, ModelDraft, Response, Sampling
    from factorlm.inference.drafts import Draft

SAMPLERS = ("local", "smc", "importance", "metropolis", rewarding.BEST_OF_N)
DRAFTS = ("lookup", "base")
UNSURE = (
    "tokens before which components disagreed most, in nats (within: given the model; between: which model), and "
    "weights by then"
)
OVERSHOOT = 1.3  # times what factors move the base one by one: worth a warning


def generate(
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads it from standard input.")],
    factor: options.Factor = [],  # noqa: B006
    target: options.Target = [],  # noqa: B006
    budget: options.Budget = None,
    decorrelate: options.Decorrelate = False,
    memory: options.Memory = [],  # noqa: B006
    memory_mode: options.MemoryMode = "interpolate",
    guide: options.Guide = [],  # noqa: B006
    meanings: options.Meanings = None,
    decoder: options.Decoder = "",
    emphasis: options.Emphasis = 1.0,
    meaning_steps: options.MeaningSteps = 20,
    meaning_particles: options.MeaningParticles = 0,
    json_schema: options.JsonSchema = None,
    regex: options.Regex = None,
    grammar: options.Grammar = None,
    choice: options.Choice = [],  # noqa: B006
    n: Annotated[int, typer.Option("--n", min=1, help="Number of texts.")] = 1,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=0, help="Most tokens of a text.")] = 64,
    seed: Annotated[int, typer.Option("--seed", help="Of all randomness.")] = 0,
    sampler: options.Sampler = "local",
    reward: options.Reward = [],  # noqa: B006
    beta: options.Beta = 0.5,
    particles: options.Particles = 16,
    resampling: options.Resampling = "stratified",
    ess: options.Ess = 0.5,
    limit: options.Limit = "end",
    twist: options.Twist = [],  # noqa: B006
    speculate: options.Speculate = False,
    draft: options.Draft = "lookup",
    temperature: options.Temperature = 1.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    min_p: options.MinP = 0.0,
    typical_p: options.TypicalP = 1.0,
    epsilon: options.Epsilon = 0.0,
    eta: options.Eta = 0.0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    dry: options.Dry = 0.0,
    stop: options.Stop = [],  # noqa: B006
    model: options.Model = "smollm2",
    dtype: Annotated[str, typer.Option("--dtype", help="Number format: auto, float32 or bfloat16.")] = "auto",
    chat: Annotated[bool, typer.Option("--chat", help="Answer the prompt as a message.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show what each factor did to each token.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Write the explanation to an HTML file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Continue a prompt with a product of factors.

    Example: factorlm generate "The food was" --factor positive=0.4 --factor toxic=-0.3 --max-tokens 40 --explain
    """
    from factorlm.cli.drawing import language_of, particles_of
    from factorlm.cli.terminal import notes, print_json, progress, read_prompt, sampling_of, write_file
    from factorlm.errors import InputError, UnknownNameError
    from factorlm.inference.expression import compose
    from factorlm.models.progress import quiet

    if sampler not in SAMPLERS:
        raise UnknownNameError.of("sampler", sampler, SAMPLERS)
    rewarding.check(reward, beta, sampler)
    is_best = sampler == rewarding.BEST_OF_N
    population = particles_of("local" if is_best else sampler, particles, resampling, ess, limit)
    if draft not in DRAFTS:
        raise UnknownNameError.of("draft", draft, DRAFTS)
    memories, passages = remembering.split(remembering.parse(memory, memory_mode), memory_mode) if memory else ([], [])
    drafting = memories if memory_mode == "draft" else []
    if drafting and draft != "lookup":
        raise InputError("--memory-mode draft and --draft base both guess ahead; leave one out")
    if draft != "lookup" and not speculate:
        raise InputError(f"--draft {draft} is for --speculate, which was not given; add it")
    if (speculate or drafting) and sampler != "local":
        raise InputError(f"--speculate is for the local sampler, got --sampler {sampler}; leave one out")
    is_guided = guiding.is_wanted(guide, meanings)
    if is_guided and (chat or sampler != "local" or draft == "base"):
        raise InputError(
            "--guide continues a text with the local sampler; leave out --chat, --sampler and --draft base"
        )
    if twist and population is None:
        raise InputError(f"--twist leads particles, got --sampler {sampler}; take --sampler smc")
    choices = faders.chosen(faders.parse_targets(target))
    leading = faders.parse(twist)
    wish = guiding.Wish(guiding.parse(guide), meanings, decoder, emphasis, meaning_steps, meaning_particles)
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
    language = language_of(json_schema, regex, grammar, choice)
    composed = _fitted(faders.compose(plain, wanted), choices, budget, decorrelate)
    composed = remembering.mixed(composed, memories if memory_mode == "interpolate" else [])
    composed = remembering.multiplied(composed, memories if memory_mode == "multiply" else [])
    composed = remembering.with_passages(composed, passages, prompt, notes)
    if language is not None:
        composed = composed * language
    rewards = rewarding.rewards_of(reward, composed)
    if rewards is not None and population is not None:
        for rewarded in rewards.factors(beta):
            composed = composed * rewarded
    with_explanation = explain or html is not None
    prior = guiding.prior_of(composed, wish) if is_guided else None
    if prior is not None:
        composed, proposal = prior.planned(prompt, n=n, seed=seed, apart=with_explanation)
    guesses = remembering.draft(composed, drafting) or (_guesses(composed, draft) if speculate else None)
    if n == 1 and not as_json and sampler == "local":
        response = _stream(composed, prompt, max_tokens, seed, sampling, chat, explain, with_explanation, guesses)
        responses = [response] if prior is None else prior.with_plans([response], proposal)
        if explain and responses[0].plan is not None:
            guiding.show_plan(responses[0].plan)
    else:
        if rewards is not None and is_best:
            responses = rewarding.best(
                composed, prompt, rewards, of=particles, n=n, max_tokens=max_tokens, seed=seed, sampling=sampling,
                chat=chat, explain=with_explanation,
            )  # fmt: skip
        else:
            with progress() as report:
                responses = composed.generate(
                    prompt, n=n, max_tokens=max_tokens, seed=seed, sampling=sampling, chat=chat,
                    explain=with_explanation, particles=population, draft=guesses, twist=_product(plain, leading),
                    report=report if population else quiet,
                )  # fmt: skip
        responses = responses if prior is None else prior.with_plans(responses, proposal)
        for number, response in enumerate(responses, 1):
            if as_json:
                found = as_object(composed, response, seed)
                if rewards is not None:
                    [found["reward"]] = rewards([response.prompt_ids], [response.token_ids])
                print_json(found)
            else:
                _show(composed, response, number, explain)
    if language is not None and any(response.finish_reason == "length" for response in responses):
        notes.print("[yellow]cut at --max-tokens, before the end that its language needs; allow more tokens[/yellow]")
    if html is not None:
        from factorlm.inference.page import page

        told = [r for r in responses if r.explanation is not None]
        explanations = [r.explanation for r in told if r.explanation is not None]
        plans, recalled = [r.plan for r in told], [r.recalled for r in told]
        write_file(html, page("What each factor did", explanations, plans, recalled))


def _product(model: Model, wanted: list[faders.Fader]) -> Factor | None:
    """The factors alone; None if there are none."""
    from factorlm.algebra import unflatten

    return unflatten(faders.compose(model, wanted).terms[1:]) if wanted else None


def _guesses(model: Model, draft: str) -> Draft | ModelDraft:
    from factorlm.inference.drafts import ModelDraft, PromptLookup, cheap_part

    return PromptLookup() if draft == "lookup" else ModelDraft(cheap_part(model.factor))


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
    if response.doubt is not None:
        found["uncertainty"] = response.doubt.as_json()
    if response.plan is not None:
        found["plan"] = response.plan.as_json()
    if response.recalled:
        found["recalled"] = {recalled.name: recalled.as_json() for recalled in response.recalled}
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
    draft: Draft | ModelDraft | None,
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
        from factorlm.cli.drawing import show_population

        show_population(response.population, with_texts=explain)
    if explain:
        _explain(model, response)
        if response.plan is not None:
            guiding.show_plan(response.plan)


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
    if response.doubt is not None:
        console.print(f"[dim]{UNSURE}[/dim]", soft_wrap=True)
        console.print(response.doubt.table())
    remembering.show_recalled(response)
    total = f"log probability {response.log_prob:.2f} nats composed, {response.base_log_prob:.2f} under the base"
    console.print(f"[dim]{total}, {len(response.token_ids)} tokens[/dim]")
