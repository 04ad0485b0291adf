"""Whether a memory that lowers perplexity also improves what is written: two questions, answered apart.

Source: Wang et al. (2023), arXiv:2305.14625.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from factorlm.errors import InputError, UnknownNameError
from factorlm.evaluation import mauve
from factorlm.evaluation.document import Cell, Column, Section, Table
from factorlm.evaluation.generated import HUMAN
from factorlm.evaluation.intervals import FEWEST_UNITS
from factorlm.evaluation.memories.domains import DOMAINS, Domain
from factorlm.evaluation.memories.generation_entropy import along_texts
from factorlm.evaluation.memories.generation_gains import Human
from factorlm.evaluation.memories.generation_mixtures import INFINI, MODEL, NEIGHBOURS, SURE, Mixed, Mixing, mixed
from factorlm.evaluation.memories.generation_observed import observe
from factorlm.evaluation.memories.generation_texts import Found as Written
from factorlm.evaluation.memories.generation_texts import Texts, on_written_texts, windows_of
from factorlm.evaluation.memories.generation_tokens import Found as Read
from factorlm.evaluation.memories.generation_tokens import on_human_text
from factorlm.evaluation.part import Part
from factorlm.evaluation.responses import respond
from factorlm.evaluation.texts import cut
from factorlm.evaluation.workbench import Workbench
from factorlm.inference import Sampling
from factorlm.settings import Config

STORIES = next(domain for domain in DOMAINS if domain.name == "stories")
MUCH_LEFT_OUT = 0.1


class Generation(Config):
    """Settings of this part.

    Attributes:
        domain: that the memories are of.
        mixing: how they are built and weighed.
        num_read: documents of human text, of the domain's test texts.
        read_characters: of each, from its beginning.
        written: mixtures whose gain is split by kind of token, and that write.
        num_prompts: that are continued; further stretches of documents serve where there are fewer documents.
        prefix: most tokens of a prompt.
        new_tokens: of a continuation.
        sampling: how tokens are drawn, the same for all.
        words: that texts are cut to before they are compared.
    """

    domain: Domain = STORIES
    mixing: Mixing = Mixing()
    num_read: PositiveInt = 40
    read_characters: PositiveInt = 1000
    written: Annotated[tuple[str, ...], Field(min_length=1)] = (INFINI, NEIGHBOURS, f"{NEIGHBOURS}, {SURE}")
    num_prompts: PositiveInt = 60
    prefix: Annotated[int, Field(ge=2)] = 32
    new_tokens: Annotated[int, Field(ge=4)] = 48
    sampling: Sampling = Sampling(top_p=0.9)
    words: Annotated[int, Field(ge=4)] = 24


def measure_generation(bench: Workbench, settings: Generation) -> Part:
    """Mix memories with the first model under test, read human text, write, and compare.

    Raises:
        InputError: if no test text is long enough to be continued.
        UnknownNameError: if a mixture is named that there is not.
    """
    lm = bench.models[0].model.lm
    found = mixed(bench, lm, settings.domain, settings.mixing)
    for name in settings.written:
        if name not in found.mixtures:
            raise UnknownNameError.of("mixture", name, found.mixtures)
    read = _read(bench, found, settings)
    texts = _write(bench, found, settings)
    written = on_written_texts(bench, texts, found)
    entropy = along_texts(texts, found, settings.new_tokens, bench.seed)
    verdicts = Part((_verdicts(settings, read, written),), {}, tuple(_headlines(settings, read, written)),
                    tuple(_cautions(settings, texts, written)))  # fmt: skip
    shown = [Part((part.section,), part.measures) for part in (read, written)]
    return Part.joined([verdicts, *shown, entropy])


def _read(bench: Workbench, found: Mixed, settings: Generation) -> Read:
    documents = settings.domain.test.load(bench.data)[: settings.num_read]
    texts = [cut(text, settings.read_characters) for text in documents]
    ids = found.lm.encode_texts(texts)
    texts, ids = [t for t, row in zip(texts, ids, strict=True) if row], [row for row in ids if row]
    rows = [(list(found.lm.start_ids), row) for row in ids]
    observed = observe(bench, found.lm, found.memories, found.marks, rows, "reading human text")
    return on_human_text(Human(texts, ids, observed), found, settings.written, bench.seed)


def _write(bench: Workbench, found: Mixed, settings: Generation) -> Texts:
    lm, domain = found.lm, settings.domain
    sizes = (settings.prefix, settings.new_tokens)
    prompts = windows_of(lm, domain.test.load(bench.data), *sizes, settings.num_prompts)
    if not prompts:
        raise InputError(
            f"test texts of {domain.name} with {sum(sizes)} tokens are needed, got none; ask for fewer, or name others"
        )
    others = windows_of(lm, domain.valid.load(bench.data), *sizes, settings.num_prompts)
    samples = {
        name: respond(bench, found.composed(name), [p.text for p in prompts], n=1, max_tokens=settings.new_tokens,
                      sampling=settings.sampling, stage=f"{name}: writing")
        for name in (MODEL, *settings.written)
    }  # fmt: skip
    ids = {name: [list(s.token_ids) for [s] in rows] for name, rows in samples.items()}
    ids[HUMAN] = [lm.encode_text(p.human)[: settings.new_tokens] for p in prompts]
    prefixes = [[*lm.start_ids, *lm.encode_text(p.text)] for p in prompts]
    observed = {
        name: observe(bench, lm, found.memories, found.marks, list(zip(prefixes, rows, strict=True)),
                      f"{name}: reading texts")
        for name, rows in ids.items()
    }  # fmt: skip
    return Texts(prompts, [p.human for p in others], samples, observed, settings.words)


def _verdicts(settings: Generation, read: Read, written: Written) -> Section:
    rows: list[tuple[Cell, ...]] = []
    for name in settings.written:
        near = written.near
        rows.append((name, _said(_improves(read, name)), read.gain[name], _said(near.improves(name)),
                     near.difference.get(name)))  # fmt: skip
    columns = (
        Column(title="mixture"), Column(title="perplexity improves"), Column(title="gain, nats per token", form=".3f"),
        Column(title="written texts improve"), Column(title=f"difference in {written.near.measure}", form="+.3f"),
    )  # fmt: skip
    note = (
        "Perplexity improves where a paired comparison over documents says so, adjusted for the number of mixtures. "
        "Texts improve where the difference from the model has its interval on the better side, and the control shows "
        "that the measure could see it."
    )
    table = Table(title="Two questions", columns=columns, rows=tuple(rows), note=note)
    lead = f"Memories of {settings.domain.name}: up to {settings.mixing.num_stored} documents, the same for all."
    return Section(title="Likelihood and writing", lead=lead, blocks=(table,))


def _improves(read: Read, name: str) -> bool | None:
    verdict = read.improves[name].verdict
    return None if verdict == "cannot rank" else verdict == "better"


def _said(improves: bool | None) -> str:
    return {True: "yes", False: "not shown", None: "cannot be told"}[improves]


def _headlines(settings: Generation, read: Read, written: Written) -> list[str]:
    near, found = written.near, []
    for name in settings.written:
        won = read.measures["generation, share of tokens that gain"][name]
        found.append(
            f"{name}: perplexity of {settings.domain.name} improves: {_said(_improves(read, name))} (gain "
            f"{read.gain[name]} nats per token; {won.value or 0:.0%} of tokens gain); written texts improve: "
            f"{_said(near.improves(name))} ({near.measure} less that of the model: "
            f"{near.difference.get(name, 'not measured')})."
        )
    return found


def _cautions(settings: Generation, texts: Texts, written: Written) -> list[str]:
    near, num_prompts, num_units = written.near, len(texts.prompts), len(set(texts.units))
    found = []
    if num_prompts < settings.num_prompts:
        found.append(f"{settings.num_prompts} prompts were asked for, and test texts have {num_prompts}.")
    if num_units < num_prompts:
        found.append(f"The {num_prompts} prompts come from {num_units} documents, which intervals take whole.")
    if num_units < FEWEST_UNITS:
        found.append(f"{num_units} documents of prompts are too few to rank anything.")
    if num_prompts - written.num_kept > MUCH_LEFT_OUT * num_prompts:
        found.append(
            f"{num_prompts - written.num_kept} of {num_prompts} prompts are left out of nearness and repetition, since "
            f"a text there has fewer than {settings.words} words; the rest is no fair choice."
        )
    if near.measure != "MAUVE":
        found.append(f"MAUVE was not computed, since its package is not installed ({mauve.INSTALL}).")
    if not near.of:
        found.append(f"{near.n} texts are too few to measure nearness to human text; {mauve.FEWEST_TEXTS} are needed.")
    elif near.n < mauve.FEWEST_TO_RANK:
        found.append(
            f"{near.measure} is of {near.n} texts; under {mauve.FEWEST_TO_RANK} it cannot tell small differences, and "
            "one that is not shown is not shown to be none."
        )
    if near.of and near.has_power is None:
        found.append(
            f"{near.n} texts are too few for a control of {near.measure}; {2 * mauve.FEWEST_TEXTS} are needed."
        )
    elif near.has_power is False:
        found.append(
            f"{near.measure} has no power here: texts of which half were replaced by human ones are not seen to be "
            "nearer to human text, so no mixture could be."
        )
    found.append(
        "All write with the same nucleus, and a flatter distribution then writes more freely: compare the perplexities "
        "of their own texts."
    )
    return found
