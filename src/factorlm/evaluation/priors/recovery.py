"""Whether components learned without labels are the sources that texts came from."""

# Axes: B batch, D width, K components, N texts, S sources, T time.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from factorlm.algebra import PAD, pad_left, pad_right
from factorlm.evaluation.diversity import jackknife_interval, leave_groups_out
from factorlm.evaluation.document import Cell, Column, Matrix, Section, Table
from factorlm.evaluation.intervals import Estimate, mean_interval
from factorlm.evaluation.part import Part
from factorlm.evaluation.priors.reading import Row
from factorlm.evaluation.workbench import Workbench
from factorlm.models import CausalLM

Array = NDArray[np.float64]
Labels = NDArray[np.int_]
OURS, CLUSTERS = "components", "clusters of hidden states"
RESTARTS = 10  # of k-means
TOGETHER = 32  # texts encoded at once


def purity(label_N: ArrayLike, found_N: ArrayLike) -> float:
    """Share of texts that are of the most frequent label of their group; 1 also where every text is its own group."""
    count_SK = _counts(label_N, found_N)
    return float(count_SK.max(0).sum() / count_SK.sum())


def rand_index(label_N: ArrayLike, found_N: ArrayLike) -> float:
    """Adjusted Rand index: 1 for the same partition, 0 for what chance gives. Hubert and Arabie (1985)."""
    count_SK = _counts(label_N, found_N)
    both, labels, groups, everything = (
        float((count * (count - 1) / 2).sum()) for count in (count_SK, count_SK.sum(1), count_SK.sum(0), count_SK.sum())
    )
    by_chance, most = labels * groups / max(everything, 1.0), (labels + groups) / 2
    return 1.0 if most == by_chance else (both - by_chance) / (most - by_chance)


def information(label_N: ArrayLike, found_N: ArrayLike) -> float:
    """Mutual information of the two partitions over the mean of their entropies; 1 where neither parts anything."""
    share_SK = _counts(label_N, found_N)
    share_SK = share_SK / share_SK.sum()
    labels, groups, both = (_entropy(share) for share in (share_SK.sum(1), share_SK.sum(0), share_SK.ravel()))
    return 1.0 if labels + groups == 0 else 2 * (labels + groups - both) / (labels + groups)


def clusters(
    bench: Workbench, lm: CausalLM, train: Sequence[Row], held_out: Sequence[Row], number: int, seed: int
) -> list[int]:
    """Clusters of held-out texts by the mean hidden states of the bare model, where learning begins."""

    def compute() -> list[int]:
        from sklearn.cluster import KMeans

        train_ND, held_out_ND = _mean_states(lm, train), _mean_states(lm, held_out)
        middle_D, scale_D = train_ND.mean(0), train_ND.std(0).clip(1e-6)
        found = KMeans(number, n_init=RESTARTS, random_state=seed).fit((train_ND - middle_D) / scale_D)
        return [int(k) for k in found.predict((held_out_ND - middle_D) / scale_D)]

    key = {
        "what": "clusters of mean states", "model": lm.fingerprint, "dtype": str(lm.model.dtype), "number": number,
        "seed": seed, "train": list(train), "held out": list(held_out),
    }  # fmt: skip
    found: list[int] = bench.cache.get(key, compute)
    return found


def measure_recovery(
    sources: Sequence[str],
    source_N: Labels,
    names: Sequence[str],
    responsibility_NK: Array,
    cluster_N: Labels,
    seed: int,
) -> Part:
    """Sources against components on held-out texts.

    Args:
        sources: their names.
        source_N: the number of each text's source.
        names: of the components.
        responsibility_NK: probability of each component given the text.
        cluster_N: what clusters of hidden states make of the texts.
        seed: of the resampling.
    """
    found_N = responsibility_NK.argmax(1)
    agreements = (("purity", purity), ("adjusted Rand index", rand_index), ("mutual information", information))
    # Left out group by group, since texts drawn twice would agree with themselves.
    whole_M, deleted_GM = leave_groups_out(
        lambda index_N: np.array(
            [of(source_N[index_N], labels_N[index_N]) for _, of in agreements for labels_N in (found_N, cluster_N)]
        ),
        range(len(source_N)),
        seed=seed,
    )

    def estimate(of_M: Array, of_GM: Array) -> Estimate:
        return jackknife_interval(float(of_M), of_GM, len(source_N))

    measures: dict[str, dict[str, Estimate]] = {
        title: {
            OURS: estimate(whole_M[2 * i], deleted_GM[:, 2 * i]),
            CLUSTERS: estimate(whole_M[2 * i + 1], deleted_GM[:, 2 * i + 1]),
        }
        for i, (title, _) in enumerate(agreements)
    }
    ahead = estimate(whole_M[2] - whole_M[3], deleted_GM[:, 2] - deleted_GM[:, 3])
    certainty = mean_interval(responsibility_NK.max(1), seed=seed)
    measures["ahead of clusters, adjusted Rand index"] = {OURS: ahead}
    measures["largest responsibility"] = {OURS: certainty}
    picture = Matrix(
        title="Which component explains which source",
        row_label="source",
        column_label="component",
        rows=tuple(sources),
        columns=tuple(names),
        values=tuple(tuple(float(x) for x in responsibility_NK[source_N == s].mean(0)) for s in range(len(sources))),
        note="Mean probability of each component given a held-out text; components were learned without sources.",
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (way, *(measures[title][way] for title, _ in agreements)) for way in (OURS, CLUSTERS)
    )
    table = Table(
        title="How well they agree with the sources",
        columns=(Column(title="partition"), *(Column(title=t, form=".2f", best="high") for t, _ in agreements)),
        rows=rows,
        note="A text counts for its likeliest component. Clusters are those that learning begins with: k-means of the "
        "mean hidden states of the bare model.",
    )
    lead = (
        "Components were learned from texts of all sources together, without labels. Held-out texts of other documents "
        "are given to the components by their posterior, and this is compared with the sources they came from."
    )
    index = measures["adjusted Rand index"]
    headline = (
        f"Components learned without labels from {len(sources)} sources agree with them at an adjusted Rand index of "
        f"{index[OURS]} on {len(source_N)} held-out texts (purity {measures['purity'][OURS]}); {_ahead(ahead)} the "
        f"clusters that learning began with ({index[CLUSTERS]})."
    )
    return Part(
        sections=(Section(title="Sources and components", lead=lead, blocks=(picture, table)),),
        measures=measures,
        headlines=(headline,),
    )


def _counts(label_N: ArrayLike, found_N: ArrayLike) -> Array:
    """Texts of each label in each group, [S, K]."""
    label_N, found_N = np.asarray(label_N, int), np.asarray(found_N, int)
    num_groups = int(found_N.max()) + 1
    counts = np.bincount(label_N * num_groups + found_N, minlength=(int(label_N.max()) + 1) * num_groups)
    return np.asarray(counts.reshape(-1, num_groups), float)


def _entropy(share: Array) -> float:
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


def _ahead(difference: Estimate) -> str:
    if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
        return "no difference shown from"
    return "better than" if difference.low > 0 else "worse than"


def _mean_states(lm: CausalLM, rows: Sequence[Row]) -> Array:
    """Mean last hidden state of each text, [N, D]."""
    found = []
    for start in range(0, len(rows), TOGETHER):
        text_BT = pad_right([list(row) for row in rows[start : start + TOGETHER]])
        prefix_BT = pad_left([list(lm.start_ids)] * len(text_BT))
        # One token more, since states are those before each token; the one before the first is the start token's.
        hidden_BTD = lm.hidden_before(prefix_BT, torch.cat([text_BT, text_BT[:, :1]], 1))[:, 1:].float().cpu()
        real_BT1 = (text_BT != PAD)[:, :, None]
        found.append(torch.where(real_BT1, hidden_BTD, 0.0).sum(1) / real_BT1.sum(1))
    return np.asarray(torch.cat(found).double().numpy())
