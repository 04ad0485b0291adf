"""Transformers without its own progress bars and warnings: what takes long, we show ourselves."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence it for a while, and leave it as it was."""
    from transformers.utils import logging

    was_shown, was_level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(was_level)
        if was_shown:
            logging.enable_progress_bar()
