"""factorlm search: texts that are best by some measure, rather than samples."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factorlm.cli import faders
from factorlm.cli.options import Json

if TYPE_CHECKING:
    from factorlm.inference import Model
    from factorlm.inference.search import Found, Vote
    from factorlm.inference.search.best import Reward
    from factorlm.inference.search.counting import Spent

METHODS = ("beam", "best", "contrastive", "tree", "vote")


def search(
    method: Annotated[
        str,
        typer.Argument(
            help="beam: most probable; contrastive: probable and unlike what was; best: of n samples by a judge; tree: "
            "by a judge at every token; vote: the answer that most of n samples give."
        ),
    ],
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads it from standard input.")],
    factor: Annotated[list[str], typer.Option("--factor", help=faders.HELP)] = [],  # noqa: B006
    judge: Annotated[str, typer.Option("--judge", help="Factor whose evidence best and tree want most of.")] = "",
    answer: Annotated[
        str, typer.Option("--answer", help="Regular expression of the answer that vote counts: its last match.")
    ] = r"-?\d+(?:\.\d+)?",
    n: Annotated[int, typer.Option("--n", min=1, help="Samples of best and vote.")] = 8,
    width: Annotated[int, typer.Option("--width", min=1, help="Of beam.")] = 4,
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="Tokens that contrastive compares.")] = 5,
    penalty: Annotated[
        float, typer.Option("--penalty", min=0, max=1, help="Of contrastive, for likeness to what was before.")
    ] = 0.6,
    simulations: Annotated[int, typer.Option("--simulations", min=1, help="Of tree, for each token.")] = 16,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Most tokens of a text.")] = 32,
    seed: Annotated[int, typer.Option("--seed", help="Of all randomness.")] = 0,
    model: Annotated[
        str, typer.Option("--model", help="Base: a name, folder, hub name, or an expression.")
    ] = "smollm2",
    dtype: Annotated[str, typer.Option("--dtype", help="Number format: auto, float32 or bfloat16.")] = "auto",
    as_json: Json = False,
) -> None:
    """Search for a text. What is found is no sample of the composition, and what it cost is told.

    Example: factorlm search tree "The food was" --judge positive --max-tokens 12
    """
    from factorlm.cli.terminal import console, notes, print_json, progress, read_prompt
    from factorlm.errors import InputError, UnknownNameError
    from factorlm.inference.expression import compose
    from factorlm.inference.search import (
        ContrastiveSearch,
        TreeSearch,
        Vote,
        beam_search,
        best_of,
        contrastive_search,
        tree_search,
        vote,
    )

    if method not in METHODS:
        raise UnknownNameError.of("method of search", method, METHODS)
    if (method in ("best", "tree")) != bool(judge):
        raise InputError(f"--judge is for best and tree, which need it, got {method} with --judge {judge!r}")
    wanted, pattern = faders.parse(factor), _compiled(answer)
    prompt = read_prompt(prompt)
    composed = faders.compose(compose(model, dtype=dtype).model, wanted)
    ids = composed.encode_prompt(prompt, max_tokens)
    reward = _evidence(composed, judge, prompt) if judge else None
    found: Found | Vote
    with progress() as report:
        if method == "beam":
            found = beam_search(composed.factor, ids, width=width, max_tokens=max_tokens)[0]
        elif method == "contrastive":
            how = ContrastiveSearch(candidates=candidates, penalty=penalty)
            found = contrastive_search(composed.factor, ids, how, max_tokens=max_tokens)
        elif method == "vote":
            found = vote(composed, prompt, lambda text: (pattern.findall(text) or [None])[-1], n=n,
                         max_tokens=max_tokens, seed=seed)  # fmt: skip
        elif method == "best":
            found = best_of(composed, prompt, reward, n=n, max_tokens=max_tokens, seed=seed)[0]  # type: ignore[arg-type]
        else:
            settings = TreeSearch(simulations=simulations)
            found = tree_search(composed.factor, ids, reward, settings, max_tokens=max_tokens, seed=seed, report=report)  # type: ignore[arg-type]
    if as_json:
        print_json({"method": method, "prompt": prompt, **_as_object(found)})
        return
    if isinstance(found, Vote):
        value = ""
        for text, share in found.shares.items():
            console.print(f"{share:6.0%}  {text}", markup=False, highlight=False)
        if found.answer is None:
            console.print(f"none of {n} texts has an answer that matches {answer}", markup=False, highlight=False)
    else:
        value = f"value {found.value:.3f}, log weight {found.log_weight:.2f} nats; "
        console.print(prompt, end="", style="dim", markup=False, highlight=False, soft_wrap=True)
        console.print(found.text, markup=False, highlight=False, soft_wrap=True)
    notes.print(f"[dim]{value}{_cost(found.spent)}[/dim]")


def _compiled(pattern: str) -> re.Pattern[str]:
    from factorlm.errors import InputError

    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"a regular expression is needed for --answer, got {pattern!r}: {error}") from None


def _evidence(model: Model, judge: str, prompt: str) -> Reward:
    """The probability of the attribute in a text, from the factor's evidence and even odds."""
    import torch

    from factorlm.inference.model import Model

    judging = Model(model.lm, model.lm).steered(exponents={judge: 0.0})

    def reward(texts: list[str]) -> list[float]:
        found = [next(iter(score.log_ratios.values())) for score in judging.score(texts, prompt=prompt)]
        return torch.tensor(found, dtype=torch.float64).sigmoid().tolist()

    return reward


def _as_object(found: object) -> dict[str, Any]:
    return {key: vars(value) if key == "spent" else value for key, value in vars(found).items()}


def _cost(spent: Spent) -> str:
    judged = f", {spent.num_rewards} texts judged" if spent.num_rewards else ""
    return f"{spent.num_tokens} tokens read in {spent.num_passes} passes{judged}"
