"""What each factor did to each token, for programs, terminals and browsers."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from factorlm.inference.reading import Reading
from factorlm.text import Vocabulary

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

# Okabe and Ito's colours, which colour-blind people can tell apart; the first is the first factor's.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#7F7F7F")
VISIBLE = 0.15  # nats; a smaller push is not coloured
FULL = 2.0  # nats; a push of this size gets the full colour


@dataclass(frozen=True)
class Explanation:
    """Contributions of factors to the tokens of one text, in nats; see Reading for what they mean.

    For every token, base_log_prob + sum of contributions - normalizer = log_prob.

    Attributes:
        prompt: what the text continues.
        tokens: the text of each token; a character spread over several stands at the last of them.
        names: of the factors.
        exponents: of the factors.
        log_probs: of each token under the composition.
        base_log_probs: under the base.
        contributions: of each factor (inner) to each token (outer).
        normalizers: the price of disagreeing with the base at each token.
    """

    prompt: str
    tokens: tuple[str, ...]
    names: tuple[str, ...]
    exponents: tuple[float, ...]
    log_probs: tuple[float, ...]
    base_log_probs: tuple[float, ...]
    contributions: tuple[tuple[float, ...], ...]
    normalizers: tuple[float, ...]

    @classmethod
    def of(
        cls, reading: Reading, row: int, token_ids: list[int] | tuple[int, ...], vocabulary: Vocabulary, prompt: str
    ) -> Explanation:
        """One row of a reading."""
        assert reading.contribution_BTK is not None
        assert reading.normalizer_BT is not None
        n = len(token_ids)
        return cls(
            prompt=prompt,
            tokens=vocabulary.pieces(token_ids),
            names=reading.names,
            exponents=tuple(reading.exponents_BK[row].tolist()),
            log_probs=tuple(reading.log_prob_BT[row, :n].tolist()),
            base_log_probs=tuple(reading.base_log_prob_BT[row, :n].tolist()),
            contributions=tuple(tuple(c) for c in reading.contribution_BTK[row, :n].tolist()),
            normalizers=tuple(reading.normalizer_BT[row, :n].tolist()),
        )

    def totals(self) -> dict[str, float]:
        """Sum of each factor's contributions over the text, in nats."""
        return {name: math.fsum(c[k] for c in self.contributions) for k, name in enumerate(self.names)}

    def as_json(self) -> list[dict[str, Any]]:
        """One object for each token: token, log_prob, base_log_prob, normalizer, factors."""
        return [
            {
                "token": token,
                "log_prob": log_prob,
                "base_log_prob": base,
                "normalizer": normalizer,
                "factors": dict(zip(self.names, contributions, strict=True)),
            }
            for token, log_prob, base, normalizer, contributions in zip(
                self.tokens, self.log_probs, self.base_log_probs, self.normalizers, self.contributions, strict=True
            )
        ]

    def coloured(self) -> Text:
        """The text for a terminal, each token in the colour of the factor that pushed it most."""
        from rich.text import Text

        text = Text()
        for index, token in enumerate(self.tokens):
            text.append(token, style=self.style(index))
        return text

    def table(self, most_tokens: int = 12) -> RenderableType:
        """For a terminal: the tokens that factors pushed most, in the order of the text."""
        from rich.table import Table
        from rich.text import Text

        chosen = sorted(sorted(range(len(self.tokens)), key=lambda i: -self._size(i))[:most_tokens])
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("token")
        table.add_column("base", justify="right")
        for k, name in enumerate(self.names):
            table.add_column(Text(name), justify="right", header_style=COLOURS[k % len(COLOURS)])
        table.add_column("normaliser", justify="right")
        table.add_column("log prob", justify="right")
        for i in chosen:
            pushes = [f"{c:+.2f}" for c in self.contributions[i]]
            numbers = [f"{self.base_log_probs[i]:.2f}", *pushes, f"{-self.normalizers[i]:+.2f}"]
            table.add_row(Text(shown(self.tokens[i])), *numbers, f"{self.log_probs[i]:.2f}")
        return table

    def legend(self, strengths: Mapping[str, float | None] | None = None) -> Text:
        """For a terminal: the factors in their colours, with exponents, and with strengths where they are known."""
        from rich.text import Text

        text = Text()
        for k, (name, exponent) in enumerate(zip(self.names, self.exponents, strict=True)):
            text.append("■ ", style=COLOURS[k % len(COLOURS)])
            strength = (strengths or {}).get(name)
            text.append(f"{name}^{exponent:.3g}" + (f" ({strength:+.2g} nats)" if strength else "") + "   ")
        return text

    def html(self, title: str = "factorlm explanation") -> str:
        """A page on its own: the text in colours, numbers on hover, totals, and a table of all tokens."""
        from factorlm.inference.page import page

        return page(title, [self])

    def _size(self, index: int) -> float:
        return max((abs(c) for c in self.contributions[index]), default=0.0)

    def strongest(self, index: int) -> int | None:
        """The factor that pushed a token most, if any did visibly."""
        contributions = self.contributions[index]
        if not contributions:
            return None
        k = max(range(len(contributions)), key=lambda i: abs(contributions[i]))
        return k if abs(contributions[k]) >= VISIBLE else None

    def style(self, index: int) -> str:
        """How a terminal shows a token: colour of the factor that pushed it most, underlined if against it."""
        k = self.strongest(index)
        if k is None:
            return ""
        weight = "bold " if abs(self.contributions[index][k]) >= FULL / 2 else ""
        against = "underline " if self.contributions[index][k] < 0 else ""
        return f"{weight}{against}{COLOURS[k % len(COLOURS)]}"


def shown(token: str) -> str:
    """A token for a table cell; one that only begins a character shows as dots."""
    return repr(token)[1:-1] or "…"


def escape(text: str) -> str:
    """Text for HTML, with line breaks shown."""
    return html.escape(text).replace("\n", "↵<br>")
