"""Two components that choose layers of one model for a price: what they skip, and whether they still differ."""

# Axes: K components, L layers, N texts.

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from factorlm.algebra import pad_right
from factorlm.evaluation.document import Cell, Column, Matrix, Section, Table
from factorlm.evaluation.intervals import Estimate, mean_interval, ratio_interval
from factorlm.evaluation.part import Part
from factorlm.evaluation.priors.kept import fitted
from factorlm.evaluation.priors.layer_orders import Arm, nats_of
from factorlm.evaluation.priors.recovery import purity
from factorlm.evaluation.workbench import Workbench
from factorlm.models.layers import num_layers
from factorlm.prior import Fitting, Prior
from factorlm.prior.learning import Rows
from factorlm.prior.parts import most_probable_layers
from factorlm.prior.uncertainty import pairwise_divergence

Array = NDArray[np.float64]
MIXTURE, SHARED, WHOLE = "mixture", "one choice for all texts", "all layers"


def measure_components(
    bench: Workbench, arm: Arm, texts: Sequence[str], held_out: Mapping[str, Rows], settings: Fitting
) -> Part:
    """Learn components from texts of several sources, and hold them against one choice of as many layers.

    Args:
        bench: cache, progress and seed.
        arm: whose model is the base, and whose learned order is the one choice for all texts.
        texts: to learn from.
        held_out: texts by source.
        settings: of kind layers.
    """
    title = f"components, {arm.name}"
    prior = fitted(bench, arm.lm, texts, settings, title=title)
    rows = [row for own in held_out.values() for row in own]
    label_N = [number for number, own in enumerate(held_out.values()) for _ in own]
    tokens_N = np.array([len(row) for row in rows], dtype=float)
    logit_KL, total = prior.tensors["logits"], num_layers(arm.lm)
    kept = [most_probable_layers(logit_L, arm.first, arm.last) for logit_L in logit_KL]
    nats_NK = np.stack([nats_of(bench, arm.lm, layers, rows) for layers in kept], 1)
    joint_NK = prior.log_prob_K - torch.from_numpy(nats_NK)
    resp_NK = joint_NK.softmax(1).numpy()
    layers_run = float(prior.log_prob_K.exp() @ torch.tensor([float(len(layers)) for layers in kept]).double())
    # At least as many layers as the mixture runs on average, so that the one choice is not held down.
    shared_N = nats_of(bench, arm.lm, arm.kept(min(total, int(np.ceil(layers_run - 1e-9)))), rows)
    whole_N = nats_of(bench, arm.lm, tuple(range(total)), rows)
    nats = {MIXTURE: -torch.logsumexp(joint_NK, 1).numpy(), SHARED: shared_N, WHOLE: whole_N}
    nats |= {f"component {name}": nats_NK[:, k] for k, name in enumerate(prior.names)}
    estimates = {name: ratio_interval(found_N, tokens_N, seed=bench.seed) for name, found_N in nats.items()}
    gain = ratio_interval(shared_N - nats[MIXTURE], tokens_N, seed=bench.seed)
    component_N = resp_NK.argmax(1).tolist()
    found_purity = _purity(label_N, component_N, bench.seed)
    divergence = _divergence(prior, rows, bench.seed)
    measures = {
        f"nats per token, {title}": estimates,
        f"nats per token saved by the mixture, {title}": {SHARED: gain},
        f"layers run, {title}": {name: Estimate(value=float(len(layers)), n=1)
                                 for name, layers in zip(prior.names, kept, strict=True)},
        f"purity, {title}": {"held-out texts": found_purity},
        f"divergence, {title}": {"held-out texts": divergence},
    }  # fmt: skip
    apart = sorted(set(kept[0]).symmetric_difference(*map(set, kept[1:])))
    difference = (
        f"choose other layers at {len(apart)} places and are {divergence} nats per token apart (Jensen-Shannon)"
        if apart else "run the very same layers"
    )  # fmt: skip
    headline = (
        f"At a price of {settings.layers.layer_cost:g} nats per layer and token, {len(kept)} components of the model "
        f"{arm.name} run {', '.join(str(len(layers)) for layers in kept)} of {total} layers; they {difference}. Their "
        f"responsibilities tell the sources of {found_purity} of the texts (chance gives about "
        f"{max(map(len, held_out.values())) / len(rows):.0%}), and the mixture saves {gain} nats per token against one "
        f"choice of as many layers."
    )
    return Part(
        sections=(_section(arm, prior, kept, resp_NK, label_N, list(held_out), estimates, total),),
        measures=measures,
        headlines=(headline,),
    )


def _section(
    arm: Arm, prior: Prior, kept: Sequence[tuple[int, ...]], resp_NK: Array, label_N: Sequence[int],
    sources: Sequence[str], estimates: Mapping[str, Estimate], total: int,
) -> Section:  # fmt: skip
    logit_KL = prior.tensors["logits"]
    always = ([1.0] * arm.first, [1.0] * arm.last)
    matrix = Matrix(
        title="Probability that a component runs a layer",
        row_label="component",
        column_label="layer",
        rows=tuple(prior.names),
        columns=tuple(str(number) for number in range(total)),
        values=tuple((*always[0], *logit_L.sigmoid().tolist(), *always[1]) for logit_L in logit_KL),
        note="A component runs the layers with more than one half.",
    )
    own_N = np.array(label_N)
    rows: list[tuple[Cell, ...]] = [
        (name, prior.manifest.weights[k], len(kept[k]), _listed(sorted(set(range(total)) - set(kept[k]))),
         *(float(resp_NK[own_N == s, k].mean()) for s in range(len(sources))), estimates[f"component {name}"])
        for k, name in enumerate(prior.names)
    ]  # fmt: skip
    rows += [(name, None, None, "", *(None for _ in sources), estimates[name]) for name in (MIXTURE, SHARED, WHOLE)]
    columns = (
        Column(title="component"),
        Column(title="weight", form=".2f"),
        Column(title="layers run", form="d"),
        Column(title="layers skipped"),
        *(Column(title=f"responsibility for {source}", form=".0%") for source in sources),
        Column(title="held-out nats per token", form=".3f", best="low"),
    )
    table = Table(title="Components", columns=columns, rows=tuple(rows),
                  note="The one choice for all texts is that of the learned order, with at least as many layers as the "
                  "mixture runs on average.")  # fmt: skip
    lead = (
        f"Components that choose layers of the model {arm.name}, learned together from texts of "
        f"{', '.join(sources)} without their labels. While they learn they share texts by likelihood less the price of "
        "their layers; here by likelihood alone, as any prior does."
    )
    return Section(title=f"Components that choose layers: {arm.name}", lead=lead, blocks=(matrix, table))


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"


def _purity(label_N: Sequence[int], component_N: Sequence[int], seed: int) -> Estimate:
    """Share of texts whose component is mostly given to texts of their source; its interval is over texts."""
    own = {k: [label for label, c in zip(label_N, component_N, strict=True) if c == k] for k in set(component_N)}
    most = {k: max(set(labels), key=labels.count) for k, labels in own.items()}
    right_N = [float(most[k] == label) for label, k in zip(label_N, component_N, strict=True)]
    found = mean_interval(right_N, seed=seed)
    assert found.value is not None
    assert abs(found.value - purity(label_N, component_N)) < 1e-9
    return found


def _divergence(prior: Prior, rows: Rows, seed: int) -> Estimate:
    """Jensen-Shannon divergence of the next tokens of two components, in nats per token, the mean over all pairs."""
    total_N, tokens_N = [], []
    start_BT = torch.tensor([prior.lm.start_ids])
    pairs = prior.num_components * (prior.num_components - 1)
    for row in rows:
        apart_KK = pairwise_divergence(prior.mixture, start_BT, pad_right([row]))
        total_N.append(float(apart_KK.sum()) / pairs * len(row))
        tokens_N.append(float(len(row)))
    return ratio_interval(total_N, tokens_N, seed=seed)
