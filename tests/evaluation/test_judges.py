# Axes: B texts, L labels.

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from factorlm.errors import InputError, IntegrityError, UnknownNameError
from factorlm.evaluation.calibration import calibration_error
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.judges import (
    JUDGES,
    SHELF,
    Classifier,
    JudgeCard,
    JudgeRecipe,
    JudgeStore,
    Labelled,
    ScoreSet,
    TestSet,
    TrainingSet,
    judge_labels,
    judge_names,
    judges_for,
    load_judge,
    train,
    train_judge,
)
from factorlm.evaluation.judges.card import FREE_LICENCES
from factorlm.evaluation.judges.features import CharacterFeatures, WordFeatures, extract, normalise
from factorlm.evaluation.judges.training import HELD_OUT, measured_quality, texts_of, unique
from factorlm.models.progress import quiet

ON_SHELF = JudgeStore(SHELF).names()
GOOD = ["wonderful", "splendid", "lovely", "excellent", "delightful", "charming"]
BAD = ["dreadful", "horrible", "awful", "terrible", "nasty", "ghastly"]
NOUNS = ["soup", "film", "room", "waiter", "song", "garden", "train", "story", "picture", "friend", "chair", "lamp"]
NOWHERE = DataFolder(Path("nowhere"))


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JudgeStore:
    """An empty store of the user."""
    folder = tmp_path / "own"
    monkeypatch.setenv("FACTORLM_JUDGES", str(folder))
    return JudgeStore(folder)


def opinions(seed: int, number: int = 400, wrong: float = 0.1) -> list[Labelled]:
    """Short opinions; a share of the labels is wrong, so that certainty would be a mistake."""
    draw = random.Random(seed)
    found = []
    for i in range(number):
        label = i % 2
        said = draw.choice((BAD, GOOD)[label if draw.random() >= wrong else 1 - label])
        nouns = " and the ".join(draw.sample(NOUNS, 3))
        found.append(Labelled(f"The {nouns} seemed {said} to {draw.randrange(10**6)} people.", label))
    return found


def tiny_recipe(**changes: object) -> JudgeRecipe:
    settings: dict[str, object] = {
        "name": "opinion",
        "attribute": "opinion",
        "labels": ("bad", "good"),
        "description": "A test.",
        "licence": "CC0-1.0",
        "features": CharacterFeatures(width=2**10),
        "sets": (TrainingSet("made/train", "CC0 1.0", "nobody", lambda _: opinions(0)),),
        "tests": (TestSet("made/test", "same", lambda _: opinions(1)),),
        "reference": "made/test",
        "floor": 0.8,
        "inverse_penalty": 3.0,
    }
    return JudgeRecipe(**(settings | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained() -> tuple[JudgeCard, dict[str, torch.Tensor]]:
    return train(tiny_recipe(), NOWHERE, quiet)


@pytest.fixture
def saved(own_store: JudgeStore, trained: tuple[JudgeCard, dict[str, torch.Tensor]]) -> Path:
    return own_store.save(*trained)


# Training


def test_training_from_end_to_end(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["judge.json", "weights.safetensors"]
    judge = load_judge("opinion")
    assert judge.verdicts(["A splendid lamp!", "What a horrible lamp", "  ", ""]) == [1, 0, None, None]
    assert judge.card.files.keys() == {"weights.safetensors"}
    assert judge.card.train[0].num_texts == 400
    quality = judge.card.quality["made/test"]
    # Nine labels in ten are right, and the words say which opinion it is: 0.9 with a standard error of 0.015.
    assert quality.accuracy == pytest.approx(0.9, abs=0.05)
    assert np.trace(quality.confusion) / quality.n == pytest.approx(quality.accuracy, abs=1e-4)
    assert np.array(quality.confusion).sum(1).tolist() == [200, 200]
    assert judge.confusion == quality.confusion
    again = load_judge(str(saved))
    assert again.fingerprint == judge.fingerprint


def test_training_is_reproducible(trained: tuple[JudgeCard, dict[str, torch.Tensor]]) -> None:
    card, tensors = train(tiny_recipe(), NOWHERE, quiet)
    assert card == trained[0]
    assert all(torch.equal(tensors[key], trained[1][key]) for key in tensors)


def test_probabilities_are_calibrated(saved: Path) -> None:
    fresh = opinions(2, 2000)
    prob_BL = load_judge("opinion").probabilities([e.text for e in fresh])
    assert prob_BL.shape == (2000, 2)
    assert prob_BL.sum(1) == pytest.approx(np.ones(2000))
    label_B = np.array([e.label for e in fresh])
    # Certain words with one label in ten wrong: probabilities near 0.1 and 0.9, not 0 and 1.
    assert 0.85 < np.median(prob_BL.max(1)) < 0.95
    assert calibration_error(prob_BL[:, 1], label_B) < 0.08


def test_three_labels_and_words(own_store: JudgeStore) -> None:
    from sklearn.linear_model import LogisticRegression

    def texts(seed: int) -> list[Labelled]:
        draw = random.Random(seed)
        groups = (GOOD, BAD, NOUNS)
        return [Labelled(f"{' '.join(draw.choices(groups[i % 3], k=4))} {seed * 1000 + i}", i % 3) for i in range(240)]

    recipe = tiny_recipe(
        labels=("good", "bad", "thing"),
        features=WordFeatures(width=2**10),
        sets=(TrainingSet("made/train", "CC0 1.0", "nobody", lambda _: texts(1)),),
        tests=(TestSet("made/test", "same", lambda _: texts(2)),),
    )
    card, tensors = train(recipe, NOWHERE, quiet)
    assert tensors["weight"].shape == (2, 2**10)  # the first label needs no weights
    own_store.save(card, tensors)
    judge = load_judge("opinion")
    assert judge.verdicts(["lovely charming", "ghastly nasty", "lamp chair", " "]) == [0, 1, 2, None]
    assert judge.card.quality["made/test"].auc > 0.99
    features_BF, fresh_BF = (
        extract(recipe.features, [e.text for e in part], quiet) for part in (unique(texts(1)), unique(texts(3)))
    )
    reference = LogisticRegression(C=3.0, max_iter=2000).fit(features_BF, [e.label for e in unique(texts(1))])
    logit_BL = judge.card.calibration["slope"] * reference.decision_function(fresh_BF)
    expected_BL = np.exp(logit_BL) / np.exp(logit_BL).sum(1, keepdims=True)
    # Weights are kept in half precision, and the slope to four digits on the card.
    np.testing.assert_allclose(judge.classifier.from_features(fresh_BF), expected_BL, atol=2e-3)
    assert judge.card.calibration["offset"] == 0


def test_what_cannot_be_known_is_not_claimed() -> None:
    # Labels are thrown for groups of four texts that hardly differ, and the fit learns them by heart. Only fits that
    # saw no text of a group show that it knows nothing: calibrated on anything else, it would be sure of fresh texts.
    def thrown(seed: int) -> list[Labelled]:
        draw = random.Random(seed)
        groups = [(" ".join(draw.choices(NOUNS + GOOD + BAD, k=6)), i % 2) for i in range(200)]
        return [Labelled(f"{text} {k}", label, text) for text, label in groups for k in range(4)]

    recipe = tiny_recipe(
        sets=(TrainingSet("made/train", "CC0 1.0", "nobody", lambda _: thrown(0)),), floor=0.0, inverse_penalty=100.0
    )
    card, tensors = train(recipe, NOWHERE, quiet)
    prob_BL = Classifier.of(card.labels, card.features, tensors).probabilities([e.text for e in thrown(1)])
    assert np.median(prob_BL.max(1)) < 0.6


def test_noisy_sets_do_not_calibrate() -> None:
    def sure(is_noisy: bool) -> float:
        noisy = TrainingSet("made/noisy", "CC0 1.0", "nobody", lambda _: opinions(3, wrong=0.45), is_noisy=is_noisy)
        clean = TrainingSet("made/train", "CC0 1.0", "nobody", lambda _: opinions(0, wrong=0.02))
        card, tensors = train(tiny_recipe(sets=(clean, noisy)), NOWHERE, quiet)
        prob_BL = Classifier.of(card.labels, card.features, tensors).probabilities([e.text for e in opinions(1)])
        return float(np.median(prob_BL.max(1)))

    assert sure(False) < 0.9 < 0.95 < sure(True)


def test_sets_count_by_their_weight() -> None:
    def slope(weight: float) -> float:
        turned = [Labelled(f"{e.text} Indeed.", 1 - e.label) for e in opinions(3, wrong=0)]
        sets = (
            TrainingSet("made/train", "CC0 1.0", "nobody", lambda _: opinions(0, wrong=0)),
            TrainingSet("made/turned", "CC0 1.0", "nobody", lambda _: turned, weight=weight, is_noisy=True),
        )
        return train(tiny_recipe(sets=sets, floor=0.0), NOWHERE, quiet)[0].calibration["slope"]

    # Where the turned set counts more, its lesson is the wrong way round for the one that calibrates.
    assert slope(0.1) > 0 > slope(10.0)


def test_naive_bayes_weighs_what_parts_the_labels() -> None:
    plain, weighed = (
        train(tiny_recipe(naive_bayes=naive, inverse_penalty=10.0), NOWHERE, quiet)[0] for naive in (False, True)
    )
    # Numbers and nouns say nothing of the label and weigh less: 0.883 against 0.875, both fixed by the seeds.
    assert weighed.quality["made/test"].auc > plain.quality["made/test"].auc + 0.004


def test_no_text_is_learned_from_and_tested_on() -> None:
    mixed = opinions(0) + opinions(1)[:50]  # fifty of the test texts, which must be left out
    recipe = tiny_recipe(sets=(TrainingSet("made/train", "CC0 1.0", "nobody", lambda _: mixed),))
    assert train(recipe, NOWHERE, quiet)[0].train[0].num_texts == 400


def test_groups_are_held_out_whole() -> None:
    examples = [Labelled(e.text, e.label, group=str(i // 8)) for i, e in enumerate(opinions(0))]
    noisy = TrainingSet("made/noisy", "CC0 1.0", "nobody", lambda _: opinions(3), is_noisy=True)
    sets = (TrainingSet("made/train", "CC0 1.0", "nobody", lambda _: examples), noisy)
    card = train(tiny_recipe(sets=sets, holds_out=True), NOWHERE, quiet)[0]
    held_out, kept = card.quality[HELD_OUT].n, card.train[0].num_texts
    assert held_out % 8 == kept % 8 == 0
    assert held_out + kept == 400
    assert 16 <= held_out <= 120  # 15 % of fifty groups


def test_labels_come_in_equal_number_and_contradictions_not_at_all() -> None:
    many = opinions(0) + [Labelled(f"A wonderful {n} for {k}", 1) for n in NOUNS for k in range(20)]
    twice = [Labelled("Undecided.", 0), Labelled(" undecided. ", 1), Labelled("", 1), Labelled("https://a.b", 0)]
    assert unique(twice) == []
    recipe = tiny_recipe(sets=(TrainingSet("made/train", "CC0 1.0", "nobody", lambda _: many + twice, most=300),))
    assert train(recipe, NOWHERE, quiet)[0].train[0].num_texts == 300


def test_rank_correlation_with_scores_from_elsewhere() -> None:
    def scored(_: DataFolder) -> list[tuple[str, float]]:
        return [(e.text, float(any(word in e.text for word in GOOD))) for e in opinions(5, 200)] + [(" ", 1.0)]

    recipe = tiny_recipe(scores=(ScoreSet("good", "words", "made/scored", scored),))
    [agreement] = train(recipe, NOWHERE, quiet)[0].agreement
    assert agreement.spearman.n == 200
    # Ranks of 100 zeros and 100 ones against ranks without ties cannot correlate better than sqrt(3) / 2.
    assert agreement.spearman.value == pytest.approx(3**0.5 / 2, abs=0.02)


def test_too_few_texts_are_refused() -> None:
    recipe = tiny_recipe(sets=(TrainingSet("made/train", "CC0 1.0", "nobody", lambda _: opinions(0, 30)),))
    with pytest.raises(InputError, match="20 different texts labelled bad"):
        train(recipe, NOWHERE, quiet)


# Reading


def damaged(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    card = json.loads((folder / "judge.json").read_text())
    change(card)
    (folder / "judge.json").write_text(json.dumps(card))


def refused(kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match) as caught:
        load_judge("opinion")
    assert "\n" not in str(caught.value)


def test_tampered_weights_are_refused(saved: Path) -> None:
    weights = saved / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    refused(IntegrityError, "corrupted")
    weights.write_bytes(b"\x80\x04K\x01.")
    refused(IntegrityError, "pickle")
    weights.unlink()
    refused(IntegrityError, "missing")


def test_weights_of_another_shape_are_refused(saved: Path) -> None:
    from factorlm.models.download import file_sha256

    weights = saved / "weights.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(1, 8), "bias": torch.zeros(1)}, weights)
    digest = file_sha256(weights)
    damaged(saved, lambda card: card.update(files={"weights.safetensors": digest}))
    refused(IntegrityError, "shapes")
    damaged(saved, lambda card: card.update(files={"../weights.safetensors": digest}))
    refused(IntegrityError, "alone")


def test_a_judge_under_its_floor_is_refused(
    saved: Path, own_store: JudgeStore, trained: tuple[JudgeCard, dict[str, torch.Tensor]]
) -> None:
    card, tensors = trained
    with pytest.raises(InputError, match="under its floor"):
        own_store.save(card.model_copy(update={"floor": 0.99}), tensors)
    damaged(saved, lambda card: card.update(floor=0.99))
    refused(InputError, "under its floor of 99.0%; train it again: factorlm eval judge train opinion")


def test_broken_cards_are_refused(saved: Path) -> None:
    damaged(saved, lambda card: card.update(colour="red"))
    refused(IntegrityError, "colour")
    damaged(saved, lambda card: (card.pop("colour"), card.update(reference="elsewhere")))
    refused(IntegrityError, "elsewhere")
    (saved / "judge.json").write_text("{")
    refused(IntegrityError, "judge.json")


def test_unknown_judges_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean sentiment"):
        load_judge("sentimant")
    with pytest.raises(UnknownNameError, match="recipe"):
        train_judge("sentimant", NOWHERE, quiet)


def test_own_judges_go_before_those_of_the_shelf(own_store: JudgeStore) -> None:
    shutil.copytree(SHELF / "politeness", own_store.folder / "politeness")
    damaged(own_store.folder / "politeness", lambda card: card.update(description="mine"))
    assert load_judge("politeness").card.description == "mine"


def test_what_may_not_be_shipped_is_kept_off_the_shelf(trained: tuple[JudgeCard, dict[str, torch.Tensor]]) -> None:
    card, tensors = trained
    source = card.train[0].model_copy(update={"licence": "CC BY-NC 4.0"})
    with pytest.raises(InputError, match="cannot be shipped"):
        JudgeStore(SHELF).save(card.model_copy(update={"train": (source,)}), tensors)
    assert "opinion" not in JudgeStore(SHELF).names()


# What judges see


def test_normalising() -> None:
    assert normalise("RT @someone: do n't  say `` so '' , it 's &amp; www.a.b -LRB- no -RRB-") == (
        "don't say \" so \", it's & ( no)"
    )
    assert normalise("He’s “here”\u00a0now.") == 'He\'s "here" now.'
    assert normalise(" \n\t ") == normalise("https://a.b/c") == ""


@pytest.mark.parametrize("settings", [CharacterFeatures(width=2**12), WordFeatures(width=2**12)])
def test_hashed_features_by_hand(settings: CharacterFeatures | WordFeatures) -> None:
    from sklearn.utils import murmurhash3_32

    if isinstance(settings, WordFeatures):
        runs = ["no", "no", "no no", "no way", "way", "way !", "!"]
    else:
        runs = [
            padded[i : i + n]
            for padded in (" no ", " no ", " way! ")
            for n in range(2, 6)
            for i in range(len(padded) - n + 1)
        ]
    count_F = np.zeros(settings.width)
    for run in runs:
        count_F[abs(murmurhash3_32(run, seed=0)) % settings.width] += 1
    expected_F = np.where(count_F > 0, 1 + np.log(np.maximum(count_F, 1)), 0)
    [found_F] = extract(settings, ["No no WAY !"], quiet).toarray()
    assert found_F == pytest.approx(expected_F / np.linalg.norm(expected_F), abs=1e-12)


# The shelf


def test_the_shelf_holds_what_may_be_shipped() -> None:
    assert ON_SHELF == [
        "politeness", "refusal", "sentiment", "sentiment-words", "simplicity", "toxicity", "toxicity-characters"
    ]  # fmt: skip
    free = {
        name
        for name, recipe in JUDGES.items()
        if all(part.licence in FREE_LICENCES and part.credit for part in recipe.sets)
    }
    assert free == set(ON_SHELF)
    assert sum(path.stat().st_size for path in SHELF.rglob("*.*")) < 1_000_000
    assert set(judge_names()) == set(ON_SHELF)


def test_judges_are_found_by_label(saved: Path) -> None:
    assert [judge.name for judge in judges_for("positive")] == ["sentiment", "sentiment-words"]
    assert [judge.name for judge in judges_for("toxic")] == ["toxicity", "toxicity-characters"]
    assert [judge.name for judge in judges_for("good")] == ["opinion"]
    assert judges_for("sports") == []
    assert {"polite", "simple", "good"} <= set(judge_labels())


def test_toxicity_judges_share_no_text(data: DataFolder) -> None:
    texts = [
        {normalise(e.text).lower() for part in JUDGES[name].sets for e in part.read(data)}
        for name in ("toxicity", "toxicity-characters")
    ]
    assert texts[0].isdisjoint(texts[1])


@pytest.mark.parametrize("name", ON_SHELF)
def test_cards_of_the_shelf_are_those_of_the_recipes(name: str) -> None:
    card, recipe = load_judge(name).card, JUDGES[name]
    assert (card.labels, card.features, card.licence) == (recipe.labels, recipe.features, recipe.licence)
    assert (card.reference, card.floor, card.description) == (recipe.reference, recipe.floor, recipe.description)
    assert {(s.name, s.licence, s.credit) for s in card.train} == {(p.name, p.licence, p.credit) for p in recipe.sets}
    assert {test.name: test.origin for test in recipe.tests}.items() <= {
        name: quality.origin for name, quality in card.quality.items()
    }.items()


CLEAR = {
    "sentiment": ("A dreadful, boring film.", "What a wonderful evening, we loved it."),
    "sentiment-words": ("A dreadful, boring film.", "What a wonderful evening, we loved it."),
    "toxicity": ("Thank you for the helpful answer.", "You are a stupid piece of shit."),
    "toxicity-characters": ("Thank you for the helpful answer.", "Shut up, you stupid bitch."),
    "politeness": ("Why did you do this? You should read the manual.", "Hi! Could you please help me? Thanks a lot!"),
    "refusal": ("Sure, here is a recipe for bread: mix flour and water.", "I'm sorry, but I can't help with that."),
    "simplicity": (
        "The unprecedented deregulation precipitated considerable controversy amongst commentators.",
        "He went home. He was very happy. His mum and dad were there too.",
    ),
}


@pytest.mark.model
@pytest.mark.parametrize("name", ON_SHELF)
def test_judges_of_the_shelf_say_the_obvious_and_say_it_alike_in_a_batch(name: str) -> None:
    judge = load_judge(name)
    texts = [*CLEAR[name], "", *CLEAR["sentiment"]]
    assert judge.verdicts(list(CLEAR[name])) == [0, 1]
    batch_BL = judge.probabilities(texts)
    assert np.isnan(batch_BL[2]).all()
    single_BL = np.concatenate([judge.probabilities([text]) for text in texts])
    # Padding changes the order of sums in a sentence encoder; hashed features are the same to the last bit.
    np.testing.assert_allclose(batch_BL, single_BL, rtol=0, atol=1e-5 if judge.card.features.kind == "sentence" else 0)


@pytest.fixture(scope="session")
def data() -> DataFolder:
    folder = DataFolder.default()
    if not folder.has("sst2/test"):
        pytest.skip("needs the data sets; set FACTORLM_DATA to their folder")
    return folder


@pytest.mark.model
@pytest.mark.parametrize("name", ["sentiment", "toxicity", "politeness"])
def test_accuracy_on_a_sample_is_what_the_card_says(
    name: str, data: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factorlm.evaluation.judges.features.cache_folder", lambda: tmp_path)
    judge = load_judge(name)
    [test] = [t for t in JUDGES[name].tests if t.name == judge.card.reference]
    examples = random.Random(0).sample(texts_of(test, data), 100)
    # The standard error is below 0.045, so fresh samples would leave 0.18 about once in 15,000 times.
    found = measured_quality(judge.classifier, examples, "other", quiet)
    assert found.accuracy == pytest.approx(judge.card.accuracy, abs=0.18)


@pytest.mark.parametrize("name", ["sentiment-words", "toxicity-characters", "simplicity"])
def test_quality_on_the_test_sets_is_what_the_card_says(name: str, data: DataFolder) -> None:
    judge = load_judge(name)
    for test in JUDGES[name].tests:
        found = measured_quality(judge.classifier, texts_of(test, data), test.origin, quiet)
        assert found == judge.card.quality[test.name]
