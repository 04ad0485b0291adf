"""The rounds of learning a prior; see `learning` for what they maximise."""

# Axes: K components, N texts.

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.algebra import log_normalize
from factorlm.errors import InputError
from factorlm.models.progress import Report, quiet
from factorlm.prior.beliefs import num_effective
from factorlm.prior.learning import (
    Learner,
    Learning,
    Progress,
    Round,
    Rows,
    best_weights,
    bound_of,
    responsibilities,
    split,
)

SLOWER = 0.5  # of the step size, after a round that was undone
TOLERANCE = 1e-9  # nats per text
SEEDS = 16  # texts that a component begins anew from


def learn(
    learner: Learner,
    rows: Rows,
    settings: Learning,
    *,
    first_NK: Tensor | None = None,
    progress: Progress | None = None,
    save: Callable[[Progress], None] | None = None,
    report: Report = quiet,
) -> Progress:
    """Learn weights and components from texts; the learner is left as it was at the best held-out likelihood.

    Args:
        learner: of the components.
        rows: the texts.
        settings: how.
        first_NK: responsibilities to begin with, which break the symmetry of equal components; without, the learner's
            own likelihoods do.
        progress: to go on from, with the learner restored.
        save: called after each round.
        report: told of progress.

    Raises:
        InputError: if there are fewer texts than components.
    """
    train, dev = split(len(rows), settings)
    num_components = learner.num_components
    if len(train) < num_components:
        raise InputError(f"at least {num_components} texts to learn from are needed, got {len(train)}; give more")
    now = progress or Progress.begun(num_components)
    run = _Run(learner, settings, [rows[i] for i in train], [rows[i] for i in dev], now, report)
    if not now.rounds:
        now.rate = settings.rate
    if not now.rounds and settings.warm:
        run.warm_up()
    if not now.rounds and first_NK is not None:
        run.begin(first_NK[train].double())
        if save is not None:
            save(now)
    while not run.is_over:
        (run.batch_round if settings.method == "em" else run.online_round)()
        if save is not None:
            save(now)
    if now.best is not None:
        now.log_prob_K = now.best[0]
        learner.restore(_copied(now.best[1]))
    return now


@dataclass
class _Run:
    learner: Learner
    settings: Learning
    train: Rows
    dev: Rows
    now: Progress
    report: Report

    @property
    def is_over(self) -> bool:
        """Whether there were enough rounds, or the held-out likelihood no longer gets better."""
        nats = [math.inf if r.dev_nats is None else r.dev_nats for r in self.now.rounds]
        is_begun = bool(nats) and self.now.rounds[0].bound is None
        if len(nats) >= self.settings.rounds + (1 if self.settings.method == "em" or is_begun else 0):
            return True
        if not self.learner.is_monotone:
            return False
        return bool(nats) and len(nats) - 1 - min(range(len(nats)), key=nats.__getitem__) >= self.settings.patience

    def warm_up(self) -> None:
        """Teach one component what all texts have in common, then make the others like it."""
        weight_NK = torch.zeros(len(self.train), self.learner.num_components, dtype=torch.float64)
        weight_NK[:, :1] = self._temper(self.train)
        for number in range(1, self.settings.warm + 1):
            self.learner.improve(self.train, weight_NK, rate=1.0, report=_before(self.report, f"warm-up {number}"))
        self.learner.spread()

    def begin(self, resp_NK: Tensor) -> None:
        """A first step with responsibilities that were given."""
        self.now.log_prob_K = best_weights(resp_NK, self.settings.alpha)
        temper_N1 = self._temper(self.train)
        self._note(None, None, None, resp_NK)
        self._improve(self.train, resp_NK, temper_N1, self._shown, self._generator())

    def batch_round(self) -> None:
        """Responsibilities of all texts and new weights, then a step of the components."""
        now, alpha = self.now, self.settings.alpha
        temper_N1 = self._temper(self.train)
        whole_NK = self.learner.log_prob(self.train, self._shown).double()
        is_undone = False
        if now.before is not None and self.learner.is_monotone:
            log_prob_K, state, before_NK = now.before
            taken_N1 = self._temper(self.train, len(now.rounds) - 1)  # as when the step was taken
            least = bound_of(log_prob_K, before_NK * taken_N1, alpha) - TOLERANCE * len(self.train)
            is_undone = bound_of(now.log_prob_K, whole_NK * taken_N1, alpha) < least
            if is_undone:
                now.log_prob_K, whole_NK = log_prob_K, before_NK
                self.learner.restore(_copied(state))
                now.rate *= SLOWER
        bound = bound_of(now.log_prob_K, whole_NK * temper_N1, alpha) / len(self.train)
        resp_NK = responsibilities(now.log_prob_K, whole_NK * temper_N1).exp()
        now.log_prob_K = best_weights(resp_NK, alpha)
        train_nats = _nats(now.log_prob_K, whole_NK, self.train)
        dev_nats = self._held_out(train_nats)
        reseeded = self._reseed(self.train, torch.logsumexp(now.log_prob_K + whole_NK, -1))
        self._note(bound, train_nats, dev_nats, resp_NK, is_undone, reseeded)
        now.before = None if reseeded else (now.log_prob_K.clone(), _copied(self.learner.state()), whole_NK)
        if not self.is_over:
            self._improve(self.train, resp_NK, temper_N1, self._shown, self._generator())

    def online_round(self) -> None:
        """Both for one batch of texts after the other."""
        now, settings = self.now, self.settings
        generator = self._generator()
        shuffled = [self.train[i] for i in torch.randperm(len(self.train), generator=generator).tolist()]
        total_K = now.log_prob_K.exp() * len(self.train)
        bound, log_probs, found = 0.0, [], []
        for done in range(0, len(shuffled), settings.batch_texts):
            rows = shuffled[done : done + settings.batch_texts]
            whole_NK = self.learner.log_prob(rows, quiet).double()
            temper_N1 = self._temper(rows)
            log_lik_NK = whole_NK * temper_N1
            bound += bound_of(now.log_prob_K, log_lik_NK, 1.0)
            log_probs.append(torch.logsumexp(now.log_prob_K + whole_NK, -1))
            resp_NK = responsibilities(now.log_prob_K, log_lik_NK).exp()
            if settings.method == "hard":
                resp_NK = torch.nn.functional.one_hot(resp_NK.argmax(1), self.learner.num_components).double()
            self._improve(rows, resp_NK, temper_N1, quiet, generator)
            share = len(rows) / len(self.train)  # weights follow the last pass over all texts
            total_K = (1 - share) * total_K + resp_NK.sum(0)
            now.log_prob_K = best_weights(total_K[None], settings.alpha)
            found.append(resp_NK)
            self._shown("texts", done + len(rows), len(shuffled))
        log_prob_N = torch.cat(log_probs)
        train_nats = -float(log_prob_N.sum()) / sum(map(len, self.train))
        dev_nats = self._held_out(train_nats)
        reseeded = self._reseed(shuffled, log_prob_N)
        self._note(bound / len(self.train), train_nats, dev_nats, torch.cat(found), reseeded=reseeded)

    def _generator(self) -> torch.Generator:
        """Of what is random in this round, which is the same when it is run again."""
        return torch.Generator().manual_seed(self.settings.seed + 1000 * len(self.now.rounds))

    def _improve(
        self, rows: Rows, resp_NK: Tensor, temper_N1: Tensor, report: Report, generator: torch.Generator
    ) -> None:
        """A step of the components."""
        if self.settings.assignment == "drawn":
            drawn_N = torch.multinomial(resp_NK, 1, generator=generator)[:, 0]
            resp_NK = torch.nn.functional.one_hot(drawn_N, self.learner.num_components).double()
        self.learner.improve(rows, resp_NK * temper_N1, rate=self.now.rate, report=report)

    def _held_out(self, train_nats: float) -> float:
        """Nats per token of held-out texts; the best state is kept."""
        now = self.now
        nats = train_nats
        if self.dev:
            nats = _nats(now.log_prob_K, self.learner.log_prob(self.dev, self._shown).double(), self.dev)
        if nats < now.best_dev:
            now.best_dev, now.best = nats, (now.log_prob_K.clone(), _copied(self.learner.state()))
        return nats

    def _reseed(self, rows: Rows, log_prob_N: Tensor) -> tuple[int, ...]:
        """Begin dead components anew, each near other texts of those that are explained worst, token for token."""
        if not self.learner.state():  # what never changes stays dead
            return ()
        least = self.settings.dead_below / self.learner.num_components
        dead = tuple(k for k, p in enumerate(self.now.log_prob_K.exp().tolist()) if p < least)
        num_tokens_N = torch.tensor([len(row) for row in rows], dtype=torch.float64)
        worst = [rows[i] for i in (log_prob_N / num_tokens_N).argsort().tolist()]
        for number, k in enumerate(dead):
            self.learner.reseed(k, worst[number : len(dead) * SEEDS : len(dead)])
        if dead:
            prob_K = self.now.log_prob_K.exp()
            prob_K[list(dead)] = 1 / self.learner.num_components
            self.now.log_prob_K = log_normalize(prob_K.log())
        return dead

    def _temper(self, rows: Rows, number: int | None = None) -> Tensor:
        """What log likelihoods of texts are multiplied by in a round, by default this one, [N, 1]."""
        number = len(self.now.rounds) if number is None else number
        num_tokens_N = torch.tensor([len(row) for row in rows], dtype=torch.float64)
        return (self._most_tokens(number) / num_tokens_N.clamp(min=1)).clamp(max=1.0)[:, None]

    def _most_tokens(self, number: int) -> float:
        """T of a round."""
        settings = self.settings
        if settings.anneal_from is None:
            return settings.temper_tokens
        share = min(1.0, number / max(1, settings.rounds - 1))
        return float(settings.anneal_from * (settings.temper_tokens / settings.anneal_from) ** share)

    def _note(
        self, bound: float | None, train_nats: float | None, dev_nats: float | None, resp_NK: Tensor,
        is_undone: bool = False, reseeded: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        now = self.now
        now.rounds.append(
            Round(
                bound=bound, train_nats=train_nats, dev_nats=dev_nats, num_effective=num_effective(now.log_prob_K),
                certainty=float(resp_NK.amax(1).mean()), rate=now.rate, is_undone=is_undone, reseeded=reseeded,
            )
        )  # fmt: skip

    def _shown(self, stage: str, done: int, total: int) -> None:
        self.report(f"round {len(self.now.rounds)}: {stage}", done, total)


def _before(report: Report, title: str) -> Report:
    return lambda stage, done, total: report(f"{title}: {stage}", done, total)


def _nats(log_prob_K: Tensor, log_lik_NK: Tensor, rows: Rows) -> float:
    """Negative log likelihood of texts under the mixture, per token."""
    return -float(torch.logsumexp(log_prob_K + log_lik_NK, -1).sum()) / sum(map(len, rows))


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}
