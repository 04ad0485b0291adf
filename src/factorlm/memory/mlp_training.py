"""An MLP memory learns from a datastore; a training that was killed goes on where it stood."""

# Axes: D width, K tokens of neighbours, N states, V vocabulary.

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import linear

from factorlm.errors import InputError
from factorlm.files import write_whole
from factorlm.memory.card import FittedGate, check_model, check_place, mark_of, read_card, write_memory
from factorlm.memory.datastore import Datastore
from factorlm.memory.gates import ConstantGate, Evidence, fit_constant
from factorlm.memory.mlp import WEIGHTS, Check, MlpCard, MlpNetwork, MlpSettings
from factorlm.memory.mlp_targets import Lesson, sparse_kl, sparse_loss
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet

MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # of AdamW
RUN = "run.safetensors"
TOGETHER = 256  # states that are checked at once
LEAST_GAIN = 1e-5  # nats; less is none


def train_mlp(
    lm: CausalLM,
    store_path: Path | str,
    target: Path,
    settings: MlpSettings,
    *,
    report: Report = quiet,
    replace: bool = False,
    unfinished: Path | None = None,
) -> MlpCard:
    """Learn from the living entries of a datastore, and write the network of the best check.

    Args:
        lm: the model that the datastore was built with; its unembedding is needed, it reads no text.
        store_path: the datastore, not projected.
        target: folder of the MLP memory.
        settings: of network and learning.
        report: told of entries whose neighbours were found, and of steps.
        replace: whether a memory that is there may go.
        unfinished: folder in which a killed training waits to be called again; None takes one beside the target.

    Raises:
        InputError: if the datastore is projected or too small, or the place cannot be written.
        IncompatibleError: if the datastore holds states of another model.
    """
    check_place(target, replace=replace)
    store = Datastore.open(store_path)
    check_model(store.path, store.card.model, lm)
    if store.key_map.map_DW is not None:
        raise InputError(
            f"an MLP memory learns from whole hidden states, and {store.path} keeps projections to "
            f"{store.card.width} numbers; build it with width=0"
        )
    waiting = (unfinished or target.parent) / f".{target.name}.{_key(store, settings)}.training"
    try:
        course = _Course(lm, store, settings, Lesson.of(store, settings, waiting, report), waiting)
        course.go(report)
        _write(course, target, replace)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}; name another place") from None
    shutil.rmtree(waiting, ignore_errors=True)
    return read_card(target, MlpCard)


class _Course:
    """The network, its optimizer, and what was found so far."""

    def __init__(self, lm: CausalLM, store: Datastore, settings: MlpSettings, lesson: Lesson, folder: Path) -> None:
        self.lm, self.store, self.settings, self.lesson, self.folder = lm, store, settings, lesson, folder
        generator = torch.Generator().manual_seed(settings.seed)
        network = MlpNetwork(settings, lm.width, lm.vocabulary.size, generator)
        network.mean_D.copy_(store.key_map.mean_D)
        network.size.fill_(store.key_map.spread / lm.width**0.5)
        self.network = network.to(lm.device)
        matrices = [p for p in self.network.parameters() if p.ndim > 1]
        rest = [p for p in self.network.parameters() if p.ndim == 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}],
            lr=settings.learning_rate,
        )
        self.batch = min(settings.batch, len(lesson.learned_N))
        self.steps_an_epoch = len(lesson.learned_N) // self.batch
        self.total = settings.epochs * self.steps_an_epoch
        self.every = max(1, self.steps_an_epoch // settings.checks)
        self.unembedding_VD = lm.unembedding_VD.float()  # gradients pass through it, and it does not change
        self.model_N = self._model_log_probs()
        self.step = 0
        self.checks: list[Check] = []
        self.best: dict[str, Tensor] = {}

    def go(self, report: Report) -> None:
        """Learn to the end, or until checks gain nothing more."""
        self._resume()
        while not self._is_over():
            if self.step % self.every == 0 and not (self.checks and self.checks[-1].step == self.step):
                self._check()
                if self._is_over():
                    break
            self._learn()
            if self.step % self.settings.checkpoint_every == 0:
                self._save()
            report("steps", self.step, self.total)
        if not self.checks or self.checks[-1].step < self.step:
            self._check()

    @property
    def best_check(self) -> Check:
        """The one whose network is kept."""
        return min(self.checks, key=self._loss)

    def _loss(self, check: Check) -> float:
        return check.mixed_nats if self.settings.stop_by == "mixed" else check.kl

    def _is_over(self) -> bool:
        if self.step >= self.total:
            return True
        patience = self.settings.patience
        if len(self.checks) <= patience:
            return False
        before = min(map(self._loss, self.checks[:-patience]))
        return min(map(self._loss, self.checks[-patience:])) > before - LEAST_GAIN

    def _learn(self) -> None:
        settings, lesson = self.settings, self.lesson
        epoch, place = divmod(self.step, self.steps_an_epoch)
        if place == 0 or not hasattr(self, "_order_N"):
            order = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)  # known again without a state
            self._order_N = torch.randperm(len(lesson.learned_N), generator=order)
        chosen_N = self._order_N[place * self.batch : (place + 1) * self.batch]
        rate = min(1.0, (self.step + 1) / (settings.rising + 1)) * (1 + math.cos(math.pi * self.step / self.total)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        entry_N = lesson.learned_N[chosen_N]
        token_NK, weight_NK = (x.to(self.lm.device) for x in lesson.learned_targets.rows(chosen_N))
        log_prob_NV = self.network(self._states(entry_N), self._unembed).log_softmax(-1)
        loss = sparse_loss(log_prob_NV, token_NK, weight_NK, self._next(entry_N), settings.alpha)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.step += 1

    @torch.no_grad()
    def _check(self) -> None:
        """Ask the held-out states, and keep the network if it is the best so far."""
        kls, memories = [], []
        for place_N in torch.arange(len(self.lesson.held_N)).split(TOGETHER):
            entry_N = self.lesson.held_N[place_N]
            log_prob_NV = self.network(self._states(entry_N), self._unembed).log_softmax(-1)
            token_NK, weight_NK = (x.to(self.lm.device) for x in self.lesson.held_targets.rows(place_N))
            kls.append(sparse_kl(log_prob_NV, token_NK, weight_NK).cpu())
            memories.append(log_prob_NV.gather(1, self._next(entry_N)[:, None])[:, 0].cpu())
        memory_N = torch.cat(memories).double().numpy()
        evidence = Evidence(np.zeros((len(memory_N), 0)), memory_N, self.model_N)
        gate = fit_constant(evidence)
        found = Check(
            step=self.step,
            kl=float(torch.cat(kls).mean()),
            memory_nats=float(-memory_N.mean()),
            mixed_nats=float(-evidence.under(gate).mean()),
            weight=gate.weight,
        )
        self.checks.append(found)
        if self.best_check is found:
            self.best = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}

    @torch.no_grad()
    def _model_log_probs(self) -> Any:
        """Of what followed the held-out states, under the model alone, in nats."""
        held_N = self.lesson.held_N
        parts = [
            self.lm.log_prob_of(self._states(some_N), self._next(some_N)).cpu() for some_N in held_N.split(TOGETHER)
        ]
        return torch.cat(parts).double().numpy()

    def _states(self, entry_N: Tensor) -> Tensor:
        return self.store.key_map.states(self.store.key_NW[entry_N]).to(self.lm.device)

    def _next(self, entry_N: Tensor) -> Tensor:
        return torch.from_numpy(self.store.value_N[entry_N.numpy()].astype(np.int64)).to(self.lm.device)

    def _unembed(self, hidden_ND: Tensor) -> Tensor:
        return linear(hidden_ND, self.unembedding_VD)

    def _save(self) -> None:
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for n, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"moment.{n}.{name}": moments[name] for name in MOMENTS}
        told = json.dumps({"step": self.step, "checks": [check.model_dump() for check in self.checks]})
        content = safetensors.torch.save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, {"told": told}
        )
        write_whole(self.folder / RUN, content)

    def _resume(self) -> None:
        place = self.folder / RUN
        if not place.is_file():
            return
        try:
            with safetensors.safe_open(place, "pt") as file:
                told = json.loads(file.metadata()["told"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        except (OSError, KeyError, ValueError, safetensors.SafetensorError):
            return  # a run that cannot be read is begun anew
        self.step, self.checks = told["step"], [Check.model_validate(check) for check in told["checks"]]
        self.network.load_state_dict(_under("network.", tensors))
        self.best = {name: tensor.to(self.lm.device) for name, tensor in _under("best.", tensors).items()}
        moments = _under("moment.", tensors)
        numbers = sorted({int(name.split(".")[0]) for name in moments})
        state = {n: {name: moments[f"{n}.{name}"] for name in MOMENTS} for n in numbers}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


def _under(start: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _write(course: _Course, target: Path, replace: bool) -> None:
    store, best = course.store, course.best_check
    weights = {name: tensor.cpu().contiguous() for name, tensor in course.best.items()}
    model_nats = float(-course.model_N.mean())
    gate = FittedGate(
        gate=ConstantGate(weight=best.weight),
        model=course.lm.name,
        text=f"states held back from {store.path.name}",
        num_tokens=len(course.model_N),
        model_nats=model_nats,
        mixed_nats=best.mixed_nats,
    )
    card = MlpCard(
        model=mark_of(course.lm, with_encoder=True),
        num_documents=store.card.num_documents,
        num_tokens=store.card.num_tokens,
        sources=store.card.sources,
        troubles=store.card.troubles,
        licence=store.card.licence,
        gates={"": gate},
        settings=course.settings,
        store=store.path.name,
        state_width=course.lm.width,
        num_parameters=sum(p.numel() for p in course.network.parameters()),
        num_held=len(course.model_N),
        model_nats=model_nats,
        checks=tuple(course.checks),
    )
    write_memory(target, card, lambda folder: safetensors.torch.save_file(weights, folder / WEIGHTS), replace=replace)


def _key(store: Datastore, settings: MlpSettings) -> str:
    """Names a training: the same settings on the same entries."""
    marks = {name: mark.sha256 for name, mark in store.card.files.items()}
    told = json.dumps([settings.model_dump(mode="json"), marks, store.card.model.encoder], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]
