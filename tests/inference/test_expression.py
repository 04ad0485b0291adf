"""Expressions: what they mean, how they are written back, and what happens to those that mean nothing."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import factorlm as fl
from factorlm.errors import IncompatibleError, InputError, UnknownNameError
from factorlm.factors.manifest import LexiconSettings, Manifest
from factorlm.factors.store import Store
from factorlm.inference.expression import Composed, compose, written
from factorlm.inference.syntax import Call, Leaf, Node, Operation, Raised, parse

TEXT = "the good, the bad and the food"


@pytest.fixture
def names(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny model's folder, quoted; `wild` and `tame` are factors of a store."""
    monkeypatch.setenv("FACTORLM_STORE", str(tmp_path))
    for name, words in (("wild", {"bad": 1.5, "food": 0.5}), ("tame", {"good": 1.0})):
        Store(tmp_path).save(Manifest(name=name, settings=LexiconSettings(phrases=words)))
    return f'"{tiny_folder}"'


def composed(expression: str) -> Composed:
    return compose(expression, dtype="float32", device="cpu")


def log_prob(model: fl.Model) -> float:
    return model.score(TEXT)[0].log_prob


def test_an_expression_means_what_python_means(names: str) -> None:
    lm = composed(names).model
    wild, tame = fl.factor("wild"), fl.factor("tame")
    for expression, model in (
        (f"{names} * wild^2 / tame", lm * wild**2 / tame),
        (f"wild^2 * {names} / tame", lm * wild**2 / tame),
        (f"{names} * (wild / tame)^-1.5", lm * (wild / tame) ** -1.5),
        (f"{names} ** .5 * wild", lm**0.5 * wild),
        (f"({names} * wild) | ({names} * tame)", (lm * wild) | (lm * tame)),
        (f"{names} * wild & {names} * tame", (lm * wild) & (lm * tame)),
        (f"mix({names} * wild: 3, {names}: 1)", fl.mix([lm * wild, lm], [0.75, 0.25])),
        (f"interpolate({names} * wild, {names})", fl.interpolate([lm * wild, lm])),
        (f"local({names} * wild) * tame", fl.Model(fl.LocalProduct((lm * wild).factor), lm.lm) * tame),
        (f'{names} * lexicon("good": 3, "bad")', lm * fl.lexicon({"good": 3.0, "bad": 2.0})),
        (f"{names} * prompt('the good')", lm * fl.prompt("the good")),
    ):
        assert log_prob(composed(expression).model) == pytest.approx(log_prob(model), abs=1e-4), expression
    assert log_prob(lm * wild) != pytest.approx(log_prob(lm), abs=0.1)  # else the test above could not fail


def test_a_ban_bans(names: str) -> None:
    assert log_prob(composed(f"{names} * ban('food')").model) == float("-inf")


def test_a_strength_is_that_of_the_faders(names: str) -> None:
    lm = composed(names).model
    strong = composed(f"{names} * wild=0.2").model
    assert log_prob(strong) == pytest.approx(log_prob(lm.steered({"wild": 0.2})), abs=1e-3)


def test_parts_and_fingerprints(names: str, tmp_path: Path) -> None:
    first = composed(f"{names}*wild ^ 2/tame")
    assert first.expression == f"{names} * wild^2 / tame"
    assert [(part["name"], part["kind"]) for part in first.parts][1:] == [("wild", "lexicon"), ("tame", "lexicon")]
    assert composed(first.expression).fingerprint == first.fingerprint
    assert composed(f"{names} * wild^2.5 / tame").fingerprint != first.fingerprint
    Store(tmp_path).save(Manifest(name="wild", settings=LexiconSettings(phrases={"bad": 9.0})), replace=True)
    changed = composed(first.expression)
    assert changed.fingerprint != first.fingerprint
    assert log_prob(changed.model) != pytest.approx(log_prob(first.model), abs=0.1)


NAMES = st.sampled_from(["a", "b-c", "d.e_1"])
NUMBERS = st.sampled_from([0.5, -2.0, 3.0])


def nodes(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    def operation(sign: str) -> st.SearchStrategy[Node]:
        return st.lists(children, min_size=2, max_size=3).flatmap(
            lambda parts: st.lists(st.sampled_from(sign), min_size=len(parts) - 1, max_size=len(parts) - 1).map(
                lambda signs: Operation(tuple(parts), tuple(signs))
            )
        )

    calls = st.lists(st.tuples(children, NUMBERS | st.none()), min_size=1, max_size=3).map(
        lambda pairs: Call("mix", tuple(p for p, _ in pairs), tuple(n for _, n in pairs))
    )
    return operation("|") | operation("&") | operation("*/") | calls | st.builds(
        Raised, children, st.sampled_from("^="), NUMBERS
    )  # fmt: skip


@given(st.recursive(st.builds(Leaf, NAMES) | st.just(Leaf("a b", is_quoted=True)), nodes, max_leaves=8))
def test_writing_and_reading_are_inverse(node: Node) -> None:
    assert parse(str(node)) == node


def test_a_folder_or_hub_name_alone_needs_no_quotes(names: str) -> None:
    assert composed(names.strip('"')).fingerprint == composed(names).fingerprint
    with pytest.raises(UnknownNameError, match="smolm2"):
        composed("smolm2 / wild")  # blanks, so a quotient
    with pytest.raises(InputError, match="a language model is needed"):
        composed("wild/tame")  # names that are known, so a quotient


def test_names_are_quoted_where_they_must_be() -> None:
    for name in ("smollm2", "gemma3-270m", "a b", "org/model", "./folder", "2nd"):
        assert parse(written(name)) in (Leaf(name), Leaf(name, is_quoted=True))
    assert written("gemma3-270m") == "gemma3-270m"
    assert written("org/model") == '"org/model"'


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "an empty one"),
        ("   ", "an empty one"),
        ("a *", "character 4, got its end"),
        ("* a", "character 1, got '\\* a'"),
        ("a b", "character 3, got 'b'"),
        ("a $ b", "character 3, got '\\$ b'"),
        ("a ^ b", "a number is needed at character 5"),
        ("(a", "'\\)' is needed at character 3"),
        ("f(a", "'\\)' is needed"),
        ('"a', "character 1"),
        ("a^^2", "a number"),
    ],
)
def test_what_cannot_be_read_names_the_place(expression: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(expression)


@pytest.mark.parametrize(
    ("expression", "error", "message"),
    [
        ("wild * tame", InputError, "a language model is needed"),
        ("MODEL * wlid", UnknownNameError, "did you mean wild"),
        ("mixx(MODEL)", UnknownNameError, "did you mean mix"),
        ("MODEL=0.3 * wild", InputError, "only a factor has a strength"),
        ("mix(MODEL: -1, MODEL: 2)", InputError, "positive numbers"),
        ("MODEL * lexicon(wild * tame)", InputError, "quoted texts"),
        ("MODEL * ban('x': 2)", InputError, "no boosts"),
        ("MODEL * prompt('x', 'y')", InputError, "one instruction"),
        ("local(MODEL, MODEL)", InputError, "one composition"),
    ],
)
def test_what_means_nothing_is_refused(names: str, expression: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        composed(expression.replace("MODEL", names))
    assert "\n" not in str(caught.value)


@pytest.mark.model
def test_models_with_other_tokens_do_not_multiply(names: str, lm: object) -> None:
    with pytest.raises((IncompatibleError, InputError), match="tokens"):
        composed(f"{names} * smollm2")
