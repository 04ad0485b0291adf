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
    json_schema: Annotated[Path | None, typer.Option("--json-schema", help="Or: a file with a JSON schema.")] = None,
    regex: Annotated[str | None, typer.Option("--regex", help="Or: an expression that each text must match.")] = None,
    grammar: Annotated[Path | None, typer.Option("--grammar", help="Or: a file with a Lark or EBNF grammar.")] = None,
    choice: Annotated[list[str], typer.Option("--choice", help="Or: texts to choose from.")] = [],  # noqa: B006
    description: Annotated[str, typer.Option("--description", help="One line for lists.")] = "",
    replace: Replace = False,
) -> None:
    """Make a factor that needs no training: of words, an instruction, two models, or a formal language.

    Example: factorlm factor create no-swearing --words bad.txt --ban
    """
    import math

    from rich.markup import escape

    from factorlm.cli.terminal import console
    from factorlm.errors import InputError
    from factorlm.factors.examples import read_lines
    from factorlm.factors.grammar import read_rules
    from factorlm.factors.lexicon import Lexicon
    from factorlm.factors.manifest import ContrastSettings, GrammarSettings, LexiconSettings, Manifest, PromptSettings
    from factorlm.factors.named import grammar as language_of
    from factorlm.factors.store import default_stores
    from factorlm.factors.versions import supersede
    from factorlm.models.loading import folder_of_model
    from factorlm.text import letters

    phrases = [*word, *(read_lines(words) if words else [])]
    is_language = json_schema is not None or regex is not None or grammar is not None or bool(choice)
    kinds = [bool(phrases), bool(instruction.strip()), expert is not None or anti is not None, is_language]
    if sum(kinds) != 1:
        raise InputError(
            "one of --word/--words, --prompt, --expert/--anti, or --json-schema, --regex, --grammar and --choice is "
            "needed; give exactly one kind"
        )
    if not math.isfinite(boost):
        raise InputError(f"a boost is a finite number of nats, got {boost}; --ban makes words impossible")
    settings: LexiconSettings | PromptSettings | ContrastSettings | GrammarSettings
    if phrases:
        settings = LexiconSettings(
            phrases=dict.fromkeys(phrases, None if ban else boost),
            case_sensitive=case_sensitive,
            whole_word=not anywhere,
        )
    elif instruction.strip():
        settings = PromptSettings(instruction=instruction)
    elif is_language:
        settings = GrammarSettings(
            json_schema=read_rules(json_schema) if json_schema else None,
            regex=regex,
            rules=read_rules(grammar) if grammar else None,
            choices=tuple(choice) or None,
        )
        language_of(name=name, **settings.model_dump(exclude={"kind"}))  # complains of what cannot be used
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
    usage = f"{name}^1" if is_language or (phrases and ban) else f"{name}=0.3"
    console.print(f'try: factorlm generate "The food was" --factor {usage} --explain')
