"""A composition with text going in and coming out: what `fl.load()` gives, and what users multiply."""

# Axes: B batch, K factors, T time.

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from factorlm.algebra import (
    Factor,
    Interpolation,
    Intersection,
    LocalProduct,
    Mixture,
    Named,
    Power,
    Product,
    Term,
    Union,
    flatten,
    merge,
    names_of,
    pad_left,
    pad_right,
    rows_of,
    unflatten,
)
from factorlm.errors import IncompatibleError, InputError
from factorlm.factors.named import factor as named_factor
from factorlm.factors.unbound import bind
from factorlm.inference.drafts import Draft, ModelDraft
from factorlm.inference.draw import Sampling, generator_of
from factorlm.inference.explanation import Explanation
from factorlm.inference.local import Row
from factorlm.inference.particles import Particles, sample_particles
from factorlm.inference.population import Population
from factorlm.inference.reading import Reading, read
from factorlm.inference.results import Response, Score
from factorlm.inference.stream import Stream, responses_of
from factorlm.inference.strengths import exponent_of
from factorlm.models import CausalLM
from factorlm.models.loading import DEFAULT_MODEL, load_model
from factorlm.models.progress import Report, quiet
from factorlm.prior import Prior, is_prior
from factorlm.text import TextStream, Vocabulary

ByRow = float | Sequence[float]  # one number for all rows, or one for each
PLAIN = Sampling()
SCORED_TOKENS = 4096  # tokens of texts scored at once, padding included


@dataclass(frozen=True, eq=False)
class Model:
    """A composition of factors over a causal language model.

    `model * factor`, `model / factor`, `model ** a`, `model | model` and `model & model` make new models; exponents
    are those of whole texts. Generation draws from the local product, normalised at each token, or with particles from
    the global one, normalised over texts.

    Attributes:
        factor: the composition, bound to the language model.
        lm: the language model whose tokens and encoder are used.
    """

    factor: Factor
    lm: CausalLM

    def __mul__(self, other: Factor | Model) -> Model:
        return Model(Product((self.factor, self._bound(other))), self.lm)

    def __rmul__(self, other: Factor) -> Model:
        return self * other

    def __truediv__(self, other: Factor | Model) -> Model:
        return Model(Product((self.factor, Power(self._bound(other), -1.0))), self.lm)

    def __pow__(self, exponent: float) -> Model:
        return Model(Power(self.factor, exponent), self.lm)

    def __or__(self, other: Factor | Model) -> Model:
        return Model(Union((self.factor, self._bound(other))), self.lm)

    def __and__(self, other: Factor | Model) -> Model:
        return Model(Intersection((self.factor, self._bound(other))), self.lm)

    @property
    def terms(self) -> list[Term]:
        """The factors of the product with their exponents; the first is the base."""
        inner = self.factor.base if isinstance(self.factor, LocalProduct) else self.factor
        return merge(flatten(inner))

    def steered(
        self, strengths: Mapping[str, ByRow] | None = None, exponents: Mapping[str, ByRow] | None = None
    ) -> Model:
        """The model with these factors of the store, or of itself, at these strengths or exponents.

        Args:
            strengths: signed nats per token of divergence that each factor would cause alone.
            exponents: powers of whole-text weights.
            Each value is one number, or one for each row of the batches that the model will be given.
        """
        base, *terms = self.terms
        wanted = {**(strengths or {}), **(exponents or {})}
        twice = set(strengths or {}) & set(exponents or {})
        if twice:
            raise InputError(f"a strength or an exponent is wanted for {sorted(twice)[0]!r}, got both; leave one out")
        by_name = dict(zip(names_of(terms), terms, strict=True))
        for name, value in wanted.items():
            known = by_name.get(name)
            bound = known.factor if known else bind(named_factor(name), self.lm)
            if name in (strengths or {}):
                value = _by_row(value, functools.partial(exponent_of, self.lm, bound))
            exponent = torch.tensor(value) if isinstance(value, Sequence) else float(value)
            by_name[name] = Term(bound, exponent)
        return Model(unflatten([base, *by_name.values()]), self.lm)

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        n: int = 1,
        max_tokens: int = 64,
        seed: int = 0,
        sampling: Sampling = PLAIN,
        strengths: Mapping[str, ByRow] | None = None,
        exponents: Mapping[str, ByRow] | None = None,
        chat: bool = False,
        explain: bool = False,
        particles: Particles | None = None,
        twist: Factor | None = None,
        draft: Draft | ModelDraft | None = None,
        report: Report = quiet,
    ) -> list[Response]:
        """Continue each prompt n times; responses come prompt by prompt.

        Without particles a text is drawn from the local product, normalised at each token; with them from the global
        product, normalised over texts, in the limit of many particles. Each response has particles of its own.

        The same seed, prompt and settings give the same text, whatever else is in the
        batch (to rounding of about 1e-5 nats in float32).

        Args:
            prompts: one text or several.
            n: responses to each.
            max_tokens: most tokens of a response.
            seed: of all randomness.
            sampling: how tokens are drawn.
            strengths: of factors, by name; see `steered`.
            exponents: of factors, by name; one number, or one for each prompt.
            chat: whether a prompt is a user's message, to be answered, rather than a text to be continued.
            explain: whether to find what each factor did to each token.
            particles: how the global product is sampled; None samples the local one.
            twist: a factor that leads particles and is taken back at the end, so that it does not change the law.
            draft: guesses tokens where the local product is sampled; see `stream`.
            report: told of progress where particles are drawn.

        Raises:
            InputError: for an empty prompt, one longer than the context, or settings that cannot be used.
            DeadEndError: if a text, or all particles of one, cannot go on.
        """
        if particles is not None:
            model, rows, row_prompts = self._rows(prompts, n, max_tokens, seed, sampling, strengths, exponents, chat)
            populations = sample_particles(
                model.factor, [row.prompt_ids for row in rows], [row.generator for row in rows],
                max_tokens=max_tokens, particles=particles, sampling=sampling, report=report,
                twist=None if twist is None else self._bound(twist),
            )  # fmt: skip
            for row, population in zip(rows, populations, strict=True):
                _take(row, population, self.lm.vocabulary)
            found = responses_of(model.factor, self.lm.vocabulary, rows, row_prompts, explain=explain)
            return [replace(r, population=p) for r, p in zip(found, populations, strict=True)]
        if twist is not None:
            raise InputError("a twist leads particles, got one without particles; give both, or neither")
        run = self.stream(
            prompts,
            n=n,
            max_tokens=max_tokens,
            seed=seed,
            sampling=sampling,
            strengths=strengths,
            exponents=exponents,
            chat=chat,
            draft=draft,
        )
        for _ in run:
            pass
        return run.responses(explain=explain)

    def stream(
        self,
        prompts: str | Sequence[str],
        *,
        n: int = 1,
        max_tokens: int = 64,
        seed: int = 0,
        sampling: Sampling = PLAIN,
        strengths: Mapping[str, ByRow] | None = None,
        exponents: Mapping[str, ByRow] | None = None,
        chat: bool = False,
        draft: Draft | ModelDraft | None = None,
    ) -> Stream:
        """As `generate`, but gives out text as it becomes certain, in whole characters: iterate over the result.

        With a draft, such as `fl.PromptLookup()`, tokens are guessed and checked several at once: the same texts, in
        less time where guesses are good.
        """
        model, rows, row_prompts = self._rows(prompts, n, max_tokens, seed, sampling, strengths, exponents, chat)
        return Stream(model.factor, self.lm.vocabulary, rows, row_prompts, max_tokens, sampling, draft)

    def score(
        self,
        texts: str | Sequence[str],
        *,
        prompt: str = "",
        strengths: Mapping[str, ByRow] | None = None,
        exponents: Mapping[str, ByRow] | None = None,
    ) -> list[Score]:
        """Log probability of whole texts under the composed and the base model, and each factor's evidence.

        Args:
            texts: one text or several; the end token is not counted.
            prompt: what stands before every text.
            strengths: of factors, by name; see `steered`.
            exponents: of factors, by name; one number, or one for each text. Zero asks only for the evidence.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        prompt_ids = [*self.lm.start_ids, *self.lm.encode_text(prompt)]
        rows = [self.lm.encode_text(text) for text in texts]
        for text, row in zip(texts, rows, strict=True):
            self._check_length(text, len(prompt_ids) + len(row))
        strengths, exponents = (
            {k: _repeated(v, len(texts), 1) for k, v in (m or {}).items()} for m in (strengths, exponents)
        )
        order = sorted(range(len(texts)), key=lambda i: len(rows[i]))
        scores: list[Score | None] = [None] * len(texts)
        while order:
            size = max(1, SCORED_TOKENS // (len(prompt_ids) + len(rows[order[0]]) + 1))
            while size > 1 and size * (len(prompt_ids) + len(rows[order[min(size, len(order)) - 1]])) > SCORED_TOKENS:
                size -= 1
            batch, order = order[:size], order[size:]
            picked = [
                {k: [v[i] for i in batch] if isinstance(v, Sequence) else v for k, v in (m or {}).items()}
                for m in (strengths, exponents)
            ]
            model = Model(rows_of(self.factor, batch), self.lm)
            model = model.steered(*picked) if strengths or exponents else model
            reading = read(
                model.factor, pad_left([prompt_ids] * len(batch)), pad_right([rows[i] for i in batch]), with_ratios=True
            )
            for b, i in enumerate(batch):
                scores[i] = _score(texts[i], len(rows[i]), reading, b)
        return [score for score in scores if score is not None]

    def explain(
        self,
        prompt: str,
        text: str | Response,
        *,
        strengths: Mapping[str, float] | None = None,
        exponents: Mapping[str, float] | None = None,
    ) -> Explanation:
        """What each factor did to each token of a text that continues the prompt, in nats."""
        model = self.steered(strengths, exponents) if strengths or exponents else self
        if isinstance(text, Response):
            prompt_ids, token_ids = list(text.prompt_ids), list(text.token_ids)
        else:
            prompt_ids, token_ids = [*self.lm.start_ids, *self.lm.encode_text(prompt)], self.lm.encode_text(text)
        if not token_ids:
            raise InputError("a text to explain is needed, got an empty one")
        self._check_length(prompt + (text if isinstance(text, str) else text.text), len(prompt_ids) + len(token_ids))
        reading = read(model.factor, pad_left([prompt_ids]), pad_right([token_ids]), with_contributions=True)
        return Explanation.of(reading, 0, token_ids, self.lm.vocabulary, prompt)

    def encode_prompt(self, text: str, max_tokens: int, *, chat: bool = False) -> list[int]:
        """Start token and tokens of a prompt, or of a conversation that begins with it, checked."""
        if not text:
            raise InputError("a prompt of at least one character is needed, got an empty one")
        prompt_ids = self.lm.encode_message(text) if chat else [*self.lm.start_ids, *self.lm.encode_text(text)]
        self._check_length(text, len(prompt_ids) + max_tokens)
        return prompt_ids

    def _rows(
        self,
        prompts: str | Sequence[str],
        n: int,
        max_tokens: int,
        seed: int,
        sampling: Sampling,
        strengths: Mapping[str, ByRow] | None,
        exponents: Mapping[str, ByRow] | None,
        chat: bool,
    ) -> tuple[Model, list[Row], list[str]]:
        """The steered model, the texts to write, and the prompt of each."""
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if n < 1 or max_tokens < 0:
            raise InputError(f"n is at least 1 and max_tokens at least 0, got {n} and {max_tokens}")
        rows, row_prompts = [], []
        for text in texts:
            prompt_ids = self.encode_prompt(text, max_tokens, chat=chat)
            for sample in range(n):
                rows.append(Row(prompt_ids, generator_of(seed, prompt_ids, sample), TextStream(sampling.stop)))
                row_prompts.append(text)
        strengths, exponents = (
            {k: _repeated(v, len(texts), n) for k, v in (m or {}).items()} for m in (strengths, exponents)
        )
        model = self.steered(strengths, exponents) if strengths or exponents else self
        return model, rows, row_prompts

    def _check_length(self, text: str, num_tokens: int) -> None:
        if num_tokens > self.lm.max_tokens:
            raise InputError(
                f"{self.lm.name} reads at most {self.lm.max_tokens} tokens, got {num_tokens} for a text that begins "
                f"{text[:40]!r}; shorten it or ask for fewer new tokens"
            )

    def _bound(self, other: Factor | Model) -> Factor:
        if not isinstance(other, (Factor, Model)):
            raise InputError(f"a model can be combined with a factor or a model, got {type(other).__name__}")
        bound = other.factor if isinstance(other, Model) else bind(other, self.lm)
        if bound.vocabulary != self.lm.vocabulary:
            raise IncompatibleError(
                f"{self.lm.name} has {self.lm.vocabulary.size} tokens, and what it is combined with has other ones "
                f"({bound.vocabulary.size}); take models with the same tokenizer"
            )
        return bound


def load(name: str = DEFAULT_MODEL, *, dtype: str = "auto", device: str = "auto") -> Model:
    """A language model to multiply factors onto; see `factorlm.models.loading.load_model` for the arguments.

    The folder of a prior gives the law sum_k mu_k p_k(x) of its components.
    """
    if is_prior(name):
        prior = Prior.load(name, dtype=dtype, device=device)
        return Model(prior.mixture, prior.lm)
    lm = load_model(name, dtype=dtype, device=device)
    return Model(lm, lm)


def mix(models: Sequence[Model], weights: Sequence[float] | None = None) -> Model:
    """The mixture: a model is drawn once for each text. Its posterior shifts as the text is read."""
    return _together(Mixture, "mixture", models, weights)


def interpolate(models: Sequence[Model], weights: Sequence[float] | None = None) -> Model:
    """The interpolation: next-token distributions are averaged anew at each token."""
    return _together(Interpolation, "interpolation", models, weights)


def _together(
    kind: type[Mixture] | type[Interpolation], name: str, models: Sequence[Model], weights: Sequence[float] | None
) -> Model:
    if not models:
        raise InputError(f"a {name} needs at least one model, got none")
    shares = tuple(weights) if weights is not None else (1 / len(models),) * len(models)
    parts = tuple(LocalProduct.of(m.factor) for m in models)
    return replace(models[0], factor=Named(name, kind(parts, shares)))


def _take(row: Row, population: Population, vocabulary: Vocabulary) -> None:
    """Fill the row with the text that was drawn."""
    chosen = population.drawn()
    row.token_ids = list(population.token_ids[chosen])
    row.log_probs = [population.log_weights[chosen] - population.log_z]
    row.finish_reason = population.finish_reasons[chosen]
    row.stream.push_all(vocabulary.token_bytes[token] for token in row.token_ids)


def _score(text: str, num_tokens: int, reading: Reading, b: int) -> Score:
    assert reading.log_ratio_BTK is not None
    ratios = reading.log_ratio_BTK[b].double().sum(0).tolist()
    return Score(
        text=text,
        log_prob=float(reading.log_prob_BT[b].double().sum()),
        base_log_prob=float(reading.base_log_prob_BT[b].double().sum()),
        num_tokens=num_tokens,
        num_bytes=len(text.encode()),
        log_ratios=dict(zip(reading.names, ratios, strict=True)),
    )


def _repeated(value: ByRow, num_prompts: int, n: int) -> ByRow:
    if not isinstance(value, Sequence):
        return value
    if len(value) != num_prompts:
        raise InputError(f"one number, or one for each of {num_prompts} texts, is needed, got {len(value)}")
    return [v for v in value for _ in range(n)]


def _by_row(value: ByRow, change: Callable[[float], float]) -> ByRow:
    return [change(v) for v in value] if isinstance(value, Sequence) else change(value)
