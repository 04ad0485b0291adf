"""What a network that imitates neighbours is worth: losses beside its teacher's and its control's, and divergences."""

# Axes: D documents.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from factorlm.evaluation.document import Block, Cell, Column, Comparisons, Curve, Section, Series, Table
from factorlm.evaluation.intervals import FEWEST_UNITS, Comparison, Estimate, adjusted, ratio_interval
from factorlm.evaluation.memories.generation_mixtures import MODEL, NEIGHBOURS, ONE, Mixture
from factorlm.evaluation.memories.generation_observed import Array, Observed, Told
from factorlm.evaluation.part import Part
from factorlm.evaluation.units import compare_rates, rate
from factorlm.memory import Memory
from factorlm.memory.mlp import MlpCard
from factorlm.models import CausalLM

IMITATOR, CONTROL = "MLP", "MLP without teacher"
LEARNED = "learned weights"


@dataclass(frozen=True, eq=False)
class Arms:
    """The teacher and those who learned, each without weights.

    Attributes:
        lm: the model.
        memories: the teacher first.
        marks: everything that the answers of each depend on.
        folders: of each.
        cards: of those who learned.
    """

    lm: CausalLM
    memories: dict[str, Memory]
    marks: dict[str, str]
    folders: dict[str, Path]
    cards: dict[str, MlpCard]


def losses_part(arms: Arms, mixtures: Sequence[Mixture], observed: list[Observed], seed: int) -> Part:
    """Losses of the mixtures, what is kept of the teacher's gain, and how far each is from the teacher.

    Args:
        arms: who is compared.
        mixtures: each arm with its best single weight, and with weights by what it knows of its answer.
        observed: test texts; the teacher of their divergences is the first arm.
        seed: of the intervals.
    """
    tokens_D = np.array([len(o.model.log_prob_T) for o in observed], float)
    nats_D = np.array([-o.model.log_prob_T.sum() for o in observed])
    loss_D = {m.name: np.array([-m.log_prob(o).sum() for o in observed]) for m in mixtures}
    losses, gains, kept = {MODEL: rate(nats_D, tokens_D, seed=seed)}, {}, {}
    rows: list[tuple[Cell, ...]] = [(MODEL, losses[MODEL], None, None, None)]
    for m in mixtures:
        teacher_D = nats_D - loss_D[m.name.replace(m.memory, NEIGHBOURS, 1)]
        losses[m.name] = rate(loss_D[m.name], tokens_D, seed=seed)
        gains[m.name] = rate(nats_D - loss_D[m.name], tokens_D, seed=seed)
        kept[m.name] = ratio_interval(nats_D - loss_D[m.name], teacher_D, seed=seed)
        weight = ratio_interval([m.weight(o).sum() for o in observed], tokens_D, seed=seed)
        rows.append((m.name, losses[m.name], gains[m.name], kept[m.name], weight))
    columns = (
        Column(title="mixture"), Column(title="nats per token", form=".3f", best="low"),
        Column(title="gain", form=".3f", best="high"), Column(title="share of the teacher's gain", form=".0%"),
        Column(title="mean weight", form=".3f"),
    )  # fmt: skip
    card = next(iter(arms.cards.values()))
    table = Table(
        title="Loss on test texts", columns=columns, rows=tuple(rows),
        note=f"{len(observed)} documents, {int(tokens_D.sum())} tokens; the datastore holds {card.num_documents} "
        f"others, {card.num_tokens} tokens. Weights were learned on a third set. Intervals resample documents, "
        "and shares of the gain are paired by document.",
    )  # fmt: skip
    compared = _compared(loss_D, tokens_D, seed)
    comparisons = Comparisons(title="Imitation against its control and its teacher", rows=compared)
    alone, kl = _alone(arms, observed, tokens_D, seed)
    blocks: tuple[Block, ...] = (table, comparisons, alone, _course(arms))
    lead = (
        f"A network of {card.num_parameters:,} numbers learns to say what the {card.settings.looking.k} nearest of the "
        "stored states say. Its control has as many numbers, and learns from the stored tokens alone."
    )
    measures = {
        "imitation, nats per token": losses,
        "imitation, gain in nats per token": gains,
        "imitation, share of the teacher's gain": kept,
        "imitation, divergence from the teacher": kl,
    }
    return Part(
        (Section(title="Imitation", lead=lead, blocks=blocks),), measures,
        (_headline(losses, kept, compared),), tuple(_cautions(gains, len(observed))),
    )  # fmt: skip


def _compared(loss_D: dict[str, Array], tokens_D: Array, seed: int) -> tuple[Comparison, ...]:
    """With learned weights and with single ones."""
    found = []
    for title in (LEARNED, ONE):
        for ours, theirs in ((IMITATOR, CONTROL), (IMITATOR, NEIGHBOURS)):
            names = (f"{ours}, {title}", f"{theirs}, {title}")
            nats_D = (loss_D[names[0]], loss_D[names[1]])
            found.append(compare_rates("nats per token", names, nats_D, (tokens_D,) * 2, seed))
    return tuple(adjusted(found))


def _alone(
    arms: Arms, observed: list[Observed], tokens_D: Array, seed: int
) -> tuple[Table, dict[str, Estimate]]:  # fmt: skip
    told: dict[str, list[Told]] = {MODEL: [o.model for o in observed]}
    told |= {name: [o.memories[name] for o in observed] for name in arms.memories}
    kl, rows = {}, []
    for name, of in told.items():
        if name != NEIGHBOURS:
            kl[name] = rate(np.array([t.kl_T.sum() for t in of]), tokens_D, seed=seed)
        loss = rate(np.array([-t.log_prob_T.sum() for t in of]), tokens_D, seed=seed)
        has_all = loss.value is not None and np.isfinite(loss.value)
        rows.append((name, loss if has_all else "infinite", kl.get(name)))
    table = Table(
        title="What each says alone", rows=tuple(rows),
        columns=(Column(title="distribution"), Column(title="nats per token", form=".3f"),
                 Column(title="divergence from the teacher, nats", form=".3f", best="low")),
        note="Divergence is KL(teacher || it), the mean over states of test texts; that of the model is what one has "
        "who learned nothing. Neighbours alone give some tokens no probability at all.",
    )  # fmt: skip
    return table, kl


def _course(arms: Arms) -> Curve:
    """What entries that were held back said while learning went on."""
    series = tuple(
        Series(name=name, x=tuple(float(check.step) for check in card.checks), y=tuple(c.kl for c in card.checks))
        for name, card in arms.cards.items()
    )
    return Curve(title="Divergence from the teacher while learning", x_label="steps", y_label="KL(teacher || network), "
                 "nats", series=series, note="On stored documents that were held back.")  # fmt: skip


def _headline(losses: dict[str, Estimate], kept: dict[str, Estimate], compared: tuple[Comparison, ...]) -> str:
    name, control = f"{IMITATOR}, {LEARNED}", f"{CONTROL}, {LEARNED}"
    return (
        f"With learned weights, the imitating network keeps {kept[name]} of the teacher's gain and its control "
        f"{kept[control]} ({losses[name]} against {losses[control]} nats per token; imitation against the control: "
        f"{compared[0].verdict})."
    )


def _cautions(gains: dict[str, Estimate], num_documents: int) -> list[str]:
    found = []
    for title in (ONE, LEARNED):
        gain = gains[f"{NEIGHBOURS}, {title}"]
        if gain.low is None or gain.low <= 0:
            found.append(f"With {title} the teacher itself shows no gain ({gain}), so a share of it means nothing.")
    if num_documents < FEWEST_UNITS:
        found.append(f"{num_documents} test documents are too few to rank by; at least {FEWEST_UNITS} are needed.")
    return found
