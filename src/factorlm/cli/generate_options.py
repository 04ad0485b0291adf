"""The options of `generate`, in the groups in which its help shows them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from factorlm.cli import faders

memory_option = functools.partial(typer.Option, rich_help_panel="Memories")
guides_option = functools.partial(typer.Option, rich_help_panel="Guides of meaning")
factors_option = functools.partial(typer.Option, rich_help_panel="Factors")
language_option = functools.partial(typer.Option, rich_help_panel="Formal language")
sampler_option = functools.partial(typer.Option, rich_help_panel="Sampler")
rule_option = functools.partial(typer.Option, rich_help_panel="Decoding rules")

Factor = Annotated[list[str], factors_option("--factor", help=faders.HELP)]
Target = Annotated[
    list[str],
    factors_option("--target", help="NAME=RATE: the least strength at which so many texts have it, such as 0.9."),
]
Budget = Annotated[
    float | None, factors_option("--budget", help="Most nats per token that all factors together may move the base.")
]
Decorrelate = Annotated[
    bool, factors_option("--decorrelate", help="Refit exponents so that factors that push alike count once.")
]
Guide = Annotated[
    list[str],
    guides_option(
        "--guide",
        help="NAME=STRENGTH: what the text shall mean, by a guide's name or words such as topic:sports; 10 is clear.",
    ),
]
Meanings = Annotated[
    Path | None, guides_option("--meanings", help="Folder that guide fit-model wrote; what is shipped by default.")
]
Decoder = Annotated[
    str, guides_option("--decoder", help="How a meaning is told: soft or bias; by default what was better.")
]
Emphasis = Annotated[float, guides_option("--emphasis", help="Power of what a meaning changes; above 1 is blunter.")]
MeaningSteps = Annotated[int, guides_option("--meaning-steps", min=1, help="Of denoising.")]
MeaningParticles = Annotated[
    int, guides_option("--meaning-particles", min=0, help="Draw meanings by so many particles: exact in the limit.")
]
Memory = Annotated[
    list[str],
    memory_option(
        "--memory",
        help="INDEX, INDEX=MOST or INDEX@WEIGHTS=MOST: a memory of texts and the largest weight it may have; "
        "multiplied, INDEX=STRENGTH or INDEX^EXPONENT. May be given several times.",
    ),
]
MemoryMode = Annotated[
    str,
    memory_option("--memory-mode", help="interpolate: mix it in; multiply: as a factor; draft: it only guesses ahead."),
]
JsonSchema = Annotated[
    Path | None, language_option("--json-schema", help="File with a JSON schema that each text must fit.")
]
Regex = Annotated[str | None, language_option("--regex", help="Regular expression that each text must match.")]
Grammar = Annotated[
    Path | None, language_option("--grammar", help="File with a grammar (Lark, or EBNF with ::=) of the texts.")
]
Choice = Annotated[list[str], language_option("--choice", help="A text to choose; give several.")]
Sampler = Annotated[
    str,
    sampler_option(
        "--sampler",
        help="local: normalised at each token; smc, importance or metropolis: over texts, with particles; best-of-n: "
        "the best of so many texts by --reward.",
    ),
]
Reward = Annotated[
    list[str],
    sampler_option(
        "--reward",
        help="NAME or NAME=WEIGHT: a reward of whole responses, with --sampler best-of-n or smc; several add up.",
    ),
]
Beta = Annotated[
    float,
    sampler_option("--beta", help="With particles rewards weigh exp(reward / beta); best-of-n has no use for it."),
]
Particles = Annotated[int, sampler_option("--particles", min=2, help="Texts that each text is drawn from.")]
Resampling = Annotated[str, sampler_option("--resampling", help="stratified, systematic, residual or multinomial.")]
Ess = Annotated[
    float, sampler_option("--ess", min=0, max=1, help="Resample when this share of the particles is not effective.")
]
Limit = Annotated[
    str, sampler_option("--limit", help="With particles, at the last token: end forces an end, cut does not.")
]
Twist = Annotated[
    list[str], sampler_option("--twist", help="NAME=STRENGTH or NAME^EXPONENT: leads particles, which take it back.")
]
Speculate = Annotated[
    bool, sampler_option("--speculate", help="Guess several tokens and check them together: the same, sooner.")
]
Draft = Annotated[
    str,
    sampler_option(
        "--draft", help="What guesses: lookup (what repeats) or base (the model without further models and prompts)."
    ),
]
Temperature = Annotated[float, rule_option("--temperature", help="0 takes the most probable token.")]
TopK = Annotated[int, rule_option("--top-k", help="Keep the k most probable tokens; 0 keeps all.")]
TopP = Annotated[float, rule_option("--top-p", help="Keep the most probable tokens up to this mass.")]
MinP = Annotated[float, rule_option("--min-p", help="Keep tokens with this share of the largest.")]
TypicalP = Annotated[float, rule_option("--typical-p", help="Locally typical sampling.")]
Epsilon = Annotated[float, rule_option("--epsilon", help="Keep tokens of at least this probability.")]
Eta = Annotated[
    float, rule_option("--eta", help="Eta sampling: a floor that falls where the model is unsure; 0.002 is usual.")
]
RepetitionPenalty = Annotated[float, rule_option("--repetition-penalty", help="Above 1 makes repeating less likely.")]
Dry = Annotated[
    float, rule_option("--dry", help="Nats lost by tokens that make runs of three repeat, and more for longer.")
]
Stop = Annotated[list[str], rule_option("--stop", help="A string to end at; may be given several times.")]
Model = Annotated[
    str, factors_option("--model", help="Base: a name, folder or hub name, or an expression such as 'smollm2 / toxic'.")
]
