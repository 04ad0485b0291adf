"""Components that are whole language models, which somebody trained: only their weights are learned."""

# Axes: K components, N texts.

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from factorlm.errors import InputError
from factorlm.models import CausalLM
from factorlm.models.progress import Report
from factorlm.prior.batches import score_rows
from factorlm.prior.ensemble import Separate
from factorlm.prior.learning import Rows


class WholeModels:
    """K language models with one vocabulary, as a learner that leaves them as they are; see `learning.Learner`."""

    num_parameters = 0
    is_monotone = True

    def __init__(self, models: Sequence[CausalLM]) -> None:
        if len(models) < 2 or len({id(model) for model in models}) < len(models):
            raise InputError(f"two or more different models are needed, got {', '.join(m.name for m in models)}")
        self.models = tuple(models)
        self.num_components = len(models)
        _ = self.ensemble.vocabulary  # other tokens are refused here

    @property
    def ensemble(self) -> Separate:
        """The models."""
        return Separate(self.models)

    def log_prob(self, rows: Rows, report: Report) -> Tensor:
        """See Learner."""
        return score_rows(self.ensemble, rows, self.models[0].start_ids, report)

    def improve(self, rows: Rows, weight_NK: Tensor, *, rate: float, report: Report) -> None:
        """See Learner: nothing to improve."""

    def spread(self) -> None:
        """See Learner: models stay what they are."""

    def reseed(self, index: int, rows: Rows) -> None:
        """See Learner: a model that explains nothing stays one."""

    def state(self) -> dict[str, Tensor]:
        """See Learner."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """See Learner."""

    def tensors(self) -> dict[str, Tensor]:
        """What is saved of the components: nothing, they have names."""
        return {}
