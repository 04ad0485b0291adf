"""Grammars: masks against brute force over all token strings, laws, and what is refused."""

import itertools
import json
import math
import random
import re
import sys
from dataclasses import dataclass

import jsonschema
import pytest
import torch
from torch import Tensor

import factorlm as fl
from factorlm.algebra import Factor, State, global_product, laws, local_product, total_variation
from factorlm.errors import InputError
from factorlm.factors.grammar import Grammar, choice_grammar, json_grammar, lark_grammar, regex_grammar
from factorlm.inference import Particles, Sampling, sample_local, sample_particles
from factorlm.inference.local import Row
from factorlm.models import CausalLM
from factorlm.models.table import random_table
from factorlm.text import TextStream, Vocabulary, letters

# Sixty tokens over a, b and an accented letter of two bytes, which some tokens cut; the last one ends the text.
PIECES = ["a", "b", "é"]
STRINGS = ["".join(p) for n in (1, 2, 3) for p in itertools.product(PIECES, repeat=n)]
BYTES = [s.encode() for s in STRINGS] + [b"\xc3", b"\xa9", b"a\xc3", b"\xa9b", b"(", b")", b"((", b"))", b"()", b" "]
BYTES += [b",", b"[", b"]", b'"', b"{", b"}", b": ", b"1", b", ", b'"a"'][: 59 - len(BYTES)]
TOKENS = Vocabulary((*BYTES, b""), (len(BYTES),))
END = len(BYTES)

LANGUAGES: dict[str, tuple[str, str]] = {  # how we ask for it, and the same for Python's re
    "stars": (regex_grammar("a(b|é)*a"), "a(b|é)*a"),
    "one text": (regex_grammar("aab"), "aab"),
    "choices": (choice_grammar(["ab", "abé", "(a)"]), r"ab|abé|\(a\)"),
    "short": (regex_grammar("[ab(]{0,3}"), "[ab(]{0,3}"),
    "rules": (lark_grammar('start: item ("a" item)*\nitem: "b" | "(" start ")"'), ""),
}


def nested(text: str) -> bool:
    """start: item ("a" item)*; item: "b" | "(" start ")", by hand."""
    reduced = text
    while (shorter := re.sub(r"\(b(ab)*\)", "b", reduced)) != reduced:
        reduced = shorter
    return bool(re.fullmatch("b(ab)*", reduced))


def is_of(name: str, text: bytes) -> bool:
    try:
        characters = text.decode()
    except UnicodeDecodeError:
        return False
    return nested(characters) if name == "rules" else re.fullmatch(LANGUAGES[name][1], characters) is not None


def test_the_vocabulary_has_sixty_tokens() -> None:
    assert TOKENS.size == 60


@pytest.mark.parametrize("name", LANGUAGES)
def test_masks_against_brute_force(name: str) -> None:
    """Every text of at most four tokens is possible if and only if it begins some text of the language.

    Languages here have a short text behind every beginning, so that beginnings of at most four tokens are those of
    texts of at most LONGEST bytes, which are all written out.
    """
    longest_bytes = 12
    whole = _language(name, longest_bytes)
    beginnings = {text[:n] for text in whole for n in range(len(text) + 1)}
    factor = Grammar("g", LANGUAGES[name][0], TOKENS)
    reached: list[tuple[tuple[int, ...], bytes]] = [((), b"")]
    num_checked = 0
    for _ in range(4):
        further = []
        for tokens, text in reached:
            log_weight_V = factor._parsed(tokens).log_weight_V
            for token, part in enumerate(TOKENS.token_bytes):
                is_possible = bool(log_weight_V[token] > -math.inf)
                if token == END:
                    assert is_possible == (text in whole), (text, "end")
                    continue
                after = text + part
                if len(after) > (longest_bytes - 1) // 2:
                    continue  # its shortest text may be longer than those that are written out
                num_checked += 1
                assert is_possible == (after in beginnings), (text, part)
                if is_possible:
                    further.append(((*tokens, token), after))
        reached = further
    assert num_checked > 100


def _language(name: str, longest: int) -> set[bytes]:
    """All texts of the language of at most so many bytes, by hand; the pattern agrees with them."""
    if name == "stars":
        inner = (b"".join(p) for n in range(longest - 1) for p in itertools.product([b"b", "é".encode()], repeat=n))
        texts = {b"a" + i + b"a" for i in inner}
    elif name == "short":
        texts = {bytes(p) for n in range(4) for p in itertools.product(b"ab(", repeat=n)}
    elif name == "rules":
        texts = _nested(longest)
    else:
        texts = {"one text": {b"aab"}, "choices": {b"ab", "abé".encode(), b"(a)"}}[name]
    found = {text for text in texts if len(text) <= longest}
    assert all(is_of(name, text) for text in found)
    return found


def _nested(longest: int) -> set[bytes]:
    """By the rules themselves, until nothing new is short enough."""
    items, starts = {b"b"}, {b"b"}
    while True:
        items = items | {b"(" + s + b")" for s in starts if len(s) + 2 <= longest}
        joined = {s + b"a" + i for s in starts for i in items if len(s) + 1 + len(i) <= longest}
        if (items | joined) <= starts:
            return starts
        starts = starts | items | joined


@pytest.mark.parametrize("name", LANGUAGES)
def test_laws(name: str) -> None:
    factor = Grammar("g", LANGUAGES[name][0], TOKENS)
    log_weight_V = factor.start(torch.zeros(1, 1, dtype=torch.long)).log_weight_BV[0]
    first = int((log_weight_V[:END] == 0).nonzero()[0])
    laws.check(factor, prefixes=[[0], [1, 0]], texts=[[first, 1, END], [first, 0, 0]])


def test_masks_do_not_depend_on_what_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[Grammar.__module__], "KEPT_TEXTS", 3)
    small, large = (Grammar("g", LANGUAGES["rules"][0], TOKENS) for _ in range(2))
    opening, letter, closing, joint = (BYTES.index(b) for b in (b"(", b"b", b")", b"a"))
    for text in ([opening, letter, closing], [opening, opening, letter], [letter, joint, letter], [opening, letter]):
        monkeypatch.setattr(sys.modules[Grammar.__module__], "KEPT_TEXTS", 3)
        got = small._parsed(tuple(text)).log_weight_V
        monkeypatch.setattr(sys.modules[Grammar.__module__], "KEPT_TEXTS", 512)
        assert torch.equal(got, large._parsed(tuple(text)).log_weight_V)
    assert len(small._read) <= 4


def test_long_texts_and_odd_choices() -> None:
    long = Grammar("g", regex_grammar("a*"), TOKENS)
    assert long.is_whole([BYTES.index(b"a")] * 2000)
    tokens = Vocabulary((b'"', b"\x7f", b"\\", b""), (3,))
    odd = Grammar("g", choice_grammar(['"\\', "\x7f"]), tokens)
    assert odd.is_whole([0, 2])
    assert odd.is_whole([1])
    assert not odd.is_whole([0])
    with pytest.raises(InputError, match="ends a text"):
        Grammar("g", regex_grammar("a"), Vocabulary((b"a",), ()))


def test_impossible_stays_impossible() -> None:
    factor: Factor = Grammar("g", LANGUAGES["one text"][0], TOKENS)
    state = factor.start(torch.zeros(2, 1, dtype=torch.long))
    state = factor.extend(state, torch.tensor([BYTES.index(b"b"), BYTES.index(b"aa")]))
    assert bool((state.log_weight_BV[0] == -math.inf).all())
    state = factor.extend(state, torch.tensor([BYTES.index(b"b"), BYTES.index(b"b")]))
    assert bool((state.log_weight_BV[0] == -math.inf).all())
    assert state.log_weight_BV[1].exp().nonzero().flatten().tolist() == [END]
    for exponent in (0.0, -1.0, 2.0):
        raised = (factor**exponent).start(torch.zeros(1, 1, dtype=torch.long))
        assert torch.equal(raised.log_weight_BV > -math.inf, factor.start(torch.zeros(1, 1)).log_weight_BV > -math.inf)


def test_bad_grammars_are_refused() -> None:
    for make, argument, message in (
        (regex_grammar, "a(b", "regular expression"),
        (lark_grammar, "start: nowhere", "Lark"),
        (json_grammar, "{", "no JSON"),
        (json_grammar, "[1]", "object"),
        (json_grammar, {"type": "nothing"}, "schema"),
        (choice_grammar, [], "choices"),
        (choice_grammar, ["a", ""], "choices"),
        (lark_grammar, 'root ::= "a', "needed"),
        (regex_grammar, "a\udcff", "UTF-8"),
        (choice_grammar, ["a", "\udcff"], "UTF-8"),
        (json_grammar, {"enum": ["\udcff"]}, "schema"),
    ):
        with pytest.raises(InputError, match=message):
            make(argument)  # type: ignore[operator]


def test_json_is_written_as_python_writes_it() -> None:
    properties = {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}
    schema = {"type": "object", "properties": properties, "required": ["a", "b"], "additionalProperties": False}
    tokens = Vocabulary((*(bytes([b]) for b in range(32, 127)), b""), (95,))
    factor = Grammar("json", json_grammar(schema), tokens)
    for value, is_valid in (({"a": 3, "b": "x"}, True), ({"a": 3}, False), ({"a": "3", "b": "x"}, False)):
        text = tuple(b - 32 for b in json.dumps(value).encode())
        assert factor.is_whole(text) == is_valid
    assert not factor.is_whole(
        tuple(b - 32 for b in json.dumps({"a": 3, "b": "x"}, indent=1).replace("\n", " ").encode())
    )


# Whatever is written fits: random languages, and texts drawn evenly from the tokens that are possible.

ASCII = Vocabulary(
    (*(bytes([b]) for b in range(32, 127)), b'": ', b', "', b'{"', b'"}', b"true", b"12", b'", "', b""), (102,)
)


@dataclass(frozen=True, eq=False)
class Even(Factor):
    """The same weight for every token."""

    tokens: Vocabulary

    @property
    def vocabulary(self) -> Vocabulary:
        return self.tokens

    def start(self, prefix_BT: Tensor) -> State:
        return State(torch.zeros(prefix_BT.shape[0], self.tokens.size))

    def extend(self, state: State, token_B: Tensor) -> State:
        return state


def random_schema(draw: random.Random, depth: int = 0) -> dict:
    kinds = ["string", "integer", "boolean", "null", "number", "enum"] + ["object", "array"] * (depth < 2)
    kind = draw.choice(kinds)
    if kind == "string":
        return {"type": "string", "minLength": draw.randrange(3), "maxLength": 3 + draw.randrange(5)}
    if kind == "integer":
        return {"type": "integer", "minimum": -draw.randrange(50), "maximum": draw.randrange(5000)}
    if kind == "number":
        return {"type": "number", "minimum": 0, "maximum": 10 ** draw.randrange(4)}
    if kind == "enum":
        return {"enum": draw.sample(["a", "b c", 3, None, True, -1.5], 1 + draw.randrange(4))}
    if kind == "array":
        return {"type": "array", "items": random_schema(draw, depth + 1), "minItems": draw.randrange(2), "maxItems": 3}
    if kind == "object":
        names = draw.sample(["a", "b", "long name", "d"], 1 + draw.randrange(3))
        properties = {name: random_schema(draw, depth + 1) for name in names}
        required = [name for name in names if draw.random() < 0.6]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"type": kind}


def random_pattern(draw: random.Random, depth: int = 0) -> str:
    """In the dialect that Python and Rust share."""
    if depth > 2 or draw.random() < 0.3:
        return draw.choice(["a", "[a-f]", "x1", r"\d", r"\.", "[^a-z]", "(yes|no)"])
    parts = [random_pattern(draw, depth + 1) for _ in range(1 + draw.randrange(3))]
    return draw.choice(["{}", "({})?", "({}){{1,3}}", "({}|z)"]).format("".join(parts))


def written(grammar: Grammar, seed: int) -> tuple[str, str]:
    row = Row([0], torch.Generator().manual_seed(seed), TextStream())
    for _ in sample_local(Even(ASCII) * grammar, [row], max_tokens=400, sampling=Sampling()):
        pass
    return row.stream.text, row.finish_reason


@pytest.mark.parametrize("part", range(5))
def test_five_hundred_random_languages_are_never_left(part: int) -> None:
    """Fifty schemas and fifty patterns in each part; all texts end before the limit and fit."""
    for seed in range(50 * part, 50 * part + 50):
        draw = random.Random(seed)
        schema = random_schema(draw)
        text, reason = written(Grammar("json", json_grammar(schema), ASCII), seed)
        assert reason == "end", (schema, text)
        jsonschema.validate(json.loads(text), schema)
        pattern = random_pattern(draw)
        text, reason = written(Grammar("regex", regex_grammar(pattern), ASCII), seed)
        assert reason == "end", (pattern, text)
        assert re.fullmatch(pattern, text), (pattern, text)


def test_particles_and_a_grammar_sample_their_product() -> None:
    """Two letters and a language: the masked local product is biased, particles are not. By enumeration."""
    tokens = letters("ab")
    table = random_table("ab", 5, torch.Generator().manual_seed(3))
    product = table * Grammar("g", regex_grammar("ab|b[ab]b"), tokens, dtype=torch.float64)
    want = global_product(product, 5)
    assert {t for t, p in want.items() if p > 0} == {(0, 1, 2), (1, 0, 1, 2), (1, 1, 1, 2)}
    assert total_variation(local_product(product, 5), want) > 0.05
    found = sample_particles(
        product, [[]] * 100, [torch.Generator().manual_seed(n) for n in range(100)], max_tokens=6,
        particles=Particles(number=64), sampling=Sampling(),
    )  # fmt: skip
    law: dict[tuple[int, ...], float] = {}
    for population in found:
        for text, weight in zip(population.token_ids, population.weights, strict=True):
            law[text] = law.get(text, 0.0) + weight / len(found)
    assert total_variation(law, want) < 0.04


def test_one_language_at_a_time() -> None:
    for given in ({}, {"regex": "a", "choices": ["a"]}):
        with pytest.raises(InputError, match="one of json_schema"):
            fl.grammar(**given)


def test_a_grammar_waits_for_its_vocabulary(tiny_lm: CausalLM) -> None:
    model = fl.Model(tiny_lm, tiny_lm) * fl.grammar(rules='root ::= "good" | "bad" root')
    for response in model.generate("the", n=6, max_tokens=30):
        assert response.finish_reason == "length" or re.fullmatch("(bad)*good", response.text)
    choices = fl.Model(tiny_lm, tiny_lm) * fl.grammar(choices=["good", "a bad one"])
    assert {r.text for r in choices.generate("the", n=8, max_tokens=30)} <= {"good", "a bad one"}
