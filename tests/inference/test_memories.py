"""Memories in compositions: mixed in, multiplied on, guessing ahead, and what they recall."""

from pathlib import Path

import pytest
import torch

from factorlm.algebra import Backoff, LocalProduct, Power, Product, laws
from factorlm.errors import InputError, UnknownNameError
from factorlm.inference import Model, Sampling
from factorlm.inference.expression import compose
from factorlm.inference.memories import draft_of, memories_in, memory_at, memory_factor, remember
from factorlm.inference.model import interpolate
from factorlm.inference.page import page
from factorlm.memory.building import BuildSettings, build
from factorlm.memory.card import FittedGate, keep_gate, mark_of
from factorlm.memory.corpus import CorpusSettings
from factorlm.memory.gates import ConstantGate
from factorlm.models import CausalLM

LINES = ["the good dog is in the bag", "the bad cat is in the good bag", "a good day is in the bad bag"]
FLOAT = 2e-4  # of a model in float32, whose rows are read in batches of other sizes


@pytest.fixture(scope="module")
def folder(tiny_lm: CausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("memory")
    (place / "lines.txt").write_text("\n".join(LINES * 3))
    settings = BuildSettings(corpus=CorpusSettings(documents="lines"))
    build(
        [place / "lines.txt"], place / "idx", tiny_lm.encode_texts, mark_of(tiny_lm, with_encoder=False),
        tiny_lm.vocabulary.size, settings,
    )  # fmt: skip
    for name, weight in (("", 0.6), ("shy", 0.1)):
        gate = FittedGate(
            gate=ConstantGate(weight=weight), model="tiny", text="t", num_tokens=1, model_nats=1, mixed_nats=1
        )
        keep_gate(place / "idx", name, gate)
    return place / "idx"


@pytest.fixture
def model(tiny_lm: CausalLM) -> Model:
    return Model(tiny_lm, tiny_lm)


def rows(lm: CausalLM, texts: list[str]) -> tuple[list[list[int]], torch.Tensor]:
    ids = [[*lm.start_ids, *lm.encode_text(text)] for text in texts]
    return ids, torch.tensor([row[:1] for row in ids])


def test_a_memory_is_mixed_into_the_base_under_the_factors(model: Model, folder: Path, make_head: object) -> None:
    head = make_head(0)  # type: ignore[operator]
    lm = model.lm
    mixed = remember(model * head**1.5, folder)
    by_hand = LocalProduct(Product((Backoff((memory_at(folder, lm), lm)), Power(head, 1.5))))
    text = "the good dog is bad"
    prompt_ids = torch.tensor([[*lm.start_ids, *lm.encode_text("the ")]])
    text_BT = torch.tensor([lm.encode_text(text)])
    want = by_hand.score(prompt_ids, text_BT).sum()
    assert mixed.score(text, prompt="the ")[0].log_prob == pytest.approx(float(want), abs=FLOAT)
    assert [memory.name for memory in memories_in(mixed.factor)] == ["idx"]


def test_weights_are_named_and_capped(model: Model, folder: Path) -> None:
    lm, prefix_BT = model.lm, torch.tensor([[*model.lm.start_ids, *model.lm.encode_text("the good")]])
    said = {
        place: float(memory_at(place, lm, most).start(prefix_BT).log_weight_BV.logsumexp(-1).exp())
        for place, most in ((str(folder), 1.0), (f"{folder}@shy", 1.0), (str(folder), 0.2))
    }
    assert said[f"{folder}@shy"] == pytest.approx(0.1)
    assert memory_at(folder, lm).gate == ConstantGate(weight=0.6)
    assert said[str(folder)] == pytest.approx(0.2)
    with pytest.raises(UnknownNameError, match="index weigh"):
        memory_at(f"{folder}@bold", lm)
    with pytest.raises(InputError, match="index build makes one"):
        memory_at(folder.parent, lm)


def test_as_a_factor_it_is_the_mixture_at_one_and_bans_nothing(model: Model, folder: Path) -> None:
    text = "the good dog is in a cat"
    factor = memory_factor(model.lm, memory_at(folder, model.lm))
    at_one = (model * factor).score(text)[0].log_prob
    assert at_one == pytest.approx(remember(model, folder).score(text)[0].log_prob, abs=FLOAT)
    nats = [-(model * factor**a).score(text)[0].log_prob for a in (-2.0, 0.0, 2.0)]
    assert nats[0] > nats[1] > nats[2]  # the corpus has such texts
    assert -model.score(text)[0].log_prob == pytest.approx(nats[1], abs=FLOAT)
    unlike = -(model * factor**-2.0).score("a")[0].log_prob
    assert unlike < 50  # nothing became impossible
    prefixes = [[0], [0, 5, 6]]
    laws.check(factor, prefixes, [[5, 6], [7, 8]], tolerance=FLOAT)


def test_guesses_change_no_text(model: Model, folder: Path) -> None:
    mixed = remember(model, folder, most=0.6)
    draft = draft_of(model.lm, folder)
    sampling = Sampling(temperature=0.7)
    for prompt in ("the good ", "a bad cat"):
        plain = mixed.generate(prompt, n=2, max_tokens=12, seed=3, sampling=sampling)
        run = mixed.stream(prompt, n=2, max_tokens=12, seed=3, sampling=sampling, draft=draft)
        for _ in run:
            pass
        assert [r.token_ids for r in run.responses()] == [r.token_ids for r in plain]
    assert run.tally.num_right > 0


def test_explanations_recall_where_tokens_stand(model: Model, folder: Path) -> None:
    [response] = remember(model, folder, most=0.9).generate("the good dog", max_tokens=5, seed=0, explain=True)
    [recalled] = response.recalled
    assert recalled.name == "idx"
    assert len(recalled.recollections) == len(response.token_ids)
    first = recalled.recollections[0]
    assert first.features["suffix length"] == len(model.lm.encode_text("the good dog")) + 1  # from the start on
    assert first.weight == pytest.approx(0.6)
    found = recalled.as_json()
    assert found[0]["sources"][0]["path"].endswith("lines.txt")
    assert found[0]["sources"][0]["line"] in (1, 4, 7)
    assert "good dog" in found[0]["sources"][0]["match"]
    assert remember(model, folder).generate("the", max_tokens=2)[0].recalled == ()
    assert response.explanation is not None
    shown = page("Here", [response.explanation], [None], [response.recalled])
    assert "Memory: idx" in shown
    assert "lines.txt:" in shown
    assert "background:" in shown


def test_expressions_know_memories(folder: Path, tiny_folder: Path, tiny_lm: CausalLM) -> None:
    name = f'"{tiny_folder}"'
    mixed = compose(f'remember({name}, "{folder}@shy": 0.05)', dtype="float32")
    [memory] = memories_in(mixed.model.factor)
    assert (memory.gate, memory.most) == (ConstantGate(weight=0.1), 0.05)
    assert [part["kind"] for part in mixed.parts] == ["model", "memory"]
    times = compose(f'{name} * "{folder}"^-1', dtype="float32")
    text = "the good dog"
    want = times.model.score(text)[0].log_prob
    by_hand = Model(tiny_lm, tiny_lm) * memory_factor(tiny_lm, folder) ** -1.0
    assert want == pytest.approx(by_hand.score(text)[0].log_prob, abs=FLOAT)
    plain = compose(name, dtype="float32")
    assert len({mixed.fingerprint, times.fingerprint, plain.fingerprint}) == 3
    for bad, message in (
        (f"remember({name})", "a composition and its memories"),
        (f'remember({name}: 2, "{folder}")', "a composition and its memories"),
        (f"remember({name}, {name})", "the folder of a memory is needed"),
    ):
        with pytest.raises(InputError, match=message):
            compose(bad)


def test_mixtures_of_memories_nest(model: Model, folder: Path) -> None:
    lm = model.lm
    twice = remember(remember(model, memory_at(f"{folder}@shy", lm)), memory_at(folder, lm, 0.3))
    text = "the good cat"
    inner = remember(model, memory_at(f"{folder}@shy", lm))
    memory = Model(memory_at(folder, lm).ungated, lm)
    want = interpolate([memory, inner], [0.3, 0.7])
    assert twice.score(text)[0].log_prob == pytest.approx(want.score(text)[0].log_prob, abs=FLOAT)
