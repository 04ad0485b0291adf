"""The server's engine on vLLM: jobs in, tokens out.

Built to the shape of `factorlm.serving.jobs.Engine`. That room and this one do not import each other, so the classes of
what is given out are handed over when the engine is made.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from factorlm.engines.vllm.abilities import check_abilities, check_recipe, language_arguments
from factorlm.engines.vllm.languages import language_of, rules_of
from factorlm.engines.vllm.orders import Order, sha256_of, write_orders
from factorlm.engines.vllm.reading import Reader, find
from factorlm.engines.vllm.served import Served
from factorlm.engines.vllm.settings import VllmSettings
from factorlm.engines.vllm.ticket import Ticket
from factorlm.engines.vllm.versions import require_validated
from factorlm.errors import DeadEndError, FactorlmError, InputError, IntegrityError
from factorlm.factors.manifest import GrammarSettings
from factorlm.factors.store import read_manifest
from factorlm.inference.local import Row
from factorlm.text import TextStream

if TYPE_CHECKING:
    from factorlm.factors.strength import StrengthMap
    from factorlm.inference import Model, Score
    from factorlm.serving.jobs import Dose, Job, Piece, Recipe

LEAST_WAIT_S, MOST_WAIT_S = 1.0, 30.0  # after which it is worth asking again


class VllmEngine:
    """Serves one model; see `factorlm.serving.jobs.Engine`.

    Args:
        settings: how vLLM is started.
        make_piece: the class of a token that is given out.
        overloaded: makes what is raised if too much is waiting, of a message and of seconds.
        model_id: its name for clients; the model's own if empty.

    Raises:
        IncompatibleError: for a version of vLLM that was not checked, or settings that do not go with factors.
        InputError: if there is no such model, or no vLLM.
    """

    def __init__(
        self,
        settings: VllmSettings,
        *,
        make_piece: Callable[..., Piece],
        overloaded: Callable[[str, float], Exception],
        model_id: str = "",
    ) -> None:
        require_validated()
        settings.prepare()
        self._settings, self._make_piece, self._overloaded = settings, make_piece, overloaded
        self._served = Served.of(settings.model)
        self._id = model_id or settings.model
        self._reader = Reader(self._served)
        self._reading, self._tokenizing, self._own = threading.Lock(), threading.Lock(), threading.Lock()
        self._model: Model | None = None
        self._tickets: set[Ticket] = set()
        self._is_closing = False
        self.num_rows = self.num_drawn = self.num_read = 0
        self.llm: Any = None  # vLLM's, once started

    @property
    def model_id(self) -> str:
        """Name of the served model."""
        return self._id

    @property
    def max_tokens(self) -> int:
        """Longest text, prompt included, in tokens."""
        return min(self._settings.max_tokens or self._served.max_tokens, self._served.max_tokens)

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, a start token included."""
        if not text:
            raise InputError("a prompt of at least one character is needed, got an empty one")
        with self._tokenizing:
            return [*self._served.start_ids, *self._served.encode_text(text)]

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation that the model is to go on with."""
        if not messages:
            raise InputError("at least one message is needed, got none")
        with self._tokenizing:
            return self._served.encode_chat(messages)

    def strengths(self, folder: Path) -> StrengthMap:
        """The map from strength to exponent of the factor in a folder, measured now if its card has none."""
        found = read_manifest(folder).strengths
        if found is not None:
            return found
        from factorlm.factors import bind, factor
        from factorlm.inference.strengths import strength_map

        with self._own:
            lm = self._own_model().lm
            return strength_map(lm, bind(factor(str(folder)), lm))

    def check(self, job: Job) -> None:
        """See jobs.Engine."""
        if job.max_tokens < 1 or job.n < 1 or not job.prompts:
            raise InputError("at least one text of at least one token is needed; ask for more")
        longest = max(map(len, job.prompts)) + job.max_tokens
        if longest > self.max_tokens:
            raise InputError(
                f"{self._id} reads at most {self.max_tokens} tokens, got {longest} with those to be written; shorten "
                "the prompt or ask for fewer"
            )
        check_abilities(job)
        self._asked(job.recipe)

    def expect(self) -> Callable[[], None]:
        """See jobs.Engine; vLLM gathers by itself."""
        return lambda: None

    def submit(self, job: Job) -> Ticket:
        """See jobs.Engine."""
        if self.llm is None:
            raise InputError("the engine is not started; await its start first")
        if self._is_closing:
            raise self._overloaded("the server is shutting down; ask another one, or later", LEAST_WAIT_S)
        waiting = self.load()["rows_waiting"]
        if waiting + len(job.prompts) * job.n > self._settings.most_waiting + self._settings.most_rows:
            wait_s = min(MOST_WAIT_S, max(LEAST_WAIT_S, waiting / self._settings.most_rows))
            raise self._overloaded(f"{waiting:.0f} texts are waiting already; ask again later", wait_s)
        return Ticket(self, job)

    async def score(self, texts: Sequence[str], prompt: str, recipe: Recipe) -> list[Score]:
        """See jobs.Engine; done by the embedded engine, whose model is loaded the first time."""
        check_recipe(recipe)

        def work() -> list[Score]:
            from factorlm.factors import bind, factor, grammar

            with self._own:
                model = self._own_model()
                for dose in recipe.doses:
                    model = model * bind(factor(str(dose.folder)), model.lm) ** dose.exponent
                if recipe.language is not None:
                    kind, content = recipe.language
                    model = model * grammar(**language_arguments(kind, content))
                return model.score(list(texts), prompt=prompt)

        return await asyncio.to_thread(work)

    def load(self) -> dict[str, float]:
        """See jobs.Engine."""
        active = min(self.num_rows, self._settings.most_rows)
        return {
            "rows_active": float(active),
            "rows_waiting": float(self.num_rows - active),
            "tokens_drawn": float(self.num_drawn),
            "tokens_read": float(self.num_read),
        }

    async def start(self) -> None:
        """See jobs.Engine."""
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = AsyncEngineArgs(**self._settings.arguments(self._served.folder, self.max_tokens))
        self.llm = await asyncio.to_thread(AsyncLLM.from_engine_args, arguments)

    async def close(self, drain_s: float) -> None:
        """See jobs.Engine."""
        self._is_closing = True
        deadline = asyncio.get_running_loop().time() + drain_s
        while self._tickets and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        for ticket in list(self._tickets):
            await ticket.fail(self._overloaded("the server is shutting down; ask another one, or later", LEAST_WAIT_S))
        if self.llm is not None:
            self.llm.shutdown()  # in this thread: else the task that hears its core takes the end for a failure
            self.llm = None

    # What a job becomes

    def parameters(self, job: Job, prompt_ids: Sequence[int], sample: int) -> Any:
        """What vLLM is told of one text of a job."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        orders, language = self._asked(job.recipe)
        sampling = job.sampling
        return SamplingParams(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            max_tokens=job.max_tokens,
            seed=_seed(job.seed, prompt_ids, sample),
            logprobs=job.top,
            stop_token_ids=list(self._served.end_ids),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            structured_outputs=None if language is None else StructuredOutputsParams(grammar=rules_of(*language)),
            extra_args=write_orders(orders) or None,
        )

    def row(self, prompt_ids: Sequence[int], stop: Sequence[str]) -> Row:
        """What a text is gathered in; the randomness is vLLM's."""
        return Row(list(prompt_ids), torch.Generator(), TextStream(stop))

    def take(self, job: Job, row: Row, number: int, token: int, position: Mapping[int, Any]) -> Piece:
        """A token that vLLM drew, as clients are told of it.

        Raises:
            DeadEndError: if every next token was impossible.
            IntegrityError: if the worker could not have a factor.
        """
        log_prob = float(position[token].logprob)
        if math.isnan(log_prob):
            raise self._reason_of_nan(job.recipe, len(row.token_ids))
        text = row.take(token, log_prob, self._served.vocabulary, job.max_tokens)
        self.num_drawn += 1
        best = sorted(position.items(), key=lambda item: -item[1].logprob)[: job.top]
        top = tuple((other, self._text(other), float(found.logprob)) for other, found in best)
        return self._make_piece(number, token, text, self._text(token), log_prob, top, finish_reason=row.finish_reason)

    def _asked(self, recipe: Recipe) -> tuple[tuple[Order, ...], tuple[str, str] | None]:
        """Factors that the workers compute, and the language that vLLM keeps to.

        Raises:
            FactorlmError: naming what cannot be had.
        """
        languages = [] if recipe.language is None else [recipe.language]
        exponents: Counter[tuple[str, str]] = Counter()
        for dose in recipe.doses:
            settings = read_manifest(dose.folder).settings
            if isinstance(settings, GrammarSettings):
                languages.append(language_of(settings))
            else:
                exponents[self._found(dose)] += dose.exponent  # type: ignore[assignment]
        if len(languages) > 1:
            raise InputError(f"vLLM keeps to one language at a time, got {len(languages)}; leave all but one out")
        if languages:
            rules_of(*languages[0])
        return tuple(Order(name, a, sha256) for (name, sha256), a in exponents.items()), next(iter(languages), None)

    def _found(self, dose: Dose) -> tuple[str, str]:
        order = Order(dose.folder.name, dose.exponent, sha256_of(dose.folder))
        with self._reading:
            find(order)
            self._reader.part(order)
        return order.name, order.sha256

    def _reason_of_nan(self, recipe: Recipe, num_written: int) -> FactorlmError:
        with self._reading:
            parts = [self._reader.part(order) for order in self._asked(recipe)[0]]
        can_end_dead = recipe.language is not None or any(hasattr(part, "phrases") for part in parts)
        if can_end_dead:
            return DeadEndError(
                f"every next token is impossible after {num_written} generated tokens; a factor bans all of them: "
                "allow some words again or take a factor away"
            )
        return IntegrityError(
            "the worker process could not have a factor of this request, though the server can; its log says why: "
            "give both the same stores"
        )

    def _own_model(self) -> Model:
        if self._model is None:
            from factorlm.inference.model import load

            self._model = load(self._settings.model)
        return self._model

    def _text(self, token: int) -> str:
        return self._served.vocabulary.token_bytes[token].decode("utf-8", errors="replace")


def _seed(seed: int, prompt_ids: Sequence[int], sample: int) -> int:
    """Randomness of one text: it depends on the seed, the prompt and the number of the sample alone."""
    digest = hashlib.sha256(f"{seed}/{sample}/{list(prompt_ids)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
