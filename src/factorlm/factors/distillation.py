"""Distilling any factor into a head: what an instruction, a word list or a second model changes, for 576 numbers.

The teacher is the model p(v|h) w(v|h)^a, normalised at each token; the student is p(v|h) exp(e_v . g(h)), and the mean
over states of KL(teacher || student) is made least. No text needs a label. For a head of rank zero the objective is
convex, with the exact slope E_student[e] - E_teacher[e]: at the optimum both mean embeddings agree, so the head moves
the next token, in the space of embeddings, just as far as its teacher does on average. A map of the state, on top,
follows the teacher where it moves different states differently.

Since related words have related embeddings, a head that was taught a few words pushes their relatives too.

Sources: matching prompted and unprompted distributions, Askell et al. (2021), arXiv:2112.00861 (context distillation);
moment matching in exponential families, Wainwright and Jordan (2008).
"""

# Axes: D width, N states, R rank, V vocabulary; n is a stretch of N.

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from factorlm.algebra import Factor, Power, log_mean
from factorlm.errors import InputError
from factorlm.factors.calibration import head_strengths, neutral_states
from factorlm.factors.convex import minimise
from factorlm.factors.examples import FEWEST_TEXTS, Example, fingerprint
from factorlm.factors.head import EncoderCard, HeadWeights
from factorlm.factors.lessons import MOST_STATES, WRITTEN_TOKENS, Lessons, neutral_texts, read_lessons
from factorlm.factors.manifest import DataCard, HeadSettings, Manifest, Source
from factorlm.factors.training import Description, Trained, data_card
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet

RELATIVE_STATES, LEAST_USUAL, TAUGHT = 16, 1e-6, 0.05  # where taught tokens are looked for; probability; nats
RIDGE = 1e-4  # nats for a unit of |g|^2 / 2
MAP_RATE, MAP_DECAY, MAP_EPOCHS, MAP_BATCH, PATIENCE = 3e-3, 1e-2, 20, 64, 3

EXPLAINED, DIVERGENCE = "share of the teacher's divergence explained", "teacher's divergence in nats per token"


def distil(
    lm: CausalLM,
    teacher: Factor,
    about: Description,
    *,
    texts: Sequence[str] = (),
    exponent: float = 1.0,
    rank: int = 0,
    most: int = MOST_STATES,
    seed: int = 0,
    report: Report = quiet,
) -> Trained:
    """Learn the head that does to the next token what another factor does, and say how much of it.

    Args:
        lm: the shared encoder.
        teacher: any factor bound to it: a prompt, a lexicon, a contrast, a head, or a product of them.
        about: what the card shall say; its label says what the teacher is.
        texts: in whose states the two are compared, beside those that the model and the teacher write; of more than
            those an even choice is taken.
        exponent: of the teacher; the head's exponent one then means this.
        rank: of a map of the state, learned on top of the bias; 0 learns none.
        most: states to compare in, a quarter of them only to say how well it went.
        seed: of the texts written, of those held out, and of first values.
        report: told of progress.

    Raises:
        InputError: if there are too few texts, or the teacher changes nothing in them.
    """
    if not 0 <= rank <= lm.width:
        raise InputError(f"a rank from 0 to the width {lm.width} of {lm.name} is needed, got {rank}; 0 is usual")
    if not math.isfinite(exponent) or exponent == 0:
        raise InputError(f"an exponent is a finite number other than 0, got {exponent}; 1 is the teacher as it is")
    start = time.perf_counter()
    teacher = teacher if exponent == 1 else Power(teacher, exponent)
    num_texts = max(FEWEST_TEXTS, -(-most // WRITTEN_TOKENS))
    own = neutral_texts(lm, teacher, num_texts=num_texts, seed=seed, report=report)
    theirs = texts[:: max(1, -(-len(texts) // len(own)))]
    written = time.perf_counter()
    shares = (0.6, 0.15, 0.25) if rank else (0.75, 0.25)
    train, *stop, held = read_lessons(lm, teacher, [*own, *theirs], shares, most=most, seed=seed, report=report)
    read = time.perf_counter()
    weights = HeadWeights.shift(fit_bias(lm, train))
    report("learning the bias", 1, 1)
    for held_back in stop:
        weights = fit_map(lm, weights.bias_D, train, held_back, rank=rank, seed=seed, report=report)
    divergence = float(held.divergence_N.mean())
    explained = 1 - divergence_from(lm, weights, held) / divergence
    learned = time.perf_counter()
    strengths = head_strengths(lm, weights)
    report("calibrating", 1, 1)
    manifest = Manifest(
        name=about.name,
        description=about.description,
        label=about.label,
        licence=about.licence,
        settings=HeadSettings(rank=weights.rank),
        encoder=EncoderCard(name=lm.name, fingerprint=lm.fingerprint, width=lm.width),
        strengths=strengths,
        data=_card(about, own, theirs),
        effect={EXPLAINED: round(explained, 4), DIVERGENCE: round(divergence, 4)},
        origin=about.label,
    )
    seconds = {"writing": written - start, "reading": read - written, "learning": learned - read}
    return Trained(manifest, weights, {**seconds, "calibrating": time.perf_counter() - learned})


def _card(about: Description, own: Sequence[str], theirs: Sequence[str]) -> DataCard:
    sources = about.sources or (("texts of the user", about.licence, ""),)
    written = Source(
        name="texts that the model and the teacher wrote",
        licence="output of the model",
        num_texts=len(own),
        fingerprint=fingerprint([Example(text, True) for text in own]),
    )
    given = data_card(replace(about, sources=sources), len(theirs), fingerprint([Example(t, True) for t in theirs]))
    return given.model_copy(update={"train": (written, *(given.train if theirs else ()))})


def fit_bias(lm: CausalLM, lessons: Lessons, *, ridge: float = RIDGE) -> Tensor:
    """The bias u [D] of the least mean KL(teacher || student), under a small penalty on its length."""

    def objective(bias_D: Tensor) -> tuple[Tensor, Tensor]:
        value, slope_D = cross_entropy(lm, bias_D, lessons)
        return value + ridge * bias_D @ bias_D / 2, slope_D + ridge * bias_D

    return minimise(objective, torch.zeros(lm.width, dtype=torch.float64), most_steps=200).float()


def cross_entropy(lm: CausalLM, bias_D: Tensor, lessons: Lessons) -> tuple[Tensor, Tensor]:
    """Mean KL(teacher || student) up to a constant, in nats, and its slope E_student[e] - E_teacher[e], [D].

    As a bias tilts all states alike, two products with the base's probabilities do, and none of [N, V, D].
    """
    table_VD = lm.unembedding_VD.detach().float()
    target_D = lessons.target_ND.double().mean(0).cpu()
    potential_V = table_VD @ bias_D.to(table_VD)
    largest = potential_V.max()  # taken out, so that no exponential overflows
    tilt_V = (potential_V - largest).exp()
    total_N = lessons.prob_NV @ tilt_V
    student_V = tilt_V * (lessons.prob_NV.T @ (1 / total_N)) / len(total_N)  # averaged over states
    value = (total_N.log().mean() + largest).double().cpu() - bias_D @ target_D
    return value, (student_V @ table_VD).double().cpu() - target_D


@torch.no_grad()
def divergence_from(lm: CausalLM, weights: HeadWeights, lessons: Lessons) -> float:
    """Mean KL(teacher || student) in nats per token, for a head as the student."""
    table_VD, weights = lm.unembedding_VD.detach().float(), weights.to(lm.device)
    left = []
    for part in torch.arange(len(lessons.hidden_ND)).split(MAP_BATCH):
        shift_nD = weights(lessons.hidden_ND[part])
        log_total_n = log_mean(shift_nD @ table_VD.T, lessons.prob_NV[part].log())
        left.append(lessons.divergence_N[part] - (lessons.target_ND[part] * shift_nD).sum(1) + log_total_n)
    return float(torch.cat(left).mean())


def fit_map(
    lm: CausalLM,
    bias_D: Tensor,
    train: Lessons,
    stop: Lessons,
    *,
    rank: int,
    seed: int = 0,
    report: Report = quiet,
) -> HeadWeights:
    """A head of this rank that begins as a bias: the epoch, none included, that comes closest where it stops."""
    generator = torch.Generator().manual_seed(seed)
    table_VD = lm.unembedding_VD.detach().float()
    mean_D, std_D = train.hidden_ND.mean(0), train.hidden_ND.std(0).clamp(min=1e-3)
    bias_D = bias_D.to(lm.device).clone().requires_grad_()
    up_DR = torch.zeros(lm.width, rank, device=lm.device, requires_grad=True)
    down_RD = (torch.randn(rank, lm.width, generator=generator) / lm.width**0.5).to(lm.device).requires_grad_()
    numbers = [bias_D, up_DR, down_RD]
    optimizer = torch.optim.AdamW(numbers, lr=MAP_RATE, weight_decay=MAP_DECAY)

    def folded() -> HeadWeights:
        with torch.no_grad():
            plain_RD = down_RD / std_D
            return HeadWeights(bias_D - up_DR @ (plain_RD @ mean_D), up_DR.clone(), plain_RD)

    best, waited = folded(), 0
    least = divergence_from(lm, best, stop)
    for epoch in range(MAP_EPOCHS):
        for part in torch.randperm(len(train.hidden_ND), generator=generator).split(MAP_BATCH):
            low_nR = ((train.hidden_ND[part] - mean_D) / std_D) @ down_RD.T
            shift_nD = bias_D + low_nR @ up_DR.T
            with torch.no_grad():  # the slope of log Z is the student's mean embedding
                student_nV = (
                    train.prob_NV[part]
                    * (potential_nV := shift_nD @ table_VD.T).sub(potential_nV.amax(1, keepdim=True)).exp()
                )
                slope_nD = student_nV @ table_VD / student_nV.sum(1, keepdim=True) - train.target_ND[part]
            optimizer.zero_grad()
            shift_nD.backward(slope_nD / len(part))
            torch.nn.utils.clip_grad_norm_(numbers, 1.0)
            optimizer.step()
        left = divergence_from(lm, folded(), stop)
        report("learning the map", epoch + 1, MAP_EPOCHS)
        if left < least:
            best, least, waited = folded(), left, 0
        elif (waited := waited + 1) == PATIENCE:
            break
    report("learning the map", MAP_EPOCHS, MAP_EPOCHS)
    return HeadWeights(best.bias_D.cpu(), best.up_DR.cpu(), best.down_RD.cpu())


def relatives(lm: CausalLM, weights: HeadWeights, teacher: Factor, count: int = 12) -> list[tuple[str, float]]:
    """Words that the head pushes most although its teacher does not, with the push in nats: how it generalises.

    Args:
        lm: the shared encoder.
        weights: of the head.
        teacher: bound to the encoder.
        count: how many words.
    """
    states = neutral_states(lm)
    usual_V = states.log_prob_NV.exp().mean(0)
    few = states.prefix_NT[:RELATIVE_STATES]
    taught_V = teacher.start(few.to(lm.device)).log_weight_BV.amax(0)
    push_V = lm.unembed(weights.to(lm.device)(states.hidden_ND)).mean(0)
    push_V = push_V - (push_V * usual_V).sum()
    push_V[(usual_V < LEAST_USUAL) | (taught_V > TAUGHT)] = -torch.inf
    words: dict[str, float] = {}
    for token in push_V.argsort(descending=True).tolist():
        word = lm.vocabulary.token_bytes[token].decode("utf-8", "replace")
        if len(words) == count or float(push_V[token]) <= 0:
            break
        if word[:1] == " " and word[1:].isalpha() and len(word) > 3:
            words.setdefault(word[1:].lower(), round(float(push_V[token]), 2))
    return list(words.items())
