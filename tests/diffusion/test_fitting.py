"""From texts to meanings on a tiny model: what is cut, what is learned, and that a stopped run goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from factorlm.diffusion import fitting
from factorlm.diffusion.checks import measure_decoders, measure_heed
from factorlm.diffusion.decoders import PlanSettings
from factorlm.diffusion.decoding import BiasLearning, SoftLearning
from factorlm.diffusion.denoiser import DenoiserSettings
from factorlm.diffusion.fitting import Encoded, MeaningsFitting, cut, fit_meanings
from factorlm.diffusion.learning import DenoiserLearning
from factorlm.diffusion.windows import WindowSettings
from factorlm.errors import InputError
from factorlm.models import CausalLM

from .test_meanings import encode

TEXTS = [
    f"the {'cat' if n % 2 else 'tree'} is in a {'abcdefgh'[n % 8]} {'good' if n % 2 else 'bad'} "
    f"{'good' if n % 2 else 'bad'} {'abcdefgh'[n % 7]} {'klmnopqrstuvw'[n // 13]}{'klmnopqrstuvw'[n % 13]}"
    for n in range(160)
]
TINY = MeaningsFitting(
    windows=WindowSettings(prefix=(3, 12), continuation=(4, 16), sentences=1), most=100, decoded=60, held_out=20,
    denoiser=DenoiserLearning(network=DenoiserSettings(width=32, blocks=2, waves=4), steps=300, batch=64, rising=20,
                              learning_rate=3e-3, kept=0.98),
    bias=BiasLearning(steps=40, batch=64, rising=5, learning_rate=3e-2),
    soft=SoftLearning(plan=PlanSettings(places=2, narrow=8, layers=1, heads=4), steps=40, batch=16, rising=5,
                      learning_rate=1e-2),
)  # fmt: skip


def test_windows_of_one_text_are_never_on_both_sides(tiny_lm: CausalLM) -> None:
    train, held_out = cut(tiny_lm, TEXTS, TINY)
    assert (len(train), len(held_out)) == (100, 20)
    texts = [{w.prefix + w.continuation for w in windows} for windows in (train, held_out)]
    assert texts[0] | texts[1] <= set(TEXTS)
    assert not texts[0] & texts[1]
    assert cut(tiny_lm, TEXTS, TINY) == (train, held_out)
    assert cut(tiny_lm, TEXTS, TINY.model_copy(update={"seed": 1}))[0] != train
    with pytest.raises(InputError, match="at least 40 windows"):
        cut(tiny_lm, TEXTS[:20], TINY)


def test_what_is_learned_heeds_latents(tiny_lm: CausalLM) -> None:
    meanings, origin = fit_meanings(tiny_lm, encode, TEXTS, TINY)
    assert meanings.soft is not None
    assert meanings.bias is not None
    assert origin.num_windows == 100
    measured = origin.measured
    assert measured["windows measured on"] == 20
    alone = measured["nats per token, no latent"]
    for kind in ("soft", "bias"):  # latents say good or bad, which prefixes of such a model do not tell it
        own, other = (measured[f"nats per token, {kind} decoder{tail}"] for tail in ("", ", other latents"))
        assert own < alone
        assert own < other
    assert all(0 < meanings.heed[kind] < 1.5 for kind in meanings.kinds)
    assert measured["cosine of proposals"] > measured["cosine of proposals to other continuations"]


def test_checks_are_those_of_single_windows(tiny_lm: CausalLM) -> None:
    meanings, _ = fit_meanings(tiny_lm, encode, TEXTS, TINY)
    _, held_out = cut(tiny_lm, TEXTS, TINY)
    examples = Encoded.of(held_out, encode).examples(tiny_lm, meanings.after)
    found = measure_decoders(meanings, examples, (0.5, 1.0), ("soft", "bias"))
    assert [(h.decoder, h.share) for h in found] == [
        ("none", 0.0), ("soft", 0.5), ("soft", 1.0), ("bias", 0.5), ("bias", 1.0)
    ]  # fmt: skip
    whole = found[2]
    for n in (0, 7, 19):
        decoder = meanings.decoder(examples.latent_ND[[n]], torch.Generator().manual_seed(0), "bias")
        row = torch.tensor([examples.prefixes[n]]), torch.tensor([examples.continuations[n]])
        assert -decoder.score(*row).sum() / row[1].numel() == pytest.approx(float(found[4].true_N[n]), abs=1e-3)
        assert whole.num_tokens_N[n] == row[1].numel()
        assert -tiny_lm.score(*row).sum() / row[1].numel() == pytest.approx(float(found[0].true_N[n]), abs=1e-3)
        other = meanings.decoder(examples.latent_ND[[n - 1]], torch.Generator().manual_seed(0), "bias")
        assert -other.score(*row).sum() / row[1].numel() == pytest.approx(float(found[4].other_N[n]), abs=1e-3)


def test_heed_is_seen_where_it_is_known(tiny_lm: CausalLM) -> None:
    """Of a decoder that says good or bad as its latent does, against one that does not look at it."""
    texts = [text.replace("bad" if n % 3 else "good", "good" if n % 3 else "bad") for n, text in enumerate(TEXTS)]
    meanings, _ = fit_meanings(tiny_lm, encode, texts, TINY.model_copy(update={"decoders": ("bias",)}))
    good_E, bad_E = (tiny_lm.unembedding_VD[tiny_lm.encode_text(f" {word}")[0]] for word in ("good", "bad"))
    deaf, loud = (torch.nn.Linear(6, tiny_lm.width) for _ in range(2))
    for layer in (deaf, loud):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    with torch.no_grad():
        loud.weight.copy_(8 * torch.outer(good_E - bad_E, torch.tensor([1.0, -1.0, 0, 0, 0, 0])))
    prefixes = ["the cat is in", "the tree is in"] * 100
    found = {
        name: measure_heed(replace(meanings, bias=layer), prefixes, "bias", tokens=1)
        for name, layer in (("deaf", deaf), ("loud", loud))
    }
    assert abs(found["deaf"]) < 0.1
    assert found["loud"] > found["deaf"] + 0.15


def test_a_stopped_run_does_not_repeat_what_is_done(
    tiny_lm: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = fit_meanings(tiny_lm, encode, TEXTS, TINY)

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "learn_soft", stop)
        with pytest.raises(KeyboardInterrupt):
            fit_meanings(tiny_lm, encode, TEXTS, TINY, folder=tmp_path / "kept")
    stages: list[str] = []
    again, _ = fit_meanings(
        tiny_lm, encode, TEXTS, TINY, folder=tmp_path / "kept", report=lambda stage, _, __: stages.append(stage)
    )
    assert set(stages) == {"soft decoder", "checks", "writing, soft decoder", "writing, bias decoder"}
    assert torch.equal(whole.denoiser.leave.weight, again.denoiser.leave.weight)
    assert whole.bias is not None
    assert again.bias is not None
    assert torch.equal(whole.bias.weight, again.bias.weight)
