"""Factors side by side: their log potentials at neutral states and along texts, a stretch of places at a time."""

# Axes: B texts, D width, K factors, N places, R rows of a batch, T time, V vocabulary; n is a stretch of N.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from factorlm.algebra import PAD, Factor, Term, log_mean, names_of, pad_left, pad_right
from factorlm.factors.calibration import OPENINGS, neutral_states
from factorlm.factors.examples import evenly
from factorlm.factors.features import tokenized
from factorlm.factors.head import Head
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet

STRETCH = 16  # neutral states at once: for ten factors [K, n, V] of float32 is about 30 MB
BATCH_TEXTS = 32
PER_OPENING, NUM_TOKENS = 6, 20  # the model's own texts: how many of each opening, and how long
MOST_TEXTS = 400  # of a corpus


@dataclass(frozen=True)
class Moments:
    """What the composition q ∝ p prod_k w_k ** a_k expects of each log potential, averaged over neutral states.

    Attributes:
        mean_K: E_h E_q[phi_k], in nats; a constant of the state is in it, so only differences mean something.
        covariance_KK: E_h Cov_q(phi_i, phi_j), in nats squared per token.
        divergence: E_h KL(q || p), in nats per token.
    """

    mean_K: Tensor
    covariance_KK: Tensor
    divergence: float


@dataclass(frozen=True, eq=False)
class Potentials:
    """Bound factors of any kind over one model, looked at together.

    A token that any of the factors makes impossible is left out for all: its potential is no number.

    Attributes:
        lm: the model that they steer.
        factors: in order of K.
    """

    lm: CausalLM
    factors: tuple[Factor, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What people call the factors; where two share a name, the later gets a number."""
        return tuple(names_of([Term(factor) for factor in self.factors]))

    def stretches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Log probabilities [n, V] of the base and log potentials [K, n, V] of the factors over the neutral states."""
        states = neutral_states(self.lm)
        for start in range(0, len(states.hidden_ND), STRETCH):
            part = slice(start, start + STRETCH)
            log_prob_nV, hidden_nD = states.log_prob_NV[part], states.hidden_ND[part]
            rows = [
                _potential(factor, kept, hidden_nD) if kept is None or len(kept) == 1 else kept[part]
                for factor, kept in zip(self.factors, self._kept, strict=True)
            ]
            yield log_prob_nV, torch.stack([row.expand_as(log_prob_nV) for row in rows])

    def moments(self, exponents: Sequence[float] | Tensor | None = None) -> Moments:
        """Means, covariances and divergence under the composition with these exponents; None asks for the base's."""
        num_factors = len(self.factors)
        exponent_K = torch.zeros(num_factors) if exponents is None else torch.as_tensor(exponents)
        exponent_K11 = exponent_K.to(self.lm.device, torch.float32)[:, None, None]
        mean_K = torch.zeros(num_factors, dtype=torch.float64)
        covariance_KK = torch.zeros(num_factors, num_factors, dtype=torch.float64)
        divergence, num_states = 0.0, 0
        for log_prob_nV, potential_KnV in self.stretches():
            possible_nV = (potential_KnV > -torch.inf).all(0) & (log_prob_nV > -torch.inf)
            potential_KnV = torch.where(possible_nV, potential_KnV, 0.0)
            tilt_nV = (exponent_K11 * potential_KnV).sum(0)
            log_weight_nV = torch.where(possible_nV, log_prob_nV + tilt_nV, -torch.inf)
            log_total_n1 = log_weight_nV.logsumexp(-1, keepdim=True)
            prob_nV = (log_weight_nV - log_total_n1).exp()
            mean_Kn1 = (potential_KnV * prob_nV).sum(-1, keepdim=True)
            spread_KM = ((potential_KnV - mean_Kn1) * prob_nV.sqrt()).flatten(1)
            mean_K += mean_Kn1.sum((1, 2)).cpu().double()
            covariance_KK += (spread_KM @ spread_KM.T).cpu().double()
            divergence += float(((prob_nV * tilt_nV).sum(-1) - log_total_n1[:, 0]).sum())
            num_states += len(log_prob_nV)
        return Moments(mean_K / num_states, covariance_KK / num_states, divergence / num_states)

    def alone(self, exponents: Sequence[float] | Tensor) -> tuple[Tensor, Tensor]:
        """What each factor does alone at its exponent: E_q[phi_k] - E_p[phi_k], [K], and KL(q || p), [K], in nats.

        Tokens that any of the factors makes impossible are so throughout, in p as well.
        """
        exponent_K11 = torch.as_tensor(exponents).to(self.lm.device, torch.float32)[:, None, None]
        found_2K, num_states = torch.zeros(2, len(self.factors), dtype=torch.float64), 0
        for log_prob_nV, potential_KnV in self.stretches():
            possible_nV = (potential_KnV > -torch.inf).all(0) & (log_prob_nV > -torch.inf)
            potential_KnV = torch.where(possible_nV, potential_KnV, 0.0)
            before_nV = torch.where(possible_nV, log_prob_nV, -torch.inf).log_softmax(-1)
            log_weight_KnV = before_nV + exponent_K11 * potential_KnV
            log_total_Kn1 = log_weight_KnV.logsumexp(-1, keepdim=True)
            mean_Kn = ((log_weight_KnV - log_total_Kn1).exp() * potential_KnV).sum(-1)
            movement_Kn = mean_Kn - (before_nV.exp() * potential_KnV).sum(-1)
            divergence_Kn = exponent_K11[..., 0] * mean_Kn - log_total_Kn1[..., 0]
            found_2K += torch.stack([movement_Kn.sum(-1), divergence_Kn.sum(-1)]).cpu().double()
            num_states += len(log_prob_nV)
        movement_K, divergence_K = found_2K / num_states
        return movement_K, divergence_K

    def pushes(self) -> tuple[Tensor, Tensor]:
        """How far each factor pushes each token, [K, V], in nats at exponent one, and how usual the token is, [V].

        A push is the mean potential over the neutral states, less its mean under the usual probability of tokens.
        """
        push_KV: Tensor | None = None
        usual_V = torch.zeros(self.lm.vocabulary.size, device=self.lm.device)
        num_states = 0
        for log_prob_nV, potential_KnV in self.stretches():
            total_KV = potential_KnV.sum(1)
            push_KV = total_KV if push_KV is None else push_KV + total_KV
            usual_V = usual_V + log_prob_nV.exp().sum(0)
            num_states += len(log_prob_nV)
        assert push_KV is not None
        push_KV, usual_V = push_KV / num_states, usual_V / num_states
        finite_KV = torch.where(push_KV > -torch.inf, push_KV, 0.0)
        return push_KV - (finite_KV * usual_V).sum(-1, keepdim=True), usual_V

    @cached_property
    def _kept(self) -> list[Tensor | None]:
        """What need not be computed again: [1, V] of a head without a map, [N, V] of other kinds, nothing of a map."""
        prefix_NT = neutral_states(self.lm).prefix_NT.to(self.lm.device)
        kept: list[Tensor | None] = []
        for factor in self.factors:
            if isinstance(factor, Head):
                kept.append(_fixed(factor))
            else:
                parts = [factor.start(rows_RT).log_weight_BV.float() for rows_RT in prefix_NT.split(STRETCH)]
                kept.append(torch.cat(parts).to(self.lm.device))
        return kept


def _fixed(head: Head) -> Tensor | None:
    """The potential [1, V] of a head without a map, which is the same at every state."""
    return None if head.weights.rank else head.lm.unembed(head.weights.bias_D)[None]


def _potential(factor: Factor, kept: Tensor | None, hidden_nD: Tensor) -> Tensor:
    if kept is not None:
        return kept
    assert isinstance(factor, Head)
    return factor.potential(hidden_nD)


@dataclass(frozen=True)
class Texts:
    """Texts to measure factors on.

    Attributes:
        prefixes: tokens that stand before each text and are not weighed.
        rows: tokens of each text.
        units: what each text belongs to; texts of one unit hang together.
    """

    prefixes: tuple[tuple[int, ...], ...]
    rows: tuple[tuple[int, ...], ...]
    units: tuple[int, ...]

    @property
    def num_tokens_B(self) -> Tensor:
        """Tokens of each text."""
        return torch.tensor([len(row) for row in self.rows])


def texts_of(lm: CausalLM, lines: Sequence[str]) -> Texts:
    """Lines of a corpus, each a unit of its own: at most MOST_TEXTS, taken evenly, and of each the first tokens."""
    rows = [tuple(row) for row in tokenized(lm, evenly(lines, MOST_TEXTS)) if row]
    return Texts((lm.start_ids,) * len(rows), tuple(rows), tuple(range(len(rows))))


@torch.no_grad()
def own_texts(
    lm: CausalLM,
    *,
    per_opening: int = PER_OPENING,
    num_tokens: int = NUM_TOKENS,
    seed: int = 0,
    report: Report = quiet,
) -> Texts:
    """The model's own continuations of the neutral openings; those of one opening are one unit."""
    generator = torch.Generator().manual_seed(seed)
    openings = [(*lm.start_ids, *lm.encode_text(opening)) for opening in OPENINGS]
    prefixes = [opening for opening in openings for _ in range(per_opening)]
    state = lm.start(pad_left([list(prefix) for prefix in prefixes]))
    written: list[Tensor] = []
    for step in range(num_tokens):
        free_BV = state.log_weight_BV.clone()
        free_BV[:, list(lm.vocabulary.end_ids)] = -torch.inf
        written.append(torch.multinomial(free_BV.softmax(-1).cpu(), 1, generator=generator)[:, 0])
        if step + 1 < num_tokens:
            state = lm.extend(state, written[-1].to(lm.device))
        report("writing texts", step + 1, num_tokens)
    rows = [tuple(row) for row in torch.stack(written, 1).tolist()]
    return Texts(tuple(prefixes), tuple(rows), tuple(b // per_opening for b in range(len(prefixes))))


@dataclass(frozen=True)
class Stretch:
    """Places in texts that are read together.

    Attributes:
        owner_n: the text of each place.
        token_n: the token that comes there.
        log_prob_nV: of each next token under the base.
        potential_KnV: of each factor.
    """

    owner_n: Tensor
    token_n: Tensor
    log_prob_nV: Tensor
    potential_KnV: Tensor

    @property
    def chosen_Kn(self) -> Tensor:
        """Potentials of the tokens that come."""
        index_Kn1 = self.token_n.expand(len(self.potential_KnV), -1)[..., None]
        return self.potential_KnV.gather(2, index_Kn1)[..., 0]


@torch.no_grad()
def along(lm: CausalLM, factors: Sequence[Factor], texts: Texts, *, report: Report = quiet) -> Iterator[Stretch]:
    """Every place of the texts, a token of a batch of texts at a time."""
    fixed = [_fixed(factor) if isinstance(factor, Head) else None for factor in factors]
    order = sorted(range(len(texts.rows)), key=lambda i: len(texts.rows[i]))
    for start in range(0, len(order), BATCH_TEXTS):
        batch = order[start : start + BATCH_TEXTS]
        prefix_BT = pad_left([list(texts.prefixes[i]) for i in batch]).to(lm.device)
        text_BT = pad_right([list(texts.rows[i]) for i in batch]).to(lm.device)
        hidden_BTD = lm.hidden_before(prefix_BT, text_BT)
        others = [None if isinstance(f, Head) else f.steps(prefix_BT, text_BT) for f in factors]
        for t, token_B in enumerate(text_BT.unbind(1)):
            real_R = (token_B != PAD).nonzero()[:, 0]
            hidden_RD = hidden_BTD[real_R, t].float()
            log_prob_RV = lm.unembed(hidden_RD).log_softmax(-1)
            rows = [
                _potential(factor, kept, hidden_RD) if steps is None else next(steps)[real_R].to(lm.device)
                for factor, kept, steps in zip(factors, fixed, others, strict=True)
            ]
            potential_KRV = torch.stack([row.float().expand_as(log_prob_RV) for row in rows])
            yield Stretch(torch.tensor(batch)[real_R.cpu()], token_B[real_R], log_prob_RV, potential_KRV)
        report("reading texts", start + len(batch), len(order))


def log_ratios(lm: CausalLM, factors: Sequence[Factor], texts: Texts, *, report: Report = quiet) -> Tensor:
    """Evidence log p_k(x) / p(x) of each text, [B, K], in nats, with p_k ∝ p w_k at each token."""
    ratio_BK = torch.zeros(len(texts.rows), len(factors), dtype=torch.float64)
    for place in along(lm, factors, texts, report=report):
        step_Kn = place.chosen_Kn - log_mean(place.potential_KnV, place.log_prob_nV)
        ratio_BK.index_add_(0, place.owner_n, step_Kn.T.cpu().double())
    return ratio_BK
