"""Compositions as text: "smollm2 * positive^2 / toxic" for the command line, presets and servers; see `syntax`."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from factorlm.algebra import Factor, Interpolation, Intersection, LocalProduct, Mixture, Named, Power, Product, Union
from factorlm.errors import InputError, UnknownNameError
from factorlm.factors import bind, factor, grammar, lexicon, prompt
from factorlm.factors.grammar import read_rules
from factorlm.factors.store import MANIFEST, default_stores, folder_of, read_manifest
from factorlm.inference.memory_names import parted
from factorlm.inference.model import Model
from factorlm.inference.strengths import exponent_of
from factorlm.inference.syntax import TOKENS, Call, Leaf, Node, Raised, inside, parse
from factorlm.models import CausalLM
from factorlm.models.download import file_sha256
from factorlm.models.fetch import MODELS
from factorlm.models.loading import load_model, load_present
from factorlm.prior import Prior, is_prior
from factorlm.prior.files import MANIFEST as PRIOR
from factorlm.prior.files import read_manifest as read_prior

if TYPE_CHECKING:
    from factorlm.memory import Memory

MEMORY = "index.json"  # the card of a memory; its room is dear to import
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, eq=False)
class Composed:
    """A composition with its text and everything that its numbers depend on.

    Attributes:
        expression: as it can be typed again.
        model: the composition.
        parts: of each model and factor: name, kind, version (of a model: its number format) and fingerprint.
        fingerprint: of expression, parts and number format; equal fingerprints give equal numbers.
    """

    expression: str
    model: Model
    parts: tuple[dict[str, str], ...]
    fingerprint: str


def compose(expression: str, *, dtype: str = "auto", device: str = "auto") -> Composed:
    """The model that an expression describes.

    Args:
        expression: such as "smollm2 * positive^2 / toxic"; see the head of this file. A folder or a hub name alone
            needs no quotes.
        dtype: of the models; see `factorlm.load`.
        device: of the models.

    Raises:
        InputError: if it cannot be read, or has no language model.
        UnknownNameError: if a name is neither a model nor a factor.
        IncompatibleError: if a factor was made for another model.
    """
    tree = Leaf(expression, is_quoted=True) if _is_place(expression) else parse(expression)

    def load(name: str) -> CausalLM:
        if is_prior(name):
            return load_present(read_prior(name).base.name, dtype=dtype, device=device)
        return load_model(name, dtype=dtype, device=device)

    builder = _Builder(load)
    first = builder.first_model(tree)
    if first is None:
        raise InputError(f"a language model is needed in {expression!r}, got only factors; write smollm2 * {tree}")
    lm = builder.lm = builder.load(first)
    built = builder.build(tree)
    _ = built.vocabulary  # models with other tokens are refused here, not at the first use
    digest = hashlib.sha256(f"{tree} {lm.model.dtype} {lm.device.type}".encode())
    for part in builder.parts.values():
        digest.update(part["fingerprint"].encode())
    return Composed(str(tree), Model(built, lm), tuple(builder.parts.values()), digest.hexdigest()[:16])


def _is_place(text: str) -> bool:
    """Whether this is the folder or hub name of one model, rather than a quotient of two names."""
    owner, _, rest = text.partition("/")
    if os.sep in text and Path(text).is_dir():
        return True
    is_hub_name = HUB_NAME.fullmatch(text) is not None
    return is_hub_name and not (_is_known(owner) or _is_known(re.split(r"[\^=]", rest)[0]))


def _is_known(name: str) -> bool:
    return name in MODELS or any(name in store.names() for store in default_stores())


def written(name: str) -> str:
    """A name as an expression holds it: quoted if it has other signs in it."""
    found = TOKENS.fullmatch(name)
    return str(Leaf(name, is_quoted=not (found and found.lastgroup == "name")))


def factor_part(name: str) -> dict[str, str]:
    """Name, kind, version and fingerprint of a factor of the store."""
    folder = folder_of(name)
    manifest = read_manifest(folder)
    fingerprint = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()[:16]
    return {"name": name, "kind": manifest.kind, "version": manifest.version, "fingerprint": fingerprint}


@dataclass
class _Builder:
    """Turns a tree into factors over the language model found first."""

    load: Callable[[str], CausalLM]
    lm: CausalLM | None = None
    parts: dict[str, dict[str, str]] = field(default_factory=dict)

    def first_model(self, node: Node) -> str | None:
        """The name of the first language model in reading order, checking every name on the way."""
        if isinstance(node, Leaf):
            return node.text if _kind_of(node.text) == "model" else None
        if isinstance(node, Raised):
            return self.first_model(node.part)
        if isinstance(node, Call) and node.name not in FUNCTIONS:
            raise UnknownNameError.of("function", node.name, FUNCTIONS)
        if isinstance(node, Call) and node.name in TEXT_FUNCTIONS:
            return None
        found = [self.first_model(part) for part in node.parts]
        return next((name for name in found if name is not None), None)

    def build(self, node: Node) -> Factor:
        assert self.lm is not None
        if isinstance(node, Leaf):
            return self._leaf(node.text)
        if isinstance(node, Call):
            return FUNCTIONS[node.name](self, node)
        if isinstance(node, Raised):
            part = self.build(node.part)
            if node.sign == "^":
                return Power(part, node.number)
            if self.first_model(node.part) is not None:
                raise InputError(f"only a factor has a strength, got {node}; write {inside(node.part, node)}^...")
            return Power(part, exponent_of(self.lm, part, node.number))
        parts = [self.build(part) for part in node.parts]
        if node.signs[0] in "|&":
            return (Union if node.signs[0] == "|" else Intersection)(tuple(parts))
        terms = [
            part if sign == "*" else Power(part, -1.0) for part, sign in zip(parts, ("*", *node.signs), strict=True)
        ]
        # The first term of a product is its base, whose distribution the others change.
        is_base = [
            sign == "*" and self.first_model(part) is not None
            for part, sign in zip(node.parts, ("*", *node.signs), strict=True)
        ]
        if any(is_base):
            first = is_base.index(True)
            terms = [terms[first], *terms[:first], *terms[first + 1 :]]
        return Product(tuple(terms))

    def _leaf(self, name: str) -> Factor:
        assert self.lm is not None
        if is_prior(name):
            prior = Prior.load(name, self.lm)
            number = str(prior.lm.model.dtype).removeprefix("torch.")
            fingerprint = file_sha256(Path(name) / PRIOR)[:16]
            self.parts[name] = {"name": name, "kind": "prior", "version": number, "fingerprint": fingerprint}
            return prior.mixture
        if _kind_of(name) == "model":
            lm = self.load(name)
            number = str(lm.model.dtype).removeprefix("torch.")
            self.parts[name] = {"name": name, "kind": "model", "version": number, "fingerprint": lm.fingerprint}
            return lm
        if _kind_of(name) == "memory":
            from factorlm.inference.memories import MULTIPLIED_WEIGHT, memory_factor

            return memory_factor(self.lm, self._memory(name, MULTIPLIED_WEIGHT))
        self.parts[name] = factor_part(name)
        return bind(factor(name), self.lm)

    def _memory(self, name: str, most: float) -> Memory:
        """The memory in a folder."""
        from factorlm.inference.memories import memory_at

        assert self.lm is not None
        fingerprint = file_sha256(parted(name)[0] / MEMORY)[:16]
        memory = memory_at(name, self.lm, most)
        self.parts[name] = {"name": name, "kind": "memory", "version": f"{most:g}", "fingerprint": fingerprint}
        return memory

    def mean(self, node: Call) -> Factor:
        """A mixture or an interpolation."""
        weights = [1.0 if number is None else number for number in node.numbers]
        if any(not (0 <= w < math.inf) for w in weights) or sum(weights) == 0:
            raise InputError(f"weights are positive numbers, got {node}")
        built = tuple(self.build(part) for part in node.parts)
        models = tuple(LocalProduct.of(b) for b in built)
        shares = tuple(w / sum(weights) for w in weights)
        if node.name == "mix":
            return Named("mixture", Mixture(models, shares))
        return Named("interpolation", Interpolation(models, shares))

    def words(self, node: Call) -> Factor:
        """A lexicon made on the spot: words with boosts in nats, or banned."""
        assert self.lm is not None
        ban = node.name == "ban"
        phrases = _texts(node)
        if ban and any(number is not None for number in node.numbers):
            raise InputError(f"a ban has no boosts, got {node}")
        boosts = {p: 2.0 if number is None else number for p, number in zip(phrases, node.numbers, strict=True)}
        return bind(lexicon(phrases, ban=True) if ban else lexicon(boosts), self.lm)

    def instruction(self, node: Call) -> Factor:
        """What reading an instruction first changes."""
        assert self.lm is not None
        texts = _texts(node)
        if len(texts) != 1 or node.numbers != (None,):
            raise InputError(f"one instruction is needed, got {node}")
        return bind(prompt(texts[0]), self.lm)

    def language(self, node: Call) -> Factor:
        """Texts of a formal language: a pattern, some choices, or the rules in a file."""
        assert self.lm is not None
        texts = _texts(node)
        if any(number is not None for number in node.numbers) or (node.name != "choice" and len(texts) != 1):
            raise InputError(f"{node.name} takes {'texts' if node.name == 'choice' else 'one text'}, got {node}")
        if node.name == "choice":
            return bind(grammar(choices=texts), self.lm)
        if node.name == "regex":
            return bind(grammar(regex=texts[0]), self.lm)
        rules = read_rules(Path(texts[0]))
        digest = hashlib.sha256(rules.encode()).hexdigest()[:16]
        self.parts[texts[0]] = {"name": texts[0], "kind": "grammar", "version": "", "fingerprint": digest}
        return bind(grammar(json_schema=rules) if node.name == "json" else grammar(rules=rules), self.lm)

    def remember(self, node: Call) -> Factor:
        """A composition with memories mixed into its base, each with the largest weight it may have."""
        from factorlm.inference.memories import remember

        assert self.lm is not None
        whole, *memories = zip(node.parts, node.numbers, strict=True)
        if whole[1] is not None or not memories:
            raise InputError(
                f'a composition and its memories are needed, as in remember(smollm2, "idx": 0.3), got {node}'
            )
        model = Model(self.build(whole[0]), self.lm)
        for part, number in memories:
            if not isinstance(part, Leaf) or _kind_of(part.text) != "memory":
                raise InputError(
                    f"the folder of a memory is needed, got {part} in {node}; factorlm index build makes one"
                )
            model = remember(model, self._memory(part.text, 1.0 if number is None else number))
        return model.factor

    def local(self, node: Call) -> Factor:
        """A product normalised at each token."""
        if len(node.parts) != 1:
            raise InputError(f"one composition is needed, got {node}")
        return LocalProduct(self.build(node.parts[0]))


FUNCTIONS: dict[str, Callable[[_Builder, Call], Factor]] = {
    "mix": _Builder.mean,
    "interpolate": _Builder.mean,
    "remember": _Builder.remember,
    "local": _Builder.local,
    "lexicon": _Builder.words,
    "ban": _Builder.words,
    "prompt": _Builder.instruction,
    "regex": _Builder.language,
    "choice": _Builder.language,
    "json": _Builder.language,
    "grammar": _Builder.language,
}
TEXT_FUNCTIONS = (
    "lexicon",
    "ban",
    "prompt",
    "regex",
    "choice",
    "json",
    "grammar",
)  # their arguments are texts, not names


def _texts(node: Call) -> list[str]:
    if not all(isinstance(part, Leaf) for part in node.parts):
        raise InputError(f"{node.name} takes quoted texts, got {node}")
    return [part.text for part in node.parts if isinstance(part, Leaf)]


def _kind_of(name: str) -> str:
    """Whether a name or folder is a model, a factor or a memory.

    Raises:
        UnknownNameError: if it is neither.
    """
    factors = {n for store in default_stores() for n in store.names()}
    if name in MODELS:
        return "model"
    if name in factors or (Path(name) / MANIFEST).is_file():
        return "factor"
    if (parted(name)[0] / MEMORY).is_file():
        return "memory"
    if Path(name).is_dir() or (name.count("/") == 1 and not name.startswith((".", "/", "~"))):
        return "model"
    raise UnknownNameError.of(
        "model or factor", name, {*MODELS, *factors}, "factorlm factor list and factorlm models list show all"
    )
