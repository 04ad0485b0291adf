"""The behavioural check: does this version of vLLM do what our plug-in relies on?

A tiny random model and a few random factors are made on the spot, and vLLM's texts are compared with those of the
embedded engine, greedily and in float32, under configurations that force each thing that could go wrong.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factorlm.engines.vllm.languages import rules_of
from factorlm.engines.vllm.orders import Order, write_orders
from factorlm.engines.vllm.reading import STORES
from factorlm.engines.vllm.toys import PROMPTS, Toys, make_toys
from factorlm.engines.vllm.versions import UNVALIDATED, installed_version, remember_validated
from factorlm.inference import Sampling

NEAR_TIE = 1e-3  # nats between the two most probable tokens, below which rounding may choose
TOLERANCE = 2e-3  # nats of a whole text, between two implementations in float32
NUM_TOKENS = 24
Ask = Mapping[str, float]  # exponent of each factor


@dataclass(frozen=True)
class Finding:
    """What one part of the check saw.

    Attributes:
        name: of the part.
        is_right: whether it was as it should be.
        what: it was, in a line.
    """

    name: str
    is_right: bool
    what: str


@dataclass(frozen=True)
class Said:
    """A text that vLLM wrote."""

    token_ids: tuple[int, ...]
    log_prob: float
    gaps: tuple[float, ...]  # between the two most probable tokens, at each


def check(report: Callable[[str], None] = print, *, note: bool = True, parallel: bool = False) -> bool:
    """Run all parts on the installed version, tell of each, and note the version if all are right.

    Args:
        report: is given a line for each part.
        note: whether to write the version down where the engine looks.
        parallel: whether to split the model over two workers, too.
    """
    version = installed_version()
    os.environ[UNVALIDATED] = version
    findings = []
    with tempfile.TemporaryDirectory(prefix="factorlm-vllm-") as place, _environment(Path(place)):
        toys = make_toys(Path(place))
        for part in (_plain_and_steered, _narrow, _speculative, *((_parallel,) if parallel else ())):
            for finding in _findings(part, toys):
                report(f"{'right' if finding.is_right else 'WRONG'}  {finding.name}: {finding.what}")
                findings.append(finding)
    is_right = all(finding.is_right for finding in findings)
    report(f"vLLM {version}: {'passed' if is_right else 'FAILED'}")
    if is_right and note:
        remember_validated(version)
    return is_right


def _findings(part: Callable[[Toys], Iterator[Finding]], toys: Toys) -> Iterator[Finding]:
    """What a part finds; that it broke, if it did."""
    try:
        yield from part(toys)
    except Exception as error:  # a new version may raise anything, and the other parts should still be looked at
        traceback.print_exc()
        yield Finding(part.__name__.strip("_").replace("_", " "), False, f"broke: {_first_line(error)}")


@contextmanager
def _environment(place: Path) -> Iterator[None]:
    """What vLLM must find: our stores, no hub, and its core in this process so that its counters can be read."""
    wanted = {
        STORES: str(place / "store"),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",
        "VLLM_CPU_OMP_THREADS_BIND": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Engine:
    """vLLM's offline interface on the toy model, for one configuration."""

    def __init__(self, toys: Toys, **settings: Any) -> None:
        from vllm import LLM

        usual = {
            "max_model_len": 256, "max_num_seqs": 8, "dtype": "float32", "enforce_eager": True, "seed": 0,
            "disable_log_stats": False, "logits_processors": ["factorlm.engines.vllm.rows:FactorRows"],
            "structured_outputs_config": {"backend": "guidance"}, "gpu_memory_utilization": 0.5,
        }  # fmt: skip
        self.toys = toys
        self.llm = LLM(str(toys.folder), **{**usual, **settings})

    def write(
        self, prompts: Sequence[str], asks: Sequence[Ask], lengths: Sequence[int] = (), **sampling: Any
    ) -> list[Said]:
        from vllm import SamplingParams

        params = [
            SamplingParams(
                **{"temperature": 0.0, "logprobs": 2, "detokenize": False, **sampling},
                max_tokens=length,
                stop_token_ids=list(self.toys.model.lm.vocabulary.end_ids),
                extra_args=self.toys.orders(ask),
            )
            for ask, length in zip(asks, lengths or [NUM_TOKENS] * len(asks), strict=True)
        ]
        ids = [[*self.toys.model.lm.start_ids, *self.toys.model.lm.encode_text(prompt)] for prompt in prompts]
        found = self.llm.generate([{"prompt_token_ids": i} for i in ids], params, use_tqdm=False)
        return [_said(output.outputs[0]) for output in found]

    def counter(self, name: str) -> float:
        return sum(m.value for m in self.llm.get_metrics() if m.name == name)

    def close(self) -> None:
        self.llm.llm_engine.engine_core.shutdown()
        from vllm.distributed import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()


def _said(output: Any) -> Said:
    log_probs, gaps = [], []
    for token, position in zip(output.token_ids, output.logprobs, strict=True):
        log_probs.append(position[token].logprob)
        best = sorted((found.logprob for found in position.values()), reverse=True)
        gaps.append(best[0] - best[1] if len(best) > 1 else math.inf)
    return Said(tuple(output.token_ids), math.fsum(log_probs), tuple(gaps))


def compare(name: str, said: Sequence[Said], wanted: Sequence[Any]) -> Finding:
    """Whether greedy texts are those of the embedded engine, near ties apart, with the same log probabilities."""
    same, ties, wrong, worst = 0, 0, 0, 0.0
    for mine, theirs in zip(said, wanted, strict=True):
        if mine.token_ids == theirs.token_ids:
            same += 1
            worst = max(worst, abs(mine.log_prob - theirs.log_prob))
            continue
        pairs = zip(mine.token_ids, theirs.token_ids, strict=False)  # one may have ended before
        place = next((t for t, (a, b) in enumerate(pairs) if a != b), None)
        if place is not None and mine.gaps[place] < NEAR_TIE:
            ties += 1
        else:
            wrong += 1
    what = f"{same} of {len(said)} texts equal, {ties} part at a near tie, {wrong} differ; log probs within {worst:.1e}"
    return Finding(name, wrong == 0 and same > 0 and worst < TOLERANCE, what)


def _plain_and_steered(toys: Toys) -> Iterator[Finding]:
    engine = _Engine(toys, block_size=32)
    try:
        asks, lengths = toys.asks(40), _lengths(40)
        prompts = [PROMPTS[n % len(PROMPTS)] * 2 for n in range(len(asks))]
        wanted = toys.embedded(prompts, asks, lengths)
        plain = toys.embedded(prompts, [{}] * len(asks), lengths)
        num_changed = sum(a.token_ids != b.token_ids for a, b in zip(wanted, plain, strict=True))
        yield compare("mixed factors in one batch", engine.write(prompts, asks, lengths), wanted)
        what = f"{num_changed} of {len(asks)} differ from plain"
        yield Finding("factors change texts", num_changed > len(asks) // 2, what)
        yield compare("one request alone", engine.write(prompts[5:6], asks[5:6], lengths[5:6]), wanted[5:6])
        yield compare("prefixes from the cache", engine.write(prompts, asks, lengths), wanted)
        hits = engine.counter("vllm:prefix_cache_hits")
        yield Finding("prefix cache was used", hits > 0, f"{hits:.0f} tokens")
        yield _prompt_log_probs(engine, toys)
        yield _untruncated(engine, toys)
        yield _grammar(engine, toys)
        yield _broken(engine, toys)
        yield _refused(engine)
    finally:
        engine.close()


def _narrow(toys: Toys) -> Iterator[Finding]:
    """Few tokens a step and few places for keys and values: prompts come in chunks, rows are thrown out and return."""
    engine = _Engine(
        toys, max_num_batched_tokens=16, max_num_seqs=6, num_gpu_blocks_override=9, block_size=32, max_model_len=192,
        enable_chunked_prefill=True, enable_prefix_caching=True,
    )  # fmt: skip
    try:
        asks = toys.asks(18)
        prompts = [PROMPTS[n % len(PROMPTS)] * 2 for n in range(len(asks))]
        lengths = [24 + length for length in _lengths(len(asks))]
        said, wanted = engine.write(prompts, asks, lengths), toys.embedded(prompts, asks, lengths)
        yield compare("chunked prefill and preemption", said, wanted)
        longest = max(len(toys.model.lm.encode_text(prompt)) for prompt in prompts)
        yield Finding("prompts came in chunks", longest > 32, f"{longest} tokens, at most 16 a step")
        count = engine.counter("vllm:num_preemptions")
        yield Finding("rows were preempted", count > 0, f"{count:.0f} times")
    finally:
        engine.close()


def _speculative(toys: Toys) -> Iterator[Finding]:
    settings = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}
    try:
        engine = _Engine(toys, speculative_config=settings)
    except Exception as error:  # whatever it is, it did not start
        yield Finding("speculation is refused", True, _first_line(error))
        return
    engine.close()
    yield Finding("speculation is refused", False, "vLLM started with a draft and our logits processor")


def _parallel(toys: Toys) -> Iterator[Finding]:
    """Two workers that hold half of the unembedding each: heads act before it, lexica where it is whole again."""
    engine = _Engine(toys, tensor_parallel_size=2, distributed_executor_backend="mp")
    try:
        asks, lengths = toys.asks(27), _lengths(27)
        prompts = [PROMPTS[n % len(PROMPTS)] for n in range(len(asks))]
        said, wanted = engine.write(prompts, asks, lengths), toys.embedded(prompts, asks, lengths)
        yield compare("two workers share the model", said, wanted)
    finally:
        engine.close()


def _lengths(count: int) -> list[int]:
    """Of texts: unlike, so that rows finish in the middle of a batch and others take their places."""
    return [5 + 7 * n % 24 for n in range(count)]


def _prompt_log_prob(engine: _Engine, ids: list[int], orders: dict[str, Any]) -> list[float]:
    from vllm import SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, extra_args=orders)
    (output,) = engine.llm.generate([{"prompt_token_ids": ids}], params, use_tqdm=False)
    positions = zip(ids[1:], output.prompt_logprobs[1:], strict=True)
    return [position[token].logprob for token, position in positions]


def _prompt_log_probs(engine: _Engine, toys: Toys) -> Finding:
    differences = []
    text_ids = toys.model.lm.encode_text(PROMPTS[0])
    for length in (len(text_ids), 1):  # of one token, so many logits are asked for as there are rows
        ids = [*toys.model.lm.start_ids, *text_ids[:length]]
        plain, steered = (_prompt_log_prob(engine, ids, toys.orders(ask)) for ask in ({}, {"loud": 2.0}))
        differences += [abs(a - b) for a, b in zip(plain, steered, strict=True)]
    difference = max(differences)
    return Finding("prompt log probabilities are the model's", difference < 1e-5, f"within {difference:.1e}")


def _untruncated(engine: _Engine, toys: Toys) -> Finding:
    """Drawn at another temperature and truncated, a text still has the composition's own log probability."""
    ask = {"loud": 1.5, "words": 1.0}
    (said,) = engine.write(PROMPTS[:1], [ask], temperature=0.6, top_k=5, top_p=0.9, seed=3)
    factor, lm = toys.model.steered(exponents=toys.by_folder(ask)).factor, toys.model.lm
    from factorlm.algebra import LocalProduct, pad_left, pad_right

    prefix_BT = pad_left([[*lm.start_ids, *lm.encode_text(PROMPTS[0])]])
    wanted = float(LocalProduct.of(factor).score(prefix_BT, pad_right([list(said.token_ids)])).double().sum())
    difference = abs(wanted - said.log_prob)
    name = "log probabilities are untruncated, at temperature one"
    return Finding(name, difference < TOLERANCE, f"within {difference:.1e}")


def _grammar(engine: _Engine, toys: Toys) -> Finding:
    from vllm.sampling_params import StructuredOutputsParams

    import factorlm as fl

    choices = ["good day", "bad night", "go"]
    ask = {"loud": 1.5}
    rules = rules_of("choice", json.dumps(choices))
    (said,) = engine.write(PROMPTS[:1], [ask], structured_outputs=StructuredOutputsParams(grammar=rules))
    model = toys.model * fl.grammar(choices=choices)
    (wanted,) = model.generate(
        PROMPTS[0], max_tokens=NUM_TOKENS, sampling=Sampling(temperature=0.0), exponents=toys.by_folder(ask)
    )
    return compare("grammar and a head", [said], [wanted])


def _broken(engine: _Engine, toys: Toys) -> Finding:
    """A factor that the worker cannot have gives nan, and its neighbours are left alone."""
    said = engine.write(PROMPTS[:2], [{"stranger": 1.0}, {"loud": 1.5}], [4, 4])
    (wanted,) = toys.embedded(PROMPTS[1:2], [{"loud": 1.5}], [4])
    is_right = math.isnan(said[0].log_prob) and said[1].token_ids == wanted.token_ids
    return Finding("a factor that cannot be had gives nan", is_right, f"log prob {said[0].log_prob}")


def _refused(engine: _Engine) -> Finding:
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=1, extra_args=write_orders([Order("nobody", 1.0)]))
    try:
        engine.llm.generate([{"prompt_token_ids": [0, 5]}], params, use_tqdm=False)
    except Exception as error:  # vLLM has a class of its own
        return Finding("an unknown factor is refused", "nobody" in str(error), _first_line(error))
    return Finding("an unknown factor is refused", False, "it was taken")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
