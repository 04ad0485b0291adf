"""Train the factors that the package ships, from the data sets they may be trained from.

    python recipes/shelf.py [NAME ...] --data DATA_FOLDER [--out src/factorlm/factors/shelf]

The data folder holds one folder a set (NAME/PART.jsonl.gz). Only sets whose licence lets derived weights be shipped
are used for training; others serve as tests of the evidence on texts of another origin.
"""

import argparse
import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from factorlm.cli.terminal import notes, progress
from factorlm.factors.examples import Example
from factorlm.factors.store import SHELF, Store
from factorlm.factors.training import Description, train_head
from factorlm.models.loading import load_model

Rows = Callable[[str], Iterator[dict[str, object]]]  # "set/part" -> its rows


@dataclass(frozen=True)
class Recipe:
    """How a factor of the shelf is made."""

    about: Description
    train: Callable[[Rows], list[Example]]
    tests: Callable[[Rows], dict[str, list[Example]]]


def labelled(rows: Iterator[dict[str, object]]) -> list[Example]:
    return [Example(str(row["text"]), row["label"] == 1) for row in rows]


def positive_train(rows: Rows) -> list[Example]:
    return [e for part in ("yelp_dev", "amazon_dev") for e in labelled(rows(f"review_sentiment_transfer/{part}"))]


def positive_tests(rows: Rows) -> dict[str, list[Example]]:
    return {
        "yelp reviews": labelled(rows("review_sentiment_transfer/yelp_test")),
        "sst2 film reviews": labelled(rows("sst2/test"))[:600],
    }


def toxic_pairs(rows: Rows) -> list[list[Example]]:
    """The texts of each pair; the last ones are kept for testing, so no rewrite of a test text is learned from."""
    return [
        [Example(str(row["toxic"]), True), Example(str(row["neutral"][0]), False)]  # type: ignore[index]
        for row in rows("paradetox/train")
    ]


TOXIC_TEST_PAIRS = 400


def toxic_train(rows: Rows) -> list[Example]:
    return [e for pair in toxic_pairs(rows)[:-TOXIC_TEST_PAIRS] for e in pair]


def toxic_tests(rows: Rows) -> dict[str, list[Example]]:
    return {
        "paradetox pairs": [e for pair in toxic_pairs(rows)[-TOXIC_TEST_PAIRS:] for e in pair],
        "surge social media": labelled(rows("surge_toxicity/all")),
    }


RECIPES = {
    "positive": Recipe(
        Description(
            name="positive",
            description="Favourable rather than unfavourable, as in reviews.",
            label="positive review sentences against negative ones",
            licence="CC-BY-SA-4.0",
            sources=(
                (
                    "Yelp and Amazon review sentences, development parts",
                    "CC BY-SA 4.0",
                    "J. Li, R. Jia, H. He, P. Liang, Delete, Retrieve, Generate (2018); "
                    "github.com/lijuncen/Sentiment-and-Style-Transfer",
                ),
            ),
            recipe="python recipes/shelf.py positive",
        ),
        positive_train,
        positive_tests,
    ),
    "toxic": Recipe(
        Description(
            name="toxic",
            description="Insulting and obscene; use it with negative strength to keep texts civil.",
            label="toxic sentences against their neutral rewrites",
            licence="CC0-1.0",
            sources=(
                (
                    "ParaDetox",
                    "CC0 1.0",
                    "V. Logacheva et al., ParaDetox (2022); github.com/s-nlp/paradetox",
                ),
            ),
            recipe="python recipes/shelf.py toxic",
        ),
        toxic_train,
        toxic_tests,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(RECIPES), metavar="NAME", help=", ".join(RECIPES))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=SHELF)
    options = parser.parse_args()
    lm = load_model()

    def rows(part: str) -> Iterator[dict[str, object]]:
        with gzip.open(options.data / f"{part}.jsonl.gz", "rt", encoding="utf-8") as file:
            yield from map(json.loads, file)

    for name in options.names:
        recipe = RECIPES[name]
        with progress() as report:
            trained = train_head(lm, recipe.train(rows), recipe.about, tests=recipe.tests(rows), report=report)
        Store(options.out).save(trained.manifest, trained.tensors, replace=True)
        notes.print(f"{name}: {trained.manifest.calibration} {trained.seconds}")


if __name__ == "__main__":
    main()
