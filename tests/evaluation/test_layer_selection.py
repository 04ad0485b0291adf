"""Layer selection on a tiny network: every number against one computed by hand from the layers that were chosen."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from factorlm.algebra import pad_right
from factorlm.errors import InputError
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.document import Curve, Matrix, Table
from factorlm.evaluation.priors import layer_speed
from factorlm.evaluation.priors.layer_components import measure_components
from factorlm.evaluation.priors.layer_costs import LEARNED, RANDOM, measure_costs
from factorlm.evaluation.priors.layer_orders import Arm, make_arm, nats_of
from factorlm.evaluation.priors.layer_selection import BARE, DROPPED, TUNED, LayerSelection, measure_layers
from factorlm.evaluation.priors.layer_speed import LayerSpeed, time_layers, tokens_per_second
from factorlm.evaluation.texts import Corpus
from factorlm.evaluation.workbench import Cache, Workbench
from factorlm.inference import Model
from factorlm.inference.expression import Composed
from factorlm.models import CausalLM
from factorlm.models.layers import skipping
from factorlm.prior import Fitting, Learning
from factorlm.prior.layerdrop import Adaptation
from factorlm.prior.layers import LayerSettings

FLOAT32 = 1e-5  # of nats per token, summed in batches of another shape
LAYERS = LayerSettings(first=1, last=1, initial_logit=1.0, noise=0.0, batch_tokens=64,
                       adapt=Adaptation(drop=0.4, epochs=2, rank=2, learning_rate=1e-2, batch_tokens=64))  # fmt: skip
SETTINGS = LayerSelection(
    sources=(Corpus(part="toys/good", name="good", max_documents=14), Corpus(part="toys/bad", max_documents=14)),
    held_out=6, longest=9, layers=LAYERS, passes=2, shares=(0.8, 0.5), random_sets=2, with_tuned=True, with_bare=True,
    choosing=LayerSettings(layer_cost=0.3, batch_tokens=64), learning=Learning(rounds=1, dev_share=0.0),
    speed=LayerSpeed(shares=(0.5,), batches=(1,), read=2, new_tokens=3, repeats=3),
)  # fmt: skip
Put = Callable[..., DataFolder]


@pytest.fixture(scope="module")
def deep_lm(tiny_lm: CausalLM) -> CausalLM:
    """Six layers, each of which changes the likelihood of a text."""
    config = LlamaConfig(vocab_size=tiny_lm.vocabulary.size, hidden_size=32, intermediate_size=48, num_hidden_layers=6,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128)  # fmt: skip
    network = LlamaForCausalLM(config).float()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.3, generator=generator)
    return CausalLM(network, tiny_lm.tokenizer, name="deep", start_ids=(0,), end_ids=(1,))


@pytest.fixture
def bench(deep_lm: CausalLM, put: Put, tmp_path: Path) -> Workbench:
    generator = np.random.default_rng(0)

    def texts(words: list[str]) -> list[dict[str, str]]:
        return [{"text": " ".join(generator.choice(words, 3 + n % 6)) + "."} for n in range(20)]

    put("toys/good", texts(["good", "the", "cat"]))
    data = put("toys/bad", texts(["bad", "in", "zoo"]))
    model = Composed("deep", Model(deep_lm, deep_lm), (), "deep")
    return Workbench((model,), data, Cache(tmp_path / "cache"), lambda stage, done, total: None)


def nats(lm: CausalLM, rows: list[list[int]]) -> np.ndarray:
    return np.array([-float(lm.score(torch.tensor([[0]]), pad_right([row])).double().sum()) for row in rows])


def rows_of(bench: Workbench, lm: CausalLM) -> tuple[dict[str, list[list[int]]], list[str]]:
    """Held-out rows by source, and the texts that are learned from."""
    held, train = {}, []
    for corpus in SETTINGS.sources:
        texts = [d.text for d in corpus.load(bench.data)]
        held[corpus.group] = [lm.encode_text(text)[:9] for text in texts[:6]]
        train += texts[6:]
    return held, train


def test_costs_are_those_of_the_layers_that_are_left(bench: Workbench, deep_lm: CausalLM) -> None:
    held, _ = rows_of(bench, deep_lm)
    rows = held["good"] + held["toys"]
    tokens = sum(map(len, rows))
    arm = Arm("plain", deep_lm, torch.tensor([0.3, -2.0, 5.0, 0.1]), 1, 1)
    assert arm.kept(5) == (0, 1, 3, 4, 5)
    assert arm.kept(3) == (0, 3, 5)
    drawn = [arm.kept_at_random(4, seed) for seed in range(40)]
    assert all(kept[0] == 0 and kept[-1] == 5 and len(kept) == 4 and all(a < b for a, b in pairwise(kept))
               for kept in drawn)  # fmt: skip
    assert len(set(drawn)) == 6  # all pairs of four layers
    part = measure_costs(bench, [arm], held, (0.5, 0.8, 0.2), 3)
    want = {6: nats(deep_lm, rows).sum() / tokens}
    for count, kept in ((5, [0, 1, 3, 4, 5]), (3, [0, 3, 5]), (2, [0, 5])):  # the first and the last are always run
        learned = nats(skipping(deep_lm, kept), rows)
        others = np.mean([nats(skipping(deep_lm, arm.kept_at_random(count, s)), rows) for s in range(3)], 0)
        found = {name: values[f"{count} of 6 layers"] for name, values in part.measures.items()}
        want[count] = learned.sum() / tokens
        assert found[f"nats per token, plain, {LEARNED}"].value == pytest.approx(want[count], abs=FLOAT32)
        assert found[f"nats per token, plain, {RANDOM}"].value == pytest.approx(others.sum() / tokens, abs=FLOAT32)
        assert found[f"nats per token on toys, plain, {LEARNED}"].value == pytest.approx(
            learned[6:].sum() / sum(map(len, held["toys"])), abs=FLOAT32
        )
        assert found[f"nats per token lost, plain, {LEARNED}"].value == pytest.approx(
            want[count] - want[6], abs=2 * FLOAT32
        )
        assert found["nats per token saved by the learned order, plain"].value == pytest.approx(
            (others - learned).sum() / tokens, abs=2 * FLOAT32
        )
    [section] = part.sections
    [curve] = [block for block in section.blocks if isinstance(block, Curve)]
    assert curve.series[0].x == (1.0, 5 / 6, 0.5, 1 / 3)
    assert [y.value for y in curve.series[0].y] == pytest.approx([want[n] for n in (6, 5, 3, 2)], abs=FLOAT32)  # type: ignore[union-attr]
    assert len(part.headlines) == 1
    assert "runs 5 of 6 layers" in part.headlines[0]


def test_an_order_learned_from_texts_is_better_than_chance(bench: Workbench, deep_lm: CausalLM) -> None:
    """Of the four free layers some hurt these texts by nats, as a random network's do: they go first."""
    held, train = rows_of(bench, deep_lm)
    rows = [deep_lm.encode_text(text)[:9] for text in train]
    plain = LAYERS.model_copy(update={"adapt": None, "learning_rate": 0.3})
    arm = make_arm(bench, deep_lm, "plain", rows, plain, 8)
    cost_L = [nats(skipping(deep_lm, [i for i in range(6) if i != n]), rows).sum() for n in range(1, 5)]
    assert int(arm.logit_L.argmin()) == int(np.argmin(cost_L))  # what goes first is what hurts most
    part = measure_costs(bench, [arm], held, (0.8,), 8)
    saved = part.measures["nats per token saved by the learned order, plain"]["5 of 6 layers"]
    assert saved.low is not None
    assert saved.low > 0
    tokens = deep_lm.num_tokens_read
    again = make_arm(bench, deep_lm, "plain", rows, plain, 8)
    assert torch.equal(again.logit_L, arm.logit_L)
    assert deep_lm.num_tokens_read == tokens
    longer = make_arm(bench, deep_lm, "plain", rows, plain, 9)
    assert not torch.equal(longer.logit_L, arm.logit_L)


def test_an_adapted_arm_is_kept(bench: Workbench, deep_lm: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    held, train = rows_of(bench, deep_lm)
    rows = [deep_lm.encode_text(text)[:9] for text in train]
    arm = make_arm(bench, deep_lm, "adapted", rows, LAYERS, 1)
    assert nats(arm.lm, rows).sum() < nats(deep_lm, rows).sum() - 1

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("factorlm.evaluation.priors.layer_orders.adapt", never)
    again = make_arm(bench, deep_lm, "adapted", rows, LAYERS, 1)
    assert torch.equal(again.logit_L, arm.logit_L)
    assert (nats(again.lm, held["good"]) == nats(arm.lm, held["good"])).all()
    with pytest.raises(AssertionError, match="trained again"):
        make_arm(bench, deep_lm, "adapted", rows[:-1], LAYERS, 1)


def test_components_against_one_choice(bench: Workbench, deep_lm: CausalLM) -> None:
    held, train = rows_of(bench, deep_lm)
    rows, label_N = held["good"] + held["toys"], np.repeat([0, 1], 6)
    tokens = sum(map(len, rows))
    arm = Arm("plain", deep_lm, torch.tensor([0.3, -2.0, 5.0, 0.1]), 1, 1)
    layers = LAYERS.model_copy(update={"adapt": None, "layer_cost": 0.3, "noise": 1.5, "learning_rate": 0.3})
    fitting = Fitting(kind="layers", components=2, longest=9, layers=layers,
                      learning=Learning(warm=0, rounds=3, dev_share=0.0, seed=2))  # fmt: skip
    part = measure_components(bench, arm, train, held, fitting)
    found = {name.removesuffix(", components, plain"): values for name, values in part.measures.items()}
    [section] = part.sections
    [matrix] = [block for block in section.blocks if isinstance(block, Matrix)]
    [table] = [block for block in section.blocks if isinstance(block, Table)]
    kept = [[n for n, prob in enumerate(row) if prob is not None and prob > 0.5] for row in matrix.values]
    assert all(row[0] == row[-1] == 1 for row in matrix.values)
    assert len(kept[0]) != len(kept[1])
    assert [found["layers run"][name].value for name in matrix.rows] == [len(k) for k in kept]
    nats_KN = np.stack([nats(skipping(deep_lm, k), rows) for k in kept])
    weight_K = np.array([float(row[1]) for row in table.rows[:2]])  # type: ignore[arg-type]
    joint_KN = np.log(weight_K)[:, None] - nats_KN
    mixture_N = -np.logaddexp(*joint_KN)
    by_name = {name: estimate.value for name, estimate in found["nats per token"].items()}
    assert by_name["mixture"] == pytest.approx(mixture_N.sum() / tokens, abs=FLOAT32)
    assert by_name["all layers"] == pytest.approx(nats(deep_lm, rows).sum() / tokens, abs=FLOAT32)
    for k, name in enumerate(matrix.rows):
        assert by_name[f"component {name}"] == pytest.approx(nats_KN[k].sum() / tokens, abs=FLOAT32)
        share = np.exp(joint_KN[k] + mixture_N)[:6].mean()
        assert table.rows[k][4] == pytest.approx(share, abs=1e-4)
        assert table.rows[k][3] == ", ".join(str(n) for n in range(6) if n not in kept[k])
    number = int(np.ceil(weight_K @ [len(k) for k in kept] - 1e-9))
    shared = nats(skipping(deep_lm, arm.kept(number)), rows)
    assert by_name["one choice for all texts"] == pytest.approx(shared.sum() / tokens, abs=FLOAT32)
    [gain] = found["nats per token saved by the mixture"].values()
    assert gain.value == pytest.approx((shared - mixture_N).sum() / tokens, abs=2 * FLOAT32)
    own = [label_N[joint_KN.argmax(0) == k] for k in range(2)]
    right = sum(max((labels == s).sum() for s in range(2)) for labels in own)
    assert found["purity"]["held-out texts"].value == pytest.approx(right / 12)
    apart = 0.0
    for row in rows:
        p_KTV = torch.stack([
            torch.cat(list(skipping(deep_lm, k).steps(torch.tensor([[0]]), torch.tensor([row])))) for k in kept
        ]).double().exp()  # fmt: skip
        apart += float((torch.special.entr(p_KTV.mean(0)).sum(-1) - torch.special.entr(p_KTV).sum(-1).mean(0)).sum())
    assert found["divergence"]["held-out texts"].value == pytest.approx(apart / tokens, abs=1e-4)
    assert f"run {len(kept[0])}, {len(kept[1])} of 6 layers" in part.headlines[0]


def test_speeds_are_timed_only_of_the_right_layers(
    bench: Workbench, deep_lm: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {"6 of 6 layers": (0, 1, 2, 3, 4, 5), "3 of 6 layers": (0, 2, 5)}
    settings = SETTINGS.speed
    found = time_layers(bench, deep_lm, kept, settings)
    assert list(found) == ["writing, 1 at once", "reading, 2 at once"]
    for timing, batch in zip(found.values(), (1, 2), strict=True):
        assert timing.repeats == 3
        assert tokens_per_second(timing, "3 of 6 layers") == batch / timing.ratio("3 of 6 layers").seconds
        assert tokens_per_second(timing, "6 of 6 layers") == batch / timing.baseline_seconds
    assert time_layers(bench, deep_lm, kept, settings) == found  # not timed twice
    monkeypatch.setattr(
        layer_speed, "skipping", lambda lm, layers: skipping(lm, (0, 1, 5) if len(layers) < 6 else layers)
    )
    with pytest.raises(InputError, match="'3 of 6 layers' does not agree with its twin"):
        time_layers(bench, deep_lm, kept, settings.model_copy(update={"new_tokens": 4}))


def test_the_whole_part(bench: Workbench, deep_lm: CausalLM) -> None:
    part = measure_layers(bench, SETTINGS)
    titles = [section.title for section in part.sections]
    assert titles == [
        "Layers left out",
        f"Components that choose layers: {DROPPED}",
        f"Components that choose layers: {BARE}",
        "Speed with layers left out",
    ]
    assert all(name.startswith("layers: ") for name in part.measures)
    whole = {
        arm: part.measures[f"layers: nats per token, {arm}, {LEARNED}"]["6 of 6 layers"].value or 0
        for arm in (BARE, TUNED, DROPPED)
    }
    held, _ = rows_of(bench, deep_lm)
    rows = held["good"] + held["toys"]
    assert whole[BARE] == pytest.approx(nats(deep_lm, rows).sum() / sum(map(len, rows)), abs=FLOAT32)
    assert whole[TUNED] < whole[BARE] - 0.2
    assert whole[DROPPED] < whole[BARE] - 0.2
    assert set(bench.used) == {"toys/good", "toys/bad"}
    assert len(part.headlines) == 3 + 2 + 1
    tokens = deep_lm.num_tokens_read
    again = measure_layers(bench, SETTINGS)
    assert again.measures == part.measures
    assert deep_lm.num_tokens_read - tokens < 2000  # all but the divergence of components is read from the cache
    assert nats_of(bench, deep_lm, range(6), rows).sum() == pytest.approx(whole[BARE] * sum(map(len, rows)))


def test_too_few_sources_or_texts_are_refused(bench: Workbench) -> None:
    with pytest.raises(InputError, match="two or more different sources are needed, got good"):
        measure_layers(bench, SETTINGS.model_copy(update={"sources": SETTINGS.sources[:1]}))
    with pytest.raises(InputError, match="more than 14 texts of toys/good are needed, got 14"):
        measure_layers(bench, SETTINGS.model_copy(update={"held_out": 14}))
    assert LayerSelection.sized("full").held_out > LayerSelection.sized("small").held_out
