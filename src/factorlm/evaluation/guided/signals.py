"""Two signals that a prior over meanings works: decoders heed true latents, and proposals are like what follows.

Source: Lovelace et al. (2024), arXiv:2408.04220.
"""

# Axes: N windows.

from __future__ import annotations

import itertools
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from factorlm.diffusion import Examples, WindowSettings, windows_of
from factorlm.diffusion.checks import Heeding, Likeness, measure_decoders, measure_proposals
from factorlm.diffusion.fitting import Encoded
from factorlm.diffusion.meanings import Meanings, Proposing
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.document import Column, Curve, Section, Series, Table
from factorlm.evaluation.guided.writing import Guiding
from factorlm.evaluation.intervals import Estimate, mean_interval, ratio_interval
from factorlm.evaluation.part import Part
from factorlm.evaluation.texts import Corpus
from factorlm.settings import Config
from factorlm.text.cleaning import cleaned

CORPORA = (
    Corpus(part="rocstories/valid", name="stories", max_documents=400),
    Corpus(part="ag_news/test", name="news", max_documents=400),
)


class Signals(Config):
    """Settings of this part.

    Attributes:
        corpora: that nothing was learned from.
        num_windows: of each.
        windows: how texts are cut.
        shares: of the variance of latents that is signal, at which decoders are measured.
        scales: of the prefix in proposals; 0 is the prior without it.
    """

    corpora: tuple[Corpus, ...] = CORPORA
    num_windows: Annotated[int, Field(ge=4)] = 60
    windows: WindowSettings = WindowSettings()
    shares: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.1, 0.5, 0.9, 1.0)
    scales: tuple[float, ...] = (1.0, 0.0)


def measure_signals(guiding: Guiding, settings: Signals) -> Part:
    """Decoders with their own, other and no latents against noise; proposals with and without the prefix."""
    return Part.joined([_of(guiding, settings, guiding.loaded, corpus) for corpus in settings.corpora])


def held_out(guiding: Guiding, settings: Signals, corpus: Corpus, meanings: Meanings) -> Encoded:
    """The first window of each document of a corpus, with vectors: what is another's is of another document."""
    texts = [cleaned(document.text) for document in corpus.load(guiding.bench.data)]
    guiding.bench.used[corpus.part] = fingerprint(texts)
    found = (windows_of(meanings.lm, [text], settings.windows)[:1] for text in texts)
    windows = list(itertools.islice(itertools.chain.from_iterable(found), settings.num_windows))
    return Encoded.of(windows, meanings.encode)


def _of(guiding: Guiding, settings: Signals, meanings: Meanings, corpus: Corpus) -> Part:
    bench, name = guiding.bench, corpus.group
    texts = held_out(guiding, settings, corpus, meanings)
    examples = texts.examples(meanings.lm, meanings.after)
    heeding = _heeding(guiding, settings, meanings, examples, name)
    likeness = {
        scale: measure_proposals(
            meanings, [w.prefix for w in texts.windows], texts.after_NC, Proposing(scale=scale), bench.seed
        )
        for scale in settings.scales
    }
    section, measures = _section(name, heeding, likeness, bench.seed)
    return Part(sections=(section,), measures=measures, headlines=(_headline(name, heeding, likeness),))


def _heeding(guiding: Guiding, settings: Signals, meanings: Meanings, examples: Examples, name: str) -> list[Heeding]:
    bench = guiding.bench
    key = {
        "what": "heeding", "texts": fingerprint([str(list(examples.prefixes)), str(list(examples.continuations))]),
        "key": guiding.key_of_meanings, "shares": list(settings.shares), "seed": bench.seed,
    }  # fmt: skip

    def work() -> list[dict[str, object]]:
        found = measure_decoders(
            meanings, examples, settings.shares, meanings.kinds, bench.seed,
            lambda _, done, total: bench.report(f"decoders read {name}", done, total),
        )  # fmt: skip
        return [as_row(h) for h in found]

    return [of_row(row) for row in bench.cache.get(key, work)]


def as_row(h: Heeding) -> dict[str, Any]:
    """As the cache keeps it."""
    return {"decoder": h.decoder, "share": h.share, "true": h.true_N.tolist(), "other": h.other_N.tolist(),
            "tokens": h.num_tokens_N.tolist()}  # fmt: skip


def of_row(row: dict[str, Any]) -> Heeding:
    """From what `as_row` gave."""
    return Heeding(row["decoder"], row["share"], *(torch.tensor(row[name]) for name in ("true", "other", "tokens")))


def nats(h: Heeding, values_N: torch.Tensor, seed: int) -> Estimate:
    """Nats per token, over windows."""
    tokens_N = h.num_tokens_N.numpy().astype(float)
    return ratio_interval(values_N.numpy() * tokens_N, tokens_N, seed=seed)


def gain(h: Heeding, less_N: torch.Tensor, seed: int) -> Estimate:
    """How many fewer nats per token with the own latent, paired."""
    tokens_N = h.num_tokens_N.numpy().astype(float)
    return ratio_interval((less_N - h.true_N).numpy() * tokens_N, tokens_N, seed=seed)


def _section(
    name: str, heeding: list[Heeding], likeness: dict[float, Likeness], seed: int
) -> tuple[Section, dict[str, dict[str, Estimate]]]:
    alone, *decoders = heeding
    series = []
    for kind in dict.fromkeys(h.decoder for h in decoders):
        mine = [h for h in decoders if h.decoder == kind]
        x = tuple(h.share for h in mine)
        series += [
            Series(name=f"{kind}, its own latent", x=x, y=tuple(nats(h, h.true_N, seed) for h in mine)),
            Series(name=f"{kind}, another latent", x=x, y=tuple(nats(h, h.other_N, seed) for h in mine)),
        ]
    shares = tuple(sorted({h.share for h in decoders}))
    bare = nats(alone, alone.true_N, seed)
    series.append(Series(name="no latent", x=shares, y=tuple(bare.value for _ in shares), is_reference=True))
    curve = Curve(
        title=f"Nats per token against noise: {name}", x_label="share of the latent's variance that is signal",
        y_label="nats per token", series=tuple(series),
        note="A decoder that heeds its latent needs fewer nats with the true one than with none or another.",
    )  # fmt: skip
    rows = tuple(
        (f"prefix × {scale:g}", mean_interval(found.true_N.numpy().astype(float), seed=seed),
         mean_interval(found.other_N.numpy().astype(float), seed=seed),
         mean_interval((found.true_N - found.other_N).numpy().astype(float), seed=seed))
        for scale, found in likeness.items()
    )  # fmt: skip
    columns = (
        Column(title="proposals"), Column(title="cosine to what follows", form=".3f"),
        Column(title="to what follows elsewhere", form=".3f"), Column(title="difference", form=".3f"),
    )  # fmt: skip
    table = Table(title=f"Proposals: {name}", columns=columns, rows=rows)
    last = {h.decoder: h for h in decoders}
    measures = {
        f"nats saved by the true latent, {name}": {k: gain(h, alone.true_N, seed) for k, h in last.items()},
        f"nats saved against another latent, {name}": {k: gain(h, h.other_N, seed) for k, h in last.items()},
        f"cosine gained by proposals, {name}": {str(row[0]): row[3] for row in rows},
    }
    lead = f"{len(alone.true_N)} windows of texts that nothing was learned from."
    return Section(title=f"Signals: {name}", lead=lead, blocks=(curve, table)), measures


def _headline(name: str, heeding: list[Heeding], likeness: dict[float, Likeness]) -> str:
    alone, *decoders = heeding
    last = {h.decoder: h for h in decoders}
    saved = ", ".join(
        f"the {kind} decoder {_plain(gain(h, alone.true_N, 0))} nats a token against no latent and "
        f"{_plain(gain(h, h.other_N, 0))} against another" for kind, h in last.items()
    )  # fmt: skip
    first = next(iter(likeness.values()))
    true, other = (float(np.mean(values.numpy())) for values in (first.true_N, first.other_N))
    return (
        f"{name.capitalize()}: the true latent saves {saved}; proposals have a cosine of {true:.2f} to what follows, "
        f"{other:.2f} to what follows elsewhere."
    )


def _plain(estimate: Estimate) -> str:
    return f"{estimate.value:+.2f}" if estimate.value is not None else "?"
