"""A run of learning, kept after every round, so that one that was stopped goes on."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from factorlm.errors import InputError
from factorlm.files import write_whole
from factorlm.prior.learning import Learner, Progress, Round


@dataclass(frozen=True)
class Checkpoint:
    """One file.

    Attributes:
        path: of it.
        key: of everything that the run depends on; a file with another one is not gone on from.
    """

    path: Path
    key: str

    def save(self, progress: Progress, learner: Learner, seconds: float) -> None:
        """Keep where learning stands.

        Raises:
            InputError: if the place cannot be written.
        """
        groups: dict[str, dict[str, Tensor]] = {"now": learner.state()}
        tensors: dict[str, Tensor] = {"log_prob": progress.log_prob_K}
        facts = {"key": self.key, "rate": progress.rate, "seconds": seconds, "best_dev": progress.best_dev,
                 "rounds": [r.model_dump(mode="json") for r in progress.rounds]}  # fmt: skip
        if progress.best is not None:
            tensors["best_log_prob"], groups["best"] = progress.best
        if progress.before is not None:
            tensors["before_log_prob"], groups["before"], tensors["before_log_lik"] = progress.before
        tensors |= {f"{group}/{name}": t for group, found in groups.items() for name, t in found.items()}
        # Copies: what is equal in two groups may be one tensor, which the format does not allow.
        content = safetensors.torch.save({n: t.cpu().clone() for n, t in tensors.items()}, {"facts": json.dumps(facts)})
        try:
            write_whole(self.path, content)
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror or error}; name another place") from None

    def load(self, learner: Learner) -> tuple[Progress, float] | None:
        """Where the same run stood, with the learner restored, and the seconds it had taken; None if it never ran."""
        try:
            with safetensors.safe_open(self.path, "pt") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                if facts["key"] != self.key:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            rounds = [Round.model_validate(r, strict=False) for r in facts["rounds"]]  # lists, where tuples were
        except (OSError, KeyError, ValueError, safetensors.SafetensorError):
            return None

        def group(name: str) -> dict[str, Tensor]:
            return {n.removeprefix(f"{name}/"): t for n, t in tensors.items() if n.startswith(f"{name}/")}

        learner.restore(group("now"))
        progress = Progress(tensors["log_prob"], rounds, facts["rate"], facts.get("best_dev", math.inf))
        if "best_log_prob" in tensors:
            progress.best = (tensors["best_log_prob"], group("best"))
        if "before_log_prob" in tensors:
            progress.before = (tensors["before_log_prob"], group("before"), tensors["before_log_lik"])
        return progress, float(facts["seconds"])

    def remove(self) -> None:
        """The run is over."""
        self.path.unlink(missing_ok=True)
