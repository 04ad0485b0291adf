"""What an MLP memory imitates: the neighbours' distribution of each stored state, without the state itself."""

# Axes: K tokens of neighbours, N states, V vocabulary.

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from factorlm.errors import InputError
from factorlm.memory.datastore import Datastore, Looking
from factorlm.memory.gates import FEWEST_TOKENS
from factorlm.memory.mlp import MlpSettings
from factorlm.memory.neighbour_index import Living, without_own
from factorlm.memory.neighbours import log_shares
from factorlm.memory.state_memory import TOGETHER
from factorlm.models.progress import Report


class SparseTargets:
    """Distributions over at most K tokens each, read from a file: rows of K tokens (int32) and K weights (float32).

    Weights of a row sum to one and each token stands once; places without weight come after. A state without
    neighbours has no weight at all.
    """

    def __init__(self, path: Path, num: int, k: int) -> None:
        self.row_N: Any = (
            np.memmap(path, dtype="<i4", mode="c", shape=(num, 2, k)) if num else np.empty((0, 2, k), "<i4")
        )

    def rows(self, place_N: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and weights of these rows, [N, K] each."""
        row_N = np.ascontiguousarray(self.row_N[place_N.numpy()])
        return torch.from_numpy(row_N[:, 0].astype(np.int64)), torch.from_numpy(row_N[:, 1].copy().view("<f4"))


@dataclass(frozen=True, eq=False)
class Lesson:
    """Entries to learn from and to check on, with what their neighbours say.

    Attributes:
        learned_N: entries.
        held_N: entries that are neither learned from nor found.
        learned_targets: what the neighbours of each say.
        held_targets: the same of what is held back.
    """

    learned_N: Tensor
    held_N: Tensor
    learned_targets: SparseTargets
    held_targets: SparseTargets

    @staticmethod
    def of(store: Datastore, settings: MlpSettings, folder: Path, report: Report) -> Lesson:
        """Part the living entries of a datastore, and look for their neighbours; the folder keeps what was found.

        Raises:
            InputError: if there are too few entries.
        """
        is_held_N = _held(store, settings)
        learned_N = torch.from_numpy(np.flatnonzero(store.living_N & ~is_held_N))
        held_N = torch.from_numpy(np.flatnonzero(store.living_N & is_held_N))
        generator = torch.Generator().manual_seed(settings.seed)
        held_N = held_N[torch.randperm(len(held_N), generator=generator)[: settings.most_held]].sort().values
        if min(len(learned_N), len(held_N)) < FEWEST_TOKENS:
            raise InputError(
                f"at least {FEWEST_TOKENS} entries to learn from and {FEWEST_TOKENS} held back are needed, got "
                f"{len(learned_N)} and {len(held_N)} in {store.path}; store more text, or set held_share"
            )
        folder.mkdir(parents=True, exist_ok=True)
        allowed_N = store.living_N & ~is_held_N  # what is held back teaches nothing, not even as a neighbour
        targets = [
            find_targets(store, entry_N, allowed_N, settings.looking, folder / name, report)
            for entry_N, name in ((learned_N, "learned.targets"), (held_N, "held.targets"))
        ]
        return Lesson(learned_N, held_N, *targets)


def _held(store: Datastore, settings: MlpSettings) -> Living:
    """Which entries are held back: whole documents drawn by chance, or, of a single one, its end."""
    documents = np.unique(store.owner_N[store.living_N])
    num = int(store.living_N.sum())
    if len(documents) == 1:
        return np.cumsum(store.living_N) > num * (1 - settings.held_share)
    order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(settings.seed)).numpy()
    sizes = np.bincount(store.owner_N[store.living_N], minlength=store.card.num_listed)[documents[order]]
    num_held = 1 + int(np.searchsorted(np.cumsum(sizes), num * settings.held_share))
    return np.isin(store.owner_N, documents[order[: min(num_held, len(documents) - 1)]])


def find_targets(
    store: Datastore, entry_N: Tensor, allowed_N: Living, looking: Looking, path: Path, report: Report
) -> SparseTargets:
    """Look for the neighbours of entries among those allowed; an interrupted search goes on where it stood.

    Args:
        store: what is searched.
        entry_N: whose neighbours are looked for; none is its own.
        allowed_N: which entries may be found.
        looking: how many, and at which temperature.
        path: of the file, which is of this search alone.
        report: told of entries done.
    """
    size = 8 * looking.k  # bytes of a row
    done = path.stat().st_size // size if path.is_file() else 0
    with path.open("ab") as file:
        file.truncate(done * size)
        for own_B in entry_N[done:].split(TOGETHER):
            found = store.search(store.key_NW[own_B].float(), looking.k + 1, allowed_N)
            found = without_own(found, own_B) if found.entry_BK.shape[1] else found
            token_BK = torch.from_numpy(store.value_N[found.entry_BK.clamp(min=0).numpy()].astype(np.int64))
            share_BK = log_shares(found, looking.temperature).exp()
            row_B = np.zeros((len(own_B), 2, looking.k), "<i4")
            token_BK, weight_BK = merged(token_BK, share_BK)
            row_B[:, 0, : token_BK.shape[1]] = token_BK.numpy()
            row_B[:, 1, : token_BK.shape[1]] = weight_BK.numpy().astype("<f4").view("<i4")
            file.write(row_B.tobytes())
            done += len(own_B)
            report("neighbours", done, len(entry_N))
    return SparseTargets(path, len(entry_N), looking.k)


def merged(token_NK: Tensor, share_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Each token once, with the sum of its shares, heaviest first; what is left over has no weight."""
    is_same_NKK = token_NK[:, :, None] == token_NK[:, None]
    total_NK = torch.where(is_same_NKK, share_NK[:, None], 0.0).sum(-1)
    is_repeated_NK = is_same_NKK.tril(-1).any(-1)
    weight_NK, order_NK = total_NK.masked_fill(is_repeated_NK, 0.0).sort(dim=1, descending=True, stable=True)
    return token_NK.gather(1, order_NK), weight_NK


def sparse_kl(log_prob_NV: Tensor, token_NK: Tensor, weight_NK: Tensor) -> Tensor:
    """KL from sparse targets to distributions, [N], in nats; zero where a target has no weight.

    It touches K tokens of each row; its dense twin would write the target out over all V.
    """
    log_prob_NK = log_prob_NV.gather(1, token_NK)
    return (torch.xlogy(weight_NK, weight_NK) - weight_NK * log_prob_NK).sum(1)


def sparse_loss(log_prob_NV: Tensor, token_NK: Tensor, weight_NK: Tensor, next_N: Tensor, alpha: float) -> Tensor:
    """Mean of alpha KL(target || p) - (1 - alpha) log p(next token) over states, in nats."""
    came_N = log_prob_NV.gather(1, next_N[:, None])[:, 0]
    return (alpha * sparse_kl(log_prob_NV, token_NK, weight_NK) - (1 - alpha) * came_N).mean()
