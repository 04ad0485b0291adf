"""Neighbours (kNN-LM): what followed the stored states nearest to this one.

Source: Khandelwal et al. (2020), arXiv:1911.00172.
"""

# Axes: B batch, D width of a state, K neighbours, N states laid end to end, T time, V vocabulary.

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from factorlm.algebra import entropy, log_normalize, pad_left
from factorlm.errors import InputError, IntegrityError, UnknownNameError
from factorlm.memory.card import check_model
from factorlm.memory.datastore import VALUES, Datastore, Looking
from factorlm.memory.neighbour_index import Found, Living
from factorlm.memory.remembering import Answer, Recollection, Source
from factorlm.memory.state_memory import StateMemory
from factorlm.models import CausalLM

NEAREST = 1e-6  # added to a distance before its logarithm: the very state may be stored
SHOWN_TOKENS = 12  # of a stored context


class Neighbour(NamedTuple):
    """A stored state near to a query, for explanations.

    Attributes:
        distance: squared; two states drawn at random are at a mean distance of 2.
        prob: its share of p_kNN.
        token: that followed.
        entry: its number.
        document: number of the document.
        source: file of the document.
        line: of the file, where the document begins.
        position: of the token in the document, counted from zero.
        context: the tokens before it, the last ones.
    """

    distance: float
    prob: float
    token: int
    entry: int
    document: int
    source: str
    line: int
    position: int
    context: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class NeighbourMemory(StateMemory):
    """p(v) proportional to the sum of exp(-distance / temperature) over the k nearest entries that v followed.

    Attributes:
        store: what is searched.
        k: neighbours.
        temperature: of distances.
        exclude: documents that are not looked at: those that are being measured, for instance.
    """

    FEATURES: ClassVar[tuple[str, ...]] = ("entropy", "log nearest", "top", "log distinct")

    store: Datastore
    k: int
    temperature: float
    exclude: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.k < 1 or not 0 < self.temperature < float("inf"):
            raise InputError(
                f"at least one neighbour and a temperature above 0 are needed, got {self.k} and {self.temperature}"
            )

    @cached_property
    def living_N(self) -> Living:
        """Entries that may be found."""
        return self.store.without(self.exclude)

    def without(self, documents: Collection[int]) -> NeighbourMemory:
        """The same memory that does not look at these documents."""
        return replace(self, exclude=frozenset(documents))

    def looking(self, looking: Looking) -> NeighbourMemory:
        """The same memory with so many neighbours, at this temperature."""
        return replace(self, k=looking.k, temperature=looking.temperature)

    def found(self, hidden_ND: Tensor) -> Found:
        """The neighbours of states."""
        return self.store.search(self.store.key_map(hidden_ND), self.k, self.living_N)

    def answers(self, hidden_ND: Tensor) -> Answer:
        """See StateMemory."""
        found = self.found(hidden_ND)
        token_NK = self.tokens(found).to(self.lm.device)
        log_share_NK = log_shares(found, self.temperature).to(self.lm.device)
        log_prob_NV = gathered(log_share_NK, token_NK, self.vocabulary.size)
        if found.entry_BK.shape[1]:
            nearest_N = found.distance_BK[:, 0].clamp(max=1e6).to(log_prob_NV)
        else:
            nearest_N = log_prob_NV.new_ones(len(hidden_ND))
        features = [
            entropy(log_prob_NV),
            (nearest_N + NEAREST).log(),
            log_prob_NV.amax(-1).exp(),
            (log_prob_NV > -torch.inf).sum(-1).clamp(min=1).log(),
        ]
        return Answer(log_prob_NV, torch.stack([feature_N.float() for feature_N in features], 1))

    def tokens(self, found: Found) -> Tensor:
        """What followed each neighbour, [B, K]; zero where there is none."""
        entry_BK = found.entry_BK.clamp(min=0).numpy()
        return torch.from_numpy(self.store.value_N[entry_BK].astype(np.int64))

    def nearest(self, where: str | Sequence[int] | Tensor) -> list[Neighbour]:
        """The neighbours of one state, nearest first.

        Args:
            where: a text, token ids with the start token before them, or a hidden state [D].
        """
        if isinstance(where, str):
            where = [*self.lm.start_ids, *self.lm.encode_text(where)]
        hidden_D = where if isinstance(where, Tensor) else self.lm.encode(pad_left([list(where)])).hidden_BD[0]
        found = self.found(hidden_D[None])
        prob_K = log_shares(found, self.temperature)[0].exp().tolist()
        rows = zip(found.entry_BK[0].tolist(), found.distance_BK[0].tolist(), prob_K, strict=True)
        return [self._neighbour(entry, distance, prob) for entry, distance, prob in rows if entry >= 0]

    def recollect(self, prefix_ids: Sequence[int], text_ids: Sequence[int], most: int = 3) -> list[Recollection]:
        """See Memory; sources are the nearest entries that the token followed, or, if there is none, the nearest."""
        prefix_BT, text_BT = torch.tensor([list(prefix_ids)]), torch.tensor([list(text_ids)])
        hidden_TD = self.lm.hidden_before(prefix_BT, text_BT)[0]
        found = []
        for answer, hidden_D, token in zip(self.looks(prefix_BT, text_BT), hidden_TD, text_ids, strict=True):
            near = self.nearest(hidden_D)
            sources = [n for n in near if n.token == token] or near
            found.append(self._recollection(answer, token, [source_of(neighbour) for neighbour in sources[:most]]))
        return found

    def _neighbour(self, entry: int, distance: float, prob: float) -> Neighbour:
        store = self.store
        document = int(store.owner_N[entry])
        first = store.first_entry(document)
        told: dict[str, Any] = store.documents[document]
        context = tuple(store.value_N[max(first, entry - SHOWN_TOKENS) : entry].tolist())
        token = int(store.value_N[entry])
        return Neighbour(
            distance, prob, token, entry, document, str(told["source"]), int(told["line"]), entry - first, context
        )


def source_of(neighbour: Neighbour) -> Source:
    """A neighbour, for explanations."""
    return Source(neighbour.document, neighbour.source, neighbour.line, (), neighbour.context, (neighbour.token,))


def log_shares(found: Found, temperature: float) -> Tensor:
    """Log share of each neighbour, [B, K], in nats; -inf where there is none."""
    if not found.distance_BK.shape[1]:
        return found.distance_BK
    return log_normalize(-found.distance_BK / temperature)


def gathered(log_share_NK: Tensor, token_NK: Tensor, num_tokens: int) -> Tensor:
    """Log of the summed shares of each token, [N, V]; -inf for tokens that no neighbour has, and for none other."""
    largest_NV = log_share_NK.new_full((len(log_share_NK), num_tokens), -torch.inf)
    largest_NV.scatter_reduce_(1, token_NK, log_share_NK, "amax")
    reference_NK = largest_NV.gather(1, token_NK)
    relative_NK = torch.where(log_share_NK == -torch.inf, 0.0, (log_share_NK - reference_NK).exp())
    sum_NV = torch.zeros_like(largest_NV).scatter_add_(1, token_NK, relative_NK)
    return torch.where(largest_NV == -torch.inf, -torch.inf, largest_NV + sum_NV.log())


def open_neighbours(
    path: Path | str, lm: CausalLM, *, gate: str = "", looking: Looking | None = None, exclude: Collection[int] = ()
) -> NeighbourMemory:
    """A datastore as a memory of this model.

    Args:
        path: folder of the datastore.
        lm: the model that it was built with.
        gate: name of learned weights on the card; "" takes those without a name if there are any.
        looking: neighbours and temperature; None takes those that the gate was learned with.
        exclude: documents that are not looked at.

    Raises:
        InputError: if there is no datastore, or no such gate or document.
        IncompatibleError: if it holds states of another model.
        IntegrityError: if a file is not what the card says.
    """
    store = Datastore.open(path)
    check_model(store.path, store.card.model, lm)
    if int(store.value_N.min()) < 0 or int(store.value_N.max()) >= lm.vocabulary.size:
        raise IntegrityError(
            f"{store.path / VALUES} has tokens that {lm.name} has not; copy it again, or build it anew"
        )
    if gate and gate not in store.card.gates:
        raise UnknownNameError.of("gate", gate, store.card.gates, f"{store.path} was asked for it")
    fitted = store.card.gates.get(gate)
    looking = looking or store.card.lookings.get(gate, Looking())
    memory = NeighbourMemory(
        store.path.name, fitted.gate if fitted else None, 1.0, lm, store, looking.k, looking.temperature
    )
    return memory.without(exclude) if exclude else memory
