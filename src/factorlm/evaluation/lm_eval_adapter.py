"""Any composition as a model of EleutherAI's language model evaluation harness, so that its tasks can be run.

Nothing else imports this module before it is needed: it needs `pip install 'factorlm[lm-eval]'`.
Source: the LM interface of the harness, Gao et al. (2021), versions 0.4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from factorlm.errors import InputError
from factorlm.evaluation.requests import Report, Tokenization, generate_until, loglikelihood, rolling
from factorlm.inference import Model, Sampling
from factorlm.inference.expression import Composed, compose
from factorlm.models import CausalLM
from factorlm.settings import explain_validation

try:
    from lm_eval.api.model import LM
except ModuleNotFoundError as error:
    raise InputError(
        f"the tasks of the evaluation harness need lm-eval, got no {error.name}; run pip install 'factorlm[lm-eval]'"
    ) from error

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

TOKEN_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first found counts
DRAWING = ("top_k", "top_p", "min_p", "typical_p", "repetition_penalty")


class FactorLM(LM):
    """A composition that tasks of the harness can be run on, alone or beside the harness's own models.

    The same requests get the numbers that the harness's own model gives for the same weights. So texts begin with a
    start token only if the tokenizer adds one of itself, and names of special tokens in a text are these tokens, which
    chat templates need; both differ from the rest of this package.
    """

    def __init__(
        self,
        model: Model | Composed | str,
        *,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        seed: int = 0,
        report: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """Wrap a composition.

        Args:
            model: what to run, or its expression, such as "smollm2 * positive^2".
            add_bos_token: whether texts begin with a start token; None asks the tokenizer.
            prefix_token_id: read where there is no context; None takes the tokenizer's start token, or its end token.
            max_length: tokens read at most; None takes what the model was made for.
            max_gen_toks: tokens written at most where a task does not say.
            seed: of all randomness.
            report: told of progress: stage, done, total.
        """
        super().__init__()
        composed = compose(model) if isinstance(model, str) else model
        self.composed = composed if isinstance(composed, Composed) else None
        self.composition = composed.model if isinstance(composed, Composed) else composed
        self.max_length = max_length or self.composition.lm.max_tokens
        self.max_gen_toks = max_gen_toks
        self.seed = seed
        self._report = report
        self.tokenization = tokenization_of(self.composition.lm, add_bos_token, prefix_token_id)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Log probability of each continuation after its context, in nats, and whether greedy decoding writes it."""
        pairs = [request.args for request in requests]
        likelihoods = loglikelihood(
            self.composition,
            pairs,
            tokenization=self.tokenization,
            max_length=self.max_length,
            report=self._progress("reading continuations"),
        )
        found = [(likelihood.log_prob, likelihood.is_greedy) for likelihood in likelihoods]
        return self._kept("loglikelihood", pairs, found)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log probability of each whole text, in nats, in disjoint windows."""
        texts = [request.args[0] for request in requests]
        # The harness predicts a start token that the tokenizer adds; so do we, to get its numbers.
        found = rolling(
            self.composition,
            texts,
            tokenization=replace(self.tokenization, encode=lambda text: list(self.tokenization.whole(text))),
            max_length=self.max_length,
            report=self._progress("reading texts"),
        )
        return self._kept("loglikelihood_rolling", [(text,) for text in texts], found)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """What the model writes after each context, up to a stop string."""
        settings = [generation_of(request.args[1], self.max_gen_toks) for request in requests]
        found = [""] * len(requests)
        for sampling in dict.fromkeys(sampling for _, _, sampling in settings):
            chosen = [i for i, (_, _, other) in enumerate(settings) if other == sampling]
            texts = generate_until(
                self.composition,
                [(requests[i].args[0], settings[i][0], settings[i][1]) for i in chosen],
                sampling=sampling,
                seed=self.seed,
                tokenization=self.tokenization,
                max_length=self.max_length,
                report=self._progress("writing"),
            )
            for i, writing in zip(chosen, texts, strict=True):
                found[i] = writing.text
        return self._kept("generate_until", [request.args for request in requests], found)

    @property
    def tokenizer_name(self) -> str:
        """For the harness's cache of requests."""
        return self.composition.lm.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template that conversations are written with, or None if it is not wanted."""
        return self._template() if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the text that the model reads."""
        self._template()
        return str(
            self.composition.lm.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside its results."""
        lm = self.composition.lm
        known = {"model_dtype": str(lm.model.dtype), "model_fingerprint": lm.fingerprint}
        if self.composed is None:
            return known
        return {"model_expression": self.composed.expression, **known, "model_fingerprint": self.composed.fingerprint}

    def _template(self) -> str:
        template = self.composition.lm.tokenizer.chat_template
        if not template:
            raise InputError(f"{self.composition.lm.name} has no chat template; run the task without one")
        return str(template)

    def _progress(self, stage: str) -> Report | None:
        report = self._report
        return None if report is None else (lambda done, total: report(stage, done, total))

    def _kept(self, kind: str, requests: Sequence[Any], found: list[Any]) -> list[Any]:
        """Offer results to the harness's cache of answers."""
        for request, result in zip(requests, found, strict=True):
            self.cache_hook.add_partial(kind, request, result)
        return found


def tokenization_of(
    lm: CausalLM, add_bos_token: bool | None = None, prefix_token_id: int | None = None
) -> Tokenization:
    """How the harness cuts texts into tokens with this model's tokenizer; the arguments are those of `FactorLM`."""
    tokenizer = lm.tokenizer
    known = (prefix_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, lm.start_ids[-1])
    empty_ids = (next(int(token) for token in known if token is not None),)
    if add_bos_token is None:
        special = set(tokenizer.all_special_ids)
        start_ids = tuple(takewhile(special.__contains__, tokenizer("a").input_ids))
    else:
        start_ids = empty_ids if add_bos_token else ()

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    return Tokenization(encode, start_ids, empty_ids)


def generation_of(options: Mapping[str, Any], max_tokens: int) -> tuple[tuple[str, ...], int, Sampling]:
    """Stop strings, most tokens and sampling from a task's generation settings; greedy unless they ask for more.

    Args:
        options: of the task.
        max_tokens: where the task does not say.

    Raises:
        InputError: for a setting that cannot be followed.
    """
    left = {key: value for key, value in options.items() if value is not None}
    until = left.pop("until", ())
    stops = (until,) if isinstance(until, str) else tuple(until)
    limits = [left.pop(key) for key in TOKEN_LIMITS if key in left]
    drawing = {key: left.pop(key) for key in DRAWING if key in left}
    temperature = left.pop("temperature", None)
    is_drawn = left.pop("do_sample", bool(temperature))
    drawing["temperature"] = float((1.0 if temperature is None else temperature) if is_drawn else 0.0)
    if left:
        raise InputError(
            f"generation settings that can be followed are until, do_sample, temperature, {', '.join(DRAWING)} and "
            f"{TOKEN_LIMITS[0]}, got {sorted(left)[0]!r}; take it out of the task"
        )
    try:
        sampling = Sampling(**drawing)
    except ValidationError as error:
        raise explain_validation(error, "generation settings") from None
    return stops, int(limits[0] if limits else max_tokens), sampling
