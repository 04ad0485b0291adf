import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from factorlm.algebra import Backoff, laws, log_normalize, pad_left, pad_right
from factorlm.errors import IncompatibleError, InputError, IntegrityError
from factorlm.memory import mlp_targets
from factorlm.memory.card import read_card
from factorlm.memory.corpus import Document, Troubles
from factorlm.memory.datastore import Datastore, Looking, NeighbourSettings
from factorlm.memory.gates import ConstantGate
from factorlm.memory.mlp import WEIGHTS, MlpCard, MlpMemory, MlpNetwork, MlpSettings, open_mlp
from factorlm.memory.mlp_targets import Lesson, find_targets, merged, sparse_kl, sparse_loss
from factorlm.memory.mlp_training import train_mlp
from factorlm.memory.neighbour_building import build_neighbours, remove_neighbours
from factorlm.memory.neighbours import open_neighbours
from factorlm.models import CausalLM

WORDS = ["the good ", "the bad ", "in the bag ", "a good dog ", "an old cat, ", "no end. ", "who did it? "]
SMALL = MlpSettings(
    blocks=2, inner=48, looking=Looking(k=6, temperature=0.2), learning_rate=3e-3, rising=5, batch=128, epochs=6,
    held_share=0.2, checkpoint_every=4,
)  # fmt: skip
# Logits of one state in another batch differ by float32 rounding of a product of 32 numbers of size ten or so.
ROUNDING = 1e-4


def texts(num: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    return ["".join(chance.choices(WORDS, k=chance.randint(3, 9))) for _ in range(num)]


def build(lm: CausalLM, some: list[str], target: Path, **changes: int) -> Datastore:
    settings = NeighbourSettings(window=32, batch_tokens=256, **changes)
    documents = [Document(text, "file.txt", n + 1) for n, text in enumerate(some)]
    build_neighbours(lm, documents, target, settings, troubles=Troubles())
    return Datastore.open(target)


@pytest.fixture(scope="module")
def store(tiny_lm: CausalLM, tmp_path_factory: pytest.TempPathFactory) -> Datastore:
    return build(tiny_lm, texts(40), tmp_path_factory.mktemp("mlp") / "store")


@pytest.fixture(scope="module")
def folder(tiny_lm: CausalLM, store: Datastore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("mlp") / "memory"
    train_mlp(tiny_lm, store.path, target, SMALL)
    return target


@pytest.fixture
def memory(tiny_lm: CausalLM, folder: Path) -> MlpMemory:
    return open_mlp(folder, tiny_lm)


# What is imitated


def test_targets_are_what_the_neighbours_say_without_the_state_itself(
    tiny_lm: CausalLM, store: Datastore, tmp_path: Path
) -> None:
    """The twin: a memory that does not look at the entry, whose distribution is dense."""
    allowed_N = store.without({2, 5})
    entry_N = torch.tensor([0, 1, 40, 41, 200, 399])
    targets = find_targets(store, entry_N, allowed_N, SMALL.looking, tmp_path / "t", lambda *_: None)
    token_NK, weight_NK = targets.rows(torch.arange(len(entry_N)))
    for entry, token_K, weight_K in zip(entry_N.tolist(), token_NK, weight_NK, strict=True):
        others_N = allowed_N.copy()
        others_N[entry] = False
        distance_N = (store.key_NW.float() - store.key_NW[entry].float()).square().sum(1)
        near = sorted((float(distance_N[n]), n) for n in np.flatnonzero(others_N))[: SMALL.looking.k]
        want_V = torch.zeros(tiny_lm.vocabulary.size, dtype=torch.float64)
        for distance, n in near:
            want_V[int(store.value_N[n])] += np.exp(-(distance - near[0][0]) / SMALL.looking.temperature)
        got_V = torch.zeros_like(want_V).scatter_add_(0, token_K, weight_K.double())
        torch.testing.assert_close(got_V, want_V / want_V.sum(), rtol=0, atol=1e-4)


def test_a_twin_of_the_state_teaches_though_it_is_at_no_distance(tiny_lm: CausalLM, tmp_path: Path) -> None:
    """One text stored twice: only the entry of that number is dropped."""
    twice = build(tiny_lm, [texts(1)[0]] * 2, tmp_path / "s")
    half = twice.card.num_entries // 2
    looking = Looking(k=1, temperature=0.1)
    everything = np.ones(2 * half, bool)
    targets = find_targets(twice, torch.arange(1, half), everything, looking, tmp_path / "t", lambda *_: None)
    token_NK, weight_NK = targets.rows(torch.arange(half - 1))
    assert token_NK[:, 0].tolist() == twice.value_N[1:half].tolist()
    assert weight_NK.tolist() == [[1.0]] * (half - 1)


def test_merged_tokens_stand_once() -> None:
    token_NK, weight_NK = merged(torch.tensor([[3, 5, 3, 7]]), torch.tensor([[0.3, 0.2, 0.4, 0.1]]))
    assert weight_NK[0].tolist() == pytest.approx([0.7, 0.2, 0.1, 0])
    assert token_NK[0, :3].tolist() == [3, 5, 7]


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_the_sparse_loss_and_its_gradient_are_those_of_the_dense_one(alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    share_NK = torch.rand(7, 4, generator=generator, dtype=torch.float64)
    raw_NK = torch.randint(0, 9, (7, 4), generator=generator)
    raw_NK[0] = 2  # all neighbours agree
    token_NK, weight_NK = merged(raw_NK, share_NK / share_NK.sum(1, keepdim=True))
    next_N = torch.randint(0, 9, (7,), generator=generator)
    logit_NV = torch.randn(7, 9, generator=generator, dtype=torch.float64, requires_grad=True)
    sparse = sparse_loss(logit_NV.log_softmax(-1), token_NK, weight_NK, next_N, alpha)
    (got_NV,) = torch.autograd.grad(sparse, logit_NV)
    target_NV = torch.zeros(7, 9, dtype=torch.float64).scatter_add_(1, raw_NK, share_NK / share_NK.sum(1, keepdim=True))
    kl = torch.nn.functional.kl_div(logit_NV.log_softmax(-1), target_NV, reduction="batchmean")
    dense = alpha * kl + (1 - alpha) * torch.nn.functional.cross_entropy(logit_NV, next_N)
    (want_NV,) = torch.autograd.grad(dense, logit_NV)
    torch.testing.assert_close(sparse, dense, rtol=0, atol=1e-12)
    torch.testing.assert_close(got_NV, want_NV, rtol=0, atol=1e-12)


def test_a_search_that_was_interrupted_goes_on(
    store: Datastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlp_targets, "TOGETHER", 16)
    entry_N, everything = torch.arange(100), np.ones(store.card.num_entries, bool)

    def find(name: str, report: Callable[[str, int, int], None]) -> bytes:
        find_targets(store, entry_N, everything, SMALL.looking, tmp_path / name, report)
        return (tmp_path / name).read_bytes()

    def stop(_: str, done: int, __: int) -> None:
        if done >= 40:
            raise KeyboardInterrupt

    want = find("whole", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        find("parts", stop)
    with (tmp_path / "parts").open("ab") as file:
        file.write(b"half a row")
    asked: list[int] = []
    assert find("parts", lambda _, done, __: asked.append(done)) == want
    assert asked[0] > 40  # what was found was kept


def test_what_is_held_back_is_whole_documents_that_nobody_finds(store: Datastore, tmp_path: Path) -> None:
    lesson = Lesson.of(store, SMALL, tmp_path, lambda *_: None)
    learned, held = (set(store.owner_N[x.numpy()].tolist()) for x in (lesson.learned_N, lesson.held_N))
    assert not learned & held
    assert len(learned) + len(held) == 40
    assert 0.15 < len(lesson.held_N) / store.card.num_entries < 0.3
    for entry_N, targets in ((lesson.learned_N, lesson.learned_targets), (lesson.held_N, lesson.held_targets)):
        alone = find_targets(store, entry_N, store.without(held), SMALL.looking, tmp_path / "alone", lambda *_: None)
        assert np.array_equal(alone.row_N, targets.row_N)
        (tmp_path / "alone").unlink()


# Learning


def test_the_divergence_to_the_neighbours_falls_on_held_out_states(folder: Path) -> None:
    card = read_card(folder, MlpCard)
    first, *_, last = card.checks
    best = min(card.checks, key=lambda check: check.mixed_nats)
    assert first.step == 0
    assert last.kl < 0.7 * first.kl
    assert first.memory_nats == pytest.approx(card.model_nats, abs=1e-4)  # it begins as the model itself
    assert best.mixed_nats < card.model_nats - 0.5
    assert card.gates[""].gate == ConstantGate(weight=best.weight)


def test_it_says_on_unseen_text_what_the_neighbours_say(memory: MlpMemory, tiny_lm: CausalLM, store: Datastore) -> None:
    rows = [tiny_lm.encode_text(text) for text in texts(10, seed=7)]
    prefix_BT, text_BT = torch.tensor([list(tiny_lm.start_ids)] * 10), pad_right(rows)
    teacher = open_neighbours(store.path, tiny_lm, looking=SMALL.looking)
    hidden_ND = tiny_lm.hidden_before(prefix_BT, text_BT)[text_BT >= 0]
    want_NV, got_NV = teacher.answers(hidden_ND).log_prob_BV, memory.answers(hidden_ND).log_prob_BV
    base_NV = tiny_lm.unembed(hidden_ND).log_softmax(-1)

    def kl(log_prob_NV: Tensor) -> float:
        return float(torch.nn.functional.kl_div(log_prob_NV, want_NV.exp(), reduction="batchmean"))

    assert kl(got_NV) < 0.7 * kl(base_NV)
    mixed = Backoff((memory, tiny_lm)).score(prefix_BT, text_BT).sum()
    assert float(mixed) > float(tiny_lm.score(prefix_BT, text_BT).sum()) + 50


def test_a_killed_training_goes_on_to_the_same_network(
    tiny_lm: CausalLM, store: Datastore, folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "m"
    steps: list[int] = []

    def stop(stage: str, done: int, _: int) -> None:
        if stage == "steps" and done == 14:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_mlp(tiny_lm, store.path, target, SMALL, report=stop)
    assert not target.exists()
    train_mlp(tiny_lm, store.path, target, SMALL, report=lambda s, n, _: steps.append(n) if s == "steps" else None)
    assert steps[0] == 13  # what was done after the last checkpoint is done again
    assert (target / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert read_card(target, MlpCard).checks == read_card(folder, MlpCard).checks
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_learning_stops_when_nothing_is_gained(tiny_lm: CausalLM, store: Datastore, tmp_path: Path) -> None:
    settings = SMALL.model_copy(update={"learning_rate": 1e-12, "patience": 2, "checks": 1})
    card = train_mlp(tiny_lm, store.path, tmp_path / "m", settings)
    assert len(card.checks) == 3
    assert card.checks[-1].step < settings.epochs * (card.num_tokens - card.num_held) // settings.batch


def test_an_unembedding_of_its_own_and_a_single_document(tiny_lm: CausalLM, tmp_path: Path) -> None:
    single = build(tiny_lm, ["".join(texts(40))], tmp_path / "s")
    settings = SMALL.model_copy(update={"own_output": True, "stop_by": "kl", "batch": 64, "epochs": 8})
    card = train_mlp(tiny_lm, single.path, tmp_path / "m", settings)
    assert card.checks[-1].kl < 0.8 * card.checks[0].kl
    network = open_mlp(tmp_path / "m", tiny_lm).network
    assert network.output_VD is not None
    assert card.num_parameters == sum(p.numel() for p in network.parameters())


def test_removed_documents_are_not_learned(tiny_lm: CausalLM, tmp_path: Path) -> None:
    some = build(tiny_lm, texts(30), tmp_path / "s")
    remove_neighbours(some.path, {1, 2, 3})
    lesson = Lesson.of(Datastore.open(some.path), SMALL, tmp_path, lambda *_: None)
    seen = torch.cat([lesson.learned_N, lesson.held_N]).numpy()
    assert not np.isin(some.owner_N[seen], [1, 2, 3]).any()


# The memory


def test_laws(memory: MlpMemory, tiny_lm: CausalLM) -> None:
    prefixes = [[0, 30, 31], [0, 45], [0, 22, 8, 9]]
    rows = [[44, 2, 15], [3, 3, 20], [44, 46, 2]]
    laws.check(memory.ungated, prefixes, rows, is_normalized=True, tolerance=ROUNDING)
    laws.check(memory.gated(ConstantGate(weight=0.3)), prefixes, rows, tolerance=ROUNDING)
    laws.check(Backoff((memory, tiny_lm)), prefixes, rows, is_normalized=True, tolerance=ROUNDING)


def test_features_and_a_weight_of_zero(memory: MlpMemory, tiny_lm: CausalLM) -> None:
    prefix_BT = pad_left([[0, 30, 31], [0, 45]])
    answer = memory.look(tiny_lm.encode(prefix_BT))
    prob_BV = answer.log_prob_BV.exp()
    want_BF = torch.stack([-(prob_BV * answer.log_prob_BV).sum(1), prob_BV.amax(1)], 1)
    torch.testing.assert_close(answer.feature_BF, want_BF)
    mixed = Backoff((memory.gated(ConstantGate(weight=0.0)), tiny_lm)).start(prefix_BT)
    assert torch.equal(mixed.log_weight_BV, log_normalize(tiny_lm.start(prefix_BT).log_weight_BV))


def test_saved_and_read_again_it_is_the_same_bit_for_bit(tiny_lm: CausalLM, folder: Path) -> None:
    kept = safetensors.torch.load_file(folder / WEIGHTS)
    network = MlpNetwork(SMALL, tiny_lm.width, tiny_lm.vocabulary.size)
    network.load_state_dict(kept)
    opened = open_mlp(folder, tiny_lm).network
    hidden_ND = torch.randn(5, tiny_lm.width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(network(hidden_ND, tiny_lm.unembed), opened(hidden_ND, tiny_lm.unembed))
    assert not any(p.requires_grad for p in opened.parameters())


# What is refused


def test_a_projected_datastore_is_refused(tiny_lm: CausalLM, tmp_path: Path) -> None:
    projected = build(tiny_lm, texts(10), tmp_path / "s", width=8)
    with pytest.raises(InputError, match="keeps projections to 8 numbers; build it with width=0"):
        train_mlp(tiny_lm, projected.path, tmp_path / "m", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_too_little_text_is_refused(tiny_lm: CausalLM, tmp_path: Path) -> None:
    little = build(tiny_lm, texts(3), tmp_path / "s")
    with pytest.raises(InputError, match="at least 100 entries to learn from and 100 held back"):
        train_mlp(tiny_lm, little.path, tmp_path / "m", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_another_model_and_damaged_weights_are_refused(
    tiny_lm: CausalLM, store: Datastore, folder: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    from factorlm.models.loading import read_model

    other = read_model(str(tiny_folder), dtype="float32", device="cpu")
    with torch.no_grad():
        other.model.model.layers[0].mlp.up_proj.weight.mul_(2)
    for attempt in (lambda: open_mlp(folder, other), lambda: train_mlp(other, store.path, tmp_path / "m", SMALL)):
        with pytest.raises(IncompatibleError, match="holds hidden states of"):
            attempt()
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "index.json").write_bytes((folder / "index.json").read_bytes())
    (copy / WEIGHTS).write_bytes(b"\0" * (folder / WEIGHTS).stat().st_size)
    with pytest.raises(IntegrityError, match=r"weights\.safetensors cannot be read"):
        open_mlp(copy, tiny_lm)


def test_the_divergence_of_a_state_without_neighbours_is_none() -> None:
    log_prob_1V = torch.randn(1, 5, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    assert float(sparse_kl(log_prob_1V, torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 3))) == 0
