"""Recipes: what they choose from a data set, and that those of the package can be read and may be shipped."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from factorlm.errors import InputError, UnknownNameError
from factorlm.evaluation.corpora import DataFolder
from factorlm.factors.passages import untokenised
from factorlm.factors.recipe import FOLDER, Texts, Words, load_recipe, names
from factorlm.factors.store import default_stores

FREE = ("CC0", "MIT", "Apache", "CC BY 4.0", "CC BY-SA", "CC-BY-SA", "CC-BY-4.0", "public domain")

SETS: dict[str, list[dict[str, Any]]] = {
    "toy/all": [
        {"text": "The old sun shone. It was warm! Was it?", "label": 1, "also": ["one way to say it", "another"]},
        {"text": "Rain fell on the moon , all day .", "label": 0, "also": ["wet weather all day"]},
        {"text": "tiny", "label": 1, "also": ["x"]},
        {"text": "A star above the moon and the sun.", "label": 1, "also": ["stars above"]},
    ],
    "toy/words": [{"topic": "space", "words": ["Moon", "sun", "star"]}, {"topic": "sea", "words": ["ship"]}],
}


def rows(part: str) -> Sequence[dict[str, Any]]:
    return SETS[part]


@functools.cache
def shared_rows(part: str) -> Sequence[dict[str, Any]]:
    """Rows of the real data sets, read once for all recipes."""
    return DataFolder.default().either(part)


SPACE = Words(part="toy/words", where={"topic": ("space",)})


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (Texts(part="toy/all", where={"label": (0,)}), ["Rain fell on the moon , all day ."]),
        (Texts(part="toy/all", rows=(3,)), ["A star above the moon and the sun."]),
        (Texts(part="toy/all", rows=(0, -3)), ["The old sun shone. It was warm! Was it?"]),
        (Texts(part="toy/all", rows=(1, 2), is_tokenised=True), ["Rain fell on the moon, all day."]),
        (Texts(part="toy/all", column="also", rows=(0, 1)), ["one way to say it"]),
        (
            Texts(part="toy/all", sentences=1, rows=(0, 1), shortest=1),
            ["The old sun shone.", "It was warm!", "Was it?"],
        ),
        (Texts(part="toy/all", sentences=2, rows=(0, 1), shortest=1), ["The old sun shone. It was warm!", "Was it?"]),
        (Texts(part="toy/all", containing=SPACE, at_least=3), ["A star above the moon and the sun."]),
        (Texts(part="toy/all", without=SPACE, shortest=1), ["tiny"]),
        (Texts(part="toy/all", containing=Words(words=("RAIN",))), ["Rain fell on the moon , all day ."]),
        (Texts(part="toy/all", matching=r"\?$"), ["The old sun shone. It was warm! Was it?"]),
        (Texts(part="toy/all", not_matching="moon"), ["The old sun shone. It was warm! Was it?"]),
        (Texts(part="toy/all", longest=33), ["Rain fell on the moon , all day ."]),
        (Texts(part="toy/all", shortest=1, most=2), [SETS["toy/all"][0]["text"], "tiny"]),
    ],
)
def test_texts_are_chosen_as_the_recipe_says(texts: Texts, wanted: list[str]) -> None:
    assert texts.read(rows) == wanted


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"toy/all has columns text, label, also, got 'txt'"):
        Texts(part="toy/all", column="txt").read(rows)


def test_a_later_row_without_the_column_is_found() -> None:
    def uneven(part: str) -> Sequence[dict[str, Any]]:
        return [{"text": "The old sun shone."}, {"label": 1}]

    with pytest.raises(InputError, match="toy/all has columns label, got 'text'"):
        Texts(part="toy/all").read(uneven)


def test_an_empty_list_of_texts_is_found() -> None:
    with pytest.raises(InputError, match="empty list as 'text'"):
        Texts(part="toy/all").read(lambda part: [{"text": []}])


@pytest.mark.parametrize(
    ("words", "row", "said"),
    [
        (Words(), {}, "a list of words is needed, got none from the recipe"),
        (
            Words(part="toy/words", where={"topic": ("air",)}),
            {"topic": "sea", "words": ["ship"]},
            "none from toy/words",
        ),
        (Words(part="toy/words"), {"topic": "sea"}, "row 1 of toy/words needs a list"),
        (Words(part="toy/words"), {"words": "ship"}, "row 1 of toy/words needs a list"),
    ],
)
def test_words_that_are_missing_end_in_one_line(words: Words, row: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        words.read(lambda part: [row])


def test_marks_of_tokenisers_are_taken_out() -> None:
    assert untokenised("a well @-@ known film , it 's `` good '' ( really ) .") == (
        'a well-known film, it\'s " good " (really).'
    )
    assert untokenised("do n't cost 1 @,@ 000 , please !") == "don't cost 1,000, please!"


@pytest.mark.parametrize("name", names())
def test_recipes_of_the_package_can_be_shipped(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description.endswith(".")
    assert recipe.licence.startswith(("CC0", "MIT", "Apache", "CC-BY-4.0", "CC-BY-SA"))
    assert all(source.licence.startswith(FREE) for source in recipe.sources)
    if recipe.kind == "head":
        assert recipe.sources
        if any("SA" in source.licence for source in recipe.sources):
            assert "SA" in recipe.licence  # share alike
    else:
        assert recipe.settings.phrases


def test_what_a_head_learns_from_is_credited() -> None:
    """Every set of the training texts may be used; sets that only test need not be free."""
    unfree = ("sst2", "ag_news", "jigsaw_toxic", "asset", "tinystories", "shakespeare_modern", "brown", "ptb")
    for name in names():
        recipe = load_recipe(name)
        if recipe.train:
            texts = (*recipe.train.positive, *recipe.train.negative)
            assert not [t.part for t in texts if t.part.split("/")[0] in unfree], name


@pytest.mark.parametrize("name", [n for n in names() if load_recipe(n).kind == "head"])
def test_no_text_is_both_learned_from_and_tested_on(name: str) -> None:
    data, recipe = DataFolder.default(), load_recipe(name)
    if missing := [part for part in sorted(recipe.parts) if not data.has(part)]:
        pytest.skip(f"no data set {missing[0]} in {data.folder}")
    learned = {" ".join(e.text.split()) for e in recipe.examples(shared_rows)}
    assert len(learned) > 200
    for test, found in recipe.held_out(shared_rows).items():
        assert {e.is_positive for e in found} == {True, False}, test
        assert not [e for e in found if " ".join(e.text.split()) in learned], test


def test_a_recipe_is_what_its_digest_says() -> None:
    recipe = load_recipe("polite")
    assert recipe.digest == load_recipe(str(FOLDER / "polite.toml")).digest
    assert recipe.digest != recipe.model_copy(update={"version": "9.0.0"}).digest


def test_every_recipe_has_its_factor_on_the_shelf() -> None:
    """A recipe that changes must be built anew before it is shipped."""
    from factorlm.factors.store import read_manifest

    shelf = default_stores()[-1]
    assert set(shelf.names()) == set(names())
    for name in names():
        recipe, manifest = load_recipe(name), read_manifest(shelf.folder / name)
        assert manifest.data.recipe_digest == recipe.digest, f"factorlm factor build {name}"
        assert (manifest.version, manifest.kind) == (recipe.version, recipe.kind)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name = ", "a recipe in TOML is needed"),
        ('name = "x"\ndescription = "d"\nlicence = "MIT"\n', r"either \[train\] or \[\[lexicon\]\] is needed"),
        ('name = "X"\ndescription = "d"\nlicence = "MIT"\n', "cannot be used: name"),
        ('name = "x"\ndescription = "d"\nlicence = "MIT"\ntypo = 1\n', "typo"),
        ('name = "x"\nversion = "one"\ndescription = "d"\nlicence = "MIT"\n', "version"),
        (
            'name = "x"\ndescription = "d"\nlicence = "MIT"\n[train]\n'
            'positive = [{part = "a/b", matching = "(a"}]\nnegative = [{part = "a/c"}]\n',
            "not a regular expression",
        ),
    ],
)
def test_a_bad_recipe_ends_in_one_line(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(content)
    with pytest.raises(InputError, match=words) as caught:
        load_recipe(str(path))
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_lists_near_names(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="polite"):
        load_recipe("polit")
    with pytest.raises(InputError, match="No such file"):
        load_recipe(str(tmp_path / "none.toml"))
