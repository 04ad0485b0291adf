"""Monte Carlo tree search over tokens: a token is chosen for where it leads, in the eyes of a judge of texts."""

# Axes: V vocabulary.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from pydantic import Field

from factorlm.algebra import Factor, LocalProduct, State, device_of, pad_left
from factorlm.errors import DeadEndError, InputError
from factorlm.factors.headed import fuse
from factorlm.factors.nucleus import quantile
from factorlm.inference.search.best import Reward
from factorlm.inference.search.counting import Counting
from factorlm.inference.search.found import Found
from factorlm.models.progress import Report, quiet
from factorlm.settings import Config


class TreeSearch(Config):
    """How the tree is searched.

    Attributes:
        simulations: for each token that is written.
        actions: most probable tokens that are considered at each place.
        exploration: weight of the prior against the value: c of PUCT; values of the judge are best in [0, 1].
        rollout: tokens that are drawn behind a new place before the text is judged; judges of whole texts need some.
        temperature: of the prior.
    """

    simulations: Annotated[int, Field(ge=1)] = 16
    actions: Annotated[int, Field(ge=1)] = 20
    exploration: Annotated[float, Field(gt=0)] = 3.0
    rollout: Annotated[int, Field(ge=0)] = 4
    temperature: Annotated[float, Field(gt=0)] = 1.0


PLAIN = TreeSearch()


@dataclass(eq=False)
class _Node:
    """A beginning.

    Attributes:
        text: its tokens.
        state: of the composition after them; None until the place is visited, or where the text has ended.
        is_over: whether the text goes on no more.
        prior: of the token that leads here.
    """

    text: tuple[int, ...]
    prior: float = 1.0
    state: State | None = None
    is_over: bool = False
    visits: int = 0
    total: float = 0.0
    children: list[_Node] = field(default_factory=list)

    @property
    def value(self) -> float:
        return self.total / self.visits if self.visits else 0.0


@torch.inference_mode()
def tree_search(
    factor: Factor,
    prompt_ids: Sequence[int],
    reward: Reward,
    settings: TreeSearch = PLAIN,
    *,
    max_tokens: int = 32,
    seed: int = 0,
    report: Report = quiet,
) -> Found:
    """Write a text token by token; each is the most visited one after some simulations from where the text stands.

    A simulation goes down the tree by value + c prior sqrt(visits of the parent) / (1 + visits), an unvisited place
    having the value of its parent; opens one new place, draws a few tokens behind it, has the text judged, and adds
    what was said to all places on the way. What was found below the chosen token is kept for the next one.

    Source: PUCT, Rosin (2011), Silver et al. (2017); for texts, Chaffin et al. (2022), arXiv:2109.13582; the value of
    unvisited places, Liu et al. (2023), arXiv:2309.15028.

    Args:
        factor: any composition; its next-token distribution is the prior.
        prompt_ids: what is continued.
        reward: of texts without the prompt, best in [0, 1]. Judge what was found by another one.
        settings: of the search.
        max_tokens: most tokens of the text, its end included.
        seed: of what is drawn behind new places.
        report: told of progress.

    Raises:
        DeadEndError: if no token is possible.
        InputError: for rewards that are no numbers, or a text of no tokens.
    """
    if max_tokens < 1:
        raise InputError(f"a text of at least 1 token is needed, got {max_tokens}")
    model = Counting(fuse(LocalProduct.of(factor)))
    tree = _Tree(model, settings, reward, max_tokens, torch.Generator().manual_seed(seed))
    root = _Node(())
    root.state = model.start(pad_left([list(prompt_ids)]).to(device_of(factor)))
    tree.open(root)
    log_weight = 0.0
    while not root.is_over:
        for _ in range(settings.simulations):
            if root.children:
                tree.simulate(root)
        if not root.children:
            raise DeadEndError(
                f"all texts that were tried after {len(root.text)} tokens come to a dead end; consider more actions or "
                "take a factor away"
            )
        chosen = max(root.children, key=lambda child: (child.visits, child.prior))
        assert root.state is not None
        log_weight += float(root.state.log_weight_BV[0, chosen.text[-1]])
        root = chosen
        report("searching", len(root.text), max_tokens)
    text = model.vocabulary.text(root.text)
    is_end = root.text[-1] in model.vocabulary.end_ids
    return Found(root.text, text, root.value, log_weight, "end" if is_end else "length", model.spent)


@dataclass
class _Tree:
    """What a simulation needs."""

    model: Counting
    settings: TreeSearch
    reward: Reward
    max_tokens: int
    generator: torch.Generator

    def simulate(self, root: _Node) -> None:
        """One way down, one new place, one judgement, and back up."""
        path = [root]
        while path[-1].children and not path[-1].is_over:
            path.append(self._select(path[-1]))
        leaf = path[-1]
        if not leaf.is_over and leaf.state is None:
            parent = path[-2]
            assert parent.state is not None
            leaf.state = self.model.extend(parent.state, self._token(leaf.text[-1], parent.state))
            self.open(leaf)
            if not leaf.children:
                self._forget(path)
                return
        value = self._judged(leaf)
        for node in path:
            node.visits += 1
            node.total += value

    def open(self, node: _Node) -> None:
        """Add the places behind a node; a dead end has none."""
        assert node.state is not None
        log_prob_V = node.state.log_weight_BV[0].double() / self.settings.temperature
        best = log_prob_V.topk(min(self.settings.actions, len(log_prob_V)))
        prior_K = best.values.softmax(0) if bool(best.values[0] > -torch.inf) else best.values.exp()
        for prior, token in zip(prior_K.tolist(), best.indices.tolist(), strict=True):
            if prior > 0:
                text = (*node.text, token)
                is_over = token in self.model.vocabulary.end_ids or len(text) >= self.max_tokens
                node.children.append(_Node(text, prior, is_over=is_over))

    def _forget(self, path: list[_Node]) -> None:
        """Take a dead end out of the tree, and all places that lead to dead ends alone."""
        for parent, child in zip(path[-2::-1], path[:0:-1], strict=True):
            parent.children.remove(child)
            if parent.children:
                return

    def _select(self, node: _Node) -> _Node:
        def worth(child: _Node) -> float:
            value = child.value if child.visits else node.value
            return value + self.settings.exploration * child.prior * math.sqrt(node.visits) / (1 + child.visits)

        return max(node.children, key=worth)

    def _judged(self, leaf: _Node) -> float:
        text, state = list(leaf.text), leaf.state
        for _ in range(self.settings.rollout):
            if leaf.is_over or state is None or len(text) >= self.max_tokens:
                break
            prob_BV = state.log_weight_BV.double().exp()
            if not bool(prob_BV.sum() > 0):
                break
            uniform_B = torch.rand(1, generator=self.generator, dtype=torch.float64).to(prob_BV.device)
            token = int(quantile(prob_BV, uniform_B)[0])
            text.append(token)
            if token in self.model.vocabulary.end_ids:
                break
            if len(text) - len(leaf.text) < self.settings.rollout:
                state = self.model.extend(state, self._token(token, state))
        self.model.counts["rewards"] += 1
        values = [float(v) for v in self.reward([self.model.vocabulary.text(text)])]
        if len(values) != 1 or math.isnan(values[0]):
            raise InputError(f"a reward gives a number for each text, got {values} for one")
        return values[0]

    def _token(self, token: int, state: State) -> Any:
        return torch.tensor([token], device=state.log_weight_BV.device)
