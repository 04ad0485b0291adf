"""Priors on disk: a folder with `prior.json` and `weights.safetensors`; see `models/card_folder.py`."""

from factorlm.models.card_folder import WEIGHTS, CardFolder
from factorlm.prior.manifest import Manifest

MANIFEST = "prior.json"
FOLDER = CardFolder("prior", MANIFEST, Manifest, "factorlm prior fit", "learn the prior anew")

is_prior, read_manifest, read = FOLDER.is_one, FOLDER.read_card, FOLDER.read
check_place, write = FOLDER.check_place, FOLDER.write

__all__ = ["FOLDER", "MANIFEST", "WEIGHTS", "check_place", "is_prior", "read", "read_manifest", "write"]
