"""The part `imitation` on a tiny model: losses against the card's own numbers, cases worked by hand, times, space."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest

from factorlm.errors import InputError
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.document import Curve, Table
from factorlm.evaluation.memories.domains import Domain, Texts
from factorlm.evaluation.memories.generation_mixtures import MODEL, NEIGHBOURS, ONE, Mixture
from factorlm.evaluation.memories.generation_observed import Observed, Told
from factorlm.evaluation.memories.imitation import Imitation, measure_imitation
from factorlm.evaluation.memories.imitation_losses import CONTROL, IMITATOR, LEARNED, Arms, losses_part
from factorlm.evaluation.memories.imitation_speed import ImitationSpeed
from factorlm.evaluation.part import Part
from factorlm.evaluation.texts import Corpus
from factorlm.evaluation.workbench import Cache, Workbench
from factorlm.inference import Model
from factorlm.inference.expression import Composed
from factorlm.memory.card import read_card
from factorlm.memory.datastore import NeighbourSettings
from factorlm.memory.gates import ConstantGate
from factorlm.memory.mlp import MlpCard, MlpSettings
from factorlm.memory.weighing import Weighing
from factorlm.models import CausalLM

WORDS = ["the good ", "the bad ", "in the bag ", "a good dog ", "an old cat, ", "no end. ", "who did it "]
NAMES = [f"{name}, {title}" for name in (NEIGHBOURS, IMITATOR, CONTROL) for title in (ONE, LEARNED)]


def part_of(name: str) -> Texts:
    return Texts(corpus=Corpus(part=f"toy/{name}", max_documents=None, max_characters=None))


SMALL = Imitation(
    domain=Domain(name="toys", stored=part_of("stored"), valid=part_of("valid"), test=part_of("test")),
    num_stored=20, neighbours=NeighbourSettings(window=32, batch_tokens=256), k=6,
    weighing=Weighing(kind="logistic", window=32, num_tokens=300),
    mlp=MlpSettings(blocks=1, inner=24, rising=5, batch=128, epochs=6, held_share=0.2, checkpoint_every=9,
                    learning_rate=3e-3),
    num_read=9, read_characters=60, speed=ImitationSpeed(texts=2, read_tokens=8, new_tokens=2, repeats=3),
)  # fmt: skip


@pytest.fixture(scope="module")
def bench(tiny_lm: CausalLM, tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    folder = tmp_path_factory.mktemp("toys")
    (folder / "toy").mkdir()
    for seed, name in enumerate(("stored", "valid", "test")):
        chance = random.Random(seed)
        some = ["".join(chance.choices(WORDS, k=chance.randint(8, 16))) for _ in range(20)]
        rows = "".join(json.dumps({"text": text}) + "\n" for text in some)
        (folder / f"toy/{name}.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    composed = Composed("tiny", Model(tiny_lm, tiny_lm), (), "tiny")
    return Workbench((composed,), DataFolder(folder), Cache(folder / "cache"), lambda *_: None)


@pytest.fixture(scope="module")
def part(bench: Workbench) -> Part:
    return measure_imitation(bench, SMALL)


def test_losses_of_all_arms(part: Part) -> None:
    losses, gains, kept = (
        part.measures[f"imitation, {key}"]
        for key in ("nats per token", "gain in nats per token", "share of the teacher's gain")
    )
    assert list(losses) == [MODEL, *NAMES]
    for name in NAMES:
        assert gains[name].value == pytest.approx(losses[MODEL].value - losses[name].value, abs=1e-6)  # type: ignore[operator]
        assert gains[name].value > 0.5  # type: ignore[operator]  # a random model has much to learn from toys
        assert gains[name].n == SMALL.num_read
    assert kept[f"{NEIGHBOURS}, {ONE}"].value == pytest.approx(1)
    for title in (ONE, LEARNED):
        want = gains[f"{IMITATOR}, {title}"].value / gains[f"{NEIGHBOURS}, {title}"].value  # type: ignore[operator]
        assert kept[f"{IMITATOR}, {title}"].value == pytest.approx(want)


def test_who_imitates_comes_nearer_to_the_teacher(part: Part) -> None:
    kl = part.measures["imitation, divergence from the teacher"]
    assert list(kl) == [MODEL, IMITATOR, CONTROL]
    assert kl[IMITATOR].value < kl[MODEL].value  # type: ignore[operator]


def test_the_control_learns_with_equal_settings_but_no_teacher(bench: Workbench, part: Part) -> None:
    [curve] = [block for block in part.sections[0].blocks if isinstance(block, Curve)]
    places = sorted((Path(bench.cache.folder or "") / "memories").glob("mlp-*"))
    cards = {read_card(place, MlpCard).settings.alpha: read_card(place, MlpCard) for place in places}
    assert sorted(cards) == [0.0, SMALL.mlp.alpha]
    with_teacher, without = cards[SMALL.mlp.alpha], cards[0.0]
    assert with_teacher.settings.model_copy(update={"alpha": 0.0}) == without.settings
    assert with_teacher.num_parameters == without.num_parameters
    assert with_teacher.settings.looking.k == SMALL.k
    for series, card in zip(curve.series, (with_teacher, without), strict=True):
        assert series.y == tuple(check.kl for check in card.checks)


def test_times_and_space(bench: Workbench, part: Part) -> None:
    for work in ("reading", "writing"):
        seconds = part.measures[f"imitation, seconds of {work} for 1,000 tokens"]
        assert list(seconds) == [MODEL, NEIGHBOURS, IMITATOR, CONTROL]
        assert all(estimate.value > 0 for estimate in seconds.values())  # type: ignore[operator]
    assert list(part.measures["imitation, time of looking up over that of the teacher"]) == [IMITATOR, CONTROL]
    size = part.measures["imitation, bytes on disk"]
    [store] = (Path(bench.cache.folder or "") / "memories").glob("knn-*")
    assert size[NEIGHBOURS].value == sum(file.stat().st_size for file in store.iterdir())
    assert any("too few for intervals of times" in line for line in part.cautions)


def test_a_run_that_was_broken_goes_on(bench: Workbench, part: Part, tiny_lm: CausalLM) -> None:
    before = tiny_lm.num_tokens_read
    assert measure_imitation(bench, SMALL) == part
    assert tiny_lm.num_tokens_read == before


def test_losses_by_hand(tiny_lm: CausalLM) -> None:
    """The teacher gains log 4/3 on every token; the network half of the documents as much, the control nothing."""
    observed = []
    for document in range(8):
        tokens = 2 + document

        def told(prob: float, kl: float, tokens: int = tokens) -> Told:
            return Told(np.full(tokens, np.log(prob)), np.ones(tokens), np.zeros((tokens, 1)), np.full(tokens, kl))

        network = told(0.5 if document % 2 else 0.25, 0.3)
        memories = {NEIGHBOURS: told(0.5, 0.0), IMITATOR: network, CONTROL: told(0.25, 0.4)}
        observed.append(Observed(told(0.25, 0.6), memories))
    gate = ConstantGate(weight=1 / 3)
    mixtures = [Mixture(name, name.partition(", ")[0], gate) for name in NAMES]
    card = MlpCard.model_construct(
        num_documents=1, num_tokens=2, num_parameters=3, settings=SMALL.mlp, checks=(), model_nats=1.0
    )  # fmt: skip
    part = losses_part(Arms(tiny_lm, dict.fromkeys((NEIGHBOURS, IMITATOR, CONTROL)), {}, {}, {IMITATOR: card}),  # type: ignore[arg-type]
                       mixtures, observed, 0)  # fmt: skip
    gain = np.log(4 / 3)
    assert part.measures["imitation, gain in nats per token"][NAMES[0]].value == pytest.approx(gain)
    odd, total = sum(2 + d for d in range(1, 8, 2)), sum(2 + d for d in range(8))
    assert part.measures["imitation, share of the teacher's gain"][NAMES[2]].value == pytest.approx(odd / total)
    assert part.measures["imitation, share of the teacher's gain"][NAMES[4]].value == pytest.approx(0, abs=1e-9)
    kl = part.measures["imitation, divergence from the teacher"]
    assert [kl[name].value for name in (MODEL, IMITATOR, CONTROL)] == pytest.approx([0.6, 0.3, 0.4])
    table = part.sections[0].blocks[0]
    assert isinstance(table, Table)
    assert len(table.rows) == 7


def test_a_network_cannot_learn_from_projections(bench: Workbench) -> None:
    with pytest.raises(InputError, match="set width to 0"):
        measure_imitation(bench, SMALL.model_copy(update={"neighbours": NeighbourSettings(width=8)}))
