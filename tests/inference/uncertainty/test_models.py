"""Estimators that ask a model, against what its probabilities say directly."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from factorlm.algebra import pad_left, pad_right
from factorlm.errors import IncompatibleError, InputError, IntegrityError
from factorlm.inference.model import Model
from factorlm.inference.reading import read
from factorlm.inference.uncertainty import Asking, Known, Query, gather, question_states, train_known
from factorlm.inference.uncertainty.evidence import next_log_odds, prompt_ids_of, repeats_much
from factorlm.inference.uncertainty.true_false import NOTHING, asked_whether, true_logits
from factorlm.models import CausalLM
from factorlm.models.loading import read_model

QUERIES = [Query("is it good?", "the ", " a:"), Query("is the bad", "", ":"), Query("the ten bad, good", "", " ")]
ASKING = Asking(samples=3, max_tokens=4, temperature=1.0)


@pytest.fixture(scope="module")
def tiny_model(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The tiny model with room for the long texts of P(True)."""
    folder = tmp_path_factory.mktemp("roomy")
    shutil.copytree(tiny_folder, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    lm = read_model(str(folder), dtype="float32", device="cpu")
    return Model(lm, lm)


def test_evidence_has_what_was_asked_for_and_its_log_probs_are_right(tiny_model: Model) -> None:
    found = gather(tiny_model, QUERIES, ["samples", "true"], ASKING)
    for query, evidence in zip(QUERIES, found, strict=True):
        assert evidence.question == query.question
        assert len(evidence.samples) == 3
        assert evidence.known_logit is None
        assert evidence.variants == ()
    responses = tiny_model.generate([q.prompt for q in QUERIES], n=3, max_tokens=4, seed=0)
    for i, query in enumerate(QUERIES):
        for k in range(3):
            response = responses[3 * i + k]
            reading = read(tiny_model.factor, pad_left([prompt_ids_of(tiny_model, query)]),
                           pad_right([list(response.token_ids)]))  # fmt: skip
            if "\n" not in response.text:
                expected = float(reading.log_prob_BT.double().sum())
                assert found[i].samples[k].log_prob == pytest.approx(expected, abs=1e-3)


def test_true_log_odds_average_both_orders_and_take_the_prior_off(tiny_model: Model) -> None:
    query, answer = QUERIES[0], "good"

    def odds(proposed: str, true_first: bool) -> float:
        text = asked_whether(query.question, proposed, true_first=true_first) + " ("
        ids = [*tiny_model.lm.start_ids, *tiny_model.lm.encode_text(text)]
        letters = [tiny_model.lm.encode_text(letter) for letter in "AB"]
        reading = read(tiny_model.factor, pad_left([ids] * 2), pad_right([letters[0][:1], letters[1][:1]]))
        found = reading.log_prob_BT[:, 0]
        return float(found[0] - found[1]) * (1 if true_first else -1)

    expected = (
        sum(odds(answer, first) for first in (True, False)) / 2 - sum(odds(NOTHING, f) for f in (True, False)) / 2
    )
    assert true_logits(tiny_model, [query], [answer])[0] == pytest.approx(expected, abs=1e-3)


def test_log_odds_do_not_depend_on_the_batch(tiny_model: Model) -> None:
    contexts = [[0, 5, 6, 7], [0, 9], [0, 8, 8, 8, 8, 8]]
    together = next_log_odds(tiny_model, contexts, 3, 4)
    alone = [next_log_odds(tiny_model, [context], 3, 4)[0] for context in contexts]
    assert together == pytest.approx(alone, abs=1e-4)


def test_what_is_needed_must_be_given(tiny_model: Model) -> None:
    for need, words in (("known", "head"), ("between", "prior"), ("variants", "variants")):
        with pytest.raises(InputError, match=words):
            gather(tiny_model, QUERIES, [need], ASKING)  # type: ignore[list-item]


def test_states_are_those_behind_the_prompt(tiny_model: Model) -> None:
    state_BD = question_states(tiny_model, QUERIES)
    for i, query in enumerate(QUERIES):
        alone_BD = tiny_model.lm.encode(pad_left([prompt_ids_of(tiny_model, query)])).hidden_BD
        assert state_BD[i] == pytest.approx(alone_BD[0].double().numpy(), abs=1e-4)


def planted(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """States whose first direction decides how often samples are right."""
    generator = np.random.default_rng(seed)
    state_BD = generator.normal(size=(number, 16)) * np.linspace(0.5, 3, 16) + 2
    chance_B = 1 / (1 + np.exp(-3 * (state_BD[:, 0] - 2) / 0.5))
    return state_BD, generator.binomial(10, chance_B) / 10


def test_the_head_finds_the_direction_that_decides(tiny_lm: CausalLM, tmp_path: Path) -> None:
    state_BD, share_B = planted(200, 0)
    head = train_known(state_BD, share_B, lm=tiny_lm, expression="tiny", questions="planted")
    assert head.card.loss < 0.6 * head.card.constant_loss
    scaled_D = head.weight_D * state_BD.std(0)
    assert abs(scaled_D[0]) > 5 * np.abs(scaled_D[1:]).max()
    fresh_BD, fresh_B = planted(200, 1)
    prob_B = 1 / (1 + np.exp(-head.logits(fresh_BD)))
    assert np.corrcoef(prob_B, fresh_B)[0, 1] > 0.9
    head.save(tmp_path / "head")
    again = Known.load(tmp_path / "head")
    assert np.array_equal(again.logits(fresh_BD), head.logits(fresh_BD))
    again.check(tiny_lm)


def test_a_head_of_another_model_and_a_changed_one_are_refused(tiny_lm: CausalLM, tmp_path: Path) -> None:
    state_BD, share_B = planted(60, 0)
    head = train_known(state_BD, share_B, lm=tiny_lm, expression="tiny", questions="planted")
    other = Known(head.weight_D, head.offset, head.card.model_copy(update={"encoder_fingerprint": "0" * 16}))
    with pytest.raises(IncompatibleError, match="train one with"):
        other.check(tiny_lm)
    head.save(tmp_path / "head")
    weights = tmp_path / "head" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(IntegrityError):
        Known.load(tmp_path / "head")
    with pytest.raises(InputError, match="P\\(IK\\) head is needed"):
        Known.load(tmp_path / "nothing")


def test_samples_of_one_kind_teach_nothing(tiny_lm: CausalLM) -> None:
    with pytest.raises(InputError, match="right and wrong samples"):
        train_known(np.ones((20, 4)), np.zeros(20), lm=tiny_lm, expression="tiny", questions="none")


def test_answers_of_a_tiny_model_repeat_with_their_seed(tiny_model: Model) -> None:
    first, again = (gather(tiny_model, QUERIES, ["samples"], ASKING) for _ in range(2))
    assert [e.texts for e in first] == [e.texts for e in again]
    other = gather(tiny_model, QUERIES, ["samples"], ASKING.model_copy(update={"seed": 1}))
    assert [e.texts for e in first] != [e.texts for e in other]
    assert [e.answer for e in first] == [e.answer for e in other]  # greedy
    assert all(math.isfinite(e.answer.mean_log_prob) for e in first)
    assert torch.is_grad_enabled()


def test_what_is_read_together_changes_no_answer(tiny_model: Model) -> None:
    passages = ("the good bad ten " * 12, "bad the he in a good " * 10)
    long = [Query("is it good?", f"{passage} ", " a:") for passage in passages]
    assert repeats_much(tiny_model, long)
    assert not repeats_much(tiny_model, QUERIES)
    together = gather(tiny_model, long, ["samples", "true", "variants"], ASKING, vary=lambda q: [q.asked("is it bad?")])
    for query, evidence in zip(long, together, strict=True):
        [alone] = gather(tiny_model, [query], ["samples", "true", "variants"], ASKING,
                         vary=lambda q: [q.asked("is it bad?")])  # fmt: skip
        assert evidence.texts == alone.texts
        assert [v.question for v in evidence.variants] == ["is it good?", "is it bad?"]
        assert [[a.text for a in v.answers] for v in evidence.variants] == [
            [a.text for a in v.answers] for v in alone.variants
        ]
        assert evidence.true_logit == pytest.approx(alone.true_logit, abs=1e-3)
