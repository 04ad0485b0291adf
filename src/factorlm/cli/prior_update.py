"""factorlm prior posterior, filter and tilt: new weights, written as a new prior."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factorlm.cli.options import Json
from factorlm.cli.prior_fit import ReplacePrior

if TYPE_CHECKING:
    from factorlm.prior import Prior

PriorPlace = Annotated[Path, typer.Argument(help="Folder of a prior.")]
OutOrNothing = Annotated[
    Path | None, typer.Option("--out", help="Folder to write the new prior to; without, it is only shown.")
]
Evidence = Annotated[list[Path], typer.Option("--evidence", help="Texts that were observed, one a line.")]
Say = Annotated[list[str], typer.Option("--say", help="A text that was observed.")]
Prompt = Annotated[str, typer.Option("--prompt", help="Read before each text of the evidence, and taken as given.")]
Dtype = Annotated[str, typer.Option("--dtype", help="Number format: auto, float32 or bfloat16.")]


def posterior(
    prior: PriorPlace,
    evidence: Evidence = [],  # noqa: B006
    say: Say = [],  # noqa: B006
    beta: Annotated[
        float, typer.Option("--beta", help="How much evidence counts: 1 is Bayes' rule, less is more cautious.")
    ] = 1.0,
    prompt: Prompt = "",
    out: OutOrNothing = None,
    replace: ReplacePrior = False,
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Weigh components by how probable they make some texts: mu_k p_k(evidence)^beta.

    Example: factorlm prior posterior world.prior --say "Tom hates sports." --out after.prior
    """
    found, texts = _read(prior, evidence, say, out, replace, dtype)
    _finish(found, found.posterior(texts, beta=beta, prompt=prompt), out, replace, as_json)


def filter_(
    prior: PriorPlace,
    evidence: Evidence = [],  # noqa: B006
    say: Say = [],  # noqa: B006
    epsilon: Annotated[
        float,
        typer.Option("--epsilon", help="Drop what makes the evidence so many times less probable than the best does."),
    ] = 1e-3,
    prompt: Prompt = "",
    out: OutOrNothing = None,
    replace: ReplacePrior = False,
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Drop the components that some texts refute; the others keep their proportions.

    Example: factorlm prior filter world.prior --evidence facts.txt --epsilon 1e-3 --out after.prior
    """
    found, texts = _read(prior, evidence, say, out, replace, dtype)
    _finish(found, found.filter(texts, epsilon=epsilon, prompt=prompt), out, replace, as_json)


def tilt(
    prior: PriorPlace,
    factor: Annotated[
        str, typer.Option("--factor", help="NAME=WEIGHT: prefer components whose texts a factor finds evidence in.")
    ] = "",
    reward: Annotated[
        str, typer.Option("--reward", help="A judge (factorlm eval judges), or a .json file of component: reward.")
    ] = "",
    thumbs: Annotated[
        Path | None,
        typer.Option("--thumbs", help="A .jsonl of component and thumb (up or down), maybe with an ISO time."),
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", help="In units of the reward; small ones tilt strongly.")
    ] = 1.0,
    n: Annotated[int, typer.Option("--n", min=1, help="Texts of each component to judge.")] = 32,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Most tokens of each.")] = 32,
    prompt: Annotated[
        list[str], typer.Option("--prompt", help="What the judged texts continue; the start of a text by default.")
    ] = [],  # noqa: B006
    explore: Annotated[
        bool, typer.Option("--explore", help="With --thumbs: draw ratings from what is believed of them (Thompson).")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the texts, and of --explore.")] = 0,
    out: OutOrNothing = None,
    replace: ReplacePrior = False,
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Prefer some components: mu_k exp(reward_k / temperature). None is added and none is lost.

    Example: factorlm prior tilt world.prior --factor positive=1 --temperature 0.5 --out bright.prior
    """
    from factorlm.cli.prior_rewards import from_factor, from_file, from_judge, from_thumbs
    from factorlm.errors import InputError
    from factorlm.prior.files import read_manifest

    if sum(map(bool, (factor, reward, thumbs))) != 1:
        raise InputError("one of --factor, --reward and --thumbs is needed; give exactly one of them")
    names = read_manifest(prior).names
    if thumbs is not None:
        rewards = from_thumbs(thumbs, names, seed if explore else None)
    elif reward.endswith(".json"):
        rewards = from_file(Path(reward), names)
    found = _loaded(prior, out, replace, dtype)
    if factor:
        rewards = from_factor(found, factor, prompt, n, max_tokens, seed)
    elif reward and not reward.endswith(".json"):
        rewards = from_judge(found, reward, prompt, n, max_tokens, seed)
    why = f"{factor or reward or thumbs}: " + ", ".join(f"{k} {r:.3g}" for k, r in zip(names, rewards, strict=True))
    _finish(found, found.tilt(rewards, temperature=temperature, why=why), out, replace, as_json)


def _read(
    place: Path, evidence: list[Path], say: list[str], out: Path | None, replace: bool, dtype: str
) -> tuple[Prior, list[str]]:
    from factorlm.errors import InputError
    from factorlm.prior.corpus import read_texts

    texts = [text for path in evidence for text in read_texts(path)] + [text for text in say if text.strip()]
    if not texts:
        raise InputError("some evidence is needed, got none; give --evidence FILE or --say TEXT")
    return _loaded(place, out, replace, dtype), texts


def _loaded(place: Path, out: Path | None, replace: bool, dtype: str) -> Prior:
    from factorlm.prior import Prior
    from factorlm.prior.files import check_place

    if out is not None:
        check_place(out, replace=replace)
    return Prior.load(place, dtype=dtype)


def _finish(before: Prior, after: Prior, out: Path | None, replace: bool, as_json: bool) -> None:
    from factorlm.cli.prior_show import draw_update
    from factorlm.cli.terminal import console, print_json

    if out is not None:
        after.save(out, replace=replace)
    update = after.manifest.updates[-1]
    if as_json:
        print_json(
            {"what": update.what, "why": update.why, "divergence": update.divergence,
             "before": dict(zip(before.names, update.before, strict=True)),
             "after": dict(zip(after.names, update.after, strict=True))}
        )  # fmt: skip
        return
    draw_update(after.manifest, update)
    if out is None:
        console.print("[dim]not written; give --out FOLDER to keep it[/dim]")
