"""The part `generation`: its numbers against cases worked by hand and slow twins, and a whole run on a tiny model."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from factorlm.algebra import pad_left, pad_right
from factorlm.errors import InputError, UnknownNameError
from factorlm.evaluation import mauve
from factorlm.evaluation.continuations import Variety
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.document import Scatter, Table
from factorlm.evaluation.generated import HUMAN
from factorlm.evaluation.memories import generation_nearness, generation_texts
from factorlm.evaluation.memories.domains import Domain, Texts
from factorlm.evaluation.memories.generation import Generation, measure_generation
from factorlm.evaluation.memories.generation_mixtures import (
    INFINI,
    MODEL,
    NEIGHBOURS,
    SURE,
    Mixed,
    Mixing,
    mixed,
    stored_texts,
)
from factorlm.evaluation.memories.generation_nearness import CONTROL, OTHERS, nearness
from factorlm.evaluation.memories.generation_observed import observe
from factorlm.evaluation.memories.generation_texts import windows_of
from factorlm.evaluation.part import Part
from factorlm.evaluation.texts import Corpus
from factorlm.evaluation.workbench import Cache, Workbench
from factorlm.inference import Model
from factorlm.inference.expression import Composed
from factorlm.memory.datastore import NeighbourSettings
from factorlm.memory.gates import TableGate
from factorlm.memory.weighing import Weighing
from factorlm.models import CausalLM
from factorlm.models.loading import read_model

WORDS = ["the good ", "the bad ", "in the bag ", "a good dog ", "an old cat, ", "no end. ", "who did it? "]
ROUNDING = 2e-4  # nats: what was read is kept to six digits, and the model reads other batches in float32


def texts(num: int, seed: int, words: tuple[int, int] = (12, 20)) -> list[str]:
    chance = random.Random(seed)
    return ["".join(chance.choices(WORDS, k=chance.randint(*words))).strip() for _ in range(num)]


def part_of(name: str) -> Texts:
    return Texts(corpus=Corpus(part=f"toy/{name}", max_documents=None, max_characters=None))


DOMAIN = Domain(name="toys", stored=part_of("stored"), valid=part_of("valid"), test=part_of("test"))
MIXING = Mixing(
    num_stored=12, weighing=Weighing(window=32, num_tokens=300, cells=3), k=6, caps=(0.2,), least=2,
    neighbours=NeighbourSettings(window=32, batch_tokens=256),
)  # fmt: skip
SMALL = Generation(domain=DOMAIN, mixing=MIXING, num_read=9, num_prompts=32, prefix=10, new_tokens=36, words=4,
                   read_characters=60)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    folder = tmp_path_factory.mktemp("toys")
    (folder / "toy").mkdir()
    for seed, (name, number) in enumerate({"stored": 14, "valid": 14, "test": 16}.items()):
        rows = "".join(json.dumps({"text": text}) + "\n" for text in texts(number, seed))
        (folder / f"toy/{name}.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    return DataFolder(folder)


@pytest.fixture(scope="module")
def talking_lm(tiny_folder: Path) -> CausalLM:
    """The tiny model, but that it rarely ends a text."""
    lm = read_model(str(tiny_folder), dtype="float32", device="cpu")
    with torch.no_grad():
        lm.model.lm_head.weight[list(lm.vocabulary.end_ids)] = 0.0
    return lm


@pytest.fixture(scope="module")
def bench(data: DataFolder, talking_lm: CausalLM, tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    composed = Composed("tiny", Model(talking_lm, talking_lm), (), "tiny")
    return Workbench((composed,), data, Cache(tmp_path_factory.mktemp("cache")), lambda *_: None)


@pytest.fixture(scope="module")
def toys(bench: Workbench, talking_lm: CausalLM) -> Mixed:
    return mixed(bench, talking_lm, DOMAIN, MIXING)


def vectors(bench: Workbench, some: list[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Counts of letters, of length one: stands for the sentence encoder."""
    count_BD = np.array([[text.count(letter) + 0.1 for letter in "abdeghinot ,."] for text in some])
    return np.asarray(count_BD / np.linalg.norm(count_BD, axis=1, keepdims=True))


@pytest.fixture(scope="module")
def part(bench: Workbench, toys: Mixed) -> Part:
    with pytest.MonkeyPatch.context() as patch:
        for module in (generation_nearness, generation_texts):
            patch.setattr(module, "sentence_vectors", vectors)
        patch.setattr(mauve, "is_installed", lambda: False)
        return measure_generation(bench, SMALL)


# What model and memories say


def test_what_is_observed_is_what_each_says_alone(bench: Workbench, toys: Mixed, talking_lm: CausalLM) -> None:
    lengths = zip(texts(3, 9), (11, 4, 1), strict=True)
    rows = [([*talking_lm.start_ids], talking_lm.encode_text(text)[:n]) for text, n in lengths]
    found = observe(bench, talking_lm, toys.memories, toys.marks, rows, "reading")
    for (prefix, ids), observed in zip(rows, found, strict=True):
        want = talking_lm.score(torch.tensor([prefix]), torch.tensor([ids]))[0]
        np.testing.assert_allclose(observed.model.log_prob_T, want.numpy(), atol=ROUNDING)
        for name, memory in toys.memories.items():
            told = observed.memories[name]
            for t, recalled in enumerate(memory.recollect(prefix, ids)):
                assert np.exp(told.log_prob_T[t]) == pytest.approx(recalled.prob, abs=ROUNDING)
                assert told.feature_TF[t] == pytest.approx(list(recalled.features.values()), abs=1e-2)
                if "entropy" in recalled.features:
                    assert told.entropy_T[t] == pytest.approx(recalled.features["entropy"], abs=1e-2)
        assert observed.model.kl_T.size == 0


def test_the_loss_of_a_mixture_is_that_of_the_model_that_writes(
    bench: Workbench, toys: Mixed, talking_lm: CausalLM
) -> None:
    """The twin: the composition itself, whose memory looks things up and weighs them anew."""
    rows = [([*talking_lm.start_ids], talking_lm.encode_text(text)[:10]) for text in texts(4, 5)]
    found = observe(bench, talking_lm, toys.memories, toys.marks, rows, "reading")
    prefix_BT, text_BT = pad_left([p for p, _ in rows]), pad_right([ids for _, ids in rows])
    for name, mixture in toys.mixtures.items():
        want_BT = toys.composed(name).model.factor.score(prefix_BT, text_BT)
        got_BT = np.stack([mixture.log_prob(observed) for observed in found])
        np.testing.assert_allclose(got_BT, want_BT.numpy(), atol=ROUNDING)


def test_a_mixture_that_is_heard_where_it_is_sure_is_the_model_elsewhere(
    bench: Workbench, toys: Mixed, talking_lm: CausalLM
) -> None:
    [observed] = observe(bench, talking_lm, toys.memories, toys.marks,
                         [([*talking_lm.start_ids], talking_lm.encode_text(texts(1, 5)[0]))], "reading")  # fmt: skip
    for memory, is_sure_T in (
        (NEIGHBOURS, observed.memories[NEIGHBOURS].feature_TF[:, 2] >= MIXING.sure),
        (INFINI, (observed.memories[INFINI].feature_TF[:, [0, 2]] >= [MIXING.least, 0.5]).all(1)),
    ):
        mixture = toys.mixtures[f"{memory}, {SURE}"]
        assert isinstance(mixture.gate, TableGate)
        assert is_sure_T.any()
        assert not is_sure_T.all()
        assert (mixture.weight(observed) > 0).tolist() == is_sure_T.tolist()
        gain_T = mixture.log_prob(observed) - observed.model.log_prob_T
        assert (gain_T[~is_sure_T] == 0).all()


def test_a_cap_is_never_passed(bench: Workbench, toys: Mixed, talking_lm: CausalLM) -> None:
    [observed] = observe(bench, talking_lm, toys.memories, toys.marks,
                         [([*talking_lm.start_ids], talking_lm.encode_text(texts(1, 5)[0]))], "reading")  # fmt: skip
    assert toys.mixtures[f"{INFINI}, at most 0.2"].weight(observed).max() == pytest.approx(0.2)
    assert toys.mixtures[INFINI].weight(observed).max() > 0.2


def test_stored_texts_end_at_the_last_character(bench: Workbench) -> None:
    everything = DOMAIN.stored.load(bench.data)
    assert stored_texts(bench, DOMAIN, 3, 10**6) == everything[:3]
    few = stored_texts(bench, DOMAIN, 14, len(everything[0]) + 30)
    assert len(few) == 2
    assert few[0] == everything[0]
    assert everything[1].startswith(few[1])
    assert 20 <= len(few[1]) <= 30


# What was written


def test_windows_are_the_text_and_every_text_comes_once_before_any_comes_twice(talking_lm: CausalLM) -> None:
    some = texts(5, 1)
    found = windows_of(talking_lm, some, 12, 10, 8)
    assert len(found) == 8
    assert [prompt.unit for prompt in found[:5]] == ["0", "1", "2", "3", "4"]
    for prompt in found[:5]:
        text = talking_lm.vocabulary.text(talking_lm.encode_text(some[int(prompt.unit)]))
        assert text.startswith(prompt.text + prompt.human)
        assert prompt.human[0].isspace()  # the prompt ends where a word does
        assert 1 <= len(talking_lm.encode_text(prompt.text)) <= 12
        assert len(talking_lm.encode_text(prompt.human)) == 10
    assert windows_of(talking_lm, ["the good"], 12, 10, 8) == []


def sides_of(shift: float) -> list[Variety]:
    """A model and human text, a shift apart in one direction; without a shift they are the same."""
    chance = np.random.default_rng(3)
    human_BD, model_BD = chance.normal(size=(2, 60, 8))
    model_BD = model_BD + np.eye(8)[0] * shift if shift else human_BD
    units = [str(n) for n in range(60)]
    return [Variety(units, {}, np.zeros(9), np.zeros((0, 9)), x[None]) for x in (model_BD, human_BD)]


@pytest.mark.parametrize(("shift", "has_power"), [(6.0, True), (0.0, False)])
def test_the_control_shows_whether_nearness_can_be_seen(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, shift: float, has_power: bool
) -> None:
    """A model whose texts lie far from human ones is mended by human ones; one that writes them already cannot be."""
    others_BD = np.random.default_rng(7).normal(size=(60, 8))
    monkeypatch.setattr(generation_nearness, "sentence_vectors", lambda bench, some: others_BD)
    monkeypatch.setattr(mauve, "is_installed", lambda: False)
    near = nearness(bench, [MODEL], ["a"] * 60, sides_of(shift))
    assert near.has_power is has_power
    assert set(near.of) == {MODEL, CONTROL, OTHERS}
    assert near.n == 60
    if has_power:
        assert max(near.of[OTHERS].value, near.of[CONTROL].value) < near.of[MODEL].value
    assert nearness(bench, [MODEL], [], [cut_to(side, 30) for side in sides_of(shift)]).has_power is None


def cut_to(side: Variety, number: int) -> Variety:
    return Variety(side.unit_P[:number], {}, side.whole_M, side.deleted_GM, side.vector_SPD[:, :number])


# All together


def test_the_part_answers_both_questions(part: Part) -> None:
    assert [section.title for section in part.sections] == [
        "Likelihood and writing", "Human text", "Written texts", "Entropy along texts",
    ]  # fmt: skip
    verdicts = part.sections[0].blocks[0]
    assert isinstance(verdicts, Table)
    assert [row[0] for row in verdicts.rows] == [INFINI, NEIGHBOURS, f"{NEIGHBOURS}, {SURE}"]
    assert {row[1] for row in verdicts.rows} <= {"yes", "not shown"}
    assert {row[3] for row in verdicts.rows} == {"cannot be told"}  # too few texts for a control with an interval
    gain = part.measures["generation, gain in nats per token"]
    losses = part.measures["generation, nats per token"]
    for name, found in gain.items():
        assert found.value == pytest.approx(losses[MODEL].value - losses[name].value, abs=1e-6)  # type: ignore[operator]
        assert found.n == SMALL.num_read
    won, lost = (part.measures[f"generation, share of tokens that {way}"] for way in ("gain", "lose"))
    assert all(0 < won[name].value + lost[name].value <= 1 + 1e-9 for name in won)  # type: ignore[operator]
    assert len(part.headlines) == 5
    assert any("under 500" in line for line in part.cautions)
    assert any(("frontier" in line and "control" in line) or "no power" in line for line in part.cautions)


def test_the_part_has_texts_of_all_who_write(part: Part) -> None:
    for key in ("diversity of a text", "perplexity under the model", "longest run that is stored"):
        found = part.measures[f"generation, {key}"]
        assert list(found) == [MODEL, INFINI, NEIGHBOURS, f"{NEIGHBOURS}, {SURE}", HUMAN]
        assert all(estimate.value is not None for estimate in found.values())
    # Toy texts repeat a few phrases, so that human ones stand in the store word for word, and a random model's do not.
    longest = part.measures["generation, longest run that is stored"]
    assert longest[HUMAN].value > longest[INFINI].value > longest[MODEL].value  # type: ignore[operator]
    drift = part.measures["generation, drift of entropy"]
    assert f"{NEIGHBOURS} on texts of {NEIGHBOURS}" in drift
    assert f"{INFINI} on texts of {NEIGHBOURS}" not in drift
    frontier = next(block for block in part.sections[1].blocks if isinstance(block, Scatter))
    assert [len(series.labels) for series in frontier.series] == [4, 4]


def test_a_run_that_was_broken_reads_nothing_again(
    bench: Workbench, part: Part, talking_lm: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (generation_nearness, generation_texts):
        monkeypatch.setattr(module, "sentence_vectors", vectors)
    monkeypatch.setattr(mauve, "is_installed", lambda: False)
    before = talking_lm.num_tokens_read
    assert measure_generation(bench, SMALL) == part
    assert talking_lm.num_tokens_read == before


def test_a_mixture_that_there_is_not(bench: Workbench) -> None:
    with pytest.raises(UnknownNameError, match="kNM"):
        measure_generation(bench, SMALL.model_copy(update={"written": ("kNM",)}))


def test_texts_too_short_to_be_continued(bench: Workbench) -> None:
    with pytest.raises(InputError, match="219 tokens are needed, got none"):
        measure_generation(bench, SMALL.model_copy(update={"prefix": 200, "new_tokens": 19}))
