"""Openings for the demonstration of the flywheel: frames and subjects of ours, crossed."""

from __future__ import annotations

import random

FRAMES = (
    "{} was", "I think that {} is", "My neighbour told me that {}", "What I remember of {} is",
    "Yesterday we heard that {}", "The report about {} says that", "If you ask me, {} is",
    "She wrote a long letter about {} and", "After a year with {},", "People say that {}",
    "The first time I came across {},", "He stood up and said that {}", "In the local paper there was a note on {}:",
    "When the talk turned to {}, everyone", "My sister's opinion of {} is that it",
    "On the way home we spoke of {}, which", "To tell the truth, {}", "For most of the visitors {}",
    "I had never thought much of {}, but", "In spring {}", "The way they look after {} is",
    "Nobody could say that {}", "At the end of the day {}", "He wrote of {} that it",
)  # fmt: skip
SUBJECTS = (
    "the hotel", "the new school", "the old bridge", "the train to the coast", "the film", "the garden", "the office",
    "the book", "the concert", "the market", "the hospital", "the bakery", "the new phone", "the choir", "the museum",
    "the team", "the storm", "the wedding", "the course", "the lake", "the restaurant", "the exam", "the play",
    "the harbour", "the winter", "the interview", "the house", "the journey", "the neighbourhood", "the meeting",
    "the recipe", "the library", "the match", "the village", "the car", "the doctor", "the festival", "the job",
    "the letter", "the shop",
)  # fmt: skip


def prompts_shuffled(seed: int) -> list[str]:
    """All openings in a random order."""
    found = [_sentence(frame.format(subject)) for frame in FRAMES for subject in SUBJECTS]
    random.Random(seed).shuffle(found)
    return found


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
