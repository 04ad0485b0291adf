"""factorlm factor create: factors that need no training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factorlm.cli.options import Name, Replace


def create(
    name: Name,
    word: Annotated[list[str], typer.Option("--word", help="A word or phrase; may be given several times.")] = [],  # noqa: B006
    words: Annotated[Path | None, typer.Option("--words", help="A file with one word or phrase a line.")] = None,
    boost: Annotated[float, typer.Option("--boost", help="Nats for each word; may be negative.")] = 2.0,
    ban: Annotated[bool, typer.Option("--ban", help="Make the words impossible.")] = False,
    case_sensitive: Annotated[bool, typer.Option("--case-sensitive", help="Match case.")] = False,
    anywhere: Annotated[bool, typer.Option("--anywhere", help="Match inside longer words, too.")] = False,
    instruction: Annotated[str, typer.Option("--prompt", help="Or: an instruction, as a ratio of distributions.")] = "",
    expert: Annotated[str | None, typer.Option("--expert", help="Or: the model to move towards.")] = None,
    anti: Annotated[str | None, typer.Option("--anti", help="And the model to move away from.")] = None,
    description: Annotated[str, typer.Option("--description", help="One line for lists.")] = "",
    replace: Replace = False,
) -> None:
    """Make a factor that needs no training: from words, from an instruction, or from two models.

    Example: factorlm factor create no-swearing --words bad.txt --ban
    """
    import math

    from rich.markup import escape

    from factorlm.cli.terminal import console
    from factorlm.errors import InputError
    from factorlm.factors.examples import read_lines
    from factorlm.factors.lexicon import Lexicon
    from factorlm.factors.manifest import ContrastSettings, LexiconSettings, Manifest, PromptSettings
    from factorlm.factors.store import default_stores
    from factorlm.factors.versions import supersede
    from factorlm.models.loading import folder_of_model
    from factorlm.text import letters

    phrases = [*word, *(read_lines(words) if words else [])]
    kinds = [bool(phrases), bool(instruction.strip()), expert is not None or anti is not None]
    if sum(kinds) != 1:
        raise InputError("one of --word/--words, --prompt, or --expert/--anti is needed; give exactly one kind")
    if not math.isfinite(boost):
        raise InputError(f"a boost is a finite number of nats, got {boost}; --ban makes words impossible")
    settings: LexiconSettings | PromptSettings | ContrastSettings
    if phrases:
        settings = LexiconSettings(
            phrases=dict.fromkeys(phrases, None if ban else boost),
            case_sensitive=case_sensitive,
            whole_word=not anywhere,
        )
    elif instruction.strip():
        settings = PromptSettings(instruction=instruction)
    else:
        settings = ContrastSettings(expert=expert, anti_expert=anti)
    store = default_stores()[0]
    store.check_name(name, replace=replace)
    if phrases:
        Lexicon(name, dict.fromkeys(phrases, boost), letters("a"))  # complains of what cannot be a phrase
    for other in (expert, anti):
        if other is not None:
            folder_of_model(other)
    manifest = Manifest(name=name, description=description, settings=settings)
    folder = supersede(store, manifest) if replace else store.save(manifest)
    console.print(f"[bold]{name}[/bold] ({settings.kind}) is in {escape(str(folder))}", soft_wrap=True)
    usage = f"{name}^1" if phrases and ban else f"{name}=0.3"
    console.print(f'try: factorlm generate "The food was" --factor {usage} --explain')
