"""factorlm prior sample: answer a prompt several times, each time with one component."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factorlm.cli import faders
from factorlm.cli import generate_options as options
from factorlm.cli.generate import UNSURE

if TYPE_CHECKING:
    from factorlm.algebra import Factor
    from factorlm.inference import Response
    from factorlm.prior import Prior


def sample(
    prior: Annotated[Path, typer.Argument(help="Folder of a prior.")],
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads it from standard input.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Number of texts.")] = 4,
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            help="response: a component for each text; bayes: all of them, weighed by their posterior as the text "
            "grows (the same law); blend: all, with fixed weights at each token (another law).",
        ),
    ] = "response",
    repeat: Annotated[
        bool, typer.Option("--repeat", help="Draw components independently; else each comes once before any again.")
    ] = False,
    query_is_evidence: Annotated[
        bool,
        typer.Option(
            "--query-is-evidence", help="Weigh components by the prompt first, instead of taking it as given."
        ),
    ] = False,
    factor: options.Factor = [],  # noqa: B006
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=0, help="Most tokens of a text.")] = 40,
    seed: Annotated[int, typer.Option("--seed", help="Of all randomness.")] = 0,
    temperature: options.Temperature = 1.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    min_p: options.MinP = 0.0,
    stop: options.Stop = [],  # noqa: B006
    dtype: Annotated[str, typer.Option("--dtype", help="Number format: auto, float32 or bfloat16.")] = "auto",
    chat: Annotated[bool, typer.Option("--chat", help="Answer the prompt as a message.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what the prior did not know at each token, and what factors did.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Draw a component for each text, and let it write all of it; components come once each before any comes again.

    Example: factorlm prior sample world.prior "Tom and sports: " --n 4
    """
    from factorlm.cli.terminal import print_json, read_prompt, sampling_of
    from factorlm.inference import respond
    from factorlm.prior import Prior

    sampling = sampling_of(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, stop=tuple(stop))
    wanted = faders.parse(factor)
    text = read_prompt(prompt)
    found = Prior.load(prior, dtype=dtype)
    responses = respond(
        found, text, n=n, mode=mode, repeat=repeat, query_is_evidence=query_is_evidence,  # type: ignore[arg-type]
        factors=_product(found, wanted), max_tokens=max_tokens, seed=seed, sampling=sampling, chat=chat,
        explain=explain,
    )  # fmt: skip
    for number, response in enumerate(responses, 1):
        if as_json:
            print_json(_as_object(response, mode, seed))
        else:
            _show(response, number, mode)


def _product(prior: Prior, wanted: list[faders.Fader]) -> Factor | None:
    """The factors alone; None if there are none."""
    from factorlm.algebra import unflatten
    from factorlm.inference import Model

    return unflatten(faders.compose(Model(prior.lm, prior.lm), wanted).terms[1:]) if wanted else None


def _as_object(response: Response, mode: str, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "prompt": response.prompt,
        "text": response.text,
        "component": response.component,
        "mode": mode,
        "token_ids": list(response.token_ids),
        "log_prob": response.log_prob,
        "finish_reason": response.finish_reason,
        "seed": seed,
        "factors": response.exponents,
    }
    if response.doubt is not None:
        found["uncertainty"] = response.doubt.as_json()
    if response.explanation is not None and response.explanation.names:
        found["attribution"] = response.explanation.as_json()
    return found


def _show(response: Response, number: int, mode: str) -> None:
    from factorlm.cli.terminal import console

    title = response.component if response.component is not None else mode
    console.print(f"[dim]{number}.[/dim] [bold]{title}[/bold] ", end="")
    console.print(response.prompt, end="", style="dim", markup=False, highlight=False, soft_wrap=True)
    console.print(response.text, markup=False, highlight=False, soft_wrap=True)
    if response.explanation is not None and response.explanation.names:
        console.print(response.explanation.legend())
        console.print(response.explanation.table())
    if response.doubt is not None:
        console.print(f"[dim]{UNSURE}[/dim]", soft_wrap=True)
        console.print(response.doubt.table())
