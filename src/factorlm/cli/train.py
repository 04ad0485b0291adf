"""factorlm factor train: learn a factor from examples, from preferences, or from another factor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factorlm.cli.options import Name, Replace

if TYPE_CHECKING:
    from factorlm.factors.dpo import TrainedAdapter
    from factorlm.factors.feedback import Preferences
    from factorlm.factors.manifest import Manifest
    from factorlm.factors.reward_training import TrainedReward
    from factorlm.factors.training import Description, Trained
    from factorlm.factors.unbound import Unbound

PREFERENCE_KINDS = ("head", "reward", "dpo")
WORD_BOOST = 4.0  # nats for each word of a list that is distilled: below, rare words teach little


def train(
    name: Name,
    positive: Annotated[Path | None, typer.Option("--positive", help="Texts that have it, one a line.")] = None,
    negative: Annotated[Path | None, typer.Option("--negative", help="Texts that do not, one a line.")] = None,
    table: Annotated[Path | None, typer.Option("--table", help="Or a .jsonl or .tsv of text and label.")] = None,
    label: Annotated[str, typer.Option("--label", help="The label in the table that has it.")] = "1",
    pairs: Annotated[
        Path | None, typer.Option("--pairs", help="Or a .jsonl of chosen and rejected, and prompt if there is one.")
    ] = None,
    thumbs: Annotated[
        Path | None, typer.Option("--thumbs", help="Or a .jsonl of text and thumb (up or down), maybe prompt and edit.")
    ] = None,
    as_kind: Annotated[
        str,
        typer.Option(
            "--as",
            help="What pairs and thumbs teach: head (token by token), reward (judges whole responses), or dpo (an "
            "adapter, from pairs; needs the extra align).",
        ),
    ] = "head",
    from_prompt: Annotated[
        str, typer.Option("--from-prompt", help="Or an instruction, whose effect the head learns without any text.")
    ] = "",
    from_lexicon: Annotated[
        str, typer.Option("--from-lexicon", help="Or a factor, or a file of words one a line, to learn likewise.")
    ] = "",
    texts: Annotated[
        Path | None, typer.Option("--texts", help="More texts to compare with that teacher in, one a line.")
    ] = None,
    exponent: Annotated[float, typer.Option("--exponent", help="Of that teacher.")] = 1.0,
    description: Annotated[str, typer.Option("--description", help="One line for lists.")] = "",
    licence: Annotated[str, typer.Option("--licence", help="Of the trained factor.")] = "unspecified",
    model: Annotated[str, typer.Option("--model", help="Name, folder or hub name of the encoder.")] = "smollm2",
    rank: Annotated[
        int,
        typer.Option(
            "--rank",
            min=0,
            help="Also learn a map of this rank; from texts it is kept only if it steers better at equal divergence.",
        ),
    ] = 0,
    own_texts: Annotated[
        int,
        typer.Option(
            "--own-texts",
            min=0,
            help="Also learn from so many texts of the model itself, written once; 4096 is usual.",
        ),
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Of the order of texts, and of what is drawn.")] = 0,
    replace: Replace = False,
) -> None:
    """Train a head from texts with and without an attribute, from preferences, or from what another factor does.

    Example: factorlm factor train wry --positive wry.txt --negative plain.txt
    """
    from factorlm.cli.terminal import console, progress
    from factorlm.errors import InputError, UnknownNameError
    from factorlm.factors.examples import from_files, from_table, read_lines, split
    from factorlm.factors.feedback import from_pairs, from_thumbs, split_preferences
    from factorlm.factors.store import Store, default_stores
    from factorlm.factors.training import Description, Trained, train_head
    from factorlm.factors.versions import supersede
    from factorlm.models.loading import DEFAULT_MODEL, load_model

    instruction, teacher_name = from_prompt.strip(), from_lexicon.strip()
    ways = [positive is not None or negative is not None, table, pairs, thumbs, instruction, teacher_name]
    if sum(map(bool, ways)) != 1 or (positive is None) != (negative is None):
        raise InputError(
            "two files (--positive and --negative), one labelled --table, --pairs, --thumbs, --from-prompt or "
            "--from-lexicon is needed; give exactly one of them"
        )
    is_distilled = bool(instruction or teacher_name)
    if not is_distilled and (texts is not None or exponent != 1):
        raise InputError("--texts and --exponent are for --from-prompt and --from-lexicon; leave them out")
    if as_kind not in PREFERENCE_KINDS:
        raise UnknownNameError.of("kind of factor from preferences", as_kind, PREFERENCE_KINDS)
    if as_kind != "head" and not (pairs or thumbs):
        raise InputError(f"--as {as_kind} is for --pairs and --thumbs; give one of them, or leave it out")
    if rank and (pairs or thumbs):
        raise InputError(f"a head from --pairs or --thumbs is a bias alone, got --rank {rank}; leave it out")
    if own_texts and (positive is None and table is None):
        raise InputError(f"--own-texts is for --positive and --negative or --table, got {own_texts}; leave it out")
    store = default_stores()[0]
    store.check_name(name, replace=replace)

    def about(origin: str) -> Description:
        sources = () if is_distilled else ((origin, licence, ""),)
        return Description(name=name, description=description, label=origin, licence=licence, sources=sources)

    trained: Trained | TrainedReward | TrainedAdapter
    # What is read from files complains before the model is loaded.
    if is_distilled:
        unbound, origin = _teacher(instruction, teacher_name)
        more = read_lines(texts) if texts is not None else []
        trained = _distilled(unbound, about(origin), model, more, exponent, rank, seed)
    elif pairs is not None or thumbs is not None:
        preferences = from_pairs(pairs) if pairs is not None else from_thumbs(thumbs or "")
        split_preferences(preferences)
        trained = _preferred(as_kind, preferences, about(f"{pairs or thumbs}"), model, seed)
    else:
        if table is not None:
            examples, origin = from_table(table, positive=label), f"{table} --label {label}"
        else:
            examples, origin = from_files(positive or "", negative or ""), f"{positive} against {negative}"
        split(examples)
        lm = load_model(model)
        with progress() as report:
            trained = train_head(lm, examples, about(origin), rank=rank, own_texts=own_texts, seed=seed, report=report)
    save = supersede if replace else Store.save  # what it replaces is kept
    folder = save(store, trained.manifest, trained.tensors)
    seconds = sum(trained.seconds.values())
    console.print(
        f"[bold]{name}[/bold] is in {folder} after {seconds:.0f} s; {_quality(trained.manifest)}", soft_wrap=True
    )
    calibration = trained.manifest.calibration
    if calibration is not None and calibration.dev_auc < 0.6 and (calibration.pair_accuracy or 0) < 0.6:
        console.print("[yellow]it tells the held-out texts apart hardly better than chance: it may not steer[/yellow]")
    if isinstance(trained, Trained) and teacher_name:
        _show_relatives(trained, unbound, model)
    other = "" if model == DEFAULT_MODEL else f" --model {model}"
    use = {"reward": f"--reward {name} --beta 0.5 --sampler best-of-n", "dpo": f"--factor {name}^1"}
    how = use.get(as_kind, f"--factor {name}=0.3 --explain")
    console.print(f'try: factorlm generate "The food was" {how}{other}', markup=False)
    if rank and not is_distilled:
        console.print(_kept(trained.manifest, rank), soft_wrap=True)


def _preferred(
    kind: str, preferences: Preferences, about: Description, model: str, seed: int
) -> Trained | TrainedReward | TrainedAdapter:
    """A factor of this kind that prefers what was preferred."""
    from factorlm.cli.terminal import progress
    from factorlm.factors.dpo import needs_trl, train_dpo
    from factorlm.factors.preferences import train_preferences
    from factorlm.factors.reward_training import train_reward
    from factorlm.models.loading import load_model

    if kind == "dpo":
        needs_trl()
    lm = load_model(model, dtype="float32" if kind == "dpo" else "auto")
    with progress() as report:
        if kind == "reward":
            return train_reward(lm, preferences, about, seed=seed, report=report)
        if kind == "dpo":
            return train_dpo(lm, preferences, about, seed=seed, report=report)
        return train_preferences(lm, preferences, about, seed=seed, report=report)


def _teacher(instruction: str, name: str) -> tuple[Unbound, str]:
    """The factor to distil, and what the card says of it."""
    from factorlm.factors.examples import read_lines
    from factorlm.factors.named import factor, lexicon, prompt

    if instruction:
        return prompt(instruction), f"distilled from the instruction {instruction!r}"
    if Path(name).is_file() or Path(name).suffix == ".txt":
        return lexicon(dict.fromkeys(read_lines(name), WORD_BOOST)), f"distilled from the words of {Path(name).name}"
    return factor(name), f"distilled from the factor {name}"


def _distilled(
    unbound: Unbound, about: Description, model: str, more: list[str], exponent: float, rank: int, seed: int
) -> Trained:
    """A head that does what this factor does."""
    from factorlm.cli.terminal import progress
    from factorlm.factors.distillation import distil
    from factorlm.factors.unbound import bind
    from factorlm.models.loading import load_model

    lm = load_model(model)
    with progress() as report:
        return distil(lm, bind(unbound, lm), about, texts=more, exponent=exponent, rank=rank, seed=seed, report=report)


def _quality(manifest: Manifest) -> str:
    """What was found on held-out texts, in a few words."""
    from factorlm.factors.distillation import EXPLAINED
    from factorlm.factors.preferences import MATCHED_ACCURACY, PAIR_ACCURACY
    from factorlm.factors.training import ERROR

    if manifest.calibration is None and EXPLAINED in manifest.effect:
        return f"on held-out texts it does {manifest.effect[EXPLAINED]:.0%} of what its teacher does"
    shown = "on held-out texts" if manifest.calibration is None else f"held-out AUC {manifest.calibration.dev_auc:.3f}"
    for key, what in ((PAIR_ACCURACY, "pairs in order"), (MATCHED_ACCURACY, "of those of like length")):
        if key in manifest.effect:
            shown += f", {what} {manifest.effect[key]:.2f} ± {manifest.effect[key + ERROR]:.2f}"
    return shown


def _show_relatives(trained: Trained, unbound: Unbound, model: str) -> None:
    """Words that the head pushes of itself, where a word list was its teacher."""
    from factorlm.cli.terminal import console
    from factorlm.factors.distillation import relatives
    from factorlm.factors.unbound import bind
    from factorlm.models.loading import load_model

    lm = load_model(model)
    found = relatives(lm, trained.weights, bind(unbound, lm))
    if found:
        shown = "  ".join(f"{word} {push:+.2f}" for word, push in found)
        console.print(f"it also pushes, untold: {shown}", markup=False, soft_wrap=True)


def _kept(manifest: Manifest, rank: int) -> str:
    """Whether training kept the map, and the comparison that decided it."""
    from factorlm.factors.manifest import HeadSettings
    from factorlm.factors.separation import STRENGTH
    from factorlm.factors.training import ERROR, effect_key

    assert isinstance(manifest.settings, HeadSettings)
    by_map, by_bias = (
        f"{manifest.effect[key]:.2f} ± {manifest.effect[key + ERROR]:.2f}"
        for key in (effect_key(f"rank {rank}"), effect_key("bias"))
    )
    verdict = f"the map of rank {rank}" if manifest.settings.rank else "the bias alone"
    return f"kept {verdict}: at strength {STRENGTH} the map separates texts by {by_map}, the bias by {by_bias}"
