"""Low-rank fine-tuning: it starts from the base, learns, stays in its place, and comes back from its file."""

# Axes: B batch, T time, V vocabulary.

from pathlib import Path

import pytest
import torch
from torch import Tensor

from factorlm.algebra import PAD, pad_left, pad_right
from factorlm.errors import InputError, IntegrityError
from factorlm.evaluation.lora import shuffled, train_lora
from factorlm.models import CausalLM
from factorlm.models.lora import Adapter, LoraSettings, adapted, merged, notes_of

SMALL = LoraSettings(rank=2, batch_texts=4, epochs=8, learning_rate=1e-2)
TEXTS = ["good good good.", "the good good.", "a good the good.", "good in the good."] * 3


def random_adapter(lm: CausalLM, seed: int = 0) -> Adapter:
    """One that changes every layer noticeably."""
    fresh = Adapter.fresh(lm, SMALL, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    up_OR = {name: 0.1 * torch.randn(weight.shape, generator=generator) for name, weight in fresh.up_OR.items()}
    return Adapter(fresh.scale, fresh.down_RI, up_OR)


def steps(lm: CausalLM) -> Tensor:
    """Log probabilities [N, V] before each token of two texts, read anew."""
    prefix_BT = pad_left([[0, 5, 6], [0, 7]])
    text_BT = pad_right([[8, 9, 10, 11], [12, 13]])
    return torch.stack(list(lm.steps(prefix_BT, text_BT)), 1)[text_BT != PAD]


def score(lm: CausalLM, texts: list[str]) -> float:
    """Nats of texts."""
    rows = [lm.encode_text(" " + text) for text in texts]
    return float(lm.score(torch.tensor([lm.start_ids] * len(rows)), pad_right(rows)).sum())


def test_a_fresh_adapter_changes_nothing(tiny_lm: CausalLM) -> None:
    plain = steps(tiny_lm)
    fresh = Adapter.fresh(tiny_lm, SMALL)
    assert len(fresh.down_RI) == 2 * 7
    assert fresh.num_parameters == sum(2 * (w.shape[1] + fresh.up_OR[n].shape[0]) for n, w in fresh.down_RI.items())
    torch.testing.assert_close(steps(adapted(tiny_lm, fresh)), plain, atol=1e-4, rtol=0)  # other layers, same sums
    assert torch.equal(steps(merged(tiny_lm, fresh)), plain)


def test_it_is_the_changed_weight(tiny_lm: CausalLM) -> None:
    """Beside the layer, added to its weight, and added by hand: one model."""
    adapter = random_adapter(tiny_lm)
    name = "model.layers.1.mlp.up_proj"
    want_OI = tiny_lm.model.get_submodule(name).weight + 2.0 * adapter.up_OR[name] @ adapter.down_RI[name]
    together = merged(tiny_lm, adapter)
    torch.testing.assert_close(together.model.get_submodule(name).weight, want_OI)
    beside = steps(adapted(tiny_lm, adapter))
    torch.testing.assert_close(steps(together), beside, atol=1e-4, rtol=1e-4)
    assert (beside - steps(tiny_lm)).abs().max() > 0.1


def test_the_base_is_left_alone(tiny_lm: CausalLM) -> None:
    before, fingerprint = steps(tiny_lm), tiny_lm.fingerprint
    kinds = [type(module) for module in tiny_lm.model.modules()]
    values = {name: weight.clone() for name, weight in tiny_lm.model.state_dict().items()}
    tuned = train_lora(tiny_lm, TEXTS, SMALL)
    other = adapted(tiny_lm, tuned.adapter)
    assert other.fingerprint != fingerprint
    assert [type(module) for module in tiny_lm.model.modules()] == kinds
    assert all(torch.equal(weight, values[name]) for name, weight in tiny_lm.model.state_dict().items())
    assert not any(weight.requires_grad or weight.grad is not None for weight in tiny_lm.model.parameters())
    assert torch.equal(steps(tiny_lm), before)
    shared = other.model.get_submodule("model.layers.0.mlp.up_proj").base.weight
    assert shared is tiny_lm.model.get_submodule("model.layers.0.mlp.up_proj").weight  # no second copy in memory
    assert other.unembedding_VD is tiny_lm.unembedding_VD


def test_training_makes_the_texts_likelier(tiny_lm: CausalLM) -> None:
    seen = []
    tuned = train_lora(tiny_lm, TEXTS, SMALL, report=lambda stage, done, total: seen.append((done, total)))
    assert seen == [(n, 24) for n in range(1, 25)]
    assert sum(tuned.losses[-3:]) < 0.8 * sum(tuned.losses[:3])
    assert score(adapted(tiny_lm, tuned.adapter), TEXTS) > score(tiny_lm, TEXTS) + 20
    again = train_lora(tiny_lm, TEXTS, SMALL)
    assert again.adapter.fingerprint == tuned.adapter.fingerprint
    assert train_lora(tiny_lm, TEXTS, SMALL, seed=1).adapter.fingerprint != tuned.adapter.fingerprint


def test_batches_hold_texts_of_about_equal_length() -> None:
    """Every text once, in an order that changes, with much less to fill up than in batches at random."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 64, (300,), generator=generator).tolist()

    def width(batches: list[Tensor]) -> int:
        return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)

    first, second = (shuffled(lengths, 8, generator) for _ in range(2))
    for batches in (first, second):
        assert sorted(torch.cat(batches).tolist()) == list(range(300))
    assert not torch.equal(torch.cat(first), torch.cat(second))
    at_random = list(torch.randperm(300, generator=generator).split(8))
    assert width(first) < 1.2 * sum(lengths) < 0.8 * width(at_random)


def test_the_first_loss_is_that_of_the_base(tiny_lm: CausalLM) -> None:
    texts = ["the good bad.", "a bad"]
    tuned = train_lora(tiny_lm, texts, SMALL.model_copy(update={"epochs": 1}))
    num_tokens = sum(len(tiny_lm.encode_text(" " + text)) for text in texts)
    assert tuned.losses == (pytest.approx(-score(tiny_lm, texts) / num_tokens, rel=1e-4),)


def test_saved_and_loaded(tiny_lm: CausalLM, tmp_path: Path) -> None:
    adapter = random_adapter(tiny_lm)
    path = tmp_path / "deep" / "adapter.safetensors"
    adapter.save(path, seconds="1.5")
    found = Adapter.load(path)
    assert found.fingerprint == adapter.fingerprint
    assert found.scale == adapter.scale
    assert notes_of(path) == {"seconds": "1.5", "scale": "2.0"}
    assert torch.equal(steps(adapted(tiny_lm, found)), steps(adapted(tiny_lm, adapter)))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(IntegrityError, match="cannot be read as an adapter"):
        Adapter.load(path)
    with pytest.raises(IntegrityError, match="cannot be read as an adapter"):
        notes_of(path)


def test_mistakes_are_explained(tiny_lm: CausalLM) -> None:
    with pytest.raises(InputError, match="named nothing are needed, got none"):
        Adapter.fresh(tiny_lm, SMALL.model_copy(update={"layers": ("nothing",)}))
    with pytest.raises(InputError, match="texts to train on are needed"):
        train_lora(tiny_lm, [], SMALL)
    strange = random_adapter(tiny_lm)
    strange.down_RI["model.other"], strange.up_OR["model.other"] = torch.zeros(2, 3), torch.zeros(3, 2)
    with pytest.raises(InputError, match=r"a layer 'model.other' that it lacks"):
        adapted(tiny_lm, strange)
