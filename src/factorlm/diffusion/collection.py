"""Real sentences with their vectors, by which a latent can be shown to people: those that mean most like it."""

# Axes: B rows, C sentences, D numbers of a vector.

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from factorlm.errors import IntegrityError

STEPS = 127  # of a number in eight bits


@dataclass(frozen=True, eq=False)
class Collection:
    """Sentences.

    Attributes:
        texts: C of them.
        vector_CD: of length one.
    """

    texts: tuple[str, ...]
    vector_CD: Tensor

    @staticmethod
    def of(texts: Sequence[str], vector_CD: Tensor, most: int, seed: int) -> Collection:
        """At most so many of some texts, drawn at random, each once."""
        once = list(dict.fromkeys(texts))
        chosen = random.Random(seed).sample(once, min(most, len(once)))
        place = {text: n for n, text in enumerate(texts)}
        return Collection(tuple(chosen), vector_CD[[place[text] for text in chosen]])

    def nearest(self, vector_BD: Tensor, number: int) -> list[list[tuple[str, float]]]:
        """For each vector of length one the sentences most like it, with their cosines, best first."""
        found = (vector_BD @ self.vector_CD.T).topk(min(number, len(self.texts)), dim=1)
        return [
            [(self.texts[c], cosine) for c, cosine in zip(places, cosines, strict=True)]
            for places, cosines in zip(found.indices.tolist(), found.values.tolist(), strict=True)
        ]

    def tensors(self) -> dict[str, Tensor]:
        """To be written down; vectors in eight bits, of which a cosine keeps two digits."""
        scale_C = self.vector_CD.abs().amax(1).clamp(min=1e-12)
        whole_CD = (self.vector_CD / scale_C[:, None] * STEPS).round().to(torch.int8)
        text = torch.frombuffer(
            bytearray("\n".join(" ".join(t.split()) for t in self.texts).encode()), dtype=torch.uint8
        )
        return {"vectors": whole_CD, "texts": text}

    @staticmethod
    def read(tensors: dict[str, Tensor]) -> Collection:
        """From what `tensors` gave.

        Raises:
            IntegrityError: if there are not as many vectors as sentences.
        """
        texts = tuple(bytes(tensors["texts"].tolist()).decode("utf-8", errors="replace").split("\n"))
        if len(texts) != len(tensors["vectors"]):
            raise IntegrityError(f"a vector for each of {len(texts)} sentences is needed; copy the folder again")
        return Collection(texts, normalize(tensors["vectors"].float(), dim=1))
