"""Learning to do without layers on a tiny network: against plain training, and what is kept of it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from factorlm.algebra import pad_right
from factorlm.errors import InputError, IntegrityError
from factorlm.models import CausalLM
from factorlm.models.layers import shortened, skipping
from factorlm.models.lora import Adapter, LoraLinear, LoraSettings, adapter_in, merged, with_adapter
from factorlm.models.progress import Report, quiet
from factorlm.prior import Fitting, Prior, fit
from factorlm.prior.batches import by_length
from factorlm.prior.layerdrop import Adaptation, adapt
from factorlm.prior.layers import LayerComponents, LayerSettings
from factorlm.prior.learning import Learning, Rows, split
from factorlm.prior.rounds import learn

TEXTS = ["good good good.", "the good good.", "a good the good.", "good in the good.", "bad the bad.", "in bad."] * 4
SMALL = Adaptation(drop=0.5, epochs=8, rank=2, learning_rate=2e-2, batch_tokens=64)
FITTING = Fitting(
    kind="layers",
    components=2,
    longest=16,
    layers=LayerSettings(first=1, last=1, initial_logit=1.0, layer_cost=0.05, adapt=SMALL, batch_tokens=64),
    learning=Learning(rounds=2, dev_share=0.25),
)


@pytest.fixture(scope="module")
def deep_lm(tiny_lm: CausalLM) -> CausalLM:
    """Five layers, each of which changes the likelihood of a text."""
    config = LlamaConfig(vocab_size=tiny_lm.vocabulary.size, hidden_size=32, intermediate_size=48, num_hidden_layers=5,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)  # fmt: skip
    network = LlamaForCausalLM(config).float()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.2, generator=generator)
    return CausalLM(network, tiny_lm.tokenizer, name="deep", start_ids=(0,), end_ids=(1,))


@pytest.fixture(scope="module")
def rows(deep_lm: CausalLM) -> list[list[int]]:
    return [deep_lm.encode_text(text) for text in TEXTS]


def nats(lm: CausalLM, rows: list[list[int]]) -> float:
    found_BT = lm.score(torch.tensor([[0]] * len(rows)), pad_right(rows)).double()
    return -float(found_BT.sum()) / sum(map(len, rows))


def trained_plainly(lm: CausalLM, rows: list[list[int]], settings: Adaptation, seed: int) -> Adapter:
    """The slow twin without any dropping: one text at a time, its logits from the whole network."""
    shape = LoraSettings(rank=settings.rank, scale=settings.scale, layers=settings.layers)
    network = with_adapter(lm, Adapter.fresh(lm, shape, seed))
    thin = [m for m in network.modules() if isinstance(m, LoraLinear)]
    weights = [weight for layer in thin for weight in (layer.down_RI, layer.up_OR)]
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    lengths = [len(row) + 1 for row in rows]
    batches = [b for _ in range(settings.epochs) for b in by_length(lengths, settings.batch_tokens, generator)]
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - step / len(batches))
        losses = []
        for row in (rows[i] for i in batch):
            logit_TV = network(torch.tensor([[0, *row[:-1]]]), use_cache=False).logits[0]
            losses.append(nn.functional.cross_entropy(logit_TV, torch.tensor(row), reduction="sum"))
        loss = torch.stack(losses).sum() / sum(len(rows[i]) for i in batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
    return adapter_in(network, settings.scale)


def test_without_dropping_it_is_plain_low_rank_training(deep_lm: CausalLM, rows: list[list[int]]) -> None:
    settings = SMALL.model_copy(update={"drop": 0.0, "epochs": 2})
    want = trained_plainly(deep_lm, rows, settings, 5).tensors
    got = adapt(deep_lm, rows, settings, first=1, last=1, seed=5).tensors
    fresh = Adapter.fresh(deep_lm, LoraSettings(rank=2), 5).tensors
    assert got.keys() == want.keys()
    for name, weight in got.items():  # Adam divides by the size of gradients, so their rounding shows
        torch.testing.assert_close(weight, want[name], atol=1e-3, rtol=0)
        assert float((weight - fresh[name]).abs().max()) > 0.02


def test_losses_fall_also_where_layers_are_missing(deep_lm: CausalLM, rows: list[list[int]]) -> None:
    sets = [[0, 1, 2, 3, 4], [0, 2, 3, 4], [0, 1, 4], [0, 4]]
    learned, plain = (
        merged(deep_lm, adapt(deep_lm, rows, SMALL.model_copy(update={"drop": drop}), first=1, last=1))
        for drop in (0.5, 0.0)
    )
    before, after, undropped = ([nats(skipping(lm, kept), rows) for kept in sets] for lm in (deep_lm, learned, plain))
    assert all(b > a + 0.5 for b, a in zip(before, after, strict=True))
    assert after[3] < undropped[3] - 0.2  # what plain training does not teach
    assert after[2] < undropped[2] - 0.2


def test_layers_left_out_of_a_batch_are_not_moved(deep_lm: CausalLM, rows: list[list[int]]) -> None:
    """One step with nearly everything dropped: thin matrices of free layers stay, those of the others move."""
    settings = SMALL.model_copy(update={"drop": 0.999, "epochs": 1, "batch_tokens": 10_000})
    fresh = Adapter.fresh(deep_lm, LoraSettings(rank=2), 0).up_OR
    moved = {
        int(name.split(".")[2])
        for name, weight in adapt(deep_lm, rows, settings, first=1, last=1).up_OR.items()
        if not torch.equal(weight, fresh[name])
    }
    assert moved == {0, 4}


def test_gradients_through_fewer_layers_are_those_of_the_network_with_the_others_deleted(deep_lm: CausalLM) -> None:
    """Transformers runs a shortened network right without a cache, gradients and all."""
    adapter = Adapter.fresh(deep_lm, LoraSettings(rank=2))
    token_BT = torch.tensor([[0, 5, 6, 7, 8], [0, 9, 9, 10, 11]])
    found: list[tuple[Tensor, dict[str, Tensor]]] = []
    for is_deleted in (False, True):
        network = with_adapter(deep_lm, adapter)
        if is_deleted:
            del network.model.layers[3], network.model.layers[1]
            network.config.num_hidden_layers = 3
            renamed = {"0": "0", "1": "2", "2": "4"}
            run = network
        else:
            run, renamed = shortened(network, [0, 2, 4]), {str(n): str(n) for n in range(5)}
        logit_BTV = run(input_ids=token_BT, use_cache=False).logits
        logit_BTV.logsumexp(-1).sum().backward()
        gradients = {}
        for name, weight in network.named_parameters():
            if weight.grad is not None:
                head, _, rest = name.partition("layers.")
                number, _, rest = rest.partition(".")
                gradients[f"{head}{renamed[number]}.{rest}"] = weight.grad
        found.append((logit_BTV.detach(), gradients))
    (got_BTV, got), (want_BTV, want) = found
    torch.testing.assert_close(got_BTV, want_BTV)
    assert got.keys() == want.keys()
    assert len(want) == 3 * 7 * 2  # of seven linear layers in each of three
    for name, gradient in want.items():
        torch.testing.assert_close(got[name], gradient)


def test_the_seed_decides(deep_lm: CausalLM, rows: list[list[int]]) -> None:
    settings = SMALL.model_copy(update={"epochs": 1})
    first, again, other = (adapt(deep_lm, rows, settings, first=1, last=1, seed=seed) for seed in (3, 3, 4))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    bare = nats(deep_lm, rows)
    assert bare == nats(deep_lm, rows)
    with pytest.raises(InputError, match="texts to adapt to"):
        adapt(deep_lm, [[]], settings, first=1, last=1)


def test_components_of_an_adapted_model_go_on_from_their_state(deep_lm: CausalLM, rows: list[list[int]]) -> None:
    settings = FITTING.layers.model_copy(update={"noise": 0.5})
    learner = LayerComponents(deep_lm, settings, 2, seed=1)
    bare = learner.log_prob(rows, quiet)
    learner.adapt(rows, quiet)
    assert learner.adapter is not None
    assert learner.num_parameters == 6 + learner.adapter.num_parameters
    adapted = learner.log_prob(rows, quiet)
    assert bool((adapted.sum(0) > bare.sum(0) + 1).all())
    state = learner.state()
    other = LayerComponents(deep_lm, settings, 2, seed=9)
    other.restore(state)
    assert torch.equal(other.log_prob(rows, quiet), adapted)
    for one in (learner, other):
        one.improve(rows, torch.ones(len(rows), 2), rate=1.0, report=quiet)
    after, want = other.state(), learner.state()
    assert {name for name in want if not torch.equal(want[name], after[name])} == set()
    whole = other._whole
    other.restore(state)
    assert other._whole is whole  # put together once as long as the adapter stays


def test_a_fitted_prior_comes_back_bit_by_bit(deep_lm: CausalLM, tmp_path: Path) -> None:
    prior = fit(deep_lm, TEXTS, FITTING)
    prior.save(tmp_path / "prior")
    again = Prior.load(tmp_path / "prior", deep_lm)
    assert prior.manifest.kind.model_dump() == {"kind": "layers", "num_layers": 5, "first": 1, "last": 1, "scale": 2.0}
    assert torch.equal(prior.log_likelihood(TEXTS), again.log_likelihood(TEXTS))
    fitted = again.manifest.fitted
    assert fitted is not None
    assert fitted.dev_nats < fitted.base_nats - 0.3
    held_out = [TEXTS[i] for i in split(len(TEXTS), FITTING.learning)[1]]
    found_NK = again.log_prob_K + again.log_likelihood(held_out)
    tokens = sum(len(deep_lm.encode_text(text)) for text in held_out)
    assert fitted.dev_nats == pytest.approx(-float(found_NK.logsumexp(1).sum()) / tokens, abs=1e-5)  # no price in it
    broken = {name: t for name, t in prior.tensors.items() if name != "up.model.layers.1.mlp.up_proj"}
    with pytest.raises(IntegrityError, match="both thin matrices"):
        _ = Prior(prior.manifest, broken, deep_lm).ensemble


def test_a_run_that_stops_after_the_adaptation_goes_on_from_there(
    deep_lm: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(deep_lm, TEXTS, FITTING)
    stages: list[str] = []

    def stop(stage: str, done: int, total: int) -> None:
        stages.append(stage)
        if stage != "adaptation":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(deep_lm, TEXTS, FITTING, checkpoint=tmp_path / "run", report=stop)
    assert set(stages[:-1]) == {"adaptation"}
    stages.clear()
    found = fit(deep_lm, TEXTS, FITTING, checkpoint=tmp_path / "run", report=lambda s, d, t: stages.append(s))
    assert "adaptation" not in stages
    assert found.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(weight, whole.tensors[name]) for name, weight in found.tensors.items())


def test_steps_of_layers_are_not_undone(deep_lm: CausalLM, rows: list[list[int]]) -> None:
    """Masks drawn at random may be worse for a round; the same rule undoes such steps of a monotone learner."""

    class Flipped(LayerComponents):
        def improve(self, rows: Rows, weight_NK: Tensor, *, rate: float, report: Report) -> None:
            self._logit_KL = -self._logit_KL

    settings = FITTING.layers.model_copy(update={"initial_logit": -0.5, "noise": 0.0})
    assert nats(skipping(deep_lm, [0, 4]), rows) < nats(deep_lm, rows) - 0.05  # so the first step is a fall
    for is_monotone, patience, want in ((False, 1, [False] * 4), (True, 9, [False, True, True, True])):
        learner = Flipped(deep_lm, settings, 2)
        learner.is_monotone = is_monotone
        found = learn(learner, rows, Learning(rounds=3, patience=patience))
        assert [r.is_undone for r in found.rounds] == want
        dev_nats = [r.dev_nats for r in found.rounds if r.dev_nats is not None]
        assert found.best_dev == min(dev_nats)
        assert bool((learner.tensors()["logits"] < 0).all())  # the best round is kept
        priced = -float(torch.logsumexp(learner.log_prob(rows, quiet) + found.log_prob_K, 1).sum())
        assert priced / sum(map(len, rows)) < nats(deep_lm, rows) + 3 * settings.layer_cost
