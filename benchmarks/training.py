"""Time to train a head from 2 x 2,000 sentences, reading them included, and a second head on the same texts.

    python benchmarks/training.py [--data ../shared/data]

The texts are the first 2,000 sentences of each class of sst2/train. The first head starts with no hidden states kept;
the second finds those of the first. Loading the model is not counted.
"""

import argparse
import gzip
import json
import os
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from factorlm.cli.terminal import progress
from factorlm.factors.examples import Example
from factorlm.factors.training import Description, train_head
from factorlm.models.fetch import cache_folder
from factorlm.models.loading import load_model

RECORD = Path(__file__).resolve().parent / "records" / "training.json"
NUM_TEXTS = 2000  # of each class


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_args()
    with gzip.open(options.data / "sst2" / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    examples = [
        Example(row["text"], bool(label))
        for label in (1, 0)
        for row in [row for row in rows if row["label"] == label][:NUM_TEXTS]
    ]
    models = cache_folder() / "models"
    with tempfile.TemporaryDirectory() as empty:
        (Path(empty) / "models").symlink_to(models)
        os.environ["FACTORLM_CACHE"] = empty
        lm = load_model()
        found = []
        for name in ("first", "second"):
            start = time.perf_counter()
            with progress() as report:
                trained = train_head(lm, examples, Description(name), report=report)
            assert trained.manifest.calibration is not None
            found.append(
                {
                    "head": name,
                    "seconds": time.perf_counter() - start,
                    "stages": trained.seconds,
                    "dev_auc": trained.manifest.calibration.dev_auc,
                }
            )
    record = {
        "command": "python benchmarks/training.py",
        "num_texts": len(examples),
        "data": "sst2/train",
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "heads": found,
    }
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for head in found:
        print(f"{head['head']} head: {head['seconds']:.0f} s, held-out AUC {head['dev_auc']:.3f}")


if __name__ == "__main__":
    main()
