"""Memories as factors: texts like those of a corpus, and unlike them, by the sign of an exponent."""

# Axes: D documents, P prompts.

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from factorlm.evaluation.document import Cell, Column, Curve, Section, Series, Table
from factorlm.evaluation.intervals import Estimate, mean_interval, ratio_interval
from factorlm.evaluation.memories.domains import DOMAINS, Domain
from factorlm.evaluation.memories.mixed import Documents, documents_of
from factorlm.evaluation.memories.stores import infini_of
from factorlm.evaluation.part import Part
from factorlm.evaluation.perplexity import token_log_probs
from factorlm.evaluation.workbench import Workbench
from factorlm.inference import Model, Sampling
from factorlm.inference.memories import MULTIPLIED_WEIGHT, memory_factor
from factorlm.memory.attribution import longest_matches
from factorlm.memory.gates import ConstantGate
from factorlm.memory.longest_suffix import InfiniGram
from factorlm.settings import Config

Array = NDArray[np.float64]
RUN = 5  # tokens of a match that counts as copied


class Unlike(Config):
    """Settings of this part.

    Attributes:
        domain: of the memory.
        other: texts of another kind.
        exponents: of the memory as a factor.
        test_tokens: of each kind that are scored.
        longest: tokens of a document.
        prompts: beginnings of test texts that are continued.
        prompt_tokens: of each.
        max_tokens: written.
    """

    domain: Domain = DOMAINS[3]
    other: Domain = DOMAINS[2]
    exponents: tuple[float, ...] = (-2.0, -1.0, -0.5, 0.5, 1.0)
    test_tokens: Annotated[int, Field(ge=100)] = 2000
    longest: PositiveInt = 256
    prompts: Annotated[int, Field(ge=4)] = 24
    prompt_tokens: PositiveInt = 24
    max_tokens: PositiveInt = 40


def measure_unlike(bench: Workbench, settings: Unlike) -> Part:
    """Score texts of both kinds under every exponent, and continue texts of the first."""
    model, lm = bench.models[0].model, bench.models[0].model.lm
    memory = infini_of(bench, lm, settings.domain.name, settings.domain.stored.load(bench.data))
    memory = memory.gated(ConstantGate(weight=MULTIPLIED_WEIGHT))
    factor = memory_factor(lm, memory)
    kinds = {
        d.name: documents_of(lm, d.test.load(bench.data), settings.test_tokens, settings.longest)
        for d in (settings.domain, settings.other)
    }
    prompts = [
        lm.vocabulary.text(lm.encode_text(text)[: settings.prompt_tokens])
        for text in settings.domain.test.load(bench.data)[: settings.prompts]
    ]
    nats: dict[float, dict[str, Estimate]] = {}
    copied: dict[float, Estimate] = {}
    for exponent in (0.0, *settings.exponents):
        steered = model if exponent == 0 else model * factor**exponent
        key = {"model": bench.models[0].fingerprint, "memory": memory.name, "exponent": exponent}
        nats[exponent] = {name: _nats(bench, key, steered, documents, name) for name, documents in kinds.items()}
        copied[exponent] = _copied(bench, key, steered, memory, prompts, settings)
    return _part(settings, nats, copied)


def _nats(bench: Workbench, key: dict[str, object], model: Model, documents: Documents, name: str) -> Estimate:
    """Nats a token of some texts."""

    def score(texts: list[str]) -> list[float]:
        return [float(-row.sum()) for row in token_log_probs(model, texts, batch_tokens=1024)]

    stage = f"{name}, memory^{key['exponent']:g}"
    lost_D = bench.in_batches(stage, {"what": "unlike, nats", **key}, list(documents.texts), 4, score)
    return ratio_interval(lost_D, documents.tokens_D, seed=bench.seed)


def _copied(
    bench: Workbench, key: dict[str, object], model: Model, memory: InfiniGram, prompts: list[str], settings: Unlike
) -> Estimate:
    """Share of written tokens that end a run which stands in the corpus."""
    how = {"max_tokens": settings.max_tokens, "seed": bench.seed, "what": "unlike, copied"}

    def write(some: list[str]) -> list[float]:
        responses = model.generate(some, max_tokens=settings.max_tokens, seed=bench.seed, sampling=Sampling(top_p=0.95))
        shares = []
        for response in responses:
            lengths = longest_matches(memory.engine, [*response.prompt_ids, *response.token_ids])
            own = lengths[len(response.prompt_ids) :]
            shares.append(float(np.mean([length >= RUN for length in own])) if own else 0.0)
        return shares

    stage = f"writing, memory^{key['exponent']:g}"
    return mean_interval(bench.in_batches(stage, {**how, **key}, prompts, 12, write), seed=bench.seed)


def _part(settings: Unlike, nats: dict[float, dict[str, Estimate]], copied: dict[float, Estimate]) -> Part:
    own, other = settings.domain.name, settings.other.name
    order = sorted(nats)
    rows: tuple[tuple[Cell, ...], ...] = tuple((f"{a:g}", nats[a][own], nats[a][other], copied[a]) for a in order)
    columns = (
        Column(title="exponent"), Column(title=f"nats a token of {own}", form=".3f"),
        Column(title=f"nats a token of {other}", form=".3f"),
        Column(title=f"written tokens in runs of {RUN} that are stored", form=".0%"),
    )  # fmt: skip
    table = Table(
        title=f"The memory of {own} as a factor", columns=columns, rows=rows,
        note=f"p(x) m(x)^a, m = 1 - λ + λ p_memory / p at each token, λ = {MULTIPLIED_WEIGHT:g}: a = 1 is the mixture, "
        f"a < 0 is unlike the corpus. {settings.prompts} beginnings of {own} are continued.",
    )  # fmt: skip
    series = tuple(Series(name=name, x=tuple(order), y=tuple(nats[a][name] for a in order)) for name in (own, other))
    curve = Curve(title="Nats a token by the exponent", x_label="exponent", y_label="nats a token", series=series)
    measures = {f"nats by exponent/{name}": {f"{a:g}": nats[a][name] for a in order} for name in (own, other)} | {
        "copied by exponent": {f"{a:g}": copied[a] for a in order}
    }
    low = order[0]
    line = (
        f"Unlike {own} (exponent {low:g}): {nats[low][own].value:.2f} nats a token of them instead of "
        f"{nats[0.0][own].value:.2f}, of {other} {nats[low][other].value:.2f} instead of {nats[0.0][other].value:.2f}; "
        f"{copied[low].value:.0%} of written tokens in stored runs instead of {copied[0.0].value:.0%}."
    )
    return Part((Section(title="Like a corpus, and unlike it", blocks=(table, curve)),), measures, (line,))
