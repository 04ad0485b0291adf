"""Memories: distributions over next tokens looked up in texts, that are swapped and edited without training."""

from factorlm.memory.drafts import MemoryDraft
from factorlm.memory.engine import Engine
from factorlm.memory.infini import InfiniIndex, open_index
from factorlm.memory.kinds import open_memory
from factorlm.memory.longest_suffix import InfiniGram
from factorlm.memory.remembering import Memory, Recollection, Source

__all__ = [
    "Engine",
    "InfiniGram",
    "InfiniIndex",
    "Memory",
    "MemoryDraft",
    "Recollection",
    "Source",
    "open_index",
    "open_memory",
]
