"""Moving a head to another model's hidden space without labels.

A head is g(h) = c + U (V h), read through the unembedding: phi(v|h) = e_v . g(h). In the new model every token v that
the old vocabulary holds too has a known potential for each column of (c, U); the new columns are those whose
potentials come nearest, over the tokens that the new model writes and up to a constant. V reads states; the new V is
the linear map that best foretells V h from the new model's state at the same place of the same text. Both are ridge
regressions, and since these are linear in what they foretell, the first is the same as mapping one embedding table
onto the other and carrying the head along.

Source: steers transferred by a linear map between embedding tables, Han et al. (2024), arXiv:2305.12798.
"""

# Axes: B texts, D width of the old model, K columns (bias and rank), N places, R rank, S shared tokens, V vocabulary,
# W width of the new model.

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from factorlm.errors import IncompatibleError, InputError
from factorlm.factors.build import build
from factorlm.factors.calibration import auc, calibrate, evidence, head_strengths, neutral_states
from factorlm.factors.examples import Example, evenly, fingerprint, split
from factorlm.factors.features import encode
from factorlm.factors.head import EncoderCard, Head, HeadWeights, UnboundHead
from factorlm.factors.manifest import Calibration, DataCard, Manifest, Source
from factorlm.factors.potentials import own_texts
from factorlm.factors.recipe import Recipe, Rows
from factorlm.factors.regression import ridge
from factorlm.factors.response import Judge, sentence_judge
from factorlm.factors.separation import separation
from factorlm.factors.store import Store, load
from factorlm.factors.training import ERROR, Trained, effect_key
from factorlm.models import CausalLM
from factorlm.models.alignment import paired_states, shared_tokens
from factorlm.models.progress import Report, quiet

NUM_FOLDS = 5
CHUNK_ROWS = 4096
FEWEST_SHARED = 20  # tokens; below that a fit says nothing
FEWEST_PLACES = 50
PER_OPENING, NUM_TOKENS = 4, 32  # of the texts that either model writes for a head that reads states
COMPARED_PLACES = 200
MOST_TESTED = 300  # labelled texts that are read with either model
CORRELATION = "ported: correlation of potentials, held out"
COVERAGE = "ported: share of written tokens in both vocabularies"
EXPLAINED = "ported: variance of the states read that is foretold, held out"
AUC_BEFORE, AUC_AFTER = "ported: AUC before", "ported: AUC after"


@dataclass(frozen=True, eq=False)
class Moved:
    """A head in the hidden space of another model, and how much of it arrived.

    Attributes:
        weights: the head.
        correlation: of its potentials with those before, over tokens and places held out from the fits, each token
            weighing as often as the new model writes it.
        coverage: share of the tokens that the new model writes which the old vocabulary holds too.
        explained: share of the variance of V h that the new states foretell, in texts held out; None at rank zero.
    """

    weights: HeadWeights
    correlation: float
    coverage: float
    explained: float | None


def port_head(
    old: CausalLM,
    new: CausalLM,
    manifest: Manifest,
    weights: HeadWeights,
    *,
    name: str,
    texts: Sequence[str] = (),
    examples: Sequence[Example] = (),
    judge: Judge | None = None,
    seed: int = 0,
    report: Report = quiet,
) -> Trained:
    """Move a head, measure what it is worth there, and write its card.

    Without labelled texts its calibration is unknown, and the card has none; the strength map is measured anew in any
    case. With them it is calibrated, and its evidence and its steering are compared before and after.

    Args:
        old: the encoder of the head.
        new: the model that it is to read.
        manifest: its card.
        weights: its numbers.
        name: of the ported head.
        texts: any texts, without labels, to pair states in; a head of rank zero needs none, and for others the two
            models write some.
        examples: labelled texts; of these only the part is read that training holds out.
        judge: says which continuations have the attribute; the default is learned from the held-out texts.
        seed: of folds and of what is drawn.
        report: told of progress.

    Raises:
        InputError: if both are one model, or there are too few texts.
        IncompatibleError: if the vocabularies have too little in common.
    """
    if old.fingerprint == new.fingerprint:
        raise InputError(f"{manifest.name} is made for {new.name} already, so there is nothing to port; name another")
    held_out = split(examples).dev if examples else ()
    dev = evenly(held_out, MOST_TESTED)
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    moved = move_head(old, new, weights, texts=texts, seed=seed, report=report)
    effect = {CORRELATION: moved.correlation, COVERAGE: moved.coverage}
    if moved.explained is not None:
        effect[EXPLAINED] = moved.explained
    found = moved.weights
    seconds["moving"] = time.perf_counter() - start
    start = time.perf_counter()
    calibration = None
    if dev:
        report("calibrating", 0, 2)
        label_B = torch.tensor([float(e.is_positive) for e in dev])
        before, after = (encode(lm, [e.text for e in dev], report=report) for lm in (old, new))
        effect[AUC_BEFORE] = auc(evidence(old, weights, before, (1.0,))[0], label_B)
        report("calibrating", 1, 2)
        calibrated = calibrate(new, found, after, label_B)
        report("calibrating", 2, 2)
        effect[AUC_AFTER], found = calibrated.auc, calibrated.weights
        calibration = Calibration(
            scale=round(calibrated.scale, 4),
            prior=round(calibrated.prior, 4),
            dev_loss=round(calibrated.loss, 4),
            dev_auc=round(calibrated.auc, 4),
        )
    strengths = head_strengths(new, found)
    if dev:
        judge = judge or sentence_judge(held_out)[0]
        before_map = manifest.strengths or head_strengths(old, weights)
        heads = {
            "before porting": Head(manifest.name, weights.to(old.device), old, before_map),
            "ported": Head(name, found.to(new.device), new, strengths),
        }
        for what, head in heads.items():
            parted = separation(head.lm, head, judge, seed=seed, report=report)
            effect |= {effect_key(what): parted.value, effect_key(what) + ERROR: parted.standard_error}
    seconds["measuring"] = time.perf_counter() - start
    ported = Manifest(
        name=name,
        description=manifest.description,
        label=manifest.label,
        licence=manifest.licence,
        settings=manifest.settings,
        encoder=EncoderCard(name=new.name, fingerprint=new.fingerprint, width=new.width),
        calibration=calibration,
        strengths=strengths,
        data=DataCard(train=manifest.data.train, test=_tested(dev), recipe=_command(manifest.name, new)),
        effect={what: round(value, 4) for what, value in effect.items()},
        origin=_origin("ported", old, manifest),
    )
    return Trained(ported, found, seconds)


def move_head(
    old: CausalLM,
    new: CausalLM,
    weights: HeadWeights,
    *,
    texts: Sequence[str] = (),
    seed: int = 0,
    report: Report = quiet,
) -> Moved:
    """Fit the head's potentials in the new model, and what it reads of the states; see port_head for the arguments."""
    weights = weights.to(torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    report("comparing vocabularies", 0, 1)
    old_S, new_S = shared_tokens(old, new)
    report("comparing vocabularies", 1, 1)
    if len(old_S) < FEWEST_SHARED:
        raise IncompatibleError(
            f"the vocabularies of {old.name} and {new.name} share {len(old_S)} tokens, but at least {FEWEST_SHARED} "
            f"are needed; train the factor for {new.name}"
        )
    usage_V = neutral_states(new).log_prob_NV.exp().mean(0).cpu()
    usage_S = usage_V[new_S]
    reading, low_NR, again_NR = None, torch.zeros(1, 0), torch.zeros(1, 0, dtype=torch.float64)
    if weights.rank:
        places = paired_states(old, new, texts or written_texts(old, new, seed, report), report)
        if len(places.text_N) < FEWEST_PLACES:
            raise InputError(
                f"at least {FEWEST_PLACES} places where tokens of both models end are needed, got "
                f"{len(places.text_N)}; give more texts, or longer ones"
            )
        low_NR = places.old_ND @ weights.down_RD.T
        fold_N = _folds(int(places.text_N.max()) + 1, generator)[places.text_N]  # a text is held out as a whole
        reading = ridge(places.new_ND, low_NR, torch.ones(len(low_NR)), fold_N)
        again_NR = reading.foretold_NK
    report("fitting potentials", 0, 1)
    column_DK = torch.cat([weights.bias_D[:, None], weights.up_DR], 1).double()
    target_SK = _products(old.unembedding_VD, old_S, column_DK)
    fold_S = _folds(len(new_S), generator)
    # Roots: weights of usage itself leave the fit to a few hundred tokens, and even weights to those of no use; both
    # foretell held-out potentials worse, as do the tokens that the old tokenizer cuts, by their first or mean piece.
    fit = ridge(new.unembedding_VD[new_S.to(new.device)], target_SK, usage_S.sqrt(), fold_S)
    report("fitting potentials", 1, 1)
    some_N = torch.randperm(len(low_NR), generator=generator)[:COMPARED_PLACES]
    correlation = _correlation(
        _potentials(target_SK, low_NR[some_N]), _potentials(fit.foretold_NK, again_NR[some_N]), usage_S, fold_S
    )
    bias_W, up_WR = fit.coefficient_DK[:, 0], fit.coefficient_DK[:, 1:]
    down_RW = torch.zeros(0, new.width, dtype=torch.float64)
    explained = None
    if reading is not None:
        bias_W = bias_W + up_WR @ reading.intercept_K
        down_RW = reading.coefficient_DK.T
        explained = float(1 - (low_NR - again_NR).square().sum() / (low_NR - low_NR.mean(0)).square().sum())
    moved = HeadWeights(bias_W.float(), up_WR.float().contiguous(), down_RW.float().contiguous())
    return Moved(moved, correlation, float(usage_S.sum() / usage_V.sum()), explained)


def written_texts(old: CausalLM, new: CausalLM, seed: int = 0, report: Report = quiet) -> list[str]:
    """Continuations of the neutral openings by both models."""
    found = []
    for lm in (old, new):
        own = own_texts(lm, per_opening=PER_OPENING, num_tokens=NUM_TOKENS, seed=seed, report=report)
        for prefix, row in zip(own.prefixes, own.rows, strict=True):
            found.append(lm.vocabulary.decode((*prefix, *row)).decode("utf-8", "ignore"))
    return found


def _folds(count: int, generator: torch.Generator) -> Tensor:
    """A fold for each, of nearly equal size."""
    return torch.randperm(count, generator=generator) % NUM_FOLDS


def _products(table_VD: Tensor, token_S: Tensor, column_DK: Tensor) -> Tensor:
    """Rows of the table times the columns, in double precision, a stretch of rows at a time."""
    parts = token_S.to(table_VD.device).split(CHUNK_ROWS)
    return torch.cat([table_VD[part].cpu().double() @ column_DK for part in parts])


def _potentials(column_SK: Tensor, low_NR: Tensor) -> Tensor:
    """Phi of each token at each place, [S, N], from the potentials of the bias and of each column of U."""
    return column_SK[:, :1] + column_SK[:, 1:] @ low_NR.double().T


def _correlation(x_SN: Tensor, y_SN: Tensor, weight_S: Tensor, fold_S: Tensor) -> float:
    """Over all tokens and places, each place and fold centred for itself.

    A constant of the place changes no distribution; and since a fold is foretold from the others, whose mean is low
    where its own is high, folds compared with each other would look opposed where there is nothing to foretell.
    """
    weight_S1 = weight_S.double()[:, None]

    def centred(z_SN: Tensor) -> Tensor:
        sum_FN = torch.zeros(NUM_FOLDS, z_SN.shape[1], dtype=torch.float64).index_add(0, fold_S, weight_S1 * z_SN)
        weight_F1 = torch.zeros(NUM_FOLDS, 1, dtype=torch.float64).index_add(0, fold_S, weight_S1)
        return z_SN - (sum_FN / weight_F1)[fold_S]

    x_SN, y_SN = centred(x_SN), centred(y_SN)
    both, of_x, of_y = (float((weight_S1 * a * b).sum()) for a, b in ((x_SN, y_SN), (x_SN, x_SN), (y_SN, y_SN)))
    return both / max((of_x * of_y) ** 0.5, 1e-300)


def _tested(examples: Sequence[Example]) -> tuple[Source, ...]:
    if not examples:
        return ()
    name = "texts of the user, held out"
    return (Source(name=name, licence="", num_texts=len(examples), fingerprint=fingerprint(examples)),)


def _command(name: str, new: CausalLM) -> str:
    return f"factorlm factor port {name} --to {new.name}"


def _origin(what: str, old: CausalLM, manifest: Manifest) -> str:
    came = f"{what} from {old.name} ({old.fingerprint}) {manifest.name} {manifest.version}"
    return f"{came}, {manifest.origin}" if manifest.origin else came


def retrain(
    lm: CausalLM, manifest: Manifest, recipe: Recipe, rows: Rows, *, name: str, seed: int = 0, report: Report = quiet
) -> Trained:
    """Train the head anew for another model, from its recipe.

    Args:
        lm: the other model.
        manifest: the card of the head for its own encoder.
        recipe: that it was made by.
        rows: reads a data set.
        name: of the new head.
        seed: of training and of what is drawn.
        report: told of progress.

    Raises:
        InputError: if the recipe makes no head, or a data set is missing.
    """
    if recipe.kind != "head":
        raise InputError(f"the recipe of {recipe.name} makes a {recipe.kind}, which every model can use as it is")
    with TemporaryDirectory() as folder:
        built = build(lm, recipe, rows, Store(Path(folder)), seed=seed, report=report)
        head = load(str(built.folder))
    assert isinstance(head, UnboundHead)
    command = f"{_command(manifest.name, lm)} --retrain"
    changes = {
        "name": name,
        "origin": f"trained for {lm.name} by the recipe of {manifest.name} {recipe.version}",
        "data": built.manifest.data.model_copy(update={"recipe": command}),
    }
    return Trained(built.manifest.model_copy(update=changes), head.weights, built.seconds)
