"""Any causal language model of transformers as a factor, and as the encoder that heads share."""

# Axes: B batch, D width, N tokens of a batch laid end to end, R rows chosen, T time, V vocabulary.

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from factorlm.algebra import PAD, Factor, State
from factorlm.errors import IncompatibleError, InputError
from factorlm.models.body import Body, TransformersBody, body_of
from factorlm.models.conversation import encode_turns
from factorlm.models.encoding import Encoded, Memo
from factorlm.models.linear import Repacked
from factorlm.models.span import KeysValues, Span
from factorlm.text import Vocabulary, is_utf8
from factorlm.text.tokens import vocabulary_of

CHUNK_TOKENS = 512  # unembedded at once when whole texts are read: [512, V] of float32 is about 100 MB
STEP_ROWS = 64  # unembedded at once when whole texts are read step by step: the table is read once for all of them
KEPT_PREFIXES = 4
SHORTEST_REUSE = 8  # tokens; below that, reading anew is as fast


class CausalLM(Factor):
    """A language model p(x_t | x_<t) = softmax(E h_t), whose hidden states h others may read.

    All its methods may be called by several parts of a composition on the same tokens: the work is done once.
    """

    base_fingerprint: str | None = None  # of the model whose heads fit too, where this is that with facts written in

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str, start_ids: tuple[int, ...], end_ids: tuple[int, ...]
    ) -> None:
        if getattr(model.config, "final_logit_softcapping", None):
            raise IncompatibleError(f"{name} caps its logits, which heads cannot factor; take a model without a cap")
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.start_ids = start_ids
        self.device = model.device
        self.unembedding_VD: Tensor = model.get_output_embeddings().weight
        self._vocabulary = vocabulary_of(tokenizer, self.unembedding_VD.shape[0], end_ids)
        self._body = body_of(model)
        self._unembedding = Repacked(self.unembedding_VD)
        self._memo = Memo()
        self._prefixes: OrderedDict[tuple[int, ...], Encoded] = OrderedDict()
        self.num_tokens_read = 0  # run through the layers so far; prefix reuse shows here

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens of the model."""
        return self._vocabulary

    @property
    def width(self) -> int:
        """Size D of a hidden state."""
        return int(self.unembedding_VD.shape[1])

    @property
    def max_tokens(self) -> int:
        """Longest text that the model was made for, in tokens."""
        return int(getattr(self.model.config, "max_position_embeddings", 1 << 30))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of a sample of every weight: changes with any training, not with the number format it is run in."""
        digest = hashlib.sha256()
        for name, weight in sorted(self.model.state_dict().items()):
            flat = weight.reshape(-1)
            sample = flat[:: max(1, flat.numel() // 256)][:256].to("cpu", torch.bfloat16).view(torch.int16)
            digest.update(f"{name}{tuple(weight.shape)}".encode() + sample.numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def check_unembedding(self) -> None:
        """Raise IncompatibleError if the model's logits are more than e_v . h: a bias, a cap or a scale."""
        token_BT = torch.tensor([self.start_ids], device=self.device)
        want_V = self.model(input_ids=token_BT, use_cache=False).logits[0, -1].float()
        body, place_BT = TransformersBody(self.model), torch.arange(token_BT.shape[1], device=self.device)[None]
        got_V = self.unembed(body(token_BT, place_BT, None, None, False)[0][0, -1])
        if float((got_V - want_V).abs().max()) > 1e-2 * float(want_V.abs().max()):
            raise IncompatibleError(
                f"{self.name} has a bias, a cap or a scale on its logits, which heads cannot share; take another model"
            )

    def with_body(self, body: Body, network: Any, name: str) -> CausalLM:
        """Other layers between the same embedding and unembedding; made at once, and nothing read so far is shared.

        Args:
            body: reads tokens.
            network: what body runs, as a network of transformers.
            name: of the new language model.
        """
        other = copy.copy(self)
        other.__dict__.pop("fingerprint", None)
        other.model, other.name, other._body = network, name, body
        other._memo, other._prefixes, other.num_tokens_read = Memo(), OrderedDict(), 0
        return other

    def twin(self) -> CausalLM:
        """Another reader of the same weights, for another thread; nothing read so far is shared."""
        other = copy.copy(self)
        other._memo, other._prefixes, other.num_tokens_read = Memo(), OrderedDict(), 0
        return other

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a text, without a start token; names of special tokens in it are plain text."""
        if not is_utf8(text):
            raise InputError(f"UTF-8 text is needed, got {text[:40]!r} with bytes that are none; convert it")
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_text` for many texts, side by side where the tokenizer may use several cores."""
        bad = next((text for text in texts if not is_utf8(text)), None)
        if bad is not None:
            self.encode_text(bad)
        backend = copy.deepcopy(self.tokenizer.backend_tokenizer)
        backend.encode_special_tokens = True  # their names in a text are plain text
        backend.no_truncation()
        backend.no_padding()
        return [list(found.ids) for found in backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_message(self, text: str) -> list[int]:
        """Token ids of a conversation in which the user says this and the model is to answer.

        Raises:
            InputError: if the model was not made for conversations.
        """
        return self.encode_turns([{"role": "user", "content": text}])

    def encode_turns(self, turns: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation that the model is to go on with; see `conversation`.

        Raises:
            InputError: if the model was not made for conversations, or not for this one.
        """
        return encode_turns(self.tokenizer, self.name, turns)

    # The encoder

    @torch.no_grad()
    def encode(self, prefix_BT: Tensor) -> Encoded:
        """Read prefixes, filled on the left with PAD; what many rows or earlier calls begin with is read once."""
        return self._memo.get("encode", prefix_BT, lambda: self._encode(prefix_BT.to(self.device)))

    @torch.no_grad()
    def advance(self, encoded: Encoded, token_BT: Tensor) -> Encoded:
        """Read more tokens in each row, filled on the left with PAD where rows get fewer."""
        return encoded.memo.get("advance", token_BT, lambda: self._read(encoded, token_BT.to(self.device)))

    @torch.no_grad()
    def embed(self, token_T: Tensor) -> Tensor:
        """What the layers read in the places of these tokens, [..., D]."""
        embedded: Tensor = self.model.get_input_embeddings()(token_T.to(self.device))
        return embedded

    @torch.no_grad()
    def encode_embedded(self, embedded_BTD: Tensor) -> Encoded:
        """Read vectors in the places of tokens: soft prompts, with the start token's before them. See `embed`."""
        is_token_BT = torch.ones(embedded_BTD.shape[:2], dtype=torch.bool, device=self.device)
        self._check_length(is_token_BT.long(), None)
        return self._behind(None, embedded_BTD.to(self.device), is_token_BT, False)

    @torch.no_grad()
    def advance_embedded(self, encoded: Encoded, embedded_BTD: Tensor) -> Encoded:
        """Read vectors in the places of tokens behind what was read, as many in each row; see `embed`."""
        is_token_BT = torch.ones(embedded_BTD.shape[:2], dtype=torch.bool, device=self.device)
        self._check_length(is_token_BT.long(), encoded)
        return self._behind(encoded, embedded_BTD.to(self.device), is_token_BT, encoded.is_padded)

    @torch.no_grad()
    def hidden_behind(self, encoded: Encoded, text_BT: Tensor) -> Tensor:
        """Hidden states from which each token of texts behind an encoding is predicted, [B, T, D]; see `hidden_before`.

        Texts have at least one token.
        """
        length = encoded.hidden.length
        if text_BT.shape[1] > 1:
            encoded = self.advance(encoded, text_BT[:, :-1])
        hidden_BTD: Tensor = encoded.hidden.view[:, length - 1 :]
        return hidden_BTD

    def forget(self) -> None:
        """Read prefixes anew: nothing read so far is reused. Timing needs it."""
        self._prefixes.clear()

    def rows(self, encoded: Encoded, row_R: Tensor) -> Encoded:
        """These rows of an encoding."""
        return encoded.memo.get("rows", row_R, lambda: encoded.rows(row_R.to(self.device)))

    def trimmed(self, encoded: Encoded, num_tokens_B: Tensor) -> Encoded:
        """An encoding as before the last tokens of each row were read."""
        return encoded.memo.get("trimmed", num_tokens_B, lambda: encoded.trimmed(num_tokens_B.to(self.device)))

    @torch.no_grad()
    def unembed(self, hidden_ND: Tensor) -> Tensor:
        """Logits e_v . h, [..., V], in float32."""
        return self._unembedding(hidden_ND.to(self.unembedding_VD.dtype)).float()

    @torch.no_grad()
    def hidden_before(self, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
        """Hidden states from which each token of the texts is predicted, [B, T, D]; meaningless where it is PAD."""
        if text_BT.shape == (1, 1):  # somebody follows a text as it grows: what was read before is kept
            return self.encode(prefix_BT).hidden_BD[:, None]
        read_BT = torch.cat([prefix_BT, text_BT[:, :-1]], 1).to(self.device)
        self._check_tokens(read_BT, prefix_BT)
        if prefix_BT.shape[0] > 1 and _num_common(prefix_BT) >= SHORTEST_REUSE:  # what rows begin with is read once
            before = self.encode(prefix_BT)
            if text_BT.shape[1] == 1:
                return before.hidden_BD[:, None]
            after = self._read(before, text_BT[:, :-1].to(self.device))
            return after.hidden.view[:, before.hidden.length - 1 :]
        is_token_BT = read_BT != PAD
        hidden_BTD, _ = self.run_layers(read_BT, None if bool(is_token_BT.all()) else is_token_BT, None, keep=False)
        return hidden_BTD[:, prefix_BT.shape[1] - 1 :]

    def chunks(self, hidden_ND: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Log probabilities [n, V] of the next token for a stretch of states at a time, with the stretch."""
        for start in range(0, hidden_ND.shape[0], CHUNK_TOKENS):
            stretch = slice(start, start + CHUNK_TOKENS)
            yield stretch, self.unembed(hidden_ND[stretch]).log_softmax(-1)

    def log_prob_of(self, hidden_ND: Tensor, token_N: Tensor) -> Tensor:
        """Log probability of one token after each state, [N], in nats, a stretch of states at a time."""
        chosen = [log_prob_NV.gather(1, token_N[part, None])[:, 0] for part, log_prob_NV in self.chunks(hidden_ND)]
        return torch.cat(chosen) if chosen else hidden_ND.new_zeros(0, dtype=torch.float32)

    # The factor

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        return self._state(self.encode(prefix_BT))

    def extend(self, state: State, token_B: Tensor) -> State:
        """See Factor."""
        return self._state(self.advance(state.memory, token_B[:, None]))

    @torch.no_grad()
    def extend_through(self, state: State, token_BT: Tensor) -> tuple[Tensor, State]:
        """See Factor."""
        encoded = self.advance(state.memory, token_BT)
        log_prob_BTV = self.unembed(encoded.hidden.view[:, -token_BT.shape[1] :]).log_softmax(-1)
        return log_prob_BTV, State(log_prob_BTV[:, -1], encoded)

    def reorder(self, state: State, row_R: Tensor) -> State:
        """See Factor."""
        return State(state.log_weight_BV[row_R], self.rows(state.memory, row_R))

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""
        return self._state(self.trimmed(state.memory, num_tokens_B))

    def steps(self, prefix_BT: Tensor, text_BT: Tensor) -> Iterator[Tensor]:
        """See Factor."""
        if text_BT.shape[1]:
            hidden_BTD = self.hidden_before(prefix_BT, text_BT)
            for hidden_BSD in hidden_BTD.split(max(1, STEP_ROWS // text_BT.shape[0]), dim=1):
                yield from self.unembed(hidden_BSD.transpose(0, 1)).log_softmax(-1)

    def score(self, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
        """See Factor."""
        if text_BT.shape[1] == 0:
            return torch.zeros(text_BT.shape, device=self.device)
        real_BT = (text_BT != PAD).to(self.device)
        hidden_ND = self.hidden_before(prefix_BT, text_BT)[real_BT]
        token_N = text_BT.to(self.device)[real_BT]
        log_prob_N = self.log_prob_of(hidden_ND, token_N)
        return torch.zeros(text_BT.shape, device=self.device).masked_scatter(real_BT, log_prob_N)

    def log_prob(self, encoded: Encoded) -> Tensor:
        """Log probability of each next token, [B, V], in nats; computed once for each encoding."""
        key = torch.empty(0)
        return encoded.memo.get("log_prob", key, lambda: self.unembed(encoded.hidden_BD).log_softmax(-1))

    def _state(self, encoded: Encoded) -> State:
        return State(lambda: self.log_prob(encoded), encoded)

    def _encode(self, prefix_BT: Tensor) -> Encoded:
        self._check_tokens(prefix_BT, prefix_BT)
        rows = [tuple(t for t in row if t != PAD) for row in prefix_BT.tolist()]
        if len(rows) == 1:
            return self._encode_row(rows[0])
        common = common_start(rows)
        if len(common) < SHORTEST_REUSE and len(set(rows)) > 1:
            return self._read(None, prefix_BT)
        num_common = len(common) if len(set(rows)) == 1 else min(len(common), min(map(len, rows)) - 1)
        if num_common < 1:
            return self._read(None, prefix_BT)
        shared = self._encode_row(common[:num_common]).rows(
            torch.zeros(len(rows), dtype=torch.long, device=self.device)
        )
        rest = max(map(len, rows)) - num_common
        return (
            self._read(shared, prefix_BT[:, -rest:].masked_fill(_is_common(prefix_BT, num_common)[:, -rest:], PAD))
            if rest
            else shared
        )

    def _encode_row(self, row: tuple[int, ...]) -> Encoded:
        best = max(self._prefixes, key=lambda known: len(common_start([known, row])), default=())
        num_known = min(len(common_start([best, row])), len(row))
        if num_known < SHORTEST_REUSE:
            encoded = self._read(None, torch.tensor([row], device=self.device))
        else:
            known = self._prefixes[best]
            surplus = len(best) - num_known
            encoded = known.trimmed(torch.tensor([surplus], device=self.device)) if surplus else known
            if num_known < len(row):
                encoded = self._read(encoded, torch.tensor([row[num_known:]], device=self.device))
        self._prefixes[row] = encoded
        self._prefixes.move_to_end(row)
        if len(self._prefixes) > KEPT_PREFIXES:
            self._prefixes.popitem(last=False)
        return encoded

    def _read(self, encoded: Encoded | None, token_BT: Tensor) -> Encoded:
        length = token_BT.shape[1] + (0 if encoded is None else encoded.hidden.length)
        if length > self.max_tokens:  # padding included: look closer
            self._check_length(token_BT, encoded)
        is_token_BT = token_BT != PAD
        single = token_BT.shape[1] == 1  # a decoding step: every row gets a token, no need to look
        is_padded = False if single else not bool(is_token_BT.all())
        return self._behind(encoded, token_BT, is_token_BT, is_padded or (encoded is not None and encoded.is_padded))

    def _behind(self, encoded: Encoded | None, token_BT: Tensor, is_token_BT: Tensor, is_padded: bool) -> Encoded:
        """Read tokens, or vectors in their places, behind what was read."""
        if encoded is not None:
            is_token_BT = torch.cat([encoded.is_token_BT, is_token_BT], 1)
        before = None if encoded is None else encoded.keys_values
        hidden_BTD, keys_values = self.run_layers(token_BT, is_token_BT if is_padded else None, before, keep=True)
        hidden = Span.of(hidden_BTD, 1) if encoded is None else encoded.hidden.append(hidden_BTD)
        return Encoded(keys_values, hidden, is_token_BT, is_padded)

    def run_layers(
        self, token_BT: Tensor, is_token_BT: Tensor | None, read: KeysValues | None, *, keep: bool
    ) -> tuple[Tensor, KeysValues]:
        """Read tokens as Body does, their places found from what is real.

        Args:
            token_BT: what is read now, or vectors in its place.
            is_token_BT: covers what was read too; None means that all are real.
            read: keys and values of what was read before.
            keep: whether anything will be read behind these tokens.
        """
        length = token_BT.shape[1]
        self.num_tokens_read += token_BT.shape[0] * length
        if is_token_BT is None:
            past = read[0][0].length if read else 0
            position_BT = torch.arange(past, past + length, device=self.device)[None]
        else:
            position_BT = (is_token_BT.long().cumsum(1) - 1).clamp(min=0)[:, -length:]
        token_BT = token_BT if token_BT.is_floating_point() else token_BT.clamp(min=0)
        return self._body(token_BT, position_BT, is_token_BT, read, keep)

    def _check_tokens(self, read_BT: Tensor, prefix_BT: Tensor) -> None:
        if prefix_BT.shape[1] == 0 or bool((prefix_BT[:, -1] == PAD).any()):
            raise InputError("a prefix of at least one token is needed, got an empty one; begin with a start token")
        if read_BT.shape[1] > self.max_tokens:
            self._check_length(read_BT, None)

    def _check_length(self, token_BT: Tensor, encoded: Encoded | None) -> None:
        num_tokens_B = (token_BT != PAD).sum(1) + (0 if encoded is None else encoded.num_tokens_B)
        longest = int(num_tokens_B.max())
        if longest > self.max_tokens:
            raise InputError(f"{self.name} reads at most {self.max_tokens} tokens, got {longest}; shorten the text")


def common_start(rows: list[tuple[int, ...]]) -> tuple[int, ...]:
    """What all of these begin with."""
    shortest = min(rows, key=len)
    for n, token in enumerate(shortest):
        if any(row[n] != token for row in rows):
            return shortest[:n]
    return shortest


def _num_common(prefix_BT: Tensor) -> int:
    """How many tokens all rows of a batch padded on the left begin with."""
    return len(common_start([tuple(t for t in row if t != PAD) for row in prefix_BT.tolist()]))


def _is_common(prefix_BT: Tensor, num_common: int) -> Tensor:
    """True for the first num_common tokens of each row of a batch padded on the left."""
    order_BT = (prefix_BT != PAD).long().cumsum(1)
    return order_BT <= num_common
