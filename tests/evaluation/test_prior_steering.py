"""Steering a prior by its components: the arithmetic by hand, and the part on a tiny model with judges of letters."""

# Axes: B texts, J judges, K components.

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from factorlm.algebra import LocalProduct, Power, Product, pad_left, pad_right
from factorlm.errors import InputError, UnknownNameError
from factorlm.evaluation.document import Curve, Matrix, Scatter, Table
from factorlm.evaluation.judges import load_judge
from factorlm.evaluation.priors import steering
from factorlm.evaluation.priors.passages import Source
from factorlm.evaluation.priors.steered import Steered, Tilt, equal_rates
from factorlm.evaluation.priors.steering import Steering, measure_steering
from factorlm.evaluation.priors.steering_sections import headlines
from factorlm.evaluation.priors.tilting import (
    BARE,
    BLEND,
    COMPONENTS,
    TOKEN_WAYS,
    TOKENS,
    Writer,
    Written,
    beyond,
    difference_of,
)
from factorlm.evaluation.workbench import Cache, Workbench
from factorlm.factors.calibration import head_strengths
from factorlm.factors.head import EncoderCard, Head
from factorlm.factors.manifest import HeadSettings, Manifest
from factorlm.factors.store import Store
from factorlm.inference import Model
from factorlm.inference.expression import Composed
from factorlm.models import CausalLM
from factorlm.prior import Fitting, Learning, Prior, fit
from factorlm.prior.soft import SoftSettings

from .conftest import Put

Array = NDArray[np.float64]
TINY = Fitting(
    components=2, longest=12, soft=SoftSettings(places=2, learning_rate=0.1), learning=Learning(warm=0, rounds=3)
)
TEXTS = [{"text": text} for n in range(1, 13) for text in (f"{'a' * n} ea ae", f"{'z' * n} zx xz")]


class Letters:
    """Says that a text is good by the share of some letters among its letters."""

    def __init__(self, letters: str) -> None:
        self.letters, self.name, self.labels = letters, f"letters {letters}", ("bad", "good")
        self.fingerprint = self.name

    def index(self, label: str) -> int:
        if label not in self.labels:
            raise UnknownNameError.of("label", label, self.labels)
        return self.labels.index(label)

    def probabilities(self, texts: Sequence[str]) -> Array:
        found = []
        for text in texts:
            letters = [c for c in text if c.isalpha()]
            share = np.mean([c in self.letters for c in letters]) if letters else math.nan
            found.append([1 - share, share])
        return np.array(found)


@pytest.fixture
def desk(
    put: Put, tiny_lm: CausalLM, make_head: Callable[..., Head], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Workbench:
    """The tiny model, a head of its own in a store, two judges of letters, and texts of two kinds."""
    head = make_head(seed=5)
    manifest = Manifest(
        name="nice", settings=HeadSettings(rank=0), strengths=head_strengths(tiny_lm, head.weights),
        encoder=EncoderCard(name=tiny_lm.name, fingerprint=tiny_lm.fingerprint, width=tiny_lm.width),
    )  # fmt: skip
    weights = {"bias": head.weights.bias_D, "up": head.weights.up_DR, "down": head.weights.down_RD}
    Store(tmp_path / "store").save(manifest, weights)
    monkeypatch.setenv("FACTORLM_STORE", str(tmp_path / "store"))
    judges: dict[str, Any] = {"first": Letters("aeo"), "second": Letters("ae")}
    monkeypatch.setattr(steering, "load_judge", judges.__getitem__)
    monkeypatch.setattr(steering, "judges_for", lambda label: list(judges.values()))
    composed = Composed("tiny", Model(tiny_lm, tiny_lm), (), "tiny")
    return Workbench((composed,), put("mine/letters", TEXTS), Cache(tmp_path / "cache"), lambda *_: None)


SETTINGS = Steering(
    judge="first", label="good", corpus=(Source(part="mine/letters", lines="whole"),), num_texts=18, words=(2, 4),
    fitting=TINY, reward_texts=12, temperatures=(0.05, 1.0, 0.2), factor="nice", strengths=(0.2, 0.6), texts=24,
    max_tokens=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def prior(tiny_lm: CausalLM) -> Prior:
    return fit(tiny_lm, [row["text"] for row in TEXTS], TINY)


def written(way: str, dial: float | None, judged: list[float], nats: float = 2.0) -> Written:
    """Texts of two tokens, half of each component, with so many nats under the component that wrote them."""
    n = len(judged)
    owner_B = np.arange(n) % 2
    log_lik_BK = np.where(owner_B[:, None] == [0, 1], -nats, -2 * nats)
    return Written(way, dial, ("good food",) * n, np.full(n, 2.0), owner_B, log_lik_BK, np.full(n, -3 * nats),
                   np.zeros(n), np.array(judged)[:, None], 0)  # fmt: skip


# By hand


def test_differences_by_hand() -> None:
    ours_B2 = np.array([[3.0, 1], [5, 3]])
    theirs_B2 = np.array([[1.0, 2]])
    found = difference_of(ours_B2, theirs_B2, 0)
    assert found.value == pytest.approx(8 / 4 - 1 / 2)
    assert (found.low, found.high) == (pytest.approx(5 / 3 - 1 / 2), pytest.approx(3 - 1 / 2))
    assert difference_of(ours_B2, np.empty((0, 2)), 0).value is None
    assert difference_of(ours_B2, np.zeros((3, 2)), 0).value is None
    plain_B2 = np.array([[1.0, 1], [1, 1], [4, 2], [8, 2]])
    found = beyond(ours_B2, plain_B2, np.array([0, 0, 1, 1]), np.array([0.25, 0.75]), 0)
    assert found.value == pytest.approx(2 - (0.25 * 1 + 0.75 * 6) / (0.25 * 1 + 0.75 * 2))
    only_first = beyond(ours_B2, plain_B2, np.array([0, 0, 1, 1]), np.array([1.0, 0.0]), 0)
    assert only_first.value == pytest.approx(2 - 1)


def test_written_texts_by_hand() -> None:
    found = written(COMPONENTS, 0.5, [0.9, 0.4, 0.5, math.nan])
    assert found.mean(0).value == pytest.approx(0.6)
    assert found.rate(0, 0.5).value == pytest.approx(2 / 3)
    assert found.per_token(found.own_B2).value == 1.0
    assert found.per_token(found.nearest_B2).value == 1.0
    assert found.per_token(found.bare_B2).value == 3.0
    assert found.variety[0].value == pytest.approx(1 / 4)
    assert found.variety[1].value is not None
    assert found.variety[1].value > 99
    assert found.name == "components, T=0.5"


def steered(prior: Prior, rewards: list[float], tokens: dict[str, list[Written]]) -> Steered:
    tilts = [
        Tilt(prior, t, rewards, written(COMPONENTS, t, judged))
        for t, judged in ((1.0, [0.6, 0.4] * 10), (0.1, [0.9, 0.7] * 10), (0.01, [0.9] * 20))
    ]
    untilted = written("untilted", None, [0.6, 0.4, 0.4, 0.4] * 5)
    judge: Any = Letters("a")
    return Steered(prior, (judge,), "good", written("each", None, [0.5] * 4), rewards, untilted, tilts, tokens)


def test_the_promise_rises_as_temperature_falls(prior: Prior) -> None:
    found = steered(prior, [0.2, 0.6], {})
    promises = [found.predicted, *(tilt.predicted for tilt in found.tilts)]
    assert promises == sorted(promises)
    assert promises[0] > 0.2
    assert promises[-1] == pytest.approx(0.6, abs=1e-6)
    divergences = [0.0, *(tilt.divergence for tilt in found.tilts)]
    assert divergences == sorted(divergences)
    assert divergences[-1] < -float(prior.log_prob_K.min()) + 1e-9  # all weight on one: - log mu_k
    assert [tilt.num_alive for tilt in found.tilts] == [2, 2, 2]
    weight_K = np.exp(prior.log_prob_K.numpy()) * np.exp(np.array([0.2, 0.6]) / 0.1)
    np.testing.assert_allclose(found.tilts[1].weight_K, weight_K / weight_K.sum())
    assert found.beyond_own(found.untilted, found.weight_K).value == pytest.approx(0)
    assert found.moved(found.tilts[1].written).value == pytest.approx(found.tilts[1].divergence)


def test_pairs_of_about_equal_rate(prior: Prior) -> None:
    line = [written(TOKENS, None, [0.4] * 20, 2.0), written(TOKENS, 0.1, [0.6, 0.6, 0.6, 0.4] * 5, 3.0),
            written(TOKENS, 0.4, [0.9, 0.9, 0.9, 0.9] * 5, 6.0)]  # fmt: skip
    found = steered(prior, [0.2, 0.6], {TOKENS: line})
    [pair] = equal_rates(found)
    assert (pair.ours.dial, pair.theirs.dial) == (0.1, 0.4)  # both at all texts
    assert pair.nearest.value == pytest.approx((6 - 2) / 2)
    assert pair.bare.value == pytest.approx(3 * (6 - 2) / 2)
    first, second = headlines(found)
    assert "0.60 instead of" in first
    assert "more by" in first
    assert "lie further from every component than" in second
    same = steered(prior, [0.2, 0.6], {TOKENS: [line[0], written(TOKENS, 0.4, [0.9] * 20)]})
    assert "visibly neither further" in headlines(same)[1]


# Writing


@pytest.mark.parametrize("way", TOKEN_WAYS)
def test_how_far_tokens_moved(
    way: str, prior: Prior, tiny_lm: CausalLM, make_head: Callable[..., Head], desk: Workbench
) -> None:
    head = make_head(seed=5, name="nice")
    judges: Any = (Letters("ae"),)
    writer = Writer(desk, prior, judges, "good", 5, head)
    component_B = [0, 1, 1] * 12
    found = writer.of_tokens(way, 0.5, 1.5, component_B)
    bases = {BARE: tiny_lm, BLEND: prior.blend, TOKENS: prior.per_response(torch.tensor(component_B))}
    rows = [tiny_lm.encode_text(text) for text in found.texts]
    kept = [b for b, row in enumerate(rows) if len(row) == found.length_B[b]]  # text that reads back as it was written
    assert len(kept) > 12
    prefix_BT, text_BT = pad_left([list(tiny_lm.start_ids)] * len(rows)), pad_right(rows)
    tilted = LocalProduct(Product((bases[way], Power(head, 1.5))))
    want_B = (tilted.score(prefix_BT, text_BT) - bases[way].score(prefix_BT, text_BT)).sum(1).numpy()
    np.testing.assert_allclose(found.moved_B[kept], want_B[kept], atol=1e-3)
    assert found.moved_B.mean() > 0
    log_lik_BK = prior.log_likelihood([found.texts[b] for b in kept if found.texts[b]]).numpy()
    np.testing.assert_allclose(found.log_lik_BK[[b for b in kept if found.texts[b]]], log_lik_BK, atol=1e-3)
    assert set(found.component_B) == ({0, 1} if way == TOKENS else {-1})
    plain = writer.of_tokens(way, 0.0, 0.0, component_B)
    assert plain.dial is None
    assert (plain.moved_B == 0).all()
    assert plain.texts != found.texts


def test_components_write_their_own_texts(prior: Prior, desk: Workbench) -> None:
    judges: Any = (Letters("ae"),)
    writer = Writer(desk, prior, judges, "good", 6, None)
    found = writer.of_components([0] * 40 + [1] * 40, "each", None)
    gap_B = found.log_lik_BK[:, 0] - found.log_lik_BK[:, 1]
    assert gap_B[:40].mean() > 0 > gap_B[40:].mean()  # each side's mean is a divergence, so above zero but for chance
    np.testing.assert_array_equal(found.own_B2[:40, 0], -found.log_lik_BK[:40, 0])
    assert (found.moved_B == 0).all()
    drawn = writer.draw(prior.tilt([0.0, 1.0], temperature=0.001), 50, 0.001)
    assert set(drawn) == {1}
    assert writer.draw(prior, 50, 0.1) != writer.draw(prior, 50, 0.2)  # fresh draws


# The part


def test_the_part_tilts_and_compares(desk: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_from: dict[float | None, Array] = {}
    draw = Writer.draw

    def noted(self: Writer, prior: Prior, number: int, dial: float | None) -> list[int]:
        drawn_from[dial] = prior.log_prob_K.exp().numpy()
        return draw(self, prior, number, dial)

    monkeypatch.setattr(Writer, "draw", noted)
    found = measure_steering(desk, SETTINGS)
    names = ["untilted", "components, T=1", "components, T=0.2", "components, T=0.05"]
    promises = [found.measures["predicted reward"][name].value for name in names]
    assert promises == sorted(promises, key=lambda p: p or 0.0)
    rewards = [e.value for e in found.measures["reward"].values()]
    assert promises[-1] <= max(rewards) + 1e-9  # type: ignore[type-var, operator]
    assert {e.value for e in found.measures["components with weight"].values()} == {2}
    for way in TOKEN_WAYS:
        for strength in (0.2, 0.6):
            value = found.measures["nats per text from the untilted"][f"{way}, {strength}"].value
            assert value is not None
            assert value > 0
    assert found.measures["nats per text from the untilted"]["untilted"].value == 0
    blocks = [block for section in found.sections for block in section.blocks]
    [weights] = [b for b in blocks if isinstance(b, Matrix)]
    assert weights.rows == ("untilted", "1", "0.2", "0.05")
    np.testing.assert_allclose(np.array(weights.values, float).sum(1), 1)
    np.testing.assert_allclose(np.array(weights.values, float) @ np.array(rewards, float), np.array(promises, float))
    for dial, weight_K in zip((None, 1.0, 0.2, 0.05), weights.values, strict=True):
        np.testing.assert_allclose(drawn_from[dial], np.array(weight_K, float))
    np.testing.assert_array_equal(drawn_from[-0.6], drawn_from[None])  # tokens are tilted, weights are not
    scatters = [b for b in blocks if isinstance(b, Scatter)]
    assert [s.name for s in scatters[0].series] == [COMPONENTS, *TOKEN_WAYS]
    curves = [b for b in blocks if isinstance(b, Curve)]
    assert [s.is_reference for s in curves[0].series] == [True, False, False]
    assert curves[1].series[0].x == (0.0, 1.0, 5.0, 20.0)
    tables = {b.title: b for b in blocks if isinstance(b, Table)}
    assert len(tables["Every setting"].rows) == 1 + 3 + 2 + 3 + 3
    assert len(tables["At the nearest rates"].rows) == len(TOKEN_WAYS)
    assert len(found.headlines) == 1 + len(TOKEN_WAYS)
    assert "letters ae, which did not" in found.headlines[0]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this was done before")

    monkeypatch.setattr("factorlm.evaluation.priors.kept.fit", refuse)
    monkeypatch.setattr("factorlm.evaluation.priors.tilting.write", refuse)
    monkeypatch.setattr("factorlm.evaluation.priors.tilting.score_rows", refuse)
    monkeypatch.setattr(Letters, "probabilities", refuse)
    assert measure_steering(desk, SETTINGS) == found


def test_without_factor_or_second_judge(desk: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "judges_for", lambda label: [])
    few = {"temperatures": (0.1,), "texts": 8, "reward_texts": 4}
    found = measure_steering(desk, SETTINGS.model_copy(update={**few, "factor": "nicer"}))
    assert [s.title for s in found.sections] == ["Rewards of components", "Tilting components", "Texts"]
    assert any("Tilted tokens were not compared: no factor named 'nicer'" in line for line in found.cautions)
    assert any(line.startswith("No second judge has the label good") for line in found.cautions)
    assert "which did not" not in found.headlines[0]


def test_mistakes_are_explained(desk: Workbench) -> None:
    with pytest.raises(InputError, match="at least one temperature"):
        measure_steering(desk, SETTINGS.model_copy(update={"temperatures": ()}))
    with pytest.raises(UnknownNameError, match="way of tilting tokens"):
        measure_steering(desk, SETTINGS.model_copy(update={"ways": ("token",)}))
    with pytest.raises(InputError, match="another judge than first"):
        measure_steering(desk, SETTINGS.model_copy(update={"independent": "first"}))
    with pytest.raises(UnknownNameError, match="label"):
        measure_steering(desk, SETTINGS.model_copy(update={"label": "goods"}))


def test_defaults_name_what_is_there() -> None:
    settings = Steering.sized("full")
    for size in ("small", "full"):
        assert settings.judge == Steering.sized(size).judge
    names = [judge.name for judge in steering.judges_for(settings.label)]
    assert settings.judge in names
    assert len(names) > 1
    assert load_judge(settings.judge).index(settings.label) == 1
