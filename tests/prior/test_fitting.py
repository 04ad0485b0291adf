"""From texts to a prior and back from disk, for every kind of component, on tiny networks."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from factorlm.errors import InputError
from factorlm.models import CausalLM
from factorlm.models.loading import load_model
from factorlm.prior.explicit import ExplicitSettings
from factorlm.prior.fitting import Fitting, fit
from factorlm.prior.kinds import KINDS
from factorlm.prior.layers import LayerSettings
from factorlm.prior.learning import Learning
from factorlm.prior.lora import LoraComponentSettings
from factorlm.prior.prior import Prior
from factorlm.prior.soft import SoftSettings

WORDS = (["the", "good", "dog", "is", "happy"], ["xyz", "zoo", "quiz", "jazz", "vex"])
POOL = ["the good dog", "xyz zoo quiz", "in the end", "jazz", "happy"]
LEARNING = Learning(rounds=3, patience=3, warm=1)
SETTINGS = Fitting(
    components=2,
    learning=LEARNING,
    soft=SoftSettings(places=2, learning_rate=0.1, batch_tokens=256),
    prompt=ExplicitSettings(from_pool=3, from_texts=1, from_model=0),
    layers=LayerSettings(first=1, last=1),
    lora=LoraComponentSettings(rank=2, learning_rate=1e-2, batch_tokens=256),
)


def texts(num_texts: int = 40) -> list[str]:
    """In the even places of one kind, in the odd ones of another."""
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS[n % 2], k=draw.randint(2, 4))) for n in range(num_texts)]


@pytest.fixture(scope="module")
def deep_lm(tiny_lm: CausalLM, tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    """Four layers and the tokens of the tiny model, in a folder of its own."""
    config = LlamaConfig(vocab_size=tiny_lm.vocabulary.size, hidden_size=32, intermediate_size=48, num_hidden_layers=4,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, bos_token_id=0,
                         eos_token_id=1)  # fmt: skip
    network = LlamaForCausalLM(config).float()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.2, generator=generator)
    folder = tmp_path_factory.mktemp("deep")
    network.save_pretrained(folder)
    tiny_lm.tokenizer.save_pretrained(folder)
    return load_model(str(folder), dtype="float32", device="cpu")


def fitted(lm: CausalLM, deep_lm: CausalLM, kind: str, **changes: object) -> Prior:
    base = deep_lm if kind == "layers" else lm
    settings = SETTINGS.model_copy(update={"kind": kind, **changes})
    models = (tiny for tiny in (lm, deep_lm)) if kind == "model" else ()
    return fit(base, texts(), settings, pool=POOL if kind == "prompt" else (), models=tuple(models), corpus="words")


def test_every_kind_is_known() -> None:
    assert set(get_args(Fitting.model_fields["kind"].annotation)) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_learned_and_comes_back_bit_for_bit(
    tiny_lm: CausalLM, deep_lm: CausalLM, kind: str, tmp_path: Path
) -> None:
    prior = fitted(tiny_lm, deep_lm, kind)
    told = prior.manifest.fitted
    assert told is not None
    assert (told.corpus, told.num_texts, prior.names) == ("words", 40, ("A", "B"))
    assert told.num_tokens == sum(len(tiny_lm.encode_text(text)) for text in texts())
    assert 2 <= len(told.rounds) <= 4
    assert told.dev_nats == min(r.dev_nats for r in told.rounds if r.dev_nats is not None) or kind == "layers"
    assert all(
        card.portrait.typical and card.portrait.own_words and card.portrait.tokens for card in prior.manifest.components
    )
    assert all(bool(card.portrait.nearest) == (kind == "soft-prompt") for card in prior.manifest.components)
    [[zero, one], [other, nought]] = prior.manifest.divergence
    assert zero == nought == 0
    assert one == other >= 0
    if kind in ("soft-prompt", "lora"):
        assert told.dev_nats < told.base_nats - 0.5
        assert told.num_parameters == sum(tensor.numel() for tensor in prior.tensors.values())
    prior.save(tmp_path / "prior")
    loaded = Prior.load(tmp_path / "prior", prior.lm)
    row_BT, text_BT = torch.tensor([[0], [0]]), torch.tensor([[6, 7, 8], [9, 10, -1]])
    assert torch.equal(loaded.mixture.score(row_BT, text_BT), prior.mixture.score(row_BT, text_BT))
    assert loaded.manifest.model_copy(update={"files": {}}) == prior.manifest


@pytest.mark.parametrize(
    ("kind", "begin"),
    [
        ("soft-prompt", "clusters"),
        ("lora", "clusters"),
        ("lora", "random"),
        ("lora", "components"),
        ("lora", "regressions"),
    ],
)
def test_two_kinds_of_texts_get_a_component_each(tiny_lm: CausalLM, kind: str, begin: str) -> None:
    easy = [" ".join([("good", "jazz")[n % 2]] * (2 + n // 2 % 5)) for n in range(40)]
    learning = LEARNING.model_copy(update={"rounds": 6, "patience": 6, "warm": 0})
    lora = LoraComponentSettings(rank=2, learning_rate=2e-2, batch_tokens=128)
    changes = {"kind": kind, "begin": begin, "learning": learning, "lora": lora}
    prior = fit(tiny_lm, easy, SETTINGS.model_copy(update=changes))
    best_N = prior.log_likelihood(easy).argmax(1).tolist()
    assert best_N in ([0, 1] * 20, [1, 0] * 20)
    portraits = [card.portrait for card in prior.manifest.components]
    assert [set(portrait.typical) <= set(easy[best_N.index(k) :: 2]) for k, portrait in enumerate(portraits)] == [
        True
    ] * 2
    assert prior.manifest.fitted is not None
    assert (prior.manifest.fitted.rounds[0].bound is None) == (begin != "components")


def test_the_same_texts_and_seed_make_the_same_prior(tiny_lm: CausalLM, deep_lm: CausalLM) -> None:
    one, other = (fitted(tiny_lm, deep_lm, "soft-prompt") for _ in range(2))
    assert torch.equal(one.tensors["soft"], other.tensors["soft"])
    assert one.manifest.weights == other.manifest.weights
    assert one.manifest.fitted is not None
    seconds = {"fitted": one.manifest.fitted.model_copy(update={"seconds": 0.0})}
    assert other.manifest.fitted is not None
    also = {"fitted": other.manifest.fitted.model_copy(update={"seconds": 0.0})}
    assert one.manifest.model_copy(update=seconds) == other.manifest.model_copy(update=also)


class Stopped(Exception):
    """As if the power had failed."""


@pytest.mark.parametrize("kind", ["soft-prompt", "prompt", "layers", "lora"])
def test_a_stopped_run_goes_on(tiny_lm: CausalLM, deep_lm: CausalLM, kind: str, tmp_path: Path) -> None:
    base, path = deep_lm if kind == "layers" else tiny_lm, tmp_path / "run"
    settings = SETTINGS.model_copy(update={"kind": kind, "begin": "random"})
    pool = POOL if kind == "prompt" else ()
    want = fit(base, texts(), settings, pool=pool)
    stages: list[str] = []

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "round 2: likelihoods":
            raise Stopped

    with pytest.raises(Stopped):
        fit(base, texts(), settings, pool=pool, checkpoint=path, report=stop)
    assert path.exists()
    got = fit(base, texts(), settings, pool=pool, checkpoint=path, report=lambda stage, *_: stages.append(stage))
    assert not [stage for stage in stages if stage.startswith(("warm-up", "round 1", "clusters"))]
    assert not path.exists()
    assert got.manifest.weights == want.manifest.weights
    assert got.manifest.kind == want.manifest.kind
    assert all(torch.equal(tensor, want.tensors[name]) for name, tensor in got.tensors.items())
    assert got.manifest.fitted is not None
    assert want.manifest.fitted is not None
    assert got.manifest.fitted.rounds == want.manifest.fitted.rounds


def test_other_settings_begin_anew(tiny_lm: CausalLM, tmp_path: Path) -> None:
    settings, path = SETTINGS.model_copy(update={"begin": "random"}), tmp_path / "run"

    def stop(stage: str, done: int, total: int) -> None:
        if stage.startswith("round 2"):
            raise Stopped

    with pytest.raises(Stopped):
        fit(tiny_lm, texts(), settings, checkpoint=path, report=stop)
    stages: list[str] = []
    steeper = settings.model_copy(update={"soft": settings.soft.model_copy(update={"learning_rate": 0.05})})
    fit(tiny_lm, texts(), steeper, checkpoint=path, report=lambda stage, *_: stages.append(stage))
    assert any(stage.startswith("warm-up") for stage in stages)


def log_liks(models: tuple[CausalLM, ...], rows: list[list[int]]) -> torch.Tensor:
    found = [[m.score(torch.tensor([[0]]), torch.tensor([row])).double().sum() for m in models] for row in rows]
    return torch.tensor(found, dtype=torch.float64)


def test_whole_models_are_weighed_by_how_well_they_explain(tiny_lm: CausalLM, deep_lm: CausalLM) -> None:
    """EM on weights alone, to its end: the same as trying a thousand weights."""
    learning = Learning(rounds=60, patience=60, dev_share=0.0, alpha=1.0, temper_tokens=1000.0)
    prior = fitted(tiny_lm, deep_lm, "model", learning=learning)
    each_NK = log_liks((tiny_lm, deep_lm), [tiny_lm.encode_text(text) for text in texts()])
    share_S = torch.linspace(0, 1, 1001, dtype=torch.float64)
    log_mu_SK = torch.stack([share_S, 1 - share_S], 1).log()
    value_S = torch.logsumexp(log_mu_SK[:, None] + each_NK, -1).sum(1)
    assert prior.manifest.weights[0] == pytest.approx(float(share_S[value_S.argmax()]), abs=0.02)
    assert prior.manifest.fitted is not None
    bounds = [r.bound for r in prior.manifest.fitted.rounds if r.bound is not None]
    assert all(after > before - 1e-12 for before, after in itertools.pairwise(bounds))


def test_a_whole_model_that_explains_nothing_stays_without_weight(tiny_lm: CausalLM, deep_lm: CausalLM) -> None:
    rows = [tiny_lm.encode_text(text) for text in texts()]
    worse_N = log_liks((tiny_lm, deep_lm), rows) @ torch.tensor([1.0, -1.0], dtype=torch.float64)
    chosen = [texts()[n] for n in worse_N.topk(8).indices.tolist()]
    learning = Learning(rounds=20, patience=20, dev_share=0.0, alpha=1.0, temper_tokens=1000.0)
    settings = SETTINGS.model_copy(update={"kind": "model", "learning": learning})
    prior = fit(tiny_lm, chosen, settings, models=(tiny_lm, deep_lm))
    assert prior.manifest.weights[1] < 1e-6
    assert prior.manifest.fitted is not None
    assert {r.reseeded for r in prior.manifest.fitted.rounds} == {()}


def test_one_component_is_a_prior_too(tiny_lm: CausalLM) -> None:
    prior = fit(tiny_lm, texts(8), SETTINGS.model_copy(update={"components": 1}), names=["only"], licence="mine")
    assert prior.manifest.weights == (1.0,)
    assert prior.names == ("only",)
    assert prior.manifest.fitted is not None
    assert prior.manifest.fitted.licence == "mine"


def test_mistakes_are_explained(tiny_lm: CausalLM) -> None:
    def fitting(**changes: object) -> Fitting:
        return SETTINGS.model_copy(update=changes)

    for message, settings, more in (
        ("2 different names are needed, got a, a", SETTINGS, {"names": ["a", "a"]}),
        ("2 different names are needed, got a", SETTINGS, {"names": ["a"]}),
        ("a pool of sentences is for the kind prompt", SETTINGS, {"pool": POOL}),
        ("models are components of the kind model", SETTINGS, {"models": [tiny_lm, tiny_lm]}),
        ("models are components of the kind model", fitting(kind="model"), {}),
        ("two or more different models are needed", fitting(kind="model"), {"models": [tiny_lm, tiny_lm]}),
        ("at least 64 texts to learn from are needed, got 36", fitting(components=64), {}),
    ):
        with pytest.raises(InputError, match=message):
            fit(tiny_lm, texts(), settings, **more)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="texts to learn from are needed, got none"):
        fit(tiny_lm, ["", ""], SETTINGS)
