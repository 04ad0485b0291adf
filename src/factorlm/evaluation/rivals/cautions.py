"""What the numbers of ours and its rivals cannot bear, in a sentence each."""

from __future__ import annotations

from factorlm.evaluation.rivals import activation
from factorlm.evaluation.rivals.frontier import nearest_pair
from factorlm.evaluation.rivals.methods import Method
from factorlm.evaluation.rivals.sections import Work, number
from factorlm.factors.store import folder_of, read_manifest

USUAL_SAMPLES = 25  # of measures of toxicity, Gehman et al. (2020)
NEAR = 1.05  # times another price is the same price
SAME_ENCODER = "minilm"


def cautions(work: Work) -> list[str]:
    """All that hold for what was measured."""
    settings, dials, found = work.settings, work.settings.dials, []
    if work.num_prompts < 100:
        found.append(
            f"With {work.num_prompts} prompts a share near one half is known to about "
            f"±{1 / work.num_prompts**0.5:.0%}: the frontier by value is no ranking."
        )
    same = [judge.name for judge in work.judges if getattr(judge.card.features, "encoder", "") == SAME_ENCODER]
    readers = ["the classifier of arithmetic"] if dials.arithmetic else []
    readers += ["the classifier that chose the layer of activation"] if dials.activation else []
    if same and readers:
        decides = ", which decides here" if work.judges[0].name in same else ""
        found.append(
            f"The judge {', '.join(same)}{decides}, reads the sentence encoder {SAME_ENCODER}; so does "
            f"{', and so does '.join(readers)}, which favours them there; they learned from other texts."
        )
    found += _own_ways(work)
    if work.lower_is_better and work.num_samples != USUAL_SAMPLES:
        found.append(
            f"The maximum is over {work.num_samples} samples; published figures use {USUAL_SAMPLES} and are higher."
        )
    far = [m.name for m in work.methods[1:] for part in work.bases if not _meets(work, part, m)]
    if far:
        found.append(
            f"No setting of {', '.join(dict.fromkeys(far))} near {settings.prices[0]:g}x lies within {NEAR - 1:.0%} of "
            "the price of ours there: the tests compare unequal prices; set its dial otherwise."
        )
    return [*found, _learned(work)]


def _own_ways(work: Work) -> list[str]:
    """Where rivals do not have all that their papers gave them."""
    dials = work.settings.dials
    without = [name for name, doses in (("DExperts", dials.dexperts), ("GeDi", dials.gedi)) if doses]
    found = []
    if without:
        found.append(
            f"{' and '.join(without)} run without the filters of next tokens in their papers: truncation comes after "
            "the composition, as for all, which costs them fluency at strong settings."
        )
    looking = [name for name, doses in (("FUDGE", dials.fudge), ("arithmetic", dials.arithmetic)) if doses]
    if looking:
        found.append(
            f"{' and '.join(looking)} look at the 50 likeliest next tokens of the base (FUDGE's paper at 200); the "
            "others keep their probability."
        )
    if dials.prompting and not work.bench.models[0].model.lm.tokenizer.chat_template:
        found.append(
            "The model has no chat template: instructions are plain text before the prompt, which a model made for "
            "conversations would follow better."
        )
    return found


def _learned(work: Work) -> str:
    """Who learned from how many texts."""
    data = read_manifest(folder_of(work.settings.factor or work.goal.label)).data
    num_ours = max((source.num_texts for source in data.train), default=0)
    own = f" and from {data.own_texts} texts that the model wrote, which no rival used" if data.own_texts else ""
    num_whole = len(work.whole.train) + len(work.whole.dev)
    num_used = len(work.parts.train) + len(work.parts.dev)
    theirs = (
        f"rivals from all {num_whole} different ones of these"
        if num_used == num_whole
        else f"rivals from fewer, {num_used} of {num_whole} different ones"
    )
    some = []
    if work.settings.dials.prompting:
        some.append("prompting learned from none")
    if work.settings.dials.activation:
        some.append(f"activation takes means over at most {activation.MOST_TEXTS} of each class")
    return (
        f"Ours learned from {num_ours} labelled texts ({work.goal.sets}){own}; {theirs}, a share of which is held out "
        f"by ours and by rivals alike{''.join(f'; {line}' for line in some)}. Dials and training were set by us, by a "
        "first look at small runs."
    )


def _meets(work: Work, part: str, method: Method) -> bool:
    base = work.bases[part]
    pair = nearest_pair(work.points[part, work.methods[0].name], work.points[part, method.name], base,
                        work.settings.prices[0])  # fmt: skip
    if pair is None:
        return False
    ratio = number(pair[0].price(base)) / number(pair[1].price(base))
    return 1 / NEAR <= ratio <= NEAR
