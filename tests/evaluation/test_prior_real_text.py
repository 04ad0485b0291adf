"""A prior of real texts: the arithmetic by hand, and the part on a tiny model with two sources of made-up sentences."""

# Axes: K components, N texts, T time.

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from factorlm.algebra import entropy, pad_left, pad_right
from factorlm.errors import InputError
from factorlm.evaluation.calibration import calibration_error
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.document import Curve, Intervals, Matrix, Table
from factorlm.evaluation.priors.calibrated import NUM_BINS, error_of, gaps_of
from factorlm.evaluation.priors.likelihoods import BARE, BLEND, COMPONENT, MIXTURE, SINGLE, nats_of
from factorlm.evaluation.priors.outside import BETWEEN, FIXED, NATS, RATIO, WITHIN, measure_outside
from factorlm.evaluation.priors.passages import Source, load_passages, sentences
from factorlm.evaluation.priors.reading import MixtureTokens, Tokens, digest, read_mixture, read_model, rows_of
from factorlm.evaluation.priors.real_text import RealText, measure_real_text
from factorlm.evaluation.priors.recovery import OURS, clusters, information, measure_recovery, purity, rand_index
from factorlm.evaluation.workbench import Cache, Workbench
from factorlm.inference import Model
from factorlm.inference.expression import Composed
from factorlm.models import CausalLM
from factorlm.prior import Fitting, Learning, Prior, fit, uncertainty
from factorlm.prior.soft import SoftSettings
from factorlm.text.cleaning import cleaned

from .conftest import Put

TINY = Fitting(
    components=2, longest=12, soft=SoftSettings(places=2, learning_rate=0.05), learning=Learning(warm=1, rounds=2)
)
WORDS = {
    "animals": ("cat", "dog", "cow", "hen", "owl", "fox"),
    "numbers": ("one", "two", "six", "ten", "nil", "few"),
    "letters": ("xx", "zz", "qq", "xz", "zq", "qx"),
}


def rows_for(name: str) -> list[dict[str, str]]:
    """Thirty documents of four sentences of four words each."""
    words = WORDS[name]
    generator = np.random.default_rng(len(name))
    return [
        {"text": " ".join(" ".join(generator.choice(words, 4)) + "." for _ in range(4))} for _ in range(30)
    ]  # fmt: skip


def bench_of(folder: DataFolder, lm: CausalLM, cache: Path | None = None) -> Workbench:
    composed = Composed("tiny", Model(lm, lm), (), "tiny")
    return Workbench((composed,), folder, Cache(cache), lambda *_: None)


@pytest.fixture
def desk(put: Put, tiny_lm: CausalLM, tmp_path: Path) -> Workbench:
    for name in WORDS:
        folder = put(f"mine/{name}", rows_for(name))
    return bench_of(folder, tiny_lm, tmp_path / "cache")


@pytest.fixture(scope="module")
def prior(tiny_lm: CausalLM) -> Prior:
    return fit(tiny_lm, [row["text"] for name in ("animals", "numbers") for row in rows_for(name)], TINY)


# By hand


def test_agreement_of_partitions_by_hand() -> None:
    label, found = [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2]
    assert purity(label, found) == pytest.approx((2 + 1 + 2) / 6)
    # Pairs together in both 2, in labels 6, in groups 3, of 15: (2 - 18/15) / ((6 + 3) / 2 - 18/15).
    assert rand_index(label, found) == pytest.approx((2 - 6 * 3 / 15) / (4.5 - 6 * 3 / 15))
    assert (purity(label, label), rand_index(label, label), information(label, label)) == (1, 1, pytest.approx(1))
    assert purity(label, [0] * 6) == 0.5
    assert information(label, [0] * 6) == 0
    generator = np.random.default_rng(0)
    for _ in range(5):
        ours, theirs = generator.integers(4, size=50), generator.integers(3, size=50)
        assert rand_index(ours, theirs) == pytest.approx(adjusted_rand_score(ours, theirs))
        assert information(ours, theirs) == pytest.approx(normalized_mutual_info_score(ours, theirs))
    assert rand_index(label, [0] * 6) == 0.0


def test_recovery_by_hand() -> None:
    source_N = np.repeat([0, 1], 10)
    responsibility_NK = np.where(source_N[:, None] == [1, 0], 0.75, 0.25)  # the components have changed places
    responsibility_NK[0] = [0.75, 0.25]
    cluster_N = np.array([0, 1] * 10)
    found = measure_recovery(("a", "b"), source_N, ("A", "B"), responsibility_NK, cluster_N, seed=0)
    assert found.measures["purity"][OURS].value == pytest.approx(19 / 20)
    assert found.measures["adjusted Rand index"][OURS].value == pytest.approx(
        adjusted_rand_score(source_N, responsibility_NK.argmax(1))
    )
    [matrix] = [b for b in found.sections[0].blocks if isinstance(b, Matrix)]
    np.testing.assert_allclose(matrix.values, [[0.25 * 0.9 + 0.75 * 0.1, 0.75 * 0.9 + 0.25 * 0.1], [0.75, 0.25]])
    assert "better than the clusters" in found.headlines[0]
    swapped = measure_recovery(("a", "b"), source_N, ("A", "B"), np.eye(2)[cluster_N], source_N, seed=0)
    assert "worse than the clusters" in swapped.headlines[0]


def test_sentences_are_cut_alike() -> None:
    text = 'FIRST CITIZEN:\nWe are poor, and Mr. Smith\nis not. "Speak ," he said .\nHeading\n\nNo 1 2 3 4 5 6 7 8 9 0.'
    assert sentences(text, (3, 8), lines="joined") == ["We are poor, and Mr. Smith is not.", "Speak, he said."]
    assert sentences(text, (2, 4)) == ["is not.", "Speak, he said."]  # lines that stand for themselves
    assert sentences("a lone line without an end", (3, 8)) == []
    assert sentences("a lone line without an end", (3, 8), lines="whole") == ["a lone line without an end"]
    assert cleaned("it 's 3 @.@ 5 m ( or so ) , they did n't say") == "it's 3.5 m (or so), they didn't say"


def test_held_out_texts_are_of_other_documents(put: Put, tiny_lm: CausalLM) -> None:
    rows = [{"text": " ".join(f"doc {i} says word {j} here." for j in range(3))} for i in range(40)]
    bench = bench_of(put("mine/docs", [{"text": row["text"].replace("0", "o")} for row in rows]), tiny_lm)
    [found] = load_passages(bench, [Source(part="mine/docs")], num_train=60, num_held_out=20, words=(4, 8),
                            is_lower=True)  # fmt: skip
    documents = [{text.split()[1] for text in side} for side in (found.train, found.held_out)]
    assert not documents[0] & documents[1]
    assert (len(found.train), len(found.held_out)) == (60, 20)
    with pytest.raises(InputError, match="500 sentences of 4 to 8 words are wanted"):
        load_passages(bench, [Source(part="mine/docs")], num_train=500, num_held_out=20, words=(4, 8), is_lower=True)
    with pytest.raises(InputError, match="different names"):
        load_passages(bench, [Source(part="mine/docs")] * 2, num_train=5, num_held_out=5, words=(4, 8), is_lower=True)


def text_of(top: list[float], hit: list[float]) -> Tokens:
    zeros = np.zeros(len(top))
    return Tokens(zeros, np.array(top), np.array(hit), zeros, zeros)


def test_calibration_error_of_texts_is_that_of_their_tokens() -> None:
    generator = np.random.default_rng(0)
    tops = [generator.random(n) for n in (7, 12, 31)]
    texts = [text_of(list(top), list((generator.random(len(top)) < 0.5).astype(float))) for top in tops]
    found_UC = gaps_of(texts)
    assert found_UC.shape == (3, NUM_BINS + 1)
    want = calibration_error(
        np.concatenate([t.top_T for t in texts]), np.concatenate([t.hit_T for t in texts]), number=NUM_BINS
    )
    assert error_of(found_UC.mean(0, keepdims=True))[0] == pytest.approx(want)


def test_outside_by_hand() -> None:
    def pair(between: float, nats: float, length: int = 5, later: float = 0.0) -> tuple[MixtureTokens, Tokens]:
        whole = np.ones(length)
        between_T = np.where(np.arange(length) < 3, between, between + later)
        mixture = MixtureTokens(-nats * whole, whole, whole, whole, whole, -nats * whole, 2 * whole,
                                between_T, 0.1 * whole, np.zeros(2), np.log([0.5, 0.5]))  # fmt: skip
        return mixture, Tokens(-2 * whole, whole, whole, whole, whole)

    inside = {"in": [pair(0.1 + 0.01 * i, 1.0) for i in range(10)]}
    outside = {"out": [pair(0.155, 3.0, later=1.0), pair(0.5, 3.0, length=2)]}
    found = measure_outside(inside, outside, first_tokens=3, seed=0)
    assert found.measures[f"AUROC of {BETWEEN}"]["all"].value == 1
    assert found.measures[f"AUROC of {BETWEEN}, first tokens"]["all"].value == pytest.approx(0.6)  # of the long one
    assert found.measures[f"nats {BETWEEN}"]["out"].value == pytest.approx((0.155 + 0.4 + 0.5) / 2)
    assert found.measures[f"AUROC of {NATS}"]["all"].value == 1
    assert found.measures[f"AUROC of {RATIO}"]["all"].value == 1
    assert found.measures[f"AUROC of {WITHIN}"]["all"].value == 0.5
    curves = [b for b in found.sections[0].blocks if isinstance(b, Curve)]
    assert [len(s.x) for s in curves[0].series] == [3, 3]
    assert curves[0].series[0].y[0].value == pytest.approx(0.145)  # type: ignore[union-attr]


# Reading


def test_readings_are_what_the_parts_say(tiny_lm: CausalLM, prior: Prior, put: Put) -> None:
    bench = bench_of(DataFolder(Path()), tiny_lm)
    texts = ["cat dog.", "one two six.", "the good food"]
    rows = rows_of(tiny_lm, texts, 9)
    found = read_mixture(bench, prior, rows, stage="")
    prefix_BT, text_BT = pad_left([list(tiny_lm.start_ids)] * 3), pad_right(rows)
    want = uncertainty(prior.mixture, prefix_BT, text_BT)
    log_lik_NK = prior.log_likelihood([tiny_lm.tokenizer.decode(row) for row in rows])
    blend_BT = prior.blend.score(prefix_BT, text_BT)
    for b, (text, row) in enumerate(zip(found, rows, strict=True)):
        n = len(row)
        np.testing.assert_allclose(text.log_prob_T, want.log_prob_BT[b, :n], atol=1e-5)
        np.testing.assert_allclose(text.between_T, want.between_BT[b, :n], atol=1e-5)
        np.testing.assert_allclose(text.within_T, want.within_BT[b, :n], atol=1e-5)
        np.testing.assert_allclose(text.blend_T, blend_BT[b, :n], atol=1e-5)
        np.testing.assert_allclose(text.log_lik_K, log_lik_NK[b], atol=1e-3)
        assert -text.nats == pytest.approx(float(torch.logsumexp(prior.log_prob_K + log_lik_NK[b], 0)), abs=1e-3)
        np.testing.assert_allclose(text.responsibility_K, (prior.log_prob_K + log_lik_NK[b]).softmax(0), atol=1e-3)
        assert text.fixed_T[0] == pytest.approx(text.between_T[0], abs=1e-5)  # nothing was read yet
        assert (text.brier_T >= 0).all()
    [bare, *_] = read_model(bench, tiny_lm, tiny_lm, rows, name="bare", stage="")
    first = next(iter(tiny_lm.steps(prefix_BT[:1], text_BT[:1])))[0]
    assert bare.entropy_T[0] == pytest.approx(float(entropy(first)), abs=1e-5)
    assert bare.top_T[0] == pytest.approx(float(first.exp().max()), abs=1e-5)
    want_brier = float((first.exp() - torch.nn.functional.one_hot(torch.tensor(rows[0][0]), 55)).square().sum())
    assert bare.brier_T[0] == pytest.approx(want_brier, abs=1e-4)
    nats = nats_of(found, found, read_model(bench, tiny_lm, tiny_lm, rows, name="bare", stage=""))
    np.testing.assert_allclose(nats[COMPONENT], -log_lik_NK[:, int(log_lik_NK.sum(0).argmax())], atol=1e-3)
    assert (nats[MIXTURE] <= nats[COMPONENT] - float(prior.log_prob_K.min()) + 1e-3).all()


def test_clusters_part_what_the_model_parts(tiny_lm: CausalLM) -> None:
    bench = bench_of(DataFolder(Path()), tiny_lm)
    rows = [tiny_lm.encode_text(text) for text in ("aaaa", "zzzzz", "aaa", "zzzz", "aaaaaa", "zzzzzz")]
    found = clusters(bench, tiny_lm, rows, rows[:4], 2, seed=0)
    assert rand_index([0, 1, 0, 1], found) == 1


def test_digests_tell_priors_apart(prior: Prior) -> None:
    assert digest(prior) != digest(prior.tilt([0.0, 1.0]))
    assert digest(prior) == digest(Prior(prior.manifest, prior.tensors, prior.lm))


# The part


SETTINGS = RealText(
    sources=(Source(part="mine/animals", name="animals"), Source(part="mine/numbers", name="numbers")),
    outside=(Source(part="mine/letters", name="letters"),),
    num_texts=24, held_out=12, words=(3, 6), fitting=TINY, first_tokens=6,
)  # fmt: skip


def test_the_part_compares_equal_numbers(desk: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure_real_text(desk, SETTINGS)
    blocks = {block.title: block for section in found.sections for block in section.blocks}  # type: ignore[union-attr]
    table = blocks["Nats per token of held-out texts"]
    assert isinstance(table, Table)
    learned = {row[0]: row[-2:] for row in table.rows}
    assert learned[MIXTURE] == learned[SINGLE] == (2 * 2 * 32, 3)
    assert learned[BARE] == (None, None)
    nats = found.measures["nats per token"]
    assert set(nats) == {MIXTURE, SINGLE, COMPONENT, BLEND, BARE}
    assert nats[MIXTURE].n == 24
    difference = found.measures["nats per token, mixture minus"][SINGLE]
    assert nats[MIXTURE].value is not None
    assert nats[SINGLE].value is not None
    assert difference.value == pytest.approx(nats[MIXTURE].value - nats[SINGLE].value)
    assert nats[MIXTURE].value < nats[BARE].value  # type: ignore[operator]
    matrix = blocks["Which component explains which source"]
    assert isinstance(matrix, Matrix)
    np.testing.assert_allclose(np.array(matrix.values, float).sum(1), 1)
    assert isinstance(blocks["What components disagree in"], Intervals)
    for score in (BETWEEN, FIXED, WITHIN, NATS, RATIO):
        value = found.measures[f"AUROC of {score}"]["all"].value
        assert value is not None
        assert 0 <= value <= 1
    assert len(found.headlines) == 4
    assert any("undone" in line for line in found.cautions)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this was done before")

    monkeypatch.setattr("factorlm.evaluation.priors.kept.fit", refuse)
    monkeypatch.setattr("factorlm.evaluation.priors.reading._of_mixture", refuse)
    monkeypatch.setattr("factorlm.evaluation.priors.reading._of_model", refuse)
    monkeypatch.setattr("factorlm.evaluation.priors.recovery._mean_states", refuse)
    assert measure_real_text(desk, SETTINGS) == found


def test_mistakes_are_explained(desk: Workbench) -> None:
    with pytest.raises(InputError, match="at least two sources"):
        measure_real_text(desk, SETTINGS.model_copy(update={"sources": SETTINGS.sources[:1]}))
    with pytest.raises(InputError, match="soft-prompt or lora"):
        measure_real_text(desk, SETTINGS.model_copy(update={"fitting": TINY.model_copy(update={"kind": "layers"})}))
    with pytest.raises(InputError, match="inside and outside"):
        measure_real_text(desk, SETTINGS.model_copy(update={"outside": SETTINGS.sources[:1]}))


def test_sizes_and_sources(data: DataFolder) -> None:
    small, full = RealText.sized("small"), RealText.sized("full")
    assert small.num_texts < full.num_texts
    assert full.fitting.longest == small.fitting.longest == 32
    for source in (*full.sources, *full.outside):
        assert data.has(source.part)
