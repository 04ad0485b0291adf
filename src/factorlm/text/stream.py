"""Bytes of tokens to whole characters, and stop strings that are never shown in part."""

import codecs
from collections.abc import Iterable, Sequence


class TextStream:
    """Takes the bytes of one token after another and gives out text that will not change any more.

    A character whose bytes are spread over several tokens comes out once it is whole; text that could still become
    a stop string is held back until it is decided.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = tuple(stops)
        self._held = ""
        self.text = ""
        self.is_stopped = False

    def push(self, token_bytes: bytes) -> str:
        """Add one token; return the text that became certain. After a stop string nothing more comes."""
        return self._release(self._decoder.decode(token_bytes), final=False)

    def push_all(self, parts: Iterable[bytes]) -> str:
        """Add the tokens of a finished text; return all of it."""
        for part in parts:
            self.push(part)
        self.finish()
        return self.text

    def finish(self) -> str:
        """Return what was held back; broken bytes become the replacement character."""
        return self._release(self._decoder.decode(b"", final=True), final=True)

    def _release(self, new: str, final: bool) -> str:
        if self.is_stopped:
            return ""
        held = self._held + new
        starts = [found for stop in self._stops if (found := held.find(stop)) >= 0]
        if starts:
            self.is_stopped = True
            certain, self._held = held[: min(starts)], ""
        else:
            keep = 0 if final else max((_overlap(held, stop) for stop in self._stops), default=0)
            certain, self._held = held[: len(held) - keep], held[len(held) - keep :]
        self.text += certain
        return certain


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper start of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
