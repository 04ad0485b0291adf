"""MLP memory: a small network that says what the neighbours of a hidden state would say, without looking for them.

Blocks of a multi-layer perceptron move the hidden state, and the model's own unembedding reads the moved state. At
first every block adds nothing, so learning starts from the model's own distribution.

Source: Wei et al. (2025), arXiv:2508.01832; the form of the blocks is our choice.
"""

# Axes: D width of a state, I inner width, N states, V vocabulary.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear

from factorlm.algebra import entropy
from factorlm.errors import IntegrityError, UnknownNameError
from factorlm.memory.card import MemoryCard, check_model, read_card
from factorlm.memory.datastore import Looking
from factorlm.memory.remembering import Answer
from factorlm.memory.state_memory import StateMemory
from factorlm.models import CausalLM
from factorlm.settings import Config

WEIGHTS = "weights.safetensors"
INNER_TIMES = 4  # widths of a state, where no inner width is named


class MlpSettings(Config):
    """The network and how it learns: alpha KL(p_kNN || p) - (1 - alpha) log p(next token), by AdamW.

    Attributes:
        blocks: of the network.
        inner: width inside a block; 0 takes four times that of a state.
        own_output: whether it has an unembedding of its own, [V, D], instead of the model's.
        alpha: weight of the neighbours against the token that came.
        looking: the neighbours that are imitated.
        learning_rate: highest one; it rises over `rising` steps and falls as a cosine.
        rising: steps.
        weight_decay: of matrices.
        batch: states to a step.
        epochs: most passes over all states.
        held_share: of the entries, whole documents, on which learning is checked; they are neither learned nor found.
        most_held: states that are checked at most.
        patience: checks without a gain after which learning stops.
        stop_by: what must gain: "mixed", the likelihood of the best constant mixture with the model, or "kl".
        checks: to an epoch.
        checkpoint_every: steps after which a killed training goes on.
        seed: of the first weights, the parting and the order.
    """

    blocks: PositiveInt = 3
    inner: NonNegativeInt = 0
    own_output: bool = False
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.4
    looking: Looking = Looking(k=32)
    learning_rate: PositiveFloat = 1e-3
    rising: NonNegativeInt = 50
    weight_decay: NonNegativeFloat = 0.01
    batch: PositiveInt = 1024
    epochs: PositiveInt = 5
    held_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    most_held: PositiveInt = 10_000
    patience: PositiveInt = 3
    stop_by: Literal["mixed", "kl"] = "mixed"
    checks: PositiveInt = 2
    checkpoint_every: PositiveInt = 50
    seed: int = 0


class Check(Config):
    """What held-out states said of the network, in nats a token.

    Attributes:
        step: before which it was asked.
        kl: from the neighbours' distribution to the network's.
        memory_nats: loss of the network alone.
        mixed_nats: loss of the best constant mixture with the model.
        weight: of the network in that mixture.
    """

    step: NonNegativeInt
    kl: float
    memory_nats: float
    mixed_nats: float
    weight: float


class MlpCard(MemoryCard):
    """The card of an MLP memory; documents and tokens are those of the datastore that it learned from.

    Attributes:
        settings: that it learned with.
        store: name of the datastore.
        state_width: D, numbers of a hidden state.
        num_parameters: of the network.
        num_held: states that it was checked on.
        model_nats: loss of the model alone on these, in nats a token.
        checks: in order, the one before learning first; the network is that of the best.
    """

    kind: Literal["mlp"] = "mlp"
    settings: MlpSettings
    store: str
    state_width: PositiveInt
    num_parameters: PositiveInt
    num_held: PositiveInt
    model_nats: float
    checks: tuple[Check, ...]


class MlpNetwork(nn.Module):
    """From hidden states to logits.

    Args:
        settings: its sizes.
        width: D of a state.
        num_tokens: V.
        generator: of its first weights.
    """

    def __init__(
        self, settings: MlpSettings, width: int, num_tokens: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        inner = settings.inner or INNER_TIMES * width

        def drawn(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, columns, generator=generator) * columns**-0.5)

        self.mean_D: Tensor
        self.size: Tensor
        self.register_buffer("mean_D", torch.zeros(width))  # of states
        self.register_buffer("size", torch.ones(()))  # typical, of one number of a state less its mean
        self.into_ID = nn.ParameterList(drawn(inner, width) for _ in range(settings.blocks))
        self.into_I = nn.ParameterList(nn.Parameter(torch.zeros(inner)) for _ in range(settings.blocks))
        self.from_DI = nn.ParameterList(nn.Parameter(torch.zeros(width, inner)) for _ in range(settings.blocks))
        self.bias_V = nn.Parameter(torch.zeros(num_tokens))
        self.output_VD = drawn(num_tokens, width) if settings.own_output else None

    def forward(self, hidden_ND: Tensor, unembed: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits [N, V].

        Args:
            hidden_ND: states of the model.
            unembed: from states to the model's logits; not asked where the network has an unembedding of its own.
        """
        moved_ND = (hidden_ND.float() - self.mean_D) / self.size
        for into_ID, into_I, from_DI in zip(self.into_ID, self.into_I, self.from_DI, strict=True):
            moved_ND = moved_ND + linear(gelu(linear(_normed(moved_ND), into_ID, into_I)), from_DI)
        if self.output_VD is not None:
            return linear(_normed(moved_ND), self.output_VD, self.bias_V)
        return unembed(moved_ND * self.size + self.mean_D) + self.bias_V


@dataclass(frozen=True, eq=False)
class MlpMemory(StateMemory):
    """What the network says; it knows something everywhere.

    Attributes:
        network: whose weights do not change.
    """

    FEATURES: ClassVar[tuple[str, ...]] = ("entropy", "top")

    network: MlpNetwork

    @torch.no_grad()
    def answers(self, hidden_ND: Tensor) -> Answer:
        """See StateMemory."""
        log_prob_NV = self.network(hidden_ND, self.lm.unembed).log_softmax(-1)
        return Answer(log_prob_NV, torch.stack([entropy(log_prob_NV), log_prob_NV.amax(-1).exp()], 1))


def open_mlp(path: Path | str, lm: CausalLM, *, gate: str = "") -> MlpMemory:
    """An MLP memory of this model.

    Args:
        path: its folder.
        lm: the model whose states it learned from.
        gate: name of learned weights on the card; "" takes the constant one of its own held-out states.

    Raises:
        InputError: if there is none, or no such gate.
        IncompatibleError: if it learned from states of another model.
        IntegrityError: if a file is not what the card says.
    """
    folder = Path(path)
    card = read_card(folder, MlpCard)
    check_model(folder, card.model, lm)
    if gate and gate not in card.gates:
        raise UnknownNameError.of("gate", gate, card.gates, f"{folder} was asked for it")
    fitted = card.gates.get(gate)
    with torch.device("meta"):  # no weights are drawn that the file brings anyway
        network = MlpNetwork(card.settings, card.state_width, lm.vocabulary.size)
    try:
        network.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS), assign=True)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise IntegrityError(f"{folder / WEIGHTS} cannot be read: {reason}; copy it again, or learn anew") from None
    network = network.to(lm.device).requires_grad_(False)
    return MlpMemory(folder.name, fitted.gate if fitted else None, 1.0, lm, network)


def _normed(hidden_ND: Tensor) -> Tensor:
    return layer_norm(hidden_ND, hidden_ND.shape[-1:])
