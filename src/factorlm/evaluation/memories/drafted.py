"""Guesses from a memory beside guesses from the text itself and none: how many are right, and what time they save."""

# Axes: P prompts.

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt

from factorlm.algebra import Factor
from factorlm.errors import InputError
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.document import Bar, Cell, Column, Intervals, Section, Table
from factorlm.evaluation.harness import FEWEST_FOR_INTERVAL, FEWEST_REPEATS, Timing, compare_speed
from factorlm.evaluation.intervals import FEWEST_UNITS, Estimate, ratio_interval
from factorlm.evaluation.memories.domains import DOMAINS, Domain
from factorlm.evaluation.memories.generation_mixtures import stored_texts
from factorlm.evaluation.memories.stores import infini_of
from factorlm.evaluation.part import Part
from factorlm.evaluation.provenance import machine
from factorlm.evaluation.workbench import Workbench
from factorlm.inference import Sampling
from factorlm.inference.drafts import Draft, PromptLookup
from factorlm.inference.draw import generator_of
from factorlm.inference.local import Row, sample_local
from factorlm.inference.speculation import Tally, sample_speculative
from factorlm.memory import InfiniGram, MemoryDraft
from factorlm.models import CausalLM
from factorlm.models.loading import load_model
from factorlm.settings import Config
from factorlm.text import TextStream

NONE, LOOKUP, SAME, OTHER = "no guesses", "the text itself", "memory of the domain", "memory of the other domain"
Counts = tuple[int, int, int, int]  # passes after the prompt, guesses checked, guesses right, tokens written


class Drafts(Config):
    """Settings of this part.

    Attributes:
        domains: two of them; texts of each are continued with guesses from the memories of both.
        num_stored: documents of each memory, at most.
        stored_characters: of all documents of a memory together, at most.
        num_prompts: of each domain, from one test document each; the interval of a ratio needs six.
        prefix: tokens of a prompt.
        new_tokens: of a text.
        samplings: how tokens are drawn; texts are written in each way.
        num_tokens: most tokens of a guess, for all that guess.
        least: tokens of the suffix that a memory must find, to guess.
        share: of its places that must go on with a token, to guess it.
        num_checked: prompts of each domain that are written again in float32, with and without guesses, where the
            model runs in another number format.
    """

    domains: Annotated[tuple[Domain, ...], Field(min_length=2, max_length=2)] = tuple(
        domain for domain in DOMAINS if domain.name in ("stories", "contracts")
    )
    num_stored: PositiveInt = 2000
    stored_characters: PositiveInt = 1_500_000
    num_prompts: Annotated[int, Field(ge=FEWEST_REPEATS)] = 8
    prefix: Annotated[int, Field(ge=2)] = 32
    new_tokens: Annotated[int, Field(ge=2)] = 32
    samplings: tuple[Sampling, ...] = (Sampling(temperature=0), Sampling(top_p=0.9))
    num_tokens: PositiveInt = 6
    least: PositiveInt = 2
    share: Annotated[float, Field(gt=0, le=1)] = 0.4
    num_checked: PositiveInt = 3


@dataclass(frozen=True, eq=False)
class Written:
    """Texts of one domain, drawn in one way.

    Attributes:
        timing: of each way against none, a run for each prompt.
        tokens: of each way, prompt by prompt.
        counts: of each way but none, prompt by prompt.
    """

    timing: Timing
    tokens: dict[str, list[list[int]]]
    counts: dict[str, list[Counts]]

    def num_other(self) -> int:
        """Texts that are not those that are written without guesses."""
        return sum(a != b for rows in self.tokens.values() for a, b in zip(rows, self.tokens[NONE], strict=True))


def measure_drafts(bench: Workbench, settings: Drafts) -> Part:
    """Write test texts of both domains with every kind of guess, and check that guesses change nothing.

    Raises:
        InputError: if there are too few test documents that are long enough.
    """
    lm = bench.models[0].model.lm
    memories, prompts = {}, {}
    for domain in settings.domains:
        stored = stored_texts(bench, domain, settings.num_stored, settings.stored_characters)
        memories[domain.name] = infini_of(bench, lm, domain.name, stored)
        prompts[domain.name] = _prompts(bench, lm, domain, settings)
    mark = [bench.used[f"{domain.name}, stored"] for domain in settings.domains]
    found, differ = {}, []
    for name in prompts:
        ways = _ways(name, memories, settings)
        for sampling in settings.samplings:
            title = f"{name}, {_named(sampling)}"
            found[title] = _kept(bench, lm, ways, prompts[name], sampling, settings, title, mark)
            differ.append(_differ(bench, lm, ways, prompts[name], sampling, settings, found[title], title, mark))
    return _part(settings, found, tuple(line for line in differ if line), bench.seed)


def _named(sampling: Sampling) -> str:
    if sampling.temperature == 0:
        return "greedy"
    return ", ".join(f"{k} {v}" for k, v in sampling.model_dump(exclude_defaults=True).items()) or "as it is"


def _prompts(bench: Workbench, lm: CausalLM, domain: Domain, settings: Drafts) -> list[list[int]]:
    """The first tokens of test documents, one prompt more than are timed: the first warms up."""
    texts = domain.test.load(bench.data)
    rows = [ids[: settings.prefix] for ids in lm.encode_texts(texts) if len(ids) >= settings.prefix]
    if len(rows) <= settings.num_prompts:
        raise InputError(
            f"{settings.num_prompts + 1} test documents of {settings.prefix} tokens are needed, {domain.name} has "
            f"{len(rows)}; ask for fewer prompts, or name another domain"
        )
    rows = rows[: settings.num_prompts + 1]
    bench.used[f"{domain.name}, prompts"] = fingerprint([str(row) for row in rows])
    return [[*lm.start_ids, *row] for row in rows]


def _ways(name: str, memories: Mapping[str, InfiniGram], settings: Drafts) -> dict[str, Draft | None]:
    [other] = [n for n in memories if n != name]
    guessing = {SAME: memories[name], OTHER: memories[other]}
    return {NONE: None, LOOKUP: PromptLookup(num_tokens=settings.num_tokens)} | {
        way: MemoryDraft(memory, settings.num_tokens, settings.least, settings.share)
        for way, memory in guessing.items()
    }


def _write(
    factor: Factor, prompt: Sequence[int], draft: Draft | None, sampling: Sampling, new_tokens: int, seed: int
) -> tuple[list[int], Counts]:
    """One text, which may end before its last token."""
    tally = Tally()
    run = sample_local if draft is None else functools.partial(sample_speculative, draft=draft, tally=tally)
    row = Row(list(prompt), generator_of(seed, prompt, 0), TextStream())
    for _ in run(factor, [row], max_tokens=new_tokens, sampling=sampling):
        pass
    return row.token_ids, (tally.num_passes, tally.num_guessed, tally.num_right, tally.num_drawn)


def _key(lm: CausalLM, settings: Drafts, sampling: Sampling, title: str, mark: list[str], seed: int) -> dict[str, Any]:
    return {"model": lm.fingerprint, "settings": settings.model_dump(mode="json", exclude={"samplings"}),
            "sampling": sampling.model_dump(mode="json"), "name": title, "memories": mark, "seed": seed}  # fmt: skip


def _kept(
    bench: Workbench, lm: CausalLM, ways: Mapping[str, Draft | None], prompts: list[list[int]], sampling: Sampling,
    settings: Drafts, title: str, mark: list[str],
) -> Written:  # fmt: skip
    """Time all ways in turn, each repeat with a prompt of its own, so that repeats are independent."""

    def work() -> dict[str, Any]:
        tokens: dict[str, dict[int, list[int]]] = {way: {} for way in ways}
        counts: dict[str, dict[int, Counts]] = {way: {} for way in ways}

        def write(way: str, number: int) -> list[int]:
            row, tally = _write(lm, prompts[number], ways[way], sampling, settings.new_tokens, bench.seed)
            tokens[way][number], counts[way][number] = row, tally
            return row

        timing = compare_speed(
            f"drafts, {title}",
            {way: functools.partial(write, way) for way in ways},
            lambda repeat: repeat,
            agree=lambda want, got: None,  # whether texts are the same is found below, for all prompts
            baseline=NONE,
            repeats=settings.num_prompts,
            unit="text",
            ratio_of="speed",
            before_each=lm.forget,
            report=bench.report,
        )
        numbers = range(1, len(prompts))
        return {"timing": timing.model_dump(mode="json"),
                "tokens": {way: [tokens[way][n] for n in numbers] for way in ways},
                "counts": {way: [list(counts[way][n]) for n in numbers] for way in ways if ways[way]}}  # fmt: skip

    key = {**_key(lm, settings, sampling, title, mark, bench.seed), "what": "drafts", "dtype": str(lm.model.dtype),
           "prompts": prompts, "machine": machine(), "threads": torch.get_num_threads()}  # fmt: skip
    found = bench.cache.get(key, work)
    counts = {way: [(n[0], n[1], n[2], n[3]) for n in rows] for way, rows in found["counts"].items()}
    return Written(Timing.model_validate_json(json.dumps(found["timing"])), found["tokens"], counts)


def _differ(
    bench: Workbench, lm: CausalLM, ways: Mapping[str, Draft | None], prompts: list[list[int]], sampling: Sampling,
    settings: Drafts, written: Written, title: str, mark: list[str],
) -> str:  # fmt: skip
    """A caution if guesses change texts in float32; where the model runs in it, all texts are looked at."""
    if lm.model.dtype == torch.float32:
        number, total = written.num_other(), settings.num_prompts * (len(ways) - 1)
    else:
        chosen = prompts[1 : 1 + settings.num_checked]
        total = len(chosen) * (len(ways) - 1)

        def work() -> int:
            exact = load_model(lm.name, dtype="float32", device=lm.device.type)
            rows = {way: [_write(exact, prompt, draft, sampling, settings.new_tokens, bench.seed)[0]
                          for prompt in chosen] for way, draft in ways.items()}  # fmt: skip
            return Written(written.timing, rows, {}).num_other()

        key = {**_key(lm, settings, sampling, title, mark, bench.seed), "what": "drafts in float32", "prompts": chosen}
        bench.report(f"drafts, {title}, in float32", 0, 1)
        number = int(bench.cache.get(key, work))
        bench.report(f"drafts, {title}, in float32", 1, 1)
    if not number:
        return ""
    return (
        f"{title}: in float32, {number} of {total} texts with guesses are not those without, which rounding of equal "
        "probabilities may do, or a mistake: speeds are not of the same work."
    )


def _part(settings: Drafts, found: dict[str, Written], differ: tuple[str, ...], seed: int) -> Part:
    rows: list[tuple[Cell, ...]] = []
    keys = ("acceptance", "tokens per pass", "speed-up")
    measures: dict[str, dict[str, Estimate]] = {f"drafts, {key}": {} for key in keys}
    for title, written in found.items():
        for way, counts in written.counts.items():
            passes_P, guessed_P, right_P, drawn_P = zip(*counts, strict=True)
            ratio = written.timing.ratio(way)
            told = (
                ratio_interval(right_P, guessed_P, seed=seed),
                # The first token comes from reading the prompt.
                ratio_interval([n - 1 for n in drawn_P], passes_P, seed=seed),
                Estimate(value=ratio.ratio, low=ratio.low, high=ratio.high, n=written.timing.repeats),
            )
            rows.append((title, way, *told, ratio.verdict))
            for key, estimate in zip(keys, told, strict=True):
                measures[f"drafts, {key}"][f"{way}: {title}"] = estimate
    columns = (
        Column(title="texts"), Column(title="guesses from"), Column(title="guesses that are right", form=".0%"),
        Column(title="tokens per pass", form=".2f", best="high"), Column(title="speed-up", form=".2f", best="high"),
        Column(title="verdict"),
    )  # fmt: skip
    table = Table(
        title="Guesses and what they save", columns=columns, rows=tuple(rows),
        note=f"{settings.num_prompts} prompts of each domain, texts of at most {settings.new_tokens} tokens, one at a "
        "time; all ways write the same prompts in turn. The speed-up is the median over prompts of the time without "
        "guesses over that with them; intervals are over prompts. Guesses change no text, but to rounding.",
    )  # fmt: skip
    cautions = list(differ)
    if settings.num_prompts < FEWEST_FOR_INTERVAL:
        cautions.append(f"{settings.num_prompts} prompts are too few for intervals of speed-ups; "
                        f"{FEWEST_FOR_INTERVAL} give one.")  # fmt: skip
    if settings.num_prompts < FEWEST_UNITS:
        cautions.append(
            f"{settings.num_prompts} prompts of a domain are too few to rank by; {FEWEST_UNITS} are needed."
        )
    others = {title: written.num_other() for title, written in found.items() if written.num_other()}
    if others and not differ:
        cautions.append(
            "In the model's own number format some texts with guesses part from those without, by rounding: "
            + ", ".join(f"{title} {number}" for title, number in others.items()) + "."
        )  # fmt: skip
    lines = tuple(_headline(title, measures) for title in found)
    speed, guessing = measures["drafts, speed-up"], (LOOKUP, SAME, OTHER)
    bars = tuple(Bar(label=title, values=tuple(speed[f"{way}: {title}"] for way in guessing)) for title in found)
    picture = Intervals(title="Speed-up", x_label="times as fast as without guesses", series=guessing, bars=bars,
                        zero=1.0)  # fmt: skip
    lead = (
        "Tokens are guessed and checked together, several for one pass of the model. What guesses is a memory, or the "
        "text itself."
    )
    section = Section(title="Drafts", lead=lead, blocks=(table, picture))
    return Part((section,), measures, lines, tuple(cautions))


def _headline(title: str, measures: dict[str, dict[str, Estimate]]) -> str:
    speed = measures["drafts, speed-up"]
    return f"Speed-up by guesses on {title}: " + "; ".join(
        f"{way} {speed[f'{way}: {title}']}" for way in (SAME, OTHER, LOOKUP)
    ) + "."  # fmt: skip
