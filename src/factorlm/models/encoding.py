"""What the shared encoder knows after reading a batch of texts."""

# Axes: B batch, D width, H heads of attention, R rows chosen, T time.

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from factorlm.models.span import KeysValues, Span


@dataclass(frozen=True, eq=False)
class Encoded:
    """Keys, values and last hidden states of everything read, in rows that end together.

    Attributes:
        keys_values: a span pair [B, H, T, ...] for each layer.
        hidden: last hidden states after the final norm, [B, T, D].
        is_token_BT: False where a row is padded.
        is_padded: whether any row is; kept apart so that the usual case needs no look at the tensor.
    """

    keys_values: KeysValues
    hidden: Span
    is_token_BT: Tensor
    is_padded: bool
    memo: Memo = field(default_factory=lambda: Memo())

    @property
    def hidden_BD(self) -> Tensor:
        """The state that the next token is drawn from."""
        return self.hidden.view[:, -1]

    @property
    def num_tokens_B(self) -> Tensor:
        """Real tokens read in each row."""
        return self.is_token_BT.sum(1)

    def rows(self, row_R: Tensor) -> Encoded:
        """These rows, in this order."""
        keys_values = tuple((key.rows(row_R), value.rows(row_R)) for key, value in self.keys_values)
        return Encoded(keys_values, self.hidden.rows(row_R), self.is_token_BT[row_R], self.is_padded)

    @classmethod
    def joined(cls, parts: Sequence[Encoded]) -> Encoded:
        """The rows of several encodings, one after the other; shorter ones are padded on the left."""
        length = max(part.hidden.length for part in parts)
        layers = zip(*(part.keys_values for part in parts), strict=True)
        keys_values = tuple(
            (Span.joined([key for key, _ in layer], length), Span.joined([value for _, value in layer], length))
            for layer in layers
        )
        is_token_BT = torch.cat(
            [torch.nn.functional.pad(part.is_token_BT, (length - part.hidden.length, 0)) for part in parts]
        )
        is_padded = any(part.is_padded or part.hidden.length < length for part in parts)
        return cls(keys_values, Span.joined([part.hidden for part in parts], length), is_token_BT, is_padded)

    def trimmed(self, num_tokens_B: Tensor) -> Encoded:
        """As before the last num_tokens_B[b] tokens of each row were read."""
        length = self.hidden.length
        least, most = int(num_tokens_B.min()), int(num_tokens_B.max())
        left = int((self.num_tokens_B - num_tokens_B).min())
        if least < 0 or left < 1:
            raise ValueError(f"a row keeps at least one of its tokens, got cuts {num_tokens_B.tolist()}")
        if least == most:
            keys_values = tuple((key.cut(least), value.cut(least)) for key, value in self.keys_values)
            return Encoded(keys_values, self.hidden.cut(least), self.is_token_BT[:, : length - least], self.is_padded)
        index_BT = torch.arange(least, length, device=num_tokens_B.device)[None] - num_tokens_B[:, None]
        inside_BT, index_BT = index_BT >= 0, index_BT.clamp(min=0)
        is_token_BT = self.is_token_BT.gather(1, index_BT) & inside_BT
        first = int(is_token_BT.any(0).nonzero()[0, 0])  # what is padding in every row is dropped
        is_token_BT, index_BT = is_token_BT[:, first:], index_BT[:, first:]
        return Encoded(
            tuple((key.gathered(index_BT), value.gathered(index_BT)) for key, value in self.keys_values),
            self.hidden.gathered(index_BT),
            is_token_BT,
            not bool(is_token_BT.all()),
        )


class Memo:
    """Remembers the last derived encoding of each kind, as long as somebody holds it.

    The parts of a composition that read one encoder ask it for the same extension of the same state, one after the
    other; the first does the work. Arguments are compared by value, so nobody needs to pass the same tensor object.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[Tensor, weakref.ref[Any]]] = {}

    def get(self, kind: str, argument: Tensor, make: Callable[[], Any]) -> Any:
        """The remembered result for this argument, else make() and remember it."""
        if kind in self._last:
            known, reference = self._last[kind]
            result = reference()
            if result is not None and known.shape == argument.shape and torch.equal(known, argument):
                return result
        result = make()
        self._last[kind] = (argument.clone(), weakref.ref(result))
        return result
