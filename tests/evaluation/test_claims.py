"""Claims: the rules decide as written, runs are recorded whole, and each claim can fail."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from factorlm.cli import claim as command
from factorlm.errors import InputError, UnknownNameError
from factorlm.evaluation import speed
from factorlm.evaluation.claims import CLAIMS, ClaimRecord, heads, measures, products, recorded, run_claim, truncation
from factorlm.evaluation.claims.claim import Outcome, all_of, decide, is_current, read_records, write_record
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.responses import Sample
from factorlm.evaluation.texts import Corpus
from factorlm.evaluation.workbench import Cache
from factorlm.factors.headed import HeadedModel
from factorlm.inference import Sampling
from factorlm.inference.expression import Composed

RECORDS = Path(__file__).parents[2] / "benchmarks" / "records"
Compose = Callable[[str], Composed]
Data = Callable[[str, list[dict[str, Any]]], DataFolder]


# Rules


@pytest.mark.parametrize(
    ("low", "high", "below", "above"),
    [
        (1.0, 2.0, "does not hold here", "holds"),
        (-2.0, -1.0, "holds", "does not hold here"),
        (-1.0, 1.0, "not shown", "not shown"),
        (0.0, 1.0, "not shown", "not shown"),
    ],
)
def test_only_a_whole_interval_beyond_the_line_decides(low: float, high: float, below: str, above: str) -> None:
    found = Estimate(value=(low + high) / 2, low=low, high=high, n=10)
    assert decide(found, 0.0, above=False) == below
    assert decide(found, 0.0, above=True) == above
    assert decide(found, 10.0, above=False) == "holds"


def test_without_an_interval_nothing_is_shown() -> None:
    assert decide(Estimate(value=5.0, n=1), 0.0, above=True) == "not shown"
    assert measures.within(Estimate(value=0.0, n=1), 1.0) == "not shown"


def test_parts_of_a_claim_are_judged_by_the_worst() -> None:
    assert all_of(["holds", "holds"]) == "holds"
    assert all_of(["holds", "not shown"]) == "not shown"
    assert all_of(["not shown", "does not hold here", "holds"]) == "does not hold here"


@pytest.mark.parametrize(
    ("low", "high", "want"),
    [(-0.04, 0.04, "holds"), (0.06, 0.2, "does not hold here"), (-0.2, -0.06, "does not hold here"),
     (0.01, 0.06, "not shown"), (-0.2, 0.2, "not shown")],
)  # fmt: skip
def test_a_change_counts_as_none_only_within_both_lines(low: float, high: float, want: str) -> None:
    assert measures.within(Estimate(value=(low + high) / 2, low=low, high=high, n=9), 0.05) == want


# The table and its records


def test_every_claim_says_what_decides_and_can_be_shown_in_a_table() -> None:
    for name, claim in CLAIMS.items():
        assert name == claim.name
        assert "olds if" in claim.rule, name
        assert "does not hold" in claim.rule, name
        assert not any("|" in text for text in (claim.sentence, claim.source, claim.reported, claim.made_by)), name
        assert bool(claim.made_by) == any(need.startswith("benchmarks/") for need in claim.needs), name


def test_records_in_the_repository_are_of_claims_that_there_are() -> None:
    for name, record in read_records(RECORDS / "claims").items():
        claim = CLAIMS[name]
        assert is_current(record, claim), f"{name} was recorded under another rule or with other settings; run it again"
        assert (record.sentence, record.source, record.reported) == (claim.sentence, claim.source, claim.reported)


def test_a_run_is_recorded_whole_and_comes_back(tmp_path: Path) -> None:
    settings = products.Pairs(pairs=5)
    record = run_claim("local-is-not-global", settings=settings, seed=3, cache=Cache(None))
    assert record.settings == {"pairs": 5, "alphabet": "abc", "max_tokens": 4}
    assert record.seed == 3
    assert record.command == "factorlm eval claim local-is-not-global --seed 3"
    assert record.rule == products.LOCAL_IS_NOT_GLOBAL.rule
    assert record.versions["torch"] == torch.__version__
    path = write_record(record, tmp_path / "new" / "claims")
    assert path.name == "local-is-not-global.json"
    assert read_records(path.parent) == {record.name: record}
    path.write_text("{}")
    with pytest.raises(InputError, match=r"local-is-not-global\.json"):
        read_records(path.parent)
    assert read_records(tmp_path / "absent") == {}


def test_unknown_claims_have_near_names() -> None:
    with pytest.raises(UnknownNameError, match="did you mean typical-repeats-less"):
        run_claim("typical-repeat-less")


# Products


def test_the_hand_example_is_0_32_apart() -> None:
    record = run_claim("local-is-not-global", settings=products.Pairs(pairs=10), cache=Cache(None))
    assert record.outcome.numbers["two_letters"] == pytest.approx(0.32, abs=1e-12)
    assert record.outcome.verdict == "holds"
    assert record.outcome.measured.startswith("total variation 0.32 on the two-letter example, by enumeration")


def test_products_that_were_the_same_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "local_product", products.global_product)
    record = run_claim("local-is-not-global", settings=products.Pairs(pairs=2), cache=Cache(None))
    assert record.outcome.verdict == "does not hold here"


def test_a_union_that_moves_kept_tokens_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = products.UnionSettings(pairs=5)
    outcome = run_claim("union-only-pushes-down", settings=settings, cache=Cache(None)).outcome
    assert outcome.verdict == "holds"
    assert outcome.numbers["preferred_tokens"] == outcome.numbers["preferred_tokens_that_fall"] > 50
    assert outcome.numbers["median_that_plain_subtraction_moves_kept_tokens"] > 0.1
    monkeypatch.setattr("factorlm.algebra.Factor.__or__", lambda self, other: other)  # plain subtraction
    outcome = run_claim("union-only-pushes-down", settings=settings, cache=Cache(None)).outcome
    assert outcome.verdict == "does not hold here"
    assert not outcome.measured.startswith("exact")


# Heads


UNEMBEDDING = heads.UnembeddingSettings(counts=(1, 4), rank=2, scale=0.5, prompts=("good", "the bad"))


def test_one_unembedding_gives_the_explicit_sum(tiny: Compose) -> None:
    outcome = run_claim("one-unembedding", settings=UNEMBEDDING, compose=tiny, cache=Cache(None)).outcome
    assert outcome.verdict == "holds"
    assert set(outcome.numbers["largest_difference_by_heads"]) == {"1", "4"}
    assert max(outcome.numbers["largest_difference_by_heads"].values()) < 1e-4
    tame = UNEMBEDDING.model_copy(update={"scale": 1e-5})
    empty = run_claim("one-unembedding", settings=tame, compose=tiny, cache=Cache(None)).outcome
    assert empty.verdict == "does not hold here"  # heads that do nothing show nothing


def test_heads_that_are_forgotten_are_noticed(tiny: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeadedModel, "shifted", lambda self, hidden_ND, exponent_NK: hidden_ND)
    outcome = run_claim("one-unembedding", settings=UNEMBEDDING, compose=tiny, cache=Cache(None)).outcome
    assert outcome.verdict == "does not hold here"


def test_heads_flat_in_number_runs_small(tiny: Compose) -> None:
    settings = heads.FlatSettings(counts=(1, 3), rank=2, batch_size=2, new_tokens=2, repeats=6)
    outcome = run_claim("heads-flat-in-number", settings=settings, compose=tiny, cache=Cache(None)).outcome
    assert outcome.verdict in ("holds", "does not hold here", "not shown")
    assert [ratio["way"] for ratio in outcome.numbers["timing"]["ratios"]] == ["1 heads", "3 heads"]
    assert outcome.numbers["slope"]["n"] == 6
    json.dumps(outcome.model_dump(mode="json"))


def test_the_slope_is_that_of_a_line_through_each_repeat() -> None:
    ratio_by_count = {0: np.ones(7), 10: 1 + 10 * np.arange(7) / 100, 30: 1 + 30 * np.arange(7) / 100}
    found = heads.slope_of(ratio_by_count)
    assert found.value == pytest.approx(0.03)  # the median of 0, 0.01, ... 0.06
    assert (found.low, found.high) == (pytest.approx(0.0, abs=1e-12), pytest.approx(0.06))
    assert found.n == 7


@pytest.mark.parametrize(("seconds", "verdict"), [(1.0, "holds"), (2.0, "does not hold here")])
def test_time_that_grows_with_heads_is_noticed(
    tiny: Compose, monkeypatch: pytest.MonkeyPatch, seconds: float, verdict: str
) -> None:
    """With a clock by which a step with heads takes so many seconds, and one without takes one."""
    now = [0.0]

    def greedy(model: Any, prompt_BT: torch.Tensor, new_tokens: int) -> speed.Written:
        now[0] += seconds if isinstance(model, HeadedModel) else 1.0
        return speed.Written(prompt_BT, model)

    monkeypatch.setattr(speed, "greedy", greedy)
    monkeypatch.setattr(heads, "time_heads", lambda *args, **kw: speed.time_heads(*args, **kw, clock=lambda: now[0]))
    settings = heads.FlatSettings(counts=(1, 3), rank=0, batch_size=1, new_tokens=1, repeats=6)
    outcome = run_claim("heads-flat-in-number", settings=settings, compose=tiny, cache=Cache(None)).outcome
    assert outcome.verdict == verdict
    assert f"{seconds:.3f} ({seconds:.3f} to {seconds:.3f}) with 3" in outcome.measured


def test_evidence_classifies_what_it_can_tell_apart(tiny: Compose, put: Data) -> None:
    texts = ["good good the", "the bad bad", "good", "bad in the", "the good one", "bad thing", "a good end", "so bad"]
    model = tiny("positive").model
    evidence = [score.log_ratios["positive"] for score in model.score(texts)]
    middle = sorted(evidence)[len(texts) // 2]
    told = [{"text": t, "label": int(e >= middle)} for t, e in zip(texts, evidence, strict=True)]
    data = put("set/told", told)
    settings = heads.ClassifierSettings(parts=("set/told",))
    kept = {"data": data, "compose": tiny, "cache": Cache(None)}
    record = run_claim("factor-classifies", settings=settings, **kept)
    assert record.outcome.numbers["set/told"]["value"] == 1.0
    assert record.outcome.verdict == "holds"
    assert set(record.data) == {"set/told"}
    put("set/turned", [{**row, "label": 1 - row["label"]} for row in told])
    settings = heads.ClassifierSettings(parts=("set/told", "set/turned"))
    record = run_claim("factor-classifies", settings=settings, **kept)
    assert record.outcome.numbers["set/turned"]["value"] == 0.0
    assert record.outcome.verdict == "does not hold here"


# Typical sampling


def sample(token_ids: tuple[int, ...], log_prob: float, finish_reason: str = "length") -> Sample:
    return Sample("", token_ids, log_prob, log_prob, finish_reason)


def test_repeated_tokens_are_counted_without_the_end() -> None:
    # 1 2 1 2 1: of the pairs 12 21 12 21 two were there before, of the triples 121 212 121 one, of the fours none.
    assert truncation.numbers_of(sample((1, 2, 1, 2, 1), -3.0)) == [3.0, 5, 2.0, 4, pytest.approx(1.0), 3, 0.0, 2]
    ended = truncation.numbers_of(sample((1, 2, 1, 2, 1, 9), -3.5, "end"))
    assert ended == [3.5, 6, 2.0, 4, pytest.approx(1.0), 3, 0.0, 2]
    assert truncation.numbers_of(sample((7,), -1.0)) == [1.0, 1, 0.0, 0, 0.0, 0, 0.0, 0]


def test_samplers_are_compared_where_their_quality_is_the_same() -> None:
    def columns(nats: float, share: float) -> list[float]:
        return [nats * 60, 60, share * 59, 59, share * 58, 58, share * 57, 57]

    # Nucleus sampling repeats 10 % at 2 nats and 4 % at 3 nats: at 2.5 nats it would repeat 7 %.
    mean_RC = np.array([columns(2.5, 0.05) + columns(2.0, 0.10) + columns(3.0, 0.04)])
    assert truncation.place_between(mean_RC) == pytest.approx([0.5])
    assert truncation.mean_repetition(mean_RC[:, 8:16]) == pytest.approx([0.10])
    assert truncation.difference_at_equal_quality(mean_RC) == pytest.approx([-0.02])


@pytest.mark.parametrize(
    ("share", "nats", "verdict"),
    [(0.02, 2.5, "holds"), (0.30, 2.5, "does not hold here"), (0.02, 3.5, "not shown"), (0.07, 2.5, "not shown")],
)
def test_typical_sampling_can_fail(
    tiny: Compose, put: Data, monkeypatch: pytest.MonkeyPatch, share: float, nats: float, verdict: str
) -> None:
    """With texts that repeat and surprise as much as they are told to, and scatter a little."""
    told = {None: (share, nats), 0.95: (0.10, 2.0), 1.0: (0.04, 3.0)}  # by top_p: repetition and nats per token

    def respond(bench: Any, model: Any, prompts: list[str], *, sampling: Sampling, **rest: Any) -> list[list[Sample]]:
        repeated, surprise = told[sampling.top_p if sampling.typical_p == 1 else None]
        generator = np.random.default_rng(int(100 * sampling.top_p * sampling.typical_p))
        rows = []
        for _ in prompts:
            fresh = round(100 * (1 - repeated) + generator.normal(0, 2))
            ids = tuple(range(fresh)) + (5,) * (100 - fresh)
            rows.append([sample(ids, -100 * surprise * (1 + generator.normal(0, 0.01)))])
        return rows

    monkeypatch.setattr(truncation, "respond", respond)
    data = put("set/prompts", [{"prompt": f"prompt {i // 2}"} for i in range(80)])
    settings = truncation.TypicalSettings(part="set/prompts", prompts=40)
    record = run_claim("typical-repeats-less", settings=settings, data=data, compose=tiny, cache=Cache(None))
    assert record.outcome.verdict == verdict
    assert bool(record.outcome.detail) == (nats == 3.5)
    few = settings.model_copy(update={"prompts": 41})
    with pytest.raises(InputError, match="41 prompts are needed, got 40"):
        run_claim("typical-repeats-less", settings=few, data=data, compose=tiny, cache=Cache(None))


def test_typical_sampling_runs_on_a_model(tiny: Compose, put: Data, tmp_path: Path) -> None:
    data = put(
        "set/prompts", [{"prompt": f"the good {word}"} for word in ("a", "b", "c", "d", "e", "f", "g", "h", "i")]
    )
    settings = truncation.TypicalSettings(part="set/prompts", prompts=9, max_tokens=12, typical_p=0.5, top_p=(0.3, 1.0))
    record = run_claim("typical-repeats-less", settings=settings, data=data, compose=tiny, cache=Cache(tmp_path / "c"))
    samplers = record.outcome.numbers["samplers"]
    assert set(samplers) == {"typical 0.5", "nucleus 0.3", "nucleus 1.0"}
    assert samplers["nucleus 0.3"]["nats_per_token"]["value"] < samplers["nucleus 1.0"]["nats_per_token"]["value"]
    assert not math.isnan(record.outcome.numbers["place_between"])


# Measures


def test_what_falls_with_length_is_seen_to_fall(put: Data) -> None:
    generator = np.random.default_rng(0)
    share = 1 / np.arange(1, 400)
    words = [[f"w{i}" for i in generator.choice(399, 40, p=share / share.sum())] for _ in range(60)]
    kept: dict[str, Any] = {"data": put("set/zipf", [{"text": " ".join(w)} for w in words]), "cache": Cache(None)}
    settings = measures.LengthSettings(
        corpus=Corpus(part="set/zipf", max_documents=None, max_characters=None), texts=60, lengths=(10, 20, 40)
    )
    outcome = run_claim("distinct-falls-with-length", settings=settings, **kept).outcome
    assert outcome.verdict == "holds"
    pairs = [[tuple(w[i : i + 2]) for w in words for i in range(n - 1)] for n in settings.lengths]
    assert outcome.numbers["distinct"] == pytest.approx([len(set(p)) / len(p) for p in pairs])
    adjusted = run_claim("adjusted-distinct-stays", settings=settings, **kept).outcome
    assert adjusted.numbers["adjusted"][0] == pytest.approx(len(set(pairs[0])) / (30000 * (1 - (1 - 1 / 30000) ** 540)))
    assert adjusted.verdict == "does not hold here"  # not under Zipf's law
    unique = [{"text": " ".join(f"x{row}y{i}" for i in range(40))} for row in range(60)]
    put("set/zipf", unique)
    assert run_claim("distinct-falls-with-length", settings=settings, **kept).outcome.verdict == "not shown"
    longer = settings.model_copy(update={"lengths": (10, 50)})
    with pytest.raises(InputError, match="60 texts of 50 words are needed, got 0"):
        run_claim("distinct-falls-with-length", settings=longer, **kept)


def test_strides_are_compared_on_the_same_documents(tiny: Compose, put: Data) -> None:
    generator = np.random.default_rng(0)
    texts = ["".join(generator.choice(list("abcdefgh "), 90)) for _ in range(9)]
    data = put("set/texts", [{"text": text} for text in texts])
    settings = measures.StrideSettings(
        corpus=Corpus(part="set/texts", max_documents=None, max_characters=None), window=16, strides=(16, 16, 4)
    )
    outcome = run_claim(
        "shorter-stride-lowers-perplexity", settings=settings, data=data, compose=tiny, cache=Cache(None)
    ).outcome
    bits = [found["value"] for found in outcome.numbers["bits_per_byte"]]
    assert bits[0] == pytest.approx(bits[1])  # the same stride twice changes nothing
    assert bits[2] != pytest.approx(bits[0], rel=1e-3)
    assert outcome.numbers["steps"][1]["value"] == pytest.approx(bits[2] - bits[1])
    assert outcome.verdict == "not shown" or bits[2] > bits[1]
    from factorlm.evaluation.perplexity import token_log_probs

    nats = -sum(float(x_T.sum()) for x_T in token_log_probs(tiny("").model, texts, window=16, stride=4))
    assert bits[2] == pytest.approx(nats / math.log(2) / sum(map(len, texts)))


# Claims on records


def put_records(folder: Path, report: dict[str, Any] | None = None, **files: Any) -> Path:
    """Write records; the report of the control suite has a folder of its own."""
    if report is not None:
        (folder / "control").mkdir()
        (folder / "control" / "report.json").write_text(json.dumps(report))
    for name, found in files.items():
        is_lines = isinstance(found, list)
        text = "".join(json.dumps(row) + "\n" for row in found) if is_lines else json.dumps(found)
        (folder / f"{name}.{'jsonl' if is_lines else 'json'}").write_text(text)
    return folder


def control(shares: dict[float, float], half: float = 0.01) -> dict[str, Any]:
    """What is needed of the report of the control suite."""
    found = {f"positive {s:+g}": {"sentiment": {"value": p, "low": p - half, "high": p + half, "n": 9}}
             for s, p in shares.items()}  # fmt: skip
    others = {"perplexity positive": {"sentiment": {"value": 9.0}}, "toxic +0.2": {"toxicity": {"value": 0.1}}}
    return {"measures": {**found, **others}, "provenance": {"commit": "abc", "machine": "m"}}


@pytest.mark.parametrize(
    ("shares", "half", "steers", "rises"),
    [
        ({-0.2: 0.2, 0.0: 0.5, 0.2: 0.8}, 0.01, "holds", "holds"),
        ({-0.2: 0.4, 0.0: 0.5, 0.2: 0.6}, 0.01, "does not hold here", "holds"),
        ({-0.2: 0.2, 0.0: 0.9, 0.2: 0.8}, 0.01, "holds", "does not hold here"),
        ({-0.2: 0.2, 0.0: 0.9, 0.2: 0.8}, 0.08, "holds", "not shown"),
    ],
)
def test_claims_on_the_record_of_control(
    tmp_path: Path, shares: dict[float, float], half: float, steers: str, rises: str
) -> None:
    folder = put_records(tmp_path, control(shares, half))
    record = run_claim("bias-steers", benchmarks=folder, cache=Cache(None))
    assert record.outcome.verdict == steers
    assert record.made_by == recorded.CONTROL
    assert record.outcome.numbers["record"]["commit"] == "abc"
    assert record.outcome.numbers["separation"] == pytest.approx(shares[0.2] - shares[-0.2])
    rising = run_claim("share-rises-with-strength", benchmarks=folder, cache=Cache(None)).outcome
    assert rising.verdict == rises
    assert list(rising.numbers["share"].values()) == list(shares.values())


@pytest.mark.parametrize(("ratio", "want"), [(0.5, "holds"), (0.7, "does not hold here")])
def test_claims_on_other_records(tmp_path: Path, ratio: float, want: str) -> None:
    linear = {
        "formats": [{"what": "decoding", "ratio": 0.4}, {"what": "reading", "ratio": ratio}],
        "native_bfloat16": False,
        "torch": "2",
    }
    row = {"benchmark": "time per token with heads / without", "num_heads": 32, "rank": 16, "machine": "m"}
    rows = [{**row, "batch_size": 1, "ratio": 1.0}, {**row, "batch_size": 8, "ratio": 2 * ratio}]
    folder = put_records(tmp_path, linear=linear, speed=rows)
    assert run_claim("bfloat16-on-processor", benchmarks=folder, cache=Cache(None)).outcome.verdict == want
    assert run_claim("heads-cost-little", benchmarks=folder, cache=Cache(None)).outcome.verdict == want


def test_a_missing_record_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"linear\.json is needed: No such file.*python benchmarks/linear\.py"):
        run_claim("bfloat16-on-processor", benchmarks=tmp_path, cache=Cache(None))
    (tmp_path / "speed.jsonl").write_text("")
    with pytest.raises(InputError, match="times with heads are needed"):
        run_claim("heads-cost-little", benchmarks=tmp_path, cache=Cache(None))
    (tmp_path / "linear.json").write_text("{")
    with pytest.raises(InputError, match="make it with python"):
        run_claim("bfloat16-on-processor", benchmarks=tmp_path, cache=Cache(None))


# The command


def test_the_command_runs_lists_and_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACTORLM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "claims"
    command.claim(["bfloat16-on-processor"], records=folder, benchmarks=RECORDS)
    shown = capsys.readouterr().out
    for words in ("bfloat16 is faster than float32 on a processor", "about twice", "decoding, batch 8", "verdict"):
        assert words in shown
    record = ClaimRecord.model_validate_json((folder / "bfloat16-on-processor.json").read_text())
    command.claim(["bfloat16-on-processor"], benchmarks=RECORDS, as_json=True)
    assert json.loads(capsys.readouterr().out)["outcome"] == record.outcome.model_dump(mode="json")
    for names in (None, ["list"]):
        command.claim(names, records=folder, as_json=True)
        verdicts = {row["name"]: row["verdict"] for row in map(json.loads, capsys.readouterr().out.splitlines())}
        assert list(verdicts) == list(CLAIMS)
        assert verdicts.pop("bfloat16-on-processor") == record.outcome.verdict
        assert set(verdicts.values()) == {"not yet run"}
    command.claim([], records=folder)
    assert "not yet run" in capsys.readouterr().out


def test_all_goes_on_after_a_claim_that_cannot_be_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {name: CLAIMS[name] for name in ("bias-steers", "bfloat16-on-processor")}
    monkeypatch.setattr("factorlm.evaluation.claims.CLAIMS", chosen)
    folder = put_records(tmp_path, control({-0.2: 0.2, 0.2: 0.8}))
    with pytest.raises(InputError, match="1 of 2 claims could not be run: bfloat16-on-processor"):
        command.claim(["all"], benchmarks=folder, records=tmp_path / "claims")
    captured = capsys.readouterr()
    assert "judged positive" in captured.out
    assert "linear.json is needed" in captured.err.replace("\n", "")
    assert [path.name for path in (tmp_path / "claims").iterdir()] == ["bias-steers.json"]
    with pytest.raises(UnknownNameError):
        command.claim(["bias-steers", "no-such"], benchmarks=folder)
    assert capsys.readouterr().out == ""  # nothing is run when a name is wrong


def test_records_stay_current_when_settings_are_added() -> None:
    """A setting that a record does not know counts as its default; another value, or an unknown one, does not."""
    claim = CLAIMS["ten-factors-stay-fluent"]
    settings = claim.settings.model_dump(mode="json")
    found = ClaimRecord(
        name=claim.name, sentence="", source="", reported="", rule=claim.rule, command="", settings=settings, seed=0,
        outcome=Outcome(verdict="holds", measured="", numbers={}), machine="", threads=1, versions={}, commit=None,
        seconds=1.0, finished="",
    )  # fmt: skip
    assert is_current(found, claim)
    older = json.loads(json.dumps(settings))
    del older["sampling"]["eta_cutoff"]
    assert is_current(found.model_copy(update={"settings": older}), claim)
    for other in ({**settings, "prompts": 7}, {**settings, "gone": 1}):
        assert not is_current(found.model_copy(update={"settings": other}), claim)
    assert not is_current(found.model_copy(update={"rule": "another"}), claim)
