"""From texts to a prior: what components are made of, where they begin, how they are learned, what they look like."""

# Axes: D width, K components, N texts.

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from factorlm.algebra import PAD, pad_left, pad_right
from factorlm.errors import InputError
from factorlm.models import CausalLM
from factorlm.models.layers import num_layers
from factorlm.models.progress import Report, quiet
from factorlm.prior.batches import by_length, score_rows
from factorlm.prior.checkpoint import Checkpoint
from factorlm.prior.ensemble import Separate
from factorlm.prior.explicit import ExplicitComponents, ExplicitSettings
from factorlm.prior.layers import LayerComponents, LayerSettings
from factorlm.prior.learning import Learning, Progress, Rows, split
from factorlm.prior.lora import LoraComponents, LoraComponentSettings
from factorlm.prior.manifest import (
    Base,
    ComponentCard,
    Fitted,
    Kind,
    Layers,
    Lora,
    Manifest,
    Models,
    Portrait,
    Prompts,
    SoftPrompts,
)
from factorlm.prior.portraits import portraits
from factorlm.prior.prior import Prior
from factorlm.prior.regressions import part
from factorlm.prior.rounds import learn
from factorlm.prior.soft import SoftComponents, SoftSettings
from factorlm.prior.whole import WholeModels
from factorlm.settings import Config

ENCODED_TOKENS = 2048  # to a batch, where texts are read for clusters
RESTARTS = 10  # of k-means
PICTURED = 200  # texts that portraits are made from
Components = SoftComponents | ExplicitComponents | LayerComponents | LoraComponents | WholeModels


class Fitting(Config):
    """How a prior is learned from texts.

    Attributes:
        kind: what components are made of.
        components: K.
        begin: with responsibilities of clusters of texts by what they are about, of a mixture of regressions that
            parts them by what one predicts and another does not (see `regressions`), of random parts, or of the
            components as they first come.
        longest: tokens read of a text.
        learning: rounds and bounds.
        soft: for soft-prompt.
        prompt: for prompt.
        layers: for layers.
        lora: for lora.
    """

    kind: Literal["soft-prompt", "prompt", "layers", "lora", "model"] = "soft-prompt"
    components: Annotated[int, Field(ge=1, le=64)] = 4
    begin: Literal["clusters", "regressions", "random", "components"] = "clusters"
    longest: PositiveInt = 64
    learning: Learning = Learning(warm=2)
    soft: SoftSettings = SoftSettings()
    prompt: ExplicitSettings = ExplicitSettings()
    layers: LayerSettings = LayerSettings()
    lora: LoraComponentSettings = LoraComponentSettings()


def fit(
    lm: CausalLM,
    texts: Sequence[str],
    settings: Fitting,
    *,
    corpus: str = "",
    licence: str = "unspecified",
    names: Sequence[str] = (),
    pool: Sequence[str] = (),
    models: Sequence[CausalLM] = (),
    checkpoint: Path | None = None,
    report: Report = quiet,
) -> Prior:
    """Learn a prior.

    Args:
        lm: the base, which stays as it is.
        texts: to become likely.
        settings: how.
        corpus: a line on the texts, for the card.
        licence: of the texts.
        names: of the components; A, B, ... by default.
        pool: sentences to choose assumptions from, for prompt.
        models: the components, for model.
        checkpoint: a file that keeps the run while it goes on; one that was stopped goes on from it.
        report: told of progress.

    Raises:
        InputError: if there are too few texts, or names, models or sentences do not fit.
    """
    rows = [row for text in texts if (row := lm.encode_text(text)[: settings.longest])]
    if not rows:
        raise InputError("texts to learn from are needed, got none with a token in it")
    num_components = len(models) if settings.kind == "model" else settings.components
    named = list(names) or [_letter(k) for k in range(num_components)]
    if len(named) != num_components or len(set(named)) < num_components:
        raise InputError(f"{num_components} different names are needed, got {', '.join(named)}")
    learner = _learner(lm, rows, settings, pool, models)
    kept = None if checkpoint is None else Checkpoint(checkpoint, _key(lm, rows, settings, pool, models))
    found = None if kept is None else kept.load(learner)
    progress, before = found or (Progress.begun(num_components), 0.0)
    start = time.monotonic()

    def save(now: Progress) -> None:
        if kept is not None:
            kept.save(now, learner, before + time.monotonic() - start)

    if found is None and isinstance(learner, LayerComponents) and settings.layers.adapt is not None:
        learner.adapt([rows[i] for i in split(len(rows), settings.learning)[0]], report)
        save(progress)
    first_NK = None
    if not progress.rounds and num_components > 1 and settings.kind != "model" and settings.begin != "components":
        first_NK = _beginning(lm, rows, settings, report)
    now = learn(learner, rows, settings.learning, first_NK=first_NK, progress=progress, save=save, report=report)
    prior = _assembled(lm, learner, now, settings, named)
    train, dev = split(len(rows), settings.learning)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(settings.learning.seed)).tolist()
    shown = [rows[train[i]] for i in order[:PICTURED]]  # of all the corpus, whatever its order
    log_lik_NK = score_rows(prior.ensemble, shown, lm.start_ids, report)
    soft = learner.tensors().get("soft") if isinstance(learner, SoftComponents) else None
    found_portraits, divergence_KK = portraits(
        prior.mixture, lm, shown, log_lik_NK, soft, settings.learning.seed, report
    )
    held_out = [rows[i] for i in dev or train]
    base_nats = -float(score_rows(Separate((lm,)), held_out, lm.start_ids).sum()) / sum(map(len, held_out))
    dev_nats = now.best_dev
    if settings.kind == "layers" and settings.layers.layer_cost:  # what was learned by counts the price in
        found_NK = now.log_prob_K + score_rows(prior.ensemble, held_out, lm.start_ids, report)
        dev_nats = -float(found_NK.logsumexp(1).sum()) / sum(map(len, held_out))
    fitted = Fitted(
        corpus=corpus, num_texts=len(rows), num_tokens=sum(map(len, rows)), fingerprint=_digest(rows), licence=licence,
        settings=json.loads(settings.model_dump_json()), rounds=tuple(now.rounds), dev_nats=dev_nats,
        base_nats=base_nats, num_parameters=learner.num_parameters, seconds=before + time.monotonic() - start,
    )  # fmt: skip
    manifest = _described(prior.manifest, found_portraits, divergence_KK).model_copy(update={"fitted": fitted})
    if kept is not None:
        kept.remove()
    whole = Prior(manifest, prior.tensors, lm)
    whole.__dict__["ensemble"] = prior.ensemble
    return whole


def _learner(
    lm: CausalLM, rows: Rows, settings: Fitting, pool: Sequence[str], models: Sequence[CausalLM]
) -> Components:
    number, seed = settings.components, settings.learning.seed
    if pool and settings.kind != "prompt":
        raise InputError(f"a pool of sentences is for the kind prompt, got {settings.kind}; leave it out")
    if bool(models) != (settings.kind == "model"):
        raise InputError("models are components of the kind model, which needs two or more of them")
    if settings.kind == "soft-prompt":
        return SoftComponents(lm, settings.soft, number, rows, seed)
    if settings.kind == "prompt":
        return ExplicitComponents(lm, settings.prompt, number, rows, pool, seed)
    if settings.kind == "layers":
        return LayerComponents(lm, settings.layers, number, seed)
    if settings.kind == "lora":
        return LoraComponents(lm, settings.lora, number, seed)
    return WholeModels(models)


def _assembled(lm: CausalLM, learner: Components, now: Progress, settings: Fitting, names: list[str]) -> Prior:
    """The prior as it was learned, without portraits."""
    kind: Kind
    if isinstance(learner, SoftComponents):
        kind = SoftPrompts(places=settings.soft.places)
    elif isinstance(learner, ExplicitComponents):
        kind = Prompts(assumptions=tuple(learner.assumptions))
    elif isinstance(learner, LayerComponents):
        kind = Layers(
            num_layers=num_layers(lm),
            first=settings.layers.first,
            last=settings.layers.last,
            scale=None if learner.adapter is None else learner.adapter.scale,
        )
    elif isinstance(learner, LoraComponents):
        kind = Lora(rank=settings.lora.rank, scale=settings.lora.scale)
    else:
        models = learner.models
        kind = Models(models=tuple(m.name for m in models), fingerprints=tuple(m.fingerprint for m in models))
    prob_K = now.log_prob_K.exp()
    cards = tuple(
        ComponentCard(name=name, weight=weight, learned_weight=weight)
        for name, weight in zip(names, (prob_K / prob_K.sum()).tolist(), strict=True)
    )
    base = Base(name=lm.name, fingerprint=lm.fingerprint)
    return Prior(Manifest(kind=kind, base=base, components=cards), learner.tensors(), lm)


def _described(manifest: Manifest, found: list[Portrait], divergence_KK: Tensor) -> Manifest:
    cards = tuple(
        card.model_copy(update={"portrait": portrait})
        for card, portrait in zip(manifest.components, found, strict=True)
    )
    divergence = tuple(tuple(round(v, 6) for v in row) for row in divergence_KK.tolist())
    return manifest.model_copy(update={"components": cards, "divergence": divergence})


def _beginning(lm: CausalLM, rows: Rows, settings: Fitting, report: Report) -> Tensor:
    """Responsibilities, all or nothing but for regressions, [N, K]."""
    seed, number = settings.learning.seed, settings.components
    if settings.begin == "regressions":
        return part(lm, rows, number, seed, report)
    if settings.begin == "random" or len(rows) < 2 * number:
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        label_N = order.argsort() % number
    else:
        from sklearn.cluster import KMeans

        state_ND = _mean_states(lm, rows, report)
        state_ND = (state_ND - state_ND.mean(0)) / state_ND.std(0).clamp(min=1e-6)
        label_N = torch.as_tensor(
            KMeans(number, n_init=RESTARTS, random_state=seed).fit(np.asarray(state_ND)).labels_
        ).long()
    return torch.nn.functional.one_hot(label_N, number).double()


def _mean_states(lm: CausalLM, rows: Rows, report: Report) -> Tensor:
    """Mean last hidden state of each text, [N, D]."""
    state_ND = torch.zeros(len(rows), lm.width)
    done = 0
    for batch in by_length([len(row) + 1 for row in rows], ENCODED_TOKENS):
        text_BT = pad_right([rows[i] for i in batch])
        prefix_BT = pad_left([list(lm.start_ids)] * len(batch))
        hidden_BTD = lm.hidden_before(prefix_BT, torch.cat([text_BT, text_BT[:, :1]], 1))[:, 1:].float().cpu()
        real_BT1 = (text_BT != PAD)[:, :, None]
        state_ND[batch] = torch.where(real_BT1, hidden_BTD, 0.0).sum(1) / real_BT1.sum(1)
        done += len(batch)
        report("clusters", done, len(rows))
    return state_ND


def _key(lm: CausalLM, rows: Rows, settings: Fitting, pool: Sequence[str], models: Sequence[CausalLM]) -> str:
    content = [lm.fingerprint, str(lm.model.dtype), _digest(rows), settings.model_dump_json(), list(pool)]
    return hashlib.sha256(json.dumps([*content, [m.fingerprint for m in models]]).encode()).hexdigest()


def _digest(rows: Rows) -> str:
    return hashlib.sha256(json.dumps([list(row) for row in rows]).encode()).hexdigest()[:16]


def _letter(k: int) -> str:
    """A, B, ..., Z, A1, B1, ..."""
    return chr(ord("A") + k % 26) + (str(k // 26) if k >= 26 else "")
