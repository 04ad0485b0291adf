"""How long work tells of its progress."""

from collections.abc import Callable

Report = Callable[[str, int, int], None]  # stage, done, total


def quiet(stage: str, done: int, total: int) -> None:
    """Report to nobody."""
