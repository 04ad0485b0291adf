"""Suites: what `factorlm eval` can run, by name. A new one is a file here and a line in the table."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

from factorlm.errors import UnknownNameError

if TYPE_CHECKING:
    from factorlm.evaluation.workbench import Findings, Workbench
    from factorlm.settings import Config

SUITES = {
    "quick": "A small form of all the others over one model, in one report.",
    "perplexity": "Bits per byte and perplexity of texts, by corpus, position and kind of word.",
    "generation": "Diversity, repetition, length, entropy and closeness to human text of what a model writes.",
    "control": "Attribute rates by independent judges against strength and against perplexity.",
    "toxicity": "Average maximum toxicity and its probability over several samples, by two local judges.",
    "capability": "What steering costs: common sense, truthfulness, arithmetic and reading.",
    "rivals": "Ours and other ways of steering, side by side: attribute rate against perplexity and variety.",
    "factorised": "Factors against one fine-tuned model and one instruction, as constraints are added.",
    "prior": "A distribution over models: rival worlds, evidence, real text, steering, layer selection.",
    "guided": "Steering by meaning: signals, control against other ways, two guides at once, latents, time.",
    "memory": "Memories of texts: likelihood, being unlike a corpus, written texts, imitation, drafts, retrieval.",
    "uncertainty": "How sure a model is of its answers: ranking, calibration, self-knowledge, recalibration.",
    "redteam": "Attacks by category, refusal balance, written test cases, a stand-in rule, a planted world.",
    "markers": "What words of certainty and doubt do to answers, which a model writes, and where that comes from.",
    "fairness": "Whether a planted bias is found again, and how sentences about groups differ in likelihood.",
    "robustness": "Slots found under typos, misheard words, chatter and mixtures, by taggers and by prompts.",
    "editing": "Facts written into weights, what that does to the rest, and what factors do instead.",
    "alignment": "A reward from preferences: best of n, weights, soft values, DPO and priors by what they cost.",
}  # each is a module of this package with `Settings` and `run`


class SizedSettings(Protocol):
    """The settings class of a suite."""

    def sized(self, size: str) -> Config:
        """The settings of a size: small or full."""


class Suite(Protocol):
    """A module that measures."""

    Settings: SizedSettings

    def run(self, bench: Workbench, settings: Config) -> Findings:
        """Measure the models on the bench."""


SIZES = ("small", "full")


def suite_named(name: str) -> Suite:
    """The module of a suite.

    Raises:
        UnknownNameError: if there is none; near names are listed.
    """
    if name not in SUITES:
        raise UnknownNameError.of("suite", name, SUITES)
    return cast(Suite, importlib.import_module(f"factorlm.evaluation.suites.{name}"))


def settings_of(name: str, size: str) -> Config:
    """The settings of a suite at a size.

    Raises:
        UnknownNameError: if there is no such suite or size.
    """
    if size not in SIZES:
        raise UnknownNameError.of("size", size, SIZES)
    return suite_named(name).Settings.sized(size)
