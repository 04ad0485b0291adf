"""Compare two compositions on texts of one's own, and write a page to look at.

python examples/measure.py [--out report]
"""

import argparse
from pathlib import Path

from rich.console import Console

from factorlm.evaluation import evaluate, terminal, write_report
from factorlm.evaluation.suites.perplexity import Settings

TEXTS = """\
The soup was warm, the bread was fresh, and nobody hurried us.
We waited an hour, and then the food was cold.
A lovely little place; the staff remembered our names.
The room was loud, the chairs were hard, and the bill was wrong.
I would come back for the cake alone.
Never again: rude, slow and far too expensive.
They found us a table by the window without a reservation.
The fish smelled as if it had been there since Monday.
Everything on the plate tasted of summer.
The music was so loud that we left before the dessert.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder of the report")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    texts = options.out / "texts.txt"
    texts.write_text(TEXTS, encoding="utf-8")
    report = evaluate("perplexity", ["smollm2 * positive=0.2", "smollm2"], settings=Settings(texts=(f"mine={texts}",)))
    Console().print(terminal(report))
    for path in write_report(report, options.out)[:3]:
        print(path)


if __name__ == "__main__":
    main()
