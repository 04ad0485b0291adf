"""Direct preference optimisation of a low-rank adapter, by TRL and PEFT, as a factor: adapted model over base.

TRL trains; what it is given are our tokens, so that reference, policy and factor read the very same texts. The end of
a text is not part of the loss: responses that were cut say nothing about ends.

Source: Rafailov et al. (2023), arXiv:2305.18290.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from factorlm.algebra import pad_left, pad_right
from factorlm.errors import InputError
from factorlm.factors.adapter import ratio
from factorlm.factors.calibration import factor_strengths
from factorlm.factors.features import LONGEST_PROMPT, tokenized
from factorlm.factors.feedback import Pair, Preferences, fingerprint, split_preferences
from factorlm.factors.head import EncoderCard
from factorlm.factors.manifest import AdapterSettings, Manifest
from factorlm.factors.preferences import LONGEST_ANSWER, PAIR_ACCURACY
from factorlm.factors.training import ERROR, Description, data_card
from factorlm.models import CausalLM
from factorlm.models.lora import Adapter, LoraSettings, merged
from factorlm.models.progress import Report, quiet
from factorlm.models.twins import twin
from factorlm.settings import Config

WARM_UP = 5  # steps in which the learning rate rises
BATCH_PAIRS = 16


class DpoSettings(Config):
    """How a model is tuned to preferences.

    Attributes:
        beta: of the loss, the price of a nat of divergence in units of reward.
        rank: of the adapter.
        scale: what the product of its matrices is multiplied by (alpha / rank).
        layers: linear layers that get one, by the end of their name.
        learning_rate: of AdamW, at its highest.
        epochs: passes over the pairs.
        batch_pairs: pairs to a step.
        label_smoothing: the share of pairs believed to be the wrong way round.
    """

    beta: Annotated[float, Field(gt=0)] = 0.1
    rank: Annotated[int, Field(ge=1)] = 8
    scale: Annotated[float, Field(gt=0)] = 2.0
    layers: tuple[str, ...] = ("q_proj", "v_proj")
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    epochs: Annotated[int, Field(ge=1)] = 2
    batch_pairs: Annotated[int, Field(ge=1)] = 8
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0


@dataclass(frozen=True, eq=False)
class Tuned:
    """An adapter that was tuned to preferences.

    Attributes:
        adapter: its numbers.
        losses: of each step, in nats per pair.
        seconds: that it took.
    """

    adapter: Adapter
    losses: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class TrainedAdapter:
    """An adapter with its card, ready for a store."""

    manifest: Manifest
    adapter: Adapter
    seconds: dict[str, float]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The content of the weights file."""
        return self.adapter.tensors


def train_dpo(
    lm: CausalLM,
    preferences: Preferences,
    about: Description,
    settings: DpoSettings | None = None,
    *,
    seed: int = 0,
    report: Report = quiet,
) -> TrainedAdapter:
    """Tune an adapter to the pairs, a share of whose prompts is held out, and write its card.

    Raises:
        InputError: without TRL, with thumbs that make no pairs, or with too few prompts.
    """
    needs_trl()
    train, dev = split_preferences(preferences)
    if not train.pairs or not dev.pairs:
        raise InputError("pairs are needed to tune by, got only texts that were rated alone; use --as head or reward")
    settings = settings or DpoSettings()
    tuned = tune(lm, train.pairs, settings, seed=seed, report=report)
    factor = ratio(about.name, lm, tuned.adapter)
    share = float((reward_gaps(lm, tuned.adapter, dev.pairs) > 0).double().mean())
    error = math.sqrt(share * (1 - share) / max(1, len(dev.pairs) - 1))
    manifest = Manifest(
        name=about.name,
        description=about.description,
        label=about.label,
        licence=about.licence,
        settings=AdapterSettings(scale=settings.scale),
        encoder=EncoderCard(name=lm.name, fingerprint=lm.fingerprint, width=lm.width),
        strengths=factor_strengths(lm, factor),
        data=data_card(about, 2 * len(preferences.pairs), fingerprint(preferences)),
        effect={PAIR_ACCURACY: round(share, 4), PAIR_ACCURACY + ERROR: round(error, 4)},
    )
    return TrainedAdapter(manifest, tuned.adapter, {"tuning": tuned.seconds})


def missing() -> list[str]:
    """What must be installed for tuning and is not."""
    return [name for name in ("trl", "peft") if importlib.util.find_spec(name) is None]


def needs_trl() -> None:
    """Complain early where TRL and PEFT are not installed.

    Raises:
        InputError: naming the extra that brings them.
    """
    if missing():
        raise InputError(f"{' and '.join(missing())} must be installed to tune by DPO; pip install 'factorlm[align]'")


def tune(lm: CausalLM, pairs: Sequence[Pair], settings: DpoSettings, *, seed: int = 0, report: Report = quiet) -> Tuned:
    """Tune an adapter to pairs with TRL's DPOTrainer; the model itself, and its tokenizer, stay as they are.

    Args:
        lm: the base, which is the reference.
        pairs: to learn from, all of equal weight.
        settings: of the adapter and its training.
        seed: of first values and of the order of pairs.
        report: told of progress.

    Raises:
        InputError: without TRL, or for layers that the model lacks.
    """
    needs_trl()
    import transformers
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig

    Adapter.fresh(lm, LoraSettings(rank=settings.rank, layers=settings.layers))  # complains about unknown layers
    start = time.perf_counter()
    rows = tokens_of(lm, pairs)
    with (
        tempfile.TemporaryDirectory() as folder,
        torch.random.fork_rng(),
        torch.enable_grad(),
        warnings.catch_warnings(action="ignore"),  # of libraries to one another
    ):
        torch.manual_seed(seed)  # PEFT draws an adapter's first values from the global generator
        config = DPOConfig(
            output_dir=folder, beta=settings.beta, label_smoothing=settings.label_smoothing, max_length=None,
            learning_rate=settings.learning_rate, num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_pairs, warmup_steps=WARM_UP, lr_scheduler_type="linear",
            weight_decay=0.0, max_grad_norm=1.0, seed=seed, data_seed=seed, gradient_checkpointing=False, bf16=False,
            use_cpu=lm.device.type == "cpu", logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
            dataloader_pin_memory=False,
        )  # fmt: skip
        lora = LoraConfig(
            r=settings.rank, lora_alpha=settings.scale * settings.rank, target_modules=list(settings.layers),
            lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
        )  # fmt: skip
        callback = _told(transformers.TrainerCallback, report)
        trainer = _on_tokens()(
            model=twin(lm), args=config, train_dataset=Dataset.from_list(rows), peft_config=lora,
            processing_class=copy.deepcopy(lm.tokenizer), callbacks=[callback],
        )  # fmt: skip
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        losses = tuple(float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)
        adapter = adapter_of(trainer.model)
    return Tuned(adapter, losses, time.perf_counter() - start)


def tokens_of(lm: CausalLM, pairs: Sequence[Pair]) -> list[dict[str, list[int]]]:
    """Tokens of prompts, with the start token, and of both responses, as TRL's collator wants them."""
    before = [[*lm.start_ids, *lm.encode_text(pair.prompt)[-LONGEST_PROMPT:]] for pair in pairs]
    chosen = tokenized(lm, [pair.chosen for pair in pairs], longest=LONGEST_ANSWER)
    rejected = tokenized(lm, [pair.rejected for pair in pairs], longest=LONGEST_ANSWER)
    return [
        {"prompt_ids": prompt, "chosen_ids": better, "rejected_ids": worse}
        for prompt, better, worse in zip(before, chosen, rejected, strict=True)
    ]


def reward_gaps(lm: CausalLM, adapter: Adapter, pairs: Sequence[Pair]) -> Tensor:
    """Of each pair, log pi(y) / ref(y) of the chosen response less that of the rejected one, [R], in nats."""
    rows = tokens_of(lm, pairs)
    adapted = merged(lm, adapter)
    gaps = []
    for start in range(0, len(rows), BATCH_PAIRS):
        batch = rows[start : start + BATCH_PAIRS]
        prefix_BT = pad_left([row["prompt_ids"] for row in batch])
        better_BT, worse_BT = (pad_right([row[key] for row in batch]) for key in ("chosen_ids", "rejected_ids"))
        ratio_B, other_B = (
            (adapted.score(prefix_BT, text_BT) - lm.score(prefix_BT, text_BT)).double().sum(1)
            for text_BT in (better_BT, worse_BT)
        )
        gaps.append((ratio_B - other_B).cpu())
    return torch.cat(gaps)


def adapter_of(network: Any) -> Adapter:
    """The low-rank matrices that PEFT put into a network, as an adapter of ours."""
    from peft.tuners.lora import LoraLayer

    down_RI, up_OR, scales = {}, {}, set()
    for name, layer in network.get_base_model().named_modules():
        if isinstance(layer, LoraLayer):
            down_RI[name] = layer.lora_A["default"].weight.detach().float().clone()
            up_OR[name] = layer.lora_B["default"].weight.detach().float().clone()
            scales.add(float(layer.scaling["default"]))
    assert len(scales) == 1, f"one scale is expected of an adapter, got {scales}"
    return Adapter(scales.pop(), down_RI, up_OR)


def _on_tokens() -> Any:
    """A DPOTrainer for data that is tokens already; TRL's own would add ends to texts that were cut."""
    from trl import DPOTrainer

    class OnTokens(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

    return OnTokens


def _told(base: Any, report: Report) -> Any:
    """A callback of transformers that tells of progress."""

    class Told(base):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            report("tuning to preferences", state.global_step, state.max_steps)

    return Told()
