"""The part `drafts` on a tiny model: counts against what was written, and that guesses change no text."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from factorlm.errors import InputError
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.document import Intervals, Table
from factorlm.evaluation.memories import drafted
from factorlm.evaluation.memories.domains import Domain, Texts
from factorlm.evaluation.memories.drafted import LOOKUP, NONE, OTHER, SAME, Drafts, measure_drafts
from factorlm.evaluation.part import Part
from factorlm.evaluation.texts import Corpus
from factorlm.evaluation.workbench import Cache, Workbench
from factorlm.inference import Model, Sampling
from factorlm.inference.expression import Composed
from factorlm.models import CausalLM
from factorlm.models.loading import read_model

WORDS = {"toys": ["the good ", "the bad ", "in the bag "], "games": ["a dog ", "an old cat, ", "no end. "]}
GREEDY = Sampling(temperature=0)


def domain(name: str) -> Domain:
    parts = {
        part: Texts(corpus=Corpus(part=f"{name}/{part}", max_documents=None, max_characters=None))
        for part in ("stored", "valid", "test")
    }
    return Domain(name=name, **parts)


SMALL = Drafts(domains=(domain("toys"), domain("games")), num_prompts=3, prefix=6, new_tokens=6, samplings=(GREEDY,))
Make = Callable[[CausalLM], Workbench]


@pytest.fixture
def make(tiny_lm: CausalLM, tmp_path: Path) -> Make:
    """A bench of a model. What toys hold is what the tiny model itself writes, so that its guesses are right."""
    for seed, (name, words) in enumerate(WORDS.items()):
        chance = random.Random(seed)
        (tmp_path / name).mkdir()
        for part in ("stored", "valid", "test"):
            some = ["".join(chance.choices(words, k=9)) for _ in range(6)]
            if (name, part) == ("toys", "test"):
                prompts = some
            if (name, part) == ("games", "stored"):
                some = ["a dog a dog a dog"] * 3
            _put(tmp_path / name / f"{part}.jsonl.gz", some)
    rows = [tiny_lm.vocabulary.text(tiny_lm.encode_text(text)[:6]) for text in prompts]
    said = Model(tiny_lm, tiny_lm).generate(rows, max_tokens=8, sampling=GREEDY)
    _put(tmp_path / "toys" / "stored.jsonl.gz", [row + found.text for row, found in zip(rows, said, strict=True)])

    def bench(lm: CausalLM) -> Workbench:
        composed = Composed("tiny", Model(lm, lm), (), "tiny")
        return Workbench((composed,), DataFolder(tmp_path), Cache(tmp_path / "cache"), lambda *_: None)

    return bench


def _put(path: Path, some: list[str]) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in some).encode()))


def of(part: Part, key: str, way: str, name: str) -> float | None:
    return part.measures[f"drafts, {key}"][f"{way}: {name}, greedy"].value


def test_the_memory_of_the_domain_guesses_best(make: Make, tiny_lm: CausalLM) -> None:
    part = measure_drafts(make(tiny_lm), SMALL)
    table, picture = part.sections[0].blocks
    assert isinstance(picture, Intervals)
    assert picture.series == (LOOKUP, SAME, OTHER)
    assert isinstance(table, Table)
    assert [row[:2] for row in table.rows] == [
        (f"{name}, greedy", way) for name in WORDS for way in (LOOKUP, SAME, OTHER)
    ]  # fmt: skip
    acceptance, others = of(part, "acceptance", SAME, "toys"), of(part, "acceptance", OTHER, "toys")
    assert acceptance is not None
    assert acceptance > 0.5
    assert others is None or others < acceptance
    passes = of(part, "tokens per pass", SAME, "toys")
    assert passes is not None
    assert passes > 1.5
    assert all(e.value is not None and e.value > 0 for e in part.measures["drafts, speed-up"].values())
    assert not any("float32" in line for line in part.cautions)  # guesses change no text
    assert any("3 prompts of a domain are too few to rank" in line for line in part.cautions)
    assert len(part.headlines) == 2


def test_tokens_per_pass_are_those_of_the_texts(make: Make, tiny_lm: CausalLM) -> None:
    bench = make(tiny_lm)
    part = measure_drafts(bench, SMALL)
    kept = [json.loads(file.read_text()) for file in Path(bench.cache.folder or "").glob("*.json")]
    [found] = [k["value"] for k in kept if k["key"].get("what") == "drafts" and k["key"]["name"] == "toys, greedy"]
    assert found["tokens"][SAME] == found["tokens"][NONE] == found["tokens"][LOOKUP]
    written = sum(len(row) - 1 for row in found["tokens"][SAME])
    passes = sum(counts[0] for counts in found["counts"][SAME])
    assert of(part, "tokens per pass", SAME, "toys") == pytest.approx(written / passes)
    assert all(counts[3] == len(row) for counts, row in zip(found["counts"][SAME], found["tokens"][SAME], strict=True))


def test_a_run_that_was_broken_writes_nothing_again(make: Make, tiny_lm: CausalLM) -> None:
    bench = make(tiny_lm)
    part = measure_drafts(bench, SMALL)
    before = tiny_lm.num_tokens_read
    assert measure_drafts(bench, SMALL) == part
    assert tiny_lm.num_tokens_read == before


def test_texts_that_guesses_change_are_said(make: Make, tiny_lm: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken speculation that loses its last token."""
    right = drafted._write

    def broken(*arguments: object) -> object:
        tokens, counts = right(*arguments)  # type: ignore[arg-type]
        return (tokens if arguments[2] is None else tokens[:-1]), counts

    monkeypatch.setattr(drafted, "_write", broken)
    part = measure_drafts(make(tiny_lm), SMALL)
    assert any(line.startswith("toys, greedy: in float32, 9 of 9 texts") for line in part.cautions)


def test_other_number_formats_are_checked_in_float32(
    make: Make, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = read_model(str(tiny_folder), dtype="bfloat16", device="cpu")
    formats = []
    right = drafted._write

    def watched(factor: CausalLM, *arguments: object) -> object:
        formats.append(factor.model.dtype)
        return right(factor, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(drafted, "_write", watched)
    part = measure_drafts(make(lm), SMALL.model_copy(update={"num_checked": 2}))
    assert formats.count(torch.float32) == 2 * 2 * 4  # domains, prompts, ways
    assert not any("in float32" in line for line in part.cautions)


def test_too_few_test_documents(make: Make, tiny_lm: CausalLM) -> None:
    with pytest.raises(InputError, match="7 test documents of 6 tokens are needed, toys has 6"):
        measure_drafts(make(tiny_lm), SMALL.model_copy(update={"num_prompts": 6}))
