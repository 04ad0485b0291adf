"""What a prior did not know while a text was read: how unsure of the next token, and how unsure of the model."""

# Axes: B batch, K components, T time.

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from factorlm.algebra import pad_left, pad_right
from factorlm.inference.explanation import shown
from factorlm.prior.mixture import Together
from factorlm.prior.uncertainty import uncertainty

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

MOST_COLUMNS = 8  # components shown in a table


@dataclass(frozen=True)
class Doubt:
    """For every token of one text, before it was read.

    Attributes:
        names: of the components.
        tokens: the text of each token.
        within: mean entropy of the components' next token, in nats: no evidence on the model takes it away.
        between: mutual information of next token and component, in nats: what the components disagree in.
        weights: of each component (inner) before each token (outer), and, last, after the text.
    """

    names: tuple[str, ...]
    tokens: tuple[str, ...]
    within: tuple[float, ...]
    between: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]

    @staticmethod
    def of(mixture: Together, names: Sequence[str], prompt_ids: Sequence[int], token_ids: Sequence[int]) -> Doubt:
        """Of a prior's mixture, over one text behind a prompt."""
        end = token_ids[-1]  # read twice, so that the weights behind the text are there, too
        found = uncertainty(mixture, pad_left([list(prompt_ids)]), pad_right([[*token_ids, end]]))
        n = len(token_ids)
        return Doubt(
            names=tuple(names),
            tokens=mixture.vocabulary.pieces(token_ids),
            within=tuple(found.within_BT[0, :n].tolist()),
            between=tuple(found.between_BT[0, :n].tolist()),
            weights=tuple(tuple(row) for row in found.weight_BTK[0].tolist()),
        )

    @property
    def mean_between(self) -> float:
        """Mean nats per token that the components disagree in."""
        return sum(self.between) / len(self.between)

    @property
    def mean_within(self) -> float:
        """Mean nats per token that they do not know either."""
        return sum(self.within) / len(self.within)

    def as_json(self) -> dict[str, Any]:
        """Weights after the text, and an object for each token: token, within, between, weights."""
        rows = zip(self.tokens, self.within, self.between, self.weights[:-1], strict=True)
        return {
            "posterior": dict(zip(self.names, self.weights[-1], strict=True)),
            "tokens": [
                {"token": t, "within": w, "between": b, "weights": dict(zip(self.names, p, strict=True))}
                for t, w, b, p in rows
            ],
        }

    def table(self, most_tokens: int = 12) -> RenderableType:
        """For a terminal: the tokens before which components disagreed most, in the order of the text."""
        from rich.table import Table
        from rich.text import Text

        chosen = sorted(sorted(range(len(self.tokens)), key=lambda i: -self.between[i])[:most_tokens])
        columns = sorted(range(len(self.names)), key=lambda k: -self.weights[-1][k])[:MOST_COLUMNS]
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("token")
        for heading in ("within", "between", *(self.names[k] for k in columns)):
            table.add_column(Text(heading), justify="right")
        for i in chosen:
            weights = [f"{self.weights[i][k]:.2f}" for k in columns]
            table.add_row(Text(shown(self.tokens[i])), f"{self.within[i]:.2f}", f"{self.between[i]:.2f}", *weights)
        after = [f"{self.weights[-1][k]:.2f}" for k in columns]
        table.add_row(Text("after it", style="dim"), f"{self.mean_within:.2f}", f"{self.mean_between:.2f}", *after)
        return table
