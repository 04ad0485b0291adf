"""Facts written into a model by ROME, C-ROME and MEMIT, as low-rank changes of the matrices that its MLPs end with.

Sources: Meng et al. (2022), arXiv:2202.05262; Yang et al. (2024), arXiv:2406.11263, for C-ROME; Meng et al. (2023),
arXiv:2210.07229.
"""

# Axes: F width of keys, N facts, O width of values, R rows of one fact.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor

from factorlm.errors import InputError
from factorlm.models.causal import CausalLM
from factorlm.models.editing.algebra import LowRank, rank_one, ridge
from factorlm.models.editing.facts import EditFact, Located
from factorlm.models.editing.patching import Change, patched
from factorlm.models.editing.sites import Site, batched, check_residual, run, site_of
from factorlm.models.editing.values import ValueSettings, drawn_prefixes, wanted_values
from factorlm.models.layers import num_layers
from factorlm.models.progress import Report, quiet
from factorlm.settings import Config

Method = Literal["rome", "c-rome", "memit"]
METHODS: tuple[Method, ...] = get_args(Method)
USUAL_DEPTH = 0.3  # of the layers lie below the one that is edited, unless another is named
SPREAD = 8  # one layer of so many is changed by MEMIT
MEMIT_CLAMP = 0.75  # lengths of the state behind the layer


class EditSettings(Config):
    """How facts are written.

    Attributes:
        method: "rome", one fact after the other; "c-rome", the same with one key above and below; "memit", all at
            once, over several layers.
        layer: the last that is changed; None takes the usual depth.
        num_layers: that MEMIT changes, up to `layer`; None takes one of eight.
        weight: of other texts in MEMIT: how many of their tokens count as much as one fact.
        value: of the search for values. MEMIT measures lengths by the state behind the layer.
        value_clamp_memit: the clamp of MEMIT, in those lengths.
    """

    method: Method = "rome"
    layer: Annotated[int, Field(ge=0)] | None = None
    num_layers: Annotated[int, Field(ge=1)] | None = None
    weight: Annotated[float, Field(gt=0)] = 10.0
    value: ValueSettings = ValueSettings()
    value_clamp_memit: Annotated[float, Field(gt=0)] = MEMIT_CLAMP

    def layers(self, lm: CausalLM) -> list[int]:
        """Which are changed, in order."""
        last = round(USUAL_DEPTH * num_layers(lm)) if self.layer is None else self.layer
        if self.method != "memit":
            return [last]
        number = max(1, round(num_layers(lm) / SPREAD)) if self.num_layers is None else self.num_layers
        return list(range(max(0, last + 1 - number), last + 1))


@dataclass(frozen=True, eq=False)
class Written:
    """One application of a method.

    Attributes:
        lm: the model afterwards.
        change: of its matrices, by the name of the module.
        denominators: of ROME's rank-one change; empty for MEMIT.
        nats_N: of each target at the values that were found, a token, before any matrix was changed.
    """

    lm: CausalLM
    change: Change
    denominators: tuple[float, ...]
    nats_N: tuple[float, ...]


def write_facts(
    lm: CausalLM,
    facts: Sequence[EditFact],
    settings: EditSettings,
    moment_of: Mapping[int, Tensor],
    *,
    prefixes: Sequence[str] | None = None,
    report: Report = quiet,
) -> list[Written]:
    """Write facts: MEMIT all in one step, the others one after the other, each into the model that has those before.

    Args:
        lm: the model, in float32; it stays as it is.
        facts: in order.
        settings: method and numbers.
        moment_of: `moments` of the layers of `settings.layers`.
        prefixes: texts before prompts; None draws them from the model.
        report: told of progress.

    Raises:
        InputError: if there are no facts, or the model is not in float32.
        IncompatibleError: if its MLPs are of another kind.
    """
    if not facts:
        raise InputError("at least one fact is needed, got none")
    if lm.model.dtype != torch.float32:
        raise InputError(f"a model in float32 is needed, so that small changes are not lost, got {lm.model.dtype}")
    layers = settings.layers(lm)
    check_residual(lm, site_of(lm, layers[-1]))
    value = settings.value
    before = drawn_prefixes(lm, value.prefixes, value.seed) if prefixes is None else prefixes
    if settings.method == "memit":
        return [_memit(lm, facts, settings, moment_of, before, report)]
    steps: list[Written] = []
    for n, fact in enumerate(facts):
        steps.append(_rome(steps[-1].lm if steps else lm, fact, settings, moment_of[layers[0]], before))
        report(f"writing by {settings.method}", n + 1, len(facts))
    return steps


def _rome(lm: CausalLM, fact: EditFact, settings: EditSettings, moment_FF: Tensor, prefixes: Sequence[str]) -> Written:
    site = site_of(lm, settings.layers(lm)[0])
    found = wanted_values(lm, site, [fact], prefixes, settings.value)
    key_RF, value_RO = _read(lm, site, found.row_of[0])
    key_F = key_RF.mean(0)
    is_mean = settings.method == "c-rome"
    read_F, value_O = (key_F, value_RO.mean(0)) if is_mean else (key_RF[0], value_RO[0])
    change, denominator = rank_one(moment_FF, key_F, read_F, value_O, value_O + found.delta_NO[0])
    after = patched(lm, {site.name: change}, lm.name)
    return Written(after, {site.name: change}, (denominator,), tuple(found.nats_N.tolist()))


def _memit(
    lm: CausalLM,
    facts: Sequence[EditFact],
    settings: EditSettings,
    moment_of: Mapping[int, Tensor],
    prefixes: Sequence[str],
    report: Report,
) -> Written:
    layers = settings.layers(lm)
    top = site_of(lm, layers[-1])
    value = settings.value.model_copy(update={"clamp": settings.value_clamp_memit})
    found = wanted_values(lm, top, facts, prefixes, value, lengths_of="after", report=report)
    first = [rows[0] for rows in found.row_of]
    want_NO = _state(lm, top, first) + found.delta_NO
    change: dict[str, LowRank] = {}
    now = lm
    for done, layer in enumerate(layers):
        site = site_of(now, layer)
        key_NF = torch.stack([_read(now, site, rows)[0].mean(0) for rows in found.row_of])
        missing_NO = want_NO - _state(now, site_of(now, layers[-1]), first)
        change[site.name] = ridge(moment_of[layer], settings.weight, key_NF, missing_NO / (len(layers) - done))
        now = patched(now, {site.name: change[site.name]}, lm.name)
        report("writing by memit", done + 1, len(layers))
    return Written(now, change, (), tuple(found.nats_N.tolist()))


@torch.no_grad()
def _read(lm: CausalLM, site: Site, rows: Sequence[Located]) -> tuple[Tensor, Tensor]:
    """Keys [R, F] and values [R, O] at the subject."""
    seen = run(lm, *batched(lm, rows), [site])
    return seen.key_SBF[0], seen.value_SBO[0]


@torch.no_grad()
def _state(lm: CausalLM, site: Site, rows: Sequence[Located]) -> Tensor:
    """States behind the layer of a site at the subject, [R, O]."""
    return run(lm, *batched(lm, rows), [site]).after_SBD[0]
