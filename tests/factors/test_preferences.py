"""Preferences teach a head what was planted in them, and neither length nor who asked."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from factorlm.errors import InputError
from factorlm.factors.calibration import evidence
from factorlm.factors.features import encode
from factorlm.factors.feedback import (
    Pair,
    Preferences,
    Rated,
    from_pairs,
    from_thumbs,
    groups_of,
    split_preferences,
)
from factorlm.factors.head import Head
from factorlm.factors.preferences import (
    LENGTH_EFFECT,
    MATCHED_ACCURACY,
    PAIR_ACCURACY,
    compare,
    fit_rewards,
    pair_figures,
    train_preferences,
)
from factorlm.factors.training import Description
from factorlm.models import CausalLM

WORDS = list("abcdefghijklmnopqrsuvwxy")  # two tokens each: a blank and a letter
MakeHead = Callable[..., Head]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACTORLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def texts(num: int, seed: int, *, shortest: int = 8, longest: int = 8) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(shortest, longest))) for _ in range(num)]


def reward(head: Head, text: str) -> float:
    """What the head adds to a text, beyond what it adds to the mean token of all texts."""
    return float(centred_potential(head.lm, head.weights.bias_D)[torch.tensor(head.lm.encode_text(" " + text))].sum())


def centred_potential(lm: CausalLM, bias_D: torch.Tensor) -> torch.Tensor:
    potential_V = lm.unembed(bias_D)
    return potential_V - potential_V[torch.tensor(lm.encode_text(" " + " ".join(WORDS)))].mean()


def planted(head: Head, num: int, seed: int, *, lengthy: float = 0.0, sharpness: float = 6.0) -> Preferences:
    """Pairs chosen by the head's rewards, and by length if longer texts are liked."""
    chance = random.Random(seed)
    spread = {"shortest": 4, "longest": 12} if lengthy else {}
    pairs = []
    for n, (one, other) in enumerate(zip(texts(num, seed, **spread), texts(num, seed + 1, **spread), strict=True)):
        gap = sharpness * (reward(head, one) - reward(head, other)) + lengthy * (len(one.split()) - len(other.split()))
        is_first = chance.random() < float(torch.tensor(gap).sigmoid())
        pairs.append(Pair(f"prompt {n}", *((one, other) if is_first else (other, one))))
    return Preferences(tuple(pairs))


def agreement(lm: CausalLM, found_D: torch.Tensor, true_D: torch.Tensor) -> float:
    """Correlation of two potentials over the tokens of the texts."""
    seen = torch.tensor(sorted({token for word in WORDS for token in lm.encode_text(" " + word)}))
    both = torch.stack([centred_potential(lm, bias_D)[seen] for bias_D in (found_D, true_D)])
    return float(torch.corrcoef(both)[0, 1])


def swapped(preferences: Preferences) -> Preferences:
    return Preferences(tuple(Pair(p.prompt, p.rejected, p.chosen) for p in preferences.pairs))


def test_a_planted_head_is_found(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    """Its sums order held-out pairs; the card counts normalised rewards, which this model's large swings disturb."""
    true, preferences = make_head(0, 3), planted(make_head(0, 3), 500, 0)
    trained = train_preferences(tiny_lm, preferences, Description("taste", sources=(("toy", "CC0", ""),)))
    train, dev = split_preferences(preferences)
    learn, centre_D = compare(tiny_lm, train)
    held, _ = compare(tiny_lm, dev, centre_D, per_token=False)
    assert pair_figures(held, held.text_BD @ fit_rewards(learn)[0])[PAIR_ACCURACY] > 0.9
    card = trained.manifest
    assert card.calibration is not None
    assert card.calibration.pair_accuracy is not None
    assert card.calibration.pair_accuracy > 0.7
    assert card.calibration.dev_loss < 0.6
    assert card.calibration.dev_auc > 0.65
    assert card.strengths is not None
    assert card.data.train[0].name == "toy"
    assert agreement(tiny_lm, trained.weights.bias_D, true.weights.bias_D) > 0.95


def test_swapping_turns_the_head_round(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    preferences = planted(make_head(0, 3), 120, 0, lengthy=0.5)
    there, back = (train_preferences(tiny_lm, p, Description("x")) for p in (preferences, swapped(preferences)))
    # The optimiser stops at a slope of 1e-7 each time.
    torch.testing.assert_close(there.weights.bias_D, -back.weights.bias_D, atol=1e-3, rtol=1e-3)
    assert there.manifest.effect[PAIR_ACCURACY] == back.manifest.effect[PAIR_ACCURACY]
    assert there.manifest.effect[LENGTH_EFFECT] == pytest.approx(-back.manifest.effect[LENGTH_EFFECT], abs=1e-3)


def test_training_is_the_same_every_time(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    preferences = planted(make_head(0, 3), 60, 0)
    first, again = (train_preferences(tiny_lm, preferences, Description("x")) for _ in range(2))
    assert torch.equal(first.weights.bias_D, again.weights.bias_D)
    assert first.manifest == again.manifest


def test_exponent_one_is_calibrated(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    """Pairs are chosen by the normalised rewards of a head at exponent one, so rewards of that size must come out.

    Over six seeds the ratio of their spreads was 0.73 to 0.96.
    """
    true = make_head(0, 3)
    one, other = texts(800, 5), texts(800, 6)
    features = encode(tiny_lm, one + other)
    reward_B = evidence(tiny_lm, true.weights, features, (0.5,))[0]
    chance = torch.Generator().manual_seed(0)
    first_R = torch.rand(800, generator=chance) < (reward_B[:800] - reward_B[800:]).sigmoid()
    pairs = [Pair("", *((a, b) if f else (b, a))) for a, b, f in zip(one, other, first_R, strict=True)]
    found = train_preferences(tiny_lm, Preferences(tuple(pairs)), Description("x")).weights
    found_B = evidence(tiny_lm, found, features, (0.5,))[0]
    ratio = float((found_B[:800] - found_B[800:]).std() / (reward_B[:800] - reward_B[800:]).std())
    assert 0.5 < ratio < 2


@pytest.mark.parametrize("is_uneven", [False, True])
def test_the_saved_head_is_the_calibrated_one(tiny_lm: CausalLM, make_head: MakeHead, is_uneven: bool) -> None:
    """Its own rewards on the held-out pairs have the loss that the card states; of uneven texts they are means."""
    true, preferences = make_head(0, 3), planted(make_head(0, 3), 500, 0)
    if is_uneven:
        chance, pairs = random.Random(0), []
        short, long = texts(400, 0, shortest=2, longest=8), texts(400, 1, shortest=12, longest=24)
        for one, other in zip(short, long, strict=True):
            gap = 20 * (reward(true, one) / len(one.split()) - reward(true, other) / len(other.split()))
            is_first = chance.random() < float(torch.tensor(gap).sigmoid())
            pairs.append(Pair(f"{one} or {other}", *((one, other) if is_first else (other, one))))
        preferences = Preferences(tuple(p for p in pairs if p.chosen != p.rejected))
    trained = train_preferences(tiny_lm, preferences, Description("x"))
    train, dev = split_preferences(preferences)
    learn, held = compare(tiny_lm, train)[0], compare(tiny_lm, dev)[0]
    assert learn.per_token == is_uneven
    rows = [(text, pair.prompt) for pair in dev.pairs for text in (pair.chosen, pair.rejected)]
    features = encode(tiny_lm, [text for text, _ in rows], prompts=[prompt for _, prompt in rows])
    reward_B = evidence(tiny_lm, trained.weights, features, (0.5,))[0].double()
    if is_uneven:
        reward_B = reward_B / held.length_B * learn.length_B.mean()
    calibration = trained.manifest.calibration
    assert calibration is not None
    assert float(torch.nn.functional.softplus(-held.contrast(reward_B)).mean()) == pytest.approx(
        calibration.dev_loss, abs=2e-3
    )
    assert calibration.dev_loss < 0.6
    assert abs(calibration.scale - 1) > 0.1  # else nobody would see a scale forgotten
    assert 0.15 < calibration.scale < 6  # learned numbers are of the right order: both bounds of the grid are away


def test_outcomes_without_exception_leave_rewards_finite(tiny_lm: CausalLM) -> None:
    """Eighty prompts out of eighty: odds of about eighty to one, 4.4 nats, whatever the optimiser would like."""
    pairs = [
        Pair(f"{n}", f"{a} good", f"{b} bad") for n, (a, b) in enumerate(zip(texts(80, 0), texts(80, 1), strict=True))
    ]
    learn, _ = compare(tiny_lm, Preferences(tuple(pairs)))
    bias_D, _ = fit_rewards(learn)
    gap_R = learn.contrast(learn.text_BD) @ bias_D
    assert 2 < float(gap_R.median()) < 6


def test_length_does_not_become_taste(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    """Longer texts win and are filled up with one word; the word is not what was liked."""
    chance = random.Random(0)
    pairs = []
    for n, text in enumerate(texts(300, 0)):
        other = texts(1, 1000 + n)[0]
        longer = text + " the" * chance.randint(1, 6)
        pairs.append(Pair(f"filled {n}", longer, other))  # length and the word go together here
        first, second = f"{text} the the", other + " " + chance.choice(WORDS)
        pairs.append(Pair(f"even {n}", *((first, second) if chance.random() < 0.5 else (second, first))))
    learn, _ = compare(tiny_lm, Preferences(tuple(pairs)))
    bias_D, effect = fit_rewards(learn)
    blind, _ = fit_rewards(replace(learn, length_B=torch.ones_like(learn.length_B)))
    the = tiny_lm.encode_text(" the")[0]
    liked, liked_blindly = (float(centred_potential(tiny_lm, u.float())[the]) for u in (bias_D, blind))
    assert effect > 1
    assert liked_blindly > 0.2  # what is learned if length is not taken out
    assert abs(liked) < liked_blindly / 4


def test_taste_is_found_beside_length(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    true = make_head(0, 3)
    trained = train_preferences(tiny_lm, planted(true, 600, 0, lengthy=1.5, sharpness=3.0), Description("x"))
    assert agreement(tiny_lm, trained.weights.bias_D, true.weights.bias_D) > 0.85
    effect = trained.manifest.effect
    assert effect[LENGTH_EFFECT] > 3  # 1.5 a word, and words are one to five tokens
    assert effect[MATCHED_ACCURACY] > 0.8


def test_matched_pairs_are_those_of_like_length(tiny_lm: CausalLM) -> None:
    lengths = [("a", 10, 9), ("a", 10, 5), ("a", 5, 10), ("b", 10, 9)]
    pairs = [Pair("", " ".join(word * first), " ".join(word * second)) for word, first, second in lengths]
    held, _ = compare(tiny_lm, Preferences(tuple(pairs)))
    reward_B = held.length_B.clone()  # a reward that likes length
    figures = pair_figures(held, reward_B)
    assert figures[PAIR_ACCURACY] == 0.75
    assert figures[MATCHED_ACCURACY] == 1.0
    assert figures[PAIR_ACCURACY + ", standard error"] == 0.25  # sqrt(3/4 1/4 / 3)


def test_uneven_lengths_compare_means(tiny_lm: CausalLM) -> None:
    pairs = tuple(Pair(str(n), " ".join(["good"] * 9), "good bad") for n in range(3))
    table_VD = tiny_lm.unembedding_VD.double()
    held, centre_D = compare(tiny_lm, Preferences(pairs))
    assert held.per_token
    good = tiny_lm.encode_text(" good")[0]
    torch.testing.assert_close(held.text_BD[0], table_VD[good] - centre_D)
    assert not compare(tiny_lm, Preferences((Pair("", "good bad", "good"),)))[0].per_token  # twice is not more


def test_thumbs_teach_with_and_without_a_counterpart(tiny_lm: CausalLM, make_head: MakeHead, tmp_path: Path) -> None:
    """Prompts differ in how kind their raters are, by many nats; within a prompt the planted head decides."""
    true = make_head(0, 3)
    lines = []
    for n, (one, other) in enumerate(zip(texts(300, 0), texts(300, 1), strict=True)):
        better = reward(true, one) > reward(true, other)
        if n < 200:
            lines += [{"prompt": f"{n}", "text": one, "thumb": "up" if better else "down"}]
            lines += [{"prompt": f"{n}", "text": other, "thumb": "down" if better else "up"}]
        else:
            lines += [{"text": one, "thumb": int(reward(true, one) > 0)}]
    file = tmp_path / "thumbs.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    preferences = from_thumbs(file)
    assert (len(preferences.pairs), len(preferences.rated)) == (200, 100)
    trained = train_preferences(tiny_lm, preferences, Description("x"))
    assert agreement(tiny_lm, trained.weights.bias_D, true.weights.bias_D) > 0.9
    alone = train_preferences(tiny_lm, Preferences((), preferences.rated), Description("x")).manifest.calibration
    assert alone is not None
    assert alone.pair_accuracy is None
    assert alone.dev_auc > 0.8


def test_prompts_are_read_but_not_scored(tiny_lm: CausalLM) -> None:
    texts_ = ["the good house", "in a bad river"]
    bare = encode(tiny_lm, texts_)
    asked = encode(tiny_lm, texts_, prompts=["sun and mud", ""])
    assert torch.equal(asked.token_N, bare.token_N)
    assert torch.equal(asked.owner_N, bare.owner_N)
    first_N = bare.owner_N == 0
    assert not torch.allclose(asked.hidden_ND[first_N], bare.hidden_ND[first_N], atol=0.1)
    torch.testing.assert_close(asked.hidden_ND[~first_N], bare.hidden_ND[~first_N], atol=5e-3, rtol=2e-3)
    ids = tiny_lm.encode_text(" the good house")
    prefix = [*tiny_lm.start_ids, *tiny_lm.encode_text("sun and mud")]
    want_ND = tiny_lm.hidden_before(torch.tensor([prefix]), torch.tensor([ids]))[0]
    torch.testing.assert_close(asked.hidden_ND[first_N].float(), want_ND, atol=5e-3, rtol=2e-3)  # half precision


def test_no_prompt_and_no_text_is_on_both_sides() -> None:
    pairs = [Pair(f"p{n % 30}", f"a{n}", f"b{n}") for n in range(90)]
    pairs += [Pair("", f"c{n}", f"c{n + 1}") for n in range(0, 5)]  # a chain: one group
    pairs += [Pair("", f"d{n}", f"e{n}") for n in range(20)]
    rated = [Rated("p3", "r", True), Rated("", "c2", False)]
    groups = groups_of(Preferences(tuple(pairs), tuple(rated)))
    assert groups[0] == groups[30] == groups[60]
    assert len({groups[n] for n in range(90, 95)}) == 1
    assert groups[-2] == groups[3]
    assert groups[-1] == groups[92]
    assert len(set(groups)) == 30 + 1 + 20
    train, dev = split_preferences(Preferences(tuple(pairs), tuple(rated)))
    assert len(train.pairs) + len(dev.pairs) == len(pairs)
    assert not {p.prompt for p in train.pairs if p.prompt} & {p.prompt for p in dev.pairs if p.prompt}
    sides = [{t for p in part.pairs if not p.prompt for t in (p.chosen, p.rejected)} for part in (train, dev)]
    assert not sides[0] & sides[1]
    assert 5 <= len({p.prompt for p in dev.pairs}) <= 15
    # Who won does not decide who is held out.
    _, turned = split_preferences(swapped(Preferences(tuple(pairs))))
    assert {frozenset((p.chosen, p.rejected)) for p in turned.pairs} == {
        frozenset((p.chosen, p.rejected)) for p in split_preferences(Preferences(tuple(pairs)))[1].pairs
    }


def test_thumbs_become_pairs_and_rated_texts(tmp_path: Path) -> None:
    file = tmp_path / "thumbs.jsonl"
    rows = [
        {"prompt": "p", "text": "a", "thumb": "up"},
        {"prompt": "p", "response": "b", "thumb": False},
        {"prompt": "p", "text": "c", "thumb": 0, "weight": 4},
        {"prompt": "q", "text": "d", "thumb": "DOWN", "edit": "d better"},
        {"prompt": "q", "text": "e", "edit": "e better", "weight": 100},
        {"text": "f", "thumb": True},
        {"prompt": "p", "text": "a", "thumb": "up"},
    ]
    file.write_text("\n\n".join(map(json.dumps, rows)))
    found = from_thumbs(file)
    assert set(found.pairs) == {
        Pair("q", "d better", "d"),
        Pair("q", "e better", "e", 10.0),
        Pair("p", "a", "b"),
        Pair("p", "a", "c", 2.0),
    }
    assert set(found.rated) == {Rated("q", "d", False), Rated("", "f", True)}


def test_many_thumbs_of_one_prompt_count_by_texts() -> None:
    """Not by pairs of texts: forty against twenty is a hundred and sixty comparisons that weigh forty."""
    from factorlm.factors.feedback import _matches

    up = [Rated("p", f"u{n}", True) for n in range(40)]
    down = [Rated("p", f"d{n}", False) for n in range(20)]
    found = list(_matches(up, down))
    assert len(set(found)) == 160
    assert sum(pair.weight for pair in found) == pytest.approx(40)


BAD_PAIRS = {
    "no JSON": ("{", "line 3 of .*JSON object with chosen and rejected|JSON object with chosen and rejected .*line 3"),
    "a list": ("[1]", "line 3"),
    "a field lacks": ('{"chosen": "a"}', "'rejected' is needed in line 3 of .*got only chosen"),
    "an empty text": ('{"chosen": "a", "rejected": " "}', "'rejected' is needed in line 3"),
    "no text": ('{"chosen": "a", "rejected": 3}', "'rejected' is needed in line 3 .*got 3"),
    "the same": ('{"chosen": "a", "rejected": " a"}', "different texts are needed in line 3"),
    "a weight": ('{"chosen": "a", "rejected": "b", "weight": -1}', "positive number, got -1 in line 3"),
    "a prompt": ('{"chosen": "a", "rejected": "b", "prompt": ["x"]}', "'prompt' is needed in line 3"),
}


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_bad_pairs_are_named_by_line(tmp_path: Path, case: str) -> None:
    line, wanted = BAD_PAIRS[case]
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"chosen": "a", "rejected": "b"}\n\n' + line + "\n")
    with pytest.raises(InputError, match=wanted):
        from_pairs(file)


BAD_THUMBS = {
    "no thumb": ('{"text": "x"}', "thumb, up or down .* line 2 .*got None"),
    "a strange thumb": ('{"text": "x", "thumb": 2}', "thumb, up or down .* line 2 .*got 2"),
    "no text": ('{"thumb": 1}', "'response' is needed in line 2 .*got only thumb"),
    "both thumbs": ('{"text": "a", "thumb": 0}', "both for 'a': line 1 of .* and line 2"),
    "an idle edit": ('{"text": "x", "thumb": 0, "edit": "x"}', "edit that differs .* line 2"),
}


@pytest.mark.parametrize("case", BAD_THUMBS)
def test_bad_thumbs_are_named_by_line(tmp_path: Path, case: str) -> None:
    line, wanted = BAD_THUMBS[case]
    file = tmp_path / "thumbs.jsonl"
    file.write_text('{"text": "a", "thumb": 1}\n' + line + "\n")
    with pytest.raises(InputError, match=wanted):
        from_thumbs(file)


def test_too_few_are_refused() -> None:
    few = tuple(Pair("one prompt for all", f"a{n}", f"b{n}") for n in range(50))
    with pytest.raises(InputError, match=r"at least 10 different prompts .* got 1;"):
        split_preferences(Preferences(few))
    up = tuple(Rated("", f"a{n}", True) for n in range(50))
    with pytest.raises(InputError, match="50 up and 0 down"):
        split_preferences(Preferences((), up))


def test_indifference_makes_no_head(tiny_lm: CausalLM) -> None:
    """Coin tosses over 60 held-out pairs: accuracy within 4.6 standard errors of one half."""
    chance = random.Random(3)
    pairs = [
        Pair(f"{n}", *((a, b) if chance.random() < 0.5 else (b, a)))
        for n, (a, b) in enumerate(zip(texts(300, 0), texts(300, 1), strict=True))
    ]
    card = train_preferences(tiny_lm, Preferences(tuple(pairs)), Description("x")).manifest
    assert card.calibration is not None
    assert 0.2 < card.effect[PAIR_ACCURACY] < 0.8
    assert card.calibration.dev_loss > 0.55


def test_weights_are_heeded(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    true = make_head(0, 3)
    right, wrong = planted(true, 300, 0), swapped(planted(true, 300, 10))
    mixed = tuple(replace(p, weight=10.0) for p in right.pairs) + wrong.pairs
    learn, _ = compare(tiny_lm, Preferences(mixed))
    assert agreement(tiny_lm, fit_rewards(learn)[0].float(), true.weights.bias_D) > 0.8


ANIMALS = (
    "dog", "cat", "horse", "cow", "bird", "sheep", "rabbit", "mouse",
    "lion", "bear", "wolf", "fox", "goat", "duck", "frog",
)  # fmt: skip
THINGS = (
    "table", "chair", "lamp", "window", "bottle", "hammer", "carpet", "pencil",
    "bucket", "mirror", "blanket", "basket", "clock", "ladder", "plate",
)  # fmt: skip
SCENES = (
    "In the yard there was a {}, and we looked at it for a while.",
    "My sister drew a {} yesterday and put it on the wall.",
    "He told us about the {} that he had seen in the street.",
    "A {} stood beside the road when the rain began.",
)


@pytest.mark.model
def test_a_liking_for_animals_is_learned_and_reaches_animals_not_seen(lm: CausalLM) -> None:
    """120 pairs about twelve animals; three others, of no pair, are pushed as well."""
    chance = random.Random(0)
    pairs = []
    for n in range(120):
        scene = chance.choice(SCENES)
        better, worse = (scene.format(chance.choice(words[:12])) for words in (ANIMALS, THINGS))
        pairs.append(Pair(f"Tell me something of day {n}.", better, worse + " It was late." * chance.randint(0, 1)))
    trained = train_preferences(lm, Preferences(tuple(pairs)), Description("animals"))
    assert trained.manifest.effect[PAIR_ACCURACY] > 0.85
    assert trained.manifest.effect[MATCHED_ACCURACY] > 0.85
    potential_V = lm.unembed(trained.weights.bias_D)
    unseen, other = (
        potential_V[torch.tensor([lm.encode_text(" " + word)[0] for word in words[12:]])].mean()
        for words in (ANIMALS, THINGS)
    )
    assert unseen > other + 0.1
    assert trained.manifest.strengths is not None
    assert trained.manifest.strengths.exponent(0.2) > 0
