"""Language models that continue a prefix with a meaning in mind: a latent, told in one of two ways.

`SoftDecoder` reads it as a few vectors in the places of tokens between prefix and continuation, which a small network
makes of it. `BiasDecoder` adds a linear map of it to every hidden state before the unembedding: it needs no pass back
through the language model to be learned, and stands beside heads in the one unembedding. Both have a plan for each row
of a batch, and are language models like any other.

Sources: soft prompts from sentence vectors, Lovelace et al. (2024), arXiv:2408.04220; the bias is ours, after LM-Steer,
Han et al. (2024), arXiv:2305.12798.
"""

# Axes: B rows, D numbers of a latent, E width of the language model, M places of a plan, R rows chosen, T time.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from factorlm.algebra import PAD, Factor, State, without_last
from factorlm.diffusion.levels import WIDEST, noise_share, signal
from factorlm.models import CausalLM
from factorlm.models.encoding import Encoded
from factorlm.models.reading import ReadsMore
from factorlm.settings import Config


class PlanSettings(Config):
    """Sizes of the network that makes vectors of a latent.

    Attributes:
        places: vectors.
        narrow: numbers of each before it is made as wide as the language model.
        layers: of attention between the places.
        heads: of attention; they divide the width of the language model.
    """

    places: PositiveInt = 8
    narrow: PositiveInt = 192
    layers: PositiveInt = 2
    heads: PositiveInt = 9


class PlanNetwork(nn.Module):
    """Vectors in the places of tokens, of the size that those of real tokens have."""

    def __init__(self, settings: PlanSettings, num_latent: int, width: int, size: float) -> None:
        """An untrained one.

        Args:
            settings: sizes.
            num_latent: D.
            width: E.
            size: root mean square of the numbers of an embedded token.
        """
        super().__init__()
        self.settings = settings
        self.enter = nn.Linear(num_latent + 3, settings.places * settings.narrow)
        self.widen = nn.Linear(settings.narrow, width)
        self.place_ME = nn.Parameter(0.02 * torch.randn(settings.places, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, settings.heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(settings.layers)
        )
        for layer in self.layers:  # at first each leaves its place as it is
            assert isinstance(layer, nn.TransformerEncoderLayer)
            for last in (layer.self_attn.out_proj, layer.linear2):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
        self.norm = nn.RMSNorm(width, elementwise_affine=False)
        self.size = nn.Parameter(torch.tensor(size))

    @torch.no_grad()
    def begin(self, map_ED: Tensor) -> None:
        """Begin with places that are all this linear map of the latent, as nearly as their narrow numbers can.

        Args:
            map_ED: from latents, so that what it gives has about variance 1.
        """
        narrow, num_latent = self.settings.narrow, map_ED.shape[1]
        left_EK, size_K, right_KD = torch.linalg.svd(map_ED, full_matrices=False)
        kept = min(narrow, len(size_K))
        root_K = size_K[:kept].sqrt()
        self.widen.weight.zero_()
        self.widen.bias.zero_()
        self.widen.weight[:, :kept] = left_EK[:, :kept] * root_K
        down_ND = torch.zeros(narrow, num_latent)
        down_ND[:kept] = root_K[:, None] * right_KD[:kept]
        self.enter.weight.zero_()
        self.enter.bias.zero_()
        self.enter.weight[:, :num_latent] = down_ND.repeat(self.settings.places, 1)

    def forward(self, latent_BD: Tensor, log_snr_B: Tensor) -> Tensor:
        """Vectors [B, M, E] of latents with this little noise."""
        level_B3 = torch.stack([signal(log_snr_B), noise_share(log_snr_B), log_snr_B / WIDEST], 1)
        narrow_BMN = self.enter(torch.cat([latent_BD, level_B3], 1)).unflatten(1, (self.settings.places, -1))
        plan_BME = self.widen(narrow_BMN) + self.place_ME
        for layer in self.layers:
            plan_BME = layer(plan_BME)
        vectors_BME: Tensor = self.size * self.norm(plan_BME)
        return vectors_BME


@dataclass(frozen=True, eq=False)
class SoftDecoder(ReadsMore, Factor):
    """Reads vectors between prefix and continuation.

    Attributes:
        lm: the language model.
        plan_BME: of each row, or one for all.
    """

    lm: CausalLM
    plan_BME: Tensor

    def for_rows(self, rows: list[int]) -> Factor:
        """See Factor."""
        return self if len(self.plan_BME) == 1 else replace(self, plan_BME=self.plan_BME[rows])

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        return self._state(self._planned(prefix_BT))

    def steps(self, prefix_BT: Tensor, text_BT: Tensor) -> Iterator[Tensor]:
        """See Factor."""
        if text_BT.shape[1]:
            for hidden_BE in self.lm.hidden_behind(self._planned(prefix_BT), text_BT).unbind(1):
                yield self.lm.unembed(hidden_BE).log_softmax(-1)

    def _planned(self, prefix_BT: Tensor) -> Encoded:
        plan_BME = self.plan_BME.expand(len(prefix_BT), -1, -1).to(self.lm.unembedding_VD.dtype)
        return self.lm.advance_embedded(self.lm.encode(prefix_BT), plan_BME)

    def _state(self, encoded: Encoded) -> State:
        return State(lambda: self.lm.log_prob(encoded), encoded)


@dataclass(frozen=True, eq=False)
class BiasDecoder(ReadsMore, Factor):
    """Adds a vector to every hidden state of a row before the unembedding, and lets each word be pushed once.

    The vector is the same at every token, so what it asks for would be said over and over: a token that was said since
    the prefix is no longer pushed up.

    Attributes:
        lm: the language model.
        bias_BE: of each row, or one for all.
        is_spent: whether a token is pushed up once only.
    """

    lm: CausalLM
    bias_BE: Tensor
    is_spent: bool = True

    def for_rows(self, rows: list[int]) -> Factor:
        """See Factor."""
        return self if len(self.bias_BE) == 1 else replace(self, bias_BE=self.bias_BE[rows])

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        said_BS = torch.full((len(prefix_BT), 0), PAD, device=self.device)
        return self._moved(self.lm.encode(prefix_BT), self.bias_BE.expand(len(prefix_BT), -1), said_BS)

    def extend(self, state: State, token_B: Tensor) -> State:
        """See Factor."""
        encoded, bias_BE, said_BS = state.memory
        said_BS = torch.cat([said_BS, token_B[:, None].to(said_BS)], 1)
        return self._moved(self.lm.advance(encoded, token_B[:, None]), bias_BE, said_BS)

    def extend_through(self, state: State, token_BT: Tensor) -> tuple[Tensor, State]:
        """See Factor."""
        encoded, bias_BE, said_BS = state.memory
        encoded = self.lm.advance(encoded, token_BT)
        said_BS = torch.cat([said_BS, token_BT.to(said_BS)], 1)
        num_new = token_BT.shape[1]
        steps = [
            self._log_prob(hidden_BE, bias_BE, said_BS[:, : said_BS.shape[1] - num_new + t + 1])
            for t, hidden_BE in enumerate(encoded.hidden.view[:, -num_new:].unbind(1))
        ]
        return torch.stack(steps, 1), self._moved(encoded, bias_BE, said_BS)

    def reorder(self, state: State, row_R: Tensor) -> State:
        """See Factor."""
        encoded, bias_BE, said_BS = state.memory
        return self._moved(self.lm.rows(encoded, row_R), bias_BE[row_R], said_BS[row_R.to(said_BS.device)])

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""
        encoded, bias_BE, said_BS = state.memory
        return self._moved(self.lm.trimmed(encoded, num_tokens_B), bias_BE, without_last(said_BS, num_tokens_B))

    def steps(self, prefix_BT: Tensor, text_BT: Tensor) -> Iterator[Tensor]:
        """See Factor."""
        if text_BT.shape[1]:
            for t, hidden_BE in enumerate(self.lm.hidden_before(prefix_BT, text_BT).unbind(1)):
                yield self._log_prob(hidden_BE, self.bias_BE, text_BT[:, :t])

    def _moved(self, encoded: Encoded, bias_BE: Tensor, said_BS: Tensor) -> State:
        return State(lambda: self._log_prob(encoded.hidden_BD, bias_BE, said_BS), (encoded, bias_BE, said_BS))

    def _log_prob(self, hidden_BE: Tensor, bias_BE: Tensor, said_BS: Tensor) -> Tensor:
        logit_BV = self.lm.unembed(hidden_BE + bias_BE.to(hidden_BE))
        if self.is_spent and said_BS.shape[1]:
            said_BS = said_BS.to(logit_BV.device)
            row_BSE = self.lm.unembedding_VD[said_BS.clamp(min=0)].to(bias_BE)
            push_BS = (row_BSE * bias_BE[:, None].to(row_BSE)).sum(-1).clamp(min=0)
            value_BS = logit_BV.gather(1, said_BS.clamp(min=0)) - push_BS  # equal wherever a token was said twice
            sink = logit_BV.shape[1]  # where PAD goes
            with_sink = torch.cat([logit_BV, logit_BV[:, :1]], 1)
            logit_BV = with_sink.scatter(1, torch.where(said_BS == PAD, sink, said_BS), value_BS)[:, :sink]
        return logit_BV.log_softmax(-1)


def embedded(
    lm: CausalLM, plan_BME: Tensor, prefixes: list[list[int]], continuations: list[list[int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """What a language model reads to predict continuations with a plan; gradients flow through it to the plan.

    Rows are filled on the right, which a causal model does not see, so places are those of `SoftDecoder`.

    Args:
        lm: the language model.
        plan_BME: of each row.
        prefixes: token ids, the start token included.
        continuations: token ids.

    Returns:
        The vectors [B, T, E], and for each token of the continuations, laid end to end, its row and the place from
        which it is predicted.
    """
    places = plan_BME.shape[1]
    lengths = [len(p) + places + len(c) - 1 for p, c in zip(prefixes, continuations, strict=True)]
    token_BT = torch.full((len(prefixes), max(lengths)), PAD)
    is_plan_BT = torch.zeros(token_BT.shape, dtype=torch.bool)
    rows, predicted_from = list[int](), list[int]()
    for b, (prefix, continuation) in enumerate(zip(prefixes, continuations, strict=True)):
        first = len(prefix) + places
        token_BT[b, : len(prefix)] = torch.tensor(prefix)
        is_plan_BT[b, len(prefix) : first] = True
        token_BT[b, first : first + len(continuation) - 1] = torch.tensor(continuation[:-1], dtype=torch.long)
        rows += [b] * len(continuation)
        predicted_from += range(first - 1, first - 1 + len(continuation))
    read_BTE = lm.embed(token_BT.clamp(min=0))
    read_BTE = read_BTE.masked_scatter(is_plan_BT[:, :, None].to(lm.device), plan_BME.to(read_BTE))
    return read_BTE, torch.tensor(rows), torch.tensor(predicted_from)
