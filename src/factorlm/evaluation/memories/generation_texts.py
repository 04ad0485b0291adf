"""What a model and its mixtures with a memory write: nearness to human text, repetition, copying, likelihood."""

# Axes: P prompts, T time.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from factorlm.evaluation.continuations import Prompt, Side, long_enough, varieties
from factorlm.evaluation.diversity import VOCABULARY, cut
from factorlm.evaluation.document import Block, Column, Section, Table
from factorlm.evaluation.document import Samples as Shown
from factorlm.evaluation.generated import HUMAN
from factorlm.evaluation.intervals import Estimate, mean_interval, ratio_interval
from factorlm.evaluation.likelihood import costs, perplexity
from factorlm.evaluation.memories.generation_mixtures import INFINI, Mixed
from factorlm.evaluation.memories.generation_nearness import Near, nearness, nearness_table, sentence_vectors
from factorlm.evaluation.memories.generation_observed import Observed
from factorlm.evaluation.responses import Samples
from factorlm.evaluation.workbench import Workbench
from factorlm.memory import InfiniGram
from factorlm.memory.attribution import longest_matches
from factorlm.models import CausalLM

COPIED = 8  # tokens of a run that counts as copied
NUM_SHOWN = 3
REPETITION = {"diversity": "diversity of a text", "seq_rep_4": "seq-rep-4", "dist_2": "Dist-2 of all",
              "self_bleu": "Self-BLEU of all"}  # fmt: skip


def windows_of(lm: CausalLM, texts: Sequence[str], prefix: int, new_tokens: int, number: int) -> list[Prompt]:
    """Stretches of texts, each a prompt and how its author went on, every text once before any comes twice.

    Args:
        lm: whose tokens are counted.
        texts: documents; one that is too short gives nothing.
        prefix: most tokens of a prompt; it ends where a word does.
        new_tokens: of the continuation.
        number: at most.
    """
    vocabulary = lm.vocabulary
    found = []
    for document, text in enumerate(texts):
        ids = lm.encode_text(text)
        for turn, start in enumerate(range(0, len(ids) - prefix - new_tokens + 1, prefix + new_tokens)):
            ends = [t for t in range(start + prefix, start + prefix // 2, -1) if _begins_word(lm, ids, t)]
            end = ends[0] if ends else start + prefix
            prompt, human = (vocabulary.text(ids[a:b], "ignore") for a, b in ((start, end), (end, end + new_tokens)))
            if prompt.strip():
                found.append((turn, document, Prompt(prompt, human, str(document))))
    return [prompt for _, _, prompt in sorted(found, key=lambda one: one[:2])][:number]


def _begins_word(lm: CausalLM, ids: Sequence[int], t: int) -> bool:
    return lm.vocabulary.token_bytes[ids[t]][:1].isspace()


@dataclass(frozen=True, eq=False)
class Texts:
    """Continuations of the same prompts.

    Attributes:
        prompts: with the human continuations.
        others: human continuations of other documents, none of them stored.
        samples: of each writer, the model first.
        observed: each writer's texts, and the human ones, as model and memories see them.
        words: that texts are cut to before they are compared.
    """

    prompts: list[Prompt]
    others: list[str]
    samples: dict[str, Samples]
    observed: dict[str, list[Observed]]
    words: int

    @property
    def units(self) -> list[str]:
        """Of the prompts: the document that each comes from."""
        return [prompt.unit for prompt in self.prompts]

    def sides(self, lm: CausalLM) -> list[Side]:
        """Each writer's texts, and the human ones last."""
        found = []
        for name, samples in self.samples.items():
            ids = [s.token_ids[:-1] if s.finish_reason == "end" else s.token_ids for [s] in samples]
            found.append(Side(name, [[s.text for [s] in samples]], [ids], self.words))
        human = [tuple(lm.encode_text(p.human)) for p in self.prompts]
        return [*found, Side(HUMAN, [[p.human for p in self.prompts]], [human], self.words)]


@dataclass(frozen=True, eq=False)
class Found:
    """What written texts show.

    Attributes:
        section: of the report.
        measures: by name, then by writer.
        near: nearness to human text.
        num_kept: prompts whose texts are long enough on all sides.
    """

    section: Section
    measures: dict[str, dict[str, Estimate]]
    near: Near
    num_kept: int


def on_written_texts(bench: Workbench, texts: Texts, mixed: Mixed) -> Found:
    """Compare what was written with what people wrote, and with what is stored."""
    lm, seed, units = mixed.lm, bench.seed, texts.units
    sides = texts.sides(lm)
    kept_P = long_enough(sides)
    found = varieties(sides, kept_P, [units[p] for p in kept_P], lambda some: sentence_vectors(bench, some),
                      vocabulary=VOCABULARY, seed=seed)  # fmt: skip
    others = [cut(text, texts.words).strip() for text in texts.others]
    near = nearness(bench, list(texts.samples), others, found)
    names = [side.name for side in sides]
    measures: dict[str, dict[str, Estimate]] = {
        f"generation, {title}": {name: variety.estimate(key, seed) for name, variety in zip(names, found, strict=False)}
        for key, title in REPETITION.items()
    }
    measures["generation, perplexity under the model"] = {
        name: perplexity(costs([-o.model.log_prob_T for o in texts.observed[name]]), units, seed) for name in names
    }
    measures["generation, perplexity of its own texts"] = {
        name: perplexity(np.array([[-s.log_prob, len(s.token_ids)] for [s] in samples], float), units, seed)
        for name, samples in texts.samples.items()
    }
    measures |= _copying(mixed, sides, units, seed)
    if near.of:
        key = f"generation, {near.measure}"
        measures[key] = {name: of.estimate for name, of in near.of.items()}
        measures[f"{key} less that of the model"] = near.difference
    short = {name.removeprefix("generation, "): values for name, values in measures.items()}
    rows = tuple((title, *(values.get(n) for n in names)) for title, values in short.items() if "less" not in title)
    blocks: list[Block] = [
        Table(
            title="What was written", columns=tuple(Column(title=t) for t in ("measure", *names)), rows=rows,
            note=f"{len(texts.prompts)} prompts from {len(set(units))} documents; nearness and repetition are of the "
            f"first {texts.words} words of {len(kept_P)} continuations, long enough on every side. Copied are runs of "
            f"at least {COPIED} tokens that are stored word for word. A mixture's own perplexity shows how flat it is: "
            "at one nucleus, flatter mixtures write less likely texts.",
        ),
        *([nearness_table(near)] if near.of else []),
        _shown(texts),
    ]  # fmt: skip
    lead = "Continuations of the same prompts by the model, by its mixtures, and by people."
    section = Section(title="Written texts", lead=lead, blocks=tuple(blocks))
    return Found(section, measures, near, len(kept_P))


def _copying(mixed: Mixed, sides: Sequence[Side], units: list[str], seed: int) -> dict[str, dict[str, Estimate]]:
    """The longest run that is stored, and the share of tokens in runs that are long."""
    memory = mixed.memories[INFINI]
    assert isinstance(memory, InfiniGram)
    longest, copied = {}, {}
    for side in sides:
        matches = [longest_matches(memory.engine, ids) if ids else [0] for ids in side.ids_SP[0]]
        longest[side.name] = mean_interval([max(found) for found in matches], seed=seed)
        shares = np.array([[_num_copied(found), len(found)] for found in matches], float)
        copied[side.name] = ratio_interval(shares[:, 0], shares[:, 1], seed=seed)
    return {"generation, longest run that is stored": longest, "generation, share of tokens copied": copied}


def _num_copied(length_T: Sequence[int]) -> int:
    """Tokens inside runs that are long enough."""
    inside: set[int] = set()
    for t, length in enumerate(length_T):
        if length >= COPIED:
            inside.update(range(t + 1 - length, t + 1))
    return len(inside)


def _shown(texts: Texts) -> Shown:
    rows = [
        (f"{i + 1}. {name}", prompt.text, texts.samples[name][i][0].text if name in texts.samples else prompt.human)
        for i, prompt in enumerate(texts.prompts[:NUM_SHOWN])
        for name in (*texts.samples, HUMAN)
    ]
    return Shown(title="Continuations", texts=tuple(rows))
