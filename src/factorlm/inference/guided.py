"""A prior over meanings as a language model: a latent is drawn for each response, leant on by guides, then written.

In the words of the design it is mu over latents given the prompt, tilted by g = prod_i guide_i^strength_i, whose
component for a latent is the language model that has it in mind; token factors multiply that component.
"""

# Axes: B responses, D numbers of a latent, G guides, K latents.

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from factorlm.algebra import Factor, Named, Power, Product, Term, pad_left, pad_right, unflatten
from factorlm.diffusion.decoders import BiasDecoder
from factorlm.diffusion.files import MeaningsCard
from factorlm.diffusion.guide_files import LatentGuide
from factorlm.diffusion.meanings import DecoderKind, Meanings, Proposal, Proposing
from factorlm.diffusion.shipped import load_meanings
from factorlm.errors import InputError
from factorlm.inference.draw import Sampling, generator_of
from factorlm.inference.guide_names import find_guide
from factorlm.inference.model import PLAIN, Model
from factorlm.inference.plans import Plan
from factorlm.inference.reading import read
from factorlm.inference.results import Response
from factorlm.models import CausalLM

NEAREST = 3  # sentences shown
TOGETHER = 16  # rows scored at once
PROPOSING, DECODING = -2, -3  # what randomness is for, beside that of tokens


@dataclass(frozen=True)
class Bound:
    """What is known of the log probability of a text.

    Attributes:
        text: the text.
        log_prob: log of the mean probability under latents that were drawn, in nats. Its mean over draws is at most
            the log probability of the text (Jensen), and comes to it with more latents.
        base_log_prob: under the language model alone, with its factors, in nats.
        num_tokens: of the text.
        effective: number of latents that the mean rests on.
    """

    text: str
    log_prob: float
    base_log_prob: float
    num_tokens: int
    effective: float


@dataclass(frozen=True, eq=False)
class GuidedPrior:
    """A language model guided by meaning.

    Attributes:
        model: the language model, maybe with factors.
        meanings: the prior over latents, and decoders of them.
        guides: by name, in order.
        strengths: of each; log g is their sum of strength times log probability. A negative one wants the opposite.
        proposing: how latents are drawn.
        decoder: which one is used.
        emphasis: power of what the latent changes: the component is lm * (decoder / lm)^emphasis.
    """

    model: Model
    meanings: Meanings
    guides: Mapping[str, LatentGuide]
    strengths: Mapping[str, float]
    proposing: Proposing
    decoder: DecoderKind
    emphasis: float = 1.0

    def __post_init__(self) -> None:
        if self.model.terms[0].factor is not self.model.lm:
            raise InputError(
                "a product that begins with the language model itself is needed to be guided, got a mixture or another "
                "prior; multiply factors with the guided model instead"
            )
        if self.meanings.lm.fingerprint != self.model.lm.fingerprint:
            raise InputError(f"meanings for {self.model.lm.name} are needed, got those for {self.meanings.lm.name}")

    def __mul__(self, other: Factor | Model) -> GuidedPrior:
        return replace(self, model=self.model * other)

    def __truediv__(self, other: Factor | Model) -> GuidedPrior:
        return replace(self, model=self.model / other)

    def tilt(self, strengths: Mapping[str, float]) -> GuidedPrior:
        """Mu * g once more: strengths of guides that are there are added up.

        Raises:
            UnknownNameError: for a guide that there is not.
        """
        new = {
            name: self.guides[name] if name in self.guides else find_guide(name, self.meanings) for name in strengths
        }
        total = {**self.strengths}
        for name, strength in strengths.items():
            total[name] = total.get(name, 0.0) + strength
        return replace(self, guides={**self.guides, **new}, strengths=_finite(total))

    def sample(
        self,
        prompts: str | Sequence[str],
        *,
        n: int = 1,
        max_tokens: int = 64,
        seed: int = 0,
        sampling: Sampling = PLAIN,
        explain: bool = False,
    ) -> list[Response]:
        """Continue each prompt n times, each with a latent of its own, which its `plan` tells.

        The same seed, prompt and settings give the same text, whatever else is in the batch.

        Args:
            prompts: one text or several.
            n: responses to each.
            max_tokens: most tokens of a response.
            seed: of all randomness.
            sampling: how tokens are drawn.
            explain: whether to find what factors did to each token, and how the plan was heeded.
        """
        model, proposal = self.planned(prompts, n=n, seed=seed, apart=explain)
        found = model.generate(prompts, n=n, max_tokens=max_tokens, seed=seed, sampling=sampling, explain=explain)
        return self.with_plans(found, proposal)

    def planned(
        self, prompts: str | Sequence[str], *, n: int = 1, seed: int = 0, apart: bool = False
    ) -> tuple[Model, Proposal]:
        """The model that has a latent in mind for each row of these prompts, n rows each, and what was drawn.

        Args:
            prompts: one text or several.
            n: rows of each.
            seed: of the latents.
            apart: whether what latents change is a factor of its own, "plan", which explanations then show: the same
                law for twice the work.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if n < 1 or not texts:
            raise InputError(f"at least one prompt and n of at least 1 are needed, got {len(texts)} and {n}")
        rows = [text for text in texts for _ in range(n)]
        numbers = [number for _ in texts for number in range(n)]
        found = self._propose(rows, numbers, seed)
        return self._with(found.latent_BD, self._random(rows, numbers, seed, DECODING), apart=apart), found

    def with_plans(self, responses: Sequence[Response], proposal: Proposal) -> list[Response]:
        """Responses with the plans that they were written by, and their log probability under the base without one."""
        if len(responses) != len(proposal.latent_BD):
            raise InputError(f"a response for each plan is needed, got {len(responses)} for {len(proposal.latent_BD)}")
        written = [n for n, response in enumerate(responses) if response.text.strip()]
        vectors = self.meanings.encode([responses[n].text.strip() for n in written]) if written else None
        places = {n: place for place, n in enumerate(written)}
        collection = self.meanings.collection
        nearest = collection.nearest(proposal.vector_BD, NEAREST) if collection else [[]] * len(responses)
        planned_BG = self._probs(proposal.vector_BD)
        base_B = self._base_log_prob(responses)
        found = []
        for b, response in enumerate(responses):
            own = vectors[[places[b]]] if vectors is not None and b in places else None
            found.append(
                replace(
                    response,
                    base_log_prob=base_B[b],
                    plan=Plan(
                        guides=tuple(self.guides),
                        strengths=tuple(self.strengths[name] for name in self.guides),
                        probs=tuple(self._turned(step_GB[:, b]) for step_GB in proposal.guide_prob_SGB),
                        planned=tuple(planned_BG[b].tolist()),
                        written=tuple(self._probs(own)[0].tolist()) if own is not None else (),
                        likeness=float(own[0] @ proposal.vector_BD[b]) if own is not None else None,
                        nearest=tuple(nearest[b]),
                    ),
                )
            )
        return found

    def score(self, texts: str | Sequence[str], *, prompt: str, latents: int = 32, seed: int = 0) -> list[Bound]:
        """A bound on the log probability of texts behind a prompt: log of the mean over latents that are drawn.

        With guides, latents are drawn as for sampling: with particles from the tilted prior in the limit, else from
        what guidance takes for it.

        Args:
            texts: one text or several; the end token is not counted.
            prompt: what stands before every text.
            latents: that are drawn, the same for all texts.
            seed: of them.

        Raises:
            InputError: for an empty text, or no latents.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        lm = self.model.lm
        rows = [lm.encode_text(text) for text in texts]
        if not all(rows):
            raise InputError("texts of at least one token are needed to be scored, got an empty one")
        if latents < 1:
            raise InputError(f"at least one latent is needed, got {latents}")
        numbers = list(range(latents))
        found = self._propose([prompt] * latents, numbers, seed)
        random = self._random([prompt] * latents, numbers, seed, DECODING)
        prefix = [*lm.start_ids, *lm.encode_text(prompt)]
        log_prob_KN = torch.cat(
            [
                self._score_rows(found.latent_BD[chosen], random[chosen], prefix, rows)
                for chosen in (slice(start, start + TOGETHER) for start in range(0, latents, TOGETHER))
            ]
        )
        total_N = log_prob_KN.logsumexp(0) - math.log(latents)
        effective_N = 1 / log_prob_KN.softmax(0).square().sum(0)
        base = self.model.score(texts, prompt=prompt)
        return [
            Bound(text, float(total), own.log_prob, len(row), float(effective))
            for text, row, total, own, effective in zip(texts, rows, total_N, base, effective_N, strict=True)
        ]

    def _score_rows(
        self, latent_KD: Tensor, random: list[torch.Generator], prefix: list[int], rows: list[list[int]]
    ) -> Tensor:
        """Log probability of each text under the component of each latent, [K, N]."""
        model = self._with(latent_KD, random)
        found = []
        for row in rows:
            texts = pad_left([prefix] * len(latent_KD)), pad_right([row] * len(latent_KD))
            found.append(read(model.factor, *texts).log_prob_BT.double().sum(1))
        return torch.stack(found, 1)

    def _propose(self, rows: list[str], numbers: list[int], seed: int) -> Proposal:
        return self.meanings.propose(
            rows, self._random(rows, numbers, seed, PROPOSING), self.proposing,
            guides=[self._leaning(name) for name in self.guides],
            strengths=[abs(self.strengths[name]) for name in self.guides],
        )  # fmt: skip

    def _leaning(self, name: str) -> LatentGuide:
        """The guide of what will be written, turned round for a negative strength."""
        guide = self.guides[name].heeded(self.meanings.heed.get(self.decoder, 1.0))
        return guide if self.strengths[name] >= 0 else guide.opposite

    def _random(self, rows: list[str], numbers: list[int], seed: int, what: int) -> list[torch.Generator]:
        encode = self.model.lm.encode_text
        return [generator_of(seed, [what, *encode(row)], number) for row, number in zip(rows, numbers, strict=True)]

    def _with(self, latent_BD: Tensor, random: list[torch.Generator], *, apart: bool = False) -> Model:
        """The model with the decoder of these latents in the place of the language model."""
        lm, (first, *others) = self.model.lm, self.model.terms
        decoder: Factor = self.meanings.decoder(latent_BD, random, self.decoder)
        emphasis = self.emphasis
        if isinstance(decoder, BiasDecoder):  # a power of what a bias changes is a longer bias
            decoder, emphasis = replace(decoder, bias_BE=emphasis * decoder.bias_BE), 1.0
        if not apart and emphasis == 1.0:
            return Model(unflatten([Term(decoder, first.exponent), *others]), lm)
        plan = Named("plan", Product((decoder, Power(lm, -1.0))))
        return Model(unflatten([first, Term(plan, emphasis * first.exponent), *others]), lm)

    def _base_log_prob(self, responses: Sequence[Response]) -> list[float]:
        base, found = self.model.terms[0].as_factor(), list[float]()
        for start in range(0, len(responses), TOGETHER):
            some = responses[start : start + TOGETHER]
            texts = pad_left([list(r.prompt_ids) for r in some]), pad_right([list(r.token_ids) for r in some])
            found += read(base, *texts).log_prob_BT.double().sum(1).tolist()
        return found

    def _turned(self, prob_G: Tensor) -> tuple[float, ...]:
        """Probabilities of what guides are for, from those of what was wanted."""
        return tuple(
            p if self.strengths[name] >= 0 else 1 - p for name, p in zip(self.guides, prob_G.tolist(), strict=True)
        )

    def _probs(self, vector_BD: Tensor) -> Tensor:
        """Of each guide, [B, G]."""
        if not self.guides:
            return torch.empty(len(vector_BD), 0)
        latent_BD = self.meanings.after.latent(vector_BD)
        with torch.no_grad():
            return torch.stack([guide.log_prob(latent_BD).exp() for guide in self.guides.values()], 1)


def guided(
    model: Model | CausalLM,
    strengths: Mapping[str, float] | None = None,
    *,
    meanings: Path | str | None = None,
    decoder: DecoderKind | None = None,
    emphasis: float = 1.0,
    proposing: Proposing | None = None,
) -> GuidedPrior:
    """A language model guided by meaning: `fl.guided(fl.load(), {"positive": 10}).sample("The food was")`.

    Args:
        model: the language model, maybe with factors.
        strengths: by name of a guide of the store, or of words, such as "topic:sports"; negative ones want the
            opposite.
        meanings: folder of what `factorlm guide fit-model` wrote; None takes what is shipped.
        decoder: "soft" or "bias"; None takes the one that was better on texts held out.
        emphasis: power of what a latent changes.
        proposing: how latents are drawn.

    Raises:
        UnknownNameError: for a guide that there is not.
        IncompatibleError: for meanings of another language model.
    """
    model = model if isinstance(model, Model) else Model(model, model)
    found, card = load_meanings(model.lm, meanings)
    prior = GuidedPrior(model, found, {}, {}, proposing or Proposing(), decoder or best_decoder(found, card), emphasis)
    return prior.tilt(strengths or {})


def best_decoder(meanings: Meanings, card: MeaningsCard) -> DecoderKind:
    """The kind that gave held-out texts the fewest nats; where that was not measured, soft before bias."""
    measured = card.origin.measured
    kinds = meanings.kinds
    if not kinds:
        raise InputError("meanings with a decoder are needed, got none; learn one with factorlm guide fit-model")
    return min(kinds, key=lambda kind: measured.get(f"nats per token, {kind} decoder", math.inf))


def _finite(strengths: Mapping[str, float]) -> dict[str, float]:
    for name, value in strengths.items():
        if not math.isfinite(value):
            raise InputError(f"a finite strength is needed for {name!r}, got {value}")
    return dict(strengths)
