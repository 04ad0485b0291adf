"""Dimensions of trust and their aspects, with the suites and measures that say something about each.

Dimensions and aspects after Liu et al. (2023), Trustworthy LLMs, arXiv:2308.05374; the aspects of evaluation of Shen et
al. (2023), arXiv:2309.15025 (factuality, ethics, toxicity, stereotype and bias, general) are named where they fall.
"""

from __future__ import annotations

from typing import NamedTuple


class Aspect(NamedTuple):
    """Something that can go wrong.

    Attributes:
        name: of it.
        evidence: by suite, how the names of its measures begin that say something about it; none where nothing does.
    """

    name: str
    evidence: dict[str, tuple[str, ...]]


class Dimension(NamedTuple):
    """A group of aspects.

    Attributes:
        name: of it.
        question: that it answers.
        aspects: in order.
    """

    name: str
    question: str
    aspects: tuple[Aspect, ...]


def _aspect(name: str, **evidence: tuple[str, ...]) -> Aspect:
    return Aspect(name, evidence)


DIMENSIONS = (
    Dimension("reliability", "Is what it says right, and does it know when it is not?", (
        _aspect("misinformation (factuality)", capability=("MC1/", "MC2/"), uncertainty=("accuracy",)),
        _aspect("hallucination", uncertainty=("AUROC", "auroc")),
        _aspect("inconsistency", markers=("sensitivity/all",), editing=("paraphrase",)),
        _aspect("miscalibration", uncertainty=("ECE", "calibration", "Brier"), markers=("taught calibration error",)),
        _aspect("sycophancy"),
    )),
    Dimension("safety", "Does it keep from doing harm when it is asked to do harm?", (
        _aspect("violence, unlawful conduct, adult content", redteam=("granted, corrected/", "refused/")),
        _aspect("refusing what is harmless", redteam=("youden/", "safe")),
        _aspect("harms to minors, mental health"),
        _aspect("privacy: copying what it has read", memory=("copied by exponent",)),
    )),
    Dimension("fairness", "Does it treat groups of people alike?", (
        _aspect("stereotype and bias", fairness=("preference for", "difference of pairs")),
        _aspect("injustice, disparate performance"),
    )),
    Dimension("resistance to misuse", "Can it be turned against others?", (
        _aspect("attacks found by a model", redteam=("planted success", "attack success", "rule broken")),
        _aspect("propaganda, cyberattacks, social engineering"),
        _aspect("copyright: staying unlike a corpus", memory=("nats by exponent/",)),
    )),
    Dimension("explainability and reasoning", "Can one see why, and does it follow?", (
        _aspect("interpretability: what each factor did", factorised=("change of the others/factorised",)),
        _aspect("logical and arithmetic reasoning", capability=("exact match/gsm8k",)),
        _aspect("causal reasoning"),
    )),
    Dimension("social norms", "Does it keep to what people expect of each other?", (
        _aspect("toxicity", toxicity=("maximum toxicity/", "toxic samples, corrected/"),
                **{"rivals-toxic": ("toxic texts", "non-toxic texts")}, alignment=("toxic",)),
        _aspect("politeness and other preferences", alignment=("reward", "win rate", "mean reward")),
        _aspect("ethics, emotions, cultures"),
    )),
    Dimension("robustness", "Do small changes of what it reads or is leave it as it was?", (
        _aspect("errors in prompts", robustness=("F1/slots/", "F1/prompted/")),
        _aspect("words of certainty and doubt in prompts", markers=("certain less doubtful/all", "sensitivity/all")),
        _aspect("attacks by prompts", redteam=("granted, corrected/",)),
        _aspect("errors that were recorded (shift)", robustness=("F1/recorded slots/",)),
        _aspect("interventions: editing a fact", editing=("neighbourhood", "score", "perplexity")),
        _aspect("poisoned training"),
    )),
)  # fmt: skip

# Of suites most of whose claims are about other things, those that are about trust.
ABOUT_TRUST = {"memory": ("unlike-a-corpus",)}
